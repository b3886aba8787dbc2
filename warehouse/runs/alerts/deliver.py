"""Send the mails of the outbox. Later runs retry until a server accepts them."""

import random
import smtplib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage

import psycopg

from warehouse.db.connections import connect, without_password
from warehouse.errors import WarehouseError
from warehouse.runs.alerts.compose import Mail, format_time
from warehouse.runs.alerts.mailbox import Mailbox

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 3600.0
JITTER = 0.25


class MailRefused(WarehouseError):
    """A mail server cannot be reached or refuses a mail."""


@dataclass(frozen=True)
class Delivery:
    """Numbers of mails sent and still waiting; `error` is the mail server's answer if sending failed."""

    sent: int
    waiting: int
    error: str | None = None


def deliver(warehouse_url: str, mailbox: Mailbox) -> Delivery:
    """Send the mails that are due. Failed ones stay queued and are retried at growing intervals.

    A mail is marked as sent once the server has accepted it. If the process is killed in between, it is sent again
    under the same Message-ID.
    """
    sent, error, server = 0, None, None
    with connect(warehouse_url, application_name="dwh mail") as connection:
        try:
            while (row := _next(connection)) is not None:
                mail_id, attempts, created_at, recipients, mail = row
                try:
                    server = server or mailbox.open()
                    message_id = f"dwh.{mail_id}.{created_at:%Y%m%d%H%M%S%f}"
                    message = mailbox.message(
                        mail.subject, mail.body_text, mail.body_html, message_id, created_at, recipients
                    )
                    refused = _send(server, message)
                except OSError as failure:
                    error = _describe(failure)
                    _put_off(connection, mail_id, attempts, error)
                    break
                connection.execute(
                    """
                    update audit.outbox set sent_at = clock_timestamp(), attempts = attempts + 1, error = %s
                    where mail_id = %s
                    """,
                    [refused, mail_id],
                )
                connection.commit()
                sent += 1
        finally:
            if server is not None:
                with suppress(OSError):
                    server.quit()
        waiting = connection.execute("select count(*) from audit.outbox where sent_at is null").fetchone()
        assert waiting is not None
        return Delivery(sent, waiting[0], error)


def send_now(mailbox: Mailbox, mail: Mail) -> None:
    """Send a mail without the outbox, for when there is no warehouse to queue it in.

    Raises:
        MailRefused: the server cannot be reached or refuses it.
    """
    now = datetime.now(UTC)
    message = mailbox.message(
        mail.subject, mail.body_text, mail.body_html, f"dwh.now.{now:%Y%m%d%H%M%S%f}", now
    )
    try:
        with mailbox.open() as server:
            refused = _send(server, message)
    except OSError as failure:
        raise MailRefused(
            f"The mail server {mailbox.place} refused the mail: {_describe(failure)}.",
            hint="Correct DWH_SMTP_URL, DWH_ALERT_TO or DWH_ALERT_FROM; SSL_CERT_FILE names certificates to trust.",
        ) from None
    if refused:
        raise MailRefused(f"The mail server {mailbox.place} {refused}.", hint="Correct DWH_ALERT_TO.")


def send_test(mailbox: Mailbox, warehouse_url: str | None = None) -> None:
    """Send a test mail.

    Raises:
        MailRefused: the server cannot be reached or refuses it.
    """
    about = f"the warehouse {without_password(warehouse_url)}" if warehouse_url else "a warehouse"
    text = (
        f"Mail about {about} is delivered. Sent {format_time(datetime.now(UTC))} by `dwh doctor --send-mail`."
    )
    send_now(mailbox, Mail("[dwh] Test mail: it works", f"{text}\n", f"<!doctype html><p>{text}</p>"))


def _next(connection: psycopg.Connection) -> tuple[int, int, datetime, list[str], Mail] | None:
    # The row is locked until the commit, so that two senders never send the same mail. Mails with the fewest attempts
    # come first, so that a failing mail does not block others.
    row = connection.execute(
        """
        select mail_id, attempts, created_at, coalesce(recipients, '{}'), subject, body_text, body_html
        from audit.outbox
        where sent_at is null and due_at <= clock_timestamp()
        order by attempts, mail_id limit 1 for update skip locked
        """
    ).fetchone()
    if row is None:
        return None
    return row[0], row[1], row[2], row[3], Mail(*row[4:])


def _put_off(connection: psycopg.Connection, mail_id: int, attempts: int, error: str) -> None:
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempts, 10))
    connection.execute(
        "update audit.outbox set attempts = attempts + 1, error = %s where mail_id = %s", [error, mail_id]
    )
    # Postpone all other mails, too: then a dead server costs a run one timeout, not one for each mail.
    connection.execute(
        """
        with put_off as (
            select mail_id from audit.outbox where sent_at is null order by mail_id for update skip locked
        )
        update audit.outbox set due_at = clock_timestamp() + make_interval(secs => %s)
        where mail_id in (select mail_id from put_off)
        """,
        [pause * random.uniform(1 - JITTER, 1 + JITTER)],
    )
    connection.commit()


def _send(server: smtplib.SMTP, message: EmailMessage) -> str | None:
    refused = server.send_message(message)
    return f"refused {', '.join(sorted(refused))}" if refused else None


def _describe(failure: OSError) -> str:
    match failure:
        case smtplib.SMTPAuthenticationError():
            return f"login refused ({failure.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            return f"refused {', '.join(sorted(failure.recipients))}"
        case smtplib.SMTPResponseException():
            error = failure.smtp_error
            return (
                f"{failure.smtp_code} {error.decode(errors='replace') if isinstance(error, bytes) else error}"
            )
        case _:
            return f"{type(failure).__name__}: {failure}"
