"""The shop's chance: what it draws keeps the rules before any database sees it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.errors import GeneratorError
from generators.shop import generate, orders, people, simulate_day
from generators.shop.stock import draw_stock

SINCE, UNTIL = np.datetime64("2024-01-01", "us"), np.datetime64("2026-01-01", "us")
NOWHERE = "postgresql://someone:hunter2@127.0.0.1:1/shop"


def test_cuit_has_eleven_digits_and_a_valid_check_digit() -> None:
    numbers = [people.cuit(key) for key in range(20_000)]
    weights = (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)
    assert len(set(numbers)) == 20_000
    assert {(len(n), sum(int(d) * w for d, w in zip(n, weights, strict=True)) % 11) for n in numbers} == {
        (11, 0)
    }


def test_documents_and_mail_addresses_are_unique() -> None:
    ids = np.arange(1, 5001)
    customers = people.draw_customers(np.random.default_rng(1), ids, np.full(5000, UNTIL))
    assert [customers[column].n_unique() for column in ("document_number", "username", "email")] == [5000] * 3
    assert customers["username"].str.contains(r"^[a-z]+\.[a-z]+\d+$").all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    base=st.lists(st.integers(1, 500_000), min_size=1, max_size=40),
    margin=st.floats(0.0, 1.0),
    share=st.floats(0, 0.3),
)
def test_every_line_is_worth_more_than_a_base_price(
    seed: int, base: list[int], margin: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    default = np.array(base)
    price = default + 1 + (default * margin).astype(np.int64)
    lines = orders.draw_lines(rng, np.ones(len(base), np.int64), default, price, np.full(len(base), share))
    assert not any(flags.any() for flags in orders.broken_rules(lines).values())


def test_spoiled_orders_break_a_rule_each_and_no_other_order_does() -> None:
    rng = np.random.default_rng(3)
    counts = orders.draw_line_counts(rng, 200)
    default = rng.integers(100, 10_000, counts.sum())
    lines = orders.draw_lines(rng, counts, default, default * 2, np.zeros(counts.sum()))
    orders.spoil_lines(lines, np.array([0, 7, 50, 199]))
    broken = orders.broken_rules(lines)
    assert (broken["price"].sum(), broken["discount"].sum()) == (2, 2)
    assert set(lines.order[broken["price"] | broken["discount"] | broken["total"]]) == {0, 7, 50, 199}


def test_order_times_are_sorted_and_grow_towards_the_end() -> None:
    times = orders.draw_times(np.random.default_rng(5), 20_000, SINCE, UNTIL)
    assert (np.diff(times) >= np.timedelta64(0)).all()
    assert times[0] >= SINCE
    assert times[-1] < UNTIL
    first_year = (times < np.datetime64("2025-01-01")).sum()
    assert first_year < 0.42 * len(times)
    november, february = (
        (times.astype("datetime64[M]") == np.datetime64(m)).sum() for m in ("2025-11", "2025-02")
    )
    assert november > 1.5 * february


def test_a_few_products_sell_most() -> None:
    rng = np.random.default_rng(6)
    weights = 1 / np.arange(5, 1005) ** 0.95
    sold = np.bincount(orders.draw_popular(rng, weights, np.full(50_000, 1000)), minlength=1000)
    assert np.sort(sold)[::-1][:100].sum() > 0.5 * sold.sum()


@pytest.mark.parametrize("centers", [1, 3, 10])
def test_every_product_is_stocked_by_one_to_four_different_centers(centers: int) -> None:
    products = np.arange(11, 1011)
    stock = draw_stock(np.random.default_rng(4), products, np.arange(centers) + 100)
    pairs = set(zip(stock.product.tolist(), stock.center.tolist(), strict=True))
    assert len(pairs) == len(stock.product)
    assert {center for _, center in pairs} == set(range(100, 100 + centers))
    assert (stock.product[stock.first] == products).all()
    assert (np.bincount(stock.product)[11:] == stock.count).all()
    assert set(stock.count.tolist()) == set(range(1, min(centers, 4) + 1))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"rows": -1}, "orders (rows) is -1"),
        ({"customers": -5}, "customers is -5"),
        ({"customers": 0}, "5000 orders need customers and products, but there are 0 and 5000"),
        ({"companies": 0}, "no company to sell them"),
        ({"defects": 1.5}, "share of defects is 1.5"),
        ({"until": datetime(2026, 1, 1)}, "no time zone"),
    ],
)
def test_impossible_wishes_are_refused_before_connecting(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(GeneratorError) as refused:
        generate(NOWHERE, **sizes)  # type: ignore[arg-type]
    assert words in refused.value.what
    assert refused.value.hint


def test_a_negative_number_of_changes_is_refused() -> None:
    with pytest.raises(GeneratorError, match="changes is -1"):
        simulate_day(NOWHERE, changes=-1, seed=1)


def test_an_unreachable_shop_is_named_without_its_password() -> None:
    with pytest.raises(GeneratorError) as refused:
        generate(NOWHERE, until=datetime(2026, 1, 1, tzinfo=UTC))
    assert "shop at 127.0.0.1:1" in refused.value.what
    assert "DWH_SHOP_URL" in refused.value.hint
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
