"""Why the sales of a month differ between what two runs left, by cause and run."""

from pathlib import Path

from warehouse.migrations.ddl import quoted, run

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "history"
COMMENT = (
    "Why sales differ between what two runs left: per source, month, currency, cause (new order, late order, return, "
    "cancellation, correction, deletion, undone, by hand) and run, lines and amounts that add up to the difference."
)


def upgrade() -> None:
    run(
        f"""
        create function audit.sales_change(earlier_run_id bigint, later_run_id bigint)
        returns table (
            source_system text, month date, currency text, cause text, run_id bigint, flow text, line_count bigint,
            net_amount numeric, returned_net_amount numeric
        )
        language sql stable security definer set search_path = pg_catalog, pg_temp
        as {quoted((SQL / "sales_change.sql").read_text())}
        """
    )
    run(f"comment on function audit.sales_change(bigint, bigint) is {quoted(COMMENT)}")


def downgrade() -> None:
    run("drop function audit.sales_change(bigint, bigint)")
