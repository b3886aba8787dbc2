"""The command `dwh` as scripts see it: exit codes, JSON, advice; databases by URL, no Prefect server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from generators import geoip
from tests import command
from tests.pipeline import LOCK_AWAITED, Pipeline, copy_of_shop
from tests.weblog_lake import lines
from warehouse.archive import batch_files
from warehouse.db.connections import connect
from warehouse.db.locks import transaction_lock
from warehouse.errors import SchemaDrift
from warehouse.history.change_log import STAR_LOCK
from warehouse.runs.audit import CRASHED

DWH = Path(sys.executable).with_name("dwh")
HEAVY = {"prefect", "pandas", "polars", "numpy", "sqlalchemy", "alembic", "soda_core"}


@dataclass(frozen=True)
class CommandLine:
    """`dwh` in a folder and environment of one test alone."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return command.run(*arguments, environment={**self.environment, **more}, folder=self.folder)

    def start(self, *arguments: str) -> command.Command:
        return command.start(*arguments, environment=self.environment, folder=self.folder)

    def as_program(
        self, *arguments: str, under: tuple[str, ...] = (), **more: str
    ) -> "subprocess.Popen[str]":
        """Start the installed program."""
        return subprocess.Popen(
            [*under, DWH, *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs the tests may do so under nohup.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def dwh(shop_url: str, warehouse_url: str, tmp_path: Path) -> CommandLine:
    """`dwh` on an empty shop and an empty, migrated warehouse."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    settings = {"DWH_SHOP_URL": shop_url, "DWH_WAREHOUSE_URL": warehouse_url, "HOME": str(tmp_path)}
    return CommandLine(tmp_path, {**kept, **settings})


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "nonsense"],
        ["run", "shop", "--nonsense"],
        ["status", "--runs", "none"],
        ["status", "--runs", "9" * 26],
        ["undo", "9" * 26],
        ["generate", "shop", "--rows", "9" * 26],
        ["generate", "weblogs", "--seed", "-1"],
        ["psql", "nonsense"],
        ["generate", "shop", "--until", "yesterday"],
    ],
)
def test_wrong_usage_exits_with_2(dwh: CommandLine, arguments: list[str]) -> None:
    done = dwh(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def imported(dwh: CommandLine, *arguments: str) -> set[str]:
    """The packages that a command has imported by its end."""
    program = """
import atexit, os, sys
from cli.main import main
def tell(*_): sys.stderr.write("IMPORTED " + " ".join({name.partition(".")[0] for name in sys.modules}))
atexit.register(tell); os.execve = lambda *_: sys.exit(0)
main()
"""
    started = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(started, cwd=dwh.folder, env=dwh.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("IMPORTED ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["psql", "--", "-c", "select 1"]])
def test_quick_commands_import_nothing_heavy(dwh: CommandLine, arguments: list[str]) -> None:
    assert not HEAVY & imported(dwh, *arguments)


def test_run_that_archives_imports_no_pandas(dwh: CommandLine) -> None:
    # It takes as long as to write a day's changes. Of fewer rows no file would be written here.
    sizes = ["--rows", "4500", "--companies", "9", "--customers", "9", "--products", "9"]
    made = dwh.json("generate", "shop", *sizes)
    assert made["order_item"] > batch_files.SMALL_ROWS
    packages = imported(dwh, "run", "shop")
    assert {"pyarrow", "deltalake"} <= packages
    assert "pandas" not in packages


def test_help_names_every_command_and_the_exit_codes(dwh: CommandLine) -> None:
    stdout = dwh("--help").stdout
    for name in ("demo", "up", "down", "status", "doctor", "migrate", "generate", "run", "psql", "report"):
        assert re.search(rf"^│ {name}\s", stdout, re.MULTILINE), name
    assert "3 a quality gate or threshold stopped the run" in " ".join(stdout.split())


def test_a_source_that_is_misspelt_is_named(dwh: CommandLine) -> None:
    misspelt, unknown = dwh("run", "shopp"), dwh("run", "x")
    assert (misspelt.returncode, unknown.returncode) == (2, 2)
    assert "'shopp' cannot be run. Did you mean shop?" in misspelt.stderr
    assert "'x' cannot be run. There are: daily, companies, leads, northwind," in unknown.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DWH_MAX_DELETE_SHARE", "7"),
        ("DWH_CHANGE_LOG_DAYS", "3000000"),
        ("DWH_WEBLOG_RETENTION_DAYS", "99999999"),
        ("DWH_SHOP_URL", "s3cret"),
        ("DWH_SHOP_URL", "postgresql://me:s3cret@localhost:99999/shop"),
        ("DWH_NORTHWIND_URL", "postgresql://me:s3cret%zz@localhost/shop"),
    ],
)
def test_wrong_setting_exits_with_2_and_names_it(dwh: CommandLine, name: str, value: str) -> None:
    done = dwh("status", **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: Settings cannot be used: {name}: ")
    assert "Traceback" not in done.stderr and "s3cret" not in done.stderr


def test_env_file_that_is_not_text_is_reported(dwh: CommandLine) -> None:
    (dwh.folder / ".env").write_bytes(b"DWH_LAKE=caf\xe9\n")
    done = dwh("status")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: .env is not UTF-8 text: byte 0xe9.")


def test_warehouse_that_is_down_exits_with_1_without_its_password(dwh: CommandLine) -> None:
    done = dwh("status", DWH_WAREHOUSE_URL="postgresql://me:s3cret@127.0.0.1:1/warehouse")
    assert done.returncode == 1
    assert "Cannot connect to postgresql://me@127.0.0.1:1/warehouse: Connection refused." in done.stderr
    assert "What to do:" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_traceback_is_shown_with_debug_alone(dwh: CommandLine) -> None:
    down = "postgresql://me:s3cret@127.0.0.1:1/warehouse"
    assert "Traceback" not in dwh("status", DWH_WAREHOUSE_URL=down).stderr
    assert "Traceback" in dwh("status", "--debug", DWH_WAREHOUSE_URL=down).stderr


def test_shop_is_generated_loaded_and_explained(dwh: CommandLine) -> None:
    sizes = ["--rows", "50", "--companies", "10", "--customers", "20", "--products", "20"]
    made = dwh.json("generate", "shop", *sizes)
    assert (made["sales_order"], made["customer"]) == (50, 20)

    first, second = dwh.json("run", "shop"), dwh.json("run", "shop")
    loads = {load["table_name"]: load for load in first["loads"]}
    quarantined = loads["dwh.fact_order_item"]["rows_quarantined"]
    assert loads["raw.shop_sales_order"]["rows_inserted"] == 50
    assert loads["dwh.fact_order_item"]["rows_inserted"] == made["order_item"] - quarantined
    assert sum(load["rows_inserted"] + load["rows_updated"] for load in second["loads"]) == 0

    status = dwh.json("status")
    assert [(run["flow"], run["status"]) for run in status["runs"]] == [("ingest-shop", "succeeded")] * 2
    assert {verification["verdict"] for verification in status["verifications"]} == {"equal"}
    told = dwh("status")
    assert told.returncode == 0
    assert all(part in told.stdout for part in ("ingest-shop", "dwh.fact_order_item", "raw.shop_order_item"))

    # Tables are named as for `dwh explain`; the facts are computed from the mirrors, which have all of them.
    rebuilt = {one["table_name"]: one["verdict"] for one in dwh.json("rebuild", "order_item")}
    assert rebuilt["dwh.fact_order_item"] == "equal"


def test_shop_that_holds_data_is_not_overwritten(dwh: CommandLine) -> None:
    sizes = ["--rows", "5", "--companies", "2", "--customers", "5", "--products", "5"]
    assert dwh("generate", "shop", *sizes).returncode == 0
    again = dwh("generate", "shop", *sizes)
    assert again.returncode == 1
    assert "already holds data" in again.stderr
    assert dwh("generate", "shop", *sizes, "--replace").returncode == 0
    changed = dwh.json("generate", "shop", "--days", "1", "--changes", "20")
    assert changed["sales_order_inserted"] > 0


def test_web_logs_are_generated_and_loaded_to_the_line(dwh: CommandLine) -> None:
    made = dwh.json("generate", "weblogs", "--lines", "500", "--days", "2")
    assert (made["files"], made["lines"]) == (2, 500)
    (load,) = dwh.json("run", "weblogs")["loads"]
    assert load["rows_read"] == 500 == load["rows_inserted"] + load["rows_quarantined"]
    (again,) = dwh.json("run", "weblogs")["loads"]
    assert again["rows_read"] == 0


def test_delete_threshold_exits_with_3_until_the_deletes_are_confirmed(
    dwh: CommandLine, shop: Pipeline
) -> None:
    shop.order(1, "2024-03-10")
    assert dwh("run", "shop").returncode == 0
    shop.shop.execute("delete from order_item")

    stopped = dwh("run", "shop")
    assert stopped.returncode == 3
    assert "order_item (1 of 1 rows, 100%)" in stopped.stderr
    assert "--confirm-deletes" in stopped.stderr
    assert shop.facts() == [("1", "1")]

    assert dwh("run", "shop", "--confirm-deletes").returncode == 0
    assert shop.facts() == []


def test_another_database_exits_with_3_until_it_is_accepted(
    dwh: CommandLine, shop: Pipeline, database: Callable[[str], str], shop_template: str
) -> None:
    assert dwh("run", "shop").returncode == 0
    copied = Pipeline(database(shop_template), shop.warehouse_url)
    copied.open_shop()
    copied.do("update customer set name = 'Copied'")
    here, name = {"DWH_SHOP_URL": copied.shop_url}, copied.shop.info.dbname
    copied.close()

    refused = dwh("run", "shop", "--full-refresh", "--confirm-deletes", **here)
    assert refused.returncode == 3
    assert f"database {name} (oid " in refused.stderr
    assert "--accept-source" in refused.stderr
    (doctor,) = (
        finding
        for finding in json.loads(dwh("doctor", "--json", **here).stdout)
        if finding["about"] == "source shop" and finding["verdict"] == "wrong"
    )
    assert "is not the database that was read last" in doctor["what"] and "--accept-source" in doctor["hint"]

    shown = dwh("run", "shop", "--accept-source", "--dry-run", **here)
    assert shown.returncode == 0
    assert "customer: 0 rows are new, 1 are others, 0 are gone" in shown.stderr
    assert dwh("run", "shop", **here).returncode == 3
    assert shop.rows("select name from dwh.dim_customer where is_current and customer_key <> 0") == [("Ana",)]

    assert dwh("run", "shop", "--accept-source", **here).returncode == 0
    assert shop.rows("select name from dwh.dim_customer where is_current and customer_key <> 0") == [
        ("Copied",)
    ]


def test_failed_step_of_the_day_does_not_keep_the_others_from_running(
    dwh: CommandLine, shop: Pipeline
) -> None:
    shop.order(1, "2024-03-10")
    # No GeoIP file was made: the web logs cannot be loaded.
    landing = dwh.folder / "lake" / "landing" / "weblogs"
    landing.mkdir(parents=True)
    (landing / "access.log").write_bytes(lines(1, 3))
    done = dwh("run", "daily")
    assert done.returncode == 1
    assert "1 of 3 steps failed: ingest-weblogs (There is no GeoIP file" in done.stderr
    assert "dwh generate weblogs" in done.stderr
    assert [(flow, status) for flow, status, _ in shop.run_states()] == [
        ("daily-warehouse", "failed"),
        ("ingest-shop", "succeeded"),
        ("ingest-weblogs", "failed"),
        ("refresh-marts", "succeeded"),
    ]
    assert shop.facts() == [("1", "1")]


def test_missing_landing_folder_is_reported(dwh: CommandLine, shop: Pipeline, tmp_path: Path) -> None:
    geoip.write(dwh.folder / ".dwh" / "geoip" / "demo.mmdb")
    lake = tmp_path / "no such lake"
    said = dwh("run", "weblogs", DWH_LAKE=str(lake))
    assert said.returncode == 0
    assert f"{lake}/landing/weblogs does not exist: no web logs to load. Is DWH_LAKE correct?" in said.stderr


def test_path_that_is_no_folder_is_reported_without_a_traceback(dwh: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    said = dwh("status", DWH_HOME=str(tmp_path / "home"))
    assert said.returncode == 1
    assert said.stderr.splitlines()[0].startswith(f"Error: {tmp_path}/home/")
    assert said.stderr.splitlines()[0].endswith(": Not a directory.")


@pytest.mark.parametrize(
    ("number", "by", "code"),
    [
        (signal.SIGINT, "Ctrl-C", 130),
        pytest.param(signal.SIGTERM, "SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_interrupted_run_ends_cleanly_and_the_next_one_does_its_work(
    dwh: CommandLine, shop: Pipeline, number: signal.Signals, by: str, code: int
) -> None:
    shop.order(1, "2024-03-10")
    with connect(shop.warehouse_url) as blocker:
        transaction_lock(blocker, STAR_LOCK)
        running = dwh.start("run", "shop")
        _wait_for(lambda: shop.rows(LOCK_AWAITED))
        running.send_signal(number)
        _, said = running.communicate(timeout=300)
        _wait_for(lambda: not shop.rows(LOCK_AWAITED))
    assert running.returncode == code
    assert said.splitlines()[-1] == (
        f"Stopped{'' if by == 'Ctrl-C' else f' by {by}'}. What was published stays; run it again to continue."
    )
    assert "Traceback" not in said
    assert shop.run_states() == [("ingest-shop", "cancelled", f"stopped by {by}")]
    assert dwh("run", "shop").returncode == 0
    assert shop.facts() == [("1", "1")]


def test_nohup_lets_a_run_go_on_when_its_terminal_is_closed(dwh: CommandLine, shop: Pipeline) -> None:
    with connect(shop.warehouse_url) as blocker:
        transaction_lock(blocker, STAR_LOCK)
        running = dwh.as_program("run", "shop", under=("nohup",))
        _wait_for(lambda: shop.rows(LOCK_AWAITED))
        running.send_signal(signal.SIGHUP)
    running.communicate(timeout=300)
    assert running.returncode == 0
    assert [status for _, status, _ in shop.run_states()] == ["succeeded"]


def test_connection_that_an_interrupt_leaves_at_work_is_named_on_demand_alone(
    dwh: CommandLine, warehouse_url: str
) -> None:
    program = """
import contextlib, sys, psycopg
from cli.main import main
with contextlib.suppress(SystemExit): main([*sys.argv[2:], "status"])
with contextlib.suppress(KeyboardInterrupt), psycopg.connect(sys.argv[1]) as connection:
    connection.pgconn.send_query(b"select pg_sleep(60)")
    raise KeyboardInterrupt
"""
    said = [
        command.run(
            warehouse_url, *options, environment=dwh.environment, folder=dwh.folder, program=program
        ).stderr
        for options in ([], ["--debug"])
    ]
    assert said[0] == ""
    assert "error ignored in rollback" in said[1]


def test_status_calls_a_run_crashed_as_soon_as_its_process_is_gone(dwh: CommandLine, shop: Pipeline) -> None:
    def shown() -> list[tuple[str, str]]:
        return [(run["status"], run["message"] or "") for run in dwh.json("status")["runs"]]

    with connect(shop.warehouse_url) as blocker:
        transaction_lock(blocker, STAR_LOCK)
        running = dwh.start("run", "shop")
        _wait_for(lambda: shop.rows(LOCK_AWAITED))
        assert shown() == [("running", "")]
        running.kill()
        running.communicate(timeout=300)
        _wait_for(lambda: shown() == [("crashed", CRASHED)])
    assert [status for _, status, _ in shop.run_states()] == ["running"], "it is only shown so"


def test_prefect_that_does_not_answer_keeps_nothing_from_running(dwh: CommandLine, shop: Pipeline) -> None:
    done = dwh("run", "shop", PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.returncode == 0
    assert "Prefect does not answer at http://127.0.0.1:1/api" in done.stderr
    assert shop.rows("select status, prefect_run_id from audit.run") == [("succeeded", None)]


def test_prefect_server_of_the_env_file_is_used_unless_the_environment_names_another(
    dwh: CommandLine,
) -> None:
    (dwh.folder / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:1/api\n")
    assert "Prefect does not answer at http://127.0.0.1:1/api" in dwh("deploy").stderr
    named = dwh("deploy", PREFECT_API_URL="http://127.0.0.1:2/api")
    assert named.returncode == 1
    assert "Prefect does not answer at http://127.0.0.1:2/api" in named.stderr


def test_archive_is_added_to_without_a_prefect_server(dwh: CommandLine) -> None:
    assert dwh("run", "shop").returncode == 0
    program = dwh.as_program("archive")
    stdout, stderr = program.communicate(timeout=300)
    assert (program.returncode, "server" in stderr) == (0, False), stderr
    assert "rows added" in stdout
    assert dwh("archive", "--restart").returncode == 0


def test_empty_warehouse_is_migrated_up_and_down_on_demand_alone(
    dwh: CommandLine, empty_database_url: Callable[[], str]
) -> None:
    url = empty_database_url()
    refused = dwh("run", "shop", DWH_WAREHOUSE_URL=url)
    assert refused.returncode == 2
    assert "has no tables yet" in refused.stderr
    assert "dwh migrate" in refused.stderr
    assert "went from base to" in dwh("migrate", DWH_WAREHOUSE_URL=url).stdout
    assert "as before" in dwh("migrate", DWH_WAREHOUSE_URL=url).stdout
    assert dwh("run", "shop", DWH_WAREHOUSE_URL=url).returncode == 0

    with connect(url) as connection:
        connection.execute("drop view mart.sales_masked")
    repaired = dwh("migrate", DWH_WAREHOUSE_URL=url).stdout
    assert "Found and set right: view mart.sales_masked is not as declared." in repaired

    unknown = dwh("migrate", "--to", "0014", "--yes", DWH_WAREHOUSE_URL=url)
    assert unknown.returncode == 2
    assert "There is no revision 0014." in unknown.stderr and "base, 0037, 0038" in unknown.stderr
    unasked = dwh("migrate", "--to", "0037", DWH_WAREHOUSE_URL=url)
    assert unasked.returncode != 0
    assert "drops tables" in unasked.stdout + unasked.stderr
    assert dwh("run", "shop", DWH_WAREHOUSE_URL=url).returncode == 0
    # The way to base: test_migrations.py.
    assert dwh("migrate", "--to", "0071", "--yes", DWH_WAREHOUSE_URL=url).returncode == 0
    with connect(url) as connection:
        assert connection.execute("select version_num from alembic_version").fetchone() == ("0071",)


def test_doctor_names_a_table_that_stops_the_next_run_since_its_columns_were_changed(
    dwh: CommandLine, shop: Pipeline
) -> None:
    shop.capture()

    def found() -> list[dict[str, str]]:
        return [
            one
            for one in json.loads(dwh("doctor", "--json").stdout)
            if one["about"] == "source shop" and (one["verdict"] == "wrong" or "captured" in one["what"])
        ]

    captured = {"about": "source shop", "verdict": "ok", "what": "All 11 tables can be captured.", "hint": ""}
    shop.do("alter table brand add founded date")
    assert found() == [captured]
    shop.do("alter table brand alter name type varchar(80)", "alter table brand drop created_at")
    with pytest.raises(SchemaDrift) as error:
        shop.capture()
    assert found() == [
        {
            "about": "source shop",
            "verdict": "wrong",
            "what": "Table public.brand of source 'shop' has changed: created_at was dropped; name is character "
            "varying(80) and was text; founded is new.",
            "hint": error.value.hint,
        }
    ]


def test_doctor_finds_what_is_wrong_and_how_to_repair_it(dwh: CommandLine, shop: Pipeline) -> None:
    assert dwh("generate", "weblogs", "--lines", "10").returncode == 0
    env_file = dwh.folder / ".env"
    env_file.write_text("OTHER=1\n")
    env_file.chmod(0o600)
    done = dwh("doctor", "--json")
    assert done.returncode == 0
    assert [one for one in json.loads(done.stdout) if one["about"] == ".env"] == []
    env_file.chmod(0o640)
    assert [one["verdict"] for one in json.loads(done.stdout) if one["about"] == "contracts"] == ["ok"]

    contracts = shutil.copytree(str(files("checks")), dwh.folder / "mine" / "checks")
    (contracts / "product.yml").unlink()
    (contracts / "weblog.yml").write_text("dataset: [")
    shop.without_foreign_keys()
    _drop(
        shop,
        "constraint",
        "select conname from pg_constraint where conrelid = 'brand'::regclass and contype = 'p'",
    )
    _drop(
        shop,
        "trigger",
        "select tgname from pg_trigger where tgrelid = 'customer'::regclass and not tgisinternal",
    )
    shop.warehouse.execute("revoke select on mart.sales from dwh_reader")
    shop.warehouse.execute("comment on view mart.sales is 'Sold'")
    shop.warehouse.execute("create index by_name on dwh.dim_product (name)")
    shop.warehouse.execute("drop table mart.customer_segments")
    examined = dwh.as_program(
        "doctor",
        "--json",
        DWH_GEOIP_PATH="/nowhere.mmdb",
        DWH_SMTP_URL="smtp://127.0.0.1:1",
        DWH_ALERT_TO="a@b.c",
        PYTHONPATH=str(dwh.folder / "mine"),
    )
    output, _ = examined.communicate(timeout=300)
    assert examined.returncode == 1
    found = {(one["about"], one["verdict"], one["what"], one["hint"]) for one in json.loads(output)}
    wrong = {(about, what.partition(":")[0]) for about, verdict, what, _ in found if verdict == "wrong"}
    assert wrong == {
        ("warehouse", "The comment of view mart.sales is not as declared."),
        ("warehouse", "An owner or grant is not as declared"),
        ("contracts", "There is no data contract for product"),
        # What the source declares of the product cannot be compared with it.
        ("source shop", "There is no data contract for product"),
        ("contracts", f"{contracts / 'weblog.yml'} is not YAML"),
        ("warehouse", "Table dwh.dim_product"),
        ("warehouse", "Table mart.customer_segments"),
        ("GeoIP file", "There is no GeoIP file at /nowhere.mmdb."),
        ("mail", "The mail server smtp"),
    }
    hints = {what: hint for _, _, what, hint in found}
    readable = ".env can be read by others than its owner: it may hold passwords."
    assert (".env", "note", readable, "chmod 600 .env") in found
    assert all(hint for about, _, _, hint in found if about == "contracts")
    assert hints["Table dwh.dim_product: index by_name is in the database, and not declared."].startswith(
        "Drop it"
    )
    missing = "Table mart.customer_segments: table is declared, and not in the database."
    assert hints[missing].endswith(
        "let a login that has role dwh_owner run `dwh rebuild mart.customer_segments`."
    )
    (unguarded,) = [what for what in hints if "no unique index guards this declared key" in what]
    assert unguarded.startswith("public.brand (id): ")
    assert hints[unguarded].startswith("create unique index")
    assert any(
        "public.customer (updated_at)" in what and "no trigger sets this cursor" in what for what in hints
    )


def test_day_is_shown_first_and_runs_are_taken_back(dwh: CommandLine, shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    dwh("generate", "weblogs", "--lines", "100")
    dry = dwh.json("run", "daily", "--dry-run")
    loads = {load["table_name"]: load for step in dry["steps"] for load in step["loads"]}
    assert (dry["dry_run"], loads["dwh.fact_order_item"]["rows_inserted"]) == (True, 1)
    web = loads["dwh.fact_weblog"]
    assert web["rows_inserted"] + web["rows_quarantined"] == 100
    assert loads["dwh.agg_weblog_country"]["rows_inserted"] > 0
    assert {step["flow"] for step in dry["steps"]} == {"ingest-shop", "ingest-weblogs", "refresh-marts"}
    assert [example["row_key"] for example in dry["steps"][0]["examples"]][-1] == ["1", "1", "shop"]
    assert {status for _, status, _ in shop.run_states()} == {"dry run"}
    assert shop.facts() == []

    first = shop.capture().run_id
    shop.do("update company set name = 'Two'")
    second = shop.capture().run_id
    assert dwh("undo", "99").returncode == 2
    blocked = dwh("undo", str(first))
    assert (blocked.returncode, "--cascade" in blocked.stderr) == (3, True)
    assert dwh.json("undo", str(first), "--cascade")["undone"] == [second, first]
    assert shop.facts() == []


def test_psql_runs_in_the_warehouse_and_in_any_source_and_hides_the_password(
    dwh: CommandLine, shop: Pipeline
) -> None:
    assert dwh("psql", "shop", "--", "-Atc", "select count(*) from company").stdout == "1\n"
    assert dwh("psql", "--", "-Atc", "select count(*) from audit.run").stdout == "0\n"
    northwind = {"DWH_NORTHWIND_URL": shop.shop_url}
    assert dwh("psql", "northwind", "-Atc", "select count(*) from company", **northwind).stdout == "1\n"
    unset, unknown = dwh("psql", "northwind"), dwh("psql", "nonsense")
    assert (unset.returncode, "DWH_NORTHWIND_URL is not set." in unset.stderr) == (2, True)
    assert (unknown.returncode, "There is no source 'nonsense'." in unknown.stderr) == (2, True)
    feed = dwh("psql", "orders")
    assert (feed.returncode, "orders is read from files: it has no database." in feed.stderr) == (2, True)
    password = conninfo_to_dict(shop.shop_url)["password"]
    shown = dwh("psql", "shop", "--", "-c", r"\! tr '\0' ' ' < /proc/$PPID/cmdline").stdout
    assert "psql" in shown
    assert str(password) not in shown


def test_report_is_written_where_asked(dwh: CommandLine, shop: Pipeline) -> None:
    assert dwh("run", "shop").returncode == 0
    done = dwh("report", "-o", "here/report.html")
    assert done.returncode == 0
    assert done.stdout.strip() == str(dwh.folder / "here" / "report.html")
    assert "<html" in (dwh.folder / "here" / "report.html").read_text()


def _drop(shop: Pipeline, kind: str, query: str) -> None:
    drop = {"constraint": "alter table brand drop constraint {}", "trigger": "drop trigger {} on customer"}[
        kind
    ]
    for (name,) in shop.shop.execute(query.encode()).fetchall():
        shop.shop.execute(sql.SQL(drop).format(sql.Identifier(name)))


def _wait_for(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_declarations_that_change_are_shown_limited_and_conformed_again(
    dwh: CommandLine, shop: Pipeline, tmp_path: Path
) -> None:
    shop.insert("customer", id=2, name="Bruno")
    copy_of_shop("store", tmp_path / "sources")
    dwh.environment.update(DWH_SOURCES=str(tmp_path / "sources"), DWH_STORE_URL=shop.shop_url)
    assert dwh("run", "store").returncode == 0
    assert dwh.json("status")["stale"] == []
    conform = tmp_path / "sources" / "store" / "conform" / "customer.sql"
    conform.write_text(conform.read_text().replace("customer.name,", "upper(customer.name) as name,"))
    stale = {
        "source": "store", "table_name": "dwh.dim_customer", "reason": "conform SQL has changed", "rows": 2,
        "entity": "customer", "new_columns": [],
    }  # fmt: skip
    assert dwh.json("status")["stale"] == [stale]
    assert "Stale by declaration" in dwh("status").stdout

    before = shop.rows("select * from audit.watermark order by 1, 2")
    stopped = dwh("run", "store", DWH_RECONFORM_ROWS="1")
    assert stopped.returncode == 3
    assert "`dwh run store --reconform`" in stopped.stderr and "staged" not in stopped.stderr
    assert shop.rows("select * from audit.watermark order by 1, 2") == before
    assert shop.run_states()[-1][1] == "stopped"

    foreseen = dwh("run", "store", "--reconform", "--dry-run")
    assert foreseen.returncode == 0 and "name: Ana → ANA" in foreseen.stdout
    done = dwh("run", "store", "--reconform", DWH_RECONFORM_ROWS="1")
    assert done.returncode == 0, done.stderr
    assert "dwh.dim_customer is conformed again as a whole: conform SQL has changed" in done.stderr
    assert shop.versions("customer", "name") == [("1", "ANA", "ever", "now"), ("2", "BRUNO", "ever", "now")]
    assert dwh.json("status")["stale"] == []
    assert dwh("run", "store", DWH_RECONFORM_ROWS="-1").returncode == 2
