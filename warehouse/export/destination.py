"""Where exports are written: a folder, in which files are renamed into place, or an object store with a manifest.

A reader never sees half an export. In a folder each file has one name, and is replaced by a rename when all files of
the export are complete. An object store has no renames: files have names of their own, manifest.json, written last,
says which ones are the export, and those that it named before stay until the next export.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

import psycopg

from warehouse.errors import WarehouseError, visible
from warehouse.files.locations import CREDENTIALS, Location, location_of, refuses_credentials

if TYPE_CHECKING:
    from upath import UPath

MANIFEST: Final = "manifest.json"
_DRAFTS: Final = ".draft-"


class ExportFailed(WarehouseError):
    """An export cannot be written."""


def partition(kind: str, name: str, day: str) -> str:
    """The folder of one day, as Hive and Spark name it: `table=fact_order_item/date=2026-11-28`."""
    return f"{kind}={name}/date={quote(day, safe='')}"


class Destination(ABC):
    """Files of one export, by their path below the folder `export`; none is seen before `publish`."""

    def __init__(self, folder: Location, run_id: int) -> None:
        self._folder, self.run_id = folder, run_id

    def manifest(self) -> dict[str, Any]:
        """The manifest of the last export; empty if there is none."""
        try:
            return _parsed((self._folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            return {}

    @abstractmethod
    def path(self, folder: str, suffix: str) -> str:
        """The path of this export's file in the folder of a day."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file to write, unseen."""

    @abstractmethod
    def publish(self, manifest: dict[str, Any], written: Sequence[str], replaced: Mapping[str, str]) -> None:
        """Show the export.

        Args:
            manifest: What it consists of.
            written: Paths of the files that were written now.
            replaced: Paths of files that are no longer part of it, each with the one that takes its place, or ''.
        """


def destination_of(url: str, run_id: int) -> Destination:
    """The folder `export` of a lake.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    location = location_of(url)
    if isinstance(location, Path):
        return _Folder(location / "export", run_id)
    return _ObjectStore(location / "export", run_id)


@contextmanager
def writable(url: str) -> Iterator[None]:
    """Say why an export cannot be written; the libraries of object stores have errors of their own.

    Raises:
        ExportFailed: it cannot be written.
    """
    try:
        yield
    except (WarehouseError, psycopg.Error):
        raise
    except Exception as error:
        location = location_of(url)
        hint = "What was exported before is unchanged. Run it again when it can be written: dwh export."
        if isinstance(location, Path):
            if not isinstance(error, OSError):
                raise
            reason = os.strerror(error.errno or 0)
        else:
            refused = refuses_credentials(error)
            reason = "the credentials are refused" if refused else f"it fails ({type(error).__name__})"
            hint += f" {CREDENTIALS}"
        raise ExportFailed(
            f"The export cannot be written to {visible(str(location))}: {reason}.", hint=hint
        ) from None


class _Folder(Destination):
    _folder: Path

    def __init__(self, folder: Path, run_id: int) -> None:
        super().__init__(folder, run_id)
        self._drafts = folder / f"{_DRAFTS}{run_id}"
        for left in folder.glob(f"{_DRAFTS}*"):
            # Of an export that was killed: one runs at a time.
            shutil.rmtree(left)

    def path(self, folder: str, suffix: str) -> str:
        return f"{folder}/part.{suffix}"

    def open(self, path: str) -> IO[bytes]:
        draft = self._drafts / path
        draft.parent.mkdir(parents=True, exist_ok=True)
        return draft.open("wb")

    def publish(self, manifest: dict[str, Any], written: Sequence[str], replaced: Mapping[str, str]) -> None:
        with self.open(MANIFEST) as file:
            file.write(_text(manifest))
        for path in (*written, MANIFEST):
            with (self._drafts / path).open("rb") as draft:
                os.fsync(draft.fileno())
        for old, new in replaced.items():
            if new and not (self._folder / new).parent.exists() and (self._folder / old).exists():
                # A table as of yesterday becomes that of today: readers find it once at any time.
                (self._folder / old).parent.rename((self._folder / new).parent)
        for path in written:
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._drafts / path).replace(self._folder / path)
        for old in replaced:
            if (self._folder / old).exists():
                (self._folder / old).unlink()
                # Whatever else lies there is somebody's own, or a mark that an engine has left.
                if not any((self._folder / old).parent.iterdir()):
                    (self._folder / old).parent.rmdir()
        (self._drafts / MANIFEST).replace(self._folder / MANIFEST)
        shutil.rmtree(self._drafts)


class _ObjectStore(Destination):
    _folder: "UPath"

    def __init__(self, folder: "UPath", run_id: int) -> None:
        super().__init__(folder, run_id)
        folder.fs.invalidate_cache()

    def path(self, folder: str, suffix: str) -> str:
        return f"{folder}/part-{self.run_id}.{suffix}"

    def open(self, path: str) -> IO[bytes]:
        target = self._folder / path
        # File systems with folders want them; S3 has none.
        target.parent.mkdir(parents=True, exist_ok=True)
        opened: Any = target.fs.open(target.path, "wb")
        return opened  # type: ignore[no-any-return]

    def publish(self, manifest: dict[str, Any], written: Sequence[str], replaced: Mapping[str, str]) -> None:
        before = self.manifest()
        manifest = {**manifest, "kept_for_readers": sorted(replaced)}
        (self._folder / MANIFEST).write_bytes(_text(manifest))
        self._remove_leftovers({*_paths(manifest), *_paths(before), *replaced})

    def _remove_leftovers(self, kept: set[str]) -> None:
        """Remove what the export before has replaced, and files of exports that were killed."""
        filesystem, root = self._folder.fs, self._folder.path.rstrip("/")
        filesystem.invalidate_cache()
        for found in filesystem.find(root):
            path = found.removeprefix(root).strip("/")
            if path not in kept and path.startswith(("table=", "report=")):
                filesystem.rm_file(found)


def _paths(manifest: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("tables", "reports"):
        for table in manifest.get(kind, {}).values():
            yield from (entry["path"] for entry in table["days"].values())


def _text(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _parsed(text: bytes) -> dict[str, Any]:
    """The manifest; one that is damaged is none, so that everything is exported again."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


# Counts up when files would be written otherwise: everything is exported again.
FORMAT: Final = 1
