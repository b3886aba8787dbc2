"""A source is a database of a cluster: another one is refused until somebody says that it is meant."""

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests.integration.conftest import CopyOf
from tests.pipeline import Pipeline, content
from warehouse.errors import DeleteThresholdExceeded, SourceChanged, SourceError
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run


def sell_and_capture(shop: Pipeline) -> None:
    """Insert twenty orders, and capture them."""
    for number in range(1, 21):
        shop.order(number, "2024-03-10")
    shop.capture()


@pytest.fixture
def loaded(copy_of: CopyOf) -> Pipeline:
    """Twenty orders of one line, captured."""
    return copy_of(sell_and_capture)


@pytest.fixture
def staging_url(loaded: Pipeline, database: Callable[[str], str]) -> str:
    """A copy of the shop in the same cluster, a day behind: two orders and a change are missing there."""
    name = loaded.shop.info.dbname
    loaded.shop.close()
    url = database(name)
    loaded.shop = psycopg.connect(loaded.shop_url, autocommit=True)
    loaded.order(21, "2024-03-11")
    loaded.order(22, "2024-03-11")
    loaded.do("update customer set name = 'Beatriz', updated_at = '2024-03-11'")
    loaded.capture()
    return url


def named(url: str) -> str:
    """The database of `url`, as messages name it."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select format('database %s (oid %s) of cluster %s', datname, oid, system_identifier) "
            "from pg_database, pg_control_system() where datname = current_database()"
        ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("full_refresh", [False, True])
def test_another_database_of_the_same_cluster_is_refused_by_any_run(
    loaded: Pipeline, staging_url: str, full_refresh: bool
) -> None:
    before = content(loaded.warehouse, ("raw", "dwh"))
    with pytest.raises(SourceChanged) as error:
        loaded.capture(shop_url=staging_url, full_refresh=full_refresh)
    assert error.value.exit_code == 3
    assert error.value.what == (
        "Source 'shop' is not the database that was read last: "
        f"it is {named(staging_url)}, and was {named(loaded.shop_url)}."
    )
    assert "Is DWH_SHOP_URL right?" in error.value.hint
    assert "`dwh run shop --accept-source --dry-run`" in error.value.hint
    assert content(loaded.warehouse, ("raw", "dwh")) == before
    assert loaded.run_states()[-1][1] == "stopped"
    assert loaded.capture().changes() == {}


def test_reconcile_refuses_another_database_too(loaded: Pipeline, staging_url: str) -> None:
    with (
        start_run(loaded.warehouse_url, flow="reconcile") as run,
        pytest.raises(SourceChanged, match="is not the database that was read last"),
    ):
        reconcile_source(run, loaded.source, staging_url, repair=True)


def test_database_that_is_accepted_is_read_in_full_under_the_delete_threshold(
    loaded: Pipeline, staging_url: str
) -> None:
    with pytest.raises(DeleteThresholdExceeded, match=r"sales_order \(2 of 22 rows, 9%\)"):
        loaded.capture(shop_url=staging_url, accept_source=True, max_delete_share=0.05)
    with pytest.raises(SourceChanged):
        loaded.capture(shop_url=staging_url)
    messages: list[str] = []
    run = loaded.capture(
        shop_url=staging_url, accept_source=True, max_delete_share=0.1, progress=messages.append
    )
    accepted = (
        f"source shop is {named(staging_url)} from now on, and was {named(loaded.shop_url)}: everything is read again; "
        "compared with what was read last:"
    )
    assert accepted in messages
    assert "customer: 0 rows are new, 1 are others, 0 are gone" in messages
    assert "order_item: 0 rows are new, 0 are others, 2 are gone" in messages
    assert run.counts("raw.shop_order_item") == {"deleted": 2}
    assert run.loads["raw.shop_brand"].rows_read == 1
    assert {one.verdict for one in run.verifications} == {"equal"}
    assert len(loaded.facts()) == 20
    assert loaded.capture(shop_url=staging_url).changes() == {}
    # And now the original is another one.
    with pytest.raises(SourceChanged):
        loaded.capture()


def test_accepting_the_same_database_is_a_full_refresh(loaded: Pipeline) -> None:
    run = loaded.capture(accept_source=True)
    assert run.changes() == {} and run.loads["raw.shop_order_item"].rows_read == 20


def test_other_cluster_is_refused_with_both_names(loaded: Pipeline) -> None:
    loaded.warehouse.execute("update audit.watermark set system_identifier = '42'")
    with pytest.raises(SourceChanged) as error:
        loaded.capture(full_refresh=True)
    now = named(loaded.shop_url)
    was = now.rpartition(" ")[0] + " 42"
    assert f"it is {now}, and was {was}" in error.value.what
    loaded.capture(accept_source=True)
    assert loaded.capture().changes() == {}


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        ("snapshot_xmin = snapshot_xmin + 1000000", "its transactions are counted from"),
        ("wal_position = wal_position + 1000000000", "its write-ahead log is at byte"),
        ("timeline = timeline + 1", "its timeline is 1, and was 2"),
    ],
)
def test_restored_copy_is_behind_its_original_and_refused(loaded: Pipeline, behind: str, told: str) -> None:
    loaded.warehouse.execute(f"update audit.watermark set {behind}".encode())
    with pytest.raises(SourceChanged) as error:
        loaded.capture(full_refresh=True)
    assert told in error.value.what and "a restored copy" in error.value.what
    loaded.capture(accept_source=True)
    assert loaded.capture().changes() == {}


def test_renamed_database_goes_on_with_a_note(loaded: Pipeline, postgres: EmbeddedPostgres) -> None:
    old = loaded.shop.info.dbname
    new = f"{old}_renamed"
    loaded.shop.close()

    def rename(before: str, after: str) -> None:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            statement = sql.SQL("alter database {} rename to {}")
            connection.execute(statement.format(sql.Identifier(before), sql.Identifier(after)))

    rename(old, new)
    try:
        messages: list[str] = []
        run = loaded.capture(shop_url=postgres.url(new), progress=messages.append)
        assert run.changes() == {} and not run.staged.full_refresh
        assert f"source shop: its database {old} is now called {new}" in messages
    finally:
        rename(new, old)


def test_source_that_does_not_say_its_cluster_is_known_by_database_and_counters(
    loaded: Pipeline, staging_url: str
) -> None:
    """As managed servers do that keep pg_control_system() to themselves."""
    role = f"reader_{loaded.shop.info.dbname}"
    urls = []
    with psycopg.connect(staging_url, autocommit=True) as staging:
        loaded.shop.execute(f"create role {role} login password 'secret'".encode())
        for connection in (loaded.shop, staging):
            for statement in (
                "revoke execute on function pg_control_system() from public",
                f"grant select on all tables in schema public to {role}",
            ):
                connection.execute(statement.encode())
            info = connection.info
            urls.append(f"postgresql://{role}:secret@{info.host}:{info.port}/{info.dbname}")
        try:
            messages: list[str] = []
            assert loaded.capture(shop_url=urls[0], progress=messages.append).changes() == {}
            assert any("does not say which cluster it is" in message for message in messages)
            with pytest.raises(SourceChanged) as error:
                loaded.capture(shop_url=urls[1])
            assert "of cluster unknown, and was database" in error.value.what
            assert loaded.capture().changes() == {}
        finally:
            for connection in (staging, loaded.shop):
                connection.execute(f"drop owned by {role}".encode())
            loaded.shop.execute(f"drop role {role}".encode())


def test_another_server_that_has_taken_over_is_loaded_before_it_is_reconciled(loaded: Pipeline) -> None:
    loaded.warehouse.execute("update audit.watermark set timeline = timeline - 1")
    with (
        start_run(loaded.warehouse_url, flow="reconcile") as run,
        pytest.raises(SourceError, match="has taken over") as error,
    ):
        reconcile_source(run, loaded.source, loaded.shop_url, repair=False)
    assert error.value.hint == "Load it first: `dwh run shop`."
    assert loaded.capture().loads["raw.shop_order_item"].rows_read == 20
    with start_run(loaded.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, loaded.source, loaded.shop_url, repair=False)
