"""The session that keeps another one waiting: who it is, since when, and what it does."""

import re
from dataclasses import dataclass
from datetime import datetime

# Second words that say what a statement is about. Any other word may be a value.
_OBJECTS = (
    "table",
    "index",
    "materialized",
    "schema",
    "view",
    "trigger",
    "into",
    "from",
    "full",
    "concurrently",
)


@dataclass(frozen=True)
class LockHolder:
    """A session that keeps a table from being read or written; what the server hides from this user is None."""

    relation: str
    pid: int
    user: str | None
    application: str | None
    since: datetime | None
    state: str | None
    query: str | None
    waits_for: list[int]

    def __str__(self) -> str:
        since = f", in a transaction since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        doing = ""
        if statement := _shortened(self.query):
            doing = f", {'at work on' if self.state == 'active' else 'idle in it after'}: {statement}"
        waits = (
            f", which waits for server process {', '.join(map(str, self.waits_for))}"
            if self.waits_for
            else ""
        )
        application = f"{self.application}, " if self.application else ""
        return f"{self.user or 'another user'} ({application}server process {self.pid}{since}{doing}{waits})"


def _shortened(query: str | None) -> str | None:
    """The first words of a statement, without anything that could be a value."""
    words = re.match(r"\s*([a-z]+)(?:\s+([a-z]+)\b)?", query or "", re.IGNORECASE)
    if words is None:
        return None
    first, second = words[1].lower(), (words[2] or "").lower()
    return f"{first} {second} …" if second in _OBJECTS else f"{first} …"
