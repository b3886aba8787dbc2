"""The landing folder of the web logs, and the files in it, those of archives included."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psycopg

from warehouse.files import lake
from warehouse.files.archive import Limits, unpacked
from warehouse.files.lake import Landing
from warehouse.files.locations import Location
from warehouse.files.rotation import MEMBER
from warehouse.settings import Settings
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.formats.declaration import WeblogFormats, read_formats
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules


def landing_folder(settings: Settings) -> Location:
    """Return the landing folder of the web logs."""
    return lake.folder(settings.lake, read_traffic_rules().landing)


def ignored_names(settings: Settings) -> tuple[str, ...]:
    """Patterns of names that are ignored: those of the declaration and those of the settings."""
    added = (name.strip() for name in settings.weblog_ignore.split(","))
    return (*read_traffic_rules().ignore, *filter(None, added))


def limits(settings: Settings) -> Limits:
    """How much a compressed file may unpack to."""
    return Limits(settings.unpack_mb << 20, settings.unpack_ratio)


def discover(settings: Settings) -> Landing:
    """List all files of the landing folder, read or not."""
    return lake.discover(landing_folder(settings), ignored_names(settings), read_formats(settings).names)


def claims(
    connection: psycopg.Connection,
    settings: Settings,
    formats: WeblogFormats,
    only: Collection[str] | None = None,
    *,
    is_exclusive: bool = True,
) -> Claims:
    """Claims on the files of the landing folder; `only` and `is_exclusive` as in `Claims`."""
    return Claims(
        connection,
        landing_folder(settings),
        ignored_names(settings),
        only,
        is_named=formats.names,
        is_declared=formats.declares,
        limits=limits(settings),
        is_exclusive=is_exclusive,
    )


@contextmanager
def located(settings: Settings, path: str) -> Iterator[Location]:
    """Yield the location of a path in audit.file; a file of an archive is unpacked for the duration of the block."""
    landing = landing_folder(settings)
    archive, is_member, name = path.partition(MEMBER)
    if not is_member or (landing / path).exists() or not (landing / archive).is_file():
        yield landing / path
        return
    with unpacked(landing / archive, limits(settings)) as content:
        locations = (member.location for member in content.members if member.name == name and member.location)
        yield next(locations, landing / path)
