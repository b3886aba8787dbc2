"""The layers hold, and no module is a drawer for what has no place."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "api", "flows", "warehouse", "generators", "stack")
DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "constants", "misc"}


def test_layers_know_only_those_below_them() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_module_is_named_after_nothing() -> None:
    modules = {module for package in PACKAGES for module in (ROOT / package).rglob("*.py")}
    assert len(modules) > 50
    assert [module for module in modules if module.stem in DRAWERS] == []


def test_pins_name_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock


def test_run_of_a_database_imports_no_library_that_it_does_not_use() -> None:
    program = (
        "import sys; from flows.engine import run_without_prefect; run_without_prefect(); "
        "import cli.main, flows.ingest_source; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Each takes a tenth of a second to several seconds to import, in every run and every command.
    slow = {
        "adbc_driver_manager", "alembic", "deltalake", "numpy", "pandas", "prefect", "pyarrow", "soda_core",
        "sqlalchemy",
    }  # fmt: skip
    assert slow & set(done.stdout.split()) == set()


def test_names_of_tests_have_the_words_of_the_field() -> None:
    """Reported, logged, explained or repaired: not told, said, settled or mended."""
    ours = re.compile(r"def (test_(?:\w*_)?(?:told|said|tells?|settles?d?|mend(?:s|ed)?)(?:_\w*)?)\(")
    files = (ROOT / "tests").rglob("test_*.py")
    assert [name for file in files for name in ours.findall(file.read_text())] == []
