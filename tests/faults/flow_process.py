"""Flows in processes of their own, to be killed or started by the hundred: forked from one that has imported it all."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from types import ModuleType
from typing import Any

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.faults.preloaded"])

# A setting that lets flows write to stderr.
SHOW_ERRORS = "FAULTS_SHOW_ERRORS"

# Called in the process before its flow, with the connection on which it may say something; hands back what is to be
# called after the flow, if anything.
Prepare = Callable[[Connection], Callable[[], None] | None]


@dataclass
class FlowProcess:
    """A flow that runs in a process: its pid, what it says, and how it ended."""

    process: ForkServerProcess
    _says: Connection
    said: list[Any] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def hear(self, seconds: float) -> Any:
        """The next thing that the process says, or None when it ends or `seconds` pass without a word."""
        try:
            if self._says.poll(seconds):
                self.said.append(self._says.recv())
                return self.said[-1]
        except (EOFError, ConnectionResetError):
            pass
        return None

    def is_over(self, seconds: float = 0) -> bool:
        """Whether it ends within `seconds`."""
        return bool(wait([self.process.sentinel], seconds))

    def end(self, seconds: float = 300) -> int:
        """Wait for its end: 0 done, 1 failed, -9 killed.

        Raises:
            TimeoutError: it goes on.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutError(f"flow process {self.pid} does not end")
        while not self._says.closed and self.hear(0) is not None:
            pass
        self._says.close()
        return self.process.exitcode


def fork(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process that calls `target`. It does not run this one's main program, which Streamlit's tests replace."""
    process = context.Process(target=target, args=arguments)
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        _start_server()
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


@cache
def _start_server() -> None:
    """Start the process that all others are forked from: not in a test's folder, whose .env its imports would read."""
    with chdir("/"):
        ensure_running()


def start(
    flow: str, environment: Mapping[str, str], prepare: Prepare | None = None, **parameters: Any
) -> FlowProcess:
    """Start a flow by name, as its command would, without Prefect; `environment` holds its settings.

    The process says ("failed", class, message) where the flow raises.
    """
    hears, says = context.Pipe(duplex=False)
    process = fork(_run, flow, dict(environment), prepare, parameters, says)
    says.close()
    return FlowProcess(process, hears)


def _run(
    flow: str,
    environment: Mapping[str, str],
    prepare: Prepare | None,
    parameters: Mapping[str, Any],
    says: Connection,
) -> None:
    from tests.faults.preloaded import FLOWS

    for name in [name for name in os.environ if name.startswith(("DWH_", "PREFECT_"))]:
        del os.environ[name]
    os.environ.update(environment)
    if SHOW_ERRORS not in environment:
        # What goes wrong is said to the parent; a flow that loses its server has much to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.chdir(environment["DWH_HOME"])
    try:
        finish = prepare(says) if prepare is not None else None
        FLOWS[flow](**parameters)
        if finish is not None:
            finish()
    except Exception as error:
        says.send(("failed", type(error).__name__, str(error)))
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
