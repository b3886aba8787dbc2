"""`dwh quarantine`, what mails say about it, and commands that messages name, run on a warehouse with data."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests import command
from tests.integration.test_feeds import FeedPipeline
from tests.pipeline import Pipeline
from tests.unit.test_commands import named_commands, words_of
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.audit import Load, record_load, start_run
from warehouse.runs.quarantine import Selection, read_entry, read_groups, read_waiting

# Runs each command in one process, and prints how each ended.
RUN_ALL = """
import json, sys
from cli.main import main
codes = {}
for words in json.loads(sys.argv[1]):
    try:
        main(words)
        codes[" ".join(words)] = 0
    except SystemExit as end:
        codes[" ".join(words)] = end.code or 0
sys.stderr.write("\\n" + json.dumps(codes))
"""
# They read, or load what is new: safe on any warehouse.
SAFE = (
    ["status"],
    ["quarantine", "list"],
    ["migrate"],
    ["reconcile"],
    ["report"],
    ["run", "marts"],
    ["run", "shop"],
)


def run_all(shop: Pipeline, home: Path, commands: list[list[str]]) -> tuple[dict[str, int], str]:
    """Exit code of each command, and all that they printed to stdout."""
    environment = {
        **os.environ,
        "DWH_WAREHOUSE_URL": shop.warehouse_url,
        "DWH_SHOP_URL": shop.shop_url,
        "DWH_HOME": str(home),
        "DWH_LAKE": str(home / "lake"),
    }
    done = command.run(json.dumps(commands), environment=environment, program=RUN_ALL, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


def test_commands_that_messages_name_and_that_harm_nothing_run(busy_shop: Pipeline, tmp_path: Path) -> None:
    busy_shop.capture()
    named = [words_of(command)[1:] for _, command in named_commands() if command.startswith("dwh ")]
    commands = [
        words
        for words in sorted(set(map(tuple, named)))
        if any(list(words[: len(safe)]) == safe for safe in SAFE)
        and not {"--to", "--new", "--repair", "--reconform", "--accept-source", "-o", "--help"} & set(words)
    ]
    assert len(commands) > 12
    codes, _ = run_all(busy_shop, tmp_path, [list(words) for words in commands])
    assert {command: code for command, code in codes.items() if code} == {}


def test_quarantine_is_listed_and_shown_by_id(busy_shop: Pipeline, tmp_path: Path) -> None:
    run = busy_shop.capture()
    (waiting,) = busy_shop.rows(
        "select quarantine_id, source, entity, array_to_string(row_key, ' '), rules, reason from audit.quarantine "
        "where resolved_at is null"
    )
    number = waiting[0]
    commands = [
        ["quarantine", "list", "--json"],
        ["quarantine", "list", "--run", str(run.run_id + 1)],
        ["quarantine", "show", str(number)],
        ["quarantine", "show", "999999"],
    ]
    codes, output = run_all(busy_shop, tmp_path, commands)
    assert list(codes.values()) == [0, 0, 0, 2]
    decoder = json.JSONDecoder()
    listed, end = decoder.raw_decode(output)
    assert [
        tuple(one[name] for name in ("quarantine_id", "source", "entity", "place", "rules", "reason"))
        for one in listed
    ] == [waiting]
    assert "In quarantine, by rule and run: nothing\n\nquarantine id" in output[end:]
    for part in (waiting[3], waiting[5], "row: "):
        assert part in output[end:]


def test_list_shows_the_beginning_of_one_record_of_each_rule(warehouse_url: str, tmp_path: Path) -> None:
    feed = FeedPipeline(warehouse_url, tmp_path / "lake", "companies")
    bad = ['301,"Caf\u00e9" Ltda,AR', "302,[red]\x1b[31mNi\0\u00f1o,AR", '303,"' + "x" * 300 + '" Ltda,AR']
    for number, row in enumerate(bad):
        feed.land(f"{number}.csv", f"cuit,name,country\n{row}\n")
        feed.run()
    feed.land("3.csv", "cuit,name,country\n304,,AR\n305,,\n")
    feed.run()
    feed.warehouse.close()
    environment = {
        **os.environ,
        "DWH_WAREHOUSE_URL": warehouse_url,
        "DWH_HOME": str(tmp_path),
    }
    done = command.run("quarantine", "list", environment=environment)
    assert done.returncode == 0, done.stderr
    examples = done.stdout.partition("Examples\n")[2].partition("In quarantine: 5\n")[0]
    listed = re.findall(r"^│\s*\d+ │ (.*?)\s*│$", examples, re.MULTILINE)
    assert listed == [
        '{"cuit": "305"}',
        bad[0],
        f"{bad[2][:160]}…",
        "302,[red]\\x1b[31mNi\\x00\u00f1o,AR",
    ]


def test_quarantine_is_narrowed_by_source_entity_rule_and_run(busy_shop: Pipeline) -> None:
    run_id = busy_shop.capture().run_id
    count, (entry,) = read_waiting(busy_shop.warehouse)
    assert count == 1
    for wanted in (
        {"source": "shop"},
        {"entity": entry["entity"]},
        {"rule": entry["rules"][0]},
        {"run_id": run_id},
    ):
        assert read_waiting(busy_shop.warehouse, **wanted) == (1, [entry])
    others: list[dict[str, Any]] = [{"source": "x"}, {"entity": "x"}, {"rule": "x"}, {"run_id": 0}]
    for wanted in others:
        assert read_waiting(busy_shop.warehouse, **wanted) == (0, [])
    assert read_entry(busy_shop.warehouse, entry["quarantine_id"])["row_data"]


def test_quarantine_is_grouped_by_rule_and_run_with_its_newest_entry_as_example(busy_shop: Pipeline) -> None:
    run_id = busy_shop.capture().run_id
    _, (entry,) = read_waiting(busy_shop.warehouse)
    first, entity, rule = entry["quarantine_id"], entry["entity"], entry["rules"][0]
    # A second row breaks another rule, too; a third has been corrected.
    busy_shop.warehouse.execute(
        """
        insert into audit.quarantine overriding system value
        select (jsonb_populate_record(entry, change)).* from audit.quarantine as entry, unnest(%s::jsonb[]) as change
        """,
        [
            [
                Jsonb({"quarantine_id": first + 1, "row_key": ["a"], "rules": [rule, "zz"]}),
                Jsonb(
                    {
                        "quarantine_id": first + 2,
                        "row_key": ["b"],
                        "resolved_at": "2024-01-01",
                        "resolution": "released",
                    }
                ),
            ]
        ],
    )
    since = entry["quarantined_at"]
    groups = read_groups(busy_shop.warehouse, Selection((), None, None, None, None))
    record = busy_shop.rows(
        "select row_data::text from audit.quarantine where quarantine_id = %s", first + 1
    )[0][0]
    assert [tuple(group.values()) for group in groups] == [
        ("shop", entity, rule, run_id, 2, first + 1, since, record),
        ("shop", entity, "zz", run_id, 1, first + 1, since, record),
    ]
    narrowed = read_groups(busy_shop.warehouse, Selection((), "shop", entity, "zz", run_id))
    assert {group["example"] for group in narrowed} == {first + 1}


@pytest.mark.parametrize(
    ("keys", "says", "absent"),
    [
        (["array['1', '1']"], "published by its next run", "stay there as a record"),
        (["null"], "stay there as a record", "published by its next run"),
    ],
)
def test_mail_about_quarantine_says_what_happens_to_its_kind_of_rows(
    shop: Pipeline, keys: list[str], says: str, absent: str
) -> None:
    with start_run(shop.warehouse_url, flow="ingest-shop", rules=Rules(quarantine_rows=0)) as run:
        record_load(run.connection, run.run_id, Load("shop", "raw.x", rows_read=1, rows_quarantined=1))
        for key in keys:
            run.connection.execute(
                "insert into audit.quarantine (run_id, source, entity, row_key, rules, reason) "
                f"values (%s, 'shop', 'order_item', {key}, array['rule'], 'reason')".encode(),
                [run.run_id],
            )
    ((body,),) = shop.rows("select body_text from audit.outbox where kind = 'quarantine'")
    assert f"`dwh quarantine list --run {run.run_id}`" in body
    assert says in " ".join(body.split())
    assert absent not in " ".join(body.split())
