"""Parse JSON lines, one object per request; a declaration says which key has which field."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warehouse.weblogs.formats.records import Record, RecordMaker
from warehouse.weblogs.reader.fallback import Fault


class JsonParser:
    """Parses JSON objects; `fields` has the keys of each field, nested ones joined by dots; the first in a line counts.

    A key may contain dots itself. Of a list the first value counts, for forwarded_for all. A key that begins with = is
    a constant, used if none of the keys before it exists.
    """

    def __init__(
        self, fields: Mapping[str, Sequence[str]], maker: Callable[[frozenset[str]], RecordMaker]
    ) -> None:
        self._maker = maker(frozenset(fields))
        self._places = [(name, [(path, path.split(".")) for path in paths]) for name, paths in fields.items()]

    def parse(self, line: bytes) -> Record | Fault:
        """Parse a line; returns its record, or why it has none."""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            reason = "empty line" if not line.strip() else "not a JSON object"
            return Fault("malformed_line", reason)
        if not isinstance(value, dict):
            return Fault("malformed_line", "not a JSON object")
        fields: dict[str, bytes] = {}
        for name, places in self._places:
            for path, keys in places:
                found = path[1:] if path.startswith("=") else value.get(path)
                if found is None and len(keys) > 1:
                    found = _at(value, keys)
                if found is not None:
                    fields[name] = _text(found, is_list=name == "forwarded_for")
                    break
        if "time" not in fields and "status" not in fields:
            return Fault("malformed_line", "neither time nor status are there: not a request")
        return self._maker.make(fields)


def _at(value: Any, keys: Sequence[str]) -> Any:
    for place, key in enumerate(keys):
        if isinstance(value, list) and key.isdecimal() and len(key) < 6:
            value = value[int(key)] if int(key) < len(value) else None
        elif isinstance(value, dict):
            rest = ".".join(keys[place:])
            if rest in value:
                return value[rest]
            value = value.get(key)
        else:
            return None
    return value


def _text(value: Any, *, is_list: bool) -> bytes:
    if isinstance(value, list):
        texts = [_text(one, is_list=False) for one in value]
        return b", ".join(texts) if is_list else texts[0] if texts else b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value).encode()
        return (
            str(int(value)).encode()
            if value.is_integer() and abs(value) < 1e18
            else format(value, ".9f").encode()
        )
    if isinstance(value, dict):
        return b"{}"
    return str(value).encode("utf-8", "surrogatepass")
