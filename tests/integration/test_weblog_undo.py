"""Loads of web logs that are undone, and what cannot be."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.test_weblog_retention import TODAY, remove, visits
from tests.weblog_lake import BRAZIL, WeblogLake, line, lines, make_lake
from warehouse.errors import UndoBlocked, UndoRefused
from warehouse.runs import audit
from warehouse.undo.undo import undo


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    made = make_lake(tmp_path, warehouse_url)
    return replace(made, settings=made.settings.model_copy(update={"weblog_retention_days": 40}))


def take_back(lake: WeblogLake, run_id: int, *, cascade: bool = False) -> None:
    with audit.start_run(lake.settings.warehouse, flow="undo") as run:
        undo(run, run_id, cascade=cascade)


def test_load_that_is_undone_leaves_nothing_and_may_be_loaded_again(lake: WeblogLake) -> None:
    lake.put("a.log", lines(1, 50) + line(1, user="ana"))
    lake.load()
    before = lake.content()
    lake.put("b.log", lines(51, 80) + line(2, user="ana", address=BRAZIL) + b"rubbish\n")
    lake.append("a.log", line(3, user="eva"))
    lake.load()
    loaded = lake.content()
    with pytest.raises(UndoBlocked):
        take_back(lake, 1)
    take_back(lake, 2)
    content = lake.content()
    assert {**content, "file": content["file"][:1]} == before
    lake.assert_consistent()
    lake.load()
    again = lake.content()
    for name in ("weblog", "file_part"):
        assert len(again[name]) == len(loaded[name])
    assert sorted(lake.sizes()) == sorted([*range(1, 51), 1, 3, *range(51, 81), 2])
    lake.assert_consistent()


def test_run_that_removed_requests_and_loads_before_it_cannot_be_undone(lake: WeblogLake) -> None:
    lake.put("a.log", visits(TODAY - timedelta(days=365), BRAZIL) + lines(1, 2).removesuffix(b"\n"))
    lake.load()
    remove(lake)
    lake.append("a.log", b' "more"\n')
    lake.load()
    with pytest.raises(UndoRefused, match=r"Run 2 .* cannot be undone: it removed or moved web-log requests"):
        take_back(lake, 2)
    with pytest.raises(UndoRefused, match="Run 2"):
        take_back(lake, 1, cascade=True)
    lake.assert_consistent()
    loaded = lake.sizes()
    take_back(lake, 3)
    lake.assert_consistent()
    lake.load()
    assert lake.sizes() == loaded
    lake.assert_consistent()
