"""Roles: flows run with the loader's rights, analysts read, marketing sees no personal data."""

import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from cli.diagnostics import examine
from tests.archive import load
from tests.command import run
from tests.pipeline import Pipeline, content
from tests.weblog_lake import BRAZIL, line, lines, make_lake
from warehouse import weblogs
from warehouse.archive.place import Archive
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.db.roles import LOADER, MARKETING, OWNER, READER, ROLES
from warehouse.errors import AccessRefused, LockHeld, TableMissing, WarehouseLocked
from warehouse.load import marts
from warehouse.migrations import revisions
from warehouse.rebuild.as_of import rebuild_as_of
from warehouse.rebuild.rebuild import rebuild
from warehouse.reconcile.reconcile import reconcile_source, reconcile_weblog_files
from warehouse.runs.audit import start_run
from warehouse.runs.lock_watch import watch_locks
from warehouse.settings import Settings
from warehouse.weblogs.storage.partitions import Partitions

Login = Callable[..., str]


@pytest.fixture
def login(warehouse_url: str) -> Iterator[Login]:
    """Makes logins of this test alone: roles in, URL out."""
    made: list[sql.Identifier] = []
    urls: list[str] = []

    def make(url: str, *roles: str, acts_as: str | None = None) -> str:
        name = f"login_{uuid.uuid4().hex[:10]}"
        with connect(url, autocommit=True) as connection:
            who = sql.Identifier(name)
            connection.execute(sql.SQL("create role {} login password 'secret'").format(who))
            for role in roles:
                connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), who))
            if acts_as:
                connection.execute(sql.SQL("alter role {} set role to {}").format(who, sql.Literal(acts_as)))
        made.append(who)
        urls.append(url)
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))

    yield make
    for who in made:
        for url in dict.fromkeys([*urls, warehouse_url]):
            with connect(url, autocommit=True) as connection:
                connection.execute(sql.SQL("reassign owned by {} to current_user").format(who))
                connection.execute(sql.SQL("drop owned by {}").format(who))
        with connect(warehouse_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop role {}").format(who))


@pytest.fixture
def narrow(pipeline: Pipeline, login: Login) -> Iterator[Pipeline]:
    """The pipeline with the loader's rights on the warehouse."""
    url = login(pipeline.warehouse_url, LOADER, acts_as=LOADER)
    narrow = Pipeline(pipeline.shop_url, url)
    narrow.open_shop()
    narrow.order(1, "2024-03-10")
    yield narrow
    narrow.close()


def reader_of(shop_url: str, login: Login) -> str:
    """A login that may read the shop's tables and nothing else."""
    url = login(shop_url, "pg_read_all_data")
    with connect(url, autocommit=True) as shop, pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.execute("delete from order_item")
    return url


@pytest.mark.each_major
def test_the_shop_is_loaded_with_the_loaders_rights_and_a_read_only_login(
    narrow: Pipeline, login: Login
) -> None:
    shop = reader_of(narrow.shop_url, login)
    narrow.capture(shop_url=shop)
    narrow.do(
        "update customer set state = 'Jujuy', updated_at = now()",
        "alter table product add column color text",
        "delete from order_item",
    )
    narrow.order(2, "2024-04-10")
    narrow.capture(shop_url=shop)
    with start_run(narrow.warehouse_url, flow="refresh-marts") as run:
        assert [load.table_name for load in marts.refresh(run)]
    assert narrow.run_states() == [("ingest-shop", "succeeded", None)] * 2 + [
        ("refresh-marts", "succeeded", None)
    ]
    assert [row[:2] for row in narrow.facts()] == [("2", "1")]
    owners = narrow.rows("select distinct tableowner from pg_tables where schemaname in ('raw', 'staging')")
    assert owners == [(LOADER,)]


def test_another_loader_goes_on_with_what_one_has_made(
    narrow: Pipeline, login: Login, warehouse_url: str
) -> None:
    narrow.capture()
    other = Pipeline(narrow.shop_url, login(warehouse_url, LOADER, acts_as=LOADER))
    other.order(2, "2024-04-10")
    other.capture()
    other.close()
    assert len(narrow.facts()) == 2


@pytest.mark.parametrize("role", [LOADER, OWNER, "superuser"])
def test_a_loader_goes_on_with_what_a_login_has_made_that_acts_as_itself(
    pipeline: Pipeline, login: Login, role: str
) -> None:
    url = pipeline.warehouse_url
    first = Pipeline(pipeline.shop_url, url if role == "superuser" else login(url, role))
    first.open_shop()
    first.order(1, "2024-03-10")
    first.capture()
    with connect(first.warehouse_url) as connection:
        Partitions(connection).make(["BR"])
    first.capture()
    loader = Pipeline(pipeline.shop_url, login(url, LOADER, acts_as=LOADER))
    loader.do(
        "alter table product add column color text", "update product set name = 'x', updated_at = now()"
    )
    loader.order(2, "2024-04-10")
    loader.capture()
    first.order(3, "2024-05-10")
    first.capture()
    assert len(loader.facts()) == 3
    owners = "select distinct tableowner from pg_tables where schemaname in ('raw', 'staging') or tablename ~ '_br$'"
    assert loader.rows(owners) == [(LOADER,)]
    first.close()
    loader.close()


def test_a_table_that_the_loader_may_not_replace_is_named_with_login_and_next_step(
    narrow: Pipeline, warehouse_url: str
) -> None:
    narrow.capture()
    before = content(narrow.warehouse)
    with connect(warehouse_url, autocommit=True) as administrator:
        administrator.execute("alter table raw.shop_customer owner to current_user")
        narrow.do("update customer set state = 'Jujuy', updated_at = now()")
        user = urlsplit(narrow.warehouse_url).username
        refused = (
            rf"postgresql://{user}@.* refuses its user: (must be owner of|permission denied for) table shop_"
        )
        with pytest.raises(AccessRefused, match=refused) as raised:
            narrow.capture()
        assert content(administrator) == before
        assert "`dwh doctor`" in raised.value.hint and f"role {OWNER} run `dwh migrate`" in raised.value.hint
        findings = [one.what for one in examine(Settings(warehouse_url=narrow.warehouse_url))]
        revisions.upgrade(warehouse_url)
    (foreign,) = [what for what in findings if what.startswith("Tables that loads replace belong to ")]
    assert foreign.endswith(f"whose rights {LOADER} has not: raw.shop_customer.")
    narrow.capture()
    assert narrow.versions("customer", "state")[-1][1] == "Jujuy"


def test_a_dropped_mart_is_named_with_the_login_that_may_create_it(
    narrow: Pipeline, login: Login, warehouse_url: str, tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "archive")
    load(narrow, archive)
    with connect(warehouse_url, autocommit=True) as administrator:
        administrator.execute("drop table mart.sales_by_day cascade")
    dropped = 'is not as it was migrated: relation "mart.sales_by_day" does not exist'
    with (
        pytest.raises(TableMissing, match=dropped) as raised,
        start_run(narrow.warehouse_url, flow="refresh-marts") as run,
    ):
        marts.refresh(run)
    assert f"role {OWNER} create it: `dwh rebuild --all`" in raised.value.hint
    with start_run(login(warehouse_url, OWNER), flow="rebuild") as run:
        rebuild(run, archive, [narrow.source])
    with start_run(narrow.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    load(narrow, archive)
    assert narrow.rows("select count(*) from mart.sales_by_day") == [(1,)]


@pytest.mark.each_major
def test_copies_that_only_an_owner_may_index_again_are_left_to_one(
    narrow: Pipeline, login: Login, warehouse_url: str
) -> None:
    narrow.capture()

    def repair(url: str) -> None:
        with start_run(url, flow="reconcile") as run:
            reconcile_source(run, narrow.source, narrow.shop_url, repair=True)

    with connect(warehouse_url, autocommit=True) as administrator:
        before = content(administrator)
        if administrator.info.server_version >= 170000:
            # As before PostgreSQL 17, which has no such privilege.
            administrator.execute("revoke maintain on dwh.dim_customer from dwh_loader")
        index = "update pg_index set indisready = {} where indrelid = 'dwh.dim_customer'::regclass"
        administrator.execute(index.format("false").encode())
        administrator.execute(
            "insert into dwh.dim_customer select * from dwh.dim_customer where customer_key > 0"
        )
        administrator.execute(index.format("true").encode())
        with pytest.raises(
            AccessRefused, match=r"dwh\.dim_customer has rows twice, and .* may not build"
        ) as raised:
            repair(narrow.warehouse_url)
        assert f"role {OWNER} run `dwh reconcile --repair`" in raised.value.hint
        customers = content(administrator)["dwh.dim_customer"]
        repair(login(warehouse_url, OWNER))
        assert customers != before["dwh.dim_customer"] == content(administrator)["dwh.dim_customer"]


def test_the_state_of_a_run_is_built_by_whoever_may_create_schemas(
    narrow: Pipeline, login: Login, warehouse_url: str, tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "archive")
    run_id = load(narrow, archive)

    def build(url: str) -> dict[str, int]:
        with start_run(url, flow="rebuild") as run:
            return rebuild_as_of(run, archive, [], run_id, ["dwh.dim_customer"])

    with pytest.raises(
        AccessRefused, match=f"may not make schema rebuild_{run_id}: permission denied"
    ) as raised:
        build(narrow.warehouse_url)
    statement = raised.value.hint.partition("or: ")[2].removesuffix(".")
    assert statement.startswith("grant create on database ") and statement.endswith(f" to {LOADER}")
    assert build(warehouse_url) == {f"rebuild_{run_id}.dim_customer": 2}
    with pytest.raises(AccessRefused, match=f"may not make schema rebuild_{run_id}"):
        build(narrow.warehouse_url)


def test_a_login_that_acts_as_the_loader_says_who_holds_a_lock(narrow: Pipeline) -> None:
    with (
        connect(narrow.warehouse_url, autocommit=True, application_name="dwh other") as other,
        session_lock(other, "source shop"),
        connect(narrow.warehouse_url, autocommit=True) as connection,
        # The server hides from it since when.
        pytest.raises(LockHeld, match=rf"loaded by dwh other \(server process {other.info.backend_pid}\)\."),
        session_lock(connection, "source shop"),
    ):
        pass


def test_a_login_that_acts_as_the_loader_gives_up_waiting_for_a_table(
    narrow: Pipeline, warehouse_url: str
) -> None:
    with (
        connect(warehouse_url) as holder,
        connect(narrow.warehouse_url, application_name="dwh ingest-shop publishes") as waiting,
    ):
        holder.execute("lock table dwh.dim_customer")
        with (
            pytest.raises(WarehouseLocked, match=r"dwh\.dim_customer of the warehouse is locked by "),
            watch_locks(narrow.warehouse_url, "ingest-shop", 0.5, lambda _: None, 0.1),
        ):
            # A server that does not cancel it ends it later, with another error.
            waiting.execute("set statement_timeout = '60s'")
            waiting.execute("update dwh.dim_customer set name = 'y'")
        assert holder.execute("select 1").fetchone() == (1,)


def test_the_loader_rebuilds_mirrors_and_what_was_emptied_and_leaves_the_rest_to_the_owner(
    narrow: Pipeline, login: Login, warehouse_url: str, tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "archive")
    load(narrow, archive)
    before = content(narrow.warehouse)

    def run_rebuild(url: str, *tables: str) -> None:
        with start_run(url, flow="rebuild") as run:
            rebuild(run, archive, [narrow.source], tables)

    with connect(warehouse_url, autocommit=True) as administrator:
        administrator.execute("drop table raw.shop_customer; truncate dwh.dim_product cascade")
        tables = ("raw.shop_customer", "dwh.dim_product", "dwh.fact_order_item", "dwh.fact_inventory_day")
        run_rebuild(narrow.warehouse_url, *tables)
        assert content(narrow.warehouse) == before
        administrator.execute("drop table dwh.dim_customer cascade")
        with pytest.raises(AccessRefused, match=r"may not create what is missing: .* Nothing was changed"):
            run_rebuild(narrow.warehouse_url, "dwh.dim_customer")
        owner = login(warehouse_url, OWNER, acts_as=OWNER)
        run_rebuild(owner, "dwh.dim_customer")
        assert content(narrow.warehouse) == before
        owners = (
            "select tableowner from pg_tables where tablename in ('shop_customer', 'dim_customer') order by 1"
        )
        assert administrator.execute(owners.encode()).fetchall() == [(LOADER,), (OWNER,)]
    # Who loads and who reads may go on.
    load(narrow, archive)
    with connect(login(warehouse_url, READER), autocommit=True) as reader:
        assert reader.execute("select count(*) from dwh.dim_customer").fetchone() == (2,)


@pytest.mark.each_major
def test_the_loader_makes_partitions(narrow: Pipeline) -> None:
    with connect(narrow.warehouse_url) as connection:
        Partitions(connection).make(["BR"])
    assert narrow.rows("select tableowner from pg_tables where tablename = 'fact_weblog_br'") == [(LOADER,)]


@pytest.mark.each_major
def test_web_logs_are_loaded_reclassified_removed_and_reconciled_with_the_loaders_privileges(
    warehouse_url: str, login: Login, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path, login(warehouse_url, LOADER, acts_as=LOADER))
    lake.put("a.log", lines(1, 5) + line(6, address=BRAZIL, user="ana") + b"nonsense\n")
    with start_run(lake.settings.warehouse, flow="ingest-weblogs", dry_run=True) as run:
        told = weblogs.dry_run_load(lake.settings, run)
    first = lake.load()
    assert (told.loads[0].rows_inserted, told.loads[0].rows_quarantined) == (6, 1)
    lake.append("a.log", lines(7, 8) + line(9).replace(b"/2026:", b"/2001:"))
    second = lake.load()
    assert (first.rows_loaded, first.rows_quarantined, second.rows_loaded) == (6, 1, 3)
    lake.assert_consistent()
    url = lake.settings.warehouse
    with start_run(url, flow="reclassify-weblogs") as run:
        assert weblogs.reclassify(lake.settings, run).rows_moved == 0
    with start_run(url, flow="reconcile") as run:
        assert {verdict.verdict for verdict in reconcile_weblog_files(run, repair=True)} == {"equal"}
    kept = lake.settings.model_copy(update={"weblog_retention_days": 5000})
    with start_run(url, flow="remove-old-weblogs") as run:
        assert weblogs.retain(kept, run, confirm_deletes=True).rows == 1
    assert lake.rows(
        "select distinct tableowner from pg_tables where tablename like 'fact\\_weblog\\_%'"
    ) == [(LOADER,)]


def test_commands_refuse_a_login_without_their_rights_without_a_traceback(
    warehouse_url: str, login: Login, tmp_path: Path
) -> None:
    environment = {"DWH_WAREHOUSE_URL": login(warehouse_url, READER), "DWH_HOME": str(tmp_path)}
    # By psycopg, through SQLAlchemy, and in a run.
    for command in ("status", "report", "run marts"):
        done = run(*command.split(), environment=environment)
        message = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 2, message
        assert " refuses its user: permission denied for table " in message
        assert "Traceback" not in message and "--debug" not in message


@pytest.mark.each_major
def test_reconcile_names_a_dropped_table_with_who_may_create_it(
    warehouse_url: str, login: Login, tmp_path: Path
) -> None:
    with connect(warehouse_url, autocommit=True) as administrator:
        administrator.execute("drop table dwh.fact_weblog cascade")
    url = login(warehouse_url, LOADER, acts_as=LOADER)
    done = run(
        "reconcile", "--source", "weblogs", environment={"DWH_WAREHOUSE_URL": url, "DWH_HOME": str(tmp_path)}
    )
    message = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1
    assert 'is not as it was migrated: relation "dwh.fact_weblog" does not exist' in message
    assert f"role {OWNER} create it: `dwh rebuild --all`" in message


@pytest.mark.each_major
@pytest.mark.parametrize(
    "statement",
    [
        "drop table dwh.dim_customer",
        "alter table audit.run add column x int",
        "create table mart.x (a int)",
        "create role x",
    ],
)
def test_the_loader_may_not_change_the_warehouse_itself(statement: str, narrow: Pipeline) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        narrow.warehouse.execute(statement.encode())


@pytest.mark.each_major
def test_the_reader_reads_dwh_and_mart_and_changes_nothing(
    narrow: Pipeline, login: Login, warehouse_url: str
) -> None:
    narrow.capture()
    with connect(login(warehouse_url, READER), autocommit=True) as reader:
        assert reader.execute("select count(*) from dwh.fact_order_item").fetchone() == (1,)
        assert reader.execute("select customer_name from mart.sales").fetchone() == ("Ana",)
        for statement in (
            "delete from dwh.fact_order_item",
            "select * from raw.shop_customer",
            "select * from audit.run",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement.encode())


@pytest.mark.each_major
def test_marketing_sees_masked_values_only(narrow: Pipeline, login: Login, warehouse_url: str) -> None:
    narrow.capture()
    with connect(login(warehouse_url, MARKETING), autocommit=True) as marketing:
        assert marketing.execute(
            "select name_masked, email_masked, document_number_masked, birth_year_date from mart.customer_masked"
        ).fetchall() == [("A***", "***@example.com", "***22", date(1990, 1, 1))]
        assert marketing.execute(
            "select customer_name_masked, net_amount from mart.sales_masked"
        ).fetchall() == [("A***", 190)]
        assert marketing.execute("select count(*) from mart.monthly_sales").fetchone() is not None
        for table in (
            "mart.sales",
            "mart.weblog",
            # Has the keys of customers and leads.
            "mart.quarantined_row",
            "dwh.dim_customer",
            "raw.shop_customer",
            "audit.quarantine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                marketing.execute(f"select * from {table}".encode())
        readable = marketing.execute(
            """
            select mart.relname from pg_class as mart
            where mart.relnamespace = 'mart'::regnamespace and mart.relkind in ('v', 'r')
                and has_table_privilege(mart.oid, 'select')
            """
        ).fetchall()
    personal = narrow.rows("select distinct table_name from audit.personal_data where schema_name = 'mart'")
    assert not {name for (name,) in readable} & {name for (name,) in personal}
    assert {"sales_masked", "customer_masked", "sales_by_month"} <= {name for (name,) in readable}


def test_every_labelled_column_exists_and_says_so_in_its_comment(narrow: Pipeline) -> None:
    narrow.capture()
    unlabelled = narrow.rows(
        """
        select labelled.schema_name, labelled.table_name, labelled.column_name
        from audit.personal_data as labelled
        left join pg_attribute as had
            on had.attrelid = to_regclass(labelled.schema_name || '.' || labelled.table_name)
            and had.attname = labelled.column_name
        where had.attname is null
            or labelled.schema_name <> 'raw' and col_description(had.attrelid, had.attnum) not like '%personal data%'
        """
    )
    assert unlabelled == []


@pytest.mark.each_major
def test_migrations_by_a_login_without_superuser_rights(database: Callable[[str], str], login: Login) -> None:
    url = database("template1")
    migrator = login(url, OWNER, LOADER)
    with connect(url, autocommit=True) as connection:
        name = urlsplit(migrator).username
        connection.execute(
            sql.SQL("grant create on database {} to {}; grant create on schema public to {}").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(str(name)), sql.Identifier(str(name))
            )
        )
    revisions.upgrade(migrator)
    revisions.upgrade(migrator)
    with connect(url, autocommit=True) as connection:
        owners = connection.execute(
            "select distinct tableowner from pg_tables where schemaname in ('dwh', 'audit', 'mart') order by 1"
        ).fetchall()
    assert {owner for (owner,) in owners} == {LOADER, OWNER}


@pytest.mark.each_major
def test_roles_outlive_the_downgrade_of_one_of_two_warehouses(
    warehouse_url: str, database: Callable[[str], str], warehouse_template: str
) -> None:
    other = database(warehouse_template)
    revisions.downgrade(other, "base")
    with connect(warehouse_url, autocommit=True) as connection:
        kept = connection.execute(
            "select rolname from pg_roles where rolname = any(%s)", [list(ROLES)]
        ).fetchall()
    assert {name for (name,) in kept} == set(ROLES)
    revisions.upgrade(other)


def test_without_roles_and_the_privilege_to_create_them_the_error_names_the_statements(
    warehouse_url: str, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warehouse.db import roles

    monkeypatch.setattr(roles, "ROLES", {**ROLES, "dwh_nobody": "Nobody."})
    url = login(warehouse_url, OWNER)
    with connect(url) as connection, pytest.raises(AccessRefused, match="create role dwh_nobody nologin;"):
        roles.ensure_roles(connection)
