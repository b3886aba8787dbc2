"""Formats of log lines by declaration: what each of them reads, and what it refuses."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.declaration import (
    LogFormat,
    WeblogFormats,
    parse_formats,
    presets,
    read_format,
)
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING
from warehouse.weblogs.reader.fallback import DECLARE

AGENT = "Mozilla/5.0 (X11; Linux x86_64)"


@dataclass(frozen=True)
class Row:
    """A parsed line, as the fact has it; None where the format does not say."""

    visitor: str = "2.0.0.9"
    user: str = ""
    at: str = "2026-11-20 01:02:03"
    request: str = "GET /product/7?a=b HTTP/1.1"
    status: int = 200
    size: int = 2326
    referer: str = "https://a.example/"
    agent: str = AGENT
    host: str = ""
    seconds: float | None = None
    request_bytes: int | None = None
    is_tls: bool | None = None


def read(
    declared: LogFormat, content: bytes, offset: int = 0, location: Path | None = None
) -> dict[int, Any]:
    """Rows, reasons of lines that are rejected, and None for lines that are no requests, by line number."""
    parser = declared.parser()
    if location is not None:
        parser.resume(location, offset)
    buffer = np.frombuffer(content + bytes(PADDING), np.uint8)
    parsed = parser.parse(buffer, len(content), AddressReader())
    columns, extras, visitors = parsed.columns, parsed.extras, parsed.visitors()
    texts = parsed.texts.tobytes()
    found: dict[int, Any] = {one.line + 1: (one.rule, one.reason) for one in parsed.rejected}
    found |= {line + 1: None for line in parsed.discarded}
    for place, line in enumerate(columns.line.tolist()):

        def text(name: str, place: int = place) -> str:
            source = extras if name == "host" else columns
            start, end = (getattr(source, f"{name}_{edge}")[place] for edge in ("start", "end"))
            return texts[start:end].decode()

        values = extras and (
            None
            if np.isnan(extras.request_seconds[place])
            else round(float(extras.request_seconds[place]), 6),
            None if extras.request_bytes[place] < 0 else int(extras.request_bytes[place]),
            None if extras.is_tls[place] < 0 else bool(extras.is_tls[place]),
        )
        found[line + 1] = Row(
            visitors[place],
            text("user").removeprefix("-"),
            f"{datetime.fromtimestamp(int(columns.seconds[place]), UTC):%Y-%m-%d %H:%M:%S}",
            text("request"),
            int(columns.status[place]),
            int(columns.size[place]),
            text("referer"),
            text("agent"),
            text("host") if extras else "",
            *(values or ()),
        )
    return dict(sorted(found.items()))


REQUEST = '"GET /product/7?a=b HTTP/1.1" 200 2326 "https://a.example/" "' + AGENT + '"'
TIME = "[20/Nov/2026:01:02:03 +0000]"
CLF = f"2.0.0.9 - - {TIME} {REQUEST}"
DOUBLED, ESCAPED = CLF.replace('"', '""'), CLF.replace('"', r"\"")
JSON_REQUEST = (
    '"request":{"remote_ip":"2.0.0.9","client_ip":"2.0.0.9","proto":"HTTP/1.1","method":"GET",'
    '"host":"Shop.example:443","uri":"/product/7?a=b","headers":{"User-Agent":["' + AGENT + '"],'
    '"Referer":["https://a.example/"]}%s},"user_id":"ana","duration":0.25,"size":2326,"status":200,"bytes_read":12'
)
TRAEFIK = (
    '{"ClientHost":"2.0.0.9","ClientUsername":"-","DownstreamContentSize":2326,"DownstreamStatus":200,'
    '"Duration":250000000,"RequestContentSize":12,"RequestHost":"shop.example","RequestMethod":"GET",'
    '"RequestPath":"/product/7?a=b","RequestProtocol":"HTTP/1.1","StartLocal":"2026-11-20T02:02:03.5+01:00",'
    '"StartUTC":"2026-11-20T01:02:03.579872Z","TLSVersion":"1.3","request_Referer":"https://a.example/",'
    f'"request_User-Agent":"{AGENT}","level":"info","msg":"","time":"2026-11-20T02:02:03+01:00"}}'
)

# Options of the declaration, line, what is read of it.
READ: Mapping[str, tuple[dict[str, Any], str, Row]] = {
    "combined": ({"preset": "combined"}, CLF, Row()),
    "Debian's virtual hosts": (
        {"preset": "vhost_combined"}, f"Shop.example:443 {CLF}", Row(host="shop.example")
    ),
    "virtual host that is an address": (
        {"preset": "vhost_combined_without_port"}, f"2.1.0.9 {CLF}", Row(host="2.1.0.9")
    ),
    "user with a blank": (
        {"preset": "vhost_combined_without_port"},
        f"shop.example {CLF}".replace("- - [", "- ana maria ["),
        Row(host="shop.example", user="ana maria"),
    ),
    "LogFormat as in the configuration": (
        {"apache": r'LogFormat "%a %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\" %D %I" timed'},
        f"{CLF} 250000 12",
        Row(seconds=0.25, request_bytes=12),
    ),
    "request in parts": (
        {"apache": '%h %t "%m %U%q %H" %s %B "%{Referer}i" "%{User-agent}i" %{ms}T'},
        f'2.0.0.9 {TIME} "GET /product/7?a=b HTTP/1.1" 200 2326 "https://a.example/" "{AGENT}" 250',
        Row(seconds=0.25),
    ),
    "request in parts, nginx": (
        {"nginx": '$remote_addr [$time_local] "$request_method $uri$is_args$args $server_protocol" $status '
         '$body_bytes_sent "$http_referer" "$http_user_agent"'},
        f"2.0.0.9 {TIME} {REQUEST}",
        Row(),
    ),
    "request in parts, no query": (
        {"apache": '%h %t "%m" "%U" "%q" %s %B "%{Referer}i" "%{User-agent}i"'},
        f'2.0.0.9 {TIME} "GET" "/" "" 200 2326 "https://a.example/" "{AGENT}"',
        Row(request="GET /"),
    ),
    "last status, and TLS": (
        {"apache": '%h %t "%r" %s %>s %b "%{Referer}i" "%{User-agent}i" %{SSL_PROTOCOL}x %T/%D'},
        f'2.0.0.9 {TIME} {REQUEST.replace("200", "301 200")} TLSv1.3 0/250000',
        Row(is_tls=True, seconds=0.25),
    ),
    "no TLS": (
        {"apache": '%h %t "%r" %>s %b "%{Referer}i" "%{User-agent}i" %{SSL_PROTOCOL}x'},
        f"2.0.0.9 {TIME} {REQUEST} -",
        Row(is_tls=False),
    ),
    "time by strftime": (
        {"apache": '%h %{%Y-%m-%d %H:%M:%S %z}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 2026-11-20 02:02:03 +0100 {REQUEST}",
        Row(),
    ),
    "local time in summer": (
        {"apache": '%h %{%d.%m.%Y %T}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"', "time_zone": "Europe/Berlin"},
        f"2.0.0.9 20.07.2026 01:02:03 {REQUEST}",
        Row(at="2026-07-19 23:02:03"),
    ),
    "local time in winter": (
        {"apache": '%h %{%d.%m.%Y %I:%M:%S %p}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"',
         "time_zone": "Europe/Berlin"},
        f"2.0.0.9 20.11.2026 02:02:03 AM {REQUEST}",
        Row(),
    ),
    "zone in a second time": (
        {"apache": '%h [%{%d/%b/%Y %T}t.%{msec_frac}t %{%z}t] "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 [20/Nov/2026 02:02:03.579 +0100] {REQUEST}",
        Row(),
    ),
    "date, time and zone in three, apart from each other": (
        {"apache": '%{begin:%z}t %h %{%T}t "%r" %>s %b "%{Referer}i" "%{User-agent}i" %{%F}t'},
        f"-0300 2.0.0.9 22:02:03 {REQUEST} 2026-11-19",
        Row(),
    ),
    "date and time in two, local": (
        {"apache": '%h %{%F}t %{%T}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"', "time_zone": "Europe/Berlin"},
        f"2.0.0.9 2026-11-20 02:02:03 {REQUEST}",
        Row(),
    ),
    "weekday and zone beside a whole time": (
        {"apache": '%h %t %{%a %z}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 {TIME} Fri +0100 {REQUEST}",
        Row(),
    ),
    "percent sign and dollar": (
        {"apache": '%h $ 100%% %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 $ 100% {TIME} {REQUEST}",
        Row(),
    ),
    "milliseconds since 1970": (
        {"apache": '%h %{msec}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 1795136523999 {REQUEST}",
        Row(),
    ),
    "seconds and their fraction": (
        {"apache": '%h %{sec}t.%{msec_frac}t "%r" %>s %b "%{Referer}i" "%{User-agent}i"'},
        f"2.0.0.9 1795136523.999 {REQUEST}",
        Row(),
    ),
    "forwarded list in place of the address": (
        {"preset": "forwarded_combined", "trusted_proxies": 1},
        f"6.6.6.6, 2.0.0.9{CLF[7:]}",
        Row(),
    ),
    "forwarded list before the address": (
        {"preset": "forwarded_before_combined", "trusted_proxies": 1}, f"6.6.6.6, 2.0.0.9 10.0.0.1{CLF[7:]}", Row()
    ),
    "two trusted proxies": (
        {"preset": "forwarded_before_combined", "trusted_proxies": 2},
        f"6.6.6.6, 2.0.0.9, 10.0.0.2 10.0.0.1{CLF[7:]}",
        Row(),
    ),
    "fewer addresses than trusted proxies": (
        {"preset": "forwarded_before_combined", "trusted_proxies": 2}, f"2.0.0.9 10.0.0.1{CLF[7:]}", Row()
    ),
    "nothing forwarded": ({"preset": "forwarded_before_combined", "trusted_proxies": 1}, f"- {CLF}", Row()),
    "proxies that are not trusted": (
        {"preset": "forwarded_before_combined", "trusted_proxies": 0}, f"6.6.6.6 {CLF}", Row()
    ),
    "forwarded addresses with ports": (
        {"preset": "nginx_main", "trusted_proxies": 1},
        f'10.0.0.1{CLF[7:]} "6.6.6.6, [2001:db8::7]:4711"',
        Row(visitor="2001:db8::7"),
    ),
    "forwarded IPv4 with a port": (
        {"preset": "nginx_main", "trusted_proxies": 1}, f'10.0.0.1{CLF[7:]} "2.0.0.9:4711"', Row()
    ),
    "nginx's main": ({"preset": "nginx_main"}, f'{CLF} "6.6.6.6"', Row()),
    "log_format as in the configuration": (
        {"nginx": """log_format timed '$remote_addr - $remote_user [$time_local] "$request" '
            '$status $body_bytes_sent "$http_referer" '
            '"$http_user_agent" $host ${request_time}s $request_length $scheme';"""},
        f"{CLF} shop.example 0.250s 12 https",
        Row(host="shop.example", seconds=0.25, request_bytes=12, is_tls=True),
    ),
    "nginx, ISO time": (
        {"nginx": '$time_iso8601 $remote_addr "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'},
        f"2026-11-20T02:02:03+01:00 2.0.0.9 {REQUEST}",
        Row(),
    ),
    "nginx, milliseconds": (
        {"nginx": '$msec $remote_addr "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'},
        f"1795136523.123 2.0.0.9 {REQUEST}",
        Row(),
    ),
    "nginx, local time without brackets": (
        {"nginx": '$remote_addr $time_local "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'},
        f"2.0.0.9 20/Nov/2026:01:02:03 +0000 {REQUEST}",
        Row(),
    ),
    "nginx, escaped as JSON": (
        {"nginx": 'escape=json {"t":"$time_iso8601","a":"$remote_addr","u":"$remote_user","r":"$request",'
         '"s":$status,"b":$body_bytes_sent,"ref":"$http_referer","ua":"$http_user_agent"}'},
        '{"t":"2026-11-20T01:02:03+00:00","a":"2.0.0.9","u":"","r":"GET /product/7?a=b HTTP/1.1","s":200,"b":2326,'
        r'"ref":"https://a.example/","ua":"say \"hi\" \u00e9"}',
        Row(agent='say "hi" é'),
    ),
    "nginx ingress, two upstreams": (
        {"preset": "nginx_ingress"},
        f"{CLF} 12 0.250 [default-shop-80] [] 10.0.0.1:80, 10.0.0.2:80 0, 2326 0.100, 0.150 502, 200 7f3a",
        Row(seconds=0.25, request_bytes=12),
    ),
    "Traefik's common format": ({"preset": "traefik_common"}, f'{CLF} 7 "shop@docker" "http://10.0.0.1:80" 250ms',
        Row(seconds=0.25)),
    "Caddy": (
        {"preset": "caddy"},
        '{"level":"info","ts":1795136523.5,"logger":"http.log.access","msg":"handled request",'
        + JSON_REQUEST % ',"tls":{"version":772}' + "}",
        Row(user="ana", host="shop.example", seconds=0.25, request_bytes=12, is_tls=True),
    ),
    "Caddy without TLS, time in words": (
        {"preset": "caddy"},
        '{"ts":"2026-11-20T01:02:03.5Z",' + JSON_REQUEST % "" + "}",
        Row(user="ana", host="shop.example", seconds=0.25, request_bytes=12, is_tls=False),
    ),
    "Traefik": (
        {"preset": "traefik"}, TRAEFIK, Row(host="shop.example", seconds=0.25, request_bytes=12, is_tls=True)
    ),
    "nginx's variables as JSON": (
        {"preset": "nginx_json"},
        '{"time_local":"20/Nov/2026:01:02:03 +0000","remote_addr":"2.0.0.9","remote_user":"-",'
        '"request":"GET /product/7?a=b HTTP/1.1","status":"200","body_bytes_sent":"2326","request_time":"0.250",'
        f'"http_referer":"https://a.example/","http_user_agent":"{AGENT}"}}',
        Row(seconds=0.25),
    ),
    "JSON of one's own": (
        {"json": {"time": "@timestamp", "address": "client.ip", "method": "http.request.method", "path": "url.path",
                  "query": "url.query", "protocol": "=HTTP/1.1", "status": "http.response.status_code",
                  "response_bytes": "http.response.bytes", "referer": "http.request.referrer",
                  "user_agent": "user_agent.original", "milliseconds": "event.ms"}},
        '{"@timestamp":1795136523999,"client":{"ip":"2.0.0.9"},"http.request.method":"GET",'
        '"http":{"response":{"status_code":200,"bytes":2326.0},"request.referrer":"https://a.example/"},'
        f'"url":{{"path":"/product/7","query":"a=b"}},"user_agent":{{"original":"{AGENT}"}},"event":{{"ms":250}}}}',
        Row(seconds=0.25),
    ),
    "JSON, forwarded addresses": (
        {"preset": "nginx_json", "trusted_proxies": 1},
        '{"time":"2026-11-20 01:02:03Z","remote_addr":"10.0.0.1","http_x_forwarded_for":"6.6.6.6,2.0.0.9",'
        f'"request":"GET /product/7?a=b HTTP/1.1","status":200,"bytes_sent":2326,"referer":"https://a.example/",'
        f'"agent":"{AGENT}"}}',
        Row(),
    ),
    "in a column of CSV": (
        {"preset": "combined", "wrapped": "csv", "column": 2},
        '7,"' + DOUBLED + '",x',
        Row(),
    ),
    "in quotes, those within as they are": ({"preset": "combined", "wrapped": "quotes"}, f'"{CLF}"', Row()),
    "in quotes, those within doubled": (
        {"preset": "combined", "wrapped": "quotes"}, f'"{DOUBLED}"', Row()
    ),
    "in quotes, those within escaped": (
        {"preset": "combined", "wrapped": "quotes"}, f'"{ESCAPED}"', Row()
    ),
    "in quotes of the other kind": ({"preset": "combined", "wrapped": "quotes"}, f"'{CLF}'", Row()),
    "as Docker writes it": (
        {"preset": "combined", "wrapped": "docker"},
        '{"log":"' + ESCAPED + r'\n","stream":"stdout","time":"2026-11-20T01:02:03.5Z"}',
        Row(),
    ),
    "as Kubernetes writes it": (
        {"preset": "combined", "wrapped": "cri"}, f"2026-11-20T01:02:03.5+01:00 stdout F {CLF}", Row()
    ),
    "after a prefix of syslog": (
        {"preset": "combined", "wrapped": "syslog"}, f"Nov 20 01:02:03 web1 nginx[7]: {CLF}", Row()
    ),
    "another format in quotes": (
        {"preset": "vhost_combined", "wrapped": "quotes"}, f'"shop.example:80 {CLF}"', Row(host="shop.example")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_line_is_read_as_its_format_declares(name: str) -> None:
    options, line, row = READ[name]
    assert read(read_format(options), line.encode() + b"\r\n") == {1: row}


W3C = """\
#Software: Microsoft Internet Information Services 10.0
#Version: 1.0
#Date: 2026-11-20 00:00:00
#Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs-version cs(User-Agent) \
cs(Referer) cs-host sc-status sc-substatus sc-win32-status sc-bytes cs-bytes time-taken
2026-11-20 01:02:03 10.0.0.1 GET /product/7 a=b 443 - 2.0.0.9 HTTP/1.1 Mozilla/5.0+(X11;+Linux+x86_64) \
https://a.example/ Shop.example 200 0 0 2326 12 250
2026-11-20 01:02:03 10.0.0.1 GET /product/7 - 443 DOM\\ana 2.0.0.9 HTTP/1.1 - - - 200 0 0 2326 12 250
#Software: Something else
#Fields: time c-ip cs-method cs-uri sc-status time-taken
01:02:03 2.0.0.9 GET /product/7?a=b 200 0.25
01:02:03 2.0.0.9 GET /product/7?a=b 200
"""
W3C_ROW = Row(host="shop.example", seconds=0.25, request_bytes=12)
W3C_SHORT = Row(request="GET /product/7?a=b", size=0, referer="", agent="", seconds=0.25)


def test_w3c_lines_are_read_by_the_fields_that_the_last_header_names() -> None:
    found = read(read_format({"preset": "w3c"}), W3C.encode())
    assert found == {
        1: None,
        2: None,
        3: None,
        4: None,
        5: W3C_ROW,
        6: Row(
            user="DOM\\ana",
            request="GET /product/7 HTTP/1.1",
            referer="-",
            agent="-",
            seconds=0.25,
            request_bytes=12,
        ),
        7: None,
        8: None,
        9: W3C_SHORT,
        10: ("malformed_line", "5 fields, where #Fields names 6"),
    }


def test_w3c_file_is_read_on_by_the_header_before(tmp_path: Path) -> None:
    path, content = tmp_path / "ex.log", W3C.encode()
    path.write_bytes(content)
    ends = [number for number, byte in enumerate(content, start=1) if byte == ord("\n")]
    whole = read(read_format({"preset": "w3c"}), content)
    for line, offset in enumerate(ends[:-1], start=1):
        rest = read(read_format({"preset": "w3c"}), content[offset:], offset, path)
        assert rest == {number - line: row for number, row in whole.items() if number > line}, line


def test_w3c_header_far_behind_long_lines_is_found(tmp_path: Path) -> None:
    head, _, _ = W3C.partition("#Software: Something else")
    long = head.splitlines()[4].replace("/product/7", "/" + "x" * (1 << 20)) + "\n"
    content = (head + 3 * long).encode()
    (tmp_path / "ex.log").write_bytes(content)
    last = len(content) - len(long)
    found = read(read_format({"preset": "w3c"}), content[last:], last, tmp_path / "ex.log")
    assert [row.size for row in found.values()] == [2326]


def test_w3c_with_tabs_and_quotes() -> None:
    content = (
        "\ufeff#Fields:\tdate\ttime\tc-ip\tcs-method\tcs-uri-stem\tsc-status\tcs(User-Agent)\n"
        f"2026-11-20\t01:02:03\t2.0.0.9\tGET\t/\t200\t{AGENT.replace(' ', '%20')}\n"
        "#Fields: date time c-ip cs-method cs-uri-stem sc-status cs(User-Agent)\n"
        f'2026-11-20 01:02:03 2.0.0.9 GET / 200 "{AGENT}"\n'
        "#Fields: date time c-ip\n"
        "2026-11-20 01:02:03 2.0.0.9\n"
    )
    row = Row(request="GET /", size=0, referer="")
    assert read(read_format({"preset": "w3c"}), content.encode()) == {
        1: None,
        2: row,
        3: None,
        4: row,
        5: None,
        6: ("malformed_line", "#Fields does not name what is needed: status, request"),
    }


FAULTS = {
    "no header": ({"preset": "w3c"}, "2026-11-20 01:02:03 2.0.0.9", "no #Fields line stands before it"),
    "other layout": ({"preset": "vhost_combined"}, CLF, "not laid out as its format declares"),
    "empty line": ({"preset": "vhost_combined"}, " ", "empty line"),
    "no JSON": ({"preset": "caddy"}, CLF, "not a JSON object"),
    "a list": ({"preset": "caddy"}, "[1]", "not a JSON object"),
    "JSON that is no request": (
        {"preset": "caddy"}, '{"level":"info","msg":"started"}', "neither time nor status are there: not a request"
    ),
    "nested without end": ({"preset": "caddy"}, '{"a":' * 100_000, "not a JSON object"),
    "number without end": ({"preset": "caddy"}, '{"ts":' + "9" * 10_000 + "}", "not a JSON object"),
    "no duration": (
        {"preset": "nginx_json"},
        '{"time":1795136523,"status":200,"remote_addr":"2.0.0.9","request":"GET /","request_time":"1.2.3"}',
        "'1.2.3' is no duration",
    ),
    "no size of the request": (
        {"nginx": "$remote_addr [$time_local] \"$request\" $status $request_length"},
        f'2.0.0.9 {TIME} "GET /" 200 many',
        "'many' is no request size",
    ),
    "time without a zone": (
        {"preset": "nginx_json"},
        '{"time":"2026-11-20T01:02:03","status":200}',
        "'2026-11-20T01:02:03' has no time zone: declare time_zone",
    ),
    "no number that nginx writes": ({"preset": "nginx_timed"}, f"{CLF} 1.2.3", "not laid out as its format declares"),
    "identity that is an address": (
        {"preset": "forwarded_combined", "trusted_proxies": 1}, f"2.1.0.9 {CLF}", "not laid out as its format declares"
    ),
    "no line of CSV": ({"preset": "combined", "wrapped": "csv"}, '"a', "not a line of CSV"),
    "no such column": (
        {"preset": "combined", "wrapped": "csv", "column": 3}, "a,b", "column 3 is missing: the line has 2"
    ),
    "no quotes": ({"preset": "combined", "wrapped": "quotes"}, CLF, "not in quotes"),
    "nothing of Docker": (
        {"preset": "combined", "wrapped": "docker"}, CLF, "not a JSON object with a text under log"
    ),
    "nothing of syslog": ({"preset": "combined", "wrapped": "syslog"}, CLF, "not a line of syslog"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_line_is_rejected_with_its_reason(name: str) -> None:
    options, line, reason = FAULTS[name]
    assert read(read_format(options), line.encode() + b"\n") == {1: ("malformed_line", reason)}


@pytest.mark.parametrize("before", ["a.example pc7 x ", "a.example 7 7 2.1.0.9 "])
def test_fields_before_the_user_are_no_part_of_a_user(before: str) -> None:
    found = read(read_format({"preset": "vhost_combined_without_port"}), f"{before}{CLF}\n".encode())
    assert found == {1: ("other_format", "more fields than a user stand where the user should" + DECLARE)}


JSON_LINE = '{"time":%s,"remote_addr":"2.0.0.9","request":"GET / HTTP/1.1","status":200,"bytes_sent":1}'
TIMES = {
    "1795136523": "2026-11-20 01:02:03",
    "1795136523.999": "2026-11-20 01:02:03",
    "1.795136523999E9": "2026-11-20 01:02:03",
    "1795136523999": "2026-11-20 01:02:03",
    "1795136523999999": "2026-11-20 01:02:03",
    "1795136523999999999": "2026-11-20 01:02:03",
    '"1795136523999"': "2026-11-20 01:02:03",
    '"2026-11-20T01:02:03Z"': "2026-11-20 01:02:03",
    '"2026-11-20t01:02:03.123456789z"': "2026-11-20 01:02:03",
    '"2026-11-20T06:32:03+05:30"': "2026-11-20 01:02:03",
    '"2026-11-20T06:32:03+0530"': "2026-11-20 01:02:03",
    '"2026-11-19 22:02:03 -03"': "2026-11-20 01:02:03",
    '"2026-12-31T23:59:60Z"': "2027-01-01 00:00:00",
    '"20/Nov/2026:01:02:03 +0000"': "2026-11-20 01:02:03",
}
NO_TIMES = {
    '"2026-02-30T01:02:03Z"': "impossible_date",
    '"1969-12-31T01:02:03Z"': "impossible_date",
    '"2149-12-31T01:02:03Z"': "impossible_date",
    '"2026-11-20T24:02:03Z"': "impossible_date",
    '"2026-11-20T01:02:03+99:00"': "impossible_date",
    "9999999999999999999": "impossible_date",
    '"yesterday"': "malformed_line",
    "-1": "malformed_line",
    "NaN": "malformed_line",
    "Infinity": "malformed_line",
    "true": "malformed_line",
    "{}": "malformed_line",
}


@pytest.mark.parametrize("written", TIMES)
def test_time_of_any_kind_is_the_same_moment(written: str) -> None:
    (row,) = read(read_format({"preset": "nginx_json"}), (JSON_LINE % written).encode() + b"\n").values()
    assert row.at == TIMES[written]


@pytest.mark.parametrize("written", NO_TIMES)
def test_time_that_there_is_not_is_rejected(written: str) -> None:
    (fault,) = read(read_format({"preset": "nginx_json"}), (JSON_LINE % written).encode() + b"\n").values()
    assert fault[0] == NO_TIMES[written]


WRONG = {
    "nothing": ("[[formats]]\n", "w.toml, format 1: files is missing"),
    "no format": ('[[formats]]\nfiles = "a"\n', "format 1: A format is one of preset, apache, nginx, json, w3c"),
    "two formats": ('[[formats]]\nfiles = "a"\npreset = "caddy"\napache = "%h"\n', "here are 2"),
    "unknown option": ('[[formats]]\nfiles = "a"\nproxies = 1\n', "'proxies' is no option"),
    "unknown preset": ('[[formats]]\nfiles = "a"\npreset = "x"\n', "There is no preset 'x'"),
    "unknown wrapping": ('[[formats]]\nfiles = "a"\npreset = "caddy"\nwrapped = "x"\n', "not wrapped as 'x'"),
    "unknown zone": ('[[formats]]\nfiles = "a"\npreset = "caddy"\ntime_zone = "Mars"\n', "no time zone 'Mars'"),
    "zone of a path": ('[[formats]]\nfiles = "a"\npreset = "caddy"\ntime_zone = "../x"\n', "no time zone '../x'"),
    "wrong number": ('[[formats]]\nfiles = "a"\npreset = "caddy"\ntrusted_proxies = -1\n', "is no number"),
    "truth for a number": ('[[formats]]\nfiles = "a"\npreset = "caddy"\ntrusted_proxies = true\n', "is no number"),
    "unknown field": ('[[formats]]\nfiles = "a"\njson = {ip = "x"}\n', "json.ip is no field"),
    "no address": (
        '[[formats]]\nfiles = "a"\napache = "%t \\"%r\\" %s"\n', "w.toml, format 1: The format has no address."
    ),
    "nobody trusted": ('[[formats]]\nfiles = "a"\npreset = "forwarded_combined"\n', "anybody may send those"),
    "nothing between": (
        '[[formats]]\nfiles = "a"\napache = "%h%t%r%s"\n', "Nothing stands between %r and %s"
    ),
    "time without a zone": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%Y-%m-%d %H:%M}t \"%r\" %s'\n", "has no time zone"
    ),
    "time without a day": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%H:%M %z}t \"%r\" %s'\n", "does not say year, month, day"
    ),
    "directive of time that is not known": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%Q}t \"%r\" %s'\n", "has %Q, which cannot be read"
    ),
    "two times": (
        "[[formats]]\nfiles = 'a'\napache = '%h %t %{sec}t \"%r\" %s'\n", "has 2 times"
    ),
    "two times in parts": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%F %T %z}t %{%T}t \"%r\" %s'\n",
        "'%T' says the hour that another time of the line says",
    ),
    "date and time of two moments": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%F %z}t %{end:%T}t \"%r\" %s'\n", "has 2 times"
    ),
    "two parts that make no time": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%F}t %{%z}t \"%r\" %s'\n",
        "'%F' and '%z' does not say year, month, day, hour and minute",
    ),
    "hour without half of the day": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%F %I:%M %z}t \"%r\" %s'\n", "does not say year, month, day, hour"
    ),
    "time that is not finished": (
        "[[formats]]\nfiles = 'a'\napache = '%h %{%F %T %}t \"%r\" %s'\n", "has %, which cannot be read"
    ),
    "directive that is not finished": (
        "[[formats]]\nfiles = 'a'\napache = '%h %t \"%r\" %s %{foo'\n", "'%{foo' is no directive of a LogFormat"
    ),
    "directive without its brace": (
        "[[formats]]\nfiles = 'a'\napache = '%h %t \"%r\" %s \"%{Referer\" %{User-Agent}i'\n",
        "is no directive of a LogFormat",
    ),
    "directive without its brace before one": (
        "[[formats]]\nfiles = 'a'\napache = '%h %t \"%r\" %s %{Referer %h}i'\n", "'%{Referer %h}i' is no directive"
    ),
    "percent sign alone": (
        "[[formats]]\nfiles = 'a'\napache = '%h %t \"%r\" %s %'\n", "'%' is no directive of a LogFormat"
    ),
    "LogFormat that is not finished": (
        "[[formats]]\nfiles = 'a'\napache = 'LogFormat \"%h %t %s'\n", "is no LogFormat, or not all of it"
    ),
    "variable that is not finished": (
        "[[formats]]\nfiles = 'a'\nnginx = '$remote_addr $msec \"$request\" $status ${host'\n",
        "'${host' is no part of a log_format",
    ),
    "dollar sign alone": (
        "[[formats]]\nfiles = 'a'\nnginx = '$remote_addr $msec \"$request\" $status $'\n", "'$' is no part"
    ),
    "log_format that is not finished": (
        "[[formats]]\nfiles = 'a'\nnginx = 'log_format main \"$remote_addr $msec $request $status'\n",
        "is no part of a log_format, or not all of it",
    ),
    "absolute path of another kind": ('[[formats]]\nfiles = "//srv/lake/**"\npreset = "caddy"\n', "matches no file"),
    "folder above": ('[[formats]]\nfiles = "../logs/*"\npreset = "caddy"\n', "matches no file"),
    "folder itself": ('[[formats]]\nfiles = ["a", "./cdn/*"]\npreset = "caddy"\n', "files = './cdn/*' matches no"),
    "nothing between slashes": ('[[formats]]\nfiles = "cdn//a.log"\npreset = "caddy"\n', "matches no file"),
    "slash alone": ('[[formats]]\nfiles = "/"\npreset = "caddy"\n', "matches no file"),
    "blank before it": ('[[formats]]\nfiles = " cdn/**"\npreset = "caddy"\n', "matches no file"),
    "URL": ('[[formats]]\nfiles = "s3://lake/cdn/**"\npreset = "caddy"\n', "matches no file"),
    "the same files again": (
        '[[formats]]\nfiles = "cdn/**"\npreset = "caddy"\n[[formats]]\nfiles = ["x", "cdn/"]\npreset = "traefik"\n',
        "w.toml, format 2: files = 'cdn/' never counts: format 1 is that of all these files",
    ),
    "files of an earlier entry": (
        '[[formats]]\nfiles = "*"\npreset = "caddy"\n[[formats]]\nfiles = "a/**/b*.log"\npreset = "traefik"\n',
        "never counts: format 1",
    ),
    "no TOML": ("x", "w.toml is no TOML"),
    "unknown table": ("[x]\n", "w.toml: 'x' is not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_declaration_says_what_is_wrong_and_what_to_do(name: str) -> None:
    content, message = WRONG[name]
    with pytest.raises(DeclarationError) as raised:
        parse_formats(content.encode(), "w.toml")
    assert message in raised.value.what
    assert raised.value.hint


def test_first_entry_that_matches_a_path_counts() -> None:
    declared = parse_formats(
        b"""
        [[formats]]
        files = ["cdn/new/*.log", "*.caddy"]
        preset = "caddy"
        [[formats]]
        files = "cdn/"
        preset = "traefik"
        [[formats]]
        files = "iis/**/u_ex*.log"
        w3c = true
        """,
        "w.toml",
    )

    def of(path: str) -> str:
        return declared.of(path).kind + " " + str(declared.of(path))

    assert {
        path: of(path)
        for path in (
            "cdn/new/a.log", "cdn/new/x/a.log", "a.caddy", "x/y/a.caddy", "cdn/a.caddy", "iis/u_ex26.log",
            "iis/w/3/u_ex26.log", "iis/x.log", "other.log", "CDN/new/a.log", "cdn/new/a\nb.log",
        )
    } == {
        "cdn/new/a.log": "json caddy",
        "cdn/new/x/a.log": "json traefik",
        "a.caddy": "json caddy",
        "x/y/a.caddy": "json caddy",
        "cdn/a.caddy": "json caddy",
        "iis/u_ex26.log": "w3c w3c",
        "iis/w/3/u_ex26.log": "w3c w3c",
        "iis/x.log": "combined combined",
        "other.log": "combined combined",
        "CDN/new/a.log": "combined combined",
        "cdn/new/a\nb.log": "json caddy",
    }  # fmt: skip
    assert WeblogFormats().of("any").kind == "combined"


@pytest.mark.parametrize(
    ("first", "second", "of_second"),
    [
        ("cdn/*", "cdn/**", "cdn/x/a.log"),
        ("cdn/*/*/a.log", "cdn/**/a.log", "cdn/a.log"),
        ("cdn/a*.log", "cdn/*.log", "cdn/b.log"),
        ("cdn/?.log", "cdn/*.log", "cdn/10.log"),
        ("/a.log", "a.log", "x/a.log"),
        ("cdn/b*", "cdn/", "cdn/x/b1"),
    ],
)
def test_wider_pattern_behind_a_narrower_one_counts_for_the_others(
    first: str, second: str, of_second: str
) -> None:
    content = "".join(
        f'[[formats]]\nfiles = "{files}"\npreset = "{preset}"\n'
        for files, preset in ((first, "caddy"), (second, "traefik"))
    )
    assert parse_formats(content.encode(), "w.toml").of(of_second).preset == "traefik"


def test_pattern_with_a_slash_before_it_is_one_of_the_top() -> None:
    declared = parse_formats(
        b'\xef\xbb\xbf[[formats]]\nfiles = ["/a.log", "/cdn/**"]\npreset = "caddy"\n', "w.toml"
    )
    paths = ("a.log", "x/a.log", "cdn/a.log", "x/cdn/a.log")
    assert [declared.declares(path) for path in paths] == [True, False, True, False]


def test_every_preset_can_be_used() -> None:
    for name in presets():
        needs_proxies = name == "forwarded_combined"
        read_format({"preset": name, **({"trusted_proxies": 1} if needs_proxies else {})}).parser()


ALL_FORMATS = [read_format(options) for options, *_ in READ.values()]
GOOD_LINES = [line.encode() for _, line, _ in READ.values()] + W3C.encode().splitlines()
NOISE = [
    b"",
    b'"',
    b"\\",
    b"-",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b", ",
    b"\0",
    b"\r",
    b"\xff",
    b" ",
    b"\t",
    b'""',
    b"#",
    b"null",
]


@given(data=st.data())
def test_every_line_of_any_format_is_read_rejected_or_a_header(data: st.DataObject) -> None:
    lines = []
    for _ in range(data.draw(st.integers(1, 4))):
        line = bytearray(data.draw(st.sampled_from(GOOD_LINES)))
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(line) - 1)) if line else 0
            line[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(NOISE))
        lines.append(bytes(line).replace(b"\n", b""))
    declared = data.draw(st.sampled_from([*ALL_FORMATS, read_format({"preset": "w3c"})]))
    buffer = b"".join(line + b"\n" for line in lines)
    parser = declared.parser()
    parsed = parser.parse(np.frombuffer(buffer + bytes(PADDING), np.uint8), len(buffer), AddressReader())
    numbers = [*parsed.columns.line.tolist(), *(one.line for one in parsed.rejected), *parsed.discarded]
    assert sorted(numbers) == list(range(len(lines)))


@pytest.mark.parametrize(
    "unit", [b" [", b'"', b"\\", b'\\"', b' "', b"a, ", b"[x] ", b"{", b'{"a":', b"\t", b"+", b"a:", b"1"]
)
def test_long_line_of_anything_is_judged_at_once_in_every_format(unit: bytes) -> None:
    random.seed(1)
    for options, line, _ in READ.values():
        parser = read_format(options).parser()
        text = line.encode()
        place = random.randrange(len(text))
        for long in (unit * (2**17 // len(unit)), text[:place] + unit * (2**17 // len(unit)) + text[place:]):
            started = time.process_time()
            parsed = parser.parse(
                np.frombuffer(long + b"\n" + bytes(PADDING), np.uint8), len(long) + 1, AddressReader()
            )
            assert len(parsed.columns.line) + len(parsed.rejected) == 1
            assert time.process_time() - started < 4, options
