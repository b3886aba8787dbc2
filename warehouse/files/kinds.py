"""Recognize a file's kind (access log, error log, CSV, picture …) by its first bytes, with a hint for each kind."""

import csv
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

INSPECT = "`dwh weblogs inspect FILE` shows how its lines can be read, and writes the declaration."
MOVE = "Move it out of the landing folder, or add its name to DWH_WEBLOG_IGNORE."
UNPACK = "Unpack it in the landing folder, then move it away."
CONVERT = "Export what it holds as text, one request per line."

# Number of lines by which a text file is recognized.
_LINES = 50
# Share of these lines that must match a kind: a banner or a traceback among them does not matter.
_ALIKE = 0.6


@dataclass(frozen=True)
class Kind:
    """A kind of file: `title` names it in a sentence, `hint` is what to do if it is not loaded."""

    name: str
    title: str
    hint: str
    is_text: bool = True

    @property
    def may_be_log(self) -> bool:
        """Whether the file may be a web log, by the text that it begins with."""
        return self.is_text and self.hint == INSPECT

    def __str__(self) -> str:
        return self.title


ACCESS_LOG: Final = Kind("access log", "an access log", INSPECT)
EMPTY: Final = Kind("empty", "an empty file", "Nothing: it is read when it has lines.")
TEXT: Final = Kind("text", "text of an unknown format", INSPECT)
BINARY: Final = Kind("binary", "a binary file", MOVE, is_text=False)
ZIP: Final = Kind("zip", "a zip archive", UNPACK, is_text=False)
TAR: Final = Kind("tar", "a tar archive", UNPACK, is_text=False)
ARCHIVES: Final = (ZIP, TAR)
_ENCRYPTED: Final = Kind("encrypted", "an encrypted file", "Decrypt it in the landing folder.", is_text=False)
_SPREADSHEET: Final = Kind("spreadsheet", "a spreadsheet", CONVERT, is_text=False)
_CAPTURE: Final = Kind("packet capture", "a packet capture", MOVE, is_text=False)
_EXECUTABLE: Final = Kind("executable", "an executable", MOVE, is_text=False)
_PICTURE: Final = Kind("picture", "a picture", MOVE, is_text=False)
_CLOUD_HINT: Final = "Logs of load balancers are not loaded. " + MOVE

# Magic numbers of binary files.
_MAGIC: Final = {
    b"%PDF-": Kind("pdf", "a PDF document", MOVE, is_text=False),
    b"\x89PNG\r\n": _PICTURE,
    b"\xff\xd8\xff": _PICTURE,
    b"GIF8": _PICTURE,
    b"SQLite format 3\0": Kind("sqlite", "an SQLite database", CONVERT, is_text=False),
    b"PGDMP": Kind("dump", "a dump of a PostgreSQL database", MOVE, is_text=False),
    b"PAR1": Kind("parquet", "a Parquet file", CONVERT, is_text=False),
    b"ARROW1": Kind("arrow", "an Arrow file", CONVERT, is_text=False),
    b"Obj\x01": Kind("avro", "an Avro file", CONVERT, is_text=False),
    b"ORC": Kind("orc", "an ORC file", CONVERT, is_text=False),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _SPREADSHEET,
    b"\x7fELF": _EXECUTABLE,
    b"MZ": _EXECUTABLE,
    b"\xd4\xc3\xb2\xa1": _CAPTURE,
    b"\xa1\xb2\xc3\xd4": _CAPTURE,
    b"\x0a\x0d\x0d\x0a": _CAPTURE,
    b"LPKSHHRH": Kind(
        "journal", "a systemd journal", "`journalctl --file` writes its messages as text.", is_text=False
    ),
    b"ElfFile\0": Kind("evtx", "a Windows event log", MOVE, is_text=False),
    b"7z\xbc\xaf\x27\x1c": Kind("7z", "a 7-Zip archive", UNPACK, is_text=False),
    b"Rar!\x1a\x07": Kind("rar", "a RAR archive", UNPACK, is_text=False),
    b"\x1f\x9d": Kind("compress", "a file compressed by compress (.Z)", UNPACK, is_text=False),
    b"\x89LZO": Kind("lzop", "a file compressed by lzop", UNPACK, is_text=False),
    b"\xff\x06\x00\x00sNaPpY": Kind("snappy", "a file compressed by Snappy", UNPACK, is_text=False),
    b"Salted__": _ENCRYPTED,
    b"age-encryption.org/": _ENCRYPTED,
    b"-----BEGIN PGP MESSAGE": _ENCRYPTED,
}
# Text may begin with these magic numbers, too: they count only if the rest is binary.
_IN_TEXT_TOO: Final = (b"MZ", b"GIF8", b"ORC", b"PAR1", b"ARROW1", b"PGDMP", b"\x0a\x0d\x0d\x0a")

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
# Patterns for the beginning of a line. The first one that matches most lines decides.
_LINES_OF: Final = tuple(
    (re.compile(pattern.encode()), kind)
    for pattern, kind in (
        (r'[^"\[]*\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "', ACCESS_LOG),
        (
            r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] \d+#\d+: ",
            Kind("nginx error log", "an error log of nginx", MOVE),
        ),
        (
            r"\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d(\.\d+)? \d{4}\] (\[[^\]]*\] ?)*",
            Kind("apache error log", "an error log of Apache", MOVE),
        ),
        (
            rf"(https?|h2|grpcs|wss?) {_TIME}\.\d+Z \S+ \S+:\d+ ",
            Kind("alb", "a log of an AWS Application Load Balancer", _CLOUD_HINT),
        ),
        (
            rf'{_TIME}\.\d+Z \S+ \S+:\d+ \S+ (-?[\d.]+ ){{3}}.*"',
            Kind("elb", "a log of an AWS Classic Load Balancer", _CLOUD_HINT),
        ),
        (
            r"[0-9a-f]{64} \S+ \[\d\d/[A-Z][a-z]{2}/\d{4}:",
            Kind("s3", "an access log of an S3 bucket", _CLOUD_HINT),
        ),
        (r"\d{10}\.\d{3} +\d+ \S+ \w+/\d{3} ", Kind("squid", "an access log of Squid", MOVE)),
        (
            r"(<\d+>1? ?)?(\w{3} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) \S+ [\w./-]+(\[\d+\])?:",
            Kind("syslog", "a syslog", INSPECT),
        ),
        (rf"\[?{_TIME}", Kind("application log", "a log of an application", MOVE)),
        (
            r"[^\"]*\"[^\"\[]*\[\d\d/[A-Z][a-z]{2}/\d{4}:",
            Kind("quoted access log", "an access log in quotes", INSPECT),
        ),
    )
)
_HTML: Final = Kind("html", "an HTML page", MOVE)
_XML: Final = Kind("xml", "an XML document", MOVE)
_SQL: Final = Kind("sql", "a script of SQL", MOVE)
_STARTS: Final = (
    (re.compile(rb"<!doctype html|<html", re.IGNORECASE), _HTML),
    (re.compile(rb"<\?xml|<[a-z][\w:-]*[ >]", re.IGNORECASE), _XML),
    (re.compile(rb"(create|insert into|begin;|set \w+ ?=)", re.IGNORECASE), _SQL),
)
_CLOUDFRONT: Final = Kind("cloudfront", "a log of Amazon CloudFront", _CLOUD_HINT)
W3C: Final = Kind("w3c", "a log in W3C extended format (as IIS writes it)", INSPECT)
JSON_LINES: Final = Kind("json lines", "JSON lines", INSPECT)
_JSON: Final = Kind("json", "a JSON document", CONVERT)
_CLOUD_JSON: Final[dict[str, Callable[[dict[str, Any]], bool]]] = {
    "a log of a Google Cloud load balancer": lambda line: "httpRequest" in line and "logName" in line,
    "a log of Azure Front Door or Application Gateway": lambda line: (
        "category" in line and "properties" in line
    ),
}
CSV: Final = Kind("csv", "CSV", INSPECT)
_DELIMITERS: Final = ",;\t|"


def kind_of(head: bytes) -> Kind:
    """Return the kind of a file whose decompressed content begins with `head`."""
    if not head:
        return EMPTY
    is_binary = _is_binary(head)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic) and (is_binary or magic not in _IN_TEXT_TOO):
            return kind
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _kind_of_zip(head)
    if is_tar(head):
        return TAR
    if is_binary:
        return BINARY
    return _kind_of_text(head)


def is_tar(head: bytes) -> bool:
    """Whether a file begins as a tar archive does."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _kind_of_zip(head: bytes) -> Kind:
    # Office and LibreOffice documents are zip archives that begin with these members; archives of logs are not.
    first_name = head[30:90]
    if first_name.startswith((b"[Content_Types].xml", b"_rels/", b"docProps/")):
        return _SPREADSHEET
    if first_name.startswith(b"mimetypeapplication/vnd.oasis.opendocument"):
        return _SPREADSHEET
    if first_name.startswith(b"META-INF/"):
        return _EXECUTABLE
    return ZIP


def _is_binary(head: bytes) -> bool:
    """Whether more than a few bytes are control characters or invalid UTF-8. NULs at the beginning do not count."""
    text = head.lstrip(b"\0")[:4096]
    if not text.strip():
        return not text or len(text) < len(head)
    control = sum(text.count(bytes([byte])) for byte in range(32) if byte not in b"\t\n\r\x1b\x0b\x0c")
    # The limit of 25% allows for texts in Latin-1. Subtract one, since the last character may be cut off.
    undecodable = text.decode("utf-8", "replace").count("\ufffd") - 1
    return b"\0" in text or control / len(text) > 0.02 or undecodable / len(text) > 0.25


def _kind_of_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\0")
    every = [line.strip() for line in text.splitlines()]
    lines = [line for line in every if line][:_LINES]
    # The last line may be cut off.
    lines = (
        lines[:-1] if len(lines) > 1 and not text.endswith((b"\n", b"\r")) and len(lines) < _LINES else lines
    )
    if not lines:
        return TEXT
    if lines[0].startswith(b"#") and any(line.startswith(b"#Fields:") for line in lines):
        return _CLOUDFRONT if any(b"x-edge-location" in line for line in lines[:4]) else W3C
    for pattern, kind in _LINES_OF:
        if _share(lines, lambda line, pattern=pattern: pattern.match(line) is not None) >= _ALIKE:  # type: ignore[misc]
            return kind
    if lines[0][:1] in (b"{", b"["):
        return _kind_of_json(lines)
    for pattern, kind in _STARTS:
        if pattern.match(lines[0]):
            return kind
    return CSV if _is_csv(lines) else TEXT


def _kind_of_json(lines: list[bytes]) -> Kind:
    records = [record for line in lines if (record := _json_object(line)) is not None]
    if not records or len(records) / len(lines) < _ALIKE:
        return _JSON
    for title, is_one in _CLOUD_JSON.items():
        if all(map(is_one, records)):
            return Kind("cloud json", title, _CLOUD_HINT)
    return JSON_LINES


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_csv(lines: list[bytes]) -> bool:
    """Whether nearly all lines have as many fields as the first, and more than one."""
    texts = [line.decode("utf-8", "replace") for line in lines]
    if len(texts) < 2:
        return False
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(texts, delimiter=delimiter)]
        except csv.Error:
            continue
        if widths and widths[0] > 2 and widths.count(widths[0]) / len(widths) >= _ALIKE:
            return True
    return False


def _share(lines: list[bytes], matches: Callable[[bytes], bool]) -> float:
    return sum(map(matches, lines)) / len(lines)
