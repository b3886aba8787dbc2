"""Know the batches of a run of live, and which process is at it."""

from warehouse.migrations.sql import execute

revision = "0062"
down_revision = "0061"
branch_labels = None
depends_on = None

# What a source loads has this column; a default without a volatile function rewrites no table where it is set afterwards.
TARGETS = """
    select format('%I.%I', namespace.nspname, relation.relname)
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    where namespace.nspname = 'dwh' and relation.relkind = 'r' and not relation.relispartition and exists (
        select from pg_attribute where attrelid = relation.oid and attname = 'has_quarantined_update' and not attisdropped
    )
    """
FOR_TARGETS = """
    do $do$
    declare
        target text;
    begin
        for target in {targets} loop
            execute replace($statement$ {statement} $statement$, 'TARGET', target);
        end loop;
    end
    $do$
    """
BATCH_ID = "nullif(current_setting('dwh.batch_id', true), '')::bigint"


def upgrade() -> None:
    execute(
        """
        create table audit.batch (
            batch_id bigint generated always as identity constraint pk_batch primary key,
            run_id bigint not null constraint fk_batch_run_id references audit.run (run_id),
            source text not null,
            batch_number integer not null,
            load_id bigint not null,
            published_at timestamptz not null default clock_timestamp(),
            rows_read bigint not null default 0,
            rows_changed bigint not null default 0,
            constraint uq_batch_number unique (run_id, batch_number)
        )
        """
    )
    execute("create index ix_batch_load_id on audit.batch (load_id)")
    execute("create index ix_batch_published_at on audit.batch (published_at)")
    execute(
        """
        create table audit.live (
            source text constraint pk_live primary key,
            host text not null,
            pid integer not null,
            started_at timestamptz not null default clock_timestamp(),
            stopped_at timestamptz,
            asked_at timestamptz,
            run_id bigint,
            state text not null default 'running' constraint ck_live_state check (state in ('running', 'waiting')),
            reason text,
            since timestamptz not null default clock_timestamp(),
            held_by_run_id bigint,
            held_at timestamptz
        )
        """
    )
    execute(
        f"alter table audit.change add column batch_id bigint, alter column batch_id set default {BATCH_ID}"
    )
    execute("create index ix_change_batch_id on audit.change (batch_id) where batch_id is not null")
    for statement in (
        "alter table TARGET add column batch_id bigint",
        f"alter table TARGET alter column batch_id set default {BATCH_ID}",
    ):
        execute(FOR_TARGETS.format(targets=TARGETS, statement=statement))
    # Who reads what live has inserted since.
    for fact in ("fact_order_item", "fact_lead"):
        execute(f"create index ix_{fact}_batch_id on dwh.{fact} (batch_id) where batch_id is not null")


def downgrade() -> None:
    execute(FOR_TARGETS.format(targets=TARGETS, statement="alter table TARGET drop column batch_id cascade"))
    execute("alter table audit.change drop column batch_id cascade")
    execute("drop table audit.live")
    execute("drop table audit.batch")
