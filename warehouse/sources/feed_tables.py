"""Check a feed's declaration: its folders, headers and tables (one for the records, others for lists in records)."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.sources.feed import RECORD_COLUMNS, Feed, plain_header
from warehouse.sources.source import NAME_BYTES, Table

# Folders of the lake that are used for other files than those of feeds.
TAKEN_FOLDERS: Final = ("archive", "export", "landing/weblogs")
# Columns that the engine adds to mirrors or batches, and PostgreSQL's system columns.
RESERVED_COLUMNS: Final = {
    *RECORD_COLUMNS, "_run_id", "_is_deleted", "_operation", "_flags", "_number", "_is_new", "_is_outdated",
    "ctid", "cmin", "cmax", "xmin", "xmax", "tableoid",
}  # fmt: skip

# Fewer than PostgreSQL's 1,600: the engine adds some, and columns that were dropped count, too.
_MOST_COLUMNS: Final = 1500


def overlap(one: str, other: str) -> bool:
    """Return whether two folders are the same, or one contains the other."""
    parts = [PurePosixPath(path).parts for path in (one, other)]
    shorter, longer = sorted(parts, key=len)
    return longer[: len(shorter)] == shorter


def check_feed_tables(tables: Mapping[str, Table], feed: Feed | None, path: Path) -> None:
    """Check a source's tables and its `feed`, which is None for a database.

    Raises:
        DeclarationError: says what is wrong and what to write instead.
    """
    if feed is None:
        _check_database(tables, path)
        return
    _check_folders(feed, path)
    for table in tables.values():
        _check_columns(table, f"{path} [tables.{table.name}]")
    if [table.name for table in tables.values() if not table.items] != [feed.record]:
        raise DeclarationError(
            f"{path} [feed]: '{feed.record}' must be the only table without items.",
            hint='A record is a row of it; every other table says by items = "…" which list of the record it holds.',
        )
    record = tables[feed.record]
    for table in tables.values():
        if table.items:
            _check_list(table, record, tables, f"{path} [tables.{table.name}]")
    _check_format(feed, record, tables, f"{path} [feed]")
    if feed.settle_seconds and feed.needs_done_marker:
        raise DeclarationError(
            f"{path} [feed]: a file is read once it has settled, or once it has a marker: both are declared.",
            hint="Remove settle_seconds or done_marker.",
        )


def _check_database(tables: Mapping[str, Table], path: Path) -> None:
    for table in tables.values():
        if table.columns or table.items:
            raise DeclarationError(
                f"{path} [tables.{table.name}]: columns and items are for the tables of feeds.",
                hint="Remove them, as a database says itself which columns a table has; or add [feed].",
            )


def _check_format(feed: Feed, record: Table, tables: Mapping[str, Table], where: str) -> None:
    if feed.format == "json":
        for name in ("date_formats", "decimal_mark", "header_names"):
            if getattr(feed, name):
                raise DeclarationError(
                    f"{where}: '{name}' is for tables, and format is json.", hint="Remove it."
                )
    elif len(tables) > 1:
        raise DeclarationError(
            f"{where}: rows of a table have no lists, and several tables are declared.",
            hint=f'Leave [tables.{record.name}] alone, or write format = "json".',
        )
    else:
        _check_headers(feed, record, where)


def _check_folders(feed: Feed, path: Path) -> None:
    if overlap(feed.landing, feed.bad_records):
        raise DeclarationError(
            f"{path} [feed]: landing and bad_records overlap: what cannot be read would be read again.",
            hint=f'bad_records = "bad/{path.parent.name}"',
        )
    for name, folder in (("landing", feed.landing), ("bad_records", feed.bad_records)):
        if taken := [other for other in TAKEN_FOLDERS if overlap(folder, other)]:
            raise DeclarationError(
                f"{path} [feed]: {name} '{folder}' overlaps with {taken[0]} of the lake, where other files lie.",
                hint=f'{name} = "{name.partition("_")[0]}/{path.parent.name}"',
            )


def _check_columns(table: Table, where: str) -> None:
    if not table.columns:
        raise DeclarationError(f"{where} has no columns.", hint='Add columns = { NAME = "text" }.')
    needed = () if table.items else table.key
    if missing := [name for name in needed if name not in table.columns]:
        raise DeclarationError(
            f"{where}: key column '{missing[0]}' is not declared.", hint="Add it to the columns."
        )
    if len(table.columns) > _MOST_COLUMNS:
        raise DeclarationError(
            f"{where}: {len(table.columns):,} columns are declared, and PostgreSQL's tables have 1,600 at most.",
            hint="Declare those that the conform SQL reads; other fields are in _rescued_data.",
        )
    if reserved := sorted(RESERVED_COLUMNS & table.columns.keys()):
        raise DeclarationError(f"{where}: '{reserved[0]}' is a column of the engine.", hint="Rename it.")
    for name in table.columns:
        if "\0" in name or len(name.encode()) > NAME_BYTES:
            raise DeclarationError(
                f"{where}: PostgreSQL can have no column '{name}'.",
                hint=f"A name has {NAME_BYTES} bytes at most, and no NUL; other fields are in _rescued_data.",
            )


def _check_list(table: Table, record: Table, tables: Mapping[str, Table], where: str) -> None:
    if table.key[:-1] != record.key:
        key = ", ".join(f'"{name}"' for name in record.key)
        raise DeclarationError(
            f"{where}: its key is that of the record, and the place in the list.",
            hint=f'key = [{key}, "line_number"]',
        )
    if of_key := [name for name in table.key if name in table.columns]:
        raise DeclarationError(
            f"{where}: '{of_key[0]}' is a column of its key, which is the record's and the place in the list.",
            hint="Remove it from the columns, or give the place in the list another name.",
        )
    if table.items in record.columns:
        raise DeclarationError(
            f"{where}: '{table.items}' is a column of {record.name}, too.",
            hint="A list is rows of a table, or a column of type jsonb: declare it once.",
        )
    twice = next(one for one in tables.values() if one.items == table.items)
    if twice is not table:
        raise DeclarationError(
            f"{where}: [tables.{twice.name}] holds the list '{table.items}', too.", hint="Declare it once."
        )


def _check_headers(feed: Feed, record: Table, where: str) -> None:
    owners: dict[str, str] = {}
    for column, name in _headers(feed, record):
        if column not in record.columns:
            raise DeclarationError(
                f"{where}: header_names names '{column}', which is no column of {record.name}.",
                hint=f"Use one of: {', '.join(record.columns)}.",
            )
        if not (plain := plain_header(name)):
            raise DeclarationError(
                f"{where}: '{name}' has no letter or digit, by which headers are compared.",
                hint=f"Name {column} otherwise.",
            )
        if owners.setdefault(plain, column) != column:
            raise DeclarationError(
                f"{where}: the header '{name}' would be {owners[plain]} as well as {column}: case, spaces and signs do "
                "not count.",
                hint="Let each name stand for one column.",
            )


def _headers(feed: Feed, record: Table) -> Iterator[tuple[str, str]]:
    """Yield pairs of a column and a name that it may have in a header."""
    yield from zip(record.columns, record.columns, strict=True)
    for column, names in feed.header_names.items():
        for name in names or (column,):
            yield column, name
