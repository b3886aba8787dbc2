"""Conformed batches: what every source's SQL delivers, whatever its own tables look like."""

from warehouse.migrations.ddl import create_table, run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CHANGED_AT = {
    "changed_at": ("timestamptz", "When the source changed it (UTC); empty where the source does not say")
}

ENTITIES = {
    "company": {
        "company_id": ("text", "Natural key"),
        "cuit": ("text", "Tax number"),
        "name": ("text", "Name"),
        "country": ("text", "Country"),
        **CHANGED_AT,
    },
    "customer": {
        "customer_id": ("text", "Natural key"),
        "document_number": ("text", "Number of the identity document"),
        "name": ("text", "Full name, or the company's name"),
        "username": ("text", "Login name"),
        "email": ("text", "E-mail address"),
        "birth_date": ("date", "Date of birth"),
        "country": ("text", "Country"),
        "state": ("text", "State, province or region"),
        "latitude": ("numeric(9, 6)", "Latitude, degrees north"),
        "longitude": ("numeric(9, 6)", "Longitude, degrees east"),
        "loyalty_tier": ("text", "Tier in the loyalty programme"),
        "acquisition_source": ("text", "Channel that the customer came by"),
        **CHANGED_AT,
    },
    "product": {
        "product_id": ("text", "Natural key"),
        "company_id": ("text", "Natural key of the selling company"),
        "name": ("text", "Name"),
        "category": ("text", "Name of its category"),
        "brand": ("text", "Name of its brand"),
        "price_default_amount": ("numeric(18, 4)", "Base price of the seller"),
        "price_amount": ("numeric(18, 4)", "Price that the platform charges"),
        "currency": ("text", "Currency of the prices"),
        **CHANGED_AT,
    },
    "promotion": {
        "promotion_id": ("text", "Natural key"),
        "name": ("text", "Name"),
        "discount_share": ("numeric(6, 4)", "Share of the price that it takes off"),
        "starts_at": ("timestamptz", "First moment it holds (UTC)"),
        "ends_at": ("timestamptz", "First moment it no longer holds (UTC)"),
        **CHANGED_AT,
    },
    "payment_method": {
        "payment_method_id": ("text", "Natural key"),
        "name": ("text", "Name"),
        "kind": ("text", "Kind of payment"),
        **CHANGED_AT,
    },
    "distribution_center": {
        "distribution_center_id": ("text", "Natural key"),
        "name": ("text", "Name"),
        "latitude": ("numeric(9, 6)", "Latitude, degrees north"),
        "longitude": ("numeric(9, 6)", "Longitude, degrees east"),
        **CHANGED_AT,
    },
    "order_item": {
        "order_id": ("text", "Natural key: order"),
        "line_id": ("text", "Natural key: line"),
        "customer_id": ("text", "Natural key of the customer"),
        "product_id": ("text", "Natural key of the product"),
        "promotion_id": ("text", "Natural key of the promotion"),
        "payment_method_id": ("text", "Natural key of the payment method"),
        "distribution_center_id": ("text", "Natural key of the distribution center"),
        "ordered_at": ("timestamptz", "When it was ordered (UTC)"),
        "status": ("text", "Status of the line"),
        "quantity": ("numeric(18, 3)", "Units ordered"),
        "unit_price_default_amount": ("numeric(18, 4)", "Seller's base price of a unit"),
        "unit_price_amount": ("numeric(18, 4)", "Price of a unit before discount"),
        "discount_amount": ("numeric(18, 4)", "Discount on the line"),
        # Any size: an absurd order must reach the contract to be quarantined by it.
        "order_total_amount": ("numeric", "Net amount of all lines of the order"),
        "currency": ("text", "Currency of all amounts"),
        "returned_at": ("timestamptz", "When it was returned (UTC)"),
        "recorded_at": ("timestamptz", "When the source recorded its last change (UTC)"),
        "has_customer": ("boolean", "Whether the source holds the customer that it names"),
        "has_product": ("boolean", "Whether the source holds the product that it names"),
        "customer_name": ("text", "Name of the customer, for the contract"),
        "customer_document_number": ("text", "Document number of the customer, for the contract"),
        "customer_birth_date": ("date", "Birth date of the customer, for the contract"),
        **CHANGED_AT,
    },
}


def upgrade() -> None:
    for entity, columns in ENTITIES.items():
        create_table(
            f"staging.conformed_{entity}",
            f"The run's batch of {entity} in conformed shape: one row per changed {entity}.",
            {"source_system": ("text not null", "Source system"), **columns},
            unlogged=True,
        )

    create_table(
        "staging.source_chunk",
        "Chunked key and row hashes of the source at the run's snapshot, which the mirror must equal after the run.",
        {
            "source": ("text not null", "Source system"),
            "table_name": ("text not null", "Table in the source"),
            "chunks": ("integer not null", "Number of chunks that the table is cut into"),
            "bucket": ("integer not null", "Chunk: the low bits of its keys' hashes"),
            "row_count": ("bigint not null", "Rows in the chunk"),
            "key_sum": ("numeric not null", "Sum of the hashes of their keys"),
            "content_sum": ("numeric not null", "Sum of the hashes of the rows"),
        },
        ["constraint pk_source_chunk primary key (source, table_name, bucket)"],
        unlogged=True,
    )


def downgrade() -> None:
    run("drop table staging.source_chunk")
    for entity in reversed(ENTITIES):
        run(f"drop table staging.conformed_{entity}")
