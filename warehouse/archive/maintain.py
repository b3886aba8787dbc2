"""Maintain the archive: compact small files, vacuum old versions, and remove orphaned files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from warehouse.archive.flush import LOCK, WAIT_SECONDS, flush
from warehouse.archive.parquet_files import make_durable
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, ArchiveDamaged, unreachable
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import counted
from warehouse.files.locations import files_below

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Compact a table that has more than this many files below SMALL_BYTES.
MOST_SMALL_FILES: Final = 8
SMALL_BYTES: Final = 32 * 1024 * 1024
# Keep files of old versions this long for their readers. A file that a run is writing is younger than ORPHAN_AGE.
KEEP: Final = timedelta(days=7)
ORPHAN_AGE: Final = timedelta(days=1)
# Prefix of the names of files that deltalake's compaction writes.
_COMPACTED: Final = "part-"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Maintained:
    """Result of one maintenance: rows added, tables compacted, files removed."""

    rows_added: int = 0
    tables_compacted: int = 0
    files_removed: int = 0

    def __str__(self) -> str:
        return (
            f"{counted(self.rows_added, 'row')} added, {counted(self.tables_compacted, 'table')} compacted, "
            f"{counted(self.files_removed, 'file')} removed"
        )


def maintain(warehouse_url: str, archive: Archive, progress: Progress = lambda _: None) -> Maintained:
    """Add pending batches, compact tables with many small files, and remove files that nothing refers to.

    Compaction keeps all rows: it rewrites them into fewer files in one Delta commit. If a table is damaged, the others
    are still maintained.

    Raises:
        ArchiveDamaged: a table has lost files.
        ArchiveUnreachable: it cannot be read or written.
        LockHeld: another process was adding batches for a minute.
    """
    added = flush(warehouse_url, archive, progress=progress)
    compacted = removed = 0
    damaged: list[ArchiveDamaged] = []
    with (
        connect(warehouse_url, autocommit=True, application_name="dwh archive") as connection,
        unreachable(archive),
    ):
        own = warehouse_id(connection)
        forget_unpublished(connection)
        for path in _paths(archive):
            # Release the lock after each table, so that runs can add batches in between.
            with session_lock(connection, LOCK, wait_seconds=WAIT_SECONDS):
                try:
                    with unreachable(archive, path):
                        is_compacted, gone = _maintain(connection, archive, path, own, progress)
                except ArchiveDamaged as error:
                    damaged.append(error)
                    continue
            compacted += is_compacted
            removed += gone
    if damaged:
        raise damaged[0]
    return Maintained(added, compacted, removed)


def _maintain(
    connection: psycopg.Connection, archive: Archive, path: str, own: str, progress: Progress
) -> tuple[bool, int]:
    """Maintain one table; returns whether it was compacted, and the number of files removed."""
    table = archive.open(path)
    if table is None:
        return False, 0
    sizes = table.get_add_actions(flatten=True).column("size_bytes").to_pylist()
    is_compacted = sum(size < SMALL_BYTES for size in sizes) > MOST_SMALL_FILES
    if is_compacted:
        _compact(archive, path, table)
        progress(f"{path}: {counted(len(sizes), 'file')} compacted")
    # Files that compaction has replaced: they are not in the present version, but older versions need them for KEEP.
    replaced = table.vacuum(0, dry_run=True, enforce_retention_duration=False)
    gone = len(table.vacuum(int(KEEP.total_seconds() / 3600), dry_run=False)) if replaced else 0
    gone += _remove_orphans(connection, archive, path, own, [*table.file_uris(), *replaced])
    if gone:
        progress(f"{path}: {counted(gone, 'file')} removed")
    return is_compacted, gone


def _compact(archive: Archive, path: str, table: "DeltaTable") -> None:
    """Merge a table's small files, and write a checkpoint of its log."""
    before = set(table.file_uris())
    table.optimize.compact()
    table.create_checkpoint()
    folder = archive.folder(path)
    if isinstance(folder, Path):
        # deltalake does not call fsync.
        merged = {uri.rpartition("/")[2] for uri in set(table.file_uris()) - before}
        log = folder / "_delta_log"
        for one in (
            *(folder / name for name in merged),
            *log.glob(f"{table.version():020d}.*"),
            log / "_last_checkpoint",
        ):
            make_durable(one)


def restart(warehouse_url: str) -> None:
    """Start a new archive: the next runs archive all rows of mirrors and dimensions.

    Pending batches are dropped, since those rows include theirs.
    """
    with connect(warehouse_url, application_name="dwh archive") as connection:
        connection.execute("update audit.archive set warehouse_id = gen_random_uuid()")
        connection.execute("delete from audit.archive_table")
        connection.execute("delete from audit.archive_pending")


def forget_unpublished(connection: psycopg.Connection) -> int:
    """Delete unpublished batches of runs that have ended. Returns their number."""
    return connection.execute(
        """
        delete from audit.archive_pending as pending using audit.run as run
        where pending.published_at is null and run.run_id = pending.run_id and run.status <> 'running'
        """
    ).rowcount


def _paths(archive: Archive) -> Iterator[str]:
    # The archive has two levels of folders: source and table.
    if not archive.root.exists():
        return
    for source in _folders(archive.root):
        for table in _folders(source):
            yield f"{source.name}/{table.name}"


def _folders(above: Any) -> list[Any]:
    return sorted((one for one in above.iterdir() if one.is_dir()), key=str)


def _remove_orphans(
    connection: psycopg.Connection, archive: Archive, path: str, own: str, used: Sequence[str]
) -> int:
    """Remove files over a day old, of this warehouse or a killed compaction, that are not `used` by any version, nor by
    a pending batch."""
    named = {name.rpartition("/")[2] for name in used}
    rows = connection.execute("select batch_id from audit.archive_pending where path = %s", [path]).fetchall()
    pending = tuple(f"{own}-{batch_id:012d}-" for (batch_id,) in rows)
    before = (datetime.now(UTC) - ORPHAN_AGE).timestamp() * 1e9
    removed = 0
    for found in files_below(archive.folder(path)):
        name = found.parts[-1]
        is_ours = (
            len(found.parts) == 1 and name.startswith((f"{own}-", _COMPACTED)) and name.endswith(".parquet")
        )
        if (
            is_ours
            and name not in named
            and found.modified_ns < before
            and not name.startswith(pending or ("/",))
        ):
            location = found.location
            location.unlink() if isinstance(location, Path) else location.fs.rm(location.path)
            removed += 1
    return removed
