"""Web logs whose requests are gone are loaded again from their files, with the decisions about their lines."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.weblog_lake import BRAZIL, WeblogLake, line, lines, make_lake
from warehouse import weblogs
from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.rebuild.damage import WEBLOG_TABLES, are_weblogs_damaged
from warehouse.rebuild.rebuild import rebuild_damaged
from warehouse.rebuild.take_over import take_over
from warehouse.rebuild.weblogs import rebuild_weblogs
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import start_run
from warehouse.runs.discard import discard

# What the texts say, not the keys that stand for them: several loaders number them as they come.
QUERIES = {
    "requests": """
        select requested_at, response_bytes, line_number, status_code, country, ip_address, file_id, request,
            user_agent, referer, user_name, family, source.name, medium
        from dwh.fact_weblog
        inner join dwh.dim_request using (request_key)
        inner join dwh.dim_user_agent using (user_agent_key)
        inner join dwh.dim_referer using (referer_key)
        inner join dwh.dim_web_user using (web_user_key)
        inner join dwh.dim_device as device on device.device_key = fact_weblog.device_key
        inner join dwh.dim_traffic_source as source on source.traffic_source_key = fact_weblog.traffic_source_key
        order by file_id, line_number
        """,
    "files": """
        select file_id, path, status, line_count, lines_duplicated, rows_loaded, rows_quarantined, rows_discarded,
            rows_removed
        from audit.file order by file_id
        """,
    "quarantine": """
        select file_id, line_number, raw_text, note, resolution from audit.quarantine
        where resolution is distinct from 'replaced' order by file_id, line_number
        """,
}


def state(lake: WeblogLake) -> dict[str, list[tuple[object, ...]]]:
    lake.assert_consistent()
    return {name: lake.rows(query) for name, query in QUERIES.items()}


def rebuild(lake: WeblogLake, *, every_file: bool = False) -> tuple[Verdict, list[str]]:
    said: list[str] = []
    with start_run(lake.settings.warehouse, flow="rebuild", archive=True) as run:
        rebuild_damaged(run, lake.settings, (), said.append)
        found, *_ = rebuild_weblogs(run, lake.settings, every_file=every_file, progress=said.append)
    return found, said


def fill(lake: WeblogLake) -> None:
    """Files with a copy, one that grew, a discarded line and one that waits; requests of two countries."""

    def load() -> None:
        with start_run(lake.settings.warehouse, flow="ingest-weblogs", archive=True) as run:
            weblogs.load(lake.settings, run)

    lake.put("b.log", lines(1, 20) + line(21, user="ana", address=BRAZIL) + b"test of a scanner\nbroken\n")
    load()
    # The copy comes last by its time: its lines are those of the other.
    lake.put("b.log.1", lines(1, 20) + line(21, user="ana", address=BRAZIL) + b"test of a scanner\nbroken\n")
    lake.put("c.log", lines(30, 34))
    load()
    (scanner,) = lake.rows("select min(quarantine_id) from audit.quarantine where raw_text like 'test%'")[0]
    with (
        start_run(lake.settings.warehouse, flow="discard-quarantine", archive=True) as run,
        run.session("discard") as writer,
    ):
        discard(writer, run.run_id, [scanner], "a scanner of ours")
    lake.append("c.log", lines(35, 36))
    load()


@pytest.mark.parametrize(
    "dropped",
    [
        # With all that these drop.
        pytest.param(["schema dwh"], id="schema"),
        pytest.param(
            ["table dwh.fact_weblog", "table dwh.dim_request, dwh.agg_weblog_day"],
            marks=pytest.mark.slow,
            id="tables",
        ),
    ],
)
def test_requests_that_are_gone_are_loaded_again_and_decisions_about_lines_stay(
    warehouse_url: str, tmp_path: Path, dropped: list[str]
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    fill(lake)
    before = state(lake)
    whole = len(before["requests"])

    def check(statement: str, found: int, *, is_seen: bool = True) -> None:
        lake.execute(statement)
        with start_run(warehouse_url, flow="ingest-weblogs") as run:
            assert are_weblogs_damaged(run.connection) is is_seen
        verdict, said = rebuild(lake)
        assert (verdict.rows_expected, verdict.rows_found) == (whole, found), statement
        assert state(lake) == before, statement
        assert not [line for line in said if "lost" in line]

    check("select 1", whole, is_seen=False)
    check("delete from dwh.fact_weblog where line_number in (2, 5)", whole - 4, is_seen=False)
    check("truncate dwh.fact_weblog", 0)
    for what in dropped:
        check(f"drop {what} cascade", 0)
    check("drop schema staging cascade", whole)
    # What only a comparison with the files shows is put right where the table is named.
    lake.execute("update dwh.fact_weblog set response_bytes = 7 where line_number = 3")
    rebuild(lake, every_file=True)
    assert state(lake) == before
    # A file that is gone is named, and its accounts are true again.
    (lake.landing / "c.log").unlink()
    lake.execute("truncate dwh.fact_weblog")
    verdict, said = rebuild(lake)
    assert [line for line in said if "lost" in line] == [
        "weblogs: 7 requests of c.log are lost: it does not lie in the landing folder any more, or has other content"
    ]
    assert [one.problem for one in verdict.differences].count("unrepairable") == 1
    lake.assert_consistent()
    verdict, said = rebuild(lake)
    assert verdict.verdict == "equal" and not [line for line in said if "lost" in line]


def test_lost_warehouse_gets_its_web_logs_back_with_the_ids_of_their_files(
    warehouse_url: str, database: Callable[[str], str], warehouse_template: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    archive = Archive(tmp_path / "lake" / "archive")
    fill(lake)
    before = state(lake)
    flush(warehouse_url, archive)
    url = database(warehouse_template)
    settings = lake.settings.model_copy(update={"warehouse_url": SecretStr(url)})
    again = WeblogLake(lake.landing, settings)
    assert take_over(url, archive)
    rebuild(again)
    assert state(again) == before
    again.load()
    assert state(again) == before


def test_every_table_of_the_web_logs_is_known(warehouse_url: str, tmp_path: Path) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    found = lake.rows(
        "select 'dwh.' || relname from pg_class where relnamespace = 'dwh'::regnamespace and relkind in ('r', 'p') "
        "and not relispartition and (relname like '%weblog%' or relname ~ 'dim_(device|traffic_source|request|"
        "user_agent|referer|web_user|host|client_host)$')"
    )
    assert {name for (name,) in found} == WEBLOG_TABLES
