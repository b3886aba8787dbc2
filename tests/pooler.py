"""A connection pooler before a PostgreSQL server, as PgBouncer is one: in session, transaction or statement mode."""

import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.conninfo import make_conninfo

Mode = Literal["session", "transaction", "statement"]

ROOT = Path(__file__).parents[1]
# Parse, Bind, Describe, Execute, Close, Flush.
EXTENDED = b"PBDECH"
SSL_REQUESTS = (80877103, 80877104)
REPORTED = (
    "server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone", "integer_datetimes",
    "standard_conforming_strings",
)  # fmt: skip


class Pooler:
    """A pooler in a process of its own: COPY from psycopg does not let other threads of its process work."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process = process
        assert process.stdout is not None
        # Where clients connect to; the pooler asks for no password.
        self.url = make_conninfo(
            url, host="127.0.0.1", port=int(process.stdout.readline()), sslmode="disable"
        )

    def fill(self, count: int) -> None:
        """Open so many server connections, which nobody uses yet."""
        self._ask("fill", count)

    def set_mode(self, mode: Mode) -> None:
        """Work in another mode from the next message of each client on."""
        self._ask("set_mode", mode)

    def await_idle(self) -> None:
        """Wait until no client has a server connection: clients have their answers a moment earlier."""
        self._ask("await_idle")

    def left_behind(self) -> list[dict[str, Any]]:
        """What the next client that is given each idle server connection would find: settings, statements, locks."""
        found: list[dict[str, Any]] = self._ask("left_behind")
        return found

    def _ask(self, name: str, *arguments: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def pooler(
    url: str, mode: Mode, *, round_robin: bool = False, reported: Mapping[str, str] | None = None
) -> Iterator[Pooler]:
    """A pooler before the server of `url`, for the length of the block.

    Between transactions (or sessions) a server connection is idle; the one that became idle last is given out first or,
    with `round_robin`, the one that has been idle longest. `reported` overrides what clients are told of the server.
    """
    command = [sys.executable, "-m", "tests.pooler", json.dumps([url, mode, round_robin, reported or {}])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Pooler(process, url)
    finally:
        process.kill()
        process.communicate()


class _Server:
    """Hands out server connections: the one that became idle last first or, round robin, that which is idle longest."""

    def __init__(self, url: str, mode: Mode, round_robin: bool, reported: Mapping[str, str]) -> None:
        self._url, self.mode, self._round_robin, self._reported = url, mode, round_robin, reported
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._idle: list[psycopg.Connection] = []
        self._opened: list[psycopg.Connection] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode

    def fill(self, count: int) -> None:
        self._idle += [self._take() for _ in range(count)]

    def await_idle(self) -> None:
        give_up_at = time.monotonic() + 120
        while len(self._idle) < sum(not server.closed for server in self._opened):
            assert time.monotonic() < give_up_at, "a client stays in its transaction"
            time.sleep(0.01)

    def left_behind(self) -> list[dict[str, object]]:
        self.await_idle()
        return [
            {
                # Without those that a library brings when it is loaded.
                "settings": dict(
                    server.execute(
                        "select name, setting from pg_settings where name !~ '[.]' and source <> 'client'"
                    )
                ),
                "clock": server.execute("select nullif(current_setting('shop.now', true), '')").fetchone(),
                "statements": server.execute("select name from pg_prepared_statements").fetchall(),
                "tables": server.execute(
                    "select relname from pg_class where relnamespace = pg_my_temp_schema()"
                ).fetchall(),
                "locks": server.execute(
                    "select classid::bigint from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
                ).fetchall(),
            }
            for server in self._idle
        ]

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _take(self) -> psycopg.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop(0 if self._round_robin else -1)
        server = psycopg.connect(self._url, autocommit=True, prepare_threshold=None)
        self._opened.append(server)
        return server

    def _talk(self, client: socket.socket) -> None:
        server: psycopg.Connection | None = None
        with suppress(OSError, psycopg.Error), client:
            if not self._greet(client):
                return
            # Messages that the server has still to answer; the last answer says whether a transaction is open.
            awaited, in_transaction = 0, False
            while True:
                kind, body = _read(client)
                if kind == b"X":
                    break
                if self.mode == "statement" and body[:5].lower() == b"begin":
                    client.sendall(_error("transaction blocks not allowed in statement pooling mode"))
                    break
                server = server or self._take()
                line = socket.socket(fileno=os.dup(server.fileno()))
                line.setblocking(True)
                with line:
                    _send(line, kind, body)
                    awaited += kind in b"QSF"
                    # Messages of the extended protocol belong together up to their Sync.
                    unsynced = kind in EXTENDED
                    # The server may send half a message and hold the rest back until the client's next one.
                    answers = bytearray()
                    while awaited or unsynced or in_transaction or answers:
                        ready = _first_ready(client, line)
                        if ready is client:
                            kind, body = _read(client)
                            if kind == b"X":
                                server.close()
                                return
                            _send(line, kind, body)
                            awaited += kind in b"QSF"
                            unsynced = kind in EXTENDED or (unsynced and kind not in b"QSF")
                        else:
                            part = line.recv(1 << 16)
                            if not part:
                                raise ConnectionResetError
                            client.sendall(part)
                            answers += part
                            for kind, body in _complete(answers):
                                awaited -= kind == b"Z"
                                in_transaction = body != b"I" if kind == b"Z" else in_transaction
                if self.mode != "session":
                    self._idle.append(server)
                    server = None
        if server is not None and not server.closed:
            # A session's end resets it.
            with suppress(psycopg.Error):
                server.execute("discard all")
                self._idle.append(server)

    def _greet(self, client: socket.socket) -> bool:
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            (code,) = struct.unpack("!i", _exactly(client, length - 4)[:4])
            if code not in SSL_REQUESTS:
                break
            client.sendall(b"N")
        if code == 80877102:
            # A request to cancel, which this pooler ignores.
            return False
        _send(client, b"R", struct.pack("!i", 0))
        server = self._take()
        for name in REPORTED:
            value = self._reported.get(name) or server.info.parameter_status(name) or ""
            _send(client, b"S", f"{name}\0{value}\0".encode())
        self._idle.append(server)
        # The client's number, not that of a server process.
        _send(client, b"K", os.urandom(8))
        _send(client, b"Z", b"I")
        return True


def _first_ready(client: socket.socket, server: socket.socket) -> socket.socket:
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in selector.select()]
    # What the server says first: it may end the transaction.
    return server if server in ready else client


def _read(one: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(one, 5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], _exactly(one, length - 4)


def _complete(received: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the messages that have come whole out of `received`."""
    while len(received) >= 5 and len(received) > (length := int.from_bytes(received[1:5])):
        yield bytes(received[:1]), bytes(received[5 : length + 1])
        del received[: length + 1]


def _send(one: socket.socket, kind: bytes, body: bytes) -> None:
    one.sendall(kind + struct.pack("!i", len(body) + 4) + body)


def _exactly(one: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = one.recv(count - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)


def _error(message: str) -> bytes:
    body = b"".join(
        code + text.encode() + b"\0" for code, text in ((b"S", "FATAL"), (b"C", "08P01"), (b"M", message))
    )
    return b"E" + struct.pack("!i", len(body) + 5) + body + b"\0"


def _main(options: str) -> None:
    server = _Server(*json.loads(options))
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(getattr(server, name)(*arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1])
