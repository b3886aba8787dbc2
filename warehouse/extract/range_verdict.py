"""When the key range that holds a row was verified last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from warehouse.db.type_names import without_modifier
from warehouse.extract.access_paths import TEXTS
from warehouse.extract.catalog import columns_of
from warehouse.sources.source import Table


@dataclass(frozen=True)
class RangeVerdict:
    """When source and mirror were last verified to be equal in a range; None if the range is verified next."""

    verified_at: datetime | None

    def __str__(self) -> str:
        if self.verified_at is None:
            return "its key range is the next to be verified"
        return f"its key range was verified at {self.verified_at:%Y-%m-%d %H:%M:%S} UTC"


def find_verdict(connection: psycopg.Connection, table: Table, key: Sequence[str]) -> RangeVerdict | None:
    """Find the verdict on the range that contains `key`, given as texts; None if the table has no ranges."""
    types = columns_of(connection, "raw", table.mirror)

    def ordered(value: sql.Composable, name: str) -> sql.Composable:
        # Ranges of text keys are always in the order of code points.
        collation = ' collate "C"' if without_modifier(types[name]) in TEXTS else ""
        return sql.SQL("{}::{}{}").format(value, sql.SQL(types[name]), sql.SQL(collation))

    lows = [
        ordered(sql.SQL("low_key[{}]").format(sql.Literal(position)), name)
        for position, name in enumerate(table.key, start=1)
    ]
    values = [ordered(sql.Literal(value), name) for value, name in zip(key, table.key, strict=True)]
    row = connection.execute(
        sql.SQL(
            """
            select verified_at from audit.key_range
            where source = {source} and table_name = {table_name}
                and (cardinality(low_key) = 0 or ({lows}) <= ({values}))
            order by cardinality(low_key) desc, {descending} limit 1
            """
        ).format(
            source=sql.Literal(table.source),
            table_name=sql.Literal(table.name),
            lows=sql.SQL(", ").join(lows),
            values=sql.SQL(", ").join(values),
            descending=sql.SQL(", ").join(sql.SQL("{} desc").format(low) for low in lows),
        )
    ).fetchone()
    return RangeVerdict(row[0]) if row else None
