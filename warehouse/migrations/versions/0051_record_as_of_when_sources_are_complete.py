"""Record as of when each source is complete in the warehouse."""

from warehouse.migrations.sql import execute

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table audit.freshness (
            source text not null,
            complete_at timestamptz not null,
            run_id bigint not null,
            constraint pk_freshness primary key (source),
            constraint fk_freshness_run foreign key (run_id) references audit.run (run_id)
        )
        """
    )
    # The snapshot of a table, or the start of the run that loaded a feed or refreshed the marts last: never too late.
    execute(
        """
        insert into audit.freshness (source, complete_at, run_id)
        select source, min(captured_at), max(run_id) from audit.watermark group by source
        union all
        (
            select distinct on (load.source) load.source, run.started_at, run.run_id
            from audit.load as load
            inner join audit.run as run using (run_id)
            where load.source in ('weblogs', 'mart') and run.status = 'succeeded' and run.flow <> 'undo'
            order by load.source, run.run_id desc
        )
        """
    )


def downgrade() -> None:
    execute("drop table audit.freshness")
