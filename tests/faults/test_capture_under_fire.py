"""Capture among writers that let everything happen at once, in small; `make fault-capture` does it at any size."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests.faults import sabotage
from tests.faults.capturing import moments
from tests.faults.capturing.comparison import Difference
from tests.faults.capturing.harness import Result, run
from tests.faults.capturing.moments import find_overlooked
from tests.faults.capturing.writers import Writers
from tests.pipeline import Pipeline
from warehouse.extract.limits import ReadLimits

DATABASES = ("fire_shop", "fire_naive", "fire_warehouse")


@pytest.fixture
def databases(postgres: EmbeddedPostgres, shop_template: str, warehouse_template: str):  # type: ignore[no-untyped-def]
    for name, template in zip(DATABASES, (shop_template, shop_template, warehouse_template), strict=True):
        postgres.create_database(name, template)
    yield DATABASES
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in DATABASES:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_no_row_is_lost_that_a_plain_cursor_loses(
    postgres: EmbeddedPostgres, databases: tuple[str, str, str], tmp_path: Path
) -> None:
    result = run(postgres, databases, tmp_path, commits=2_000, runs=4)
    assert result.complaints == []
    assert result.commits >= 2_000 and len(result.runs) >= 4
    # Each of these a cursor loses by itself.
    assert all(sum(kind.values()) for kind in (result.naive.lost, result.naive.stale, result.naive.kept))


@pytest.mark.slow
def test_large_tables_hold_everything_once_a_rotation_has_passed(
    postgres: EmbeddedPostgres, databases: tuple[str, str, str], tmp_path: Path
) -> None:
    result = run(postgres, databases, tmp_path, commits=2_000, runs=6, range_rows=50)
    assert result.complaints == []


@pytest.mark.parametrize(
    ("ranges", "rows_found", "complaints"),
    [
        (8, 1, []),
        (8, 0, ["the rotation found nothing: the harness proves nothing"]),
        (7, 1, ["a table has 7 key ranges: too few to be verified in turn"]),
    ],
)
def test_rotation_that_proves_nothing_is_found_out(
    ranges: int, rows_found: int, complaints: list[str]
) -> None:
    kinds = ("long", "prepared", "truncate", "savepoint", "delete", "insert again")
    runs = [{"run_id": 2, "different": 0, "rows_found": rows_found}]
    naive = Difference(lost=Counter(customer=1))
    result = Result(6, dict.fromkeys(kinds, 1), 1.0, runs, [], Difference(), naive, {}, ranges)
    assert result.complaints == complaints


def test_row_that_verification_has_overlooked_is_found_out(
    postgres: EmbeddedPostgres, databases: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody else writes: what was committed before the run began is known to the millisecond.
    monkeypatch.setattr(moments, "COMMITTING", "0 s")
    shop_url, _, warehouse_url = map(postgres.url, databases)
    Writers(shop_url, 500).prepare()
    with closing(Pipeline(shop_url, warehouse_url)) as pipeline:
        pipeline.limits = ReadLimits(scan_rows=0, range_rows=50)
        pipeline.capture()

        def overlooked() -> list[str]:
            return find_overlooked(shop_url, warehouse_url, pipeline.source.tables)

        # Committed since: changed, new, and gone.
        pipeline.do(
            "update customer set state = 'Jujuy' where id between 100 and 200",
            "insert into product select (jsonb_populate_record(product, '{\"id\": 999999}')).* from product limit 1",
            "with gone as (delete from customer where id = 300 returning id) "
            "insert into fault.gone select 'customer', id, 'delete' from gone",
        )
        assert overlooked() == []
        pipeline.warehouse.execute("update raw.shop_customer set state = 'Salta' where id = 350")
        pipeline.warehouse.execute("delete from raw.shop_product where id = 7")
        assert [line.split(",")[0] for line in overlooked()] == ["customer 350", "product 7"]


@pytest.mark.slow
def test_engine_without_its_net_is_found_out(
    postgres: EmbeddedPostgres, databases: tuple[str, str, str], tmp_path: Path
) -> None:
    result = run(postgres, databases, tmp_path, commits=2_000, runs=4, prepare=sabotage.drop_the_net)
    assert result.engine.lost or result.engine.stale
    assert any("VerificationFailed" in failure for failure in result.failures)
    assert any("the engine has" in complaint for complaint in result.complaints)
