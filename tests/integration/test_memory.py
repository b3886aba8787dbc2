"""A run's memory follows the largest row, not the number of rows: measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_capture import only
from tests.integration.test_feeds import an_order
from tests.pipeline import Pipeline
from warehouse.db.connections import connect

MB = 2**20
# One run of the engine, in a process that does nothing else; its peak in KiB is what it prints.
RUN = """
import sys
from tests.integration.test_capture import only
from tests.pipeline import Pipeline

pipeline = Pipeline(*sys.argv[1:], source=only("document", cursor=None))
pipeline.capture()
# Not ru_maxrss: a process inherits the peak of the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])
"""


def peak(pipeline: Pipeline) -> int:
    """Bytes of memory that a run needs at most."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, pipeline.shop_url, pipeline.warehouse_url],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


@pytest.mark.parametrize(
    ("rows", "megabytes", "besides"),
    [
        # 115 MB are needed; all rows at once would need 260.
        (80, 2, 200),
        pytest.param(2, 200, 400, marks=pytest.mark.slow),
        # The largest value that a row of PostgreSQL's protocol can have is a little smaller than 1 GB.
        pytest.param(2, 1000, 400, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_memory_follows_the_largest_row(pipeline: Pipeline, rows: int, megabytes: int, besides: int) -> None:
    limit = besides * MB + 3 * megabytes * MB
    pipeline.do(
        "create table document (id int primary key, content text)",
        f"insert into document select n, repeat(md5(n::text), {megabytes * MB // 32}) "
        f"from generate_series(1, {rows}) as n",
    )
    assert peak(pipeline) < limit
    assert pipeline.rows("select count(*), sum(octet_length(content)) from raw.shop_document") == [
        (rows, rows * megabytes * MB)
    ]
    # Changed by a transaction, and without one.
    pipeline.do("update document set content = 'x' || substr(content, 2) where id = 1")
    pipeline.warehouse.execute(
        "update raw.shop_document set content = 'y' || substr(content, 2) where id = 2"
    )
    pipeline.warehouse.execute("update staging.source_checksum set chunks = 1")
    assert peak(pipeline) < limit
    pipeline.source = only("document", cursor=None)
    assert pipeline.rows("select id, left(content, 1) from raw.shop_document where id <= 2 order by id") == [
        (1, "x"),
        (2, "c"),
    ]
    # Found by its checksum, unless a transaction that was open in another database had the row read again anyway.
    assert pipeline.rows("select sum(rows_found_by_checksum)::int from audit.load") in ([(0,)], [(1,)])


@pytest.mark.slow
@pytest.mark.parametrize("is_counted", [True, False])
def test_memory_of_a_run_after_a_small_table_has_grown_by_millions_of_rows(
    pipeline: Pipeline, is_counted: bool
) -> None:
    pipeline.do("create table document (id int primary key, content text)", "insert into document values (0)")
    peak(pipeline)
    pipeline.do("insert into document select n, 'new' from generate_series(1, 3000000) as n")
    if not is_counted:
        pipeline.do("select pg_stat_reset()")
    assert peak(pipeline) < 250 * MB
    assert pipeline.rows("select count(*) from raw.shop_document") == [(3_000_001,)]


# The larger peak of the two processes that read a file: the second one has ended when the run has.
FEED_RUN = """
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tests.integration.test_feeds import FeedPipeline

pipeline = FeedPipeline(sys.argv[1], Path(sys.argv[2]))
pipeline.run()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(max(int(status["VmHWM"].split()[0]), getrusage(RUSAGE_CHILDREN).ru_maxrss))
"""


def feed_peak(warehouse_url: str, lake: Path, name: str, orders: int, padding: int) -> int:
    """Bytes of memory that a run needs at most for a file of so many orders, each with so long a name and two items."""
    path = lake / "landing" / "orders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    order = json.dumps(an_order("P-0", {}, {}, customer_name="x" * padding))
    with path.open("w") as file:
        file.writelines(order.replace("P-0", f"{name}-{number}", 1) + "\n" for number in range(orders))
    done = subprocess.run(
        [sys.executable, "-c", FEED_RUN, warehouse_url, str(lake)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


@pytest.mark.parametrize(
    ("orders", "padding"),
    [
        (3_000, 8_000),
        # Files of 400 MB: few large orders, and many as partners send them.
        pytest.param(40_000, 10_000, marks=pytest.mark.slow),
        pytest.param(1_000_000, 0, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_memory_of_a_feed_does_not_follow_the_size_of_its_files(
    warehouse_url: str, tmp_path: Path, orders: int, padding: int
) -> None:
    small = feed_peak(warehouse_url, tmp_path, "small", 10, padding)
    large = feed_peak(warehouse_url, tmp_path, "large", orders, padding)
    size = (tmp_path / "landing" / "orders" / "large").stat().st_size
    # Two blocks of records on their way.
    assert large < small + 48 * MB, (
        f"{small / MB:.0f} MB, {large / MB:.0f} MB for a file of {size / MB:.0f} MB"
    )
    with connect(warehouse_url) as connection:
        assert connection.execute(
            "select sum(rows_loaded)::int, (select count(*)::int from dwh.fact_order_item) from audit.file"
        ).fetchone() == (orders + 10, 2 * orders + 20)
