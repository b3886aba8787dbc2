"""Errors that say what happened, to what, and what to do next."""

import signal
from collections.abc import Mapping, Sequence
from typing import Any


def summarize_error(error: BaseException) -> str:
    """What happened, in one line for the audit trail and mails."""
    # Prefect raises its own exception for a signal, which has the number too.
    number = getattr(error, "signal", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    if number is not None and not isinstance(error, Exception):
        return f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}"
    if isinstance(error, SystemExit):
        return f"The process is gone: it was ended from outside, as with its worker (exit code {error.code})."
    return str(getattr(error, "what", None) or f"{type(error).__name__}: {error}")


def visible(text: str) -> str:
    """Text for one line of a terminal, mail or page: what would end the line or be obeyed is written as \\n, \\x1b."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def visible_lines(text: str) -> str:
    """Text of several lines, each as `visible`."""
    return "\n".join(map(visible, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class WarehouseError(Exception):
    """What happened and to what (`what`), what to do next (`hint`), and the exit code of `dwh`."""

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
    """A database server answered and refused: a retry would not help."""


class UnsuitableDatabase(SettingsError):
    """A database, its server or the pooler before it cannot do what is asked of it."""


class SchemaOutdated(SettingsError):
    """The warehouse's schema is at another revision than this code needs."""


class TableMissing(WarehouseError):
    """A table or view of the warehouse does not exist: somebody has dropped it."""


class SchemaObjectInUse(WarehouseError):
    """What has to be dropped is a user's own, or something of a user's depends on it."""


class RunLost(WarehouseError):
    """The connection that held a run's locks broke: another run may have started meanwhile."""


class DiskFull(WarehouseError):
    """A database server has no disk space left."""


class SourceError(WarehouseError):
    """A source cannot be read completely: going on would lose rows."""


class SourceChanged(SourceError):
    """The URL of a source leads to another database than the one that was captured."""

    exit_code = 3


class BatchOutdated(SourceError):
    """Something else was published for a source after a run has read it."""


class SourceLocked(SourceError):
    """Somebody holds a lock on a table of a source that keeps everybody from reading it."""


class WarehouseLocked(WarehouseError):
    """Somebody else holds a lock on a table of the warehouse for so long that a run gave up."""


class UndecodableText(SourceError):
    """A text of a source cannot be delivered as UTF-8."""


class SchemaDrift(SourceError):
    """A source table no longer has the columns of its mirror."""


class DeclarationError(WarehouseError):
    """The declaration of a source, target, deployment or contract is invalid or missing."""

    exit_code = 2


class LockHeld(WarehouseError):
    """Another run holds the lock that this one needs."""


class AlreadyRecorded(WarehouseError):
    """A run met what an earlier run has recorded and mailed as its end, and published nothing."""


class StaleDefinition(WarehouseError):
    """What a source's rows were made by has changed: a scheduled run has to conform them again first."""


class QualityGateStopped(WarehouseError):
    """A check of a whole batch failed: the run published nothing."""

    exit_code = 3


class DeleteThresholdExceeded(WarehouseError):
    """More rows of a table vanished than one run may delete without confirmation."""

    exit_code = 3


class ReconformLimitExceeded(WarehouseError):
    """More rows would have to be conformed again, since their definition has changed, than a run does by itself."""

    exit_code = 3


class StepsFailed(WarehouseError):
    """Some steps of a flow failed; the others did their work."""

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
        # The worst: a step that failed, for whatever reason, is worse than one that a gate stopped.
        self.exit_code = 3 if all(getattr(error, "exit_code", 1) == 3 for error in failed.values()) else 1


class VerificationFailed(WarehouseError):
    """Source and mirror differ after a load."""

    exit_code = 3


class UndoRefused(WarehouseError):
    """A run cannot be undone."""

    exit_code = 2


class UndoBlocked(UndoRefused):
    """Later changes build on the run that is to be undone: undo them too, or not at all."""

    exit_code = 3


class DifferencesFound(VerificationFailed):
    """Reconcile found differences and did not repair them; `verdicts` lists them by table."""

    def __init__(self, what: str, *, verdicts: Sequence[Any], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.verdicts = tuple(verdicts)
