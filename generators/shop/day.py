"""State of a simulated day that all its changes share: connection, random numbers, hours, touched rows, counts."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import polars as pl
from psycopg import Connection, Cursor, sql

from generators.shop.database import IN_UTC
from generators.shop.people import Ids, Instants

STATEMENTS = Path(__file__).with_name("changes")
# new products and customers appear in the first quarter of the day, and orders come in during the rest of it
MORNING_SHARE = 0.25
# a day deletes at most this share of a table: fewer than the delete threshold of a warehouse that copies the shop
MAX_DELETED_SHARE = 0.04


@dataclass
class Day:
    """State that the changes of a day share; no row is changed twice, so that the counts of statements count rows."""

    connection: Connection
    rng: np.random.Generator
    opening: datetime
    closing: datetime
    counts: Counter[str] = field(default_factory=Counter)
    touched: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    # product, distribution center, quantity and event of each order line that was placed, changed or deleted
    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def execute(self, statement: str, **parameters: Any) -> Cursor[tuple[Any, ...]]:
        """Execute changes/<statement>.sql."""
        return self.connection.execute((STATEMENTS / f"{statement}.sql").read_bytes(), parameters)

    def read(self, statement: str, schema: dict[str, pl.DataType], **parameters: Any) -> pl.DataFrame:
        """Read the rows of changes/<statement>.sql into columns of these types."""
        return pl.DataFrame(self.execute(statement, **parameters).fetchall(), schema=schema, orient="row")

    def update(self, table: str, statement: str, **parameters: Any) -> None:
        """Execute changes/<statement>.sql and count the rows of the table that it updated."""
        self.note(table, "updated", self.execute(statement, **parameters).rowcount)

    def change_lines(self, operation: str, statement: str, **parameters: Any) -> None:
        """Execute changes/<statement>.sql, count the order lines that it returns and keep them for `book_day`."""
        changed = self.execute(statement, **parameters).fetchall()
        self.note("order_item", operation, len(changed))
        self.lines += changed

    def delete(self, table: str, key: str, ids: Sequence[int]) -> None:
        """Delete and count the rows of a table that have one of the ids in the key column."""
        statement = sql.SQL("delete from public.{} where {} = any(%s)").format(
            sql.Identifier(table), sql.Identifier(key)
        )
        self.note(table, "deleted", self.connection.execute(statement, [list(ids)]).rowcount)

    def note(self, table: str, operation: str, rows: int) -> None:
        """Count rows of a table that were inserted, updated or deleted."""
        self.counts[f"{table}_{operation}"] += rows

    def ids(self, table: str) -> list[int]:
        """Read all ids of a small table."""
        rows = self.connection.execute(
            sql.SQL("select id from public.{} order by id").format(sql.Identifier(table))
        )
        return [key for (key,) in rows]

    def deletable(self, table: str, wanted: int) -> int:
        """Return how many rows of a table may be deleted today: MAX_DELETED_SHARE of it, but at most `wanted`."""
        count = sql.SQL("select count(*) from public.{}").format(sql.Identifier(table))
        return min(wanted, int(self._number(count) * MAX_DELETED_SHARE))

    def draw_ids(self, table: str, count: int, since_share: float = 0.0) -> list[int]:
        """Draw up to `count` different ids, none of the oldest `since_share`; some of their rows may be deleted."""
        highest = self._number(
            sql.SQL("select coalesce(max(id), 0) from public.{}").format(sql.Identifier(table))
        )
        if not highest:
            return []
        drawn = self.rng.integers(int(highest * since_share) + 1, highest + 1, count)
        return list(dict.fromkeys(drawn.tolist()))

    def sample(
        self,
        table: str,
        wanted: int,
        condition: LiteralString = "true",
        since_share: float = 0.0,
        oversample: int = 3,
    ) -> list[int]:
        """Take up to `wanted` ids of a table that meet a condition on t and were not touched today.

        Ids are drawn first and looked up by key: the cost depends on the sample, not on the table. Oversample more
        if few rows meet the condition.
        """
        if wanted <= 0:
            return []
        drawn = self.draw_ids(table, wanted * oversample + 30, since_share)
        candidates = [key for key in drawn if key not in self.touched[table]]
        query = sql.SQL("select t.id from public.{} as t where t.id = any(%s) and {}").format(
            sql.Identifier(table), sql.SQL(condition)
        )
        matching = {key for (key,) in self.connection.execute(query, [candidates])}
        return self.take(table, [key for key in candidates if key in matching][:wanted])

    def take(self, table: str, ids: list[int]) -> list[int]:
        """Mark rows as touched today, and return their ids."""
        self.touched[table].update(ids)
        return ids

    def new_ids(self, table: str, count: int) -> Ids:
        """Take new ids from the identity sequence of a table, and mark them as touched."""
        rows = self.connection.execute(
            "select nextval(pg_get_serial_sequence(%s, 'id')) from generate_series(1, %s)",
            [f"public.{table}", count],
        )
        return np.array(self.take(table, [key for (key,) in rows]), dtype=np.int64)

    @property
    def morning(self) -> datetime:
        """The time at which the day's orders begin."""
        return self.opening + (self.closing - self.opening) * MORNING_SHARE

    @contextmanager
    def transaction(self, moment: datetime) -> Iterator[None]:
        """Open a transaction of the shop in which the triggers stamp changed rows with `moment`."""
        with self.connection.transaction():
            self.connection.execute(IN_UTC)
            self.connection.execute("select set_config('shop.now', %s, true)", [moment.isoformat()])
            yield

    def early_instants(self, count: int) -> Instants:
        """Draw sorted instants before the orders of the day."""
        return self._instants(count, self.opening, self.morning)

    def order_instants(self, count: int) -> Instants:
        """Draw sorted instants for the orders of the day."""
        return self._instants(count, self.morning, self.closing)

    def _instants(self, count: int, start: datetime, stop: datetime) -> Instants:
        first, last = (np.datetime64(moment.replace(tzinfo=None), "us") for moment in (start, stop))
        elapsed = np.sort(self.rng.random(count)) * (last - first).astype(np.int64)
        moments: Instants = first + elapsed.astype("timedelta64[us]")
        return moments

    def _number(self, query: sql.Composed) -> int:
        row = self.connection.execute(query).fetchone()
        assert row
        return int(row[0])
