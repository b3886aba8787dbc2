"""Complete as of: everything that a source had at that moment is in the warehouse, and nothing later is claimed."""

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.operations import metrics
from tests.pipeline import CONFIRMED, Pipeline
from tests.weblog_lake import WeblogLake, lines, make_lake
from warehouse.db.connections import connect
from warehouse.extract.stage import stage
from warehouse.features.build import build
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.model.mart import stored_marts
from warehouse.report.figures import source_states
from warehouse.report.read import read
from warehouse.runs.audit import start_run
from warehouse.runs.definitions import find_stale_targets, read_contracts
from warehouse.runs.metrics import render
from warehouse.runs.status import read_status
from warehouse.sources.source import Source, Table
from warehouse.undo.undo import undo
from warehouse.weblogs.result import Progress


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def complete_at(url: str, source: str) -> datetime | None:
    """As of when all surfaces say that the tables of `source` are complete: one moment."""
    with connect(url, autocommit=True) as connection:
        status = read_status(connection, {})
    moments = {row["complete_at"] for row in status.tables if row["source"] == source}
    reported = {row["complete_at"] for row in read(url)["table_freshness"] if row["source"] == source}
    assert moments == reported
    (moment,) = moments or {None}
    assert moment is None or isinstance(moment, datetime)
    return moment


def clock(url: str) -> datetime:
    with connect(url, autocommit=True) as connection:
        row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def test_rows_of_a_table_too_small_to_be_analyzed_are_counted(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {}, {})
    shop.capture()
    shop.warehouse.execute("update pg_class set reltuples = 1 where oid = 'dwh.fact_order_item'::regclass")
    shown = "select row_count_estimate from mart.table_freshness where table_name = 'dwh.fact_order_item'"
    # The server publishes what a session has written within seconds of its end.
    for _ in range(1200):
        if shop.rows(shown) == [(2,)]:
            break
        time.sleep(0.1)
    assert shop.rows(shown) == shop.rows("select count(*) from dwh.fact_order_item") == [(2,)]


def test_a_table_that_its_source_no_longer_declares_is_not_claimed_to_be_complete(shop: Pipeline) -> None:
    def incomplete() -> list[tuple[object, ...]]:
        return shop.rows(
            "select table_name from mart.table_freshness "
            "where source = 'shop' and complete_at is null and verified_since is null order by 1"
        )

    def stale(source: Source) -> list[str]:
        return [one.table_name for one in find_stale_targets(shop.warehouse, source, read_contracts(source))]

    shop.do("create table note (id int primary key)")
    extra = Table("shop", "note", "public", ("id",), None)
    less, more = shop.source, replace(shop.source, tables=(*shop.source.tables, extra))
    shop.capture(source=more)
    assert (incomplete(), stale(less)) == ([], [])
    shop.capture(source=less)
    assert (incomplete(), stale(less), stale(more)) == ([("raw.shop_note",)], ["raw.shop_note"], [])
    assert source_states(read(shop.warehouse_url))[0].complete_at is not None
    shop.warehouse.execute("drop table raw.shop_note")
    assert (incomplete(), stale(less)) == ([("raw.shop_note",)], [])
    shop.capture(source=more)
    assert (incomplete(), stale(more)) == ([], [])


def test_row_that_comes_while_a_run_is_at_work_is_not_claimed(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    before = clock(shop.shop_url)
    with start_run(shop.warehouse_url, flow="ingest-shop") as run:
        staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED)
        shop.order(2, "2024-03-11")
        committed = clock(shop.shop_url)
        publish(run, staged)
    claimed = complete_at(shop.warehouse_url, "shop")
    assert claimed is not None and before < claimed < committed
    assert shop.rows("select distinct order_id from dwh.fact_order_item") == [("1",)]
    shop.capture()
    again = complete_at(shop.warehouse_url, "shop")
    assert again is not None and again > committed
    assert shop.rows("select distinct order_id from dwh.fact_order_item order by 1") == [("1",), ("2",)]


def test_run_that_finds_nothing_new_is_complete_as_of_its_own_snapshot_and_undo_goes_back(
    shop: Pipeline,
) -> None:
    url = shop.warehouse_url
    shop.capture()
    first = complete_at(url, "shop")
    shop.order(1, "2024-03-10")
    shop.capture()
    shop.capture()
    assert complete_at(url, "shop") == shop.runs[2].staged.snapshot.taken_at
    with start_run(url, flow="undo") as run:
        undo(run, 2)
    assert complete_at(url, "shop") == first == shop.runs[0].staged.snapshot.taken_at


def test_stored_marts_are_complete_as_of_the_star_that_they_were_made_from(warehouse_url: str) -> None:
    before = clock(warehouse_url)
    with start_run(warehouse_url, flow="refresh-marts") as run:
        loads = marts.refresh(run)
    claimed = complete_at(warehouse_url, "mart")
    with connect(warehouse_url, autocommit=True) as connection:
        (first,) = connection.execute("select min(loaded_at) from audit.load").fetchone() or (None,)
    assert loads and claimed is not None and before < claimed < first


def test_stored_mart_that_a_refresh_skips_is_complete_as_of_the_refresh_that_computed_it(
    shop: Pipeline,
) -> None:
    def refresh() -> datetime:
        began = clock(shop.warehouse_url)
        with start_run(shop.warehouse_url, flow="refresh-marts") as run:
            marts.refresh(run)
        return began

    def is_complete(*began: datetime) -> dict[str, int]:
        """Number of the refreshes whose data each mart shows completely."""
        rows = shop.warehouse.execute(
            "select table_name, complete_at from mart.table_freshness where source = 'mart'"
        ).fetchall()
        return {table.removeprefix("mart."): sum(at > each for each in began) for table, at in rows}

    shop.order(1, "2024-03-10")
    shop.capture()
    first = refresh()
    with start_run(shop.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    shop.order(2, "2024-03-10", {"quantity": 1_000})
    shop.capture()
    second = refresh()
    # A customer's score is computed by the daily run, and features by a flow of their own.
    stale = {
        mart.name
        for mart in stored_marts()
        if mart.kind == "daily" and mart.name != "traffic_source_conversion"
    }
    numbers = is_complete(first, second)
    assert {name for name, number in numbers.items() if number < 2} == {*stale, "customer_feature"}
    rfm, sales = (
        "select sum(net_amount) from mart.customer_rfm",
        "select sum(net_amount) from mart.customer_sales",
    )
    assert (shop.rows(rfm), shop.rows(sales)) == ([(190,)], [(100_180,)])
    # One that is not computed, because nothing that it reads has changed since, is current all the same.
    refresh()
    third = refresh()
    assert is_complete(third) == {name: int(name not in {*stale, "customer_feature"}) for name in numbers}
    (state,) = [one for one in source_states(read(shop.warehouse_url)) if one.source == "mart"]
    assert state.complete_at is not None and first < state.complete_at < second
    assert f'dwh_complete_timestamp_seconds{{source="mart"}} {state.complete_at.timestamp():.3f}' in render(
        shop.warehouse
    )


def test_lines_that_come_while_web_logs_are_read_are_not_claimed(lake: WeblogLake) -> None:
    url = lake.settings.warehouse
    lake.put("a.log", lines(1, 3))
    late: list[datetime] = []

    def put_another(_: Progress) -> None:
        lake.put("b.log", lines(4, 6))
        late.append(clock(url))

    before = clock(url)
    lake.load(progress=put_another)
    claimed = complete_at(url, "weblogs")
    assert claimed is not None and before < claimed < late[0]
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 5, 6]
    again = complete_at(url, "weblogs")
    assert again is not None and again > late[0]


def test_load_of_web_logs_that_dies_between_two_batches_claims_nothing(lake: WeblogLake) -> None:
    url = lake.settings.warehouse
    lake.put("a.log", lines(1, 1))
    lake.load()
    claimed = complete_at(url, "weblogs")

    def die(progress: Progress) -> None:
        if progress.path == "c.log":
            raise KeyboardInterrupt

    lake.put("b.log", lines(2, 3))
    lake.put("c.log", lines(4, 5))
    with pytest.raises(KeyboardInterrupt):
        lake.load(batch_bytes=1, progress=die)
    assert lake.sizes() == [1, 2, 3]
    assert complete_at(url, "weblogs") == claimed
    idle = clock(url)
    lake.load()
    finished = complete_at(url, "weblogs")
    assert finished is not None and finished > idle


def test_undo_of_a_load_takes_the_claims_of_later_idle_loads_with_it(lake: WeblogLake) -> None:
    url = lake.settings.warehouse
    for name in ("a.log", "b.log"):
        lake.put(name, lines(1, 3))
        lake.load()
        lake.load()
    claims = [complete_at(url, "weblogs")]
    for run_id in (3, 1):
        with start_run(url, flow="undo") as run:
            undo(run, run_id)
        claims.append(complete_at(url, "weblogs"))
    newest, older, none = claims
    assert newest is not None and older is not None and newest > older
    assert none is None


def test_metrics_say_what_the_marts_say_and_need_no_more_than_the_monitor_s_role(
    shop: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order(1, "2024-03-10", {"discount_amount": 1_000})
    shop.capture()
    with pytest.raises(ValueError, match="no good"), start_run(shop.warehouse_url, flow="refresh-marts"):
        raise ValueError("no good")
    shop.warehouse.execute("set role dwh_monitor")
    text = render(shop.warehouse)
    shop.warehouse.execute("reset role")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    taken_at = shop.runs[0].staged.snapshot.taken_at.timestamp()
    assert float(values['dwh_complete_timestamp_seconds{source="shop"}']) == pytest.approx(
        taken_at, abs=0.001
    )
    rule = "discount is not between 0 and the gross amount"
    assert values[f'dwh_quarantine_rows{{source="shop",entity="order_item",rule="{rule}"}}'] == "1"
    assert values['dwh_quarantine_size{source="shop"}'] == "1"
    assert values['dwh_open_problems{flow="refresh-marts",kind="failed"}'] == "1"
    assert (values['dwh_run_failed{flow="ingest-shop"}'], values['dwh_run_failed{flow="refresh-marts"}']) == (
        "0",
        "1",
    )
    assert 'dwh_run_success_timestamp_seconds{flow="ingest-shop"}' in values
    assert 'dwh_run_success_timestamp_seconds{flow="refresh-marts"}' not in values
    assert values['dwh_table_differs{layer="mirror",source="shop",table="customer"}'] == "0"
    assert "Ana" not in text and "ana@example.com" not in text
    # Tables of the star are no source's own.
    tables = [name for name in values if name.startswith("dwh_table_bytes")]
    assert 'dwh_table_bytes{source="",table="dwh.fact_order_item"}' in tables
    assert 'dwh_table_bytes{source="shop",table="raw.shop_order_item"}' in tables
    # Each metric is declared once, before its values.
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared)) == 13
    # As Prometheus itself reads the file that node_exporter serves.
    file = tmp_path / "dwh.prom"
    file.write_text("old")
    monkeypatch.setenv("DWH_WAREHOUSE_URL", shop.warehouse_url)
    metrics(to=file)
    assert [path.name for path in tmp_path.iterdir()] == ["dwh.prom"]
    served = {family.name: family for family in text_string_to_metric_families(file.read_text())}
    assert list(served) == declared
    assert all(family.type == "gauge" and family.documentation for family in served.values())
    rows = {sample.labels["table"]: sample.value for sample in served["dwh_table_differs"].samples}
    assert rows["customer"] == 0
