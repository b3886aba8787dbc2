"""Features for model training: Parquet with a data dictionary, and clusters that are the same every time."""

import json
import warnings
from datetime import date
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from tests.marts import MartWorld
from tests.pipeline import Pipeline
from warehouse.errors import SettingsError
from warehouse.features.build import build
from warehouse.features.clusters import cluster
from warehouse.features.export import FeaturesMissing, export
from warehouse.runs.audit import start_run


def test_export_has_a_dictionary_and_no_personal_data(mart_world: MartWorld, tmp_path: Path) -> None:
    with start_run(mart_world.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    path, dictionary = export(mart_world.warehouse_url, tmp_path / "features.parquet")
    frame = pd.read_parquet(path)
    described = json.loads(dictionary.read_text())
    assert list(frame.columns) == [column["name"] for column in described["columns"]]
    assert all(column["description"] and column["type"] for column in described["columns"])
    assert "customer_key" in frame and "customer_id" not in frame
    features = mart_world.mart("customer_feature").sort_values("customer_key")
    assert list(frame.customer_key) == list(features.customer_key)
    assert list(frame.spend_last_year_amount) == [float(value) for value in features.spend_last_year_amount]
    assert described["rows"] == len(frame) == len(mart_world.raw_table("customer"))
    with pytest.raises(FeaturesMissing, match="as of 2001-01-01"):
        export(mart_world.warehouse_url, tmp_path / "none.parquet", date(2001, 1, 1))


def test_clusters_are_reproducible_and_drawn(mart_world: MartWorld, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="no clusters: scikit-learn is not installed (extra features)")
    with start_run(mart_world.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    picture = tmp_path / "clusters.svg"
    first = cluster(mart_world.warehouse_url, number=3, seed=7, picture=picture)
    assert first.customer_count.sum() == len(mart_world.raw_table("customer"))
    assert list(first.spend_last_year_amount) == sorted(first.spend_last_year_amount, reverse=True)
    assert picture.read_text().count("<svg") == 1
    assert first.equals(cluster(mart_world.warehouse_url, number=3, seed=7))


def test_clusters_of_one_customer_are_drawn_and_a_picture_of_another_kind_is_refused(
    sold: Pipeline, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="no clusters: scikit-learn is not installed (extra features)")
    with start_run(sold.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    picture = tmp_path / "clusters.png"
    assert list(cluster(sold.warehouse_url, picture=picture).customer_count) == [1]
    assert picture.read_bytes().startswith(b"\x89PNG")
    # Nor do two who are alike make two clusters.
    with psycopg.connect(sold.warehouse_url) as connection:
        connection.execute(
            'insert into mart.customer_feature select (jsonb_populate_record(one, \'{"customer_id": "99"}\')).* '
            "from mart.customer_feature as one"
        )
    with warnings.catch_warnings(action="error"):
        assert list(cluster(sold.warehouse_url, picture=picture).customer_count) == [2]
    with pytest.raises(SettingsError, match="neither an SVG nor a PNG"):
        cluster(sold.warehouse_url, picture=tmp_path / "clusters.gif")
