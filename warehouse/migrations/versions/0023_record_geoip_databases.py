"""Which database told the countries: of every load, and of every month that was classified again."""

from warehouse.migrations.ddl import comment_columns, create_table, quoted, run

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

COUNTRIES = "Countries, by the code that facts carry; ZZ is the unknown country."
ATTRIBUTION = (
    " Those of web log addresses are told by the database that audit.load names: IP Geolocation by DB-IP "
    "(https://db-ip.com, CC BY 4.0), or GeoLite2 data created by MaxMind (https://www.maxmind.com)."
)


def upgrade() -> None:
    run("alter table audit.load add column geoip_database text, add column geoip_built_at timestamptz")
    comment_columns(
        "audit.load",
        {
            "geoip_database": "Of a load of web logs: name of the database that told the countries of its addresses",
            "geoip_built_at": "When that database was made (UTC)",
        },
    )
    create_table(
        "audit.weblog_month",
        "One row per month of web log requests whose countries were told again by a newer GeoIP database.",
        {
            "request_month": ("date", "First day of the month (UTC)"),
            "geoip_database": ("text not null", "Name of the database that told them last"),
            "geoip_built_at": ("timestamptz not null", "When that database was made (UTC)"),
            "rows_moved": ("bigint not null", "Requests that it moved to another country"),
            "run_id": ("bigint not null", "Run that did it"),
            "classified_at": ("timestamptz not null default clock_timestamp()", "When it was done (UTC)"),
        },
        [
            "constraint pk_weblog_month primary key (request_month)",
            "constraint fk_weblog_month_run_id foreign key (run_id) references audit.run (run_id)",
        ],
    )
    run(f"comment on table dwh.dim_country is {quoted(COUNTRIES + ATTRIBUTION)}")


def downgrade() -> None:
    run(f"comment on table dwh.dim_country is {quoted(COUNTRIES)}")
    run("drop table audit.weblog_month")
    run("alter table audit.load drop column geoip_database, drop column geoip_built_at")
