"""The process that commands of tests are forked from."""

import os
import subprocess
import sys
from pathlib import Path


def test_it_starts_whatever_the_folder_of_the_first_test_holds(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DWH_LAKE=caf\xe9\n")
    first = "from tests import command; print(command.run('--help').returncode)"
    done = subprocess.run(
        [sys.executable, "-c", first], cwd=tmp_path, env=os.environ, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
