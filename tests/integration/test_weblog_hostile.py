"""Names and lines that mean harm: they are loaded as what they are, and harm nothing."""

import os
import re
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.report.write import write
from warehouse.weblogs.explain import explain

DROP = "'); drop table dwh.fact_weblog cascade; --"
PAYLOADS = [
    DROP,
    "x' or '1'='1",
    "$$; drop schema dwh cascade; $$",
    "%s %(run_id)s {} {0} {table} %",
    "\\N\\.\\x00\\",
    "\t1\tZZ\t",
    "<script>alert(1)</script>",
    "[bold red]x[/] [/]",
    "=cmd|'/c calc'!A1",
    "../../../etc/passwd",
    "\u202egnp.exe \U0001f4a3 \ufeff",
    "' union select null, version(), null from pg_shadow --",
]


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def tables(lake: WeblogLake) -> list[tuple[str, ...]]:
    return lake.rows(
        "select oid::regclass::text from pg_class where relkind in ('r', 'p', 'v', 'm') "
        "and relname !~ '^fact_weblog_' order by 1"
    )


def quoted(text: str) -> str:
    """As a server writes it: quotes and backslashes escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")


def test_texts_of_strangers_are_kept_as_they_are(lake: WeblogLake) -> None:
    before = tables(lake)
    written = [
        line(
            number, address=BRAZIL, user=re.sub(r"[ \t\[\]]", "_", text), agent=quoted(text), request=request
        )
        for number, text in enumerate(PAYLOADS, start=1)
        for request in [
            f"GET /product/{quoted(text).replace(' ', '+')}?utm_source={quoted(text)[:90]} HTTP/1.1"
        ]
    ]
    for number, text in enumerate(PAYLOADS):
        name = text.replace("/", "_").replace("\0", "")[:80]
        lake.put(f"a {name} {number}.log", written[number] + text.encode() + b"\n")
    # A line end in a name, and a byte that is no text in any encoding.
    Path(os.fsdecode(os.fsencode(lake.landing) + b"/l\ning\xff.log")).write_bytes(line(70))
    loaded = lake.load()
    assert (loaded.rows_loaded, loaded.rows_quarantined) == (len(PAYLOADS) + 1, len(PAYLOADS))
    assert tables(lake) == before
    agents = {
        agent for (agent,) in lake.rows("select user_agent from mart.weblog where response_bytes <= 112")
    }
    assert agents == {quoted(text) for text in PAYLOADS}
    assert {text for (text,) in lake.rows("select raw_text from audit.quarantine")} == set(PAYLOADS)
    lake.assert_consistent()
    assert lake.load().lines == 0
    with connect(lake.settings.warehouse) as connection:
        for number, text in enumerate(PAYLOADS, start=1):
            (file_id,) = lake.rows(
                f"select file_id from dwh.fact_weblog where response_bytes = {100 + number}"
            )[0]
            told = explain(connection, lake.settings, f"{file_id}:1")
            assert (told.fault, told.row["user_agent"]) == (None, quoted(text))
            assert explain(connection, lake.settings, f"{told.path}:2").raw_line == text
    page = lake.settings.home / "report.html"
    write(lake.settings.warehouse, page)
    assert "<script>alert(1)" not in page.read_text()


def test_countries_of_a_hostile_database_are_unknown(lake: WeblogLake) -> None:
    codes = ["'; drop table dwh.dim_country; --", "br", "B", "BRA", "B'", "../", "ÄÖ", "", "--"]
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Evil'); ---Country")
    for number, code in enumerate(codes):
        record = {"country": {"iso_code": code, "names": {"en": DROP}}}
        writer.insert_network(IPSet([f"50.{number}.0.0/16"]), record)
    writer.insert_network(IPSet([f"{ARGENTINA}/32"]), {"country": {"iso_code": "X1", "names": {"en": DROP}}})
    writer.to_db_file(str(geoip.path_of(lake.settings)))
    lake.put("a.log", b"".join(line(n, address=f"50.{n}.0.1") for n in range(len(codes))) + line(50))
    lake.load()
    assert lake.rows("select country, count(*) from dwh.fact_weblog group by 1 order by 2") == [
        ("X1", 1),
        ("ZZ", len(codes)),
    ]
    assert lake.rows("select name from dwh.dim_country where country = 'X1'") == [(DROP,)]
    assert lake.rows("select geoip_database from audit.load") == [("Evil'); ---Country",)]
    lake.assert_consistent()
