"""Load the records of a feed: a record and all of its rows are loaded, or quarantined, together.

The mirrors of a feed have only records that passed every contract; other records are in quarantine as a whole. So each
record of a file is loaded, in quarantine, discarded, or superseded by a later version, and audit.file has the counts.
"""

from collections.abc import Mapping
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import each, listed, qualified, same_key
from warehouse.errors import counted
from warehouse.extract.catalog import mirror_exists
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.staging_tables import batch_table
from warehouse.feeds.stage import snapshot
from warehouse.feeds.staged import StagedFeed
from warehouse.feeds.versions import (
    find_deleted_rows,
    remove_earlier_versions,
    remove_rows_without_record,
)
from warehouse.load.contract import stop_on_failure, verify
from warehouse.load.feed_files import keep_decisions, record_loaded, write_files
from warehouse.load.mirror_ddl import add_key, create_empty_mirror
from warehouse.load.quarantine import broken_rules
from warehouse.load.quarantined_records import QuarantinedRecords
from warehouse.load.record_entries import CHANGES, insert_entries
from warehouse.load.rejected_records import KEYS, REJECTED, RejectedRecords
from warehouse.runs.audit import CheckResult, Load, Run, record_checks
from warehouse.sources.feed import FILE_ID, LINE
from warehouse.sources.source import Source

COUNTS = ("line_count", "rows_loaded", "rows_quarantined", "rows_discarded", "rows_superseded")


class Records:
    """The records of one run of a feed, in the transaction that publishes them."""

    def __init__(self, connection: psycopg.Connection, run: Run, staged: StagedFeed) -> None:
        self._connection, self._run, self._staged = connection, run, staged
        self._source, self._record = staged.source, staged.source.record
        self._is_first = not mirror_exists(connection, self._record)
        self.rejected = RejectedRecords(
            connection, run.run_id, staged.source, staged.snapshot.taken_at, is_first=self._is_first
        )
        self._quarantined = QuarantinedRecords(connection, run.run_id, staged)
        if not self._is_first:
            self._create_missing_lists()
        connection.execute(
            sql.SQL("create temp table file_change (file_id integer, {counts}) on commit drop").format(
                counts=each("{} bigint not null default 0", COUNTS)
            )
        )

    @classmethod
    def held(cls, connection: psycopg.Connection, run: Run, source: Source) -> "Records":
        """Create one for the records in the mirror, without staged ones, of which some may break a rule now."""
        staged = StagedFeed(source, snapshot(source), (), {}, DeleteThreshold())
        records = cls(connection, run, staged)
        connection.execute(
            sql.SQL(
                "create temp table record_key on commit drop as select {key} from {mirror} limit 0"
            ).format(key=listed(source.record.key), mirror=sql.Identifier("raw", source.record.mirror))
        )
        return records

    def accept(self, checks: list[CheckResult]) -> StagedFeed:
        """Check the staged records against their own contract, and keep only the last version of each.

        Raises:
            QualityGateStopped: a rule about all records failed.
        """
        with self._connection.pipeline():
            for file in self._staged.files:
                if file.found.is_read:
                    loaded = file.records - file.unreadable
                    self._count(file.file_id, file.records, loaded, file.unreadable)
        # Without statistics, the planner expects two hundred distinct records, however many there are, and sorts them.
        for table in self._source.tables:
            key = {*table.key, *self._record.key, FILE_ID, LINE}
            staying_session.analyze(self._connection, batch_table(table), sorted(key))
        if self._staged.replayed:
            self._quarantined.resolve_replayed()
            if not self._is_first:
                self._quarantined.supersede_outdated()
        if not self._is_first:
            self._quarantined.remove_known()
        self._quarantined.supersede_earlier()
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

    def finish(self, mirrors: Mapping[str, Load]) -> dict[str, Load]:
        """Write the counts of all files, and quarantine unreadable records.

        Returns the mirrors' loads without rows that were taken back.
        """
        if not self._is_first:
            self._supersede_rows()
        write_files(self._connection, self._run.run_id, self._staged)
        keep_decisions(self._connection, self._run.run_id, self._staged)
        record_loaded(self._connection, self._run.run_id, self._staged, None if self._is_first else KEYS)
        apply_changes(self._connection, self._run.run_id)
        self._quarantined.replace_refused()
        loads = self.rejected.adjusted(mirrors)
        name = f"raw.{self._record.mirror}"
        unreadable = sum(file.unreadable for file in self._staged.files)
        # A record is read, and quarantined, once, however many rows its lists have.
        loads = {table: replace(load, rows_read=0) for table, load in loads.items()}
        read = sum(file.records for file in self._staged.files if file.found.is_read)
        loads[name] = replace(
            loads[name],
            rows_read=read + len(self._staged.replayed),
            rows_quarantined=unreadable + self._judged + self.rejected.late_entries,
        )
        return loads

    def summarize_counts(self) -> str | None:
        """Summarize how the counts of records changed, for those read now and before; None if no count has changed."""
        read = [file.file_id for file in self._staged.files if file.found.is_read]
        rows = self._connection.execute(
            sql.SQL("select file_id = any({}) as is_read, {} from {} group by 1 order by 1 desc").format(
                sql.Literal(read),
                each("sum({0})::bigint as {0}", COUNTS),
                CHANGES,
            )
        ).fetchall()
        words = ("loaded", "in quarantine", "discarded", "superseded")
        parts = []
        for is_read, records, *changes in rows:
            named = [f"{change:+,} {word}" for word, change in zip(words, changes, strict=True) if change]
            of_what = f"{counted(records, 'record')} read" if is_read else "of records that were read before"
            if named:
                parts.append(f"{of_what}: {', '.join(named)}")
        return f"{self._source.name}: {'; '.join(parts)}" if parts else None

    def _create_missing_lists(self) -> None:
        """Create mirrors of lists that were declared after the first load, or dropped: empty, as before this run."""
        for one in self._staged.tables:
            if not mirror_exists(self._connection, one.table):
                create_empty_mirror(self._connection, one.table, one.columns, one.comment)
                add_key(self._connection, one.table)

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
        )
        self._connection.execute(
            sql.SQL(
                "delete from {batch} as batch using {refused} as refused where batch.ctid = refused.place"
            ).format(**names, refused=refused)
        )
        remove_rows_without_record(self._connection, self._source)

    def _supersede_rows(self) -> None:
        """Count records of earlier runs as superseded if this run's accepted records have replaced them."""
        is_kept: sql.Composable = sql.SQL("true")
        if self.rejected.has_any:
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
    """Add CHANGES to the counts in audit.file, where a constraint ensures that every record is counted once."""
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
