"""Check a source's conform SQL and joins before anything is loaded: for `dwh doctor` and `dwh source new`."""

from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import definitions
from warehouse.errors import DeclarationError
from warehouse.extract.catalog import HOUSEKEEPING, mirror_exists, mirrored_columns
from warehouse.extract.column import Column
from warehouse.load.batch import Batch
from warehouse.load.conform import delivered_columns
from warehouse.load.reads import Reads, check_reads, create_empty_changed_keys
from warehouse.model.star import TARGETS
from warehouse.sources.source import Entity, Source, Table


def find_declaration_faults(
    connection: psycopg.Connection, source: Source, columns: Mapping[Table, Sequence[Column]]
) -> list[DeclarationError]:
    """Return the errors in the conform SQL and joins of each entity; all changes are rolled back.

    `columns` are the columns of the source's tables; missing mirrors are created from them for the check.
    """
    faults = []
    targets = {target.entity: target for target in TARGETS}
    with connection.transaction(force_rollback=True):
        for table, its_columns in columns.items():
            if not mirror_exists(connection, table):
                _create_empty_mirror(connection, table, its_columns)
        for entity in source.entities.values():
            if not mirrored_columns(connection, entity.table).keys() >= {*entity.table.key}:
                # Declared by another key than it was captured by, which is an error of its own.
                continue
            create_empty_changed_keys(connection, entity)
            try:
                reads = check_reads(connection, entity)
                delivered_columns(Batch(connection, 0, entity, targets[entity.name]))
            except DeclarationError as error:
                faults.append(error)
                continue
            faults += _find_dropped(entity, reads, columns)
    return faults


def _find_dropped(
    entity: Entity, reads: Reads, columns: Mapping[Table, Sequence[Column]]
) -> Iterator[DeclarationError]:
    """Find columns that the SQL reads and that the next run takes from their mirror, since the source dropped them."""
    for table, names in reads.columns.items():
        if table.on_schema_change.dropped_column != "evolve" or table not in columns:
            continue
        present = {column.name for column in columns[table]}
        if dropped := sorted((names or frozenset()) - present - HOUSEKEEPING.keys()):
            yield DeclarationError(
                f"conform/{entity.name}.sql of source '{entity.source}' reads {', '.join(dropped)} of {table}, which "
                "the source does not have any more: the next run stops.",
                hint=f"Name another of its columns: {', '.join(sorted(present))}.",
            )


def _create_empty_mirror(connection: psycopg.Connection, table: Table, columns: Sequence[Column]) -> None:
    types = {column.name: column.type for column in columns}
    housekeeping = dict(zip(HOUSEKEEPING, ("bigint", "boolean"), strict=True))
    connection.execute(
        sql.SQL("create table {} ({})").format(
            sql.Identifier("raw", table.mirror), definitions(types | housekeeping)
        )
    )
