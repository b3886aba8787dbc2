"""Copies of a web log that are written, loaded and grow at the same time: each line is loaded once."""

import os
import random
from pathlib import Path

import pytest

from tests.weblog_lake import WeblogLake, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.result import Progress

SEEDS = int(os.environ.get("SEEDS", "1"))


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_files_that_grow_alike_by_any_bytes_load_each_line_once(lake: WeblogLake, seed: int) -> None:
    chance, content = random.Random(seed), lines(1, 9)
    length = dict.fromkeys(["a.log.1", "a.log"], 0)
    while min(length.values()) < len(content):
        for name, known in length.items():
            # To the middle of a line, its end, or just before that; or not at all.
            end = min(known + chance.choice([0, 30, 175, 174, 400]), len(content))
            length[name] = end - chance.choice([0, 1]) * (end < len(content) and end - 1 > known)
            lake.put(name, content[: length[name]])
        lake.load()
        lake.assert_consistent()
        assert len(set(lake.sizes())) == len(lake.sizes())
    assert sorted(lake.sizes()) == list(range(1, 10))
    assert lake.load().lines == 0


def test_copy_that_is_still_being_written_is_a_copy_to_its_end(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 9))
    lake.put("access.log.1", lines(1, 4))
    lake.load()
    lake.put("access.log.1", lines(1, 9))
    assert lake.load().lines == 0
    lake.append("access.log.1", line(10))
    assert lake.load().lines == 1
    lake.append("access.log", line(10) + line(11))
    lake.load()
    assert sorted(lake.sizes()) == list(range(1, 12))
    assert lake.rows("select path, message from audit.file where status = 'copy' order by 1") == [
        ("access.log", "its first 10 lines are those of access.log.1, and are not loaded again"),
        ("access.log.1", "its first 9 lines are those of access.log, and are not loaded again"),
    ]
    lake.assert_consistent()
    # Loaded anew, as a backfill does: what its path had before is not loaded again, and so it stays.
    lake.load(restart=["access.log", "access.log.1"])
    assert sorted(lake.sizes()) == list(range(1, 12))
    lake.assert_consistent()


def test_copy_stays_one_when_the_load_that_found_it_dies(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3))
    lake.put("access.log.1", lines(1, 4))

    def dies_at_the_copy(progress: Progress) -> None:
        if progress.path == "access.log.1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.load(progress=dies_at_the_copy)
    assert lake.rows("select path, line_count from audit.file order by 1") == [
        ("access.log", 0),
        ("access.log.1", 0),
    ]
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4]
    assert lake.files() == [("access.log", "loaded", 3, 3, 0), ("access.log.1", "copy", 4, 1, 0)]
    lake.assert_consistent()


def test_files_whose_first_line_has_no_end_are_never_with_two_loaders(
    lake: WeblogLake, warehouse_url: str
) -> None:
    whole = line(1)
    lake.put("a.log", whole[:30])
    lake.put("b.log", whole[:60])
    lake.put("c.log", line(2))
    with (
        connect(warehouse_url, autocommit=True) as one,
        connect(warehouse_url, autocommit=True) as other,
    ):
        mine, others = Claims(one, lake.landing, ()), Claims(other, lake.landing, ())
        tasks = mine.pending()
        assert next(tasks).file.path == "a.log"
        assert list(others.pending()) == []
        assert others.claimed_by_others == 3
        # Its line ends while another file is read: it is claimed again, by the line.
        lake.put("b.log", whole)
        assert [task.file.path for task in tasks] == ["c.log", "b.log"]
