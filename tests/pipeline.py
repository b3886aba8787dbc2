"""The way from a shop to a warehouse as the engine's tests walk it: hand-made rows in, whole tables out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.limits import DEFAULT_LIMITS, ReadLimits
from warehouse.extract.stage import stage
from warehouse.extract.staged import Staged
from warehouse.extract.verification import Verification, verify
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.model.star import BEGINNING, DIMENSIONS, END_OF_TIME, FACTS, TARGETS
from warehouse.runs.audit import CheckResult, Load, start_run
from warehouse.sources.declaration import read_declaration
from warehouse.sources.registry import PACKAGED, read_source
from warehouse.sources.source import Source

Row = tuple[Any, ...]
CONFIRMED = DeleteThreshold(is_confirmed=True)
(ORDER_ITEM,) = [fact for fact in FACTS if fact.entity == "order_item"]

# The server is shared by tests that run beside this one, and pg_locks shows them all.
LOCK_AWAITED = """
    select from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())
    """

# What a row of the shop is made of unless a test says otherwise.
USUAL: Mapping[str, Mapping[str, object]] = {
    "company": {"id": 1, "cuit": "30500000007", "name": "Acme", "country": "AR"},
    "category": {"id": 1, "name": "Tools"},
    "brand": {"id": 1, "name": "Bolt"},
    "product": {
        "id": 1, "company_id": 1, "category_id": 1, "brand_id": 1, "name": "Hammer", "price_default": 80,
        "price": 100, "currency": "USD",
    },
    "payment_method": {"id": 1, "name": "Visa", "kind": "card"},
    "distribution_center": {"id": 1, "name": "Rosario"},
    "promotion": {
        "id": 1, "code": "MAY", "name": "May", "discount_share": "0.1", "starts_at": "2024-05-01",
        "ends_at": "2024-06-01",
    },
    "customer": {
        "id": 1, "document_number": "20111222", "name": "Ana", "username": "ana", "email": "ana@example.com",
        "birth_date": "1990-05-17", "country": "AR", "state": "Salta", "loyalty_tier": "bronze",
    },
    "sales_order": {
        "id": 1, "customer_id": 1, "payment_method_id": 1, "status": "complete", "ordered_at": "2024-03-10",
    },
    "order_item": {
        "sales_order_id": 1, "line_number": 1, "product_id": 1, "distribution_center_id": 1, "quantity": 2,
        "unit_price_default": 80, "unit_price": 100, "discount_amount": 10, "status": "complete",
    },
}  # fmt: skip
STAMP = {"created_at": "2024-01-01", "updated_at": "2024-01-01"}
MASTER = ("company", "category", "brand", "product", "payment_method", "distribution_center", "customer")


@dataclass(frozen=True)
class Captured:
    """What one run brought."""

    run_id: int
    staged: Staged
    loads: Mapping[str, Load]
    checks: tuple[CheckResult, ...]
    verifications: tuple[Verification, ...]

    def counts(self, table: str) -> dict[str, int]:
        """Counts of one table's load that are not zero.

        How many rows of a source were read again in vain depends on the transactions of other tests: left out.
        """
        idle = {"rows_read", "rows_unchanged"} if table.startswith("raw.") else set()
        return {
            name.removeprefix("rows_"): count
            for name, count in vars(self.loads[table]).items()
            if name.startswith("rows_") and count and name not in idle
        }

    def changes(self) -> dict[str, dict[str, int]]:
        """By table, what the run did to it; tables of which rows were at most read are left out."""
        idle = {"read", "unchanged"}
        return {table: counts for table in self.loads if (counts := self.counts(table)).keys() - idle}


@dataclass
class Pipeline:
    """One shop, one warehouse, and autocommit connections to both."""

    shop_url: str
    warehouse_url: str
    source: Source = field(default_factory=lambda: read_source("shop"))
    runs: list[Captured] = field(default_factory=list)
    limits: ReadLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        self.shop = connect(self.shop_url, autocommit=True, application_name="test shop")
        self.warehouse = connect(self.warehouse_url, autocommit=True, application_name="test warehouse")

    def close(self) -> None:
        self.shop.close()
        self.warehouse.close()

    def adopt(self) -> None:
        """Let the warehouse, copied with its shop, take the copied shop for the one that it has read."""
        self.warehouse.execute(
            "update audit.watermark set database_name = %s, database_oid = %s",
            self.shop.execute(
                "select datname, oid::bigint from pg_database where datname = current_database()"
            ).fetchone(),
        )

    def insert(self, table: str, **values: object) -> None:
        """Insert a row into the shop: the usual one but for `values`."""
        row = {**USUAL.get(table, {}), **STAMP, **values}
        self.shop.execute(
            sql.SQL("insert into {} ({}) values ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(sql.Placeholder() * len(row)),
            ),
            list(row.values()),
        )

    def do(self, *statements: str) -> None:
        """Execute statements in the shop, each in a transaction of its own."""
        for statement in statements:
            self.shop.execute(statement.encode())

    def await_open_transactions(self) -> None:
        """Wait until the next snapshot's net lies past what was written so far: other tests share the server."""
        (written,) = self.shop.execute("select pg_current_xact_id()::text::bigint").fetchone() or (0,)
        while self.shop.execute(
            "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= %s", [written]
        ).fetchone() == (True,):
            time.sleep(0.01)

    def wait_for(self, query: str) -> None:
        """Wait until the warehouse answers `query` with a row."""
        give_up_at = time.monotonic() + 120
        while not self.warehouse.execute(query.encode()).rowcount:
            assert time.monotonic() < give_up_at, f"never: {query}"
            time.sleep(0.02)

    def open_shop(self) -> None:
        """One company, category, brand, product, payment method, distribution center and customer."""
        for table in MASTER:
            self.insert(table)

    def order(self, order_id: int, ordered_at: str, *lines: Mapping[str, object], **values: object) -> None:
        """Insert an order with its lines; without any, with the usual one."""
        self.insert("sales_order", id=order_id, ordered_at=ordered_at, **values)
        for number, line in enumerate(lines or ({},), start=1):
            self.insert("order_item", **{"sales_order_id": order_id, "line_number": number, **line})

    def without_foreign_keys(self) -> None:
        """Let the shop hold what no careful shop would."""
        for table, name in self.shop.execute(
            "select conrelid::regclass::text, conname from pg_constraint where contype = 'f'"
        ).fetchall():
            self.shop.execute(
                sql.SQL("alter table {} drop constraint {}").format(sql.SQL(table), sql.Identifier(name))
            )

    def capture(
        self,
        *,
        source: Source | None = None,
        shop_url: str | None = None,
        max_delete_share: float | None = None,
        delete_floor_rows: int = 0,
        confirm_deletes: bool = False,
        full_refresh: bool = False,
        accept_source: bool = False,
        limits: ReadLimits | None = None,
        lock_wait_seconds: float = 60,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Captured:
        """Run the engine once, verification included; deletes are confirmed unless there is a share."""
        with start_run(self.warehouse_url, flow="ingest-shop") as run:
            staged = stage(
                run,
                source or self.source,
                shop_url or self.shop_url,
                threshold=DeleteThreshold(
                    max_delete_share or 0.0, delete_floor_rows, confirm_deletes or max_delete_share is None
                ),
                lock_wait_seconds=lock_wait_seconds,
                full_refresh=full_refresh,
                accept_source=accept_source,
                limits=limits or self.limits,
                progress=progress,
            )
            published = publish(run, staged)
            loads = {load.table_name: load for load in published.loads}
            self.runs.append(Captured(run.run_id, staged, loads, published.checks, verify(run, staged)))
        return self.runs[-1]

    def rows(self, query: str, *parameters: object) -> list[Row]:
        """Rows of a query on the warehouse, moments in the words of `told`."""
        found = self.warehouse.execute(query.encode(), parameters or None).fetchall()
        return [tuple(self.format_value(value) for value in row) for row in found]

    def versions(self, entity: str, *columns: str) -> list[Row]:
        """Every version of a dimension: (natural key, columns …, valid_from, valid_to)."""
        listed = ", ".join([f"{entity}_id", *columns, "valid_from", "valid_to"])
        return self.rows(
            f"select {listed} from dwh.dim_{entity} where {entity}_key <> 0 order by {entity}_id, valid_from"
        )

    def facts(self, *columns: str) -> list[Row]:
        """Every order line: (order, line, columns …), columns of `fact` and of the dimensions that it names."""
        dimensions = " ".join(
            f"join dwh.dim_{d.entity} as {d.entity} on {d.entity}.{d.key} = fact.{d.key}"
            for d in DIMENSIONS
            if d.entity in (*ORDER_ITEM.references, *ORDER_ITEM.derived)
        )
        listed = ", ".join(["fact.order_id", "fact.line_id", *columns])
        return self.rows(f"select {listed} from dwh.fact_order_item as fact {dimensions} order by 1, 2")

    def quarantined(self) -> list[Row]:
        """Every entry of the quarantine: (row key, rules, resolution)."""
        return self.rows("select row_key, rules, resolution from audit.quarantine order by quarantine_id")

    def marked(self) -> list[Row]:
        """Rows of the star that show an older state than the one in quarantine: (table, natural key)."""
        queries = [
            f"select '{target.table}', array[{', '.join(target.natural_key)}] from dwh.{target.table} "
            "where has_quarantined_update"
            for target in TARGETS
        ]
        return self.rows(f"{' union all '.join(queries)} order by 1, 2")

    def run_states(self) -> list[Row]:
        """Every run: (flow, status, error)."""
        return self.rows("select flow, status, error from audit.run order by run_id")

    def format_value(self, value: object) -> object:
        """A moment as tests say it: 'ever', 'now', 'run 2' for the snapshot of the second run, or its text."""
        if not isinstance(value, datetime):
            return value
        for said, moment in (("ever", BEGINNING), ("now", END_OF_TIME)):
            if value == datetime.fromisoformat(moment):
                return said
        for number, run in enumerate(self.runs, start=1):
            if value == run.staged.snapshot.taken_at:
                return f"run {number}"
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").removesuffix(".000000").removesuffix(" 00:00:00")


def open_for_a_sale(shop_url: str) -> None:
    """Fill an empty shop with one row of master data each, and one order of 2024-03-10."""
    # It only sells: nothing is loaded.
    pipeline = Pipeline(shop_url, shop_url)
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    pipeline.close()


def load_sale(shop_url: str, warehouse_url: str) -> None:
    """Load that shop and refresh the marts."""
    pipeline = Pipeline(shop_url, warehouse_url)
    pipeline.capture()
    with start_run(warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    pipeline.close()


def copy_of_shop(name: str, folder: Path) -> Source:
    """Declare another shop as source `name` in `folder`."""
    for path in (PACKAGED / "shop").rglob("*"):
        if path.is_file():
            copy = folder / name / path.relative_to(PACKAGED / "shop")
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text()
            for schema in ("raw", "staging"):
                text = text.replace(f"{schema}.shop_", f"{schema}.{name}_")
            copy.write_text(text)
    return read_declaration(folder / name)


CONTENT = {
    "raw": ("_run_id",),
    "dwh": ("run_id", "expired_by_run_id"),
}


def content(connection: psycopg.Connection, schemas: Sequence[str] = ("raw", "dwh")) -> dict[str, str]:
    """Hash of every table's rows, by table, without the ids of the runs that wrote them."""
    tables = connection.execute(
        """
        select table_schema, table_name, array_agg(column_name::text order by column_name)
        from information_schema.columns join information_schema.tables using (table_schema, table_name)
        where table_schema = any(%s) and table_type = 'BASE TABLE' group by 1, 2 order by 1, 2
        """,
        [list(schemas)],
    ).fetchall()
    hashes = {}
    for schema, table, columns in tables:
        told = [sql.Identifier(name) for name in columns if name not in CONTENT.get(schema, ())]
        row = connection.execute(
            sql.SQL(
                "select md5(coalesce(string_agg(said, '' order by said), '')), count(*) "
                "from (select md5(row({})::text) as said from {}) as rows"
            ).format(sql.SQL(", ").join(told), sql.Identifier(schema, table))
        ).fetchone()
        assert row is not None
        hashes[f"{schema}.{table}"] = f"{row[0]} {row[1]}"
    return hashes
