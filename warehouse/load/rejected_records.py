"""Records of a feed that an entity rejects: none of their rows is in mirrors or star, whichever entity it is.

Records of this run leave the mirrors before a row of theirs is loaded; where an entity rejects some after another one
was loaded, all is loaded again without them. Records of earlier runs are withdrawn from every target.
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
from warehouse.load.record_entries import insert_entries
from warehouse.model.star import TARGETS
from warehouse.runs.audit import Load
from warehouse.sources.source import Source, Table

# Temporary tables: keys of this run's records; those of them that were rejected; records that an entity has just found
# to break a rule.
KEYS = sql.Identifier("pg_temp", "record_key")
REJECTED = sql.Identifier("pg_temp", "rejected_record")
FAILING = sql.Identifier("pg_temp", "failing_records")

T = TypeVar("T")


class _RejectedLate(Exception):
    """Records of this run were rejected by an entity when other rows of theirs may have been loaded already."""


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
        # Records that were rejected late, of each attempt: their keys, rules and reasons as COPY writes them.
        self._rejected_late: list[IO[bytes]] = []
        self._refusals = 0
        self._begin_attempt()

    def attempt(self, load: Callable[[], T]) -> T | None:
        """Call `load`, which merges the mirrors and loads the targets; returns what it returns.

        None if an entity has rejected records of which another one had loaded rows: then all of it is rolled back, and
        the next attempt loads no row of them.
        """
        self._begin_attempt()
        try:
            with self._connection.transaction():
                return load()
        except _RejectedLate:
            return None

    def _begin_attempt(self) -> None:
        self._is_merged = self._is_loaded = self.has_any = False
        # By mirror and operation, rows that were taken back.
        self._taken_back: dict[str, Counter[str]] = {}
        # Entries of records that were rejected late.
        self.late_entries = 0

    def begin_merge(self) -> None:
        """Keep the mirrors' rows of this run's records as they are, until all of their rows have passed."""
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
        """Note that a target was loaded: what is rejected from now on may have rows there."""
        self._is_loaded = self._is_merged

    def withdrawn(self) -> Iterator[tuple[Batch, sql.Composable]]:
        """Of each target, a batch and the keys of rows whose records earlier runs had loaded and this one has rejected.

        They leave the star with their record, whichever entity has rejected it.
        """
        connection, seen = self._connection, 0
        # To load those that name a member which has left may reject others.
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

    def reject(self, batch: Batch) -> int:
        """Move the records of the batch's failing rows to quarantine, all of their rows; returns how many rows.

        Earlier versions of this run's records stay as they were, in mirrors and star; a record of an earlier run that
        breaks a rule by now is withdrawn from both.
        """
        found = batch.create_temporary(
            "failing_records",
            """
            select {key}, array_agg(distinct rule order by rule) as rules,
                string_agg(distinct failing.reason || {place}, '; ' order by failing.reason || {place}) as reason
            from {failing_rows} as failing cross join unnest(failing.rules) as rule group by {positions}
            """,
            key=self._failing_key(),
            place=self._place(batch),
            positions=sql.SQL(", ").join(sql.SQL(str(n)) for n in range(1, len(self._record.key) + 1)),
        )
        if not found:
            return 0
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
        self._refuse()
        # What fails later in this batch comes alone: these rows have their entries.
        batch.execute("truncate {failing_rows}, {unconvertible}")
        return int(taken + unconvertible)

    def _keep_for_next_attempt(self, in_batch: sql.Composable) -> None:
        """Keep the failing records of this run where a rollback does not reach them."""
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
            # Of an earlier version, a later one waits already.
            is_reverted, superseded = in_batch, _holds(REJECTED, self._record) if self.has_any else never
        else:
            # A later version is about to come.
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
        """Loads of the mirrors without rows that were taken back."""
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
        """Remove the rows of failing records from a mirror, and bring back those of `reverted` ones as they were."""
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
            # The mirror may have got columns since.
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
        """Whether the failing record is one of this run, and not the earlier version of one that it has rejected."""
        is_new: sql.Composable = sql.SQL("true")
        if not self._is_first:
            is_new = _holds(KEYS, self._record)
        if not self.has_any:
            return is_new
        return sql.SQL("({} and not {})").format(is_new, _holds(REJECTED, self._record))

    def _failing_key(self) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("failing.row_key[{}]::{} as {}").format(
                sql.Literal(position), sql.SQL(kind), sql.Identifier(name)
            )
            for position, (name, kind) in enumerate(
                zip(self._record.key, self._key_types, strict=True), start=1
            )
        )

    def _place(self, batch: Batch) -> sql.Composable:
        """Which row of the record it is, where it has several."""
        position = len(self._record.key) + 1
        if len(batch.target.natural_key) < position:
            return sql.SQL("''")
        return sql.SQL("' (' || {} || ' ' || failing.row_key[{}] || ')'").format(
            sql.Literal(batch.entity.table.key[-1].replace("_", " ")), sql.Literal(position)
        )

    def _same_natural(self, batch: Batch, table: str) -> sql.Composable:
        pairs = zip(self._record.key, batch.target.natural_key, strict=False)
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}::text").format(sql.Identifier(table, natural), sql.Identifier("failing", name))
            for name, natural in pairs
        )


def _removed(table: Table) -> str:
    """Name of the temporary table of the keys of rows that left a mirror with their record, and do not come back."""
    return f"removed_{table.mirror}"


def _holds(records: sql.Identifier, record: Table) -> sql.Composable:
    return sql.SQL("exists (select from {} as one where {})").format(
        records, same_key(record.key, "one", "failing")
    )
