"""What the order API refuses, and how: problem+json, nothing stored, no internals, whoever asks."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from cli.main import main
from stack.files import free_port
from stack.postgres import EmbeddedPostgres
from tests.order_api import HAMMERS, TOKEN, OrderApi, order_api, pointers, problem, shop_copy

ORDERS = "/api/v1/orders"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def api(postgres: EmbeddedPostgres, shop_template: str) -> Iterator[OrderApi]:
    with shop_copy(postgres, shop_template) as url, order_api(url) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_stored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is refused leaves no row."""
    api = request.getfixturevalue("api") if "api" in request.fixturenames else None
    before = api.count() if api else None
    yield
    assert api is None or api.count() == before


def products(*ids_and_quantities: tuple[object, object]) -> dict[str, Any]:
    return {**HAMMERS, "products": [{"productId": one, "quantity": n} for one, n in ids_and_quantities]}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({}, ["/customerId", "/payment_id", "/products"]),
        ([], [""]),
        (None, [""]),
        ("order", [""]),
        (7, [""]),
        ({**HAMMERS, "price": 1}, ["/price"]),
        ({**HAMMERS, "a/b~c": 1}, ["/a~1b~0c"]),
        ({**HAMMERS, "customerId": 0}, ["/customerId"]),
        ({**HAMMERS, "customerId": -1}, ["/customerId"]),
        ({**HAMMERS, "customerId": "1"}, ["/customerId"]),
        ({**HAMMERS, "customerId": 1.01}, ["/customerId"]),
        ({**HAMMERS, "customerId": True}, ["/customerId"]),
        ({**HAMMERS, "customerId": None}, ["/customerId"]),
        ({**HAMMERS, "customerId": 2**63}, ["/customerId"]),
        ({**HAMMERS, "customerId": 10**400}, ["/customerId"]),
        ({**HAMMERS, "customerId": 2**63 - 1}, ["/customerId"]),
        ({**HAMMERS, "customerId": 99, "payment_id": 99}, ["/customerId", "/payment_id"]),
        ({**HAMMERS, "products": []}, ["/products"]),
        ({**HAMMERS, "products": {}}, ["/products"]),
        ({**HAMMERS, "products": [1]}, ["/products/0"]),
        (products((1, 0)), ["/products/0/quantity"]),
        (products((1, 1), (2, -5)), ["/products/1/quantity"]),
        (products((1, 1.5)), ["/products/0/quantity"]),
        (products((1, "2")), ["/products/0/quantity"]),
        (products((1, 1_000_001)), ["/products/0/quantity"]),
        (products((1, 1), (2, 1), (1, 2)), ["/products"]),
        (products((1, 1), (99, 1), (2**63 - 1, 1)), ["/products/1/productId", "/products/2/productId"]),
        # In no distribution center; without a price.
        (products((3, 1), (4, 1)), ["/products/0/productId", "/products/1/productId"]),
        # More than an amount can be.
        (products((5, 2)), ["/products/0/quantity"]),
    ],
)
def test_order_that_is_not_valid_is_refused_part_by_part(
    api: OrderApi, order: object, expected: list[str]
) -> None:
    answer = api.http.post(ORDERS, content=json.dumps(order), headers=JSON)
    assert pointers(answer) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"nonsense", b"{'customerId': 1}", b"\xff\xfe", b'{"customerId": 1, "payment_id": 1, "products": [',
        b"\xef\xbb\xbf{}", b'{"customerId": NaN}', b'{"customerId": -Infinity}', b"[" * 60_000, b'{"a":' * 10_000,
        b'{"customerId": 1, "customerId": 1, "payment_id": 2, "products": [{"productId": 1, "quantity": 2}]}',
        b'{"customerId": 1, "payment_id": 2, "products": [{"productId": 1, "quantity": 2, "quantity": 3}]}',
        b'{"customerId": ' + b"9" * 5000 + b"}", b'{"customerId": 1e999}', b'{"\\ud800": 1}', b"\x00", b"{}{}",
        '{"customerId": 1, "näme": 1}'.encode("latin-1"),
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(api: OrderApi, body: bytes) -> None:
    problem(api.http.post(ORDERS, content=body, headers=JSON), 400)
    problem(api.http.patch(f"{ORDERS}/1", content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "number", ["1e400", "-1e999999999", "1e-999999999", "9223372036854775808.0", "0.0", "0e9"]
)
def test_number_that_is_no_id_is_refused(api: OrderApi, number: str) -> None:
    body = json.dumps(HAMMERS).replace('"customerId": 1', f'"customerId": {number}')
    assert pointers(api.http.post(ORDERS, content=body, headers=JSON)) == ["/customerId"]


def test_integer_may_be_written_with_a_point_and_stays_exact(api: OrderApi) -> None:
    body = json.dumps(HAMMERS).replace('"customerId": 1', '"customerId": 9007199254740993.0')
    (fault,) = problem(api.http.post(ORDERS, content=body, headers=JSON), 400)["errors"]
    assert fault == {"pointer": "/customerId", "detail": "There is no customer 9007199254740993."}


def test_body_of_another_kind_is_refused(api: OrderApi) -> None:
    body = json.dumps(HAMMERS).encode()
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {**JSON, "Content-Encoding": "gzip"},
        {},
    ):
        problem(api.http.post(ORDERS, content=body, headers=headers), 415)


def test_body_above_64_kb_is_refused_with_and_without_its_length(api: OrderApi) -> None:
    limit = 64 * 1024
    padded = json.dumps({**HAMMERS, "customerId": 99}).encode().ljust(limit)
    assert pointers(api.http.post(ORDERS, content=padded, headers=JSON)) == ["/customerId"]
    for size in (limit + 1, 700_000):
        large = padded.ljust(size)
        assert problem(api.http.post(ORDERS, content=large, headers=JSON), 413)["type"].endswith(":too-large")
        chunks = (large[start : start + 5000] for start in range(0, size, 5000))
        assert problem(api.http.post(ORDERS, content=chunks, headers=JSON), 413)


def test_order_of_1000_products_is_placed_and_one_more_is_refused(api: OrderApi) -> None:
    def order(count: int) -> dict[str, Any]:
        return products(*((one, 1) for one in range(1001, 1001 + count)))

    assert problem(api.place(order(1001)), 413)["type"] == "urn:dwh:problem:too-large"
    placed = api.place(order(1000))
    assert placed.status_code == 201
    assert api.http.get(placed.headers["location"]).json() == placed.json()
    ((lines,),) = api.rows("select count(*) from order_item where sales_order_id = %s", placed.json()["id"])
    assert lines == 1000 == len(placed.json()["items"])
    for table, key in (("order_item", "sales_order_id"), ("sales_order", "id")):
        api.shop.execute(f"delete from {table} where {key} = {placed.json()['id']}".encode())


def test_key_that_is_none_is_refused(api: OrderApi) -> None:
    for key in ("", "a b", "a" * 256):
        assert pointers(api.place(**{"Idempotency-Key": key})) == ["Idempotency-Key"]


def test_what_is_not_there_is_not_found(api: OrderApi) -> None:
    for method, path, status in (
        ("GET", f"{ORDERS}/999999", 404), ("PATCH", f"{ORDERS}/999999", 404), ("GET", "/nope", 404),
        ("GET", f"{ORDERS}/", 404), ("GET", f"{ORDERS}/0", 400), ("GET", f"{ORDERS}/one", 400),
        ("GET", f"{ORDERS}/{2**63}", 400), ("GET", f"{ORDERS}/{'9' * 5000}", 400), ("DELETE", f"{ORDERS}/1", 405),
        ("PUT", ORDERS, 405),
    ):  # fmt: skip
        body = {"status": "cancelled"} if method == "PATCH" else None
        problem(api.http.request(method, path, json=body), status)


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"limit": 0}, "limit"), ({"limit": 201}, "limit"), ({"limit": "x"}, "limit"), ({"customer": 1}, "customer"),
        ({"customerId": 2**63}, "customerId"), ({"status": "lost"}, "status"), ({"from": "2026-01-01"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"), ({"to": "1767225600"}, "to"), ({"cursor": "x"}, "cursor"),
        ({"from": "2026-02-30T00:00:00Z"}, "from, to, cursor"), ({"cursor": "é"}, "cursor"),
        # a position on the 31st of February
        ({"cursor": "MjAyNi0wMi0zMSAwMDowMDowMCswMC8x"}, "from, to, cursor"),
    ],
)  # fmt: skip
def test_list_refuses_what_it_does_not_know(api: OrderApi, query: dict[str, Any], wrong: str) -> None:
    assert pointers(api.http.get(ORDERS, params=query)) == [wrong]


@pytest.mark.parametrize(
    "change",
    [
        {}, {"status": "pending"}, {"status": "lost"}, {"status": None}, {"returnedLines": []},
        {"returnedLines": [1, 1]}, {"returnedLines": [0]}, {"returnedLines": [2**31]}, {"returnedLines": None},
        {"status": "shipped", "returnedLines": [1]}, {"status": "shipped", "customerId": 2}, [], "shipped",
    ],
)  # fmt: skip
def test_change_that_is_none_is_refused(api: OrderApi, change: object) -> None:
    problem(api.change(1, change), 400)


def test_client_that_goes_away_in_its_body_leaves_no_trace(api: OrderApi) -> None:
    place = urlsplit(api.url)
    with socket.create_connection((str(place.hostname), place.port or 0)) as connection:
        head = f"POST {ORDERS} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: 500\r\n\r\n{{"customerId"'.encode())
    assert api.http.get("/ping").json() == {"status": "ok"}


def test_pages_of_others_and_foreign_names_are_refused_without_a_token(api: OrderApi) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
        problem(api.http.get(ORDERS, headers=headers), 403)
        problem(api.place(**headers), 403)
    assert api.http.get("/ping", headers={"Origin": api.url}).status_code == 200


def test_document_and_its_page_are_there(api: OrderApi) -> None:
    index = api.http.get("/").json()
    assert index["name"] == "Order API"
    for link in index["links"].values():
        assert api.http.get(link).status_code == 200, link
    document = api.http.get("/openapi.json").json()
    assert set(document["paths"]) == {"/", "/ping", ORDERS, f"{ORDERS}/{{id}}"}
    assert "ValidationError" not in json.dumps(document)


def test_error_in_the_api_shows_no_internals(api: OrderApi) -> None:
    api.shop.execute("alter table order_item add constraint secret_rule check (quantity <> 77)")
    try:
        answer = api.place(products((1, 77)))
    finally:
        api.shop.execute("alter table order_item drop constraint secret_rule")
    assert problem(answer, 500)["type"] == "urn:dwh:problem:internal"
    assert "secret_rule" not in answer.text
    assert "psycopg" not in answer.text


def dwh_api(shop_url: str, *options: str, **settings: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "DWH_API_SHOP_URL": shop_url, **settings}
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "api", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "shop.example"])
def test_beyond_this_machine_it_demands_a_token(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWH_API_SHOP_URL", "postgresql://nowhere/shop")
    with pytest.raises(SystemExit) as exit_code:
        main(["api", "--host", host])
    assert exit_code.value.code == 2
    shown = capsys.readouterr().err
    assert "where others can connect, without a token" in shown
    assert "DWH_API_TOKEN_FILE" in shown


def test_token_that_can_be_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWH_API_TOKEN", "swordfish")
    with pytest.raises(SystemExit) as exit_code:
        main(["api"])
    shown = capsys.readouterr().err
    assert (exit_code.value.code, "DWH_API_TOKEN: it should have 16" in shown, "swordfish" in shown) == (
        2,
        True,
        False,
    )


def test_token_opens_the_orders_and_nothing_else_does(
    postgres: EmbeddedPostgres, shop_template: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    with shop_copy(postgres, shop_template) as url:
        process = dwh_api(
            url, "--host", "0.0.0.0", "--port", str(port), DWH_API_TOKEN_FILE=str(tmp_path / "token")
        )
        assert process.stdout
        assert f"http://0.0.0.0:{port}" in process.stdout.readline()
        api = OrderApi(f"http://127.0.0.1:{port}", url)
        try:
            for given in (
                {},
                {"Authorization": TOKEN},
                {"Authorization": "Bearer x"},
                {"Authorization": "Basic x"},
            ):
                refused = api.place(**given)
                assert problem(refused, 401)["type"] == "urn:dwh:problem:unauthorized"
                assert refused.headers["www-authenticate"] == "Bearer"
            assert api.count() == (0, 0, 0)
            assert api.place(Authorization=f"Bearer {TOKEN}").status_code == 201
            assert api.http.get("/ping").status_code == 200
            document = api.http.get("/openapi.json").json()
            assert document["paths"][ORDERS]["post"]["security"] == [{"token": []}]

            # A request that has begun is finished before SIGTERM ends the process.
            with psycopg.connect(url) as locking, ThreadPoolExecutor(1) as pool:
                locking.execute("lock table sales_order in exclusive mode")
                answer = pool.submit(api.place, Authorization=f"Bearer {TOKEN}")
                while not api.rows(
                    "select 1 from pg_locks where not granted and relation = 'sales_order'::regclass"
                ):
                    assert not answer.done()
                process.send_signal(signal.SIGTERM)
                with pytest.raises(TimeoutError):
                    answer.result(timeout=0.5)
                locking.rollback()
                assert answer.result(timeout=60).status_code == 201
            rest = process.stdout.read()
            assert (process.wait(120), "all requests are answered" in rest, TOKEN in rest) == (0, True, False)
        finally:
            process.kill()
            process.wait()
            api.close()


def test_port_that_is_taken_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWH_API_SHOP_URL", "postgresql://nowhere/shop")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as exit_code:
            main(["api", "--port", str(port)])
    assert exit_code.value.code == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in " ".join(capsys.readouterr().err.split())
