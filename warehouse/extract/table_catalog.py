"""Read the catalogs of source and warehouse for the tables that a run is about to stage.

Each query reads all tables at once, since planning a query of the catalog takes longer than running it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from warehouse.extract.catalog import Mirror, check_columns, read_mirrors, read_source_columns, table_comments
from warehouse.extract.drift import Drift, find_drift
from warehouse.extract.snapshot import check_relation, read_relations
from warehouse.extract.source_counters import SourceCounters, read_counters
from warehouse.extract.table_identity import TableIdentity, read_identities
from warehouse.sources.source import Table


@dataclass(frozen=True)
class TableCatalog:
    """One table in the catalogs of source and warehouse, before it is staged."""

    has_transaction_ids: bool
    drift: Drift
    comment: str | None
    identity: TableIdentity
    mirror: Mirror
    counters: SourceCounters


def read_catalogs(
    reader: psycopg.Connection, writer: psycopg.Connection, tables: Sequence[Table]
) -> dict[Table, TableCatalog]:
    """Read and check the catalog entries of source tables and their mirrors.

    Raises:
        SourceError: a table cannot be read completely, or has a column with a name that the warehouse reserves.
        SchemaDrift, DeclarationError: a table differs from its mirror, or from its declaration.
    """
    # Refuse tables that may not be read first: the other queries would fail.
    have_transaction_ids = [
        check_relation(reader, table, relation)
        for table, relation in zip(tables, read_relations(reader, tables), strict=True)
    ]
    mirrors = read_mirrors(writer, tables)
    drifts = [
        find_drift(mirror, table, check_columns(reader, table, columns))
        for table, mirror, columns in zip(tables, mirrors, read_source_columns(reader, tables), strict=True)
    ]
    identities = read_identities(reader, tables)
    parts = zip(
        have_transaction_ids, drifts, table_comments(reader, tables), identities, mirrors,
        read_counters(reader, identities), strict=True,
    )  # fmt: skip
    return {table: TableCatalog(*of_table) for table, of_table in zip(tables, parts, strict=True)}
