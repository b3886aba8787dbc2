"""Files of feeds as generators write them: one a day, complete at once, with what it holds described aside."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True)
class FileCounts:
    """What was generated: files, rows, and by kind how many of them have a defect."""

    files: tuple[str, ...]
    rows: int
    defects: Mapping[str, int]


def days_until(until: date | None, days: int) -> Iterator[date]:
    """So many days in their order, the last of them `until` (default: yesterday, UTC)."""
    last = until or datetime.now(UTC).date() - timedelta(days=1)
    return (last - timedelta(days=back) for back in reversed(range(days)))


def write_file(folder: Path, name: str, content: bytes, description: Mapping[str, object]) -> None:
    """Write a file, seen once it is complete, and describe it in <folder>-expected: what lies in `folder` is read."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{name}.part"
    draft.write_bytes(content)
    draft.replace(folder / name)
    expected = folder.with_name(f"{folder.name}-expected")
    expected.mkdir(exist_ok=True)
    (expected / f"{name}.json").write_text(json.dumps({"file": name, **description}, indent=2) + "\n")
