"""Access log lines: what is parsed, what is rejected and why, by the compiled parser and by the fallback."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from shutil import which

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.diagnostics import examine
from warehouse.settings import Settings
from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING
from warehouse.weblogs.reader.fallback import DECLARE, FORWARDED, Fault, address_fault
from warehouse.weblogs.reader.parse import parse

AGENT = b"Mozilla/5.0 (X11; Linux x86_64)"
LINE = (
    b'1.2.3.4 - ana [17/May/2015:10:05:03 +0000] "GET /product/7 HTTP/1.1" 200 2326 "https://a.example/" "%s"'
    % AGENT
)


@dataclass(frozen=True)
class Row:
    address: str
    user: bytes
    at: str
    request: bytes
    status: int
    size: int
    referer: bytes
    agent: bytes


ROW = Row(
    "1.2.3.4",
    b"ana",
    "2015-05-17 10:05:03",
    b"GET /product/7 HTTP/1.1",
    200,
    2326,
    b"https://a.example/",
    AGENT,
)


@pytest.fixture(params=["compiled", "portable"], scope="module", autouse=True)
def parser(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled parser, and the one for machines without a C compiler."""
    if request.param == "compiled":
        if native.library is None and which("cc") is None:
            pytest.skip("no C compiler here")
        assert native.fault is None
        yield request.param
        return
    with without_library():
        yield request.param


@contextmanager
def without_library() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", None)
        patch.setattr(native, "fault", native.NOT_INSTALLED)
        yield


def read(content: bytes) -> tuple[dict[int, Row], dict[int, tuple[str, str]]]:
    """Rows and faults by line number of a block of whole lines."""
    buffer = np.zeros(len(content) + PADDING, np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    parsed = parse(buffer, len(content), AddressReader())
    columns, visitors = parsed.columns, parsed.visitors()
    rows = {}
    for place, line in enumerate(columns.line.tolist()):

        def text(name: str, place: int = place) -> bytes:
            start, end = (getattr(columns, f"{name}_{edge}")[place] for edge in ("start", "end"))
            return content[start:end]

        rows[line + 1] = Row(
            visitors[place],
            text("user"),
            f"{datetime.fromtimestamp(int(columns.seconds[place]), UTC):%Y-%m-%d %H:%M:%S}",
            text("request"),
            int(columns.status[place]),
            int(columns.size[place]),
            text("referer"),
            text("agent"),
        )
    return rows, {one.line + 1: (one.rule, one.reason) for one in parsed.rejected}


def changed(**values: object) -> Row:
    return Row(**{**vars(ROW), **values})  # type: ignore[arg-type]


READ = {
    "as most lines are": (LINE, ROW),
    "Windows line end": (LINE + b"\r", ROW),
    "nobody logged in": (LINE.replace(b" ana ", b" - "), changed(user=b"-")),
    "user name with a space": (LINE.replace(b" ana ", b" ana maria "), changed(user=b"ana maria")),
    "identity by identd": (LINE.replace(b"- ana", b"unix ana"), ROW),
    "east of Greenwich": (LINE.replace(b"+0000", b"+0530"), changed(at="2015-05-17 04:35:03")),
    "west of Greenwich": (LINE.replace(b"+0000", b"-0300"), changed(at="2015-05-17 13:05:03")),
    "byte order mark before": (b"\xef\xbb\xbf" + LINE, ROW),
    "leap day": (LINE.replace(b"17/May/2015", b"29/Feb/2016"), changed(at="2016-02-29 10:05:03")),
    "leap second": (LINE.replace(b"10:05:03", b"23:59:60"), changed(at="2015-05-18 00:00:00")),
    "no size": (LINE.replace(b" 2326 ", b" - "), changed(size=0)),
    "size 0": (LINE.replace(b" 2326 ", b" 0 "), changed(size=0)),
    "size of eight digits": (LINE.replace(b" 2326 ", b" 99999999 "), changed(size=99_999_999)),
    "size beyond four gigabytes": (LINE.replace(b" 2326 ", b" 5368709120 "), changed(size=5 * 2**30)),
    "IPv6": (LINE.replace(b"1.2.3.4", b"2001:db8::7"), changed(address="2001:db8::7")),
    "long IPv6": (
        LINE.replace(b"1.2.3.4", b"2001:0db8:1234:5678:9abc:def0:1234:5678"),
        changed(address="2001:db8:1234:5678:9abc:def0:1234:5678"),
    ),
    "IPv4 in IPv6": (LINE.replace(b"1.2.3.4", b"::ffff:1.2.3.4"), ROW),
    "IPv4 in IPv6, in hexadecimal": (LINE.replace(b"1.2.3.4", b"::FFFF:0102:0304"), ROW),
    "IPv4 in IPv6, at length": (LINE.replace(b"1.2.3.4", b"0:0:0:0:0:ffff:102:304"), ROW),
    "host name": (LINE.replace(b"1.2.3.4", b"pc7.lan.example"), changed(address="pc7.lan.example")),
    "host name of one label": (LINE.replace(b"1.2.3.4", b"localhost"), changed(address="localhost")),
    "host name with an address in it": (
        LINE.replace(b"1.2.3.4", b"1-2-3-4.dsl_7.example.net"),
        changed(address="1-2-3-4.dsl_7.example.net"),
    ),
    "host name of the longest kind": (
        LINE.replace(b"1.2.3.4", b".".join([b"a" * 63] * 3 + [b"b" * 61])),
        changed(address=".".join(["a" * 63] * 3 + ["b" * 61])),
    ),
    "blank user": (LINE.replace(b" ana ", b"   "), changed(user=b"")),
    "empty user": (LINE.replace(b" ana ", b"  "), changed(user=b"")),
    "user of dashes and blanks": (LINE.replace(b" ana ", b" - - "), changed(user=b"")),
    "user of a tab": (LINE.replace(b" ana ", b" \t "), changed(user=b"")),
    "user of two dashes": (LINE.replace(b" ana ", b" -- "), changed(user=b"--")),
    "quotes in the agent that are not escaped": (LINE.replace(AGENT, b'a "b" c'), changed(agent=b'a "b" c')),
    "one quote in the agent that is not escaped": (
        LINE.replace(AGENT, b'5" screen'),
        changed(agent=b'5" screen'),
    ),
    "agent that begins with a quote that is not escaped": (LINE.replace(AGENT, b'"a'), changed(agent=b'"a')),
    "agent that ends with a quote that is not escaped": (LINE.replace(AGENT, b'a"'), changed(agent=b'a"')),
    "quotes in the referer that are not escaped": (
        LINE.replace(b"a.example/", b'a.example/?"x"'),
        changed(referer=b'https://a.example/?"x"'),
    ),
    "quotes in the request that are not escaped": (
        LINE.replace(b"/product/7", b'/?q="x"'),
        changed(request=b'GET /?q="x" HTTP/1.1'),
    ),
    "quotes in the request that are not escaped, common format": (
        LINE[: LINE.index(b' "https')].replace(b"/product/7", b'/?q="x"'),
        changed(request=b'GET /?q="x" HTTP/1.1', referer=b"", agent=b""),
    ),
    "what looks like the request's end within it": (
        LINE.replace(b"/product/7", b'/?q=" 404 12 x'),
        changed(request=b'GET /?q=" 404 12 x HTTP/1.1'),
    ),
    "shortest address": (LINE.replace(b"1.2.3.4", b"0.0.0.0"), changed(address="0.0.0.0")),
    "longest address": (LINE.replace(b"1.2.3.4", b"255.255.255.255"), changed(address="255.255.255.255")),
    "no referer, no agent": (
        LINE.replace(b"https://a.example/", b"-").replace(AGENT, b"-"),
        changed(referer=b"-", agent=b"-"),
    ),
    "empty agent": (LINE.replace(AGENT, b""), changed(agent=b"")),
    "no request": (LINE.replace(b"GET /product/7 HTTP/1.1", b"-"), changed(request=b"-")),
    "empty request": (LINE.replace(b"GET /product/7 HTTP/1.1", b""), changed(request=b"")),
    "HTTP/2": (LINE.replace(b"HTTP/1.1", b"HTTP/2.0"), changed(request=b"GET /product/7 HTTP/2.0")),
    "CONNECT": (
        LINE.replace(b"GET /product/7", b"CONNECT a.example:443"),
        changed(request=b"CONNECT a.example:443 HTTP/1.1"),
    ),
    "asterisk": (LINE.replace(b"GET /product/7", b"OPTIONS *"), changed(request=b"OPTIONS * HTTP/1.1")),
    "escaped quote in the agent": (
        LINE.replace(AGENT, rb"say \"hi\" now"),
        changed(agent=rb"say \"hi\" now"),
    ),
    "escaped quotes that look like more fields": (
        LINE.replace(AGENT, rb"x\" \"y"),
        changed(agent=rb"x\" \"y"),
    ),
    "backslash before the closing quote": (LINE.replace(AGENT, rb"C:\\"), changed(agent=rb"C:\\")),
    "escaped quote in the request": (
        LINE.replace(b"/product/7", rb"/?q=\"x\""),
        changed(request=rb"GET /?q=\"x\" HTTP/1.1"),
    ),
    "tab in the agent": (LINE.replace(AGENT, b"a\tb"), changed(agent=b"a\tb")),
    "invalid UTF-8 in the request": (
        LINE.replace(b"/product/7", b"/\xff\xfe"),
        changed(request=b"GET /\xff\xfe HTTP/1.1"),
    ),
    "NUL in the agent": (LINE.replace(AGENT, b"a\0b"), changed(agent=b"a\0b")),
    "request of a megabyte": (
        LINE.replace(b"/product/7", b"/" + b"x" * 2**20),
        changed(request=b"GET /" + b"x" * 2**20 + b" HTTP/1.1"),
    ),
    "common format": (LINE[: LINE.index(b' "https')], changed(referer=b"", agent=b"")),
    "common format without a size": (
        LINE[: LINE.index(b' "https')].replace(b" 2326", b" -"),
        changed(referer=b"", agent=b"", size=0),
    ),
    "more fields behind": (LINE + b' "10.0.0.1" 0.003', ROW),
    "tabs between the last fields": (LINE.replace(b'" 200 2326 "', b'" 200\t2326\t"'), ROW),
}

OTHER, TWO = (
    "other_format",
    "two addresses, or a virtual host and an address, stand before the user" + DECLARE,
)
FOUR = "4 fields stand before the time, not address, identity and user" + DECLARE
QUOTE = "a quote inside a field is not escaped: where "
NO_ADDRESS = "is neither an IP address nor a host name"
NONE, LAYOUT = "no request can be of ", "not laid out as an access log line "
AS = "is no time as [17/May/2015:10:05:03 +0000]"
MALFORMED, NO_TIME = "malformed_line", "impossible_date"
FAULTS = {
    "empty": (b"", MALFORMED, "empty line"),
    "blank": (b"   ", MALFORMED, "empty line"),
    "garbage": (b"\x16\x03\x01\x02\x00", MALFORMED, "there is no [time]"),
    "cut off in the agent": (LINE[:-5], MALFORMED, "a quote is not closed"),
    "cut off in the time": (LINE[:30], MALFORMED, LAYOUT + "(0 quotes)"),
    "agent that looks like another field": (
        LINE.replace(AGENT, b'a" "b "c'), MALFORMED, QUOTE + "referer and user agent end is not certain"
    ),
    "request that looks like a whole line": (
        LINE.replace(b"/product/7", b'/" 200 7 "-" "b'), MALFORMED, QUOTE + "the request ends is not certain"
    ),
    "text behind the agent with a quote in it": (LINE + b' x"y', MALFORMED, "a quote is not closed"),
    "forwarded list": (LINE.replace(b"1.2.3.4", b"2.0.0.9, 1.2.3.4"), OTHER, FORWARDED),
    "forwarded list of three": (LINE.replace(b"1.2.3.4", b"2.0.0.9, 2.1.0.9, 1.2.3.4"), OTHER, FORWARDED),
    "forwarded list without blanks": (LINE.replace(b"1.2.3.4", b"2.0.0.9,1.2.3.4"), OTHER, FORWARDED),
    "forwarded list of nobody known": (LINE.replace(b"1.2.3.4", b"unknown, 1.2.3.4"), OTHER, FORWARDED),
    "two addresses": (b"2.0.0.9 " + LINE, OTHER, TWO),
    "two addresses of nobody logged in": (b"2.0.0.9 " + LINE.replace(b" ana ", b" - "), OTHER, TWO),
    "three addresses": (b"2.0.0.9 2001:db8::7 " + LINE, OTHER, TWO),
    "virtual host before": (b"www.a.example " + LINE, OTHER, TWO),
    "virtual host with a port before": (b"www.a.example:443 " + LINE, OTHER, TWO),
    "virtual host before a host name": (
        b"www.a.example " + LINE.replace(b"1.2.3.4", b"pc7.lan"), OTHER, FOUR
    ),
    "virtual host before a host name of nobody logged in": (
        b"www.a.example " + LINE.replace(b"1.2.3.4", b"pc7.lan").replace(b" ana ", b" - "), OTHER, FOUR
    ),
    "no blank after the address": (
        LINE.replace(b"1.2.3.4 ", b"1.2.3.4"), MALFORMED, "address, identity and user are not all there"
    ),
    "two blanks after the address": (
        LINE.replace(b"1.2.3.4 ", b"1.2.3.4  "), MALFORMED, "address or identity is empty"
    ),
    "no blank before the time": (LINE.replace(b" [", b"["), MALFORMED, "there is no [time]"),
    "no user": (LINE.replace(b" - ana", b" -"), MALFORMED, "address, identity and user are not all there"),
    "31 February": (LINE.replace(b"17/May", b"31/Feb"), NO_TIME, NONE + "31/Feb/2015:10:05:03 +0000"),
    "29 February of a common year": (LINE.replace(b"17/May", b"29/Feb"), NO_TIME, NONE + "29/Feb/2015:10:05:03 +0000"),
    "before 1970": (LINE.replace(b"/2015", b"/1969"), NO_TIME, NONE + "17/May/1969:10:05:03 +0000"),
    "after 2148": (LINE.replace(b"/2015", b"/2149"), NO_TIME, NONE + "17/May/2149:10:05:03 +0000"),
    "NULs for a date": (
        LINE.replace(b"17/May/2015", b"\0" * 11), MALFORMED, "'" + r"\x00" * 11 + f":10:05:03 +0000' {AS}"
    ),
    "hour 25": (LINE.replace(b":10:05", b":25:05"), NO_TIME, NONE + "17/May/2015:25:05:03 +0000"),
    "minute 60": (LINE.replace(b":10:05", b":10:60"), NO_TIME, NONE + "17/May/2015:10:60:03 +0000"),
    "no such month": (LINE.replace(b"May", b"Mai"), NO_TIME, NONE + "17/Mai/2015:10:05:03 +0000"),
    "zone of 99 hours": (LINE.replace(b"+0000", b"+9900"), NO_TIME, NONE + "17/May/2015:10:05:03 +9900"),
    "no zone": (LINE.replace(b" +0000", b""), MALFORMED, f"'17/May/2015:10:05:03' {AS}"),
    "status 999": (LINE.replace(b" 200 ", b" 999 "), "bad_status", "'999' is no HTTP status"),
    "status 099": (LINE.replace(b" 200 ", b" 099 "), "bad_status", "'099' is no HTTP status"),
    "status of letters": (LINE.replace(b" 200 ", b" abc "), "bad_status", "'abc' is no HTTP status"),
    "size of letters": (LINE.replace(b" 2326 ", b" 2k "), MALFORMED, "'2k' is no response size"),
    "negative size": (LINE.replace(b" 2326 ", b" -1 "), MALFORMED, "'-1' is no response size"),
    "octet 256": (LINE.replace(b"1.2.3.4", b"1.2.3.256"), "bad_address", "'1.2.3.256' " + NO_ADDRESS),
    "three octets": (LINE.replace(b"1.2.3.4", b"1.2.3"), "bad_address", "'1.2.3' " + NO_ADDRESS),
    "five octets": (LINE.replace(b"1.2.3.4", b"1.2.3.4.5"), "bad_address", "'1.2.3.4.5' " + NO_ADDRESS),
    "leading zero": (LINE.replace(b"1.2.3.4", b"01.2.3.4"), "bad_address", "'01.2.3.4' " + NO_ADDRESS),
    "port": (LINE.replace(b"1.2.3.4", b"1.2.3.4:80"), "bad_address", "'1.2.3.4:80' " + NO_ADDRESS),
    "dash for an address": (LINE.replace(b"1.2.3.4", b"-"), "bad_address", "'-' " + NO_ADDRESS),
    "host name that is too long": (
        LINE.replace(b"1.2.3.4", b"a." * 128), "bad_address", "'" + ("a." * 128)[:100] + "' " + NO_ADDRESS
    ),
    "label that is too long": (
        LINE.replace(b"1.2.3.4", b"a" * 64), "bad_address", "'" + "a" * 64 + "' " + NO_ADDRESS
    ),
    "IPv6 with a zone": (LINE.replace(b"1.2.3.4", b"fe80::1%eth0"), "bad_address", "'fe80::1%eth0' " + NO_ADDRESS),
    "NULs before the line": (b"\0" * 9 + LINE, "bad_address", "'" + r"\x00" * 9 + "1.2.3.4' " + NO_ADDRESS),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_line_is_read(name: str) -> None:
    line, row = READ[name]
    assert read(line + b"\n") == ({1: row}, {})


@pytest.mark.parametrize("name", FAULTS)
def test_line_is_rejected_with_rule_and_reason(name: str) -> None:
    line, rule, reason = FAULTS[name]
    assert read(line + b"\n") == ({}, {1: (rule, reason)})


def test_all_of_them_in_one_block_each_at_its_line() -> None:
    lines = [line for line, _ in READ.values()] + [line for line, *_ in FAULTS.values()]
    rows, faults = read(b"".join(line + b"\n" for line in lines))
    assert rows == {number: row for number, (_, row) in enumerate(READ.values(), start=1)}
    assert faults == {
        number: (rule, reason)
        for number, (_, rule, reason) in enumerate(FAULTS.values(), start=len(READ) + 1)
    }


REGULAR = [line for name, (line, _) in READ.items() if "megabyte" not in name]


HOSTILE = [
    b"",
    b" ",
    b'"',
    b"\\",
    b"-",
    b"9",
    b"[",
    b"]",
    b":",
    b"\0",
    b"\r",
    b"/",
    b"\xff",
    b"\t",
    b'" "',
    b"[] ",
    b", ",
    b" - ",
    b"- -",
    b" 2.0.0.9 ",
    b"::ffff:",
    b'" 200 7 "',
]


@given(data=st.data())
def test_both_parsers_agree_on_any_line(data: st.DataObject, parser: str) -> None:
    """Bytes of good lines changed, removed and added: the compiled parser finds what the regular expressions find."""
    if parser == "portable":
        return
    lines = []
    for _ in range(data.draw(st.integers(1, 5))):
        line = bytearray(data.draw(st.sampled_from(REGULAR)))
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(line) - 1)) if line else 0
            line[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(HOSTILE))
        lines.append(bytes(line))
    assert_agree(lines)


def test_both_parsers_agree_on_twenty_thousand_hostile_lines(parser: str) -> None:
    if parser == "portable":
        return
    rng = random.Random(7)
    for _ in range(40):
        lines = []
        for _ in range(500):
            line = bytearray(rng.choice(REGULAR))
            for _ in range(rng.randint(0, 4)):
                at, length = rng.randint(0, len(line)), rng.choice([0, 0, 1, 1, 2, 11, 30])
                line[at : at + length] = rng.choice([rng.choice(HOSTILE), rng.randbytes(length)])
            lines.append(bytes(line).replace(b"\n", b"n"))
        assert_agree(lines)


def assert_agree(lines: list[bytes]) -> None:
    content = b"".join(line + b"\n" for line in lines)
    compiled = read(content)
    with without_library():
        assert read(content) == compiled


@given(st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=30))
def test_every_line_is_read_or_rejected(lines: list[bytes]) -> None:
    rows, faults = read(b"".join(line + b"\n" for line in lines))
    assert sorted([*rows, *faults]) == list(range(1, len(lines) + 1))


def test_doctor_says_which_parser_reads(parser: str) -> None:
    (finding,) = (found for found in examine(Settings(_env_file=None)) if found.about == "web logs")
    assert (finding.verdict, "slow parser" in finding.what) == (
        ("ok", False) if parser == "compiled" else ("note", True)
    )


@pytest.mark.parametrize("unit", [b" [", b'"', b"\\", b'\\"', b' "', b"a [b] ", b'[x] "', b"\t"])
def test_megabyte_of_anything_is_judged_at_once(unit: bytes) -> None:
    for line in (unit * (2**20 // len(unit)), LINE[:-1] + unit * (2**20 // len(unit))):
        started = time.process_time()
        rows, faults = read(line + b"\n")
        assert len(rows) + len(faults) == 1
        assert time.process_time() - started < 15


@pytest.mark.parametrize(
    ("hidden", "shown"), [("\ufeff", r"\ufeff"), ("\u200b", r"\u200b"), ("\u00a0", r"\xa0")]
)
def test_reason_shows_a_character_that_nobody_would_see(hidden: str, shown: str) -> None:
    fault = address_fault(f"2.0.0.9{hidden}".encode())
    assert fault == Fault("bad_address", f"'2.0.0.9{shown}' is neither an IP address nor a host name")
