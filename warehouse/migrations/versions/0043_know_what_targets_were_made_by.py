"""Know what each target was made by."""

from warehouse.migrations.sql import execute

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        create table audit.definition (
            source text not null,
            table_name text not null,
            part text not null,
            hash text not null,
            defined_at timestamptz not null default clock_timestamp(),
            run_id bigint not null,
            constraint pk_definition primary key (source, table_name, part)
        )
        """
    )
    execute("alter table audit.load add column reconform_reason text")


def downgrade() -> None:
    execute("alter table audit.load drop column reconform_reason")
    execute("drop table audit.definition")
