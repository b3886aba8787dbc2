"""The SQL files beside this module, each read once."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def statement(name: str) -> bytes:
    """Text of <name>.sql."""
    return (FOLDER / f"{name}.sql").read_bytes()
