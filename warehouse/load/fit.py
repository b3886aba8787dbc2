"""Quarantine rules for values that a column of the star cannot hold, named 'does not fit: <column>'.

Conformed batches accept numbers of any size and texts of any length, so that one absurd value of a source cannot fail a
load. The rules follow from the declared columns, and apply to rows that break no rule of the contract, even if relaxed.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache

from warehouse.model.contracts import RowRule
from warehouse.model.declaration import (
    BEGINNING,
    END_OF_TIME,
    Column,
    DailySnapshot,
    Dimension,
    Fact,
    Target,
)
from warehouse.model.tables import batch_table

UNFIT = "does not fit"
# Two keys of this length fit into one B-tree index entry, which is limited to 2,704 bytes.
LONGEST_KEY_BYTES = 1000


@cache
def unfit_rules(target: Target) -> tuple[RowRule, ...]:
    """Return rules for keys too long for an index, numbers too large, times outside the calendar, and nulls."""
    keys = [*target.natural_key]
    if not isinstance(target, Dimension):
        keys += [reference.natural_key.name for reference in target.refers_to]
    if isinstance(target, Fact):
        keys += target.indexed
    conditions: dict[str, list[str]] = defaultdict(list)
    for name in keys:
        conditions[name].append(f'octet_length("{name}") > {LONGEST_KEY_BYTES}')
    for name, (digits, scale) in _precisions(target).items():
        conditions[name].append(f"""(abs("{name}") >= 1e{digits - scale} and "{name}" <> 'NaN')""")
    for name in _times(target):
        conditions[name].append(f"""("{name}" < '{BEGINNING}' or "{name}" >= '{END_OF_TIME}')""")
    for name in _required(target):
        conditions[name].append(f'"{name}" is null')
    return tuple(
        RowRule(f"{UNFIT}: {name}", name, "fit", " or ".join(broken_if))
        for name, broken_if in conditions.items()
    )


def scales(target: Target) -> Mapping[str, int]:
    """Return the decimal places of the target's numeric columns, to which the values of a batch are rounded."""
    return {name: scale for name, (_, scale) in _precisions(target).items()}


def _times(target: Target) -> list[str]:
    """Return the timestamp columns that refer to a day of the calendar."""
    return [date.time for date in target.dates] if isinstance(target, Fact) else []


def _required(target: Target) -> list[str]:
    """Return the columns of the batch that are not null in the target."""
    names = [*target.natural_key]
    if isinstance(target, Fact):
        names += [
            column.name for column in (target.event, *target.measures, *target.attributes) if column.required
        ]
    elif isinstance(target, DailySnapshot):
        names += [measure.name for measure in target.measures if measure.required]
    batch = {column.name for column in batch_table(target).columns}
    return [name for name in names if name in batch]


def _precisions(target: Target) -> dict[str, tuple[int, int]]:
    """Return precision and scale of the numeric columns that the batch and the target share."""
    columns: tuple[Column, ...]
    if isinstance(target, Dimension):
        columns = target.columns
    elif isinstance(target, Fact):
        columns = (*target.measures, *target.attributes)
    else:
        columns = target.measures
    batch = {column.name for column in batch_table(target).columns}
    matches = {
        column.name: re.fullmatch(r"numeric\((\d+), *(\d+)\)", column.type)
        for column in columns
        if column.name in batch
    }
    return {name: (int(match[1]), int(match[2])) for name, match in matches.items() if match}
