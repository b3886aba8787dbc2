"""Lines that no reader can make sense of, each bad in a known way."""

from collections.abc import Callable

import numpy as np

Spoiler = Callable[[str, np.random.Generator], str]


def _cut_off(line: str, rng: np.random.Generator) -> str:
    end = line.rindex('"')
    return line[: end - int(rng.integers(0, 20))] + "\n"


def _garbage(_: str, rng: np.random.Generator) -> str:
    # Neither quotes nor brackets.
    return rng.integers(35, 91, 40, dtype=np.uint8).tobytes().decode() + "\n"


def _impossible_date(line: str, _: np.random.Generator) -> str:
    at = line.index("[") + 1
    return line[:at] + "31/Feb" + line[at + 6 :]


def _bad_status(line: str, _: np.random.Generator) -> str:
    at = line.index('" ', line.index("]")) + 2
    return line[:at] + "999" + line[at + 3 :]


def _bad_address(line: str, rng: np.random.Generator) -> str:
    return f"999.{rng.integers(0, 256)}.0.1" + line[line.index(" ") :]


# By the rule that each breaks; two of them are malformed in different ways.
_KINDS: tuple[tuple[str, Spoiler], ...] = (
    ("malformed_line", _cut_off),
    ("malformed_line", _garbage),
    ("impossible_date", _impossible_date),
    ("bad_status", _bad_status),
    ("bad_address", _bad_address),
)


def spoil(rng: np.random.Generator, lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines, spoilt, and how each was: malformed_line, impossible_date, bad_status or bad_address."""
    chosen = [_KINDS[number] for number in rng.integers(0, len(_KINDS), len(lines)).tolist()]
    return [kind for kind, _ in chosen], [
        spoiler(line, rng) for line, (_, spoiler) in zip(lines, chosen, strict=True)
    ]
