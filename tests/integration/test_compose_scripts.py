"""Scripts of docker-compose.yml, run on a real server: passwords are generated once, logins get their privileges."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from api.preparation import prepare
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from stack.programs import programs
from warehouse.migrations.revisions import upgrade

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"


def test_logins_are_created_with_generated_passwords(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    environment = {
        "SECRETS_FOLDER": str(folder),
        "CONSUMERS_FOLDER": str(tmp_path / "for"),
        "PATH": f"{programs(own_postgres.major)}:{os.environ['PATH']}",
    }
    for database in ("shop", "warehouse"):
        own_postgres.create_database(database)
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        place = {"HOST": connection.info.host, "PORT": str(connection.info.port)}
    for name in ("SHOP_DB", "WAREHOUSE_DB"):
        environment |= {f"{name}_{what}": value for what, value in place.items()}

    def run(script: str) -> None:
        done = subprocess.run(["sh", DEPLOYMENTS / script], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    run("generate_secrets.sh")
    generated = {file.name: file.read_text() for file in folder.iterdir()}
    run("generate_secrets.sh")
    assert {file.name: file.read_text() for file in folder.iterdir()} == generated
    assert len({secret for name, secret in generated.items() if name.endswith("_password")}) == 10
    given = {
        consumer.name: sorted(file.name for file in consumer.iterdir())
        for consumer in (tmp_path / "for").iterdir()
    }
    assert given == {
        "shop-db": ["shop_db_password"],
        "warehouse-db": ["warehouse_db_password"],
        "prefect-db": ["prefect_db_password"],
        "prefect": ["prefect_auth", "prefect_db_password"],
        "dwh": ["prefect_auth", "shop_url", "warehouse_url"],
        "migrate": ["prefect_auth", "warehouse_owner_url"],
        "demo": ["prefect_auth", "shop_owner_url", "warehouse_url"],
        "api": ["api_token", "shop_api_url"],
        "grafana": ["grafana_admin_password", "grafana_password"],
        "superset": ["superset_admin_password", "superset_warehouse_url"],
    }
    assert (tmp_path / "for" / "dwh" / "warehouse_url").read_text() == generated["warehouse_url"]
    assert generated["prefect_auth"].startswith("dwh:") and len(generated["prefect_auth"]) == 52
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        for name in ("shop", "warehouse"):
            password = generated[f"{name}_db_password"]
            connection.execute(f"create role {name} superuser login password '{password}'".encode())
    upgrade(own_postgres.url("warehouse"))
    create_schema(own_postgres.url("shop"))
    run("create_logins.sh")
    prepare(own_postgres.url("shop"))
    run("create_logins.sh")

    def user(name: str, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host=place["HOST"],
            port=place["PORT"],
            user=name,
            dbname=database,
            password=generated[f"{name}_password"],
        )

    with user("loader", "warehouse") as loader:
        assert loader.execute("select current_user").fetchone() == ("dwh_loader",)
        loader.execute("create table raw.made (a int)")
    with user("grafana", "warehouse") as grafana:
        grafana.execute("select * from mart.job_run")
    for query in ("select from mart.customer_masked", "select from mart.sales", "select from dwh.dim_date"):
        with user("grafana", "warehouse") as grafana, pytest.raises(psycopg.errors.InsufficientPrivilege):
            grafana.execute(query.encode())
    with user("shop_reader", "shop") as reader:
        reader.execute("select * from customer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("delete from customer")
    with user("order_api_login", "shop") as api:
        assert api.execute("select current_user").fetchone() == ("order_api",)
        api.execute("select id, status from sales_order")
        for query in (
            "select email from customer",
            "delete from sales_order",
            "update product set price = 1",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), api.transaction():
                api.execute(query.encode())
