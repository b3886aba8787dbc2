"""Every form of URL that libpq takes works in every command; what cannot work is refused in a sentence."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.diagnostics import examine
from flows.engine import DELAYS
from stack.postgres import EmbeddedPostgres
from tests import command
from tests.pipeline import Pipeline
from tests.pooler import pooler
from warehouse.db.connection_errors import connection_error, is_of_statement, is_transient
from warehouse.db.connections import connect, read_only_transaction, without_password
from warehouse.db.roles import LOADER, OWNER, READER
from warehouse.db.schema_version import ensure_migrated, revision_of
from warehouse.errors import AccessRefused, ConnectionFailed, UnsuitableDatabase
from warehouse.extract.copy_stream import copy_out
from warehouse.migrations import revisions
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.report.write import write
from warehouse.runs.audit import start_run
from warehouse.settings import Settings

ROOT = Path(__file__).parents[2]
Login = Callable[[str], str]


@pytest.fixture
def login(postgres: EmbeddedPostgres) -> Iterator[Login]:
    """Makes a login, which may create roles, the owner of a database: the URL of that database in, the login's out."""
    made: list[tuple[str, str]] = []

    def make(url: str, *, owns: bool = True) -> str:
        name = f"login_{uuid.uuid4().hex[:10]}"
        made.append((name, url))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create role {} login createrole password 'p@ss:w/ rd%'").format(sql.Identifier(name))
            )
            if owns:
                connection.execute(
                    sql.SQL("alter database {} owner to {}").format(
                        *map(sql.Identifier, (connection.info.dbname, name))
                    )
                )
        return make_conninfo(url, user=name, password="p@ss:w/ rd%")

    yield make
    for name, url in made:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in ("reassign owned by {} to current_user", "drop owned by {}", "drop role {}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


@contextmanager
def service_file(folder: Path, name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service of libpq that leads to `url`."""
    lines = [f"{key}={value}" for key, value in conninfo_to_dict(url).items()]
    (folder / "pg_service.conf").write_text("\n".join([f"[{name}]", *lines, ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(folder / "pg_service.conf"))
    yield f"service={name}"


def test_each_form_of_a_url_works_in_every_command(
    empty_database_url: Callable[[], str],
    warehouse_template: str,
    shop_url: str,
    login: Login,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    administrator = empty_database_url()
    parts = conninfo_to_dict(login(administrator))
    # Roles belong to the server: where another warehouse, here the template, has made them, an administrator grants
    # the owner's.
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute(sql.SQL("grant dwh_owner to {}").format(sql.Identifier(str(parts["user"]))))
    user, password, host, port, database = (
        quote(str(parts[name]), safe="") for name in ("user", "password", "host", "port", "dbname")
    )
    forms = {
        "several hosts, the first down, and a password with every sign": f"postgresql://{user}:{password}@127.0.0.1:1,{host}:{port}/{database}",
        "options": f"postgres://{user}:{password}@{host}:{port}/{database}?options=-c%20work_mem%3D5MB&application_name=mine",
        "keywords and values": make_conninfo(**parts),
    }
    with service_file(tmp_path, "warehouse", make_conninfo(**parts), monkeypatch) as service:
        forms["the name of a service"] = service
        for form, url in forms.items():
            revisions.upgrade(url)
            assert revisions.current(url) == revisions.head(), form
            with closing(Pipeline(shop_url, url)) as pipeline:
                pipeline.capture()
                assert pipeline.run_states()[-1] == ("ingest-shop", "succeeded", None)
            write(url, tmp_path / "report.html")
            findings = examine(settings(shop_url, url))
            assert [one.what for one in findings if one.about == "warehouse" and one.verdict != "ok"] == [], (
                form
            )
        with connect(forms["options"]) as connection:
            assert connection.execute("show work_mem").fetchone() == ("5MB",)
            assert connection.execute("show application_name").fetchone() == ("dwh",)
        for arguments in (["migrate"], ["status"], ["run", "shop"]):
            environment = {
                **os.environ,
                "DWH_WAREHOUSE_URL": forms["several hosts, the first down, and a password with every sign"],
                "DWH_SHOP_URL": shop_url,
                "DWH_HOME": str(tmp_path),
            }
            done = command.run(*arguments, environment=environment)
            assert done.returncode == 0, done.stderr


def test_tls_that_the_server_does_not_speak_fails_at_once(warehouse_url: str, shop_url: str) -> None:
    started = time.monotonic()
    environment = {
        **os.environ,
        "DWH_WAREHOUSE_URL": f"{warehouse_url}?sslmode=require",
        "DWH_SHOP_URL": shop_url,
    }
    for source, warehouse in (
        (shop_url, f"{warehouse_url}?sslmode=require"),
        (f"{shop_url}?sslmode=require", warehouse_url),
    ):
        environment |= {"DWH_WAREHOUSE_URL": warehouse, "DWH_SHOP_URL": source}
        done = command.run("run", "shop", environment=environment)
        assert done.returncode == 2
        assert "server does not support SSL, but SSL was required." in done.stderr
        assert "Turn TLS on at the server" in done.stderr
        assert "retrying" not in done.stderr and "server up" not in done.stderr
    assert time.monotonic() - started < sum(DELAYS) + 120


FAILED = 'connection failed: connection to server at "db", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (FAILED + "server does not support SSL, but SSL was required", "Turn TLS on at the server"),
        (FAILED + "SSL error: certificate verify failed", "sslrootcert=FILE in DWH_SHOP_URL"),
        (FAILED + 'FATAL:  no pg_hba.conf entry for host "h", user "a", database "b", no encryption', "pg_hba.conf"),
        (FAILED + 'FATAL:  password authentication failed for user "a"', "Correct user and password in DWH_SHOP_URL."),
        (FAILED + 'FATAL:  role "a" is not permitted to log in', "Correct user and password in DWH_SHOP_URL."),
        (FAILED + 'FATAL:  database "b" does not exist', "create database NAME encoding 'UTF8'"),
        (FAILED + 'FATAL:  permission denied for database "b"', "grant connect on database"),
        (FAILED + "FATAL:  unsupported startup parameter: options", "ignore_startup_parameters"),
        (FAILED + 'FATAL:  unrecognized configuration parameter "nix"', "Correct `options` in DWH_SHOP_URL."),
        ('connection is bad: definition of service "b" not found', "~/.pg_service.conf"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "name of the host in DWH_SHOP_URL"),
        ('connection is bad: invalid sslmode value: "nix"', "Correct DWH_SHOP_URL."),
    ],
)  # fmt: skip
def test_refusal_is_not_retried_and_says_what_to_correct(message: str, hint: str) -> None:
    error = connection_error(psycopg.OperationalError(message), "postgresql://a@db:5432/b", "DWH_SHOP_URL")
    assert isinstance(error, AccessRefused) and not is_transient(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    "message",
    [
        FAILED + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        FAILED + "FATAL:  the database system is starting up",
        FAILED + "FATAL:  sorry, too many clients already",
        FAILED + "session is read-only",
        "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
        "connection timeout expired",
        'connection is bad: connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory',
        FAILED + "FATAL:  Passwort-Authentifizierung",
    ],
)
def test_failure_that_may_pass_is_retried(message: str) -> None:
    error = connection_error(psycopg.OperationalError(message), "postgresql://a@db:5432/b", "DWH_SHOP_URL")
    assert isinstance(error, ConnectionFailed) and is_transient(error)
    assert error.hint.startswith("Is the server up, and are host and port in DWH_SHOP_URL right?")


def test_each_of_several_hosts_says_why_it_could_not_be_reached(postgres: EmbeddedPostgres) -> None:
    url = f"postgresql://nobody:x@127.0.0.1:1,127.0.0.1:{postgres.port}/nix"
    with pytest.raises(ConnectionFailed) as failed:
        connect(url)
    assert failed.value.what == (
        f"Cannot connect to postgresql://nobody@127.0.0.1:1,127.0.0.1:{postgres.port}/nix: "
        f'127.0.0.1:1: Connection refused; 127.0.0.1:{postgres.port}: password authentication failed for user "nobody".'
    )
    with pytest.raises(AccessRefused):
        connect(f"postgresql://nobody:x@127.0.0.1:{postgres.port},127.0.0.1:{postgres.port}/nix")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ana:s3cret@a:1,b:2/x?sslpassword=s3cret", "postgresql://ana@a:1,b:2/x"),
        ("postgresql://ana:s3cret@a,b/x", "postgresql://ana@a:5432,b:5432/x"),
        ("host=/run/pg user=ana password=s3cret dbname=x", "postgresql://ana@%2Frun%2Fpg:5432/x"),
        ("service=shop password=s3cret", "service shop"),
    ],
)
def test_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_search_path_of_role_or_database_changes_nothing(
    empty_database_url: Callable[[], str], shop_url: str
) -> None:
    url = empty_database_url()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            "create schema app",
            "alter database {} set search_path = app, mart, dwh, raw, public",
        ):
            connection.execute(sql.SQL(statement).format(sql.Identifier(connection.info.dbname)))
    revisions.upgrade(url)
    with closing(Pipeline(shop_url, url)) as pipeline:
        pipeline.open_shop()
        pipeline.order(1, "2024-03-10")
        pipeline.capture()
        assert pipeline.facts() == [("1", "1")]
    assert [
        one for one in examine(settings(shop_url, url)) if one.about == "warehouse" and one.verdict != "ok"
    ] == []
    with psycopg.connect(url) as connection:
        assert (
            connection.execute("select from pg_class where relnamespace = 'app'::regnamespace").rowcount == 0
        )


# Whose migration has made the roles of the server.
@pytest.mark.usefixtures("warehouse_template")
def test_closed_public_schema_is_named_before_anything_is_changed_and_works_once_it_is_granted(
    empty_database_url: Callable[[], str], login: Login
) -> None:
    url = empty_database_url()
    ann = login(url, owns=False)
    user = conninfo_to_dict(ann)["user"]
    with psycopg.connect(url, autocommit=True) as connection:
        database = connection.info.dbname
        connection.execute("revoke all on schema public from public")
    with pytest.raises(AccessRefused) as refused:
        revisions.upgrade(ann)
    statements = [
        f"grant create on database {database} to {user}",
        f"grant usage, create on schema public to {user}",
        f"grant {OWNER} to {user}",
    ]
    assert (
        refused.value.what
        == f"User {user} is missing 3 privileges to migrate the warehouse {without_password(ann)}."
    )
    assert (
        refused.value.hint
        == f"Let an administrator of the server run there: {'; '.join(statements)}; then run `dwh migrate` again."
    )
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("select from pg_namespace where nspname = 'audit'").rowcount == 0
        for statement in statements:
            connection.execute(statement.encode())
    revisions.upgrade(ann)
    ensure_migrated(ann)


def test_error_of_a_login_that_may_not_use_schema_public_names_the_missing_grant(
    warehouse_url: str, login: Login
) -> None:
    with psycopg.connect(warehouse_url, autocommit=True) as connection:
        connection.execute("revoke all on schema public from public")
    ann = login(warehouse_url, owns=False)
    with pytest.raises(AccessRefused, match="usage on schema public is not granted") as refused:
        ensure_migrated(ann)
    assert (
        refused.value.hint
        == f"Let the warehouse's owner run there: grant usage on schema public to {conninfo_to_dict(ann)['user']}."
    )
    revisions.upgrade(warehouse_url)
    with psycopg.connect(warehouse_url, autocommit=True) as connection:
        for role in (LOADER, READER):
            connection.execute(f"set role {role}".encode())
            assert revision_of(connection) == revisions.head()
            connection.execute("reset role")


def test_roles_that_another_login_has_made_are_asked_for(
    empty_database_url: Callable[[], str], warehouse_url: str, login: Login
) -> None:
    ann = login(empty_database_url())
    user = conninfo_to_dict(ann)["user"]
    with pytest.raises(AccessRefused) as refused:
        revisions.upgrade(ann)
    assert f"grant {OWNER} to {user}" in refused.value.hint


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_warehouse_in_another_encoding_is_refused(postgres: EmbeddedPostgres, encoding: str) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(
            f"create database {name} template template0 encoding '{encoding}' locale 'C' locale_provider libc".encode()
        )
        try:
            for attempt in (revisions.upgrade, ensure_migrated):
                with pytest.raises(UnsuitableDatabase) as refused:
                    attempt(postgres.url(name))
                assert refused.value.what.startswith(
                    f"The warehouse's database {name} has the encoding {encoding}"
                )
            with psycopg.connect(postgres.url(name)) as untouched:
                assert untouched.execute("select from pg_namespace where nspname = 'audit'").rowcount == 0
        finally:
            connection.execute(f"drop database {name} with (force)".encode())


def test_servers_that_are_too_old_are_refused_by_run_and_doctor_alike(shop: Pipeline) -> None:
    with pooler(shop.warehouse_url, "session", reported={"server_version": "15.4"}) as old:
        with pytest.raises(UnsuitableDatabase, match=r"runs PostgreSQL 15\.4; 16 or newer is needed"):
            ensure_migrated(old.url)
        wrong = next(one for one in examine(settings(shop.shop_url, old.url)) if one.verdict == "wrong")
        assert "runs PostgreSQL 15.4; 16 or newer is needed" in wrong.what
    with pooler(shop.shop_url, "session", reported={"server_version": "12.9"}) as old:
        with pytest.raises(
            UnsuitableDatabase, match=r"Source 'shop' runs PostgreSQL 12\.9; 13 or newer is needed"
        ):
            shop.capture(shop_url=old.url)
        wrong = next(one for one in examine(settings(old.url, shop.warehouse_url)) if one.verdict == "wrong")
        assert "Source 'shop' runs PostgreSQL 12.9; 13 or newer is needed" in wrong.what
    with pooler(shop.shop_url, "session", reported={"server_version": "15.4"}) as older:
        shop.order(1, "2024-03-10")
        shop.capture(shop_url=older.url)
        assert shop.facts() == [("1", "1")]
        (finding,) = [one for one in examine(settings(older.url, shop.warehouse_url)) if "15.4" in one.what]
        assert (finding.about, finding.verdict) == ("source shop", "note")


def settings(shop_url: str, warehouse_url: str) -> Settings:
    return Settings(_env_file=None).with_source_url("shop", shop_url).with_warehouse_url(warehouse_url)


def test_connection_that_its_server_ended_for_idling_is_lost_and_no_fault_of_the_statement(
    warehouse_url: str,
) -> None:
    with connect(warehouse_url) as connection, connect(warehouse_url, autocommit=True) as other:
        connection.execute("set local idle_in_transaction_session_timeout = '50ms'")
        is_there = "select from pg_stat_activity where pid = %s"
        while other.execute(is_there, [connection.info.backend_pid]).rowcount:
            time.sleep(0.05)
        with pytest.raises(psycopg.Error) as error:
            connection.execute("select 1")
    assert is_transient(error.value) and not is_of_statement(error.value)


def _cut(connection: psycopg.Connection) -> None:
    """Let a connection end as a proxy in between ends it: without a word."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def test_each_end_notices_within_two_minutes_that_the_other_one_is_gone(
    shop_url: str, warehouse_url: str
) -> None:
    """A machine without power says nothing: by default, its locks would stay for two hours."""
    with (
        connect(warehouse_url) as writer,
        connect(make_conninfo(warehouse_url, keepalives_idle=5)) as hasty,
        read_only_transaction("shop", shop_url, application_name="dwh capture") as reader,
    ):
        for connection in (writer, hasty, reader):
            assert connection.execute(
                "select current_setting('tcp_keepalives_idle')::int + current_setting('tcp_keepalives_count')::int "
                "* current_setting('tcp_keepalives_interval')::int"
            ).fetchone() == (120,)
        for connection, seconds in ((writer, 120), (hasty, 65), (reader, 120)):
            with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as client:
                idle, interval, count = (
                    client.getsockopt(socket.IPPROTO_TCP, option)
                    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                )
            assert idle + interval * count == seconds


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.execute("select 1"),
        lambda connection: list(copy_out(connection, sql.SQL("copy (select 1) to stdout").format())),
    ],
)
def test_connection_that_is_cut_is_named_and_tried_again(
    shop: Pipeline, use: Callable[[psycopg.Connection], object]
) -> None:
    with (
        pytest.raises(ConnectionFailed, match=r"to source 'shop' \(postgresql://.*\) was lost: ") as source,
        read_only_transaction("shop", shop.shop_url, application_name="test") as reader,
    ):
        _cut(reader)
        use(reader)
    with (
        start_run(shop.warehouse_url, flow="ingest-shop") as run,
        pytest.raises(
            ConnectionFailed, match=r"to the warehouse \(postgresql://.*\) was lost: "
        ) as warehouse,
        run.session("stage") as writer,
    ):
        _cut(writer)
        use(writer)
    for error in (source, warehouse):
        assert is_transient(error.value) and error.value.__cause__ and is_transient(error.value.__cause__)
        assert "\n" not in error.value.what and "safe to run again" in error.value.hint


def test_reconcile_names_the_warehouse_that_its_connection_was_lost_to(captured: Pipeline) -> None:

    def end(_: str) -> None:
        captured.warehouse.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() "
            "and application_name = 'dwh reconcile' and state = 'idle in transaction'"
        )

    with (
        start_run(captured.warehouse_url, flow="reconcile") as run,
        pytest.raises(ConnectionFailed, match=r"to the warehouse \(postgresql://.*\) was lost: terminating"),
    ):
        reconcile_source(run, captured.source, captured.shop_url, repair=False, progress=end)


def test_limit_of_a_source_that_ends_a_statement_is_named_with_what_to_do(shop: Pipeline) -> None:
    with (
        pytest.raises(
            UnsuitableDatabase, match=r"source 'shop' \(postgresql://.*\) ended a statement: "
        ) as limit,
        read_only_transaction("shop", shop.shop_url, application_name="test") as reader,
    ):
        reader.execute("set local temp_file_limit = 0; set local work_mem = '64kB'")
        reader.execute(
            "select count(*) from (select distinct n::text from generate_series(1, 100000) as n) as t"
        )
    assert "temp_file_limit" in limit.value.what and "alter role" in limit.value.hint
    # Of another connection within it is none of the source's.
    with (
        pytest.raises(psycopg.errors.QueryCanceled),
        read_only_transaction("shop", shop.shop_url, application_name="test") as reader,
    ):
        reader.execute("select 1")
        shop.warehouse.execute("set statement_timeout = '10ms'; select pg_sleep(10)")
