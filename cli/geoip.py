"""`dwh geoip`: the database that tells the countries of addresses."""

from typing import Annotated, cast

import typer

geoip = typer.Typer(help="The database that tells the countries of addresses.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


@geoip.command()
def update(
    reclassify: Annotated[
        bool,
        typer.Option(
            "--reclassify", help="Then tell the countries of what is loaded again, as `dwh run reclassify`."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch the newest database, check it with known addresses, and swap it in; loads that follow use it.

    DB-IP Country Lite, or GeoLite2 where DWH_GEOIP_LICENSE_KEY (and DWH_GEOIP_ACCOUNT_ID) are set.
    """
    from cli.output import out, show_json
    from cli.run import perform, show
    from warehouse.geoip import Update

    updated = cast(Update, perform("geoip-update"))
    outcome = perform("reclassify-weblogs") if reclassify else None
    if as_json:
        show_json({"update": updated, "reclassify": outcome})
        return
    out.print(str(updated), markup=False, soft_wrap=True)
    if outcome is not None:
        show(outcome, as_json)
