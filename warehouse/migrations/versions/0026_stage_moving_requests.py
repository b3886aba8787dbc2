"""Requests that a newer GeoIP database moves to another country, on their way."""

from warehouse.migrations.ddl import create_table, run

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "staging.weblog_moving",
        "Addresses that a newer GeoIP database has elsewhere, of the month whose requests are to move.",
        {
            "country": ("text not null", "Country that their requests have"),
            "ip_address": ("inet not null", "Address (personal data)"),
            "new_country": ("text not null", "Country that the address is in now"),
        },
        unlogged=True,
    )
    create_table(
        "staging.weblog_moved",
        "Requests of a month that have moved to another country: what the aggregates are mended by.",
        {
            "country": ("text not null", "Country that the request had"),
            "new_country": ("text not null", "Country that it has now"),
            "web_user_key": ("integer not null", "User: dim_web_user"),
            "request_key": ("integer not null", "Request line: dim_request"),
            "request_date": ("date not null", "Day (UTC)"),
        },
        unlogged=True,
    )
    run(
        "insert into audit.personal_data (schema_name, table_name, column_name, kind) "
        "values ('staging', 'weblog_moving', 'ip_address', 'IP address')"
    )


def downgrade() -> None:
    run("delete from audit.personal_data where schema_name = 'staging' and table_name = 'weblog_moving'")
    run("drop table staging.weblog_moved")
    run("drop table staging.weblog_moving")
