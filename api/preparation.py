"""Create what the order API needs in the shop besides the shop's own tables."""

from pathlib import Path

import psycopg

from api.errors import OrderApiError

SCHEMA = Path(__file__).with_name("schema.sql")


def prepare(url: str) -> None:
    """Create tables, index and role of the API that are missing, as the owner of the shop's tables.

    Raises:
        OrderApiError: the shop cannot be reached, has no tables yet, or belongs to somebody else.
    """
    connected = False
    try:
        with psycopg.connect(url, connect_timeout=10, application_name="dwh-api") as connection:
            connected = True
            connection.execute("set local client_min_messages = warning")
            connection.execute("select pg_advisory_xact_lock(hashtext('shop schema'))")
            connection.execute(SCHEMA.read_bytes())
    except psycopg.errors.UndefinedTable as error:
        raise OrderApiError(
            f"The shop lacks a table: {error.diag.message_primary}.",
            "Create its schema first: `dwh generate shop`.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise OrderApiError(
            f"The shop refuses: {error.diag.message_primary}.",
            "Use the owner of the shop's tables in DWH_API_SHOP_URL.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise OrderApiError(
            f"The shop's database takes no writes: {error.diag.message_primary}.",
            "Is it a standby, or is default_transaction_read_only on, for all or for this user?",
        ) from error
    # Transaction timeouts of PostgreSQL are InternalErrors in psycopg.
    except (psycopg.OperationalError, psycopg.InternalError) as error:
        place = psycopg.conninfo.conninfo_to_dict(url)
        where = f"{place.get('dbname') or '?'} at {place.get('host') or 'localhost'}"
        # A session that ends between two statements is known by the client's words alone.
        if reason := error.diag.message_primary or (connected and str(error).strip().partition("\n")[0]):
            raise OrderApiError(
                f"The shop's database {where} gave up: {reason}.",
                "Look at the limits of this user, as statement_timeout and lock_timeout; then run the command again.",
            ) from error
        raise OrderApiError(
            f"The shop's database {where} cannot be used.", "Start it, or correct DWH_API_SHOP_URL."
        ) from error
