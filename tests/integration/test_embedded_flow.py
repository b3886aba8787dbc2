"""A flow on the embedded server outlives the server's end."""

from pathlib import Path

import psutil
import psycopg
import pytest

from flows.databases import with_urls
from flows.run_locked import run_locked
from stack import local
from warehouse.runs.audit import Run, ensure_alive
from warehouse.settings import Settings


@pytest.mark.slow
def test_run_whose_server_does_not_survive_the_crash_of_a_backend_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_HOME", str(tmp_path))
    monkeypatch.delenv("DWH_WAREHOUSE_URL", raising=False)
    url = with_urls(Settings.load()).warehouse
    attempts = []

    def work(run: Run) -> int:
        attempts.append(run.run_id)
        if len(attempts) == 1:
            _crash_beyond_recovery(tmp_path / "postgres", url)
        ensure_alive(run)
        return run.run_id

    try:
        assert run_locked(url, "ingest-shop", work, lock="test") == attempts[-1]
        with psycopg.connect(url) as connection:
            ended = connection.execute("select status from audit.run order by run_id").fetchall()
        assert ended == [("crashed",), ("succeeded",)]
        said = (tmp_path / "postgres" / "server.log").read_text()
        assert "shutting down due to startup process failure" in said
    finally:
        local.down(tmp_path)


def _crash_beyond_recovery(folder: Path, url: str) -> None:
    """Roll back the making of an unlogged table, and kill who would have written that down.

    Recovery then makes the table's file, which is there. PostgreSQL gives up, and starts again only when told to.
    """
    server = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
    (wal_writer,) = (child for child in server.children() if "walwriter" in " ".join(child.cmdline()))
    with psycopg.connect(url) as making, psycopg.connect(url) as other:
        making.execute("create unlogged table staged (id int)")
        other.execute("create table logged (id int)")
        other.commit()
        wal_writer.suspend()
        making.rollback()
        wal_writer.kill()
    server.wait(60)
