"""`dwh weblogs`: detect the format of a log file, and declare it."""

from typing import Annotated

import typer

from cli.options import Commands, Json

weblogs = Commands(help="Log files of web servers: their formats.", no_args_is_help=True)


@weblogs.command()
def inspect(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A log file: a path, or a path below the landing folder.")
    ],
    lines: Annotated[int, typer.Option("--lines", min=1, help="How many of its first lines to try.")] = 1000,
    write: Annotated[bool, typer.Option("--write", help="Add the declaration to weblogs.toml.")] = False,
    as_json: Json = False,
) -> None:
    """Show in which format a log file is: ten of its lines as they would be loaded, and the declaration.

    It tries the declared formats, those that come with dwh, and each of them within quotes, CSV, or lines of Docker,
    Kubernetes and syslog. Exits with 1 if none fits.
    """
    from cli.output import out, show_json, show_line, show_table
    from warehouse.settings import Settings
    from warehouse.weblogs.inspect.declare import write_declaration
    from warehouse.weblogs.inspect.inspect import inspect as inspect_file
    from warehouse.weblogs.inspect.inspect import shortened

    settings = Settings.load()
    found = inspect_file(settings, file, lines=lines)
    written = str(write_declaration(settings, found)) if write else None
    if as_json:
        show_json(
            {
                "path": found.path,
                "looks_like": found.kind,
                "format": None if found.format is None else str(found.format),
                "title": found.title,
                "lines": found.lines,
                "lines_parsed": found.lines_parsed,
                "rows": found.rows,
                "faults": found.faults,
                "alternatives": found.alternatives,
                "notes": found.notes,
                "is_declared": found.is_declared,
                "declaration": found.declaration,
                "misread": found.misread,
                "written_to": written,
            }
        )
    else:
        show_line(f"{found.path} is {found.kind}: {found.title}")
        if found.format is None:
            out.print(found.hint, markup=False, soft_wrap=True)
        else:
            count = f"{found.lines_parsed:,} of its first {found.lines:,} lines can be read"
            out.print(f"{count} so.\n", markup=False, soft_wrap=True)
            show_table("As they would be loaded", [_shortened(row) for row in found.rows])
            if found.faults:
                show_table("Lines that cannot be read", [_shortened(row) for row in found.faults])
            for text in (*found.notes, *_alternatives(found.alternatives)):
                out.print(text, markup=False, soft_wrap=True)
            if found.declaration is None:
                out.print("It needs no declaration: it is read so already.", markup=False)
            elif written is None:
                what = "--write adds it to weblogs.toml"
                if found.misread:
                    what = f"it is one for files of another format, too: {shortened(found.misread)}"
                out.print(f"Its declaration; {what}:\n", markup=False, soft_wrap=True)
                out.print(found.declaration, markup=False, soft_wrap=True)
        if written is not None:
            out.print(f"Declared in {written}. To load it: dwh run weblogs", markup=False, soft_wrap=True)
    if found.format is None:
        raise typer.Exit(1)


def _alternatives(titles: tuple[str, ...]) -> list[str]:
    others = "; ".join(titles)
    return (
        [
            f"Other formats read as many lines, but find other visitors in them: {others}. Decide which is right."
        ]
        if titles
        else []
    )


def _shortened(row: object) -> dict[str, object]:
    """Cut the texts of a row to 60 characters, so that they fit into a table."""
    assert isinstance(row, dict)
    return {
        name: f"{value[:59]}…" if isinstance(value, str) and len(value) > 60 else value
        for name, value in row.items()
    }
