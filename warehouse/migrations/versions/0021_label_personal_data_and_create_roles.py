"""Roles without login, personal data by its name, and marts that show it masked."""

from pathlib import Path

from alembic import op

from warehouse.migrations.ddl import create_table, create_view, quoted, run
from warehouse.migrations.rights import ensure_roles, withdraw

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"
LABEL = " (personal data)"

# (schema, table): column: kind. Mirrors of the shop are named here too, though the engine makes them later.
PERSONAL = {
    ("dwh", "dim_customer"): {
        "document_number": "document number",
        "name": "name",
        "username": "login name",
        "email": "e-mail",
        "birth_date": "birth date",
        "latitude": "address",
        "longitude": "address",
    },
    ("dwh", "dim_web_user"): {"user_name": "login name"},
    ("dwh", "fact_weblog"): {"ip_address": "IP address"},
    ("mart", "sales"): {"customer_name": "name"},
    ("mart", "weblog"): {"ip_address": "IP address", "user_name": "login name"},
    ("audit", "quarantine"): {"row_data": "rows of any kind", "raw_text": "lines of any kind"},
    ("raw", "shop_customer"): {
        "document_number": "document number",
        "name": "name",
        "username": "login name",
        "email": "e-mail",
        "birth_date": "birth date",
        "latitude": "address",
        "longitude": "address",
    },
}
MASKED = {
    "customer_masked": (
        "Customers as they are now, without what tells who they are.",
        {
            "source_system": "Source system that the customer comes from",
            "customer_id": "Natural key of the customer",
            "name_masked": "First letter of the name",
            "email_masked": "Domain of the e-mail address",
            "document_number_masked": "Last two characters of the document number",
            "birth_year_date": "First day of the year of birth",
            "country": "Country, ISO 3166-1 alpha-2 where the source has codes",
            "state": "State, province or region",
            "loyalty_tier": "Tier in the loyalty programme",
            "acquisition_source": "Channel that the customer came by",
        },
    ),
    "sales_masked": (
        "Order lines as in mart.sales, without the customer's name.",
        {
            "source_system": "Source system that the line comes from",
            "order_id": "Natural key, with line_id: the order",
            "line_id": "Natural key, with order_id: the line",
            "ordered_at": "When it was ordered (UTC)",
            "ordered_date": "Day of that",
            "ordered_month": "First day of the month of that",
            "status": "Last known state of the line",
            "is_cancelled": "Whether it was cancelled",
            "is_returned": "Whether it was returned",
            "customer_id": "Natural key of the customer",
            "customer_name_masked": "First letter of the customer's name",
            "customer_country": "Country that the customer had when ordering",
            "customer_state": "State, province or region that the customer had when ordering",
            "loyalty_tier": "Tier that the customer had when ordering",
            "acquisition_source": "Channel that the customer came by",
            "product_id": "Natural key of the product",
            "product_name": "Name that the product had when ordered",
            "category": "Category of the product",
            "brand": "Brand of the product",
            "company_id": "Natural key of the selling company",
            "company_name": "Name of the selling company",
            "company_country": "Country of the selling company",
            "promotion_name": "Promotion that applied",
            "payment_method_name": "How it was paid",
            "distribution_center_name": "Where it was sent from",
            "quantity": "Units ordered",
            "gross_amount": "Amount before discounts",
            "discount_amount": "Discounts",
            "net_amount": "Amount after discounts",
            "profit_amount": "Net amount less the base price of the seller",
            "currency": "Currency of the amounts, ISO 4217",
            "returned_at": "When it came back (UTC), if it did",
        },
    ),
}


def upgrade() -> None:
    ensure_roles(op.get_bind())
    create_table(
        "audit.personal_data",
        "One row per column that holds personal data: where it is, and what kind it is.",
        {
            "schema_name": ("text not null", "Schema"),
            "table_name": ("text not null", "Table or view"),
            "column_name": ("text not null", "Column"),
            "kind": ("text not null", "Kind of personal data, as e-mail or birth date"),
        },
        ["constraint pk_personal_data primary key (schema_name, table_name, column_name)"],
    )
    for (schema, table), columns in PERSONAL.items():
        for column, kind in columns.items():
            run(
                "insert into audit.personal_data (schema_name, table_name, column_name, kind) "
                f"values ({quoted(schema)}, {quoted(table)}, {quoted(column)}, {quoted(kind)})"
            )
            if schema != "raw":
                _relabel(f"{schema}.{table}", column, LABEL)
    for name, (comment, columns) in MASKED.items():
        create_view(f"mart.{name}", comment, (SQL / f"{name}.sql").read_text(), columns)


def downgrade() -> None:
    withdraw(op.get_bind())
    for name in reversed(MASKED):
        run(f"drop view mart.{name}")
    for (schema, table), columns in PERSONAL.items():
        for column in columns:
            if schema != "raw":
                _relabel(f"{schema}.{table}", column, "")
    run("drop table audit.personal_data")


def _relabel(table: str, column: str, label: str) -> None:
    """Add or take away the label of a column's comment; partitions made later take it over."""
    row = (
        op.get_bind()
        .exec_driver_sql(
            f"select col_description('{table}'::regclass, attnum) from pg_attribute "
            f"where attrelid = '{table}'::regclass and attname = '{column}'"
        )
        .one()
    )
    said = row[0].removesuffix(LABEL)
    # Some say so in their own words.
    if "personal data" not in said:
        run(f"comment on column {table}.{column} is {quoted(said + label)}")
