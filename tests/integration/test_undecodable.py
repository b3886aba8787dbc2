"""A source in SQL_ASCII, or in an encoding with holes: bytes that are no text are refused, replaced or escaped."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests.integration.test_capture import last, only
from tests.pipeline import Pipeline
from warehouse.errors import SourceError, UndecodableText
from warehouse.reconcile.reconcile import reconcile_source, stop_on_differences
from warehouse.runs.audit import start_run
from warehouse.sources.source import SchemaPolicy, Source, UndecodablePolicy

Open = Callable[[str], Pipeline]


@pytest.fixture
def database_in(pipeline: Pipeline, postgres: EmbeddedPostgres) -> Iterator[Open]:
    """Makes a database of another encoding: its name in, a shop that is loaded into the test's warehouse out."""
    made: list[Pipeline] = []

    def create(encoding: str) -> Pipeline:
        name = f"{pipeline.shop.info.dbname}_{len(made)}"
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            statement = sql.SQL("create database {} encoding {} locale 'C' template template0")
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(encoding)))
        made.append(Pipeline(postgres.url(name), pipeline.warehouse_url))
        return made[-1]

    yield create
    for one in made:
        name = one.shop.info.dbname
        one.close()
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def things(policy: UndecodablePolicy, key: tuple[str, ...] = ("id",)) -> Source:
    """A source of one table with this policy."""
    source = only("thing", key=key, cursor=None)
    return replace(source, tables=(replace(source.tables[0], undecodable=policy),))


def fill(shop: Pipeline) -> None:
    """Texts of all kinds: valid ones of one to four bytes, and others."""
    shop.do(
        "create table thing (id int primary key, name text, short varchar(6), padded char(6), note json, tags text[])",
        "create function raw_text(bytes bytea) returns text language sql as "
        "$$ select convert_from(bytes, 'SQL_ASCII') $$",
    )
    for number, raw in enumerate(
        (
            "c3a9 e282ac f09f9880 41".replace(" ", ""),
            "4a6f73e9",
            "e9",
            "c3",
            "e282",
            "c0af",
            "eda080",
            "f4908080",
            "c3a9e9c3a9",
            "5c786539",
        ),
        start=1,
    ):
        shop.do(
            f"insert into thing select {number}, raw, left(raw, 6), left(raw, 6), "
            f"case when {number} < 10 then ('[\"' || raw || '\"]')::json end, array[raw, 'b c'] "
            f"from raw_text('\\x{raw}') as raw"
        )


REPLACED = ["é€😀A", "Jos�", "�", "�", "��", "��", "���", "����", "é�é", "\\xe9"]
ESCAPED = [
    "é€😀A", "Jos\\xe9", "\\xe9", "\\xc3", "\\xe2\\x82", "\\xc0\\xaf", "\\xed\\xa0\\x80", "\\xf4\\x90\\x80\\x80",
    "é\\xe9é", "\\xe9",
]  # fmt: skip


def test_text_that_is_none_is_refused_with_table_column_and_key(database_in: Open) -> None:
    shop = database_in("SQL_ASCII")
    fill(shop)
    shop.do("delete from thing where id not in (1, 4, 10)", "update thing set short = null, padded = null")
    shop.source = things("refuse")
    with pytest.raises(UndecodableText) as error:
        shop.capture()
    assert error.value.what == (
        "Column name of public.thing of source 'shop', key (4): its bytes are no text in UTF-8; "
        "the database has encoding SQL_ASCII."
    )
    assert 'undecodable = "replace"' in error.value.hint and "evolve" not in error.value.hint
    assert "[tables.thing]" in error.value.hint
    shop.do("delete from thing where id = 4")
    shop.capture()
    assert shop.rows("select id, name from raw.shop_thing order by id") == [(1, "é€😀A"), (10, "\\xe9")]
    # Later, too.
    shop.do("update thing set tags = array['a', raw_text('\\xff')] where id = 10")
    with pytest.raises(UndecodableText, match=r"Column tags of public.thing .* key \(10\)"):
        shop.capture()


@pytest.mark.parametrize(("policy", "texts"), [("replace", REPLACED), ("escape", ESCAPED)])
def test_text_that_is_none_is_kept_as_the_policy_says(
    database_in: Open, policy: UndecodablePolicy, texts: list[str]
) -> None:
    shop = database_in("SQL_ASCII")
    fill(shop)
    shop.source = things(policy)
    messages: list[str] = []
    run = shop.capture(progress=messages.append)
    rows = shop.rows("select name, short, padded, note ->> 0, tags from raw.shop_thing order by id")
    assert [row[0] for row in rows] == texts
    assert [row[3] for row in rows] == [*texts[:9], None]
    assert [row[4] for row in rows] == [[text, "b c"] for text in texts]
    assert rows[1][1:3] == (texts[1], texts[1])
    assert {one.verdict for one in run.verifications} == {"equal"}
    note = f"column name: bytes that are no text in 8 rows (undecodable: {policy})"
    assert f"thing: {note}" in messages and note in (run.loads["raw.shop_thing"].note or "")
    assert shop.capture().changes() == {}
    # Changes and deletes are found as everywhere.
    shop.do("delete from thing where id = 2", "update thing set name = raw_text('\\x41e8') where id = 3")
    run = shop.capture()
    assert last(shop, "thing") == {"updated": 1, "deleted": 1}
    assert shop.rows("select name from raw.shop_thing where id = 3") == [
        ("A�" if policy == "replace" else "A\\xe8",)
    ]
    with start_run(shop.warehouse_url, flow="reconcile") as reconciling:
        stop_on_differences(reconcile_source(reconciling, shop.source, shop.shop_url, repair=False))


def test_keys_are_escaped_so_that_two_do_not_become_one(database_in: Open) -> None:
    shop = database_in("SQL_ASCII")
    shop.do("create table thing (id text primary key)")
    shop.do(
        "insert into thing select convert_from(bytes, 'SQL_ASCII') "
        "from unnest(array['\\xe8'::bytea, '\\xe9'::bytea]) as bytes"
    )
    shop.source = things("replace")
    shop.capture()
    assert shop.rows("select id from raw.shop_thing order by id") == [("\\xe8",), ("\\xe9",)]
    shop.do("delete from thing where id = convert_from('\\xe8', 'SQL_ASCII')")
    shop.capture()
    assert shop.rows("select id from raw.shop_thing where not _is_deleted") == [("\\xe9",)]


@pytest.mark.parametrize(("policy", "text"), [("refuse", None), ("replace", "a?€"), ("escape", "a\\x81€")])
def test_byte_without_a_character_of_a_single_byte_encoding(
    database_in: Open, policy: UndecodablePolicy, text: str | None
) -> None:
    shop = database_in("WIN1252")
    shop.do("create table thing (id int primary key, name text)")
    shop.do("insert into thing select 1, 'a' || chr(129) || '€'")
    shop.source = things(policy)
    if text is None:
        with pytest.raises(
            UndecodableText, match=r"Column name of public.thing .* key \(1\).* encoding WIN1252"
        ):
            shop.capture()
    else:
        run = shop.capture()
        assert shop.rows("select name from raw.shop_thing") == [(text,)]
        assert {one.verdict for one in run.verifications} == {"equal"}


def test_policy_changes_nothing_where_everything_is_text(database_in: Open) -> None:
    shop = database_in("LATIN1")
    shop.do("create table thing (id int primary key, name varchar(5), padded char(8))")
    shop.do("insert into thing values (1, 'ñandú', 'Müller')")
    shop.source = things("replace")
    run = shop.capture()
    assert run.loads["raw.shop_thing"].note is None
    assert shop.rows("select name, padded from raw.shop_thing") == [("ñandú", "Müller  ")]
    assert shop.rows(
        "select format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = 'raw.shop_thing'::regclass and attname in ('name', 'padded') order by attnum"
    ) == [("character varying(5)",), ("character(8)",)]


@pytest.mark.parametrize(("changed_type", "helps"), [("ignore", True), ("evolve", False)])
def test_evolve_is_advised_where_it_helps(pipeline: Pipeline, changed_type: str, helps: bool) -> None:
    pipeline.do(
        "create table thing (id int primary key, name varchar(3))", "insert into thing values (1, 'abc')"
    )
    source = only("thing", cursor=None)
    policy = SchemaPolicy(changed_type=changed_type)  # type: ignore[arg-type]
    source = replace(source, tables=(replace(source.tables[0], on_schema_change=policy),))
    pipeline.capture(source=source)
    pipeline.do("alter table thing alter id type bigint", "insert into thing values (3000000000, 'abc')")
    if helps:
        with pytest.raises(SourceError, match='changed_type = "evolve"'):
            pipeline.capture(source=source)
    else:
        pipeline.capture(source=source)
        assert pipeline.rows("select max(id) from raw.shop_thing") == [(3000000000,)]
