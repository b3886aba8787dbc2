"""Where the archive lies: a folder or URL below the lake, with one Delta table per archived table."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.errors import WarehouseError
from warehouse.files.locations import Location, location_of
from warehouse.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOLDER = "archive"
IS_IT_UP = (
    "Batches wait in the warehouse meanwhile, and the next run adds them, or `dwh archive`. Check DWH_LAKE; "
    "DWH_ARCHIVE=false turns the archive off."
)


class ArchiveUnreachable(WarehouseError):
    """The archive cannot be read or written."""


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
        """The same as deltalake wants it."""
        folder = self.folder(path)
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
        """The table `path`; None where there is none yet."""
        from deltalake import DeltaTable

        url = self.url(path)
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
