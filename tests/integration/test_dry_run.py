"""A dry run: the real run, rolled back; it says what the real one then does, and leaves its row in the trail alone."""

import pytest

from tests.pipeline import CONFIRMED, Captured, Pipeline
from tests.shop_day import change_everything
from tests.traces import traces
from warehouse.db.connections import connect
from warehouse.errors import DeleteThresholdExceeded, QualityGateStopped
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.extract.verification import verify
from warehouse.history.dry_run import Example, examples
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.runs.audit import mark_crashed, start_run
from warehouse.undo.undo import lock_of


def dry_run(
    shop: Pipeline, *, threshold: DeleteThreshold = CONFIRMED
) -> tuple[Captured, tuple[Example, ...]]:
    with start_run(shop.warehouse_url, flow="ingest-shop", dry_run=True) as run:
        staged = stage(run, shop.source, shop.shop_url, threshold=threshold)
        published = publish(run, staged)
        verifications = verify(run, staged)
        found = examples(run, published.loads)
        loads = {load.table_name: load for load in published.loads}
        return Captured(run.run_id, staged, loads, published.checks, verifications), found


def test_dry_run_says_what_the_run_then_does_and_leaves_no_trace(busy_shop: Pipeline) -> None:
    shop = busy_shop
    before = traces(shop.warehouse_url)
    first, _ = dry_run(shop)
    assert traces(shop.warehouse_url) == before
    assert shop.capture().changes() == first.changes()

    change_everything(shop)
    shop.do("alter table product add column color text default 'red'")
    before = traces(shop.warehouse_url)
    second, found = dry_run(shop)
    assert traces(shop.warehouse_url) == before
    run = shop.capture()
    assert run.changes() == second.changes()
    assert [(c.check_name, c.outcome, c.measured) for c in run.checks] == [
        (c.check_name, c.outcome, c.measured) for c in second.checks
    ]
    assert {(p.verdict, p.rows_source, p.rows_mirror) for p in second.verifications} == {
        (p.verdict, p.rows_source, p.rows_mirror) for p in run.verifications
    }
    assert shop.rows("select run_id, flow, status, parameters ->> 'dry_run' from audit.run order by 1") == [
        (1, "ingest-shop", "dry run", "true"),
        (2, "ingest-shop", "succeeded", None),
        (3, "ingest-shop", "dry run", "true"),
        (4, "ingest-shop", "succeeded", None),
    ]
    assert {(e.table_name, e.operation, e.changes) for e in found if e.operation in ("update", "delete")} >= {
        ("dwh.dim_customer", "update", "email: ana@example.com → new@example.com"),
        ("dwh.fact_order_item", "delete", None),
    }
    reasons = shop.rows("select distinct reason from audit.quarantine where run_id = 4")
    assert {(e.changes,) for e in found if e.operation == "quarantine"} == set(reasons)
    inserted = [e for e in found if (e.table_name, e.operation) == ("dwh.dim_promotion", "insert")]
    assert [(e.after or {})["name"] for e in inserted] == ["May"]


def test_dry_run_stops_where_the_run_would_and_sends_no_alert(
    busy_shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = busy_shop
    shop.capture()
    shop.do("delete from order_item")
    before = traces(shop.warehouse_url)
    with pytest.raises(DeleteThresholdExceeded):
        dry_run(shop, threshold=DeleteThreshold(0.1, 0))

    def stop(*_: object) -> None:
        raise QualityGateStopped("It stopped.")

    monkeypatch.setattr("warehouse.load.target.stop_on_failure", stop)
    shop.order(9, "2024-03-10")
    with pytest.raises(QualityGateStopped):
        dry_run(shop)
    assert traces(shop.warehouse_url) == before
    assert [state[1:] for state in shop.run_states()][1:] == [
        (
            "dry run",
            "Too many rows were deleted in the source: order_item (8 of 8 rows, 100%); the limit is 10%.",
        ),
        ("dry run", "It stopped."),
    ]


def test_dry_run_that_is_killed_is_no_crash_and_no_mail(shop: Pipeline) -> None:
    shop.warehouse.execute(
        "insert into audit.run (flow, launched_by, code_version, parameters, host, pid, status) "
        "values ('ingest-shop', 'me', 'x', '{\"dry_run\": true}', 'here', 1, 'running')"
    )
    assert mark_crashed(shop.warehouse) == []
    assert shop.rows("select status, error is not null from audit.run") == [("dry run", True)]
    assert shop.rows("select count(*) from audit.outbox") == [(0,)]


def test_marts_are_refreshed_and_rolled_back(busy_shop: Pipeline) -> None:
    shop = busy_shop
    shop.capture()
    before = traces(shop.warehouse_url)
    with start_run(shop.warehouse_url, flow="refresh-marts", dry_run=True) as run:
        loads = marts.refresh(run)
    assert [load.table_name for load in loads] and sum(load.rows_read for load in loads) > 0
    assert traces(shop.warehouse_url) == before


def test_dry_run_has_nothing_to_undo(shop: Pipeline) -> None:
    from warehouse.errors import UndoRefused

    run, _ = dry_run(shop)
    with connect(shop.warehouse_url) as connection, pytest.raises(UndoRefused, match="was a dry run"):
        lock_of(connection, run.run_id)
