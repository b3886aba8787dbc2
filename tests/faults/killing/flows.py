"""The flows that are killed: what each finds in its place, and how all that it makes of it is compared."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq

from tests.archive import archived_mirror, mirror, state
from tests.faults.killing.feeds import EDITED
from tests.pipeline import Row, content
from tests.shop_day import comparable_content
from tests.weblog_lake import CONTENT as WEBLOG_CONTENT
from tests.weblog_lake import lake_in
from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.model.star import DIMENSIONS
from warehouse.sources.registry import read_source

if TYPE_CHECKING:
    from tests.faults.killing.world import Place

SHOP, WEBLOGS, LIVE, REBUILD = "ingest-shop", "ingest-weblogs", "live-shop", "rebuild"
ORDERS, LEADS, COMPANIES = FEEDS = "ingest-orders", "ingest-leads", "ingest-companies"
EXPORT, EXPORT_TO, TAKE_OVER = "export-tables", "export to a database", "rebuild of a lost database"
# Warehouses that places are copies of: empty, with shop and web logs, and with feeds and an export, too.
EMPTY, TEMPLATE, EVENTFUL = "empty", "warehouse", "eventful"

# Hash of a table's rows, by table.
Content = Mapping[str, str]
# Begins the name of what is no part of a transaction: a killed run may leave it, the next one may not.
FILES = "files of "

# Of each feed, the accounts of its files, what waits or has waited, its fields, and the counts of its runs.
FEED_CONTENT = {
    # Files are registered before they are read.
    f"{FILES}feeds": "select feed, path, status, message from audit.file where feed <> 'weblogs'",
    "audit.file": """
        select feed, path, size_bytes, byte_offset, line_count, lines_duplicated, rows_loaded, rows_quarantined,
            rows_discarded, rows_superseded, rows_removed, content_hash
        from audit.file where feed <> 'weblogs' and size_bytes >= 0
        """,
    "quarantine of feeds": """
        select entry.source, entry.entity, entry.row_key, entry.rules, entry.reason, entry.row_data::text, file.path,
            entry.line_number, entry.byte_offset, entry.raw_text, entry.resolution, entry.note, entry.edited_text
        from audit.quarantine as entry inner join audit.file as file using (file_id) where entry.source <> 'weblogs'
        """,
    "audit.feed_field": """
        select source, table_name, field_name, field_type, is_declared, record_count from audit.feed_field
        """,
    "audit.load": """
        select source, table_name, rows_inserted, rows_updated, rows_expired, rows_deleted, rows_quarantined
        from audit.load inner join audit.run using (run_id)
        where run.flow not in ('ingest-weblogs', 'refresh-marts')
            and rows_inserted + rows_updated + rows_expired + rows_deleted + rows_quarantined > 0
        """,
}
# Files of feeds whose records are not each loaded, in quarantine, discarded or superseded, or whose counts differ.
UNCOUNTED = """
    select file.path from audit.file as file
    where file.feed <> 'weblogs' and file.status not in ('copy', 'replaced') and (
        file.line_count <> file.rows_loaded + file.rows_quarantined + file.rows_discarded + file.rows_superseded
        or file.rows_quarantined <> (
            select count(*) from audit.quarantine as entry
            where entry.file_id = file.file_id and entry.resolved_at is null
        )
    )
    """
# What the archive has of the trail: the accounts of files and the quarantine.
TRAIL = {
    "file": ("file_id", "path", "line_count", "rows_loaded", "rows_quarantined", "rows_superseded"),
    "quarantine": ("quarantine_id", "entity", "resolution"),
}
# Show the runs themselves, those that were killed and that of the export among them.
OF_RUNS = {"job_run", "open_problem", "table_freshness"}


@dataclass(frozen=True)
class Killed:
    """What a flow finds in its place, and what is read of it before and after."""

    reads: tuple[Callable[["Place"], Content], ...]
    # The flow's program, where it has another name.
    program: str = ""
    template: str = TEMPLATE
    # What is done to the place before.
    damage: tuple[str, ...] = ()
    # Parameters of the flow, each by a query.
    asks: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    # It is published as a whole or not at all.
    is_atomic: bool = True
    # It makes of its place what the template with this name is.
    gives_back: str = ""
    # What it says when it finds that it has been done.
    refusal: str = ""


def loaded(place: "Place") -> Content:
    """Everything that sources and feeds have loaded, their trail, copies of bad records, and the archive.

    Raises:
        AssertionError: counts or archive are not what the tables are.
    """
    with psycopg.connect(place.warehouse_url) as connection:
        found = comparable_content(connection, place.changed_until)
        found |= {name: connection.execute(query.encode()).fetchall() for name, query in FEED_CONTENT.items()}
        uncounted = connection.execute(UNCOUNTED.encode()).fetchall()
    assert not uncounted, f"counts of {uncounted}"
    return _hashes(found) | _bad_records(place) | _archive(place)


def web_logs(place: "Place") -> Content:
    """Lines, quarantine and checkpoints, by the paths of their files: a server that was killed skips some numbers.

    Raises:
        AssertionError: counts or aggregates are not what the lines are.
    """
    lake_in(place.lake.parent, place.warehouse_url).assert_consistent()
    with psycopg.connect(place.warehouse_url) as connection:
        paths = dict(
            connection.execute("select file_id, path from audit.file where feed = 'weblogs'").fetchall()
        )
        tables = {}
        for table, query in WEBLOG_CONTENT.items():
            if table == "keys":
                # Surrogate keys; the lines show what they stand for.
                continue
            cursor = connection.execute(query.encode())
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            tables[table] = [
                tuple((row | {"file_id": paths[row["file_id"]], "row_key": None}).values())
                for row in rows
                # Others are of feeds, or of the shop.
                if row["file_id"] in paths
            ]
    return _hashes(tables)


def tables(place: "Place") -> Content:
    """Mirrors and star with their surrogate keys, but for what is made of web logs."""
    with psycopg.connect(place.warehouse_url) as connection:
        of_weblogs = re.compile(
            r"weblog|dwh\.dim_(client_host|device|host|referer|request|traffic_source|user_agent|web_user)"
        )
        return {name: rows for name, rows in content(connection).items() if not of_weblogs.search(name)}


def accounts(place: "Place") -> Content:
    """What is known of the files of feeds, and what waits of them."""
    with psycopg.connect(place.warehouse_url) as connection:
        assert not connection.execute(UNCOUNTED.encode()).fetchall()
        names = ("audit.file", "quarantine of feeds", "audit.feed_field")
        return _hashes({name: connection.execute(FEED_CONTENT[name].encode()).fetchall() for name in names})


def archive_files(place: "Place") -> Content:
    """How many files each table of the archive has, and how many lie there."""
    archive = Archive(place.lake / "archive")
    found = {}
    for log in sorted((place.lake / "archive").glob("*/*/_delta_log")):
        path = "/".join(log.parent.parts[-2:])
        table = archive.open(path)
        assert table is not None, path
        found[f"{FILES}{path}"] = f"{len(table.file_uris())} of {len([*log.parent.glob('*.parquet')])}"
    return found


def exported(place: "Place") -> Content:
    """What readers of the export see, and how many versions lie there.

    Raises:
        AssertionError: files are not those that the manifest names.
    """
    folder = place.lake / "export"
    manifest = json.loads((folder / "manifest.json").read_text())
    found, listed = {}, set()
    for kind in ("tables", "reports"):
        for name, entry in manifest[kind].items():
            paths = {day: folder / one["path"] for day, one in entry["days"].items()}
            listed |= {*paths.values()}
            if name not in OF_RUNS:
                found[f"{kind}: {name}"] = _hash(
                    (day, row) for day, path in paths.items() for row in _rows(path)
                )
    assert listed == {path for path in folder.rglob("*.*") if path.is_file()} - {folder / "manifest.json"}, (
        "export"
    )
    return found | {f"{FILES}versions": str(len([*(place.lake / ".export-versions").iterdir()]))}


def _rows(path: Path) -> Iterable[object]:
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text().splitlines()


def reports(place: "Place") -> Content:
    """The reports that were exported to a database, which is the warehouse's own."""
    with psycopg.connect(place.warehouse_url) as connection:
        return content(connection, ["dwh_report"])


def _bad_records(place: "Place") -> Content:
    """Copies of bad records, without the number of the file in their names."""
    folder = place.lake / "bad"
    return {
        f"{FILES}bad records": _hash(
            (re.sub(r"\.\d+-(\d+\.bad)$", r".\1", str(path.relative_to(folder))), path.read_bytes())
            for path in folder.rglob("*.bad")
        )
    }


def _archive(place: "Place") -> Content:
    """What the archive says that mirrors, dimensions and trail are, once all is added that is published.

    Raises:
        AssertionError: it is not what they are.
    """
    archive = Archive(place.lake / "archive")
    flush(place.warehouse_url, archive)
    found = {}
    with psycopg.connect(place.warehouse_url) as connection:
        for table in read_source("shop").tables:
            path = f"shop/{table.name}"
            if archive.open(path) is not None:
                rows = archived_mirror(archive, connection, path, table.key)
                assert rows == mirror(connection, table.mirror), f"archive of {path}"
                found[f"archive of {path}"] = _hash(rows)
        for one in DIMENSIONS:
            keys = connection.execute(f"select {one.key} from dwh.{one.table}".encode()).fetchall()
            archived = set(state(archive, f"dwh/{one.table}", one.key)) if keys else set()
            assert archived == set(keys), f"archive of {one.table}"
        for name, columns in TRAIL.items():
            rows = set(
                connection.execute(f"select {', '.join(columns)} from audit.{name}".encode()).fetchall()
            )
            kept = state(archive, f"audit/{name}", columns[0]).values()
            archived = {tuple(row[column] for column in columns) for row in kept}
            # Files that are registered and not read are not archived yet.
            assert not archived - rows and not any(filter(all, rows - archived)), f"archive of audit.{name}"
    return found


def _hashes(found: Mapping[str, Iterable[Row]]) -> dict[str, str]:
    return {table: _hash(rows) for table, rows in found.items()}


def _hash(rows: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(sorted(map(repr, rows))).encode()).hexdigest()


_ENTRY = "select array_agg(quarantine_id) from audit.quarantine where source = 'orders' and {}"
_EMPTY_REPORTS = """
    do $$ declare name text; begin
        for name in select tablename from pg_tables where schemaname = 'dwh_report' loop
            execute format('truncate dwh_report.%I', name);
        end loop;
    end $$
    """
_DONE = "No entry of the quarantine is selected."
FLOWS: Mapping[str, Killed] = {
    SHOP: Killed((loaded,)),
    WEBLOGS: Killed((web_logs,), is_atomic=False),
    LIVE: Killed((loaded,)),
    REBUILD: Killed(
        (tables,),
        damage=(
            "drop table raw.shop_customer, dwh.dim_product cascade",
            "truncate raw.shop_order_item, dwh.fact_order_item",
            "update dwh.dim_customer set name = 'wrong' where customer_key > 0",
        ),
        gives_back=TEMPLATE,
    ),
    ORDERS: Killed((loaded,), template=EVENTFUL),
    LEADS: Killed((loaded,), template=EVENTFUL),
    COMPANIES: Killed((loaded,), template=EVENTFUL),
    # The corrected record is kept before it is judged.
    "replay-quarantine": Killed(
        (loaded,),
        template=EVENTFUL,
        asks={"ids": _ENTRY.format("row_key = '{P-3}'")},
        parameters={"edited": EDITED},
        is_atomic=False,
        refusal=_DONE,
    ),
    "discard-quarantine": Killed(
        (loaded,),
        template=EVENTFUL,
        asks={"ids": _ENTRY.format("(row_key = '{P-2}' or row_key is null)")},
        refusal=_DONE,
    ),
    "undo": Killed(
        (loaded,),
        template=EVENTFUL,
        asks={"run_id": "select max(run_id) from audit.run where flow = 'ingest-orders'"},
        refusal="was undone already",
    ),
    "maintain-archive": Killed((loaded, archive_files), template=EVENTFUL),
    "rebuild of feeds": Killed(
        (tables, accounts),
        program=REBUILD,
        template=EVENTFUL,
        damage=(
            "drop table dwh.dim_lead, dwh.fact_lead, raw.leads_lead cascade",
            "update raw.orders_order set status = 'lost', _rescued_data = null",
            "delete from raw.orders_order_item where line_number = 1",
            "delete from dwh.fact_order_item where source_system = 'orders'",
            "truncate raw.companies_company",
        ),
        gives_back=EVENTFUL,
    ),
    TAKE_OVER: Killed(
        (tables, accounts, web_logs), program=REBUILD, template=EMPTY, is_atomic=False, gives_back=EVENTFUL
    ),
    EXPORT: Killed((exported,), template=EVENTFUL),
    EXPORT_TO: Killed(
        (reports,), program=EXPORT, template=EVENTFUL, damage=(_EMPTY_REPORTS,), parameters={"files": False}
    ),
}
