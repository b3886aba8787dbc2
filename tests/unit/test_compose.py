"""docker-compose.yml: valid by the compose specification's schema, pinned, watched, and without passwords.

compose_spec.schema.json is the schema of https://github.com/compose-spec/compose-spec (Apache License 2.0) of 2021,
unchanged; `name` came to the specification later.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose_spec.schema.json").read_text())
    told = {key: value for key, value in COMPOSE.items() if key != "name"}
    errors = jsonschema.Draft7Validator(schema).iter_errors(told)
    assert [f"{list(error.path)}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert "build" in SERVICES[name] or re.search(r":v?\d+\.\d+(\.\d+)?(-[\w.]+)?$", image), image


@pytest.mark.parametrize(
    "name", [name for name, service in SERVICES.items() if service.get("restart") != "no"]
)
def test_what_stays_up_is_watched(name: str) -> None:
    assert "healthcheck" in SERVICES[name]


@pytest.mark.parametrize(
    "name", [name for name, service in SERVICES.items() if service.get("restart") != "no"]
)
def test_what_stays_up_has_a_limit_of_memory_and_logs_that_rotate(name: str) -> None:
    assert SERVICES[name]["mem_limit"]
    assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}


def test_parallel_queries_of_the_warehouse_fit_into_its_shared_memory() -> None:
    service = SERVICES["warehouse-db"]
    given = dict(word.split("=") for word in service["command"] if "=" in word)
    workers = int(given["max_parallel_workers_per_gather"])
    work_mem, multiplier = int(given["work_mem"].removesuffix("MB")), float(given["hash_mem_multiplier"])
    # A parallel hash join shares what its workers and its leader may use, in /dev/shm.
    a_query = work_mem * multiplier * (workers + 1)
    queries = int(given["max_parallel_workers"]) // workers
    shared = int(service["shm_size"].removesuffix("gb")) * 1024
    assert (a_query, queries) == (288, 2) and a_query * queries <= shared
    limit = int(service["mem_limit"].removesuffix("g")) * 1024
    assert int(given["shared_buffers"].removesuffix("GB")) * 1024 + shared <= limit / 2


def test_only_those_who_make_passwords_and_logins_mount_all_of_them() -> None:
    mounts = {
        name: [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("secrets")]
        for name, service in SERVICES.items()
    }
    assert {name for name, volumes in mounts.items() if "secrets" in volumes} == {"secrets", "logins"}
    assert all(len(volumes) <= 1 for name, volumes in mounts.items() if name != "secrets")


def test_whatever_is_waited_for_is_there_and_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            awaited = SERVICES[other]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in awaited, (name, other)
            else:
                assert awaited["restart"] == "no", (name, other)


def test_every_volume_is_declared_and_every_folder_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (
                volume
            )


def test_no_password_is_in_the_file() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", key):
                assert re.fullmatch(r".*_?_FILE", key), (name, key)
            assert not re.search(r"://[^/\s]*:[^/\s]*@", str(value)), (name, key)


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_not_everybody_needs_is_a_profile() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if service.get("profiles")}
    assert profiles == {"live": ["live"], "demo-data": ["demo"], "superset": ["superset"]}


def test_image_has_every_package_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "deployments" / "Dockerfile").read_text(), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert set(copied) == packages
    assert {f"!{package}" for package in packages} <= set(ignored)


def test_worker_is_killed_only_after_it_had_time_to_cancel_its_runs() -> None:
    command = SERVICES["worker"]["command"]
    grace = float(command[command.index("--grace") + 1])
    assert SERVICES["worker"]["stop_grace_period"] == "2m"
    # Then it cancels what is left, and waits half a minute for its end.
    assert grace + 30 < 120
