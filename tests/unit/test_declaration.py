"""Source declarations: what they say is read strictly, what they get wrong is reported with file, place and remedy."""

import textwrap
from pathlib import Path

import pytest

from warehouse.errors import DeclarationError, SettingsError
from warehouse.sources.joins import Equality, Join, parse_join, paths, without_table
from warehouse.sources.registry import declared_sources, read_source
from warehouse.sources.source import NAME_BYTES, Source, Table, fitted

GOOD = """
description = "A mall."
schema = "sales"

[tables.shopper]
key = ["id"]
cursor = "changed"

[tables.town]
schema = "geo"
key = ["code"]

[entities.customer]
from = "shopper"
parents = { town = ["town_code"] }
unmapped_columns = ["email"]
"""


def declare(folder: Path, text: str, name: str = "mall") -> Source:
    conform = folder / name / "conform"
    conform.mkdir(parents=True)
    for entity in ("customer", "order_item"):
        (conform / f"{entity}.sql").write_text("select 1")
    (folder / name / "source.toml").write_text(textwrap.dedent(text))
    return read_source(name, folder)


def test_declaration_says_tables_entities_and_parents(tmp_path: Path) -> None:
    source = declare(tmp_path, GOOD)
    shopper = Table("mall", "shopper", "sales", ("id",), "changed")
    town = Table("mall", "town", "geo", ("code",), None)
    assert (source.name, source.description, source.tables) == ("mall", "A mall.", (shopper, town))
    customer = source.entities["customer"]
    assert (customer.table, customer.joins, customer.unmapped_columns) == (
        shopper,
        (Join("town", ("shopper",), '"town"."code" = "shopper"."town_code"'),),
        frozenset({"email"}),
    )
    assert (shopper.mirror, str(town)) == ("mall_shopper", "geo.town")


def test_files_of_editors_on_windows_are_read_if_they_are_utf_8(tmp_path: Path) -> None:
    declared = declare(tmp_path, GOOD)
    files = (tmp_path / "mall" / "source.toml", tmp_path / "mall" / "conform" / "customer.sql")
    for path in files:
        path.write_text(path.read_text().replace("\n", "\r\n"), "utf-8-sig")
    assert read_source("mall", tmp_path) == declared
    for path in reversed(files):
        path.write_bytes(path.read_bytes() + "\n-- Preis in €".encode("cp1252"))
        with pytest.raises(DeclarationError) as error:
            read_source("mall", tmp_path)
        line = path.read_bytes().count(b"\n") + 1
        assert error.value.what == f"{path} is not UTF-8 text: byte 0x80 in line {line}."
        assert error.value.hint == "Save it as UTF-8."


@pytest.mark.parametrize("name", sorted(declared_sources()))
def test_every_source_that_is_shipped_can_be_read(name: str) -> None:
    assert read_source(name).entities


def test_error_about_an_unknown_source_names_those_that_are_known() -> None:
    with pytest.raises(SettingsError) as error:
        read_source("shoop")
    assert error.value.what == "There is no source 'shoop'."
    assert error.value.hint.startswith(f"Declared are: {', '.join(sorted(declared_sources()))}.")


TABLES = '[tables.shopper]\nkey = ["id"]\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[tables", "is not TOML", ""),
        ("", "'tables' is missing", "[tables.NAME]"),
        ("tables = 3", "'tables' must be a table", "[tables.NAME]"),
        ("[tables]\nshopper = 1", "[tables.shopper]: 'shopper' must be a table", "[tables.shopper]"),
        ("[tables.shopper]\n", "[tables.shopper]: 'key' is missing", 'key = ["…"]'),
        ("[tables.shopper]\nkey = []\n", "[tables.shopper]: 'key' is empty", 'key = ["…"]'),
        ('[tables.shopper]\nkey = "id"\n', "'key' must be a list of column names", 'key = ["…"]'),
        ('[tables.shopper]\nkey = [1]\n', "'key' must be a list of column names", 'key = ["…"]'),
        ('[tables.shopper]\nkey = [""]\n', "'key' must be a list of column names", 'key = ["…"]'),
        ('[tables.shopper]\nkey = ["a", "b", "a"]\n', "'key' names column 'a' twice", "each column once"),
        ("description = 5\n" + TABLES, "source.toml: 'description' must be text", 'description = "…"'),
        ('[tables.shopper]\nkey = ["id"]\ncursor = ["a"]\n', "'cursor' must be a name", 'cursor = "…"'),
        ('[tables.shopper]\nkey = ["id"]\ncurser = "a"\n', "nothing called curser", "columns, cursor, items, key"),
        (
            'on_schema_change = "follow"\n' + TABLES,
            "mall/source.toml [on_schema_change]: new_column cannot be 'follow'",
            "Use 'evolve', 'ignore' or 'stop'",
        ),
        (
            TABLES + '[on_schema_change]\nchanged_type = "evolv"\n',
            "mall/source.toml [on_schema_change]: changed_type cannot be 'evolv'",
            "Use 'evolve', 'ignore' or 'stop'",
        ),
        (
            TABLES + '[on_schema_change]\nrenamed_column = "stop"\n',
            "[on_schema_change]: there is nothing called renamed_column",
            "changed_type, dropped_column, new_column",
        ),
        ("on_schema_change = 1\n" + TABLES, "'on_schema_change' must be a table", "evolve, ignore, stop"),
        ("colour = 1\n" + TABLES, "mall/source.toml: there is nothing called colour", "description, entities"),
        (
            TABLES + '[entities.planet]\nfrom = "shopper"\n',
            "the warehouse has no entity 'planet'",
            "customer, distribution_center",
        ),
        (TABLES + "[entities.customer]\n", "[entities.customer]: 'from' is missing", "Name the table"),
        (TABLES + '[entities.customer]\nfrom = "x"\n', "names table 'x', which is not declared", "Add [tables.x]"),
        (TABLES + '[entities.company]\nfrom = "shopper"\n', "[entities.company] has no SQL", "conform/company.sql"),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nunmapped_columns = "x"\n',
            "'unmapped_columns' must be a list",
            "",
        ),
        *(
            (
                f'{TABLES}[entities.customer]\nfrom = "shopper"\nunmapped_columns = ["email", "{name}"]\n',
                f"unmapped_columns names '{name}', which is no column of customer beside its key",
                "acquisition_source, birth_date",
            )
            for name in ("e_mail", "customer_id")
        ),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nlack = ["x"]\n',
            "nothing called lack",
            "from, joins, key, lookups, parents, precedence, relaxed_rules, stale, unmapped_columns",
        ),
        (
            TABLES + '[entities.order_item]\nfrom = "shopper"\n',
            "the key of public.shopper is (id), that of order_item (order_id, line_id)",
            "Name more columns as key of [tables.shopper]",
        ),
        *(
            (
                f'[tables.shopper]\nkey = ["tenant", "id", "day"]\n[entities.{entity}]\nfrom = "shopper"\n{key}\n',
                message,
                hint,
            )
            for entity, key, message, hint in (
                (
                    "customer", "", "the key of public.shopper is (tenant, id, day), that of customer (customer_id)",
                    'make which: key = { customer_id = ["tenant", "id", "day"] }; the SQL delivers several as '
                    "mart.composite_key(…).",
                ),
                (
                    "order_item", "", "that of order_item (order_id, line_id)",
                    'key = { order_id = ["tenant", "id"], line_id = ["day"] };',
                ),
                (
                    "inventory", "key = {}", "that of inventory (product_id, distribution_center_id)",
                    'key = { product_id = ["tenant", "id"], distribution_center_id = ["tenant", "day"] };',
                ),
                *(
                    ("customer", key, "[entities.customer]: 'key' must say which columns make each column", 'key = {')
                    for key in (
                        'key = ["tenant", "id"]', 'key = "id"', "key = { customer_id = [] }",
                        'key = { customer_id = "id" }', 'key = { customer_id = [""] }', "key = { customer_id = [1] }",
                    )
                ),
                (
                    "customer", 'key = { customer_id = ["id", "id"] }', "'customer_id' names column 'id' twice",
                    "Name each column once.",
                ),
                (
                    "customer", 'key = { id = ["tenant"] }',
                    "key leaves out 'customer_id'; the natural key of customer",
                    'As key = { customer_id = ["tenant", "id", "day"] }.',
                ),
                (
                    "customer", 'key = { customer_id = ["tenant"], name = ["id"] }',
                    "key names 'name'; the natural key",
                    'As key = { customer_id = ["tenant", "id", "day"] }.',
                ),
                (
                    "customer", 'key = { customer_id = ["tenant", "ident"] }',
                    "key names 'ident', which is not in the key of public.shopper (tenant, id, day)",
                    "Add it to the key of [tables.shopper]",
                ),
                (
                    "customer", 'key = { customer_id = ["tenant", "id"] }',
                    "key leaves out 'day' of the key of public.shopper",
                    "remove it from the key of [tables.shopper]",
                ),
            )
        ),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nparents = { town = ["a"] }\n',
            "names table 'town', which is not declared",
            "Add [tables.town]",
        ),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nrelaxed_rules = { "name is missing" = "gifts" }\n',
            "[entities.customer]: the reason why 'name is missing' is relaxed is not said",
            '"name is missing" = "…": in 3 words or more.',
        ),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nrelaxed_rules = ["name is missing"]\n',
            "'relaxed_rules' must be a table",
            "[entities.customer.relaxed_rules]",
        ),
        (
            TABLES + '[tables.town]\nkey = ["a", "b"]\n'
            '[entities.customer]\nfrom = "shopper"\nparents = { town = ["a"] }\n',
            "parent town has the key (a, b)",
            "as many columns of shopper",
        ),
        (
            TABLES + '[entities.customer]\nfrom = "shopper"\nparents = { shopper = "id" }\n',
            "[entities.customer]: 'shopper' must be a list of column names",
            "",
        ),
        *(
            (
                f'{TABLES}[tables.town]\nkey = ["a"]\n[tables.road]\nkey = ["a"]\n[entities.customer]\n'
                f'from = "shopper"\njoins = {joins}\n',
                message,
                hint,
            )
            for joins, message, hint in (
                ('{ lake = "true" }', "names table 'lake', which is not declared", "Add [tables.lake]"),
                ("{ town = 5 }", "[entities.customer] joins: 'town' must be an SQL condition", 'town = "…"'),
                ("{ town = [] }", "[entities.customer] joins: 'town' must be an SQL condition", 'town = "…"'),
                ('{ town = "x.a = shopper.b" }', "names table 'x', which is not declared", "shopper, town, road"),
                ('{ town = "a = shopper.b" }', "must compare a column of town with one of another table", '"true"'),
                ('{ town = "town.a = 5" }', "must compare a column of town with one of another table", '"true"'),
                ('{ shopper = "shopper.a = town.a" }', "shopper is the table that the entity is made from", "changed."),
                ('{ town = "town.a = road.b" }', "road, by which town is joined, is not joined to shopper", "Add road"),
                (
                    '{ town = "town.a = road.b", road = "road.b = town.a" }',
                    "the joins of town and road lead to each other",
                    "to shopper",
                ),
                (
                    '{ town = "town.a = road.b", road = ["road.a = shopper.a", "changed.up = road.a"] }',
                    "town is joined by road, which is joined to itself",
                    'town = "true"',
                ),
            )
        ),
        (
            f'{TABLES}[entities.customer]\nfrom = "shopper"\nstale = {{ lake = "frozen" }}\n',
            "names table 'lake', which is not declared",
            "Add [tables.lake]",
        ),
        (
            f'{TABLES}[entities.customer]\nfrom = "shopper"\nstale = {{ shopper = "" }}\n',
            "[entities.customer] stale: 'shopper' must be the reason why it may be",
            "",
        ),
        (
            '[tables."crm.customer"]\nkey = ["id"]\n',
            '[tables."crm.customer"]: a table is declared under a name without a dot',
            '[tables.crm_customer] with schema = "crm" and name = "customer"',
        ),
        (
            f'{TABLES}[tables.buyer]\nname = "shopper"\nkey = ["id"]\n',
            "[tables.shopper] and [tables.buyer] are both public.shopper",
            "Declare it once",
        ),
        (
            TABLES + '[tables.shopper_delta]\nkey = ["id"]\n',
            "shopper and shopper_delta would share staging.mall_shopper_delta",
            "under another name",
        ),
        (
            TABLES + '[tables.customer_changed_keys]\nkey = ["id"]\n[entities.customer]\nfrom = "shopper"\n',
            "customer_changed_keys and entity customer would share staging.mall_customer_changed_keys",
            "under another name",
        ),
    ],
)  # fmt: skip
def test_what_a_declaration_gets_wrong_is_reported(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(DeclarationError) as error:
        declare(tmp_path, text)
    assert message in error.value.what
    assert str(tmp_path / "mall" / "source.toml") in error.value.what
    assert hint in error.value.hint
    assert error.value.exit_code == 2


FEED = """
[feed]
landing = "landing/mall"
bad_records = "bad/mall"
format = "json"
record = "sale"

[tables.sale]
key = ["sale_id"]

[tables.sale.columns]
sale_id = "bigint"
sold_at = "timestamptz"

[tables.line]
items = "lines"
key = ["sale_id", "line_number"]

[tables.line.columns]
article = "text"

[entities.order_item]
from = "line"
parents = { sale = ["sale_id"] }
"""
LINES = FEED[FEED.index("[tables.line]") : FEED.index("[entities")]
LOOKUP = "[entities.order_item.lookups.customer]\n"
# Of the feed, what is replaced and by what; then as above.
WRONG_FEEDS = [
    *(
        (
            'from = "line"\n', f'from = "line"\nkey = {{ order_id = [{order}], line_id = [{line}] }}\n',
            "[entities.order_item]: key puts 'sale_id', which identifies a record, with or after a place in its list",
            "Make the first columns of the natural key of the record's key alone",
        )
        for order, line in (('"sale_id", "line_number"', '"line_number"'), ('"line_number"', '"sale_id"'))
    ),
    ('landing = "landing/mall"\n', "", "[feed]: 'landing' is missing", 'landing = "landing/'),
    ('bad_records = "bad/mall"\n', "", "[feed]: 'bad_records' is missing", 'bad_records = "bad/'),
    ('format = "json"\n', "", "[feed]: 'format' is missing", '"table"'),
    ('record = "sale"\n', "", "[feed]: 'record' is missing", "the records of the files"),
    *(
        ('"landing/mall"', f'"{path}"', f"[feed]: landing cannot be '{path}'", "below DWH_LAKE")
        for path in ("", ".", "/files", "../files", "s3://bucket/files")
    ),
    ('"bad/mall"', '"landing/mall/bad"', "landing and bad_records overlap", 'bad_records = "bad/mall"'),
    ('"landing/mall"', '"archive/mall"', "overlaps with archive of the lake", 'landing = "landing/mall"'),
    ('"landing/mall"', '"landing"', "overlaps with landing/weblogs of the lake", 'landing = "landing/mall"'),
    ('"landing/mall"', '"landing/orders"', "from which feed 'orders' is loaded", "a landing folder of its own"),
    ('"bad/mall"', '"landing/leads/bad"', "from which feed 'leads' is loaded", "a landing folder of its own"),
    ('"json"', '"csv"', "[feed]: format cannot be 'csv'", "'json' or 'table'"),
    ('"json"', '"table"', "rows of a table have no lists", 'format = "json"'),
    ("[feed]", "[feed]\nlandin = 1", "there is nothing called landin", "header_names, ignore, landing"),
    ("[feed]", "[feed]\nsettle_seconds = -1", "settle_seconds cannot be -1", "greater than or equal to 0"),
    ("[feed]", "[feed]\nsettle_seconds = inf", "settle_seconds cannot be inf", "finite number"),
    ("[feed]", "[feed]\ndone_marker = 'no idea'", "done_marker cannot be 'no idea'", "boolean"),
    ("[feed]", "[feed]\ndone_marker = true\nsettle_seconds = 5", "both are declared", "Remove settle_seconds"),
    ("[feed]", '[feed]\nignore = "*.bak"', "'ignore' must be a list of names of files", 'ignore = ["…"]'),
    ("[feed]", '[feed]\ncontract = "mall_sale"', "mall_sale.yml is missing", "remove contract from [feed]"),
    ("[feed]", '[feed]\ndecimal_mark = "."', "'decimal_mark' is for tables", "Remove it"),
    ("[feed]", '[feed]\ndate_formats = ["%d.%m.%Y"]', "'date_formats' is for tables", "Remove it"),
    (
        "[tables.sale]\n",
        '[feed.on_schema_change]\nnew_field = "stop"\n[tables.sale]\n',
        "[feed.on_schema_change]: there is nothing called new_field",
        "changed_type, dropped_column, new_column",
    ),
    ("[feed]", 'on_schema_change = "stop"\n[feed]', "'on_schema_change' is for databases", "under [feed]"),
    ("[feed]", 'owner = 3\n[feed]', "'owner' must be an address", 'owner = "…"'),
    (
        "[tables.sale]\n",
        '[tables.sale]\ncursor = "sold_at"\n',
        "[tables.sale]: 'cursor' is for databases",
        "Remove it",
    ),
    ('"timestamptz"', '"timestamp"', "sold_at cannot be 'timestamp'", "'timestamptz'"),
    ("sold_at =", "xmin =", "[tables.sale]: 'xmin' is a column of the engine", "Rename it"),
    ("sold_at =", f'{"s" * 64} =', "PostgreSQL can have no column", "63 bytes"),
    ("sold_at =", "".join(f'a{n} = "text"\n' for n in range(1500)) + "sold_at =", "tables have 1,600 at most", "SQL"),
    ('article = "text"', 'sale_id = "bigint"', "[tables.line]: 'sale_id' is a column of its key", "Remove it"),
    ('items = "lines"', 'items = "sold_at"', "'sold_at' is a column of sale, too", "declare it once"),
    (
        "[entities.order_item]",
        LINES.replace("tables.line", "tables.row") + "[entities.order_item]",
        "[tables.line] holds the list 'lines', too",
        "Declare it once",
    ),
    ("parents =", 'precedence = ["mall"]\nparents =', "precedence must name 'mall' and another source", "first"),
    ("parents =", 'precedence = ["shop"]\nparents =', "precedence must name 'mall' and another source", "first"),
    (
        "parents =",
        'precedence = ["shopp", "mall"]\nparents =',
        "names source 'shopp', which is not declared",
        "shop",
    ),
    ("parents =", f'{LOOKUP}source = "shopp"\n#', "names source 'shopp', which is not declared", "shop"),
    ("parents =", f'{LOOKUP}source = ["shop", "shopp"]\n#', "names source 'shopp', which is not declared", "shop"),
    ("parents =", f"{LOOKUP}source = []\n#", "[entities.order_item]: 'source' is empty", "a list of sources"),
    ("parents =", f"{LOOKUP}source = 5\n#", "'source' must be a list of sources", 'source = ["…"]'),
    ("parents =", f'{LOOKUP}by = "name"\n#', "'source' is missing", 'source = "…"'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message", "hint"), WRONG_FEEDS)
def test_what_the_declaration_of_a_feed_gets_wrong_is_reported(
    tmp_path: Path, old: str, new: str, message: str, hint: str
) -> None:
    assert old in FEED
    with pytest.raises(DeclarationError) as error:
        declare(tmp_path, FEED.replace(old, new, 1)).record_contract()
    assert message in error.value.what
    assert str(tmp_path / "mall") in error.value.what
    assert hint in error.value.hint


TABLE_FEED = FEED.replace(LINES, "").replace('"json"', '"table"').replace('from = "line"', 'from = "sale"').replace(
    'key = ["sale_id"]', 'key = ["sale_id", "line"]').replace("sale_id =", 'line = "text"\nsale_id =').replace(
    'parents = { sale = ["sale_id"] }', "")  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('date_formats = ["dd.mm.yyyy"]', "'dd.mm.yyyy' in date_formats is no format of dates"),
        ('date_formats = ["%d.%m.%Y", "%d.%m"]', "'%d.%m' in date_formats is no format of dates"),
        ('decimal_mark = ";"', "decimal_mark cannot be ';'"),
        ('date_formats = "%d.%m.%Y"', "'date_formats' must be a list of formats"),
        ('header_names = { sale = ["number"] }', "header_names names 'sale', which is no column of sale"),
        ('header_names = { line = "row" }', "'line' must be a list of names"),
        ('header_names = { line = ["€"] }', "'€' has no letter or digit"),
        ('header_names = { line = ["Sale ID"] }', "the header 'Sale ID' would be sale_id as well as line"),
    ],
)
def test_what_the_declaration_of_a_feed_of_tables_gets_wrong_is_reported(
    tmp_path: Path, lines: str, message: str
) -> None:
    assert declare(tmp_path / "right", TABLE_FEED).record.columns.keys() == {"sale_id", "line", "sold_at"}
    with pytest.raises(DeclarationError) as error:
        declare(tmp_path, TABLE_FEED.replace("[feed]", f"[feed]\n{lines}"))
    assert message in error.value.what


def test_markers_are_no_records_whatever_else_a_feed_ignores(tmp_path: Path) -> None:
    lines = '[feed]\ndone_marker = true\nignore = ["*.bak"]'
    feed = declare(tmp_path, FEED.replace("[feed]", lines)).feed
    assert feed is not None
    assert feed.ignore == ("*.bak", "*.done")


@pytest.mark.parametrize("name", ["my_shop", "Shop", "1shop", "conformed", "source"])
def test_name_of_a_source_cannot_be_mistaken_for_anothers(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeclarationError, match="cannot be the name of a source"):
        declare(tmp_path, GOOD, name)


def test_names_that_are_too_long_are_shortened_without_meeting() -> None:
    assert fitted("n" * NAME_BYTES) == "n" * NAME_BYTES
    names = {fitted("n" * 63 + end) for end in "abc"} | {fitted("é" * 40 + end, 55) for end in "abc"}
    assert len(names) == 6
    assert max(len(name.encode()) for name in names) <= NAME_BYTES
    assert fitted("n" * 64) == fitted("n" * 64)


def test_joins_say_what_they_compare_in_the_words_of_sql() -> None:
    tables = dict.fromkeys(("rate", "Order", "line"))
    text = """rate.currency = "Order".currency and rate.day = ("Order".at)::date and "Order".x = 'a and b.c = d'"""
    join = parse_join("rate", text, tables, "here")
    assert (join.near, join.is_self_join, join.refers_only_to(["currency", "day"])) == (
        ("Order",),
        False,
        False,
    )
    assert join.equalities == (
        Equality("Order", '"Order".currency', "rate.currency"),
        Equality("Order", '("Order".at)::date', "rate.day"),
    )
    assert [without_table(one.near_expression) for one in join.equalities] == ["currency", "(at)::date"]
    chain = [
        parse_join("line", 'line.order_id = "Order".id', tables, "here"),
        parse_join("rate", "rate.day = line.day", tables, "here"),
    ]
    assert list(paths(chain, "rate", "Order")) == [(chain[1], chain[0])]
    assert parse_join("line", "changed.up = line.id", tables, "here").is_grouping is False
    assert parse_join("line", "changed.up = line.up", tables, "here").is_grouping is True
    assert parse_join("rate", "true", tables, "here").near == ()
