"""Errors of the warehouse: what happened, to what, and a hint what to do next."""

import signal
from collections.abc import Mapping, Sequence
from typing import Any


def summarize_error(error: BaseException) -> str:
    """Summarize an error in one line for the audit trail and mails."""
    # Prefect's own exception for a signal has the signal's number as an attribute.
    number = getattr(error, "signal", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    if number is not None and not isinstance(error, Exception):
        return f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}"
    if isinstance(error, SystemExit):
        return f"The process is gone: it was ended from outside, as with its worker (exit code {error.code})."
    return str(getattr(error, "what", None) or f"{type(error).__name__}: {error}")


def visible(text: str) -> str:
    """Escape a text for one line of a terminal, mail or page: line ends and control characters become \\n, \\x1b."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def visible_lines(text: str) -> str:
    """Escape each line of a text as `visible` does, and keep the line ends."""
    return "\n".join(map(visible, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class WarehouseError(Exception):
    """Base of all errors: `what` happened to what, a `hint` what to do next, and the exit code of `dwh`."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class SettingsError(WarehouseError):
    """A setting is missing or wrong."""

    exit_code = 2


class WrongParameters(SettingsError):
    """A command or flow was given parameters that do not make sense."""


class ConnectionFailed(WarehouseError):
    """A database could not be reached."""


class AccessRefused(SettingsError):
    """A database server refused a login or a privilege: a retry would not help."""


class UnsuitableDatabase(SettingsError):
    """A database, its server or its connection pooler does not support what dwh needs."""


class SchemaOutdated(SettingsError):
    """The warehouse's schema is not at the revision that this code needs."""


class TableMissing(WarehouseError):
    """A table or view of the warehouse was dropped by hand."""


class SchemaObjectInUse(WarehouseError):
    """An object that has to be dropped is a user's own, or a user's object depends on it."""


class RunLost(WarehouseError):
    """The connection that held a run's locks broke: another run may have started meanwhile."""


class DiskFull(WarehouseError):
    """A database server has no disk space left."""


class SourceError(WarehouseError):
    """A source cannot be read completely: to continue would lose rows."""


class SourceChanged(SourceError):
    """The URL of a source leads to another database than the one that was captured so far."""

    exit_code = 3


class BatchOutdated(SourceError):
    """Another run has published rows of a source after this run had read it."""


class SourceLocked(SourceError):
    """Another session holds an exclusive lock on a table of a source."""


class WarehouseLocked(WarehouseError):
    """Another session has locked a table of the warehouse for longer than a run waits."""


class UndecodableText(SourceError):
    """A text of a source cannot be converted to UTF-8."""


class SchemaDrift(SourceError):
    """A source table no longer has the columns of its mirror."""


class DeclarationError(WarehouseError):
    """The declaration of a source, target, deployment or contract is invalid or missing."""

    exit_code = 2


class LockHeld(WarehouseError):
    """Another run holds the lock that this one needs."""


class AlreadyRecorded(WarehouseError):
    """A run failed with the same error that an earlier run has recorded and mailed already."""


class StaleDefinition(WarehouseError):
    """The SQL or declaration of a source's targets has changed: a scheduled run has to conform all rows again first."""


class QualityGateStopped(WarehouseError):
    """A check of a whole batch failed: the run published nothing."""

    exit_code = 3


class DeleteThresholdExceeded(WarehouseError):
    """More rows of a table were deleted at the source than one run may delete without confirmation."""

    exit_code = 3


class ReconformLimitExceeded(WarehouseError):
    """A definition has changed, and more rows would have to be conformed again than DWH_RECONFORM_ROWS allows."""

    exit_code = 3


class StepsFailed(WarehouseError):
    """Some steps of a flow failed; the other steps were done."""

    def __init__(self, failed: Mapping[str, Exception], *, of: int, verdicts: Sequence[Any] = ()) -> None:
        reasons = [f"{name} ({getattr(error, 'what', error)})" for name, error in failed.items()]
        steps_by_hint: dict[str, list[str]] = {}
        for name, error in failed.items():
            if hint := getattr(error, "hint", ""):
                steps_by_hint.setdefault(hint, []).append(name)
        super().__init__(
            f"{len(failed)} of {of} steps failed: {'; '.join(reasons)}",
            hint="\n".join(f"{', '.join(steps)}: {hint}" for hint, steps in steps_by_hint.items()),
        )
        self.failed, self.verdicts = dict(failed), tuple(verdicts)
        # Use the worst exit code: 1 (a step failed) is worse than 3 (a gate or threshold stopped a step).
        self.exit_code = 3 if all(getattr(error, "exit_code", 1) == 3 for error in failed.values()) else 1


class VerificationFailed(WarehouseError):
    """Source and mirror differ after a load."""

    exit_code = 3


class UndoRefused(WarehouseError):
    """A run cannot be undone."""

    exit_code = 2


class UndoBlocked(UndoRefused):
    """Later runs depend on the run to undo: they have to be undone, too."""

    exit_code = 3


class DifferencesFound(VerificationFailed):
    """Reconcile found differences and did not repair them; `verdicts` has them by table."""

    def __init__(self, what: str, *, verdicts: Sequence[Any], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.verdicts = tuple(verdicts)
