"""`dwh doctor`: what is wrong before a run finds out."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from warehouse.settings import Settings


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    send_mail: Annotated[bool, typer.Option("--send-mail", help="Send a test mail to DWH_ALERT_TO.")] = False,
) -> None:
    """Examine settings, databases, grants, source tables, GeoIP file, lake, mail, disk and Prefect: what to mend.

    Changes nothing, and starts nothing. Exits with 1 if anything is wrong.
    """
    from dataclasses import asdict

    from cli.checks import Finding, examine
    from cli.output import show_json, show_table
    from flows.databases import found, uses_embedded
    from stack.local import state
    from warehouse.settings import Settings

    settings = Settings.load()
    stack = state(settings.home)
    findings: list[Finding] = [_prefect(stack.api_url)]
    if uses_embedded(settings) and not stack.postgres_is_running:
        what = "A database has no URL, and the embedded PostgreSQL is not up."
        advice = "Run `dwh up`, or set DWH_WAREHOUSE_URL and DWH_SHOP_URL."
        findings.append(Finding("stack", "wrong", what, advice))
    else:
        settings = found(settings)
    findings += examine(settings)
    if send_mail:
        findings.append(_test_mail(settings))
    told: list[dict[str, Any]] = [asdict(finding) for finding in findings]
    if as_json:
        show_json(told)
    else:
        columns = {"verdict": "", "about": "about", "what": "what", "hint": "what to do"}
        show_table("Examined", told, columns)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def _test_mail(settings: "Settings") -> Any:
    from cli.checks import Finding
    from warehouse.errors import WarehouseError
    from warehouse.runs.alerts import Mailbox, send_test

    try:
        mailbox = Mailbox.of(settings)
        if mailbox is None:
            return Finding("test mail", "wrong", "No mail is set up.", "Set DWH_SMTP_URL and DWH_ALERT_TO.")
        url = settings.warehouse_url
        send_test(mailbox, url.get_secret_value() if url else None)
    except WarehouseError as error:
        return Finding("test mail", "wrong", error.what, error.hint)
    return Finding(
        "test mail", "ok", f"{mailbox.place} took a test mail for {', '.join(mailbox.recipients)}."
    )


def _prefect(local: str | None) -> Any:
    import os

    from cli.checks import Finding
    from cli.tracking import answers

    api_url = os.environ.get("PREFECT_API_URL") or local
    if api_url is None:
        what = "No Prefect server is known: runs are recorded in the warehouse alone."
        return Finding("Prefect", "note", what, "Run `dwh up`, or set PREFECT_API_URL.")
    if answers(api_url):
        return Finding("Prefect", "ok", f"{api_url} answers.")
    return Finding(
        "Prefect", "wrong", f"{api_url} does not answer.", "Run `dwh up`, or mend PREFECT_API_URL."
    )
