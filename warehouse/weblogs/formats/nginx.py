"""Parse nginx's log_format (https://nginx.org/en/docs/http/ngx_http_log_module.html) into literals and fields."""

import json
import re
from collections.abc import Callable
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.pattern import Field, Token

_LOG_FORMAT = re.compile(r"\s*log_format\s+\S+\s+(?:escape=(default|json|none)\s+)?(.*?);?\s*", re.DOTALL)
_DIRECTIVE_NAME = re.compile(r"\s*log_format\s")
_ESCAPE = re.compile(r"\s*escape=(default|json|none)\s+(.*)", re.DOTALL)
_STRING = re.compile(r"\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(\S+))\s*")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# Name of the field, and its rank: of several fields with one name, the lowest rank counts.
VARIABLES: Final = {
    "time_iso8601": ("time", 0), "time_local": ("time", 1), "msec": ("time", 2), "remote_addr": ("address", 0),
    "http_x_forwarded_for": ("forwarded_for", 0), "remote_user": ("user", 0), "request": ("request", 0),
    "request_method": ("method", 0), "request_uri": ("target", 0), "uri": ("path", 0), "args": ("query", 0),
    "query_string": ("query", 0), "server_protocol": ("protocol", 0), "status": ("status", 0),
    "body_bytes_sent": ("response_bytes", 0), "bytes_sent": ("response_bytes", 1),
    "request_length": ("request_bytes", 0),
    "http_referer": ("referer", 0), "http_user_agent": ("user_agent", 0), "http_host": ("host", 0), "host": ("host", 1),
    "server_name": ("host", 2), "request_time": ("seconds", 0), "ssl_protocol": ("tls", 0), "https": ("tls", 1),
    "scheme": ("tls", 2),
}  # fmt: skip
# The list that nginx would pass on: it ends with the address of the connection.
_WITH_ADDRESS: Final = {"proxy_add_x_forwarded_for": ("forwarded_for", 1)}
_PATTERNS: Final = {
    "msec": rb"\d{1,10}\.\d{3}",
    "time_local": rb"[^ \]\"]*+ [+-]\d{4}",
    "request_time": rb"\d{1,9}\.\d{3}|-",
}


def tokens_of(declared: str) -> tuple[list[Token], Callable[[bytes], bytes] | None]:
    """Parse a log_format, with or without the directive's name; returns its tokens, and a function to unescape values.

    Raises:
        DeclarationError: it is not finished.
    """
    text, escape = declared, "default"
    if match := _LOG_FORMAT.fullmatch(declared):
        escape, text = match[1] or "default", _joined(match[2])
    elif match := _ESCAPE.fullmatch(declared):
        escape, text = match[1], match[2]
    elif _DIRECTIVE_NAME.match(declared):
        raise _unfinished(declared)
    tokens: list[Token] = []
    place = 0
    for variable in (*_VARIABLE.finditer(text), None):
        literal = text[place : variable.start() if variable else None]
        if "$" in literal:
            raise _unfinished(literal[literal.index("$") :])
        if literal:
            tokens.append(literal)
        if variable is None:
            break
        place = variable.end()
        name = variable[1] or variable[2]
        field, rank = {**VARIABLES, **_WITH_ADDRESS}.get(name, (None, 0))
        tokens.append(Field(field, f"${name}", rank, _PATTERNS.get(name)))
    return tokens, _from_json if escape == "json" else None


def _joined(strings: str) -> str:
    """Concatenate the strings of a directive.

    Raises:
        DeclarationError: a quote is not closed.
    """
    parts = []
    for match in _STRING.finditer(strings):
        if match[3] and match[3][0] in "'\"":
            raise _unfinished(strings[match.start(3) :])
        quoted = match[1] if match[1] is not None else match[2]
        parts.append(match[3] if quoted is None else re.sub(r"\\(['\"\\])", r"\1", quoted))
    return "".join(parts)


def _unfinished(text: str) -> DeclarationError:
    return DeclarationError(
        f"'{text[:40]}' is no part of a log_format, or not all of it.",
        hint="As in the configuration: log_format name '$remote_addr …'; a variable is as $status or ${status}.",
    )


def _from_json(value: bytes) -> bytes:
    try:
        return str(json.loads(b'"' + value + b'"', strict=False)).encode("utf-8", "surrogatepass")
    except ValueError:
        return value
