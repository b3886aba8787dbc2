"""Find quarantined lines that can be read now, before the files with these lines are loaded again.

Loading a file again replaces its rows, which cannot be undone. So it is only done if a line passes.
"""

from collections.abc import Sequence

import psycopg

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
    settings: Settings, connection: psycopg.Connection, quarantine_ids: Sequence[int]
) -> tuple[list[str], int]:
    """Find lines of these entries that can be read now; returns the paths of their files, and the number of lines.

    Lines of files that are no longer in the lake cannot be read.

    Raises:
        DeclarationError: the formats of the logs cannot be read as declared.
        LakeError: a file cannot be read.
    """
    formats = read_formats(settings)
    entries = connection.execute(
        """
        select file_id, array_agg(line_number) from audit.quarantine
        where quarantine_id = any(%s) and resolved_at is null group by file_id order by file_id
        """,
        [list(quarantine_ids)],
    ).fetchall()
    known = {one.file_id: one for one in lake.checkpoints(connection, FEED)}
    paths, count = [], 0
    for file_id, lines in entries:
        with landing.located(settings, known[file_id].path) as location:
            if not location.is_file():
                continue
            with naming(location):
                readable = _readable(connection, settings, formats, known[file_id], location, set(lines))
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
    lines: set[int],
) -> int:
    """Count which of these lines of a file can be read now."""
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
    addresses, readable = AddressReader(), 0
    for block in BlockReader(limits=landing.limits(settings)).blocks(file.file, file.byte_offset):
        read = read_block(file, parser, block, addresses)
        first, unreadable = file.line_count + 1, {one.line for one in read.rejected}
        readable += sum(
            first <= line < first + len(read.lines) and line - first not in unreadable for line in lines
        )
        file.advance(block, len(read.lines), len(read.rejected), read.discarded)
    return readable
