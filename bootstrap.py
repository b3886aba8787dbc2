"""Creates .venv with the packages of requirements.lock and this project in it; does nothing if that is up to date.

Runs before anything is installed: standard library only, any Python from 3.11 on.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
PIP = [PYTHON, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
LOCK = ["-r", str(ROOT / "requirements.lock")]
STAMP = VENV / "made-from"
BASE = f"Python {sys.version_info.major}.{sys.version_info.minor} in {ROOT}\n"
INPUTS = [ROOT / "requirements.lock", ROOT / "pyproject.toml", *sorted(ROOT.glob("warehouse/**/*.c"))]


def main() -> None:
    """Set up unless that is done; if another process of this checkout is setting up, wait for it."""
    if stamp() == made_from():
        return
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log("Waiting for the set-up that is under way")
        fcntl.flock(lock, fcntl.LOCK_EX)
    if stamp() != made_from():
        set_up()


def stamp() -> str:
    """What .venv was made from; empty if it was never finished."""
    return STAMP.read_text() if STAMP.exists() else ""


def made_from() -> str:
    """What .venv depends on: interpreter, the folder that it refers to, pins, declarations, C source and compiler."""
    compiler = "compiled" if shutil.which("cc") else "no C compiler"
    return f"{BASE}{compiler}\n{hashlib.sha256(b''.join(file.read_bytes() for file in INPUTS)).hexdigest()}"


def set_up() -> None:
    """Install everything with uv, or with pip where uv is not available or fails."""
    # The cache stays inside the checkout unless the user has one elsewhere.
    os.environ.setdefault("UV_CACHE_DIR", str(VENV / "cache"))
    # The same interpreter and folder: updated in place, since processes may be running from it.
    if not (stamp().startswith(BASE) and succeeds([PYTHON, "-m", "pip", "--version"])):
        log("Creating .venv")
        if not succeeds([sys.executable, "-m", "venv", "--clear", str(VENV)]):
            sys.exit("Python cannot create a virtual environment (Debian: apt-get install python3-venv).")
    log("Installing the packages of requirements.lock")
    with_uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON, *LOCK]
    if not (succeeds([*PIP, "uv"]) and succeeds(with_uv)):
        log("uv failed; pip takes a few minutes")
        run([*PIP, *LOCK])
    run([*PIP, "--no-deps", "--editable", str(ROOT)])
    log("Compiling, and preparing a Prefect server")
    # Not left to the first import, which writes nothing where PYTHONDONTWRITEBYTECODE is set. Some packages hold
    # modules for newer Pythons, which do not compile and are never imported, as their own tests are not.
    succeeds([PYTHON, "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", str(VENV / "lib")])
    run([PYTHON, "-c", "from stack.prefect import prepare; prepare()"])
    shutil.rmtree(VENV / "cache", ignore_errors=True)
    STAMP.write_text(made_from())
    log("Done")


def succeeds(command: list[str]) -> bool:
    """Run a command; whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0


def run(command: list[str]) -> None:
    """Run a command that has to succeed."""
    if not succeeds(command):
        sys.exit(f"Set-up failed at: {' '.join(command)}")


def log(message: str) -> None:
    """Print one line of progress."""
    sys.stderr.write(f"set-up: {message}\n")


if __name__ == "__main__":
    main()
