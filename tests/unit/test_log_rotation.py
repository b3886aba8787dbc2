"""Logs of the local stack are rotated while their processes write on."""

import stat
from pathlib import Path

import pytest

from stack import files, local
from stack.files import append_secret, tail


def test_long_log_is_moved_and_its_process_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOG_BYTES", 100)
    log = local.server(tmp_path).log
    log.parent.mkdir(parents=True)
    with append_secret(log) as process:
        process.write(b"x" * 100)
        process.flush()
        assert local.rotate_logs(tmp_path) == []
        process.write(b"y")
        process.flush()
        assert local.rotate_logs(tmp_path) == [log]
        process.write(b"z")
    old = log.with_suffix(".old.log")
    assert (old.read_bytes(), log.read_bytes()) == (b"x" * 100 + b"y", b"z")
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    # What was remembered as its begin lies behind its end now.
    assert tail(log, 50) == "z"
