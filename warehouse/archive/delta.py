"""Create Delta tables, evolve their schemas, and commit files to them exactly once."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.archive.column_types import StoredColumn
from warehouse.archive.parquet_files import ParquetFile, arrow_schema, make_durable, stats_of
from warehouse.archive.place import Archive

if TYPE_CHECKING:
    from deltalake import DeltaTable


def fields_of(table: "DeltaTable | None") -> dict[str, dict[str, Any]]:
    """Return the fields of a Delta table by name, with `type` and `metadata`; empty if there is no table."""
    if table is None:
        return {}
    return {field["name"]: field for field in json.loads(table.schema().to_json())["fields"]}


def application(warehouse_id: str) -> str:
    """Return the application id of a warehouse's transactions in the Delta log; their version is a batch id."""
    return f"dwh:{warehouse_id}"


def create_table(
    archive: Archive, path: str, key: Sequence[str], columns: Sequence[StoredColumn]
) -> "DeltaTable":
    """Create the table `path` with these columns unless it exists, and open it. Reader version 1, writer version 2."""
    from deltalake import DeltaTable, Schema

    names = {one.column: one.name for one in columns}
    return DeltaTable.create(
        archive.url(path),
        Schema.from_arrow(arrow_schema(columns)),
        mode="ignore",
        storage_options=archive.storage_options,
        configuration={"dwh.key": json.dumps([names[name] for name in key])},
        raise_if_key_not_exists=False,
    )


def follow_columns(table: "DeltaTable", columns: Sequence[StoredColumn]) -> None:
    """Add missing fields to the table, and update the PostgreSQL types in the metadata of the others."""
    from deltalake import Field
    from deltalake.schema import PrimitiveType

    fields = fields_of(table)
    missing = [one for one in columns if one.name not in fields]
    if missing:
        table.alter.add_columns(
            [Field(one.name, PrimitiveType(one.delta_type), metadata=one.metadata) for one in missing]
        )
    for one in columns:
        if one.name in fields and fields[one.name]["metadata"].get("dwh.type") != one.type:
            table.alter.set_column_metadata(one.name, one.metadata)


def add_files(
    archive: Archive,
    table: "DeltaTable",
    path: str,
    files: Mapping[ParquetFile, tuple[Sequence[int], Sequence[int]]],
    application_name: str,
    version: int,
) -> None:
    """Add files in one commit, with `version` as the application's transaction version (Delta's `txn` action).

    `files` map each file to the ids of its batches and of its runs.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.transaction import AddAction, RemoveAction

    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        AddAction(file.name, file.size, {}, now, True, stats_of(file.rows, batch_ids, run_ids))
        for file, (batch_ids, run_ids) in files.items()
    ]
    table.create_write_transaction(
        actions,
        "append",
        table.schema(),
        commit_properties=CommitProperties(app_transactions=[Transaction(application_name, version)]),
    )
    folder = archive.folder(path)
    if isinstance(folder, Path):
        table.update_incremental()
        make_durable(folder / "_delta_log" / f"{table.version():020d}.json")
