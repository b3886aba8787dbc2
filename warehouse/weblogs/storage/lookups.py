"""Dictionaries of texts: look up keys in memory, then in the warehouse, and add new texts there.

New texts commit at once, under one lock per table, so that several loaders share a dictionary and none waits for the
batch of another. A text that no row refers to does no harm: the next load uses it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from ua_parser import parse_device

from warehouse.db.locks import transaction_lock
from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.buffers import Bytes, Places
from warehouse.weblogs.reader.fallback import printable
from warehouse.weblogs.reader.key_table import KeyTable
from warehouse.weblogs.reader.traffic_rules import ACTIONS, TrafficRules
from warehouse.weblogs.storage.writer import copy_rows

# Keys of dim_device and dim_traffic_source are smallint, and visitors choose the names.
_MAX_MEMBERS = 30_000
# Visitors choose the user agent, and with it the device's name; an index entry has a maximum length.
_MAX_FAMILY_LENGTH = 100
# Texts in memory, all lookups together: about 100 MB.
_MAX_TEXTS = 2_000_000

TABLES = (
    "dim_device", "dim_traffic_source", "dim_request", "dim_user_agent", "dim_referer", "dim_web_user", "dim_host",
    "dim_client_host",
)  # fmt: skip

Row = tuple[Any, ...]


class Members:
    """A small dimension, all in memory: name to key; new names get the next key."""

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
        """Key of a member; when the table is full, that of the overflow member."""
        key = self._keys.get(member)
        if key is None:
            key = self._keys[member] = self._add(member)
        return key

    def _add(self, member: Row) -> int:
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
            if next_key < _MAX_MEMBERS or member == self._overflow:
                row = (next_key, *member, self._run_id)
                copy_rows(self._connection, self._table, (*self._columns, "run_id"), [row])
                return next_key
        return self.key(self._overflow)


class TextDictionary:
    """A dictionary of texts: a key per text, and attributes of it that a row of the fact needs."""

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
        # Names of the columns: key, text, and those derived from the text.
        self.key, self._text, *self.derived = key, *columns
        # All hashes in one text parameter: a hundred times faster to send than an array of UUIDs.
        self._known = sql.SQL(
            "select encode(uuid_send(text_hash), 'hex'), {} from {} where text_hash = any(%s::uuid[])"
        ).format(_names((key, *columns[1:])), self._table)
        self.table = KeyTable(attribute_count)

    @property
    def name(self) -> str:
        """`schema.table`."""
        return self._name

    @property
    def relation(self) -> sql.Identifier:
        """The table."""
        return self._table

    def described_otherwise(self) -> Iterator[Row]:
        """Yield key and derived columns of each text whose derived columns differ from those of its row.

        Needs an open transaction of the connection. Skips key 0, which stands for no text.
        """
        columns = (self.key, self._text, *self.derived)
        with self._connection.cursor(name="texts") as cursor:
            cursor.itersize = 50_000
            cursor.execute(sql.SQL("{} where {} <> 0").format(_select(columns, self._table), self._key))
            for key, text, *known in cursor:
                if (described := self._describe(text)) != tuple(known):
                    yield (key, *described)

    def keys(self, buffer: Bytes, start: Places, end: Places) -> npt.NDArray[np.int32]:
        """Key and attributes of the text between each `start` and `end`, one array each."""
        hashes = native.hash_texts(buffer, start, end)
        slots = self.table.find(hashes)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            distinct, first = np.unique(hashes[missing], return_index=True)
            # In order of appearance, so that the same files give the same keys.
            order = np.argsort(first)
            at = missing[first[order]]
            texts = [
                printable(buffer[a:b].tobytes())
                for a, b in zip(start[at].tolist(), end[at].tolist(), strict=True)
            ]
            self.table.add(distinct[order], self._resolve(texts))
            # The table may have grown, which changes all slots.
            slots = self.table.find(hashes)
        return self.table.values(slots)

    def _resolve(self, texts: list[str]) -> list[tuple[int, ...]]:
        hashed = {text: _hash(text or "-") for text in texts}
        known = {row[0]: row[1:] for row in self._find(hashed.values())}
        new = {text_hash: text for text, text_hash in hashed.items() if text_hash not in known}
        if new:
            known |= self._add(new)
        rows = [known[hashed[text]] for text in texts]
        return [(row[0], *self._attributes(row[1:])) for row in rows]

    def _find(self, hashes: Iterable[str]) -> psycopg.Cursor[Row]:
        return self._connection.execute(self._known, [f"{{{','.join(hashes)}}}"])

    def _add(self, texts: dict[str, str]) -> dict[str, Row]:
        # Before the lock: describing a text may add members to other tables.
        described = {text_hash: self._describe(text) for text_hash, text in texts.items()}
        with self._connection.transaction():
            # One round trip for all new texts of a block.
            with self._connection.pipeline():
                transaction_lock(self._connection, self._name)
                found = self._find(texts)
                top = _top_key(self._connection, self._table, self._key)
            known = {row[0]: row[1:] for row in found}
            new = [text_hash for text_hash in texts if text_hash not in known]
            first = _after(top)
            added = {text_hash: (key, *described[text_hash]) for key, text_hash in enumerate(new, first)}
            rows = (
                (row[0], texts[text_hash], *row[1:], text_hash, self._run_id)
                for text_hash, row in added.items()
            )
            copy_rows(self._connection, self._table, self._columns, rows)
        return known | added


class Lookups:
    """All lookups of a log line: the tables `TABLES` of a schema."""

    def __init__(
        self, connection: psycopg.Connection, run_id: int, rules: TrafficRules, schema: str = "dwh"
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
            lambda text: self._describe_request(rules, text),
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
            lambda text: (self.sources.key(rules.traffic_source(text)),),
            lambda row: (row[0],),
            1,
        )
        self.users, self.hosts, self.client_hosts = (
            TextDictionary(connection, run_id, schema, name, (column,), lambda text: (), lambda row: (), 0)
            for name, column in (
                ("web_user", "user_name"),
                ("host", "host"),
                ("client_host", "client_host"),
            )
        )
        self._texts = (
            self.requests, self.agents, self.referers, self.users, self.hosts, self.client_hosts,
        )  # fmt: skip

    @property
    def described(self) -> tuple[TextDictionary, ...]:
        """Dictionaries with columns that are derived from their texts."""
        return (self.requests, self.agents, self.referers)

    def evict(self) -> None:
        """Empty the dictionaries in memory if they have more than _MAX_TEXTS texts together."""
        if sum(len(texts.table) for texts in self._texts) > _MAX_TEXTS:
            for texts in self._texts:
                texts.table.clear()

    def _describe_request(self, rules: TrafficRules, text: str) -> Row:
        request = rules.request(text)
        source = self.sources.key(request.campaign) if request.campaign else None
        return request.method, request.path, request.action, request.product_id, source

    def _product_code(self, product_id: str) -> int:
        code = self._product_codes.setdefault(product_id, len(self.products))
        if code == len(self.products):
            self.products.append(product_id)
        return code


def device_family(user_agent: str) -> str:
    """Device family by ua-parser; 'Other' if it finds none."""
    device = parse_device(user_agent)
    return ((device.family if device else None) or "Other")[:_MAX_FAMILY_LENGTH]


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
