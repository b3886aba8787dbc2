"""Let numbers of any size reach the contracts of the dimensions."""

from warehouse.migrations.sql import execute

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

BEFORE = {
    "customer": {"latitude": "numeric(9, 6)", "longitude": "numeric(9, 6)"},
    "product": {
        "price_default_amount": "numeric(18, 4)",
        "price_amount": "numeric(18, 4)",
        "rating_average": "numeric(3, 2)",
    },
    "promotion": {"discount_share": "numeric(6, 4)"},
    "distribution_center": {"latitude": "numeric(9, 6)", "longitude": "numeric(9, 6)"},
}


def upgrade() -> None:
    for entity, columns in BEFORE.items():
        _alter(entity, dict.fromkeys(columns, "numeric"))


def downgrade() -> None:
    for entity, columns in BEFORE.items():
        # Every run fills it again; what a stopped run has left there may not fit.
        execute(f"truncate staging.conformed_{entity}")
        _alter(entity, columns)


def _alter(entity: str, types: dict[str, str]) -> None:
    changes = ", ".join(f"alter column {name} type {kind}" for name, kind in types.items())
    execute(f"alter table staging.conformed_{entity} {changes}")
