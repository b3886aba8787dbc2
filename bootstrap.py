"""Makes .venv with everything of requirements.lock, and this project, in it; does nothing where that is done.

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
PYTHON = VENV / "bin" / "python"
COMPILED = "warehouse/weblogs/reader/scan.c"
STAMP = VENV / "made-from"
BASE = f"Python {sys.version_info.major}.{sys.version_info.minor} in {ROOT}"


def main() -> None:
    """Set up, unless it is done or another process of this checkout is at it: then wait for that one."""
    if STAMP.exists() and STAMP.read_text() == made_from():
        return
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Waiting for the set-up that is under way")
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not (STAMP.exists() and STAMP.read_text() == made_from()):
        set_up()


def made_from() -> str:
    """What .venv depends on: interpreter, the folder that it refers to, pins and declarations."""
    files = b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "pyproject.toml", COMPILED))
    return f"{BASE}\n{hashlib.sha256(files).hexdigest()}"


def set_up() -> None:
    """Install everything, by uv where it can be had and by pip where not."""
    # Caches inside the checkout, too, unless the user has said where his are.
    os.environ.setdefault("UV_CACHE_DIR", str(VENV / "cache"))
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    if not is_usable():
        say("Making .venv")
        if not runs([sys.executable, "-m", "venv", "--clear", str(VENV)]):
            sys.exit(
                "Python cannot make a virtual environment (Debian, Ubuntu: apt-get install python3-venv)."
            )
        (VENV / "base").write_text(BASE)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    say("Installing the packages of requirements.lock")
    with_uv = [str(PYTHON), "-m", "uv", "pip", "install", "--quiet", "--python", str(PYTHON)]
    lock = ["-r", str(ROOT / "requirements.lock")]
    if not (runs([*pip, "uv"]) and runs([*with_uv, *lock])):
        say("uv did not do it; pip takes a few minutes")
        run([*pip, *lock])
    run([*pip, "--no-deps", "--editable", str(ROOT)])
    say("Compiling, and preparing a Prefect server")
    # Not left to the first import, which writes nothing where PYTHONDONTWRITEBYTECODE is set.
    runs([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")])
    run([str(PYTHON), "-c", "from stack.prefect import prepare; prepare()"])
    shutil.rmtree(VENV / "cache", ignore_errors=True)
    STAMP.write_text(made_from())
    say("Done")


def is_usable() -> bool:
    """Whether .venv is there for this interpreter and folder; then it is changed in place, under what runs."""
    base = VENV / "base"
    return base.exists() and base.read_text() == BASE and runs([str(PYTHON), "-m", "pip", "--version"])


def runs(command: list[str]) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0


def run(command: list[str]) -> None:
    """Run a command that has to succeed."""
    if not runs(command):
        sys.exit(f"Set-up failed at: {' '.join(command)}")


def say(what: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"set-up: {what}\n")


if __name__ == "__main__":
    main()
