"""Files of feeds: what is loaded of each, so that a file loads once and a growing one goes on."""

from warehouse.migrations.ddl import create_table, run

revision = "0010"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "audit.file",
        "One row per file of a feed: how far it is loaded; moves only in the transaction that loads its rows.",
        {
            "file_id": (
                "integer generated always as identity",
                "Id that every row loaded from the file carries",
            ),
            "feed": ("text not null", "Feed that the file belongs to, as weblogs"),
            "path": ("text not null", "Where it was seen last, relative to the feed's landing folder"),
            "head_bytes": ("integer not null", "How many of its first (decompressed) bytes are hashed"),
            "head_hash": (
                "text not null",
                "SHA-256 of these: tells a rotated or replaced file from a growing one",
            ),
            "tail_hash": (
                "text not null",
                "SHA-256 of the last bytes before byte_offset, at most as many as at the head",
            ),
            "size_bytes": ("bigint not null", "Size on disk when it was loaded last"),
            "modified_ns": (
                "bigint not null",
                "Modification time when it was loaded last, nanoseconds since 1970",
            ),
            "byte_offset": ("bigint not null", "How many of its (decompressed) bytes are loaded"),
            "line_count": (
                "bigint not null",
                "Lines read: lines_elsewhere + rows_loaded + rows_quarantined, always",
            ),
            "lines_elsewhere": (
                "bigint not null default 0",
                "Lines at its beginning that are loaded as another file's, of which it is a copy",
            ),
            "rows_loaded": ("bigint not null", "Lines that became rows"),
            "rows_quarantined": ("bigint not null", "Lines that went to audit.quarantine"),
            "open_line_offset": ("bigint", "Where the last line starts, if it had no end when it was read"),
            "status": ("text not null", "loaded, partial, truncated, copy or replaced"),
            "message": ("text", "What else there is to say, as where a compressed file breaks off"),
            "run_id": ("bigint not null", "Run that loaded from it last"),
            "first_seen_at": (
                "timestamptz not null default clock_timestamp()",
                "When it was first read (UTC)",
            ),
            "loaded_at": ("timestamptz not null default clock_timestamp()", "When it was last read (UTC)"),
        },
        [
            "constraint pk_file primary key (file_id)",
            "constraint fk_file_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_file_status check (status in ('loaded', 'partial', 'truncated', 'copy', 'replaced'))",
            "constraint ck_file_line_count check (line_count = lines_elsewhere + rows_loaded + rows_quarantined)",
        ],
    )
    run("create unique index uq_file_feed_path on audit.file (feed, path) where status <> 'replaced'")
    run("create index ix_file_head_hash on audit.file (feed, head_hash)")
    create_table(
        "audit.file_part",
        "One row per piece of a file that was loaded at once; the database lets no two pieces of a file overlap, "
        "which is what keeps a line from being loaded twice.",
        {
            "file_id": ("integer not null", "File"),
            "first_line": ("bigint not null", "Number of its first line, from 1"),
            "line_count": ("bigint not null", "Lines in it: rows_loaded + rows_quarantined"),
            "byte_offset": ("bigint not null", "(Decompressed) byte at which its first line starts, from 0"),
            "byte_count": ("bigint not null", "Its (decompressed) bytes, line ends included"),
            "rows_loaded": ("bigint not null", "Lines that became rows"),
            "rows_quarantined": ("bigint not null", "Lines that went to audit.quarantine"),
            "run_id": ("bigint not null", "Run that loaded it"),
        },
        [
            "constraint pk_file_part primary key (file_id, first_line)",
            "constraint fk_file_part_file_id foreign key (file_id) references audit.file (file_id)",
            "constraint fk_file_part_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_file_part_line_count check (line_count = rows_loaded + rows_quarantined)",
            "constraint ex_file_part_lines exclude using gist "
            "(int8range(file_id, file_id, '[]') with &&, int8range(first_line, first_line + line_count) with &&)",
            "constraint ex_file_part_bytes exclude using gist "
            "(int8range(file_id, file_id, '[]') with &&, int8range(byte_offset, byte_offset + byte_count) with &&)",
        ],
    )
    run("create index ix_file_part_run_id on audit.file_part (run_id)")
    run(
        "create index ix_quarantine_file on audit.quarantine (file_id, line_number) where file_id is not null"
    )


def downgrade() -> None:
    run("drop index audit.ix_quarantine_file")
    run("drop table audit.file_part")
    run("drop table audit.file")
