"""Moving the warehouse to another server, as the runbook says."""

import subprocess
from pathlib import Path

from stack.postgres import EmbeddedPostgres
from tests.pipeline import Pipeline, content
from warehouse.db.connections import connect
from warehouse.migrations.revisions import upgrade


def test_warehouse_that_moved_goes_on_where_it_ended(
    shop: Pipeline, own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    own_postgres.create_database("moved")
    url, dump = own_postgres.url("moved"), str(tmp_path / "warehouse.dump")
    for program, *options in (
        ("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={dump}", shop.warehouse_url),
        ("pg_restore", "--no-owner", f"--dbname={url}", dump),
        ("vacuumdb", "--analyze-only", "--quiet", url),
    ):
        subprocess.run([str(own_postgres.bin / program), *options], check=True, timeout=300)
    upgrade(url)
    with connect(url) as connection:
        assert content(connection) == content(shop.warehouse)
        owner = connection.execute(
            "select tableowner from pg_tables where tablename = 'dim_customer'"
        ).fetchone()
    assert owner == ("dwh_owner",)
    shop.do("update customer set state = 'Jujuy'")
    moved = Pipeline(shop.shop_url, url)
    assert moved.capture().changes()["dwh.dim_customer"] == {"read": 1, "inserted": 1, "expired": 1}
    moved.close()
