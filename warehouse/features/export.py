"""Export customer features for model training: a Parquet file with a data dictionary in JSON."""

import json
from datetime import date
from pathlib import Path

import pandas as pd
import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import WarehouseError
from warehouse.export.parquet import columns_of, write_query
from warehouse.features.build import NAME
from warehouse.model.mart import read_marts


class FeaturesMissing(WarehouseError):
    """No features were built as of that day."""


def read_features(url: str, as_of: date | None = None) -> pd.DataFrame:
    """Read the features as of a day, by default the newest of each source, without personal data.

    Raises:
        FeaturesMissing: none were built as of that day.
    """
    ensure_migrated(url)
    with connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.SQL(_FEATURES).format(as_of=sql.Literal(as_of)))
        names = [column.name for column in cursor.description or ()]
        frame = pd.DataFrame(cursor.fetchall(), columns=names)
        _ensure_built(connection, as_of, not frame.empty)
    return frame


def export(url: str, path: Path, as_of: date | None = None) -> tuple[Path, Path]:
    """Write the features to `path`, and a data dictionary beside it. Returns both absolute paths.

    Raises:
        FeaturesMissing: none were built as of that day.
    """
    mart = read_marts()[NAME]
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    ensure_migrated(url)
    with connect(url) as connection:
        query = sql.SQL(_FEATURES).format(as_of=sql.Literal(as_of))
        columns = columns_of(connection, query)
        # Training tools do not support decimals: convert them to floats.
        numbers = sql.SQL("select {} from ({}) as feature").format(
            sql.SQL(", ").join(
                sql.SQL("{0}::float8 as {0}" if column.type == "numeric" else "{}").format(
                    sql.Identifier(column.name)
                )
                for column in columns
            ),
            query,
        )
        days = connection.execute(
            sql.SQL("select distinct as_of_date::text from ({}) as feature order by 1").format(query)
        )
        as_of_dates = [day for (day,) in days.fetchall()]
        _ensure_built(connection, as_of, bool(as_of_dates))
        written = write_query(
            connection,
            numbers,
            columns_of(connection, numbers),
            lambda _: draft.open("wb"),
            comments=mart.columns,
        )
    described = {
        "title": mart.title,
        "description": mart.description,
        "grain": mart.grain,
        "owner": mart.owner,
        "as_of": as_of_dates,
        "rows": written[""].rows,
        "columns": [
            {"name": one.name, "type": mart.types[one.name], "description": mart.columns[one.name]}
            for one in columns
        ],
    }
    dictionary = path.with_suffix(".dictionary.json")
    dictionary.write_text(json.dumps(described, indent=2) + "\n")
    draft.replace(path)
    return path, dictionary


def _ensure_built(connection: psycopg.Connection, as_of: date | None, are_built: bool) -> None:
    if are_built:
        return
    days = _built_days(connection)
    raise FeaturesMissing(
        f"There are no customer features{f' as of {as_of}' if as_of else ''}.",
        hint=f"Build them: dwh run features{f' --as-of {as_of}' if as_of else ''}."
        + (f" There are some as of {days}." if days else ""),
    )


def _built_days(connection: psycopg.Connection) -> str:
    rows = connection.execute("select distinct as_of_date from mart.customer_feature order by 1 desc limit 5")
    return ", ".join(str(day) for (day,) in rows.fetchall())


_FEATURES = """
    select feature.* from mart.customer_feature_masked as feature
    where feature.as_of_date = coalesce(
        {as_of}::date, (
            select max(newest.as_of_date) from mart.customer_feature_masked as newest
            where newest.source_system = feature.source_system
        )
    )
    order by feature.source_system, feature.customer_key
"""
