"""Mark rows of the star whose newer state is in quarantine."""

from warehouse.migrations.sql import execute

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

COLUMN = "has_quarantined_update"
LATEST_DAY = "snapshot_date = (select max(snapshot_date) from dwh.fact_inventory_day where source_system = entry.source)"
# By table: entity, natural key, and which of its rows show the present.
TABLES = {
    "dim_company": ("company", ["company_id"], "is_current and not is_inferred"),
    "dim_customer": ("customer", ["customer_id"], "is_current and not is_inferred"),
    "dim_product": ("product", ["product_id"], "is_current and not is_inferred"),
    "dim_promotion": ("promotion", ["promotion_id"], "not is_deleted and not is_inferred"),
    "dim_payment_method": ("payment_method", ["payment_method_id"], "not is_deleted and not is_inferred"),
    "dim_distribution_center": (
        "distribution_center",
        ["distribution_center_id"],
        "not is_deleted and not is_inferred",
    ),
    "fact_order_item": ("order_item", ["order_id", "line_id"], "true"),
    "fact_inventory_day": ("inventory", ["product_id", "distribution_center_id"], LATEST_DAY),
}


def upgrade() -> None:
    for table, (entity, key, is_present) in TABLES.items():
        same = " and ".join(
            f"held.{name} = entry.row_key[{place}]" for place, name in enumerate(key, start=1)
        )
        execute(f"alter table dwh.{table} add column {COLUMN} boolean not null default false")
        # No run and no person changes these rows: the change log would say that somebody did.
        execute(f"alter table dwh.{table} disable trigger user")
        execute(
            f"""
            update dwh.{table} as held set {COLUMN} = true from audit.quarantine as entry
            where entry.entity = '{entity}' and entry.resolved_at is null
                and held.source_system = entry.source and {same} and {is_present}
            """
        )
        execute(f"alter table dwh.{table} enable trigger user")
        execute(f"create index ix_{table}_{COLUMN} on dwh.{table} (source_system) where {COLUMN}")


def downgrade() -> None:
    for table in TABLES:
        execute(f"alter table dwh.{table} drop column {COLUMN}")
