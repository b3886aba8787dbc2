"""`dwh features`: export the features of customers, and cluster customers by them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Commands, Json

features = Commands(help="Export customer features, cluster customers by them.", no_args_is_help=True)

AsOf = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Day that they were built as of; default: the newest."),
]


@features.command()
def export(
    path: Annotated[Path, typer.Argument(help="Parquet file; the data dictionary is written beside it.")],
    as_of: AsOf = None,
) -> None:
    """Write the features of customers as Parquet, for model training; without personal data.

    Example: `dwh features export features.parquet`
    """
    from cli.output import out
    from flows.databases import with_urls
    from warehouse.features.export import export
    from warehouse.settings import Settings

    for written in export(with_urls(Settings.load()).warehouse, path, as_of.date() if as_of else None):
        out.print(str(written), markup=False, soft_wrap=True)


@features.command()
def clusters(
    number: Annotated[int, typer.Option("--clusters", "-k", min=1, max=10, help="Number of clusters.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clusters.")] = 42,
    picture: Annotated[Path | None, typer.Option(help="Draw them: an SVG or PNG file.")] = None,
    as_of: AsOf = None,
    as_json: Json = False,
) -> None:
    """Cluster customers by their features with k-means; needs the extra `features` (scikit-learn).

    Example: `dwh features clusters --picture clusters.svg`
    """
    from cli.output import show_json, show_table
    from flows.databases import with_urls
    from warehouse.features.clusters import MEASURES, cluster
    from warehouse.settings import Settings

    clustered = cluster(
        with_urls(Settings.load()).warehouse,
        number=number,
        seed=seed,
        as_of=as_of.date() if as_of else None,
        picture=picture,
    )
    rows: list[dict[str, Any]] = [
        {"cluster": name, **{str(column): _measure(value) for column, value in row.items()}}
        for name, row in clustered.iterrows()
    ]
    if as_json:
        show_json(rows)
        return
    headings = {"cluster": "cluster", "customer_count": "customers"}
    show_table("Clusters", rows, headings | {name: title.lower() for name, title in MEASURES.items()})


def _measure(value: Any) -> int | float:
    """Convert a whole number to int, and round others to three places."""
    return int(value) if float(value).is_integer() else round(float(value), 3)
