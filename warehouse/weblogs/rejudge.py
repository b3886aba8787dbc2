"""Find quarantined lines that can be read now, before the files with these lines are loaded again.

Loading a file again replaces its rows, which cannot be undone. So it is only done if a line passes.
"""

from collections.abc import Callable, Sequence

import psycopg

from warehouse.errors import counted
from warehouse.files import lake
from warehouse.files.lake import Checkpoint, FileTask, LakeFile, naming
from warehouse.files.locations import Location
from warehouse.files.rotation import MEMBER
from warehouse.settings import Settings
from warehouse.weblogs.files import landing
from warehouse.weblogs.files.blocks import BlockReader
from warehouse.weblogs.files.checkpoints import FEED, progress_of
from warehouse.weblogs.formats.declaration import WeblogFormats, read_formats
from warehouse.weblogs.loader import read_block
from warehouse.weblogs.maintenance.reload import restart_file
from warehouse.weblogs.reader.addresses import AddressReader


def find_readable(
    settings: Settings,
    connection: psycopg.Connection,
    quarantine_ids: Sequence[int],
    log: Callable[[str], None] = lambda _: None,
) -> tuple[list[str], int]:
    """Find lines of these entries that can be read now; returns the paths of their files, and the number of lines.

    Lines of files that are no longer in the lake cannot be read. Files with loaded lines that cannot be read any more,
    as after a format was declared, are logged.

    Raises:
        DeclarationError: the formats of the logs cannot be read as declared.
        LakeError: a file cannot be read.
    """
    formats = read_formats(settings)
    entries = connection.execute(
        """
        select
            file_id,
            array_agg(line_number) filter (where quarantine_id = any(%(ids)s) and resolved_at is null),
            array_agg(line_number)
        from audit.quarantine
        where file_id in (select file_id from audit.quarantine where quarantine_id = any(%(ids)s))
            and (resolved_at is null or resolution = 'discarded')
        group by file_id
        having bool_or(quarantine_id = any(%(ids)s) and resolved_at is null)
        order by file_id
        """,
        {"ids": list(quarantine_ids)},
    ).fetchall()
    known = {one.file_id: one for one in lake.checkpoints(connection, FEED)}
    paths, count = [], 0
    for file_id, lines, rejected in entries:
        with landing.located(settings, known[file_id].path) as location:
            if not location.is_file():
                continue
            with naming(location):
                readable, lost = _readable(
                    connection,
                    settings,
                    formats,
                    known[file_id],
                    location,
                    frozenset(lines),
                    frozenset(rejected),
                )
        if readable and lost:
            log(
                f"{known[file_id].path}: {counted(lost, 'loaded line')} cannot be read any more as its format is "
                "declared now; a replay puts such lines into quarantine"
            )
        if readable:
            paths.append(known[file_id].path)
            count += readable
    return paths, count


def _readable(
    connection: psycopg.Connection,
    settings: Settings,
    formats: WeblogFormats,
    known: Checkpoint,
    location: Location,
    lines: frozenset[int],
    rejected: frozenset[int],
) -> tuple[int, int]:
    """Count which of these lines of a file can be read now, and which others than the `rejected` ones cannot."""
    file = progress_of(
        FileTask(
            LakeFile(
                known.path,
                location,
                location.stat().st_size,
                known.modified_ns,
                is_final=MEMBER in known.path,
            ),
            "reread",
            known,
        ),
        known.file_id,
    )
    restart_file(connection, file)
    parser = formats.of(known.path).parser()
    parser.resume(location, file.byte_offset)
    addresses, readable, lost = AddressReader(), 0, 0
    for block in BlockReader(limits=landing.limits(settings)).blocks(file.file, file.byte_offset):
        read = read_block(file, parser, block, addresses)
        first = file.line_count + 1
        unreadable = {first + one.line for one in read.rejected}
        readable += len(lines.intersection(range(first, first + len(read.lines))) - unreadable)
        lost += sum(line <= known.line_count for line in unreadable - rejected)
        file.advance(block, len(read.lines), len(read.rejected), read.discarded)
    return readable, lost
