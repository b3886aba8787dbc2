"""Countries told again by a newer GeoIP database: what is loaded becomes what a fresh load would have made of it."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from unittest import mock

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPNetwork, IPSet

from generators import geoip as demo
from generators import weblogs as generator
from tests.weblog_killer import Killer
from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld
from warehouse.geoip import path_of
from warehouse.runs import audit
from warehouse.weblogs import Reclassified, reclassify
from warehouse.weblogs.storage.months import maintain_partitions

# To others, to nobody, from nobody, to one that ISO 3166 does not have.
MOVES = {"AR": "BR", "BR": "UY", "UY": "AR", "CL": "QX", "PE": "ZZ"}


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which half of the networks of some countries are elsewhere."""
    path = tmp_path_factory.mktemp("geoip") / "newer.mmdb"
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Newer-Country")
    for country in demo.countries():
        for number, network in enumerate(country.v4_networks):
            code = MOVES.get(country.code, country.code) if number % 2 == 0 else country.code
            if code != "ZZ":
                place = IPNetwork(f"{network >> 24}.{network >> 16 & 255}.0.0/16")
                writer.insert_network(
                    IPSet([place]), {"country": {"iso_code": code, "names": {"en": f"Name of {code}"}}}
                )
        v6 = f"{country.v6_network >> 112:x}:{country.v6_network >> 96 & 0xFFFF:x}::/32"
        code = MOVES.get(country.code, country.code).replace("ZZ", "PE")
        writer.insert_network(IPSet([v6]), {"country": {"iso_code": code}})
    writer.insert_network(IPSet(["10.0.0.0/8"]), {"country": {"iso_code": "AR"}})
    with mock.patch("mmdb_writer.time.time", lambda: datetime(2027, 1, 1, tzinfo=UTC).timestamp()):
        writer.to_db_file(str(path))
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests of three months."""
    folder = tmp_path_factory.mktemp("logs")
    for until in (date(2026, 9, 30), date(2026, 10, 31), date(2026, 11, 20)):
        generator.generate(folder, lines=3_000, days=1, until=until, seed=until.month)
    nobodys = b"".join(line(n, address="10.0.0.1", user=f"user{n:05}") for n in range(9))
    (folder / "nobodys.log").write_bytes(nobodys + b"rubbish\n")
    return folder


@pytest.fixture
def make(
    tmp_path: Path, logs: Path, newer: Path, database: Callable[[str], str], warehouse_template: str
) -> Callable[..., WeblogLake]:
    def lake(name: str, *, with_newer: bool = False) -> WeblogLake:
        made = make_lake(tmp_path / name, database(warehouse_template))
        shutil.copytree(logs, made.landing, dirs_exist_ok=True)
        if with_newer:
            shutil.copy(newer, path_of(made.settings))
        made.load()
        return made

    return lake


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    made = Killer()
    yield made
    made.close()


def again(lake: WeblogLake, newer: Path, **options: float) -> Reclassified:
    shutil.copy(newer, path_of(lake.settings))
    with audit.start_run(lake.settings.warehouse, flow="reclassify-weblogs") as run:
        return reclassify(lake.settings, run, **options)  # type: ignore[arg-type]


def test_rows_and_marts_become_those_of_a_fresh_load(make: Callable[..., WeblogLake], newer: Path) -> None:
    lake, fresh = make("lake"), make("fresh", with_newer=True)
    before = dict(lake.rows("select country, count(*) from dwh.fact_weblog group by 1"))
    told = again(lake, newer)
    assert lake.content() == fresh.content()
    lake.assert_consistent()
    for mart in (
        "countries_by_logged_users",
        "most_viewed_products",
        "top_devices_by_users",
        "interactions_by_day",
    ):
        query = f"select * from mart.{mart}"
        assert sorted(lake.rows(query), key=str) == sorted(fresh.rows(query), key=str)
    after = dict(lake.rows("select country, count(*) from dwh.fact_weblog group by 1"))
    assert {country for country in before | after if before.get(country) != after.get(country)} >= {
        "AR",
        "BR",
        "QX",
    }
    assert lake.rows("select name from dwh.dim_country where country = 'QX'") == [("Name of QX",)]
    ((moved,),) = lake.rows(
        "select sum(rows_moved) from audit.weblog_month where geoip_database = 'Newer-Country'"
    )
    assert (told.months, told.rows_moved) == (3, moved)
    assert moved > 500
    databases = (
        "select geoip_database, geoip_built_at::date::text, sum(rows_updated) from audit.load group by 1, 2"
    )
    assert sorted(lake.rows(databases))[1:] == [("Newer-Country", "2027-01-01", moved)]
    # Once is enough; and what is loaded meanwhile by the new database needs nothing.
    lake.put("later.log", line(1, address=BRAZIL))
    lake.load()
    told = again(lake, newer)
    assert (told.months, told.months_before, told.rows_moved) == (0, 3, 0)


@pytest.mark.slow
def test_killed_anywhere_and_run_again_it_gets_there(
    make: Callable[..., WeblogLake], newer: Path, killer: Killer
) -> None:
    lake, fresh = make("lake"), make("fresh", with_newer=True)
    shutil.copy(newer, path_of(lake.settings))
    module = "warehouse.weblogs.maintenance.reclassify"
    for target, calls in (
        (f"{module}:_move", 1),
        (f"{module}:name_countries", 2),
        (f"{module}:drop_zeros", 1),
        (f"{module}:record_load", 1),
        (f"{module}:_reclassify_month", 2),
        (f"{module}:recount_users", 1),
    ):
        killer.die(lake, target, calls, "reclassify")
        # Lines are neither lost nor doubled at any moment.
        assert lake.rows(
            "select count(*), count(distinct (file_id, line_number)) from dwh.fact_weblog"
        ) == fresh.rows("select count(*), count(*) from dwh.fact_weblog")
    again(lake, newer)
    assert lake.content() == fresh.content()
    lake.assert_consistent()


def test_loads_take_turns_with_months_and_a_divided_country_is_one_as_well(
    make: Callable[..., WeblogLake], newer: Path
) -> None:
    lake = make("lake")
    lake.put("new.log", b"".join(line(n, address=ARGENTINA, user="eva") for n in range(500)))
    with connect(lake.settings.warehouse) as loader, session_lock(loader, "weblogs"), pytest.raises(LockHeld):
        again(lake, newer, wait_seconds=0)
    lake.load()
    with connect(lake.settings.warehouse) as connection:
        maintain_partitions(connection, 40_000)
    assert lake.rows("select count(*) from pg_class where relname ~ '^fact_weblog_ar_before'") == [(1,)]
    again(lake, newer)
    lake.assert_consistent()
    # A load by an older database makes the month one to be told again.
    shutil.copy(newer, lake.settings.home / "newer")
    demo.write(path_of(lake.settings))
    lake.put("old.log", line(7, address=BRAZIL))
    lake.load()
    assert again(lake, lake.settings.home / "newer").months == 3
    lake.assert_consistent()
