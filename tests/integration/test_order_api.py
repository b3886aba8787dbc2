"""Orders through the API of a real process: placed at the shop's prices, listed, changed, and never placed twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from api.preparation import prepare
from api.services.changing import NEXT
from api.services.pricing import discount_of
from stack.postgres import EmbeddedPostgres
from tests.order_api import HAMMERS, OrderApi, order_api, pointers, problem, shop_copy
from tests.pipeline import Pipeline

LINES = (
    "select line_number, product_id, promotion_id, distribution_center_id, quantity, unit_price_default, unit_price,"
    " discount_amount, status, returned_at, i.created_at = o.created_at, i.updated_at = o.created_at"
    " from order_item as i, (select created_at from sales_order where id = %s) as o where sales_order_id = %s"
    " order by line_number"
)


@pytest.fixture(scope="module")
def api(postgres: EmbeddedPostgres, shop_template: str) -> Iterator[OrderApi]:
    with shop_copy(postgres, shop_template) as url, order_api(url) as running:
        yield running


def test_order_is_stored_at_the_shops_prices_with_the_largest_running_promotion(api: OrderApi) -> None:
    began = datetime.now(UTC)
    answer = api.place(
        {
            "customerId": 7,
            "payment_id": 2,
            "products": [
                {"productId": 2, "quantity": 3},
                {"productId": 1, "quantity": 2},
                {"productId": 1001, "quantity": 1},
            ],
        }
    )
    assert answer.status_code == 201
    order = answer.json()
    order_id = order["id"]
    assert answer.headers["location"] == f"/api/v1/orders/{order_id}"
    assert api.http.get(answer.headers["location"]).json() == order
    ((customer, payment, status, ordered_at, created_at, updated_at),) = api.rows(
        "select customer_id, payment_method_id, status, ordered_at, created_at, updated_at from sales_order"
        " where id = %s",
        order_id,
    )
    assert (customer, payment, status) == (7, 2, "pending")
    assert ordered_at == created_at == updated_at
    assert abs(ordered_at - began) < timedelta(seconds=30)
    # A single unit keeps a fifth of its margin.
    assert api.rows(LINES, order_id, order_id) == [
        (1, 2, 2, 3, 3, Decimal("0.05"), Decimal("0.10"), Decimal("0.09"), "pending", None, True, True),
        (2, 1, 2, 2, 2, Decimal("80.00"), Decimal("100.00"), Decimal("60.00"), "pending", None, True, True),
        (3, 1001, 2, 1, 1, Decimal("1.00"), Decimal("2.00"), Decimal("0.60"), "pending", None, True, True),
    ]
    assert {key: value for key, value in order.items() if key != "items"} == {
        "id": order_id,
        "customerId": 7,
        "payment_id": 2,
        "status": "pending",
        "orderedAt": ordered_at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z",
        "updatedAt": order["orderedAt"],
    }
    assert order["items"][1] == {
        "lineNumber": 2, "productId": 1, "quantity": 2, "status": "pending", "unitPrice": "100.00",
        "discountAmount": "60.00", "amount": "140.00", "currency": "USD", "promotionId": 2,
        "distributionCenterId": 2, "returnedAt": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("price_default", "price", "quantity", "share", "discount"),
    [
        ("80", "100", 1, "0.3", "16.00"),
        ("80", "100", 1, "0.1", "10.00"),
        ("80", "100", 2, "0.35", "70.00"),
        ("80", "100", 2, "0.99", "96.00"),
        ("0.05", "0.10", 1, "0.15", "0.01"),
        ("100", "100", 1, "0.3", "0.00"),
        ("120", "100", 1, "0.3", "0.00"),
        ("80", "100", 3, "0", "0.00"),
    ],
)
def test_discount_leaves_more_than_one_unit_costs_its_seller(
    price_default: str, price: str, quantity: int, share: str, discount: str
) -> None:
    found = discount_of(Decimal(price_default), Decimal(price), quantity, Decimal(share))
    assert str(found) == discount


def test_discount_is_that_of_the_generators_orders() -> None:
    import numpy as np

    from generators.shop.orders import draw_lines

    counts, share = np.full(300, 4), 0.25
    rng = np.random.default_rng(5)
    base = rng.integers(5, 9000, 1200)
    price = base + rng.integers(1, 3000, 1200)
    lines = draw_lines(rng, counts, base, price, np.full(1200, share))
    expected = lines.discount[lines.discount <= lines.quantity * price * share]
    found = [
        int(discount_of(Decimal(int(b)) / 100, Decimal(int(p)) / 100, int(q), Decimal("0.25")) * 100)
        for b, p, q, d in zip(base, price, lines.quantity, lines.discount, strict=True)
        if d <= q * p * share
    ]
    assert found == expected.tolist()
    assert len(found) > 1000


def test_without_a_promotion_there_is_no_discount(api: OrderApi) -> None:
    api.shop.execute("update promotion set ends_at = ends_at - interval '20 days'")
    try:
        (item,) = api.place().json()["items"]
    finally:
        api.shop.execute("update promotion set ends_at = ends_at + interval '20 days'")
    assert (item["promotionId"], item["discountAmount"], item["amount"]) == (None, "0.00", "200.00")


def test_list_shows_every_order_once_newest_first(api: OrderApi) -> None:
    assert {api.place().status_code for _ in range(2)} == {201}
    api.shop.execute(
        "insert into sales_order (customer_id, payment_method_id, status, ordered_at, created_at) values"
        " (20, 1, 'complete', '2020-05-01', now()), (20, 1, 'complete', '2020-05-01', now()),"
        " (20, 1, 'returned', null, '2020-04-01'), (20, 1, 'shipped', 'infinity', now()),"
        " (20, 1, 'shipped', '-infinity', now()), (20, 1, 'odd', '2020-06-01 12:00:00.5', now())"
    )
    expected = api.rows("select id from sales_order order by coalesce(ordered_at, created_at) desc, id desc")
    assert len(expected) > 7
    pages, cursor = [], None
    while not pages or cursor:
        found = api.http.get("/api/v1/orders", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        pages.append([order["id"] for order in found.json()["orders"]])
        cursor = found.json()["nextCursor"]
    assert [(one,) for page in pages for one in page] == expected
    assert {len(page) for page in pages[:-1]} == {3}

    def listed(**filters: object) -> list[tuple[str, str | None]]:
        found = api.http.get("/api/v1/orders", params=filters).json()["orders"]  # type: ignore[arg-type]
        return [(order["status"], order["orderedAt"]) for order in found]

    assert listed(customerId=20, status="shipped") == [("shipped", None), ("shipped", None)]
    assert listed(status="returned") == [("returned", None)]
    assert listed(**{"from": "2020-05-01T00:00:00Z", "to": "2020-06-01T14:00:00.5+02:00"}) == [
        ("complete", "2020-05-01T00:00:00Z"),
        ("complete", "2020-05-01T00:00:00Z"),
    ]
    assert listed(**{"from": "2020-05-01T00:00:01Z", "to": "2021-01-01T00:00:00Z"}) == [
        ("odd", "2020-06-01T12:00:00.5Z")
    ]
    assert listed(customerId=21) == []


def test_order_goes_the_way_of_the_generators_orders_and_no_other(api: OrderApi) -> None:
    from generators.shop.order_changes import NEXT as SIMULATED

    simulated = {status: {after for after, _ in choices} for status, choices in SIMULATED.items()}
    # Whole orders come back in a step of their own.
    assert {status: set(after) for status, after in NEXT.items()} == simulated | {"complete": {"returned"}}
    reached = {
        "pending": [], "cancelled": ["cancelled"], "processing": ["processing"],
        "shipped": ["processing", "shipped"], "complete": ["processing", "shipped", "complete"],
        "returned": ["processing", "shipped", "complete", "returned"],
    }  # fmt: skip
    for status, steps in reached.items():
        for wanted in ("processing", "shipped", "complete", "cancelled", "returned"):
            order_id = api.place().json()["id"]
            for step in steps:
                assert api.change(order_id, {"status": step}).json()["status"] == step
            answer = api.change(order_id, {"status": wanted})
            if wanted == status or wanted in NEXT.get(status, ()):
                assert (answer.status_code, answer.json()["status"]) == (200, wanted)
            else:
                assert problem(answer, 409)["type"] == "urn:dwh:problem:impossible-transition"
            ends_at = wanted if wanted in NEXT.get(status, ()) else status
            assert api.rows(
                "select o.status, i.status, i.returned_at is null from sales_order as o"
                " join order_item as i on i.sales_order_id = o.id where o.id = %s",
                order_id,
            ) == [(ends_at, ends_at, ends_at != "returned")]


def test_change_is_stamped_and_one_that_changes_nothing_is_not(api: OrderApi) -> None:
    order_id = api.place().json()["id"]
    stamps = (
        "select o.updated_at, i.updated_at from sales_order as o join order_item as i on i.sales_order_id = o.id"
        " where o.id = %s"
    )
    ((placed, line_placed),) = api.rows(stamps, order_id)
    api.change(order_id, {"status": "processing"})
    ((moved, line_moved),) = api.rows(stamps, order_id)
    assert placed == line_placed < moved == line_moved
    answer = api.change(order_id, {"status": "processing"})
    assert answer.status_code == 200
    assert api.rows(stamps, order_id) == [(moved, line_moved)]


def test_lines_of_a_complete_order_come_back_alone(api: OrderApi) -> None:
    order = {**HAMMERS, "products": [{"productId": one, "quantity": 1} for one in (1, 2, 1001, 1002)]}
    order_id = api.place(order).json()["id"]
    assert problem(api.change(order_id, {"returnedLines": [1]}), 409)["detail"].endswith("come back.")
    for status in ("processing", "shipped", "complete"):
        api.change(order_id, {"status": status})
    assert pointers(api.change(order_id, {"returnedLines": [1, 5]})) == ["/returnedLines/1"]
    changed = api.change(order_id, {"returnedLines": [2, 3]}).json()
    assert changed["status"] == "complete"
    assert [item["status"] for item in changed["items"]] == ["complete", "returned", "returned", "complete"]
    first = changed["items"][1]["returnedAt"]
    assert first is not None
    # Repeated, it changes nothing, and the rest comes back with the order; what came back before keeps its time.
    assert api.change(order_id, {"returnedLines": [2]}).json() == changed
    whole = api.change(order_id, {"status": "returned"}).json()
    assert [item["status"] for item in whole["items"]] == ["returned"] * 4
    assert [item["returnedAt"] == first for item in whole["items"]] == [False, True, True, False]


def test_line_that_came_back_does_not_follow_its_order(api: OrderApi) -> None:
    order_id = api.place().json()["id"]
    api.shop.execute(
        "update order_item set status = 'returned', returned_at = '2026-01-01' where sales_order_id = %s",
        [order_id],
    )
    order = api.change(order_id, {"status": "processing"}).json()
    assert order["status"] == "processing"
    assert [(item["status"], item["returnedAt"]) for item in order["items"]] == [
        ("returned", "2026-01-01T00:00:00Z")
    ]


def test_repeat_with_a_key_returns_the_first_answer_and_places_nothing(api: OrderApi) -> None:
    first = api.place(**{"Idempotency-Key": "repeat"})
    assert first.status_code == 201
    api.change(first.json()["id"], {"status": "cancelled"})
    before = api.count()
    # The same order in other words.
    again = api.http.post(
        "/api/v1/orders",
        content=b'{"products": [{"quantity":2,"productId" :1}],"payment_id":2,"customerId":1}',
        headers={"Idempotency-Key": "repeat", "Content-Type": "application/json; charset=UTF-8"},
    )
    assert (again.status_code, again.content, again.headers["location"]) == (
        201,
        first.content,
        first.headers["location"],
    )
    other = {**HAMMERS, "customerId": 2}
    refused = problem(api.place(other, **{"Idempotency-Key": "repeat"}), 409)
    assert refused["type"] == "urn:dwh:problem:idempotency-key-reused"
    assert api.count() == before


def test_key_of_an_order_that_was_refused_is_free(api: OrderApi) -> None:
    key = {"Idempotency-Key": "refused"}
    before = api.count()
    assert pointers(api.place({**HAMMERS, "customerId": 99}, **key)) == ["/customerId"]
    assert api.count() == before
    assert api.place(**key).status_code == 201


def test_key_is_kept_for_a_day(api: OrderApi) -> None:
    key = {"Idempotency-Key": "yesterday"}
    first = api.place(**key).json()["id"]
    age = "update order_request set created_at = now() - %s::interval where idempotency_key = 'yesterday'"
    api.shop.execute(age, ["23 hours 59 minutes"])
    assert api.place(**key).json()["id"] == first
    api.shop.execute(age, ["24 hours"])
    second = api.place({**HAMMERS, "customerId": 3}, **key)
    assert second.status_code == 201
    assert second.json()["id"] > first
    assert api.place({**HAMMERS, "customerId": 3}, **key).content == second.content


def test_two_at_once_with_one_key_place_one_order(api: OrderApi) -> None:
    orders, _, keys = api.count()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.place(**{"Idempotency-Key": "at once"}), range(8)))
        assert {answer.status_code for answer in answers} == {400}
        answers = list(pool.map(lambda _: api.place(**{"Idempotency-Key": "at-once"}), range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert api.count()[::2] == (orders + 1, keys + 1)


def test_second_request_with_a_key_waits_for_the_first(api: OrderApi) -> None:
    before = api.count()[0]
    with psycopg.connect(api.shop_url) as first, ThreadPoolExecutor(1) as pool:
        first.execute("insert into order_request (idempotency_key, request_hash) values ('slow', '')")
        second = pool.submit(api.place, **{"Idempotency-Key": "slow"})
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        first.rollback()
        assert second.result(timeout=60).status_code == 201
    assert api.count()[0] == before + 1


def test_customer_who_is_deleted_meanwhile_is_unknown(api: OrderApi) -> None:
    with psycopg.connect(api.shop_url) as deleting, ThreadPoolExecutor(1) as pool:
        deleting.execute("delete from customer where id = 30")
        answer = pool.submit(api.place, {**HAMMERS, "customerId": 30})
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)
        deleting.commit()
        assert pointers(answer.result(timeout=60)) == ["/customerId"]


def test_deadlock_is_tried_again(api: OrderApi) -> None:
    order_id = api.place().json()["id"]
    with psycopg.connect(api.shop_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("set deadlock_timeout = '10s'")
        other.execute("update order_item set quantity = quantity + 1 where sales_order_id = %s", [order_id])
        changed = pool.submit(api.change, order_id, {"status": "processing"})
        with pytest.raises(TimeoutError):
            changed.result(timeout=0.5)
        # The API waits for the line, and this for the order: the API's transaction is ended, begun again and waits.
        other.execute("update sales_order set status = 'pending' where id = %s", [order_id])
        other.commit()
        assert changed.result(timeout=60).json()["status"] == "processing"


def test_role_may_do_what_the_api_does_and_no_more(api: OrderApi) -> None:
    granted = api.rows(
        """
        select table_name, privilege_type, string_agg(column_name, ', ' order by column_name)
        from information_schema.column_privileges where grantee = 'order_api' and privilege_type <> 'REFERENCES'
        and (table_name, privilege_type) not in (
            select table_name, privilege_type from information_schema.table_privileges where grantee = 'order_api'
        )
        group by table_name, privilege_type
        union all
        select table_name, privilege_type, 'all' from information_schema.table_privileges where grantee = 'order_api'
        order by 1, 2
        """
    )
    assert granted == [
        ("customer", "SELECT", "id"),
        ("inventory", "SELECT", "distribution_center_id, product_id, quantity"),
        ("order_item", "INSERT", "all"),
        ("order_item", "SELECT", "all"),
        ("order_item", "UPDATE", "returned_at, status"),
        ("order_request", "DELETE", "all"),
        ("order_request", "INSERT", "all"),
        ("order_request", "SELECT", "all"),
        ("order_request", "UPDATE", "all"),
        ("payment_method", "SELECT", "id"),
        ("product", "SELECT", "currency, id, price, price_default"),
        ("promotion", "SELECT", "discount_share, ends_at, id, starts_at"),
        ("sales_order", "INSERT", "all"),
        ("sales_order", "SELECT", "all"),
        ("sales_order", "UPDATE", "status"),
    ]
    # The login is a superuser, but acts as the role.
    api.shop.execute("revoke select on promotion from order_api")
    api.shop.execute("revoke select (id) on promotion from order_api")
    try:
        refused = problem(api.place(), 503)
        assert refused["detail"] == "The shop is not prepared for orders."
    finally:
        prepare(api.shop_url)
    assert api.place().status_code == 201


def test_order_and_its_changes_are_in_the_star_after_the_next_runs(api: OrderApi, warehouse_url: str) -> None:
    pipeline = Pipeline(api.shop_url, warehouse_url)
    pipeline.capture()
    order_id = api.place().json()["id"]
    star = (
        "select status, gross_amount, discount_amount, returned_at is null from dwh.fact_order_item"
        f" where order_id = '{order_id}'"
    )
    assert pipeline.rows(star) == []
    pipeline.capture()
    assert pipeline.rows(star) == [("pending", 200, 60, True)]
    for status in ("processing", "shipped", "complete", "returned"):
        api.change(order_id, {"status": status})
    pipeline.capture()
    assert pipeline.rows(star) == [("returned", 200, 60, False)]
    pipeline.close()
