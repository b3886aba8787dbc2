"""Settings that are empty or misspelt are refused: an empty embedded database would be loaded instead."""

import json
import re
from pathlib import Path

import pytest
import yaml

from flows.databases import embedded_databases, loaded_sources, with_urls
from warehouse.errors import SettingsError
from warehouse.settings import Settings
from warehouse.sources.declaration import is_feed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DWH_WAREHOUSE_URI", "DWH_WAREHOUSE_URI is no setting (did you mean DWH_WAREHOUSE_URL?)"),
        ("DWH_WAREHOSE_URL", "DWH_WAREHOSE_URL is no setting (did you mean DWH_WAREHOUSE_URL?)"),
        ("dwh_warehouse_ulr", "DWH_WAREHOUSE_ULR is no setting (did you mean DWH_WAREHOUSE_URL?)"),
        ("DWH_MAX_DELET_SHARE", "DWH_MAX_DELET_SHARE is no setting (did you mean DWH_MAX_DELETE_SHARE?)"),
        ("DWH_SHOPP_URL", "DWH_SHOPP_URL is no setting (did you mean DWH_SHOP_URL?)"),
        ("DWH_BOOKSTORE_URL", "DWH_BOOKSTORE_URL is no setting."),
        ("DWH_CAFE_URL", "DWH_CAFE_URL is no setting."),
        # A feed has no database.
        ("DWH_LEADS_URL", "DWH_LEADS_URL is no setting."),
        ("DWH_SHOP_URL_FIL", "DWH_SHOP_URL_FIL is no setting (did you mean DWH_SHOP_URL_FILE?)"),
        ("DWH_LAKE_FILE", "DWH_LAKE_FILE is no setting (did you mean DWH_LAKE?)"),
        ("DWH_XYZZY", "DWH_XYZZY is no setting"),
    ],
)
@pytest.mark.parametrize("is_in_file", [False, True])
def test_unknown_setting_is_an_error_that_names_the_nearest(
    name: str, message: str, is_in_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_in_file:
        Path(".env").write_text(f"OTHER=1\n{name}=x\n")
        message = f".env, line 2: {message}".replace("DWH_SHOP_URL_FILE?", "DWH_SHOP_URL?")
    else:
        monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=re.escape(message)):
        Settings.load()


def test_a_new_source_has_a_url_before_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWH_CAFE_URL", "postgresql://till.example/cafe")
    with pytest.raises(SettingsError, match="`dwh source new NAME` declares one"):
        Settings.load()
    assert Settings.load(new_source="cafe").source_url("cafe") == "postgresql://till.example/cafe"
    # Whoever declares several sources has set the URLs of all.
    settings = Settings.load(new_source="bar")
    with pytest.raises(SettingsError, match="DWH_BAR_URL is not set"):
        settings.source_url("bar")
    monkeypatch.setenv("DWH_CAFE_LAKE", "x")
    with pytest.raises(SettingsError, match="DWH_CAFE_LAKE is no setting"):
        Settings.load(new_source="bar")


@pytest.mark.parametrize(
    "feed", ['[feed]\nlanding = "till"', 'feed = { landing = "till" }', 'feed.landing = "till"']
)
def test_a_feed_has_no_url_however_its_section_is_written(
    feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cafe"
    folder.mkdir()
    (folder / "source.toml").write_text(feed)
    monkeypatch.setenv("DWH_SOURCES", str(tmp_path))
    monkeypatch.setenv("DWH_CAFE_URL", "postgresql://till.example/cafe")
    assert is_feed(folder)
    with pytest.raises(SettingsError, match=r"DWH_CAFE_URL is no setting\."):
        Settings.load()
    (folder / "source.toml").write_text("[tables.sale]\nkey = ['sale_id']")
    assert not is_feed(folder)
    assert Settings.load().source_url("cafe") == "postgresql://till.example/cafe"


@pytest.mark.parametrize(
    "name", ["DWH_WAREHOUSE_URL", "DWH_WAREHOUSE_URL_FILE", "DWH_SHOP_URL", "DWH_LAKE", "DWH_ALERT_TO"]
)
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_setting_is_an_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is empty"):
        Settings.load()


@pytest.mark.parametrize("line", ["DWH_WAREHOUSE_URL=", "DWH_WAREHOUSE_URL", "export DWH_WAREHOUSE_URL=''"])
def test_empty_setting_in_the_env_file_is_an_error(line: str) -> None:
    Path(".env").write_text(f"# mine\n{line}\n")
    with pytest.raises(SettingsError, match=r"\.env, line 2: DWH_WAREHOUSE_URL is empty"):
        Settings.load()


def test_line_of_the_env_file_that_sets_nothing_is_an_error_without_its_text() -> None:
    Path(".env").write_text("someone's else\nDWH_WAREHOUSE_URL s3cret\n")
    with pytest.raises(SettingsError, match=r"\.env, line 2 is not NAME=value") as refused:
        Settings.load()
    assert "s3cret" not in str(refused.value) and "line 1" not in str(refused.value)


def test_empty_secret_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("\n")
    monkeypatch.setenv("DWH_WAREHOUSE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(SettingsError, match=r"DWH_WAREHOUSE_URL_FILE: .*/url is empty"):
        Settings.load()


def test_every_mistake_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DWH_LAKES=x\n")
    monkeypatch.setenv("DWH_WAREHOUSE_URI", "x")
    monkeypatch.setenv("DWH_SHOP_URL", "")
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    assert all(name in refused.value.what for name in ("DWH_LAKES", "DWH_WAREHOUSE_URI", "DWH_SHOP_URL"))


def test_what_is_known_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources" / "mall").mkdir(parents=True)
    (tmp_path / "sources" / "mall" / "source.toml").touch()
    (tmp_path / "mall_url").write_text("postgresql:///mall\n", "utf-8-sig")
    Path(".env").write_text(f"DWH_SOURCES={tmp_path / 'sources'}\nDWH_WEBLOG_IGNORE=\nOTHER=\n")
    monkeypatch.setenv("DWH_MALL_URL_FILE", str(tmp_path / "mall_url"))
    monkeypatch.setenv("DWH_LOG_FORMAT", "json")
    settings = Settings.load()
    assert settings.source_url("mall") == "postgresql:///mall"


def test_no_embedded_server_where_it_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWH_EMBEDDED", "never")
    settings = Settings.load()
    assert (embedded_databases(settings), loaded_sources(settings)) == ([], [])
    with pytest.raises(SettingsError, match="DWH_WAREHOUSE_URL is not set"):
        _ = with_urls(settings).warehouse
    assert not settings.home.exists()
    monkeypatch.setenv("DWH_EMBEDDED", "no")
    with pytest.raises(SettingsError, match="DWH_EMBEDDED"):
        Settings.load()


def test_jobs_on_kubernetes_read_every_url_from_the_mounted_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load((ROOT / "deployments" / "kubernetes" / "worker-values.yaml").read_text())
    template = json.loads(values["worker"]["config"]["baseJobTemplate"]["configuration"])
    job = template["job_configuration"]
    (container,) = job["job_manifest"]["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for name, value in job["env"].items():
        if name.endswith("_FILE"):
            assert Path(value).parent == Path(mounts["secrets"])
            (tmp_path / Path(value).name).write_text(f"postgresql:///{Path(value).name}")
            value = str(tmp_path / Path(value).name)
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.home == Path(mounts["state"])
    assert (settings.warehouse, settings.source_url("shop")) == (
        "postgresql:///warehouse_url",
        "postgresql:///shop_url",
    )
    assert embedded_databases(settings) == []
