"""`dwh geoip`: the database that maps addresses to countries."""

from typing import Annotated, cast

import typer

from cli.options import Commands, Json

geoip = Commands(help="The GeoIP database, which maps addresses to countries.", no_args_is_help=True)


@geoip.command()
def update(
    reclassify: Annotated[
        bool,
        typer.Option(
            "--reclassify",
            help="Then look up the countries of loaded requests again, as `dwh run reclassify` does.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch the newest database, check it with known addresses, and put it in use; later loads use it.

    DB-IP Country Lite, or GeoLite2 if DWH_GEOIP_LICENSE_KEY (and DWH_GEOIP_ACCOUNT_ID) is set.
    """
    from cli.output import out, show_json
    from cli.run import perform, show
    from warehouse.geoip import Update

    updated = cast(Update, perform("geoip-update"))
    result = perform("reclassify-weblogs") if reclassify else None
    if as_json:
        show_json({"update": updated, "reclassify": result})
        return
    out.print(str(updated), markup=False, soft_wrap=True)
    if result is not None:
        show(result, as_json)
