"""Random tables, with keys and cursors of many kinds, under random changes, runs that die, undos and reconciles.

After each run what differs must lie in a key range that was verified before it was committed, and what the source's
clock stamped must have been read; a reconcile must find no damage. `TABLES=100 SEED=x` plays more and others.
"""

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from tests.integration.test_capture import only
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import DifferencesFound, UndoBlocked, UndoRefused
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.limits import ReadLimits
from warehouse.extract.range_verdict import find_verdict
from warehouse.extract.stage import stage
from warehouse.load.publish import publish
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.source import Table
from warehouse.undo.undo import undo

SEED = os.environ.get("SEED", "tables")
TABLES = int(os.environ.get("TABLES", "2"))
RUNS = int(os.environ.get("RUNS", "12"))

Key = tuple[str, ...]

# Columns of a key, an expression of it by n, and its names.
KEYS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "bigint": ("id bigint", "{n} * 7919 % 100003 - 50000", ("id",)),
    "numeric": (
        "id numeric", "case {n} when 1 then 'NaN' when 2 then 'Infinity' else round({n} * 1.37, {n} % 3) end", ("id",)
    ),
    "uuid": ("id uuid", "md5('{n}')::uuid", ("id",)),
    "bytea": ("id bytea", "decode(md5('{n}'), 'hex')", ("id",)),
    "text C": ('id text collate "C"', "chr(60 + {n} * 7 % 900) || md5('{n}')", ("id",)),
    "varchar": ("id varchar(40)", "case when {n} % 2 = 0 then upper(md5('{n}')) else md5('{n}') end", ("id",)),
    "timestamptz": ("id timestamptz", "'2024-01-01'::timestamptz + {n} * 977 % 10007 * interval '1 min'", ("id",)),
    "date": ("id date", "'2024-01-01'::date - {n} * 977 % 10007", ("id",)),
    "double": ("id double precision", "{n} / 3.0", ("id",)),
    "composite": ("a integer, b text collate \"C\"", "{n} % 13, md5('{n}')", ("a", "b")),
    "composite numeric": ("a numeric, b bigint", "({n} % 5) / 2.0, -{n}", ("a", "b")),
}  # fmt: skip
CURSORS = (
    "timestamptz",
    "timestamptz",
    "timestamptz",
    "timestamp",
    "timestamp(0)",
    "timestamptz(0)",
    "date",
    None,
)
SHAPES = ("plain", "plain", "plain", "partitioned", "inherited", "no index")
# What the source's clock stamps inside the transaction.
EXACT = ("now", "clock")


@dataclass
class World:
    """A random table and what happens to it."""

    pipeline: Pipeline
    chance: Random
    number: int
    next_n: int = 1
    open: list[psycopg.Connection] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    # Keys that were there, and since when those are not that are gone.
    seen: set[Key] = field(default_factory=set)
    gone: dict[Key, datetime] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def make(self) -> None:
        """Create the table, with rows."""
        # Rows that an open transaction has written are waited for by nobody.
        self.pipeline.shop.execute("set lock_timeout = '2ms'")
        chance = self.chance
        self.kind = chance.choice(list(KEYS))
        self.cursor = chance.choice(CURSORS)
        self.shape = chance.choice(SHAPES)
        if self.shape == "inherited" and self.kind in ("numeric", "timestamptz", "date", "composite numeric"):
            # Of several rows with a key a source is refused.
            self.shape = "plain"
        columns, self.key_of, self.key = KEYS[self.kind]
        self.name = f"random_{self.number}"
        self.log.append(f"{self.name}: {self.kind}, cursor {self.cursor}, {self.shape}")
        stamp = f", updated_at {self.cursor} default now()" if self.cursor else ""
        keys = ", ".join(self.key)
        body = f"{columns}, n integer, value text, how text{stamp}"
        if self.shape == "partitioned":
            self.do(
                f"create table {self.name} ({body}, primary key ({keys})) partition by hash ({self.key[0]})",
                *(
                    f"create table {self.name}_{part} partition of {self.name} "
                    f"for values with (modulus 3, remainder {part})"
                    for part in range(3)
                ),
            )
        else:
            self.do(f"create table {self.name} ({body}, primary key ({keys}))")
        if self.shape == "inherited":
            self.do(f"create table {self.name}_child (primary key ({keys})) inherits ({self.name})")
        if self.cursor and self.shape != "no index":
            self.do(f"create index on {self.name} (updated_at)")
            if self.shape == "inherited":
                self.do(f"create index on {self.name}_child (updated_at)")
        self.pipeline.source = only(self.name, self.key, "updated_at" if self.cursor else None)
        self.insert(self.pipeline.shop, 120)

    @property
    def table(self) -> Table:
        return self.pipeline.source.tables[0]

    def do(self, *statements: str) -> None:
        for statement in statements:
            self.run(self.pipeline.shop, statement)

    def run(self, connection: psycopg.Connection, statement: str) -> None:
        self.log.append(f"{connection.info.backend_pid}: {statement}")
        with (
            suppress(psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable),
            connection.transaction(),
        ):
            connection.execute(statement.encode())

    def insert(self, connection: psycopg.Connection, rows: int, how: str = "now") -> None:
        numbers = range(self.next_n, self.next_n + rows)
        self.next_n += rows
        target = (
            f"{self.name}_child" if self.shape == "inherited" and self.chance.random() < 0.5 else self.name
        )
        stamp = f", {self.stamp(how)}" if self.cursor else ""
        values = ", ".join(f"({self.key_of.format(n=n)}, {n}, 'first', '{how}'{stamp})" for n in numbers)
        self.run(connection, f"insert into {target} values {values} on conflict do nothing")

    def stamp(self, how: str) -> str:
        return {
            "now": "now()",
            "clock": "clock_timestamp()",
            "null": "null",
            "old": "'2020-01-01'",
            "future": "now() + interval '3 hours'",
            "infinity": "'infinity'",
        }[how]

    def where(self) -> str:
        low = self.chance.randint(0, self.next_n)
        return self.chance.choice([
            f"n between {low} and {low + self.chance.randint(0, 12)}", f"n % 17 = {low % 17}", f"n > {self.next_n - 5}",
        ])  # fmt: skip

    def change(self, connection: psycopg.Connection) -> None:
        chance = self.chance
        how = chance.choice(["now", "now", "clock", "null", "old", "future", "infinity", "unstamped"])
        what = chance.random()
        stamp = f", updated_at = {self.stamp(how)}" if self.cursor and how != "unstamped" else ""
        if what < 0.35:
            self.insert(connection, chance.randint(2, 10), how if how != "unstamped" else "now")
        elif what < 0.7:
            self.run(
                connection,
                f"update {self.name} set value = 'v{chance.random()}', how = '{how}'{stamp} where {self.where()}",
            )
        elif what < 0.85:
            self.run(connection, f"delete from {self.name} where {self.where()}")
        else:
            n = self.next_n
            self.next_n += 1
            keys = self.key_of.format(n=n)
            changed = (
                f"({', '.join(self.key)}) = row({keys})" if len(self.key) > 1 else f"{self.key[0]} = {keys}"
            )
            self.run(
                connection,
                f"update {self.name} set {changed}, how = '{how}'{stamp} where n = {chance.randint(1, n)}",
            )

    def happen(self) -> None:
        """Let something happen, in a transaction of its own or in one that goes on."""
        chance, what = self.chance, self.chance.random()
        if what < 0.35:
            self.change(self.pipeline.shop)
        elif what < 0.5 and len(self.open) < 4:
            connection = connect(self.pipeline.shop_url)
            connection.execute("set lock_timeout = '1ms'")
            if chance.random() < 0.3:
                connection.execute(
                    "set session characteristics as transaction isolation level repeatable read"
                )
            connection.commit()
            self.open.append(connection)
            self.log.append(f"{connection.info.backend_pid}: begin")
            connection.execute("select 1" if chance.random() < 0.5 else "select pg_current_xact_id()")
        elif what < 0.78 and self.open:
            connection = chance.choice(self.open)
            try:
                with connection.transaction():
                    self.change(connection)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.SerializationFailure):
                self.log.append("  not done")
        elif what < 0.9 and self.open:
            connection = self.open.pop(chance.randrange(len(self.open)))
            end = chance.choice(["commit", "commit", "rollback", "prepare"])
            self.log.append(f"{connection.info.backend_pid}: {end}")
            if end == "prepare" and len(self.prepared) < 4:
                name = f"r{self.number}_{chance.random()}"
                connection.execute(f"prepare transaction '{name}'".encode())
                self.prepared.append(name)
            elif end == "rollback":
                connection.rollback()
            else:
                connection.commit()
            connection.close()
        elif what < 0.94 and self.prepared:
            name = self.prepared.pop()
            self.do_outside(f"commit prepared '{name}'")
        elif what < 0.97 and not self.open and not self.prepared:
            rare = chance.choice(
                ["truncate {0}", "delete from {0}", *["vacuum full {0}", "swap", "vacuum {0}"] * 3]
            )
            if rare != "swap":
                self.do_outside(rare.format(self.name))
                self.insert(self.pipeline.shop, 40)
            elif self.shape == "plain":
                self.do(f"create table {self.name}_new (like {self.name} including all)")
                self.do(f"insert into {self.name}_new select * from {self.name} where n % 5 <> 1")
                self.do(
                    f"alter table {self.name} rename to {self.name}_old_{chance.randrange(10**9)}; "
                    f"alter table {self.name}_new rename to {self.name}"
                )

    def do_outside(self, statement: str) -> None:
        self.log.append(statement)
        self.pipeline.shop.execute(statement.encode())

    def rows(
        self, connection: psycopg.Connection, relation: sql.Composable, *values: str, where: str = "true"
    ) -> dict[Key, tuple[Any, ...]]:
        found = connection.execute(
            sql.SQL("select {key}, {values} from {relation} as t where {where}").format(
                key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self.key),
                values=sql.SQL(", ").join(map(sql.SQL, values)),
                relation=relation,
                where=sql.SQL(where),
            )
        ).fetchall()
        size = len(self.key)
        return {row[:size]: row[size:] for row in found}

    @property
    def columns(self) -> str:
        names = [*self.key, "n", "value", "how", *(["updated_at"] if self.cursor else [])]
        return f"row({', '.join(names)})::text"

    def source_rows(self) -> dict[Key, tuple[Any, ...]]:
        return self.rows(
            self.pipeline.shop,
            sql.Identifier(self.name),
            self.columns,
            "how",
            "pg_xact_commit_timestamp(xmin)",
        )

    def note_gone(self) -> None:
        (at,) = self.pipeline.shop.execute("select clock_timestamp()").fetchone() or ()
        now = self.source_rows()
        for key in self.seen - now.keys():
            self.gone.setdefault(key, at)
        for key in now:
            self.gone.pop(key, None)
        self.seen |= now.keys()

    def differing(self) -> dict[Key, tuple[Any, Any]]:
        there = self.source_rows()
        here = self.rows(
            self.pipeline.warehouse,
            sql.Identifier("raw", f"shop_{self.name}"),
            self.columns,
            where="not _is_deleted",
        )
        return {
            key: (there.get(key), here.get(key))
            for key in there.keys() | here.keys()
            if (there.get(key) or (None,))[0] != (here.get(key) or (None,))[0]
        }

    def check(self) -> None:
        """What differs was committed after its range was verified, and the cursor could not show it."""
        reading = self.pipeline.runs[-1].staged.tables[0].reading
        differing = self.differing()
        self.log.append(
            f"  {reading}: {len(differing)} differ; {self.pipeline.runs[-1].staged.tables[0].notes}"
        )
        if reading == "complete":
            assert not differing, (differing, self.log)
        for key, (there, here) in differing.items():
            if reading == "ranges" and there is not None:
                assert there[1] not in EXACT, (key, there, here, self.log)
            committed_at = there[2] if there is not None else self.gone[key]
            verdict = find_verdict(self.pipeline.warehouse, self.table, key)
            if verdict is not None:
                assert verdict.verified_at is None or verdict.verified_at < committed_at, (
                    key,
                    there,
                    here,
                    verdict,
                    self.log,
                )
            else:
                (complete_at,) = (
                    self.pipeline.warehouse.execute(
                        "select complete_at from audit.watermark where table_name = %s", [self.name]
                    ).fetchone()
                    or ()
                )
                assert complete_at < committed_at, (key, there, here, complete_at, self.log)

    def work(self) -> None:
        """A run, or something else that runs do."""
        chance, pipeline = self.chance, self.pipeline
        self.note_gone()
        pipeline.limits = ReadLimits(
            scan_rows=chance.choice([0] * 14 + [120, 100_000]),
            range_rows=chance.choice([4, 6, 10]),
            verify_within=chance.choice([timedelta(hours=24)] * 8 + [timedelta(0)]),
            scan_interval=chance.choice([timedelta(hours=1), timedelta(0)]),
        )
        what = chance.random()
        if what < 0.08 and pipeline.runs:
            self.log.append("reconcile")
            with start_run(pipeline.warehouse_url, flow="reconcile") as run:
                try:
                    reconcile_source(run, pipeline.source, pipeline.shop_url, repair=chance.random() < 0.5)
                except DifferencesFound as error:
                    raise AssertionError((str(error), self.log)) from error
            return
        if what < 0.16:
            publishes = chance.random() < 0.6
            self.log.append(f"a run that dies, publishes: {publishes}")
            with start_run(pipeline.warehouse_url, flow="ingest-shop") as run:
                staged = stage(
                    run,
                    pipeline.source,
                    pipeline.shop_url,
                    threshold=DeleteThreshold(is_confirmed=True),
                    limits=pipeline.limits,
                )
                if publishes:
                    publish(run, staged)
            return
        if what < 0.22 and len(pipeline.runs) > 2:
            last = pipeline.warehouse.execute(
                "select max(run_id) from audit.watermark where table_name = %s", [self.name]
            ).fetchone()
            first = pipeline.warehouse.execute(
                "select min(run_id) from audit.load where table_name = %s", [f"raw.shop_{self.name}"]
            ).fetchone()
            if last and first and last[0] and last[0] > first[0]:
                self.log.append(f"undo {last[0]}")
                # What a later run has changed again is not undone.
                with (
                    suppress(UndoBlocked, UndoRefused),
                    start_run(pipeline.warehouse_url, flow="undo") as run,
                ):
                    undo(run, last[0])
            return
        self.log.append(f"run: {pipeline.limits}")
        pipeline.capture(full_refresh=chance.random() < 0.02)
        self.check()

    def finish(self) -> None:
        """End all transactions, and verify everything: nothing may differ."""
        for connection in self.open:
            connection.commit()
            connection.close()
        for name in self.prepared:
            self.do_outside(f"commit prepared '{name}'")
        self.open, self.prepared = [], []
        self.note_gone()
        self.pipeline.limits = ReadLimits(
            scan_rows=0, range_rows=10, verify_within=timedelta(0), scan_interval=timedelta(0)
        )
        for _ in range(2):
            self.log.append("last run")
            self.pipeline.capture()
        assert self.differing() == {}, (self.differing(), self.log)


def test_random_tables_differ_only_where_nothing_was_verified_since(
    database: Callable[[str], str], shop_template: str, warehouse_template: str
) -> None:
    chance = Random(SEED)
    shop_url, warehouse_url = database(shop_template), database(warehouse_template)
    for number in range(TABLES):
        with closing(Pipeline(shop_url, warehouse_url)) as pipeline:
            world = World(pipeline, chance, number)
            world.make()
            for _ in range(RUNS):
                for _ in range(chance.randint(1, 9)):
                    world.happen()
                world.work()
            world.finish()
