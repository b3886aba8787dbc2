"""Load order files into PostgreSQL by dlt, nested items in a table of their own: `dlt_load.py FOLDER URL STATE`.

Its fastest setup: parsed by orjson, files for COPY, two workers, no index.
"""

import os
import sys

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "EXTRACT__WORKERS": "2",
    "NORMALIZE__WORKERS": "2",
    "LOAD__WORKERS": "2",
    "DATA_WRITER__FILE_MAX_ITEMS": "50000",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
from dlt.sources.filesystem import filesystem, read_jsonl


def main() -> None:
    """Load, and print the time."""
    folder, url, state = sys.argv[1:]
    pipeline = dlt.pipeline(
        "orders",
        pipelines_dir=state,
        dataset_name="by_dlt",
        destination=dlt.destinations.postgres(url, create_indexes=False),
    )
    files = filesystem(folder, file_glob="*.json") | read_jsonl(chunksize=5000)
    pipeline.run(files.with_name("orders"), write_disposition="append", loader_file_format="csv")


if __name__ == "__main__":
    main()
