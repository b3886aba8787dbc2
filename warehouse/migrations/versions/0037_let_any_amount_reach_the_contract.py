"""Amounts of an order line of any size, infinite ones too: the contract judges them, not the type of a column."""

from warehouse.migrations.ddl import run

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

BEFORE = {
    "quantity": "numeric(18, 3)",
    "unit_price_default_amount": "numeric(18, 4)",
    "unit_price_amount": "numeric(18, 4)",
    "discount_amount": "numeric(18, 4)",
}


def upgrade() -> None:
    _alter(dict.fromkeys(BEFORE, "numeric"))


def downgrade() -> None:
    # Each run fills it anew; what a stopped one has left there may not fit.
    run("truncate staging.conformed_order_item")
    _alter(BEFORE)


def _alter(types: dict[str, str]) -> None:
    changes = ", ".join(f"alter column {name} type {kind}" for name, kind in types.items())
    run(f"alter table staging.conformed_order_item {changes}")
