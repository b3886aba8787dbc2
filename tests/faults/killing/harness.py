"""Kill flows, see that the kill has landed, run them again, and compare what they made with an undisturbed run."""

import itertools
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import psycopg

from stack.files import tail
from tests.faults.flow_process import FlowProcess, Prepare
from tests.faults.killing.flows import FILES, FLOWS, Content
from tests.faults.killing.points import (
    BACKEND,
    CLIENT,
    MOMENTS,
    SERVER,
    VICTIMS,
    Point,
    Strike,
    kill_server,
    postmaster,
)
from tests.faults.killing.world import PATIENCE_SECONDS, Place, World

# One kill in so many is not at a point but at a random time.
RANDOM_EVERY = 5
# Of all flows, those that begin again by themselves; of the others it is seen what the kill has left.
RETRY_SHARE = 0.3
ATTEMPTS = 20
# Instead of the content, where it contradicts itself.
WRONG = "contradiction"
ENDED = {"succeeded", "failed", "stopped", "crashed", "undone"}


@dataclass(frozen=True)
class Kill:
    """What is to be killed, in which flow, and where; without a point, at a random time."""

    flow: str
    victim: str
    point: Point | None
    # Of its time, where there is no point.
    chance: float
    # Whether the flow may begin again by itself.
    retries: bool

    def __str__(self) -> str:
        return f"{self.flow}, {self.victim} killed {self.point or f'at {self.chance:.2f} of its time'}"


@dataclass
class Result:
    """What a run of the harness has shown: kills that landed, by flow, victim and when, and what was wrong then."""

    landed: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    points: dict[str, int] = field(default_factory=dict)
    points_struck: set[tuple[str, str, str]] = field(default_factory=set)
    # By flow, how many kills left something to the next run, and how long all of them took.
    left_undone: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    complaints: list[tuple[str, str]] = field(default_factory=list)
    # Set when somebody wants it to end early.
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def kills(self) -> int:
        return self.landed.total()

    def figures(self) -> dict[str, Any]:
        """The result for a JSON file, by flow."""
        return {flow: self._figures(flow) for flow in self.points}

    def _figures(self, flow: str) -> dict[str, Any]:
        landed = {key[1:]: count for key, count in sorted(self.landed.items()) if key[0] == flow}
        return {
            "points": self.points[flow],
            "points_struck": sum(point[0] == flow for point in self.points_struck),
            "kills": {f"{victim}, {when}": count for (victim, when), count in landed.items()},
            "left_to_the_next_run": self.left_undone[flow],
            "seconds_per_kill": round(self.seconds[flow] / max(sum(landed.values()), 1), 1),
            "complaints": [
                f"{kill}: {what}" for kill, what in self.complaints if kill.startswith(f"{flow},")
            ],
        }


def run(
    worlds: Sequence[World],
    kills: int,
    *,
    flows: Iterable[str] = FLOWS,
    seed: int = 1,
    orders: Sequence[Kill] = (),
    sabotage: tuple[Prepare, ...] = (),
    progress: Callable[[str], None] = lambda _: None,
    stopping: threading.Event | None = None,
) -> Result:
    """Let `orders`, or else `kills` kills of `flows` as planned, land in worlds that are made, in all at the same time.

    `sabotage` is called in the process of each flow, before it; `stopping` is set by whoever wants it to end early.
    """
    result = Result(stopping=stopping or threading.Event())
    workers = [_Worker(world, result, progress, sabotage) for world in worlds]
    if not orders:
        steps = {flow: worlds[0].undisturbed(flow).steps for flow in flows}
        result.points = {flow: len(steps[flow]) * len(MOMENTS) for flow in steps}
        orders = list(plan(steps, kills, random.Random(seed)))
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            shares = (orders[number :: len(workers)] for number in range(len(workers)))
            list(pool.map(_Worker.work, workers, shares))
        except BaseException:
            result.stopping.set()
            raise
    return result


def plan(steps: Mapping[str, Mapping[str, int]], kills: int, chance: random.Random) -> Iterator[Kill]:
    """Kills of each victim in each flow in turn: at every point before any comes again, some at random times."""

    def points(flow: str) -> Iterator[Point]:
        while True:
            some = list(itertools.product(steps[flow], MOMENTS))
            chance.shuffle(some)
            for step, moment in some:
                yield Point(step, chance.randint(1, steps[flow][step]), moment)

    next_points = {flow: points(flow) for flow in steps}
    for number in range(kills):
        flow = list(steps)[number % len(steps)]
        # Few kills strike each victim and each flow, more of them each in each.
        victim = VICTIMS[(number % len(steps) + number // len(steps)) % len(VICTIMS)]
        at_random = (number + number // len(steps)) % RANDOM_EVERY == RANDOM_EVERY - 1
        point = None if at_random else next(next_points[flow])
        yield Kill(flow, victim, point, chance.random(), chance.random() < RETRY_SHARE)


class _Worker:
    """Does one kill after another in a world of its own."""

    def __init__(
        self, world: World, result: Result, progress: Callable[[str], None], sabotage: tuple[Prepare, ...]
    ) -> None:
        self._world, self._result, self._progress, self._sabotage = world, result, progress, sabotage
        self._missed = ""

    def work(self, orders: Sequence[Kill]) -> None:
        """Let each kill land once; where that cannot go on, say so at once, with what the server said last."""
        for kill in orders:
            if self._result.stopping.is_set():
                return
            try:
                self._let_land(kill)
            except Exception as error:
                self._complain(kill, f"{error!r}; the server said: {tail(self._world.postgres.log, 0)}")
                self._result.stopping.set()

    def _let_land(self, kill: Kill) -> None:
        # Known before anything is killed.
        self._world.undisturbed(kill.flow)
        started = time.monotonic()
        for _ in range(ATTEMPTS):
            place = self._world.place(kill.flow)
            try:
                landed = self._kill(place, kill)
                if landed:
                    self._judge(place, kill)
                    self._result.seconds[kill.flow] += time.monotonic() - started  # type: ignore[assignment]
                    return
            finally:
                self._world.remove(place)
            # It came by less often, or was quicker than its killer.
            again = None if kill.point is None else replace(kill.point, nth=1)
            kill = replace(kill, point=again, chance=random.random())
        self._complain(kill, f"did not land in {ATTEMPTS} attempts: {self._missed}")

    def _kill(self, place: Place, kill: Kill) -> bool:
        """Start the flow and kill; whether that has landed. The server is up again afterwards."""
        begin = self._world.postgres.log.stat().st_size
        server = postmaster(self._world.postgres.data)
        if kill.point is None:
            process = place.start(kill.flow, *self._sabotage, retries=kill.retries)
            time.sleep(kill.chance * self._world.undisturbed(kill.flow).seconds)
            backend = self._kill_from_outside(process, kill.victim, server)
        else:
            strike = Strike(kill.point, kill.victim, self._world.postgres.data)
            process = place.start(kill.flow, *self._sabotage, strike, retries=kill.retries)
            said = process.hear(PATIENCE_SECONDS)
            backend = said[2] if said and said[0] == "struck" else None
        if backend is None:
            self._missed = f"the flow ended with {process.end()}, {process.said}"
            return False
        if kill.victim == CLIENT:
            landed = process.end() == -signal.SIGKILL
        elif kill.victim == BACKEND:
            landed = self._was_told(begin, rf"\(PID {backend}\) was terminated by signal 9")
        else:
            server.wait(PATIENCE_SECONDS)
            self._world.postgres.start()
            landed = self._was_told(begin, "automatic recovery in progress")
        self._wait_for_server()
        process.end()
        place.wait_for_silence()
        return landed

    def _kill_from_outside(self, process: FlowProcess, victim: str, server: psutil.Process) -> int | None:
        """Kill at once: the backend that was killed, 0 for another victim, None if nothing was there to be killed."""
        if process.is_over():
            return None
        if victim == CLIENT:
            os.kill(process.pid, signal.SIGKILL)
        elif victim == SERVER:
            kill_server(server)
        else:
            return self._kill_a_backend(process)
        return 0

    def _kill_a_backend(self, process: FlowProcess) -> int | None:
        """The first that is there: a flow has none before it has connected."""
        with psycopg.connect(self._world.postgres.url(), autocommit=True) as connection:
            while not process.is_over():
                row = connection.execute(
                    "select pid from pg_stat_activity where application_name like 'dwh %' order by random() limit 1"
                ).fetchone()
                if row is not None:
                    with suppress(ProcessLookupError):
                        os.kill(row[0], signal.SIGKILL)
                        return int(row[0])
        return None

    def _was_told(self, begin: int, said: str) -> bool:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            with self._world.postgres.log.open() as log:
                log.seek(begin)
                if re.search(said, log.read()):
                    return True
            time.sleep(0.01)
        return False

    def _wait_for_server(self) -> None:
        """A server that lost a backend throws the others out and recovers; where it has ended over that, `dwh run`
        or `dwh up` starts it, and so does this."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(self._world.postgres.url()).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > give_up_at:
                    raise TimeoutError("the server does not come back") from error
                self._world.postgres.start()
                time.sleep(0.01)

    def _judge(self, place: Place, kill: Kill) -> None:
        """Run the flow again: all must be as if nothing had happened."""
        reference, result = self._world.undisturbed(kill.flow), self._result
        between = _content(place, kill.flow)
        declared = FLOWS[kill.flow]
        # Of a flow that publishes in parts, counts hold all the same: but for those of web logs that are being rebuilt.
        is_part = declared.is_atomic or (WRONG in between and not declared.gives_back)
        if (
            is_part
            and (part := _differing(between, reference.before))
            and _differing(between, reference.after)
        ):
            self._complain(kill, f"left a part: {between.get(WRONG, part)}")
        left = dict(place.rows("select run_id, status from audit.run"))
        again = place.start(kill.flow, *self._sabotage)
        code = again.end()
        is_refused = declared.refusal and declared.refusal in str(again.said) and between == reference.after
        if code != 0 and not is_refused:
            self._complain(kill, f"the next run failed: {again.said}")
        after = _content(place, kill.flow)
        if differing := sorted(
            name for name in after | reference.after if after.get(name) != reference.after.get(name)
        ):
            self._complain(kill, f"the next run did not make good: {differing}")
        ended = dict(place.rows("select run_id, status from audit.run"))
        wrong = {run_id: status for run_id, status in ended.items() if status not in ENDED}
        wrong |= {
            run_id: ended[run_id]
            for run_id, status in left.items()
            if status == "running" and ended[run_id] != "crashed"
        }
        # Where there is nothing to do any more no run begins, which would mark the dead one.
        if wrong and not is_refused:
            self._complain(kill, f"the audit trail says of dead runs: {wrong}")
        when = "at a point" if kill.point else "at random"
        result.landed[kill.flow, kill.victim, when] += 1
        result.left_undone[kill.flow] += between != reference.after
        if kill.point:
            result.points_struck.add((kill.flow, kill.point.step, kill.point.moment))
        self._progress(f"{result.kills} kills landed; the last: {kill}")

    def _complain(self, kill: Kill, what: str) -> None:
        self._result.complaints.append((str(kill), what))
        self._progress(f"{kill}: {what}")


def _content(place: Place, flow: str) -> Content:
    """Content of a place, also where its counts or its archive are not what its tables are."""
    try:
        return place.content(flow)
    except AssertionError as error:
        return {WRONG: str(error)}


def _differing(one: Content, other: Content) -> list[str]:
    """The tables that differ; of files see `flows.FILES`."""
    return sorted(
        table
        for table in one.keys() | other.keys()
        if one.get(table) != other.get(table) and FILES not in table
    )
