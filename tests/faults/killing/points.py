"""Every statement and commit that a flow sends to a server is a point at which it can be killed, and every file and
commit that it writes to the archive, an export or the copies of bad records.

Nothing of it is in the product: in the flow's process, psycopg's one way to wait for a server is watched. A point is
named after the function that sent the statement, so that new steps are points by themselves.
"""

import importlib
import os
import signal
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import reduce
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import psycopg

CLIENT, BACKEND, SERVER = VICTIMS = ("client", "backend", "server")
# Not yet sent; sent, while the server works on it or has just done so; answered.
BEFORE, DURING, AFTER = MOMENTS = ("before", "during", "after")
OURS = ("warehouse.", "flows.")
# What writes files, by the module that calls it.
WRITING = (
    ("warehouse.archive.flush", "create_table"),
    ("warehouse.archive.flush", "follow_columns"),
    ("warehouse.archive.flush", "add_files"),
    ("warehouse.archive.flush", "write_files"),
    ("warehouse.archive.batch_files", "write_files"),
    ("warehouse.archive.maintain", "_compact"),
    ("warehouse.archive.maintain", "make_durable"),
    ("deltalake", "DeltaTable.vacuum"),
    ("warehouse.archive.maintain", "_remove_orphans"),
    ("warehouse.export.export", "write_query"),
    ("warehouse.export.destination", "_Folder.publish"),
    ("warehouse.export.versions", "Versions.carry_over"),
    ("warehouse.export.versions", "Versions.show"),
    ("warehouse.feeds.bad_records", "BadRecords.add"),
    ("warehouse.feeds.bad_records", "BadRecords.end_file"),
)


@dataclass(frozen=True)
class Point:
    """A function of ours, what it sends, which time, and when."""

    step: str
    nth: int
    moment: str

    def __str__(self) -> str:
        return f"{self.moment} {self.step} ({self.nth})"


def postmaster(data: Path) -> psutil.Process:
    """The server's first process, whose data folder this is."""
    return psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))


def kill_server(server: psutil.Process) -> None:
    """Kill the whole server at once, as a power cut would."""
    for process in [server, *server.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@dataclass(frozen=True)
class Recorder:
    """Called in a flow's process: says at the flow's end how often it came by each step."""

    def __call__(self, says: Connection) -> Callable[[], None]:
        seen: Counter[str] = Counter()
        _watch(lambda step, nth, moment, connection: seen.update([step] if moment == BEFORE else []))
        return lambda: says.send(("steps", dict(seen)))


@dataclass(frozen=True)
class Strike:
    """Called in a flow's process: kills `victim` when the flow comes to `point`; the server is that of `data`."""

    point: Point
    victim: str
    data: Path

    def __call__(self, says: Connection) -> None:
        struck = threading.Lock()

        def strike(step: str, nth: int, moment: str, connection: psycopg.Connection) -> None:
            if (step, nth, moment) != (self.point.step, self.point.nth, self.point.moment):
                return
            if not struck.acquire(blocking=False):
                return
            backend = connection.info.backend_pid if self.victim == BACKEND else 0
            says.send(("struck", self.victim, backend))
            if self.victim == CLIENT:
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.victim == BACKEND:
                os.kill(backend, signal.SIGKILL)
            else:
                kill_server(postmaster(self.data))

        _watch(strike)


def _watch(see: Callable[[str, int, str, psycopg.Connection], None]) -> None:
    """Let `see` know of each statement before it is sent, when it was sent, and when it is answered; of what writes
    files before, a moment later, and when it has written."""
    wait, seen, lock = psycopg.Connection.wait, Counter[str](), threading.Lock()
    # Of several threads, any will do: what writes files has no connection itself.
    connections: weakref.WeakSet[psycopg.Connection] = weakref.WeakSet()

    def watched(self: psycopg.Connection, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        step = _step(gen)
        if step is None:
            return wait(self, gen, *args, **options)
        with lock:
            seen[step] += 1
            nth = seen[step]
            connections.add(self)
        see(step, nth, BEFORE, self)
        result = wait(self, _seen_when_sent(gen, lambda: see(step, nth, DURING, self)), *args, **options)
        see(step, nth, AFTER, self)
        return result

    psycopg.Connection.wait = watched  # type: ignore[method-assign, assignment]

    def watching(step: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def watched_write(*args: Any, **options: Any) -> Any:
            with lock:
                seen[step] += 1
                nth = seen[step]
                connection = next(one for one in connections if not one.closed)
            see(step, nth, BEFORE, connection)
            soon = threading.Timer(0.003, lambda: see(step, nth, DURING, connection))
            soon.start()
            result = write(*args, **options)
            soon.join()
            see(step, nth, AFTER, connection)
            return result

        return watched_write

    for module_name, name in WRITING:
        *owners, function = name.split(".")
        owner = reduce(getattr, owners, importlib.import_module(module_name))
        setattr(owner, function, watching(f"{module_name}.{name}", getattr(owner, function)))


def _seen_when_sent(gen: Generator[Any, Any, Any], sent: Callable[[], None]) -> Generator[Any, Any, Any]:
    # What a statement waits for first is the server's answer: by then it is on its way.
    try:
        wanted = next(gen)
    except StopIteration as done:
        # Many rows in a pipeline: they are on their way, and nobody waits for the answer here.
        sent()
        return done.value
    sent()
    while True:
        ready = yield wanted
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def _step(gen: Generator[Any, Any, Any]) -> str | None:
    """The function of ours that sends it, and whether it is a commit."""
    frame = sys._getframe(2)
    while not frame.f_globals.get("__name__", "").startswith(OURS):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    name = f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
    ends = any(word in getattr(gen, "__name__", "") for word in ("commit", "exit"))
    return f"{name}: commit" if ends else f"{name}: statement"
