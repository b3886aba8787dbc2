"""Load access logs into one table by pandas and COPY: `pandas_load.py FOLDER URL`; prints {"lines", "seconds"}.

Lines are split by read_csv's C engine, a space as delimiter, 100,000 at a time; malformed ones are skipped.
"""

import io
import json
import sys
import time
from pathlib import Path

import pandas as pd
import psycopg

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
COLUMNS = ["address", "user_name", "requested_at", "request", "status", "size", "referer", "user_agent"]


def main() -> None:
    """Load, and print the time."""
    folder, url = sys.argv[1:]
    started = time.perf_counter()
    lines = 0
    with psycopg.connect(url) as connection:
        connection.execute(
            "create table by_pandas (address text, user_name text, requested_at timestamptz, request text, "
            "status smallint, size bigint, referer text, user_agent text)"
        )
        with connection.cursor() as cursor:
            for path in sorted(Path(folder).glob("*.log")):
                chunks = pd.read_csv(
                    path,
                    sep=" ",
                    names=NAMES,
                    quotechar='"',
                    escapechar="\\",
                    dtype=str,
                    on_bad_lines="skip",
                    chunksize=100_000,
                    encoding_errors="replace",
                )
                for chunk in chunks:
                    lines += _copy(cursor, chunk)
    sys.stdout.write(json.dumps({"lines": lines, "seconds": time.perf_counter() - started}))


def _copy(cursor: "psycopg.Cursor", frame: pd.DataFrame) -> int:
    frame["requested_at"] = pd.to_datetime(
        frame["time"] + frame["zone"], format="[%d/%b/%Y:%H:%M:%S%z]", errors="coerce", utc=True
    )
    frame["size"] = pd.to_numeric(frame["size"].replace("-", "0"), errors="coerce")
    frame["status"] = pd.to_numeric(frame["status"], errors="coerce")
    frame = frame.dropna(subset=["requested_at", "size", "status"])
    frame = frame.astype({"size": "int64", "status": "int16"})
    content = io.StringIO()
    frame.to_csv(content, columns=COLUMNS, header=False, index=False)
    with cursor.copy(f"copy by_pandas ({', '.join(COLUMNS)}) from stdin (format csv)") as copy:
        copy.write(content.getvalue().replace("\0", ""))
    return len(frame)


main()
