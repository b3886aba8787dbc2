"""Exports in a folder: whatever kills a publish, readers see one export or the next, on any file system."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from warehouse.export import versions
from warehouse.export.destination import FORMAT, ExportFailed, destination_of, partition

# Calls that change files or folders.
STEPS = ("link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink", "chown", "chmod")
# An order moves from the first day to a new one; the second does not change.
BEFORE = {"2024-03-10": "order 1", "2024-03-11": "order 2"}
AFTER = {"2024-03-11": "order 2", "2024-03-12": "order 1"}
UNSUPPORTED = OSError(95, "Operation not supported")


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def publish(lake: Path, run_id: int, days: Mapping[str, str]) -> None:
    """Export a table of these days, and a report of today."""
    to = destination_of(str(lake), run_id)
    before = to.manifest().get("tables", {}).get("fact", {}).get("days", {})
    report = to.path(partition("report", "sales", "2024-03-12"), "csv")
    new = {day: to.path(partition("table", "fact", day), "parquet") for day in days if day not in before}
    contents = {report: "".join(days)} | {path: days[day] for day, path in new.items()}
    for path, content in contents.items():
        with to.open(path) as file:
            file.write(content.encode())
    entries = {day: before.get(day) or {"path": new[day]} for day in days}
    manifest = {
        "format": FORMAT,
        "tables": {"fact": {"days": entries}},
        "reports": {"sales": {"days": {"2024-03-12": {"path": report}}}},
    }
    to.publish(manifest, [*contents], [entry["path"] for day, entry in before.items() if day not in days])


def shown(lake: Path) -> tuple[dict[str, str], str] | None:
    """Days with their contents, and the report; None if there is no export."""
    folder = lake / "export"
    if not folder.exists():
        return None
    days = {
        one.parent.name.removeprefix("date="): one.read_text()
        for one in folder.glob("table=*/date=*/*.parquet")
    }
    assert {*days} == {*json.loads((folder / "manifest.json").read_bytes())["tables"]["fact"]["days"]}
    return days, (folder / "report=sales/date=2024-03-12/part.csv").read_text()


def as_of_an_earlier_release(lake: Path) -> None:
    """Make the export a plain folder with files of the names that earlier releases gave."""
    link = lake / "export"
    files = link.resolve()
    link.unlink()
    files.rename(link)
    shutil.rmtree(lake / ".export-versions")
    text = (link / "manifest.json").read_text()
    for file in link.glob("table=*/*/*.parquet"):
        file.rename(file.with_name("part.parquet"))
        text = text.replace(file.name, "part.parquet")
    (link / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    ("is_plain", "missing"),
    [
        (True, "nothing"),
        (True, "exchange"),
        (True, "symbolic links"),
        (False, "nothing"),
        (False, "hard links"),
        (False, "all"),
    ],
)
def test_publish_that_is_killed_at_any_step_shows_one_export_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_plain: bool, missing: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise UNSUPPORTED

    if missing in ("exchange", "all"):
        monkeypatch.setattr(versions, "_exchange", lambda *_: False)
    for name, call in (("symbolic links", "symlink"), ("hard links", "link")):
        if missing in (name, "all"):
            monkeypatch.setattr(os, call, refuse)
    first = tmp_path / "first"
    publish(first, 1, BEFORE)
    if is_plain and (first / "export").is_symlink():
        as_of_an_earlier_release(first)
    # Without a way to exchange names, a plain folder makes room for an instant.
    may_be_gone = missing in ("exchange", "all") and not (first / "export").is_symlink()
    before, after = (BEFORE, "".join(BEFORE)), (AFTER, "".join(AFTER))
    outcomes = []
    for last in itertools.count():
        lake = tmp_path / f"killed-{last}"
        shutil.copytree(first, lake, symlinks=True)
        with monkeypatch.context() as patch:
            kill_after(last, patch)
            try:
                publish(lake, 2, AFTER)
            except KeyboardInterrupt:
                killed = True
            else:
                killed = False
        outcomes.append(shown(lake))
        destination_of(str(lake), 3)
        assert shown(lake) in (before, after)
        publish(lake, 4, AFTER)
        assert shown(lake) == after
        if not killed:
            break
    assert outcomes[0] == before and outcomes[-1] == after
    assert outcomes == sorted(outcomes, key=[before, None, after].index)
    assert (None in outcomes) == may_be_gone


def kill_after(last: int, patch: pytest.MonkeyPatch) -> None:
    """Let the process be killed before its call number `last` that changes files."""
    calls: Iterator[int] = itertools.count()
    for module, name in (*((os, one) for one in STEPS), (versions, "_exchange")):
        call = getattr(module, name)

        def step(*arguments: Any, call: Any = call, **options: Any) -> Any:
            if next(calls) >= last:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        patch.setattr(module, name, step)


def test_unchanged_days_are_the_same_files_and_readers_of_the_version_before_finish(tmp_path: Path) -> None:
    publish(tmp_path, 1, BEFORE)
    resolved = (tmp_path / "export").resolve()
    unchanged = next(resolved.glob("table=fact/date=2024-03-11/*"))
    publish(tmp_path, 2, AFTER)
    assert next((tmp_path / "export").glob("table=fact/date=2024-03-11/*")).samefile(unchanged)
    assert [one.read_text() for one in resolved.glob("table=fact/date=2024-03-10/*")] == ["order 1"]
    publish(tmp_path, 3, AFTER)
    assert not resolved.exists()
    # No other name is found beside the exports.
    assert {one.name for one in tmp_path.glob("*")} == {"export", ".export-versions"}
    assert len(list((tmp_path / ".export-versions").iterdir())) == 2


def test_days_that_a_killed_export_of_an_earlier_release_has_left_go_and_files_of_others_stay(
    tmp_path: Path,
) -> None:
    publish(tmp_path, 1, BEFORE)
    as_of_an_earlier_release(tmp_path)
    folder = tmp_path / "export"
    for name in (".draft-7/part.parquet", "table=fact/date=2024-03-12/part.parquet"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("half")
    (folder / "table=fact/date=2024-03-10/_SUCCESS").touch()
    (folder / "notes").symlink_to(tmp_path)
    publish(tmp_path, 2, AFTER)
    assert {
        str(one.relative_to(folder)) for one in folder.rglob("*") if not one.is_dir() or one.is_symlink()
    } == {
        "manifest.json",
        "notes",
        "report=sales/date=2024-03-12/part.csv",
        "table=fact/date=2024-03-10/_SUCCESS",
        "table=fact/date=2024-03-11/part.parquet",
        "table=fact/date=2024-03-12/part-2.parquet",
    }


def test_who_may_read_an_export_may_read_the_next_and_nobody_else(tmp_path: Path) -> None:
    publish(tmp_path, 1, BEFORE)
    modes = {"": 0o750, "table=fact": 0o2755, "table=fact/date=2024-03-11": 0o711}
    for name, mode in modes.items():
        (tmp_path / "export" / name).chmod(mode)
    to = destination_of(str(tmp_path), 2)
    with to.open("table=fact/date=2024-03-12/part-2.parquet") as file:
        (version,) = (one for one in (tmp_path / ".export-versions").iterdir() if one.name.startswith("2-"))
        assert version.stat().st_mode & 0o7777 == 0o750
        file.write(b"personal data")
    publish(tmp_path, 3, AFTER)
    assert {name: (tmp_path / "export" / name).stat().st_mode & 0o7777 for name in modes} == modes


def test_export_that_is_a_link_to_another_disk_stays_there(tmp_path: Path) -> None:
    lake, disk = tmp_path / "lake", tmp_path / "disk"
    (disk / "exports").mkdir(parents=True)
    lake.mkdir()
    (lake / "export").symlink_to(disk / "exports")
    for run_id, days in enumerate((BEFORE, AFTER), 1):
        publish(lake, run_id, days)
        assert shown(lake) == (days, "".join(days))
        assert (lake / "export").readlink() == disk / "exports" and (disk / ".exports-versions").is_dir()
    assert list(lake.iterdir()) == [lake / "export"]


def test_mount_point_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "export").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda one: Path(one).name == "export")
    with pytest.raises(ExportFailed, match="export is a mount point"):
        destination_of(str(tmp_path), 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]
