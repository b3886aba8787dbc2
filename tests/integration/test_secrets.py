"""Secrets: from the environment or from files, and afterwards nowhere to be found."""

import asyncio
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import psycopg
import pytest
from psycopg import sql

from tests import command
from tests.mailserver import Inbox, mail_server, make_certificate
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import SettingsError, WarehouseError
from warehouse.migrations import revisions
from warehouse.runs.redact import redact
from warehouse.settings import Settings

ROOT = Path(__file__).parents[2]
CANARY = "canary-7f3a-"
# `dwh`, which tries a server that does not answer only once.
WITHOUT_PAUSES = "import flows.engine; flows.engine.DELAYS = (); from cli.main import main; main()"
SHOP, WAREHOUSE, SMTP = (f"{CANARY}{what}" for what in ("shop", "warehouse", "smtp"))


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DWH_WAREHOUSE_URL", raising=False)
    secret = tmp_path / "url"
    secret.write_text("postgresql://a:b@host/warehouse\n")
    monkeypatch.setenv("DWH_WAREHOUSE_URL_FILE", str(secret))
    (tmp_path / ".env").write_text("DWH_WAREHOUSE_URL=postgresql://other/warehouse\n")
    assert Settings.load().warehouse == "postgresql://a:b@host/warehouse"
    monkeypatch.setenv("DWH_WAREHOUSE_URL", "postgresql://c/warehouse")
    with pytest.raises(SettingsError, match="Both DWH_WAREHOUSE_URL and DWH_WAREHOUSE_URL_FILE are set"):
        Settings.load()
    monkeypatch.delenv("DWH_WAREHOUSE_URL")
    secret.unlink()
    with pytest.raises(SettingsError, match=r"DWH_WAREHOUSE_URL_FILE: .* cannot be read: No such file"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at postgresql://ana:s3cret@db:5432/shop now", "at postgresql://ana:…@db:5432/shop now"),
        ("smtp://ana:p@ss/w0rd@host", "smtp://ana:…@host"),
        ("host=db password=s3cret dbname=x", "host=db password=… dbname=x"),
        ("password='s3 \\' cret' x", "password=… x"),
        ("https://example.com/a:b", "https://example.com/a:b"),
        ("10:20 nobody@example.com", "10:20 nobody@example.com"),
    ],
)
def test_passwords_are_taken_out_of_text(text: str, said: str) -> None:
    assert redact(text) == said


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as inbox:
        yield inbox


def with_password(url: str, name: str, password: str) -> str:
    """The URL of a superuser of that name, made here."""
    with connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} superuser login password {}").format(
                sql.Identifier(name), sql.Literal(password)
            )
        )
        place = f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"
    return f"postgresql://{name}:{quote(password)}@{place}"


def test_planted_secrets_are_nowhere_afterwards(
    shop: Pipeline, inbox: Inbox, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = [f"canary_{os.getpid()}_{what}" for what in ("shop", "warehouse")]
    urls = [
        with_password(url, name, password)
        for url, name, password in zip(
            (shop.shop_url, shop.warehouse_url), names, (SHOP, WAREHOUSE), strict=True
        )
    ]
    request.addfinalizer(lambda: drop(names, shop.shop_url, shop.warehouse_url))
    (tmp_path / "warehouse_url").write_text(urls[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "DWH_HOME": str(tmp_path / "home"),
        "DWH_LAKE": str(tmp_path / "lake"),
        "DWH_SHOP_URL": urls[0],
        "DWH_WAREHOUSE_URL_FILE": str(tmp_path / "warehouse_url"),
        "DWH_SMTP_URL": f"smtp://ana:{SMTP}@127.0.0.1:{inbox.port}",
        "DWH_ALERT_TO": "ana@example.com",
    }

    def dwh(*arguments: str, **changes: str) -> str:
        done = command.run(*arguments, environment=environment | changes, program=WITHOUT_PAUSES)
        return done.stdout + done.stderr

    seen: set[str] = set()
    over = threading.Event()

    def look_at_processes() -> None:
        while not over.is_set():
            for process in psutil.process_iter(["cmdline"]):
                seen.add(" ".join(process.info["cmdline"] or []))
            time.sleep(0.05)

    watcher = threading.Thread(target=look_at_processes)
    watcher.start()
    said = [
        dwh("run", "shop"),
        dwh("run", "shop", "--debug", DWH_SHOP_URL=urls[0].replace("127.0.0.1", "127.0.0.2")),
        dwh("run", "shop", "--debug", DWH_SHOP_URL=urls[0].replace(names[0], "nobody")),
        dwh("run", "shop", "--debug", DWH_SHOP_URL=f"postgresql://ana:{SHOP}@[wrong"),
        dwh("doctor", "--send-mail"),
        dwh("doctor", DWH_SHOP_URL=f"nonsense://{SHOP}"),
        dwh("status", "--json"),
        dwh("watchdog"),
    ]
    over.set()
    watcher.join()

    runs = shop.rows(
        "select status, count(*) from audit.run where flow = 'ingest-shop' group by 1 order by 1"
    )
    assert runs == [("failed", 2), ("succeeded", 1)], "a URL that makes no sense begins none"
    for number, text in enumerate(said):
        assert CANARY not in text, f"command {number}"
    assert not [line for line in seen if CANARY in line]
    for message in inbox.messages:
        assert CANARY not in message.as_string()
    assert not [table for table in tables(shop.warehouse) if CANARY in text_of(shop.warehouse, table)]
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in left if CANARY.encode() in path.read_bytes()]


def drop(names: list[str], *urls: str) -> None:
    for url in urls:
        with connect(url, autocommit=True) as connection:
            for name in names:
                connection.execute(
                    sql.SQL("reassign owned by {} to current_user").format(sql.Identifier(name))
                )
    with connect(urls[0], autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def tables(warehouse: psycopg.Connection) -> list[str]:
    rows = warehouse.execute(
        """
        select format('%I.%I', schemaname, tablename) from pg_tables
        where schemaname in ('audit', 'dwh', 'raw', 'staging')
        """
    ).fetchall()
    return [name for (name,) in rows]


def text_of(warehouse: psycopg.Connection, table: str) -> str:
    rows = warehouse.execute(f"select t::text from {table} as t".encode()).fetchall()
    return "\n".join(text for (text,) in rows)


@contextmanager
def tls_before(port: int, certificate: Path) -> Iterator[int]:
    """A port that speaks PostgreSQL's TLS with a certificate, and passes on to a server on `port` built without it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert (await reader.readexactly(8))[4:] == (80877103).to_bytes(4, "big"), "TLS was not asked for"
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            behind = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_tls_to_databases_by_url_is_verified(empty_database_url: Callable[[], str], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    parts = urlsplit(empty_database_url())
    with tls_before(parts.port or 0, certificate) as port:
        place = parts._replace(netloc=f"{parts.username}:{parts.password}@localhost:{port}")

        def url(trusted: Path) -> str:
            return place._replace(query=f"sslmode=verify-full&sslrootcert={trusted}").geturl()

        with connect(url(certificate)) as encrypted:
            assert encrypted.pgconn.ssl_in_use
        # SQLAlchemy's way in, too.
        revisions.upgrade(url(certificate))
        with pytest.raises(WarehouseError, match="certificate verify failed"):
            connect(url(other))
        plain = parts._replace(query=f"sslmode=verify-full&sslrootcert={certificate}").geturl()
        with pytest.raises(WarehouseError, match="server does not support SSL"):
            connect(plain)
