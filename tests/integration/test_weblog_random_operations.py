"""Counts of files, fact and quarantine agree after every operation, in whatever order they come."""

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse.backfill.weblog_days import WeblogDays
from warehouse.errors import UndoRefused
from warehouse.reconcile.reconcile import reconcile_weblog_files
from warehouse.runs import audit
from warehouse.undo.undo import undo
from warehouse.weblogs import reclassify, retain

TODAY = datetime.now(UTC).date()
# Some are older than retention keeps, and some files hold lines of several days.
DAYS = [TODAY - timedelta(days=back) for back in (60, 45, 3, 2)]
KEPT_DAYS = 40


@dataclass
class Operator:
    """Somebody who does with a lake whatever can be done, in random order."""

    lake: WeblogLake
    random: random.Random
    done: list[str] = field(default_factory=list)

    def lines(self) -> bytes:
        """Good lines of up to three days, and bad ones; the last may lack its end."""
        made = [
            line(self.random.randrange(1000), address=self.random.choice((ARGENTINA, BRAZIL))).replace(
                b"20/Nov/2026", f"{day:%d/%b/%Y}".encode()
            )
            for day in self.random.choices(DAYS, k=3)
            for _ in range(self.random.randrange(4))
        ]
        made += [b"rubbish %d\n" % number for number in range(self.random.randrange(3))]
        self.random.shuffle(made)
        content = b"".join(made) + line(self.random.randrange(1000))
        return content[: -self.random.randrange(1, 40)] if self.random.random() < 0.3 else content

    def name(self) -> str:
        return f"{self.random.randrange(3)}.log"

    def put_and_load(self) -> None:
        """A new file, or another one of a name that was there."""
        self.lake.put(self.name(), self.lines())
        self.lake.load()

    def grow_and_load(self) -> None:
        name = self.name()
        if (self.lake.landing / name).exists():
            self.lake.append(name, self.lines())
        self.lake.load()

    def backfill(self) -> None:
        first = self.random.choice([*DAYS, date(2026, 11, 20)])
        with audit.start_run(self.lake.settings.warehouse, flow="backfill") as run:
            WeblogDays(self.lake.settings).load(run, first, ())

    def reload(self) -> None:
        name = self.name()
        if (self.lake.landing / name).exists():
            self.lake.load(restart={name})

    def undo(self) -> None:
        ((last,),) = self.lake.rows("select coalesce(max(run_id), 0) from audit.run")
        run_id = self.random.randint(max(last - 4, 1), max(last, 1))
        with (
            suppress(UndoRefused),
            audit.start_run(self.lake.settings.warehouse, flow="undo") as run,
        ):
            undo(run, run_id, cascade=self.random.random() < 0.5)

    def retention(self) -> None:
        settings = self.lake.settings.model_copy(update={"weblog_retention_days": KEPT_DAYS})
        with audit.start_run(settings.warehouse, flow="remove-old-weblogs") as run:
            retain(settings, run, confirm_deletes=True)

    def reclassify(self) -> None:
        with audit.start_run(self.lake.settings.warehouse, flow="reclassify-weblogs") as run:
            reclassify(self.lake.settings, run)

    def reconcile_repairs(self) -> None:
        self.verdicts(repair=True)

    def verdicts(self, *, repair: bool = False) -> list[str]:
        """What reconcile finds wrong."""
        with audit.start_run(self.lake.settings.warehouse, flow="reconcile") as run:
            found = reconcile_weblog_files(run, repair=repair)
        return [str(verdict) for verdict in found if verdict.rows_differing]

    def work(self, steps: int) -> None:
        """Do so many things; after each, everything agrees."""
        operations: list[Callable[[], None]] = [
            self.put_and_load, self.put_and_load, self.put_and_load, self.grow_and_load, self.backfill, self.backfill,
            self.reload, self.undo, self.retention, self.reclassify, self.reconcile_repairs,
        ]  # fmt: skip
        for _ in range(steps):
            operation = self.random.choice(operations)
            self.done.append(operation.__name__)
            operation()
            self.lake.assert_consistent()
            assert self.verdicts() == [], self


@pytest.fixture
def make(
    tmp_path: Path, database: Callable[[str], str], warehouse_template: str
) -> Callable[[int], Operator]:
    def operator(seed: int) -> Operator:
        lake = make_lake(tmp_path / str(seed), database(warehouse_template))
        return Operator(replace(lake), random.Random(seed))

    return operator


def test_backfill_of_a_replaced_file_s_only_day_keeps_its_quarantined_lines_counted(
    make: Callable[[int], Operator],
) -> None:
    operator = make(0)
    lake = operator.lake
    lake.put("a.log", b"".join(line(n) for n in range(5)) + b"rubbish\n" * 3)
    lake.load()
    lake.put("a.log", b"".join(line(n, user="ana") for n in range(7)) + b"garbage\n")
    lake.load()
    operator_day = date(2026, 11, 20)
    with audit.start_run(lake.settings.warehouse, flow="backfill") as run:
        WeblogDays(lake.settings).load(run, operator_day, ())
    assert lake.files() == [("a.log", "replaced", 8, 5, 3), ("a.log", "loaded", 8, 7, 1)]
    assert len(lake.sizes()) == 7
    assert lake.rows(
        "select file_id, count(*) from audit.quarantine where resolved_at is null group by 1"
    ) == [
        (1, 3),
        (2, 1),
    ]
    assert operator.verdicts() == []
    lake.assert_consistent()


def test_counts_agree_after_every_operation(make: Callable[[int], Operator]) -> None:
    make(1).work(8)


@pytest.mark.slow
def test_counts_agree_after_every_operation_for_long(make: Callable[[int], Operator]) -> None:
    """`DWH_TEST_SECONDS=600 python -m pytest -m slow …` does it for ten minutes."""
    until = time.monotonic() + float(os.environ.get("DWH_TEST_SECONDS", "60"))
    seed = random.randrange(10**6)
    while time.monotonic() < until:
        operator = make(seed)
        operator.work(25)
        seed += 1
