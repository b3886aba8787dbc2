"""Measure the cost of Soda in a batch of live: `python -m bench.live.soda`, half a minute; prints ms by batch size.

Order lines of a shop in its own cluster are changed, and live publishes them in one batch. Timed are the whole turn,
from the poll to the commit, and within it each call of `warehouse.load.contract.verify`.
"""

import shutil
import statistics
import sys
import time
from pathlib import Path
from threading import Event

import psycopg

from generators.shop import create_schema, generate
from stack.postgres import EmbeddedPostgres
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.live.loop import Environment, SourceLoop
from warehouse.load import target
from warehouse.load.contract import verify
from warehouse.load.publish import publish
from warehouse.migrations.revisions import upgrade
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

LINES = (1, 10, 100, 1000)
BATCHES = 20
CHANGE = """
    update order_item set quantity = quantity + 1, updated_at = clock_timestamp()
    where ctid = any(array(select ctid from order_item order by random() limit %s))
"""


def main() -> None:
    """Measure and print."""
    folder = Path(__file__).parents[2] / ".dwh" / "bench" / "soda"
    shutil.rmtree(folder, ignore_errors=True)
    cluster = EmbeddedPostgres(folder)
    cluster.start()
    try:
        for name in ("shop", "warehouse"):
            cluster.create_database(name)
        _measure(cluster.url("shop"), cluster.url("warehouse"))
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(shop: str, warehouse: str) -> None:
    create_schema(shop)
    generate(shop, rows=20_000, customers=2000, products=1000, defects=0)
    upgrade(warehouse)
    source = read_source("shop")
    with start_run(warehouse, flow="ingest-shop") as run:
        publish(run, stage(run, source, shop, threshold=DeleteThreshold(is_confirmed=True)))
    spent: list[float] = []

    def timed(*arguments: object) -> object:
        began = time.perf_counter()
        try:
            return verify(*arguments)  # type: ignore[arg-type]
        finally:
            spent.append(time.perf_counter() - began)

    vars(target)["verify"] = timed
    settings = Settings(warehouse_url=warehouse, live_interval=0.05)
    loop = SourceLoop(source, shop, Environment(settings, Rules(), lambda line, _: None), Event())
    sys.stdout.write(f"{'lines':>8}{'batch ms':>12}{'Soda ms':>12}{'contracts':>12}\n")
    with psycopg.connect(shop, autocommit=True) as connection, loop._connected():
        for lines in LINES:
            turns, soda, contracts = [], [], 0
            for number in range(BATCHES + 2):
                connection.execute(CHANGE, [lines])
                batches = loop._open.batches if loop._open else 0
                while True:
                    spent.clear()
                    began = time.perf_counter()
                    loop._turn()
                    if loop._open is not None and loop._open.batches > batches:
                        break
                # Skip the first two batches, which compile contracts and prepare plans.
                if number >= 2:
                    turns.append(time.perf_counter() - began)
                    soda.append(sum(spent))
                    contracts = len(spent)
            sys.stdout.write(
                f"{lines:>8,}{1000 * statistics.median(turns):>12.1f}{1000 * statistics.median(soda):>12.1f}"
                f"{contracts:>12}\n"
            )
    loop._record_stop()


if __name__ == "__main__":
    main()
