"""Loading web logs: every line once, whatever files and lines look like, and marts that say what the rows say."""

import gzip
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from string import ascii_letters, digits

import psycopg
import pytest

from generators import geoip as generators_geoip
from generators import weblogs as generator
from tests.marts import refresh
from tests.weblog_lake import AGENT, ARGENTINA, BRAZIL, NOBODYS, WeblogLake, line, lines, make_lake
from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld
from warehouse.geoip import GeoIpError
from warehouse.report.read import read
from warehouse.runs import audit
from warehouse.runs.discard import discard
from warehouse.weblogs import Progress, load, reclassify
from warehouse.weblogs.files import blocks


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def test_line_becomes_a_row_with_all_that_it_says(lake: WeblogLake) -> None:
    lake.put(
        "access.log",
        f'{BRAZIL} - ana [20/Nov/2026:01:02:03 -0300] "GET /product/P-7?utm_source=news HTTP/2.0" 200 512 '
        f'"https://www.google.com/" "{AGENT}"\n'
        f'2001:db8::7 - - [20/Nov/2026:01:02:04 +0000] "OPTIONS * HTTP/1.1" 204 -\n'.encode(),
    )
    loaded = lake.load()
    assert (loaded.lines, loaded.rows_loaded, loaded.rows_quarantined, loaded.countries) == (2, 2, 0, 2)
    assert lake.rows(
        """
        select host(ip_address), request, country, status_code, user_agent, request_timestamp::text, year, product_id,
            action, user_name, device, traffic_source, traffic_medium, referer, response_bytes, line_number
        from mart.weblog order by line_number
        """
    ) == [
        (
            BRAZIL, "GET /product/P-7?utm_source=news HTTP/2.0", "BR", 200, AGENT, "2026-11-20 04:02:03+00", 2026,
            "P-7", "view", "ana", "iPhone", "news", "campaign", "https://www.google.com/", 512, 1,
        ),
        (
            "2001:db8::7", "OPTIONS * HTTP/1.1", "ZZ", 204, "-", "2026-11-20 01:02:04+00", 2026,
            None, "other", None, "Unknown", "direct", "direct", "-", 0, 2,
        ),
    ]  # fmt: skip
    lake.assert_consistent()


def test_generated_logs_load_to_the_counts_that_their_generator_wrote(lake: WeblogLake) -> None:
    made = generator.generate(lake.landing, lines=20_000, days=3, until=date(2026, 11, 20))
    loaded = lake.load()
    assert (loaded.lines, loaded.rows_quarantined) == (20_000, sum(made.bad.values()))
    assert dict(lake.rows("select action, count(*) from mart.weblog group by 1")) == made.actions
    assert dict(lake.rows("select rules[1], count(*) from audit.quarantine group by 1")) == made.bad
    measured = {check.check_name: check.measured for check in loaded.checks if check.level == "warn"}
    assert measured == {
        **dict.fromkeys(
            (
                "malformed_line",
                "other_format",
                "impossible_date",
                "bad_status",
                "bad_address",
                "unfinished_line",
                "future_line",
            ),
            0.0,
        ),
        **made.bad,
    }
    assert lake.rows("select rows_read, rows_inserted, rows_quarantined from audit.load") == [
        (20_000, loaded.rows_loaded, loaded.rows_quarantined)
    ]
    assert lake.rows(
        "select count(*) from dwh.fact_weblog as f left join audit.run as r using (run_id) where r.run_id is null"
    ) == [(0,)]
    lake.assert_consistent()


def test_requests_of_the_future_are_loaded_with_a_warning_and_no_chart_ends_with_them(
    lake: WeblogLake,
) -> None:
    def at(moment: datetime) -> bytes:
        return line(4).replace(b"20/Nov/2026:00:00:04", moment.strftime("%d/%b/%Y:%H:%M:%S").encode())

    # Within a day: a clock that is fast, or a zone that is not ours.
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0) + timedelta(days=1)
    lake.put("access.log", lines(1, 3) + at(tomorrow) + at(tomorrow + timedelta(days=3_000)))
    loaded = lake.load()
    assert loaded.rows_loaded == 5
    assert [(check.check_name, check.measured) for check in loaded.checks if check.outcome == "warned"] == [
        ("future_line", 1.0)
    ]
    refresh(lake.settings.warehouse)
    content = read(lake.settings.warehouse)
    assert [(row["request_date"], row["interaction_count"]) for row in content["traffic"]] == [
        (date(2026, 11, 20), 3)
    ]
    assert sum(row["interaction_count"] for row in content["interactions_by_weekday_hour"]) == 3


def test_visitors_are_who_the_line_says_or_nobody(lake: WeblogLake) -> None:
    """Addresses, host names and users of each kind of line, and what of it is not guessed."""
    v4, mapped = ARGENTINA, ".".join(BRAZIL.split("."))
    a, b, c, d = (int(octet) for octet in BRAZIL.split("."))
    lake.put(
        "access.log",
        line(1)
        + line(2, address=f"::ffff:{mapped}")
        + line(3, address=f"::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}", user="ana")
        + line(4, address="2001:db8::7")
        + line(5, address="pc7.lan.example", user="ana")
        + line(6, address="pc7.lan.example", user=" ")
        + line(7, address="pc8.lan.example", user="- -")
        + line(8, address=f"{v4}, {mapped}", user="ana")
        + line(9, address=f"{v4} {mapped}")
        + line(10, address=f"{v4} {mapped} {v4}")
        + line(11, address=f"www.shop.example {v4}"),
    )
    loaded = lake.load()
    assert (loaded.rows_loaded, loaded.rows_quarantined, loaded.countries) == (7, 4, 3)
    assert lake.rows(
        """
        select response_bytes - 100, host(ip_address), client_host, country, user_name, host, request_seconds,
            request_bytes, is_tls
        from mart.weblog order by 1
        """
    ) == [
        (1, v4, None, "AR", None, None, None, None, None),
        (2, mapped, None, "BR", None, None, None, None, None),
        (3, mapped, None, "BR", "ana", None, None, None, None),
        (4, "2001:db8::7", None, "ZZ", None, None, None, None, None),
        (5, None, "pc7.lan.example", "ZZ", "ana", None, None, None, None),
        (6, None, "pc7.lan.example", "ZZ", None, None, None, None, None),
        (7, None, "pc8.lan.example", "ZZ", None, None, None, None, None),
    ]
    assert lake.rows("select line_number, rules from audit.quarantine order by 1") == [
        (number, ["other_format"]) for number in (8, 9, 10, 11)
    ]
    lake.assert_consistent()


def test_loading_again_adds_nothing(lake: WeblogLake) -> None:
    generator.generate(lake.landing, lines=2_000, days=2, until=date(2026, 11, 20))
    lake.load()
    before = lake.content()
    again = lake.load()
    assert (again.lines, again.unchanged) == (0, 2)
    for path in lake.landing.glob("*.log"):
        path.touch()
    touched = lake.load()
    assert (touched.lines, touched.unchanged) == (0, 0)
    assert {**lake.content(), "file": []} == {**before, "file": []}
    lake.assert_consistent()


NASTY = [
    line(1),
    line(2).replace(b"\n", b"\r\n"),
    b"\n",
    line(3, request=r"GET /?q=\"x\" HTTP/1.1"),
    line(4).replace(AGENT.encode(), b"tab\there \xff\xfe and \0 NUL"),
    b"\x00\x01\x02 noise\n",
    line(5, request="GET /" + "y" * 2**20 + " HTTP/1.1"),
    line(6).replace(b"20/Nov", b"31/Nov"),
    line(7, address="2a00:1::1"),
    line(8).replace(b" 200 ", b" 777 "),
    b"www.shop.example:443 " + line(9),
    line(10, address="10.0.0.256"),
    line(11, request="CONNECT a.example:443 HTTP/1.1"),
    line(12).split(b' "-"')[0] + b"\n",
    line(13).replace(AGENT.encode() + b'"', b"never closed"),
    line(14, request="-"),
    line(15, user="d'Arc;--"),
    b"x" * 3_000_000 + b"\n",
    line(16).removesuffix(b"\n"),
]
NASTY_LOADED = [1, 2, 3, 4, 5, 7, 11, 12, 14, 15, 16]
NASTY_REJECTED = [
    (3, "malformed_line"),
    (6, "malformed_line"),
    (8, "impossible_date"),
    (10, "bad_status"),
    (11, "other_format"),
    (12, "bad_address"),
    (15, "malformed_line"),
    (18, "malformed_line"),
]


@pytest.mark.parametrize("compressed", [False, True])
def test_nasty_lines_are_loaded_or_quarantined_with_place_and_reason(
    lake: WeblogLake, compressed: bool
) -> None:
    content = b"".join(NASTY)
    lake.put("nasty", gzip.compress(content) if compressed else content)
    loaded = lake.load()
    assert lake.sizes() == NASTY_LOADED
    rejected = lake.rows(
        "select line_number, rules[1], byte_offset, raw_text from audit.quarantine order by 1"
    )
    assert [(number, rule) for number, rule, *_ in rejected] == NASTY_REJECTED
    for number, _, offset, raw_text in rejected:
        assert content[offset:].startswith(NASTY[number - 1])
        assert raw_text == NASTY[number - 1].decode().rstrip("\n").replace("\0", "\\x00")
    assert (loaded.lines, loaded.rows_loaded, loaded.rows_quarantined) == (len(NASTY), 11, 8)
    assert lake.rows("select user_agent from mart.weblog where response_bytes = 104") == [
        ("tab\there \\xff\\xfe and \\x00 NUL",)
    ]
    assert lake.rows("select length(request) from mart.weblog where response_bytes = 105") == [(2**20 + 14,)]
    assert lake.rows("select user_name from mart.weblog where response_bytes = 115") == [("d'Arc;--",)]
    lake.assert_consistent()


def test_names_that_a_visitor_has_made_too_long_for_an_index_are_none(lake: WeblogLake) -> None:
    random = Random(1)
    long = "".join(random.choices(ascii_letters + digits, k=3000))
    android = f"Mozilla/5.0 (Linux; Android 9; {long} Build/PPR1) AppleWebKit/537.36 Mobile Safari/537.36"
    lake.put(
        "access.log",
        line(1, request=f"GET /product/{long} HTTP/1.1")
        + line(2, request=f"GET /search?product_id={long}&utm_source={long} HTTP/1.1")
        + line(3, agent=android)
        + line(4, user=long)
        + line(5, request="GET /product/7 HTTP/1.1"),
    )
    lake.load()
    assert lake.sizes() == [1, 2, 3, 4, 5]
    assert lake.rows("select product_id, count(*) from mart.weblog group by 1 order by 1") == [
        ("7", 1),
        (None, 4),
    ]
    assert lake.rows("select distinct length(device) from mart.weblog where response_bytes = 103") == [(100,)]
    lake.assert_consistent()


def test_users_are_seen_last_on_their_day_at_both_ends_of_the_calendar(lake: WeblogLake) -> None:
    first = line(1, user="first").replace(b"20/Nov/2026:00:00:01 +0000", b"01/Jan/1970:00:00:01 +0530")
    last = line(2, user="last").replace(b"20/Nov/2026:00:00:02 +0000", b"31/Dec/2148:23:59:60 -1100")
    lake.put("access.log", first + last)
    lake.load()
    assert lake.rows(
        "select user_name, last_seen_date::text from dwh.agg_weblog_country_user "
        "join dwh.dim_web_user using (web_user_key) order by 1"
    ) == [("first", "1969-12-31"), ("last", "2149-01-01")]
    lake.assert_consistent()


def test_line_beyond_the_longest_is_quarantined_by_its_beginning(
    lake: WeblogLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 17)
    monkeypatch.setattr(blocks.BlockReader.__init__, "__defaults__", (1 << 17, 1 << 18))
    lake.put("a.log", line(1) + b"z" * 1_000_000 + b"\n" + line(2))
    loaded = lake.load()
    assert (loaded.lines, loaded.rows_quarantined, lake.sizes()) == (3, 1, [1, 2])
    assert lake.rows("select line_number, reason, length(raw_text) from audit.quarantine") == [
        (2, "a line of 1,000,001 bytes; only its beginning is kept here", 65_536)
    ]
    lake.assert_consistent()


def test_growing_file_goes_on_where_it_was(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.load()
    lake.append("access.log", lines(4, 5))
    loaded = lake.load()
    assert (loaded.lines, lake.sizes()) == (2, [1, 2, 3, 4, 5])
    assert lake.files() == [("access.log", "loaded", 5, 5, 0)]
    lake.assert_consistent()


def test_last_line_without_an_end_is_loaded_once_its_end_may_come_later(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 2).removesuffix(b"\n"))
    assert (lake.load().lines, lake.sizes()) == (2, [1, 2])
    lake.append("access.log", b"\n" + line(3).removesuffix(b"\n"))
    assert (lake.load().lines, lake.sizes()) == (1, [1, 2, 3])
    lake.append("access.log", b"\r\n" + line(4))
    assert (lake.load().lines, lake.sizes()) == (1, [1, 2, 3, 4])
    assert lake.files() == [("access.log", "loaded", 4, 4, 0)]
    lake.assert_consistent()


@pytest.mark.parametrize(
    "cut", [20, 90, -3, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (60, -60))]
)
def test_line_that_is_half_written_waits_in_quarantine_until_it_is_whole(lake: WeblogLake, cut: int) -> None:
    last = line(3)
    lake.put("access.log", lines(1, 2) + last[:cut])
    assert (lake.load().lines, lake.sizes()) == (3, [1, 2])
    assert lake.rows("select line_number, rules from audit.quarantine where resolved_at is null") == [
        (3, ["unfinished_line"])
    ]
    lake.append("access.log", last[cut:] + line(4))
    lake.load()
    assert lake.sizes() == [1, 2, 3, 4]
    assert lake.rows("select line_number, resolution from audit.quarantine") == [(3, "replaced")]
    assert lake.files() == [("access.log", "loaded", 4, 4, 0)]
    lake.assert_consistent()


def test_half_written_line_that_was_discarded_counts_once_when_it_is_whole(lake: WeblogLake) -> None:
    lake.put("access.log", line(1) + line(2)[:90])
    lake.load()
    ids = [one for (one,) in lake.rows("select quarantine_id from audit.quarantine")]
    with (
        audit.start_run(lake.settings.warehouse, flow="discard-quarantine") as run,
        run.session("discard") as writer,
    ):
        assert discard(writer, run.run_id, ids, "cut") == 1
    lake.append("access.log", line(2)[90:] + line(3)[:90])
    lake.load()
    assert lake.sizes() == [1, 2]
    counts = "select rows_loaded, rows_quarantined, rows_discarded, rows_removed from audit.file"
    assert lake.rows(counts) == [(2, 1, 0, 0)]
    assert lake.rows("select line_number, resolution from audit.quarantine order by 1") == [
        (2, "replaced"),
        (3, None),
    ]
    lake.assert_consistent()


def test_line_that_was_loaded_and_then_went_on_is_taken_back_and_read_whole(lake: WeblogLake) -> None:
    first, second = (line(n, user=f"user{n}", request=f"GET /product/{n} HTTP/1.1") for n in (1, 2))
    lake.put("access.log", first + second.removesuffix(b"\n"))
    lake.load()
    lake.append("access.log", b' "10.0.0.9"\n' + line(3))
    assert (lake.load().lines, lake.sizes()) == (2, [1, 2, 3])
    lake.assert_consistent()
    lake.put("common.log", line(5, user="eva").split(b' "-"')[0][:-1])
    lake.load()
    lake.append("common.log", line(5, user="eva").split(b' "-"')[0][-1:] + b' "-" "curl/8"\n')
    lake.load()
    assert lake.sizes() == [1, 2, 3, 5]
    assert lake.rows("select user_agent from mart.weblog where user_name = 'eva'") == [("curl/8",)]
    lake.assert_consistent()


def test_rotated_file_goes_on_under_its_new_name_and_the_new_one_starts(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.load()
    lake.append("access.log", line(4))
    (lake.landing / "access.log").rename(lake.landing / "access.log.1")
    lake.put("access.log", lines(11, 12))
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 11, 12]
    content = (lake.landing / "access.log.1").read_bytes()
    (lake.landing / "access.log.1").unlink()
    lake.put("access.log.2.gz", gzip.compress(content + line(5)))
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 5, 11, 12]
    assert lake.files() == [("access.log.2.gz", "loaded", 5, 5, 0), ("access.log", "loaded", 2, 2, 0)]
    lake.assert_consistent()


def test_file_copied_and_emptied_by_rotation_is_not_taken_for_the_new_one(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.load()
    lake.put("access.log.1", lines(1, 4))
    lake.put("access.log", lines(21, 22))
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 21, 22]
    assert sorted(lake.files()) == [("access.log", "loaded", 2, 2, 0), ("access.log.1", "loaded", 4, 4, 0)]
    lake.assert_consistent()


def test_file_replaced_by_another_is_loaded_as_a_new_one(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.load()
    lake.put("access.log", lines(31, 39))
    lake.load()
    assert lake.sizes() == [1, 2, 3, *range(31, 40)]
    assert lake.files() == [("access.log", "replaced", 3, 3, 0), ("access.log", "loaded", 9, 9, 0)]
    lake.assert_consistent()


def test_truncated_gzip_loads_what_can_be_read_says_the_rest_and_goes_on_when_it_is_whole(
    lake: WeblogLake,
) -> None:
    whole = gzip.compress(lines(1, 5000))
    lake.put("access.log.gz", whole[: len(whole) // 2])
    loaded = lake.load()
    assert 500 < loaded.rows_loaded < 5000
    assert loaded.files[0].status == "truncated"
    assert loaded.files[0].message == "the compressed file breaks off: its end is missing"
    lake.assert_consistent()
    lake.put("access.log.gz", whole)
    lake.load()
    assert lake.sizes() == list(range(1, 5001))
    assert lake.files() == [("access.log.gz", "loaded", 5000, 5000, 0)]
    lake.assert_consistent()


def test_empty_files_and_an_empty_lake_are_fine(lake: WeblogLake) -> None:
    assert lake.load().files == ()
    lake.put("access.log", b"")
    assert lake.load().lines == 0
    lake.append("access.log", line(1))
    assert (lake.load().lines, lake.sizes()) == (1, [1])
    lake.assert_consistent()


def test_batches_commit_inside_files_and_come_to_the_same(
    lake: WeblogLake, tmp_path: Path, database: object, warehouse_template: str
) -> None:
    made = generator.generate(lake.landing, lines=30_000, days=2, until=date(2026, 11, 20))
    lake.load(batch_bytes=1 << 20)
    assert len(lake.rows("select from audit.load")) >= 2
    other = make_lake(tmp_path / "other", database(warehouse_template))  # type: ignore[operator]
    generator.generate(other.landing, lines=30_000, days=2, until=date(2026, 11, 20))
    other.load()
    mine, theirs = lake.content(), other.content()
    for content in (mine, theirs):
        content["file"] = [(*row[:4], *row[5:]) for row in content["file"]]
    assert mine == theirs
    assert len(mine["weblog"]) + sum(made.bad.values()) == 30_000
    lake.assert_consistent()


def test_marts_answer_as_plain_queries_on_the_rows_do(lake: WeblogLake) -> None:
    def visits(address: str, agent: str, users: list[str], product: int, times: int) -> bytes:
        return b"".join(
            line(n, address=address, user=user, agent=agent, request=f"GET /product/{product} HTTP/1.1")
            for user in users
            for n in range(times)
        )

    mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36"
    lake.put("1.log", visits(ARGENTINA, AGENT, ["ana", "eva"], 1, 2) + visits(ARGENTINA, mac, ["ana"], 2, 5))
    lake.put("2.log", visits(BRAZIL, mac, ["rui"], 3, 50) + visits(NOBODYS, mac, ["x1", "x2", "x3"], 4, 1))
    lake.load()
    lake.put("3.log", visits(ARGENTINA, AGENT, ["leo", "-"], 3, 3))
    lake.load()
    assert lake.rows("select * from mart.top_devices_by_users") == [(1, "Mac", 5, 58), (2, "iPhone", 3, 10)]
    assert lake.rows("select country, user_count, request_count from mart.countries_by_logged_users") == [
        ("AR", 3, 15),
        ("ZZ", 3, 3),
        ("BR", 1, 50),
    ]
    assert lake.rows(
        "select product_rank, product_id, product_name, view_count, country from mart.most_viewed_products"
    ) == [
        (1, "3", None, 6, "AR"),
        (2, "2", None, 5, "AR"),
        (3, "1", None, 4, "AR"),
    ]
    refresh(lake.settings.warehouse)
    assert lake.rows("select * from mart.interactions_by_day") == [(date(2026, 11, 20), "view", 68)]
    lake.assert_consistent()


def test_query_for_a_country_touches_its_partition_alone(lake: WeblogLake) -> None:
    lake.put(
        "1.log",
        b"".join(line(n, address=address) for address in (ARGENTINA, BRAZIL, NOBODYS) for n in range(9)),
    )
    lake.load()
    plan = "\n".join(
        row
        for (row,) in lake.rows(
            "explain select count(*), max(status_code) from mart.weblog where country = 'BR'"
        )
    )
    assert "fact_weblog_br" in plan
    assert "fact_weblog_ar" not in plan and "fact_weblog_zz" not in plan and "dim_" not in plan


def test_no_line_range_of_a_file_can_be_recorded_twice(lake: WeblogLake) -> None:
    lake.put("1.log", lines(1, 10))
    lake.load()
    with pytest.raises(psycopg.errors.ExclusionViolation, match="ex_file_part_lines"):
        lake.rows(
            """
            insert into audit.file_part (file_id, first_line, line_count, byte_offset, byte_count, rows_loaded,
                rows_quarantined, run_id)
            select file_id, 5, 10, 10000, 10, 10, 0, run_id from audit.file_part
            """
        )


def test_run_without_new_lines_does_not_read_the_geoip_file(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.load()
    path = geoip.path_of(lake.settings)
    # All but what it says of itself, at its end, is gone.
    content = path.read_bytes()
    path.write_bytes(b"\xff" * (len(content) - 1000) + content[-1000:])
    assert lake.load().unchanged == 1
    lake.append("access.log", line(4))
    with pytest.raises(GeoIpError, match="cannot be read"):
        lake.load()
    path.write_bytes(content)
    assert (lake.load().lines, lake.sizes()) == (1, [1, 2, 3, 4])
    lake.assert_consistent()


def test_load_that_is_barred_says_by_whom(lake: WeblogLake) -> None:
    lake.put("1.log", lines(1, 3))
    with (
        connect(lake.settings.warehouse, application_name="retention") as connection,
        session_lock(connection, "weblogs"),
    ):
        with pytest.raises(LockHeld, match="'weblogs' is being loaded by retention"):
            lake.load(wait_seconds=0)
        assert lake.sizes() == []
    lake.load()
    assert lake.sizes() == [1, 2, 3]


def test_load_without_a_geoip_file_fails_only_where_there_are_lines_to_load(lake: WeblogLake) -> None:
    (lake.settings.home / "geoip" / "demo.mmdb").unlink()
    lake.load()
    lake.put("1.log", lines(1, 3))
    for _ in range(2):
        with pytest.raises(GeoIpError, match=r"There is no GeoIP file at .*demo.mmdb"):
            lake.load()
    assert lake.rows("select status, hint like '%DWH_GEOIP_PATH%' from audit.run order by run_id") == [
        ("succeeded", None),
        ("failed", True),
        ("failed", True),
    ]
    # One mail for the two.
    assert lake.rows("select kind, occurrence_count from audit.outbox") == [("failed", 2)]
    assert lake.sizes() == []
    geoip_file = lake.settings.home / "geoip" / "demo.mmdb"
    generators_geoip.write(geoip_file)
    lake.load()
    assert lake.sizes() == [1, 2, 3]
    lake.assert_consistent()


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_geoip_file_that_is_named_and_cannot_be_read_fails_only_where_there_are_lines_to_load(
    content: bytes | None, lake: WeblogLake
) -> None:
    path = lake.settings.home / "mine.mmdb"
    if content:
        path.write_bytes(content)
    named = lake.settings.model_copy(update={"geoip_path": path, "without_geoip": "unknown"})
    mine = replace(lake, settings=named)
    mine.load()
    mine.put("1.log", lines(1, 3))
    # That lines may be loaded without a file does not mean without the one that is named.
    with pytest.raises(GeoIpError, match="cannot be read" if content else "There is no GeoIP file"):
        mine.load()
    assert lake.rows("select status from audit.run order by run_id") == [("succeeded",), ("failed",)]


def test_lines_loaded_without_a_geoip_file_get_their_countries_later(lake: WeblogLake) -> None:
    geoip_file = lake.settings.home / "geoip" / "demo.mmdb"
    geoip_file.unlink()
    without = replace(lake, settings=lake.settings.model_copy(update={"without_geoip": "unknown"}))
    without.put("1.log", lines(1, 3) + line(4, address="2001:db8::1"))
    without.load()
    countries = "select country, count(*) from dwh.fact_weblog group by 1 order by 1"
    assert lake.rows(countries) == [("ZZ", 4)]
    lake.assert_consistent()
    generators_geoip.write(geoip_file)
    with audit.start_run(lake.settings.warehouse, flow="reclassify-weblogs") as run:
        reclassify(lake.settings, run)
    assert lake.rows(countries) == [("AR", 3), ("ZZ", 1)]
    lake.assert_consistent()


def test_failed_batch_leaves_nothing_but_its_run_texts_and_an_empty_partition(
    lake: WeblogLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("1.log", lines(1, 2000))

    def fail(*_: object) -> None:
        raise RuntimeError("no more")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no more"):
        patch.setattr("warehouse.weblogs.sink.save", fail)
        lake.load()
    empty = lake.rows(
        """
        select (select count(*) from dwh.fact_weblog), (select count(*) from audit.quarantine),
            (select count(*) from audit.file_part), (select count(*) from audit.load),
            (select count(*) from dwh.agg_weblog_country), (select count(*) from dwh.dim_request),
            (select count(*) from pg_inherits where inhparent = 'dwh.fact_weblog'::regclass)
        """
    )
    assert empty == [(0, 0, 0, 0, 0, 2, 1)]
    assert lake.rows("select status from audit.run") == [("failed",)]
    lake.load()
    assert lake.sizes() == list(range(1, 2001))
    lake.assert_consistent()


def test_progress_is_reported_block_by_block(lake: WeblogLake) -> None:
    lake.put("1.log", lines(1, 100))
    lake.put("2.log", lines(101, 150))
    told: list[Progress] = []
    with audit.start_run(lake.settings.warehouse, flow="ingest-weblogs") as run:
        load(lake.settings, run, progress=told.append)
    assert [(one.path, one.file_number, one.lines) for one in told] == [("1.log", 1, 100), ("2.log", 2, 150)]
