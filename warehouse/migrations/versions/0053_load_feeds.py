"""Load feeds of files, and let quarantined records be replayed and discarded."""

from warehouse.migrations.sql import execute

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

DIMENSIONS = ("customer", "product", "company", "promotion", "payment_method", "distribution_center")
RESOLUTIONS = ("released", "replaced", "deleted")
NEW_RESOLUTIONS = ("replayed", "discarded", "superseded")
LINES = "lines_duplicated + rows_loaded + rows_quarantined + cardinality(header_lines)"
PART_LINES = "rows_loaded + rows_quarantined + header_line_count"


def upgrade() -> None:
    for name in DIMENSIONS:
        execute(f"alter table staging.conformed_order_item add column {name}_source_system text")
    execute(
        """
        alter table audit.file
            add column content_hash text,
            add column rows_discarded bigint not null default 0,
            add column rows_superseded bigint not null default 0
        """
    )
    execute("alter table audit.file_part add column rows_discarded bigint not null default 0")
    _account("file", f"{LINES} + rows_discarded + rows_superseded")
    _account("file_part", f"{PART_LINES} + rows_discarded")
    execute(
        """
        alter table audit.quarantine
            add column note text,
            add column edited_text text,
            add column edited_by text,
            add column edited_at timestamptz
        """
    )
    _resolve((*RESOLUTIONS, *NEW_RESOLUTIONS))
    execute(
        """
        create table audit.feed_field (
            source text not null,
            table_name text not null,
            field_name text not null,
            field_type text not null,
            is_declared boolean not null,
            record_count bigint not null,
            first_file_id integer,
            last_file_id integer,
            first_seen_at timestamptz not null default clock_timestamp(),
            last_seen_at timestamptz not null default clock_timestamp(),
            run_id bigint not null,
            constraint pk_feed_field primary key (source, table_name, field_name, field_type)
        )
        """
    )
    execute(
        """
        create table audit.precedence (
            entity text not null,
            key_columns integer not null,
            sources text[] not null,
            run_id bigint not null,
            constraint pk_precedence primary key (entity)
        )
        """
    )


def downgrade() -> None:
    execute("drop table audit.precedence")
    execute("drop table audit.feed_field")
    execute(f"delete from audit.quarantine where resolution in ({_quoted(NEW_RESOLUTIONS)})")
    _resolve(RESOLUTIONS)
    execute(
        "alter table audit.quarantine "
        "drop column note, drop column edited_text, drop column edited_by, drop column edited_at"
    )
    _account("file_part", PART_LINES)
    execute("alter table audit.file_part drop column rows_discarded")
    # Files of feeds are loaded again after the next upgrade.
    execute("delete from audit.file where content_hash is not null")
    _account("file", LINES)
    execute(
        "alter table audit.file drop column content_hash, drop column rows_discarded, drop column rows_superseded"
    )
    for name in DIMENSIONS:
        execute(f"alter table staging.conformed_order_item drop column {name}_source_system")


def _account(table: str, sum_: str) -> None:
    execute(f"alter table audit.{table} drop constraint ck_{table}_line_count")
    execute(f"alter table audit.{table} add constraint ck_{table}_line_count check (line_count = {sum_})")


def _resolve(resolutions: tuple[str, ...]) -> None:
    execute("alter table audit.quarantine drop constraint ck_quarantine_resolution")
    execute(
        "alter table audit.quarantine add constraint ck_quarantine_resolution "
        f"check (resolution in ({_quoted(resolutions)}))"
    )


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)
