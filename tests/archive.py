"""What tests ask of the archive: its rows, and the state of a table that follows from them."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.conftest import RUN_FOLDER
from tests.pipeline import Pipeline, Row
from warehouse.archive.batch_files import batch_files
from warehouse.archive.delta import fields_of
from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.extract.catalog import columns_of
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.limits import DEFAULT_LIMITS, ReadLimits
from warehouse.extract.stage import stage
from warehouse.load.publish import publish
from warehouse.runs.audit import Run, start_run
from warehouse.sources.source import Source

Values = dict[str, Any]
Fill = Callable[[Pipeline], object]


def archive_made_by(fill: Fill) -> Archive:
    """The archive into which `fill` loads the shop and warehouse that tests copy."""
    return Archive(Path(os.environ[RUN_FOLDER]) / f"archive made by {fill.__name__}")


def copy_with_archive(copy_of: Callable[[Fill], Pipeline], fill: Fill, archive: Archive) -> Pipeline:
    """Copy a shop and warehouse as `fill` leaves them, and what it archives to `archive`."""
    made = copy_of(fill)
    shutil.copytree(str(archive_made_by(fill).root), str(archive.root))
    return made


def load(
    pipeline: Pipeline,
    archive: Archive,
    source: Source | None = None,
    *,
    adds: bool = True,
    archives: bool = True,
    is_near: bool = True,
    limits: ReadLimits = DEFAULT_LIMITS,
    progress: Callable[[str], None] = lambda _: None,
    prepare: Callable[[Run], object] = lambda _: None,
) -> int:
    """Run the engine once as the flow does, archive included, after `prepare`; returns the run's id."""
    # Rows of transactions that a snapshot may not have seen are captured again.
    pipeline.await_open_transactions()
    with (
        start_run(pipeline.warehouse_url, flow="ingest-shop", archive=archives) as run,
        batch_files(run, lambda: archive, lambda _: None, is_near=is_near) as files,
    ):
        prepare(run)
        staged = stage(
            run,
            source or pipeline.source,
            pipeline.shop_url,
            threshold=DeleteThreshold(is_confirmed=True),
            limits=limits,
            on_staged=files.add if files else lambda *_: None,
        )
        written = files.begin_publish(staged) if files else dict
        publish(run, staged, written=written, progress=progress)
    if adds:
        flush(pipeline.warehouse_url, archive)
    return run.run_id


def archived(archive: Archive, path: str) -> list[Values]:
    """All rows of a table of the archive, in the order of their batches."""
    table = archive.open(path)
    if table is None:
        return []
    rows: list[Values] = table.to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["_batch_id"])


def state(archive: Archive, path: str, *key: str) -> Mapping[Row, Values]:
    """The last values of each row by its key, as `docs/lake.md` says: with `_is_deleted`, and without removed rows."""
    rows: dict[Row, Values] = {}
    by_batch = sorted(
        archived(archive, path), key=lambda row: (row["_batch_id"], row["_operation"] != "truncate")
    )
    for row in by_batch:
        identity = tuple(row[name] for name in key)
        match row["_operation"]:
            case "truncate":
                rows.clear()
            case "remove":
                rows.pop(identity, None)
            case "delete":
                rows[identity] = {**rows[identity], "_is_deleted": True}
            case operation:
                rows[identity] = {**row, "_is_deleted": operation == "write_deleted"}
    return rows


def archived_mirror(
    archive: Archive, connection: psycopg.Connection, path: str, key: Sequence[str]
) -> set[Row]:
    """What a mirror is by its archive: every column as PostgreSQL's text, and whether the row is deleted."""
    table = archive.open(path)
    assert table is not None
    fields = fields_of(table)
    latest = {field["metadata"]["dwh.column"]: name for name, field in fields.items() if field["metadata"]}
    types = {
        field["metadata"]["dwh.column"]: field["metadata"]["dwh.type"]
        for field in fields.values()
        if field["metadata"]
    }
    rows = set()
    for row in state(archive, path, *(latest[name] for name in key)).values():
        rescued = json.loads(row["_rescued_data"] or "{}")
        texts = []
        for column, name in latest.items():
            cast = sql.SQL("select %s::{}::text").format(sql.SQL(types[column]))
            texts += connection.execute(cast, [rescued.get(column, row[name])]).fetchone() or ()
        rows.add((*texts, row["_is_deleted"]))
    return rows


def mirror(connection: psycopg.Connection, name: str) -> set[Row]:
    """The rows of a mirror in the same form."""
    columns = columns_of(connection, "raw", name)
    query = sql.SQL("select {}, _is_deleted from {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns),
        sql.Identifier("raw", name),
    )
    return set(connection.execute(query).fetchall())
