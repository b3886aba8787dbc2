"""Generates lists of selling companies as sellers send them: CSV, reproducible by seed, with known defects."""

import csv
import io
import random
from collections import Counter
from datetime import date
from pathlib import Path

from generators.feed_files import FIRST, FileCounts, check_request, days_until, write_file

HEADER = ("Tax number", "Company name", "Country", "Updated")
COUNTRIES = ("AR", "BR", "CL", "US", "DE", "FR", "PT")
# Kinds of defects; rows with one are not loaded.
DEFECTS = ("no_name", "no_country", "no_tax_number")


def generate(
    folder: Path,
    *,
    rows: int = FIRST,
    days: int = 1,
    seed: int = 42,
    until: date | None = None,
    defects: float = 0.02,
) -> FileCounts:
    """Write a file a day with `rows` companies each, the last for `until` (default: yesterday, UTC).

    Half of a day's companies were listed before. `defects` is the share of rows that are broken in a known way; the
    folder <folder>-expected gets the counts of each file.

    Raises:
        GeneratorError: a number is out of range.
    """
    check_request("companies", rows, days, defects)
    names, counts = [], Counter[str]()
    for day in days_until(until, days):
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
        description = {"rows": rows, "defects": dict(sorted(broken.items()))}
        write_file(folder, file_name, text.getvalue().encode("utf-8-sig"), description)
        names.append(file_name)
        counts.update(broken)
    return FileCounts(tuple(names), rows * days, dict(sorted(counts.items())))
