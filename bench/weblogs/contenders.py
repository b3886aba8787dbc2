"""The contenders: our load, a bare COPY of its final rows, and other tools."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = ROOT / "bench" / ".venv" / "bin"
_PIECE = 1 << 16


@dataclass(frozen=True)
class Timing:
    """Lines that were loaded, and seconds."""

    lines: int
    seconds: float

    @property
    def lines_per_second(self) -> float:
        """Throughput, by which contenders are compared."""
        return self.lines / self.seconds


@dataclass(frozen=True)
class Leaf:
    """Rows of a partition, in binary COPY format."""

    table: str
    file: Path
    rows: int


def ours(url: str, lake: Path, home: Path) -> dict[str, float]:
    """Run our load in a process of its own, with everything that it does."""
    command = [sys.executable, "-m", "bench.weblogs.ours", url, str(lake), str(home)]
    return dict(json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout))


def final_rows(url: str, folder: Path) -> list[Leaf]:
    """Write the rows of our load to files, one per partition."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    leaves = []
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        names = cursor.execute(
            "select relid::regclass::text from pg_partition_tree('dwh.fact_weblog') where isleaf"
        ).fetchall()
        for (name,) in names:
            file = folder / name
            with (
                file.open("wb") as target,
                cursor.copy(f"copy {name} to stdout (format binary)".encode()) as copy,
            ):
                for piece in copy:
                    target.write(piece)
            leaves.append(Leaf(name, file, cursor.rowcount))
    return leaves


def bare_copy(url: str, leaves: list[Leaf], connections: int = 2) -> Timing:
    """COPY finished rows over several connections directly into the partitions of an empty fact."""
    shares: list[list[Leaf]] = [[] for _ in range(connections)]
    for leaf in sorted(leaves, key=lambda leaf: -leaf.rows):
        min(shares, key=lambda share: sum(one.rows for one in share)).append(leaf)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate dwh.fact_weblog")
        connection.execute("checkpoint")
    threads = [threading.Thread(target=_copy, args=(url, share)) for share in shares]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) from dwh.fact_weblog").fetchone()
    rows = sum(leaf.rows for leaf in leaves)
    if row != (rows,):
        raise RuntimeError(f"the bare COPY has loaded {row}, not {rows} rows")
    return Timing(rows, seconds)


def _copy(url: str, leaves: Iterable[Leaf]) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for leaf in leaves:
            statement = sql.SQL("copy {} from stdin (format binary)").format(sql.SQL(leaf.table))
            with leaf.file.open("rb") as source, cursor.copy(statement) as copy:
                while piece := source.read(_PIECE):
                    copy.write(piece)


def tool(name: str, *arguments: str) -> Timing | None:
    """Run a script of tools/ in bench/.venv; None if it cannot run here."""
    command = [str(TOOLS / "python"), str(HERE / "tools" / f"{name}_load.py"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(f"{name} cannot run here: {done.stderr.strip()[-300:]}\n")
        return None
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return Timing(result["lines"], result["seconds"])


def goaccess(folder: Path, lines: int) -> Timing | None:
    """Run goaccess, which makes a report without rows or SQL; None if it is not installed (Debian: goaccess)."""
    program = shutil.which("goaccess")
    if program is None:
        return None
    logs = sorted(str(path) for path in folder.glob("*.log"))
    report = folder / "goaccess.json"
    command = [program, *logs, "--log-format=COMBINED", "--no-progress", "-o", str(report)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    report.unlink(missing_ok=True)
    return None if done.returncode else Timing(lines, seconds)
