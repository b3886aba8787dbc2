"""Export dimensions, facts and marts as Parquet and reports as CSV, all from one snapshot."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import IO, Any, Final

import psycopg
from psycopg import IsolationLevel, sql

from warehouse.db.connections import connect
from warehouse.db.identifiers import listed
from warehouse.db.schema_version import ensure_migrated
from warehouse.export import changed_days
from warehouse.export.changed_days import Reached
from warehouse.export.destination import FORMAT, Destination, destination_of, partition, writable
from warehouse.export.parquet import DAY, Column, Written, columns_of, write_query
from warehouse.export.tables import ExportedTable, definition_of, exported_tables, shown
from warehouse.extract.copy_stream import copy_out
from warehouse.model.mart import Mart, answers
from warehouse.runs.audit import Load, Run

# A spreadsheet evaluates texts that match this pattern as formulas.
_FORMULA: Final = "^[=+@\\t\\r-]"
Days = dict[str, dict[str, Any]]


def export(run: Run, lake: str, log: Callable[[str], None] = lambda _: None) -> tuple[Load, ...]:
    """Write changed days to the folder `export` of the lake. Returns the rows written by table.

    Raises:
        ExportFailed: the lake cannot be written; what was exported before is unchanged.
        SettingsError: it cannot be opened.
    """
    ensure_migrated(run.warehouse_url)
    with writable(lake), connect(run.warehouse_url) as connection:
        until = changed_days.committed_until(connection)
        connection.commit()
        connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
        with connection.transaction():
            return _Export(run, connection, destination_of(lake, run.run_id), until, log).write()


class _Export:
    """One export: collects written files, replaced files and the next manifest, then publishes them together."""

    def __init__(
        self,
        run: Run,
        connection: psycopg.Connection,
        to: Destination,
        until: str,
        log: Callable[[str], None],
    ) -> None:
        self._connection, self._to, self._log = connection, to, log
        self._now = changed_days.reached(connection, until)
        self._warehouse = _identity(run.warehouse_url)
        before = to.manifest()
        self._before: Mapping[str, Any] = before
        self._present = to.paths() if before else set()
        # None means that every day is written.
        self._since: Reached | None = None
        if before.get("warehouse") == self._warehouse:
            since = Reached(
                before["load_id"],
                before["change_id"],
                datetime.fromisoformat(before["exported_at"]),
                before.get("committed_until", before["exported_at"]),
            )
            if changed_days.is_followed(connection, since, self._now):
                self._since = since
        self._written: set[str] = set()
        self._replaced: set[str] = set()
        self._loads: list[Load] = []

    def write(self) -> tuple[Load, ...]:
        """Write tables and reports, and publish them together."""
        tables = {table.name: self._table(table) for table in exported_tables()}
        reports = {mart.name: self._report(mart) for mart in answers()}
        for kind, entries in (("tables", tables), ("reports", reports)):
            for name, entry in self._before.get(kind, {}).items():
                if name not in entries:
                    self._replaced |= {day["path"] for day in entry["days"].values()}
        manifest = {
            "format": FORMAT,
            "warehouse": self._warehouse,
            "run_id": self._to.run_id,
            "load_id": self._now.load_id,
            "change_id": self._now.change_id,
            "exported_at": self._now.read_at.isoformat(),
            "committed_until": self._now.committed_until,
            "tables": tables,
            "reports": reports,
        }
        self._to.publish(manifest, self._written, self._replaced - self._written)
        return tuple(self._loads)

    def _table(self, table: ExportedTable) -> dict[str, Any]:
        """Write a table's changed days, or all its rows. Returns its entry in the manifest."""
        started = time.monotonic()
        before = self._before.get("tables", {}).get(table.name, {})
        source = sql.SQL("select * from {}").format(table.identifier)
        columns = [one for one in columns_of(self._connection, source) if one.name not in table.hidden]
        definition = definition_of(self._connection, table)
        old: Days = before.get("days", {})
        since = self._since if before.get("definition") == definition else None
        if table.divided is None:
            days = new = self._whole(table, columns)
            self._replaced |= {one["path"] for one in old.values()}
        else:
            days, new = self._changed(table, table.divided.event, columns, old, since)
        self._count(table.name, new, started)
        return {
            "relation": table.relation,
            "description": table.description,
            "definition": definition,
            "columns": [
                {
                    "name": column.name,
                    "type": column.type,
                    "description": table.columns.get(column.name, ""),
                    **({"personal": table.personal[column.name]} if column.name in table.personal else {}),
                }
                for column in columns
            ],
            "days": days,
        }

    def _whole(self, table: ExportedTable, columns: Sequence[Column]) -> Days:
        """Write all rows of a table that is not divided by days, under the day of the export."""
        folder = partition("table", table.name, self._today)
        query = sql.SQL("select {} from {}").format(
            listed([column.name for column in columns]), table.identifier
        )
        written = write_query(
            self._connection, query, columns, lambda _: self._open(folder), comments=table.columns
        )
        return {self._today: _entry(self._to.path(folder, "parquet"), written[""])}

    def _changed(
        self,
        table: ExportedTable,
        event_name: str,
        columns: Sequence[Column],
        old: Days,
        since: Reached | None,
    ) -> tuple[Days, Days]:
        """Write the changed days of a table. Returns the entries of all its days, and of those written now."""
        event = next(column for column in columns if column.name == event_name)
        day = changed_days.day_of(event)
        if since is None:
            changed = {*old, *changed_days.all_days(self._connection, table, day)}
        else:
            rows = {name: entry["rows"] for name, entry in old.items()}
            gone = (name for name, entry in old.items() if entry["path"] not in self._present)
            changed = {*changed_days.changed_days(self._connection, table, day, since, rows), *gone}
        new: Days = {}
        for month in changed_days.by_month(self._connection, sorted(changed)):
            query = sql.SQL(
                "select {columns}, {day} as {name} from {table} as dated "
                "where {event} >= {lower} and {event} <= {upper} and {day} = any({days}::date[]) order by {day}"
            ).format(
                columns=listed([column.name for column in columns]),
                day=day,
                name=sql.Identifier(DAY),
                table=table.identifier,
                event=sql.Identifier(event.name),
                lower=sql.Literal(month.lower),
                upper=sql.Literal(month.upper),
                days=sql.Literal(list(month.days)),
            )
            written = write_query(
                self._connection,
                query,
                columns,
                lambda one: self._open(partition("table", table.name, one)),
                divided=True,
                comments=table.columns,
            )
            new |= {
                name: _entry(self._to.path(partition("table", table.name, name), "parquet"), one)
                for name, one in written.items()
            }
        self._replaced |= {entry["path"] for name, entry in old.items() if name in changed}
        days = {name: entry for name, entry in old.items() if name not in changed} | new
        return dict(sorted(days.items())), new

    def _report(self, mart: Mart) -> dict[str, Any]:
        """Write a report as CSV under the day of the export. Files of earlier days stay."""
        started = time.monotonic()
        relation = sql.Identifier("mart", shown(mart))
        columns = columns_of(self._connection, sql.SQL("select * from {}").format(relation))
        copy = sql.SQL("copy (select {} from {}) to stdout (format csv, header)").format(
            sql.SQL(", ").join(map(_cell, columns)), relation
        )
        folder = partition("report", mart.name, self._today)
        with self._open(folder, "csv") as file:
            for rows in copy_out(self._connection, copy):
                file.write(rows)
        counted = self._connection.execute(sql.SQL("select count(*) from {}").format(relation)).fetchone()
        assert counted is not None
        entry = _entry(self._to.path(folder, "csv"), Written(counted[0]))
        old: Days = self._before.get("reports", {}).get(mart.name, {}).get("days", {})
        if self._today in old:
            self._replaced.add(old[self._today]["path"])
        self._count(f"report {mart.name}", {self._today: entry}, started)
        # The answers of earlier days cannot be written again.
        kept = {name: one for name, one in old.items() if one["path"] in self._present}
        return {"title": mart.title, "description": mart.description, "days": {**kept, self._today: entry}}

    @property
    def _today(self) -> str:
        return f"{self._now.read_at:%Y-%m-%d}"

    def _open(self, folder: str, suffix: str = "parquet") -> IO[bytes]:
        path = self._to.path(folder, suffix)
        self._written.add(path)
        return self._to.open(path)

    def _count(self, name: str, new: Days, started: float) -> None:
        rows = sum(entry["rows"] for entry in new.values())
        seconds = round(time.monotonic() - started, 3)
        self._loads.append(Load("export", name, rows_read=rows, seconds=seconds))
        if lost := sum(entry["values_lost"] for entry in new.values()):
            self._log(
                f"{name}: {lost:,} numbers are NULL in Parquet, which has no NaN or infinity among decimals."
            )


def _entry(path: str, written: Written) -> dict[str, Any]:
    return {"path": path, "rows": written.rows, "values_lost": written.lost_values}


def _cell(column: Column) -> sql.Composable:
    """Return SQL for a cell of a report: an apostrophe is put before a text that looks like a formula."""
    name = sql.Identifier(column.name)
    if column.type != "text":
        return name
    return sql.SQL("case when {0} ~ {1} then '''' || {0} else {0} end as {0}").format(
        name, sql.Literal(_FORMULA)
    )


def _identity(url: str) -> dict[str, Any]:
    """Return the ids of the warehouse's cluster and database; the cluster is None if the login may not read it."""
    with connect(url, autocommit=True) as connection:
        cursor = connection.execute(
            "select oid::bigint, datname from pg_database where datname = current_database()"
        )
        oid, name = cursor.fetchone() or (None, None)
        cluster = None
        with suppress(psycopg.errors.InsufficientPrivilege):
            cursor = connection.execute("select system_identifier::text from pg_control_system()")
            (cluster,) = cursor.fetchone() or (None,)
    return {"cluster": cluster, "database_oid": oid, "database": name}
