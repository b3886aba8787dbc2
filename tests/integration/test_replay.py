"""What waits in quarantine is judged once more: rows of databases, lines of web logs, records of files."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import psycopg
import pytest

from tests import command
from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import LOCK_AWAITED, PACKAGED, Pipeline
from tests.weblog_lake import line, make_lake
from warehouse.db.connections import connect
from warehouse.db.locks import transaction_lock
from warehouse.errors import UndoBlocked, WrongParameters
from warehouse.history.change_log import STAR_LOCK
from warehouse.load.rejudge import rejudge
from warehouse.reconcile.reconcile import reconcile_feed, reconcile_weblog_files
from warehouse.runs.audit import start_run
from warehouse.runs.discard import discard
from warehouse.runs.quarantine import Selection, count_waiting, edit_record, find_waiting
from warehouse.sources.source import Source
from warehouse.undo.undo import undo

GIFTS = "partners may give products away"


def test_rows_of_a_database_are_replayed_once_the_rule_is_relaxed_and_never_twice(
    shop_url: str, warehouse_url: str
) -> None:
    shop = Pipeline(shop_url, warehouse_url)
    shop.open_shop()
    gift = {"unit_price": 0, "unit_price_default": None, "discount_amount": 0}
    shop.order(1, "2024-03-10", gift, {"quantity": 50})
    shop.order(2, "2024-03-11", {**gift, "status": "lost"}, {})
    shop.capture()
    source = relaxing(shop, "order_item", "unit price is not positive")
    ids = find_waiting(shop.warehouse, Selection(source="shop"))["shop"]
    assert find_waiting(shop.warehouse, Selection(rule="status is unknown")) == {"shop": [ids[1]]}

    def judged(*, dry_run: bool = False) -> int:
        with start_run(warehouse_url, flow="replay-quarantine", dry_run=dry_run) as run:
            rejudge(run, source, ids)
            return count_waiting(run.dry_run_connection or run.connection, ids)

    before = shop.facts("net_amount::integer")
    assert before == [("1", "2", 4990), ("2", "2", 190)]
    assert judged(dry_run=True) == 1
    assert (shop.facts("net_amount::integer"), [entry[2] for entry in shop.quarantined()]) == (
        before,
        [None, None],
    )
    assert judged() == 1
    passed = [("1", "1", 0), *before]
    assert shop.facts("net_amount::integer") == passed
    assert shop.quarantined() == [
        (["1", "1"], ["unit price is not positive"], "released"),
        (["2", "1"], ["unit price is not positive", "status is unknown"], "replaced"),
        (["2", "1"], ["status is unknown"], None),
    ]
    judged()
    assert shop.facts("net_amount::integer") == passed
    assert len(shop.quarantined()) == 3
    # A row of a database is corrected there, and neither edited nor discarded here.
    waiting = find_waiting(shop.warehouse, Selection(source="shop"))
    with pytest.raises(WrongParameters, match=r"no record of a file.*Rows of a database are corrected there"):
        edit_record(shop.warehouse, waiting, b"{}")
    with (
        pytest.raises(WrongParameters, match=r"is a row of a database, and can only be corrected there"),
        start_run(warehouse_url, flow="discard-quarantine") as run,
        run.session("discard") as writer,
    ):
        discard(writer, run.run_id, waiting["shop"], "not wanted")
    shop.close()


def relaxing(shop: Pipeline, entity: str, rule: str) -> Source:
    relaxed = replace(shop.source.entities[entity], relaxed_rules={rule: GIFTS})
    return replace(shop.source, entities={**shop.source.entities, entity: relaxed})


def test_replay_of_a_member_completes_the_facts_that_name_it_and_that_of_an_order_counts_it_once(
    shop_url: str, warehouse_url: str, tmp_path: Path
) -> None:
    shop, feed = Pipeline(shop_url, warehouse_url), FeedPipeline(warehouse_url, tmp_path)
    shop.open_shop()
    shop.do("update product set name = ' '")
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-10", {"status": "lost"})
    shop.capture()
    feed.land("a.json", [an_order("2", {}, {})])
    feed.run()
    facts = (
        "select fact.source_system, fact.order_id, fact.line_id, company.name from dwh.fact_order_item as fact "
        "left join dwh.dim_company as company on fact.company_key = company.company_key and fact.company_key <> 0 "
        "where fact.source_system = 'shop' or fact.order_id = '2' order by 1, 2, 3"
    )
    assert [row[:3] for row in feed.rows(facts)] == [
        ("orders", "2", "1"),
        ("orders", "2", "2"),
        ("shop", "1", "1"),
    ]
    assert feed.rows(facts)[-1][3] is None
    for entity, rule in (("product", "name is blank"), ("order_item", "status is unknown")):
        ids = find_waiting(shop.warehouse, Selection(source="shop", rule=rule))["shop"]
        with start_run(warehouse_url, flow="replay-quarantine") as run:
            rejudge(run, relaxing(shop, entity, rule), ids)
        assert feed.rows(facts)[-1] == (
            ("shop", "1", "1", "Acme") if entity == "product" else ("shop", "2", "1", "Acme")
        )
    assert feed.rows(facts) == [("shop", "1", "1", "Acme"), ("shop", "2", "1", "Acme")]
    shop.close()
    feed.warehouse.close()


def test_lines_of_web_logs_that_were_discarded_stay_so_when_their_file_is_read_again(
    warehouse_url: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path / "lake", warehouse_url)
    lake.put("a.log", line(1) + b"test of a scanner\n" + line(2) + b"broken otherwise\n" + line(3))
    lake.load()
    (scanner,) = lake.rows("select quarantine_id from audit.quarantine where raw_text like 'test%'")[0]
    with start_run(warehouse_url, flow="discard-quarantine") as run, run.session("discard") as writer:
        assert discard(writer, run.run_id, [scanner], "a scanner of ours") == 1
    counts = "select line_count, rows_loaded, rows_quarantined, rows_discarded from"
    entries = (
        "select raw_text, note, line_number from audit.quarantine where resolution is {} order by line_number"
    )
    for _ in range(2):
        assert lake.rows(f"{counts} audit.file") == lake.rows(f"{counts} audit.file_part") == [(5, 3, 1, 1)]
        assert lake.rows(entries.format("null")) == [("broken otherwise", None, 4)]
        assert lake.rows("select raw_text, note from audit.quarantine where resolution = 'discarded'") == [
            ("test of a scanner", "a scanner of ours")
        ]
        assert lake.sizes() == [1, 2, 3]
        with start_run(warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_weblog_files(run, repair=False)
        assert [str(verdict) for verdict in verdicts if verdict.verdict == "different"] == []
        # What a replay of its lines does.
        lake.load(restart=["a.log"])
    # A line that is another one now waits.
    lake.put("a.log", line(1) + b"test of another\n" + line(2) + b"broken otherwise\n" + line(3))
    lake.load(restart=["a.log"])
    assert lake.rows(entries.format("null"))[0] == ("test of another", None, 2)


def test_replay_of_web_logs_that_passes_nothing_loads_nothing_and_blocks_no_undo(
    warehouse_url: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path / "lake", warehouse_url)
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake" / "lake"),
                   "DWH_HOME": str(tmp_path / "lake" / "home"), "DWH_ARCHIVE": "false"}  # fmt: skip

    def replay(*words: str) -> tuple[int, int]:
        done = command.run("quarantine", "replay", *words, "--json", environment=environment)
        assert done.returncode == 0, done.stderr
        ((judged, passed),) = [(one["judged"], one["passed"]) for one in json.loads(done.stdout)]
        warnings.append([row.split(" ", 1)[1] for row in done.stderr.splitlines() if "any more" in row])
        return judged, passed

    warnings: list[list[str]] = []
    lake.put("a.log", line(1) + b"broken\n" + line(2))
    lake.put("shop.log", line(3) + b"".join(b"shop.example:443 " + line(n) for n in (4, 5)) + b"cut off")
    lake.put("gone.log", line(6) + b"broken, too\n").unlink()
    lake.put("gone.log", line(6) + b"broken, too\n")
    lake.load()
    (lake.landing / "gone.log").unlink()
    (first,) = lake.rows("select max(run_id) from audit.run")[0]
    entries = (
        "select file_id, line_number, run_id from audit.quarantine where resolved_at is null order by 1, 2"
    )
    before = lake.files(), lake.rows(entries), lake.rows("select distinct run_id from dwh.fact_weblog")
    assert len(before[1]) == 5
    for words in ((), ("--dry-run",), ("--run", str(first))):
        assert replay(*words) == (5, 0)
    assert before == (
        lake.files(),
        lake.rows(entries),
        lake.rows("select distinct run_id from dwh.fact_weblog"),
    )
    # Once the format is declared, its lines pass; a dry run says how many, and the other file is left alone.
    (tmp_path / "lake" / "lake" / "weblogs.toml").write_text(
        '[[formats]]\nfiles = "shop.log"\npreset = "vhost_combined"\n'
    )
    assert replay("--dry-run") == replay() == (5, 2)
    assert warnings == [[], [], []] + 2 * [[
        "shop.log: 1 loaded line cannot be read any more as its format is declared now; a replay puts such lines into "
        "quarantine"
    ]]  # fmt: skip
    assert lake.sizes() == [1, 2, 6, 4, 5]
    assert lake.rows(entries)[0] == before[1][0] and len(lake.rows(entries)) == 4
    lake.assert_consistent()
    (tmp_path / "lake" / "lake" / "weblogs.toml").unlink()


def test_load_of_web_logs_is_undone_after_a_replay_that_passed_nothing(
    warehouse_url: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path / "lake", warehouse_url)
    lake.put("a.log", line(1) + b"broken\n" + line(2))
    lake.load()
    (first,) = lake.rows("select max(run_id) from audit.run")[0]
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake" / "lake"),
                   "DWH_HOME": str(tmp_path / "lake" / "home"), "DWH_ARCHIVE": "false"}  # fmt: skip
    for words in (("quarantine", "replay"), ("undo", str(first))):
        done = command.run(*words, environment=environment)
        assert done.returncode == 0, done.stderr
    assert (lake.sizes(), lake.rows("select from audit.quarantine where resolved_at is null")) == ([], [])
    lake.load()
    assert lake.sizes() == [1, 2]
    lake.assert_consistent()


def test_file_whose_load_is_undone_after_a_line_was_discarded_is_loaded_again(
    warehouse_url: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path / "lake", warehouse_url)
    lake.put("a.log", line(1) + b"broken" + b"\n" + line(2))
    lake.load()
    (run_id,) = lake.rows("select max(run_id) from audit.run")[0]
    (entry,) = lake.rows("select quarantine_id from audit.quarantine")[0]
    with start_run(warehouse_url, flow="discard-quarantine") as run, run.session("discard") as writer:
        assert discard(writer, run.run_id, [entry], "not wanted") == 1
    with start_run(warehouse_url, flow="undo") as run:
        undo(run, run_id)
    assert lake.sizes() == lake.rows("select * from audit.file_part") == []
    assert lake.files() == [("a.log", "partial", 0, 0, 0)]
    lake.load()
    assert lake.sizes() == [1, 2]
    assert lake.files() == [("a.log", "loaded", 3, 2, 1)]
    lake.assert_consistent()


def test_counts_of_files_hold_after_replay_discard_and_undo_of_each(
    warehouse_url: str, tmp_path: Path
) -> None:
    orders = FeedPipeline(warehouse_url, tmp_path / "lake")
    bad = [an_order(f"P-{n}", customer_name=None) for n in (1, 2, 3)]
    orders.land("a.json", [*bad, an_order("P-4"), an_order("P-4", {"amount": 3})])
    orders.run()
    ids = [number for (number,) in orders.rows("select quarantine_id from audit.quarantine order by 1")]
    states = [orders.counts()]
    assert states[0] == [("a.json", "loaded", 5, 1, 3, 0, 1)]
    orders.edit(ids[0], an_order("P-1"))
    assert orders.rows(
        "select edited_text is not null, edited_by is not null, edited_at is not null, "
        "row_data ->> 'customer_name' from audit.quarantine order by quarantine_id"
    ) == [(True, True, True, None), (False, False, False, None), (False, False, False, None)]
    _, replayed = orders.replay(ids[0])
    states.append(orders.counts())
    assert states[1] == [("a.json", "loaded", 5, 2, 2, 0, 1)]
    orders.discard(ids[1])
    states.append(orders.counts())
    assert states[2] == [("a.json", "loaded", 5, 2, 1, 1, 1)]

    def check() -> None:
        with start_run(warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_feed(run, orders.source, repair=False)
        assert [str(one) for one in verdicts if one.verdict == "different"] == []

    check()
    # In their order: the discard came after the replay, and keeps its count otherwise.
    with start_run(warehouse_url, flow="undo") as run, pytest.raises(UndoBlocked, match="discard-quarantine"):
        undo(run, replayed)
    assert orders.counts() == states[2]
    (discarded,) = orders.rows("select max(run_id) from audit.run where flow = 'discard-quarantine'")[0]
    for run_id, state in ((discarded, states[1]), (replayed, states[0])):
        with start_run(warehouse_url, flow="undo") as run:
            undo(run, run_id)
        assert orders.counts() == state
        check()
    assert orders.facts() == [("P-4", "1", 3, 300)]
    # What was taken back can be done again.
    orders.replay(ids[0])
    assert orders.counts() == states[1]
    orders.warehouse.close()


def test_record_is_corrected_replayed_and_discarded_once_by_commands(
    warehouse_url: str, tmp_path: Path
) -> None:
    feed = FeedPipeline(warehouse_url, tmp_path / "lake")
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake"),
                   "DWH_HOME": str(tmp_path / "home"), "DWH_ARCHIVE": "false"}  # fmt: skip

    def dwh(*words: str, code: int = 0) -> str:
        done = command.run(*words, environment=environment)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    feed.land("a.json", [an_order("P-1"), an_order("P-2", status=None), "broken"])
    dwh("run", "orders")
    order, broken = (
        row["quarantine_id"]
        for row in sorted(json.loads(dwh("quarantine", "list", "--json")), key=itemgetter("place"))
    )
    corrected = tmp_path / "order.json"
    # As some editors save it.
    corrected.write_text("\ufeff" + json.dumps(an_order("P-2", {"amount": 7})))
    replay = ("quarantine", "replay", str(order), "--edited", str(corrected), "--json")
    (found,) = json.loads(dwh(*replay, "--dry-run"))
    assert (found["judged"], found["passed"]) == (1, 1)
    entry = json.loads(dwh("quarantine", "show", str(order), "--json"))
    assert (entry["edited_text"], entry["resolution"]) == (None, None), "a dry run corrects nothing"
    corrected.write_text('{"order_id": "P-2"')
    assert "The corrected record cannot be read: record is not JSON." in dwh(*replay, code=2)
    corrected.write_text(json.dumps(an_order("P-2", {"amount": 7})))
    assert "file 'none.json' does not exist" in dwh(*replay[:4], "none.json", code=2)
    assert "Only one entry can be corrected" in dwh("quarantine", "replay", *replay[3:], "--dry-run", code=2)
    (found,) = json.loads(dwh(*replay))
    assert (found["judged"], found["passed"]) == (1, 1)
    assert "No entry of the quarantine is selected" in dwh(*replay, code=2)
    discard_it = ("quarantine", "discard", str(broken), "--reason", "a test")
    assert dwh(*discard_it).strip() == "Discarded: 1."
    assert "No entry of the quarantine is selected" in dwh(*discard_it, code=2)
    assert feed.facts() == [("P-1", "1", 2, 200), ("P-2", "1", 7, 700)]
    assert feed.counts() == [("a.json", "loaded", 3, 2, 0, 1, 0)]
    feed.warehouse.close()


def test_record_is_not_corrected_while_another_replay_loads_it_as_it_came(
    warehouse_url: str, tmp_path: Path
) -> None:
    """The entry would name a correction that was never loaded, and a rebuild load it."""
    feed = FeedPipeline(warehouse_url, tmp_path / "lake")
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake"),
                   "DWH_HOME": str(tmp_path / "home"), "DWH_ARCHIVE": "false"}  # fmt: skip
    feed.land("a.json", [an_order("P-1"), an_order("P-2", status=None)])
    feed.run()
    ((order,),) = feed.rows("select quarantine_id from audit.quarantine")
    # It passes by now.
    feed.warehouse.execute('update audit.quarantine set row_data = row_data || \'{"status": "complete"}\'')
    corrected = tmp_path / "order.json"
    corrected.write_text(json.dumps(an_order("P-2", {"amount": 7})))
    with ThreadPoolExecutor() as pool, connect(warehouse_url) as reader:
        transaction_lock(reader, STAR_LOCK, print)
        replayed = pool.submit(command.run, "quarantine", "replay", "--json", environment=environment)
        give_up_at = time.monotonic() + 120
        while not feed.rows(LOCK_AWAITED):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
        edit = ("quarantine", "replay", str(order), "--edited", str(corrected))
        done = command.run(*edit, environment=environment)
        assert (done.returncode, "is being loaded by dwh replay-quarantine" in done.stderr) == (1, True)
        reader.rollback()
        assert json.loads(replayed.result().stdout)[0]["passed"] == 1
    entry = "select resolution, edited_text, edited_by, edited_at from audit.quarantine"
    assert feed.rows(entry) == [("replayed", None, None, None)]
    assert feed.facts() == [("P-1", "1", 2, 200), ("P-2", "1", 2, 200)]
    with pytest.raises(WrongParameters, match="waits no more"):
        edit_record(feed.warehouse, {"orders": [order]}, corrected.read_bytes())
    feed.warehouse.close()


def test_a_feed_whose_declaration_is_gone_is_named_and_keeps_nothing_else_from_being_replayed_or_rebuilt(
    warehouse_url: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake"),
                   "DWH_HOME": str(tmp_path / "home"), "DWH_SOURCES": str(tmp_path / "sources")}  # fmt: skip
    fair = shutil.copytree(PACKAGED / "leads", tmp_path / "sources" / "fair")
    for file in (fair / "source.toml", *fair.glob("conform/*.sql")):
        file.write_text(
            file.read_text().replace("landing/leads", "landing/fair").replace("leads_lead", "fair_lead")
        )
    contract = PACKAGED.parent.parent / "checks" / "leads_lead.yml"
    (fair / "fair_lead.yml").write_text(contract.read_text().replace("leads_lead", "fair_lead"))
    header = "lead_id,name,email,country,source,created\n"
    for feed in ("leads", "fair"):
        landing = tmp_path / "lake" / "landing" / feed
        landing.mkdir(parents=True)
        (landing / "a.csv").write_text(
            f"{header}L1,Ana,ana@example.org,AR,web,2024-03-01\nL2,Eva,eva@example.org,AR,,2024-03-01\n"
        )
        assert command.run("run", feed, environment=environment).returncode == 0
    fair.rename(tmp_path / "fair")
    done = command.run("quarantine", "replay", "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    assert [(one["source"], one["judged"]) for one in json.loads(done.stdout)] == [("leads", 1)]
    assert "fair: 1 entries wait on, since no such source is declared any more" in done.stderr
    with psycopg.connect(warehouse_url, autocommit=True) as connection:
        rows = connection.execute("select * from dwh.fact_lead order by source_system").fetchall()
        connection.execute("delete from dwh.fact_lead")
        done = command.run("rebuild", "fact_lead", environment=environment)
        assert done.returncode == 0, done.stderr
        assert "dwh.fact_lead: the rows of 'fair' are not computed again" in done.stderr
        assert connection.execute("select source_system from dwh.fact_lead").fetchall() == [("leads",)]
        (tmp_path / "fair").rename(fair)
        done = command.run("rebuild", "fact_lead", environment=environment)
        assert "not computed again" not in done.stderr
        assert len(connection.execute("select from dwh.fact_lead").fetchall()) == len(rows) == 2
