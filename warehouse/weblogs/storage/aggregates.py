"""Count a batch's rows in memory, and stage the counts for the aggregates (warehouse.model.weblog_aggregates)."""

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg
from psycopg import sql

from warehouse.weblogs.reader.buffers import Places
from warehouse.weblogs.reader.traffic_rules import ACTIONS

# Values collected before they are counted: 8 bytes each.
_MAX_COLLECTED = 2_000_000
_LOW = np.int64(0xFFFFFFFF)
_DAY_SECONDS, _QUARTER_SECONDS = 86_400, 900
_QUARTERS = _DAY_SECONDS // _QUARTER_SECONDS
_EPOCH = date(1970, 1, 1)
# A pair and a day share a 64-bit word: days from 1969-12-31 (a request of 1970 in a zone east of UTC) to 2149.
_DAY_BITS = 16
_DAYS_BEFORE = 1
_DAY_MASK = (1 << _DAY_BITS) - 1


class ValueCounter:
    """Counts values; memory grows with the number of distinct values only."""

    def __init__(self) -> None:
        self._collected: list[Places] = []
        self._collected_count = 0
        self._values = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, values: Places) -> None:
        """Count `values`."""
        self._collected.append(values)
        self._collected_count += len(values)
        if self._collected_count > _MAX_COLLECTED:
            self._count()

    def result(self) -> tuple[Places, Places]:
        """Distinct values in order, and the count of each."""
        self._count()
        return self._values, self._counts

    def _count(self) -> None:
        values, counts = np.unique(np.concatenate([*self._collected, self._values]), return_counts=True)
        # Values that were counted before are in the concatenation once.
        counts[np.searchsorted(values, self._values)] += self._counts - 1
        self._values, self._counts = values, counts
        self._collected.clear()
        self._collected_count = 0


class Aggregates:
    """Counts of a batch, by the keys of the aggregates."""

    def __init__(self) -> None:
        self._countries, self._devices, self._quarters = ValueCounter(), ValueCounter(), ValueCounter()
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
        """Count rows, one value per row in each array; `products` is -1 for a request that views none."""
        country = countries.astype(np.int64)
        self._countries.add(country)
        self._devices.add(device_keys.astype(np.int64))
        days = seconds // _DAY_SECONDS
        self._quarters.add(seconds // _QUARTER_SECONDS * len(ACTIONS) + actions)
        logged = np.flatnonzero(user_keys)
        if len(logged):
            seen = user_keys[logged].astype(np.int64) << _DAY_BITS | days[logged] + _DAYS_BEFORE
            self._country_users.add(country[logged] << 32 + _DAY_BITS | seen)
            self._device_users.add(device_keys[logged].astype(np.int64) << 32 + _DAY_BITS | seen)
        viewed = np.flatnonzero(products >= 0)
        if len(viewed):
            self._country_products.add(country[viewed] << 32 | products[viewed])

    def stage(
        self,
        connection: psycopg.Connection,
        codes: Sequence[str],
        products: Sequence[str],
        schema: str = "staging",
    ) -> None:
        """Append the counts to the tables weblog_country and so on of a schema."""

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
        values, requests = self._quarters.result()
        quarters, actions = np.divmod(values, len(ACTIONS))
        names = np.array(ACTIONS, object)
        began = np.array(
            [f"{at}+00" for at in (quarters * _QUARTER_SECONDS).astype("M8[s]").tolist()], object
        )
        copy("quarter_hour", {"quarter_hour_at": began, "action": names[actions], "request_count": requests})
        days, places = np.unique(quarters // _QUARTERS * len(ACTIONS) + actions, return_inverse=True)
        of_days = np.zeros(len(days), np.int64)
        np.add.at(of_days, places, requests)
        dates, actions = _dates(days // len(ACTIONS)), names[days % len(ACTIONS)]
        copy("day", {"request_date": dates, "action": actions, "request_count": of_days})


def _last_seen(users: ValueCounter) -> tuple[Places, dict[str, npt.NDArray[np.generic]]]:
    """Return the pairs of a key and a user; and per pair the user and the last day on which it was seen."""
    values, _ = users.result()
    last = values[np.flatnonzero(np.diff(values >> _DAY_BITS, append=-1))]
    pairs = last >> _DAY_BITS
    return pairs, {"web_user_key": pairs & _LOW, "last_seen_date": _dates((last & _DAY_MASK) - _DAYS_BEFORE)}


def _dates(days: Places) -> npt.NDArray[np.generic]:
    return np.array([str(_EPOCH + timedelta(days=day)) for day in days.tolist()], object)


def copy_frame(connection: psycopg.Connection, table: sql.Identifier, frame: pl.DataFrame) -> None:
    """COPY a frame whose columns are named like the table's; nulls stay nulls."""
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
