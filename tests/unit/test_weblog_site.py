"""What requests mean and where visits come from."""

import pytest

from warehouse.weblogs.reader.traffic_rules import Request, read_traffic_rules
from warehouse.weblogs.storage.lookups import device_family

REQUESTS = {
    "GET /product/7 HTTP/1.1": Request("GET", "/product/7", "view", "7", None),
    "GET /products/AB%2F7/ HTTP/2.0": Request("GET", "/products/AB%2F7/", "view", "AB/7", None),
    "HEAD /product/7 HTTP/1.1": Request("HEAD", "/product/7", "other", None, None),
    "GET /product/7/reviews HTTP/1.1": Request("GET", "/product/7/reviews", "other", None, None),
    "GET /search?q=drill HTTP/1.1": Request("GET", "/search", "search", None, None),
    "POST /cart/add?product_id=7 HTTP/1.1": Request("POST", "/cart/add", "add_to_cart", "7", None),
    "GET /add-to-cart/7 HTTP/1.1": Request("GET", "/add-to-cart/7", "add_to_cart", "7", None),
    "POST /checkout HTTP/1.1": Request("POST", "/checkout", "checkout", None, None),
    "POST /login HTTP/1.1": Request("POST", "/login", "login", None, None),
    "GET /login HTTP/1.1": Request("GET", "/login", "other", None, None),
    "GET /?utm_source=News%20Letter HTTP/1.1": Request(
        "GET", "/", "other", None, ("news letter", "campaign")
    ),
    "GET /product/7?utm_source=google HTTP/1.1": Request(
        "GET", "/product/7", "view", "7", ("google", "campaign")
    ),
    "GET /product/7%00 HTTP/1.1": Request("GET", "/product/7%00", "view", "7\\x00", None),
    "CONNECT a.example:443 HTTP/1.1": Request("CONNECT", "a.example:443", "other", None, None),
    "OPTIONS * HTTP/1.0": Request("OPTIONS", "*", "other", None, None),
    "\\x16\\x03\\x01": Request(None, None, "other", None, None),
    "": Request(None, None, "other", None, None),
}

SOURCES = {
    "https://www.google.com/search?q=x": ("google", "search"),
    "https://www.google.co.uk/": ("google", "search"),
    "android-app://com.google.android.gm/": ("google", "search"),
    "https://t.co/x": ("twitter", "social"),
    "https://www.shop.example/product/7": ("internal", "internal"),
    "http://blog.partner.example:8080/x": ("blog.partner.example", "referral"),
    "http://[broken": ("direct", "direct"),
    "": ("direct", "direct"),
    "javascript:void": ("direct", "direct"),
}

DEVICES = {
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604.1": "iPhone",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36": "Mac",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": "Spider",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36": "Other",
    "curl/8.0": "Other",
}


@pytest.mark.parametrize("text", REQUESTS)
def test_request_is_understood(text: str) -> None:
    assert read_traffic_rules().request(text) == REQUESTS[text]


@pytest.mark.parametrize("referer", SOURCES)
def test_referer_gives_traffic_source(referer: str) -> None:
    assert read_traffic_rules().traffic_source(referer) == SOURCES[referer]


@pytest.mark.parametrize("agent", DEVICES)
def test_user_agent_gives_device_family(agent: str) -> None:
    assert device_family(agent) == DEVICES[agent]
