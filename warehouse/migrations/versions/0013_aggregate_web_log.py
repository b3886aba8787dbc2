"""What the web marts show, kept up by every load in its own transaction."""

from warehouse.migrations.ddl import create_table, run

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COUNTRY = ("text not null", "Country: dim_country")
DEVICE = ("smallint not null", "Device: dim_device")
USER = ("integer not null", "User: dim_web_user")
REQUESTS = ("bigint not null", "Requests")
USERS = ("bigint not null", "Distinct logged users, exact: as many as its rows in the table of pairs")
RUN_ID = ("bigint not null", "Run that wrote the row last")
FIRST_RUN_ID = ("bigint not null", "Run in which the pair was seen first")
PRODUCT = ("text not null", "Natural key of the product, as requested")
VIEWS = ("bigint not null", "Requests with action view")
DATE = ("date not null", "Day (UTC)")
ACTION = ("text not null", "view, search, add_to_cart, checkout, login or other")

AGGREGATES = {
    "country": (
        "Requests and distinct logged users per country.",
        {"country": COUNTRY, "request_count": REQUESTS, "user_count": USERS},
        "country",
    ),
    "country_user": (
        "Each logged user once per country: the set that user counts are counted from.",
        {"country": COUNTRY, "web_user_key": USER},
        "country, web_user_key",
    ),
    "device": (
        "Requests and distinct logged users per device.",
        {"device_key": DEVICE, "request_count": REQUESTS, "user_count": USERS},
        "device_key",
    ),
    "device_user": (
        "Each logged user once per device: the set that user counts are counted from.",
        {"device_key": DEVICE, "web_user_key": USER},
        "device_key, web_user_key",
    ),
    "country_product": (
        "Views per country and product.",
        {"country": COUNTRY, "product_id": PRODUCT, "view_count": VIEWS},
        "country, product_id",
    ),
    "day": (
        "Requests per day and action.",
        {"request_date": DATE, "action": ACTION, "request_count": REQUESTS},
        "request_date, action",
    ),
}


def upgrade() -> None:
    for name, (comment, columns, key) in AGGREGATES.items():
        pairs = name.endswith("_user")
        create_table(
            f"dwh.agg_weblog_{name}",
            comment,
            {**columns, "run_id": FIRST_RUN_ID if pairs else RUN_ID},
            [f"constraint pk_agg_weblog_{name} primary key ({key})"],
            # Counts are updated by every load: in place, where the page has room.
            suffix="" if pairs else "with (fillfactor = 70)",
        )
        batch = {column: kind for column, kind in columns.items() if column != "user_count"}
        create_table(
            f"staging.weblog_{name}",
            f"What a batch of web log files adds to dwh.agg_weblog_{name}.",
            batch,
            unlogged=True,
        )


def downgrade() -> None:
    for name in reversed(AGGREGATES):
        run(f"drop table staging.weblog_{name}")
        run(f"drop table dwh.agg_weblog_{name}")
