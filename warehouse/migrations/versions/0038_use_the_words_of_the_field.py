"""Tables, columns and functions named in the field's words; views and functions become repeatable migrations."""

from warehouse.migrations.sql import execute

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

TABLES = {
    "audit.layout": "row_schema",
    "audit.proof": "verification",
    "staging.source_digest": "source_checksum",
    "staging.weblog_gone": "weblog_deleted",
}
COLUMNS = {
    ("audit.run", "advice"): "hint",
    ("audit.load", "rows_closed"): "rows_expired",
    ("audit.watermark", "was_quiet"): "no_open_transactions",
    ("audit.row_schema", "layout_id"): "row_schema_id",
    ("audit.change", "layout_id"): "row_schema_id",
    ("audit.before_image", "layout_id"): "row_schema_id",
    ("audit.before_image", "kept_at"): "changed_at",
    ("audit.verification", "proof_id"): "verification_id",
    ("audit.verification", "proved_at"): "verified_at",
    ("audit.file", "open_line_offset"): "unterminated_line_offset",
    ("audit.file", "lines_elsewhere"): "lines_duplicated",
    ("audit.outbox", "seen_count"): "occurrence_count",
    ("audit.outbox", "seen_at"): "last_occurred_at",
    ("dwh.dim_company", "closed_by_run_id"): "expired_by_run_id",
    ("dwh.dim_customer", "closed_by_run_id"): "expired_by_run_id",
    ("dwh.dim_product", "closed_by_run_id"): "expired_by_run_id",
}
# Of tables whose rows are logged: the log has them by the names of their columns.
LOGGED_COLUMNS = ("was_quiet", "open_line_offset", "lines_elsewhere", "closed_by_run_id")
CONSTRAINTS = {
    ("audit.row_schema", "pk_layout"): "pk_row_schema",
    ("audit.row_schema", "ex_layout_columns"): "ex_row_schema_columns",
    ("audit.verification", "pk_proof"): "pk_verification",
    ("audit.verification", "fk_proof_run_id"): "fk_verification_run_id",
    ("audit.verification", "ck_proof_layer"): "ck_verification_layer",
    ("audit.verification", "ck_proof_verdict"): "ck_verification_verdict",
    ("staging.source_checksum", "pk_source_digest"): "pk_source_checksum",
}
INDEXES = {
    "audit.ix_proof_run_id": "ix_verification_run_id",
    "dwh.ix_dim_company_closed_by_run_id": "ix_dim_company_expired_by_run_id",
    "dwh.ix_dim_customer_closed_by_run_id": "ix_dim_customer_expired_by_run_id",
    "dwh.ix_dim_product_closed_by_run_id": "ix_dim_product_expired_by_run_id",
}
SEQUENCES = {
    "audit.layout_layout_id_seq": "row_schema_row_schema_id_seq",
    "audit.proof_proof_id_seq": "verification_verification_id_seq",
}
FUNCTIONS = {
    "keep_change": "log_change",
    "keep_before_image": "log_before_image",
    "row_layout": "row_schema_id",
    "row_image": "row_values",
    "each_key": "format_key_columns",
}
TRIGGERS = {"tell_update": "log_update", "tell_delete": "log_delete", "tell_truncate": "log_truncate"}
VERDICTS = ("equal", "different", "repaired", "behind")
KINDS = (
    "failed",
    "crashed",
    "late",
    "gate stopped",
    "brake pulled",
    "differences found",
    "quarantine",
    "recovered",
)
# (table, column, constraint, values that it allowed, one of them, its new name)
VALUES = (
    ("audit.verification", "verdict", "ck_verification_verdict", VERDICTS, "behind", "stale"),
    ("audit.outbox", "kind", "ck_outbox_kind", KINDS, "brake pulled", "delete threshold exceeded"),
)
PROBLEMS = {"unmendable": "unrepairable", "doubled": "duplicated"}


def upgrade() -> None:
    for table, new in TABLES.items():
        execute(f"alter table {table} rename to {new}")
    for (table, column), new in COLUMNS.items():
        execute(f"alter table {table} rename column {column} to {new}")
    for (table, constraint), new in CONSTRAINTS.items():
        execute(f"alter table {table} rename constraint {constraint} to {new}")
    for index, new in INDEXES.items():
        execute(f"alter index {index} rename to {new}")
    for sequence, new in SEQUENCES.items():
        execute(f"alter sequence {sequence} rename to {new}")
    # A downgrade has dropped functions and triggers.
    for old, new in FUNCTIONS.items():
        _for_each(
            f"select oid::regprocedure from pg_proc where pronamespace = 'audit'::regnamespace and proname = '{old}'",
            f"alter function %s rename to {new}",
        )
    for old, new in TRIGGERS.items():
        _for_each(
            f"select tgrelid::regclass from pg_trigger where tgname = '{old}'",
            f"alter trigger {old} on %s rename to {new}",
        )
    for column in LOGGED_COLUMNS:
        new = next(name for (_, old), name in COLUMNS.items() if old == column)
        execute(f"update audit.row_schema set columns = array_replace(columns, '{column}', '{new}')")
    for table, column, constraint, values, old, new in VALUES:
        _replace_value(table, column, constraint, values, old, new)
    for old, new in PROBLEMS.items():
        execute(f"update audit.difference set problem = '{new}' where problem = '{old}'")
    execute(
        """
        create table audit.schema_object (
            object_name text constraint pk_schema_object primary key,
            kind text not null,
            applied_at timestamptz not null default clock_timestamp()
        );
        insert into audit.schema_object (object_name, kind)
        select 'mart.' || relname, case relkind when 'v' then 'view' else 'materialized view' end
        from pg_class where relnamespace = 'mart'::regnamespace and relkind in ('v', 'm')
        union all
        select 'audit.' || relname, 'view' from pg_class where relnamespace = 'audit'::regnamespace and relkind = 'v'
        union all
        select 'audit.' || proname || '()', 'function' from pg_proc where pronamespace = 'audit'::regnamespace
        """
    )


def downgrade() -> None:
    execute("drop table audit.schema_object")
    for old, new in PROBLEMS.items():
        execute(f"update audit.difference set problem = '{old}' where problem = '{new}'")
    for table, column, constraint, values, old, new in VALUES:
        now = tuple(new if value == old else value for value in values)
        _replace_value(table, column, constraint, now, new, old)
    for column in LOGGED_COLUMNS:
        new = next(name for (_, old), name in COLUMNS.items() if old == column)
        execute(f"update audit.row_schema set columns = array_replace(columns, '{new}', '{column}')")
    for sequence, new in SEQUENCES.items():
        execute(f"alter sequence audit.{new} rename to {sequence.removeprefix('audit.')}")
    for index, new in INDEXES.items():
        schema, _, old = index.partition(".")
        execute(f"alter index {schema}.{new} rename to {old}")
    for (table, constraint), new in CONSTRAINTS.items():
        execute(f"alter table {table} rename constraint {new} to {constraint}")
    for (table, column), new in COLUMNS.items():
        execute(f"alter table {table} rename column {new} to {column}")
    for table, new in TABLES.items():
        schema, _, old = table.partition(".")
        execute(f"alter table {schema}.{new} rename to {old}")


def _for_each(query: str, statement: str) -> None:
    execute(
        f"""
        do $$ declare object text; begin
            for object in {query} loop execute format('{statement}', object); end loop;
        end $$
        """
    )


def _replace_value(
    table: str, column: str, constraint: str, values: tuple[str, ...], old: str, new: str
) -> None:
    allowed = ", ".join(f"'{new if value == old else value}'" for value in values)
    execute(f"alter table {table} drop constraint {constraint}")
    execute(f"update {table} set {column} = '{new}' where {column} = '{old}'")
    execute(f"alter table {table} add constraint {constraint} check ({column} in ({allowed}))")
