"""A batch: the rows of one entity that a run loads into one table of the star, and the tables that hold them meanwhile.

Tables of a batch, in the order in which a load fills them:

- `changed_keys`: keys, as the source has them, of the rows that the run has to conform
- `conformed`: the rows that the source's SQL makes of them
- `unconvertible`: rows that it cannot convert
- `deleted_keys`: natural keys that are no longer conformed, or that no mirror row has
- `failing_rows`: rows that break a rule of the contract, that the star cannot hold, or that cannot be converted
- `deferred_keys`: those that a changed definition did not deliver while the mirrors were still the last run's
- `verdicts`: what the merge of a versioned dimension does to each member
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
    """Table of the versions of a dimension that this transaction has closed, until the commit; missing where it merged
    none. A run of live has many transactions: which versions the run has closed says too much."""
    return sql.Identifier("pg_temp", f"closed_{entity}")


def verdict_table(entity: str) -> sql.Identifier:
    """Table of what the last merge did to each member of a versioned dimension."""
    return sql.Identifier("pg_temp", f"verdict_{entity}")


def late_table(entity: str) -> sql.Identifier:
    """Table of the members of a versioned dimension that all merges of this transaction have filled or added, until the
    commit: facts may have named them before. Missing where nothing was merged, and in a full load."""
    return sql.Identifier("pg_temp", f"late_{entity}")


@dataclass(frozen=True)
class DeferredDeletes:
    """Deletes that a changed definition asks for: they wait until the mirrors show what this run has read.

    What the last run's mirrors no longer give may be there again with this run's changes.
    """

    # What has changed in the definition.
    reason: str
    # Rows of the target that were live before.
    rows_held: int


@dataclass(frozen=True)
class Batch:
    """The rows of one entity on their way into one target; as a context manager it drops its temporary tables."""

    connection: psycopg.Connection
    run_id: int
    entity: Entity
    target: Target
    # Moment of the source's snapshot, at which a new version starts where the source does not say when.
    taken_at: datetime | None = None
    # Whether star and quarantine hold nothing of the source yet: nothing has to be looked up or compared.
    is_full_load: bool = False
    # Whether the mirror was read in full: then the star may hold rows that no mirror row has.
    may_have_orphans: bool = False
    # Why every row of the mirror is conformed again, if it is: then versions are corrected in place, none is opened.
    reconform_reason: str | None = None
    # Whether the mirrors are still those of the last run: then nothing is deleted, but put into `deferred_keys`.
    is_before_merge: bool = False
    # Deletes that an earlier batch of this run has deferred: this one judges them.
    deferred: DeferredDeletes | None = None
    # Whether all rows that wait in quarantine are checked again, not only those of which something has changed.
    rechecks_quarantine: bool = True
    # Of live: what this transaction changes names it.
    batch_id: int | None = None
    # Columns that the target was not made with before; None: not known.
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
        """Placeholders that every statement about the batch may use."""
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
        """Fill in the placeholders of a statement: the batch's own and `names`."""
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
        """Create a temporary table from a query, in place of that of an earlier batch; it stays until the commit."""
        query_of_batch = self.format(query, **names)
        staying_session.create_temporary(self.connection, table, query_of_batch, replaces=True)

    def ensure_temporary(self, table: str, query: str, /, **names: sql.Composable) -> None:
        """Create a temporary table with the columns of a query of no rows; it stays until the commit, with what
        earlier batches have put there."""
        if not staying_session.is_filled(self.connection, table):
            staying_session.create_temporary(self.connection, table, self.format(query, **names))

    def analyze(self, table: sql.Composable, columns: Sequence[str] = ()) -> None:
        """Sample a table of the batch for the planner."""
        staying_session.analyze(self.connection, table, columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # The next batch uses the same names; late members stay. After an error the rollback drops all.
        if self._temporary and error is None:
            staying_session.drop_temporary(self.connection, sorted(self._temporary))
            self._temporary.clear()
