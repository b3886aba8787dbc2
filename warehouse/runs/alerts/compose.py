"""Compose a mail: subject, plain text and HTML from one description of the problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Literal

from warehouse.errors import visible, visible_lines
from warehouse.runs.redact import redact

if TYPE_CHECKING:
    from jinja2 import Environment

Kind = Literal[
    "failed",
    "crashed",
    "late",
    "gate stopped",
    "delete threshold exceeded",
    "differences found",
    "quarantine",
    "files not read",
    "verification late",
    "recovered",
    "reminder",
]

SUBJECT_LENGTH = 120
HEADLINES: dict[Kind, str] = {
    "failed": "{flow} failed",
    "crashed": "{flow} crashed",
    "late": "{flow} is late",
    "gate stopped": "{flow} was stopped by a quality gate",
    "delete threshold exceeded": "{flow} was stopped by the delete threshold",
    "differences found": "{flow} found differences",
    "quarantine": "{flow} put many rows into quarantine",
    "files not read": "{flow} met files that it cannot read",
    "verification late": "{flow} verifies its source too slowly",
    "recovered": "{flow} works again",
    "reminder": "{flow} still has a problem",
}
# What the warehouse has done about the problem.
DONE: dict[Kind, str] = {
    "failed": "Its open transaction was rolled back. Steps that had committed stay, and are not repeated.",
    "crashed": "Its transaction was rolled back, its locks are free, and the run is marked as crashed.",
    "late": "Nothing: it did not run when it should have.",
    "gate stopped": "Nothing of the batch was published: readers see the state before the run.",
    "delete threshold exceeded": "Nothing was deleted and nothing was published: readers see the state before the run.",
    "differences found": "Nothing was repaired. What was loaded stays; audit.verification has the tables that differ.",
    "quarantine": "All other rows were published. Quarantined rows are kept with their reasons.",
    "files not read": "All other files were loaded. These are named in every run until they are gone or can be read; "
    "only new ones send a mail.",
    "verification late": "What was found was published. Of rows that are late, deletes and changes without a timestamp "
    "may be missing.",
    "recovered": "The problem is closed; the next one sends a new mail.",
    "reminder": "Nothing since. This mail comes again (DWH_REMINDER_HOURS) until it works again.",
}
# What to do next, if the error itself has no hint.
NEXT: dict[Kind, str] = {
    "failed": "Run `dwh doctor`, then run it again: nothing is loaded twice.",
    "crashed": "Nothing, if the next run succeeds. Else look for kill -9, a lack of memory or a reboot on its host.",
    "late": "Check that server and worker run and that the deployment is not paused: `dwh status`, `dwh doctor`.",
    "gate stopped": "Correct the source, or the contract if that is what is wrong, and run it again.",
    "delete threshold exceeded": "If the rows should be gone, run it again with --confirm-deletes; if not, "
    "restore them in the source.",
    "differences found": "Run `dwh reconcile`: it names the rows; with `--repair` it repairs them.",
    "quarantine": "`dwh quarantine list` lists them with their reasons.",
    "files not read": "Follow the hint beside each; `dwh status` lists them all.",
    "verification late": "`dwh reconcile` verifies all of it now. Run the flow more often, or raise DWH_VERIFY_WITHIN.",
    "recovered": "Nothing.",
    "reminder": "Follow the first mail about it; `dwh status` shows the last runs.",
}


@dataclass(frozen=True)
class Alert:
    """The contents of a mail: which flow, what happened, since when, and what to do next."""

    kind: Kind
    flow: str
    # Alerts with the same flow, kind and cause are one problem.
    cause: str
    what: str
    since: datetime
    hint: str | None = None
    run_id: int | None = None
    details: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    link: str | None = None
    # Owners to mail; if empty, DWH_ALERT_TO.
    recipients: Sequence[str] = ()

    @property
    def problem(self) -> str:
        """The key by which repeated alerts are recognized as one problem."""
        return " ".join(filter(None, (self.flow, self.kind, self.cause)))


@dataclass(frozen=True)
class Mail:
    """A mail as it is stored and sent."""

    subject: str
    body_text: str
    body_html: str


def compose(alert: Alert) -> Mail:
    """Compose the mail about `alert`, with passwords in URLs and connection strings removed."""
    headline = HEADLINES[alert.kind].format(flow=alert.flow)
    subject = f"[dwh] {headline}: {_line(redact(alert.what))}"
    if len(subject) > SUBJECT_LENGTH:
        subject = subject[: SUBJECT_LENGTH - 1].rstrip() + "…"
    words = {
        "headline": headline,
        "is_good": alert.kind == "recovered",
        "what": visible_lines(redact(alert.what)),
        # Names of files may contain line ends.
        "details": [visible(redact(detail)) for detail in alert.details],
        "since": format_time(alert.since),
        "done": DONE[alert.kind],
        "advice": visible_lines(redact(alert.hint or NEXT[alert.kind])),
        "facts": alert.facts,
        "link": alert.link,
    }
    templates = _templates()
    return Mail(
        subject,
        templates.get_template("mail.txt.j2").render(words).strip() + "\n",
        templates.get_template("mail.html.j2").render(words),
    )


def format_time(time: datetime) -> str:
    """Format a time for mails: UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_span(span: timedelta) -> str:
    """Format a span for mails: 3 days, 5 hours or 10 minutes."""
    minutes = int(span.total_seconds() // 60)
    for name, size in (("day", 1440), ("hour", 60)):
        if minutes >= size:
            return f"{minutes // size} {name}{'s' if minutes >= 2 * size else ''}"
    return f"{minutes} minutes"


def _line(text: str) -> str:
    # Make it a single line, since the error's text may contain line ends.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@cache
def _templates() -> "Environment":
    # Imported late: most runs send no mail.
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("warehouse.runs.alerts"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
