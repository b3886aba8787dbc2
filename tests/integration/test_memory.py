"""A run's memory follows the largest row, not the number of rows: measured in a process of its own."""

import subprocess
import sys

import pytest

from tests.integration.test_capture import only
from tests.pipeline import Pipeline

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
    ("rows", "megabytes"),
    [
        (220, 2),
        pytest.param(2, 200, marks=pytest.mark.slow),
        # The largest value that a row of PostgreSQL's protocol can have is a little smaller than 1 GB.
        pytest.param(2, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_memory_follows_the_largest_row(pipeline: Pipeline, rows: int, megabytes: int) -> None:
    limit = 400 * MB + 3 * megabytes * MB
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
