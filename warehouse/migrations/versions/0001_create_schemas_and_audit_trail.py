"""Schemas, and the audit trail that every later table refers to by run id."""

from warehouse.migrations.ddl import create_table, run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMAS = {
    "staging": "Batches on their way in: unlogged, rewritten by every run, never read by people.",
    "raw": "Mirrors: the current state of each source table, one to one.",
    "dwh": "The star schema: dimensions with history, and facts.",
    "mart": "What BI tools and people read.",
    "audit": "What every run did: loads, watermarks, files, quarantine, checks and proofs.",
}


def upgrade() -> None:
    for schema, comment in SCHEMAS.items():
        run(f"create schema {schema}")
        run(f"comment on schema {schema} is '{comment}'")
    create_table(
        "audit.run",
        "One row per run of a flow; a run that is alive holds an advisory lock on its id.",
        {
            "run_id": ("bigint generated always as identity", "Id that every row loaded by the run carries"),
            "flow": ("text not null", "Flow that ran, as ingest-shop"),
            "deployment": ("text", "Deployment that started it, if one did"),
            "prefect_run_id": ("uuid", "Flow run in Prefect, if there is one"),
            "launched_by": ("text not null", "User or service that started it"),
            "code_version": ("text not null", "Commit of the code that ran"),
            "parameters": ("jsonb not null default '{}'", "Parameters of the run; never a secret"),
            "host": ("text not null", "Machine that ran it"),
            "pid": ("integer not null", "Process on that machine"),
            "started_at": ("timestamptz not null default clock_timestamp()", "When it started (UTC)"),
            "ended_at": ("timestamptz", "When it ended (UTC); empty while it runs"),
            "status": (
                "text not null",
                "running, succeeded, failed, stopped (by a gate or brake) or crashed",
            ),
            "error": ("text", "What went wrong, in a sentence"),
            "advice": ("text", "What to do about it"),
        },
        [
            "constraint pk_run primary key (run_id)",
            "constraint ck_run_status check (status in ('running', 'succeeded', 'failed', 'stopped', 'crashed'))",
        ],
    )
    run("create index ix_run_started_at on audit.run (started_at)")
    run("create index ix_run_running on audit.run (run_id) where status = 'running'")
    create_table(
        "audit.load",
        "One row per run and target table: what the run did to it, committed together with the rows.",
        {
            "load_id": ("bigint generated always as identity", "Id of the load"),
            "run_id": ("bigint not null", "Run that loaded"),
            "source": ("text not null", "Source system or feed"),
            "table_name": ("text not null", "Table that was loaded, with its schema"),
            "window_low": ("text", "Lower edge of what was read: cursor value or file position"),
            "window_high": ("text", "Upper edge of what was read"),
            "rows_read": ("bigint not null", "Rows that came in"),
            "rows_inserted": ("bigint not null", "Rows added, new versions included"),
            "rows_updated": ("bigint not null", "Rows changed in place"),
            "rows_closed": ("bigint not null", "Versions that were ended"),
            "rows_deleted": ("bigint not null", "Rows that vanished from the source"),
            "rows_unchanged": ("bigint not null", "Rows read again that had not changed"),
            "rows_quarantined": ("bigint not null", "Rows that broke a rule and wait in audit.quarantine"),
            "rows_cursor_missed": (
                "bigint not null",
                "Changed rows that a plain updated_at cursor would have lost",
            ),
            "seconds": ("double precision not null", "Time taken, in seconds"),
            "loaded_at": ("timestamptz not null default clock_timestamp()", "When it was loaded (UTC)"),
        },
        [
            "constraint pk_load primary key (load_id)",
            "constraint fk_load_run_id foreign key (run_id) references audit.run (run_id)",
        ],
    )
    run("create index ix_load_table_name_loaded_at on audit.load (table_name, loaded_at)")
    run("create index ix_load_run_id on audit.load (run_id)")
    create_table(
        "audit.watermark",
        "How far each source table is captured; moves only in the transaction that publishes the rows.",
        {
            "source": ("text not null", "Source system"),
            "table_name": ("text not null", "Table in the source"),
            "cursor_value": (
                "text",
                "Highest cursor seen, as exact database text; empty where there is no cursor",
            ),
            "snapshot_xmin": (
                "bigint not null",
                "Oldest transaction still open at the last snapshot: the xid net",
            ),
            "system_identifier": ("text", "Identity of the source's cluster"),
            "timeline": ("integer", "Timeline of the source's cluster"),
            "captured_at": ("timestamptz not null", "Source's clock at the last snapshot (UTC)"),
            "run_id": ("bigint not null", "Run that moved it last"),
        },
        [
            "constraint pk_watermark primary key (source, table_name)",
            "constraint fk_watermark_run_id foreign key (run_id) references audit.run (run_id)",
        ],
    )
    create_table(
        "audit.quarantine",
        "Rows and lines that broke a rule, whole, with rule and reason; they are judged again until they pass.",
        {
            "quarantine_id": ("bigint generated always as identity", "Id of the entry"),
            "run_id": ("bigint not null", "Run that put it here"),
            "source": ("text not null", "Source system or feed"),
            "entity": ("text not null", "What it would have become, as order_item or weblog"),
            "row_key": ("text[]", "Natural key of the row, where it has one"),
            "rules": ("text[] not null", "Names of the rules that it broke"),
            "reason": ("text not null", "The same in words"),
            "row_data": ("jsonb", "The row, whole"),
            "file_id": ("integer", "File that it came from, for file feeds"),
            "line_number": ("bigint", "Line in that file, from 1"),
            "byte_offset": ("bigint", "Byte in that (decompressed) file at which the line starts, from 0"),
            "raw_text": ("text", "The line as it stood; bytes that are no text are escaped"),
            "quarantined_at": (
                "timestamptz not null default clock_timestamp()",
                "When it was put here (UTC)",
            ),
            "resolved_at": ("timestamptz", "When it passed or vanished (UTC); empty while it waits"),
            "resolved_run_id": ("bigint", "Run that resolved it"),
            "resolution": ("text", "released (it passes now), replaced (by a newer bad version) or deleted"),
        },
        [
            "constraint pk_quarantine primary key (quarantine_id)",
            "constraint fk_quarantine_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_quarantine_resolution check (resolution in ('released', 'replaced', 'deleted'))",
        ],
    )
    run(
        "create index ix_quarantine_open on audit.quarantine (source, entity) "
        "where resolved_at is null and row_key is not null"
    )
    run("create index ix_quarantine_run_id on audit.quarantine (run_id)")
    create_table(
        "audit.check_result",
        "One row per run, dataset and check of its contract; kept also when the check stopped the run.",
        {
            "check_result_id": ("bigint generated always as identity", "Id of the result"),
            "run_id": ("bigint not null", "Run that was checked"),
            "source": ("text not null", "Source system or feed"),
            "dataset": ("text not null", "Table or batch that was checked"),
            "check_name": ("text not null", "Name of the check in the contract"),
            "check_type": ("text not null", "Kind of check, as missing, failed_rows or duplicate"),
            "column_name": ("text", "Column, for checks of one column"),
            "level": ("text not null", "quarantine (moves rows), fail (stops the run) or warn"),
            "outcome": ("text not null", "passed, failed, warned, not_evaluated or not_applicable"),
            "measured": ("numeric", "What was measured, mostly the number of failing rows"),
            "threshold": ("text", "What was demanded"),
            "rows_checked": ("bigint", "Rows in the batch"),
            "message": ("text", "What else there is to say"),
            "checked_at": ("timestamptz not null default clock_timestamp()", "When it was checked (UTC)"),
        },
        [
            "constraint pk_check_result primary key (check_result_id)",
            "constraint fk_check_result_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_check_result_outcome check "
            "(outcome in ('passed', 'failed', 'warned', 'not_evaluated', 'not_applicable'))",
        ],
    )
    run("create index ix_check_result_run_id on audit.check_result (run_id)")
    create_table(
        "audit.proof",
        "One row per run and captured table: are source and mirror the same, by chunked row hashes?",
        {
            "proof_id": ("bigint generated always as identity", "Id of the proof"),
            "run_id": ("bigint not null", "Run that was proved"),
            "source": ("text not null", "Source system"),
            "table_name": ("text not null", "Table in the source"),
            "rows_source": ("bigint not null", "Rows in the source at the run's snapshot"),
            "rows_mirror": ("bigint not null", "Rows in the mirror after the run"),
            "chunks": ("integer not null", "Chunks that were compared"),
            "chunks_differing": ("integer not null", "Chunks in which they differ"),
            "verdict": ("text not null", "equal or different"),
            "seconds": ("double precision not null", "Time taken, both sides, in seconds"),
            "proved_at": ("timestamptz not null default clock_timestamp()", "When it was proved (UTC)"),
        },
        [
            "constraint pk_proof primary key (proof_id)",
            "constraint fk_proof_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_proof_verdict check (verdict in ('equal', 'different'))",
        ],
    )
    run("create index ix_proof_run_id on audit.proof (run_id)")


def downgrade() -> None:
    # Mirrors are made by the engine, so the schemas are dropped with whatever it put there.
    for schema in reversed(SCHEMAS):
        run(f"drop schema {schema} cascade")
