"""The web log fact: narrow rows, a partition for each country."""

from warehouse.migrations.ddl import create_table, run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "dwh.fact_weblog",
        "One row per request in an access log. Partitioned by country; a country's partition is made when it first "
        "appears. No line can be in it twice: audit.file_part bars that, at a hundredth of what a key per row costs.",
        {
            "requested_at": ("timestamptz not null", "When the request was made (UTC)"),
            "response_bytes": ("bigint not null", "Size of the response in bytes; 0 where the log has '-'"),
            "run_id": ("bigint not null", "Run that loaded the row"),
            "file_id": ("integer not null", "Natural key, with line_number: file of the line, in audit.file"),
            "line_number": ("integer not null", "Natural key, with file_id: line in that file, from 1"),
            "request_key": ("integer not null", "Request line, action and product: dim_request"),
            "user_agent_key": ("integer not null", "User agent: dim_user_agent"),
            "referer_key": ("integer not null", "Referer: dim_referer"),
            "web_user_key": ("integer not null", "User who was logged in: dim_web_user; 0 where nobody was"),
            "status_code": ("smallint not null", "HTTP status of the response"),
            "device_key": ("smallint not null", "Device: dim_device"),
            "traffic_source_key": (
                "smallint not null",
                "Campaign or referring site: dim_traffic_source; 0 is direct",
            ),
            "country": ("text not null", "Country of the address: dim_country; ZZ is unknown"),
            "ip_address": ("inet not null", "Address that the request came from"),
        },
        suffix="partition by list (country)",
    )
    # Rows arrive in order of file, line and, nearly, time: a few bytes for each hundred pages find them again.
    run(
        "create index ix_fact_weblog_file_id_line_number on dwh.fact_weblog using brin (file_id, line_number)"
    )
    run("create index ix_fact_weblog_requested_at on dwh.fact_weblog using brin (requested_at)")


def downgrade() -> None:
    run("drop table dwh.fact_weblog")
