"""Which names rotation gives to a log, and which are those of another log."""

import pytest

from warehouse.files.rotation import may_be_copy, may_become


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("access.log", "access.log.1"),
        ("access.log", "access.log.1.gz"),
        ("access.log.1", "access.log.2.gz"),
        ("access.log.1", "access.log.1.zst"),
        ("access.log", "access.log.old"),
        ("access.log", "access.log-20261120"),
        ("access.log", "access.log-20261120.gz"),
        ("access.log", "access-2026-11-20.log"),
        ("access.log", "access.log.2026-11-20T10:00:00"),
        ("access.log", "access.log-2026112010.bz2"),
        ("web1/access.log", "web1/old/access.log.1"),
        ("access.log-20261120", "old/access.log-20261120.xz"),
        ("access.log.1", "november.zip!access.log.1"),
    ],
)
def test_rotation_renames(before: str, after: str) -> None:
    assert may_become(before, after)
    assert not may_become(after, before)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("web1.log", "web2.log"),
        ("web-1.log", "web-2.log"),
        ("web1/access.log", "web2/access.log"),
        ("web1/access.log", "web2/access.log.1"),
        ("access.log", "web2/access.log"),
        ("access.log", "web2/access.log.gz"),
        ("access.log", "shop.access.log"),
        ("access.log", "error.log.1"),
        ("access.log-20261120", "access.log-20261121"),
        ("access.log-20261120", "access.log-20261121.gz"),
        ("access-2026-11-20.log", "access-2026-11-21.log"),
        ("access.log", "access.log"),
    ],
)
def test_other_logs_have_such_names(one: str, other: str) -> None:
    assert not may_become(one, other) and not may_become(other, one)
    assert not may_be_copy(one, other) and not may_be_copy(other, one)


@pytest.mark.parametrize(
    ("one", "other", "is_copy"),
    [
        ("access.log", "access.log.1", True),
        ("access.log", "access.log-20261120", True),
        ("access.log.1", "access.log.1.gz", True),
        # What was the first is the second now: they are never there with the same content.
        ("access.log.1", "access.log.2", False),
        ("web.1", "web.2", False),
    ],
)
def test_only_some_names_are_there_side_by_side(one: str, other: str, is_copy: bool) -> None:
    assert may_be_copy(one, other) == may_be_copy(other, one) == is_copy
