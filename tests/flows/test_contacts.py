"""Contacts of leads stay in the file that was asked for: no artifact of Prefect links or shows them, no mail does."""

import os
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from cli.main import main
from tests.mailserver import mail_server
from tests.pipeline import Pipeline
from warehouse.errors import WarehouseError

NAMES = ("Ada Secretlead", "Bo Secretlead")
LIST = (
    "lead_id,name,email,source,created\n"
    f"L-1,{NAMES[0]},ada@secretlead.example,fair,2024-03-01\n"
    # Waits in quarantine.
    f"L-2,{NAMES[1]},bo at secretlead.example,fair,2024-03-01\n"
)
SECRETS = ("secretlead", "leads-contacts")


def test_contacts_are_no_artifact_and_in_no_mail(
    place: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.daily_warehouse import daily_warehouse
    from flows.ingest_source import ingest_source
    from flows.publish_report import publish_report

    landing = tmp_path / "lake" / "landing" / "leads"
    landing.mkdir(parents=True)
    (landing / "list.csv").write_text(LIST)
    home = tmp_path / "home"
    with mail_server() as inbox:
        monkeypatch.setenv("DWH_SMTP_URL", f"smtp://127.0.0.1:{inbox.port}")
        monkeypatch.setenv("DWH_ALERT_TO", "team@example.com")
        daily_warehouse()
        monkeypatch.setattr("sys.argv", ["dwh", "report", "--sheet", "--with-contacts"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        publish_report()
        # A run that fails sends a mail with what it knows.
        place.do("drop table order_item cascade")
        with pytest.raises(WarehouseError):
            ingest_source("shop")
        messages = inbox.messages
    contacts = home / "leads-contacts.xlsx"
    assert contacts.stat().st_mode & 0o777 == 0o600
    assert list(pd.read_excel(contacts, engine="calamine").Name) == [NAMES[0]]
    assert messages
    for message in messages:
        assert list(message.iter_attachments()) == []
        assert not [secret for secret in SECRETS if secret in message.as_string().lower()]
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        kept = database.execute("select key, data, description from artifact").fetchall()
    assert "report" in {key for key, *_ in kept}
    assert not [row for row in kept if any(secret in str(row).lower() for secret in SECRETS)]
