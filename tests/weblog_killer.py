"""SIGKILL anywhere inside the work on web logs."""

import json
import signal
import subprocess
import sys

from tests.weblog_lake import WeblogLake

# Forks a process for each order, which kills itself when the named function is called for the n-th time; it leaves
# word first. One parent for all, since importing takes longer than dying.
PARENT = """
import importlib, json, os, pathlib, signal, sys
from warehouse import weblogs
from warehouse.load import contract
from warehouse.runs import audit
from warehouse.settings import Settings
import soda_core.contracts.contract_verification, soda_postgres

def die(target, calls, word, act, settings, options):
    owner, name = target.rsplit(":", 1)
    module, *path = owner.split("/")
    owner = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    left = [calls]

    def killing(*args, **named):
        left[0] -= 1
        if left[0] == 0:
            pathlib.Path(word).write_text(target)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **named)

    setattr(owner, name, killing)
    settings = Settings(_env_file=None, **settings)
    with audit.start_run(settings.warehouse, flow="a flow that dies") as run:
        getattr(weblogs, act)(settings, run, **options)

for order in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            die(**json.loads(order))
        finally:
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Killer:
    """Works on a lake in a process that dies at a given point."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def die(self, lake: WeblogLake, target: str, calls: int, act: str, **options: object) -> None:
        """Do `act` of warehouse.weblogs, and die when `target` is called so often; proves that it did."""
        word = lake.settings.home / "last word"
        word.unlink(missing_ok=True)
        settings = lake.settings.model_dump(mode="json", exclude_none=True) | {
            "warehouse_url": lake.settings.warehouse
        }
        order = {
            "target": target, "calls": calls, "word": str(word), "act": act, "settings": settings, "options": options
        }  # fmt: skip
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        assert int(self._parent.stdout.readline()) == -signal.SIGKILL
        assert word.read_text() == target

    def close(self) -> None:
        """End the parent."""
        self._parent.communicate()
