"""A batch: the rows of one entity that a run loads into one table of the star, with its staging and temporary tables.

Tables of a batch, in the order in which a load fills them:

- `changed_keys`: source keys of the rows that the run has to conform
- `conformed`: the rows that the source's conform SQL returns for these keys
- `unconvertible`: rows that the conform SQL cannot convert
- `deleted_keys`: natural keys that the conform SQL no longer returns, or that no mirror row has
- `failing_rows`: rows that break a rule of the contract, that the star cannot hold, or that cannot be converted
- `deferred_keys`: keys that a changed definition no longer returned from the mirrors of the last run
- `verdicts`: what the merge of an SCD2 dimension does to each member
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Self

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import listed
from warehouse.model.star import Target
from warehouse.sources.source import Entity


def conformed_table(entity: str) -> sql.Identifier:
    """Table that holds the conformed rows of an entity's batch."""
    return sql.Identifier("staging", f"conformed_{entity}")


def closed_table(entity: str) -> sql.Identifier:
    """Temporary table of the dimension versions that this transaction has closed; missing if it merged none.
    `expired_by_run_id` is too coarse for this, since a run of `dwh live` has many transactions."""
    return sql.Identifier("pg_temp", f"closed_{entity}")


def verdict_table(entity: str) -> sql.Identifier:
    """Temporary table of what the last merge did to each member of an SCD2 dimension."""
    return sql.Identifier("pg_temp", f"verdict_{entity}")


def late_table(entity: str) -> sql.Identifier:
    """Temporary table of the SCD2 members that this transaction has added, or filled where they were inferred, and to
    which older facts may refer. Missing if nothing was merged, and in a full load."""
    return sql.Identifier("pg_temp", f"late_{entity}")


@dataclass(frozen=True)
class DeferredDeletes:
    """Deletes caused by a changed definition, deferred until this run's changes are merged into the mirrors.

    A key that the new definition does not return from the last run's mirrors may be returned after the merge.
    """

    # What has changed in the definition.
    reason: str
    # Live rows of the target before the deletes.
    rows_held: int


@dataclass(frozen=True)
class Batch:
    """The rows of one entity that are loaded into one target. As a context manager, drops its temporary tables."""

    connection: psycopg.Connection
    run_id: int
    entity: Entity
    target: Target
    # Time of the source's snapshot: new versions start then, unless the source has a timestamp of the change.
    taken_at: datetime | None = None
    # Star and quarantine hold no rows of the source yet, so nothing has to be looked up or compared.
    is_full_load: bool = False
    # The mirror was read in full, so the star may hold rows without a mirror row.
    may_have_orphans: bool = False
    # Why every row of the mirror is conformed again; then versions are corrected in place, and none is opened.
    reconform_reason: str | None = None
    # The mirrors are still those of the last run, so deletes go to `deferred_keys`.
    is_before_merge: bool = False
    # Deletes that an earlier batch of this run has deferred, and that this batch decides on.
    deferred: DeferredDeletes | None = None
    # Check all quarantined rows again, not only those whose source rows have changed.
    rechecks_quarantine: bool = True
    # Id in audit.batch of a batch of `dwh live`; it is stored with all that this transaction changes.
    batch_id: int | None = None
    # Columns that the target's last definition did not have; None if that is not known.
    new_columns: Sequence[str] | None = ()
    _temporary: set[str] = field(default_factory=set, repr=False)

    @property
    def source(self) -> str:
        return self.entity.source

    @property
    def changed_keys_name(self) -> str:
        return f"{self.entity.source}_{self.entity.name}_changed_keys"

    @property
    def changed_keys(self) -> sql.Identifier:
        return sql.Identifier("staging", self.changed_keys_name)

    @property
    def conformed(self) -> sql.Identifier:
        return conformed_table(self.entity.name)

    @cached_property
    def names(self) -> Mapping[str, sql.Composable]:
        """Placeholders that every SQL statement of the batch may use."""
        return {
            "changed_keys": self.changed_keys,
            "conformed": self.conformed,
            "unconvertible": sql.Identifier("pg_temp", f"unconvertible_{self.entity.name}"),
            "deleted_keys": sql.Identifier("pg_temp", f"deleted_{self.entity.name}"),
            "deferred_keys": sql.Identifier("pg_temp", f"deferred_{self.entity.name}"),
            "failing_rows": sql.Identifier("pg_temp", "failing_rows"),
            "verdicts": verdict_table(self.entity.name),
            "mirror": sql.Identifier("raw", self.entity.table.mirror),
            "target": sql.Identifier("dwh", self.target.table),
            "natural_key": listed(self.target.natural_key),
            "source_key": listed(self.entity.table.key),
            "source": sql.Literal(self.entity.source),
            "entity": sql.Literal(self.entity.name),
            "run_id": sql.Literal(self.run_id),
        }

    def format(self, statement: str, /, **names: sql.Composable) -> sql.Composed:
        """Replace the placeholders of a statement: the batch's own and `names`."""
        return sql.SQL(statement).format(**{**self.names, **names})

    def execute(self, statement: str, /, **names: sql.Composable) -> psycopg.Cursor:
        """Execute a statement with the batch's placeholders and `names`."""
        return self.connection.execute(self.format(statement, **names))

    def exists(self, query: str, /, **names: sql.Composable) -> bool:
        """Whether a query returns any row."""
        return self.execute(f"{query} limit 1", **names).rowcount > 0

    def create_temporary(self, table: str, query: str, /, **names: sql.Composable) -> int:
        """Create a temporary table of the batch from a query, which may run in parallel; returns its number of rows."""
        replaces = table in self._temporary
        self._temporary.add(table)
        return staying_session.create_temporary(
            self.connection, table, self.format(query, **names), replaces=replaces
        )

    def replace_temporary(self, table: str, query: str, /, **names: sql.Composable) -> None:
        """Create a temporary table from a query, replacing an earlier batch's; it is kept until the commit."""
        query_of_batch = self.format(query, **names)
        staying_session.create_temporary(self.connection, table, query_of_batch, replaces=True)

    def ensure_temporary(self, table: str, query: str, /, **names: sql.Composable) -> None:
        """Create a temporary table with the columns of an empty query, unless an earlier batch of this transaction has;
        its rows are kept until the commit."""
        if not staying_session.is_filled(self.connection, table):
            staying_session.create_temporary(self.connection, table, self.format(query, **names))

    def analyze(self, table: sql.Composable, columns: Sequence[str] = ()) -> None:
        """ANALYZE a table of the batch."""
        staying_session.analyze(self.connection, table, columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # The next batch uses the same names. After an error, the rollback drops the tables.
        if self._temporary and error is None:
            staying_session.drop_temporary(self.connection, sorted(self._temporary))
            self._temporary.clear()
