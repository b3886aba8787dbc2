"""Location of the archive: a folder or URL below the lake, with one Delta table per archived table."""

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
# deltalake's error for a file that the Delta log names but the object store does not have.
_MISSING: Final = re.compile(r"Object at location .+\.parquet not found")
# Colours and arrows with which deltalake formats the causes of an error.
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
    """Translate errors of the file system or object store into `ArchiveUnreachable`.

    Raises:
        ArchiveDamaged: files of the table `path` are missing or damaged.
        ArchiveUnreachable: the file system or object store failed.
    """
    try:
        yield
    except Exception as error:
        # deltalake and the object stores' clients share no base class of errors: go by module.
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
    """Return the first line of an error's text and its last, which has the root cause."""
    lines = [_ORNAMENTS.sub("", line).strip().rstrip(".") for line in str(error).strip().splitlines()]
    return ": ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else type(error).__name__


def _is_damage(error: Exception) -> bool:
    """Whether the storage was reachable, but files of the table are missing or damaged."""
    if isinstance(error, FileNotFoundError):
        return True
    text = str(error)
    if _MISSING.search(text):
        return True
    # Arrow raises for a file that is not Parquet, deltalake ("Kernel error") for an inconsistent log.
    is_store = (
        isinstance(error, OSError)
        or "object store" in text
        or "Generic " in text.replace("Generic delta", "")
    )
    return not is_store and (type(error).__module__.startswith("pyarrow") or text.startswith("Kernel error"))


@dataclass(frozen=True)
class Archive:
    """The archive's Delta tables, addressed by paths such as `shop/customer`."""

    root: Location

    @classmethod
    def of(cls, settings: Settings) -> "Archive":
        """Return the archive below the lake that the settings name.

        Raises:
            SettingsError: the lake cannot be opened.
        """
        return cls(location_of(settings.lake) / FOLDER)

    def folder(self, path: str) -> Location:
        """Folder of the table `path`."""
        return self.root / path

    def url(self, path: str) -> str:
        """Return the folder of the table `path` as the URL or path that deltalake accepts.

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
        """Options for object stores, in addition to those that deltalake reads from the environment."""
        if isinstance(self.root, Path):
            return {}
        # With conditional put, only one of two concurrent writers can create the next log file.
        options = {
            "conditional_put": "etag",
            # Short timeouts: runs do not wait for a store that is down, their batches wait in the warehouse.
            "connect_timeout": "5s", "timeout": "30s", "max_retries": "2", "retry_timeout": "30s",
        }  # fmt: skip
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = "true"
        return options

    def open(self, path: str) -> "DeltaTable | None":
        """Open the table `path`; None if it does not exist yet.

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
    """Return a captured table's path in the archive, with URL-unsafe bytes of its name written as -xx."""
    safe = "".join(
        one
        if one.isascii() and (one.isalnum() or one == "_")
        else "".join(f"-{byte:02x}" for byte in one.encode())
        for one in table
    )
    return f"{source}/{safe}"
