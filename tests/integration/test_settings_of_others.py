"""Settings that role or database give to sessions change no value, at the source or in the warehouse."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.pipeline import Pipeline, Row, copy_of_shop
from warehouse.extract.limits import ReadLimits
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Table

SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "TimeZone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "search_path": "nowhere",
    "statement_timeout": "300ms",
    "lock_timeout": "300ms",
    "idle_in_transaction_session_timeout": "300ms",
    "idle_session_timeout": "300ms",
}
# Triggers that write the change log would not fire.
WAREHOUSE_SETTINGS = SETTINGS | {"session_replication_role": "replica"}
# Values of which the text depends on settings, and keys with what strings escape.
THING = r"""
    create table thing (
        id text collate "C" primary key, updated_at timestamp default localtimestamp, span interval, bytes bytea,
        double float8, single float4, day date, moment timestamptz, texts text[], spans interval[], doubles float8[],
        period tstzrange
    );
    create index on thing (updated_at);
    insert into thing
    select
        number || '\"''', timestamp '2024-01-01' + number * interval '1 hour',
        number * interval '-1 month 3 days 04:05:06.7',
        decode(md5(number::text) || '5c27', 'hex'), number / 3.0, number / 7.0, date '2024-03-01' + number,
        '2024-03-31 01:30+00'::timestamptz + number * interval '13 hours', array['a\b', null, 'NULL', number::text],
        array[interval '1 day -2:00', null], array[number / 3.0, 'NaN', null],
        tstzrange('2024-03-31 01:30+00', null)
    from generate_series(1, 3000) as number
"""


@pytest.fixture
def disturbed(shop_url: str, warehouse_url: str) -> Iterator[Pipeline]:
    """A shop and a warehouse whose databases have settings of others; the test's own sessions have ours."""
    for url, settings in ((shop_url, SETTINGS), (warehouse_url, WAREHOUSE_SETTINGS)):
        with psycopg.connect(url, autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(
                    sql.SQL("alter database {} set {} = {}").format(
                        *map(sql.Identifier, (connection.info.dbname, name)), sql.Literal(value)
                    )
                )
    with closing(Pipeline(shop_url, warehouse_url)) as pipeline:
        yield pipeline


def test_settings_of_the_databases_change_no_value(disturbed: Pipeline, tmp_path: Path) -> None:
    copy_of_shop("mall", tmp_path)
    conform = tmp_path / "mall" / "conform" / "customer.sql"
    digits = r"regexp_replace(customer.name, '\D', '', 'g') || coalesce(('{null}'::text[])[1], '') as name,"
    conform.write_text(conform.read_text().replace("customer.name,", digits))
    declared = read_declaration(tmp_path / "mall")
    thing = Table("mall", "thing", "public", ("id",), "updated_at")
    disturbed.source = replace(declared, tables=(*declared.tables, thing))
    disturbed.limits = ReadLimits(scan_rows=0, verify_within=timedelta(microseconds=1), range_rows=500)
    disturbed.open_shop()
    disturbed.do(THING, "update customer set name = 'Ana 7'")

    def both() -> tuple[list[Row], list[Row]]:
        rows = 'select {} from {} order by id collate "C"'
        columns = (
            "id, updated_at, span, bytes, double, single, day, moment, texts, spans, doubles::text, period"
        )
        return (
            disturbed.shop.execute(rows.format(columns, "thing").encode()).fetchall(),
            disturbed.warehouse.execute(
                rows.format(columns, "raw.mall_thing where not _is_deleted").encode()
            ).fetchall(),
        )

    disturbed.capture()
    there, here = both()
    assert there == here and len(here) == 3000
    disturbed.do(
        "update customer set name = 'Bea 5', updated_at = now()",
        "update thing set span = span * 2, texts = array[null, 'NULL'], updated_at = now() where id < '2'",
        # These are found by comparison alone.
        "update thing set single = single * 1.0001, bytes = bytes || decode('5c', 'hex') where id > '9'",
        "delete from thing where id like '55%'",
    )
    captured = disturbed.capture()
    there, here = both()
    assert there == here and len(here) == 3000 - 11
    assert captured.loads["raw.mall_thing"].rows_found_by_checksum == 111
    assert [version[1] for version in disturbed.versions("customer", "name")] == ["7", "5"]
    logged = disturbed.rows(
        "select operation, run_id from audit.change_log where table_name = 'dwh.dim_customer'"
    )
    assert logged == [("update", captured.run_id)]
