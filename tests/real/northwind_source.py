"""Northwind in a database of its own: somebody else's OLTP schema, filled from the CSV files given."""

import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

CSV_FOLDER = Path(__file__).parents[3] / "shared" / "real" / "northwind"
SCHEMA = Path(__file__).with_name("northwind.sql")


def csv_folder() -> Path:
    """The folder of the CSV files; skips the test where they are missing."""
    if not (CSV_FOLDER / "orders.csv").is_file():
        pytest.skip(f"no Northwind data in {CSV_FOLDER}")
    return CSV_FOLDER


def load_northwind(url: str, csv_folder: Path) -> dict[str, int]:
    """Create Northwind's tables in an empty database, load <table>.csv into each, and count the rows."""
    ddl = SCHEMA.read_text(encoding="utf-8")
    counts = {}
    with psycopg.connect(url) as connection:
        connection.execute(ddl.encode())
        for table in re.findall(r"^create table (\w+)", ddl, re.MULTILINE):
            with (csv_folder / f"{table}.csv").open("rb") as rows, connection.cursor() as cursor:
                columns = rows.readline().decode().strip().split(",")
                copy = sql.SQL("copy {} ({}) from stdin (format csv)").format(
                    sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
                )
                with cursor.copy(copy) as target:
                    target.write(rows.read())
                counts[table] = cursor.rowcount
    return counts
