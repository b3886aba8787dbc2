"""A declaration and the source change between two runs: only the state that a run has read decides what is deleted.

What the new declaration does not make of the old rows it may make of the new ones: such a member is never gone.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from random import Random

import pytest

from tests.integration.conftest import Declare
from tests.integration.test_refused_rows import differences
from tests.integration.test_same_star import LENIENT, accepted
from tests.integration.test_undo import take_back
from tests.pipeline import CONFIRMED, Pipeline, content
from tests.shop_day import comparable_content
from tests.traces import traces
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.stage import stage
from warehouse.load import publish as publishing
from warehouse.model.star import DIMENSIONS
from warehouse.runs.audit import Load, start_run
from warehouse.sources.source import Source

# A table that is new in the declaration decides which rows are conformed.
SEGMENT = ("source.toml", "[tables.category]", '[tables.seg]\nkey = ["country"]\n\n[tables.category]')
Change = tuple[str, str, str]


def in_segment(entity: str) -> tuple[Change, Change]:
    """Only rows whose country is in the segment are conformed."""
    return (
        (
            "source.toml",
            f"[entities.{entity}]\n",
            f'[entities.{entity}]\njoins = {{ seg = "seg.country = {entity}.country" }}\n',
        ),
        (
            f"conform/{entity}.sql",
            "where not",
            f"inner join raw.shop_seg as seg on {entity}.country = seg.country and not seg._is_deleted\nwhere not",
        ),
    )


SEGMENTED = (SEGMENT, *in_segment("customer"), *in_segment("company"))
# Of sales, only what is not pending, and of products only those that are not cheap.
SELECTED = (
    ("conform/order_item.sql", "where not item._is_deleted", "where not item._is_deleted and item.status <> 'pending'"),
    ("conform/product.sql", "where not product._is_deleted", "where not product._is_deleted and product.price >= 100"),
    ("conform/promotion.sql", "where not", "where promotion.discount_share < 0.5 and not"),
)  # fmt: skip


def open_segments(shop: Pipeline) -> None:
    """Members and order lines that the new declaration makes of their old state, of their new one, of both, or none."""
    shop.without_foreign_keys()
    for number, country in ((2, "ZZ"), (3, "AR"), (4, "ZZ"), (5, "ZZ"), (6, "ZZ")):
        shop.insert("customer", id=number, name=f"Customer {number}", country=country)
    shop.insert("product", id=2, name="Saw", price=90)
    shop.insert("product", id=3, name="Axe", price=100)
    for number, share in ((1, 0.1), (2, 0.9), (3, 0.1), (4, 0.9)):
        shop.insert("promotion", id=number, code=f"P{number}", discount_share=share)
    statuses = ("complete", "pending", "complete", "pending", "pending")
    shop.order(1, "2024-03-10", *({"status": status, "product_id": 2} for status in statuses), customer_id=2)
    shop.do(
        "create table seg (country text primary key)",
        "insert into seg values ('AR'), ('SE'), ('ZY')",
    )


def change_segments(shop: Pipeline) -> None:
    """What the source changes before the run that finds the new declaration."""
    shop.do(
        "update customer set country = 'ZY', updated_at = '2024-05-01' where id = 2",
        "update customer set country = 'ZZ', updated_at = '2024-05-01' where id = 3",
        # Nothing says when.
        "alter table customer disable trigger all",
        "update customer set country = 'ZY' where id = 6",
        "delete from customer where id = 5",
        "update company set country = 'SE', updated_at = '2024-05-01'",
        "update product set price = 100, updated_at = '2024-05-01' where id = 2",
        "update product set price = 90, updated_at = '2024-05-01' where id = 3",
        "update promotion set discount_share = 0.2 where id = 2",
        "update promotion set discount_share = 0.8 where id = 3",
        "update order_item set status = 'complete', quantity = 7 where line_number = 2",
        "update order_item set status = 'pending' where line_number = 3",
        "delete from order_item where line_number = 5",
    )
    shop.insert("customer", id=7, name="Gus", country="ZZ")


def segments(shop: Pipeline) -> dict[str, object]:
    """Every version, member and order line."""
    return {
        "customer": shop.versions("customer", "country"),
        "company": shop.versions("company", "country"),
        "product": shop.versions("product", "price_amount::integer"),
        "promotion": shop.rows(
            "select promotion_id, discount_share::float, is_deleted from dwh.dim_promotion where promotion_key > 0 "
            "order by 1"
        ),
        "order_item": shop.facts(
            "fact.status", "fact.quantity::integer", "customer.country", "product.price_amount::integer", "company.name"
        ),
    }  # fmt: skip


AFTER = {
    "customer": [
        ("1", "AR", "ever", "now"),
        ("2", "ZZ", "ever", "2024-05-01"),
        ("2", "ZY", "2024-05-01", "now"),
        ("3", "AR", "ever", "run 2"),
        ("4", "ZZ", "ever", "run 2"),
        ("5", "ZZ", "ever", "run 2"),
        ("6", "ZZ", "ever", "run 2"),
        ("6", "ZY", "run 2", "now"),
    ],
    "company": [("1", "AR", "ever", "2024-05-01"), ("1", "SE", "2024-05-01", "now")],
    "product": [
        ("1", 100, "ever", "now"),
        ("2", 90, "ever", "2024-05-01"),
        ("2", 100, "2024-05-01", "now"),
        ("3", 100, "ever", "run 2"),
    ],
    "promotion": [("1", 0.1, False), ("2", 0.2, False), ("3", 0.1, True), ("4", 0.9, True)],
    "order_item": [("1", "1", "complete", 2, "ZZ", 90, "Acme"), ("1", "2", "complete", 7, "ZZ", 90, "Acme")],
}


@pytest.fixture
def segmented(shop: Pipeline, declare: Declare) -> tuple[Pipeline, Source]:
    """A shop that is loaded, and its declaration as it is now."""
    open_segments(shop)
    shop.capture(source=declare())
    return shop, declare(*SEGMENTED, *SELECTED)


def test_member_that_only_its_new_state_keeps_has_no_gap_and_others_are_closed_once(
    segmented: tuple[Pipeline, Source],
) -> None:
    shop, now = segmented
    change_segments(shop)
    run = shop.capture(source=now)
    assert segments(shop) == AFTER
    assert {name: counts for name, counts in run.changes().items() if name.startswith("dwh.")} == {
        "dwh.dim_company": {"read": 2, "inserted": 1, "expired": 1, "unchanged": 1},
        "dwh.dim_customer": {"read": 9, "inserted": 2, "expired": 5, "unchanged": 3},
        "dwh.dim_product": {"read": 4, "inserted": 1, "expired": 2, "unchanged": 2},
        "dwh.dim_promotion": {"read": 5, "updated": 1, "deleted": 2, "unchanged": 2},
        "dwh.fact_order_item": {"read": 7, "updated": 2, "deleted": 3, "unchanged": 2},
    }
    # What was not deleted has not been deleted and inserted again either.
    assert shop.rows(
        "select table_name, count(*) from audit.change where run_id = 2 and operation = 'delete' group by 1"
    ) == [("dwh.fact_order_item", 3)]
    assert differences(shop, source=now) == {}
    assert shop.capture(source=now).changes() == {}


def test_what_the_new_declaration_excludes_goes_where_nothing_changed_at_the_source(
    segmented: tuple[Pipeline, Source],
) -> None:
    shop, now = segmented
    shop.capture(source=now)
    assert segments(shop) == {
        "customer": [
            (number, country, "ever", "now" if country == "AR" else "run 2")
            for number, country in zip("123456", ("AR", "ZZ", "AR", "ZZ", "ZZ", "ZZ"), strict=True)
        ],
        "company": [("1", "AR", "ever", "now")],
        "product": [("1", 100, "ever", "now"), ("2", 90, "ever", "run 2"), ("3", 100, "ever", "now")],
        "promotion": [("1", 0.1, False), ("2", 0.9, True), ("3", 0.1, False), ("4", 0.9, True)],
        "order_item": [("1", number, "complete", 2, "ZZ", 90, "Acme") for number in "13"],
    }
    assert differences(shop, source=now) == {}
    assert shop.capture(source=now).changes() == {}


def test_dry_run_kill_and_undo_leave_what_was_and_the_run_does_what_the_dry_run_showed(
    segmented: tuple[Pipeline, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, now = segmented
    change_segments(shop)
    (until,) = shop.shop.execute("select clock_timestamp()").fetchone() or ()
    loaded, left = comparable_content(shop.warehouse, until), traces(shop.warehouse_url)
    with start_run(shop.warehouse_url, flow="ingest-shop", dry_run=True) as run:
        shown = publishing.publish(run, stage(run, now, shop.shop_url, threshold=CONFIRMED)).loads
    assert traces(shop.warehouse_url) == left

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        # After the first pass, and before this run's changes are merged.
        patched.setattr("warehouse.load.star_load.merge_mirrors", die)
        shop.capture(source=now)
    assert comparable_content(shop.warehouse, until) == loaded
    published = shop.capture(source=now)
    assert counts_of(published.loads.values()) == counts_of(shown)
    assert segments(shop) == AFTER
    after = comparable_content(shop.warehouse, until)
    take_back(shop, published.run_id)
    # The mirror of the new table stays, and is empty.
    assert comparable_content(shop.warehouse, until) == {**loaded, "raw.shop_seg": []}
    shop.capture(source=now)
    assert comparable_content(shop.warehouse, until) == after


def counts_of(loads: Iterable[Load]) -> dict[str, tuple[int, ...]]:
    """By table of the star, how many rows were inserted, updated, expired and deleted."""
    return {
        load.table_name: (load.rows_inserted, load.rows_updated, load.rows_expired, load.rows_deleted)
        for load in loads
        if load.table_name.startswith("dwh.")
    }


def test_only_what_stays_excluded_counts_for_the_delete_threshold(shop: Pipeline, declare: Declare) -> None:
    for number in range(2, 22):
        shop.insert("customer", id=number, name=f"Customer {number}", country="ZZ")
    shop.do("create table seg (country text primary key)", "insert into seg values ('AR'), ('ZY')")
    shop.capture(source=declare())
    # All but three, of which the source deletes one, and one that comes back.
    shop.do(
        "update customer set country = 'ZY', updated_at = '2024-05-01' where id between 5 and 21",
        "delete from customer where id = 4",
    )
    now = declare(SEGMENT, *in_segment("customer"))
    before = content(shop.warehouse), traces(shop.warehouse_url)["audit.definition"]
    with pytest.raises(DeleteThresholdExceeded) as error:
        shop.capture(source=now, max_delete_share=0.09)
    assert error.value.what == (
        "Too many rows of dwh.dim_customer are no longer made of source 'shop' (source declaration has changed, "
        "conform SQL has changed): 2 of 21, 10%; the limit is 9%."
    )
    assert "`dwh run shop --confirm-deletes`" in error.value.hint
    assert (content(shop.warehouse), traces(shop.warehouse_url)["audit.definition"]) == before
    shop.capture(source=now, max_delete_share=0.1)
    assert shop.rows(
        "select country, is_current, count(*) from dwh.dim_customer where customer_key > 0 group by 1, 2 order by 1, 2"
    ) == [("AR", True, 1), ("ZY", True, 17), ("ZZ", False, 20)]


def test_a_table_of_which_no_row_is_left_needs_a_confirmation_even_if_others_take_their_place(
    shop: Pipeline, declare: Declare
) -> None:
    def less(sign: str) -> Source:
        return declare(("conform/promotion.sql", "where not", f"where discount_share {sign} 0.5 and not"))

    for number, share in ((1, 0.1), (2, 0.9)):
        shop.insert("promotion", id=number, code=f"P{number}", discount_share=share)
    shop.capture(source=less("<"))
    with pytest.raises(DeleteThresholdExceeded, match="1 of 1, 100%"):
        shop.capture(source=less(">"), max_delete_share=0.1, delete_floor_rows=10)
    shop.capture(source=less(">"), confirm_deletes=True)
    assert shop.rows(
        "select promotion_id, is_deleted from dwh.dim_promotion where promotion_key > 0 order by 1"
    ) == [
        ("1", True),
        ("2", False),
    ]


def test_row_that_another_table_has_only_now_was_never_gone(shop: Pipeline, declare: Declare) -> None:
    shop.insert("customer", id=2, name="Bruno")
    shop.insert("customer", id=3, name="Carla")
    shop.do("create table person (like customer including all)")
    shop.do("insert into person select * from customer where id = 1")
    with_person = ("source.toml", "[tables.category]", '[tables.person]\nkey = ["id"]\n\n[tables.category]')
    shop.capture(source=declare(with_person))
    shop.do("insert into person select * from customer where id = 2")
    now = declare(
        with_person,
        ("source.toml", 'from = "customer"', 'from = "person"'),
        ("conform/customer.sql", "raw.shop_customer as", "raw.shop_person as"),
    )
    shop.capture(source=now)
    assert shop.versions("customer", "name") == [
        ("1", "Ana", "ever", "now"),
        ("2", "Bruno", "ever", "now"),
        ("3", "Carla", "ever", "run 2"),
    ]


def test_refused_row_that_is_no_longer_made_leaves_the_quarantine_when_its_new_state_is_not_made_either(
    shop: Pipeline, declare: Declare
) -> None:
    for number in (2, 3):
        shop.insert("customer", id=number, name=f"Customer {number}", country="ZZ", loyalty_tier="black")
    shop.do("create table seg (country text primary key)", "insert into seg values ('AR'), ('ZY')")
    shop.capture(source=declare())
    shop.do("update customer set country = 'ZY' where id = 3")
    shop.capture(source=declare(SEGMENT, *in_segment("customer")))
    assert shop.quarantined() == [
        (["2"], ["loyalty tier is unknown"], "deleted"),
        (["3"], ["loyalty tier is unknown"], "replaced"),
        (["3"], ["loyalty tier is unknown"], None),
    ]


def test_sales_get_their_seller_that_comes_in_the_run_in_which_products_are_conformed_again(
    shop: Pipeline, declare: Declare
) -> None:
    shop.without_foreign_keys()
    shop.insert("product", id=2, name="Saw", company_id=2)
    shop.insert("product", id=3, name="Axe", company_id=2)
    shop.order(1, "2024-03-10", {"product_id": 2}, {"product_id": 3})
    shop.capture(source=declare())
    assert shop.facts("company.name") == [("1", "1", None), ("1", "2", None)]
    shop.insert("company", id=2, name="Borges")
    # Its own values change in the same run, too, and in place.
    shop.do("update product set sold_count = 5 where id = 3")
    shop.capture(
        source=declare(
            ("conform/product.sql", "product.price as price_amount", "product.price * 2 as price_amount")
        )
    )
    assert shop.facts("company.name", "product.price_amount::integer") == [
        ("1", "1", "Borges", 200),
        ("1", "2", "Borges", 200),
    ]


# --- by chance --------------------------------------------------------------------------------------------------

HISTORIES = int(os.environ.get("HISTORIES", "40"))
SEED = os.environ.get("SEED", "deferred deletes")

# What a declaration may have beside the packaged one.
VARIANTS: tuple[tuple[Change, ...], ...] = (
    in_segment("customer"),
    in_segment("company"),
    (("conform/customer.sql", "customer.state,", "upper(customer.state) as state,"),),
    (("conform/product.sql", "product.price as", "product.price * 2 as"),),
    (("conform/product.sql", "where not", "where product.name <> 'Saw' and not"),),
    (("conform/promotion.sql", "where not", "where promotion.discount_share < 0.5 and not"),),
    (("conform/order_item.sql", "where not item", "where item.status <> 'pending' and not item"),),
    (("conform/order_item.sql", "left join raw.shop_customer", "inner join raw.shop_customer"),),
    (("conform/inventory.sql", "where not", "where inventory.quantity > 5 and not"),),
)
VALUES: dict[str, list[dict[str, object]]] = {
    "customer": [*({"country": country} for country in ("AR", "ZZ", "ZY")), {"state": "Jujuy"}, {"email": None}],
    "company": [*({"country": country} for country in ("AR", "ZZ", "ZY")), {"name": "Acme II"}],
    "product": [{}, {"name": "Saw"}, {"price": 120}, {"price": -5}, {"category_id": 2}],
    "promotion": [{}, {"discount_share": 0.9}, {"name": "June"}],
    "sales_order": [{}, {"ordered_at": "2034-07-10"}],
    "order_item": [{}, {"status": "pending"}, {"quantity": 5}, {"discount_amount": 200}],
    "inventory": [{"quantity": 5}, {"quantity": 9}],
}  # fmt: skip


def live(shop: Pipeline, history: int, chance: Random) -> None:
    """Put or delete a row of a history, whose members, order and stock have its number."""
    table = chance.choice(list(VALUES))
    key, own = {
        "customer": ({"id": history}, {"document_number": str(history), "username": f"u{history}"}),
        "product": ({"id": history}, {"company_id": history}),
        "promotion": ({"id": history}, {"code": f"P{history}"}),
        "sales_order": ({"id": history}, {"customer_id": history}),
        "order_item": (
            {"sales_order_id": history, "line_number": chance.randint(1, 2)},
            {"product_id": history, "promotion_id": history},
        ),
        "inventory": ({"product_id": history, "distribution_center_id": 1}, {}),
    }.get(table, ({"id": history}, {}))
    shop.do(f"delete from {table} where {' and '.join(f'{name} = {value}' for name, value in key.items())}")
    if chance.random() < 0.85:
        row = {**own, **key, **chance.choice(VALUES[table])}
        if table == "inventory":
            shop.do(f"insert into inventory ({', '.join(row)}) values ({', '.join(map(str, row.values()))})")
        else:
            shop.insert(table, **row)
        if chance.random() < 0.5:
            where = " and ".join(f"{name} = {value}" for name, value in key.items())
            shop.do(f"update {table} set updated_at = clock_timestamp() where {where}")


def members(shop: Pipeline) -> set[tuple[str, str]]:
    """The members that a fresh load has, in any state: (dimension, natural key)."""
    return {(name, str(row[0])) for name, rows in accepted(shop).items() if name in GAPS for row in rows}


GAPS = {
    dimension.table: f"""
        select {dimension.entity}_id, valid_to, begins from (
            select *, lead(valid_from) over (partition by {dimension.entity}_id order by valid_from) as begins
            from dwh.{dimension.table} where {dimension.key} <> 0
        ) as versions where valid_to < begins
        """
    for dimension in DIMENSIONS
    if dimension.has_history
}


def play(
    shop: Pipeline, another: Callable[[], Pipeline], declare: Declare, runs: int, chance: Random
) -> list[tuple[object, ...]]:
    """Let source and declaration change by chance; after each run the star is compared with one loaded only now.

    Returns the gaps between versions: all of them are times at which a run has not found the member.
    """
    everybody = {(table, str(number)) for table in GAPS for number in range(1, HISTORIES + 1)}
    absent: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for run in range(runs):
        with shop.shop.transaction():
            for history in range(1, HISTORIES + 1):
                for _ in range(chance.randint(0, 2) if run else 9):
                    live(shop, history, chance)
            shop.do("delete from seg")
            shop.do(
                *(f"insert into seg values ('{one}')" for one in ("AR", "ZZ", "ZY") if chance.random() < 0.7)
            )
        variants = [variant for variant in VARIANTS if chance.random() < 0.5]
        source = declare(SEGMENT, *(change for variant in variants for change in variant))
        captured = shop.capture(source=source)
        with closing(another()) as fresh:
            fresh.capture(source=source)
            left, right = accepted(shop), accepted(fresh)
            for table in left:
                assert left[table] == right[table], (
                    run,
                    table,
                    variants,
                    set(left[table]) ^ set(right[table]),
                )
            for member in everybody - members(fresh):
                absent[member].append(captured.staged.snapshot.taken_at)
    assert differences(shop, source=source) == {}
    # Only where a run has not found a member is nothing valid.
    found = [
        (table, key, ended, begins)
        for table, query in GAPS.items()
        for key, ended, begins in shop.warehouse.execute(query.encode())
    ]
    for table, key, ended, begins in found:
        assert any(ended <= moment < begins for moment in absent[table, key]), (table, key, ended, begins)
    assert {name for name in shop.capture(source=source).changes() if name.startswith("dwh.")} == set()
    return found


@pytest.fixture
def shops(
    database: Callable[[str], str], shop_template: str, warehouse_template: str
) -> Iterator[tuple[Pipeline, Callable[[], Pipeline]]]:
    """A shop that lets anything happen, with a warehouse; and more warehouses of the same shop."""
    with closing(Pipeline(database(shop_template), database(warehouse_template))) as shop:
        shop.open_shop()
        shop.insert("category", id=2, name="Saws")
        shop.without_foreign_keys()
        shop.do(*LENIENT, "create table seg (country text primary key)")
        yield shop, lambda: Pipeline(shop.shop_url, database(warehouse_template))


def test_star_equals_a_fresh_load_and_has_no_gaps_while_source_and_declaration_change(
    shops: tuple[Pipeline, Callable[[], Pipeline]], declare: Declare
) -> None:
    play(*shops, declare, 3, Random(SEED))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_star_equals_a_fresh_load_and_has_no_gaps_after_many_changes_of_source_and_declaration(
    shops: tuple[Pipeline, Callable[[], Pipeline]], declare: Declare
) -> None:
    # And some gaps there were.
    assert play(*shops, declare, 60, Random(SEED))
