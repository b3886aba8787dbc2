"""Generates access logs in combined format, one file per day, reproducible by seed, with known bad lines."""

import gzip as gz
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import polars as pl

from generators.errors import GeneratorError
from generators.feed_files import check_request, days_until
from generators.weblogs.bad_lines import break_lines
from generators.weblogs.texts import Requests, addresses, requests, user_agents
from generators.weblogs.visits import (
    ADD_TO_CART,
    CHECKOUT,
    LOGIN,
    OTHER,
    STATES,
    Events,
    Population,
    by_time,
    events,
    in_order,
    population,
)

T = TypeVar("T")

_BLOCK_LINES = 100_000
# numpy, polars and file I/O release the interpreter's lock: threads are enough.
_WORKERS, _AHEAD = 2, 2
_WEEKDAYS = (1.1, 1.15, 1.15, 1.1, 1.0, 0.7, 0.6)
_STATUS = pl.Series(["200", "302", "304", "404", "500"])


@dataclass(frozen=True)
class WeblogCounts:
    """What was generated: files, lines, bytes before compression, bad lines by kind, good lines by action."""

    files: tuple[str, ...]
    lines: int
    bytes: int
    bad: Mapping[str, int]
    actions: Mapping[str, int]
    seconds: float


def generate(
    folder: Path,
    *,
    lines: int = 20_000,
    seed: int = 42,
    days: int = 7,
    until: date | None = None,
    gzip: bool = False,
    usernames: Sequence[str] = (),
    product_ids: Sequence[str] = (),
    bad_share: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> WeblogCounts:
    """Write `lines` lines to a file a day, the last for `until` (default: yesterday, UTC).

    The folder <folder>-expected gets the counts of each file. The addresses are those of `generators.geoip`; users and
    products are made up if none are given. `progress` is called with lines written and lines to write.

    Raises:
        GeneratorError: a number is out of range, or a username cannot appear in a log.
    """
    check_request("lines", lines, days, bad_share)
    odd = next((name for name in usernames if not name or set(name) & set(' "[]\\\n')), None)
    if odd is not None:
        raise GeneratorError(
            f"The username {odd!r} cannot appear in an access log.", "Leave out spaces, quotes and brackets."
        )
    started = time.perf_counter()
    made = _Shop(seed, lines, usernames, product_ids)
    dates = list(days_until(until, days))
    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Path, int, int]] = []
    bad: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    done = 0
    for day, count in zip(dates, _spread(lines, dates), strict=True):
        path = folder / f"access-{day}.log{'.gz' if gzip else ''}"
        draft = path.with_name(path.name + ".part")
        day_bad: Counter[str] = Counter()
        day_actions: Counter[str] = Counter()
        size = 0
        with _opened(draft, gzip) as file:
            for block in made.day(day, count, bad_share):
                file.write(block.content)
                size += len(block.content)
                day_bad.update(block.bad)
                day_actions.update(block.actions)
                done += block.lines
                if progress is not None:
                    progress(done, lines)
        draft.replace(path)
        _describe(path, count, day_bad, day_actions)
        written.append((path, count, size))
        bad.update(day_bad)
        actions.update(day_actions)
    return WeblogCounts(
        tuple(path.name for path, *_ in written),
        lines,
        sum(size for *_, size in written),
        dict(sorted(bad.items())),
        dict(sorted(actions.items())),
        time.perf_counter() - started,
    )


class _Shop:
    """Pools of addresses, users, agents and requests that all days draw from."""

    def __init__(self, seed: int, lines: int, usernames: Sequence[str], product_ids: Sequence[str]) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        users = list(usernames) or [f"user{number:05}" for number in range(1, 1001)]
        products = list(product_ids) or [str(number) for number in range(1, 1001)]
        self.addresses = addresses(rng, min(max(lines // 30, 1000), 300_000))
        self.agents = user_agents(min(max(lines // 200, 60), 5000))
        self.users = pl.Series([*users, "-"])
        self.requests: Requests = requests(products, min(max(lines // 500, 100), 20_000))
        self.people: Population = population(rng, len(self.addresses), len(self.agents), len(users))

    def day(self, day: date, count: int, bad_share: float) -> Iterator["_Block"]:
        """Generate a day's lines in order of time; two blocks are generated while one is written."""
        blocks = -(-count // _BLOCK_LINES)
        counts = [count * (block + 1) // blocks - count * block // blocks for block in range(blocks)]
        shares = [(block / blocks, (block + 1) / blocks) for block in range(blocks)]
        seeds = [[self.seed, day.toordinal(), block] for block in range(blocks)]
        times = _times(day)
        with ThreadPoolExecutor(_WORKERS) as pool:
            made = _mapped(
                pool,
                lambda seed, lines, share: events(
                    np.random.default_rng(seed), self.people, self.requests, lines, share
                ),
                zip(seeds, counts, shares, strict=True),
            )
            yield from _mapped(
                pool,
                lambda seed, part: self._block(np.random.default_rng([*seed, 1]), times, part, bad_share),
                zip(seeds, by_time(made, shares), strict=True),
            )

    def _block(self, rng: np.random.Generator, times: pl.Series, made: Events, bad_share: float) -> "_Block":
        made = in_order(made)
        count = len(made.second)
        status = _statuses(rng, made)
        size = pl.Series(rng.integers(180, 90_000, count)).cast(pl.String)
        frame = pl.DataFrame(
            {
                "address": self.addresses.gather(made.address),
                # The last entry of the pool is '-', for visitors who are not logged in.
                "user": self.users.gather(np.where(made.user < 0, len(self.users) - 1, made.user)),
                "time": times.gather(made.second),
                "request": self.requests.texts.gather(made.request),
                "status": _STATUS.gather(status),
                "size": size.scatter(np.flatnonzero(status == 2), "-"),
                "referer": self.requests.referers.gather(made.referer),
                "agent": self.agents.gather(made.agent),
            }
        )
        lines = frame.select(
            pl.concat_str(
                "address", pl.lit(" - "), "user", "time", "request", pl.lit('" '), "status", pl.lit(" "), "size",
                pl.lit(' "'), "referer", pl.lit('" "'), "agent", pl.lit('"\n'),
            )
        ).to_series()  # fmt: skip
        chosen = np.sort(rng.permutation(count)[: round(count * bad_share)])
        bad: Counter[str] = Counter()
        if len(chosen):
            kinds, broken = break_lines(rng, lines.gather(chosen).to_list())
            lines = lines.scatter(chosen, broken)
            bad.update(kinds)
        actions: Counter[str] = Counter()
        good = np.delete(made.state, chosen)
        for state, number in enumerate(np.bincount(good, minlength=len(STATES)).tolist()):
            actions["other" if STATES[state] == "home" else STATES[state]] += number
        return _Block(_content(lines), count, bad, actions)


@dataclass(frozen=True)
class _Block:
    """Lines of a part of a day, with counts by kind and action."""

    content: memoryview
    lines: int
    bad: Counter[str]
    actions: Counter[str]


def _mapped(pool: Executor, make: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Yield the results of `make` in order, computed in the pool a few ahead of the consumer."""
    futures: deque[Future[T]] = deque()
    for each in arguments:
        futures.append(pool.submit(make, *each))
        if len(futures) > _AHEAD:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _statuses(rng: np.random.Generator, made: Events) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw positions in _STATUS: mostly 200, redirects after POST, some not modified, not found or failed."""
    luck = rng.random(len(made.state))
    status = np.zeros(len(made.state), np.int64)
    status[(made.state == CHECKOUT) | (made.state == LOGIN) | (made.state == ADD_TO_CART)] = 1
    status[(made.state == OTHER) & (luck < 0.4)] = 2
    status[luck > 0.985] = 3
    status[luck > 0.998] = 4
    return status


def _times(day: date) -> pl.Series:
    """Return the text of each second of a day as it stands between user and request in a line, ` [time] "`."""
    start = datetime(day.year, day.month, day.day)
    seconds = pl.datetime_range(start, start + timedelta(seconds=86_399), "1s", eager=True)
    return seconds.dt.strftime(' [%d/%b/%Y:%H:%M:%S +0000] "')


def _spread(lines: int, dates: Sequence[date]) -> list[int]:
    """Distribute lines over days: fewer at weekends, in total exactly `lines`."""
    weights = np.cumsum([_WEEKDAYS[day.weekday()] for day in dates])
    edges = np.floor(weights / weights[-1] * lines).astype(int).tolist()
    edges[-1] = lines
    return [end - start for start, end in pairwise([0, *edges])]


def _content(lines: pl.Series) -> memoryview:
    """Return the concatenated lines from Arrow's buffer, without copying them."""
    array = lines.to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    return memoryview(array.buffers()[2])[int(offsets[0]) : int(offsets[-1])]


def _opened(path: Path, gzip: bool) -> IO[bytes]:
    if not gzip:
        return path.open("wb")
    # Without file name and time in the header, the same seed gives the same bytes.
    return gz.GzipFile(filename="", mode="wb", fileobj=path.open("wb"), mtime=0, compresslevel=4)  # type: ignore[return-value]


def _describe(path: Path, lines: int, bad: Counter[str], actions: Counter[str]) -> None:
    description = {
        "file": path.name,
        "lines": lines,
        "bad": dict(sorted(bad.items())),
        "actions": dict(sorted(actions.items())),
    }
    # In another folder than the log: every run reports the files of the landing folder that it does not read.
    expected = path.parent.with_name(f"{path.parent.name}-expected")
    expected.mkdir(exist_ok=True)
    (expected / f"{path.name}.json").write_text(json.dumps(description, indent=2) + "\n")
