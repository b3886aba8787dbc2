"""Every panel of every Grafana dashboard is answered by the warehouse, to a login that may only read."""

import json
from pathlib import Path

import pytest

from tests.marts import MartWorld
from warehouse.db.connections import connect
from warehouse.db.roles import READER
from warehouse.model.grafana import panel_queries, render
from warehouse.model.mart import answers

DASHBOARDS = Path(__file__).parents[2] / "deployments" / "grafana" / "dashboards"


@pytest.mark.parametrize("path", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_panel_is_answered(mart_world: MartWorld, path: Path) -> None:
    queries = panel_queries(path.read_text())
    assert queries
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        connection.execute(f"set role {READER}".encode())
        for _, query in queries:
            assert "$__" not in query
            connection.execute(query.encode()).fetchall()


def test_answers_are_the_marts_as_declared(mart_world: MartWorld) -> None:
    text = (DASHBOARDS / "answers.json").read_text()
    assert text == render(), "python -m warehouse.model.grafana deployments/grafana/dashboards/answers.json"
    panels = {panel["title"]: panel for panel in json.loads(text)["panels"]}
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        for mart in answers():
            query = panels[mart.title]["targets"][0]["rawSql"]
            shown = connection.execute(query.encode()).fetchall()
            expected = mart_world.answer(mart)
            assert [tuple(row) for row in shown] == [
                tuple(row)
                for row in expected.astype(object).where(expected.notna(), None).to_numpy().tolist()
            ], mart.name
