"""`dwh source`: declarations of sources."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Commands, Json

if TYPE_CHECKING:
    from pathlib import Path

    from warehouse.settings import Settings

source = Commands(help="Declare sources: see docs/sources.md.", no_args_is_help=True)


@source.callback()
def options() -> None:
    """Declare sources."""


@source.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the source: a-z and 0-9.")],
    entity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENTITY=TABLE",
            help="Which table an entity is made from, may be repeated; others are guessed by their names.",
        ),
    ] = None,
    schema: Annotated[
        list[str] | None, typer.Option(help="Only tables of this schema; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Propose the declaration of a source from its database (`DWH_NAME_URL`), in the folder DWH_SOURCES.

    Writes NAME/source.toml with tables, views, keys, cursors and foreign keys, and NAME/conform/*.sql with every
    column of the entities. Nothing is overwritten, and the database is only read. `dwh doctor` checks what you make of
    it.
    """
    from cli.output import out, show_json, show_line
    from warehouse.db.connections import read_only_transaction
    from warehouse.errors import WrongParameters
    from warehouse.settings import Settings
    from warehouse.sources.live_tables import read_live_tables
    from warehouse.sources.propose import propose

    chosen = {}
    for pair in entity or ():
        key, separator, table = pair.partition("=")
        if not separator:
            raise WrongParameters(
                f"--entity {pair} names no table.", hint="Write --entity order_item=order_lines."
            )
        chosen[key] = table
    settings = Settings.load(new_source=name)
    folder = _new_folder(settings, name)
    with read_only_transaction(
        name, settings.source_url(name), application_name="dwh source new"
    ) as connection:
        proposal = propose(name, read_live_tables(connection, schema or ()), chosen)
    for path, text in proposal.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    if as_json:
        show_json({"folder": str(folder), "files": sorted(proposal.files), "notes": proposal.notes})
        return
    for path in proposal.files:
        out.print(f"wrote {folder / path}", markup=False, soft_wrap=True)
    for note in proposal.notes:
        show_line(f"- {note}")
    out.print(f"Next: look through them (docs/sources.md), then `dwh doctor` and `dwh run {name} --dry-run`.")


def _new_folder(settings: "Settings", name: str) -> "Path":
    """Folder that the declaration of a new source is written to.

    Raises:
        SettingsError: DWH_SOURCES is not set, or there is such a source.
        DeclarationError: no source can have this name.
    """
    from warehouse.errors import SettingsError
    from warehouse.sources.registry import PACKAGED, check_name

    if settings.sources is None:
        raise SettingsError(
            "DWH_SOURCES is not set: a source of yours has no place to be.",
            hint="Set it to a folder of yours (in the environment or in .env), as DWH_SOURCES=sources; it is created.",
        )
    folder = settings.sources / name
    if error := check_name(name):
        raise error
    for existing in (folder, PACKAGED / name):
        if existing.exists():
            raise SettingsError(
                f"There is a source '{name}' already: {existing}.",
                hint="Nothing was overwritten. Choose another name, or move that folder away.",
            )
    return folder
