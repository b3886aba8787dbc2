"""Export the features of customers for model training: a Parquet file, and a data dictionary beside it."""

import json
from datetime import date
from pathlib import Path

import pandas as pd
import psycopg

from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import WarehouseError
from warehouse.features.build import NAME
from warehouse.model.mart import read_marts


class FeaturesMissing(WarehouseError):
    """There are no features as of that day."""


def read_features(url: str, as_of: date | None = None) -> pd.DataFrame:
    """Features as of a day, by default the newest of each source; customers by surrogate key, without personal data.

    Raises:
        FeaturesMissing: none were built as of that day.
    """
    ensure_migrated(url)
    with connect(url, autocommit=True) as connection:
        cursor = connection.execute(
            """
            select feature.* from mart.customer_feature_masked as feature
            where feature.as_of_date = coalesce(
                %s, (
                    select max(newest.as_of_date) from mart.customer_feature_masked as newest
                    where newest.source_system = feature.source_system
                )
            )
            order by feature.source_system, feature.customer_key
            """,
            [as_of],
        )
        names = [column.name for column in cursor.description or ()]
        frame = pd.DataFrame(cursor.fetchall(), columns=names)
        days = _built_days(connection)
    if frame.empty:
        raise FeaturesMissing(
            f"There are no customer features{f' as of {as_of}' if as_of else ''}.",
            hint=f"Build them: dwh run features{f' --as-of {as_of}' if as_of else ''}."
            + (f" There are some as of {days}." if days else ""),
        )
    return frame


def export(url: str, path: Path, as_of: date | None = None) -> tuple[Path, Path]:
    """Write the features to `path` and what each column means beside it; returns both absolute paths.

    Raises:
        FeaturesMissing: there are none as of that day.
    """
    frame = read_features(url, as_of)
    types = read_marts()[NAME].types
    for name, kind in types.items():
        if name not in frame:
            continue
        if kind.startswith("numeric"):
            frame[name] = frame[name].astype("float64")
        elif kind in ("integer", "bigint"):
            frame[name] = frame[name].astype("Int64")
        elif kind == "jsonb":
            frame[name] = frame[name].map(lambda value: None if value is None else json.dumps(value))
    path = path.resolve()
    dictionary = path.with_suffix(".dictionary.json")
    mart = read_marts()[NAME]
    described = {
        "title": mart.title,
        "description": mart.description,
        "grain": mart.grain,
        "owner": mart.owner,
        "as_of": sorted({str(day) for day in frame.as_of_date}),
        "rows": len(frame),
        "columns": [
            {"name": name, "type": types[name], "description": mart.columns[name]} for name in frame.columns
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    frame.to_parquet(draft, index=False)
    dictionary.write_text(json.dumps(described, indent=2) + "\n")
    draft.replace(path)
    return path, dictionary


def _built_days(connection: psycopg.Connection) -> str:
    rows = connection.execute("select distinct as_of_date from mart.customer_feature order by 1 desc limit 5")
    return ", ".join(str(day) for (day,) in rows.fetchall())
