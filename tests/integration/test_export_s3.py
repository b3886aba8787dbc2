"""Exports to S3, on a real S3 server of this machine: the manifest says which files are the export."""

import io
import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.test_export import run_export, world
from tests.integration.test_feeds_s3 import KEY, SECRET, S3Server, files, pytestmark, server
from tests.pipeline import Pipeline
from warehouse.export.destination import ExportFailed

__all__ = ["pytestmark", "server", "world"]


def read(server: S3Server, query: str) -> list[Any]:
    """Rows of a query over the files that the manifest names, as docs/lake.md shows."""
    with duckdb.connect() as connection:
        manifest = json.loads(files().cat("lake/export/manifest.json"))
        paths = [one["path"] for one in manifest["tables"]["fact_order_item"]["days"].values()]
        tables = [pq.read_table(io.BytesIO(files().cat(f"lake/export/{path}"))) for path in paths]
        connection.register("exported", pa.concat_tables(tables))
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_export_to_s3_is_read_by_its_manifest_and_old_files_stay_until_the_next_one(
    server: S3Server, world: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "select order_id, line_id, quantity from exported order by 1, 2"
    expected = "select order_id, line_id, quantity from dwh.fact_order_item order by 1, 2"
    run_export(world.warehouse_url, "s3://lake")
    assert read(server, query) == world.rows(expected)
    first = set(files().find("lake/export"))
    before = read(server, query)
    world.do("update order_item set quantity = 9, updated_at = shop_now() where sales_order_id = 1")
    world.capture()
    # The server is gone in the middle: readers have the export before.
    server.kill()
    with pytest.raises(ExportFailed, match="it fails"):
        run_export(world.warehouse_url, "s3://lake")
    server.start()
    assert read(server, query) == before
    loads = run_export(world.warehouse_url, "s3://lake")
    assert loads["fact_order_item"].rows_read == 1
    assert read(server, query) == world.rows(expected) != before
    assert first <= set(files().find("lake/export"))
    run_export(world.warehouse_url, "s3://lake")
    assert not any(
        "fact_order_item/date=2024-03-10" in path for path in first & set(files().find("lake/export"))
    )
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        files()
        with pytest.raises(ExportFailed, match="credentials") as error:
            run_export(world.warehouse_url, "s3://lake")
        assert (
            "another" not in str(error.value)
            and SECRET not in str(error.value)
            and KEY not in str(error.value)
        )
    files()
