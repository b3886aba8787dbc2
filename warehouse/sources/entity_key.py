"""Key of an entity: which columns of its table's key make which column of its natural key."""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile

from warehouse.errors import DeclarationError
from warehouse.model.declaration import DailySnapshot, Target
from warehouse.sources.source import Table


def divide_key(target: Target, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Divide the key of a table among the columns of the natural key, in their order.

    What a key has more begins it, as a tenant: it goes to the first column, or to each one of a snapshot, all of which
    are keys of members. Empty if the key is too short.
    """
    natural = target.natural_key
    more = len(columns) - len(natural)
    if more < 0:
        return {}
    shared = tuple(columns[:more])
    return {
        name: (*(shared if place == 0 or isinstance(target, DailySnapshot) else ()), column)
        for place, (name, column) in enumerate(zip(natural, columns[more:], strict=True))
    }


def key_line(key: Mapping[str, Sequence[str]]) -> str:
    """Write the line of an entity's section that declares its key."""
    return f"key = {{ {', '.join(f'{name} = {json.dumps([*one])}' for name, one in key.items())} }}"


def read_key(
    target: Target, declared: Mapping[str, tuple[str, ...]], table: Table, where: str
) -> dict[str, tuple[str, ...]]:
    """Return the columns of the table's key by column of the entity's natural key, from an entity's `key`, if any.

    Raises:
        DeclarationError: the key does not fit the table or the entity; says what to write instead.
    """
    natural, guess = target.natural_key, divide_key(target, table.key)
    if not declared:
        if len(table.key) != len(natural):
            raise DeclarationError(
                f"{where}: the key of {table} is ({', '.join(table.key)}), that of {target.entity} "
                f"({', '.join(natural)}).",
                hint=f"Say which of its columns make which: {key_line(guess)}; the SQL delivers several as "
                "mart.composite_key(…). See docs/sources.md#the-key-of-an-entity."
                if guess
                else f"Name more columns as key of [tables.{table.name}]: they may be more than identify a row.",
            )
        return guess
    if declared.keys() != {*natural}:
        name = sorted(declared.keys() ^ {*natural})[0]
        what = "leaves out" if name in natural else "names"
        raise DeclarationError(
            f"{where}: key {what} '{name}'; the natural key of {target.entity} is ({', '.join(natural)}).",
            hint=f"As {key_line(guess)}." if guess else "Name these, and no others.",
        )
    used = [column for columns in declared.values() for column in columns]
    if unknown := [column for column in used if column not in table.key]:
        raise DeclarationError(
            f"{where}: key names '{unknown[0]}', which is not in the key of {table} ({', '.join(table.key)}).",
            hint=f"Add it to the key of [tables.{table.name}], which may have more columns than identify a row, or "
            "name one of these.",
        )
    if unused := [column for column in table.key if column not in used]:
        raise DeclarationError(
            f"{where}: key leaves out '{unused[0]}' of the key of {table}, so rows that differ in it would be one.",
            hint=f"Add it to a column of the natural key, or remove it from the key of [tables.{table.name}].",
        )
    return {name: declared[name] for name in natural}


def check_key_of_record(key: Mapping[str, tuple[str, ...]], record: Table, where: str) -> None:
    """Check that the first columns of the natural key identify the record of a feed: it is loaded or rejected as a
    whole, and precedence compares these.

    Raises:
        DeclarationError: they do not.
    """
    of_record = takewhile(lambda columns: {*columns} <= {*record.key}, key.values())
    if missing := {*record.key}.difference(*of_record):
        raise DeclarationError(
            f"{where}: key puts '{min(missing)}', which identifies a record, with or after a place in its list.",
            hint="Make the first columns of the natural key of the record's key alone.",
        )
