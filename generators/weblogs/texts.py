"""Pools of texts for generated access logs: addresses, user agents, requests and referers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from generators.geoip import countries

Numbers = npt.NDArray[np.int64]

SITE = "https://www.shop.example"
PROTOCOLS = ("HTTP/1.1", "HTTP/2.0")
_EXTERNAL = (
    "-", "https://www.google.com/", "https://www.bing.com/", "https://duckduckgo.com/", "https://www.facebook.com/",
    "https://l.instagram.com/", "https://www.linkedin.com/feed/", "https://t.co/x7Yq", "https://blog.partner.example/tools",
)  # fmt: skip
_EXTERNAL_SHARES = (0.45, 0.28, 0.05, 0.03, 0.06, 0.05, 0.04, 0.02, 0.02)
_LANDINGS = (
    "/", "/?utm_source=newsletter&utm_medium=email", "/?utm_source=google&utm_medium=cpc&utm_campaign=tools",
    "/?utm_source=facebook&utm_medium=paid", "/?utm_source=partner&utm_medium=referral",
)  # fmt: skip
_LANDING_SHARES = (0.72, 0.10, 0.10, 0.05, 0.03)
_ADJECTIVES = (
    "red", "blue", "steel", "heavy", "light", "small", "large", "industrial", "cordless", "electric", "safety",
    "outdoor", "office", "cheap", "new",
)  # fmt: skip
_NOUNS = (
    "drill", "glove", "ladder", "lamp", "pump", "valve", "cable", "paint", "helmet", "printer", "desk", "chair",
    "scale", "filter", "tape", "bolt", "hose", "saw",
)  # fmt: skip
_PHONES = (
    "SM-S911B", "SM-A546B", "SM-G991B", "Pixel 8", "Pixel 7", "moto g54", "Redmi Note 12", "CPH2609", "SM-X710",
)  # fmt: skip
_OTHERS = (
    *(f"/category/{number}" for number in range(1, 21)),
    "/static/app.js", "/static/style.css", "/favicon.ico", "/robots.txt", "/about", "/contact", "/terms",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Numbers to draw with given odds."""

    cumulative: npt.NDArray[np.float64]

    def draw(self, rng: np.random.Generator, count: int) -> Numbers:
        """Draw `count` numbers by their odds."""
        return np.searchsorted(self.cumulative, rng.random(count), side="right").clip(
            0, len(self.cumulative) - 1
        )


def choice(weights: npt.ArrayLike) -> Choice:
    """Make a Choice of 0, 1, 2, … by their weights."""
    cumulative = np.cumsum(np.asarray(weights, np.float64))
    return Choice(cumulative / cumulative[-1])


def zipf(count: int, *, shift: float, exponent: float = 1.0) -> Choice:
    """Make a Choice with Zipf's distribution, in which the first few numbers are drawn most."""
    return choice(1.0 / (np.arange(count) + shift) ** exponent)


@dataclass(frozen=True)
class Requests:
    """Request lines by code; code // 2 is the path, code % 2 the protocol."""

    texts: pl.Series
    referers: pl.Series
    # First path code of each kind.
    home: int
    search: int
    view: int
    add_to_cart: int
    checkout: int
    login: int
    other: int
    landing: Choice
    query: Choice
    product: Choice
    page: Choice
    external: Choice

    @property
    def external_referer(self) -> int:
        """Code of the first referer from outside; those before it are the shop's own paths."""
        return len(self.referers) - len(_EXTERNAL)


def requests(product_ids: Sequence[str], query_count: int) -> Requests:
    """Build the pool of all requests that visitors make."""
    words = [f"{a}+{n}" for n in _NOUNS for a in _ADJECTIVES]
    queries = [
        words[i % len(words)] + (f"+{i // len(words)}" if i >= len(words) else "") for i in range(query_count)
    ]
    paths = [
        *(("GET", path) for path in _LANDINGS),
        *(("GET", f"/search?q={query}") for query in queries),
        *(("GET", f"/product/{product}") for product in product_ids),
        *(("POST", f"/cart/add?product_id={product}") for product in product_ids),
        ("POST", "/checkout"),
        ("POST", "/login"),
        *(("GET", path) for path in _OTHERS),
    ]
    counts = [0, len(_LANDINGS), len(queries), len(product_ids), len(product_ids), 1, 1]
    home, search, view, add_to_cart, checkout, login, other = np.cumsum(counts).tolist()
    return Requests(
        texts=pl.Series([f"{method} {path} {protocol}" for method, path in paths for protocol in PROTOCOLS]),
        referers=pl.Series([*(SITE + path for _, path in paths), *_EXTERNAL]),
        home=home,
        search=search,
        view=view,
        add_to_cart=add_to_cart,
        checkout=checkout,
        login=login,
        other=other,
        landing=choice(_LANDING_SHARES),
        query=zipf(len(queries), shift=3),
        product=zipf(len(product_ids), shift=4, exponent=0.9),
        page=zipf(len(_OTHERS), shift=2),
        external=choice(_EXTERNAL_SHARES),
    )


def addresses(rng: np.random.Generator, count: int) -> pl.Series:
    """Draw addresses from the networks of the demo GeoIP file: most from the shop's countries, some from each."""
    places = countries()
    country = choice([place.share for place in places]).draw(rng, count)
    country[: len(places)] = np.arange(len(places))[:count]
    rng.shuffle(country)
    network_counts = np.array([len(place.v4_networks) for place in places])
    networks = np.array([network for place in places for network in place.v4_networks])
    first = np.cumsum(network_counts) - network_counts
    network = networks[first[country] + (rng.random(count) * network_counts[country]).astype(np.int64)]
    v4 = network + rng.integers(1, 65_535, count)
    octets = [((v4 >> shift) & 255).astype(str) for shift in (24, 16, 8, 0)]
    texts = np.array([".".join(parts) for parts in zip(*octets, strict=True)], object)
    for place in np.flatnonzero(rng.random(count) < 0.1).tolist():
        prefix = places[int(country[place])].v6_network >> 96
        tail = rng.integers(1, 65_535, 3)
        texts[place] = f"{prefix >> 16:x}:{prefix & 0xFFFF:x}:{tail[0]:x}::{tail[1]:x}:{tail[2]:x}"
    return pl.Series(texts.tolist())


def user_agents(count: int) -> pl.Series:
    """Return user agents of desktops, phones, tablets and crawlers, the commonest first."""
    webkit = "AppleWebKit/537.36 (KHTML, like Gecko)"
    apple = "like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    chrome = [f"Chrome/{version}.0.{build}.0" for version in range(142, 100, -1) for build in range(0, 60, 3)]
    ios = [
        (major, minor, build)
        for major in range(18, 11, -1)
        for minor in range(7)
        for build in range(148, 168)
    ]
    kinds = (
        [f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {webkit} {version} Safari/537.36" for version in chrome],
        [
            f"Mozilla/5.0 (Linux; Android {14 - i % 5}; {_PHONES[i % len(_PHONES)]}) {webkit} {version} "
            "Mobile Safari/537.36"
            for i, version in enumerate(chrome * 2)
        ],
        [
            f"Mozilla/5.0 (iPhone; CPU iPhone OS {major}_{minor} {apple} Version/{major}.0 "
            f"Mobile/15E{build} Safari/604.1"
            for major, minor, build in ios
        ],
        [
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_{i % 8}) {webkit} {version} Safari/537.36"
            for i, version in enumerate(chrome)
        ],
        [
            f"Mozilla/5.0 (iPad; CPU OS {major}_{minor} {apple} Version/{major}.0 "
            f"Mobile/15E{build} Safari/604.1"
            for major, minor, build in ios[::2]
        ],
        [
            f"Mozilla/5.0 (X11; Linux x86_64; rv:{n}.0) Gecko/20100101 Firefox/{n}.0"
            for n in range(140, 60, -1)
        ],
        [
            f"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/{n}"
            for n in range(120, 80, -1)
        ],
    )
    mixed = [kind[rank] for rank in range(max(map(len, kinds))) for kind in kinds if rank < len(kind)]
    return pl.Series(mixed[:count])
