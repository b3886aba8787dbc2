"""A run that met files which it cannot read succeeds, and its command ends with 3."""

import pytest
import typer

from cli.run import UNREAD_FILES, end_with_3_if_unread
from flows.result import FlowResult
from warehouse.files.lake import UnreadFile

IGNORED = UnreadFile("a.json", "ignored", "names like *.json are ignored", "Rename it.")
UNRECOGNIZED = UnreadFile("error.log", "unrecognized", "looks like an error log of nginx", "Move it.")
UNREAD = UnreadFile("pipe", "unread", "is a named pipe", "Move it.")


@pytest.mark.parametrize("file", [UNRECOGNIZED, UNREAD])
def test_daily_run_ends_with_3_by_the_files_of_its_step(file: UnreadFile) -> None:
    step = FlowResult("ingest-weblogs", 2, unread_files=[IGNORED, file])
    daily = FlowResult("daily-warehouse", 1, steps=[FlowResult("ingest-shop", 3), step])
    assert daily.every_unread_file == [IGNORED, file]
    with pytest.raises(typer.Exit) as ended:
        end_with_3_if_unread(daily)
    assert ended.value.exit_code == UNREAD_FILES == 3


def test_files_that_are_ignored_by_their_names_do_not_matter() -> None:
    end_with_3_if_unread(FlowResult("ingest-weblogs", 1, unread_files=[IGNORED]))
