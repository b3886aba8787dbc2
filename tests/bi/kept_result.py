"""The last result of each program, kept in the repository."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def keep(name: str, **facts: Any) -> None:
    """Write what a program was asked, and what it answered."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"tested_at": f"{datetime.now(UTC):%Y-%m-%d}", **facts}, indent=2)
    (FOLDER / f"{name}.json").write_text(text + "\n")
