"""Results of a reconcile: a verdict for each table, with its differences row by row."""

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

# At most so many differences of a table are listed; all are counted and repaired.
MOST_LISTED = 100
# Longer values, in bytes, are listed by their beginning.
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
        """Describe the row and the columns that differ without values, for places that must not show personal data."""
        if self.problem != "changed" or self.before is None:
            return self._row
        return f"{self._row} in {', '.join(self.before)}"

    @property
    def _row(self) -> str:
        key = ", ".join(f"{name} {value}" for name, value in self.row_key.items())
        return f"{self.table_name} {key}: {self.problem}"


@dataclass(frozen=True)
class Verdict:
    """Result of comparing one table with what is recomputed from the layer below."""

    layer: Layer
    source: str
    table_name: str
    rows_expected: int
    rows_found: int
    rows_differing: int = 0
    # Rows that are not wrong, but were changed in the source since the last run.
    rows_pending: int = 0
    # Pending rows that a read by the cursor would miss.
    rows_missed: int = 0
    rows_repaired: int = 0
    is_stale: bool = False
    chunks: int = 0
    chunks_differing: int = 0
    amounts: Mapping[str, Mapping[str, Decimal | None]] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    # For mirrors that are verified by key ranges: ranges with pending rows, and with rows that the cursor would miss.
    pending_ranges: Collection[Bound] = ()
    missed_ranges: Collection[Bound] = ()
    seconds: float = 0.0
    # Further explanation for people.
    note: str = ""
    # Whether the definition has changed since the rows were loaded: then the source's next run conforms them again.
    is_redefined: bool = False

    @property
    def verdict(self) -> str:
        if not self.rows_differing:
            return "equal"
        if self.is_stale:
            return "stale"
        return "repaired" if self.rows_repaired == self.rows_differing else "different"

    @property
    def load_source(self) -> str:
        """Source to record loads of the table under: repairs of marts count as those of their refresh, 'mart'."""
        return "mart" if self.layer == "mart" else self.source

    def repaired(self) -> "Verdict":
        """Return the verdict after all repairable differences were repaired."""
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
        """Add the found and expected sums of amounts by column."""
        return replace(
            self, amounts={name: {"found": found[name], "expected": expected[name]} for name in found}
        )

    def timed(self, started: float) -> "Verdict":
        """Set the seconds that have passed since `started`, a monotonic time."""
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
    # Amounts are stored as text, so that they are not converted to floating point.
    texts = {
        column: {side: None if value is None else str(value) for side, value in sums.items()}
        for column, sums in verdict.amounts.items()
    }
    return Jsonb(texts)


def _quoted(value: str | None) -> str:
    return "empty" if value is None else f"'{value}'"
