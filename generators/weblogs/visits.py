"""Draw the requests of sessions as a Markov chain: a visitor searches, views, adds to the cart, checks out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from generators.weblogs.texts import Choice, Numbers, Requests, choice, zipf

HOME, SEARCH, VIEW, ADD_TO_CART, CHECKOUT, LOGIN, OTHER, END = range(8)
STATES = ("home", "search", "view", "add_to_cart", "checkout", "login", "other")
# Probabilities, a row per state, of the next one: home, search, view, add_to_cart, checkout, login, other, end.
_NEXT = np.array(
    [
        (0.00, 0.35, 0.31, 0.00, 0.00, 0.08, 0.14, 0.12),
        (0.00, 0.15, 0.62, 0.00, 0.00, 0.00, 0.05, 0.18),
        (0.02, 0.18, 0.32, 0.15, 0.00, 0.00, 0.10, 0.23),
        (0.00, 0.12, 0.28, 0.00, 0.40, 0.05, 0.00, 0.15),
        (0.20, 0.00, 0.05, 0.00, 0.00, 0.00, 0.00, 0.75),
        (0.25, 0.30, 0.45, 0.00, 0.00, 0.00, 0.00, 0.00),
        (0.10, 0.20, 0.30, 0.00, 0.00, 0.00, 0.10, 0.30),
    ]
)
_FIRST = choice((0.36, 0.20, 0.34, 0.0, 0.0, 0.02, 0.08))
_MAX_STEPS = 24
_STEP_SECONDS = 28.0
_DAY_SECONDS = 86_400
_LOGGED_SHARE = 0.45
# Visits by hour of the day, UTC: the shop's customers are three hours behind.
_HOURS = (3, 2, 1, 1, 1, 1, 2, 3, 4, 5, 7, 9, 10, 10, 9, 9, 10, 10, 9, 8, 8, 7, 6, 4)


@dataclass(frozen=True)
class Population:
    """The visitors: odds of addresses, agents and users, and each user's usual address and agent."""

    address: Choice
    agent: Choice
    user: Choice
    agent_of_address: Numbers
    address_of_user: Numbers
    agent_of_user: Numbers


@dataclass(frozen=True)
class Events:
    """Requests as columns: for each part of a line, the position in its pool."""

    second: Numbers
    state: Numbers
    address: Numbers
    # -1 if not logged in.
    user: Numbers
    agent: Numbers
    request: Numbers
    referer: Numbers

    def select(self, chosen: "Numbers | npt.NDArray[np.bool_] | slice") -> "Events":
        """Return the chosen requests."""
        return Events(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def population(rng: np.random.Generator, address_count: int, agent_count: int, user_count: int) -> Population:
    """Draw visitors; few of them make most requests (Zipf's distribution)."""
    address, agent = zipf(address_count, shift=10, exponent=0.85), zipf(agent_count, shift=6)
    return Population(
        address,
        agent,
        zipf(user_count, shift=8, exponent=0.8),
        agent.draw(rng, address_count),
        address.draw(rng, user_count),
        agent.draw(rng, user_count),
    )


def events(
    rng: np.random.Generator, people: Population, requests: Requests, count: int, share: tuple[float, float]
) -> Events:
    """Draw `count` requests of sessions that begin in the part of a day from share[0] to share[1] of its visits.

    They are not sorted by time. Some sessions go on after that part of the day, none after the day.
    """
    parts: list[Events] = []
    left = count
    while left > 0:
        parts.append(_sessions(rng, people, requests, left // 5 + 8, share))
        left -= len(parts[-1].second)
    return _joined(parts).select(slice(count))


def by_time(made: Iterable[Events], shares: Sequence[tuple[float, float]]) -> Iterator[Events]:
    """Yield, for each part of a day, the requests in it, those of sessions that began in an earlier part included."""
    carried: list[Events] = []
    for part, (_, end) in zip(made, shares, strict=True):
        waiting = _joined([*carried, part])
        due = waiting.second < (np.inf if end == 1 else second_of_day(np.array([end]))[0])
        yield waiting.select(due)
        carried = [waiting.select(~due)]


def in_order(made: Events) -> Events:
    """Sort requests by time; those of the same second keep their order."""
    # Two sorts of small integers, for which numpy uses a radix sort, are faster than one of 64-bit seconds.
    low, high = made.second & 0xFFFF, made.second >> 16
    order = np.argsort(low.astype(np.uint16), kind="stable")
    return made.select(order[np.argsort(high[order].astype(np.uint8), kind="stable")])


def _joined(parts: Sequence[Events]) -> Events:
    if len(parts) == 1:
        return parts[0]
    names = Events.__dataclass_fields__
    return Events(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _sessions(
    rng: np.random.Generator,
    people: Population,
    requests: Requests,
    count: int,
    share: tuple[float, float],
) -> Events:
    is_logged = rng.random(count) < _LOGGED_SHARE
    user = np.where(is_logged, people.user.draw(rng, count), -1)
    away, other_device = rng.random(count) < 0.15, rng.random(count) < 0.2
    address = np.where(is_logged & ~away, people.address_of_user[user], people.address.draw(rng, count))
    own_agent = np.where(is_logged, people.agent_of_user[user], people.agent_of_address[address])
    agent = np.where(other_device, people.agent.draw(rng, count), own_agent)
    protocol = (agent % 3 > 0).astype(np.int64)
    second = second_of_day(share[0] + rng.random(count) * (share[1] - share[0]))
    product = requests.product.draw(rng, count)
    referer = requests.external_referer + requests.external.draw(rng, count)
    state = _FIRST.draw(rng, count)
    going = np.arange(count)
    steps: list[tuple[npt.NDArray[np.int64], ...]] = []
    for _ in range(_MAX_STEPS):
        now = state[going]
        # Only sessions of users log in or check out.
        now = np.where(~is_logged[going] & ((now == CHECKOUT) | (now == LOGIN)), VIEW, now)
        viewing = now == VIEW
        product[going[viewing]] = requests.product.draw(rng, int(viewing.sum()))
        path = _paths(rng, requests, now, product[going])
        steps.append(
            (
                np.minimum(second[going].astype(np.int64), _DAY_SECONDS - 1), now, address[going], user[going],
                agent[going], path * 2 + protocol[going], referer[going],
            )
        )  # fmt: skip
        referer[going] = path
        state[going] = _next(rng, now)
        second[going] += rng.exponential(_STEP_SECONDS, len(going))
        # Sessions end at midnight.
        going = going[(state[going] != END) & (second[going] < _DAY_SECONDS)]
        if not len(going):
            break
    return Events(*(np.concatenate(column) for column in zip(*steps, strict=True)))


def _paths(rng: np.random.Generator, requests: Requests, state: Numbers, product: Numbers) -> Numbers:
    path = np.select(
        [state == VIEW, state == ADD_TO_CART, state == CHECKOUT, state == LOGIN],
        [requests.view + product, requests.add_to_cart + product, requests.checkout, requests.login],
    )
    for kind, first, odds in (
        (HOME, requests.home, requests.landing),
        (SEARCH, requests.search, requests.query),
        (OTHER, requests.other, requests.page),
    ):
        mine = np.flatnonzero(state == kind)
        path[mine] = first + odds.draw(rng, len(mine))
    return path


def _next(rng: np.random.Generator, state: Numbers) -> Numbers:
    cumulative = np.cumsum(_NEXT, axis=1)[state]
    following: Numbers = (rng.random(len(state))[:, None] > cumulative).sum(axis=1).clip(0, END)
    return following


def second_of_day(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the second of the day by which each share of its visits has come."""
    cumulative = np.concatenate([[0.0], np.cumsum(_HOURS) / np.sum(_HOURS)])
    seconds: npt.NDArray[np.float64] = np.interp(share, cumulative, np.arange(25) * 3600.0)
    return seconds
