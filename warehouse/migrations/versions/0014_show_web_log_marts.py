"""What people read of the web log."""

from pathlib import Path

from warehouse.migrations.ddl import create_view, run

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"
COUNTRY = {
    "country": "Country code, ISO 3166-1 alpha-2; ZZ is unknown",
    "country_name": "English short name of the country",
}

VIEWS = {
    "weblog": (
        "One row per request in the access logs.",
        {
            "ip_address": "Address that the request came from",
            "request": "Request line: method, target, protocol",
            "country": "Country of the address, ISO 3166-1 alpha-2; ZZ is unknown",
            "status_code": "HTTP status of the response",
            "user_agent": "User agent; - where the log has none",
            "request_timestamp": "When the request was made (UTC)",
            "year": "Year of the request (UTC)",
            "product_id": "Product that the request is about, where it is about one",
            "action": "view, search, add_to_cart, checkout, login or other",
            "user_name": "User who was logged in; empty where nobody was",
            "device": "Device family",
            "traffic_source": "utm_source of the request, else the referring site; direct where there is neither",
            "traffic_medium": "direct, campaign, search, social, internal or referral",
            "referer": "Referer; - where the log has none",
            "response_bytes": "Size of the response in bytes; 0 where the log has -",
            "file_id": "File of the line: audit.file",
            "line_number": "Line in that file, from 1",
            "run_id": "Run that loaded it",
        },
    ),
    "top_devices_by_users": (
        "The five devices that most logged users use.",
        {
            "device_rank": "Rank, from 1",
            "device": "Device family",
            "user_count": "Distinct logged users, exact",
            "request_count": "Requests, of users and visitors",
        },
    ),
    "countries_by_logged_users": (
        "Countries by the number of users who log in from there.",
        {
            "country_rank": "Rank, from 1",
            **COUNTRY,
            "user_count": "Distinct logged users, exact",
            "request_count": "Requests, of users and visitors",
        },
    ),
    "most_viewed_products": (
        "The five most viewed products in the country that most users log in from.",
        {
            "product_rank": "Rank, from 1",
            "product_id": "Product",
            "product_name": "Its name now, if the warehouse knows the product",
            "view_count": "Requests with action view",
            **COUNTRY,
        },
    ),
    "interactions_by_day": (
        "Requests per day and action.",
        {
            "request_date": "Day (UTC)",
            "action": "view, search, add_to_cart, checkout, login or other",
            "interaction_count": "Requests",
        },
    ),
}  # fmt: skip


def upgrade() -> None:
    for name, (comment, columns) in VIEWS.items():
        create_view(f"mart.{name}", comment, (SQL / f"{name}.sql").read_text(), columns)


def downgrade() -> None:
    for name in reversed(VIEWS):
        run(f"drop view mart.{name}")
