"""A table of the archive that has lost files, or has damaged ones: it is named, nothing is built of it, runs go on."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.archive import load
from tests.integration.test_rebuild import eventful_shop, run_rebuild, settings_of
from tests.pipeline import Pipeline, content
from warehouse.archive.flush import flush
from warehouse.archive.maintain import restart
from warehouse.archive.place import Archive, ArchiveDamaged
from warehouse.rebuild.rebuild import NotArchived, rebuild_damaged


@dataclass(frozen=True)
class History:
    """Databases and archive of an eventful shop, to be copied."""

    shop: str
    warehouse: str
    archive: Path


@pytest.fixture(scope="module")
def history(
    module_database: Callable[[str], str],
    shop_template: str,
    warehouse_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> History:
    made = Pipeline(module_database(shop_template), module_database(warehouse_template))
    made.open_shop()
    root = tmp_path_factory.mktemp("history") / "archive"
    eventful_shop(made, Archive(root))
    names = made.shop.info.dbname, made.warehouse.info.dbname
    made.close()
    return History(*names, root)


@pytest.fixture
def archive(history: History, tmp_path: Path) -> Archive:
    return Archive(shutil.copytree(history.archive, tmp_path / "lake" / "archive"))


@pytest.fixture
def shop(history: History, database: Callable[[str], str]) -> Iterator[Pipeline]:
    """An eventful shop and its warehouse: copies."""
    pipeline = Pipeline(database(history.shop), database(history.warehouse))
    pipeline.adopt()
    yield pipeline
    pipeline.close()


def files(folder: Path) -> list[Path]:
    """Its Parquet files, the largest first."""
    return sorted(folder.glob("*.parquet"), key=lambda file: -file.stat().st_size)


def log(folder: Path) -> list[Path]:
    return sorted((folder / "_delta_log").glob("*.json"))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_checkpoint(folder: Path) -> None:
    """A checkpoint of which half is missing, and which alone has the beginning of the log."""
    from deltalake import DeltaTable

    DeltaTable(str(folder)).create_checkpoint()
    for checkpoint in (folder / "_delta_log").glob("*.checkpoint.parquet"):
        cut_off(checkpoint)
    for entry in log(folder)[:-1]:
        entry.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "file gone": lambda folder: files(folder)[0].unlink(),
    "file cut off": lambda folder: cut_off(files(folder)[0]),
    "first entry of the log gone": lambda folder: log(folder)[0].unlink(),
    "entry within the log gone": lambda folder: log(folder)[1].unlink(),
    "last entry of the log gone": lambda folder: log(folder)[-1].unlink(),
    "last entry of the log empty": lambda folder: log(folder)[-1].write_bytes(b""),
    "last entry of the log garbled": lambda folder: log(folder)[-1].write_bytes(b'{"add": oops'),
    "checkpoint damaged": damage_checkpoint,
    "log gone": lambda folder: shutil.rmtree(folder / "_delta_log"),
    "folder gone": shutil.rmtree,
}
# One of each kind: a file, the log's end, its beginning, all of it.
QUICK = {"file gone", "last entry of the log gone", "checkpoint damaged", "folder gone"}


@pytest.mark.parametrize(
    "damage", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in DAMAGES]
)
def test_damaged_table_is_named_and_neither_rebuilt_from_nor_added_to(
    shop: Pipeline, archive: Archive, damage: str, tmp_path: Path
) -> None:
    before, folder = content(shop.warehouse), Path(str(archive.folder("shop/customer")))
    DAMAGES[damage](folder)
    with pytest.raises((ArchiveDamaged, NotArchived), match=str(folder)):
        run_rebuild(shop, archive)
    assert content(shop.warehouse) == before
    # What is published now is added only to a table that has all that was added before.
    shop.do("update customer set name = 'Ana Lucia', updated_at = shop_now() where id = 1")
    if damage.startswith("file"):
        load(shop, archive)
    else:
        with pytest.raises(ArchiveDamaged, match=str(folder)):
            load(shop, archive)
        assert "shop/customer" in {path for (path,) in shop.rows("select path from audit.archive_pending")}
    expected = content(shop.warehouse)
    # A run that finds the mirror emptied reads it from the source.
    shop.warehouse.execute("truncate raw.shop_customer")
    lines: list[str] = []
    with suppress(ArchiveDamaged):
        load(
            shop,
            archive,
            prepare=lambda run: rebuild_damaged(
                run, settings_of(archive), ["raw.shop_customer"], lines.append
            ),
        )
    assert any(line.startswith("not rebuilt: ") and str(folder) in line for line in lines), lines
    assert shop.rows("select id, name from raw.shop_customer where not _is_deleted order by id") == [
        (1, "Ana Lucia"), (2, "Eva again"), (7, "Late"),
    ]  # fmt: skip
    assert content(shop.warehouse)["dwh.dim_customer"] == expected["dwh.dim_customer"]
    # The way out: of a file that is missing, a new archive is enough.
    if not damage.startswith("file") and folder.exists():
        shutil.move(folder, tmp_path / "damaged")
    restart(shop.warehouse_url)
    load(shop, archive)
    flush(shop.warehouse_url, archive)
    expected = content(shop.warehouse)
    assert run_rebuild(shop, archive) == []
    shop.warehouse.execute("truncate raw.shop_customer, dwh.dim_customer cascade")
    assert run_rebuild(shop, archive)
    assert content(shop.warehouse) == expected
