"""Load the SQL files of this folder, each once."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def statement(name: str) -> bytes:
    """Return the text of <name>.sql."""
    return (FOLDER / f"{name}.sql").read_bytes()
