"""Copy rows of a source table into its batch in schema staging."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.errors import SourceError
from warehouse.extract import undecodable
from warehouse.extract.column import Column
from warehouse.extract.copy_stream import copy_stream
from warehouse.extract.staging_tables import batch_table
from warehouse.sources.source import Table


def copy_rows(
    reader: psycopg.Connection,
    writer: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    where: sql.Composable,
    note: Callable[[str], None],
) -> int:
    """Copy the rows that satisfy `where`; returns their number. `note` is called if texts among them are undecodable.

    Raises:
        SourceError: a value does not fit the mirror.
    """
    outgoing = sql.SQL("copy (select {} from {} where {}) to stdout (format binary)").format(
        sql.SQL(", ").join(column.selected for column in columns),
        sql.Identifier(*table.at_source),
        where,
    )
    incoming = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        batch_table(table), listed([column.name for column in columns])
    )
    with explain_values(table):
        rows = copy_stream(reader, outgoing, writer, incoming)
    for name, undecoded in undecodable.count_undecodable(reader, table, columns, where).items():
        note(
            f"column {name}: bytes that are no text in {undecoded:,} rows (undecodable: {table.undecodable})"
        )
    return rows


@contextmanager
def explain_values(table: Table) -> Iterator[None]:
    """Name the table in the error if a value does not fit the type of its mirror's column.

    Raises:
        SourceError: with the table, and what to do.
    """
    try:
        yield
    except undecodable.ERRORS:
        raise
    # CannotCoerce is an error of the whole query: there is no cast from the column's new type to the mirror's.
    except (psycopg.DataError, psycopg.errors.CannotCoerce) as error:
        raise SourceError(
            f"A value of {table} of source '{table.source}' does not fit its mirror: {error.diag.message_primary}.",
            # Only with this policy can the mirror's type differ from the source's.
            hint='Let the mirror take the column\'s new type: changed_type = "evolve" under [on_schema_change] in '
            f"the source.toml of '{table.source}'."
            if table.on_schema_change.changed_type == "ignore"
            else "Correct the value in the source.",
        ) from error
