"""Write the entities into docs/sources.md from the model: `python -m warehouse.sources.documentation FILE`."""

import sys
from pathlib import Path

from warehouse.model.declaration import DailySnapshot, Dimension, Target
from warehouse.model.star import TARGETS
from warehouse.model.tables import delivered_columns

MARK = "<!-- Written by `python -m warehouse.sources.documentation docs/sources.md`; a test compares. -->\n"


def with_entities(page: str) -> str:
    """Return the page with its part about entities replaced by the model's present ones."""
    before, mark, _ = page.partition(MARK)
    assert mark, "the page has no place for them"
    return before + mark + "".join(map(_section, TARGETS))


def _section(target: Target) -> str:
    kind = "Fact"
    if isinstance(target, Dimension):
        kind = "Dimension with history" if target.has_history else "Dimension, overwritten"
    elif isinstance(target, DailySnapshot):
        kind = "Daily snapshot"
    lines = [
        "",
        f"### {target.entity}",
        "",
        f"{target.description} {kind}: `dwh.{target.table}`. Its rules are in "
        f"[`checks/{target.entity}.yml`](../checks/{target.entity}.yml).",
        "",
        "| Column | Type | Meaning |",
        "|---|---|---|",
    ]
    for column in delivered_columns(target):
        name = f"**`{column.name}`**" if column.name in target.natural_key else f"`{column.name}`"
        lines.append(f"| {name} | {column.type} | {column.description} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_entities(path.read_text("utf-8")), "utf-8")
