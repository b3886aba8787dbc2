"""The lake by URL: web logs in any file system that fsspec knows are loaded as those in a folder are."""

import gzip
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cli.diagnostics import examine
from tests.weblog_lake import WeblogLake, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.errors import SettingsError
from warehouse.files.locations import local_folder, location_of
from warehouse.weblogs.explain import explain


@pytest.fixture
def remote(tmp_path: Path, warehouse_url: str) -> Iterator[tuple[WeblogLake, Any, str]]:
    """A lake in memory, its file system, and its landing folder there."""
    folder = f"/{uuid.uuid4().hex}"
    lake = make_lake(tmp_path, warehouse_url)
    settings = lake.settings.model_copy(update={"lake": f"memory:/{folder}"})
    memory = fsspec.filesystem("memory")
    yield replace(lake, settings=settings), memory, f"{folder}/landing/weblogs"
    memory.rm(folder, recursive=True)


def test_files_behind_a_url_load_grow_and_are_known_again(remote: tuple[WeblogLake, Any, str]) -> None:
    lake, memory, landing = remote
    memory.pipe(f"{landing}/a.log", lines(1, 50))
    memory.pipe(f"{landing}/2026/b.log.gz", gzip.compress(lines(51, 80) + b"rubbish\n"))
    memory.pipe(f"{landing}/.hidden", b"x")
    memory.pipe(f"{landing}/c.log.json", b"{}")
    loaded = lake.load()
    assert (loaded.rows_loaded, loaded.rows_quarantined) == (80, 1)
    assert lake.load().unchanged == 2
    memory.pipe(f"{landing}/a.log", lines(1, 50) + line(90))
    memory.mv(f"{landing}/2026/b.log.gz", f"{landing}/2026/b.log.1.gz")
    assert lake.load().lines == 1
    assert sorted(lake.sizes()) == [*range(1, 81), 90]
    assert sorted(path for path, *_ in lake.files()) == [".hidden", "2026/b.log.1.gz", "a.log", "c.log.json"]
    lake.assert_consistent()
    with connect(lake.settings.warehouse) as connection:
        explanation = explain(connection, lake.settings, "2026/b.log.1.gz:7")
    assert (explanation.fault, explanation.raw_line) == (None, line(57).decode().rstrip())
    assert explanation.location == f"memory://{landing.lstrip('/')}/2026/b.log.1.gz"
    found = {finding.about: finding for finding in examine(lake.settings)}
    assert (found["lake"].verdict, "holds 2 web log files" in found["lake"].what) == ("ok", True)


def test_object_that_is_moved_is_known_by_its_content(remote: tuple[WeblogLake, Any, str]) -> None:
    lake, memory, landing = remote
    content = b"".join(line(n, request=f"GET /{'x' * (n % 40)} HTTP/1.1") for n in range(1, 900))
    memory.pipe(f"{landing}/a.log", content)
    assert lake.load().lines == 899
    memory.mv(f"{landing}/a.log", f"{landing}/archive/of november")
    assert lake.load().lines == 0
    assert [path for path, *_ in lake.files()] == ["archive/of november"]
    lake.assert_consistent()


def test_file_url_is_a_folder(tmp_path: Path, warehouse_url: str) -> None:
    lake = make_lake(tmp_path / "a lake", warehouse_url)
    url = f"file://{str(tmp_path).replace(' ', '%20')}/a%20lake/lake"
    lake = replace(lake, settings=lake.settings.model_copy(update={"lake": url}))
    lake.put("a.log", lines(1, 3))
    assert lake.load().rows_loaded == 3
    assert local_folder(url) == tmp_path / "a lake" / "lake"


def test_empty_and_unknown_places_are_reported(remote: tuple[WeblogLake, Any, str]) -> None:
    lake, memory, landing = remote
    assert lake.load().lines == 0
    memory.pipe(f"{landing}/a.log", b"")
    assert lake.load().lines == 0
    with pytest.raises(SettingsError, match=r"The lake nonsense://… cannot be opened"):
        location_of("nonsense://key:secret@x/y")
    with pytest.raises(SettingsError, match="is not a folder of this machine"):
        local_folder("memory://x")
