"""A run that reads web logs with the slow parser says so."""

import pytest

from warehouse.weblogs.reader import native


def test_run_warns_of_the_slow_parser_and_names_make_setup(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import ingest_weblogs

    lines: list[str] = []
    monkeypatch.setattr(ingest_weblogs, "log", lambda line, *_: lines.append(line))
    monkeypatch.setattr(native, "fault", None)
    ingest_weblogs._warn_of_slow_parser()
    assert lines == []
    monkeypatch.setattr(native, "fault", native.OTHER_SOURCE)
    ingest_weblogs._warn_of_slow_parser()
    assert lines == [
        "Web logs are read by the slow parser: the compiled one was made of another weblogs/reader/scan.c than the one "
        "that is there now. Run `make setup`, or install dwh again."
    ]
