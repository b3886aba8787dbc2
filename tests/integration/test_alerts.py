"""Mail: one problem is one mail, kept with the state that it tells of until a server takes it."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from stack.files import free_port
from tests import command
from tests.mailserver import PASSWORD, USER, Inbox, mail_server, make_certificate, text_of
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import (
    ConnectionFailed,
    DeleteThresholdExceeded,
    DifferencesFound,
    LockHeld,
    QualityGateStopped,
    RunLost,
    SchemaDrift,
    SettingsError,
    StepsFailed,
    VerificationFailed,
)
from warehouse.reconcile.reconcile import reconcile_source, stop_on_differences
from warehouse.runs.alerts import Mailbox, Rules, deliver, enqueue_late_alert, send_test
from warehouse.runs.alerts.deliver import MailRefused
from warehouse.runs.audit import CheckResult, Load, Run, mark_crashed, record_checks, record_load, start_run
from warehouse.settings import Settings

FLOW = "ingest-shop"
RUN_ID = "8d3f4a52-6f3c-4f0a-9a51-6f8b1f0f0a01"
GOOD = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as inbox:
        yield inbox


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[psycopg.Connection]:
    with connect(warehouse_url, autocommit=True) as connection:
        yield connection


def mailbox(inbox: Inbox, scheme: str = "smtp", login: str = "") -> Mailbox:
    at = f"{login}@" if login else ""
    settings = Settings(
        smtp_url=SecretStr(f"{scheme}://{at}127.0.0.1:{inbox.port}"),
        alert_to="one@example.com, two@example.com",
        alert_from="dwh@example.com",
    )
    made = Mailbox.of(settings)
    assert made is not None
    return made


def run_once(
    url: str, error: BaseException | None = None, *, flow: str = FLOW, rules: Rules | None = None
) -> None:
    """One run that ends as `error` has it."""
    try:
        with start_run(url, flow=flow, launched_by="ana", rules=rules):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error


def queued(warehouse: psycopg.Connection) -> list[tuple[str, str, int]]:
    """Every mail ever queued: (kind, subject, times seen)."""
    return warehouse.execute(
        "select kind, subject, occurrence_count from audit.outbox order by mail_id"
    ).fetchall()


def make_due(warehouse: psycopg.Connection) -> None:
    warehouse.execute("update audit.outbox set due_at = clock_timestamp()")


# How a run ends, what kind of mail that is, and its subject.
ENDS: Mapping[str, tuple[Callable[[], BaseException], str, str]] = {
    "failed": (
        lambda: ConnectionFailed("The shop is down.", hint="Start it."),
        "failed",
        "ingest-shop failed: The shop is down.",
    ),
    "unknown error": (
        lambda: ValueError("no\nsuch thing"),
        "failed",
        "ingest-shop failed: ValueError: no such thing",
    ),
    "crashed": (
        lambda: SystemExit(1),
        "crashed",
        "ingest-shop crashed: The process is gone: it was ended from outside, as with its worker (exit code 1).",
    ),
    "gate": (
        lambda: QualityGateStopped("2 rows lack a key.", hint="Mend them."),
        "gate stopped",
        "ingest-shop was stopped by a quality gate: 2 rows lack a key.",
    ),
    "threshold": (
        lambda: DeleteThresholdExceeded("Half of customer is gone.", hint="Confirm it."),
        "delete threshold exceeded",
        "ingest-shop was stopped by the delete threshold: Half of customer is gone.",
    ),
    "verification": (
        lambda: VerificationFailed("Source and mirror differ.", hint="Read all again."),
        "differences found",
        "ingest-shop found differences: Source and mirror differ.",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_way_to_end_badly_sends_one_mail_and_one_when_it_works_again(
    end: str, warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox
) -> None:
    error, kind, subject = ENDS[end]
    for _ in range(3):
        run_once(warehouse_url, error())
        deliver(warehouse_url, mailbox(inbox))
    run_once(warehouse_url)
    run_once(warehouse_url)
    deliver(warehouse_url, mailbox(inbox))

    assert inbox.subjects == [f"[dwh] {subject}", "[dwh] ingest-shop works again: Run 4 succeeded."]
    assert queued(warehouse) == [(kind, f"[dwh] {subject}", 3), ("recovered", inbox.subjects[1], 1)]
    assert f"- {kind.capitalize()} 3 times since" in text_of(inbox.messages[1])


def test_what_stops_the_engine_is_mailed_as_what_it_is(sale: Pipeline, inbox: Inbox) -> None:
    """The same without errors made up: an emptied table, lines that are there twice, a mirror changed by hand."""
    sale.do("delete from order_item")
    with pytest.raises(DeleteThresholdExceeded):
        sale.capture(max_delete_share=0.1)
    # Else a transaction of another test lets the rows of the shop count as written since.
    sale.await_open_transactions()
    sale.capture(confirm_deletes=True)
    entity = sale.source.entities["order_item"]
    twice = replace(entity, sql=f"select line.* from ({entity.sql}) as line, generate_series(1, 2)")
    sale.order(2, "2024-03-11")
    with pytest.raises(QualityGateStopped):
        sale.capture(source=replace(sale.source, entities={**sale.source.entities, "order_item": twice}))
    sale.warehouse.execute("update raw.shop_customer set name = 'Forged'")
    with pytest.raises(DifferencesFound), start_run(sale.warehouse_url, flow="reconcile") as run:
        stop_on_differences(reconcile_source(run, sale.source, sale.shop_url, repair=False))

    deliver(sale.warehouse_url, mailbox(inbox))
    assert [subject.split(":")[0] for subject in inbox.subjects] == [
        "[dwh] ingest-shop was stopped by the delete threshold",
        "[dwh] ingest-shop works again",
        "[dwh] ingest-shop was stopped by a quality gate",
        "[dwh] reconcile found differences",
    ]
    gate, differences = map(text_of, inbox.messages[2:])
    assert "Nothing of the batch was published" in gate and "order line is there more than once" in gate
    assert "Nothing was repaired." in differences and "dwh reconcile --repair" in differences
    assert "raw.shop_customer id 1: changed in name" in differences
    assert "Forged" not in differences and "Ana" not in differences, "a mail is no place for personal data"


def test_a_problem_that_comes_back_is_a_new_mail(warehouse_url: str, inbox: Inbox) -> None:
    for error in (SchemaDrift("gone"), None, SchemaDrift("gone")):
        run_once(warehouse_url, error)
    deliver(warehouse_url, mailbox(inbox))
    assert [subject.split(":")[0] for subject in inbox.subjects] == [
        "[dwh] ingest-shop failed",
        "[dwh] ingest-shop works again",
        "[dwh] ingest-shop failed",
    ]


def test_another_cause_or_another_flow_is_another_problem(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    run_once(warehouse_url, SchemaDrift("column gone"))
    run_once(warehouse_url, ConnectionFailed("down"))
    run_once(warehouse_url, ConnectionFailed("down"), flow="ingest-weblogs")
    run_once(warehouse_url)
    assert [(kind, seen) for kind, _, seen in queued(warehouse)] == [
        ("failed", 1),
        ("failed", 1),
        ("failed", 1),
        ("recovered", 1),
    ]
    open_flows = warehouse.execute("select flow from audit.outbox where resolved_at is null").fetchall()
    assert open_flows == [("ingest-weblogs",)]


def test_a_flow_of_flows_does_not_repeat_the_alerts_of_its_steps(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    inner = SchemaDrift("column gone")
    with pytest.raises(StepsFailed), start_run(warehouse_url, flow="daily-warehouse"):
        run_once(warehouse_url, inner)
        raise StepsFailed({FLOW: inner}, of=3)
    assert [subject for _, subject, _ in queued(warehouse)] == ["[dwh] ingest-shop failed: column gone"]


def test_a_flow_of_flows_sends_an_alert_for_a_step_that_never_became_a_run(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    run_once(warehouse_url, StepsFailed({FLOW: ConnectionFailed("down")}, of=3), flow="daily-warehouse")
    assert [kind for kind, _, _ in queued(warehouse)] == ["failed"]


def test_errors_that_are_no_news_make_no_mail(warehouse_url: str, warehouse: psycopg.Connection) -> None:
    run_once(warehouse_url, LockHeld("held"), rules=Rules(unreported=(LockHeld,)))
    assert queued(warehouse) == []


def test_a_process_killed_in_the_middle_of_nested_flows_is_one_mail(
    warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox
) -> None:
    program = (
        "import os, sys\nfrom warehouse.runs.audit import start_run\n"
        "with start_run(sys.argv[1], flow='daily-warehouse'), start_run(sys.argv[1], flow='ingest-shop'):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert command.run(warehouse_url, program=program).returncode == -9
    until = time.monotonic() + 120
    while not (found := mark_crashed(warehouse)) and time.monotonic() < until:
        time.sleep(0.1)
    assert found == [1, 2]
    assert mark_crashed(warehouse) == []
    deliver(warehouse_url, mailbox(inbox))
    assert len(inbox.messages) == 1
    assert inbox.subjects[0].startswith("[dwh] daily-warehouse crashed: Process ")
    assert "- In step ingest-shop (run 2)." in text_of(inbox.messages[0])


def quarantine(run: Run, read: int, kept: int) -> None:
    with run.connection.transaction():
        record_load(
            run.connection,
            run.run_id,
            Load("shop", "raw.shop_order_item", rows_read=read, rows_quarantined=kept),
        )
        run.connection.execute(
            """
            insert into audit.quarantine (run_id, source, entity, rules, reason, row_data)
            select %s, 'shop', 'order_item', array['negative price'], 'the price is negative', %s
            from generate_series(1, %s)
            """,
            [run.run_id, Jsonb({"price": -1}), kept],
        )


@pytest.mark.parametrize(
    ("read", "kept", "is_told"),
    [(100_000, 1000, False), (100_000, 1001, True), (1000, 50, False), (1000, 51, True), (99, 99, False)],
)
def test_quarantine_above_a_threshold_is_a_mail(
    read: int, kept: int, is_told: bool, warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox
) -> None:
    with start_run(warehouse_url, flow=FLOW) as run:
        quarantine(run, read, kept)
    deliver(warehouse_url, mailbox(inbox))
    assert [kind for kind, _, _ in queued(warehouse)] == ["quarantine"] * is_told
    if is_told:
        text = text_of(inbox.messages[0])
        assert f"{kept:,} of {read:,} rows ({kept / read:.1%}) broke a rule." in text
        assert f"- order_item: negative price, {kept} rows" in text


def test_a_dirty_feed_is_one_mail_until_a_run_is_clean(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    for read, kept in ((1000, 500), (1000, 500), (0, 0), (1000, 500), (1000, 0), (1000, 500)):
        with start_run(warehouse_url, flow=FLOW) as run:
            quarantine(run, read, kept)
    assert [(kind, seen) for kind, _, seen in queued(warehouse)] == [("quarantine", 3), ("quarantine", 1)]


def test_late_is_mailed_once_and_also_where_an_older_problem_is_open(
    warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox
) -> None:
    (now,) = warehouse.execute("select clock_timestamp()").fetchone() or ()
    assert enqueue_late_alert(warehouse, FLOW, now, None, Rules())
    assert not enqueue_late_alert(warehouse, FLOW, now, None, Rules())
    run_once(warehouse_url, ConnectionFailed("down"), flow="refresh-marts")
    assert enqueue_late_alert(warehouse, "refresh-marts", now, now, Rules())
    run_once(warehouse_url)
    deliver(warehouse_url, mailbox(inbox))
    assert [subject.split(":")[0] for subject in inbox.subjects] == [
        "[dwh] ingest-shop is late",
        "[dwh] refresh-marts failed",
        "[dwh] refresh-marts is late",
        "[dwh] ingest-shop works again",
    ]


class Signalled(KeyboardInterrupt):
    signal = signal.SIGTERM


@pytest.mark.parametrize(
    ("stop", "message"), [(KeyboardInterrupt, "stopped by Ctrl-C"), (Signalled, "stopped by SIGTERM")]
)
def test_cancelled_run_is_no_crash_and_sends_no_mail(
    stop: type[BaseException], message: str, warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    run_once(warehouse_url, stop())
    assert warehouse.execute("select status, error from audit.run").fetchall() == [("cancelled", message)]
    assert queued(warehouse) == []


def test_ways_in_which_a_database_goes_away_are_one_problem(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    for error in (
        ConnectionFailed("down"),
        RunLost("lost"),
        psycopg.OperationalError("server closed the connection"),
        psycopg.errors.AdminShutdown("terminating"),
    ):
        run_once(warehouse_url, error)
    for number in (1, 2):
        run_once(warehouse_url, SystemExit(number))
    assert [(kind, seen) for kind, _, seen in queued(warehouse)] == [("failed", 4), ("crashed", 2)]


def test_mail_has_the_date_of_its_problem_and_a_sender_that_others_know(
    warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(warehouse_url, SchemaDrift("gone"))
    (written_at,) = warehouse.execute("select created_at from audit.outbox").fetchone() or ()
    for name, sender in (("localhost", "dwh@example.com"), ("etl1.corp.example", "dwh@etl1.corp.example")):
        monkeypatch.setattr("socket.getfqdn", lambda name=name: name)
        settings = Settings(
            smtp_url=SecretStr(f"smtp://127.0.0.1:{inbox.port}"),
            alert_to="ana@example.com, eva@other.example",
        )
        made = Mailbox.of(settings)
        assert made is not None
        deliver(warehouse_url, made)
        warehouse.execute("update audit.outbox set sent_at = null")
        message = inbox.messages[-1]
        assert message["Date"].datetime == written_at.replace(microsecond=0)
        assert message["From"] == sender


def test_mail_goes_to_the_owners_of_source_contract_and_mart(
    warehouse_url: str,
    warehouse: psycopg.Connection,
    inbox: Inbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for source, owner in (("mall", '"mall@example.com"'), ("cafe", '["a@example.com", "b@example.com"]')):
        (tmp_path / source).mkdir()
        (tmp_path / source / "source.toml").write_text(f"owner = {owner}\n", "utf-8-sig")
    contracts, marts = tmp_path / "checks", tmp_path / "marts"
    contracts.mkdir()
    marts.mkdir()
    (contracts / "order_item.yml").write_text("owner: sales@example.com\n")
    (marts / "marts.toml").write_text(
        '[mart.sales_by_month]\nowner = "finance, finance@example.com, cfo@example.com"\n'
    )
    monkeypatch.setattr("warehouse.runs.alerts.owners.CONTRACTS", contracts)
    monkeypatch.setattr("warehouse.runs.alerts.owners.MARTS", marts)
    rules = Rules(sources=tmp_path)
    run_once(warehouse_url, SchemaDrift("gone"), flow="ingest-mall", rules=rules)
    with pytest.raises(QualityGateStopped), start_run(warehouse_url, flow="ingest-cafe", rules=rules) as run:
        record_checks(
            warehouse,
            run.run_id,
            [CheckResult("cafe", "order_item", "x", "y", None, "fail", "failed", 1, None, 1)],
        )
        raise QualityGateStopped("2 rows lack a key.")
    failure = ValueError("no space")
    setattr(failure, "concerns", "mart sales_by_month")  # noqa: B010
    run_once(warehouse_url, failure, flow="refresh-marts", rules=rules)
    run_once(warehouse_url, TypeError("whatever"), flow="refresh-marts", rules=rules)
    deliver(warehouse_url, mailbox(inbox))
    assert [message["To"] for message in inbox.messages] == [
        "mall@example.com",
        "a@example.com, b@example.com, sales@example.com",
        "finance@example.com, cfo@example.com",
        "one@example.com, two@example.com",
    ]


def test_a_dead_mail_server_loses_no_mail_and_fails_no_run(
    warehouse_url: str, warehouse: psycopg.Connection
) -> None:
    run_once(warehouse_url, SchemaDrift("column gone"))
    run_once(warehouse_url, ConnectionFailed("down"))
    dead = Inbox()
    dead.port = free_port()
    first = deliver(warehouse_url, mailbox(dead))
    assert (first.sent, first.waiting) == (0, 2)
    assert first.error is not None and "ConnectionRefusedError" in first.error
    # Not due yet: the next one by does not wait for the dead server again.
    assert deliver(warehouse_url, mailbox(dead)).error is None
    make_due(warehouse)
    assert deliver(warehouse_url, mailbox(dead)).error is not None
    make_due(warehouse)
    with mail_server(port=dead.port) as inbox:
        assert deliver(warehouse_url, mailbox(inbox)).sent == 2
        assert deliver(warehouse_url, mailbox(inbox)).sent == 0
    assert len(inbox.messages) == 2


def test_pauses_grow_up_to_an_hour(warehouse_url: str, warehouse: psycopg.Connection) -> None:
    run_once(warehouse_url, SchemaDrift("column gone"))
    dead = Inbox()
    dead.port = free_port()
    pauses = []
    for _ in range(9):
        make_due(warehouse)
        (before,) = warehouse.execute("select clock_timestamp()").fetchone() or ()
        deliver(warehouse_url, mailbox(dead))
        row = warehouse.execute("select due_at, clock_timestamp() from audit.outbox").fetchone()
        assert row is not None
        # The shortest and the longest that it may have been: trying takes as long as it takes.
        pauses.append(((row[0] - row[1]).total_seconds(), (row[0] - before).total_seconds()))
    for number, (least, most) in enumerate(pauses):
        usual = min(3600, 30 * 2**number)
        assert 0.7 * usual < most and least < 1.3 * usual


def test_a_mail_that_no_server_takes_bars_no_other(
    warehouse_url: str, warehouse: psycopg.Connection, inbox: Inbox
) -> None:
    run_once(warehouse_url, SchemaDrift("one"))
    inbox.refusal = "554 no thanks"
    assert deliver(warehouse_url, mailbox(inbox)).error == "554 no thanks"
    run_once(warehouse_url, ConnectionFailed("two"))
    make_due(warehouse)
    inbox.refusal = None
    deliver(warehouse_url, mailbox(inbox))
    assert inbox.subjects == ["[dwh] ingest-shop failed: two", "[dwh] ingest-shop failed: one"]


def test_two_senders_at_once_send_each_mail_once(warehouse_url: str, inbox: Inbox) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for number in range(20):
        run_once(warehouse_url, SchemaDrift("gone"), flow=f"flow-{number}")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: deliver(warehouse_url, mailbox(inbox)), range(4)))
    assert sum(delivery.sent for delivery in done) == 20
    assert len(set(inbox.subjects)) == len(inbox.messages) == 20


@pytest.mark.parametrize(("scheme", "is_tls"), [("smtps", True), ("smtp+starttls", False)])
def test_mail_goes_encrypted_and_logged_in(
    scheme: str, is_tls: bool, warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    run_once(warehouse_url, SchemaDrift("gone"))
    with mail_server(certificate=certificate, is_tls=is_tls, login=True) as inbox:
        with pytest.raises(MailRefused, match="CERTIFICATE_VERIFY_FAILED"):
            send_test(mailbox(inbox, scheme, GOOD))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(MailRefused, match=r"login refused \(535\)"):
            send_test(mailbox(inbox, scheme, f"{quote(USER, safe='')}:wrong"))
        assert inbox.messages == []
        assert deliver(warehouse_url, mailbox(inbox, scheme, GOOD)).sent == 1
        send_test(mailbox(inbox, scheme, GOOD), warehouse_url)
    assert inbox.subjects == ["[dwh] ingest-shop failed: gone", "[dwh] Test mail: it works"]
    assert inbox.encrypted == [True, True]


def test_plain_mail_with_login(inbox: Inbox) -> None:
    with mail_server(login=True) as own:
        send_test(mailbox(own, login=GOOD))
        with pytest.raises(MailRefused, match="530"):
            send_test(mailbox(own))
    assert own.encrypted == [False]


def test_a_mail_says_what_since_when_what_was_done_and_what_to_do(warehouse_url: str, inbox: Inbox) -> None:
    rules = Rules(ui_url="https://prefect.example.com/")
    error = SchemaDrift(
        "Column <b>price</b> of postgresql://ana:s3cret@db/shop is gone.", hint="Put it back."
    )
    with (
        pytest.raises(SchemaDrift),
        start_run(
            warehouse_url,
            flow=FLOW,
            deployment="ingest-shop",
            prefect_run_id=RUN_ID,
            launched_by="schedule",
            rules=rules,
        ),
    ):
        raise error
    deliver(warehouse_url, mailbox(inbox))
    message = inbox.messages[0]
    assert (message["From"], message["To"]) == ("dwh@example.com", "one@example.com, two@example.com")
    text, html = text_of(message), text_of(message, "html")
    assert text.splitlines()[:3] == [
        "ingest-shop failed",
        "",
        "Column <b>price</b> of postgresql://ana:…@db/shop is gone.",
    ]
    for line in (
        "Since: 2",
        "What was done: Its open transaction",
        "What to do next: Put it back.",
        "Last success: never",
    ):
        assert f"\n{line}" in text
    assert f"The run: https://prefect.example.com/runs/flow-run/{RUN_ID}\n" in text
    assert "\n\n\n" not in text
    assert "Column &lt;b&gt;price&lt;/b&gt; of" in html
    assert f'href="https://prefect.example.com/runs/flow-run/{RUN_ID}"' in html
    assert 'name="viewport"' in html
    assert "s3cret" not in message.as_string()


def test_mail_set_up_half_or_wrong_is_refused_with_advice() -> None:
    assert Mailbox.of(Settings(smtp_url=None, alert_to=None)) is None
    for url, to, said in (
        ("smtp://host", None, "DWH_ALERT_TO is not set"),
        (None, "a@example.com", "DWH_SMTP_URL is not set"),
        ("http://host", "a@example.com", "is malformed"),
        ("smtp://host:port", "a@example.com", "is malformed"),
        ("smtp://host", "nobody", "'nobody' is not a mail address"),
        ("smtp://host", "a@example.com\nBcc: b@example.com", "is not a mail address"),
    ):
        with pytest.raises(SettingsError, match=said):
            Mailbox.of(Settings(smtp_url=SecretStr(url) if url else None, alert_to=to))


def test_doctor_sends_a_test_mail(warehouse_url: str, inbox: Inbox, tmp_path: Path) -> None:
    settings = {
        "DWH_WAREHOUSE_URL": warehouse_url,
        "DWH_SHOP_URL": warehouse_url,
        "DWH_HOME": str(tmp_path),
        "DWH_SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
        "DWH_ALERT_TO": "ana@example.com",
    }
    done = command.run("doctor", "--send-mail", "--json", environment={**os.environ, **settings})
    findings = {found["about"]: (found["verdict"], found["what"]) for found in json.loads(done.stdout)}
    assert findings["mail"] == ("ok", f"The mail server smtp://127.0.0.1:{inbox.port} answers.")
    assert findings["test mail"][0] == "ok"
    assert inbox.subjects == ["[dwh] Test mail: it works"]
    assert warehouse_url not in text_of(inbox.messages[0])
