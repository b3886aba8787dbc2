"""The command `dwh`: what it understands, and how it ends."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from cli.backfill import backfill
from cli.demo import demo
from cli.doctor import doctor
from cli.explain import explain
from cli.generate import generate
from cli.geoip import geoip
from cli.maintenance import migrate, report
from cli.operations import deploy, watchdog
from cli.reconcile import reconcile
from cli.run import run
from cli.stack_commands import PSQL_CONTEXT, down, psql, up
from cli.status import status, with_usual_days
from cli.undo import undo

INTERRUPTED = 130
# What ends a service, and what a terminal that is closed says.
STOPS = (signal.SIGTERM, signal.SIGHUP)
EPILOG = """Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 stopped by a quality gate or brake,
128 + its number where a signal stopped it (130: Ctrl-C).
Settings come from the environment and from .env (see .env.example)."""


class Stopped(KeyboardInterrupt):
    """A signal has asked for the end: all that minds Ctrl-C minds it too."""

    signal = 0


class LogFormat(StrEnum):
    """How what is told while working is written."""

    text = "text"
    json = "json"


app = typer.Typer(
    name="dwh",
    help="A PostgreSQL warehouse fed by Prefect flows. Start with `dwh demo`.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="DWH_LOG_FORMAT", help="What is told while working, on stderr.")
    ] = LogFormat.text,
) -> None:
    """Options of every command."""
    os.environ["DWH_LOG_FORMAT"] = log_format.value


app.command()(demo)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(doctor)
app.command()(migrate)
app.add_typer(generate, name="generate")
app.add_typer(run, name="run")
app.command()(backfill)
app.add_typer(geoip, name="geoip")
app.command()(undo)
app.command()(explain)
app.command()(reconcile)
app.command()(report)
app.command()(deploy)
app.command()(watchdog)
app.command(context_settings=PSQL_CONTEXT)(psql)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What a terminal cannot show is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in own or "DWH_DEBUG" in os.environ
    # It may stand anywhere: people add it at the end of what failed.
    own, rest = [argument for argument in own if argument != "--debug"], given[len(own) :]
    if "--log-format" in own[1:]:
        at = own.index("--log-format")
        own = [*own[at : at + 2], *own[:at], *own[at + 2 :]]
    given = with_usual_days(own) + rest
    if debug:
        os.environ["DWH_DEBUG"] = "1"
    else:
        # It names host and user of a connection that an interrupt left at work, and the run says how it ended.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
    for number in STOPS:
        # nohup has it ignored
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        app(given, prog_name="dwh")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        with suppress(OSError):
            by = f" by {signal.Signals(Stopped.signal).name}" if Stopped.signal else ""
            sys.stderr.write(f"Stopped{by}. What was published stays; run it again to go on.\n")
        sys.exit(128 + Stopped.signal if Stopped.signal else INTERRUPTED)
    except BrokenPipeError:
        # Whoever read us has enough; Python would complain about it once more at exit.
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        sys.exit(_explain(error))


def _stop(number: int, _frame: FrameType | None) -> None:
    # A service manager may say it twice, and what is ended must end.
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    Stopped.signal = number
    raise Stopped


def _explain(error: Exception) -> int:
    """Say what happened and what to do next; the exit code."""
    from rich.markup import escape

    from cli.output import err

    what, advice = getattr(error, "what", None), getattr(error, "hint", "")
    if what is None and isinstance(error, OSError) and error.filename is not None:
        what = f"{error.filename}: {error.strerror}."
        advice = "Mend the path, or its rights; `--debug` shows who wanted it."
    elif what is None:
        what, advice = f"{type(error).__name__}: {error}", "Run it again with --debug to see where."
    err.print(f"[bold red]Error:[/] {escape(str(what).strip())}", soft_wrap=True)
    if advice:
        err.print(f"[bold]What to do:[/] {escape(advice)}", soft_wrap=True)
    return int(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
