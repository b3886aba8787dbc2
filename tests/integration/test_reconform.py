"""What was loaded is made again when its declaration changes: whole, once, in place, and said."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.conftest import Declare
from tests.pipeline import CONFIRMED, Captured, Pipeline, content
from tests.traces import traces
from warehouse.errors import (
    DeclarationError,
    DeleteThresholdExceeded,
    DifferencesFound,
    ReconformLimitExceeded,
)
from warehouse.extract.stage import stage
from warehouse.load import publish as publishing
from warehouse.model import contracts
from warehouse.model.sql_text import hash_sql
from warehouse.reconcile.reconcile import reconcile_source, stop_on_differences
from warehouse.runs.audit import start_run
from warehouse.runs.definitions import check_reconform_limit, find_stale_targets, read_contracts
from warehouse.sources.source import Source
from warehouse.undo.undo import undo


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Changes the contract of an entity: old text, new text."""
    folder = tmp_path / "checks"
    shutil.copytree(Path(str(contracts.CHECKS)), folder)
    monkeypatch.setattr(contracts, "CHECKS", folder)

    def change(entity: str, old: str, new: str) -> None:
        path = folder / f"{entity}.yml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def without(source: Source, *entities: str) -> Source:
    """The source without some of its entities: they are declared later."""
    return replace(
        source, entities={name: one for name, one in source.entities.items() if name not in entities}
    )


def reasons(run: Captured) -> dict[str, str]:
    """By table, why a run conformed it again."""
    return {name: load.reconform_reason for name, load in run.loads.items() if load.reconform_reason}


def state(shop: Pipeline) -> object:
    """All mirrors and the star, and what they were made by."""
    definitions = shop.rows("select source, table_name, part, hash from audit.definition order by 1, 2, 3")
    return content(shop.warehouse), definitions


DOUBLED = ("conform/product.sql", "product.price as price_amount", "product.price * 2 as price_amount")


# --- what is declared later -------------------------------------------------------------------------------------


def test_entities_that_are_declared_later_are_loaded_whole(busy_shop: Pipeline) -> None:
    shop = busy_shop
    shop.capture(source=without(shop.source, "customer", "order_item", "inventory"))
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 7)")
    shop.capture(source=without(shop.source, "customer", "order_item", "inventory"))
    assert shop.rows("select count(*) from dwh.fact_order_item") == [(0,)]
    run = shop.capture()
    assert reasons(run) == dict.fromkeys(
        ("dwh.dim_customer", "dwh.fact_order_item", "dwh.fact_inventory_day"),
        "what it was made by is not known",
    )
    assert run.counts("dwh.dim_customer") == {"read": 5, "inserted": 5}
    assert run.counts("dwh.fact_order_item") == {"read": 8, "inserted": 7, "quarantined": 1}
    # As if all had been declared from the beginning.
    late = content(shop.warehouse)
    fresh = {name: rows for name, rows in late.items() if not name.endswith("_day")}
    shop.warehouse.execute("delete from audit.definition")
    shop.capture()
    assert {name: rows for name, rows in content(shop.warehouse).items() if name in fresh} == fresh
    assert shop.rows(
        "select product_id, distribution_center_id, quantity::text, is_carried_forward from dwh.fact_inventory_day"
    ) == [("1", "1", "7.000", False)]
    assert shop.capture().changes() == {}


def test_seller_of_lines_is_found_when_companies_are_declared_later(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.capture(source=without(shop.source, "company"))
    assert shop.facts("company.name") == [("1", "1", None)]
    run = shop.capture()
    assert reasons(run) == {
        "dwh.dim_company": "what it was made by is not known",
        "dwh.fact_order_item": "dimension company is new",
    }
    assert shop.facts("company.name") == [("1", "1", "Acme")]


def test_a_warehouse_that_knows_no_definitions_conforms_everything_once(busy_shop: Pipeline) -> None:
    shop = busy_shop
    shop.do("update customer set state = null")
    shop.capture()
    # A column that was empty in all versions is not taken for a new one.
    shop.do("update customer set state = 'Jujuy', updated_at = '2024-05-01' where id = 3")
    shop.capture()
    before = content(shop.warehouse)
    shop.warehouse.execute("delete from audit.definition")
    # Damage from before the upgrade.
    shop.warehouse.execute("update dwh.fact_order_item set net_amount = 0")
    run = shop.capture()
    assert set(reasons(run).values()) == {"what it was made by is not known"}
    assert content(shop.warehouse) == before
    assert reasons(shop.capture()) == {}


# --- conform SQL ------------------------------------------------------------------------------------------------


def test_changed_sql_corrects_facts_and_present_versions_in_place(shop: Pipeline, declare: Declare) -> None:
    shop.insert("product", id=2, name="Saw", price=10)
    shop.insert("product", id=3, name="Axe", price=30)
    shop.order(1, "2024-03-10", {"product_id": 1}, {"product_id": 2})
    shop.capture(source=declare())
    shop.do("update product set price = 50, updated_at = '2024-04-01' where id = 1")
    shop.capture(source=declare())
    # Changed at the source in the very run that finds other SQL.
    shop.do(
        "update product set price = 11, updated_at = '2024-05-01' where id = 2",
        "delete from product where id = 3",
    )
    progress: list[str] = []
    lines = (
        "conform/order_item.sql",
        "item.discount_amount::numeric, 4)",
        "item.discount_amount::numeric * 3, 4)",
    )
    run = shop.capture(source=declare(DOUBLED, lines), progress=progress.append)
    assert shop.versions("product", "price_amount::integer") == [
        ("1", 100, "ever", "2024-04-01"),
        ("1", 100, "2024-04-01", "now"),
        ("2", 20, "ever", "2024-05-01"),
        ("2", 22, "2024-05-01", "now"),
        ("3", 60, "ever", "run 3"),
    ]
    assert shop.facts("fact.discount_amount::integer", "product.price_amount::integer") == [
        ("1", "1", 30, 100),
        ("1", "2", 30, 20),
    ]
    assert reasons(run) == {
        "dwh.dim_product": "conform SQL has changed",
        "dwh.fact_order_item": "conform SQL has changed, dimension product has changed",
    }
    assert run.counts("dwh.dim_product") == {
        "read": 5, "inserted": 1, "updated": 3, "expired": 2
    }  # fmt: skip
    assert shop.rows(
        "select table_name, reconform_reason from audit.load "
        "where reconform_reason is not null and run_id = 3 order by 1"
    ) == sorted(reasons(run).items())
    assert shop.capture(source=declare(DOUBLED, lines)).changes() == {}


def test_progress_says_what_is_conformed_again_and_why(captured: Pipeline, declare: Declare) -> None:
    with start_run(captured.warehouse_url, flow="ingest-shop") as run:
        messages: list[str] = []
        staged = stage(run, declare(DOUBLED), captured.shop_url, threshold=CONFIRMED)
        publishing.publish(run, staged, progress=messages.append)
    assert "dwh.dim_product is conformed again as a whole: conform SQL has changed" in messages


def test_reconcile_names_the_definition_that_has_changed_since_the_last_run(
    captured: Pipeline, declare: Declare
) -> None:
    with start_run(captured.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, declare(DOUBLED), captured.shop_url, repair=False)
    with pytest.raises(DifferencesFound) as error:
        stop_on_differences(verdicts)
    assert "dwh.dim_product in 1 row" in error.value.what
    assert (
        "what it is made by has changed since (conform SQL has changed): load it first, `dwh run shop`"
        in error.value.what
    )
    # Not a repair, which the load would do in any case.
    assert (error.value.hint or "").startswith("Load them by `dwh run shop`, ")
    assert "--repair" not in (error.value.hint or "")
    captured.capture(source=declare(DOUBLED))
    with start_run(captured.warehouse_url, flow="reconcile") as run:
        stop_on_differences(reconcile_source(run, declare(DOUBLED), captured.shop_url, repair=False))


def test_comments_and_white_space_change_nothing(captured: Pipeline, declare: Declare) -> None:
    run = captured.capture(
        source=declare(
            ("conform/product.sql", "select\n", "select -- all of them\n\n"),
            ("conform/customer.sql", "where not", "/* only\nthose */ where\tnot"),
            ("source.toml", "[entities.company]", "# sellers\n[entities.company]"),
        )
    )
    assert reasons(run) == {}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("select a -- b\nfrom c", "select a from c", True),
        ("select a/* b /* c */ d */from c", "select a\n\tfrom  c", True),
        ("select '-- x'", "select '-- y'", False),
        ("select 'a  b'", "select 'a b'", False),
        ("select 'it''s /* x */'", "select 'it''s '", False),
        ("select E'\\'--x'", "select E'\\''", False),
        ("select $$ -- x $$", "select $$ $$", False),
        ("select $q$ /* $q$", "select $q$ $q$", False),
        ('select "a -- b"', 'select "a', False),
        ('select "a  b"', 'select "a b"', False),
        ("select a - -b", "select a --b", False),
        ("select ab", "select a b", False),
        ("select 'unfinished", "select 'unfinished -- x", False),
    ],
)
def test_only_comments_and_space_between_tokens_do_not_count(one: str, other: str, same: bool) -> None:
    assert (hash_sql(one) == hash_sql(other)) is same


def test_rows_that_changed_sql_no_longer_delivers_need_a_confirmation(
    shop: Pipeline, declare: Declare
) -> None:
    shop.order(1, "2024-03-10", {}, {"status": "pending"})
    shop.capture(source=declare())
    only = declare(
        (
            "conform/order_item.sql",
            "where not item._is_deleted",
            "where not item._is_deleted and item.status = 'pending'",
        )
    )
    before = state(shop)
    with pytest.raises(DeleteThresholdExceeded, match=r"1 of 2, 50%.*--confirm-deletes"):
        shop.capture(source=only, max_delete_share=0.1)
    assert state(shop) == before
    shop.capture(source=only, max_delete_share=0.1, confirm_deletes=True)
    assert shop.facts("fact.status") == [("1", "2", "pending")]


# --- columns ----------------------------------------------------------------------------------------------------

NO_TIER = (
    ("conform/customer.sql", "    customer.loyalty_tier,\n", ""),
    ("source.toml", 'from = "customer"', 'from = "customer"\nunmapped_columns = ["loyalty_tier", "email"]'),
    ("conform/customer.sql", "    customer.email,\n", ""),
)


def test_column_that_is_mapped_later_is_filled_in_all_versions(shop: Pipeline, declare: Declare) -> None:
    shop.insert("customer", id=2, name="Bruno", loyalty_tier="gold")
    shop.capture(source=declare(*NO_TIER))
    shop.do("update customer set country = 'UY', updated_at = '2024-03-01' where id = 1")
    shop.capture(source=declare(*NO_TIER))
    # At the source in the same run: an old column changes, and a new one, whose old value is in the mirror.
    shop.do(
        "update customer set country = 'CL', updated_at = '2024-04-01' where id = 1",
        "update customer set loyalty_tier = 'silver', updated_at = '2024-04-01' where id = 2",
    )
    run = shop.capture(source=declare())
    assert (
        reasons(run)["dwh.dim_customer"]
        == "column email is new, column loyalty_tier is new, conform SQL has changed, contract has changed"
    )
    assert shop.versions("customer", "country", "loyalty_tier", "email") == [
        ("1", "AR", "bronze", "ana@example.com", "ever", "2024-03-01"),
        ("1", "UY", "bronze", "ana@example.com", "2024-03-01", "2024-04-01"),
        ("1", "CL", "bronze", "ana@example.com", "2024-04-01", "now"),
        ("2", "AR", "gold", "ana@example.com", "ever", "2024-04-01"),
        ("2", "AR", "silver", "ana@example.com", "2024-04-01", "now"),
    ]
    # The hash of a version is that of what it shows.
    shop.do("update customer set updated_at = '2024-06-01'")
    assert shop.rows("select count(distinct row_hash) from dwh.dim_customer where customer_key <> 0") == [
        (5,)
    ]
    assert shop.capture(source=declare()).changes().keys() == {"raw.shop_customer"}


def test_column_that_source_star_and_mirror_get_in_one_run_opens_no_version(
    shop: Pipeline, declare: Declare
) -> None:
    shop.order(1, "2024-03-10")
    shop.capture(source=declare(*NO_TIER))
    shop.do("update customer set name = 'Ana M', updated_at = '2024-03-01'")
    shop.capture(source=declare(*NO_TIER))
    shop.do(
        "create table tier (id integer primary key, name text)",
        "insert into tier values (1, 'platinum')",
        "alter table customer add column tier_id integer default 1",
    )
    new = declare(
        ("source.toml", "[tables.category]", '[tables.tier]\nkey = ["id"]\n\n[tables.category]'),
        ("source.toml", 'from = "customer"', 'from = "customer"\nparents = { tier = ["tier_id"] }'),
        ("conform/customer.sql", "customer.loyalty_tier", "tier.name as loyalty_tier"),
        (
            "conform/customer.sql",
            "where not",
            "left join raw.shop_tier as tier on customer.tier_id = tier.id where not",
        ),
    )
    run = shop.capture(source=new)
    assert run.counts("raw.shop_customer") == {"updated": 1}
    assert shop.versions("customer", "name", "loyalty_tier") == [
        ("1", "Ana", "platinum", "ever", "2024-03-01"),
        ("1", "Ana M", "platinum", "2024-03-01", "now"),
    ]
    shop.do("update tier set name = 'gold'")
    shop.capture(source=new)
    assert shop.versions("customer", "loyalty_tier")[-1] == ("1", "gold", "run 4", "now")


# --- contracts --------------------------------------------------------------------------------------------------

RULE = "expression: loyalty_tier not in ('bronze', 'silver', 'gold', 'platinum')"


def test_relaxed_rule_releases_what_waits_without_a_change_at_the_source(
    shop: Pipeline, contract: Callable[[str, str, str], None]
) -> None:
    shop.insert("customer", id=2, name="Bruno", loyalty_tier="black")
    shop.capture()
    assert shop.quarantined() == [(["2"], ["loyalty tier is unknown"], None)]
    contract("customer", RULE, "expression: loyalty_tier in ('white')")
    run = shop.capture()
    assert reasons(run) == {"dwh.dim_customer": "contract has changed"}
    assert shop.versions("customer", "loyalty_tier") == [
        ("1", "bronze", "ever", "now"),
        ("2", "black", "ever", "now"),
    ]
    assert shop.quarantined() == [(["2"], ["loyalty tier is unknown"], "released")]


def test_seller_of_lines_is_found_when_a_relaxed_rule_releases_their_product(
    shop: Pipeline, contract: Callable[[str, str, str], None]
) -> None:
    shop.do("update product set name = ' '")
    shop.order(1, "2024-03-10")
    shop.capture()
    assert shop.facts("company.name") == [("1", "1", None)]
    contract("product", "btrim(name) = ''", "name = ''")
    shop.capture()
    assert shop.facts("company.name") == [("1", "1", "Acme")]
    assert shop.capture().changes() == {}


def test_tightened_rule_keeps_the_last_good_state_and_judges_this_runs_changes_after_it(
    shop: Pipeline, contract: Callable[[str, str, str], None]
) -> None:
    for number, tier in ((2, "gold"), (3, "gold")):
        shop.insert("customer", id=number, name=f"Customer {number}", loyalty_tier=tier)
    shop.capture()
    contract("customer", "'gold', 'platinum')", "'platinum')")
    shop.do("update customer set loyalty_tier = 'silver', updated_at = '2024-05-01' where id = 3")
    shop.capture()
    assert shop.versions("customer", "loyalty_tier") == [
        ("1", "bronze", "ever", "now"),
        ("2", "gold", "ever", "now"),
        ("3", "gold", "ever", "2024-05-01"),
        ("3", "silver", "2024-05-01", "now"),
    ]
    assert shop.rows("select row_key, rules, resolution from audit.quarantine order by row_key") == [
        (["2"], ["loyalty tier is unknown"], None),
        (["3"], ["loyalty tier is unknown"], "released"),
    ]
    assert shop.capture().changes() == {}


# --- limits, faults, and what undoes it -------------------------------------------------------------------------


def test_more_rows_than_the_limit_are_not_conformed_unasked(busy_shop: Pipeline, declare: Declare) -> None:
    shop = busy_shop
    shop.capture(source=declare())
    changed = declare(("conform/customer.sql", "customer.state,", "upper(customer.state) as state,"))
    stale = find_stale_targets(shop.warehouse, changed, read_contracts(changed))
    assert [(one.table_name, one.rows, one.reason) for one in stale] == [
        ("dwh.dim_customer", 5, "conform SQL has changed")
    ]
    check_reconform_limit(stale, 5)
    with pytest.raises(
        ReconformLimitExceeded, match=r"5 rows.*limit is 4.*`dwh run shop --reconform`"
    ) as error:
        check_reconform_limit(stale, 4)
    assert error.value.exit_code == 3


def test_killed_before_the_commit_the_next_run_does_it(
    captured: Pipeline, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(captured)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(publishing, "move_watermarks", die)
        captured.capture(source=declare(DOUBLED))
    assert state(captured) == before
    assert reasons(captured.capture(source=declare(DOUBLED)))["dwh.dim_product"] == "conform SQL has changed"
    assert captured.versions("product", "price_amount::integer") == [("1", 200, "ever", "now")]


def test_undo_takes_it_back_and_the_next_run_does_it_again(sale: Pipeline, declare: Declare) -> None:
    before = state(sale)
    run = sale.capture(source=declare(DOUBLED))
    after = state(sale)
    with start_run(sale.warehouse_url, flow="undo") as undoing:
        undo(undoing, run.run_id)
    assert state(sale) == before
    again = sale.capture(source=declare(DOUBLED))
    assert reasons(again) == reasons(run)
    assert state(sale) == after
    # With the old declaration again, nothing of the new one stays.
    sale.capture(source=declare())
    assert state(sale) == before


def test_mirror_that_was_declared_with_it_is_filled_again_after_an_undo(
    shop: Pipeline, declare: Declare
) -> None:
    shop.do("create table label (id integer primary key, text text not null)")
    shop.do("insert into label select id, 'Label of ' || name from product")
    shop.capture(source=declare())
    labelled = declare(
        ("source.toml", "[tables.category]", '[tables.label]\nkey = ["id"]\n\n[tables.category]'),
        ("source.toml", "parents = { category =", 'parents = { label = ["id"], category ='),
        ("conform/product.sql", "product.name", "label.text as name"),
        (
            "conform/product.sql",
            "where not",
            "inner join raw.shop_label as label on product.id = label.id and not label._is_deleted where not",
        ),
    )
    run = shop.capture(source=labelled)
    after = state(shop)
    with start_run(shop.warehouse_url, flow="undo") as undoing:
        undo(undoing, run.run_id)
    # The mirror is there and empty: no product may be taken for one that the SQL no longer delivers.
    messages: list[str] = []
    with start_run(shop.warehouse_url, flow="reconcile") as reconciling:
        verdicts = reconcile_source(
            reconciling, labelled, shop.shop_url, repair=True, progress=messages.append
        )
    # Stored marts were stale, as nothing has refreshed them.
    assert {one.table_name for one in verdicts if one.verdict != "equal" and one.layer != "mart"} == set()
    assert {"dwh.dim_customer", "dwh.fact_order_item"} < {one.table_name for one in verdicts}
    assert "dwh.dim_product" not in {one.table_name for one in verdicts}
    assert [message for message in messages if "undo" in message] == [
        "shop → raw.shop_label: not loaded since the undo of run 2",
        "shop → dwh.dim_product: not compared, raw.shop_label is not loaded since the undo of run 2",
    ]
    again = shop.capture(source=labelled, max_delete_share=0.1)
    assert reasons(again) == reasons(run)
    assert state(shop) == after


def test_dry_run_shows_it_and_leaves_no_trace(captured: Pipeline, declare: Declare) -> None:
    before = traces(captured.warehouse_url)
    with start_run(captured.warehouse_url, flow="ingest-shop", dry_run=True) as run:
        staged = stage(run, declare(DOUBLED), captured.shop_url, threshold=CONFIRMED)
        loads = {load.table_name: load for load in publishing.publish(run, staged).loads}
    assert traces(captured.warehouse_url) == before
    assert loads["dwh.dim_product"].reconform_reason == "conform SQL has changed"
    assert (loads["dwh.dim_product"].rows_updated, loads["dwh.dim_product"].rows_inserted) == (1, 0)


def test_full_refresh_conforms_everything_again(busy_shop: Pipeline) -> None:
    shop = busy_shop
    shop.capture()
    before = content(shop.warehouse)
    shop.warehouse.execute("update dwh.dim_customer set country = 'XX' where customer_key > 0")
    shop.warehouse.execute("update dwh.fact_order_item set net_amount = 0")
    shop.capture()
    assert content(shop.warehouse) != before
    run = shop.capture(full_refresh=True)
    assert set(reasons(run).values()) == {"full refresh"}
    assert content(shop.warehouse) == before


def test_entity_that_is_no_longer_declared_is_reported_and_caught_up_when_it_is_again(shop: Pipeline) -> None:
    shop.insert("customer", id=2, name="Bruno")
    shop.capture()
    less = without(shop.source, "customer")
    with start_run(shop.warehouse_url, flow="ingest-shop") as run:
        messages: list[str] = []
        staged = stage(run, less, shop.shop_url, threshold=CONFIRMED)
        publishing.publish(run, staged, progress=messages.append)
    assert (
        "dwh.dim_customer keeps the rows of 'shop', which no longer declares what they are made of"
        in messages
    )
    shop.do("update customer set country = 'UY' where id = 2", "delete from customer where id = 1")
    shop.capture(source=less)
    (stale,) = find_stale_targets(shop.warehouse, less, read_contracts(less))
    assert (stale.table_name, stale.reason) == (
        "dwh.dim_customer",
        "it is no longer declared: its rows are kept and not updated",
    )
    assert shop.versions("customer", "country") == [("1", "AR", "ever", "now"), ("2", "AR", "ever", "now")]
    run = shop.capture()
    assert reasons(run) == {"dwh.dim_customer": "it is declared again"}
    assert [row[:2] + row[3:] for row in shop.versions("customer", "country", "valid_from < now()")][1] == (
        "2", "UY", "ever", "now"
    )  # fmt: skip
    assert shop.rows("select is_current from dwh.dim_customer where customer_id = '1'") == [(False,)]


# --- views and functions ------------------------------------------------------------------------------------------

SHOUT = "create or replace function public.shout(text) returns text language sql immutable as $$ {} $$"
TIMES = (
    "create or replace function public.times(number numeric) returns numeric language sql immutable "
    "return number * {}"
)
GRADE = (
    "create or replace function public.grade(text) returns text language plpgsql immutable as "
    "$$ begin {} return $1; end $$"
)
NAMED = "create or replace view raw.named as select id, name, {} as label from raw.shop_brand where not _is_deleted"
LABELLED = "create or replace view raw.labelled as select id, public.shout(label) as label from raw.named"
OF_THE_COMPANY = "create or replace view raw.of_company as select id, {} as name from raw.shop_company"
READS = (
    ("conform/product.sql", "product.name", "labelled.label as name"),
    ("conform/product.sql", "product.price as", "public.times(product.price) as"),
    ("conform/product.sql", "where not", "left join raw.labelled on product.brand_id = labelled.id where not"),
    ("conform/customer.sql", "customer.loyalty_tier", "public.grade(customer.loyalty_tier) as loyalty_tier"),
    ("conform/company.sql", "company.name", "of_company.name"),
    ("conform/company.sql", "where not", "inner join raw.of_company on company.id = of_company.id where not"),
    ("source.toml", "[entities.company]\n", '[entities.company]\njoins = { company = "changed.id = company.id" }\n'),
)  # fmt: skip


OF_PRODUCT = {"dwh.fact_order_item": "dimension product has changed"}


def test_changed_views_and_functions_are_conformed_again_and_their_comments_are_not(
    sale: Pipeline, declare: Declare
) -> None:
    source = declare(*READS)

    def define(*statements: str) -> dict[str, str]:
        for statement in statements:
            sale.warehouse.execute(statement.encode())
        return reasons(sale.capture(source=source))

    assert define(
        SHOUT.format("select upper($1)"),
        TIMES.format(2),
        GRADE.format(""),
        NAMED.format("name || '!'"),
        LABELLED,
        OF_THE_COMPANY.format("name"),
    ) == {
        "dwh.dim_company": "source declaration has changed, conform SQL has changed",
        "dwh.dim_customer": "conform SQL has changed",
        "dwh.dim_product": "conform SQL has changed",
        "dwh.fact_order_item": "dimension company has changed, dimension product has changed",
    }
    assert sale.versions("product", "name", "price_amount::integer") == [("1", "BOLT!", 200, "ever", "now")]
    # What changes no value.
    assert (
        define(
            SHOUT.format("-- loud\n    select   upper($1) /* as said */"),
            GRADE.format("-- as it is\n"),
            NAMED.format("-- marked\nname || '!'"),
            "comment on function public.shout(text) is 'Loud.'",
            "create function public.shout(integer) returns text language sql as $$ select 'another' $$",
        )
        == {}
    )
    shouted = {"dwh.dim_product": "function public.shout(text) has changed", **OF_PRODUCT}
    assert define(SHOUT.format("select upper($1) || '!'")) == shouted
    assert define(NAMED.format("name || '?'")) == {
        "dwh.dim_product": "view raw.named has changed",
        **OF_PRODUCT,
    }
    assert define(TIMES.format(3), GRADE.format("if $1 = 'bronze' then return 'silver'; end if;")) == {
        "dwh.dim_product": "function public.times(numeric) has changed",
        "dwh.dim_customer": "function public.grade(text) has changed",
        **OF_PRODUCT,
    }
    assert sale.versions("product", "name", "price_amount::integer") == [("1", "BOLT?!", 300, "ever", "now")]
    assert sale.versions("customer", "loyalty_tier") == [("1", "silver", "ever", "now")]
    # Sales name their seller; `dwh status` says so before any run.
    sale.warehouse.execute(OF_THE_COMPANY.format("name || ' Inc.'").encode())
    stale = find_stale_targets(sale.warehouse, source, read_contracts(source))
    company = {
        "dwh.dim_company": "view raw.of_company has changed",
        "dwh.fact_order_item": "dimension company has changed",
    }
    assert {one.table_name: one.reason for one in stale} == company
    assert define() == company
    assert sale.facts("company.name") == [("1", "1", "Acme Inc.")]
    # Without them, they no longer matter.
    plain = declare()
    sale.capture(source=plain)
    sale.warehouse.execute(TIMES.format(4).encode())
    assert find_stale_targets(sale.warehouse, plain, read_contracts(plain)) == []


def test_warehouse_that_knows_no_views_and_functions_learns_them_by_its_next_change(
    shop: Pipeline, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.warehouse.execute(TIMES.format(2).encode())
    source = declare(READS[1])
    shop.capture(source=source)
    recorded = "select table_name, part, hash from audit.definition order by 1, 2"
    known = shop.rows(recorded)
    # As an older version has left it.
    shop.warehouse.execute(
        "delete from audit.definition where part in ('reads are followed', 'function public.times(numeric)')"
    )
    assert reasons(shop.capture(source=source)) == {}
    shop.do("update product set name = 'Mallet'")
    assert reasons(shop.capture(source=source)) == {}
    assert shop.rows(recorded) == known
    # What SQL reads is asked again only where something of it may be another.
    with monkeypatch.context() as patched:
        patched.setattr("warehouse.load.star_load.check_reads", lambda *_: pytest.fail("it is asked again"))
        shop.do("update product set name = 'Sledge'", "update category set name = 'Hand tools'")
        assert shop.capture(source=source).changes().keys() >= {"dwh.dim_product"}
    shop.warehouse.execute(TIMES.format(3).encode())
    assert reasons(shop.capture(source=source)) == {
        "dwh.dim_product": "function public.times(numeric) has changed"
    }


def test_view_that_comes_to_read_what_no_join_follows_is_refused(
    captured: Pipeline, declare: Declare
) -> None:
    captured.warehouse.execute(NAMED.format("name").encode())
    captured.warehouse.execute(LABELLED.replace("public.shout(label)", "label").encode())
    source = declare(READS[0], READS[2])
    captured.capture(source=source)
    captured.warehouse.execute(
        "create or replace view raw.named as select id, name, (select max(name) from raw.shop_promotion) as label "
        "from raw.shop_brand"
    )
    before = state(captured)
    with pytest.raises(DeclarationError, match=r"reads raw\.shop_promotion"):
        captured.capture(source=source)
    assert state(captured) == before


def test_reads_that_may_be_stale_are_refused_when_the_declaration_no_longer_allows_them(
    shop: Pipeline, declare: Declare
) -> None:
    label = ("conform/product.sql", "product.name", "(select max(name) from raw.shop_promotion) as name")
    allowed = '[entities.product.stale]\npromotion = "the label of a promotion may be some days old"\n\n'
    shop.capture(
        source=declare(label, ("source.toml", "[entities.promotion]", f"{allowed}[entities.promotion]"))
    )
    shop.do("update product set price = 110")
    with pytest.raises(DeclarationError, match=r"reads raw\.shop_promotion"):
        shop.capture(source=declare(label))
