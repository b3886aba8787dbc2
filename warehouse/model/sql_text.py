"""Hash SQL texts by their tokens, so that comments and white space do not change the hash."""

import hashlib
from functools import cache

from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

_DIALECT = Postgres()


def sql_tokens(text: str) -> tuple[str, ...]:
    """Split an SQL text into tokens as written, without comments and white space."""
    try:
        return tuple(text[token.start : token.end + 1] for token in _DIALECT.tokenize(text))
    except TokenError:
        # PostgreSQL will report the error; until then, the whole text is one token.
        return (text,)


def hash_parts(*parts: object) -> str:
    """SHA-256 of the values' representation (repr)."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def hash_sql(text: str) -> str:
    """SHA-256 of the tokens of an SQL text."""
    return hash_parts(*sql_tokens(text))
