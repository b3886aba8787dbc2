"""Partitions of the web log: by country, a large country's by month, and queries that touch what they ask for."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse.db.connections import connect
from warehouse.weblogs.storage.months import maintain_partitions

TODAY = datetime.now(UTC).date()
MONTHS = [
    date(month // 12, month % 12 + 1, 7)
    for month in range(TODAY.year * 12 + TODAY.month - 4, TODAY.year * 12 + TODAY.month - 1)
]


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def divided(lake: WeblogLake) -> WeblogLake:
    """The same, in which every country is large."""
    return replace(lake, settings=lake.settings.model_copy(update={"weblog_monthly_mb": 0}))


def visits(day: date, address: str, count: int, first: int = 0) -> bytes:
    written = b"".join(
        line(n, address=address, user=f"user{n % 7}", request=f"GET /product/{n % 5} HTTP/1.1")
        for n in range(first, first + count)
    )
    return written.replace(b"20/Nov/2026", f"{day:%d/%b/%Y}".encode())


def leaves(lake: WeblogLake) -> dict[str, int]:
    return dict(lake.rows("select tableoid::regclass::text, count(*) from dwh.fact_weblog group by 1"))


def plan(lake: WeblogLake, condition: str) -> str:
    rows = lake.rows(f"explain select count(*), max(status_code) from mart.weblog where {condition}")
    return "\n".join(row for (row,) in rows)


def test_large_country_is_divided_by_month_and_keeps_every_row(
    lake: WeblogLake, tmp_path: Path, database: Callable[[str], str], warehouse_template: str
) -> None:
    plain = make_lake(tmp_path / "plain", database(warehouse_template))
    far = [TODAY + timedelta(days=900), date(1970, 1, 2)]
    oldest, middle, newest = MONTHS
    first = visits(oldest, BRAZIL, 900) + visits(far[0], BRAZIL, 3) + visits(far[1], BRAZIL, 2)
    # Of several months in one round; few and many; two IP versions.
    second = b"".join(
        visits(day, address, count)
        for day in (newest, middle, oldest, TODAY, far[0])
        for address, count in ((BRAZIL, 500), ("2a00:1::1", 7), (ARGENTINA, 450))
    )
    for one in (divided(lake), plain):
        one.put("1.log", first)
        one.load()
        one.put("2.log", second)
        one.load()
    assert lake.content() == plain.content()
    lake.assert_consistent()
    rows = leaves(lake)
    brazil = {name: count for name, count in rows.items() if name.startswith("dwh.fact_weblog_br")}
    assert brazil == {
        f"dwh.fact_weblog_br_before_{middle:%Y_%m}": 900 + 2 + 500,
        f"dwh.fact_weblog_br_{middle:%Y_%m}": 500,
        f"dwh.fact_weblog_br_{newest:%Y_%m}": 500,
        f"dwh.fact_weblog_br_{TODAY:%Y_%m}": 500,
        "dwh.fact_weblog_br_other": 3 + 500,
    }
    assert not any("_ar_" in name for name in leaves(plain)) and any("_ar_" in name for name in rows)


def test_query_for_a_country_and_a_month_touches_that_partition_alone(lake: WeblogLake) -> None:
    large = divided(lake)
    for number, day in enumerate(MONTHS):
        large.put(f"{number}.log", visits(day, BRAZIL, 20) + visits(day, ARGENTINA, 20))
        large.load()
    of_country = plan(lake, "country = 'BR'")
    assert "fact_weblog_br" in of_country and "fact_weblog_ar" not in of_country and "dim_" not in of_country
    month = MONTHS[1].replace(day=1)
    of_month = plan(
        lake,
        f"country = 'BR' and request_timestamp >= '{month}' and request_timestamp < '{month}'::date + 20",
    )
    assert f"fact_weblog_br_{month:%Y_%m}" in of_month
    assert of_month.count("fact_weblog_br") == 1


def test_months_to_come_are_made_in_time_and_take_what_came_before_them(lake: WeblogLake) -> None:
    large = divided(lake)
    large.put("1.log", visits(MONTHS[0], BRAZIL, 10))
    large.load()
    following = (TODAY.replace(day=28) + timedelta(days=4)).replace(day=1)
    last = f"fact_weblog_br_{following:%Y_%m}"
    lake.execute(f"drop table dwh.{last}")
    large.put("2.log", visits(following, BRAZIL, 5))
    large.load()
    assert leaves(lake)[f"dwh.{last}"] == 5
    assert "dwh.fact_weblog_br_other" not in leaves(lake)
    lake.assert_consistent()


def test_country_is_divided_later_where_a_reader_is_at_it(lake: WeblogLake) -> None:
    lake.put("1.log", visits(MONTHS[0], BRAZIL, 10))
    lake.load()
    with connect(lake.settings.warehouse) as reader:
        reader.execute("select count(*) from dwh.fact_weblog")
        lake.put("2.log", visits(MONTHS[1], BRAZIL, 10))
        divided(lake).load()
        assert set(leaves(lake)) == {"dwh.fact_weblog_br"}
    with connect(lake.settings.warehouse) as connection:
        assert maintain_partitions(connection, 0)
        assert not maintain_partitions(connection, 0)
    assert set(leaves(lake)) == {f"dwh.fact_weblog_br_before_{MONTHS[2]:%Y_%m}"}
    assert lake.rows("select count(*) from dwh.fact_weblog") == [(20,)]
