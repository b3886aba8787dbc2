"""Which sources are declared, which of them have a URL, and what follows for deployments and commands."""

import json
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from cli.run import run
from flows.databases import embedded_databases, loaded_sources
from flows.deployments import FOLDER, read_declarations
from tests.unit.test_declaration import GOOD, declare
from warehouse.errors import DeclarationError, SettingsError
from warehouse.settings import Settings
from warehouse.sources.registry import (
    RUN_TARGETS,
    check_name,
    declared_sources,
    read_source,
    refused_sources,
    sources_with_url,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without .env."""
    monkeypatch.chdir(tmp_path)


def test_sources_are_those_of_the_package_and_those_of_the_users_folder(tmp_path: Path) -> None:
    declare(tmp_path, GOOD)
    assert declared_sources(tmp_path).keys() == {*declared_sources(), "mall"}
    with pytest.raises(SettingsError, match="DWH_SOURCES: there is no folder"):
        declared_sources(tmp_path / "nowhere")


def test_badly_named_folder_is_refused_alone_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(tmp_path, GOOD)
    for name in ("my_shop", "shop"):
        with pytest.raises(DeclarationError):
            declare(tmp_path, GOOD, name)
    assert declared_sources(tmp_path).keys() == declared_sources().keys() - {"shop"} | {"mall"}
    assert refused_sources(tmp_path).keys() == {"my_shop", "shop"}
    for name in ("my_shop", "shop"):
        with pytest.raises(DeclarationError, match=name):
            read_source(name, tmp_path)
    warnings = capsys.readouterr().err
    assert "my_shop/source.toml: 'my_shop' cannot be the name of a source" in warnings
    assert "Source 'shop' is declared twice" in warnings
    assert read_source("mall", tmp_path).name == "mall"


def test_a_source_that_is_declared_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(
        DeclarationError, match=r"'shop' is declared twice: in .*/sources/shop and in .*/shop"
    ):
        declare(tmp_path, GOOD, "shop")


@pytest.mark.parametrize(
    "name",
    [
        "warehouse",
        "lake",
        "home",
        "sources",
        "smtp",
        "ui",
        "geoip",
        "daily",
        "weblogs",
        "marts",
        "features",
        "my_shop",
    ],
)
def test_a_source_cannot_have_the_name_of_a_setting_or_of_what_dwh_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeclarationError) as error:
        declare(tmp_path, GOOD, name)
    assert f"{name}/source.toml: '{name}' cannot be the name of a source" in error.value.what
    assert "Rename the folder" in error.value.hint


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("weblogs", "already means something else"),
        ("My-Shop", "only a-z and 0-9"),
        ("7shop", "begins with a letter"),
    ],
)
def test_a_name_for_a_new_source_that_cannot_be_asks_for_another_name(name: str, why: str) -> None:
    error = check_name(name)
    assert error is not None and error.what.startswith(f"'{name}' cannot be the name of a source: ")
    assert why in error.what
    assert error.hint.startswith("Choose another name") and "folder" not in error.hint


def test_no_command_of_dwh_run_can_be_the_name_of_a_source() -> None:
    commands = {
        command.name or command.callback.__name__ for command in run.registered_commands if command.callback
    }
    assert commands <= set(RUN_TARGETS)


def test_urls_of_sources_come_from_the_environment_from_files_and_from_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mall_url").write_text("postgresql:///from_file\n")
    (tmp_path / ".env").write_text("DWH_SHOP_URL=postgresql:///shop\nDWH_MALL_URL=postgresql:///not_this\n")
    monkeypatch.setenv("DWH_MALL_URL_FILE", str(tmp_path / "mall_url"))
    declare(tmp_path, GOOD)
    monkeypatch.setenv("DWH_SOURCES", str(tmp_path))
    settings = Settings.load()
    assert {name: settings.source_url(name) for name in sources_with_url(settings)} == {
        "shop": "postgresql:///shop",
        "mall": "postgresql:///from_file",
    }
    with pytest.raises(SettingsError, match="DWH_NORTHWIND_URL is not set"):
        settings.source_url("northwind")
    assert "postgresql" not in repr(settings)
    monkeypatch.setenv("DWH_MALL_URL", "postgresql:///both")
    with pytest.raises(SettingsError, match="Both DWH_MALL_URL and DWH_MALL_URL_FILE are set"):
        Settings.load()


@pytest.mark.parametrize(
    ("warehouse", "sources", "embedded"),
    [
        (None, [], ["shop", "warehouse"]),
        (None, ["shop"], ["warehouse"]),
        (None, ["northwind"], ["shop", "warehouse"]),
        ("postgresql:///w", [], ["shop"]),
        ("postgresql:///w", ["northwind"], []),
        ("postgresql:///w", ["shop"], []),
    ],
)
def test_the_shop_is_embedded_unless_all_the_rest_is_elsewhere(
    warehouse: str | None, sources: list[str], embedded: list[str]
) -> None:
    urls = {name: SecretStr("postgresql:///x") for name in sources}
    settings = Settings(warehouse_url=warehouse, source_urls=urls)
    assert embedded_databases(settings) == embedded
    assert set(loaded_sources(settings)) == {*sources, *({"shop"} & set(embedded))}


def test_schedules_are_in_the_companys_zone_unless_somebody_has_given_them_another(tmp_path: Path) -> None:
    def zones(folder: Traversable = FOLDER, time_zone: str | None = None) -> set[str]:
        declared = read_declarations(["shop"], folder, time_zone=time_zone)
        assert len(declared.expectations) == sum(
            len(one.get("schedules", [])) for one in declared.deployments
        )
        return {one.time_zone for one in declared.expectations}

    assert zones() == {"America/Sao_Paulo"}
    assert zones(time_zone="Europe/Madrid") == {"Europe/Madrid"}
    # As Prefect's own command reads the file.
    plain = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
    assert {schedule["timezone"] for one in plain for schedule in one.get("schedules", [])} == zones()
    (tmp_path / "resources.yaml").write_text((FOLDER / "resources.yaml").read_text())
    declared = (FOLDER / "prefect.yaml").read_text()
    own = declared.replace(
        'cron: "0 18 * * *"\n      timezone: *zone', 'cron: "0 18 * * *"\n      timezone: UTC'
    )
    (tmp_path / "prefect.yaml").write_text(own)
    assert zones(tmp_path, "Europe/Madrid") == {"Europe/Madrid", "UTC"}


def test_the_template_becomes_a_deployment_for_each_source_but_one_with_an_entry_of_its_own(
    tmp_path: Path,
) -> None:
    own = '  - {name: ingest-northwind, entrypoint: x, schedules: [{cron: "0 1 * * *", timezone: UTC}]}\n'
    (tmp_path / "prefect.yaml").write_text((FOLDER / "prefect.yaml").read_text() + own)
    resources = (FOLDER / "resources.yaml").read_text()
    (tmp_path / "resources.yaml").write_text(f"{resources}  ingest-northwind: 240\n")
    declared = read_declarations(["northwind", "shop"], tmp_path)
    by_name = {one["name"]: one for one in declared.deployments}
    assert len(by_name) == len(declared.deployments)
    assert by_name["ingest-shop"]["parameters"]["source"] == "shop"
    assert by_name["ingest-northwind"]["schedules"] == [{"cron": "0 1 * * *", "timezone": "UTC"}]
    assert "{source}" not in json.dumps(declared.deployments)
    grace = {one.flow: one.grace.total_seconds() / 60 for one in declared.expectations}
    assert (grace["ingest-shop"], grace["ingest-northwind"]) == (30, 240)
