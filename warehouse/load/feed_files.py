"""Record a feed's files in the audit trail: how far each was read, its unreadable records, and the fields seen."""

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from warehouse.db.identifiers import same_key
from warehouse.feeds.bad_records import bad_table
from warehouse.feeds.staged import FieldSeen, FileProgress, StagedFeed
from warehouse.sources.feed import FILE, FILE_ID, LINE, RECORDED_AT

CUT_OFF = "record is cut off"


def write_files(connection: psycopg.Connection, run_id: int, staged: StagedFeed) -> None:
    """Record how far a feed's files were read, unreadable records and fields, in the publishing transaction."""
    # Without a pipeline, many small files would each take several round trips.
    with connection.pipeline():
        for file in staged.files:
            match file.found.state:
                case "touched":
                    _update(connection, file, run_id)
                case "renamed":
                    before = file.found.known
                    assert before is not None
                    _update(connection, file, run_id, message=f"it was {before.path} before")
                case "copy":
                    _record_copy(connection, file, run_id, staged)
                case _:
                    _record_read(connection, file, run_id)
    connection.execute(
        sql.SQL(
            """
            insert into audit.quarantine (
                run_id, source, entity, rules, reason, file_id, line_number, byte_offset, raw_text
            )
            select {run_id}, {source}, {entity}, array[rule], reason, file_id, line_number, byte_offset, raw_text
            from {bad} order by file_id, line_number
            """
        ).format(
            run_id=sql.Literal(run_id),
            source=sql.Literal(staged.source.name),
            entity=sql.Literal(staged.source.record.mirror),
            bad=bad_table(staged.source),
        )
    )
    _record_fields(connection, run_id, staged)


def keep_decisions(connection: psycopg.Connection, run_id: int, staged: StagedFeed) -> None:
    """Resolve new entries of records that were decided on when an earlier, shorter version of the file was read.

    Discarded records stay discarded. Records that were corrected and replayed are superseded: their corrected version
    is in the mirror or in quarantine.
    """
    for file in staged.files:
        if file.found.begins_as in (None, file.file_id):
            continue
        connection.execute(
            """
            with decided as (
                select distinct on (line_number) line_number, raw_text, row_data, resolution, note
                from audit.quarantine
                where file_id = %(known)s and resolved_run_id <> %(run_id)s
                order by line_number, quarantine_id desc
            ),

            kept as (
                update audit.quarantine as entry
                set resolved_at = clock_timestamp(), resolved_run_id = %(run_id)s, note = decided.note,
                    resolution = case decided.resolution when 'discarded' then 'discarded' else 'superseded' end
                from decided
                where entry.file_id = %(file_id)s and entry.run_id = %(run_id)s and entry.resolved_at is null
                    and entry.line_number = decided.line_number
                    and (entry.raw_text, entry.row_data) is not distinct from (decided.raw_text, decided.row_data)
                returning entry.file_id, (entry.resolution = 'discarded')::integer as is_discarded
            )

            insert into pg_temp.file_change (file_id, rows_quarantined, rows_discarded, rows_superseded)
            select file_id, -1, is_discarded, 1 - is_discarded from kept
            """,
            {"known": file.found.begins_as, "file_id": file.file_id, "run_id": run_id},
        )


def record_loaded(
    connection: psycopg.Connection, run_id: int, staged: StagedFeed, keys: sql.Identifier | None
) -> None:
    """Record in audit.file_read which lines of which files the run has loaded: its own rows in the mirror.

    `keys` is a table of the keys of the run's records; None if the run has written all rows of the mirror.
    """
    record = staged.source.record
    connection.execute(
        sql.SQL(
            """
            insert into audit.file_read
                (run_id, file_id, path, written_at, is_replay, record_lines, columns, evolved_columns)
            select
                {run_id}, mirror.{file_id}, min(mirror.{path}), min(mirror.{written_at}), {is_replay},
                range_agg(int8range(mirror.{line}, mirror.{line}, '[]')), {columns}, {added}
            from {mirror} as mirror {keys}
            where mirror._run_id = {run_id} and not mirror._is_deleted
            group by mirror.{file_id}
            on conflict (run_id, file_id) do nothing
            """
        ).format(
            run_id=sql.Literal(run_id),
            file_id=sql.Identifier(FILE_ID),
            path=sql.Identifier(FILE),
            written_at=sql.Identifier(RECORDED_AT),
            line=sql.Identifier(LINE),
            is_replay=sql.Literal(staged.is_replay),
            columns=sql.Literal(Json({name: dict(kinds) for name, kinds in staged.columns.items()})),
            added=sql.Literal(
                Json({name: dict(kinds) for name, kinds in staged.evolved_columns.items()})
                if staged.evolved_columns
                else None
            ),
            mirror=sql.Identifier("raw", record.mirror),
            keys=sql.SQL("")
            if keys is None
            else sql.SQL("inner join {} as record on {}").format(
                keys, same_key(record.key, "mirror", "record")
            ),
        )
    )


def _record_read(connection: psycopg.Connection, file: FileProgress, run_id: int) -> None:
    before = file.found.known
    if file.found.state == "grown" and before is not None and before.unterminated_line_offset is not None:
        # The record at the end of the file was cut off; it is complete now, so its old entry is no longer counted.
        connection.execute(
            """
            with ended as (
                update audit.quarantine
                set resolved_at = clock_timestamp(), resolved_run_id = %(run_id)s, resolution = 'replaced'
                where file_id = %(file_id)s and byte_offset = %(offset)s and rules = array[%(rule)s]
                    and resolved_at is null
                returning file_id
            )

            insert into pg_temp.file_change (file_id, line_count, rows_quarantined) select file_id, -1, -1 from ended
            """,
            {
                "run_id": run_id,
                "file_id": file.file_id,
                "offset": before.unterminated_line_offset,
                "rule": CUT_OFF,
            },
        )
    if file.found.begins_as not in (None, file.file_id):
        # The file was read again and begins with its earlier content: entries of unreadable records are superseded.
        connection.execute(
            """
            with read_again as (
                update audit.quarantine
                set resolved_at = clock_timestamp(), resolved_run_id = %s, resolution = 'superseded'
                where file_id = %s and row_key is null and resolved_at is null returning file_id
            )

            insert into pg_temp.file_change (file_id, rows_quarantined, rows_superseded)
            select file_id, -1, 1 from read_again
            """,
            [run_id, file.found.begins_as],
        )
    _update(connection, file, run_id, message=file.fault)
    connection.execute(
        "update audit.file set status = %s, byte_offset = %s, unterminated_line_offset = %s, format = %s "
        "where file_id = %s",
        [
            "truncated" if file.fault else "loaded",
            file.byte_offset,
            file.cut_off_at,
            file.format,
            file.file_id,
        ],
    )


def _record_copy(connection: psycopg.Connection, file: FileProgress, run_id: int, staged: StagedFeed) -> None:
    original = file.found.known
    assert original is not None
    same = [
        one.records
        for one in staged.files
        if one.found.is_read and one.found.content_hash == file.found.content_hash
    ]
    _update(
        connection, file, run_id, message=f"its content is that of {original.path}, and is not loaded again"
    )
    records = same[0] if same else original.line_count - original.lines_duplicated
    connection.execute(
        "update audit.file set status = 'copy', line_count = %s, lines_duplicated = %s where file_id = %s",
        [records, records, file.file_id],
    )


def _update(
    connection: psycopg.Connection, file: FileProgress, run_id: int, *, message: str | None = None
) -> None:
    found = file.found
    connection.execute(
        """
        update audit.file set
            path = %s, size_bytes = %s, modified_ns = %s, inode = %s, content_hash = %s, run_id = %s,
            -- a message with a hint was about an error in reading the file, which is over
            message = coalesce(%s, case when hint is null then message end), hint = null,
            loaded_at = clock_timestamp()
        where file_id = %s
        """,
        [
            found.file.path, found.file.size_bytes, found.file.modified_ns, found.file.inode, found.content_hash,
            run_id, message, file.file_id,
        ],
    )  # fmt: skip


def _record_fields(connection: psycopg.Connection, run_id: int, staged: StagedFeed) -> None:
    read = [file.file_id for file in staged.files if file.found.is_read]

    def row(one: FieldSeen) -> list[object]:
        return [
            staged.source.name, one.table_name, one.name, one.type, one.is_declared, one.records, read[0], read[-1],
            run_id,
        ]  # fmt: skip

    if not read:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into audit.feed_field as known (
                source, table_name, field_name, field_type, is_declared, record_count, first_file_id, last_file_id,
                run_id
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (source, table_name, field_name, field_type) do update set
                is_declared = excluded.is_declared, record_count = known.record_count + excluded.record_count,
                last_file_id = excluded.last_file_id, last_seen_at = clock_timestamp(), run_id = excluded.run_id
            """,
            [row(one) for one in staged.fields if "\0" not in one.name],
        )
