"""Where the archive lies: a folder or URL below the lake, with one Delta table per archived table."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from warehouse.errors import WarehouseError, visible
from warehouse.files.locations import CREDENTIALS, Location, location_of, refuses_credentials
from warehouse.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOLDER = "archive"
IS_IT_UP = (
    "Batches wait in the warehouse meanwhile, and the next run adds them, or `dwh archive`. Check DWH_LAKE; "
    "DWH_ARCHIVE=false turns the archive off."
)


# Modules whose errors are those of a file system or an object store.
_CLIENTS: Final = ("_internal", "deltalake", "botocore", "aiohttp", "s3fs", "pyarrow")


_ESCAPED: Final = re.compile("%[0-9a-fA-F]{2}")
# A file that a version names, and that the object store does not have.
_MISSING: Final = re.compile(r"Object at location .+\.parquet not found")
# By which deltalake sets off the causes of an error.
_ORNAMENTS: Final = re.compile(r"\x1b\[[0-9;]*m|↳")


class ArchiveUnreachable(WarehouseError):
    """The archive cannot be read or written."""


class ArchiveDamaged(ArchiveUnreachable):
    """A table of the archive has lost files, or they are damaged."""

    def __init__(self, folder: Location, what: str) -> None:
        super().__init__(
            f"{visible(str(folder))}, a table of the archive, {what}.",
            hint="Put the folder back as it was, from a backup of the lake. Without one, move it away: then "
            "`dwh archive --restart` and the next run of each source start a new archive from all that this "
            "warehouse has.",
        )


@contextmanager
def unreachable(archive: "Archive", path: str = "") -> Iterator[None]:
    """Say of errors of the file system, or of the object store, that the archive cannot be reached.

    Raises:
        ArchiveDamaged: files of the table `path` are missing, or damaged.
        ArchiveUnreachable: its file system failed.
    """
    try:
        yield
    except Exception as error:
        # Of deltalake and of the clients of object stores, none of which share a class.
        is_client = type(error).__module__.partition(".")[0] in _CLIENTS
        if not is_client and not isinstance(error, OSError):
            raise
        if not isinstance(archive.root, Path) and refuses_credentials(error):
            raise ArchiveUnreachable(
                f"The archive {archive.root} cannot be reached: the server refuses the credentials.",
                hint=f"{CREDENTIALS} {IS_IT_UP}",
            ) from None
        reason = (isinstance(error, OSError) and error.strerror) or _reason(error)
        if path and _is_damage(error):
            raise ArchiveDamaged(archive.folder(path), f"cannot be read: {reason}") from None
        raise ArchiveUnreachable(
            f"The archive {archive.root} cannot be reached: {reason}.",
            hint=IS_IT_UP,
        ) from None


def _reason(error: Exception) -> str:
    """What an error says: its first line, and the cause in its last one."""
    lines = [_ORNAMENTS.sub("", line).strip().rstrip(".") for line in str(error).strip().splitlines()]
    return ": ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else type(error).__name__


def _is_damage(error: Exception) -> bool:
    """Whether the file system has answered, and what it has is not what it should be."""
    if isinstance(error, FileNotFoundError):
        return True
    text = str(error)
    if _MISSING.search(text):
        return True
    # Of Arrow, a file that is no Parquet; of deltalake, a log that does not hang together.
    is_store = (
        isinstance(error, OSError)
        or "object store" in text
        or "Generic " in text.replace("Generic delta", "")
    )
    return not is_store and (type(error).__module__.startswith("pyarrow") or text.startswith("Kernel error"))


@dataclass(frozen=True)
class Archive:
    """The Delta tables of an archive, by their paths such as `shop/customer`."""

    root: Location

    @classmethod
    def of(cls, settings: Settings) -> "Archive":
        """The archive below the lake of the settings.

        Raises:
            SettingsError: the lake cannot be opened.
        """
        return cls(location_of(settings.lake) / FOLDER)

    def folder(self, path: str) -> Location:
        """Folder of the table `path`."""
        return self.root / path

    def url(self, path: str) -> str:
        """The same as deltalake wants it.

        Raises:
            ArchiveUnreachable: deltalake would read another folder.
        """
        folder = self.folder(path)
        if _ESCAPED.search(str(folder)):
            raise ArchiveUnreachable(
                f"The archive {self.root} cannot be reached: deltalake takes a % before two hexadecimal digits for "
                "another character.",
                hint="Rename the folder, and set DWH_LAKE to it. Batches wait in the warehouse meanwhile.",
            )
        return str(folder.absolute()) if isinstance(folder, Path) else f"{folder.protocol}://{folder.path}"

    @property
    def storage_options(self) -> dict[str, str]:
        """Options of object stores beside those that deltalake reads from the environment."""
        if isinstance(self.root, Path):
            return {}
        # Two writers at once: only one of them may create the next file of the log.
        options = {
            "conditional_put": "etag",
            # One that does not answer is away: batches wait in the warehouse, and no run for them.
            "connect_timeout": "5s", "timeout": "30s", "max_retries": "2", "retry_timeout": "30s",
        }  # fmt: skip
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = "true"
        return options

    def open(self, path: str) -> "DeltaTable | None":
        """The table `path`; None where there is none yet.

        Raises:
            ArchiveUnreachable: it cannot be read.
        """
        from deltalake import DeltaTable

        url = self.url(path)
        with unreachable(self, path):
            if not DeltaTable.is_deltatable(url, self.storage_options):
                return None
            return DeltaTable(url, storage_options=self.storage_options)


def table_path(source: str, table: str) -> str:
    """Path of a captured table in the archive; characters that a URL would spell differently are written as -xx."""
    safe = "".join(
        one
        if one.isascii() and (one.isalnum() or one == "_")
        else "".join(f"-{byte:02x}" for byte in one.encode())
        for one in table
    )
    return f"{source}/{safe}"
