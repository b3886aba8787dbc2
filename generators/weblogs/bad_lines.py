"""Break lines of access logs in known ways, so that each breaks a known rule."""

from collections.abc import Callable

import numpy as np

Breaker = Callable[[str, np.random.Generator], str]


def _cut_off(line: str, rng: np.random.Generator) -> str:
    end = line.rindex('"')
    return line[: end - int(rng.integers(0, 20))] + "\n"


def _garbage(_: str, rng: np.random.Generator) -> str:
    # Characters from '#' to 'Z': a line without quotes and brackets.
    return rng.integers(35, 91, 40, dtype=np.uint8).tobytes().decode() + "\n"


def _impossible_date(line: str, _: np.random.Generator) -> str:
    at = line.index("[") + 1
    return line[:at] + "31/Feb" + line[at + 6 :]


def _bad_status(line: str, _: np.random.Generator) -> str:
    at = line.index('" ', line.index("]")) + 2
    return line[:at] + "999" + line[at + 3 :]


def _bad_address(line: str, rng: np.random.Generator) -> str:
    return f"999.{rng.integers(0, 256)}.0.1" + line[line.index(" ") :]


# Rule that is broken, and function that breaks it; the first two break the same rule.
_KINDS: tuple[tuple[str, Breaker], ...] = (
    ("malformed_line", _cut_off),
    ("malformed_line", _garbage),
    ("impossible_date", _impossible_date),
    ("bad_status", _bad_status),
    ("bad_address", _bad_address),
)


def break_lines(rng: np.random.Generator, lines: list[str]) -> tuple[list[str], list[str]]:
    """Break each line; returns the rules that they break, and the broken lines."""
    chosen = [_KINDS[number] for number in rng.integers(0, len(_KINDS), len(lines)).tolist()]
    return [kind for kind, _ in chosen], [
        breaker(line, rng) for line, (_, breaker) in zip(lines, chosen, strict=True)
    ]
