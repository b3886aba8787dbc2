"""Benchmark the order API: orders per second, compared with one psql session that commits the same rows per order.

`python -m bench.api --orders 10000`: 8 clients, each with one connection and the next order after the answer; clients,
API and PostgreSQL share the machine. Rounds alternate between no Idempotency-Key, psql, and a key for each order; their
medians are printed and written to bench/results/api.json. Each 201 has to be in the shop exactly once.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from bench.api.clients import Answers, place_orders
from cli.api import running_api
from generators.shop import create_schema, generate
from stack.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "bench" / "results" / "api.json"
# The distribution of line counts that the shop generator uses.
LINE_COUNTS, LINE_COUNT_WEIGHTS = range(1, 11), (34, 24, 15, 10, 6, 4, 3, 2, 1, 1)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(prog="bench.api", description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000, help="orders of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--shop", type=int, default=200_000, help="orders that the shop has already")
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    options = parser.parse_args()
    folder = ROOT / ".dwh" / "bench" / "api"
    shutil.rmtree(folder, ignore_errors=True)
    # Its settings are those of the local stack: fsync and synchronous_commit are on.
    postgres = EmbeddedPostgres(folder / "postgres", options.postgres)
    postgres.start()
    try:
        results = measure(postgres, folder, options)
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    for name, value in results.items():
        sys.stdout.write(f"{name:<28}{value}\n")


def measure(postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Run rounds of all three contenders by turns; returns the results."""
    postgres.create_database("shop")
    url = postgres.url("shop")
    create_schema(url)
    generate(url, rows=options.shop)
    rates: dict[str, list[float]] = {"api": [], "psql": [], "with_key": []}
    seconds: list[float] = []
    with running_api(url, folder / "api.log") as api:
        place_orders(api, _bodies(options.orders // 10, 0), options.clients)
        for number in range(1, options.rounds + 1):
            first_id = _next_id(url)
            took, answers = place_orders(api, _bodies(options.orders, number), options.clients)
            _verify(url, answers, options.orders, first_id)
            rates["api"].append(options.orders / took)
            seconds += answers.seconds
            script = _script(url, first_id, folder / "orders.sql")
            rates["psql"].append(options.orders / _psql(postgres, script))
            first_id = _next_id(url)
            bodies = _bodies(options.orders, -number)
            took, answers = place_orders(api, bodies, options.clients, f"round-{number}")
            _verify(url, answers, options.orders, first_id)
            rates["with_key"].append(options.orders / took)
            line = {name: round(those[-1]) for name, those in rates.items()}
            sys.stdout.write(f"round {number}: orders a second {line}\n")
    medians = {name: statistics.median(those) for name, those in rates.items()}
    percentiles = statistics.quantiles(seconds, n=100)
    return {
        "ratio_to_floor": round(medians["api"] / medians["psql"], 2),
        "ratio_to_floor_with_key": round(medians["with_key"] / medians["psql"], 2),
        "orders_per_second": round(medians["api"]),
        "orders_per_second_with_key": round(medians["with_key"]),
        "floor_orders_per_second": round(medians["psql"]),
        **{f"p{one}_ms": round(percentiles[one - 1] * 1000, 1) for one in (50, 95, 99)},
        "longest_ms": round(max(seconds) * 1000, 1),
        "clients": options.clients,
        "orders": options.orders,
        "rounds": options.rounds,
        "orders_in_the_shop": options.shop,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _bodies(count: int, seed: int) -> list[bytes]:
    """Orders as clients send them: customers, products and numbers of lines as the generator draws them."""
    drawn = random.Random(seed)
    return [
        json.dumps(
            {
                "customerId": drawn.randint(1, 5000),
                "payment_id": drawn.randint(1, 9),
                "products": [
                    {"productId": product, "quantity": drawn.choice((1, 1, 1, 2, 3))}
                    for product in drawn.sample(
                        range(1, 5001), drawn.choices(LINE_COUNTS, LINE_COUNT_WEIGHTS)[0]
                    )
                ],
            }
        ).encode()
        for _ in range(count)
    ]


def _verify(url: str, answers: Answers, orders: int, first_id: int) -> None:
    """Check that every order was placed, and is in the shop exactly once.

    Raises:
        SystemExit: one is missing or there twice.
    """
    with psycopg.connect(url) as connection:
        rows = connection.execute("select id from public.sales_order where id >= %s", [first_id])
        stored = sorted(order_id for (order_id,) in rows)
    if answers.refusals or len(stored) != orders or stored != sorted(answers.order_ids):
        refusal = answers.refusals[0].decode() if answers.refusals else ""
        sys.exit(f"{len(answers.order_ids)} orders were placed, {len(stored)} are in the shop. {refusal}")


def _next_id(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select max(id) + 1 from public.sales_order").fetchone()
    assert row
    return int(row[0])


def _script(url: str, first_id: int, path: Path) -> Path:
    """Write a SQL script that inserts the orders since `first_id` once more, under other ids."""
    lines = ["set synchronous_commit = on;\n"]
    with psycopg.connect(url) as connection:
        connection.execute(
            "select setval('public.sales_order_id_seq', max(id) + max(id) - %s + 1) from public.sales_order",
            [first_id],
        )
        rows = connection.execute(
            """
            select
                format('(%%s, %%s, %%s, ''pending'', now())', o.id + o.shift, o.customer_id, o.payment_method_id),
                string_agg(
                    format(
                        '(%%s, %%s, %%s, %%L, %%s, %%s, %%s, %%s, %%s, ''pending'')', o.id + o.shift, i.line_number,
                        i.product_id, i.promotion_id, i.distribution_center_id, i.quantity, i.unit_price_default,
                        i.unit_price, i.discount_amount
                    ), ', ' order by i.line_number
                )
            from (
                select *, max(id) over () - %s + 1 as shift from public.sales_order where id >= %s
            ) as o
            join public.order_item as i on i.sales_order_id = o.id
            group by o.id, o.shift, o.customer_id, o.payment_method_id
            order by o.id
            """,
            [first_id, first_id],
        )
        for order, items in rows:
            lines.append(
                "begin;\n"
                "insert into public.sales_order (id, customer_id, payment_method_id, status, ordered_at)"
                f" values {order};\n"
                "insert into public.order_item (sales_order_id, line_number, product_id, promotion_id,"
                " distribution_center_id, quantity, unit_price_default, unit_price, discount_amount, status)"
                f" values {items};\n"
                "commit;\n"
            )
    path.write_text("".join(lines))
    return path


def _psql(postgres: EmbeddedPostgres, script: Path) -> float:
    command = [str(postgres.psql_path), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
    started = time.perf_counter()
    subprocess.run([*command, "--file", str(script), postgres.url("shop")], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
