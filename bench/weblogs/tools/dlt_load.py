"""Load access logs into one table by dlt: `dlt_load.py FOLDER URL STATE`; prints {"lines", "seconds"}.

Its fastest setup: filesystem source, Arrow tables instead of Python objects (pyarrow's CSV reader, a space as
delimiter), files for COPY, loaded by two threads, no schema inference, no row ids. Malformed lines are skipped.
"""

import json
import os
import sys
import time

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "EXTRACT__WORKERS": "2",
    "NORMALIZE__WORKERS": "2",
    "LOAD__WORKERS": "2",
    "DATA_WRITER__FILE_MAX_ITEMS": "250000",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.sources.filesystem import filesystem
from pyarrow import csv

NAMES = [
    "address",
    "identity",
    "user_name",
    "time",
    "zone",
    "request",
    "status",
    "size",
    "referer",
    "user_agent",
]


@dlt.transformer(name="request", write_disposition="append")
def read_logs(items):  # type: ignore[no-untyped-def]
    """Yield the lines of files as Arrow tables."""
    for item in items:
        with item.open() as file:
            batches = csv.open_csv(
                file,
                read_options=csv.ReadOptions(column_names=NAMES, block_size=16 << 20),
                parse_options=csv.ParseOptions(
                    delimiter=" ", escape_char="\\", invalid_row_handler=lambda row: "skip"
                ),
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string())),
            )
            for batch in batches:
                yield _typed(pa.Table.from_batches([batch]))


def _typed(table: pa.Table) -> pa.Table:
    is_status = pc.match_substring_regex(table["status"], "^[0-9]{3}$")
    is_size = pc.match_substring_regex(table["size"], "^([0-9]{1,12}|-)$")
    table = table.filter(pc.and_(is_status, is_size))
    size = pc.if_else(pc.equal(table["size"], "-"), "0", table["size"])
    columns = {
        "address": table["address"],
        "user_name": table["user_name"],
        "requested_at": pc.strptime(table["time"], "[%d/%b/%Y:%H:%M:%S", "us", error_is_null=True),
        "request": table["request"],
        "status": pc.cast(table["status"], pa.int16()),
        "size": pc.cast(size, pa.int64()),
        "referer": table["referer"],
        "user_agent": table["user_agent"],
    }
    return pa.table(columns)


def main() -> None:
    """Load, and print the time."""
    folder, url, state = sys.argv[1:]
    pipeline = dlt.pipeline(
        "weblogs",
        pipelines_dir=state,
        dataset_name="by_dlt",
        destination=dlt.destinations.postgres(url, create_indexes=False),
    )
    started = time.perf_counter()
    pipeline.run(filesystem(folder, file_glob="*.log") | read_logs, loader_file_format="csv")
    seconds = time.perf_counter() - started
    with pipeline.sql_client() as client:
        lines = client.execute_sql("select count(*) from request")[0][0]
    sys.stdout.write(json.dumps({"lines": lines, "seconds": seconds}))


main()
