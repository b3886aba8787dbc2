"""Find declared sources: those of this package, and those in the folder DWH_SOURCES."""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from warehouse.errors import DeclarationError, SettingsError
from warehouse.settings import Settings
from warehouse.sources.declaration import is_feed, landing_of, read_declaration
from warehouse.sources.feed_tables import overlap
from warehouse.sources.source import Source

PACKAGED = Path(__file__).parent
# Targets of `dwh run` besides sources; a test compares them with the commands.
RUN_TARGETS = (
    "daily",
    "weblogs",
    "features",
    "marts",
    "reclassify",
    "retention",
)
# Names of staging tables that belong to no source.
STAGING_TABLES = ("conformed", "source", "weblog")
# Folders of the archive that belong to no source.
ARCHIVE_FOLDERS = ("dwh", "audit")


def declared_sources(folder: Path | None = None) -> Mapping[str, Path]:
    """Return the folder of each declared source by name: packaged sources, and those in `folder` (DWH_SOURCES).

    Refused sources are skipped with a warning.

    Raises:
        SettingsError: there is no such folder.
    """
    found, refused = _find_sources(folder)
    for error in refused.values():
        _warn(str(error))
    return found


def declared_feeds(folder: Path | None = None) -> list[str]:
    """Return the names of declared feeds, whose rows come from files.

    Raises:
        SettingsError: there is no such folder.
    """
    return [name for name, place in declared_sources(folder).items() if is_feed(place)]


def refused_sources(folder: Path | None = None) -> Mapping[str, DeclarationError]:
    """Return the sources whose name is not allowed or declared twice, with the reason, by name.

    Raises:
        SettingsError: there is no such folder.
    """
    return _find_sources(folder)[1]


def find_source(name: str, folder: Path | None = None) -> Path:
    """Return the folder of source `name`; `folder` is that of DWH_SOURCES.

    Raises:
        SettingsError: there is no such source.
        DeclarationError: it is refused.
    """
    declared, refused = _find_sources(folder)
    if name in refused:
        raise refused[name]
    if name not in declared:
        raise SettingsError(
            f"There is no source '{name}'.",
            hint=f"Declared are: {', '.join(sorted(declared))}. `dwh source new {name}` proposes a declaration to put "
            "into DWH_SOURCES, the folder of your sources.",
        )
    return declared[name]


def _find_sources(folder: Path | None) -> tuple[dict[str, Path], dict[str, DeclarationError]]:
    """Return the folders of declared sources and the errors of refused ones, by name."""
    if folder is not None and not folder.is_dir():
        raise SettingsError(
            f"DWH_SOURCES: there is no folder {folder}.",
            hint="Name the folder that holds <name>/source.toml of each source.",
        )
    folders: dict[str, Path] = {}
    refused: dict[str, DeclarationError] = {}
    for place in filter(None, (PACKAGED, folder)):
        for path in sorted(place.glob("*/source.toml")):
            name = path.parent.name
            if error := check_name(name, path):
                refused[name] = error
            elif name in folders:
                refused[name] = DeclarationError(
                    f"Source '{name}' is declared twice: in {folders[name]} and in {path.parent}.",
                    hint="Rename one of the folders.",
                )
            else:
                folders[name] = path.parent
    return {name: place for name, place in folders.items() if name not in refused}, refused


def read_source(name: str, folder: Path | None = None) -> Source:
    """Read the declaration of source `name`; `folder` is that of DWH_SOURCES.

    Raises:
        SettingsError: there is no such source.
        DeclarationError: a declaration is wrong; says where and why.
    """
    source = read_declaration(find_source(name, folder))
    if source.feed is not None:
        _check_beside_others(source, folder)
    return source


def _check_beside_others(source: Source, folder: Path | None) -> None:
    """Check that the sources which a feed names exist, and that no other feed uses its folders.

    Raises:
        DeclarationError: a source does not exist, or two feeds would read the same files.
    """
    assert source.feed is not None and source.folder is not None
    path = source.folder / "source.toml"
    declared, refused = _find_sources(folder)
    names = {*declared, *refused}
    for entity in source.entities.values():
        for named in (*(one.source for one in entity.lookups), *entity.precedence):
            if named not in names:
                raise DeclarationError(
                    f"{path} [entities.{entity.name}] names source '{named}', which is not declared.",
                    hint=f"Declared are: {', '.join(sorted(names))}.",
                )
    own = (source.feed.landing, source.feed.bad_records)
    for name, place in declared.items():
        if name == source.name or (other := landing_of(place)) is None:
            continue
        if taken := [one for one in own if overlap(one, other)]:
            raise DeclarationError(
                f"{path} [feed]: '{taken[0]}' overlaps with '{other}', from which feed '{name}' is loaded.",
                hint="Give each feed a landing folder of its own.",
            )


def sources_with_url(settings: Settings) -> Sequence[str]:
    """Return the names of declared sources that have a URL, and so are loaded.

    Raises:
        SettingsError: DWH_SOURCES names no folder.
    """
    return [name for name in declared_sources(settings.sources) if name in settings.source_urls]


def check_name(name: str, path: Path | None = None) -> DeclarationError | None:
    """Return an error if a source cannot have this name: it is malformed, or taken by a setting, target or table.

    `path` is its declaration, if there is one already.
    """
    settings = {part for field in Settings.model_fields for part in (field, field.removesuffix("_url"))}
    taken = {*settings, *RUN_TARGETS, *STAGING_TABLES, *ARCHIVE_FOLDERS}
    if name not in taken and re.fullmatch(r"[a-z][a-z0-9]*", name):
        return None
    remedy = "Choose another name" if path is None else "Rename the folder"
    if name in taken:
        why = "it already means something else here"
        hint = (
            f"{remedy}. Not allowed are the names of settings, of what `dwh run` runs, of staging tables and "
            f"of the archive: {', '.join(sorted(one for one in taken if '_' not in one))}."
        )
    else:
        why = "it may hold only a-z and 0-9, and begins with a letter"
        hint = f"{remedy}, as crm2."
    place = "" if path is None else f"{path}: "
    return DeclarationError(f"{place}'{name}' cannot be the name of a source: {why}.", hint=hint)


@cache
def _warn(text: str) -> None:
    sys.stderr.write(f"Warning: {text}\n")
