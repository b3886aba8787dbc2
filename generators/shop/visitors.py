"""Read user names and product ids of the shop, for generated web logs."""

from generators.shop.database import connect


def visitors(url: str, limit: int = 50_000) -> tuple[list[str], list[str]]:
    """Read user names and product ids of a shop, at most `limit` of each; none if it has no tables yet."""
    with connect(url) as connection:
        if connection.execute("select to_regclass('public.product')").fetchone() == (None,):
            return [], []
        names = connection.execute(
            "select username from public.customer where username !~ '[][\\s\"\\\\]' order by id limit %s",
            [limit],
        )
        usernames = [name for (name,) in names]
        products = connection.execute("select id::text from public.product order by id limit %s", [limit])
        return usernames, [key for (key,) in products]
