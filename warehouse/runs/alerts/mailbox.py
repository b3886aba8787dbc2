"""The mail server and the recipients: smtp://, smtp+starttls:// and smtps://, with login."""

import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Self
from urllib.parse import unquote, urlsplit

from warehouse.errors import SettingsError
from warehouse.settings import Settings

PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
TIMEOUT_SECONDS = 15.0
# Do not fold subjects: some mail programs show a fold after the header's name as an empty subject.
POLICY = SMTP.clone(max_line_length=400)


@dataclass(frozen=True)
class Mailbox:
    """The mail server, its login, the sender and the recipients."""

    scheme: str
    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    sender: str
    recipients: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the mailbox of the settings; None if mail is not configured.

        Raises:
            SettingsError: it is only half configured, or the URL or an address is malformed.
        """
        if settings.smtp_url is None and not settings.alert_to:
            return None
        if settings.smtp_url is None or not settings.alert_to:
            missing = "DWH_SMTP_URL" if settings.smtp_url is None else "DWH_ALERT_TO"
            raise SettingsError(
                f"Mail is only half configured: {missing} is not set.",
                hint="Set both, or neither for no mail.",
            )
        scheme, host, port, user, password = _parsed(settings.smtp_url.get_secret_value())
        recipients = tuple(address.strip() for address in settings.alert_to.split(",") if address.strip())
        sender = settings.alert_from or (user if user and "@" in user else f"dwh@{_domain(recipients)}")
        for address in (sender, *recipients):
            _ensure_address(address)
        return cls(scheme, host, port, user, password, sender, recipients)

    @property
    def place(self) -> str:
        """The server without its login, for messages."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def open(self) -> smtplib.SMTP:
        """Connect to the server, encrypted and logged in as the URL demands.

        Raises:
            OSError: it cannot be reached, its certificate is not trusted, or it refuses the login.
        """
        # This trusts the system's certificates, or those that SSL_CERT_FILE names.
        context = ssl.create_default_context()
        server: smtplib.SMTP
        if self.scheme == "smtps":
            server = smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_SECONDS, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_SECONDS)
        try:
            if self.scheme == "smtp+starttls":
                server.starttls(context=context)
            if self.user is not None:
                server.login(self.user, self.password or "")
        except BaseException:
            server.close()
            raise
        return server

    def message(
        self,
        subject: str,
        text: str,
        html: str,
        message_id: str,
        written_at: datetime,
        recipients: Sequence[str] = (),
    ) -> EmailMessage:
        """Return a message with text and HTML, to `recipients` or by default to DWH_ALERT_TO.

        Mail servers recognize a message that is sent twice by its `message_id`.
        """
        message = EmailMessage(POLICY)
        message["Subject"] = subject
        message["From"] = self.sender
        message["To"] = ", ".join(recipients or self.recipients)
        message["Date"] = written_at
        message["Message-ID"] = f"<{message_id}@{self.sender.rpartition('@')[2]}>"
        # This header prevents automatic replies (out of office).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        message.add_alternative(html, subtype="html")
        return message


def _domain(recipients: Sequence[str]) -> str:
    """Return the sender's domain: this host's name, or the first recipient's domain if the name is only local."""
    name = socket.getfqdn()
    is_known = (
        "." in name and not name.startswith("localhost") and not name.endswith((".local", ".localdomain"))
    )
    return name if is_known and not name.endswith(".arpa") else recipients[0].rpartition("@")[2]


def _parsed(url: str) -> tuple[str, str, int, str | None, str | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _malformed() from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise _malformed()
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme], user, password


def _malformed() -> SettingsError:
    return SettingsError(
        "DWH_SMTP_URL is malformed.",
        hint="It should read smtps://user:password@host, smtp+starttls://… or smtp://…; "
        "write special characters of user and password as %XX.",
    )


def _ensure_address(text: str) -> None:
    try:
        address = Address(addr_spec=text)
    except (ValueError, IndexError):
        address = None
    if address is None or not address.domain:
        raise SettingsError(
            f"{text!r} is not a mail address.",
            hint="Correct DWH_ALERT_TO (commas between addresses) or DWH_ALERT_FROM.",
        )
