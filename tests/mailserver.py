"""A real SMTP server for tests: plain, STARTTLS or TLS, with login, and with a certificate of its own."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stack.files import free_port

USER, PASSWORD = "dwh@example.com", "p@ss/word :1"


class Inbox:
    """What a server has taken, and how it answers."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self.refusal: str | None = None
        self.port = 0

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        """Take a message, or refuse it."""
        if self.refusal:
            return self.refusal
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.encrypted.append(
            session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None
        )
        return "250 OK"

    @property
    def subjects(self) -> list[str]:
        """Subject lines in order of arrival."""
        return [str(message["Subject"]) for message in self.messages]


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    """One of a message's bodies."""
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@contextmanager
def mail_server(
    *, certificate: Path | None = None, is_tls: bool = False, login: bool = False, port: int | None = None
) -> Iterator[Inbox]:
    """A server on 127.0.0.1 for the length of the block: STARTTLS with a certificate, TLS with `is_tls` besides."""
    inbox = Inbox()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    def check(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
        given = (data.login, data.password) if isinstance(data, LoginPassword) else None
        return AuthResult(handled=False, success=given == (USER.encode(), PASSWORD.encode()))

    kwargs: dict[str, Any] = {}
    if login:
        kwargs |= {"authenticator": check, "auth_required": True, "auth_require_tls": False}
    if context and not is_tls:
        kwargs |= {"tls_context": context, "require_starttls": True}
    server = Controller(
        inbox,
        hostname="127.0.0.1",
        port=port or free_port(),
        ssl_context=context if is_tls else None,
        ready_timeout=120,
        **kwargs,
    )
    inbox.port = server.port
    server.start()
    try:
        yield inbox
    finally:
        server.stop()


def make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 and localhost with its key, in one file; it vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    file.chmod(0o600)
    return file
