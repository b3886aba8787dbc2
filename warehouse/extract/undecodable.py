"""Undecodable texts: refuse, replace or escape bytes of a source's texts that are invalid in its encoding.

A database in SQL_ASCII accepts any bytes, and some single-byte encodings have bytes without a character. The server
refuses to deliver them as UTF-8. The policy is an SQL expression that the source evaluates, so that its checksums are
those of the texts in the mirror.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import psycopg
from psycopg import sql

from warehouse.db.type_names import without_modifier
from warehouse.errors import UndecodableText
from warehouse.extract.column import Column
from warehouse.sources.source import Table, UndecodablePolicy

# The server raises these where it cannot deliver a text.
ERRORS = (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter)
_CHARACTERS = ("text", "character varying", "character", "name")
# Types whose text has a syntax, in which a backslash has to be doubled.
_STRUCTURED = ("json", "jsonb", "tsvector", "tsquery", *(f"{kind}[]" for kind in _CHARACTERS))
# Python's names of encodings that PostgreSQL calls otherwise.
_CODECS = {
    f"LATIN{n}": f"iso8859-{part}" for n, part in zip(range(5, 11), (9, 10, 13, 14, 15, 16), strict=True)
}
_CODECS |= {f"WIN{n}": f"cp{n}" for n in (866, 874, *range(1250, 1259))} | {
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
}
# One character in UTF-8, byte by byte; the regular expressions of a database in SQL_ASCII see bytes.
_UTF8 = (
    r"(?:[\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]"
    r"|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}|\u00ed[\u0080-\u009f][\u0080-\u00bf]"
    r"|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})"
)


@dataclass(frozen=True)
class Decoding:
    """Regular expressions for a valid character and an invalid byte of an encoding, and the replacement of the byte."""

    valid: str
    invalid: str
    replacement: str

    def is_invalid(self, text: sql.Composable) -> sql.Composable:
        """SQL condition: the text has invalid bytes."""
        return sql.SQL('({} collate "C" !~ {})').format(text, sql.Literal(f"^{self.valid}*$"))

    def decoded(
        self, text: sql.Composable, policy: UndecodablePolicy, *, is_structured: bool
    ) -> sql.Composable:
        """`text` with its invalid bytes replaced, or escaped as \\xNN."""
        escape = sql.SQL("{} || to_hex(ascii(part[1]))").format(
            sql.Literal(r"\\x" if is_structured else r"\x")
        )
        return sql.SQL(
            """
            case when {is_invalid} then (
                select string_agg(
                    case when part[1] collate "C" ~ {invalid} then {instead} else part[1] end, '' order by n
                )
                from regexp_matches({text} collate "C", {parts}, 'g') with ordinality as found (part, n)
            ) else {text} end
            """
        ).format(
            is_invalid=self.is_invalid(text),
            invalid=sql.Literal(f"^{self.invalid}$"),
            instead=escape if policy == "escape" else sql.Literal(self.replacement),
            text=text,
            parts=sql.Literal(f"({self.valid}+|{self.invalid})"),
        )


@cache
def decoding_of(encoding: str | None) -> Decoding | None:
    """Return how to find invalid bytes in texts of a server's encoding; None if there are none, or it is unknown."""
    if encoding == "SQL_ASCII":
        return Decoding(_UTF8, r"[\u0080-\u00ff]", "\ufffd")
    name = (encoding or "").upper()
    try:
        codec = codecs.lookup(_CODECS.get(name, name.replace("_", "-")))
        undefined = [byte for byte in range(128, 256) if not codec.decode(bytes([byte]), "ignore")[0]]
    except LookupError:
        return None
    # In a multi-byte encoding no byte above 127 is a character by itself: this does not find the invalid ones.
    if not undefined or len(undefined) == 128:
        return None
    members = "".join(rf"\u{byte:04x}" for byte in undefined)
    return Decoding(f"[^{members}]", f"[{members}]", "?")


def with_policy(
    connection: psycopg.Connection, table: Table, columns: Sequence[Column], policy: UndecodablePolicy
) -> tuple[Column, ...]:
    """Return the columns of a source table, with the text columns selected by the expression of its `policy`.

    Keys are escaped even if the policy is to replace: two keys must not become the same.
    """
    decoding = decoding_of(connection.info.parameter_status("server_encoding"))
    if decoding is None or policy == "refuse":
        return tuple(columns)
    return tuple(
        _decoded(column, decoding, "escape" if column.name in table.key else policy)
        if _is_text(column)
        else column
        for column in columns
    )


def count_undecodable(
    connection: psycopg.Connection, table: Table, columns: Sequence[Column], where: sql.Composable
) -> dict[str, int]:
    """Count, by column, the rows that are read in which the policy changes a text."""
    decoding = decoding_of(connection.info.parameter_status("server_encoding"))
    changed = [column for column in columns if column.decoded is not None]
    if decoding is None or not changed:
        return {}
    row = connection.execute(
        sql.SQL("select {} from {} where {}").format(
            sql.SQL(", ").join(
                sql.SQL("count(*) filter (where {})").format(decoding.is_invalid(_text(column.name)))
                for column in changed
            ),
            sql.Identifier(*table.at_source),
            where,
        )
    ).fetchone()
    assert row is not None
    return {column.name: count for column, count in zip(changed, row, strict=True) if count}


def explain_undecodable(
    connection: psycopg.Connection, table: Table, columns: Sequence[Column], error: psycopg.Error
) -> UndecodableText:
    """Build the error for a text that the source cannot deliver, with its column and the key of a row. `connection` is
    to the source, and its transaction must not have failed."""
    encoding = connection.info.parameter_status("server_encoding")
    hint = (
        f"Correct it there, or say in the source.toml of '{table.source}', for all tables or in [tables.{table.name}], "
        'what to keep: undecodable = "replace" (by a replacement character) or "escape" (as \\xNN).'
    )
    decoding = decoding_of(encoding)
    for column in with_policy(connection, table, columns, "escape") if decoding else ():
        if column.decoded is None:
            continue
        assert decoding is not None
        row = connection.execute(
            sql.SQL("select {} from {} where {} limit 1").format(
                sql.SQL(", ").join(
                    decoding.decoded(_text(name), "escape", is_structured=False) for name in table.key
                ),
                sql.Identifier(*table.at_source),
                decoding.is_invalid(_text(column.name)),
            )
        ).fetchone()
        if row:
            return UndecodableText(
                f"Column {column.name} of {table} of source '{table.source}', key ({', '.join(map(str, row))}): "
                f"its bytes are no text in UTF-8; the database has encoding {encoding}.",
                hint=hint,
            )
    return UndecodableText(
        f"{table} of source '{table.source}' cannot be read as UTF-8, since its database has encoding {encoding}: "
        f"{error.diag.message_primary}.",
        hint=hint,
    )


def _text(name: str) -> sql.Composable:
    return sql.SQL("{}::text").format(sql.Identifier(name))


def _is_text(column: Column) -> bool:
    return column.cast == "text" or without_modifier(column.type) in (*_CHARACTERS, *_STRUCTURED)


def _decoded(column: Column, decoding: Decoding, policy: UndecodablePolicy) -> Column:
    kind = without_modifier(column.type)
    is_structured = column.cast != "text" and kind in _STRUCTURED
    value = sql.SQL("({})").format(decoding.decoded(_text(column.name), policy, is_structured=is_structured))
    if is_structured:
        return replace(column, decoded=sql.SQL("{}::{}").format(value, sql.SQL(column.type)))
    # varchar(n) counts bytes at the source and characters in the warehouse, where an escaped byte has four of them.
    is_longer = policy == "escape" or kind != "character varying"
    return replace(column, type="text" if is_longer else column.type, decoded=value)
