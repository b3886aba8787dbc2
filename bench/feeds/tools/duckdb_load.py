"""Load order files into PostgreSQL by a DuckDB script: `duckdb_load.py FOLDER URL`.

It reads all files with one schema and casts silently; DuckDB writes CSV into a pipe, which PostgreSQL's COPY reads.
"""

import os
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import psycopg

TABLE = """
    create schema by_duckdb;
    create table by_duckdb.item (
        order_id text, customer_document_number text, customer_name text, customer_birth_day date,
        order_dt timestamptz, status text, total_price numeric, product_id text, cuit text, amount bigint,
        item_price numeric, item_price_default numeric
    )
"""
SCRIPT = """
    copy (
        select
            order_id, customer_document_number, customer_name, customer_birth_day, order_dt, status, total_price,
            unnest(items, recursive := true)
        from read_json('{folder}/*.json', format = 'newline_delimited')
    ) to '{pipe}' (format csv, header false)
"""


def main() -> None:
    """Load."""
    folder, url = sys.argv[1:]
    with TemporaryDirectory() as place, psycopg.connect(url) as connection, duckdb.connect() as engine:
        pipe = Path(place) / "items.csv"
        os.mkfifo(pipe)
        connection.execute(TABLE)
        script = SCRIPT.format(folder=folder, pipe=pipe)
        writer = threading.Thread(target=engine.execute, args=[script])
        writer.start()
        with (
            pipe.open("rb") as content,
            connection.cursor().copy("copy by_duckdb.item from stdin (format csv)") as copy,
        ):
            while block := content.read(1 << 20):
                copy.write(block)
        writer.join()


main()
