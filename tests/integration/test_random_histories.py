"""Random histories of a shop against an oracle that keeps history by hand: no version lost, doubled or overlapping.

One example is a few runs over many members, each with a history of its own, so that a run pays for dozens of histories.
`HISTORIES=1000` lets hypothesis look for more; the slow test plays ten thousand by mere chance.
"""

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import Connection, sql

from tests.pipeline import Pipeline
from tests.star_questions import offenders
from warehouse.extract.limits import ReadLimits
from warehouse.sources.registry import read_source
from warehouse.sources.source import Table

HISTORIES = int(os.environ.get("HISTORIES", "80"))
RUNS = 4
MEMBERS = 20
EVER, NOW = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_ONE = datetime(2020, 1, 1, tzinfo=UTC)

# A stamp is days after DAY_ONE; None is an empty updated_at, "stale" leaves the old one as a disabled trigger does.
Stamp = int | str | None
stamps = st.one_of(st.integers(0, 12), st.none(), st.sampled_from(["stale", "future"]))
states = st.sampled_from(["Salta", "Jujuy", None])
emails = st.sampled_from(["a@x", "b@x"])


@dataclass(frozen=True)
class Put:
    """The member is there with these values, whether it was before or not."""

    state: str | None
    email: str
    stamp: Stamp


@dataclass(frozen=True)
class Remove:
    """The member is gone."""


@dataclass(frozen=True)
class Order:
    """Somebody orders for the member, there or not, on this day after DAY_ONE."""

    day: int


@dataclass(frozen=True)
class Mark:
    """All that was ordered for the member gets this status: lines that are 'lost' wait, their facts stay."""

    status: str


statuses = st.sampled_from(["lost", "complete"])
steps = st.one_of(
    st.builds(Put, states, emails, stamps), st.builds(Put, states, emails, stamps), st.just(Remove()),
    st.builds(Order, st.integers(0, 14)), st.builds(Mark, statuses),
)  # fmt: skip
histories = st.lists(st.lists(steps, max_size=3), min_size=RUNS, max_size=RUNS)


Step = Put | Remove | Order | Mark
Lives = list[list[list[Step]]]


@dataclass
class Version:
    """A version as the oracle keeps it."""

    state: str | None
    email: str | None
    valid_from: datetime
    valid_to: datetime = NOW
    inferred: bool = False


@dataclass
class Member:
    """What the oracle knows of a member: as the source has it, as the last run saw it, and its versions."""

    values: tuple[str | None, str] | None = None
    stamp: datetime | None = None
    seen: tuple[tuple[str | None, str], datetime | None] | None = None
    versions: list[Version] = field(default_factory=list)
    orders: dict[int, datetime] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    published: dict[int, datetime] = field(default_factory=dict)

    @property
    def open(self) -> Version | None:
        return next((version for version in self.versions if version.valid_to == NOW), None)

    def at(self, moment: datetime) -> Version | None:
        return next((v for v in self.versions if v.valid_from <= moment < v.valid_to), None)

    def captured(self, snapshot: datetime) -> None:
        """Bring the versions up to what the source holds at the snapshot."""
        now = None if self.values is None else (self.values, self.stamp)
        if now is None:
            if self.seen is not None and self.open is not None:
                self.open.valid_to = max(snapshot, self.open.valid_from + MICROSECOND)
        elif now != self.seen:
            self._put(*now, snapshot)
        self.seen = now
        self.published |= {order: moment for order, moment in self.orders.items() if order not in self.lost}
        for moment in sorted(self.published.values()):
            if self.at(moment) is None:
                begin = max((v.valid_to for v in self.versions if v.valid_to <= moment), default=EVER)
                end = min((v.valid_from for v in self.versions if v.valid_from > moment), default=NOW)
                self.versions.append(Version(None, None, begin, end, inferred=True))

    def _put(self, values: tuple[str | None, str], stamp: datetime | None, snapshot: datetime) -> None:
        state, email = values
        known = self.open
        if self.seen is not None and self.seen[1] == stamp:
            stamp = None  # it tells of an earlier change
        if known is not None and known.inferred:
            known.state, known.inferred = state, False
        elif known is None and not self.versions:
            self.versions.append(Version(state, email, EVER))
        elif known is None:
            last = max(version.valid_to for version in self.versions)
            said = stamp is not None and last < stamp <= snapshot
            self.versions.append(Version(state, email, stamp if said and stamp else max(snapshot, last)))
        elif known.state != state:
            said = stamp is not None and known.valid_from < stamp <= snapshot
            start = stamp if said and stamp else max(snapshot, known.valid_from + MICROSECOND)
            known.valid_to = start
            self.versions.append(Version(state, email, start))
        for version in self.versions:
            version.email = email


def live(shop: Pipeline, member: Member, number: int, step: Step, order_id: int) -> None:
    """Let a step happen, in the shop and to the oracle's member."""
    if isinstance(step, Remove):
        member.values = None
        shop.shop.execute("delete from customer where id = %s", [number])
    elif isinstance(step, Order):
        moment = DAY_ONE + timedelta(days=step.day)
        member.orders[order_id] = moment
        shop.insert("sales_order", id=order_id, customer_id=number, ordered_at=moment)
        shop.insert("order_item", sales_order_id=order_id)
    elif isinstance(step, Mark):
        member.lost = set(member.orders) if step.status == "lost" else set()
        shop.shop.execute(
            "update order_item set status = %s where sales_order_id = any(%s)",
            [step.status, list(member.orders)],
        )
    else:
        stamp = member.stamp if step.stamp == "stale" and member.values else _moment(step.stamp)
        member.values, member.stamp = (step.state, step.email), stamp
        shop.shop.execute("delete from customer where id = %s", [number])
        shop.insert("customer", id=number, state=step.state, email=step.email, updated_at=stamp)


def _moment(stamp: Stamp) -> datetime | None:
    if isinstance(stamp, int):
        return DAY_ONE + timedelta(days=stamp)
    return datetime(2090, 1, 1, tzinfo=UTC) if stamp == "future" else None


def check(shop: Pipeline, members: dict[int, Member]) -> None:
    """The dimension holds the oracle's versions and no others, and each order points at that of its moment."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for number, *version in shop.warehouse.execute(
        "select customer_id, state, email, valid_from, valid_to, is_inferred from dwh.dim_customer "
        "where customer_key > 0 order by customer_id, valid_from"
    ).fetchall():
        found[number].append(tuple(version))
    expected = {
        str(number): [
            (v.state, v.email, v.valid_from, v.valid_to, v.inferred)
            for v in sorted(member.versions, key=lambda v: v.valid_from)
        ]
        for number, member in members.items()
        if member.versions
    }
    assert dict(found) == expected
    orders = {
        int(order): (number, begin)
        for order, number, begin in shop.warehouse.execute(
            "select order_id, customer_id, valid_from from dwh.fact_order_item "
            "join dwh.dim_customer using (customer_key)"
        ).fetchall()
    }
    assert orders == {
        order: (str(number), version.valid_from)
        for number, member in members.items()
        for order, moment in member.published.items()
        for version in member.versions
        if version.valid_from <= moment < version.valid_to
    }


@pytest.fixture
def shop(database: Callable[[str], str], shop_template: str, warehouse_template: str) -> Iterator[Pipeline]:
    """A shop that lets anything happen to its customers, captured once."""
    with closing(Pipeline(database(shop_template), database(warehouse_template))) as made:
        made.open_shop()
        made.without_foreign_keys()
        made.do(
            "delete from customer",
            "alter table customer disable trigger all",
        )
        made.capture()
        yield made


@dataclass
class Chronicle:
    """All members that ever lived in a shop."""

    shop: Pipeline
    members: dict[int, Member] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    def live(self, lives: Lives) -> None:
        """Let new members live their histories, a run after each part, and check all members after the last."""
        for _ in self.go_on(lives):
            snapshot = self.shop.capture().staged.snapshot.taken_at
            for member in self.members.values():
                member.captured(snapshot)
        check(self.shop, self.members)

    def go_on(self, lives: Lives) -> Iterator[None]:
        """Let new members live part after part of their histories, each in one transaction."""
        fresh = {next(self.ids): Member() for _ in lives}
        self.members |= fresh
        for run in range(RUNS):
            with self.shop.shop.transaction():
                for (number, member), history in zip(fresh.items(), lives, strict=True):
                    for step in history[run]:
                        live(self.shop, member, number, step, next(self.ids))
            yield


@pytest.mark.each_major
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_histories_are_kept_as_the_oracle_keeps_them(shop: Pipeline, part: int) -> None:
    chronicle = Chronicle(shop)

    @settings(
        max_examples=HISTORIES // MEMBERS // 2,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.lists(histories, min_size=MEMBERS, max_size=MEMBERS))
    def holds(lives: Lives) -> None:
        chronicle.live(lives)

    holds()
    check_invariants(shop)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_random_histories_are_kept_as_the_oracle_keeps_them(shop: Pipeline) -> None:
    chance = Random(os.environ.get("SEED", "histories"))
    chronicle = Chronicle(shop)
    while len(chronicle.members) < 10_000:
        chronicle.live(
            [[[drawn(chance) for _ in range(chance.randint(0, 3))] for _ in range(RUNS)] for _ in range(500)]
        )
    check_invariants(shop)


@pytest.mark.each_major
@pytest.mark.parametrize(
    "count", [100, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_random_histories_in_large_tables_are_late_at_most_by_a_rotation(shop: Pipeline, count: int) -> None:
    """No table is small, and a run verifies one range of each: what it has not come by may differ, and nothing else."""
    chance = Random(os.environ.get("SEED", "histories"))
    chronicle, large = Chronicle(shop), LargeTables(shop)
    shop.limits = ReadLimits(scan_rows=0, range_rows=max(count // 40, 5))
    found = 0
    while len(chronicle.members) < count:
        lives = [
            [[drawn(chance) for _ in range(chance.randint(0, 3))] for _ in range(RUNS)]
            for _ in range(min(count, 500))
        ]
        for _ in chronicle.go_on(lives):
            large.note_commit()
            found += sum(load.rows_found_by_checksum for load in shop.capture().loads.values())
            large.check()
    assert large.differing > 0 and found > 0, "nothing was late: the test shows nothing"
    assert all(ranges >= 8 for ranges, _ in large.rotations().values()), large.rotations()
    # The rotation that ends next began before the last commit; the one after it passes everything.
    shop.limits = replace(shop.limits, verify_within=timedelta(0))
    for _ in range(2):
        began = large.rotations()
        while any(large.rotations()[name][1] == at for name, (_, at) in began.items()):
            shop.capture()
    large.check()
    assert large.differing == 0
    check_invariants(shop)
    assert offenders(shop) == {}


LARGE = [
    table for table in read_source("shop").tables if table.name in ("customer", "sales_order", "order_item")
]


@dataclass
class LargeTables:
    """Which rows of a shop and its mirrors differ, and whether they may."""

    shop: Pipeline
    # When the transaction of an id has committed, and the last one of all.
    commits: dict[str, datetime] = field(default_factory=dict)
    seen: dict[str, set[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(set))
    gone: dict[tuple[str, tuple[int, ...]], datetime] = field(default_factory=dict)
    differing: int = 0

    def rotations(self) -> dict[str, tuple[int, datetime]]:
        """Of each table, how many ranges it has, and when the present rotation has begun."""
        rows = self.shop.warehouse.execute(
            """
            select table_name, (
                select count(*) from audit.key_range where table_name = watermark.table_name
            ), rotation_started_at
            from audit.watermark as watermark where table_name = any(%s)
            """,
            [[table.name for table in LARGE]],
        ).fetchall()
        return {name: (ranges, began) for name, ranges, began in rows}

    def note_commit(self) -> None:
        """Note when the last transaction has committed."""
        (at,) = self.shop.shop.execute("select clock_timestamp()").fetchone() or ()
        for table in LARGE:
            rows = self._rows(table, self.shop.shop, sql.Identifier(*table.at_source), "xmin::text")
            for (xid,) in rows.values():
                self.commits.setdefault(xid, at)
            for key in self.seen[table.name] - rows.keys():
                self.gone.setdefault((table.name, key), at)
            for key in rows:
                self.gone.pop((table.name, key), None)
            self.seen[table.name] |= rows.keys()

    def check(self) -> None:
        """Every row that differs was committed after its range was verified."""
        self.differing = 0
        for table in LARGE:
            source = self._rows(
                table, self.shop.shop, sql.Identifier(*table.at_source), "t::text", "xmin::text"
            )
            columns = self.shop.shop.execute(
                sql.SQL("select * from {} limit 0").format(sql.Identifier(*table.at_source))
            ).description
            mirror = self._rows(
                table,
                self.shop.warehouse,
                sql.Identifier("raw", table.mirror),
                f"row({', '.join(column.name for column in columns or ())})::text",
                where="not _is_deleted",
            )
            ranges = self.shop.warehouse.execute(
                "select low_key::bigint[], verified_at from audit.key_range where table_name = %s order by 1",
                [table.name],
            ).fetchall()
            lows = [tuple(low) for low, _ in ranges]
            for key in source.keys() | mirror.keys():
                there, here = source.get(key), mirror.get(key)
                if there is not None and here is not None and there[0] == here[0]:
                    continue
                self.differing += 1
                committed_at = self.commits[there[1]] if there else self.gone[table.name, key]
                verified_at = ranges[bisect_right(lows, key) - 1][1]
                assert verified_at < committed_at, (table.name, key, there, here)

    def _rows(
        self,
        table: Table,
        connection: Connection,
        relation: sql.Identifier,
        *values: str,
        where: str = "true",
    ) -> dict[tuple[int, ...], tuple[str, ...]]:
        statement = sql.SQL("select {key}, {values} from {relation} as t where {where}").format(
            key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
            values=sql.SQL(", ").join(map(sql.SQL, values)),
            relation=relation,
            where=sql.SQL(where),
        )
        size = len(table.key)
        return {row[:size]: row[size:] for row in connection.execute(statement).fetchall()}


def drawn(chance: Random) -> Step:
    """A step by chance, as `steps` would draw it."""
    kind = chance.random()
    if kind < 0.2:
        return Remove()
    if kind < 0.4:
        return Order(chance.randint(0, 14))
    if kind < 0.5:
        return Mark(chance.choice(["lost", "lost", "complete"]))
    stamp = chance.choice([chance.randint(0, 12), chance.randint(0, 12), None, "stale", "future"])
    return Put(chance.choice(["Salta", "Jujuy", None]), chance.choice(["a@x", "b@x"]), stamp)


def check_invariants(shop: Pipeline) -> None:
    """What must hold for every dimension with history, whatever the oracle thinks."""
    for entity in ("customer", "product", "company"):
        assert shop.rows(
            f"""
            select count(*) from dwh.dim_{entity} as one inner join dwh.dim_{entity} as other
                using ({entity}_id, source_system)
            where one.{entity}_key < other.{entity}_key
                and tstzrange(one.valid_from, one.valid_to) && tstzrange(other.valid_from, other.valid_to)
            union all
            select count(*) from (
                select from dwh.dim_{entity} where is_current group by {entity}_id, source_system having count(*) > 1
            ) as doubled
            union all
            select count(*) from dwh.dim_{entity} where valid_from >= valid_to or run_id is null
            """
        ) == [(0,), (0,), (0,)]
