"""Files of a feed that cannot be opened, or change while they are read: all others are loaded, and they are named."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_feeds import FeedPipeline, an_order, orders
from warehouse.feeds import json_records, stage

__all__ = ["orders"]

REPLACED = "was removed or replaced before it was read"


def content(*records: object) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def unread(orders: FeedPipeline) -> list[tuple[Any, ...]]:
    return orders.rows(
        "select path, status, reason from mart.unread_file where feed = 'orders' order by path"
    )


def named(orders: FeedPipeline) -> list[str]:
    """Files that the last run has named as not read."""
    return [str(one) for one in orders.unread]


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_loaded(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1"), "oops"])
    folder = orders.lake / "landing" / "orders"
    broken = folder / "b.json"
    # It is a file, and reading it is an error, whoever does it.
    broken.symlink_to("/proc/self/mem")
    orders.land("c.json", [an_order("P-2")])
    first = orders.run()
    reason = "cannot be read: Input/output error"
    assert named(orders) == [f"b.json: {reason}"]
    assert unread(orders) == [("b.json", "unread", reason)]
    assert [row[0] for row in orders.facts()] == ["P-1", "P-2"]
    # What lasts is known as what the first run has found; what was loaded can be undone all the same.
    orders.run()
    assert orders.rows("select run_id from mart.unread_file") == [(first,)]
    orders.undo(first)
    assert unread(orders) == [("b.json", "unread", reason)]
    orders.run()
    # It is readable again, and loaded; then replaced by what is not, and what was loaded stays.
    broken.unlink()
    broken.write_bytes(content(an_order("P-3")))
    orders.run()
    assert (named(orders), unread(orders)) == ([], [])
    before = orders.facts()
    broken.unlink()
    broken.symlink_to(folder)
    orders.run()
    reason = "is a symbolic link to a folder, which is not followed"
    assert unread(orders) == [("b.json", "unread", reason)]
    assert orders.facts() == before
    assert [row for row in orders.counts() if row[0] == "b.json"] == [("b.json", "loaded", 1, 1, 0, 0, 0)]
    broken.unlink()
    broken.write_bytes(content(an_order("P-3")))
    orders.run()
    assert (named(orders), unread(orders), orders.facts()) == ([], [], before)
    broken.unlink()
    broken.symlink_to("/proc/self/mem")
    orders.run()
    assert unread(orders) == [("b.json", "unread", "cannot be read: Input/output error")]
    assert orders.facts() == before
    # What is gone is no longer named, whether or not something of it was loaded.
    (folder / "d.json").symlink_to("/proc/self/mem")
    orders.run()
    assert [path for path, *_ in unread(orders)] == ["b.json", "d.json"]
    broken.unlink()
    (folder / "d.json").unlink()
    orders.run()
    assert (unread(orders), orders.facts()) == ([], before)
    assert [row[0] for row in orders.counts()] == ["a.json", "c.json", "b.json"]


def test_files_that_change_between_listing_and_reading_are_left_to_the_next_run(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1")])
    for name in ("gone", "renamed", "replaced", "rewritten", "truncated", "appended"):
        orders.land(f"{name}.json", [an_order(f"{name} 1"), an_order(f"{name} 2")])
    orders.land("z.json", [an_order("P-9")])
    folder = orders.lake / "landing" / "orders"

    def change(message: str) -> None:
        if not message.startswith("a.json"):
            return
        (folder / "gone.json").unlink()
        (folder / "renamed.json").rename(folder / "renamed too.json")
        draft = folder / "draft.tmp"
        draft.write_bytes(content(an_order("replaced 3")))
        draft.rename(folder / "replaced.json")
        (folder / "rewritten.json").write_bytes(content(an_order("rewritten 3"), an_order("rewritten 4")))
        (folder / "truncated.json").write_bytes(b"")
        with (folder / "appended.json").open("ab") as file:
            file.write(content(an_order("appended 3")))

    orders.run(change)
    late = ("gone", "renamed", "replaced", "rewritten", "truncated")
    assert named(orders) == [f"{name}.json: {REPLACED}" for name in late]
    assert [path for path, *_ in unread(orders)] == sorted(f"{name}.json" for name in late)
    assert [row[0] for row in orders.facts()] == ["P-1", "P-9", "appended 1", "appended 2", "appended 3"]
    assert orders.waiting() == []
    orders.run()
    assert (named(orders), unread(orders)) == ([], [])
    assert [row[0] for row in orders.facts()] == [
        "P-1", "P-9", "appended 1", "appended 2", "appended 3", "renamed 1", "renamed 2", "replaced 3", "rewritten 3",
        "rewritten 4",
    ]  # fmt: skip
    assert orders.run() and not orders.published.rows_changed


@pytest.mark.parametrize("has_earlier", [False, True])
def test_nothing_stays_of_a_file_that_is_written_again_while_it_is_read(
    orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch, has_earlier: bool
) -> None:
    """Its beginning would be that of one content, and its end that of another."""
    if has_earlier:
        orders.land("b.json", [an_order("B-0"), an_order("B-1", {"amount": 7})])
        orders.run()
    before = orders.facts()
    orders.land("a.json", [an_order("A-1"), "oops"])
    path = orders.land("b.json", [*(an_order(f"B-{number}") for number in range(1, 100)), "oops"])
    orders.land("c.json", [an_order("C-1"), "oops"])
    corrected = [an_order(f"B-{number}", {"amount": 3}, {}) for number in range(50, 100)]
    read_lines = stage.read_lines

    def replace_meanwhile(*arguments: Any) -> Iterator[Any]:
        for number, block in enumerate(read_lines(*arguments)):
            yield block
            if number == 3 and path.stat().st_size:
                path.write_bytes(content(*corrected))

    with monkeypatch.context() as patch:
        patch.setattr(json_records, "_BLOCK", 1000)
        patch.setattr(stage, "read_lines", replace_meanwhile)
        orders.run()
    assert named(orders) == [f"b.json: {REPLACED}"]
    assert orders.facts() == sorted([*before, ("A-1", "1", 2, 200), ("C-1", "1", 2, 200)])
    assert [place for place, _ in orders.waiting()] == [
        f"{file_id}:2"
        for (file_id,) in orders.rows("select file_id from audit.file where path <> 'b.json' order by 1")
    ]
    orders.run()
    assert [row[0] for row in orders.facts() if row[0] >= "B-5" and row[1] == "2"] == [
        f"B-{number}" for number in range(50, 100)
    ]
    check_counts(orders)


def test_a_copy_is_read_in_place_of_the_file_that_is_gone(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("A-1")])
    original = orders.land("b.json", [an_order("P-1", {"amount": 3})])
    orders.land("copy.json", original.read_bytes())
    orders.land("later.json", [an_order("P-1", {"amount": 5}), an_order("P-2")])
    orders.land("second copy.json", original.read_bytes())
    orders.run(lambda message: original.unlink() if message.startswith("a.json") else None)
    assert named(orders) == [f"b.json: {REPLACED}"]
    expected = [("A-1", "1", 2, 200), ("P-1", "1", 5, 500), ("P-2", "1", 2, 200)]
    assert orders.facts() == expected
    counts = orders.rows(
        "select path, status, line_count, rows_loaded, rows_superseded, message from audit.file order by 1"
    )
    assert counts[2:] == [
        ("copy.json", "loaded", 1, 0, 1, None),
        ("later.json", "loaded", 2, 2, 0, None),
        ("second copy.json", "copy", 1, 0, 0, "its content is that of copy.json, and is not loaded again"),
    ]
    orders.run()
    assert (named(orders), orders.facts()) == ([], expected)
    check_counts(orders)


def check_counts(orders: FeedPipeline) -> None:
    """Each file's counts add up, and are what mirror and quarantine hold."""
    assert (
        orders.rows(
            """
        select path, rows_loaded, rows_quarantined from audit.file as file where line_count <>
            rows_loaded + rows_quarantined + rows_discarded + rows_superseded + lines_duplicated
            or rows_loaded <> (select count(*) from raw.orders_order as held where held._file_id = file.file_id)
            or rows_quarantined <> (
                select count(*) from audit.quarantine as entry
                where entry.file_id = file.file_id and resolved_at is null
            )
        """
        )
        == []
    )
