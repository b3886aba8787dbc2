"""The archive on S3, on a real S3 server of this machine: runs go on while it is away, and no batch is lost."""

from typing import Any

import pytest

from tests.archive import archived, archived_mirror, load, mirror
from tests.integration.test_feeds_s3 import KEY, SECRET, S3Server, files, pytestmark, server
from tests.integration.test_rebuild import run_rebuild
from tests.pipeline import Pipeline, content
from warehouse.archive import batch_files, flush, upkeep
from warehouse.archive.place import Archive, ArchiveUnreachable
from warehouse.settings import Settings

__all__ = ["pytestmark", "server"]
WAITING = "select count(distinct run_id) from audit.archive_pending where published_at is not null"


@pytest.mark.slow
def test_runs_go_on_while_the_server_is_away_and_finish_the_archive_when_it_is_back(
    server: S3Server, shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None, archive=True, lake="s3://lake/warehouse", archive_pending_runs=3, archive_delay="0s"
    )
    archive = Archive.of(settings)

    def assert_whole() -> None:
        for table in shop.source.tables:
            path = f"shop/{table.name}"
            if archive.open(path) is not None:
                expected = mirror(shop.warehouse, table.mirror)
                assert archived_mirror(archive, shop.warehouse, path, table.key) == expected, path
        batches = [(row["id"], row["_batch_id"]) for row in archived(archive, "shop/customer")]
        assert len(batches) == len(set(batches))
        assert shop.rows(WAITING) == [(0,)]

    # Batches are files, which the run writes before it publishes.
    monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    assert_whole()
    # It is killed while tables are added: some of them are, and the others wait.
    shop.insert("customer", id=2, name="Eva", document_number="30111222", username="eva")
    shop.do("update product set price = 120, updated_at = shop_now()")
    add, calls = flush.add_files, []

    def killing(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            server.kill()
        add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(flush, "add_files", killing)
        with pytest.raises(ArchiveUnreachable, match="cannot be reached"):
            load(shop, archive)
    # Runs go on, and are counted up to the limit; then they stop before they have done anything.
    for name in ("Mia", "Zoe"):
        shop.do(f"update customer set name = '{name}', updated_at = shop_now() where id = 2")
        load(shop, archive, adds=False)
        failure = upkeep.add_due(shop.warehouse_url, settings)
        assert failure is not None and failure.startswith(
            "The archive s3://lake/warehouse/archive cannot be reached"
        )
    assert shop.rows(WAITING) == [(3,)]
    assert shop.rows("select name from raw.shop_customer where id = 2") == [("Zoe",)]
    with pytest.raises(
        upkeep.ArchiveBacklogExceeded, match="3 runs wait for the archive; DWH_ARCHIVE_PENDING_RUNS allows 3"
    ):
        upkeep.prepare(shop.warehouse, shop.warehouse_url, settings)
    server.start()
    upkeep.prepare(shop.warehouse, shop.warehouse_url, settings)
    assert_whole()
    # What lies there gives a table back.
    before = content(shop.warehouse)
    shop.warehouse.execute(
        "drop table raw.shop_customer cascade; delete from dwh.dim_product where product_key > 0"
    )
    run_rebuild(shop, archive)
    assert content(shop.warehouse) == before
    # Wrong credentials are said to be wrong, and are not told.
    shop.insert("customer", id=3, name="Bea", document_number="30111444", username="bea")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        files()
        load(shop, Archive.of(settings), adds=False)
        failure = upkeep.add_due(shop.warehouse_url, settings)
        assert failure is not None and "the server refuses the credentials" in failure
        assert "AWS_SECRET_ACCESS_KEY" in failure
        assert not any(secret in failure for secret in ("another", SECRET, KEY))
    files()
    assert upkeep.add_due(shop.warehouse_url, settings) is None
    assert_whole()
