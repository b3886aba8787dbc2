"""The words of a mail: subject, plain text and HTML from one description of the problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Literal

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
    "recovered",
]

SUBJECT_LENGTH = 120
HEADLINES: dict[Kind, str] = {
    "failed": "{flow} failed",
    "crashed": "{flow} crashed",
    "late": "{flow} is late",
    "gate stopped": "{flow} was stopped by a quality gate",
    "delete threshold exceeded": "{flow} pulled the brake",
    "differences found": "{flow} found differences",
    "quarantine": "{flow} put many rows into quarantine",
    "recovered": "{flow} works again",
}
# What the warehouse did about it by itself.
DONE: dict[Kind, str] = {
    "failed": "What it had open was rolled back. Steps that had committed stay, and are not done twice.",
    "crashed": "Its transaction was rolled back, its locks are free, and the run is marked as crashed.",
    "late": "Nothing: it has not run as it should have.",
    "gate stopped": "Nothing of the batch was published: readers see the state before it.",
    "delete threshold exceeded": "Nothing was deleted and nothing was published: readers see the state before.",
    "differences found": "Nothing was mended. What had been loaded stays; audit.verification says which tables differ.",
    "quarantine": "Those rows wait in quarantine, whole and with their reasons; all others were published.",
    "recovered": "The problem is closed; the next one makes a new mail.",
}
# What to do where the error itself does not say.
NEXT: dict[Kind, str] = {
    "failed": "Run `dwh doctor`, then run it again: what is loaded already is not loaded twice.",
    "crashed": "Nothing, if the next run succeeds. Else look for kill -9, a full memory or a reboot on its host.",
    "late": "Look whether server and worker run and whether the deployment is paused: `dwh status`, `dwh doctor`.",
    "gate stopped": "Mend the source, or the contract where it is the contract that is wrong, and run it again.",
    "delete threshold exceeded": "If the rows are meant to be gone, run it again with confirmation; else correct the "
    "source.",
    "differences found": "Run `dwh reconcile`: it names the rows; with `--repair` it mends them.",
    "quarantine": "See `dwh quarantine list`; what is mended in the source is released by the next run.",
    "recovered": "Nothing.",
}


@dataclass(frozen=True)
class Alert:
    """What there is to tell: which flow, what happened, since when, and what to do next."""

    kind: Kind
    flow: str
    # Problems of the same flow, kind and cause are one problem.
    cause: str
    what: str
    since: datetime
    hint: str | None = None
    run_id: int | None = None
    details: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    link: str | None = None

    @property
    def problem(self) -> str:
        """What makes two alerts the same problem."""
        return " ".join(filter(None, (self.flow, self.kind, self.cause)))


@dataclass(frozen=True)
class Mail:
    """A mail as it is kept and sent."""

    subject: str
    body_text: str
    body_html: str


def compose(alert: Alert) -> Mail:
    """The mail that tells of `alert`; passwords of connection strings are taken out."""
    headline = HEADLINES[alert.kind].format(flow=alert.flow)
    subject = f"[dwh] {headline}: {_line(redact(alert.what))}"
    if len(subject) > SUBJECT_LENGTH:
        subject = subject[: SUBJECT_LENGTH - 1].rstrip() + "…"
    words = {
        "headline": headline,
        "is_good": alert.kind == "recovered",
        "what": redact(alert.what),
        "details": [redact(detail) for detail in alert.details],
        "since": told(alert.since),
        "done": DONE[alert.kind],
        "advice": redact(alert.hint or NEXT[alert.kind]),
        "facts": alert.facts,
        "link": alert.link,
    }
    templates = _templates()
    return Mail(
        subject,
        templates.get_template("mail.txt.j2").render(words).strip() + "\n",
        templates.get_template("mail.html.j2").render(words),
    )


def told(moment: datetime) -> str:
    """A moment as mails say it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _line(text: str) -> str:
    # A subject is one line, whatever the error's text holds.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@cache
def _templates() -> "Environment":
    # Only where there is something to tell: most runs have nothing.
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("warehouse.runs.alerts"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
