"""Writes the entry of weblogs.toml for an inspected file."""

from pathlib import Path

from warehouse.errors import WrongParameters, visible
from warehouse.files.locations import Location
from warehouse.settings import Settings
from warehouse.weblogs.formats.declaration import (
    WeblogFormats,
    formats_location,
    parse_formats,
    read_formats,
)
from warehouse.weblogs.inspect.inspect import Inspection, shortened


def write_declaration(settings: Settings, inspection: Inspection) -> Location:
    """Add the entry of an inspected file to the declaration; returns where that is.

    Raises:
        WrongParameters: the file needs no declaration, an earlier entry says which format it has, or other files
            would be misread by it.
    """
    location, name = formats_location(settings), visible(inspection.path)
    if inspection.declaration is None:
        raise WrongParameters(
            f"There is nothing to declare for {name}.",
            hint="It is read as it is: dwh run weblogs" if inspection.format else inspection.hint,
        )
    declared = read_formats(settings) if location.is_file() else WeblogFormats()
    if any(entry.matches(inspection.path) for entry in declared.entries):
        raise WrongParameters(
            f"{location} declares another format for {name}, and its first entry that matches counts.",
            hint=f"Change that entry of {location}.",
        )
    if inspection.misread:
        raise WrongParameters(
            f"A declaration for {name} would be one for files of another format, too: "
            f"{shortened(inspection.misread)}.",
            hint="Move the file into a folder of its own, or give it another name; then inspect it again.",
        )
    before = location.read_bytes() if location.is_file() else b""
    content = before + (b"\n" if before else b"") + inspection.declaration.encode()
    parse_formats(content, str(location))
    if isinstance(location, Path):
        location.parent.mkdir(parents=True, exist_ok=True)
        new = location.with_name(f".{location.name}.new")
        new.write_bytes(content)
        new.replace(location)
    else:
        location.write_bytes(content)
    return location
