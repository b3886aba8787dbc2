"""Mirrors that are made anew, or were changed by hand: what has left the source meanwhile leaves the star."""

import pytest

from tests.pipeline import Pipeline, content
from tests.star_questions import offenders
from warehouse.errors import DeleteThresholdExceeded, UndoRefused, VerificationFailed
from warehouse.reconcile.reconcile import reconcile_source, stop_on_differences
from warehouse.runs.audit import start_run
from warehouse.undo.undo import FLOW, undo


def agrees(shop: Pipeline) -> bool:
    """Whether nobody, neither reconcile nor an auditor, finds anything wrong."""
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        stop_on_differences(reconcile_source(run, shop.source, shop.shop_url, repair=False))
    return not offenders(shop)


@pytest.fixture
def shop(shop: Pipeline) -> Pipeline:
    """Four orders of two customers; a line of the third and of the fourth waits, and their facts stay."""
    shop.without_foreign_keys()
    shop.insert("customer", id=2)
    for number in (1, 2, 3, 4):
        shop.order(number, "2024-03-10", {}, {"quantity": 3}, customer_id=1 + number % 2)
    shop.capture()
    shop.do("update order_item set status = 'lost' where sales_order_id in (3, 4) and line_number = 1")
    shop.capture()
    return shop


def test_what_left_the_source_while_its_mirror_was_gone_leaves_the_star(shop: Pipeline) -> None:
    shop.warehouse.execute("drop table raw.shop_order_item, raw.shop_customer")
    shop.do(
        "delete from order_item where sales_order_id = 1 and line_number = 2",
        "delete from order_item where sales_order_id = 3 and line_number = 1",
        "update order_item set status = 'complete' where sales_order_id = 4 and line_number = 1",
        "delete from customer where id = 2",
    )
    run = shop.capture()
    assert [fact[:2] for fact in shop.facts()] == [
        ("1", "1"), ("2", "1"), ("2", "2"), ("3", "2"), ("4", "1"), ("4", "2"),
    ]  # fmt: skip
    assert run.loads["dwh.fact_order_item"].rows_deleted == 2
    assert shop.versions("customer", "is_current") == [
        ("1", True, "ever", "now"),
        ("2", False, "ever", "run 3"),
    ]
    assert [(key, resolution) for key, _, resolution in shop.quarantined()] == [
        (["3", "1"], "deleted"),
        (["4", "1"], "released"),
    ]
    assert agrees(shop)
    assert shop.capture(full_refresh=True).changes() == {}
    with (
        start_run(shop.warehouse_url, flow=FLOW) as undoing,
        pytest.raises(UndoRefused, match="cannot be undone: it dropped a column"),
    ):
        undo(undoing, run.run_id, cascade=True)


def test_few_orphans_pass_whatever_their_share_and_all_of_them_never(shop: Pipeline) -> None:
    shop.warehouse.execute("drop table raw.shop_order_item")
    shop.do("delete from order_item where sales_order_id <> 1")
    with pytest.raises(
        DeleteThresholdExceeded, match=r"dwh.fact_order_item .* 6 of 8, 75%; the limit is 10%"
    ):
        shop.capture(max_delete_share=0.1, delete_floor_rows=5)
    shop.capture(max_delete_share=0.1, delete_floor_rows=6)
    assert [fact[:2] for fact in shop.facts()] == [("1", "1"), ("1", "2")]
    shop.warehouse.execute("drop table raw.shop_order_item")
    shop.do("delete from order_item")
    with pytest.raises(DeleteThresholdExceeded, match=r"dwh.fact_order_item .* 2 of 2, 100%"):
        shop.capture(max_delete_share=0.1, delete_floor_rows=1000)


def test_mirrors_that_all_were_dropped_are_made_anew_under_the_same_star(shop: Pipeline) -> None:
    shop.do("delete from order_item where sales_order_id = 1 and line_number = 2")
    shop.capture()
    before = content(shop.warehouse)
    shop.warehouse.execute(
        "do $$ declare t text; begin for t in select tablename from pg_tables where schemaname = 'raw' "
        "loop execute format('drop table raw.%I', t); end loop; end $$"
    )
    shop.capture()
    after = content(shop.warehouse)
    assert {name: said for name, said in after.items() if name.startswith("dwh.")} == {
        name: said for name, said in before.items() if name.startswith("dwh.")
    }
    assert agrees(shop)


def test_keys_that_all_became_others_wait_for_a_word(shop: Pipeline) -> None:
    def respell(kind: str, using: str) -> None:
        shop.do(f"alter table order_item alter line_number type {kind} using {using}")
        shop.warehouse.execute("drop table raw.shop_order_item")

    respell("text", "'L' || line_number")
    known = content(shop.warehouse)
    with pytest.raises(
        DeleteThresholdExceeded, match=r"dwh.fact_order_item .* 8 of 8, 100%; the limit is 10%"
    ) as stopped:
        shop.capture(max_delete_share=0.1)
    assert "`dwh run shop --confirm-deletes`" in stopped.value.hint
    assert content(shop.warehouse) == known
    shop.capture(max_delete_share=0.1, confirm_deletes=True)
    lines = [(str(number), line) for number in (1, 2, 3, 4) for line in ("L1", "L2")]
    assert [fact[:2] for fact in shop.facts()] == [
        line for line in lines if line not in (("3", "L1"), ("4", "L1"))
    ]
    assert [(key, resolution) for key, _, resolution in shop.quarantined()] == [
        (["3", "1"], "deleted"), (["4", "1"], "deleted"), (["3", "L1"], None), (["4", "L1"], None),
    ]  # fmt: skip
    # And back: what waits under the text is no number, and in nobody's way.
    respell("integer", "substr(line_number, 2)::integer")
    shop.do("update customer set country = 'UY', updated_at = '2024-01-01'")
    shop.capture()
    shop.do("update order_item set quantity = quantity + 1")
    shop.capture()
    assert [fact[:2] for fact in shop.facts()] == [
        ("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"), ("3", "2"), ("4", "2"),
    ]  # fmt: skip
    assert agrees(shop)


def test_line_that_left_while_its_mirror_row_was_changed_by_hand_leaves_with_the_next_whole_run(
    shop: Pipeline,
) -> None:
    shop.await_open_transactions()
    shop.capture()
    shop.warehouse.execute("update raw.shop_order_item set sales_order_id = 77 where sales_order_id = 1")
    shop.do("delete from order_item where sales_order_id = 1")
    with pytest.raises(VerificationFailed):
        shop.capture()
    shop.capture(full_refresh=True)
    assert [fact[0] for fact in shop.facts()] == ["2", "2", "3", "3", "4", "4"]
    assert agrees(shop)


def test_whole_run_leaves_members_that_only_facts_know(shop: Pipeline) -> None:
    shop.order(9, "2024-03-10", customer_id=99)
    shop.capture()
    assert shop.capture(full_refresh=True).changes() == {}
    assert shop.versions("customer", "is_inferred")[-1] == ("99", True, "ever", "now")
