"""Who visits the shop's site, and what they look at: the names that its web logs should know."""

from generators.shop.database import connect


def visitors(url: str, limit: int = 50_000) -> tuple[list[str], list[str]]:
    """User names and product ids of a shop, both empty where it has none; at most `limit` of each."""
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
