"""Options that many commands have: --json; --debug and --log-format, which people add at the end of what failed."""

import inspect
import logging
import os
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import typer

DEBUG, LOG_FORMAT = "DWH_DEBUG", "DWH_LOG_FORMAT"


class LogFormat(StrEnum):
    """How log lines are written to stderr."""

    text = "text"
    json = "json"


Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")]
Format = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format", envvar=LOG_FORMAT, help="Format of log lines on stderr.", show_default="text"
    ),
]


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Commands(typer.Typer):
    """A group of commands that all accept the log options. Only `dwh --help` lists these options."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        register = super().command(name, **settings)

        def decorate(function: Any) -> Any:
            register(_with_log_options(function))
            return function

        return decorate


def set_log_options(debug: bool, log_format: LogFormat | None) -> None:
    """Keep the options in the environment, where every process that this one starts sees them."""
    if debug:
        os.environ[DEBUG] = "1"
        logging.getLogger("psycopg").setLevel(logging.NOTSET)
    if log_format is not None:
        os.environ[LOG_FORMAT] = log_format.value


def _with_log_options(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, debug: bool, log_format: LogFormat | None, **options: Any) -> Any:
        set_log_options(debug, log_format)
        return function(*args, **options)

    signature = inspect.signature(function, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("debug", False, Annotated[bool, typer.Option("--debug", hidden=True)]),
            ("log_format", None, Annotated[LogFormat | None, typer.Option("--log-format", hidden=True)]),
        )
    ]
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return call
