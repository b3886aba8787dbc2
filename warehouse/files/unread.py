"""Record unread entries of landing folders in audit.file; mart.unread_file shows them."""

from collections.abc import Iterable, Sequence

import psycopg

from warehouse.files.lake import NOT_READ, Checkpoint, UnreadFile, fingerprint

# Recorded as the size of a file that every run tries to read again.
_TRY_AGAIN = -1


def record_unread(
    connection: psycopg.Connection,
    feed: str,
    unread: Sequence[UnreadFile],
    known: Iterable[Checkpoint],
    run_id: int,
) -> None:
    """Record a feed's unread entries, and delete those that are gone or can be read again.

    `known` are the checkpoints recorded before.
    """
    paths = {one.path for one in unread}
    before = {one.path: one for one in known if one.status != "replaced"}
    over = [
        one
        for one in before.values()
        if (one.status in NOT_READ or one.hint is not None) and one.path not in paths
    ]
    changed = [
        one
        for one in unread
        # Unrecognized files were recorded when they were examined.
        if one.status != "unrecognized" and not _is_recorded(one, before.get(one.path))
    ]
    if not over and not changed:
        return
    with connection.transaction():
        # Do not mark these rows with the run, so that undoing it does not change them.
        connection.execute("select set_config('dwh.run_id', '', true)")
        file_ids = [one.file_id for one in over]
        connection.execute(
            "delete from audit.file where file_id = any(%s) and status = any(%s)", [file_ids, list(NOT_READ)]
        )
        # Files with loaded lines keep their row. One that was read meanwhile has no hint any more.
        connection.execute(
            "update audit.file set message = null, hint = null where file_id = any(%s) and hint is not null",
            [file_ids],
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into audit.file (
                    feed, path, head_bytes, head_hash, tail_hash, size_bytes, modified_ns, byte_offset, line_count,
                    rows_loaded, rows_quarantined, status, message, hint, run_id
                )
                values (
                    %(feed)s, %(path)s, 0, %(nothing)s, %(nothing)s, %(size_bytes)s, %(modified_ns)s, 0, 0, 0, 0,
                    %(status)s, %(reason)s, %(hint)s, %(run_id)s
                )
                on conflict (feed, path) where status <> 'replaced' do update set
                    run_id = case
                        when (file.status, file.message) is distinct from (excluded.status, excluded.message)
                            then excluded.run_id
                        else file.run_id
                    end,
                    status = excluded.status, message = excluded.message, hint = excluded.hint,
                    size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns,
                    loaded_at = clock_timestamp()
                where file.line_count = 0 and file.content_hash is null
                """,
                [
                    {**vars(one), **_stamp(one), "feed": feed, "nothing": fingerprint(b""), "run_id": run_id}
                    for one in changed
                ],
            )
            # A file that could be read before keeps its counts and its offset.
            cursor.executemany(
                """
                update audit.file set message = %(reason)s, hint = %(hint)s
                where feed = %(feed)s and path = %(path)s and status <> 'replaced'
                    and (line_count > 0 or content_hash is not null)
                """,
                [{**vars(one), "feed": feed} for one in changed],
            )


def _is_recorded(unread: UnreadFile, known: Checkpoint | None) -> bool:
    if known is None or (known.message, known.hint) != (unread.reason, unread.hint):
        return False
    return (
        known.line_count > 0
        or known.content_hash is not None
        or ((known.status, known.size_bytes, known.modified_ns) == (unread.status, *_stamp(unread).values()))
    )


def _stamp(unread: UnreadFile) -> dict[str, int]:
    size_bytes, modified_ns = unread.stamp or (_TRY_AGAIN, 0)
    return {"size_bytes": size_bytes, "modified_ns": modified_ns}
