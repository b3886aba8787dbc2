"""Texts of log lines as keys: found in memory, else in the warehouse, else entered there.

What is entered commits at once, under a lock of its own for each table, so that several loaders share one dictionary
and none waits for the batch of another. A text without rows does no harm: it is found again.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from ua_parser import parse_device

from warehouse.db.locks import transaction_lock
from warehouse.weblogs.reader.fallback import shown
from warehouse.weblogs.reader.swar import Bytes, ByteWords, Places
from warehouse.weblogs.reader.traffic_rules import ACTIONS, TrafficRules
from warehouse.weblogs.storage.key_table import KeyTable, text_hashes
from warehouse.weblogs.storage.writer import copy_rows

# Keys of dim_device and dim_traffic_source are smallint, and both are named by what strangers send.
_MOST_MEMBERS = 30_000
# Models of phones are told by their makers, or by whoever writes the user agent: an index takes no more.
_LONGEST_FAMILY = 100
# Texts in memory, all dictionaries together: about 100 MB.
_MOST_TEXTS = 2_000_000

TABLES = ("dim_device", "dim_traffic_source", "dim_request", "dim_user_agent", "dim_referer", "dim_web_user")

Row = tuple[Any, ...]


class Members:
    """A small dimension, whole in memory: name to key; new names get the next key."""

    def __init__(
        self,
        connection: psycopg.Connection,
        run_id: int,
        schema: str,
        table: str,
        key: str,
        names: tuple[str, ...],
        overflow: Row,
    ) -> None:
        self._connection, self._run_id, self._overflow = connection, run_id, overflow
        self._name, self._table = f"{schema}.{table}", sql.Identifier(schema, table)
        self._columns = (key, *names)
        rows = connection.execute(_select(self._columns, self._table)).fetchall()
        self._keys: dict[Row, int] = {tuple(row[1:]): row[0] for row in rows}

    def key(self, member: Row) -> int:
        """Key of a member; past the most that fit, that of the overflow member."""
        found = self._keys.get(member)
        if found is None:
            found = self._keys[member] = self._enter(member)
        return found

    def _enter(self, member: Row) -> int:
        key, *names = map(sql.Identifier, self._columns)
        known = sql.SQL("select {} from {} where ({}) = ({})").format(
            key, self._table, sql.SQL(", ").join(names), sql.SQL(", ").join(sql.Placeholder() * len(names))
        )
        with self._connection.transaction():
            transaction_lock(self._connection, self._name)
            row = self._connection.execute(known, member).fetchone()
            if row is not None:
                return int(row[0])
            next_key = _after(_top_key(self._connection, self._table, key))
            if next_key < _MOST_MEMBERS or member == self._overflow:
                row = (next_key, *member, self._run_id)
                copy_rows(self._connection, self._table, (*self._columns, "run_id"), [row])
                return next_key
        return self.key(self._overflow)


class TextDictionary:
    """A dictionary of texts: `key`, and small attributes that the row needs beside it."""

    def __init__(
        self,
        connection: psycopg.Connection,
        run_id: int,
        schema: str,
        name: str,
        columns: tuple[str, ...],
        describe: Callable[[str], Row],
        attributes: Callable[[Row], tuple[int, ...]],
        attribute_count: int,
    ) -> None:
        self._connection, self._run_id = connection, run_id
        self._describe = describe
        self._attributes = attributes
        self._name, self._table = f"{schema}.dim_{name}", sql.Identifier(schema, f"dim_{name}")
        key = f"{name}_key"
        self._key, self._columns = sql.Identifier(key), (key, *columns, "text_hash", "run_id")
        # One text for all hashes: a hundred times faster to hand over than an array of UUIDs.
        self._known = sql.SQL(
            "select encode(uuid_send(text_hash), 'hex'), {} from {} where text_hash = any(%s::uuid[])"
        ).format(_names((key, *columns[1:])), self._table)
        self.table = KeyTable(attribute_count)

    def keys(self, buffer: Bytes, words: ByteWords, start: Places, end: Places) -> npt.NDArray[np.int32]:
        """Key and attributes of the text between each `start` and `end`, one array each."""
        hashes = text_hashes(buffer, words, start, end)
        slots = self.table.find(hashes)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            distinct, first = np.unique(hashes[missing], return_index=True)
            # In order of appearance, so that the same files give the same keys.
            order = np.argsort(first)
            at = missing[first[order]]
            texts = [
                shown(buffer[a:b].tobytes())
                for a, b in zip(start[at].tolist(), end[at].tolist(), strict=True)
            ]
            self.table.add(distinct[order], self._resolve(texts))
            # The table may have grown: no slot is where it was.
            slots = self.table.find(hashes)
        return self.table.values(slots)

    def _resolve(self, texts: list[str]) -> list[tuple[int, ...]]:
        hashed = {text: _hash(text or "-") for text in texts}
        known = {row[0]: row[1:] for row in self._find(hashed.values())}
        new = {text_hash: text for text, text_hash in hashed.items() if text_hash not in known}
        if new:
            known |= self._enter(new)
        rows = [known[hashed[text]] for text in texts]
        return [(row[0], *self._attributes(row[1:])) for row in rows]

    def _find(self, hashes: Iterable[str]) -> psycopg.Cursor[Row]:
        return self._connection.execute(self._known, [f"{{{','.join(hashes)}}}"])

    def _enter(self, texts: dict[str, str]) -> dict[str, Row]:
        # Before the lock: to describe one may enter others, in other tables.
        described = {text_hash: self._describe(text) for text_hash, text in texts.items()}
        with self._connection.transaction():
            # One round trip: blocks of lines bring new texts by the thousand times.
            with self._connection.pipeline():
                transaction_lock(self._connection, self._name)
                found = self._find(texts)
                top = _top_key(self._connection, self._table, self._key)
            known = {row[0]: row[1:] for row in found}
            new = [text_hash for text_hash in texts if text_hash not in known]
            first = _after(top)
            entered = {text_hash: (key, *described[text_hash]) for key, text_hash in enumerate(new, first)}
            rows = (
                (row[0], texts[text_hash], *row[1:], text_hash, self._run_id)
                for text_hash, row in entered.items()
            )
            copy_rows(self._connection, self._table, self._columns, rows)
        return known | entered


class Dictionaries:
    """All that a log line's texts are looked up in: the tables `TABLES` of a schema."""

    def __init__(
        self, connection: psycopg.Connection, run_id: int, site: TrafficRules, schema: str = "dwh"
    ) -> None:
        self.devices = Members(
            connection, run_id, schema, "dim_device", "device_key", ("family",), ("Other",)
        )
        self.sources = Members(
            connection,
            run_id,
            schema,
            "dim_traffic_source",
            "traffic_source_key",
            ("name", "medium"),
            ("other sites", "referral"),
        )
        self.products: list[str] = []
        self._product_codes: dict[str, int] = {}
        self.requests = TextDictionary(
            connection,
            run_id,
            schema,
            "request",
            ("request", "method", "path", "action", "product_id", "traffic_source_key"),
            lambda text: self._describe_request(site, text),
            # Action; product of a view; campaign.
            lambda row: (
                ACTIONS.index(row[2]),
                self._product_code(row[3]) if row[2] == "view" and row[3] else -1,
                row[4] or 0,
            ),
            3,
        )
        self.agents = TextDictionary(
            connection,
            run_id,
            schema,
            "user_agent",
            ("user_agent", "device_key"),
            lambda text: (self.devices.key((device_family(text),)),),
            lambda row: (row[0],),
            1,
        )
        self.referers = TextDictionary(
            connection,
            run_id,
            schema,
            "referer",
            ("referer", "traffic_source_key"),
            lambda text: (self.sources.key(site.traffic_source(text)),),
            lambda row: (row[0],),
            1,
        )
        self.users = TextDictionary(
            connection, run_id, schema, "web_user", ("user_name",), lambda text: (), lambda row: (), 0
        )
        self._texts = (self.requests, self.agents, self.referers, self.users)

    def trim(self) -> None:
        """Give back memory that has grown too large."""
        if sum(len(texts.table) for texts in self._texts) > _MOST_TEXTS:
            for texts in self._texts:
                texts.table.clear()

    def _describe_request(self, site: TrafficRules, text: str) -> Row:
        request = site.request(text)
        source = self.sources.key(request.campaign) if request.campaign else None
        return request.method, request.path, request.action, request.product_id, source

    def _product_code(self, product_id: str) -> int:
        code = self._product_codes.setdefault(product_id, len(self.products))
        if code == len(self.products):
            self.products.append(product_id)
        return code


def device_family(user_agent: str) -> str:
    """Device family by ua-parser; 'Other' where it knows none."""
    device = parse_device(user_agent)
    return ((device.family if device else None) or "Other")[:_LONGEST_FAMILY]


def _hash(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _top_key(
    connection: psycopg.Connection, table: sql.Identifier, key: sql.Identifier
) -> psycopg.Cursor[Row]:
    return connection.execute(sql.SQL("select max({}) from {}").format(key, table))


def _after(top: psycopg.Cursor[Row]) -> int:
    row = top.fetchone()
    assert row is not None
    return int(row[0]) + 1


def _select(columns: Iterable[str], table: sql.Identifier) -> sql.Composed:
    return sql.SQL("select {} from {}").format(_names(columns), table)
