"""Write generated files of feeds, one a day, and beside their folder the counts that a load of them should find."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from generators.errors import GeneratorError

# Records of a feed's first file, and of each further day.
FIRST, DAILY = 5000, 2000


@dataclass(frozen=True)
class FileCounts:
    """What was generated: files, rows, and the number of rows with a defect by kind."""

    files: tuple[str, ...]
    rows: int
    defects: Mapping[str, int]


def check_request(what: str, number: int, days: int, defects: float) -> None:
    """Check how many lines or records are to be written, for how many days, and the share of broken ones.

    Raises:
        GeneratorError: one of them is out of range.
    """
    if number < 0 or days < 1 or not 0 <= defects <= 1:
        raise GeneratorError(
            f"Cannot write {number} {what} on {days} days with a share of {defects} broken ones.",
            f"Ask for 0 or more {what}, 1 or more days, and a share from 0 to 1.",
        )


def days_until(until: date | None, days: int) -> Iterator[date]:
    """Return `days` days in order, the last of them `until` (default: yesterday, UTC)."""
    last = until or datetime.now(UTC).date() - timedelta(days=1)
    return (last - timedelta(days=back) for back in reversed(range(days)))


def write_file(folder: Path, name: str, content: bytes, description: Mapping[str, object]) -> None:
    """Write a file atomically, and its description to <folder>-expected, since a feed reads all files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{name}.part"
    draft.write_bytes(content)
    draft.replace(folder / name)
    expected = folder.with_name(f"{folder.name}-expected")
    expected.mkdir(exist_ok=True)
    (expected / f"{name}.json").write_text(json.dumps({"file": name, **description}, indent=2) + "\n")
