"""Tell those who run the warehouse: what is worth a mail, and sending what waits in the outbox."""

import logging

from flows.engine import is_tracked, say
from warehouse.runs.alerts import Mailbox, Rules, deliver
from warehouse.settings import Settings


def alert_rules(*untold: type[BaseException]) -> Rules:
    """Rules of the settings, with links to the Prefect UI that sees this run; errors of `untold` make no mail."""
    settings = Settings.load()
    if settings.ui_url is None and is_tracked():
        from prefect.settings import PREFECT_UI_URL

        settings = settings.model_copy(update={"ui_url": PREFECT_UI_URL.value()})
    return Rules.of(settings, untold)


def send_mail(warehouse_url: str) -> None:
    """Send what waits in the outbox; what cannot be sent stays there, and is never a reason to fail."""
    try:
        mailbox = Mailbox.of(Settings.load())
        if mailbox is None:
            return
        delivery = deliver(warehouse_url, mailbox)
    except Exception as error:
        say(f"Mail could not be sent: {error}", logging.WARNING)
        return
    if delivery.error:
        say(
            f"{mailbox.place} took no mail ({delivery.error}); {delivery.waiting} wait in audit.outbox and are "
            "tried again after later runs.",
            logging.WARNING,
        )
