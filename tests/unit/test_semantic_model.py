"""docs/semantic.yaml: the semantic model that other tools read, as the model declares it."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from warehouse.model.mart import read_marts, read_metrics
from warehouse.model.semantic import render, semantic_model

FILE = Path(__file__).parents[2] / "docs" / "semantic.yaml"
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}


def strict(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = required | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


# What the specification of Apache Ossie 0.2 allows of what is used here.
EXPRESSION = strict(
    {
        "dialects": {
            "type": "array",
            "minItems": 1,
            "items": strict(
                {"dialect": {"enum": ["ANSI_SQL", "SNOWFLAKE", "BIGQUERY", "DAX"]}, "expression": TEXT}
            ),
        }
    }
)
DATATYPE = {
    "enum": ["String", "Integer", "Decimal", "Float", "Boolean", "Date", "Time", "DateTime", "DateTimeTz"]
}
FIELD = strict({"name": TEXT, "expression": EXPRESSION}, {"description": TEXT, "datatype": DATATYPE})
DATASET = strict(
    {"name": TEXT, "source": {"type": "string", "pattern": r"^\w+\.\w+\.\w+$"}},
    {"primary_key": TEXTS, "description": TEXT, "fields": {"type": "array", "items": FIELD}},
)
RELATIONSHIP = strict({"name": TEXT, "from": TEXT, "to": TEXT, "from_columns": TEXTS, "to_columns": TEXTS})
METRIC = strict({"name": TEXT, "expression": EXPRESSION}, {"description": TEXT, "datatype": DATATYPE})
DOCUMENT = strict(
    {
        "version": {"const": "0.2.0.dev0"},
        "name": TEXT,
        "datasets": {"type": "array", "items": DATASET, "minItems": 1},
    },
    {
        "description": TEXT,
        "relationships": {"type": "array", "items": RELATIONSHIP},
        "metrics": {"type": "array", "items": METRIC},
    },
)


def test_file_is_what_the_model_declares_and_valid() -> None:
    assert FILE.read_text() == render(), "python -m warehouse.model.semantic docs/semantic.yaml"
    jsonschema.validate(yaml.safe_load(FILE.read_text()), DOCUMENT)


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
