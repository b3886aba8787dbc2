"""Errors of several steps: each hint with the steps that it is for."""

from warehouse.errors import ConnectionFailed, DeleteThresholdExceeded, StepsFailed
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.deletes import confirm_hint


def test_hints_of_failed_steps_name_their_steps() -> None:
    failed = {
        "ingest-acme": DeleteThresholdExceeded(
            "Too many rows.", hint=confirm_hint("acme", DeleteThreshold())
        ),
        "ingest-shop": ConnectionFailed("down", hint="Is it running?"),
        "ingest-weblogs": ConnectionFailed("down", hint="Is it running?"),
        "refresh-marts": ValueError("no hint"),
    }
    acme, down = StepsFailed(failed, of=5).hint.splitlines()
    assert acme.startswith("ingest-acme: Nothing of 'acme' was changed.")
    assert "`dwh run acme --confirm-deletes`" in acme
    assert down == "ingest-shop, ingest-weblogs: Is it running?"


def test_confirmation_keeps_the_options_without_which_the_run_would_be_refused() -> None:
    hint = confirm_hint("acme", DeleteThreshold(options=("--accept-source",)))
    assert "`dwh run acme --accept-source --confirm-deletes`" in hint
