"""`dwh doctor`: find what is wrong before a run does."""

from typing import Annotated, Any

import typer

from cli.options import Json


def doctor(
    as_json: Json = False,
    send_mail: Annotated[bool, typer.Option("--send-mail", help="Send a test mail to DWH_ALERT_TO.")] = False,
) -> None:
    """Check settings, databases, grants, contracts, source tables, GeoIP file, lake, mail, disk and Prefect.

    Changes nothing and starts nothing. Exits with 1 if anything is wrong.
    """
    from dataclasses import asdict

    from cli.diagnostics import Finding, check_prefect, examine, send_test_mail
    from cli.output import show_json, show_table
    from flows.databases import embedded_databases, with_urls
    from stack.local import state
    from warehouse.settings import Settings

    settings = Settings.load()
    stack = state(settings.home)
    findings: list[Finding] = [check_prefect(stack.api_url)]
    if (embedded := embedded_databases(settings)) and not stack.postgres_is_running:
        variables = " and ".join(f"DWH_{name.upper()}_URL" for name in embedded)
        what = f"No {variables.replace(' and ', ' or ')} is set, and the embedded PostgreSQL is not running."
        findings.append(Finding("stack", "wrong", what, f"Run `dwh up`, or set {variables}."))
    else:
        settings = with_urls(settings, start=False)
    findings += examine(settings)
    if send_mail:
        findings.append(send_test_mail(settings))
    rows: list[dict[str, Any]] = [asdict(finding) for finding in findings]
    if as_json:
        show_json(rows)
    else:
        show_table("Checks", rows, {"verdict": "", "about": "about", "what": "what", "hint": "what to do"})
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)
