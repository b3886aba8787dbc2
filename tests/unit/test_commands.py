"""Every command that a message, hint, mail, help text or document names exists, with its options and arguments."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer._click.exceptions import ClickException, MissingParameter, UsageError

from cli.main import app

ROOT = Path(__file__).parents[2]
PACKAGES = ("warehouse", "cli", "flows", "stack", "generators", "api", "checks", "deployments")
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / ".env.example"]
# A command in running text, and one on a line of its own in a block of commands.
QUOTED = re.compile(r"`((?:dwh|make) [^`]+)`")
NAMED = re.compile(r"`(dwh|make)\b")
IN_BLOCK = re.compile(r"^(?:\$ )?((?:dwh|make) .*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Where a sentence stands for a value: what a placeholder is replaced by.
SAMPLES = {
    "RUN": "1", "ID": "1", "D": "2026-11-01", "D1": "2026-11-01", "D2": "2026-11-02", "N": "1",
    "FROM": "2026-11-01", "TO": "2026-11-02",
}  # fmt: skip
# File and command.
Where = tuple[str, str]


def texts_of(path: Path) -> Iterator[str]:
    """String constants of a Python file that names commands; values that are filled in are written as 1.

    Other files as they are.
    """
    if path.suffix != ".py":
        yield path.read_text()
        return
    source = path.read_text()
    # Most files name none, and to parse all of them takes seconds.
    if not NAMED.search(source):
        return
    nodes = [*ast.walk(ast.parse(source))]
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


@cache
def named_commands() -> list[Where]:
    """(file, command) of each command that the code or a document names."""
    files = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".toml", ".yml", ".yaml", ".j2", ".sql") and "versions" not in path.parts
    ]
    found = set()
    for path in [*files, *DOCUMENTS]:
        for text in texts_of(path):
            commands = QUOTED.findall(" ".join(text.split()) if path.suffix == ".py" else text)
            if path.suffix == ".md":
                commands = [
                    *(" ".join(one.split()) for one in commands),
                    *(line for block in BLOCK.findall(text) for line in IN_BLOCK.findall(block)),
                ]
            found |= {(str(path.relative_to(ROOT)), command) for command in commands}
    return sorted(found)


def words_of(command: str) -> list[str]:
    """Words of a command as a shell would pass them, without the sentence beside it, and with samples for values."""
    command = re.split(r"\s#|\s{2,}| \| | && | > |;|…", command.rstrip("."))[0]
    command = re.sub(r"\[--\w[^]]*\]|\[[A-Z]+\]", "", command)
    words = []
    for word in shlex.split(command):
        name = word.strip("<>")
        if re.fullmatch(r"[A-Za-z]+(\|[A-Za-z]+)+", word):
            word = word.split("|")[0]
        words.append(SAMPLES.get(name, name.lower() if name.isupper() else word))
    if words[:2] == ["dwh", "run"] and words[2:] and words[2] in ("1", "source", "name", "<name>", "cafe"):
        words[2] = "shop"
    if "--edited" in words[:-1]:
        # A file that exists.
        words[words.index("--edited") + 1] = __file__
    return words


def parse(words: list[str]) -> None:
    """Parse the words of a `dwh` command as the command line does, down to the last subcommand.

    Raises:
        UsageError: there is no such command, option or argument.
    """
    # typer has classes of its own for what click calls Command, Group and Context.
    command: Any = typer.main.get_command(app)
    parent: Any = None
    while True:
        if any(word in ("--help", "-h") for word in words):
            return
        if not words and hasattr(command, "resolve_command"):
            return
        context = command.make_context(command.name, list(words), parent=parent)
        if not hasattr(command, "resolve_command") or not (context._protected_args or context.args):
            return
        _, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, parent = found, context


def test_commands_are_found_in_messages_help_and_documents() -> None:
    commands = {command for _, command in named_commands()}
    assert len(commands) > 100
    assert {"dwh migrate", "dwh quarantine list", "dwh deploy --reset", "dwh undo 17 --cascade"} <= commands


@pytest.mark.parametrize(
    "command", sorted({command for _, command in named_commands() if command.startswith("dwh")})
)
def test_command_of_ours_that_is_named_somewhere_exists(command: str) -> None:
    places = [place for place, named in named_commands() if named == command]
    words = words_of(command)[1:]
    try:
        parse(words)
    except ClickException as error:
        # A command in a sentence is named without what it is to be about.
        is_complete = not isinstance(error, MissingParameter)
        assert not is_complete, f"{places}: `{command}`: {error.format_message()}"


def test_targets_of_make_that_are_named_somewhere_exist() -> None:
    # `make fault-…` are all targets that begin so.
    targets = {"fault-"} | set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (place, words_of(command)[1]) for place, command in named_commands() if command.startswith("make ")
    }
    assert [one for one in sorted(named) if one[1] not in targets] == []


@pytest.mark.parametrize(
    "command",
    [
        "dwh quarantine discard 1",
        "dwh status --nope",
        "dwh run shop --whole",
        "dwh undo seventeen",
        "dwh dance",
    ],
)
def test_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(UsageError):
        parse(words_of(command)[1:])
