"""What a batch adds to the tables that the web marts show: counted in memory, added in its transaction."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
from psycopg import sql

from warehouse.weblogs.reader.swar import Places
from warehouse.weblogs.reader.traffic_rules import ACTIONS

QUERIES = Path(__file__).with_name("queries")
TARGETS = ("agg_weblog_country", "agg_weblog_device", "agg_weblog_country_product", "agg_weblog_day")
# Of tables staging.weblog_… and dwh.agg_weblog_…: the key, and what a batch says of it.
STAGED = {
    "country": (("country",), "request_count"),
    "country_user": (("country", "web_user_key"), "last_seen_date"),
    "device": (("device_key",), "request_count"),
    "device_user": (("device_key", "web_user_key"), "last_seen_date"),
    "country_product": (("country", "product_id"), "view_count"),
    "day": (("request_date", "action"), "request_count"),
}

# Values that wait to be counted: 8 bytes each.
_MOST_WAITING = 2_000_000
_LOW = np.int64(0xFFFFFFFF)
_DAY_SECONDS = 86_400
_EPOCH = date(1970, 1, 1)
# A pair and the day it was seen share a word: days from 1969-12-31, where a zone may put a request of 1970, up to 2149.
_DAY_BITS = 16
_DAYS_BEFORE = 1
_DAY_MASK = (1 << _DAY_BITS) - 1


class ValueCounter:
    """How often each number was seen; memory grows with the distinct ones only."""

    def __init__(self) -> None:
        self._waiting: list[Places] = []
        self._waiting_count = 0
        self._values = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, values: Places) -> None:
        """Count `values`."""
        self._waiting.append(values)
        self._waiting_count += len(values)
        if self._waiting_count > _MOST_WAITING:
            self._count()

    def result(self) -> tuple[Places, Places]:
        """Distinct values in order, and how often each was seen."""
        self._count()
        return self._values, self._counts

    def _count(self) -> None:
        values, counts = np.unique(np.concatenate([*self._waiting, self._values]), return_counts=True)
        # The values counted before were each seen once in this round.
        counts[np.searchsorted(values, self._values)] += self._counts - 1
        self._values, self._counts = values, counts
        self._waiting.clear()
        self._waiting_count = 0


class Aggregates:
    """Counts of a batch."""

    def __init__(self) -> None:
        self._countries, self._devices, self._days = ValueCounter(), ValueCounter(), ValueCounter()
        self._country_users, self._device_users, self._country_products = (
            ValueCounter(),
            ValueCounter(),
            ValueCounter(),
        )

    def add(
        self,
        countries: npt.NDArray[np.int16],
        seconds: Places,
        device_keys: npt.NDArray[np.int32],
        user_keys: npt.NDArray[np.int32],
        actions: npt.NDArray[np.int32],
        products: npt.NDArray[np.int32],
    ) -> None:
        """Count rows: a value per row in each array; `products` is -1 where nothing was viewed."""
        country = countries.astype(np.int64)
        self._countries.add(country)
        self._devices.add(device_keys.astype(np.int64))
        days = seconds // _DAY_SECONDS
        self._days.add(days * len(ACTIONS) + actions)
        logged = np.flatnonzero(user_keys)
        if len(logged):
            seen = user_keys[logged].astype(np.int64) << _DAY_BITS | days[logged] + _DAYS_BEFORE
            self._country_users.add(country[logged] << 32 + _DAY_BITS | seen)
            self._device_users.add(device_keys[logged].astype(np.int64) << 32 + _DAY_BITS | seen)
        viewed = np.flatnonzero(products >= 0)
        if len(viewed):
            self._country_products.add(country[viewed] << 32 | products[viewed])

    def publish(self, connection: psycopg.Connection, codes: Sequence[str], products: Sequence[str]) -> None:
        """Add the counts to the aggregates, in the connection's transaction."""
        clear_staged(connection)
        self.stage(connection, codes, products)
        add_staged(connection)

    def stage(
        self,
        connection: psycopg.Connection,
        codes: Sequence[str],
        products: Sequence[str],
        schema: str = "staging",
    ) -> None:
        """Append the counts to the tables of a batch, weblog_country and so on."""

        def copy(name: str, columns: dict[str, npt.NDArray[np.generic]]) -> None:
            frame = pl.DataFrame({column: values.tolist() for column, values in columns.items()})
            copy_frame(connection, sql.Identifier(schema, f"weblog_{name}"), frame)

        country_names = np.array(codes, object)
        countries, requests = self._countries.result()
        copy("country", {"country": country_names[countries], "request_count": requests})
        pairs, seen = _last_seen(self._country_users)
        copy("country_user", {"country": country_names[pairs >> 32], **seen})
        devices, requests = self._devices.result()
        copy("device", {"device_key": devices, "request_count": requests})
        pairs, seen = _last_seen(self._device_users)
        copy("device_user", {"device_key": pairs >> 32, **seen})
        pairs, views = self._country_products.result()
        names = np.array(products, object)[pairs & _LOW]
        viewed = {"country": country_names[pairs >> 32], "product_id": names, "view_count": views}
        copy("country_product", viewed)
        days, requests = self._days.result()
        dates = _dates(days // len(ACTIONS))
        actions = np.array(ACTIONS, object)[days % len(ACTIONS)]
        copy("day", {"request_date": dates, "action": actions, "request_count": requests})


def clear_staged(connection: psycopg.Connection) -> None:
    """Empty the tables that a batch's counts are staged in."""
    tables = sql.SQL(", ").join(sql.Identifier("staging", f"weblog_{name}") for name in STAGED)
    connection.execute(sql.SQL("truncate {}").format(tables))


def add_staged(connection: psycopg.Connection) -> None:
    """Add what is staged to the aggregates."""
    for target in TARGETS:
        connection.execute((QUERIES / f"{target}.sql").read_bytes())


def _last_seen(users: ValueCounter) -> tuple[Places, dict[str, npt.NDArray[np.generic]]]:
    """Pairs of something with a user, and of each the user and the last day on which it was seen."""
    values, _ = users.result()
    last = values[np.flatnonzero(np.diff(values >> _DAY_BITS, append=-1))]
    pairs = last >> _DAY_BITS
    return pairs, {"web_user_key": pairs & _LOW, "last_seen_date": _dates((last & _DAY_MASK) - _DAYS_BEFORE)}


def _dates(days: Places) -> npt.NDArray[np.generic]:
    return np.array([str(_EPOCH + timedelta(days=day)) for day in days.tolist()], object)


def copy_frame(connection: psycopg.Connection, table: sql.Identifier, frame: pl.DataFrame) -> None:
    """COPY a frame whose columns bear the table's names; nulls stay nulls."""
    if not frame.height:
        return
    names = sql.SQL(", ").join(map(sql.Identifier, frame.columns))
    content = frame.write_csv(include_header=False, quote_style="non_numeric", null_value="").encode()
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("copy {} ({}) from stdin (format csv)").format(table, names)) as copy,
    ):
        for start in range(0, len(content), 1 << 16):
            copy.write(content[start : start + (1 << 16)])
