"""An embedded PostgreSQL server: its programs come in a Python wheel, its data are in a folder, it uses 127.0.0.1."""

import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from stack.accounts import ServerAccount
from stack.errors import StackError
from stack.files import (
    append_secret,
    disk_errors,
    exclusive,
    free_port,
    full_disk,
    is_free,
    tail,
    write_secret,
)
from stack.processes import is_alive
from stack.programs import LOCALES, SETTINGS, fits_this_machine, programs

SUPERUSER = "postgres"
STALLED_SECONDS = 120.0


class EmbeddedPostgres:
    """A PostgreSQL server that lives in `folder` (data, log, port and password) and nowhere else.

    `settings` are server settings that override `SETTINGS` when this object starts the server.
    """

    def __init__(self, folder: Path, major: int = 18, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.major = major
        self.settings = SETTINGS | fits_this_machine() | dict(settings or {})
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.passfile = self.folder / "pgpass"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        """Folder of the server's programs."""
        return programs(self.major)

    @property
    def psql_path(self) -> Path:
        """The psql that belongs to the server."""
        return self.bin / "psql"

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1 of the last start."""
        return int(self._credentials()[0])

    def url(self, database: str = "postgres") -> str:
        """URL with the password: never show or log it."""
        port, password = self._credentials()
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{quote(database, safe='')}"

    def psql_command(self, database: str = "postgres") -> str:
        """A command line to paste into a shell; the password stays in its file."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER, "-d", database]
        return f"PGPASSFILE={shlex.quote(str(self.passfile))} {shlex.join([str(self.psql_path), *where])}"

    def is_running(self) -> bool:
        """Whether the server of this folder accepts connections."""
        return self._postmaster() is not None and self._pid_file()[7:8] == ["ready"]

    def start(self) -> None:
        """Start the server unless it runs: initialized at the first start, recovered after a crash.

        Raises:
            StackError: it cannot start; the message ends with the end of the log.
        """
        if self.is_running():
            return
        with disk_errors("The embedded PostgreSQL", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / "lock"):
                if self.is_running():
                    return
                if (postmaster := self._postmaster()) and self._wait(postmaster, self.log.stat().st_size):
                    return
                self._initialize()
                self._launch()

    def stop(self) -> None:
        """Stop the server: open transactions are rolled back, everything committed is on disk."""
        if not self.data.exists():
            return
        with exclusive(self.folder / "lock"):
            postmaster = self._postmaster()
            if postmaster is None:
                self._end_orphans()
                return
            try:
                postmaster.send_signal(signal.SIGINT)
            except psutil.AccessDenied:
                raise StackError(
                    f"The server in {self.folder} belongs to another user.",
                    hint="Stop it as that user or as root.",
                ) from None
            except psutil.NoSuchProcess:
                return
            for stalled in self._stalls(postmaster):
                if not is_alive(postmaster):
                    break
                if stalled:
                    postmaster.send_signal(signal.SIGQUIT)
            if self._child:
                self._child.wait()

    def create_database(self, name: str, template: str = "template1") -> None:
        """Create a database unless it exists, as a copy of `template`, which must have no connections."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if connection.execute("select from pg_database where datname = %s", (name,)).rowcount:
                return
            try:
                create = sql.SQL("create database {} template {}")
                connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return

    def _credentials(self) -> tuple[str, str]:
        try:
            _, port, _, _, password = self.passfile.read_text().strip().split(":")
        except FileNotFoundError:
            raise StackError(
                f"No embedded PostgreSQL has been started in {self.folder}.", hint="Start it with `dwh up`."
            ) from None
        except PermissionError:
            raise StackError(
                f"The embedded PostgreSQL in {self.folder} belongs to another user.",
                hint="Work as that user, or choose another DWH_HOME.",
            ) from None
        return port, password

    def _remember(self, port: int, password: str) -> None:
        write_secret(self.passfile, f"127.0.0.1:{port}:*:{SUPERUSER}:{password}\n")

    def _pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self.data / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []
        except PermissionError:
            raise StackError(
                f"The data in {self.data} belong to another user.",
                hint="Work as that user, or choose another DWH_HOME.",
            ) from None

    def _postmaster(self) -> psutil.Process | None:
        """Return the server process of this folder, but no other process that got its process id after a crash."""
        lines = self._pid_file()
        try:
            process = psutil.Process(int(lines[0]))
            ours = process.cmdline()[1:3] == ["-D", str(self.data)]
        except (IndexError, ValueError, psutil.Error):
            return None
        return process if ours and is_alive(process) else None

    def _initialize(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            if (data_major := version.read_text().strip()) != str(self.major):
                raise StackError(
                    f"{self.folder} holds data of PostgreSQL {data_major}, not {self.major}.",
                    hint="Choose another folder, or dump and restore the data.",
                )
            self._credentials()
            return
        password = secrets.token_hex(16)
        self._remember(free_port(), password)
        # initdb works in another folder, which is renamed at its end: the next start ignores what a killed one left.
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.folder / "initial-password"
        write_secret(password_file, password)
        account = ServerAccount.of(self.folder, self.bin)
        account.give(unfinished, password_file)
        command = [str(self.bin / "initdb"), "-D", str(unfinished), "-U", SUPERUSER]
        command += ["-A", "scram-sha-256", f"--pwfile={password_file}"]
        command += ["-E", "UTF8", "--lc-messages=C", *LOCALES[self.major]]
        if self.settings.get("fsync") == "off":
            command.append("--no-sync")
        try:
            code, output = account.run(command, cwd=unfinished)
        finally:
            password_file.unlink()
        if code != 0:
            raise self._failure("could not be made", output)
        unfinished.rename(self.data)

    def _launch(self) -> None:
        """Start the server process; retry if a port or the shared memory of dead backends is still in use."""
        pid = next(iter(self._pid_file()), "")
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            # PostgreSQL would take an incomplete file, or one with the pid of another process, for a running server.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        account = ServerAccount.of(self.data, self.bin)
        give_up_at = time.monotonic() + STALLED_SECONDS
        while True:
            port, password = self._credentials()
            if not is_free(int(port)):
                self._remember(free_port(), password)
            with append_secret(self.log) as log:
                begin = log.tell()
                self._child = account.start(self._command(), cwd=self.data, output=log)
            if self._wait(psutil.Process(self._child.pid), begin):
                return
            output = tail(self.log, begin)
            orphaned = "pre-existing shared memory block" in output
            if orphaned:
                self._end_orphans()
            # Recovery fails over the file of an unlogged table whose creation had just been rolled back, but only once:
            # the next recovery begins by deleting such files.
            file_exists = "could not create file" in output and "File exists" in output
            if not (orphaned or file_exists or "could not bind" in output) or time.monotonic() > give_up_at:
                raise self._failure("did not start", output)
            time.sleep(0.2)

    def _end_orphans(self) -> None:
        """End backends whose server was killed: busy ones continue their query and prevent the next start.

        Their parent is now init or a session manager, so they are found by name, user and folder.
        """
        owner = self.data.stat().st_uid
        for process in psutil.process_iter(["name", "uids"]):
            if process.info["name"] == "postgres" and process.info["uids"].real == owner:
                with suppress(psutil.Error):
                    if process.cwd() == str(self.data):
                        process.send_signal(signal.SIGQUIT)

    def _command(self) -> list[str]:
        connection = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        settings = self.settings | connection
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), *options]

    def _wait(self, process: psutil.Process, begin: int) -> bool:
        """Wait as long as start or recovery makes progress; False if the process has ended."""
        for stalled in self._stalls(process):
            if self.is_running():
                return True
            if not is_alive(process):
                return False
            if stalled:
                process.send_signal(signal.SIGQUIT)
                what = f"made no progress for {STALLED_SECONDS:.0f} seconds and was stopped"
                raise self._failure(what, tail(self.log, begin))
        return False

    def _stalls(self, process: psutil.Process) -> Iterator[bool]:
        """Yield False while the server works, True once its log and CPU time have not changed for long."""
        seen, since, pause = self._progress(process), time.monotonic(), 0.01
        while True:
            yield time.monotonic() - since > STALLED_SECONDS
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
            if (now := self._progress(process)) != seen:
                seen, since = now, time.monotonic()

    def _progress(self, process: psutil.Process) -> tuple[int, float]:
        try:
            family = [process, *process.children()]
            cpu = sum(sum(member.cpu_times()[:2]) for member in family)
        except psutil.Error:
            cpu = 0.0
        return self.log.stat().st_size, cpu

    def _failure(self, what: str, output: str) -> StackError:
        if "No space left on device" in output:
            return full_disk(self.folder)
        return StackError(
            f"The embedded PostgreSQL in {self.folder} {what}:\n{output.strip()}\n",
            hint=f"The complete log: {self.log}.",
        )
