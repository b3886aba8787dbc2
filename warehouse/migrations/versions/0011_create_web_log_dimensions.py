"""Dimensions of the web log: three that people know, and the dictionaries that keep its rows narrow."""

from warehouse.migrations.countries import COUNTRIES
from warehouse.migrations.ddl import create_table, quoted, run

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

RUN_ID = {"run_id": ("bigint not null", "Run that added the row; 0: the migration")}


def upgrade() -> None:
    create_table(
        "dwh.dim_country",
        "Countries, by the code that facts carry; ZZ is the unknown country.",
        {
            "country": ("text", "Code, ISO 3166-1 alpha-2; ZZ is unknown"),
            "name": ("text not null", "English short name"),
            **RUN_ID,
        },
        [
            "constraint pk_dim_country primary key (country)",
            "constraint ck_dim_country_country check (country ~ '^[A-Z0-9]{2}$')",
        ],
    )
    rows = ", ".join(f"({quoted(code)}, {quoted(name)}, 0)" for code, name in COUNTRIES.items())
    run(f"insert into dwh.dim_country (country, name, run_id) values {rows}")
    create_table(
        "dwh.dim_device",
        "Device families, as ua-parser tells them from the user agent; key 0 where there was no user agent.",
        {
            "device_key": ("smallint", "Key; 0 is the unknown device"),
            "family": ("text not null", "Device family, as iPhone, Mac, Spider or Other"),
            **RUN_ID,
        },
        [
            "constraint pk_dim_device primary key (device_key)",
            "constraint uq_dim_device_family unique (family)",
        ],
    )
    run("insert into dwh.dim_device (device_key, family, run_id) values (0, 'Unknown', 0)")
    create_table(
        "dwh.dim_traffic_source",
        "Where visits come from: utm_source of the request, else the site of the referer.",
        {
            "traffic_source_key": ("smallint", "Key; 0 is direct: neither campaign nor referer"),
            "name": ("text not null", "utm_source, or the referring site's name"),
            "medium": ("text not null", "direct, campaign, search, social, internal or referral"),
            **RUN_ID,
        },
        [
            "constraint pk_dim_traffic_source primary key (traffic_source_key)",
            "constraint uq_dim_traffic_source_name_medium unique (name, medium)",
            "constraint ck_dim_traffic_source_medium check "
            "(medium in ('direct', 'campaign', 'search', 'social', 'internal', 'referral'))",
        ],
    )
    run(
        "insert into dwh.dim_traffic_source (traffic_source_key, name, medium, run_id) "
        "values (0, 'direct', 'direct', 0)"
    )
    dictionary(
        "request",
        "Request lines, and what they mean by warehouse/weblogs/site.toml; key 0 where the log has none.",
        {
            "request": (
                "text not null",
                "Request line as logged: method, target, protocol; bytes that are no text are escaped",
            ),
            "method": ("text", "HTTP method"),
            "path": ("text", "Path, without the query"),
            "action": ("text not null", "view, search, add_to_cart, checkout, login or other"),
            "product_id": ("text", "Product that it is about: natural key in dim_product"),
            "traffic_source_key": (
                "smallint",
                "Campaign by utm_source: dim_traffic_source; empty where it names none",
            ),
        },
        "'-', null, null, 'other', null, null",
    )
    run(
        "alter table dwh.dim_request add constraint ck_dim_request_action check "
        "(action in ('view', 'search', 'add_to_cart', 'checkout', 'login', 'other'))"
    )
    run("create index ix_dim_request_product_id on dwh.dim_request (product_id) where product_id is not null")
    dictionary(
        "user_agent",
        "User agents, each with its device; key 0 where the log has none.",
        {
            "user_agent": ("text not null", "User agent as logged"),
            "device_key": ("smallint not null", "Its device: dim_device"),
        },
        "'-', 0",
    )
    dictionary(
        "referer",
        "Referers, each with its traffic source; key 0 where the log has none.",
        {
            "referer": ("text not null", "Referer as logged"),
            "traffic_source_key": ("smallint not null", "Its site: dim_traffic_source"),
        },
        "'-', 0",
    )
    dictionary(
        "web_user",
        "Users who were logged in, by the name in the log; key 0 is a visitor who was not.",
        {"user_name": ("text not null", "Name as logged: username in dim_customer")},
        "'-'",
    )


def dictionary(name: str, comment: str, columns: dict[str, tuple[str, str]], unknown: str) -> None:
    """A dictionary of texts, found again by their MD5: a text may be longer than an index takes."""
    create_table(
        f"dwh.dim_{name}",
        comment,
        {
            f"{name}_key": ("integer", "Key; 0 where the log has '-' or nothing"),
            **columns,
            "text_hash": ("uuid not null", "MD5 of the text, by which it is found again"),
            **RUN_ID,
        },
        [
            f"constraint pk_dim_{name} primary key ({name}_key)",
            f"constraint uq_dim_{name}_text_hash unique (text_hash)",
        ],
    )
    run(f"insert into dwh.dim_{name} values (0, {unknown}, md5('-')::uuid, 0)")


def downgrade() -> None:
    for name in ("web_user", "referer", "user_agent", "request", "traffic_source", "device", "country"):
        run(f"drop table dwh.dim_{name}")
