"""Partitions of dwh.fact_weblog: one per country, created when it first appears; of large countries one per month."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import psycopg
from psycopg import sql

from warehouse.db.locks import transaction_lock
from warehouse.weblogs.storage.rows import Piece, months_of

PARENT = sql.Identifier("dwh", "fact_weblog")
# Lock of all that create, divide or drop partitions.
SHAPE = "shape of dwh.fact_weblog"

_PLAIN = sql.SQL("")
# FOR VALUES IN ('BR')
_COUNTRY = re.compile(r"IN \('(..)'\)")
# FOR VALUES FROM (MINVALUE) TO ('2026-12-01 00:00:00+00'); the default partition has no such bounds.
_MONTHS = re.compile(r"FROM \((?:MINVALUE|'(?P<low>[^']+)')\) TO \('(?P<high>[^']+)'\)")


@dataclass(frozen=True)
class Leaf:
    """A partition with rows: those of a country or, if it is divided, of the time from `low` until before `high`.

    A leaf of a divided country without `high` has the rows of all times that no other partition has.
    """

    name: str
    country: str
    low: date | None = None
    high: date | None = None

    @property
    def table(self) -> sql.Identifier:
        """The partition as an identifier."""
        return sql.Identifier("dwh", self.name)


class Partitions:
    """The fact's partitions, as they were at the last `refresh`."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.refresh()

    def refresh(self) -> None:
        """Read the partitions from the catalog."""
        rows = self._connection.execute(
            """
            select child.relname, parent.relname, tree.isleaf, pg_get_expr(child.relpartbound, child.oid)
            from pg_partition_tree('dwh.fact_weblog') as tree
            join pg_class as child on child.oid = tree.relid
            join pg_class as parent on parent.oid = tree.parentrelid
            order by tree.level, child.relname
            """
        ).fetchall()
        self._tables: dict[str, str] = {}
        self._countries: dict[str, str] = {}
        self.leaves: dict[str, list[Leaf]] = {}
        for name, parent, is_leaf, bound in rows:
            if of_country := _COUNTRY.search(bound):
                country = of_country[1]
                self._tables[country], self._countries[name] = name, country
                self.leaves[country] = [Leaf(name, country)] if is_leaf else []
            else:
                country, months = self._countries[parent], _MONTHS.search(bound)
                low, high = (months["low"], months["high"]) if months else (None, None)
                self.leaves[country].append(Leaf(name, country, _day(low), _day(high)))

    def is_divided(self, country: str) -> bool:
        """Whether the country's partition has partitions of its own."""
        return country in self._tables and [leaf.name for leaf in self.leaves[country]] != [
            self._tables[country]
        ]

    def has(self, country: str) -> bool:
        """Whether the country has a partition."""
        return country in self._tables

    def make(self, countries: Iterable[str]) -> None:
        """Create the missing partitions of countries, in a separate transaction, so that other loaders do not wait."""
        if all(country in self._tables for country in countries):
            return
        with self._connection.transaction():
            transaction_lock(self._connection, SHAPE)
            self.refresh()
            for country in countries:
                if country not in self._tables:
                    self._create(country)

    def table(self, country: str) -> sql.Identifier:
        """Partition of a country."""
        return sql.Identifier("dwh", self._tables[country])

    def targets(self, country: str, pieces: Iterable[Piece]) -> Iterator[tuple[sql.Identifier, list[Piece]]]:
        """Tables for rows in COPY format: the partitions of their months, if the country is divided."""
        if not self.is_divided(country):
            yield self.table(country), list(pieces)
            return
        chosen: dict[str, list[Piece]] = {}
        for piece in pieces:
            rows, months = months_of(piece)
            distinct = np.unique(months)
            for month in distinct:
                part = piece
                if len(distinct) > 1:
                    part = piece._replace(content=rows[months == month].reshape(-1).data)
                chosen.setdefault(self._leaf(country, month.astype("M8[D]").item()), []).append(part)
        for name, parts in chosen.items():
            yield sql.Identifier("dwh", name), parts

    def _leaf(self, country: str, day: date) -> str:
        for leaf in self.leaves[country]:
            if leaf.high is not None and day < leaf.high and (leaf.low is None or day >= leaf.low):
                return leaf.name
        # The month has no partition: copy into the country's table, where PostgreSQL routes the rows.
        return self._tables[country]

    def _create(self, country: str) -> None:
        name = f"fact_weblog_{country.lower()}"
        # Created separately and attached: that does not block readers of the other partitions.
        make_table(self._connection, name, f"Partition of dwh.fact_weblog: requests from country {country}.")
        self._connection.execute(
            sql.SQL("alter table {} attach partition {} for values in ({})").format(
                PARENT, sql.Identifier("dwh", name), sql.Literal(country)
            )
        )
        self._tables[country], self._countries[name] = name, country
        self.leaves[country] = [Leaf(name, country)]


def make_table(
    connection: psycopg.Connection, name: str, comment: str, suffix: sql.Composable = _PLAIN
) -> None:
    """Create a table like the fact, to be attached as a partition."""
    connection.execute(
        sql.SQL(
            "create table {table} (like {parent} including comments) {suffix}; comment on table {table} is {comment}"
        ).format(
            table=sql.Identifier("dwh", name), parent=PARENT, suffix=suffix, comment=sql.Literal(comment)
        )
    )


def _day(text: str | None) -> date | None:
    # All bounds are the first of a month in UTC, as all sessions are.
    return datetime.fromisoformat(text).date() if text else None
