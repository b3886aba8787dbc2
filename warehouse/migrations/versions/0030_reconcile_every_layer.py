"""Proof of every layer, down to the marts: verdicts per table, and the rows that a reconcile found different."""

from pathlib import Path

from warehouse.migrations.ddl import comment_columns, create_table, create_view, run

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"

PROOF = {
    "layer": ("text not null default 'mirror'", "What was proved: mirror, star, weblog or mart"),
    "rows_differing": ("bigint not null default 0", "Rows that were not as they should be"),
    "rows_pending": (
        "bigint not null default 0",
        "Rows that the source has changed since the last run: no difference, but news",
    ),
    "rows_repaired": ("bigint not null default 0", "Rows of these that were mended"),
    "captured_at": ("timestamptz", "Source's clock at the snapshot that was compared (UTC)"),
    "amounts": ("jsonb", "Sums of money as found and as expected, by column"),
}
TABLE_COMMENT = "One row per run and table: is it what the layer below makes of it, to the row?"
COMMENTS = {
    "table_name": ("Table in the source", "Table in the source; of other layers, table with its schema"),
    "rows_source": (
        "Rows in the source at the run's snapshot",
        "Rows in the source at the run's snapshot; of other layers, rows expected",
    ),
    "rows_mirror": ("Rows in the mirror after the run", "Rows in the mirror; of other layers, rows found"),
    "verdict": (
        "equal or different",
        "equal, different, repaired, or behind (a stored mart not refreshed yet)",
    ),
}
VIEW = {
    "layer": "mirror, star, weblog or mart",
    "source": "Source system or feed",
    "table_name": "Table in the source; of other layers, table with its schema",
    "verdict": "equal, different, repaired, or behind (a stored mart not refreshed yet)",
    "rows_expected": "Rows that there should be",
    "rows_found": "Rows that there were",
    "rows_differing": "Rows that were not as they should be",
    "rows_pending": "Rows that the source has changed since the last run",
    "rows_repaired": "Rows that were mended",
    "proved_at": "When they were compared (UTC)",
    "run_id": "Run that compared them",
}


def upgrade() -> None:
    for column, (kind, _) in PROOF.items():
        run(f"alter table audit.proof add column {column} {kind}")
    comment_columns("audit.proof", {column: text for column, (_, text) in PROOF.items()})
    comment_columns("audit.proof", {column: new for column, (_, new) in COMMENTS.items()})
    run(f"comment on table audit.proof is '{TABLE_COMMENT}'")
    run("alter table audit.proof drop constraint ck_proof_verdict")
    run(
        "alter table audit.proof add constraint ck_proof_verdict "
        "check (verdict in ('equal', 'different', 'repaired', 'behind'))"
    )
    run(
        "alter table audit.proof add constraint ck_proof_layer check (layer in ('mirror', 'star', 'weblog', 'mart'))"
    )
    create_table(
        "audit.difference",
        "Rows that a reconcile found different, the first of each table: what they said, and what they ought to say.",
        {
            "difference_id": ("bigint generated always as identity", "Id of the difference"),
            "run_id": ("bigint not null", "Run that found it"),
            "layer": ("text not null", "mirror, star, weblog or mart"),
            "source": ("text not null", "Source system or feed"),
            "table_name": ("text not null", "Table, with its schema"),
            "row_key": ("jsonb not null", "Key of the row"),
            "problem": ("text not null", "missing, extra, doubled, changed or unmendable"),
            "before": (
                "jsonb",
                "What the row said, as text: of a changed one the columns that differ (may be personal data)",
            ),
            "after": ("jsonb", "What it ought to say, likewise (may be personal data)"),
            "is_repaired": ("boolean not null", "Whether the run mended it"),
            "found_at": ("timestamptz not null default clock_timestamp()", "When it was found (UTC)"),
        },
        [
            "constraint pk_difference primary key (difference_id)",
            "constraint fk_difference_run_id foreign key (run_id) references audit.run (run_id)",
        ],
    )
    run("create index ix_difference_run_id on audit.difference (run_id)")
    # Rows of customers may be among them.
    run(
        "insert into audit.personal_data (schema_name, table_name, column_name, kind) values "
        "('audit', 'difference', 'before', 'rows of any kind'), ('audit', 'difference', 'after', 'rows of any kind')"
    )
    create_table(
        "staging.source_digest",
        "What the chunks of staging.source_chunk were cut from: one row per source table.",
        {
            "source": ("text not null", "Source system"),
            "table_name": ("text not null", "Table in the source"),
            "captured_at": ("timestamptz not null", "Source's clock at the snapshot (UTC)"),
            "chunks": ("integer not null", "Number of chunks that the table is cut into"),
            "column_names": ("text[] not null", "Columns that the rows' hashes are made of"),
        },
        ["constraint pk_source_digest primary key (source, table_name)"],
        unlogged=True,
    )
    run(f"create or replace view mart.capture_proof as {(SQL / 'capture_proof.sql').read_text()}")
    create_view(
        "mart.reconciliation",
        "The last verdict on each table of every layer: is it what the layer below makes of it?",
        (SQL / "reconciliation.sql").read_text(),
        VIEW,
    )


def downgrade() -> None:
    run("drop view mart.reconciliation")
    run("drop table staging.source_digest")
    run("delete from audit.personal_data where schema_name = 'audit' and table_name = 'difference'")
    run("drop table audit.difference")
    run("delete from audit.proof where layer <> 'mirror' or verdict not in ('equal', 'different')")
    run("alter table audit.proof drop constraint ck_proof_layer")
    run("alter table audit.proof drop constraint ck_proof_verdict")
    run("alter table audit.proof add constraint ck_proof_verdict check (verdict in ('equal', 'different'))")
    for column in reversed(PROOF):
        run(f"alter table audit.proof drop column {column}")
    comment_columns("audit.proof", {column: old for column, (old, _) in COMMENTS.items()})
    run(
        "comment on table audit.proof is "
        "'One row per run and captured table: are source and mirror the same, by chunked row hashes?'"
    )
