"""Which key ranges a run verifies, within its budget."""

from datetime import UTC, datetime, timedelta

import pytest

from warehouse.extract.key_ranges import KeyRange, Pace, Turn, choose_ranges

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)


def make(count: int, rows: int = 100) -> list[KeyRange]:
    """Ranges of `rows` rows each, verified together."""
    lows = [(), *((str(number),) for number in range(1, count))]
    return [
        KeyRange(low, high, BEGAN, 1, rows, "whole") for low, high in zip(lows, [*lows[1:], ()], strict=True)
    ]


def verified(
    ranges: list[KeyRange], chosen: list[tuple[KeyRange, Turn]], at: datetime | None
) -> list[KeyRange]:
    turns = {one.low: turn for one, turn in chosen}
    return [
        KeyRange(one.low, one.high, at, 1, one.row_count, turns[one.low]) if one.low in turns else one
        for one in ranges
    ]


@pytest.mark.parametrize("touches", [set(), {(str(number),) for number in range(150, 192)}])
@pytest.mark.parametrize("interval", [QUARTER, timedelta(hours=1)])
def test_every_range_is_verified_within_the_promise_at_a_bounded_price(
    touches: set[tuple[str]], interval: timedelta
) -> None:
    ranges, now, spent = make(192), BEGAN, []
    runs = round(2.5 * DAY / interval)
    for _ in range(runs):
        now += interval
        chosen = choose_ranges(ranges, touches, Pace(19_200, interval, DAY, now), 100)
        spent.append(sum(one.row_count for one, _ in chosen))
        assert len({one.low for one, _ in chosen}) == len(chosen)
        ranges = verified(ranges, chosen, now)
        # One range more than a run has room for at the most.
        assert min(one.age_key for one in ranges) > now - DAY - 2 * interval
    assert max(spent) <= max(1.5 * Pace(19_200, interval, DAY, now).budget, 100) + 200
    newest = ranges[-1].age_key
    assert now - newest <= 3 * interval or touches


def test_ranges_with_known_differences_wait_for_no_budget() -> None:
    ranges = verified(make(10), [(one, "oldest") for one in make(10)[3:6]], None)
    chosen = choose_ranges(ranges, set(), Pace(0, QUARTER, DAY, BEGAN), 100)
    assert [one.low for one, _ in chosen] == [("3",), ("4",), ("5",)]


def test_ranges_verified_by_a_clock_that_was_ahead_come_first() -> None:
    ranges = verified(make(10), [(one, "oldest") for one in make(10)[3:5]], BEGAN + DAY)
    chosen = choose_ranges(ranges, set(), Pace(1000, QUARTER, 5 * QUARTER, BEGAN), 100)
    assert [(one.low, turn) for one, turn in chosen] == [
        (("9",), "touched"), (("3",), "oldest"), (("4",), "oldest"),
    ]  # fmt: skip


@pytest.mark.parametrize("touches", [set(), {(str(number),) for number in range(100, 105)}])
def test_hurried_rotation_ends_hours_sooner_at_the_price_of_half_a_budget(touches: set[tuple[str]]) -> None:
    ranges, now, spent = make(450, 10_000), BEGAN, []

    def run(*, is_hurried: bool) -> int:
        nonlocal ranges, now
        now += QUARTER
        chosen = choose_ranges(
            ranges, touches, Pace(4_500_000, QUARTER, DAY, now), 10_000, is_hurried=is_hurried
        )
        ranges = verified(ranges, chosen, now)
        spent.append(sum(one.row_count for one, _ in chosen))
        return spent[-1]

    def rotate(*, is_hurried: bool) -> timedelta:
        start = now
        while min(one.age_key for one in ranges) <= start:
            run(is_hurried=is_hurried)
        return now - start

    while now < BEGAN + 3 * DAY:
        run(is_hurried=False)
    steady, at = ranges, now
    usual = rotate(is_hurried=False)
    ranges, now, spent = steady, at, []
    assert rotate(is_hurried=True) <= usual - timedelta(hours=3)
    assert max(spent) <= 1.5 * 46_875


def test_empty_ranges_are_not_free() -> None:
    pace = Pace(20_000, DAY, 100 * DAY, BEGAN)
    assert len(choose_ranges(make(1000, rows=0), set(), pace, 100)) == 20


def test_budget_is_the_share_of_the_time_that_has_passed() -> None:
    for interval, within, budget in (
        (QUARTER, DAY, 46_875),
        (3 * DAY, DAY, 4_500_000),
        (-DAY, DAY, 0),
        (QUARTER, timedelta(0), 4_500_000),
    ):
        assert Pace(4_500_000, interval, within, BEGAN).budget == budget
