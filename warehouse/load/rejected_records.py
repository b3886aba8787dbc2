"""Reject whole records of a feed: if one entity rejects a row, no row of the record stays in mirrors or star.

Records of this run are removed from the mirrors before their rows are loaded; if an entity rejects a record after
another entity was loaded, all is loaded again without it. Records of earlier runs are withdrawn from every target.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from tempfile import TemporaryFile
from typing import IO, TypeVar

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import definitions, listed, qualified, same_key
from warehouse.extract.staging_tables import delta_table
from warehouse.load.batch import Batch
from warehouse.load.natural_keys import natural_values, source_texts
from warehouse.load.quarantine import Moved
from warehouse.load.record_entries import insert_entries
from warehouse.model.star import TARGETS
from warehouse.runs.audit import Load
from warehouse.sources.source import Source, Table

# Temporary tables: keys of this run's records; keys of those that were rejected; records that an entity has just found
# to break a rule.
KEYS = sql.Identifier("pg_temp", "record_key")
REJECTED = sql.Identifier("pg_temp", "rejected_record")
FAILING = sql.Identifier("pg_temp", "failing_records")

T = TypeVar("T")


class _RejectedLate(Exception):
    """An entity rejected records of this run when other rows of these records may already have been loaded."""


class RejectedRecords:
    """What the entities of a feed reject in one run; `is_first` says that no earlier run has loaded any record."""

    def __init__(
        self,
        connection: psycopg.Connection,
        run_id: int,
        source: Source,
        taken_at: datetime,
        *,
        is_first: bool,
    ) -> None:
        self._connection, self._run_id, self._source, self._taken_at = connection, run_id, source, taken_at
        self._record, self._is_first = source.record, is_first
        self._key_types = [self._record.columns[name] for name in self._record.key]
        # Per attempt, the records that were rejected late: keys, rules and reasons in COPY's text format.
        self._rejected_late: list[IO[bytes]] = []
        self._refusals = 0
        self._begin_attempt()

    def attempt(self, load: Callable[[], T]) -> T | None:
        """Call `load`, which merges the mirrors and loads the targets; returns what it returns.

        Returns None if an entity rejected records of which another entity had loaded rows: then everything is rolled
        back, and the next attempt loads no row of these records.
        """
        self._begin_attempt()
        try:
            with self._connection.transaction():
                return load()
        except _RejectedLate:
            return None

    def _begin_attempt(self) -> None:
        self._is_merged = self._is_loaded = self.has_any = False
        # By mirror and operation, the number of rows that were taken back.
        self._taken_back: dict[str, Counter[str]] = {}
        # Number of entries of records that were rejected late.
        self.late_entries = 0

    def begin_merge(self) -> None:
        """Copy the mirrors' rows of this run's records before the merge, to restore them if a record is rejected."""
        for table in () if self._is_first else self._source.tables:
            self._connection.execute(
                sql.SQL(
                    "create temp table {name} on commit drop as select mirror.* from {mirror} as mirror "
                    "inner join {keys} as record on {same}"
                ).format(
                    name=sql.Identifier(f"earlier_{table.mirror}"),
                    mirror=sql.Identifier("raw", table.mirror),
                    keys=KEYS,
                    same=same_key(self._record.key, "mirror", "record"),
                )
            )
        self._is_merged = True

    def end_merge(self) -> None:
        """Move the records that earlier attempts have rejected to quarantine, before any row of them is loaded."""
        for rejected in self._rejected_late:
            self._connection.execute(
                sql.SQL(
                    "drop table if exists {failing}; "
                    "create temp table failing_records ({key}, rules text[], reason text) on commit drop"
                ).format(
                    failing=FAILING,
                    key=definitions(dict(zip(self._record.key, self._key_types, strict=True))),
                )
            )
            rejected.seek(0)
            with (
                self._connection.cursor() as cursor,
                cursor.copy(sql.SQL("copy {} from stdin").format(FAILING)) as copy,
            ):
                while block := rejected.read(2**16):
                    copy.write(block)
            self.late_entries += self._refuse()
            self._connection.execute(sql.SQL("drop table {}").format(FAILING))

    def note_loaded(self) -> None:
        """Note that a target was loaded: records that are rejected from now on may have rows there."""
        self._is_loaded = self._is_merged

    def withdrawn(self) -> Iterator[tuple[Batch, sql.Composable]]:
        """Yield, per target, a batch and the keys of rows whose records earlier runs loaded and this run has rejected.

        These rows leave the star with their record, whichever entity has rejected it.
        """
        connection, seen = self._connection, 0
        # Loading facts that refer to a withdrawn member may reject further records.
        while seen < self._refusals:
            seen = self._refusals
            for target in TARGETS:
                entity = self._source.entities.get(target.entity)
                if entity is None or not staying_session.is_filled(connection, _removed(entity.table)):
                    continue
                # A later version of the record may have brought the row again.
                keys = sql.SQL(
                    "select {key}, 0 as _flags from {removed} as removed "
                    "where not exists (select from {mirror} as mirror where {same})"
                ).format(
                    key=qualified("removed", entity.table.key),
                    removed=sql.Identifier("pg_temp", _removed(entity.table)),
                    mirror=sql.Identifier("raw", entity.table.mirror),
                    same=same_key(entity.table.key, "mirror", "removed"),
                )
                yield Batch(connection, self._run_id, entity, target, taken_at=self._taken_at), keys

    def reject(self, batch: Batch) -> Moved:
        """Move the records of the batch's failing rows to quarantine.

        Earlier versions of this run's records are kept in mirrors and star. Records of earlier runs that break a rule
        now are withdrawn from both.
        """
        records = batch.create_temporary(
            "failing_records",
            """
            select {key}, array_agg(distinct rule order by rule) as rules,
                string_agg(distinct failing.reason || {place}, '; ' order by failing.reason || {place}) as reason
            from {failing_rows} as failing cross join unnest(failing.rules) as rule group by {positions}
            """,
            key=self._failing_key(batch),
            place=self._place(batch),
            positions=sql.SQL(", ").join(sql.SQL(str(n)) for n in range(1, len(self._record.key) + 1)),
        )
        if not records:
            return Moved()
        names: dict[str, sql.Composable] = {
            "failing_records": FAILING,
            "in_batch": self._in_batch(),
            "same": self._same_natural(batch, "conformed"),
            "same_deleted": self._same_natural(batch, "deleted"),
        }
        if self._is_loaded and batch.exists(
            "select from {failing_records} as failing where {in_batch}", **names
        ):
            self._keep_for_next_attempt(names["in_batch"])
            raise _RejectedLate
        taken = batch.execute(
            "delete from {conformed} as conformed using {failing_records} as failing where {same}", **names
        ).rowcount
        # Rows that cannot be converted are not among the conformed ones.
        (unconvertible,) = batch.execute(
            "select count(*) from {failing_rows} where place is null"
        ).fetchone() or (0,)
        if self._is_merged:
            batch.execute(
                "delete from {deleted_keys} as deleted using {failing_records} as failing "
                "where {same_deleted} and {in_batch}",
                **names,
            )
        entries = self._refuse()
        # These rows have their entries, so empty the tables for rows that fail later in this batch.
        batch.execute("truncate {failing_rows}, {unconvertible}")
        return Moved(taken + unconvertible, entries)

    def _keep_for_next_attempt(self, in_batch: sql.Composable) -> None:
        """Write the failing records of this run to a file, which the rollback does not undo."""
        kept: IO[bytes] = TemporaryFile()  # noqa: SIM115
        self._rejected_late.append(kept)
        with (
            self._connection.cursor() as cursor,
            cursor.copy(
                sql.SQL("copy (select failing.* from {} as failing where {}) to stdout").format(
                    FAILING, in_batch
                )
            ) as copy,
        ):
            for block in copy:
                kept.write(block)

    def _refuse(self) -> int:
        """Move the failing records from the mirrors to quarantine; returns the number of entries that wait."""
        self._refusals += 1
        in_batch, never = self._in_batch(), sql.SQL("false")
        if self._is_merged:
            # If this run has already rejected a later version of the record, the earlier version is superseded.
            is_reverted, superseded = in_batch, _holds(REJECTED, self._record) if self.has_any else never
        else:
            # Before the merge, the mirrors have earlier versions, which this run's records supersede.
            is_reverted, superseded = never, in_batch
        entries = insert_entries(
            self._connection,
            self._run_id,
            self._source,
            FAILING,
            schema="raw",
            superseded=superseded,
        )
        for table in self._source.tables:
            self._take_back(table, is_reverted)
        if self._is_merged:
            names = {
                "failing": FAILING,
                "in_batch": in_batch,
                "key": qualified("failing", self._record.key),
                "rejected": REJECTED,
            }
            self._connection.execute(
                sql.SQL(
                    "create temp table if not exists rejected_record on commit drop as "
                    "select {key} from {failing} as failing limit 0"
                ).format(**names)
            )
            self._connection.execute(
                sql.SQL(
                    "insert into {rejected} select {key} from {failing} as failing where {in_batch}"
                ).format(**names)
            )
            self.has_any = True
        return entries

    def adjusted(self, loads: Mapping[str, Load]) -> dict[str, Load]:
        """Return the mirrors' loads with the rows that were taken back subtracted."""
        return {
            name: replace(
                load,
                rows_inserted=load.rows_inserted - operations["insert"],
                rows_updated=load.rows_updated - operations["update"],
                rows_deleted=load.rows_deleted - operations["delete"],
            )
            for name, load in loads.items()
            for operations in (self._taken_back.get(name, Counter()),)
        }

    def _take_back(self, table: Table, reverted: sql.Composable) -> None:
        """Delete the rows of failing records from a mirror, and restore the earlier rows of `reverted` records."""
        names: dict[str, sql.Composable] = {
            "mirror": sql.Identifier("raw", table.mirror),
            "delta": delta_table(table),
            "failing": FAILING,
            "same": same_key(self._record.key, "mirror", "failing"),
            "same_delta": same_key(self._record.key, "delta", "failing"),
            "reverted": reverted,
            "removed": sql.Identifier(_removed(table)),
            "key": listed(table.key),
            "mirror_key": qualified("mirror", table.key),
        }
        self._connection.execute(
            sql.SQL(
                "create temp table if not exists {removed} on commit drop as select {key} from {mirror} limit 0"
            ).format(**names)
        )
        (removed,) = self._connection.execute(
            sql.SQL(
                """
                with gone as (
                    delete from {mirror} as mirror using {failing} as failing where {same}
                    returning {mirror_key}, {reverted} as is_reverted
                ),

                withdrawn as (insert into pg_temp.{removed} select {key} from gone where not is_reverted)

                select count(*) from gone
                """
            ).format(**names)
        ).fetchone() or (0,)
        if not self._is_merged:
            return
        operations = self._connection.execute(
            sql.SQL(
                "with taken as (delete from {delta} as delta using {failing} as failing "
                "where {same_delta} and {reverted} returning delta._operation) "
                "select _operation, count(*) from taken group by _operation"
            ).format(**names)
        ).fetchall()
        if not self._is_first:
            names["earlier"] = sql.Identifier("pg_temp", f"earlier_{table.mirror}")
            # The mirror may have new columns since its rows were copied.
            held = self._connection.execute(sql.SQL("select * from {earlier} limit 0").format(**names))
            self._connection.execute(
                sql.SQL(
                    "insert into {mirror} ({columns}) select {columns} from {earlier} as earlier where exists "
                    "(select from {failing} as failing where {same_earlier} and {reverted})"
                ).format(
                    **names,
                    columns=listed([column.name for column in held.description or ()]),
                    same_earlier=same_key(self._record.key, "earlier", "failing"),
                )
            )
        counts = Counter(dict(operations) or {"insert": removed if self._is_first else 0})
        self._taken_back.setdefault(f"raw.{table.mirror}", Counter()).update(counts)

    def _in_batch(self) -> sql.Composable:
        """Condition that a failing record is one of this run, not the earlier version of one that it has rejected."""
        is_new: sql.Composable = sql.SQL("true")
        if not self._is_first:
            is_new = _holds(KEYS, self._record)
        if not self.has_any:
            return is_new
        return sql.SQL("({} and not {})").format(is_new, _holds(REJECTED, self._record))

    def _failing_key(self, batch: Batch) -> sql.Composable:
        texts = _failing_texts(batch)
        return sql.SQL(", ").join(
            sql.SQL("{}::{} as {}").format(texts[name], sql.SQL(kind), sql.Identifier(name))
            for name, kind in zip(self._record.key, self._key_types, strict=True)
        )

    def _place(self, batch: Batch) -> sql.Composable:
        """Expression for the failed row's place in its record, as ' (line 2)'; empty if records have one row each."""
        if batch.entity.table == self._record:
            return sql.SQL("''")
        name = batch.entity.table.key[-1]
        return sql.SQL("' (' || {} || ' ' || {} || ')'").format(
            sql.Literal(name.replace("_", " ")), _failing_texts(batch)[name]
        )

    def _same_natural(self, batch: Batch, table: str) -> sql.Composable:
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(table, natural), value)
            for natural, value in natural_values(batch.entity, "failing").items()
            if {*batch.entity.key[natural]} <= {*self._record.key}
        )


def _failing_texts(batch: Batch) -> dict[str, sql.Composable]:
    """Expressions for the key columns of the failed row's table."""
    places = range(1, len(batch.target.natural_key) + 1)
    return source_texts(batch.entity, [sql.SQL(f"failing.row_key[{place}]") for place in places])


def _removed(table: Table) -> str:
    """Name the temporary table of keys of rows that were withdrawn from a mirror and not restored."""
    return f"removed_{table.mirror}"


def _holds(records: sql.Identifier, record: Table) -> sql.Composable:
    return sql.SQL("exists (select from {} as one where {})").format(
        records, same_key(record.key, "one", "failing")
    )
