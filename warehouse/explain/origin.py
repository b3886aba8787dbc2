"""Explain what a row was made from: mirror rows and rows of the source, the rules that judged it, its quarantine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.errors import WarehouseError
from warehouse.explain.node import Node, format_key
from warehouse.explain.rows import column_types, find_rows
from warehouse.extract.catalog import source_columns
from warehouse.extract.range_verdict import find_verdict
from warehouse.extract.snapshot import check_readable
from warehouse.extract.verification import NOT_COMPARED
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import create_changed_keys
from warehouse.load.conform import conform
from warehouse.load.natural_keys import source_key
from warehouse.load.quarantine import find_failing
from warehouse.load.reads import conditions, mirrors
from warehouse.model.star import TARGETS
from warehouse.sources.joins import Join, paths
from warehouse.sources.source import Entity, Source, Table

# Rows of a joined table that are shown at most.
MOST_JOINED = 10
# Lock timeout: an explanation must not keep a load waiting.
PATIENCE = "2s"


@dataclass(frozen=True)
class Origin:
    """One source in the warehouse, with a connection (`reader`) to the source itself if it can be queried."""

    connection: psycopg.Connection
    source: Source
    reader: psycopg.Connection | None = None

    def of(self, entity: Entity, key: Sequence[str]) -> list[Node]:
        """Explain a row of an entity by its natural key: its mirror row, rows joined to it, rules, quarantine."""
        in_source = source_key(entity, key)
        driving = self.mirrored(entity.table, in_source) if in_source else None
        nodes = []
        if in_source and driving:
            nodes = [driving, *self._joined(entity, in_source), self._judged(entity, in_source)]
        return [*nodes, *self._quarantined(entity, key)]

    def _joined(self, entity: Entity, key: Sequence[str]) -> list[Node]:
        """Explain the mirror rows that are joined to a row of the entity, except joins that apply to every row."""
        types = column_types(self.connection, "raw", entity.table.mirror)
        same = [
            sql.SQL("{} = {}::{}").format(
                sql.Identifier(entity.table.name, name), sql.Literal(value), sql.SQL(types[name])
            )
            for name, value in zip(entity.table.key, key, strict=True)
        ]
        nodes = []
        for name in dict.fromkeys(join.table for join in entity.joins if join.table != entity.table.name):
            table = entity.tables[name]
            joined: dict[tuple[str, ...], None] = {}
            for path in paths(entity.joins, name, entity.table.name):
                if path[0].near:
                    joined |= dict.fromkeys(self._keys_of(entity, table, path, same))
            shown = [node for row in list(joined)[:MOST_JOINED] if (node := self.mirrored(table, row))]
            if len(joined) > MOST_JOINED:
                shown.append(Node(f"raw.{table.mirror}: more than {MOST_JOINED} rows"))
            nodes += shown
        return nodes

    def _keys_of(
        self, entity: Entity, table: Table, path: Sequence[Join], same: Sequence[sql.Composable]
    ) -> list[tuple[str, ...]]:
        query = sql.SQL(
            "select distinct {key} from {table} as {name} cross join {mirrors} where {conditions}"
        )
        rows = self.connection.execute(
            sql.SQL("{} order by 1 limit {}").format(
                query.format(
                    key=sql.SQL(", ").join(
                        sql.SQL("{}::text").format(sql.Identifier(table.name, name)) for name in table.key
                    ),
                    table=sql.Identifier("raw", table.mirror),
                    name=sql.Identifier(table.name),
                    mirrors=sql.SQL(" cross join ").join(mirrors(entity, path)),
                    conditions=sql.SQL(" and ").join([conditions(path), *same]),
                ),
                sql.Literal(MOST_JOINED + 1),
            )
        ).fetchall()
        return [tuple(row) for row in rows]

    def mirrored(self, table: Table, key: Sequence[str]) -> Node | None:
        """Explain a mirror's row, with the source's row as it is now; None if the mirror does not have it."""
        named = dict(zip(table.key, key, strict=True))
        rows = find_rows(self.connection, "raw", table.mirror, named)
        if not rows:
            return None
        (row,) = rows[:1]
        values = {name: value for name, value in row.items() if name not in ("_run_id", "_is_deleted")}
        facts: dict[str, object] = {
            **values,
            "written by": describe_run(self.connection, row["_run_id"]),
            "snapshot": self._snapshot(table, row["_run_id"], key),
        }
        if row["_is_deleted"] == "true":
            facts["state"] = "deleted from the source"
        children = [self._at_source(table, named, values)] if self.reader else []
        origin = f"of the files of {table.source}" if table.columns else f"mirror of {table}"
        return Node(f"raw.{table.mirror} {format_key(named)}: {origin}", facts, children)

    def _snapshot(self, table: Table, run_id: str | None, key: Sequence[str]) -> str:
        """Describe when the row was read, and when source and mirror were compared: by that run, or by key range."""
        verdict_of_range = find_verdict(self.connection, table, key)
        row = self.connection.execute(
            """
            select verification.captured_at, verification.verdict, watermark.snapshot_xmin, present.complete_at
            from audit.verification as verification
            left join audit.watermark as present
                on present.source = verification.source and present.table_name = verification.table_name
            left join audit.watermark as watermark
                on watermark.run_id = verification.run_id and watermark.source = verification.source
                and watermark.table_name = verification.table_name
            where verification.run_id = %s and verification.source = %s and verification.table_name = %s
                and verification.layer = 'mirror'
            order by verification.verification_id limit 1
            """,
            [run_id, table.source, table.name],
        ).fetchone()
        if row is None or row[0] is None:
            return f"not on record, {verdict_of_range}" if verdict_of_range else "not on record"
        taken_at, verdict, xmin, complete_at = row
        compared = verdict_of_range or f"source and mirror {verdict}"
        if verdict == NOT_COMPARED and verdict_of_range is None:
            # The table was only read by its cursor: all of its rows are compared at an interval.
            compared = f"all rows were last compared at {complete_at:%Y-%m-%d %H:%M:%S} UTC"
        summary = f"{taken_at:%Y-%m-%d %H:%M:%S} UTC, {compared}"
        return f"{summary}, transactions before {xmin:,} seen" if xmin is not None else summary

    def _at_source(self, table: Table, key: Mapping[str, str], mirrored: Mapping[str, str | None]) -> Node:
        """Explain the row as the source has it at this moment, with the transaction that wrote it."""
        assert self.reader is not None
        title = f"{table} of {table.source}, now"
        try:
            columns = {column.name: column for column in source_columns(self.reader, table)}
            xid = "xmin::text" if check_readable(self.reader, table) else "'none: it is a view'"
            with self.reader.transaction(), self.reader.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(
                    sql.SQL("select {value} as {xid}, {columns} from {table} where {same}").format(
                        value=sql.SQL(xid),
                        xid=sql.Identifier("<xid>"),
                        columns=sql.SQL(", ").join(
                            sql.SQL("({})::text as {}").format(column.selected, sql.Identifier(name))
                            for name, column in columns.items()
                        ),
                        table=sql.Identifier(*table.at_source),
                        same=sql.SQL(" and ").join(
                            sql.SQL("{} = {}::{}").format(
                                columns[name].selected, sql.Literal(value), sql.SQL(columns[name].type)
                            )
                            for name, value in key.items()
                        ),
                    )
                ).fetchone()
        except (psycopg.Error, WarehouseError) as error:
            return Node(title, {"state": f"cannot be asked: {str(error).strip().splitlines()[0]}"})
        if row is None:
            return Node(title, {"state": "not there"})
        xid = row.pop("<xid>")
        differing = {
            name: f"{mirrored.get(name)} → {value}"
            for name, value in row.items()
            if mirrored.get(name) != value
        }
        state = "it has changed since it was captured" if differing else "as it is mirrored"
        return Node(title, {"transaction (xmin)": xid, "state": state, **differing})

    def _judged(self, entity: Entity, key: Sequence[str]) -> Node:
        """Conform the row again, and explain each row rule's verdict on it."""
        contract = entity.contract()
        rules = contract.row_rules
        (target,) = (target for target in TARGETS if target.entity == entity.name)
        title = f"conform/{entity.name}.sql of {entity.source}"
        try:
            with (
                self.connection.transaction(force_rollback=True),
                self.connection.cursor(row_factory=dict_row) as cursor,
            ):
                cursor.execute(f"set local lock_timeout = '{PATIENCE}'".encode())
                batch = Batch(self.connection, 0, entity, target)
                _conform_row(batch, key)
                find_failing(batch, rules)
                row = cursor.execute(
                    sql.SQL("select {values} from {batch}").format(
                        values=sql.SQL(", ").join(
                            sql.SQL("{0}::text as {0}").format(sql.Identifier(name))
                            for name in column_types(self.connection, "staging", f"conformed_{entity.name}")
                        ),
                        batch=batch.conformed,
                    )
                ).fetchone()
                failing = cursor.execute(
                    "select rules, reason, row_data from pg_temp.failing_rows"
                ).fetchone()
        except psycopg.errors.LockNotAvailable:
            return Node(title, {"state": "a load is running: ask again when it has ended"})
        except WarehouseError as error:
            return Node(title, {"state": str(error)})
        row = row or (failing["row_data"] if failing else None)
        if row is None:
            return Node(title, {"state": "delivers no such row: it is not to be published"})
        broken = failing["rules"] if failing else []
        verdicts = {rule.name: "broken" if rule.name in broken else "kept" for rule in rules}
        verdicts |= {name: f"relaxed: {reason}" for name, reason in contract.relaxed.items()}
        summary = f"checks/{entity.name}.yml: {list(verdicts.values()).count('broken')} of {len(rules)} rules broken"
        judged = [Node(summary, verdicts)]
        if failing and not verdicts.keys() & set(broken):
            judged.append(Node(f"dwh.{target.table} cannot hold it", {"reason": failing["reason"]}))
        return Node(title, row, judged)

    def _quarantined(self, entity: Entity, key: Sequence[str]) -> list[Node]:
        rows = self.connection.execute(
            """
            select quarantine_id, quarantined_at, run_id, rules, resolved_at, resolution, resolved_run_id
            from audit.quarantine where source = %s and entity = %s and row_key = %s order by quarantine_id
            """,
            [entity.source, entity.name, list(key)],
        ).fetchall()
        return [
            Node(
                f"audit.quarantine {number}: {'waits' if resolved_at is None else resolution}",
                {
                    "since": f"{since:%Y-%m-%d %H:%M:%S} UTC",
                    "put there by": describe_run(self.connection, run_id),
                    "rules broken": rules,
                    **(
                        {
                            "until": f"{resolved_at:%Y-%m-%d %H:%M:%S} UTC",
                            "resolved by": describe_run(self.connection, resolved_by),
                        }
                        if resolved_at
                        else {}
                    ),
                },
            )
            for number, since, run_id, rules, resolved_at, resolution, resolved_by in rows
        ]


def _conform_row(batch: Batch, key: Sequence[str]) -> None:
    batch.execute("drop table if exists {changed_keys}")
    create_changed_keys(
        batch,
        "select {source_key}, false as _has_updated_at, false as _is_new, false as _is_outdated "
        "from {mirror} where {same}",
        same=sql.SQL(" and ").join(
            sql.SQL("{}::text = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in zip(batch.entity.table.key, key, strict=True)
        ),
    )
    conform(batch)


def describe_run(connection: psycopg.Connection, run_id: object) -> str:
    """Describe a run: its id, flow, start, user and code."""
    row = connection.execute(
        "select flow, started_at, launched_by, code_version, status from audit.run where run_id = %s",
        [run_id],
    ).fetchone()
    if row is None:
        return f"run {run_id}, of which nothing is on record"
    flow, started_at, user, code, status = row
    description = f"run {run_id} ({flow}, {started_at:%Y-%m-%d %H:%M:%S} UTC, by {user}, code {code}"
    return f"{description})" if status == "succeeded" else f"{description}, {status})"


def describe_batch(connection: psycopg.Connection, batch_id: object) -> dict[str, object]:
    """Describe the batch of `dwh live` that inserted a row; empty if none did."""
    row = connection.execute(
        "select batch_number, run_id, published_at from audit.batch where batch_id = %s", [batch_id]
    ).fetchone()
    if row is None:
        return {}
    number, run_id, published_at = row
    return {
        "inserted by": f"batch {number} of run {run_id}, published at {published_at:%Y-%m-%d %H:%M:%S} UTC"
    }
