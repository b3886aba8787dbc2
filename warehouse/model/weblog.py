"""Declaration of the web-log star: the partitioned fact and its dimensions."""

from typing import Final

from warehouse.model.declaration import Column
from warehouse.model.tables import Index, Table

RUN_ID: Final = Column("run_id", "bigint", "Run that added the row; 0: the migration", required=True)


def _lookup(name: str, description: str, columns: tuple[Column, ...], unknown: dict[str, str]) -> Table:
    """Declare a dimension of texts, which are looked up by MD5, because a text may be too long for an index entry."""
    table = f"dim_{name}"
    key = Column(f"{name}_key", "integer", "Key; 0 where the log has '-' or nothing", required=True)
    text_hash = Column("text_hash", "uuid", "MD5 of the text, by which it is found again", required=True)
    return Table(
        "dwh",
        table,
        description,
        (key, *columns, text_hash, RUN_ID),
        {f"pk_{table}": f"primary key ({key.name})", f"uq_{table}_text_hash": "unique (text_hash)"},
        unknown={key.name: "0", **unknown, "text_hash": "md5('-')::uuid", "run_id": "0"},
    )


COUNTRY: Final = Table(
    "dwh",
    "dim_country",
    "Countries, by the code that facts carry; ZZ is the unknown country. Those of web log addresses come from the "
    "database that audit.load names: IP Geolocation by DB-IP (https://db-ip.com, CC BY 4.0), or GeoLite2 data created "
    "by MaxMind (https://www.maxmind.com).",
    (
        Column("country", "text", "Code, ISO 3166-1 alpha-2; ZZ is unknown", required=True),
        Column("name", "text", "English short name", required=True),
        RUN_ID,
    ),
    {
        "pk_dim_country": "primary key (country)",
        "ck_dim_country_country": "check (country ~ '^[A-Z0-9]{2}$')",
    },
)

DEVICE: Final = Table(
    "dwh",
    "dim_device",
    "Device families, as ua-parser reads them from the user agent; key 0 where there was no user agent.",
    (
        Column("device_key", "smallint", "Key; 0 is the unknown device", required=True),
        Column("family", "text", "Device family, as iPhone, Mac, Spider or Other", required=True),
        RUN_ID,
    ),
    {"pk_dim_device": "primary key (device_key)", "uq_dim_device_family": "unique (family)"},
    unknown={"device_key": "0", "family": "'Unknown'", "run_id": "0"},
)

TRAFFIC_SOURCE: Final = Table(
    "dwh",
    "dim_traffic_source",
    "Where visits come from: utm_source of the request, else the site of the referer.",
    (
        Column(
            "traffic_source_key",
            "smallint",
            "Key; 0 is direct: neither campaign nor referer",
            required=True,
        ),
        Column("name", "text", "utm_source, or the referring site's name", required=True),
        Column("medium", "text", "direct, campaign, search, social, internal or referral", required=True),
        RUN_ID,
    ),
    {
        "pk_dim_traffic_source": "primary key (traffic_source_key)",
        "uq_dim_traffic_source_name_medium": "unique (name, medium)",
        "ck_dim_traffic_source_medium": (
            "check (medium in ('direct', 'campaign', 'search', 'social', 'internal', 'referral'))"
        ),
    },
    unknown={"traffic_source_key": "0", "name": "'direct'", "medium": "'direct'", "run_id": "0"},
)

REQUEST_ACTIONS: Final = ("view", "search", "add_to_cart", "checkout", "login", "other")
_REQUEST: Final = _lookup(
    "request",
    "Request lines, and what they mean by the traffic rules (traffic_rules.toml); key 0 where the log has none.",
    (
        Column(
            "request",
            "text",
            "Request line as logged: method, target, protocol; bytes that are no text are escaped",
            required=True,
        ),
        Column("method", "text", "HTTP method"),
        Column("path", "text", "Path, without the query"),
        Column("action", "text", "view, search, add_to_cart, checkout, login or other", required=True),
        Column(
            "product_id",
            "text",
            "Product that it is about: natural key in dim_product",
            refers_to="dim_product",
        ),
        Column(
            "traffic_source_key",
            "smallint",
            "Campaign by utm_source: dim_traffic_source; empty where it names none",
            refers_to="dim_traffic_source",
        ),
    ),
    {"request": "'-'", "action": "'other'"},
)
REQUEST: Final = Table(
    _REQUEST.schema,
    _REQUEST.name,
    _REQUEST.description,
    _REQUEST.columns,
    {
        **_REQUEST.constraints,
        "ck_dim_request_action": f"check (action in ({', '.join(map(repr, REQUEST_ACTIONS))}))",
    },
    (Index("ix_dim_request_product_id", "(product_id) where product_id is not null"),),
    _REQUEST.unknown,
)

USER_AGENT: Final = _lookup(
    "user_agent",
    "User agents, each with its device; key 0 where the log has none.",
    (
        Column("user_agent", "text", "User agent as logged", required=True),
        Column("device_key", "smallint", "Its device: dim_device", required=True, refers_to="dim_device"),
    ),
    {"user_agent": "'-'", "device_key": "0"},
)
REFERER: Final = _lookup(
    "referer",
    "Referers, each with its traffic source; key 0 where the log has none.",
    (
        Column("referer", "text", "Referer as logged", required=True),
        Column(
            "traffic_source_key",
            "smallint",
            "Its site: dim_traffic_source",
            required=True,
            refers_to="dim_traffic_source",
        ),
    ),
    {"referer": "'-'", "traffic_source_key": "0"},
)
WEB_USER: Final = _lookup(
    "web_user",
    "Users who were logged in, by the name in the log; key 0 is a visitor who was not.",
    (
        Column(
            "user_name",
            "text",
            "Name as logged: username in dim_customer",
            personal="login name",
            required=True,
            refers_to="dim_customer",
        ),
    ),
    {"user_name": "'-'"},
)

HOST: Final = _lookup(
    "host",
    "Virtual hosts that requests were made to, where the log's format has them.",
    (Column("host", "text", "Name as logged, without a port", required=True),),
    {"host": "'-'"},
)
CLIENT_HOST: Final = _lookup(
    "client_host",
    "Host names of visitors, where the server looked them up and logged them in place of addresses.",
    (Column("client_host", "text", "Name as logged", personal="host name", required=True),),
    {"client_host": "'-'"},
)

# Columns are in order of width, which avoids padding in billions of rows. Columns that the combined log format does not
# have come last, and are null for it.
FACT: Final = Table(
    "dwh",
    "fact_weblog",
    "One row per request in an access log. Partitioned by country; a country's partition is made when it first "
    "appears. No line can be in it twice: audit.file_part bars that, at a hundredth of what a key per row costs.",
    (
        Column("requested_at", "timestamptz", "When the request was made (UTC)", required=True),
        Column(
            "response_bytes",
            "bigint",
            "Size of the response in bytes; 0 where the log has '-'",
            required=True,
        ),
        Column("run_id", "bigint", "Run that loaded the row", required=True),
        Column(
            "file_id",
            "integer",
            "Natural key, with line_number: file of the line, in audit.file",
            required=True,
        ),
        Column(
            "line_number",
            "integer",
            "Natural key, with file_id: line in that file, from 1",
            required=True,
        ),
        Column(
            "request_key",
            "integer",
            "Request line, action and product: dim_request",
            required=True,
            refers_to="dim_request",
        ),
        Column(
            "user_agent_key",
            "integer",
            "User agent: dim_user_agent",
            required=True,
            refers_to="dim_user_agent",
        ),
        Column("referer_key", "integer", "Referer: dim_referer", required=True, refers_to="dim_referer"),
        Column(
            "web_user_key",
            "integer",
            "User who was logged in: dim_web_user; 0 where nobody was",
            required=True,
            refers_to="dim_web_user",
        ),
        Column("status_code", "smallint", "HTTP status of the response", required=True),
        Column("device_key", "smallint", "Device: dim_device", required=True, refers_to="dim_device"),
        Column(
            "traffic_source_key",
            "smallint",
            "Campaign or referring site: dim_traffic_source; 0 is direct",
            required=True,
            refers_to="dim_traffic_source",
        ),
        Column(
            "country",
            "text",
            "Country of the address: dim_country; ZZ is unknown",
            required=True,
            refers_to="dim_country",
        ),
        Column(
            "ip_address",
            "inet",
            "Address that the request came from; empty where the log has a host name",
            personal="IP address",
        ),
        Column("request_bytes", "bigint", "Size of the request in bytes; empty where the format has none"),
        Column(
            "host_key",
            "integer",
            "Virtual host: dim_host; empty where the format has none",
            refers_to="dim_host",
        ),
        Column(
            "client_host_key",
            "integer",
            "Visitor's host name, in place of an address: dim_client_host",
            refers_to="dim_client_host",
        ),
        Column(
            "request_seconds",
            "real",
            "Seconds that the server took for the request; empty where the format has none",
        ),
        Column(
            "is_tls",
            "boolean",
            "Whether the request was encrypted; empty where the format has nothing of it",
        ),
    ),
    # Rows arrive in order of file and line, and nearly of time, so small BRIN indexes find them.
    indexes=(
        Index("ix_fact_weblog_file_id_line_number", "using brin (file_id, line_number)"),
        Index("ix_fact_weblog_requested_at", "using brin (requested_at)"),
    ),
    partitioned_by="list (country)",
)

DIMENSIONS: Final = (
    COUNTRY, DEVICE, TRAFFIC_SOURCE, REQUEST, USER_AGENT, REFERER, WEB_USER, HOST, CLIENT_HOST,
)  # fmt: skip
