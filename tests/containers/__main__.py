"""`make test-containers`: image and compose file in real containers, on a machine that can pull no images.

Builds the image of HEAD, starts every service with stand-ins for what cannot be pulled, runs the daily flow through
Prefect's API, follows an order from the order API into the star, kills each service, restores a backup elsewhere, and
upgrades the image and data of schema 0037. result.json keeps what it found.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from tests.containers.composed import Composed
from tests.containers.podman import (
    LEFT_OUT,
    ROOT,
    STANDS_IN,
    ContainerError,
    build,
    environment,
    has_image,
    make_standins,
    missing_programs,
    run,
)

RESULT = Path(__file__).parent / "result.json"
T = TypeVar("T")
OLD = "90bec75"
FLOW_ENDS_WITHIN_SECONDS = 600
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# User, parser, commit in the code's version; and whatever it has of these programs.
IMAGE = """id -u
python -c 'from warehouse.weblogs.reader import native; print("compiled" if native.fault is None else native.fault)'
python -c 'from warehouse.runs.audit import code_version; print(code_version().split("(")[1].strip(")"))'
for program in gcc cc make git pytest ruff mypy; do command -v "$program" || true; done"""
# What the generated shop has got since schema 0037.
SHOP_CHANGES = """
alter table product add rating_average numeric(3, 2), add review_count integer not null default 0,
    add sold_count integer not null default 0
"""
SHOP_SCHEMA = """
from pathlib import Path
from generators.shop import create_schema
create_schema(Path("/run/secrets/shop_owner_url").read_text())
"""
FACTS = """
select format('select %L, count(*) from %s', c.oid::regclass, c.oid::regclass) from pg_class as c
where c.relnamespace = 'dwh'::regnamespace and c.relname ~ '^(fact|dim)_'
  and c.relkind in ('r', 'p') and not c.relispartition
  and c.relname not in ('dim_date', 'fact_inventory_day')
order by c.relname
"""


class Report:
    """Steps with what each found; written after every one, so that an interrupted run leaves what it had."""

    def __init__(self, path: Path, commit: str) -> None:
        self._path, self._console = path, Console(log_path=False)
        self.failures = 0
        self.figures: dict[str, Any] = {
            "commit": commit,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "stood_in_for": STANDS_IN,
            "left_out": list(LEFT_OUT.values()),
            "steps": {},
        }

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Do a step; a failure is recorded, and the next step is tried all the same."""
        self._console.log(name)
        start, found = time.monotonic(), dict[str, Any]()
        try:
            yield found
            found["result"] = "passed"
        except Exception as error:
            self.failures += 1
            found["result"] = f"failed: {type(error).__name__}: {str(error)[:2000]}"
            self._console.log(traceback.format_exc(limit=3), style="red", markup=False)
        found["seconds"] = round(time.monotonic() - start)
        self._console.log(f"  {found}", markup=False)
        self.figures["steps"][name] = found
        self._path.write_text(json.dumps(self.figures, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-containers", description=__doc__)
    parser.add_argument("--only", choices=["fresh", "upgrade"], help="one half")
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    parser.add_argument("--keep", action="store_true", help="leave the containers, to look at them")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if missing := missing_programs():
        print(f"SKIPPED: containers need {', '.join(missing)}, missing here. Nothing was tested.")  # noqa: T201
        return 0
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    report = Report(arguments.result, commit)
    with tempfile.TemporaryDirectory(prefix="containers-") as place:
        env = environment(Path(place))
        new = sources("HEAD", Path(place) / "new")
        fresh, upgraded = Composed(new, "dwh-fresh", env), Composed(new, "dwh-upgraded", env)
        projects = {"fresh": [fresh], "upgrade": [upgraded]}.get(arguments.only, [fresh, upgraded])
        for project in projects:
            project.down()
        with report.step("images are built") as found:
            if arguments.no_build:
                found["image of"] = run(
                    "podman", "run", "--rm", "dwh:local", "printenv", "DWH_COMMIT", env=env
                ).strip()
            else:
                build_images(fresh, commit, env)
        try:
            if arguments.only != "upgrade":
                start_fresh(fresh, report)
            if arguments.only != "fresh":
                upgrade(upgraded, Path(place), env, report)
        finally:
            for project in [] if arguments.keep else projects:
                project.down()
    return 1 if report.failures else 0


def build_images(composed: Composed, commit: str, env: dict[str, str]) -> None:
    """Build stand-ins, and our image from the files of the commit."""
    make_standins(pulled_images(composed), env)
    dockerfile = composed.folder / "deployments" / "Dockerfile"
    build(dockerfile, composed.folder, "docker.io/library/dwh:local", env, cache=False, COMMIT=commit)


def sources(commit: str, folder: Path) -> Path:
    """The files of a commit, as they would be cloned."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive, check=True)
    return folder


def pulled_images(composed: Composed) -> set[str]:
    """Images of the compose file that are not ours."""
    return {service["image"] for service in composed.services.values() if "build" not in service}


def start_fresh(composed: Composed, report: Report) -> None:
    """A new installation: start, flows through the API, crashes, backup and restore."""
    with report.step("every service starts and is healthy") as found:
        composed.up()
        found["services"] = composed.lasting
        found["could not fetch"] = sorted(composed.failed)
    with report.step("the image has the compiled parser, neither compiler nor git, and is not root") as found:
        found["image"] = composed.execute("worker", "sh", "-c", IMAGE).split()
        expect(found["image"][0] != "0" and found["image"][1:], ["compiled", report.figures["commit"]])
    with report.step("a request without the password is refused"):
        code = composed.podman(
            "exec", composed.container("prefect-server"), "python", "-c",
            "import urllib.request as u\ntry: u.urlopen('http://127.0.0.1:4200/api/admin/version')\n"
            "except OSError as error: print(error.code)",
        )  # fmt: skip
        expect(code.strip(), "401")
    with report.step("the daily flow, asked for through the API, completes") as found:
        found["run"] = flow_run(composed, "daily-warehouse/daily-warehouse")
        found["rows"] = rows(composed)
        expect(found["run"]["state"], "COMPLETED")
    with report.step("every table agrees with the layer below"):
        composed.execute("worker", "dwh", "reconcile")
    with report.step("an order of the order API is in the star, by live") as found:
        found["seconds until it was there"] = order_reaches_the_star(composed)
    for name in composed.lasting:
        with report.step(f"{name} crashes during a load and comes back") as found:
            crash(composed, name, found)
    with report.step("after all crashes an order of the order API is in the star, by live") as found:
        found["seconds until it was there"] = order_reaches_the_star(composed)
    with report.step("after all crashes nothing is lost or doubled") as found:
        composed.execute("worker", "dwh", "run", "daily")
        composed.execute("worker", "dwh", "reconcile")
        found["rows"] = rows(composed)
    with report.step("Superset, built from its Dockerfile, shows what the marts say") as found:
        folder = composed.folder / "deployments" / "superset"
        build(folder / "Dockerfile", folder, "docker.io/library/dwh-superset:local", composed.env)
        composed.up("superset")
        found["charts that answer"] = superset_answers(composed)
    with report.step("a backup, restored elsewhere, is the same warehouse") as found:
        restore_elsewhere(composed, found)


def flow_run(composed: Composed, deployment: str) -> dict[str, Any]:
    """Ask for a run of a deployment and wait for its end: name of its state and seconds."""
    start = time.monotonic()
    deployment_id = composed.ask(f"deployments/name/{deployment}")["id"]
    run_id = composed.ask(f"deployments/{deployment_id}/create_flow_run", {"state": {"type": "SCHEDULED"}})[
        "id"
    ]

    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = composed.ask(f"flow_runs/{run_id}")["state"]
        return found if found["type"] in ENDED else None

    ended = eventually(state, FLOW_ENDS_WITHIN_SECONDS, f"the end of a run of {deployment}")
    return {"state": ended["type"], "name": ended["name"], "seconds": round(time.monotonic() - start)}


def crash(composed: Composed, name: str, found: dict[str, Any]) -> None:
    """Change the shop, kill a service in the middle of a load; the next run of the source completes."""
    composed.run("demo-data", "dwh", "generate", "shop", "--days", "1")
    deployment_id = composed.ask("deployments/name/ingest-shop/ingest-shop")["id"]
    composed.ask(f"deployments/{deployment_id}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    time.sleep(6)
    composed.crash(name)
    found["back after"] = round(composed.wait(name))
    for other in composed.lasting:
        composed.wait(other)
    eventually(
        lambda: completes(composed, found), FLOW_ENDS_WITHIN_SECONDS, f"a load after {name} was killed"
    )


def order_reaches_the_star(composed: Composed) -> float:
    """Place an order; seconds until its line is in the star. No scheduled run is as quick."""
    names = "(select min(id) from customer), (select min(id) from payment_method), min(product_id)"
    ((customer, payment, product),) = composed.query("shop", f"select {names} from inventory")
    order = {
        "customerId": int(customer),
        "payment_id": int(payment),
        "products": [{"productId": int(product), "quantity": 1}],
    }
    start = time.monotonic()
    order_id = eventually(lambda: composed.place_order(order), 120, "an answer of the order API")["id"]
    line = f"select 1 from dwh.fact_order_item where order_id = '{order_id}'"
    eventually(lambda: composed.query("warehouse", line), 120, f"order {order_id} in the star")
    return round(time.monotonic() - start, 1)


def completes(composed: Composed, found: dict[str, Any]) -> bool:
    """Whether a run of ingest-shop that is asked for now loads: not skipped because another one is at work."""
    run = flow_run(composed, "ingest-shop/ingest-shop")
    found.setdefault("runs", []).append(run["name"])
    return bool(run["name"] == "Completed")


def superset_answers(composed: Composed) -> int:
    """Ask Superset for the rows of each chart; returns how many charts have answered.

    Raises:
        ContainerError: there is no dashboard, or a chart's query fails.
    """
    login = {
        "username": "admin",
        "password": composed.superset_password(),
        "provider": "db",
        "refresh": False,
    }
    token = composed.superset("api/v1/security/login", login)["access_token"]
    if not composed.superset("api/v1/dashboard/", token=token)["count"]:
        raise ContainerError("Superset has no dashboard")
    charts = composed.superset("api/v1/chart/?q=(page_size:100)", token=token)["result"]
    for chart in charts:
        answers = composed.superset(f"api/v1/chart/{chart['id']}/data/", token=token)["result"]
        if failed := [answer["error"] for answer in answers if answer["error"]]:
            raise ContainerError(f"{chart['slice_name']}: {failed[0]}")
    return len(charts)


def rows(composed: Composed, container: str | None = None) -> dict[str, int]:
    """Rows of each fact and dimension."""
    queries = [line[0] for line in composed.query("warehouse", FACTS, container)]
    counts = composed.query("warehouse", " union all ".join(queries) + " order by 1", container)
    return {table: int(count) for table, count in counts}


def restore_elsewhere(composed: Composed, found: dict[str, Any]) -> None:
    """Dump the warehouse, restore it into another server, migrate and reconcile there."""
    elsewhere = f"{composed.project}-elsewhere"
    composed.podman("rm", "--force", "--volumes", elsewhere, check=False)
    composed.podman(
        "run", "--detach", "--name", elsewhere, "--network", f"{composed.project}_default",
        "--volume", f"{composed.project}_secrets-warehouse-db:/run/secrets:ro",
        "--env", "POSTGRES_USER=warehouse", "--env", "POSTGRES_DB=warehouse",
        "--env", "POSTGRES_PASSWORD_FILE=/run/secrets/warehouse_db_password",
        composed.services["warehouse-db"]["image"],
    )  # fmt: skip

    def there(command: str) -> str:
        password = 'export PGPASSWORD="$(cat /run/secrets/warehouse_db_password)"'
        return composed.podman("exec", elsewhere, "sh", "-c", f"set -e; {password}; {command}")

    try:
        eventually(
            lambda: there("pg_isready --host 127.0.0.1 || true").endswith("accepting connections\n"),
            60,
            elsewhere,
        )
        there(
            "pg_dump --format custom --host warehouse-db --username warehouse --file /tmp/warehouse.dump warehouse"
        )
        # Grants to roles that this server does not have yet: the migration makes both.
        found["errors"] = there(
            "pg_restore --host 127.0.0.1 --username warehouse --dbname warehouse --jobs 2 /tmp/warehouse.dump 2>&1"
            " | grep error: | grep -v 'role \"dwh_' || true"
        )
        expect(found["errors"], "")
        composed.run(
            "migrate", "sh", "-c",
            f'DWH_WAREHOUSE_URL="$(sed s/@warehouse-db/@{elsewhere}/ /run/secrets/warehouse_owner_url)"; '
            "unset DWH_WAREHOUSE_URL_FILE; export DWH_WAREHOUSE_URL; dwh migrate && dwh status",
        )  # fmt: skip
        expect(rows(composed, elsewhere), rows(composed))
    finally:
        composed.podman("rm", "--force", "--volumes", elsewhere, check=False)


def upgrade(composed: Composed, place: Path, env: dict[str, str], report: Report) -> None:
    """Load with the image and compose file of an old commit, then go on with the new ones, on the same volumes."""
    image = "docker.io/library/dwh:local"
    with report.step(f"data are loaded by the image of {OLD}") as found:
        old = Composed(sources(OLD, place / "old"), composed.project, env)
        run("podman", "tag", image, "localhost/dwh:new", env=env)
        if not has_image(f"localhost/dwh:{OLD}", env):
            build(old.folder / "deployments/Dockerfile", old.folder, f"localhost/dwh:{OLD}", env)
        run("podman", "tag", f"localhost/dwh:{OLD}", image, env=env)
        old.up("secrets", "shop-db", "warehouse-db", "migrate", "logins", "demo-data")
        old.run("worker", "dwh", "run", "daily", PREFECT_API_URL="")
        found["schema"] = old.query("warehouse", "select version_num from public.alembic_version")[0][0]
        before = found["rows"] = rows(old)
        old.compose("down", "--timeout", "20")
    run("podman", "tag", "localhost/dwh:new", image, env=env)
    with report.step("the new image goes on with them") as found:
        composed.up("secrets", "shop-db", "warehouse-db", "migrate", "logins")
        found["schema"] = composed.query("warehouse", "select version_num from public.alembic_version")[0][0]
        after = rows(composed)
        expect({table: after.get(table) for table in before}, before)
        # The shop has gone on, too: what is loaded of it today was not there at that commit.
        composed.query("shop", SHOP_CHANGES)
        composed.run("demo-data", "python", "-c", SHOP_SCHEMA)
        composed.run("worker", "dwh", "run", "daily", PREFECT_API_URL="")
        composed.run("worker", "dwh", "reconcile", PREFECT_API_URL="")
        found["rows"] = rows(composed)
        # More than before where a contract of that commit kept rows in quarantine.
        facts = {table: count for table, count in before.items() if table.startswith("dwh.fact_")}
        expect({table: count for table, count in facts.items() if found["rows"][table] < count}, {})


def eventually(condition: Callable[[], T | None], seconds: float, name: str) -> T:
    """Wait until a condition holds; connections that are refused meanwhile are tried again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if result := condition():
                return result
        except OSError:
            pass
        time.sleep(2)
    raise ContainerError(f"Waited {seconds:.0f} s in vain for {name}.")


def expect(found: object, wanted: object) -> None:
    """Compare.

    Raises:
        ContainerError: They differ.
    """
    if found != wanted:
        raise ContainerError(f"{found} instead of {wanted}")


if __name__ == "__main__":
    sys.exit(main())
