"""Draw orders: times, number of lines, quantities, discounts, final status, and broken amounts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from generators.shop.catalog import CAMPAIGN_EVERY, CAMPAIGN_LASTS, Cents
from generators.shop.people import Ids, Instants

Share = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

STATUSES = ("pending", "processing", "shipped", "complete", "cancelled", "returned")
PENDING, PROCESSING, SHIPPED, COMPLETE, CANCELLED, RETURNED = range(6)
LINE_COUNT_SHARES = (0.34, 0.24, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02, 0.01, 0.01)
QUANTITY_SHARES = (0.62, 0.19, 0.09, 0.05, 0.03, 0.02)
# relative demand by weekday (Monday first), hour (UTC; the buyers live three to five hours west) and month
WEEK = np.array([1.08, 1.05, 1.02, 1.0, 1.05, 0.92, 0.88])
DAY = np.array([1.2, 1.1, 0.9, 0.7, 0.4, 0.25, 0.15, 0.1, 0.1, 0.15, 0.3, 0.5,
                0.8, 1.0, 1.2, 1.3, 1.3, 1.25, 1.2, 1.2, 1.25, 1.3, 1.35, 1.3])  # fmt: skip
YEAR = np.array([0.85, 0.82, 0.95, 0.95, 1.08, 1.0, 0.98, 1.0, 0.96, 1.02, 1.45, 1.35])
HOUR = np.timedelta64(3_600_000_000, "us")


@dataclass(frozen=True)
class Lines:
    """Order lines as columns: position of the order, line number, quantity, unit prices and discount in cents."""

    order: Ids
    number: Ids
    quantity: Ids
    price_default: Cents
    price: Cents
    discount: Cents


def draw_times(rng: np.random.Generator, count: int, since: np.datetime64, until: np.datetime64) -> Instants:
    """Draw sorted instants in [since, until): more as the shop grows, and by season, weekday and hour."""
    hours = np.arange(since, until, HOUR)
    if not len(hours):
        return np.full(count, since)
    days = hours.astype("datetime64[D]").astype(np.int64)
    months = hours.astype("datetime64[M]").astype(np.int64) % 12
    growth = 3.0 ** np.linspace(0, 1, len(hours))
    demand = (
        growth
        * WEEK[(days + 3) % 7]
        * DAY[(hours.astype("datetime64[h]").astype(np.int64)) % 24]
        * YEAR[months]
    )
    cumulative = np.concatenate([[0.0], np.cumsum(demand)])
    position = np.interp(np.sort(rng.random(count)) * cumulative[-1], cumulative, np.arange(len(hours) + 1))
    microseconds = (position * HOUR.astype(np.int64)).astype(np.int64)
    times: Instants = np.minimum(
        since + microseconds.astype("timedelta64[us]"), until - np.timedelta64(1, "us")
    )
    return times


def draw_popular(rng: np.random.Generator, weights: Share, eligible: Ids) -> Ids:
    """Draw, for each n in `eligible`, one of the first n positions by weight."""
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, rng.random(len(eligible)) * cumulative[eligible - 1], side="right")
    return np.minimum(drawn, eligible - 1)


def draw_line_counts(rng: np.random.Generator, orders: int) -> Ids:
    """Draw the number of lines of each order."""
    return rng.choice(np.arange(1, len(LINE_COUNT_SHARES) + 1), orders, p=LINE_COUNT_SHARES)


def campaign_at(ordered_at: Instants, since: np.datetime64) -> Ids:
    """Return the position of the campaign that runs at each instant, -1 if there is none."""
    elapsed = ordered_at - since
    return np.where(elapsed % CAMPAIGN_EVERY < CAMPAIGN_LASTS, elapsed // CAMPAIGN_EVERY, -1)


def draw_lines(
    rng: np.random.Generator, counts: Ids, price_default: Cents, price: Cents, promotion_share: Share
) -> Lines:
    """Draw quantities and discounts of the lines; each line alone costs more than one unit's base price."""
    order = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    quantity = rng.choice(np.arange(1, len(QUANTITY_SHARES) + 1), len(order), p=QUANTITY_SHARES)
    loyalty = np.where(rng.random(len(order)) < 0.05, 0.05, 0.0)
    gross = quantity * price
    discount = (gross * (promotion_share + loyalty)).astype(np.int64)
    # with two units or more even the largest discount leaves more than one base price
    discount = np.where(quantity == 1, np.minimum(discount, (price - price_default) * 4 // 5), discount)
    return Lines(order, number, quantity, price_default, price, discount)


def draw_endings(
    rng: np.random.Generator, ordered_at: Instants, until: np.datetime64
) -> tuple[Ids, Instants]:
    """Draw the status that each order has reached at `until`, and when it got there."""
    count = len(ordered_at)
    age = (until - ordered_at) / np.timedelta64(1, "D")
    luck, speed = rng.random(count), rng.random(count)
    reached = np.select(
        [age < 0.2 + speed, age < 1 + 3 * speed, age < 4 + 8 * speed],
        [PENDING, PROCESSING, SHIPPED],
        COMPLETE,
    )
    status = np.where(luck < 0.05, CANCELLED, reached)
    status = np.where((reached == COMPLETE) & (luck > 0.93) & (age > 40), RETURNED, status)
    days = np.select(
        [status == PENDING, status == PROCESSING, status == SHIPPED, status == CANCELLED, status == RETURNED],
        [0 * speed, 0.2 * speed, 1 + 3 * speed, 0.5 * speed, 12 + 25 * speed],
        4 + 8 * speed,
    )
    return status, _later(ordered_at, days, until)


def draw_line_endings(
    rng: np.random.Generator, status: Ids, changed_at: Instants, ordered_at: Instants, until: np.datetime64
) -> tuple[Ids, Instants, Instants]:
    """Derive status, time of return (NaT if none) and last change of each line from those of its order.

    The arguments have one entry per line.
    """
    age = (until - ordered_at) / np.timedelta64(1, "D")
    alone = (status == COMPLETE) & (age > 30) & (rng.random(len(status)) < 0.03)
    status = np.where(alone, RETURNED, status)
    changed_at = np.where(alone, _later(changed_at, 2 + 12 * rng.random(len(status)), until), changed_at)
    returned_at = np.where(status == RETURNED, changed_at, np.datetime64("NaT", "us"))
    return status, returned_at, changed_at


def spoil_lines(lines: Lines, spoiled: Ids) -> None:
    """Break the first line of the given orders, in place: alternately too cheap, or discounted too much."""
    first = np.searchsorted(lines.order, spoiled)
    cheap, generous = first[::2], first[1::2]
    lines.price[cheap] = lines.price_default[cheap]
    lines.discount[cheap] = 0
    lines.discount[generous] = lines.quantity[generous] * lines.price[generous] + 100


def broken_rules(lines: Lines) -> dict[str, Flags]:
    """Flag the lines that break each rule on amounts: price, discount, total."""
    gross = lines.quantity * lines.price
    starts = np.flatnonzero(lines.number == 1)
    totals = np.add.reduceat(gross - lines.discount, starts) if len(starts) else np.zeros(0, np.int64)
    total = np.repeat(totals, np.diff(np.append(starts, len(gross))))
    return {
        "price": lines.price <= lines.price_default,
        "discount": (lines.discount < 0) | (lines.discount > gross),
        "total": (total <= 0) | (total <= lines.price_default),
    }


def _later(start: Instants, days: Share, until: np.datetime64) -> Instants:
    moments: Instants = np.minimum(start + (days * 86_400_000_000).astype("timedelta64[us]"), until)
    return moments
