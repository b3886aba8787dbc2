"""Retention of web logs: old requests go, what stays is not written anew, and everything still adds up."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.weblog_killer import Killer
from tests.weblog_lake import ARGENTINA, BRAZIL, NOBODYS, WeblogLake, line, make_lake
from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.db.connections import connect
from warehouse.errors import DeleteThresholdExceeded, LockHeld
from warehouse.rebuild.take_over import take_over
from warehouse.rebuild.weblogs import rebuild_weblogs
from warehouse.runs import audit
from warehouse.settings import Settings
from warehouse.weblogs import Removed, retain
from warehouse.weblogs.maintenance import retention
from warehouse.weblogs.storage.months import maintain_partitions

TODAY = datetime.now(UTC).date()
DAYS = 40
CUTOFF = TODAY - timedelta(days=DAYS)


def visits(day: date, address: str, users: str = "ana eva rui", count: int = 3) -> bytes:
    written = b"".join(
        line(n, address=address, user=user, request=f"GET /product/{n} HTTP/1.1")
        for user in users.split()
        for n in range(count)
    )
    return written.replace(b"20/Nov/2026", f"{day:%d/%b/%Y}".encode())


def fill(lake: WeblogLake) -> WeblogLake:
    """Requests of half a year; one of the last allowed day and one of the day before, and of odd times."""
    for back in (180, 100, 99, DAYS + 1, DAYS, 10, 0):
        day = TODAY - timedelta(days=back)
        users = "ana eva" if back > 50 else "ana leo" if back else "leo"
        lake.put(f"{back:03}.log", visits(day, BRAZIL, users) + visits(day, ARGENTINA, users + " - tim"))
        lake.load()
    lake.put(
        "odd.log",
        visits(date(1970, 1, 1), BRAZIL, "old") + visits(date(2090, 1, 1), BRAZIL, "new") + b"rubbish\n",
    )
    lake.load()
    return lake


@pytest.fixture
def make(
    tmp_path: Path, database: Callable[[str], str], warehouse_template: str
) -> Callable[[str], WeblogLake]:
    def lake(name: str) -> WeblogLake:
        made = make_lake(tmp_path / name, database(warehouse_template))
        settings = made.settings.model_copy(update={"weblog_retention_days": DAYS, "weblog_monthly_mb": 1024})
        return replace(made, settings=settings)

    return lake


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    made = Killer()
    yield made
    made.close()


def retaining(lake: WeblogLake) -> Settings:
    """Settings that keep the requests since CUTOFF, even if midnight has passed since TODAY was read."""
    days = (datetime.now(UTC).date() - CUTOFF).days
    return lake.settings.model_copy(update={"weblog_retention_days": days})


def remove(lake: WeblogLake, **options: object) -> Removed:
    settings = retaining(lake)
    with audit.start_run(settings.warehouse, flow="remove-old-weblogs") as run:
        return retain(settings, run, confirm_deletes=True, **options)  # type: ignore[arg-type]


def state(lake: WeblogLake) -> dict[str, list[tuple[object, ...]]]:
    """The requests and the counts of their files, which have to agree."""
    lake.assert_consistent()
    return {
        "requests": lake.rows(
            "select file_id, line_number, request_timestamp, ip_address, user_name from mart.weblog order by 1, 2"
        ),
        "files": lake.rows(
            "select file_id, path, status, line_count, rows_loaded, rows_removed, rows_quarantined from audit.file "
            "order by file_id"
        ),
    }


def days(lake: WeblogLake) -> set[date]:
    return {
        day for (day,) in lake.rows("select (request_timestamp at time zone 'UTC')::date from mart.weblog")
    }


def test_old_requests_go_and_everything_adds_up(make: Callable[[str], WeblogLake]) -> None:
    lake = fill(make("lake"))
    total = len(lake.sizes())
    old = lake.rows(f"select ctid::text, * from dwh.fact_weblog where requested_at < '{CUTOFF}'")
    stay = lake.rows(
        f"select ctid::text, tableoid, * from dwh.fact_weblog where requested_at >= '{CUTOFF}' order by 2, 1"
    )
    removed = remove(lake, batch_rows=7)
    assert (removed.rows, removed.cutoff, removed.partitions) == (len(old), CUTOFF, 0)
    assert len(old) > 40
    # In their old places: nothing that stays was written anew.
    assert lake.rows("select ctid::text, tableoid, * from dwh.fact_weblog order by 2, 1") == stay
    assert min(days(lake)) == CUTOFF
    lake.assert_consistent()
    assert lake.rows("select rows_deleted, window_high from audit.load order by load_id desc limit 1") == [
        (len(old), str(CUTOFF))
    ]
    assert lake.rows("select sum(rows_removed), sum(rows_loaded - rows_removed) from audit.file") == [
        (len(old), total - len(old))
    ]
    assert not lake.rows(
        "select from dwh.agg_weblog_country_user join dwh.dim_web_user using (web_user_key) "
        "where user_name in ('eva', 'old')"
    )
    # A file whose rows were removed is never loaded again, whatever its name or date.
    (lake.landing / "180.log").rename(lake.landing / "again.log")
    (lake.landing / "100.log").touch()
    assert lake.load().lines == 0
    again = remove(lake)
    assert (again.rows, again.partitions) == (0, 0)
    lake.assert_consistent()


def test_removed_requests_stay_away_when_their_files_are_rebuilt(
    make: Callable[[str], WeblogLake], database: Callable[[str], str], warehouse_template: str, tmp_path: Path
) -> None:
    lake = fill(make("lake"))
    remove(lake)
    before = state(lake)
    (total,) = lake.rows("select sum(rows_loaded), sum(rows_removed) from audit.file")
    assert total[1] > total[0] / 2

    def rebuild(lake: WeblogLake, *, every_file: bool = False) -> None:
        with audit.start_run(lake.settings.warehouse, flow="rebuild", archive=True) as run:
            rebuild_weblogs(run, retaining(lake), every_file=every_file)

    lake.execute("truncate dwh.fact_weblog")
    rebuild(lake)
    assert state(lake) == before
    # Files of which nothing is missing, too.
    rebuild(lake, every_file=True)
    assert state(lake) == before
    # What the rebuild has loaded and what it has removed again are rows of their own in the trail.
    assert lake.rows(
        "select sum(rows_inserted), sum(rows_deleted), max(rows_deleted) from audit.load "
        "where run_id = (select max(run_id) from audit.run)"
    ) == [(total[0], total[1], total[1])]

    archive = Archive(tmp_path / "lake" / "lake" / "archive")
    flush(lake.settings.warehouse, archive)
    url = database(warehouse_template)
    again = WeblogLake(lake.landing, lake.settings.model_copy(update={"warehouse_url": SecretStr(url)}))
    assert take_over(url, archive)
    rebuild(again)
    assert state(again) == before


def test_rebuild_leaves_to_a_confirmed_run_what_was_never_removed(make: Callable[[str], WeblogLake]) -> None:
    lake = fill(make("lake"))
    before = state(lake)
    lake.execute("delete from dwh.fact_weblog where line_number = 2")
    messages: list[str] = []
    with audit.start_run(lake.settings.warehouse, flow="rebuild") as run:
        rebuild_weblogs(run, retaining(lake), progress=messages.append)
    assert state(lake) == before
    assert [one for one in messages if "--confirm-deletes" in one]


def test_whole_months_of_a_divided_country_are_dropped(make: Callable[[str], WeblogLake]) -> None:
    lake, plain = make("lake"), fill(make("plain"))
    first = TODAY - timedelta(days=180)
    lake.put("180.log", visits(first, BRAZIL, "ana eva") + visits(first, ARGENTINA, "ana eva - tim"))
    lake.load()
    with connect(lake.settings.warehouse) as connection:
        assert maintain_partitions(connection, 0)
    fill(lake)
    before = lake.rows("select count(*) from pg_partition_tree('dwh.fact_weblog') where isleaf")
    removed = remove(lake)
    plainly = remove(plain)
    assert removed.rows == plainly.rows
    after = lake.rows("select count(*) from pg_partition_tree('dwh.fact_weblog') where isleaf")
    assert removed.partitions == before[0][0] - after[0][0] >= 8
    content, expected = lake.content(), plain.content()
    assert {**content, "file": [], "keys": []} == {**expected, "file": [], "keys": []}
    lake.assert_consistent()
    # Old lines that come late find a place, and go with the next run.
    lake.put("late.log", visits(first, BRAZIL, "late"))
    assert lake.load().rows_loaded == 3
    assert (remove(lake).rows, min(days(lake))) == (3, CUTOFF)
    lake.assert_consistent()


def test_partition_that_is_being_read_is_dropped_later(
    make: Callable[[str], WeblogLake], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make("lake")
    lake.put("a.log", visits(TODAY - timedelta(days=180), BRAZIL))
    lake.load()
    with connect(lake.settings.warehouse) as connection:
        maintain_partitions(connection, 0)
    monkeypatch.setattr(retention, "_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(retention, "_ATTEMPTS", 1)
    with connect(lake.settings.warehouse) as reader:
        reader.execute("select count(*) from dwh.fact_weblog where country = 'BR'")
        with pytest.raises(
            LockHeld, match="cannot be dropped: its rows are old, but queries read it all the time"
        ):
            remove(lake)
    lake.assert_consistent()
    assert len(lake.sizes()) == 9
    assert (remove(lake).rows, lake.sizes()) == (9, [])
    lake.assert_consistent()


def test_line_that_was_removed_before_it_was_whole_is_counted_once(make: Callable[[str], WeblogLake]) -> None:
    lake = make("lake")
    written = visits(TODAY - timedelta(days=90), BRAZIL, "ana")
    lake.put("a.log", written.removesuffix(b"\n"))
    lake.load()
    assert remove(lake).rows == 3
    lake.append("a.log", b' "more"\n')
    lake.load()
    lake.assert_consistent()
    assert remove(lake).rows == 1
    lake.assert_consistent()


@pytest.mark.slow
def test_killed_anywhere_and_run_again_it_gets_there(
    make: Callable[[str], WeblogLake], killer: Killer
) -> None:
    lake, undisturbed = fill(make("lake")), fill(make("undisturbed"))
    remove(undisturbed)
    module = "warehouse.weblogs.maintenance.retention"
    for target, calls in (
        (f"{module}/_Retention:_subtract", 2),
        (f"{module}/_Retention:_record", 3),
        (f"{module}:recount_users", 1),
        (f"{module}:drop_zeros", 1),
    ):
        killer.die(lake, target, calls, "retain", confirm_deletes=True, batch_rows=5)
        assert not lake.rows(
            "select from audit.file as f where rows_loaded - rows_removed <> "
            "(select count(*) from dwh.fact_weblog as w where w.file_id = f.file_id)"
        )
    remove(lake)
    assert lake.content() == undisturbed.content()
    lake.assert_consistent()


def test_threshold_stops_where_most_would_go_and_nothing_is_removed_where_nothing_is_set(
    make: Callable[[str], WeblogLake],
) -> None:
    lake = make("lake")
    lake.put("a.log", visits(TODAY - timedelta(days=90), BRAZIL) + visits(TODAY, NOBODYS, "ana", 2))
    lake.load()
    with audit.start_run(lake.settings.warehouse, flow="x") as run:
        with pytest.raises(
            DeleteThresholdExceeded, match=f"would remove 9 of 11 requests, those before {CUTOFF}"
        ):
            retain(retaining(lake), run)
        unset = lake.settings.model_copy(update={"weblog_retention_days": None})
        assert retain(unset, run, confirm_deletes=True).cutoff is None
    assert len(lake.sizes()) == 11
