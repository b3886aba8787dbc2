"""Tests keep to themselves: they see no settings of their user, and write nothing of theirs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from warehouse.settings import Settings

ROOT = Path(__file__).parents[2]
CANARY = b"mine, not the tests'"


def test_user_s_files_are_untouched_whatever_the_environment_and_env_file_say(tmp_path: Path) -> None:
    """Two test files that write a GeoIP file and use a lake, run as by a user who has settings for all of it."""
    user = tmp_path / "user"
    files = {
        "DWH_GEOIP_PATH": user / "country.mmdb",
        "DWH_HOME": user / "home" / "geoip" / "country.mmdb",
        "DWH_LAKE": user / "lake" / "landing" / "weblogs" / "access.log",
        "PREFECT_HOME": user / "prefect" / "profiles.toml",
        "HOME": user / ".pgpass",
    }
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CANARY)
    values = {
        "DWH_GEOIP_PATH": user / "country.mmdb",
        "DWH_HOME": user / "home",
        "DWH_LAKE": user / "lake",
        "PREFECT_HOME": user / "prefect",
        "HOME": user,
        "DWH_WAREHOUSE_URL": "postgresql://user@127.0.0.1:1/theirs",
        "DWH_SMTP_URL": "smtp://127.0.0.1:1",
        "DWH_ALERT_TO": "user@example.com",
        "PGHOST": "theirs.example",
        "PGSERVICE": "theirs",
        "PREFECT_API_URL": "http://theirs.example/api",
    }
    (user / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in values.items() if name[0] == "D")
    )
    before = {path: path.stat() for path in sorted(user.rglob("*"))}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_TEST_")}
    tests = [ROOT / "tests" / "unit" / name for name in ("test_geoip_update.py", "test_isolation.py")]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml",
            "--rootdir", ROOT, *tests, "-k", "file_is_fetched or sees_no_settings",
        ],
        cwd=user,
        env={**environment, **{name: str(value) for name, value in values.items()}},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"^[2-9] passed", done.stdout, re.MULTILINE), done.stdout
    assert {path: path.stat() for path in sorted(user.rglob("*"))} == before
    assert all(path.read_bytes() == CANARY for path in files.values())


def test_a_test_sees_no_settings_of_its_user(tmp_path: Path) -> None:
    assert Path.cwd() == tmp_path
    ours = [name for name in os.environ if name.startswith(("DWH_", "PG"))]
    # Those that look at the archive switch it on.
    assert [name for name in ours if not name.startswith("DWH_TEST_") and name != "DWH_ARCHIVE"] == []
    # Flows' tests have a Prefect server of their own.
    assert "theirs" not in os.environ.get("PREFECT_API_URL", "")
    settings = Settings.load().model_dump(exclude_unset=True, exclude={"archive"})
    assert settings in ({}, {"source_urls": {}})
    assert Path.home().is_relative_to(os.environ["DWH_TEST_RUN_FOLDER"])


def test_no_test_starts_a_command_in_the_checkout_where_the_user_s_env_file_lies() -> None:
    # The linter and the container build have to run there, and a process of another user has to find this code.
    expected = {"unit/test_layers.py", "integration/test_embedded_postgres.py", "containers/__main__.py"}
    pattern = re.compile(r"cwd=(ROOT|Path\(__file__\)\.parents\[\d\])")
    found = {
        str(path.relative_to(ROOT / "tests"))
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__) and pattern.search(path.read_text())
    }
    assert found == expected, "leave out cwd: the current folder is the test's own"
