"""A lake with logs of several formats: each file is loaded as weblogs.toml declares it."""

import gzip
from datetime import date
from pathlib import Path

import pytest

from tests.unit.test_weblog_formats import W3C
from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse.backfill.weblog_days import WeblogDays
from warehouse.db.connections import connect
from warehouse.errors import DeclarationError
from warehouse.reconcile.weblogs import reconcile_weblogs
from warehouse.runs import audit
from warehouse.settings import Settings
from warehouse.weblogs.explain import explain

CADDY = (
    '{"ts":1795136523.5,"request":{"remote_ip":"%s","proto":"HTTP/2.0","method":"GET","host":"shop.example",'
    '"uri":"/product/7","headers":{"User-Agent":["curl/8.0"]},"tls":{"version":772}},"user_id":"ana","duration":0.25,'
    '"size":%d,"status":200,"bytes_read":12}\n'
)
DAY = date(2026, 11, 20)
DECLARED = """
[[formats]]
files = "cdn/"
preset = "caddy"

[[formats]]
files = "iis/*.log*"
preset = "w3c"

[[formats]]
files = "vhosts/*.log"
preset = "vhost_combined"

[[formats]]
files = "balanced/*.log"
preset = "forwarded_before_combined"
trusted_proxies = 1

[[formats]]
files = "*.csv"
preset = "combined"
wrapped = "csv"
"""
ROWS = """
    select path, line_number, coalesce(host(ip_address), client_host), country, user_name, host,
        round(request_seconds::numeric, 3)::text, request_bytes, is_tls, response_bytes
    from mart.weblog join audit.file using (file_id) order by path, line_number
"""


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def test_file_that_has_nothing_but_its_header_yet_is_read_once(lake: WeblogLake) -> None:
    declare(lake, DECLARED)
    header, _, _ = W3C.partition("2026-11-20 01")
    lake.put("iis/u_ex.log", header.encode())
    lake.load()
    before = lake.rows("select * from audit.file")
    again = lake.load()
    assert (again.unchanged, again.unread, again.lines) == (1, (), 0)
    assert lake.rows("select * from audit.file") == before
    lake.put("iis/u_ex.log", W3C.encode())
    assert lake.load().rows_loaded > 0
    lake.assert_consistent()


def declare(lake: WeblogLake, content: str) -> None:
    (Path(lake.settings.lake) / "weblogs.toml").write_text(content)


def quoted(text: bytes) -> bytes:
    return b'"' + text.rstrip(b"\n").replace(b'"', b'""') + b'"\n'


def fill(lake: WeblogLake) -> None:
    lake.put("access.log", line(1) + line(2, address="pc7.lan.example"))
    lake.put("cdn/a.log", (CADDY % (BRAZIL, 101) + CADDY % ("2001:db8::7", 102)).encode())
    lake.put("iis/u_ex1.log.gz", gzip.compress(W3C.replace("2.0.0.9", ARGENTINA).encode()))
    lake.put("vhosts/a.log", b"shop.example:443 " + line(1))
    lake.put("balanced/a.log", f"6.6.6.6, {BRAZIL} ".encode() + line(1, address="10.0.0.1"))
    lake.put("old/a.csv", quoted(line(1, user="ana")) + quoted(line(2)))


def test_each_file_is_loaded_in_the_format_that_is_declared_for_it(lake: WeblogLake) -> None:
    declare(lake, DECLARED)
    fill(lake)
    loaded = lake.load()
    assert (loaded.lines, loaded.rows_loaded, loaded.rows_quarantined) == (18, 11, 1)
    assert lake.rows(ROWS) == [
        ("access.log", 1, ARGENTINA, "AR", None, None, None, None, None, 101),
        ("access.log", 2, "pc7.lan.example", "ZZ", None, None, None, None, None, 102),
        ("balanced/a.log", 1, BRAZIL, "BR", None, None, None, None, None, 101),
        ("cdn/a.log", 1, BRAZIL, "BR", "ana", "shop.example", "0.250", 12, True, 101),
        ("cdn/a.log", 2, "2001:db8::7", "ZZ", "ana", "shop.example", "0.250", 12, True, 102),
        ("iis/u_ex1.log.gz", 5, ARGENTINA, "AR", None, "shop.example", "0.250", 12, None, 2326),
        ("iis/u_ex1.log.gz", 6, ARGENTINA, "AR", "DOM\\ana", None, "0.250", 12, None, 2326),
        ("iis/u_ex1.log.gz", 9, ARGENTINA, "AR", None, None, "0.250", None, None, 0),
        ("old/a.csv", 1, ARGENTINA, "AR", "ana", None, None, None, None, 101),
        ("old/a.csv", 2, ARGENTINA, "AR", None, None, None, None, None, 102),
        ("vhosts/a.log", 1, ARGENTINA, "AR", None, "shop.example", None, None, None, 101),
    ]
    assert lake.rows(
        "select path, regexp_replace(format, '[0-9a-f]{8}$', '#'), header_lines from audit.file order by 1"
    ) == [
        ("access.log", "combined", []),
        ("balanced/a.log", "forwarded_before_combined #", []),
        ("cdn/a.log", "caddy", []),
        ("iis/u_ex1.log.gz", "w3c", [1, 2, 3, 4, 7, 8]),
        ("old/a.csv", "combined #", []),
        ("vhosts/a.log", "vhost_combined", []),
    ]
    assert lake.rows("select host, host_key > 0 from dwh.dim_host order by 1") == [
        ("-", False),
        ("shop.example", True),
    ]
    lake.assert_consistent()
    assert lake.load().lines == 0


def test_every_line_of_them_is_explained_and_reconciled(lake: WeblogLake) -> None:
    declare(lake, DECLARED)
    fill(lake)
    lake.load()
    with connect(lake.settings.warehouse) as connection:
        states = {
            (path, number): explain(connection, lake.settings, f"{path}:{number}")
            for path, count in lake.rows("select path, line_count::integer from audit.file")
            for number in range(1, count + 1)
        }
        assert {explanation.fault for explanation in states.values()} == {None}
        assert [number for (path, number), line in states.items() if line.state.startswith("no request")] == [
            1, 2, 3, 4, 7, 8,
        ]  # fmt: skip
        with audit.start_run(lake.settings.warehouse, flow="reconcile") as run:
            verdicts = reconcile_weblogs(connection, run.run_id)
        assert {one.verdict for one in verdicts} == {"equal"}
        connection.rollback()
        # A header line that is in the fact all the same is one too many.
        connection.execute(
            "insert into dwh.fact_weblog select * from dwh.fact_weblog where line_number = 9 limit 1"
        )
        connection.execute(
            "update dwh.fact_weblog set line_number = 7 where ctid = "
            "(select max(ctid) from dwh.fact_weblog where line_number = 9) and line_number = 9"
        )
        (lines, *_) = reconcile_weblogs(connection, run.run_id)
        assert (lines.rows_differing, lines.differences[0].row_key["line_number"]) == (1, "7")


def test_file_that_grows_is_read_on_by_its_own_header(lake: WeblogLake) -> None:
    declare(lake, DECLARED)
    content = W3C.replace("2.0.0.9", ARGENTINA).encode()
    for end in range(0, len(content) + 1, 97):
        lake.put("iis/u_ex1.log", content[:end])
        lake.load()
    lake.put("iis/u_ex1.log", content)
    lake.load()
    assert lake.rows("select line_number from dwh.fact_weblog order by 1") == [(5,), (6,), (9,)]
    assert lake.rows("select line_count, rows_loaded, rows_quarantined, header_lines from audit.file") == [
        (10, 3, 1, [1, 2, 3, 4, 7, 8])
    ]
    assert lake.rows("select sum(header_line_count) from audit.file_part") == [(6,)]
    lake.assert_consistent()
    before = lake.content()
    lake.load(restart=["iis/u_ex1.log"])
    again = lake.content()
    assert again["weblog"] == before["weblog"]
    assert lake.rows("select header_lines from audit.file") == [([1, 2, 3, 4, 7, 8],)]
    lake.assert_consistent()


def test_line_that_was_read_in_another_format_says_so(lake: WeblogLake) -> None:
    lake.put("cdn/a.log", line(1))
    lake.load()
    declare(lake, DECLARED)
    with connect(lake.settings.warehouse) as connection:
        explanation = explain(connection, lake.settings, "cdn/a.log:1")
    assert explanation.fault == "It was read in the format combined; now caddy is declared."


def test_declaration_that_cannot_be_used_stops_the_load(lake: WeblogLake, tmp_path: Path) -> None:
    lake.put("access.log", line(1))
    declare(lake, '[[formats]]\nfiles = "a"\npreset = "nothing"\n')
    with pytest.raises(DeclarationError, match=r"weblogs\.toml, format 1: There is no preset 'nothing'"):
        lake.load()
    assert lake.rows("select count(*) from audit.file") == [(0,)]
    elsewhere = tmp_path / "declared.toml"
    settings = Settings(**{**lake.settings.model_dump(), "weblog_formats": elsewhere}, _env_file=None)  # type: ignore[call-arg]
    chosen = WeblogLake(lake.landing, settings)
    with pytest.raises(DeclarationError, match=r"declared\.toml cannot be read"):
        chosen.load()
    elsewhere.write_text("")
    assert chosen.load().rows_loaded == 1


def test_file_is_read_again_when_its_format_is_declared(lake: WeblogLake) -> None:
    lake.put("cdn/a.log", (CADDY % (BRAZIL, 101)).encode() * 3)
    lake.load()
    assert lake.rows("select count(*) from dwh.fact_weblog") == [(0,)]
    declare(lake, DECLARED)
    lake.load()
    assert lake.rows("select country, count(*) from dwh.fact_weblog group by 1") == [("BR", 3)]
    assert lake.rows("select count(*) from audit.quarantine where resolved_at is null") == [(0,)]
    lake.assert_consistent()


def test_file_whose_name_is_ignored_is_loaded_where_a_format_names_it(lake: WeblogLake) -> None:
    lake.put("cdn/access.json", (CADDY % (BRAZIL, 101)).encode())
    lake.put("cdn/access.log.part", (CADDY % (BRAZIL, 102)).encode())
    declare(lake, DECLARED)
    assert lake.load().lines == 0
    declare(lake, '[[formats]]\nfiles = ["cdn/**", "cdn/*.json"]\npreset = "caddy"\n')
    assert [(file.path, file.rows_loaded) for file in lake.load().files] == [("cdn/access.json", 1)]
    assert lake.rows("select path, status from audit.file order by 1") == [
        ("cdn/access.json", "loaded"),
        ("cdn/access.log.part", "ignored"),
    ]
    lake.assert_consistent()


def test_backfill_knows_the_days_of_files_in_other_formats(lake: WeblogLake) -> None:
    declare(lake, DECLARED)
    fill(lake)
    for name in ("access.log", "vhosts/a.log", "balanced/a.log", "old/a.csv"):
        (lake.landing / name).unlink()
    days = WeblogDays(lake.settings)
    with connect(lake.settings.warehouse) as connection:
        (waiting,) = days.days(connection, DAY, DAY).values()
        assert (waiting.status, waiting.message) == (
            "missing",
            "waits to be loaded: cdn/a.log, iis/u_ex1.log.gz",
        )
        lake.load()
        (loaded,) = days.days(connection, DAY, DAY).values()
        assert (loaded.status, loaded.rows) == ("loaded", 5)
