"""The wheel, installed outside the checkout, does what the checkout does: demo, quality gates, deployments."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from zipfile import ZipFile

import psycopg
import pytest

from stack.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
PACKAGES = ("warehouse", "flows", "generators", "stack", "cli", "api", "checks", "deployments")
DATA = ("*.sql", "*.toml", "*.yml", "*.yaml", "*.j2", "*.css", "*.mako")


def run(*command: object, cwd: Path, exit_code: int = 0) -> str:
    """Run a command in an environment that knows nothing of this checkout; its output."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {"HOME": str(cwd), "DWH_HOME": str(cwd / "home")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, made of the source distribution, and this one's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "setuptools>=77", cwd=folder)
    build = "from setuptools import build_meta; build_meta.build_sdist('../dist')"
    run(python, "-c", build, cwd=source)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist")
    run(*pip, *build, archive, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(*pip, "install", "--no-deps", wheel, cwd=folder)
    # Added to the path, not read as a place of .pth files: the editable install of this checkout stays out.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    shutil.rmtree(source)
    # The empty database of a Prefect server, which takes half a minute to make.
    if (prepared := Path(sys.prefix) / "share" / "dwh").is_dir():
        shutil.copytree(prepared, folder / "venv" / "share" / "dwh")
    return folder


def test_wheel_holds_every_file_that_the_packages_read(installed: Path) -> None:
    (wheel,) = (installed / "dist").glob("*.whl")
    held = {name for name in ZipFile(wheel).namelist() if not name.endswith((".py", ".so"))}
    expected = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for pattern in DATA
        for path in (ROOT / name).rglob(pattern)
    }
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "deployments").rglob("*") if path.is_file()}
    assert {
        name for name in expected if "__pycache__" not in name and not name.endswith(".py")
    } - held == set()


def test_installed_wheel_runs_its_own_packages(installed: Path, tmp_path: Path) -> None:
    where = "import checks, cli, deployments, flows, warehouse as w; print(checks.__file__, flows.__path__, w.__file__)"
    assert str(ROOT) not in run(installed / "venv" / "bin" / "python", "-c", where, cwd=tmp_path)
    assert "northwind" in run(installed / "venv" / "bin" / "dwh", "run", "--help", cwd=tmp_path)


@pytest.fixture
def elsewhere(installed: Path) -> Iterator[Path]:
    """A folder of its own, whose local stack is taken down in the end."""
    folder = Path(mkdtemp(dir=installed))
    yield folder
    run(installed / "venv" / "bin" / "dwh", "down", cwd=folder)


@pytest.mark.slow
def test_installed_wheel_loads_with_its_quality_gates(installed: Path, elsewhere: Path) -> None:
    dwh = installed / "venv" / "bin" / "dwh"
    run(dwh, "generate", "shop", "--rows", 100, cwd=elsewhere)
    run(dwh, "run", "shop", cwd=elsewhere)
    postgres = EmbeddedPostgres(elsewhere / "home" / "postgres")
    with (
        psycopg.connect(postgres.url("shop"), autocommit=True) as shop,
        psycopg.connect(postgres.url("warehouse"), autocommit=True) as warehouse,
    ):
        query = "select product_id, price_amount from dwh.dim_product where is_current and product_id in ('1', '2')"
        published = sorted(warehouse.execute(query).fetchall())
        shop.execute("update product set price = -5 where id = 1")
        run(dwh, "run", "shop", cwd=elsewhere)
        waiting = warehouse.execute(
            "select row_key, rules from audit.quarantine where entity = 'product' and resolved_at is null"
        ).fetchall()
        assert waiting == [(["1"], ["price is negative"])]
        assert sorted(warehouse.execute(query).fetchall()) == published

        (contract,) = (installed / "venv").rglob("checks/product.yml")
        content = contract.read_bytes()
        contract.unlink()
        shop.execute("update product set price = price + 1 where id = 2")
        said = run(dwh, "run", "shop", cwd=elsewhere, exit_code=2)
        contract.write_bytes(content)
        assert "There is no data contract for product" in " ".join(said.split())
        assert sorted(warehouse.execute(query).fetchall()) == published


@pytest.mark.slow
def test_installed_wheel_runs_the_demo_and_deploys(installed: Path, elsewhere: Path) -> None:
    dwh = installed / "venv" / "bin" / "dwh"
    run(dwh, "demo", "--rows", 100, "--changes", 50, cwd=elsewhere)
    deployed = run(dwh, "deploy", cwd=elsewhere)
    assert "deployed ingest-shop" in deployed and "deployed watchdog" in deployed
