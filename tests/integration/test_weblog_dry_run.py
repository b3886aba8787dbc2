"""A dry run of web logs says, by table, what the load then does; it leaves no trace, and no loader waits for it."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.traces import traces
from tests.weblog_lake import BRAZIL, NOBODYS, WeblogLake, line, lines, make_lake
from warehouse import weblogs
from warehouse.db.connections import connect
from warehouse.errors import LockHeld, QualityGateStopped
from warehouse.runs.audit import start_run

KEYS = {
    "dwh.dim_country": 1,
    "dwh.dim_device": 1,
    "dwh.dim_traffic_source": 1,
    "dwh.dim_request": 1,
    "dwh.dim_user_agent": 1,
    "dwh.dim_referer": 1,
    "dwh.dim_web_user": 1,
    "dwh.agg_weblog_country": 1,
    "dwh.agg_weblog_country_user": 2,
    "dwh.agg_weblog_device": 1,
    "dwh.agg_weblog_device_user": 2,
    "dwh.agg_weblog_country_product": 2,
    "dwh.agg_weblog_day": 2,
    "dwh.agg_weblog_quarter_hour": 2,
}
FACT = "dwh.fact_weblog"
PARTITIONS = "select relid::text from pg_partition_tree('dwh.fact_weblog') where level = 1"
PATHS = "select file_id, path from audit.file"
QUARANTINED = """
    select file.path, waiting.line_number::text, waiting.reason, waiting.raw_text
    from audit.quarantine as waiting inner join audit.file using (file_id)
    where waiting.run_id = (select max(run_id) from audit.run)
    """

Rows = dict[tuple[Any, ...], tuple[Any, ...]]
Changes = dict[tuple[str, str], set[tuple[str, ...]]]


def dry_run(lake: WeblogLake, **options: Any) -> weblogs.WeblogDryRun:
    with start_run(lake.settings.warehouse, flow="ingest-weblogs", dry_run=True) as run:
        return weblogs.dry_run_load(lake.settings, run, **options)


def tables(warehouse_url: str) -> dict[str, Rows]:
    """Every row of the tables that a load writes, by its key."""
    with connect(warehouse_url) as connection:
        found: dict[str, Rows] = {
            table: {
                tuple(
                    f"{part:%Y-%m-%d %H:%M:%S}+00" if isinstance(part, datetime) else str(part)
                    for part in row[:size]
                ): row
                for row in connection.execute(f"select * from {table}".encode())
            }
            for table, size in KEYS.items()
        }
        # A line that is read again is another request.
        requests = connection.execute("select file_id, line_number, run_id, * from dwh.fact_weblog")
        return found | {FACT: {row[:3]: row for row in requests}}


def changes(before: dict[str, Rows], after: dict[str, Rows]) -> Changes:
    """Keys of the rows that came, went, or are other than they were."""
    found: Changes = {}
    for table, old in before.items():
        new = after[table]
        found[table, "insert"] = set(new) - set(old)
        found[table, "delete"] = set(old) - set(new)
        found[table, "update"] = {key for key in set(old) & set(new) if old[key] != new[key]}
    return {what: keys for what, keys in found.items() if keys}


def first_files(lake: WeblogLake) -> None:
    lake.execute("delete from dwh.dim_country where country = 'BR'")
    lake.put("a.log", lines(1, 5) + b"nonsense\n" + line(6, user="ana") + line(7).rstrip(b"\n"))
    lake.put("b.log", lines(10, 12) + line(13, address=BRAZIL, user="zoe").rstrip(b"\n"))
    lake.put("copy.log", lines(10, 12))
    lake.put("bots.log", line(14, agent="Googlebot") + line(15, agent="Googlebot").rstrip(b"\n"))
    lake.put("c.log", line(20, address=NOBODYS, request="GET /?utm_source=mail HTTP/1.1") + line(21)[:-40])
    lake.put(
        "d.log",
        line(30).replace(b'"-"', b'"https://blog.example/a"')
        + lines(31, 31)
        + line(32).replace(b"/2026", b"/1926"),
    )


def lines_that_go_on(lake: WeblogLake) -> None:
    # Loaded, and its end has come; loaded, and no line any more, the only one of its country and its user, or one of
    # two of its device; set aside, and whole now.
    lake.append("a.log", b"\n" + line(8, user="ana"))
    lake.append("b.log", b"!\n" + line(14))
    lake.append("bots.log", b"!\n")
    lake.append("c.log", line(21)[-40:] + line(22, address="2001:db8::1"))


def lines_read_again(lake: WeblogLake) -> None:
    # The same user, country and day: taken away with the line, and back with it.
    lake.append("d.log", b"\n" + line(33, user="eve").rstrip(b"\n"))
    lake.load()
    lake.append("d.log", b' "-"\n' + b"".join(line(n, user=f"u{n}", agent=f"bot/{n}") for n in range(34, 60)))


def others_of_the_same_name(lake: WeblogLake) -> None:
    lake.put("d.log", line(60, address=BRAZIL, request="GET /product/7 HTTP/1.1") + lines(61, 65))
    (lake.landing / "a.log").rename(lake.landing / "a.log.1")
    lake.append("a.log.1", lines(70, 71))
    (lake.landing / "b.log").unlink()
    (lake.landing / "copy.log").unlink()


def followers_of_one_log(lake: WeblogLake) -> None:
    # What one had of it is whole in the other: that line is taken back here.
    lake.put("e.log", lines(80, 82) + line(83).rstrip(b"\n"))
    lake.load()
    lake.put("f.log", lines(80, 82) + line(83).rstrip(b"\n") + b' "-"\n' + lines(84, 86))
    lake.load()
    lake.append("e.log", b' "-"\n' + lines(84, 86) + line(87, user="late").replace(b"20/Nov", b"19/Nov"))
    lake.put("g.log", lines(80, 82) + line(83))


def nothing_new(lake: WeblogLake) -> None:
    """Everything is loaded."""


STORY: list[Callable[[WeblogLake], None]] = [
    first_files, lines_that_go_on, lines_read_again, others_of_the_same_name, followers_of_one_log, nothing_new,
]  # fmt: skip


@pytest.mark.parametrize("batch_bytes", [pytest.param(1 << 20, marks=pytest.mark.slow), 300])
def test_dry_run_says_by_table_what_the_load_then_does(
    tmp_path: Path, warehouse_url: str, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files are claimed, and what is known of them looked up again, so many bytes at a time.
    monkeypatch.setattr("warehouse.weblogs.files.claims._MIN_BYTES", batch_bytes)
    lake = make_lake(tmp_path, warehouse_url)
    happened: Counter[tuple[str, str]] = Counter()
    for step in STORY:
        step(lake)
        before, partitions, trail = tables(warehouse_url), set(lake.rows(PARTITIONS)), traces(warehouse_url)
        former = dict(lake.rows(PATHS))
        told = dry_run(lake, batch_bytes=batch_bytes)
        assert traces(warehouse_url) == trail, step
        loaded = lake.load()
        after = tables(warehouse_url)
        done = changes(before, after)
        counts = {what: len(keys) for what, keys in done.items()}
        assert {
            (load.table_name, operation): count
            for load in told.loads
            for operation, count in (
                ("insert", load.rows_inserted), ("update", load.rows_updated), ("delete", load.rows_deleted),
            )
            if count
        } == counts, step  # fmt: skip
        happened.update(counts)

        assert [
            (f.path, f.status, f.lines, f.rows_loaded, f.rows_quarantined) for f in told.weblogs.files
        ] == [(f.path, f.status, f.lines, f.rows_loaded, f.rows_quarantined) for f in loaded.files]
        assert (told.weblogs.unchanged, told.weblogs.countries) == (loaded.unchanged, loaded.countries)
        made = set(lake.rows(PARTITIONS)) - partitions
        assert {
            f"dwh.fact_weblog_{c.lower()}"
            for e in told.examples
            if e.operation == "partition"
            for c in e.row_key
        } == {name for (name,) in made}
        waiting = set(lake.rows(QUARANTINED))
        assert told.loads[0].rows_quarantined == len(waiting)
        shown = [e for e in told.examples if e.operation == "quarantine"]
        assert {(*e.row_key, e.changes, (e.after or {})["raw_text"]) for e in shown} <= waiting
        assert bool(shown) == bool(waiting)
        for (table, operation), keys in done.items():
            if table == FACT:
                paths = former if operation == "delete" else dict(lake.rows(PATHS))
                keys = {(paths[file_id], str(number)) for file_id, number, _ in keys}
            named = {e.row_key for e in told.examples if (e.table_name, e.operation) == (table, operation)}
            assert named and named <= keys, (step, table, operation)
    lake.assert_consistent()
    assert {what for what in happened if what[1] == "delete"} >= {
        (FACT, "delete"), ("dwh.agg_weblog_country", "delete"), ("dwh.agg_weblog_country_user", "delete"),
    }  # fmt: skip
    assert {table for table, operation in happened if operation == "insert"} == {FACT, *KEYS}


def test_dry_run_stops_where_the_load_would(
    tmp_path: Path, warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise QualityGateStopped("It stopped.")

    lake = make_lake(tmp_path, warehouse_url)
    lake.put("a.log", lines(1, 5))
    monkeypatch.setattr("warehouse.load.contract.stop_on_failure", stop)
    before = traces(warehouse_url)
    with pytest.raises(QualityGateStopped):
        dry_run(lake)
    assert traces(warehouse_url) == before
    assert lake.rows("select status, error from audit.run") == [("dry run", "It stopped.")]


def test_dry_run_gives_way_to_a_load_that_is_at_work(tmp_path: Path, warehouse_url: str) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    lake.put("a.log", lines(1, 5))
    said: list[str] = []

    def look(_: weblogs.Progress) -> None:
        with pytest.raises(LockHeld) as refused:
            dry_run(lake)
        said.append(str(refused.value))

    assert lake.load(progress=look).rows_loaded == 5
    (sentence,) = said
    assert "'weblogs' is being loaded by dwh ingest-weblogs: web logs" in sentence
    assert "connected since" in sentence


def test_loads_do_not_wait_for_a_dry_run_which_says_who_came_between(
    tmp_path: Path, warehouse_url: str
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    # Large partitions are divided: that waits for whoever has as much as read from the table.
    dividing = lake.settings.model_copy(update={"weblog_monthly_mb": 0})
    lake.put("a.log", lines(1, 5) + line(6, address=BRAZIL, user="ana"))
    lake.load()
    lake.append("a.log", b"nonsense\n" + line(7, user="eve", agent="bot/1"))
    lake.put("b.log", line(8, address=NOBODYS, user="eve").rstrip(b"\n"))

    def load(_: weblogs.Progress) -> None:
        if lake.rows("select from audit.run where run_id = 3"):
            return
        with start_run(warehouse_url, flow="ingest-weblogs") as run:
            assert weblogs.load(dividing, run, wait_seconds=0).rows_loaded == 2

    with pytest.raises(LockHeld, match="were changed while the dry run read them, by ingest-weblogs, run 3 "):
        dry_run(lake, progress=load)
    assert lake.rows("select count(*) from pg_partition_tree('dwh.fact_weblog') where level = 2") > [(0,)]
    assert lake.rows("select status from audit.run order by run_id") == [
        ("succeeded",), ("dry run",), ("succeeded",),
    ]  # fmt: skip
    lake.assert_consistent()
    assert dry_run(lake).loads[0].rows_inserted == 0
