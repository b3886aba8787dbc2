"""Where files of the lake are: in a folder of this machine, or in any file system that fsspec knows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

from warehouse.errors import SettingsError

# What file systems call the time of the last change.
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class RemotePath:
    """A file or folder of a file system behind fsspec: as much of pathlib as feeds need."""

    scheme: str
    path: str
    filesystem: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path.lstrip('/')}"

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.scheme, f"{self.path.rstrip('/')}/{name}", self.filesystem)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file, to be read."""
        return cast(IO[bytes], self.filesystem.open(self.path, mode))

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.filesystem.exists(self.path))

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self.filesystem.isfile(self.path))

    def is_dir(self) -> bool:
        """Whether it is a folder; object stores have none without files."""
        return bool(self.filesystem.isdir(self.path))


Location = Path | RemotePath


@dataclass(frozen=True)
class Found:
    """A file: its path below the folder, in parts; where it is; size in bytes; last change in ns since 1970."""

    parts: tuple[str, ...]
    location: Location
    size_bytes: int
    modified_ns: int


def location_of(url: str) -> Location:
    """The folder that a path or URL names.

    Raises:
        SettingsError: no such file system is known, or what it needs is not installed.
    """
    scheme = urlsplit(url).scheme
    # One letter is a drive.
    if scheme in ("", "file") or len(scheme) == 1:
        return Path(unquote(urlsplit(url).path) if scheme == "file" else url)
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise SettingsError(
            f"The lake {scheme}://… cannot be opened: {error}.",
            hint="Set DWH_LAKE to a folder, or to a URL that fsspec knows; for s3:// install dwh[s3].",
        ) from None
    return RemotePath(scheme, str(path), filesystem)


def local_folder(url: str) -> Path:
    """The folder that a path or URL names, on this machine.

    Raises:
        SettingsError: it is elsewhere.
    """
    location = location_of(url)
    if isinstance(location, RemotePath):
        raise SettingsError(
            f"{location} is no folder of this machine.", hint="Set DWH_LAKE to a folder for this."
        )
    return location


def files_below(folder: Location) -> Iterator[Found]:
    """Files below a folder, in order of their names."""
    if isinstance(folder, Path):
        for location in sorted(folder.rglob("*")):
            if location.is_file():
                status = location.stat()
                parts = location.relative_to(folder).parts
                yield Found(parts, location, status.st_size, status.st_mtime_ns)
        return
    # What another process has written a moment ago must be seen.
    folder.filesystem.invalidate_cache()
    root = folder.path.rstrip("/")
    if not folder.exists():
        return
    for path, told in sorted(folder.filesystem.find(root, detail=True).items()):
        parts = tuple(path.removeprefix(root).strip("/").split("/"))
        yield Found(
            parts, RemotePath(folder.scheme, path, folder.filesystem), int(told["size"]), _modified_ns(told)
        )


def _modified_ns(told: Mapping[str, Any]) -> int:
    """When a file was changed last, as far as its file system tells."""
    moment = next((told[name] for name in _MODIFIED if told.get(name) is not None), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return int(float(moment) * 1_000_000_000)
