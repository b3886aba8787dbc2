"""Others read the archive: DuckDB, and an engine that speaks Spark's API, count and sum the same."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import pytest

from tests.archive import load
from tests.pipeline import Pipeline
from warehouse.archive.place import Archive

QUESTION = (
    "select _operation, count(*) as row_count, sum(unit_price) as amount, min(updated_at) as earliest "
    "from {} group by _operation order by _operation"
)
# Run in an environment of its own: pysail is a server, pyspark-client speaks to it.
PROGRAM = """
import json, sys
from pysail.spark import SparkConnectServer
from pyspark.sql.connect.session import SparkSession
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
_, port = server.listening_address
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").create()
spark.conf.set("spark.sql.session.timeZone", "UTC")
spark.read.format("delta").load(sys.argv[1]).createOrReplaceTempView("item")
rows = spark.sql(sys.argv[2]).collect()
print("ANSWER " + json.dumps([[row[0], row[1], str(row[2]), str(row[3])] for row in rows]))
spark.stop()
server.stop()
"""


@pytest.mark.slow
def test_archive_is_read_alike_by_duckdb_and_by_an_engine_with_sparks_api(
    shop: Pipeline, tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "lake" / "archive")
    for number in range(1, 6):
        shop.order(number, f"2024-03-{number:02}", {}, {"unit_price": 12.34})
    load(shop, archive)
    shop.do("delete from order_item where sales_order_id = 1", "update order_item set unit_price = 99.99")
    load(shop, archive)
    folder = archive.url("shop/order_item")
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        try:
            connection.execute("install delta; load delta")
            relation = f"delta_scan('{folder}')"
        except duckdb.Error as error:
            # Extensions come from a server of DuckDB's that a closed network does not reach: the files are Parquet.
            warnings.warn(f"no delta extension of DuckDB: {error}", stacklevel=1)
            paths = archive.open("shop/order_item").file_uris()  # type: ignore[union-attr]
            relation = f"read_parquet({paths!r})"
        rows = connection.execute(QUESTION.format(relation)).fetchall()
    expected = [[name, count, str(amount), str(earliest)[:19]] for name, count, amount, earliest in rows]
    assert [(name, count) for name, count, *_ in expected] == [("delete", 2), ("write", 18)]
    python = environment(tmp_path)
    done = subprocess.run(
        [str(python), "-c", PROGRAM, folder, QUESTION.format("item")],
        # Of Spark there is only its client: nothing lies in this home, but it is looked for.
        capture_output=True, text=True, env={**os.environ, "TZ": "UTC", "SPARK_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    found = [[*row[:3], row[3][:19]] for row in json.loads(answer.removeprefix("ANSWER "))]
    assert found == expected


def environment(folder: Path) -> Path:
    """An environment with pysail and pyspark-client; the test is skipped, aloud, where they cannot be installed."""
    if given := os.environ.get("DWH_TEST_SPARK_PYTHON"):
        return Path(given)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "spark")], check=True)
    python = folder / "spark" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "pysail", "pyspark-client"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(
            f"no engine with Spark's API: pysail and pyspark-client cannot be installed: {done.stderr[-300:]}"
        )
    return python
