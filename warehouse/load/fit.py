"""Values that a column of the star cannot hold: their rows wait in quarantine under the rule 'does not fit'.

Conformed batches take numbers of any size and texts of any length, so that one absurd value of a source cannot fail a
load. The rules follow from the declared columns, and apply where no rule of the contract is broken.
"""

import re
from collections.abc import Mapping
from functools import cache

from warehouse.model.contracts import RowRule
from warehouse.model.declaration import Column, Dimension, Fact, Target
from warehouse.model.tables import batch_table

UNFIT = "does not fit"
# Two such keys fit into one entry of an index, which holds 2,704 bytes.
LONGEST_KEY_BYTES = 1000


@cache
def unfit_rules(target: Target) -> tuple[RowRule, ...]:
    """Rules that the rows of a batch break whose keys are too long for an index or whose numbers are too large."""
    keys = [*target.natural_key]
    if not isinstance(target, Dimension):
        keys += [reference.natural_key.name for reference in target.refers_to if reference.through is None]
    conditions = {name: f'octet_length("{name}") > {LONGEST_KEY_BYTES}' for name in keys}
    for name, (digits, scale) in _precisions(target).items():
        conditions[name] = f"""abs("{name}") >= 1e{digits - scale} and "{name}" <> 'NaN'"""
    return tuple(
        RowRule(f"{UNFIT}: {name}", name, "fit", condition) for name, condition in conditions.items()
    )


def scales(target: Target) -> Mapping[str, int]:
    """Decimal places of the target's numeric columns, to which a batch's values are rounded when it is filled."""
    return {name: scale for name, (_, scale) in _precisions(target).items()}


def _precisions(target: Target) -> dict[str, tuple[int, int]]:
    """Digits and decimal places of the numeric columns that the batch and the target share."""
    columns: tuple[Column, ...]
    if isinstance(target, Dimension):
        columns = target.columns
    elif isinstance(target, Fact):
        columns = (*target.measures, *target.attributes)
    else:
        columns = target.measures
    batch = {column.name for column in batch_table(target).columns}
    found = {
        column.name: re.fullmatch(r"numeric\((\d+), *(\d+)\)", column.type)
        for column in columns
        if column.name in batch
    }
    return {name: (int(match[1]), int(match[2])) for name, match in found.items() if match}
