"""Locations of files: local paths, or paths in any file system that fsspec supports."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union
from urllib.parse import unquote, urlsplit

from warehouse.errors import SettingsError

if TYPE_CHECKING:
    from upath import UPath

# Names of the modification time in different file systems.
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created")

# UPath is imported only for a remote lake, since importing fsspec is slow.
Location: TypeAlias = Union[Path, "UPath"]

CREDENTIALS: Final = (
    "Credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a server of your own, "
    "AWS_ENDPOINT_URL."
)
_REFUSALS: Final = (
    "forbidden",
    "denied",
    "invalidaccesskeyid",
    "signaturedoesnotmatch",
    "unauthorized",
    "unable to locate credentials",
    "403",
)


@dataclass(frozen=True)
class Found:
    """A file: the parts of its path below the folder, location, size in bytes, modification time in ns since 1970.

    `obstacle` is set if it cannot be read, for example 'a symbolic link to a folder', and `hint` is what to do then.
    """

    parts: tuple[str, ...]
    location: Location
    size_bytes: int = 0
    modified_ns: int = 0
    # Device and inode on a local disk: they stay the same when the file is renamed.
    inode: str | None = None
    obstacle: str | None = None
    hint: str = ""


def location_of(url: str) -> Location:
    """Return the location of a path or URL.

    Raises:
        SettingsError: fsspec does not support the file system, or the package for it is not installed.
    """
    scheme = urlsplit(url).scheme
    # A scheme of one letter is a Windows drive.
    if scheme in ("", "file") or len(scheme) == 1:
        return Path(unquote(urlsplit(url).path) if scheme == "file" else url)
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise SettingsError(
            f"The lake {scheme}://… cannot be opened: {error}.",
            hint="Set DWH_LAKE to a folder, or to a URL that fsspec supports; for s3:// install dwh[s3].",
        ) from None
    return _remote(filesystem, str(path))


def refuses_credentials(error: Exception) -> bool:
    """Whether an object store has refused the credentials, by the error's text: clients share no error class."""
    text = str(error).lower()
    return isinstance(error, PermissionError) or any(word in text for word in _REFUSALS)


def local_folder(url: str) -> Path:
    """Return the local folder of a path or URL.

    Raises:
        SettingsError: it is not on this machine.
    """
    location = location_of(url)
    if not isinstance(location, Path):
        raise SettingsError(
            f"{location} is not a folder of this machine.", hint="Set DWH_LAKE to a folder for this."
        )
    return location


def files_below(folder: Location) -> Iterator[Found]:
    """Yield everything below a folder except folders, ordered by path. Links to folders are not followed."""
    if isinstance(folder, Path):
        yield from sorted(_local_files(folder, ()), key=lambda found: found.parts)
        return
    # Drop fsspec's cached listing, to see files that another process has just written.
    folder.fs.invalidate_cache()
    root = folder.path.rstrip("/")
    if not folder.exists():
        return
    # Get sizes and times with one listing: UPath.rglob and stat would send a request for each file.
    for path, info in sorted(folder.fs.find(root, detail=True).items()):
        if path.endswith("/") or info.get("type") == "directory":
            # Skip the empty objects that consoles of object stores create for folders.
            continue
        parts = tuple(path.removeprefix(root).strip("/").split("/"))
        yield Found(parts, _remote(folder.fs, path), int(info["size"]), _modified_ns(info))


def _local_files(folder: Path, above: tuple[str, ...]) -> Iterator[Found]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Found(above, folder, obstacle=f"a folder that cannot be listed: {error.strerror}", hint=_LIST)
        return
    for entry in entries:
        parts, path = (*above, entry.name), folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _local_files(path, parts)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            # Either it was deleted since it was listed, or it is a broken link.
            if entry.is_symlink():
                yield Found(parts, path, obstacle="a symbolic link that leads nowhere", hint=_PUT_BACK)
            continue
        except OSError as error:
            yield Found(parts, path, obstacle=f"something that cannot be read: {error.strerror}", hint=_MOVE)
            continue
        if stat.S_ISREG(status.st_mode):
            inode = f"{status.st_dev}:{status.st_ino}"
            yield Found(parts, path, status.st_size, status.st_mtime_ns, inode)
        else:
            obstacle, hint = _OBSTACLES.get(stat.S_IFMT(status.st_mode), ("no file", _MOVE))
            yield Found(parts, path, obstacle=obstacle, hint=hint)


_LIST: Final = "Give the user who runs dwh the right to list it, or move it out of the landing folder."
_PUT_BACK: Final = "Put back the file that it leads to, or remove the link."
_MOVE: Final = "Only files are read: move it out of the landing folder."
_OBSTACLES: Final = {
    stat.S_IFDIR: (
        "a symbolic link to a folder, which is not followed",
        "Mount or move the folder itself there, or link its files: links to files are followed.",
    ),
    stat.S_IFIFO: ("a named pipe", _MOVE),
    stat.S_IFSOCK: ("a socket", _MOVE),
    stat.S_IFCHR: ("a device", _MOVE),
    stat.S_IFBLK: ("a device", _MOVE),
}


def _remote(filesystem: Any, path: str) -> "UPath":
    """Return a path without credentials: they are options of the file system, so they are never shown."""
    from upath import UPath

    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return UPath(path, protocol=protocol, **filesystem.storage_options)


def _modified_ns(info: Mapping[str, Any]) -> int:
    """Return a file's modification time in ns since 1970; 0 if its file system does not have it."""
    moment = next((info[name] for name in _MODIFIED if info.get(name) is not None), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return int(float(moment) * 1_000_000_000)
