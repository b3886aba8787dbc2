"""Writers that let everything happen to a shop at once, and count what they committed."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg

from warehouse.db.connections import connect

QUICK, LONG, PREPARED = 6, 2, 2
# One more truncates, and alters a table to disable its triggers.
COUNT = QUICK + LONG + PREPARED + 1
# Real transactions that the server works off by itself between two looks at the clock.
PER_CALL = 400
PROMOTIONS = 20
# Another writer was in the way: nothing was committed, the next attempt may be luckier.
BAD_LUCK = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


class Writers:
    """Concurrent sessions that write until `commits` of their transactions have changed something.

    They spread them over at least `runs` of the engine, of which `run_begins` tells them.
    """

    def __init__(self, shop_url: str, commits: int, runs: int = 1) -> None:
        self.goal, self._runs, self._runs_begun = commits, runs, 0
        # Few enough that rows are written again and again, enough that most keep the mark of one kind of write.
        self.members = min(max(commits // 50, 500), 20_000)
        self.by_kind: Counter[str] = Counter()
        self._url = shop_url
        self._lock = threading.Lock()
        self._started = self._ended = 0.0
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._truncated_lines = False
        self._threads: list[threading.Thread] = []

    @property
    def commits(self) -> int:
        """Transactions that committed a change."""
        return sum(self.by_kind.values())

    @property
    def are_writing(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    @property
    def elapsed(self) -> float:
        """Seconds that they have been writing."""
        return (self._ended or time.monotonic()) - self._started

    def prepare(self, *, fill: bool = True) -> None:
        """Make the writers' tools in the shop, take its foreign keys away, and fill it."""
        with connect(self._url, autocommit=True) as shop:
            shop.execute((Path(__file__).parent / "writers.sql").read_bytes())
            for table, name in shop.execute(
                "select conrelid::regclass::text, conname from pg_constraint where contype = 'f'"
            ).fetchall():
                shop.execute(f"alter table {table} drop constraint {name}".encode())
            if fill:
                shop.execute("call fault.open(%s)", [self.members])

    def start(self) -> None:
        """Let them all write."""
        self._started = time.monotonic()
        jobs = [
            *[self._write_quickly] * QUICK,
            *[self._hold_long] * LONG,
            *[self._prepare_and_wait] * PREPARED,
        ]
        for number, job in enumerate([*jobs, self._truncate_and_alter]):
            thread = threading.Thread(target=self._until_done, args=(job, number), name=f"writer {number}")
            thread.start()
            self._threads.append(thread)

    def finish(self) -> None:
        """Wait until all have ended; raises what ended one of them early."""
        for thread in self._threads:
            thread.join()
        self._ended = time.monotonic()
        if self._failures:
            raise self._failures[0]

    def run_begins(self) -> None:
        """Let them go on with another part of their work."""
        self._runs_begun += 1

    def stop(self) -> None:
        """Let them end early."""
        self._stopping.set()

    def _until_done(self, job: Callable[[psycopg.Connection, random.Random, int], None], number: int) -> None:
        chance = random.Random(number)
        try:
            with connect(self._url, autocommit=True, application_name=f"writer {number}") as shop:
                while not self._stopping.is_set() and self.commits < self.goal:
                    try:
                        job(shop, chance, number)
                    except BAD_LUCK:
                        shop.execute("rollback")
        except BaseException as error:
            self._failures.append(error)
            self.stop()

    def _count(self, kinds: dict[str, int]) -> None:
        with self._lock:
            self.by_kind.update(kinds)

    def _write_quickly(self, shop: psycopg.Connection, chance: random.Random, number: int) -> None:
        left = min(self.goal, self.goal * self._runs_begun // self._runs) - self.commits
        if left <= 0:
            self._stopping.wait(0.01)
            return
        calls = min(PER_CALL, left // QUICK + 1)
        row = shop.execute("call fault.write(%s, %s)", [calls, self.members]).fetchone()
        assert row is not None
        self._count(row[0])

    def _hold_long(self, shop: psycopg.Connection, chance: random.Random, number: int) -> None:
        """A transaction that outlives runs, and commits stamps from its beginning; one in five is rolled back."""
        shop.execute("begin")
        for _ in range(chance.randint(1, 6)):
            shop.execute("select fault.touch_slowly('long')")
            self._stopping.wait(chance.uniform(0, 0.8))
        committed = chance.random() < 0.8
        shop.execute("commit" if committed else "rollback")
        self._count({"long": int(committed)})

    def _prepare_and_wait(self, shop: psycopg.Connection, chance: random.Random, number: int) -> None:
        """Two-phase commits: several stand prepared at the same time, and are settled in any order."""
        names = [f"writer {number} {n}" for n in range(chance.randint(1, 3))]
        for name in names:
            shop.execute("begin")
            shop.execute("select fault.touch_slowly('prepared')")
            shop.execute(f"prepare transaction '{name}'".encode())
            self._stopping.wait(chance.uniform(0, 0.6))
        chance.shuffle(names)
        for name in names:
            committed = chance.random() < 0.8
            shop.execute(f"{'commit' if committed else 'rollback'} prepared '{name}'".encode())
            self._count({"prepared": int(committed)})

    def _truncate_and_alter(self, shop: psycopg.Connection, chance: random.Random, number: int) -> None:
        """Needs locks that nobody else may hold: gives up soon, so that it never holds the others up for long."""
        shop.execute("set lock_timeout = '100ms'")
        if not self._truncated_lines and self.commits > self.goal / 2:
            shop.execute("truncate public.order_item")
            self._truncated_lines = True
            self._count({"truncate": 1})
        elif chance.random() < 0.5:
            # Nobody ever sees fewer promotions than all.
            together = ["begin", "truncate public.promotion", "select fault.fill_promotions()", "commit"]
            apart = ["truncate public.brand", "select fault.fill_brands()"]
            for statement in chance.choice([together, apart]):
                shop.execute(statement.encode())
            self._count({"truncate": 1})
        else:
            shop.execute("begin")
            shop.execute("alter table public.promotion disable trigger user")
            shop.execute("update public.promotion set name = random()::text, cause = 'trigger disabled'")
            shop.execute("alter table public.promotion enable trigger user")
            shop.execute("commit")
            self._count({"trigger disabled": 1})
        self._stopping.wait(chance.uniform(0, 0.5))
