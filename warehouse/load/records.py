"""Records of a feed on their way into the star: a record and its rows are loaded, or wait in quarantine, together.

What a mirror holds of a feed has passed every contract; what has not is in quarantine, as a whole. So each record of a
file is loaded, in quarantine, discarded, or superseded by a later version, and audit.file counts which.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import each, listed, qualified, same_key
from warehouse.extract.catalog import columns_of, mirror_exists
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.staging_tables import batch_table, delta_table
from warehouse.feeds.stage import snapshot
from warehouse.feeds.staged import StagedFeed
from warehouse.feeds.versions import (
    find_deleted_rows,
    remove_earlier_versions,
    remove_rows_without_record,
)
from warehouse.load.batch import Batch
from warehouse.load.contract import stop_on_failure, verify
from warehouse.load.feed_files import record_loaded, write_files
from warehouse.load.quarantine import broken_rules
from warehouse.load.record_entries import insert_entries
from warehouse.runs.audit import CheckResult, Load, Run, record_checks
from warehouse.sources.declaration import Source, Table
from warehouse.sources.feed import FILE_ID, LINE

# Temporary tables: what changes in the counts of files; keys of this run's records; those of them that were rejected.
CHANGES = sql.Identifier("pg_temp", "file_change")
KEYS = sql.Identifier("pg_temp", "record_key")
REJECTED = sql.Identifier("pg_temp", "rejected_record")
COUNTS = ("line_count", "rows_loaded", "rows_quarantined", "rows_discarded", "rows_superseded")


class Records:
    """The records of one run of a feed, in the transaction that publishes them."""

    def __init__(self, connection: psycopg.Connection, run: Run, staged: StagedFeed) -> None:
        self._connection, self._run, self._staged = connection, run, staged
        self._source, self._record = staged.source, staged.source.record
        self._is_first = not mirror_exists(connection, self._record)
        self._is_merged = False
        # By mirror and operation, rows that were taken back.
        self._taken_back: dict[str, Counter[str]] = {}
        self._has_rejected = False
        self._key_types = [self._record.columns[name] for name in self._record.key]
        connection.execute(
            sql.SQL("create temp table file_change (file_id integer, {counts}) on commit drop").format(
                counts=each("{} bigint not null default 0", COUNTS)
            )
        )

    @classmethod
    def held(cls, connection: psycopg.Connection, run: Run, source: Source) -> "Records":
        """The records that the mirror holds, none of which is staged: some may break a rule by now."""
        staged = StagedFeed(source, snapshot(source), (), {}, DeleteThreshold())
        records = cls(connection, run, staged)
        connection.execute(
            sql.SQL(
                "create temp table record_key on commit drop as select {key} from {mirror} limit 0"
            ).format(key=listed(source.record.key), mirror=sql.Identifier("raw", source.record.mirror))
        )
        return records

    def accept(self, checks: list[CheckResult]) -> StagedFeed:
        """Judge the staged records by their own contract, and leave the last version of each.

        Raises:
            QualityGateStopped: a rule about all records failed.
        """
        for file in self._staged.files:
            if file.found.is_read:
                loaded = file.records - file.unreadable
                self._count(file.file_id, file.records, loaded, file.unreadable)
        # Without a sample, the planner expects two hundred records of any number, and sorts them all.
        for table in self._source.tables:
            key = {*table.key, *self._record.key, FILE_ID, LINE}
            staying_session.analyze(self._connection, batch_table(table), sorted(key))
        self._take_replayed()
        self._supersede_entries()
        self._judge(checks)
        for file_id, count in remove_earlier_versions(self._connection, self._source):
            self._count(file_id, rows_loaded=-count, rows_superseded=count)
        deleted = find_deleted_rows(self._connection, self._source)
        if not self._is_first:
            self._connection.execute(
                sql.SQL("create temp table record_key on commit drop as select {key} from {batch}").format(
                    key=listed(self._record.key), batch=batch_table(self._record)
                )
            )
        tables = tuple(
            replace(
                one,
                rows_read=_rows(self._connection, batch_table(one.table)),
                rows_deleted=deleted.get(one.table.name, 0),
            )
            for one in self._staged.tables
        )
        self._staged = replace(self._staged, tables=tables)
        return self._staged

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

    def reject(self, batch: Batch) -> int:
        """Move the records of the batch's failing rows to quarantine, all of their rows; returns how many rows.

        Their earlier versions stay as they were, in mirrors and star.
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
        is_in_batch = self._in_batch()
        names: dict[str, sql.Composable] = {
            "failing_records": sql.Identifier("pg_temp", "failing_records"),
            "in_batch": is_in_batch,
            "same": self._same_natural(batch, "conformed"),
            "same_deleted": self._same_natural(batch, "deleted"),
            "same_held": self._same_natural(batch, "held"),
            "held_key": qualified("held", batch.target.natural_key),
        }
        insert_entries(
            self._connection,
            self._run.run_id,
            self._source,
            names["failing_records"],
            schema="raw",
            # A newer version is about to come: the entry is history already.
            superseded=sql.SQL("false") if self._is_merged else is_in_batch,
            changes=CHANGES,
        )
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
            batch.execute(
                "create temp table if not exists rejected_record on commit drop as "
                "select {key} from {failing_records} limit 0",
                **names | {"key": listed(self._record.key)},
            )
            batch.execute(
                "insert into {rejected} select {key} from {failing_records} as failing where {in_batch}",
                **names | {"key": qualified("failing", self._record.key), "rejected": REJECTED},
            )
        if not self._is_first:
            # A rule that an accepted record breaks now: its rows leave the star with it.
            batch.execute(
                "insert into {deleted_keys} select {held_key} from {target} as held "
                "inner join {failing_records} as failing on {same_held} "
                "where held.source_system = {source} and not ({is_reverted})",
                **names,
                is_reverted=is_in_batch if self._is_merged else sql.SQL("false"),
            )
        for table in self._source.tables:
            self._take_back(table, is_in_batch if self._is_merged else sql.SQL("false"))
        self._has_rejected |= self._is_merged
        # What fails later in this batch comes alone: these rows have their entries.
        batch.execute("truncate {failing_rows}, {unconvertible}")
        return int(taken + unconvertible)

    def finish(self, mirrors: Mapping[str, Load]) -> dict[str, Load]:
        """Write the counts of all files, and what cannot be read into the quarantine; returns the mirrors' loads.

        Those no longer count rows that were taken back.
        """
        if self._is_merged and not self._is_first:
            self._supersede_rows()
        write_files(self._connection, self._run.run_id, self._staged)
        record_loaded(self._connection, self._run.run_id, self._staged, None if self._is_first else KEYS)
        apply_changes(self._connection, self._run.run_id)
        self._close_replayed()
        loads = dict(mirrors)
        for name, operations in self._taken_back.items():
            load = loads[name]
            loads[name] = replace(
                load,
                rows_inserted=load.rows_inserted - operations["insert"],
                rows_updated=load.rows_updated - operations["update"],
                rows_deleted=load.rows_deleted - operations["delete"],
            )
        name = f"raw.{self._record.mirror}"
        unreadable = sum(file.unreadable for file in self._staged.files)
        loads[name] = replace(
            loads[name],
            rows_quarantined=unreadable + self._judged,
        )
        return loads

    def _judge(self, checks: list[CheckResult]) -> None:
        """Move records that break a rule of their contract from staging to quarantine."""
        self._judged = 0
        contract = self._staged.contracts.get(self._record.mirror)
        batch = batch_table(self._record)
        if contract is None or not _rows(self._connection, batch):
            return
        checked = sql.Identifier("staging", self._record.checked)
        self._connection.execute(
            sql.SQL("create or replace view {} as select * from {}").format(checked, batch)
        )
        results = verify(self._connection, contract, self._source.name)
        self._connection.execute(sql.SQL("drop view {}").format(checked))
        record_checks(self._run.audit_connection, self._run.run_id, results)
        checks.extend(results)
        stop_on_failure(contract, results)
        failed = {result.check_name for result in results if result.outcome != "passed"}
        rules = [rule for rule in contract.row_rules if rule.name in failed]
        if not rules:
            return
        names = {
            "batch": batch,
            "key": qualified("batch", self._record.key),
            "rules": broken_rules(rules),
            "same": same_key(self._record.key, "later", "batch"),
            "any_broken": sql.SQL(" or ").join(
                sql.SQL("({}) is true").format(sql.SQL(rule.broken_if)) for rule in rules
            ),
            "file_id": sql.Identifier(FILE_ID),
            "line": sql.Identifier(LINE),
        }
        self._connection.execute(
            sql.SQL(
                """
                drop table if exists pg_temp.refused_records;
                create temp table refused_records on commit drop as
                select broken.*, array_to_string(broken.rules, '; ') as reason,
                    exists (
                        select from {batch} as later where {same_broken} and later.ctid > broken.place
                    ) as is_superseded
                from (
                    select batch.ctid as place, {key}, batch.{file_id}, batch.{line}, {rules} as rules
                    from {batch} as batch where {any_broken}
                ) as broken
                """
            ).format(**names, same_broken=same_key(self._record.key, "later", "broken"))
        )
        refused = sql.Identifier("pg_temp", "refused_records")
        self._judged = insert_entries(
            self._connection,
            self._run.run_id,
            self._source,
            refused,
            schema="staging",
            superseded=sql.SQL("failing.is_superseded"),
            changes=CHANGES,
        )
        self._connection.execute(
            sql.SQL(
                "delete from {batch} as batch using {refused} as refused where batch.ctid = refused.place"
            ).format(**names, refused=refused)
        )
        remove_rows_without_record(self._connection, self._source)

    def _take_replayed(self) -> None:
        """Take the entries that are replayed out of the quarantine; a record that has a later version stays out."""
        if not self._staged.replayed:
            return
        names: dict[str, sql.Composable] = {
            "run_id": sql.Literal(self._run.run_id),
            "ids": sql.Literal(list(self._staged.replayed)),
            "changes": CHANGES,
            "batch": batch_table(self._record),
            "file_id": sql.Identifier(FILE_ID),
            "line": sql.Identifier(LINE),
            "mirror": sql.Identifier("raw", self._record.mirror),
            "same": same_key(self._record.key, "batch", "mirror"),
        }
        self._connection.execute(
            sql.SQL(
                """
                with replayed as (
                    update audit.quarantine
                    set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = 'replayed'
                    where quarantine_id = any({ids}) and resolved_at is null returning file_id
                )

                insert into {changes} (file_id, rows_quarantined, rows_loaded) select file_id, -1, 1 from replayed
                """
            ).format(**names)
        )
        if self._is_first:
            return
        self._connection.execute(
            sql.SQL(
                """
                with late as (
                    delete from {batch} as batch using {mirror} as mirror
                    where {same} and not mirror._is_deleted
                        and (mirror.{file_id}, mirror.{line}) > (batch.{file_id}, batch.{line})
                    returning batch.{file_id} as file_id, batch.{line} as line
                ),

                resolved as (
                    update audit.quarantine as entry set resolution = 'superseded' from late
                    where entry.quarantine_id = any({ids})
                        and entry.file_id = late.file_id and entry.line_number = late.line
                )

                insert into {changes} (file_id, rows_loaded, rows_superseded) select file_id, -1, 1 from late
                """
            ).format(**names)
        )
        remove_rows_without_record(self._connection, self._source)

    def _close_replayed(self) -> None:
        """A replayed record that was refused again waits under its new entry."""
        self._connection.execute(
            """
            update audit.quarantine as entry set resolution = 'replaced'
            where entry.quarantine_id = any(%s) and exists (
                select from audit.quarantine as again
                where again.file_id = entry.file_id and again.line_number = entry.line_number
                    and again.run_id = %s and again.quarantine_id > entry.quarantine_id
            )
            """,
            [list(self._staged.replayed), self._run.run_id],
        )

    def _supersede_entries(self) -> None:
        """Resolve entries in quarantine of which a later version has come."""
        self._connection.execute(
            sql.SQL(
                """
                with superseded as (
                    update audit.quarantine as waiting
                    set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = 'superseded'
                    where waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                        and exists (
                            select from {batch} as batch
                            where waiting.row_key = array[{key}]::text[] and {is_earlier}
                        )
                    returning file_id
                )

                insert into {changes} (file_id, rows_quarantined, rows_superseded) select file_id, -1, 1 from superseded
                """
            ).format(
                run_id=sql.Literal(self._run.run_id),
                source=sql.Literal(self._source.name),
                entity=sql.Literal(self._record.mirror),
                key=qualified("batch", self._record.key),
                batch=batch_table(self._record),
                # What is read from files now is later than all that waits.
                is_earlier=sql.SQL(
                    "(waiting.file_id, waiting.line_number) < (batch.{}, batch.{})"
                    if self._staged.replayed
                    else "true"
                ).format(sql.Identifier(FILE_ID), sql.Identifier(LINE)),
                changes=CHANGES,
            )
        )

    def _supersede_rows(self) -> None:
        """Count the accepted records that this run's have replaced."""
        is_kept: sql.Composable = sql.SQL("true")
        if self._has_rejected:
            is_kept = sql.SQL("not exists (select from {} as rejected where {})").format(
                REJECTED, same_key(self._record.key, "rejected", "earlier")
            )
        self._connection.execute(
            sql.SQL(
                "insert into {changes} (file_id, rows_loaded, rows_superseded) select {file_id}, -count(*), count(*) "
                "from {earlier} as earlier where not _is_deleted and {is_kept} group by {file_id}"
            ).format(
                changes=CHANGES,
                file_id=sql.Identifier(FILE_ID),
                earlier=sql.Identifier("pg_temp", f"earlier_{self._record.mirror}"),
                is_kept=is_kept,
            )
        )

    def _take_back(self, table: Table, reverted: sql.Composable) -> None:
        """Remove the rows of failing records from a mirror, and bring back those of `reverted` ones as they were."""
        mirror, failing = sql.Identifier("raw", table.mirror), sql.Identifier("pg_temp", "failing_records")
        names = {
            "mirror": mirror,
            "delta": delta_table(table),
            "failing": failing,
            "same": same_key(self._record.key, "mirror", "failing"),
            "same_delta": same_key(self._record.key, "delta", "failing"),
            "reverted": reverted,
        }
        removed = self._connection.execute(
            sql.SQL("delete from {mirror} as mirror using {failing} as failing where {same}").format(**names)
        ).rowcount
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
            columns = listed([*columns_of(self._connection, "raw", table.mirror), "_run_id", "_is_deleted"])
            self._connection.execute(
                sql.SQL(
                    "insert into {mirror} ({columns}) select {columns} from {earlier} as earlier where exists "
                    "(select from {failing} as failing where {same_earlier} and {reverted})"
                ).format(
                    **names,
                    columns=columns,
                    earlier=sql.Identifier("pg_temp", f"earlier_{table.mirror}"),
                    same_earlier=same_key(self._record.key, "earlier", "failing"),
                )
            )
        counts = (
            Counter(dict(operations)) if operations else Counter({"insert": removed if self._is_first else 0})
        )
        self._taken_back.setdefault(f"raw.{table.mirror}", Counter()).update(counts)

    def _in_batch(self) -> sql.Composable:
        """Whether the failing record is one of this run."""
        if self._is_first:
            return sql.SQL("true")
        return sql.SQL("exists (select from {} as record where {})").format(
            KEYS, same_key(self._record.key, "record", "failing")
        )

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

    def _count(
        self,
        file_id: int,
        line_count: int = 0,
        rows_loaded: int = 0,
        rows_quarantined: int = 0,
        rows_superseded: int = 0,
    ) -> None:
        self._connection.execute(
            sql.SQL(
                "insert into {} (file_id, line_count, rows_loaded, rows_quarantined, rows_superseded) "
                "values (%s, %s, %s, %s, %s)"
            ).format(CHANGES),
            [file_id, line_count, rows_loaded, rows_quarantined, rows_superseded],
        )


def apply_changes(connection: psycopg.Connection, run_id: int) -> None:
    """Add what has changed to the counts in audit.file; a constraint there holds that every record is counted once."""
    connection.execute(
        sql.SQL(
            """
            update audit.file as file set {assigned}, run_id = {run_id}
            from (select file_id, {sums} from {changes} group by file_id) as change where file.file_id = change.file_id
            """
        ).format(
            assigned=each("{0} = file.{0} + change.{0}", COUNTS),
            sums=each("sum({0}) as {0}", COUNTS),
            changes=CHANGES,
            run_id=sql.Literal(run_id),
        )
    )


def _rows(connection: psycopg.Connection, table: sql.Composable) -> int:
    (rows,) = connection.execute(sql.SQL("select count(*) from {}").format(table)).fetchone() or (0,)
    return int(rows)
