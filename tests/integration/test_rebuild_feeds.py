"""What comes from files is rebuilt from them: mirrors of feeds, and the star's rows that are made of them."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.archive import load
from tests.integration.test_feed_changes import declared
from tests.integration.test_feeds import FeedPipeline, an_order
from tests.integration.test_leads import LEADS
from tests.integration.test_rebuild import described, settings_of
from tests.pipeline import Pipeline, Row, content
from warehouse.archive.place import Archive
from warehouse.migrations.revisions import upgrade
from warehouse.rebuild.as_of import rebuild_as_of
from warehouse.rebuild.damage import find_damaged
from warehouse.rebuild.rebuild import loaded_sources, rebuild, rebuild_damaged
from warehouse.rebuild.take_over import take_over
from warehouse.reconcile.reconcile import reconcile_feed
from warehouse.runs.audit import start_run

COUNTS = (
    "select file_id, path, status, line_count, rows_loaded, rows_quarantined, rows_discarded, rows_superseded "
    "from audit.file order by 1"
)
ENTRIES = (
    "select source, entity, row_key, rules, file_id, line_number, resolution, edited_text, note "
    "from audit.quarantine order by quarantine_id"
)
# Which fields of feeds have come, and by which SQL and contracts the star was made.
KNOWN = (
    "select source, to_jsonb(field) from audit.feed_field as field order by to_jsonb(field)::text",
    "select source, to_jsonb(definition) from audit.definition order by to_jsonb(definition)::text",
)
ROWS = {
    "records": "select * from raw.orders_order order by order_id",
    "items": "select * from raw.orders_order_item order by order_id, line_number",
    "files": COUNTS,
    "entries": ENTRIES,
}


@dataclass
class Lake:
    """A shop, a feed of orders and one of leads, that load into one warehouse and its archive."""

    shop: Pipeline
    orders: FeedPipeline
    leads: FeedPipeline
    archive: Archive

    def rebuild(self, *tables: str) -> list[str]:
        """Rebuild once; what it says, then the differences that it found."""
        messages: list[str] = []
        with start_run(self.orders.warehouse_url, flow="rebuild", archive=True) as run:
            sources = loaded_sources(run.connection, None)
            verdicts = rebuild(run, self.archive, sources, tables or None, progress=messages.append)
        self.messages = messages
        return [str(one) for verdict in verdicts for one in verdict.differences]

    def state(self) -> dict[str, object]:
        """Everything that a rebuild gives back: content, runs of the feed's rows, accounts and quarantine."""
        rows = {name: self.orders.rows(query) for name, query in ROWS.items()}
        return {**content(self.orders.warehouse), **rows}

    def assert_is(self, before: dict[str, object], after: object = "") -> None:
        """Nothing but what it was before."""
        now = self.state()
        assert [name for name in {**before, **now} if before.get(name) != now.get(name)] == [], after

    def close(self) -> None:
        self.shop.close()
        self.orders.warehouse.close()
        self.leads.warehouse.close()


def open_lake(shop_url: str, warehouse_url: str, lake: Path) -> Lake:
    return Lake(
        Pipeline(shop_url, warehouse_url),
        FeedPipeline(warehouse_url, lake, archives=True),
        FeedPipeline(warehouse_url, lake, "leads", archives=True),
        Archive(lake / "archive"),
    )


@pytest.fixture
def lake(shop_url: str, warehouse_url: str, tmp_path: Path) -> Iterator[Lake]:
    lake = open_lake(shop_url, warehouse_url, tmp_path / "lake")
    yield lake
    lake.close()


PAST = ("raw.orders_order", "raw.orders_order_item", "raw.leads_lead", "dwh.dim_lead", "dwh.dim_customer")
PAST_ROWS = "select to_jsonb(one) from {} as one order by to_jsonb(one)::text"


@dataclass(frozen=True)
class History:
    """What `live_through` has left, to be copied, and what tables were after some of its runs."""

    shop_url: str
    warehouse: str
    lake: Path
    states: Mapping[int, Mapping[str, list[Row]]]


@pytest.fixture(scope="module")
def history(
    module_database: Callable[[str], str],
    shop_template: str,
    warehouse_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> History:
    """Live through it once: no test changes the shop afterwards."""
    shop_url, warehouse_url = module_database(shop_template), module_database(warehouse_template)
    lake = open_lake(shop_url, warehouse_url, tmp_path_factory.mktemp("history") / "lake")
    states: dict[int, dict[str, list[Row]]] = {}

    def note(run_id: int) -> None:
        states[run_id] = {
            name: lake.orders.rows(PAST_ROWS.format(name))
            for name in PAST
            if lake.orders.rows(f"select to_regclass('{name}') is not null") == [(True,)]
        }

    live_through(lake, note)
    ((name,),) = lake.orders.rows("select current_database()")
    lake.close()
    return History(shop_url, name, lake.orders.lake, states)


@pytest.fixture
def eventful(history: History, database: Callable[[str], str], tmp_path: Path) -> Iterator[Lake]:
    """A lake and a warehouse that have lived through everything: copies."""
    lake = open_lake(
        history.shop_url, database(history.warehouse), shutil.copytree(history.lake, tmp_path / "lake")
    )
    # Files that land next are younger than those that lie there.
    lake.orders.written = lake.leads.written = len([*history.lake.rglob("landing/*/*")])
    yield lake
    lake.close()


def live_through(lake: Lake, note: Callable[[int], None]) -> None:
    """Versions, refused, replayed, edited and discarded records, inferred and completed members, undone runs.

    `note` gets the ids of some runs, when they have ended.
    """
    shop, orders = lake.shop, lake.orders
    shop.without_foreign_keys()
    shop.open_shop()
    shop.order(1, "2024-03-10", {}, {})
    load(shop, lake.archive)
    late = {"customer_document_number": "30111333"}
    orders.land(
        "a.json",
        [
            an_order("P-1", {}, {}, {}),
            an_order("P-2", customer_name=None),
            an_order("P-3", customer_name=None),
            an_order("P-4", extra={"gift": True}),
            # Of a customer whom the shop does not have yet; one that the shop has, too; two versions.
            an_order("P-5", **late),
            an_order("1"),
            an_order("P-6"),
            an_order("P-6", {"amount": 3}),
        ],
    )
    lake.leads.land("leads.csv", LEADS)
    note(orders.run())
    lake.leads.run()
    # Its list becomes shorter; a later version is refused for an item, whether the earlier one is of this run or not.
    orders.land(
        "b.json",
        [
            an_order("P-1", {"amount": 5}),
            an_order("P-4", {"product_id": None}),
            an_order("P-7"),
            an_order("P-7", {"product_id": None}),
            an_order("P-8", {}, {}),
        ],
    )
    note(orders.run())
    ids = [number for (number,) in orders.rows("select quarantine_id from audit.quarantine order by 1")]
    orders.edit(ids[0], an_order("P-2", {}, {"amount": 7}, customer_name="Edited"))
    note(orders.replay(ids[0])[1])
    orders.discard(ids[1])
    # A file that goes on, and a run that is undone, of which another one reads the file again.
    with (lake.orders.lake / "landing/orders/b.json").open("a") as file:
        file.write(json.dumps(an_order("P-8", {"amount": 9})) + "\n" + json.dumps(an_order("P-9")) + "\n")
    orders.run()
    orders.land("c.json", [an_order("P-9", {"amount": 4}, {}), an_order("P-10")])
    undone = orders.run()
    note(undone)
    orders.undo(undone)
    shop.insert("customer", id=7, name="Late", document_number="30111333", username="late")
    shop.do("delete from customer where id = 1")
    load(shop, lake.archive)
    shop.insert("customer", id=1)
    note(load(shop, lake.archive))
    orders.run()
    lake.leads.run()


DAMAGES = {
    "mirror of records dropped": ("drop table raw.orders_order cascade",),
    "records changed by hand": (
        "update raw.orders_order set status = 'lost', _rescued_data = null",
        "delete from raw.orders_order_item where line_number = 1",
        "delete from dwh.fact_order_item where source_system = 'orders'",
    ),
    "mirror of items emptied, leads dropped": (
        "truncate raw.orders_order_item",
        "drop table dwh.dim_lead, dwh.fact_lead, raw.leads_lead cascade",
    ),
    "star dropped": ("drop schema dwh cascade",),
    "everything dropped": ("drop schema dwh, raw, mart cascade",),
}
# Of every kind one, at the same time.
TOGETHER = (
    "drop table dwh.dim_lead, dwh.fact_lead, raw.leads_lead cascade",
    *DAMAGES["records changed by hand"],
)


@pytest.mark.parametrize(
    "damages",
    [
        # All at once: test_lost_database_is_rebuilt_with_its_feeds_and_loads_go_on.
        pytest.param({"together": TOGETHER}, id="together"),
        pytest.param(DAMAGES, marks=pytest.mark.slow, id="one by one"),
    ],
)
def test_what_feeds_have_loaded_is_rebuilt_as_it_was(
    eventful: Lake, damages: Mapping[str, tuple[str, ...]]
) -> None:
    lake = eventful
    before = lake.state()
    assert lake.rebuild() == []
    lake.assert_is(before)
    upgrade(lake.orders.warehouse_url)
    catalog = described(lake.shop)
    for name, statements in damages.items():
        for statement in statements:
            lake.orders.warehouse.execute(statement.encode())
        assert lake.rebuild(), name
        lake.assert_is(before, name)
        assert described(lake.shop) == catalog, name
    # Loads go on where they were.
    lake.orders.run()
    lake.leads.run()
    load(lake.shop, lake.archive)
    lake.assert_is(before)
    lake.orders.land("d.json", [an_order("P-1", {}, {}), an_order("P-11")])
    lake.orders.run()
    for source in (lake.orders.source, lake.leads.source):
        with start_run(lake.orders.warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_feed(run, source, repair=False)
        assert [str(one) for verdict in verdicts for one in verdict.differences] == []


def test_past_states_have_the_mirrors_of_feeds_as_runs_left_them(eventful: Lake, history: History) -> None:
    lake, states = eventful, history.states
    before = lake.state()
    # Files have been renamed since, and one of them is gone.
    folder = lake.orders.lake / "landing/orders"
    (folder / "a.json").rename(folder / "renamed.json")
    lake.orders.run()
    feeds = [lake.orders.source, lake.leads.source]
    assert len(states) == 5
    for run_id, state in states.items():
        messages: list[str] = []
        with start_run(lake.orders.warehouse_url, flow="rebuild", archive=True) as run:
            rebuild_as_of(run, lake.archive, feeds, run_id, progress=messages.append)
        built = {
            name: lake.orders.rows(PAST_ROWS.format(f"rebuild_{run_id}.{name.partition('.')[2]}"))
            for name in state
        }
        assert [name for name in state if built[name] != state[name]] == [], run_id
        assert not [line for line in messages if "cannot be given back" in line]
    (folder / "renamed.json").unlink()
    last = [*states][-1]
    with start_run(lake.orders.warehouse_url, flow="rebuild", archive=True) as run:
        found = rebuild_as_of(run, lake.archive, feeds, last, ["raw.orders_order"], progress=messages.append)
    # Records of other files, and one that was replayed from quarantine.
    assert found == {f"rebuild_{last}.orders_order": 4}
    assert [line for line in messages if "cannot be given back" in line] == [
        "orders: 4 records of a.json cannot be given back: it does not lie in the landing folder any more"
    ]
    now = lake.state()
    assert [name for name in before if name != "files" and now[name] != before[name]] == []


def test_past_state_of_a_feed_has_the_columns_that_it_had_then(lake: Lake, tmp_path: Path) -> None:
    lake.orders.source = declared(tmp_path / "declared", 'on_schema_change = "evolve"')
    state = (
        "select to_jsonb(held) from {0}.orders_order as held",
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = '{0}.orders_order'::regclass and attnum > 0 and not attisdropped order by 1",
    )
    lake.orders.land("a.json", [an_order("P-1")])
    first = lake.orders.run()
    before = [lake.orders.rows(query.format("raw")) for query in state]
    lake.orders.land("b.json", [an_order("P-1", colour="red", customer_birth_day="soon"), an_order("P-2")])
    lake.orders.run()
    assert ("customer_birth_day", "text") in lake.orders.rows(state[1].format("raw"))
    # No live table is needed.
    lake.orders.warehouse.execute("drop table raw.orders_order cascade")
    with start_run(lake.orders.warehouse_url, flow="rebuild", archive=True) as run:
        counts = rebuild_as_of(run, lake.archive, [lake.orders.source], first)
    assert [lake.orders.rows(query.format(f"rebuild_{first}")) for query in state] == before
    assert {name: count for name, count in counts.items() if "orders" in name} == {
        f"rebuild_{first}.orders_order": 1, f"rebuild_{first}.orders_order_item": 1
    }  # fmt: skip


def test_lost_database_is_rebuilt_with_its_feeds_and_loads_go_on(
    eventful: Lake, database: Callable[[str], str], warehouse_template: str
) -> None:
    lake = eventful
    # What changes no row of the star is archived, too: a correction that comes too late, a copy, an empty file.
    ((late,),) = lake.orders.rows(
        "select quarantine_id from audit.quarantine where resolved_at is null and row_key = '{P-7}'"
    )
    lake.orders.edit(late, an_order("P-8"))
    lake.orders.replay(late)
    lake.orders.land("copy.json", (lake.orders.lake / "landing/orders/a.json").read_bytes())
    lake.orders.land("empty.json", b"")
    lake.orders.run()
    before = lake.state()
    assert [row[6] for row in before["entries"] if row[7] and "P-8" in row[7]] == ["superseded"]
    assert [row[2:4] for row in before["files"][-2:]] == [("copy", 8), ("loaded", 0)]
    fields, definitions = map(lake.orders.rows, KNOWN)
    assert ("orders",) in {row[:1] for row in fields} and ("shop",) in {row[:1] for row in definitions}
    rebuilt = open_lake(lake.shop.shop_url, database(warehouse_template), lake.orders.lake)
    try:
        with start_run(lake.orders.warehouse_url, flow="rebuild", archive=True) as run:
            # What waits in the lost warehouse is lost with it: nothing does.
            rebuild(run, lake.archive, [], [])
        assert take_over(rebuilt.orders.warehouse_url, lake.archive)
        assert [*map(rebuilt.orders.rows, KNOWN)] == [fields, definitions]
        rebuilt.rebuild()
        rebuilt.assert_is(before)
        for one in (rebuilt.orders, rebuilt.leads):
            one.run()
        load(rebuilt.shop, rebuilt.archive)
        rebuilt.assert_is(before)
        rebuilt.orders.land("e.json", [an_order("P-1", {}, {})])
        rebuilt.orders.run()
        assert rebuilt.rebuild() == []
    finally:
        rebuilt.close()


@pytest.mark.parametrize("is_unarchived", [False, True])
def test_lost_database_is_rebuilt_after_runs_were_undone_that_replaced_a_file(
    lake: Lake, database: Callable[[str], str], warehouse_template: str, is_unarchived: bool
) -> None:
    # A run that has no file to read yet declares the precedence; the shop's order 7 counts.
    lake.shop.open_shop()
    lake.shop.order(7, "2024-03-10")
    load(lake.shop, lake.archive)
    lake.orders.run()
    runs = []
    for order in (an_order("P-1"), an_order("P-2")):
        lake.orders.land("a.json", [order, an_order("7")])
        runs.append(lake.orders.run())
    lake.orders.undo(runs[1])
    if is_unarchived:
        # As an archive has it in which an undo did not say that the later file has lost its name.
        lake.orders.warehouse.execute(
            "alter table audit.file disable trigger user; update audit.file set status = 'replaced' where file_id = 2;"
            "alter table audit.file enable trigger user"
        )
    lake.orders.undo(runs[0])
    lake.orders.run()
    before = lake.state()
    assert before["files"] == [
        (1, "a.json", "loaded", 2, 2, 0, 0, 0),
        (2, "a.json", "replaced", 0, 0, 0, 0, 0),
    ]
    assert lake.orders.rows("select source_system, order_id from dwh.fact_order_item order by 1") == [
        ("orders", "P-2"),
        ("shop", "7"),
    ]
    with start_run(lake.orders.warehouse_url, flow="rebuild", archive=True) as run:
        rebuild(run, lake.archive, [], [])
    rebuilt = open_lake(lake.shop.shop_url, database(warehouse_template), lake.orders.lake)
    try:
        assert take_over(rebuilt.orders.warehouse_url, lake.archive)
        rebuilt.rebuild()
        rebuilt.assert_is(before)
    finally:
        rebuilt.close()


def test_run_of_a_feed_that_finds_its_tables_dropped_rebuilds_them(eventful: Lake) -> None:
    lake = eventful
    before = lake.state()
    connection = lake.orders.warehouse
    connection.execute("drop table raw.orders_order, dwh.dim_lead cascade; truncate raw.orders_order_item")
    assert find_damaged(connection, lake.orders.source) == ["raw.orders_order", "raw.orders_order_item"]
    assert find_damaged(connection, lake.leads.source) == ["dwh.dim_lead"]
    for feed in (lake.orders, lake.leads):
        said: list[str] = []
        with start_run(feed.warehouse_url, flow=f"ingest-{feed.source.name}", archive=True) as run:
            rebuild_damaged(
                run, settings_of(lake.archive), find_damaged(connection, feed.source), said.append
            )
        assert not [line for line in said if "not rebuilt" in line]
    lake.assert_is(before)


def test_records_whose_file_is_gone_are_kept_where_they_are_and_named_as_lost_where_they_are_not(
    lake: Lake,
) -> None:
    lake.orders.land("a.json", [an_order("P-1"), an_order("P-2")])
    lake.orders.land("b.json", [an_order("P-3")])
    lake.orders.run()
    lake.orders.land("a.json", [an_order("P-1", {"amount": 3})])
    lake.orders.run()
    # Under another name it is found; what its name had before is nowhere.
    folder = lake.orders.lake / "landing/orders"
    (folder / "b.json").rename(folder / "c.json")
    lake.orders.run()
    before = lake.state()
    assert lake.rebuild() == []
    lake.assert_is(before)
    assert [line for line in lake.messages if line.startswith("orders: ")] == [
        "orders: left as they are, not compared: 1 record of 1 file, as a.json: it has other content now"
    ]
    lake.orders.warehouse.execute("update raw.orders_order set status = 'x' where order_id = 'P-3'")
    assert len(lake.rebuild("raw.orders_order")) == 1
    lake.assert_is(before)
    # The rows of its list are all there; then they are not, either.
    for statement, tables in (
        ("delete from raw.orders_order where order_id = 'P-2'", ()),
        ("truncate raw.orders_order", ()),
        ("truncate raw.orders_order", ("raw.orders_order",)),
        ("truncate raw.orders_order_item", ("raw.orders_order_item",)),
    ):
        lake.orders.warehouse.execute(statement.encode())
        lake.rebuild(*tables)
        assert [line for line in lake.messages if "cannot be given back" in line] == [
            "orders: 1 record of a.json cannot be given back: it has other content now"
        ], (statement, tables)
        assert lake.orders.rows("select order_id from raw.orders_order order by 1") == [("P-1",), ("P-3",)]
        # The fact alone has what is left of it.
        assert lake.orders.facts() == [("P-1", "1", 3, 300), ("P-2", "1", 2, 200), ("P-3", "1", 2, 200)]
    kept = "dwh.fact_order_item: the rows of 'orders' stay as they are"
    lake.orders.warehouse.execute("truncate raw.orders_order")
    lake.rebuild()
    assert [line for line in lake.messages if line.startswith(kept)]
    lake.orders.warehouse.execute("truncate dwh.fact_order_item")
    lake.rebuild()
    assert [row[0] for row in lake.orders.facts()] == ["P-1", "P-3"]


def test_file_that_was_renamed_since_the_last_run_is_found_by_its_content(lake: Lake) -> None:
    lake.orders.land("a.json", [an_order("P-1"), an_order("P-2")])
    lake.orders.land("b.json", [an_order("P-3"), an_order("P-1", {"amount": 3})])
    lake.orders.run()
    before = lake.state()
    folder = lake.orders.lake / "landing/orders"
    (folder / "b.json").rename(folder / "renamed.json")
    lake.orders.land("same size.json", (folder / "renamed.json").read_text().replace("P-3", "P-4"))
    lake.orders.warehouse.execute("truncate raw.orders_order, raw.orders_order_item, dwh.fact_order_item")
    lake.rebuild()
    lake.assert_is(before)
    assert not [line for line in lake.messages if "cannot be given back" in line]


def test_earlier_version_that_comes_back_for_a_lost_one_is_named(lake: Lake) -> None:
    lake.orders.land("a.json", [an_order("P-1"), an_order("P-2")])
    lake.orders.run()
    lake.orders.land("b.json", [an_order("P-1", {"amount": 3})])
    lake.orders.run()
    before = lake.state()
    (lake.orders.lake / "landing/orders/b.json").unlink()
    assert lake.rebuild() == []
    lake.assert_is(before)
    assert [line for line in lake.messages if line.startswith("orders: ")] == [
        "orders: left as they are, not compared: 1 record of 1 file, as b.json: it does not lie in "
        "the landing folder any more"
    ]
    lake.orders.warehouse.execute("truncate raw.orders_order, raw.orders_order_item, dwh.fact_order_item")
    lake.rebuild()
    assert [line for line in lake.messages if line.startswith("orders: ")] == [
        "orders: 1 record of a.json is given back in an earlier version: its later one is lost",
        "orders: 1 record of b.json cannot be given back: it does not lie in the landing folder any more",
    ]
    assert lake.orders.facts() == [("P-1", "1", 2, 200), ("P-2", "1", 2, 200)]


def test_rows_that_left_a_list_are_no_difference_where_their_file_has_other_content_now(lake: Lake) -> None:
    lake.orders.land("a.json", [an_order("P-1", {}, {}, {}), an_order("P-2", {}, {})])
    lake.orders.run()
    lake.orders.land("a.json", [an_order("P-1"), an_order("P-2", {})])
    lake.orders.run()
    lake.orders.land("b.json", [an_order("P-1", {}, {"amount": 7})])
    lake.orders.run()
    # P-3 loses its rows by a version whose content is gone.
    lake.orders.land("c.json", [an_order("P-3", {}, {}, {})])
    lake.orders.run()
    lake.orders.land("d.json", [an_order("P-3")])
    lake.orders.run()
    lake.orders.land("d.json", [an_order("P-3", {"amount": 4})])
    lake.orders.run()
    before = lake.state()
    assert lake.rebuild() == []
    lake.assert_is(before)
    # Any other row is corrected, also one that only a file that is there has.
    lake.orders.warehouse.execute(
        "update raw.orders_order_item set _is_deleted = true where order_id = 'P-1'"
    )
    assert len(lake.rebuild("raw.orders_order_item")) == 2
    lake.assert_is(before)
