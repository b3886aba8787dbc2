"""`dwh migrate` and `dwh report`: the schema of the warehouse, and the HTML report."""

from pathlib import Path
from typing import Annotated, Final

import typer

MOST_DIFFERENCES: Final = 5


def migrate(
    to: Annotated[
        str, typer.Option(help="Revision to migrate to, up or down; 'base' is an empty database.")
    ] = "head",
    yes: Annotated[
        bool, typer.Option("--yes", help="Downgrade without asking: that drops tables and data.")
    ] = False,
    new: Annotated[
        str | None,
        typer.Option(
            "--new",
            metavar="TITLE",
            help="Write a migration from what warehouse/model declares and the database lacks; run nothing.",
        ),
    ] = None,
) -> None:
    """Migrate the warehouse's schema to what this code needs; running it again changes nothing.

    Examples: `dwh migrate`, `dwh migrate --to 0037 --yes`, `dwh migrate --new "add dim_store"`
    """
    from cli.output import out
    from flows.databases import with_urls
    from flows.engine import log
    from warehouse.db.connections import without_password
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.migrations import revisions
    from warehouse.settings import Settings

    settings = with_urls(Settings.load(), migrate=False)
    url = settings.warehouse
    if new is not None:
        from warehouse.migrations.generate import write_migration

        path = write_migration(url, new)
        out.print(f"{path} is written: read it, then run `dwh migrate`.", markup=False, soft_wrap=True)
        return
    revisions.ensure_known(to)
    before = _revision(url)
    if before is not None and before > revisions.head():
        # The database is ahead of this code, and only the newer code can downgrade it: raises that error.
        ensure_migrated(url)
    corrected: list[str] = []
    if before is not None and (to == "base" or to < before):
        yes or typer.confirm(
            f"Downgrading from {before} to {to} drops tables and their data. Continue?", abort=True
        )
        revisions.downgrade(url, to, progress=log)
    else:
        corrected = revisions.upgrade(url, to, time_zone=settings.time_zone, progress=log)
    after = _revision(url)
    outcome = (
        f"is at {after}, as before"
        if after == before
        else f"went from {before or 'base'} to {after or 'base'}"
    )
    out.print(f"{without_password(url)} {outcome}.", markup=False, soft_wrap=True)
    for difference in corrected[:MOST_DIFFERENCES]:
        out.print(f"Found and set right: {difference}.", markup=False, soft_wrap=True)
    if (more := len(corrected) - MOST_DIFFERENCES) > 0:
        out.print(f"Found and set right: {more:,} more.")


def report(
    path: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: report.html in DWH_HOME.")
    ] = None,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Write the marketing lead sheet, leads.xlsx, instead.")
    ] = False,
    with_contacts: Annotated[
        bool,
        typer.Option(
            "--with-contacts",
            help="With --sheet: write the leads with names and e-mail addresses, too, into a second file.",
        ),
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open it when it is written.")] = False,
) -> None:
    """Write the HTML report: data quality, sales, behaviour, customers and runs in one self-contained file.

    Examples: `dwh report --open`, `dwh report -o /tmp/report.html`, `dwh report --sheet`
    """
    from cli.output import out
    from flows.databases import with_urls
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.report.write import write
    from warehouse.settings import Settings

    if with_contacts and not sheet:
        raise typer.BadParameter("It needs --sheet: contacts are a file beside the lead sheet.")
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    if sheet:
        from warehouse.report.sheet import write_sheet

        path = write_sheet(settings.warehouse, path or settings.home / "leads.xlsx")
        if with_contacts:
            from warehouse.report.contacts import write_contacts

            contacts = write_contacts(settings.warehouse, path.with_stem(f"{path.stem}-contacts"))
            out.print(f"{contacts} (personal data, readable by you alone)", markup=False, soft_wrap=True)
    else:
        path = write(settings.warehouse, path or settings.home / "report.html")
    out.print(str(path), markup=False, soft_wrap=True)
    if open_it:
        typer.launch(str(path))


def _revision(url: str) -> str | None:
    from warehouse.db.connections import connect
    from warehouse.db.schema_version import revision_of

    with connect(url, autocommit=True) as connection:
        return revision_of(connection)
