"""`dwh reconcile` and `dwh explain` as people run them; a repair that is killed, and one that has to wait."""

import json
import signal

import pytest

from tests.integration.test_cli import CommandLine, _wait_for, dwh
from tests.pipeline import Pipeline, content
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock

__all__ = ["dwh"]


@pytest.mark.slow
def test_repair_that_is_killed_leaves_nothing_and_the_next_one_repairs(
    dwh: CommandLine, shop: Pipeline
) -> None:
    shop.order(1, "2024-03-10")
    assert dwh("run", "shop").returncode == dwh("run", "marts").returncode == 0
    undisturbed = content(shop.warehouse)
    shop.warehouse.execute(
        b"update raw.shop_customer set name = 'Forged'; update dwh.dim_customer set state = 'x' where is_current; "
        b"update dwh.fact_order_item set net_amount = 7"
    )
    damaged = content(shop.warehouse)

    found = dwh("reconcile", "--json")
    assert found.returncode == 3 and "dwh reconcile --repair" in found.stderr
    told = {row["table_name"]: row for row in json.loads(found.stdout)}
    assert told["dwh.fact_order_item"]["amounts"]["net_amount"] == {"found": 7, "expected": 190}
    assert told["dwh.dim_customer"]["differences"][0]["before"] == {"state": "x"}
    assert [row["verdict"] for row in dwh.json("status")["reconciled"] if row["rows_differing"]] == [
        "different"
    ] * 3
    assert "raw.shop_customer id 1: changed (name is 'Forged', should be 'Ana')" in dwh("reconcile").stdout

    with connect(shop.warehouse_url) as blocker:
        # The mirror and the dimension are mended by then, the fact is not.
        blocker.execute("lock table dwh.fact_order_item in share mode")
        running = dwh.start("reconcile", "--repair")
        _wait_for(
            lambda: shop.rows(
                "select from pg_locks where not granted and relation = 'dwh.fact_order_item'::regclass "
                "and database = (select oid from pg_database where datname = current_database())"
            )
        )
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=300)
    _wait_for(
        lambda: (
            not shop.rows(
                "select from pg_stat_activity where datname = current_database() "
                "and application_name = 'dwh reconcile' and state <> 'idle'"
            )
        )
    )
    assert content(shop.warehouse) == damaged

    mended = dwh("reconcile", "--repair")
    assert (
        mended.returncode == 0 and "the sum of net_amount is 7.0000 and should be 190.0000" in mended.stdout
    )
    assert content(shop.warehouse) == undisturbed
    shop.warehouse.execute(b"delete from dwh.fact_order_item")
    assert "the sum of net_amount is empty and should be 190.0000" in dwh("reconcile", "--repair").stdout
    assert content(shop.warehouse) == undisturbed
    assert dwh("reconcile").returncode == 0
    assert [status for flow, status, _ in shop.run_states() if flow == "reconcile"] == [
        "stopped", "stopped", "crashed", "succeeded", "succeeded", "succeeded",
    ]  # fmt: skip
    assert ("dwh.fact_order_item", "changed", True) in shop.rows(
        "select table_name, problem, is_repaired from audit.difference"
    )

    with connect(shop.warehouse_url, autocommit=True) as other, session_lock(other, "reconcile"):
        held = dwh("reconcile")
    assert held.returncode == 1 and "'reconcile' is being loaded by" in held.stderr


def test_row_is_explained_as_a_tree_and_as_json(dwh: CommandLine, shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    assert dwh("run", "shop").returncode == 0
    tree = dwh("explain", "order_item", "1", "1")
    assert tree.returncode == 0, tree.stderr
    for said in (
        "customer 1",
        "it was valid at ordered_at",
        "raw.shop_sales_order id 1",
        "transaction (xmin)",
        "kept",
    ):
        assert said in tree.stdout
    (node,) = dwh.json("explain", "customer", "1", "--source", "shop")
    assert node["facts"] == {"state": "in the source", "versions": 1}
    unknown = dwh("explain", "customer", "[bold]' or 1=1")
    assert unknown.returncode == 2 and "There are, for instance: 1." in unknown.stderr
