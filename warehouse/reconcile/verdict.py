"""Results of a reconcile: a verdict on each table, and its differences row by row."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

import psycopg
from psycopg.types.json import Jsonb

from warehouse.errors import counted
from warehouse.extract.key_order import Bound

Layer = Literal["mirror", "star", "weblog", "mart"]
Problem = Literal["missing", "extra", "duplicated", "changed", "unrepairable"]
Row = Mapping[str, str | None]

# Differences of a table that are listed one by one; all are counted, and all are repaired.
MOST_LISTED = 100
# Bytes of a value that are listed.
LONGEST_LISTED = 10_000


@dataclass(frozen=True)
class Difference:
    """A row that differs: its values and the expected ones, as text by column."""

    layer: Layer
    source: str
    table_name: str
    row_key: Row
    problem: Problem
    before: Row | None
    after: Row | None
    is_repaired: bool = False

    def __str__(self) -> str:
        if self.problem != "changed" or self.before is None or self.after is None:
            return self.without_values
        changes = (
            f"{name} is {_quoted(self.before[name])}, should be {_quoted(self.after.get(name))}"
            for name in self.before
        )
        return f"{self._row} ({'; '.join(changes)})"

    @property
    def without_values(self) -> str:
        """The row, and which of its columns differ, for places where personal data must not be."""
        if self.problem != "changed" or self.before is None:
            return self._row
        return f"{self._row} in {', '.join(self.before)}"

    @property
    def _row(self) -> str:
        key = ", ".join(f"{name} {value}" for name, value in self.row_key.items())
        return f"{self.table_name} {key}: {self.problem}"


@dataclass(frozen=True)
class Verdict:
    """Whether one table equals what is recomputed from the layer below."""

    layer: Layer
    source: str
    table_name: str
    rows_expected: int
    rows_found: int
    rows_differing: int = 0
    # Not wrong: the source has changed them since the last run.
    rows_pending: int = 0
    # Of these: rows that no read by the cursor will show.
    rows_missed: int = 0
    rows_repaired: int = 0
    is_stale: bool = False
    chunks: int = 0
    chunks_differing: int = 0
    amounts: Mapping[str, Mapping[str, Decimal | None]] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    # Of a mirror that is compared by key ranges: those with pending rows, and with rows that no cursor will show.
    pending_ranges: Collection[Bound] = ()
    missed_ranges: Collection[Bound] = ()
    seconds: float = 0.0
    # What else there is to say about it.
    note: str = ""

    @property
    def verdict(self) -> str:
        if not self.rows_differing:
            return "equal"
        if self.is_stale:
            return "stale"
        return "repaired" if self.rows_repaired == self.rows_differing else "different"

    @property
    def load_source(self) -> str:
        """Source of the loads of the table: a mart has no second one, of which nothing would be complete ever."""
        return "mart" if self.layer == "mart" else self.source

    def repaired(self) -> "Verdict":
        """The same after the repair of all that can be repaired."""
        unrepairable = sum(difference.problem == "unrepairable" for difference in self.differences)
        return replace(
            self,
            rows_repaired=self.rows_differing - unrepairable,
            is_stale=False,
            differences=tuple(
                replace(difference, is_repaired=difference.problem != "unrepairable")
                for difference in self.differences
            ),
        )

    def joined(self, other: "Verdict") -> "Verdict":
        """Add the verdict of a later comparison of the same table."""
        return replace(
            self,
            rows_expected=self.rows_expected + other.rows_expected,
            rows_found=self.rows_found + other.rows_found,
            rows_differing=self.rows_differing + other.rows_differing,
            differences=(*self.differences, *other.differences)[:MOST_LISTED],
            seconds=self.seconds + other.seconds,
        )

    def with_amounts(
        self, found: Mapping[str, Decimal | None], expected: Mapping[str, Decimal | None]
    ) -> "Verdict":
        """Add the sums of amounts by column: as found, and as expected."""
        return replace(
            self, amounts={name: {"found": found[name], "expected": expected[name]} for name in found}
        )

    def timed(self, started: float) -> "Verdict":
        """Add the seconds that have passed since `started`."""
        return replace(self, seconds=round(time.monotonic() - started, 3))

    def __str__(self) -> str:
        text = f"{self.source} → {self.table_name}: {self.verdict}, {counted(self.rows_found, 'row')}"
        if self.rows_expected != self.rows_found:
            text += f" of {self.rows_expected:,} expected"
        if self.rows_differing:
            text += f", {self.rows_differing:,} differ"
        if self.rows_pending:
            text += f", {self.rows_pending:,} changed in the source since the last run"
        return f"{text} in {self.seconds:.2f} s" + (f"; {self.note}" if self.note else "")


def record(connection: psycopg.Connection, run_id: int, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts to audit.verification and differences to audit.difference."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.verification (
                run_id, layer, source, table_name, rows_source, rows_mirror, chunks, chunks_differing, verdict,
                rows_differing, rows_pending, rows_repaired, amounts, seconds
            ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (run_id, v.layer, v.source, v.table_name, v.rows_expected, v.rows_found, v.chunks,
                 v.chunks_differing, v.verdict, v.rows_differing, v.rows_pending, v.rows_repaired,
                 _amounts(v), v.seconds)
                for v in verdicts
            ],
        )  # fmt: skip
        cursor.executemany(
            """
            insert into audit.difference
                (run_id, layer, source, table_name, row_key, problem, before, after, is_repaired)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (run_id, d.layer, d.source, d.table_name, Jsonb(d.row_key), d.problem,
                 None if d.before is None else Jsonb(d.before), None if d.after is None else Jsonb(d.after),
                 d.is_repaired)
                for verdict in verdicts
                for d in verdict.differences
            ],
        )  # fmt: skip


def _amounts(verdict: Verdict) -> Jsonb | None:
    if not verdict.amounts:
        return None
    # As text: a sum of money must not pass through a double.
    texts = {
        column: {side: None if value is None else str(value) for side, value in sums.items()}
        for column, sums in verdict.amounts.items()
    }
    return Jsonb(texts)


def _quoted(value: str | None) -> str:
    return "empty" if value is None else f"'{value}'"
