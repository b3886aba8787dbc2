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

# The names that file systems have for the time of the last change.
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created")

# Imported only for a remote lake: fsspec takes a while.
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
    """A file: the parts of its path below the folder, location, size in bytes, last change in ns since 1970.

    `obstacle` says why it is none that can be read, as 'a symbolic link to a folder', and `hint` what to do about it.
    """

    parts: tuple[str, ...]
    location: Location
    size_bytes: int = 0
    modified_ns: int = 0
    # Device and number of the file on a local disk: they stay when it is renamed.
    inode: str | None = None
    obstacle: str | None = None
    hint: str = ""


def location_of(url: str) -> Location:
    """The folder of a path or URL.

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
    """Whether an object store has refused the credentials; its clients have no class of error in common."""
    text = str(error).lower()
    return isinstance(error, PermissionError) or any(word in text for word in _REFUSALS)


def local_folder(url: str) -> Path:
    """The folder of a path or URL on this machine.

    Raises:
        SettingsError: it is on another one.
    """
    location = location_of(url)
    if not isinstance(location, Path):
        raise SettingsError(
            f"{location} is not a folder of this machine.", hint="Set DWH_LAKE to a folder for this."
        )
    return location


def files_below(folder: Location) -> Iterator[Found]:
    """Everything below a folder but folders, in order of the names; links to folders are not followed."""
    if isinstance(folder, Path):
        yield from sorted(_local_files(folder, ()), key=lambda found: found.parts)
        return
    # Files that another process has just written must be seen.
    folder.fs.invalidate_cache()
    root = folder.path.rstrip("/")
    if not folder.exists():
        return
    # One listing with sizes and times: UPath.rglob and stat would ask for each file.
    for path, info in sorted(folder.fs.find(root, detail=True).items()):
        if path.endswith("/") or info.get("type") == "directory":
            # An empty object with the name of a folder, which consoles of object stores create.
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
            # Gone since it was listed, if it is not a link that leads nowhere.
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
    """A path by its parsed URL: credentials are options of the file system, and never shown with the path."""
    from upath import UPath

    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return UPath(path, protocol=protocol, **filesystem.storage_options)


def _modified_ns(info: Mapping[str, Any]) -> int:
    """Last change of a file in ns since 1970; 0 if its file system does not know it."""
    moment = next((info[name] for name in _MODIFIED if info.get(name) is not None), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return int(float(moment) * 1_000_000_000)
