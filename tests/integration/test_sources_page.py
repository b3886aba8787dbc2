"""docs/sources.md is right: its example is followed literally, and its entities are the model's."""

import os
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import command
from warehouse.db.connections import connect
from warehouse.sources.declaration import _EntitySpec, _Spec, _TableSpec
from warehouse.sources.documentation import with_entities

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
BLOCK = re.compile(r"(?P<before>[^\n]+(?:\n[^\n]+)*)\n\n```(?P<language>\w+)\n(?P<text>.*?)```\n", re.DOTALL)


def test_entities_are_those_of_the_model() -> None:
    assert with_entities(PAGE.read_text()) == PAGE.read_text()


def test_every_key_of_a_declaration_is_explained() -> None:
    table = PAGE.read_text().partition("\n## source.toml\n")[2].partition("\n**Two tables")[0]
    keys = {
        field.alias or name
        for model in (_Spec, _TableSpec, _EntitySpec)
        for name, field in model.model_fields.items()
    } - {"tables", "entities"}
    of_feeds = {"feed", "columns", "items", "follows", "lookups", "precedence"}
    feeds = (PAGE.parent / "feeds.md").read_text()
    assert keys - set(re.findall(r"`(\w+)`", table)) == of_feeds
    assert {
        key
        for key in of_feeds
        if not re.search(rf"`{key}`|`\[{key}\]`|^{key} = |^\[.*\b{key}\]", feeds, re.M)
    } == set()
    for block in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        tomllib.loads(block)


@pytest.fixture
def urls(empty_database_url: Callable[[], str], warehouse_url: str) -> dict[str, str]:
    return {"DWH_CAFE_URL": empty_database_url(), "DWH_WAREHOUSE_URL": warehouse_url}


def test_a_source_is_declared_by_the_page_from_nothing_to_the_first_mart(
    urls: dict[str, str], tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    environment |= {"PYTHONPATH": str(PAGE.parents[1]), "DWH_HOME": str(tmp_path / "home"), **urls}
    output = ""
    section = PAGE.read_text().partition("\n## From nothing to the first mart\n")[2].partition("\n## ")[0]
    for block in BLOCK.finditer(section):
        text, before = block["text"], " ".join(block["before"].split())
        if becomes := re.search(r"`([^`]+)` becomes:$", before):
            path = tmp_path / becomes[1]
            assert path.exists(), "the proposal has it"
            path.write_text(text)
        elif block["language"] == "sql":
            with connect(urls["DWH_CAFE_URL"]) as cafe:
                cafe.execute(text.encode())
        elif block["language"] == "text":
            assert output == text
        else:
            for line in text.splitlines():
                if assigned := re.fullmatch(r"(DWH_\w+)=(.*)", line):
                    environment.setdefault(assigned[1], assigned[2])
                    continue
                program, *arguments = shlex.split(line)
                assert program == "dwh"
                done = command.run(*arguments, environment=environment, timeout=300)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                output = done.stdout
    # What the page says of tips: a tip that moves to another ticket concerns the lines of both.
    with connect(urls["DWH_CAFE_URL"]) as cafe:
        cafe.execute("update tip set ticket_no = 2")
    assert command.run("run", "cafe", environment=environment).returncode == 0
    with connect(urls["DWH_WAREHOUSE_URL"]) as warehouse:
        rows = warehouse.execute(
            "select net_amount::text from mart.sales order by order_id, line_id"
        ).fetchall()
    assert rows == [("5.0000",), ("1.0000",), ("3.1000",)]


def test_proposal_overwrites_nothing_and_needs_a_place_of_the_users_own(
    urls: dict[str, str], tmp_path: Path
) -> None:
    def propose(name: str, **more: str) -> tuple[int, str]:
        done = command.run("source", "new", name, environment={**environment, **more})
        return done.returncode, done.stderr

    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    environment |= {"PYTHONPATH": str(PAGE.parents[1]), **urls}
    mine = {"DWH_SOURCES": "mine"}
    assert propose("cafe")[0] == 2 and "DWH_SOURCES is not set" in propose("cafe")[1]
    assert propose("cafe", **mine)[0] == 2, "its database has no tables"
    code, message = propose("cafe", **mine, DWH_CAFE_URL="postgresql://127.0.0.1:1/cafe")
    assert code == 1 and "Source 'cafe': Cannot connect" in message and "in DWH_CAFE_URL right?" in message
    with connect(urls["DWH_CAFE_URL"]) as cafe:
        cafe.execute("create table guest (id integer primary key)")
    (tmp_path / "mine" / "cafe").mkdir(parents=True)
    (tmp_path / "mine" / "cafe" / "source.toml").write_text("mine")
    code, message = propose("cafe", **mine)
    assert (code, (tmp_path / "mine" / "cafe" / "source.toml").read_text()) == (2, "mine")
    assert "There is a source 'cafe' already: mine/cafe." in message
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*")) == ["cafe", "source.toml"]
    for name, what in (
        ("shop", "There is a source 'shop' already"),
        ("daily", "cannot be the name of a source"),
    ):
        code, message = propose(name, **mine, **{f"DWH_{name.upper()}_URL": urls["DWH_CAFE_URL"]})
        assert code == 2 and what in message
