"""Chunked checksums of a table's keys and rows, to compare source and mirror without moving the rows.

A chunk is the set of keys whose hash falls into one bucket. Two servers hold the same rows if the sums of 64-bit hashes
are equal in every chunk; a difference is narrowed down to the keys of its chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import psycopg
from psycopg import sql

from warehouse.db.type_names import without_modifier
from warehouse.extract.column import Column

MIN_CHUNKS, MAX_CHUNKS = 64, 65536
ROWS_PER_CHUNK = 256
# Chunks of a key range.
RANGE_CHUNKS = 64
# Ranges that one statement compares.
RANGES_AT_ONCE = 32
# Rows that are fetched at a time from a result that may be large.
ROWS_AT_ONCE = 20_000
# Types in which equal values are identical (unlike numeric 1.0 and 1.00): PostgreSQL's hash distinguishes all values.
_EXACTLY_HASHED = frozenset(
    (
        "boolean", "smallint", "integer", "bigint", "oid", "date", "bytea", "uuid",
        "timestamp without time zone", "timestamp with time zone",
    )
)  # fmt: skip


class Hashing(Enum):
    """How rows are hashed; both servers must use the same method."""

    RECORD = "the record, several times as fast as its text"
    TEXT = "its text"
    UTF8 = "its text as UTF-8"


@dataclass(frozen=True)
class Chunk:
    """Rows of one chunk: how many, and the sums of their key and row hashes."""

    rows: int
    keys: int
    content: int


Checksums = Mapping[int, Chunk]
NO_ROWS = Chunk(0, 0, 0)


def chunks_for(rows: int) -> int:
    """Number of chunks for a table of `rows` rows: a power of two."""
    needed = max(rows // ROWS_PER_CHUNK, MIN_CHUNKS)
    return min(1 << (needed - 1).bit_length(), MAX_CHUNKS)


def hashing(*connections: psycopg.Connection) -> Hashing:
    """Choose the method that all servers share: records, text before PostgreSQL 14, UTF-8 where encodings differ."""
    if any(connection.info.parameter_status("server_encoding") != "UTF8" for connection in connections):
        return Hashing.UTF8
    if any(connection.info.server_version < 140000 for connection in connections):
        return Hashing.TEXT
    return Hashing.RECORD


def key_hash(
    key: Sequence[str], columns: Sequence[Column], method: Hashing, *, at_source: bool = False
) -> sql.Composable:
    """Hash of a row's key, a bigint; `at_source`, of the key as the source selects it."""
    by_name = {column.name: column for column in columns}
    return _hash([by_name[name] for name in key], method, at_source)


def row_hash(columns: Sequence[Column], method: Hashing) -> sql.Composable:
    """Hash of a mirrored row, a bigint."""
    return _hash(columns, method, at_source=False)


def compute_checksums(
    connection: psycopg.Connection,
    relation: sql.Composable,
    key: Sequence[str],
    columns: Sequence[Column],
    chunks: int,
    method: Hashing,
    *,
    at_source: bool = False,
    keys_only: bool = False,
    where: sql.Composable | None = None,
) -> dict[int, Chunk]:
    """Compute the checksums of `relation`, by bucket; `at_source` selects columns with the casts of the source."""
    # The planner overestimates the number of groups, so that it would not scan in parallel at the usual cost per tuple.
    # Outside of a transaction, `set local` still takes effect: both statements of one message are one transaction.
    statement = sql.SQL(
        "set local parallel_tuple_cost = 0.001; "
        "select {key} & {mask}, count(*), sum({key}), sum({content}) from {relation} where {where} group by 1"
    ).format(
        key=key_hash(key, columns, method, at_source=at_source),
        mask=sql.Literal(chunks - 1),
        content=sql.SQL("0::bigint") if keys_only else _hash(columns, method, at_source),
        relation=relation,
        where=where or sql.SQL("true"),
    )
    cursor = connection.execute(statement, prepare=False)
    cursor.nextset()
    return {bucket: Chunk(rows, int(keys), int(hashes)) for bucket, rows, keys, hashes in cursor}


def compute_checksums_and_changes(
    connection: psycopg.Connection,
    relation: sql.Composable,
    key: Sequence[str],
    columns: Sequence[Column],
    chunks: int,
    method: Hashing,
    has_changed: sql.Composable,
    most_places: int,
) -> tuple[dict[int, Chunk], list[str]] | None:
    """Compute the checksums of a source's `relation` and the places (ctid) of its changed rows, in one scan.

    Returns None if more than `most_places` rows have changed; this bounds the memory here and on the source's server.
    """
    statement = sql.SQL(
        "select {key} & {mask}, case when {has_changed} then ctid end::text, count(*), sum({key}), sum({content}) "
        "from {relation} group by 1, case when {has_changed} then ctid end"
    ).format(
        key=key_hash(key, columns, method, at_source=True),
        mask=sql.Literal(chunks - 1),
        content=_hash(columns, method, at_source=True),
        has_changed=has_changed,
        relation=relation,
    )
    digest: dict[int, Chunk] = {}
    places: list[str] = []
    with connection.cursor("scan") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        for bucket, place, rows, keys, hashes in cursor.execute(statement):
            old = digest.get(bucket, NO_ROWS)
            digest[bucket] = Chunk(old.rows + rows, old.keys + int(keys), old.content + int(hashes))
            if place is None:
                continue
            if len(places) == most_places:
                return None
            places.append(place)
    return digest, places


def compute_range_checksums(
    connection: psycopg.Connection,
    relation: sql.Composable,
    key: Sequence[str],
    columns: Sequence[Column],
    method: Hashing,
    ranges: Sequence[sql.Composable],
    *,
    at_source: bool = False,
) -> list[dict[int, Chunk]]:
    """Compute the checksums of `relation` for each of `ranges`, which are SQL conditions, in `RANGE_CHUNKS` chunks."""
    digests: list[dict[int, Chunk]] = [{} for _ in ranges]
    if not ranges:
        return digests
    parts = [
        sql.SQL(
            "(select {number}, {key} & {mask}, count(*), sum({key}), sum({content}) "
            "from {relation} where {within} group by 2)"
        ).format(
            number=sql.Literal(number),
            key=key_hash(key, columns, method, at_source=at_source),
            mask=sql.Literal(RANGE_CHUNKS - 1),
            content=_hash(columns, method, at_source),
            relation=relation,
            within=within,
        )
        for number, within in enumerate(ranges)
    ]
    for number, bucket, rows, keys, hashes in connection.execute(
        sql.SQL(" union all ").join(parts)
    ).fetchall():
        digests[number][bucket] = Chunk(rows, int(keys), int(hashes))
    return digests


def row_count(digest: Checksums) -> int:
    """Rows of all chunks."""
    return sum(chunk.rows for chunk in digest.values())


def combined(plus: Sequence[Checksums], minus: Sequence[Checksums] = ()) -> dict[int, Chunk]:
    """Add the checksums of `plus`, which are of disjoint rows, and subtract those of `minus`, which are among them."""
    sums: dict[int, Chunk] = {}
    for sign, part in [*((1, one) for one in plus), *((-1, one) for one in minus)]:
        for bucket, chunk in part.items():
            old = sums.get(bucket, NO_ROWS)
            sums[bucket] = Chunk(
                old.rows + sign * chunk.rows, old.keys + sign * chunk.keys, old.content + sign * chunk.content
            )
    return sums


def differing_chunks(left: Checksums, right: Checksums, *, content: bool) -> list[int]:
    """Return the buckets in which two digests differ in their keys or, with `content`, in any column."""

    def sums(chunk: Chunk | None) -> tuple[int, int, int]:
        return (chunk.rows, chunk.keys, chunk.content if content else 0) if chunk else (0, 0, 0)

    return sorted(
        bucket for bucket in left.keys() | right.keys() if sums(left.get(bucket)) != sums(right.get(bucket))
    )


def _hash(columns: Sequence[Column], method: Hashing, at_source: bool) -> sql.Composable:
    values = [column.selected if at_source else sql.Identifier(column.name) for column in columns]
    if method is Hashing.RECORD:
        exact = [_exact(value, column.type) for value, column in zip(values, columns, strict=True)]
        return sql.SQL("hash_record_extended(row({}), 0)").format(sql.SQL(", ").join(exact))
    # The text of a row quotes ambiguous values, is the same on every major version, and exists for every type.
    text = sql.SQL("row({})::text").format(sql.SQL(", ").join(values))
    if method is Hashing.UTF8:
        text = sql.SQL("encode(convert_to({}, 'UTF8'), 'hex')").format(text)
    return sql.SQL('hashtextextended({} collate "C", 0)').format(text)


def _exact(value: sql.Composable, kind: str) -> sql.Composable:
    """Expression to hash so that values that compare as equal but are not the same (1.0 and 1.00) hash differently."""
    plain = without_modifier(kind)
    if plain in _EXACTLY_HASHED:
        return value
    if plain == "numeric":
        return sql.SQL("numeric_send({})").format(value)
    # A collation of the source may treat a and A as equal; the mirror does not use that collation.
    is_text = plain in ("text", "character varying")
    return sql.SQL('{} collate "C"').format(value if is_text else sql.SQL("{}::text").format(value))
