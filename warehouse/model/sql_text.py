"""The hash of an SQL text, which comments and white space do not change."""

import hashlib
from functools import cache

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

_DIALECT = Postgres()


def sql_tokens(text: str) -> tuple[str, ...]:
    """The tokens of an SQL text as they are written: literals and quoted names whole, comments and space left out."""
    try:
        return tuple(text[token.start : token.end + 1] for token in _DIALECT.tokenize(text))
    except TokenError:
        # PostgreSQL will say what is wrong with it; until then it is all of one piece.
        return (text,)


def hash_parts(*parts: object) -> str:
    """SHA-256 of values by their representation."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def hash_sql(text: str) -> str:
    """SHA-256 of the tokens of an SQL text."""
    return hash_parts(*sql_tokens(text))
