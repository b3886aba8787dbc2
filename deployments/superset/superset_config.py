"""Settings of Superset: its own data are in SUPERSET_HOME; the warehouse is where SUPERSET_WAREHOUSE_URL says."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from superset.config import TALISMAN_CONFIG as DEFAULT_POLICY

HOME = Path(os.environ["SUPERSET_HOME"])
SQLALCHEMY_DATABASE_URI = os.environ.get("SUPERSET_DATABASE_URL", f"sqlite:///{HOME}/superset.db")
SECRET_KEY = (HOME / "secret_key").read_text().strip()
ROW_LIMIT = 1000
SUPERSET_WEBSERVER_TIMEOUT = 60
# Pages load nothing from other servers: by default they count their visitors with a picture on one.
TALISMAN_ENABLED = True
TALISMAN_CONFIG = {
    **DEFAULT_POLICY,
    "content_security_policy": {
        **DEFAULT_POLICY["content_security_policy"],
        "img-src": ["'self'", "blob:", "data:"],
        "connect-src": ["'self'"],
    },
    # The server is reached by http on this machine, or through a proxy that has the certificate.
    "force_https": False,
    "session_cookie_secure": False,
}


def DB_CONNECTION_MUTATOR(
    uri: URL, parameters: dict[str, Any], username: str, security_manager: object, source: object
) -> tuple[URL, dict[str, Any]]:
    """Put the warehouse's address and password in place of the name that the bundle has; Superset stores neither."""
    if uri.host == "warehouse":
        uri = make_url(os.environ["SUPERSET_WAREHOUSE_URL"]).set(drivername="postgresql+psycopg2")
    return uri, parameters
