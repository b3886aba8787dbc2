"""The last day of each pair that users are counted from: what is removed or moved later is counted without a scan."""

from warehouse.migrations.ddl import comment_columns, run

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

PAIRS = {"country": "country", "device": "device_key"}
SEEN = "Day (UTC) on which the pair was seen last"
OPEN = f"{SEEN}; empty while a re-classification is to count it again"


def upgrade() -> None:
    for name, key in PAIRS.items():
        table, batch = f"dwh.agg_weblog_{name}_user", f"staging.weblog_{name}_user"
        run(f"alter table {table} add column last_seen_date date")
        run(
            f"""
            update {table} as pair set last_seen_date = seen.last_seen_date
            from (
                select {key}, web_user_key, max((requested_at at time zone 'UTC')::date) as last_seen_date
                from dwh.fact_weblog where web_user_key > 0 group by 1, 2
            ) as seen
            where pair.{key} = seen.{key} and pair.web_user_key = seen.web_user_key
            """
        )
        # A day moves on in place, where the page has room.
        run(f"alter table {table} set (fillfactor = 80)")
        run(f"alter table {batch} add column last_seen_date date not null default 'epoch'")
        run(f"alter table {batch} alter column last_seen_date drop default")
        comment_columns(table, {"last_seen_date": OPEN if name == "country" else SEEN})
        comment_columns(batch, {"last_seen_date": f"{SEEN} in the batch"})


def downgrade() -> None:
    for name in PAIRS:
        run(f"alter table dwh.agg_weblog_{name}_user reset (fillfactor)")
        run(f"alter table dwh.agg_weblog_{name}_user drop column last_seen_date")
        run(f"alter table staging.weblog_{name}_user drop column last_seen_date")
