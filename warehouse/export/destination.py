"""Publish exports atomically, to a folder (by a symbolic link) or to an object store (by a manifest).

Readers never see half an export. A folder gets a version with all files, which replaces the one before in one step. An
object store has no renames: each export writes files of new names and then manifest.json, which lists its files; files
of the previous manifest stay until the next export.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

import psycopg

from warehouse.errors import WarehouseError, visible
from warehouse.export.versions import Versions, without_links
from warehouse.files.locations import CREDENTIALS, Location, files_below, location_of, refuses_credentials

if TYPE_CHECKING:
    from upath import UPath

MANIFEST: Final = "manifest.json"
# Folders in which earlier releases have written.
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

    def paths(self) -> set[str]:
        """Return the paths of all files that lie there: somebody, or a rule of the bucket, may have removed some."""
        return {"/".join(found.parts) for found in files_below(self._folder)}

    def path(self, folder: str, suffix: str) -> str:
        """Return the path of this export's file in the folder of a day.

        No other export writes a file of this name: a reader that has listed files finds those contents, or none.
        """
        return f"{folder}/part-{self.run_id}.{suffix}"

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file for writing. Readers do not see it before `publish`."""

    @abstractmethod
    def publish(self, manifest: dict[str, Any], written: Collection[str], replaced: Collection[str]) -> None:
        """Make the export visible to readers.

        Args:
            manifest: All files of the export, by table and day.
            written: Paths of the files that were written now.
            replaced: Paths of files that are no longer part of it.
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
    def __init__(self, folder: Path, run_id: int) -> None:
        folder = without_links(folder)
        if os.path.ismount(folder):
            raise ExportFailed(
                f"{folder} is a mount point: a new version of the export cannot replace it in one step.",
                hint="Let `export` in DWH_LAKE be a symbolic link to a folder on that disk.",
            )
        super().__init__(folder, run_id)
        self._versions = Versions(folder, run_id)

    def path(self, folder: str, suffix: str) -> str:
        # A report is one file, which may be read by its name.
        return f"{folder}/part.csv" if suffix == "csv" else super().path(folder, suffix)

    def open(self, path: str) -> IO[bytes]:
        target = self._versions.new / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.open("wb")

    def publish(self, manifest: dict[str, Any], written: Collection[str], replaced: Collection[str]) -> None:
        with self.open(MANIFEST) as file:
            file.write(_text(manifest))
        for path in (*written, MANIFEST):
            with (self._versions.new / path).open("rb") as new:
                os.fsync(new.fileno())
        listed = {*_paths(manifest)}

        def is_dropped(path: str) -> bool:
            # Other files stay: they are a user's, or markers that a query engine has written.
            is_unlisted = PurePath(path).match("table=*/date=*/part*.parquet") and path not in listed
            return path in replaced or is_unlisted or path.startswith(_DRAFTS)

        self._versions.carry_over(is_dropped)
        self._versions.show()


class _ObjectStore(Destination):
    _folder: "UPath"

    def __init__(self, folder: "UPath", run_id: int) -> None:
        super().__init__(folder, run_id)
        folder.fs.invalidate_cache()

    def open(self, path: str) -> IO[bytes]:
        target = self._folder / path
        # S3 has no folders, but other file systems need them.
        target.parent.mkdir(parents=True, exist_ok=True)
        opened: Any = target.fs.open(target.path, "wb")
        return opened  # type: ignore[no-any-return]

    def publish(self, manifest: dict[str, Any], written: Collection[str], replaced: Collection[str]) -> None:
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
