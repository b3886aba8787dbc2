"""Load order files into PostgreSQL: `dwh run orders` into the star, dlt into two tables, a DuckDB script into one."""

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.feeds.process import DWH, Timing, count, dwh_environment, run_timed
from generators.orders import OrderCounts, buyers_and_articles, generate
from stack.postgres import EmbeddedPostgres
from warehouse.migrations.revisions import upgrade

HERE = Path(__file__).parent
TOOLS = HERE.parent / ".venv" / "bin" / "python"
Report = Callable[..., None]


@dataclass(frozen=True)
class Place:
    """The lake of a contender, with order files in its landing folder, and its database."""

    postgres: EmbeddedPostgres
    lake: Path
    database: str
    folder: Path

    @property
    def url(self) -> str:
        """URL of the database."""
        return self.postgres.url(self.database)

    @property
    def landing(self) -> Path:
        """Folder of the order files."""
        return self.lake / "landing" / "orders"


def run_orders(place: Place, **settings: str) -> Timing:
    """Run `dwh run orders` as it is scheduled: with contracts, quarantine, audit trail and archive."""
    # Without a URL of the shop, dwh would start an embedded server for it.
    settings = {"shop_url": place.url, **settings}
    environment = dwh_environment(place.folder, warehouse_url=place.url, lake=str(place.lake), **settings)
    return run_timed([*DWH, "run", "orders"], place.postgres, environment)


def _ours(place: Place) -> tuple[Timing, int]:
    upgrade(place.url)
    timing = run_orders(place)
    return timing, count(place.url, "select count(*) from dwh.fact_order_item")


def _dlt(place: Place) -> tuple[Timing, int]:
    state = place.folder / "state"
    script = HERE / "tools" / "dlt_load.py"
    timing = run_timed([str(TOOLS), str(script), str(place.landing), place.url, str(state)], place.postgres)
    return timing, count(place.url, "select count(*) from by_dlt.orders__items")


def _duckdb(place: Place) -> tuple[Timing, int]:
    script = HERE / "tools" / "duckdb_load.py"
    timing = run_timed([str(TOOLS), str(script), str(place.landing), place.url], place.postgres)
    return timing, count(place.url, "select count(*) from by_duckdb.item")


CONTENDERS: dict[str, Callable[[Place], tuple[Timing, int]]] = {"ours": _ours, "dlt": _dlt, "duckdb": _duckdb}


def measure(
    postgres: EmbeddedPostgres,
    folder: Path,
    *,
    orders: int,
    files: int,
    rounds: int,
    contenders: Sequence[str],
    report: Report,
) -> dict[str, object]:
    """Measure items per second of each contender, medians of `rounds`; another number of items is a failure."""
    lake = folder / "lake"
    # The files have no unreadable records, since DuckDB and dlt stop at them.
    made = make_files(lake, orders, files)
    report(f"{made.orders:,} orders, {made.items:,} items in {len(made.files)} files")
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    for round_ in range(rounds):
        # The first contender finds other caches than the next: take turns.
        first = round_ % len(contenders)
        for name in [*contenders[first:], *contenders[:first]]:
            place = Place(postgres, lake, f"{name}_{round_}", folder / name)
            shutil.rmtree(place.folder, ignore_errors=True)
            shutil.rmtree(lake / "archive", ignore_errors=True)
            place.folder.mkdir()
            postgres.create_database(place.database)
            timing, items = CONTENDERS[name](place)
            if items != made.items:
                raise SystemExit(f"{name}: {items:,} of {made.items:,} items are there")
            timings[name].append(timing)
            report(name, timing, f"{items / timing.seconds:10,.0f} items a second")
    rates = {
        name: round(made.items / statistics.median(one.seconds for one in several))
        for name, several in timings.items()
    }
    results: dict[str, object] = {
        "items_per_second_by_tool": rates,
        "orders": made.orders,
        "items": made.items,
    }
    if "ours" in rates:
        cpu = [one.process_cpu + one.server_cpu for one in timings["ours"]]
        results |= {
            "items_per_second": rates["ours"],
            "items_per_cpu_second": round(made.items / statistics.median(cpu)),
        }
    if {"ours", "dlt"} <= rates.keys():
        results["speedup_to_dlt"] = round(rates["ours"] / rates["dlt"], 2)
    return results


def make_files(lake: Path, orders: int, files: int, shop: str | None = None) -> OrderCounts:
    """Write order files without defects into a new lake; they refer to customers and products of `shop`, if given."""
    shutil.rmtree(lake, ignore_errors=True)
    buyers, articles = buyers_and_articles(shop) if shop else ((), ())
    landing = lake / "landing" / "orders"
    return generate(landing, orders=orders // files, days=files, defects=0, buyers=buyers, articles=articles)
