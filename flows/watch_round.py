"""One round of the watchdog: mark dead runs, mail about late flows, prune audit rows, call the heartbeat monitor.

It needs no Prefect server.
"""

import logging
import urllib.request
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.databases import with_urls
from flows.dead_runs import mark_in_prefect
from flows.deployments import read_declarations
from flows.engine import log
from flows.notify import alert_rules
from flows.run_locked import run_locked
from stack.local import rotate_logs
from warehouse.db.connections import connect, without_password
from warehouse.errors import AccessRefused, ConnectionFailed, WarehouseError
from warehouse.runs.alerts import Alert, Kind, Mailbox, compose, format_span, has_overdue_mail, send_now
from warehouse.runs.audit import Run
from warehouse.runs.retention import prune_audit
from warehouse.runs.watchdog import Watch, watch
from warehouse.settings import Settings
from warehouse.sources.registry import sources_with_url

NAME = "watchdog"
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Watched:
    """What a round of the watchdog found, and the runs that it marked as crashed in Prefect."""

    run_id: int
    found: Watch
    marked_in_prefect: tuple[str, ...]


def watch_round() -> Watched:
    """Mark runs whose process is gone as crashed, mail what is late, send queued mail, and call the monitor.

    Raises:
        ConnectionFailed, AccessRefused: the warehouse is down. A mail is sent at once and every DWH_REMINDER_HOURS.
    """
    # Do not start the embedded server: a database that is down has to be reported.
    settings = with_urls(Settings.load(), start=False)
    url = settings.warehouse
    if not (sources := sources_with_url(settings)):
        log("no source has a URL here: that loads of sources are late is not noticed", logging.WARNING)
    declared = read_declarations(sources, time_zone=settings.time_zone)
    # The watchdog cannot report its own delay: the monitor of DWH_HEARTBEAT_URL does, when it is no longer called.
    expectations = [expected for expected in declared.expectations if expected.flow != NAME]

    def look(run: Run) -> Watched:
        seen = watch(run.connection, expectations, run.rules)
        seen = replace(seen, crashed=[*run.found_dead, *seen.crashed])
        for run_id in seen.crashed:
            log(f"run {run_id} is dead: marked as crashed")
        for late in seen.late:
            log(
                f"{late.flow} is late: due {late.due_at:%Y-%m-%d %H:%M} UTC"
                f"{'' if late.is_new else ' (reported before)'}"
            )
        pruned = prune_audit(run.connection, settings.audit_days)
        if pruned.runs:
            log(
                f"{pruned.runs:,} runs of more than {settings.audit_days} days ago that changed nothing are removed"
            )
        for reminded in seen.reminded:
            log(f"{reminded} still has a problem: mailed again")
        return Watched(run.run_id, seen, mark_in_prefect(run.connection))

    try:
        watched = run_locked(url, NAME, look, lock=NAME)
    except (ConnectionFailed, AccessRefused) as error:
        _mail_that_warehouse_is_down(settings, error)
        raise
    _mail_that_warehouse_is_back(settings)
    for rotated in rotate_logs(settings.home):
        log(f"{rotated} is rotated")
    _call_monitor(settings)
    return watched


def _call_monitor(settings: Settings) -> None:
    """Call DWH_HEARTBEAT_URL, unless mail cannot be delivered: the external monitor alerts when the calls stop."""
    if settings.heartbeat_url is None:
        return
    with connect(settings.warehouse, autocommit=True) as connection:
        if has_overdue_mail(connection):
            log(
                "mail has waited for an hour: the monitor of DWH_HEARTBEAT_URL is not called", logging.WARNING
            )
            return
    try:
        with urllib.request.urlopen(settings.heartbeat_url.get_secret_value(), timeout=TIMEOUT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        # Do not log the URL: anybody who knows it can call the monitor.
        log(f"the monitor of DWH_HEARTBEAT_URL cannot be called: {type(error).__name__}", logging.WARNING)


def _mail_that_warehouse_is_down(settings: Settings, error: WarehouseError) -> None:
    """Mail that the warehouse is down, and remind while it stays so; directly, since the outbox is in the warehouse.

    The marker file holds the time since when it is down; its modification time is that of the last mail.
    """
    marker = _marker(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None:
        return
    now = since = datetime.now(UTC)
    kind: Kind = "failed"
    what = error.what
    if marker.exists():
        since, kind = datetime.fromisoformat(marker.read_text()), "reminder"
        what = f"for {format_span(now - since)}: {what}"
        mailed = datetime.fromtimestamp(marker.stat().st_mtime, UTC)
        if not settings.reminder_hours or now - mailed < timedelta(hours=settings.reminder_hours):
            return
    alert = Alert(kind, "the warehouse", "", what, since, error.hint, link=alert_rules().ui_url)
    send_now(mailbox, compose(alert))
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(since.isoformat())


def _mail_that_warehouse_is_back(settings: Settings) -> None:
    marker = _marker(settings)
    mailbox = Mailbox.of(settings)
    if mailbox is None or not marker.exists():
        return
    since = datetime.fromisoformat(marker.read_text())
    what = f"{without_password(settings.warehouse)} answers."
    send_now(mailbox, compose(Alert("recovered", "the warehouse", "", what, since)))
    marker.unlink()


def _marker(settings: Settings) -> Path:
    return settings.home / "warehouse-is-down"
