#!/usr/bin/env python3
"""An SMTP server that keeps what it takes, and answers Mailpit's /api/v1/messages and /readyz with it."""

import json
import sys
import urllib.request
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

MESSAGES: list[dict[str, str]] = []


class Sink:
    """Takes every message."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep subject, recipient and text."""
        message = message_from_bytes(envelope.content, policy=policy.default)
        MESSAGES.append({"Subject": str(message["Subject"]), "To": str(message["To"])})
        return "250 OK"


class Page(BaseHTTPRequestHandler):
    """The two addresses that are asked for."""

    def do_GET(self) -> None:
        """All messages; or that it is ready."""
        body = json.dumps({"total": len(MESSAGES), "messages": MESSAGES}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if sys.argv[1:] == ["readyz"]:
        urllib.request.urlopen("http://127.0.0.1:8025/readyz", timeout=5)
    else:
        Controller(Sink(), hostname="0.0.0.0", port=1025).start()
        ThreadingHTTPServer(("0.0.0.0", 8025), Page).serve_forever()
