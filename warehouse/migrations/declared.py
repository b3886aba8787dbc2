"""What the migrations leave to files: views, functions, their triggers, comments and grants, applied after them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from warehouse import history
from warehouse.db import composite_key
from warehouse.db.comments import FOLDER, apply_comments, differing_comments, read_comments
from warehouse.db.object_files import SchemaObject, read_functions, read_views
from warehouse.db.roles import missing_grants
from warehouse.db.schema_objects import SchemaObjects
from warehouse.db.time_zone import ensure_zone_exists, zone_functions, zone_of
from warehouse.extract.catalog import find_missing
from warehouse.history.logged_tables import (
    add_missing_triggers,
    drop_triggers,
    logged_tables,
    table_object_comments,
    table_objects,
)
from warehouse.load.marts import refresh_outdated
from warehouse.migrations import foreign_keys
from warehouse.model import mart
from warehouse.model.masking import Label, labels, masked_views
from warehouse.model.schema import TABLES, references_query
from warehouse.model.staging import staging_names, staging_tables

HISTORY: Final = Path(history.__file__).parent
COMMENTS: Final = (*sorted(FOLDER.glob("*.toml")), HISTORY / "comments.toml")


def schema_objects(connection: psycopg.Connection, time_zone: str | None = None) -> list[SchemaObject]:
    """Views and functions that the warehouse should have, those of each table of the star included.

    `time_zone` is that of the company; by default as it is.
    """
    return [
        *zone_functions(time_zone or zone_of(connection)),
        *composite_key.FUNCTIONS,
        *read_functions(HISTORY / "functions", "audit"),
        *read_views(HISTORY / "views", "audit"),
        *(
            SchemaObject("view", "mart", one.name, one.query())
            for one in mart.read_marts().values()
            if one.kind == "view"
        ),
        *(SchemaObject("view", "mart", view.name, view.query) for view in masked_views()),
        SchemaObject("view", "mart", "table_reference", references_query()),
        *table_objects(connection),
    ]


def comments(connection: psycopg.Connection) -> dict[str, str]:
    """Comments by name of what they are about: `schema`, `schema.table`, `schema.table.column`, `schema.function()`."""
    return _file_comments() | table_object_comments(connection)


def apply(connection: psycopg.Connection, objects: SchemaObjects, time_zone: str | None = None) -> None:
    """Bring views, functions, triggers and comments to what is declared, and stored marts whose definition has changed.

    Raises:
        SettingsError: the server does not know the time zone.
        SchemaObjectInUse: a user's own view stands on one that has to be dropped.
    """
    if missing := find_missing(connection, staging_names()):
        connection.execute("create schema if not exists staging")
    for name in missing:
        for statement in staging_tables()[name]:
            connection.execute(statement.encode())
    # The comments of a table's own view and function repeat those of the table.
    apply_comments(connection, _file_comments())
    if time_zone is not None:
        ensure_zone_exists(connection, time_zone)
    declared = schema_objects(connection, time_zone)
    objects.apply(declared)
    foreign_keys.apply(connection)
    add_missing_triggers(connection)
    apply_comments(connection, comments(connection))
    _apply_labels(connection)
    refresh_outdated(connection)


def differences(connection: psycopg.Connection, time_zone: str | None = None) -> Iterator[str]:
    """What `apply` and the grants after it would set right, a sentence each. Nothing is changed."""
    objects = SchemaObjects(connection)
    if time_zone not in (None, zone := zone_of(connection)):
        yield f"days were counted in time zone {zone}, and are in {time_zone} now"
    with connection.transaction(force_rollback=True):
        declared = schema_objects(connection)
        for one in objects.stale(declared):
            yield f"{one.kind} {one.full_name} is not as declared"
        for name in sorted(objects.registered() - {one.full_name for one in declared}):
            yield f"{name} is no longer declared"
        for name, kind in differing_comments(connection, comments(connection)).items():
            yield f"the comment of {kind} {name} is not as declared"
        for table in logged_tables(connection):
            if not table.has_triggers:
                yield f"table {table.full_name} has no triggers for the change log"
    for name in find_missing(connection, staging_names()):
        yield f"table {name} is missing"
    for key in foreign_keys.missing(connection):
        yield f"foreign key {key.name} of dwh.{key.table} is missing"
    for label in sorted(set(labels()) ^ _found_labels(connection)):
        yield f"the label of personal data in {'.'.join(label[:3])} is not as declared"
    for statement in missing_grants(connection):
        yield f"an owner or grant is not as declared: {statement}"


def drop(connection: psycopg.Connection) -> None:
    """Drop views, functions and triggers.

    Raises:
        SchemaObjectInUse: a user's own view stands on one of them.
    """
    drop_triggers(connection)
    foreign_keys.drop(connection)
    SchemaObjects(connection).apply([])


def _apply_labels(connection: psycopg.Connection) -> None:
    """Label the columns that hold personal data; grants of marts depend on it."""
    declared, found = set(labels()), _found_labels(connection)
    for label in found - declared:
        connection.execute(
            "delete from audit.personal_data where schema_name = %s and table_name = %s and column_name = %s",
            label[:3],
        )
    for label in declared - found:
        connection.execute(
            "insert into audit.personal_data (schema_name, table_name, column_name, kind) values (%s, %s, %s, %s)",
            label,
        )


def _found_labels(connection: psycopg.Connection) -> set[Label]:
    rows = connection.execute("select schema_name, table_name, column_name, kind from audit.personal_data")
    return {Label(*row) for row in rows.fetchall()}


def _file_comments() -> dict[str, str]:
    comments = read_comments(*COMMENTS) | mart.comments()
    for view in masked_views():
        comments[f"mart.{view.name}"] = view.description
        comments |= {f"mart.{view.name}.{name}": text for name, text in view.columns.items()}
    for table in TABLES:
        comments[str(table)] = table.description
        comments |= {f"{table}.{column.name}": column.comment for column in table.columns}
    return comments
