"""Four processes load one lake at once, and one of them is killed: every line is there once, and counted once."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path

from generators import weblogs as generator
from tests.weblog_lake import WeblogLake, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.weblogs.files.claims import Claims

# Says on its output that it is ready, and the first file that it is in the middle of; waits for a word after each.
WORKER = """
import json, sys
from warehouse import weblogs
from warehouse.load import contract
from warehouse.runs import audit
from warehouse.settings import Settings
import soda_core.contracts.contract_verification, soda_postgres

home, lake, url = json.loads(sys.argv[1])
settings = Settings(_env_file=None, home=home, lake=lake, warehouse_url=url)
print("ready", flush=True)
sys.stdin.readline()
said = []

def say(progress):
    if not said:
        said.append(progress.path)
        print(progress.path, flush=True)
        sys.stdin.readline()

with audit.start_run(url, flow="ingest-weblogs") as run:
    loaded = weblogs.load(settings, run, progress=say, batch_bytes=600_000)
print(json.dumps([file.path for file in loaded.files if file.lines]), flush=True)
"""
ROOT = Path(__file__).parents[2]


class Worker:
    """A process that loads a lake."""

    def __init__(self, lake: WeblogLake) -> None:
        where = json.dumps([str(lake.settings.home), lake.settings.lake, lake.settings.warehouse])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        """The next thing that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def loaded(self) -> list[str]:
        """Wait for its end: the files that it has loaded."""
        said = self.process.communicate(timeout=300)[0].splitlines()
        assert self.process.returncode == 0
        return list(json.loads(said[-1]))


def test_four_workers_of_whom_one_is_killed_load_every_line_once(
    tmp_path: Path, database: Callable[[str], str], warehouse_template: str
) -> None:
    made = []
    for name in ("shared", "alone"):
        lake = make_lake(tmp_path / name, database(warehouse_template))
        generator.generate(lake.landing, lines=24_000, days=8, until=date(2026, 11, 20))
        lake.put("copy.log", (lake.landing / "access-2026-11-20.log").read_bytes() + lines(1, 9))
        lake.put("empty.log", b"")
        made.append(lake)
    shared, alone = made
    workers = [Worker(shared) for _ in range(4)]
    assert [worker.hear() for worker in workers] == ["ready"] * 4
    for worker in workers:
        worker.go()
    begun = [worker.hear() for worker in workers]
    assert len(set(begun)) == 4, "each is in the middle of a file of its own"
    victim, *survivors = workers
    victim.process.kill()
    assert victim.process.wait() == -signal.SIGKILL
    for worker in survivors:
        worker.go()
    loaded = [worker.loaded() for worker in survivors]
    assert all(path in paths for path, paths in zip(begun[1:], loaded, strict=True))
    shared.assert_consistent()
    alone.load(batch_bytes=600_000)
    assert shared.rows(EVERY_LINE) == alone.rows(EVERY_LINE)
    assert shared.rows(BY_FILE) == alone.rows(BY_FILE)
    assert shared.rows("select count(*), count(distinct request) from dwh.dim_request") == alone.rows(
        "select count(*), count(*) from dwh.dim_request"
    )
    again = shared.load()
    assert (again.lines, again.unchanged, again.claimed_by_others) == (0, 10, 0)
    assert shared.rows("select status, count(*) from audit.run group by 1 order by 1") == [
        ("crashed", 1),
        ("succeeded", 4),
    ]


def test_loader_waits_for_files_of_another_and_takes_them_over_when_that_dies(
    tmp_path: Path, warehouse_url: str
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    lake.put("access.log.1", lake.put("access.log", lines(1, 100)).read_bytes() + line(101))
    with connect(warehouse_url, autocommit=True) as other:
        held = next(Claims(other, lake.landing, ()).pending())
        assert held.file.path == "access.log"
        lake.put("other.log", lines(200, 209))
        left = lake.load(wait_seconds=0)
        # Nor is its copy loaded, of which nobody could know yet that it is one.
        assert (left.lines, left.claimed_by_others, lake.sizes()) == (10, 2, list(range(200, 210)))
        death = threading.Timer(1, other.close)
        death.start()
        taken = lake.load(wait_seconds=60)
        death.join()
    assert (taken.lines, taken.claimed_by_others) == (101, 0)
    assert sorted(lake.sizes()) == [*range(1, 102), *range(200, 210)]
    lake.assert_consistent()


# By what the lines say, whoever loaded them: keys and file ids are given out in the order of arrival.
EVERY_LINE = """
    select ip_address, request, country, status_code, user_agent, request_timestamp, action, user_name, device,
        traffic_source, referer, response_bytes, count(*)
    from mart.weblog group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 order by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
    """
BY_FILE = """
    select path, status in ('loaded', 'copy'), line_count, rows_loaded + lines_duplicated, rows_quarantined
    from audit.file where path not in ('access-2026-11-20.log', 'copy.log') order by 1
    """
