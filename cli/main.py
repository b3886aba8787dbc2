"""Entry point of `dwh`: registers the commands, handles signals and errors, and sets the exit code."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from cli.api import api
from cli.archive import archive
from cli.backfill import backfill
from cli.dashboard import dashboard
from cli.demo import demo
from cli.doctor import doctor
from cli.explain import explain
from cli.export import export
from cli.features import features
from cli.generate import generate
from cli.geoip import geoip
from cli.live import live
from cli.maintenance import migrate, report
from cli.operations import deploy, metrics, watchdog, worker
from cli.options import DEBUG, Commands, Debug, Format, set_log_options
from cli.quarantine import quarantine
from cli.rebuild import rebuild
from cli.reconcile import reconcile
from cli.run import run
from cli.source import source
from cli.stack_commands import PSQL_CONTEXT, down, psql, up
from cli.status import status
from cli.tracking import read_env_file
from cli.undo import undo
from cli.weblogs import weblogs

if TYPE_CHECKING:
    from warehouse.errors import WarehouseError

INTERRUPTED = 130
# A service manager stops a service with SIGTERM; SIGHUP comes when the terminal is closed.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
EPILOG = """Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 a quality gate or threshold stopped the run, or
it met files that it cannot read (everything else is loaded),
128 + its number if a signal stopped it (130: Ctrl-C).
Settings come from the environment and from .env (see .env.example)."""


class Stopped(KeyboardInterrupt):
    """Raised by a stop signal; a KeyboardInterrupt, so that all code that handles Ctrl-C handles it, too."""

    signal = 0


class _InOrder(TyperGroup):
    """Lists commands and command groups in the order of PANELS, which is that of their first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in PANELS.values() for name in names]


PANELS: Mapping[str, Mapping[str, Callable[..., None] | typer.Typer]] = {
    "Get started": {
        "demo": demo, "up": up, "down": down, "status": status, "doctor": doctor, "migrate": migrate,
    },
    "Load data": {"source": source, "generate": generate, "run": run, "live": live, "backfill": backfill},
    "Check and correct": {
        "reconcile": reconcile, "quarantine": quarantine, "undo": undo, "explain": explain,
        "rebuild": rebuild,
    },
    "Use the data": {"report": report, "dashboard": dashboard, "features": features, "export": export},
    "Operate": {
        "api": api,
        "deploy": deploy, "worker": worker, "archive": archive, "watchdog": watchdog, "metrics": metrics,
        "geoip": geoip, "weblogs": weblogs, "psql": psql,
    },
}  # fmt: skip
app = Commands(
    name="dwh",
    cls=_InOrder,
    help="A PostgreSQL star schema fed by Prefect flows. Start with `dwh demo`.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(debug: Debug = False, log_format: Format = None) -> None:
    """Options that every command accepts."""
    set_log_options(debug, log_format)


for panel, commands in PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            settings = PSQL_CONTEXT if command is psql else None
            app.command(rich_help_panel=panel, context_settings=settings)(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Escape characters that the terminal's encoding does not have, instead of failing.
            stream.reconfigure(errors="backslashreplace")
    if DEBUG not in os.environ:
        # psycopg logs host and user of connections that an interrupt left busy; our own message reports the interrupt.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
    for number in STOP_SIGNALS:
        # nohup starts us with SIGHUP ignored: leave it ignored.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)
    read_env_file()
    try:
        app(arguments, prog_name="dwh")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        with suppress(OSError):
            by = f" by {signal.Signals(Stopped.signal).name}" if Stopped.signal else ""
            sys.stderr.write(f"Stopped{by}. What was published stays; run it again to continue.\n")
        sys.exit(128 + Stopped.signal if Stopped.signal else INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (as `| head`) is gone; Python would report that again at exit.
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if DEBUG in os.environ:
            raise
        sys.exit(_explain(error))


def _stop(number: int, _frame: FrameType | None) -> None:
    # A service manager may send the signal twice: the second one must not interrupt the clean-up.
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    Stopped.signal = number
    raise Stopped


def _explain(error: Exception) -> int:
    """Print what happened and what to do next; returns the exit code."""
    from rich.markup import escape

    from cli.output import err
    from warehouse.errors import WarehouseError, visible_lines

    if not isinstance(error, WarehouseError):
        error = _refusal_in(error) or error
    what, hint = getattr(error, "what", None), getattr(error, "hint", "")
    if what is None and isinstance(error, OSError) and error.filename is not None:
        what = f"{error.filename}: {error.strerror}."
        hint = "Correct the path or its permissions; `--debug` shows where it was used."
    elif what is None:
        what, hint = f"{type(error).__name__}: {error}", "Run it again with --debug to see where."
    err.print(f"[bold red]Error:[/] {escape(visible_lines(str(what).strip()))}", soft_wrap=True)
    if hint:
        err.print(f"[bold]What to do:[/] {escape(visible_lines(hint))}", soft_wrap=True)
    return int(getattr(error, "exit_code", 1))


def _refusal_in(error: BaseException) -> "WarehouseError | None":
    """Find a missing privilege or table of the warehouse among the causes of an error; None if there is none."""
    from psycopg.errors import InsufficientPrivilege, UndefinedTable

    from warehouse.db.connection_errors import explain_missing, explain_refusal

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InsufficientPrivilege | UndefinedTable):
        cause = cause.__cause__
    if isinstance(cause, UndefinedTable):
        return explain_missing("The database", cause)
    return None if cause is None else explain_refusal("The database", cause)


if __name__ == "__main__":
    main()
