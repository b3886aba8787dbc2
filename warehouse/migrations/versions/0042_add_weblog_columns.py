"""Add virtual host, request seconds, request bytes, TLS and visitors' host names to web logs."""

from warehouse.migrations.sql import execute

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

COLUMNS = {
    "request_bytes": "bigint",
    "host_key": "integer",
    "client_host_key": "integer",
    "request_seconds": "real",
    "is_tls": "boolean",
}


def upgrade() -> None:
    for name in ("host", "client_host"):
        execute(
            f"""
            create table dwh.dim_{name} (
                {name}_key integer not null,
                {name} text not null,
                text_hash uuid not null,
                run_id bigint not null,
                constraint pk_dim_{name} primary key ({name}_key),
                constraint uq_dim_{name}_text_hash unique (text_hash)
            )
            """
        )
        execute(
            f"insert into dwh.dim_{name} ({name}_key, {name}, text_hash, run_id) values (0, '-', md5('-')::uuid, 0)"
        )
    # Empty in all rows that are there: no row is written again.
    for name, kind in COLUMNS.items():
        execute(f"alter table dwh.fact_weblog add column {name} {kind}")
    execute("alter table dwh.fact_weblog alter column ip_address drop not null")
    # Filled by every load for itself.
    execute("truncate staging.weblog_file")
    execute("alter table staging.weblog_file add column other_format_count bigint not null")


def downgrade() -> None:
    # On the way to an empty database views are still there.
    execute("drop view if exists mart.weblog cascade")
    execute("alter table staging.weblog_file drop column other_format_count")
    execute("alter table dwh.fact_weblog alter column ip_address set not null")
    for name in COLUMNS:
        execute(f"alter table dwh.fact_weblog drop column {name}")
    for name in ("host", "client_host"):
        execute(f"drop table dwh.dim_{name}")
