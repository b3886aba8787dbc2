"""Sending what waits in the outbox: tried until a server takes it, whoever comes by next."""

import random
import smtplib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage

import psycopg

from warehouse.db.connections import connect, without_password
from warehouse.errors import WarehouseError
from warehouse.runs.alerts.compose import Mail, told
from warehouse.runs.alerts.mailbox import Mailbox

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 3600.0
JITTER = 0.25


class MailRefused(WarehouseError):
    """A mail server cannot be reached or does not take a mail."""


@dataclass(frozen=True)
class Delivery:
    """What a round of sending did; `error` is what the mail server said if it went wrong."""

    sent: int
    waiting: int
    error: str | None = None


def deliver(warehouse_url: str, mailbox: Mailbox) -> Delivery:
    """Send the mails that are due; those that cannot be sent stay, and are tried again later and later.

    A mail is marked as sent when the server has taken it. A process that is killed in between leaves it to be sent
    again, under the same Message-ID.
    """
    sent, error, server = 0, None, None
    with connect(warehouse_url, application_name="dwh mail") as connection:
        try:
            while (row := _next(connection)) is not None:
                mail_id, attempts, created_at, mail = row
                try:
                    server = server or mailbox.open()
                    message_id = f"dwh.{mail_id}.{created_at:%Y%m%d%H%M%S%f}"
                    said = _send(
                        server, mailbox.message(mail.subject, mail.body_text, mail.body_html, message_id)
                    )
                except OSError as failure:
                    error = _told(failure)
                    _put_off(connection, mail_id, attempts, error)
                    break
                connection.execute(
                    """
                    update audit.outbox set sent_at = clock_timestamp(), attempts = attempts + 1, error = %s
                    where mail_id = %s
                    """,
                    [said, mail_id],
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
    """Send a mail past the outbox, for what must be told when there is no warehouse to keep it.

    Raises:
        MailRefused: the server cannot be reached or does not take it.
    """
    now = datetime.now(UTC)
    message = mailbox.message(mail.subject, mail.body_text, mail.body_html, f"dwh.now.{now:%Y%m%d%H%M%S%f}")
    try:
        with mailbox.open() as server:
            refused = _send(server, message)
    except OSError as failure:
        raise MailRefused(
            f"The mail server {mailbox.place} did not take the mail: {_told(failure)}.",
            hint="Mend DWH_SMTP_URL, DWH_ALERT_TO or DWH_ALERT_FROM; SSL_CERT_FILE names certificates to trust.",
        ) from None
    if refused:
        raise MailRefused(f"The mail server {mailbox.place} {refused}.", hint="Mend DWH_ALERT_TO.")


def send_test(mailbox: Mailbox, warehouse_url: str | None = None) -> None:
    """Send a mail that says that mail works.

    Raises:
        MailRefused: it does not.
    """
    about = f"the warehouse {without_password(warehouse_url)}" if warehouse_url else "a warehouse"
    text = f"Mail about {about} arrives. Sent {told(datetime.now(UTC))} by `dwh doctor --send-mail`."
    send_now(mailbox, Mail("[dwh] Test mail: it works", f"{text}\n", f"<!doctype html><p>{text}</p>"))


def _next(connection: psycopg.Connection) -> tuple[int, int, datetime, Mail] | None:
    # Locked until the commit: two senders never send the same mail. One that no server takes bars no other.
    row = connection.execute(
        """
        select mail_id, attempts, created_at, subject, body_text, body_html
        from audit.outbox
        where sent_at is null and due_at <= clock_timestamp()
        order by attempts, mail_id limit 1 for update skip locked
        """
    ).fetchone()
    if row is None:
        return None
    return row[0], row[1], row[2], Mail(*row[3:])


def _put_off(connection: psycopg.Connection, mail_id: int, attempts: int, error: str) -> None:
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempts, 10))
    connection.execute(
        "update audit.outbox set attempts = attempts + 1, error = %s where mail_id = %s", [error, mail_id]
    )
    # All others too: a dead server shall cost the runs one time-out, not one for each mail.
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


def _told(failure: OSError) -> str:
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
