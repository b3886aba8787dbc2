"""The sources that are declared: those of this package, and those in the folder DWH_SOURCES."""

import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from warehouse.errors import DeclarationError, SettingsError
from warehouse.settings import Settings
from warehouse.sources.declaration import Source, read_declaration

PACKAGED = Path(__file__).parent
# What `dwh run` runs beside the sources; a test compares it with the commands.
RUN_TARGETS = (
    "daily",
    "weblogs",
    "orders",
    "leads",
    "companies",
    "features",
    "marts",
    "reclassify",
    "retention",
)
# Names of staging tables that belong to no source.
STAGING_TABLES = ("conformed", "source", "weblog")


def declared_sources(folder: Path | None = None) -> Mapping[str, Path]:
    """Folder of each declared source by name: packaged ones, and those in `folder` (DWH_SOURCES).

    Raises:
        SettingsError: there is no such folder.
        DeclarationError: a source has a name that means something else, or that another source has.
    """
    if folder is not None and not folder.is_dir():
        raise SettingsError(
            f"DWH_SOURCES: there is no folder {folder}.",
            hint="Name the folder that holds <name>/source.toml of each source.",
        )
    found: dict[str, Path] = {}
    for place in filter(None, (PACKAGED, folder)):
        for path in sorted(place.glob("*/source.toml")):
            name = path.parent.name
            _ensure_name(name, path)
            if name in found:
                raise DeclarationError(
                    f"Source '{name}' is declared twice: in {found[name]} and in {path.parent}.",
                    hint="Rename one of the folders.",
                )
            found[name] = path.parent
    return found


def find_source(name: str, folder: Path | None = None) -> Path:
    """Folder of source `name`; `folder` is that of DWH_SOURCES.

    Raises:
        SettingsError: there is no such source.
        DeclarationError: see `declared_sources`.
    """
    declared = declared_sources(folder)
    if name not in declared:
        raise SettingsError(
            f"There is no source '{name}'.",
            hint=f"Declared are: {', '.join(sorted(declared))}. Add {folder or PACKAGED}/{name}/source.toml "
            "to declare it (DWH_SOURCES names the folder).",
        )
    return declared[name]


def read_source(name: str, folder: Path | None = None) -> Source:
    """Read the declaration of source `name`; `folder` is that of DWH_SOURCES.

    Raises:
        SettingsError: there is no such source.
        DeclarationError: a declaration is wrong; says where and why.
    """
    return read_declaration(find_source(name, folder))


def sources_with_url(settings: Settings) -> Sequence[str]:
    """Names of the declared sources that have a URL: those that are loaded.

    Raises:
        SettingsError: DWH_SOURCES names no folder.
        DeclarationError: see `declared_sources`.
    """
    declared = declared_sources(settings.sources)
    for name in settings.source_urls.keys() - declared.keys():
        _warn_of_undeclared(name, tuple(declared))
    return [name for name in declared if name in settings.source_urls]


@cache
def _warn_of_undeclared(name: str, declared: Sequence[str]) -> None:
    close = "".join(f"; did you mean DWH_{one.upper()}_URL?" for one in get_close_matches(name, declared, 1))
    sys.stderr.write(f"Warning: DWH_{name.upper()}_URL is set, but there is no source '{name}'{close}\n")


def _ensure_name(name: str, path: Path) -> None:
    """Refuse the name of a source that is also that of a setting, of a target of `dwh run` or of a staging table."""
    settings = {part for field in Settings.model_fields for part in (field, field.removesuffix("_url"))}
    taken = {*settings, *RUN_TARGETS, *STAGING_TABLES}
    if name in taken or not re.fullmatch(r"[a-z][a-z0-9]*", name):
        why = "it already means something else here" if name in taken else "it may hold only a-z and 0-9"
        raise DeclarationError(
            f"{path}: '{name}' cannot be the name of a source: {why}.",
            hint="Rename the folder. Not allowed are the names of settings, of what `dwh run` runs, and of staging "
            f"tables: {', '.join(sorted(one for one in taken if '_' not in one))}.",
        )
