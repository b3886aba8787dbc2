"""Long-lived processes of a local stack: started once, found again later, stopped without harm to others."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack.files import append_secret, tail, write_secret

HOME = "DWH_STACK_HOME"
ROLE = "DWH_STACK_ROLE"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Service:
    """A process with a role (server, worker) in the stack of one home folder.

    Home and role are in its environment and in that of every process that it starts. They distinguish it from
    another process with the same id, even after a reboot or a change of the clock.
    """

    home: Path
    role: str

    @property
    def log(self) -> Path:
        """Log of the process and its children."""
        return self.home / f"{self.role}.log"

    @property
    def port(self) -> int | None:
        """TCP port of its last start."""
        return self._remembered().get("port")

    def output(self) -> str:
        """The end of its log since its last start."""
        return tail(self.log, self._remembered().get("log_begin", 0)) if self.log.exists() else ""

    def find(self) -> psutil.Process | None:
        """The process, if it runs."""
        try:
            process = psutil.Process(self._remembered()["pid"])
        except (KeyError, psutil.Error):
            return None
        return process if self._is_ours(process) and is_alive(process) else None

    def processes(self) -> list[psutil.Process]:
        """The process and all that it has started, orphans included, but never the caller."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._is_ours(p)]

    def start(
        self, command: list[str], environment: Mapping[str, str], port: int | None = None
    ) -> psutil.Process:
        """Start the process in a new session, so that Ctrl-C in a terminal does not reach it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with append_secret(self.log) as log:
            begin = log.tell()
            child = subprocess.Popen(
                command,
                env={**environment, HOME: str(self.home), ROLE: self.role},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        write_secret(self._state, json.dumps({"pid": child.pid, "port": port, "log_begin": begin}))
        process = psutil.Process(child.pid)
        # A process that has just started has no readable environment for a moment.
        until = time.monotonic() + 5
        while is_alive(process) and not self._is_ours(process) and time.monotonic() < until:
            time.sleep(0.001)
        return process

    def stop(self, patience: float = 20.0) -> None:
        """Stop all its processes: SIGTERM first, SIGKILL after `patience` seconds.

        The process itself gets SIGTERM before the others, so that it can end its children in order.
        """
        if process := self.find():
            _send(process, signal.SIGTERM)
            psutil.wait_procs([process], timeout=patience)
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + patience
            # Repeat: a process may start another one meanwhile.
            signalled: set[psutil.Process] = set()
            while processes := [process for process in self.processes() if is_alive(process)]:
                for process in set(processes) - signalled:
                    _send(process, number)
                signalled |= set(processes)
                if time.monotonic() > until:
                    break
                time.sleep(0.1)

    @property
    def _state(self) -> Path:
        return self.home / f"{self.role}.json"

    def _remembered(self) -> dict[str, int]:
        try:
            state: dict[str, int] = json.loads(self._state.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return state

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            return False
        return environment.get(HOME) == str(self.home) and environment.get(ROLE) == self.role


def _send(process: psutil.Process, what: signal.Signals) -> None:
    try:
        process.send_signal(what)
    except psutil.NoSuchProcess:
        return
