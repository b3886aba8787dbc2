"""Notify the people who run the warehouse: rules for alerts, and sending the mail queued in the outbox."""

import logging
import os
import re

from flows.engine import is_tracked, log
from warehouse.runs.alerts import Mailbox, Rules, deliver
from warehouse.settings import Settings


def alert_rules(*unreported: type[BaseException]) -> Rules:
    """Alert rules of the settings, with links to the Prefect UI of this run; no mail for `unreported` errors."""
    settings = Settings.load()
    if settings.ui_url is None:
        settings = settings.model_copy(update={"ui_url": _ui_url()})
    return Rules.of(settings, unreported)


def _ui_url() -> str | None:
    if is_tracked():
        from prefect.settings import PREFECT_UI_URL

        url: str | None = PREFECT_UI_URL.value()
        return url
    return ui_of(os.environ.get("PREFECT_API_URL"))


def ui_of(api_url: str | None) -> str | None:
    """Derive the URL of Prefect's UI (of a Cloud workspace, or of the server) from that of its API."""
    workspace = re.match(
        r"https://api\.prefect\.cloud/api/accounts/([^/]+)/workspaces/([^/]+)", api_url or ""
    )
    if workspace:
        return "https://app.prefect.cloud/account/{}/workspace/{}".format(*workspace.groups())
    return api_url.rstrip("/").removesuffix("/api") if api_url else None


def send_mail(warehouse_url: str) -> None:
    """Send the mail queued in the outbox; mail that cannot be sent stays queued. Never raises."""
    try:
        mailbox = Mailbox.of(Settings.load())
        if mailbox is None:
            return
        delivery = deliver(warehouse_url, mailbox)
    except Exception as error:
        log(f"Mail could not be sent: {error}", logging.WARNING)
        return
    if delivery.error:
        log(
            f"{mailbox.place} did not accept mail ({delivery.error}); {delivery.waiting} wait in audit.outbox and "
            "will be sent after later runs.",
            logging.WARNING,
        )
