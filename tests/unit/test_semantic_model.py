"""docs/semantic.yaml: the semantic model that other tools read, as the model declares it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from warehouse.model.mart import read_marts, read_metrics
from warehouse.model.semantic import render, semantic_model

FILE = Path(__file__).parents[2] / "docs" / "semantic.yaml"
# Apache Ossie's own schema, at commit 3cb21f2 of its repository.
SCHEMA = json.loads((Path(__file__).parent / "ossie" / "ossie-schema.json").read_text())


def test_file_is_what_the_model_declares_and_valid() -> None:
    assert FILE.read_text() == render(), "python -m warehouse.model.semantic docs/semantic.yaml"
    jsonschema.validate(
        yaml.load(FILE.read_text(), yaml.CSafeLoader), SCHEMA, jsonschema.Draft202012Validator
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.pop("version"),
        lambda model: model["datasets"][0].pop("source"),
        lambda model: model["datasets"][0]["fields"][0].update(datatype="Money"),
        lambda model: model["relationships"][0].update(to_columns=[]),
        lambda model: model["metrics"][0].update(unit="amount"),
    ],
    ids=["no version", "no source", "unknown type", "no columns", "unknown property"],
)
def test_schema_of_ossie_refuses_what_it_does_not_know(damage: Callable[[Any], Any]) -> None:
    model = yaml.load(FILE.read_text(), yaml.CSafeLoader)
    damage(model)
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(model))


def test_every_mart_metric_and_relationship_is_in_it() -> None:
    model = semantic_model()
    datasets = {one["name"]: {field["name"] for field in one["fields"]} for one in model["datasets"]}
    assert set(read_marts()) <= set(datasets)
    own = {name for name, metric in read_metrics().items() if metric.sql}
    assert own <= {metric["name"] for metric in model["metrics"]}
    for relationship in model["relationships"]:
        assert set(relationship["from_columns"]) <= datasets[relationship["from"]]
        assert set(relationship["to_columns"]) <= datasets[relationship["to"]]
    assert ("fact_order_item", "dim_customer") in {(one["from"], one["to"]) for one in model["relationships"]}
