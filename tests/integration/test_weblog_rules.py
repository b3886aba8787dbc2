"""Traffic rules that change: texts of web logs that were seen before mean what the new rules say, everywhere."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.traces import traces
from tests.weblog_lake import AGENT, ARGENTINA, BRAZIL, WeblogLake, make_lake
from warehouse import weblogs
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import DifferencesFound, LockHeld, ReconformLimitExceeded
from warehouse.model import weblog_definition
from warehouse.reconcile.reconcile import reconcile_weblog_files, stop_on_differences
from warehouse.runs import audit
from warehouse.runs.definitions import find_stale_lookups
from warehouse.undo.undo import undo
from warehouse.weblogs.files.checkpoints import FEED

Rules = Callable[[str, str], None]
ITEMS = ("path = '^/products?/(?P<product_id>[^/]+)/?$'", "path = '^/items/(?P<product_id>[^/]+)$'")
PARTNER = ('hosts = ["shop.example", "www.shop.example"]', 'hosts = ["shop.example", "partner.example"]')


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    lake = make_lake(tmp_path, warehouse_url)
    requests = [
        (ARGENTINA, "ana", "GET /products/7 HTTP/1.1", "https://partner.example/x"),
        (ARGENTINA, "-", "GET /items/8 HTTP/1.1", "https://www.google.com/"),
        (BRAZIL, "-", "GET /items/8 HTTP/1.1", "https://partner.example/y"),
        (BRAZIL, "bia", "GET /items/9?utm_source=May HTTP/1.1", "https://partner.example/y"),
        (BRAZIL, "-", "GET / HTTP/1.1", "-"),
    ]
    lake.put("access.log", b"".join(logged(n, *request) for n, request in enumerate(requests)))
    return lake


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rules:
    """Changes the traffic rules: old text, new text."""
    numbers = iter(range(100))

    def change(old: str, new: str) -> None:
        text = weblog_definition.RULES_FILE.read_text("utf-8-sig")
        assert old in text
        path = tmp_path / f"rules {next(numbers)}.toml"
        # With the byte order mark that editors on Windows write.
        path.write_text(text.replace(old, new), "utf-8-sig")
        monkeypatch.setattr(weblog_definition, "RULES_FILE", path)

    return change


def logged(number: int, address: str, user: str, request: str, referer: str) -> bytes:
    at = f"20/Nov/2026:10:00:{number:02} +0000"
    return f'{address} - {user} [{at}] "{request}" 200 {100 + number} "{referer}" "{AGENT}"\n'.encode()


MEANING = "select action, product_id, traffic_source, traffic_medium from mart.weblog order by line_number"
BEFORE = [
    ("view", "7", "partner.example", "referral"),
    ("other", None, "google", "search"),
    ("other", None, "partner.example", "referral"),
    ("other", None, "may", "campaign"),
    ("other", None, "direct", "direct"),
]
AFTER = [
    ("other", None, "internal", "internal"),
    ("view", "8", "google", "search"),
    ("view", "8", "internal", "internal"),
    ("view", "9", "may", "campaign"),
    ("other", None, "direct", "direct"),
]


def test_texts_that_were_loaded_mean_what_the_new_rules_say(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    assert lake.rows(MEANING) == BEFORE
    rules(*ITEMS)
    rules(*PARTNER)
    assert [(one.table_name, one.rows, one.reason) for one in stale(lake)] == [
        ("dwh.dim_request", 4, "traffic_rules.toml has changed"),
        ("dwh.dim_referer", 3, "traffic_rules.toml has changed"),
    ]
    written = lake.rows("select file_id, line_number, xmin from dwh.fact_weblog order by 2")
    loaded = lake.load()
    assert lake.rows(MEANING) == AFTER
    lake.assert_consistent()
    assert {load.table_name: (load.rows_read, load.rows_updated) for load in loaded.rederived} == {
        "dwh.dim_request": (4, 3),
        "dwh.dim_referer": (3, 2),
        "dwh.fact_weblog": (0, 2),
        "dwh.agg_weblog_country_product": (0, 3),
        "dwh.agg_weblog_day": (0, 2),
        "dwh.agg_weblog_quarter_hour": (0, 2),
    }
    # Of the fact only requests whose source is another one were written.
    now = lake.rows("select file_id, line_number, xmin from dwh.fact_weblog order by 2")
    assert [old == new for old, new in zip(written, now, strict=True)] == [False, True, False, True, True]
    assert (stale(lake), lake.load().rederived) == ([], ())


def test_result_is_that_of_a_warehouse_that_never_had_other_rules(
    lake: WeblogLake, rules: Rules, tmp_path: Path, database: Callable[[str], str], warehouse_template: str
) -> None:
    lake.load()
    rules(*ITEMS)
    rules(*PARTNER)
    more = logged(9, BRAZIL, "bia", "GET /items/10 HTTP/1.1", "https://partner.example/z")
    lake.append("access.log", more)
    lake.load()
    fresh = make_lake(tmp_path / "fresh", database(warehouse_template))
    fresh.put("access.log", (lake.landing / "access.log").read_bytes())
    fresh.load()
    assert lake.content()["weblog"] == fresh.content()["weblog"]
    lake.assert_consistent()


def test_comments_in_the_rules_and_where_files_are_change_nothing(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    rules("[aliases]", "# Hosts that\n\n[aliases]")
    rules('"*.tmp"', '"*.temp"')
    assert stale(lake) == []
    assert lake.load().rederived == ()


def test_more_texts_than_the_limit_are_not_described_again_unasked(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    rules(*ITEMS)
    lake.append("access.log", logged(9, BRAZIL, "-", "GET / HTTP/1.1", "-"))
    small = WeblogLake(lake.landing, lake.settings.model_copy(update={"reconform_rows": 3}))
    with pytest.raises(ReconformLimitExceeded, match="`dwh run weblogs --reconform`"):
        small.load()
    assert (lake.rows(MEANING), lake.rows("select count(*) from audit.load")) == (BEFORE, [(1,)])
    small.load(reconform=True)
    assert [action for action, *_ in lake.rows(MEANING)] == [
        "other",
        "view",
        "view",
        "view",
        "other",
        "other",
    ]


def test_killed_before_the_commit_the_next_load_does_it(
    lake: WeblogLake, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.load()
    rules(*ITEMS)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("warehouse.weblogs.maintenance.rederive.ensure_alive", die)
        lake.load()
    assert lake.rows(MEANING) == BEFORE
    assert len(stale(lake)) == 1
    lake.load()
    assert lake.rows("select count(*) from mart.weblog where action = 'view'") == [(3,)]


def test_loads_at_work_are_waited_for(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    rules(*ITEMS)
    with connect(lake.settings.warehouse, autocommit=True) as other:
        with session_lock(other, FEED, shared=True), pytest.raises(LockHeld):
            lake.load(wait_seconds=0.1)
        assert lake.rows(MEANING) == BEFORE
    lake.load(wait_seconds=0.1)
    assert lake.rows(MEANING) != BEFORE


def test_undo_brings_back_what_texts_meant(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    definitions = "select table_name, part, hash from audit.definition order by 1, 2"
    known = lake.rows(definitions)
    rules(*ITEMS)
    rules(*PARTNER)
    lake.append("access.log", logged(9, BRAZIL, "bia", "GET /items/10 HTTP/1.1", "https://partner.example/z"))
    lake.load()
    assert lake.rows(definitions) != known
    with audit.start_run(lake.settings.warehouse, flow="undo") as run:
        undo(run, 2)
    assert (lake.rows(MEANING), lake.rows(definitions)) == (BEFORE, known)
    lake.assert_consistent()
    lake.load()
    assert lake.rows(MEANING) == [*AFTER, ("view", "10", "internal", "internal")]
    lake.assert_consistent()


def test_dry_run_shows_it_and_leaves_no_trace(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    rules(*ITEMS)
    before = traces(lake.settings.warehouse)
    with audit.start_run(lake.settings.warehouse, flow="ingest-weblogs", dry_run=True) as run:
        result = weblogs.dry_run_load(lake.settings, run)
    assert traces(lake.settings.warehouse) == before
    assert [(load.table_name, load.rows_updated) for load in result.loads if load.reconform_reason] == [
        ("dwh.dim_request", 3)
    ]
    assert "action: other → view; product_id: - → 8" in [one.changes for one in result.examples]


def test_reconcile_finds_texts_with_another_meaning_and_repairs_what_depends_on_them(
    lake: WeblogLake, rules: Rules
) -> None:
    lake.load()
    rules(*ITEMS)
    rules(*PARTNER)

    def reconcile(repair: bool) -> dict[str, int]:
        with audit.start_run(lake.settings.warehouse, flow="reconcile") as run:
            verdicts = reconcile_weblog_files(run, repair=repair)
        if not repair:
            with pytest.raises(DifferencesFound):
                stop_on_differences(verdicts)
        return {one.table_name: one.rows_differing for one in verdicts if one.rows_differing}

    found = {
        "dwh.dim_request": 3,
        "dwh.dim_referer": 2,
        "dwh.fact_weblog": 2,
        "dwh.agg_weblog_country_product": 4,
        "dwh.agg_weblog_day": 2,
        "dwh.agg_weblog_quarter_hour": 2,
    }
    assert reconcile(repair=False) == found
    assert lake.rows(MEANING) == BEFORE
    assert reconcile(repair=True) == found
    assert lake.rows(MEANING) == AFTER
    lake.assert_consistent()
    assert (stale(lake), lake.load().rederived) == ([], ())


def test_restarted_files_mean_what_the_new_rules_say(lake: WeblogLake, rules: Rules) -> None:
    lake.load()
    rules(*ITEMS)
    rules(*PARTNER)
    lake.load(restart={"access.log"})
    assert lake.rows(MEANING) == AFTER
    lake.assert_consistent()


def test_another_ua_parser_names_devices_of_user_agents_that_were_seen(
    lake: WeblogLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.load()
    monkeypatch.setattr(weblog_definition, "version", lambda _: "another")
    monkeypatch.setattr("warehouse.weblogs.storage.lookups.device_family", lambda _: "Fold")
    lake.load()
    assert lake.rows("select distinct device from mart.weblog") == [("Fold",)]
    lake.assert_consistent()


def stale(lake: WeblogLake) -> list[object]:
    with connect(lake.settings.warehouse) as connection:
        return list(find_stale_lookups(connection))
