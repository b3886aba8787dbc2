"""A public web site's access log: what the warehouse holds of it agrees with an independent count of its lines."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.weblog_lake import WeblogLake, make_lake

LOG = Path(__file__).parents[2].parent / "shared" / "real" / "apache_access.log"
pytestmark = pytest.mark.skipif(not LOG.is_file(), reason=f"there is no {LOG.name} in ../shared/real")

LINE = re.compile(
    r'(?P<address>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<size>\d+|-) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)
FIRST_AND_ONLY_BAD_LINE = 8899


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    made = make_lake(tmp_path, warehouse_url)
    made.put(LOG.name, LOG.read_bytes())
    return made


@pytest.mark.each_major
def test_access_log_agrees_with_an_independent_count(lake: WeblogLake) -> None:
    loaded = lake.load()
    assert (loaded.lines, loaded.rows_loaded, loaded.rows_quarantined) == (10_000, 9_999, 1)

    texts = LOG.read_text(encoding="utf-8").splitlines()
    matches = {number: LINE.fullmatch(text) for number, text in enumerate(texts, start=1)}
    assert [number for number, match in matches.items() if match is None] == [FIRST_AND_ONLY_BAD_LINE]
    good = {number: match for number, match in matches.items() if match is not None}

    def counted(query: str) -> Counter[object]:
        return Counter(dict(lake.rows(query)))

    addresses = counted("select host(ip_address), count(*) from mart.weblog group by 1")
    assert addresses == Counter(match["address"] for match in good.values())
    # The line in quarantine is not the only one of its address.
    assert len(addresses) == len({text.split(" ")[0] for text in texts}) == 1_753
    assert counted("select status_code, count(*) from mart.weblog group by 1") == Counter(
        int(match["status"]) for match in good.values()
    )
    assert counted(
        "select date_trunc('hour', request_timestamp), count(*) from mart.weblog group by 1"
    ) == Counter(
        datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC).replace(minute=0, second=0)
        for match in good.values()
    )
    for column, group in (("request", "request"), ("user_agent", "agent"), ("referer", "referer")):
        said = counted(f"select {column}, count(*) from mart.weblog group by 1")
        assert said == Counter(match[group] for match in good.values())
    assert lake.rows("select line_number, response_bytes from dwh.fact_weblog order by 1") == [
        (number, 0 if match["size"] == "-" else int(match["size"])) for number, match in good.items()
    ]
    lake.assert_consistent()


def test_line_in_quarantine_is_reported_with_its_place_and_reason(lake: WeblogLake) -> None:
    lake.load()
    content = LOG.read_bytes()
    ((path, number, offset, rules, reason, raw_text),) = lake.rows(
        """
        select file.path, quarantine.line_number, byte_offset_of_line, rules, reason, raw_text
        from (select *, byte_offset as byte_offset_of_line from audit.quarantine) as quarantine
        inner join audit.file as file using (file_id)
        """
    )
    assert (path, number, rules, reason) == (
        LOG.name,
        FIRST_AND_ONLY_BAD_LINE,
        ["malformed_line"],
        "a quote is not closed",
    )
    assert content[offset:].split(b"\n")[0].decode() == raw_text == content.decode().split("\n")[number - 1]


def test_loading_it_twice_adds_nothing(lake: WeblogLake) -> None:
    lake.load()
    before = lake.content()
    again = lake.load()
    assert (again.lines, again.unchanged) == (0, 1)
    assert lake.content() == before
