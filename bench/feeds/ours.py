"""Our load of a folder of order files, in a process of its own: `ours.py URL LAKE`; prints {"items", "seconds"}."""

import json
import sys
import time

import psycopg

from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.feeds.stage import stage_feed
from warehouse.load.publish import publish
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source


def main() -> None:
    """Load, and print the time."""
    url, lake = sys.argv[1:]
    started = time.perf_counter()
    source = read_source("orders")
    with start_run(url, flow="ingest-orders") as run:
        publish(run, stage_feed(run, source, lake, threshold=DeleteThreshold()))
    seconds = time.perf_counter() - started
    with psycopg.connect(url) as connection:
        (items,) = connection.execute("select count(*) from dwh.fact_order_item").fetchone() or (0,)
    sys.stdout.write(json.dumps({"items": items, "seconds": seconds}))


main()
