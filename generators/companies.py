"""Generates lists of selling companies as sellers send them: CSV, reproducible by seed, with known defects."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from generators.errors import GeneratorError

FIRST, DAILY = 5000, 2000
HEADER = ("Tax number", "Company name", "Country", "Updated")
COUNTRIES = ("AR", "BR", "CL", "US", "DE", "FR", "PT")
# Rows with these are not loaded.
DEFECTS = ("no_name", "no_country", "no_tax_number")


@dataclass(frozen=True)
class CompanyCounts:
    """What was generated: files, rows, and by kind how many of them have a defect."""

    files: tuple[str, ...]
    rows: int
    defects: Mapping[str, int]


def generate(
    folder: Path,
    *,
    rows: int = FIRST,
    days: int = 1,
    seed: int = 42,
    until: date | None = None,
    defects: float = 0.02,
) -> CompanyCounts:
    """Write a file a day with `rows` companies each, the last for `until` (default: yesterday, UTC).

    Half of a day's companies were listed before. `defects` is the share of rows that are broken in a known way; what
    each file holds is counted in a folder beside it, <folder>-expected.

    Raises:
        GeneratorError: a number is out of range.
    """
    if rows < 0 or days < 1 or not 0 <= defects <= 1:
        raise GeneratorError(
            f"Cannot write {rows} companies on {days} days with a share of {defects} broken ones.",
            "Ask for 0 or more companies, 1 or more days, and a share from 0 to 1.",
        )
    last = until or datetime.now(UTC).date() - timedelta(days=1)
    folder.mkdir(parents=True, exist_ok=True)
    names, counts = [], Counter[str]()
    for day in (last - timedelta(days=back) for back in reversed(range(days))):
        rng = random.Random(f"companies {seed} {day}")
        text, broken = io.StringIO(), Counter[str]()
        writer = csv.writer(text, delimiter=rng.choice(",;"))
        writer.writerow(HEADER)
        numbers = [*range(1, rows // 2 + 1), *(day.toordinal() * 10_000 + n for n in range(rows - rows // 2))]
        for number in numbers:
            row = [
                f"30{number:08}{number % 10}",
                f"Company {number} {day:%j}",
                rng.choice(COUNTRIES),
                f"{day:%d/%m/%Y}",
            ]
            if rng.random() < defects:
                kind = rng.choice(DEFECTS)
                broken[kind] += 1
                row[("no_tax_number", "no_name", "no_country").index(kind)] = ""
            writer.writerow(row)
        file_name = f"companies-{day}.csv"
        draft = folder / f"{file_name}.part"
        draft.write_text(text.getvalue(), "utf-8-sig")
        draft.replace(folder / file_name)
        expected = folder.with_name(f"{folder.name}-expected")
        expected.mkdir(exist_ok=True)
        description = {"file": file_name, "rows": rows, "defects": dict(sorted(broken.items()))}
        (expected / f"{file_name}.json").write_text(json.dumps(description, indent=2) + "\n")
        names.append(file_name)
        counts.update(broken)
    return CompanyCounts(tuple(names), rows * days, dict(sorted(counts.items())))
