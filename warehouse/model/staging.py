"""DDL of the staging tables that migrations create. Nothing in them is kept: dropped ones are created again, empty."""

from collections.abc import Mapping
from typing import Final

from warehouse.model.star import TARGETS
from warehouse.model.tables import batch_table
from warehouse.model.weblog_aggregates import TABLES as AGGREGATES
from warehouse.model.weblog_aggregates import create_staged

_OWN: Final[Mapping[str, str]] = {
    "source_checksum": """
        source text not null, table_name text not null, captured_at timestamptz not null, chunks integer not null,
        column_names text[] not null, constraint pk_source_checksum primary key (source, table_name)
    """,
    "source_chunk": """
        source text not null, table_name text not null, chunks integer not null, bucket integer not null,
        row_count bigint not null, key_sum numeric not null, content_sum numeric not null,
        constraint pk_source_chunk primary key (source, table_name, bucket)
    """,
    "weblog_file": """
        file_id integer not null, path text not null, line_count bigint not null, rows_loaded bigint not null,
        rows_quarantined bigint not null, malformed_line_count bigint not null, impossible_date_count bigint not null,
        bad_status_count bigint not null, bad_address_count bigint not null, unfinished_line_count bigint not null,
        other_format_count bigint not null, header_line_count bigint not null,
        future_line_count bigint not null
    """,
    "weblog_moving": "country text not null, ip_address inet not null, new_country text not null",
    "weblog_moved": """
        country text not null, new_country text not null, web_user_key integer not null, request_key integer not null,
        request_date date not null
    """,
    "weblog_deleted": """
        requested_at timestamptz not null, country text not null, device_key smallint not null,
        request_key integer not null, file_id integer not null
    """,
}


def staging_names() -> list[str]:
    """Return the tables' names with schema."""
    return [
        *(f"staging.{name}" for name in _OWN),
        *(f"staging.{one.staged_table}" for one in AGGREGATES),
        *(str(batch_table(target)) for target in TARGETS),
    ]


def staging_tables() -> Mapping[str, list[str]]:
    """Return the statements that create each table, by name with schema."""
    # Imported here, because the module builds all tables of the warehouse, and every run needs only the names.
    from warehouse.model.schema import create_table

    statements = [
        *([f"create unlogged table staging.{name} ({columns})"] for name, columns in _OWN.items()),
        *([create_staged(one)] for one in AGGREGATES),
        *(create_table(batch_table(target)) for target in TARGETS),
    ]
    return dict(zip(staging_names(), statements, strict=True))
