"""Errors that tell a person what happened, to what, and what to do next."""

import signal
from collections.abc import Mapping, Sequence
from typing import Any


def summarize_error(error: BaseException) -> str:
    """What happened, in one line for trail and mail."""
    # Prefect has an exception of its own for a signal, with its number as well.
    number = getattr(error, "signal", signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    if number is not None and not isinstance(error, Exception):
        return f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}"
    return str(getattr(error, "what", None) or f"{type(error).__name__}: {error}")


class WarehouseError(Exception):
    """What happened and to what, with advice on what to do next; `exit_code` is what `dwh` ends with."""

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
    """A command or flow was asked for something that makes no sense."""


class ConnectionFailed(WarehouseError):
    """A database could not be reached."""


class AccessRefused(SettingsError):
    """A database server answered, and turned us away: trying again would not help."""


class SchemaOutdated(SettingsError):
    """The warehouse's migrations are not those of this code."""


class SchemaObjectInUse(WarehouseError):
    """A migration has to drop a view or function that somebody's own view depends on."""


class RunLost(WarehouseError):
    """The connection that held a run's locks is gone: another run may have begun meanwhile."""


class DiskFull(WarehouseError):
    """A database server has no room left."""


class SourceError(WarehouseError):
    """A source system cannot be read whole: reading on would lose rows."""


class SchemaDrift(SourceError):
    """A source table no longer has the columns that its mirror was made with."""


class DeclarationError(WarehouseError):
    """A source folder, dimension or contract is declared wrongly."""

    exit_code = 2


class LockHeld(WarehouseError):
    """Another run holds the lock that this one needs."""


class QualityGateStopped(WarehouseError):
    """A contract's dataset rule failed: nothing of the run was published."""

    exit_code = 3


class DeleteThresholdExceeded(WarehouseError):
    """More of a source table has vanished than may be deleted without confirmation."""

    exit_code = 3


class StepsFailed(WarehouseError):
    """Some steps of a flow failed; the others did their work."""

    def __init__(self, failed: Mapping[str, Exception], *, of: int, verdicts: Sequence[Any] = ()) -> None:
        reasons = [f"{name} ({getattr(error, 'what', error)})" for name, error in failed.items()]
        hints = [hint for error in failed.values() if (hint := getattr(error, "hint", ""))]
        super().__init__(
            f"{len(failed)} of {of} steps failed: {'; '.join(reasons)}", hint=" ".join(dict.fromkeys(hints))
        )
        self.failed, self.verdicts = dict(failed), tuple(verdicts)
        # The worst: a step that failed, for whatever reason, is worse than one that a gate stopped.
        self.exit_code = 3 if all(getattr(error, "exit_code", 1) == 3 for error in failed.values()) else 1


class VerificationFailed(WarehouseError):
    """Source and mirror differ after a load."""

    exit_code = 3


class UndoRefused(WarehouseError):
    """A run cannot be taken back."""

    exit_code = 2


class UndoBlocked(UndoRefused):
    """Something later was built on the run that is to be taken back: that wants to be confirmed."""

    exit_code = 3


class DifferencesFound(VerificationFailed):
    """A reconcile found rows that are not as they should be, and did not mend them; `verdicts` tell which."""

    def __init__(self, what: str, *, verdicts: Sequence[Any], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.verdicts = tuple(verdicts)
