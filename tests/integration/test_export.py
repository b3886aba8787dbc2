"""Export to the lake and into another PostgreSQL: exact contents, changed days only, never half an export."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests import command
from tests.marts import MartWorld
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import ConnectionFailed
from warehouse.export import destination
from warehouse.export.export import export
from warehouse.export.reports_database import MARK, SCHEMA, ReportsNotWritten, export_reports
from warehouse.export.tables import exported_tables
from warehouse.model.mart import answers
from warehouse.runs.audit import Load, start_run
from warehouse.undo.undo import undo


def run_export(url: str, lake: Path | str, log: Callable[[str], None] = print) -> dict[str, Load]:
    """Export once; rows by table."""
    with start_run(url, flow="export-tables") as run:
        return {load.table_name: load for load in export(run, str(lake), log)}


def files(lake: Path) -> dict[str, tuple[int, int]]:
    """Inode and size of every file of an export, by path."""
    folder = lake / "export"
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def days(lake: Path, table: str) -> dict[str, int]:
    """Rows by day, as the files have them and the manifest says."""
    entry = json.loads((lake / "export" / "manifest.json").read_bytes())["tables"][table]["days"]
    found = {
        path.parent.name.removeprefix("date="): pq.ParquetFile(path).metadata.num_rows
        for path in (lake / "export" / f"table={table}").rglob("*.parquet")
    }
    assert found == {day.replace(" ", "%20"): one["rows"] for day, one in entry.items()}
    return found


def rows(lake: Path, query: str, version: Path | None = None) -> list[Any]:
    """Rows of a query of DuckDB, of the export or one version of it; `{name}` stands for the files of a table."""
    folder = version or lake / "export"

    class Tables(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return f"read_parquet('{folder}/table={name}/date=*/*.parquet', hive_partitioning = true)"

    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute(query.format_map(Tables())).fetchall()


@pytest.fixture(scope="module")
def world(postgres: EmbeddedPostgres, warehouse_template: str, shop_template: str) -> Iterator[Pipeline]:
    """A shop with orders of three days, loaded."""
    names = [f"test_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name, template in zip(names, (shop_template, warehouse_template), strict=True):
            copy = sql.SQL("create database {} template {} strategy file_copy")
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        pipeline = Pipeline(*map(postgres.url, names))
        pipeline.open_shop()
        pipeline.order(1, "2024-03-10")
        pipeline.order(2, "2024-03-11", {}, {})
        pipeline.order(3, "2024-04-01")
        pipeline.capture()
        yield pipeline
        pipeline.close()
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_every_table_is_exported_with_exactly_its_rows(mart_world: MartWorld, tmp_path: Path) -> None:
    loads = run_export(mart_world.warehouse_url, tmp_path)
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        for table in exported_tables():
            if table.name in ("job_run", "table_freshness"):
                # They have changed with the run of the export itself.
                continue
            paths = sorted((tmp_path / "export" / f"table={table.name}").rglob("*.parquet"))
            exported = [
                tuple(map(comparable, row.values()))
                for path in paths
                for row in pq.ParquetFile(path).read().to_pylist()
            ]
            if not paths:
                # No order of this world names a lead.
                assert table.name == "fact_order_lead"
                continue
            columns = pq.read_schema(paths[0]).names
            assert not table.hidden & set(columns)
            query = sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), table.identifier
            )
            expected = [tuple(map(comparable, row)) for row in connection.execute(query)]
            assert sorted(exported, key=repr) == sorted(expected, key=repr), table.name
            assert loads[table.name].rows_read == len(expected)
            if table.name == "fact_weblog":
                # Files of a fact have the rows of their UTC day, and no others.
                assert len(paths) > 5
                for path in paths:
                    times = pq.read_table(path, columns=["requested_at"]).column(0).to_pylist()
                    assert {f"date={one:%Y-%m-%d}" for one in times} == {path.parent.name}
    assert len(loads) == len(exported_tables()) + len(answers())
    # The email address of dim_customer is labelled; no mart has one.
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_bytes())
    (email,) = [one for one in manifest["tables"]["dim_customer"]["columns"] if one["name"] == "email"]
    assert email == {
        "name": "email",
        "type": "text",
        "description": email["description"],
        "personal": "e-mail",
    }


def comparable(value: object) -> object:
    """A value of psycopg or pyarrow: numbers by their value, what Parquet has no type for by its text."""
    if isinstance(value, Decimal):
        return round(value, 10).normalize()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return "{" + ",".join(f'"{one}"' for one in value) + "}"
    return value if value is None or isinstance(value, int | float) else str(value)


def test_reports_are_csv_with_exactly_the_rows_of_their_marts(mart_world: MartWorld, tmp_path: Path) -> None:
    run_export(mart_world.warehouse_url, tmp_path)
    for mart in answers():
        (path,) = (tmp_path / "export" / f"report={mart.name}").rglob("*.csv")
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        shown = mart_world.mart(mart.shown)
        assert header == list(shown.columns)
        assert len(lines) == len(shown) > 0
    (path,) = (tmp_path / "export" / "report=top_sellers").rglob("*.csv")
    with path.open(newline="") as file:
        sellers = list(csv.DictReader(file))
    shown = mart_world.mart("top_sellers")
    assert sorted((row["product_id"], Decimal(row["net_amount"])) for row in sellers) == sorted(
        zip(shown.product_id, shown.net_amount, strict=True)
    )


def test_values_that_other_systems_do_not_know_have_a_defined_form(world: Pipeline, tmp_path: Path) -> None:
    lines: list[str] = []
    world.warehouse.execute(
        """
        insert into dwh.dim_promotion (
            promotion_key, promotion_id, source_system, name, discount_share, starts_at, ends_at, run_id
        ) overriding system value
        select
            900 + number, 'odd' || number, 'shop', name, share, starts_at, ends_at, run_id
        from (select run_id from dwh.dim_promotion where promotion_key = 0) as unknown
        cross join (values
            (1, 'infinite', 'NaN'::numeric, '-infinity'::timestamptz, 'infinity'::timestamptz),
            (2, '', 0.1234, '0044-03-15 12:00:00+00 BC', '294276-12-31 23:59:59.999999+00'),
            (3, null, null, null, null),
            (4, E'a "quoted" line\\r\\nand another,\\\\.', -0.0001, '1969-12-31 23:59:59.999999+00', '2024-02-29')
        ) as value (number, name, share, starts_at, ends_at)
        """
    )
    try:
        run_export(world.warehouse_url, tmp_path, lines.append)
    finally:
        world.warehouse.execute("delete from dwh.dim_promotion where promotion_key > 900")
    assert rows(
        tmp_path,
        "select promotion_key, name, discount_share, starts_at::text, ends_at::text from {dim_promotion} "
        "where promotion_key > 900 order by 1",
    ) == [
        (901, "infinite", None, "-infinity", "infinity"),
        (902, "", Decimal("0.1234"), "0044-03-15 (BC) 12:00:00+00", "294247-01-10 04:00:54.775806+00"),
        (903, None, None, None, None),
        (
            904, 'a "quoted" line\r\nand another,\\.', Decimal("-0.0001"), "1969-12-31 23:59:59.999999+00",
            "2024-02-29 00:00:00+00",
        ),
    ]  # fmt: skip
    assert (
        "dim_promotion: 1 numbers are NULL in Parquet, which has no NaN or infinity among decimals." in lines
    )
    # The unknown member, and the fact without a promotion that refers to it.
    assert rows(
        tmp_path,
        "select count(*), any_value(returned_at), any_value(returned_at_date_key) from {fact_order_item} "
        "join {dim_promotion} as promotion using (promotion_key) where promotion_key = 0"
        .replace("returned_at_date_key", "returned_date_key"),
    ) == [(4, None, 0)]  # fmt: skip


def test_only_days_that_changed_are_written_again(world: Pipeline, tmp_path: Path) -> None:
    run_export(world.warehouse_url, tmp_path)
    before = files(tmp_path)
    assert days(tmp_path, "fact_order_item") == {"2024-03-10": 1, "2024-03-11": 2, "2024-04-01": 1}
    assert run_export(world.warehouse_url, tmp_path)["fact_order_item"].rows_read == 0
    after = files(tmp_path)
    assert {path for path in before if path.startswith("table=fact")} == {
        path for path in before if path.startswith("table=fact") and before[path] == after[path]
    }
    note = tmp_path / "export" / "table=fact_order_item" / "date=2024-03-10" / "_SUCCESS"
    note.touch()
    # A line changes, an order moves to another day, one is new, and one leaves the shop.
    world.order(4, "2024-05-05")
    world.do(
        "update order_item set quantity = 7, updated_at = shop_now() where sales_order_id = 2 and line_number = 1",
        "update sales_order set ordered_at = '2024-03-12', updated_at = shop_now() where id = 1",
        "delete from order_item where sales_order_id = 3",
        "delete from sales_order where id = 3",
    )
    changed = world.capture()
    loads = run_export(world.warehouse_url, tmp_path)
    assert days(tmp_path, "fact_order_item") == {"2024-03-11": 2, "2024-03-12": 1, "2024-05-05": 1}
    assert loads["fact_order_item"].rows_read == 4 and list(note.parent.iterdir()) == [note]
    assert rows(tmp_path, "select order_id, quantity from {fact_order_item} order by order_id, line_id") == [
        ("1", 2), ("2", 7), ("2", 2), ("4", 2),
    ]  # fmt: skip
    # Undone, the days are those of before again; 2024-03-11 alone is neither new nor gone.
    with start_run(world.warehouse_url, flow="undo") as run:
        undo(run, changed.run_id)
    third = files(tmp_path)
    run_export(world.warehouse_url, tmp_path)
    assert days(tmp_path, "fact_order_item") == {"2024-03-10": 1, "2024-03-11": 2, "2024-04-01": 1}
    changed_day = "table=fact_order_item/date=2024-03-11/"
    assert not [path for path in {*files(tmp_path)} & {*third} if path.startswith(changed_day)]
    # A day that somebody has removed comes back by the next export.
    shutil.rmtree(tmp_path / "export" / changed_day)
    assert run_export(world.warehouse_url, tmp_path)["fact_order_item"].rows_read == 2
    assert days(tmp_path, "fact_order_item") == {"2024-03-10": 1, "2024-03-11": 2, "2024-04-01": 1}
    assert len(list((tmp_path / "export" / changed_day).iterdir())) == 1
    # Dimensions are whole, as of the day of the export, and once.
    assert len(list((tmp_path / "export" / "table=dim_customer").rglob("*.parquet"))) == 1


def test_change_by_hand_that_is_committed_after_a_later_one_was_exported_is_exported(
    world: Pipeline, tmp_path: Path
) -> None:
    run_export(world.warehouse_url, tmp_path)
    change = "update dwh.fact_order_item set quantity = 70 where order_id = "
    with connect(world.warehouse_url) as open_since:
        open_since.execute(change + "'1'")
        world.warehouse.execute(change + "'3'")
        run_export(world.warehouse_url, tmp_path)
    quantities = (
        "select order_id, quantity::integer from {fact_order_item} where line_id = '1' order by order_id"
    )
    assert rows(tmp_path, quantities) == [("1", 2), ("2", 2), ("3", 70)]
    assert run_export(world.warehouse_url, tmp_path)["fact_order_item"].rows_read > 0
    assert rows(tmp_path, quantities) == [("1", 70), ("2", 2), ("3", 70)]
    assert run_export(world.warehouse_url, tmp_path)["fact_order_item"].rows_read == 0


def test_whole_tables_of_an_earlier_day_make_room_for_those_of_today(world: Pipeline, tmp_path: Path) -> None:
    run_export(world.warehouse_url, tmp_path)
    folder = tmp_path / "export" / "table=dim_customer"
    (today,) = folder.iterdir()
    yesterday = folder / "date=2024-01-01"
    today.rename(yesterday)
    (file,) = yesterday.iterdir()
    manifest = tmp_path / "export" / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["tables"]["dim_customer"]["days"] = {
        "2024-01-01": {"path": f"table=dim_customer/date=2024-01-01/{file.name}", "rows": 2, "values_lost": 0}
    }
    manifest.write_text(json.dumps(content))
    run_export(world.warehouse_url, tmp_path)
    assert list(folder.iterdir()) == [today]
    # Another warehouse, or an older state of this one, exports everything again.
    content["load_id"] += 10**9
    manifest.write_text(json.dumps(content))
    assert run_export(world.warehouse_url, tmp_path)["fact_order_item"].rows_read > 0


def test_readers_see_one_export_or_the_next_while_it_is_published_or_killed(
    world: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported() -> tuple[Any, ...]:
        """Facts with their days, and a sum by customer, of one version."""
        version = (tmp_path / "export").resolve()
        return tuple(
            tuple(rows(tmp_path, query, version))
            for query in (
                "select order_id, line_id, quantity, date::text from {fact_order_item} order by 1, 2, 4",
                "select customer.customer_id, sum(quantity)::int from {fact_order_item} "
                "join {dim_customer} as customer using (customer_key) group by 1 order by 1",
            )
        )

    world.capture()
    run_export(world.warehouse_url, tmp_path)
    before = exported()
    world.do(
        "update sales_order set ordered_at = '2024-03-12', updated_at = shop_now() where id = 1",
        "update order_item set quantity = quantity + 1, updated_at = shop_now() where sales_order_id <= 2",
    )
    world.capture()
    for call in ("link", "symlink", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, Mock(side_effect=KeyboardInterrupt))
            run_export(world.warehouse_url, tmp_path)
        assert exported() == before
    seen: list[Any] = []
    with ThreadPoolExecutor() as pool:
        exporting = pool.submit(run_export, world.warehouse_url, tmp_path)
        while not exporting.done():
            seen.append(exported())
        exporting.result()
    after = exported()
    assert seen[0] == before and {*seen} <= {before, after}
    query = (
        "select order_id, line_id, quantity, ordered_at::date::text from dwh.fact_order_item order by 1, 2, 4"
    )
    assert list(after[0]) == world.rows(query) != list(before[0])
    world.do("update sales_order set ordered_at = '2024-03-10', updated_at = shop_now() where id = 1")
    world.capture()


@pytest.mark.slow
def test_export_whose_process_is_killed_while_it_writes_leaves_the_one_before(
    mart_world: MartWorld, tmp_path: Path
) -> None:
    run_export(mart_world.warehouse_url, tmp_path)
    before = files(tmp_path)
    program = "import sys; from tests.integration.test_export import run_export; run_export(*sys.argv[1:])"
    shown = (tmp_path / "export").resolve()
    # So that everything is written again.
    (shown / "manifest.json").unlink()
    process = subprocess.Popen([sys.executable, "-c", program, mart_world.warehouse_url, str(tmp_path)])
    while not [
        one for one in tmp_path.glob(".export-versions/*/table=fact_weblog/*/*") if shown not in one.parents
    ]:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert files(tmp_path) == before
    run_export(mart_world.warehouse_url, tmp_path)
    assert {Path(path).parent for path in files(tmp_path)} == {Path(path).parent for path in before}
    assert len(files(tmp_path)) == len(before)


def test_two_exports_at_once_are_refused(world: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", world.warehouse_url)
    monkeypatch.setenv("DWH_SHOP_URL", world.shop_url)

    with session_lock(world.warehouse, "export"):
        refused = command.run("export")
    assert refused.returncode == 1 and "export" in refused.stderr and "Traceback" not in refused.stderr
    assert not Path("lake/export").exists()
    done = command.run("export")
    assert done.returncode == 0, done.stderr
    assert (Path("lake/export") / "manifest.json").exists()


def test_row_that_is_larger_than_a_block_is_written(
    world: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.export.parquet.BLOCK_BYTES", 4096)
    world.warehouse.execute("update dwh.dim_product set name = repeat('long', 10000) where product_id = '1'")
    try:
        run_export(world.warehouse_url, tmp_path)
    finally:
        world.warehouse.execute("update dwh.dim_product set name = 'Hammer' where product_id = '1'")
    assert rows(tmp_path, "select length(name) from {dim_product} where product_id = '1'") == [(40000,)]


def test_reports_in_another_database_are_replaced_in_one_transaction(
    mart_world: MartWorld, empty_database_url: Callable[[], str]
) -> None:
    other = empty_database_url()

    def write() -> None:
        with start_run(mart_world.warehouse_url, flow="export-tables") as run:
            export_reports(run, other)

    def content(name: str) -> list[Any]:
        with psycopg.connect(other) as connection:
            cursor = connection.execute(sql.SQL("select * from {}").format(sql.Identifier(SCHEMA, name)))
            return sorted(map(repr, cursor.fetchall()))

    write()
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("create role export_reader")
        try:
            connection.execute(
                f"grant select on {SCHEMA}.top_sellers to export_reader; "
                f"alter table {SCHEMA}.total_sales add gone integer; "
                f"grant select (currency, gone) on {SCHEMA}.total_sales to export_reader"
            )
            connection.execute(
                f"create table {SCHEMA}.gone (); comment on table {SCHEMA}.gone is 'Before. {MARK}'; "
                f"create table {SCHEMA}.own as select 1 as mine"
            )
            connection.execute(f"delete from {SCHEMA}.top_sellers")
            write()
            # Privileges stay, and tables of others; a report that is none any longer goes.
            readable = (
                f"select has_table_privilege('export_reader', '{SCHEMA}.top_sellers', 'select'), array_agg(attname) "
                f"from pg_attribute where attrelid = '{SCHEMA}.total_sales'::regclass and attnum > 0 "
                "and has_column_privilege('export_reader', attrelid, attnum, 'select')"
            )
            assert connection.execute(readable).fetchone() == (True, ["currency"])
            tables = connection.execute(
                "select relname from pg_class where relnamespace = %s::regnamespace and relkind = 'r'",
                [SCHEMA],
            )
            assert {name for (name,) in tables} == {"own", *(mart.name for mart in answers())}
            assert content("own") == ["(1,)"]
            for mart in answers():
                shown = mart_world.mart(mart.shown).itertuples(index=False, name=None)
                assert len(content(mart.name)) == len(list(shown))
            before = content("top_sellers")
            connection.execute(f"create view mine as select * from {SCHEMA}.top_sellers")
            with pytest.raises(ReportsNotWritten, match="view mine depends on"):
                write()
            assert content("top_sellers") == before
            connection.execute("drop view mine")
            for kind, name, made in (
                ("table", "top_sellers", "select 1"),
                ("view", "top_sellers", "select 1"),
                ("table", "top_sellers (new)", "select 1"),
                ("domain", "top_sellers", "integer"),
            ):
                connection.execute(
                    f"alter table if exists {SCHEMA}.top_sellers rename to kept; "
                    f'create {kind} {SCHEMA}."{name}" as {made}'
                )
                with pytest.raises(ReportsNotWritten, match=f"There is a {re.escape(name)} in"):
                    write()
                connection.execute(
                    f'drop {kind} {SCHEMA}."{name}"; alter table if exists {SCHEMA}.kept rename to top_sellers'
                )
        finally:
            connection.execute("drop owned by export_reader; drop role export_reader")
        connection.execute(f"comment on schema {SCHEMA} is 'mine'")
        with pytest.raises(ReportsNotWritten, match="no export has made it"):
            write()


def test_reports_wait_for_who_reads_one_and_name_them(
    mart_world: MartWorld, empty_database_url: Callable[[], str]
) -> None:
    other = empty_database_url()
    messages: list[str] = []

    def write(wait_seconds: float) -> None:
        with start_run(mart_world.warehouse_url, flow="export-tables") as run:
            export_reports(run, other, messages.append, wait_seconds)

    write(0)
    count = f"select count(*) from {SCHEMA}.top_sellers".encode()
    with psycopg.connect(other, application_name="a BI tool") as reader, ThreadPoolExecutor() as pool:
        before = reader.execute(count).fetchall()
        # The reader and those that come later read what was there before.
        with pytest.raises(
            ReportsNotWritten, match=f"{SCHEMA}.top_sellers is locked by .*a BI tool.*idle in it"
        ):
            write(0)
        writing = pool.submit(write, 120)
        while not messages:
            time.sleep(0.05)
            assert not writing.done()
        with psycopg.connect(other) as another:
            another.execute("set statement_timeout = '60s'")
            assert another.execute(count).fetchall() == reader.execute(count).fetchall() == before
        reader.rollback()
        writing.result(120)
    (message,) = messages
    assert message.startswith(f"waiting up to 120 s for {SCHEMA}.top_sellers, which is locked by ")


def test_wrong_url_of_the_other_database_is_named_without_its_password(world: Pipeline) -> None:
    with (
        start_run(world.warehouse_url, flow="export-tables") as run,
        pytest.raises(ConnectionFailed) as failure,
    ):
        export_reports(run, "postgresql://loader:very-secret@127.0.0.1:1/reports")
    assert "loader@127.0.0.1:1/reports" in str(failure.value)
    assert "DWH_EXPORT_URL" in str(failure.value)
    assert "very-secret" not in str(failure.value)


def test_folder_that_cannot_be_written_is_named(world: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file")
    with pytest.raises(destination.ExportFailed, match="Not a directory"):
        run_export(world.warehouse_url, tmp_path)
