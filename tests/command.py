"""`dwh` in a process of its own, forked from one that has imported all: without the seconds that each start takes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.flow_process import fork

DWH = "from cli.main import main; main()"


@dataclass
class Command:
    """A command that runs: to be awaited, signalled or killed as a subprocess is."""

    arguments: tuple[str, ...]
    _process: ForkServerProcess
    _output: tempfile.TemporaryDirectory[str]

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, minus the signal's number if one killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: it goes on.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"dwh {' '.join(self.arguments)} goes on; it wrote {self._read()}")
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; returns what it wrote to stdout and stderr."""
        self.wait(timeout)
        return self._read()

    def _read(self) -> tuple[str, str]:
        out, err = (Path(self._output.name, name).read_text() for name in ("out", "err"))
        return out, err


def start(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    program: str = DWH,
) -> Command:
    """Start `dwh`, or another Python program, without Prefect; environment and folder are this process's by default.

    Where a command's own start, its imports or Prefect are at stake, start it by subprocess.
    """
    # Not in the test's folder, which may be full, or the command's own.
    output = tempfile.TemporaryDirectory(prefix="dwh-command-")
    for name in ("out", "err"):
        Path(output.name, name).touch()
    settings = dict(os.environ if environment is None else environment)
    process = fork(_perform, program, arguments, settings, folder or Path.cwd(), Path(output.name))
    return Command(arguments, process, output)


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    program: str = DWH,
    timeout: float = 300,
) -> "subprocess.CompletedProcess[str]":
    """Run `dwh`, or another Python program, to its end, as `start` does."""
    command = start(*arguments, environment=environment, folder=folder, program=program)
    try:
        out, err = command.communicate(timeout)
    except TimeoutError:
        command.kill()
        raise
    assert command.returncode is not None
    return subprocess.CompletedProcess(["dwh", *arguments], command.returncode, out, err)


def _perform(
    program: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path, output: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_APPEND), number)
    # Whoever runs the tests may do so under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["dwh", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
