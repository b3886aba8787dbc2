"""Publish exports atomically, to a folder (by renames) or to an object store (by a manifest).

Readers never see half an export. In a folder, files keep their names and are replaced by renames once all files of the
export are complete. An object store has no renames: each export writes files of new names and then manifest.json, which
lists its files; files of the previous manifest stay until the next export.
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
    """Return the Hive-style partition of a day: `table=fact_order_item/date=2026-11-28`."""
    return f"{kind}={name}/date={quote(day, safe='')}"


class Destination(ABC):
    """Files of one export, by their path below the folder `export`. Readers see none before `publish`."""

    def __init__(self, folder: Location, run_id: int) -> None:
        self._folder, self.run_id = folder, run_id

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the last export; empty if there is none."""
        try:
            return _parsed((self._folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            return {}

    @abstractmethod
    def path(self, folder: str, suffix: str) -> str:
        """Return the path of this export's file in the folder of a day."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file for writing. Readers do not see it before `publish`."""

    @abstractmethod
    def publish(self, manifest: dict[str, Any], written: Sequence[str], replaced: Mapping[str, str]) -> None:
        """Make the export visible to readers.

        Args:
            manifest: All files of the export, by table and day.
            written: Paths of the files that were written now.
            replaced: Paths of files that are no longer part of it, each with the path of its successor, or ''.
        """


def destination_of(url: str, run_id: int) -> Destination:
    """Return the folder `export` of a lake as a destination.

    Raises:
        SettingsError: the lake cannot be opened.
    """
    location = location_of(url)
    if isinstance(location, Path):
        return _Folder(location / "export", run_id)
    return _ObjectStore(location / "export", run_id)


@contextmanager
def writable(url: str) -> Iterator[None]:
    """Translate errors of file systems and of object stores' clients into `ExportFailed`.

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
            # Remove drafts of killed exports. None can be in use, since only one export runs at a time.
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
                # Rename yesterday's folder of an undivided table to today's: readers find exactly one at any time.
                (self._folder / old).parent.rename((self._folder / new).parent)
        for path in written:
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._drafts / path).replace(self._folder / path)
        for old in replaced:
            if (self._folder / old).exists():
                (self._folder / old).unlink()
                # Keep a folder with other files: they are a user's, or markers that a query engine has written.
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
        # S3 has no folders, but other file systems need them.
        target.parent.mkdir(parents=True, exist_ok=True)
        opened: Any = target.fs.open(target.path, "wb")
        return opened  # type: ignore[no-any-return]

    def publish(self, manifest: dict[str, Any], written: Sequence[str], replaced: Mapping[str, str]) -> None:
        before = self.manifest()
        manifest = {**manifest, "kept_for_readers": sorted(replaced)}
        (self._folder / MANIFEST).write_bytes(_text(manifest))
        self._remove_leftovers({*_paths(manifest), *_paths(before), *replaced})

    def _remove_leftovers(self, kept: set[str]) -> None:
        """Remove files that the previous export has replaced, and those of killed exports."""
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
    """Parse a manifest. A damaged one, or one of another format, counts as none: everything is exported again."""
    try:
        manifest = json.loads(text)
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


# Increase this when the contents of files change: then everything is exported again.
FORMAT: Final = 1
