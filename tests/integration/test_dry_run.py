"""A dry run: the real run, rolled back; it says what the real one then does, and leaves its row in the trail alone."""

from pathlib import Path

import pytest

from tests.pipeline import Captured, Pipeline, Row
from tests.shop_day import change_everything
from tests.weblog_lake import line, lines, make_lake
from warehouse import marts
from warehouse.audit import mark_crashed, start_run
from warehouse.capture.proof import prove
from warehouse.capture.stage import stage
from warehouse.database import connect
from warehouse.errors import DeleteBrake, QualityGateStopped
from warehouse.preview import Example, examples
from warehouse.publish.publish import publish
from warehouse.undo import lock_of
from warehouse.weblogs import rehearse

# Every table, view and column, and every row of every table but those of the runs themselves.
SHAPE = """
    select attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod)
    from pg_attribute inner join pg_class on pg_class.oid = attrelid
    where relnamespace::regnamespace::text in ('staging', 'raw', 'dwh', 'mart', 'audit') and attnum > 0
    order by 1, attnum
"""
TABLES = """
    select schemaname || '.' || tablename from pg_tables
    where schemaname in ('staging', 'raw', 'dwh', 'audit') and schemaname || '.' || tablename <> 'audit.run'
    union all
    select 'mart.' || matviewname from pg_matviews where ispopulated
    order by 1
"""


def traces(shop: Pipeline) -> dict[str, list[Row]]:
    """Everything that a run could leave behind."""
    return {"": shop.rows(SHAPE)} | {
        name: sorted(shop.rows(f"select t::text from {name} as t")) for (name,) in shop.rows(TABLES)
    }


def dry_run(shop: Pipeline, *, max_delete_share: float = 1.0) -> tuple[Captured, tuple[Example, ...]]:
    with start_run(shop.warehouse_url, flow="ingest-shop", dry_run=True) as run:
        staged = stage(run, shop.source, shop.shop_url, max_delete_share=max_delete_share)
        published = publish(run, staged)
        proofs = prove(run, staged)
        found = examples(run, published.loads)
        loads = {load.table_name: load for load in published.loads}
        return Captured(run.run_id, staged, loads, published.checks, proofs), found


def test_dry_run_says_what_the_run_then_does_and_leaves_no_trace(busy_shop: Pipeline) -> None:
    shop = busy_shop
    before = traces(shop)
    first, _ = dry_run(shop)
    assert traces(shop) == before
    assert shop.capture().changes() == first.changes()

    change_everything(shop)
    shop.do("alter table product add column color text default 'red'")
    before = traces(shop)
    second, found = dry_run(shop)
    assert traces(shop) == before
    run = shop.capture()
    assert run.changes() == second.changes()
    assert [(c.check_name, c.outcome, c.measured) for c in run.checks] == [
        (c.check_name, c.outcome, c.measured) for c in second.checks
    ]
    assert {(p.verdict, p.rows_source, p.rows_mirror) for p in second.proofs} == {
        (p.verdict, p.rows_source, p.rows_mirror) for p in run.proofs
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


def test_dry_run_stops_where_the_run_would_and_tells_nobody(
    busy_shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = busy_shop
    shop.capture()
    shop.do("delete from order_item")
    before = traces(shop)
    with pytest.raises(DeleteBrake):
        dry_run(shop, max_delete_share=0.1)

    def stop(*_: object) -> None:
        raise QualityGateStopped("It stopped.")

    monkeypatch.setattr("warehouse.publish.publish.stop_on_failure", stop)
    shop.order(9, "2024-03-10")
    with pytest.raises(QualityGateStopped):
        dry_run(shop)
    assert traces(shop) == before
    assert [state[1:] for state in shop.run_states()][1:] == [
        (
            "dry run",
            "Too many rows have vanished from the source: order_item (8 of 8 rows, 100%); the limit is 10%.",
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
    before = traces(shop)
    with start_run(shop.warehouse_url, flow="refresh-marts", dry_run=True) as run:
        loads = marts.refresh(run)
    assert [load.table_name for load in loads] and sum(load.rows_read for load in loads) > 0
    assert traces(shop) == before


def test_dry_run_has_nothing_to_undo(shop: Pipeline) -> None:
    from warehouse.errors import UndoRefused

    run, _ = dry_run(shop)
    with connect(shop.warehouse_url) as connection, pytest.raises(UndoRefused, match="was a dry run"):
        lock_of(connection, run.run_id)


def test_web_logs_are_judged_as_a_load_would_and_left_alone(tmp_path: Path, shop: Pipeline) -> None:
    lake = make_lake(tmp_path, shop.warehouse_url)
    lake.put("a.log", lines(1, 5) + b"nonsense\n" + line(6)[:-20])
    lake.load()
    lake.append("a.log", line(6)[-20:] + lines(7, 9) + b"\xff\xfe\n")
    lake.put("b.log", lines(10, 12) + line(13)[:-40])
    lake.put("c.log", lines(10, 12))
    before = traces(shop)
    with start_run(shop.warehouse_url, flow="ingest-weblogs", dry_run=True) as run:
        judged, found = rehearse(lake.settings, run)
    assert traces(shop) == before
    loaded = lake.load()
    assert [(f.path, f.status, f.lines, f.rows_loaded, f.rows_quarantined) for f in judged.files] == [
        (f.path, f.status, f.lines, f.rows_loaded, f.rows_quarantined) for f in loaded.files
    ]
    assert (judged.unchanged, len(judged.checks)) == (loaded.unchanged, len(loaded.checks))
    assert [(e.row_key, e.changes) for e in found] == [
        (key, reason)
        for key, reason in (
            (("a.log", str(number)), reason)
            for number, reason in shop.rows(
                "select line_number, reason from audit.quarantine where run_id = 3 and file_id = 1"
            )
        )
    ] + [
        (("b.log", str(number)), reason)
        for number, reason in shop.rows(
            "select line_number, reason from audit.quarantine where run_id = 3 and file_id = 2"
        )
    ]
