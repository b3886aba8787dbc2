"""Checks of the tables that a feed declares: one holds the records, each other one the members of a list in them."""

from collections.abc import Mapping
from pathlib import Path

from warehouse.errors import DeclarationError
from warehouse.sources.feed import RECORD_COLUMNS
from warehouse.sources.source import Table


def check_feed_tables(tables: Mapping[str, Table], record: str | None, path: Path) -> None:
    """Check the tables of a source; `record` is the table of a feed's records, None where the source is a database.

    Raises:
        DeclarationError: naming the table and what to write instead.
    """
    for table in tables.values():
        where = f"{path} [tables.{table.name}]"
        if record is None:
            if table.columns or table.items:
                raise DeclarationError(
                    f"{where}: columns and items are for the tables of feeds.",
                    hint="Remove them, as a database says itself which columns a table has; or add [feed].",
                )
            continue
        if not table.columns:
            raise DeclarationError(f"{where} has no columns.", hint='Add columns = { NAME = "text" }.')
        needed = () if table.items else table.key
        if missing := [name for name in needed if name not in table.columns]:
            raise DeclarationError(
                f"{where}: key column '{missing[0]}' is not declared.", hint="Add it to the columns."
            )
        if reserved := sorted({*RECORD_COLUMNS, "_run_id", "_is_deleted"} & table.columns.keys()):
            raise DeclarationError(f"{where}: '{reserved[0]}' is a column of the engine.", hint="Rename it.")
    if record is None:
        return
    records = [table for table in tables.values() if not table.items]
    if [table.name for table in records] != [record]:
        raise DeclarationError(
            f"{path} [feed]: '{record}' must be the only table without items.",
            hint='A record is a row of it; every other table says by items = "…" which list of the record it holds.',
        )
    key = ", ".join(f'"{name}"' for name in records[0].key)
    for table in tables.values():
        if table.items and table.key[:-1] != records[0].key:
            raise DeclarationError(
                f"{path} [tables.{table.name}]: its key is that of the record, and the place in the list.",
                hint=f'key = [{key}, "line_number"]',
            )
