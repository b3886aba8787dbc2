"""Every panel of every Grafana dashboard is answered by the warehouse, to a login that may only read."""

import json
import re
from pathlib import Path

import pytest

from tests.marts import MartWorld
from warehouse.db.connections import connect
from warehouse.db.roles import READER
from warehouse.model.grafana import render
from warehouse.model.mart import answers

DASHBOARDS = Path(__file__).parents[2] / "deployments" / "grafana" / "dashboards"
MACROS = {
    r"\$__timeFilter\((\w+)\)": r"\1 between now() - interval '1 year' and now()",
    r"\$__timeFrom\(\)": "(now() - interval '1 year')",
    r"\$__timeTo\(\)": "now()",
    r"\$__timeGroup(?:Alias)?\((\w+),\s*[^)]*\)": r"date_trunc('hour', \1)",
}


@pytest.mark.parametrize("path", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_panel_is_answered(mart_world: MartWorld, path: Path) -> None:
    queries = [
        target["rawSql"]
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    assert queries
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        connection.execute(f"set role {READER}".encode())
        for query in queries:
            for macro, text in MACROS.items():
                query = re.sub(macro, text, query)
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
            expected = mart_world.mart(mart.shown).head(200)
            assert [tuple(row) for row in shown] == [
                tuple(row)
                for row in expected.astype(object).where(expected.notna(), None).to_numpy().tolist()
            ], mart.name
