"""The clock of tests: none begins shortly before midnight."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.clock import await_whole_day


@pytest.mark.parametrize(("before_midnight", "waits"), [(5, True), (600, False)])
def test_midnight_is_awaited_in_the_zone_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, before_midnight: int, waits: bool
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    now = datetime.now(UTC)
    of_day = timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    to_midnight = timedelta(days=1) - timedelta(seconds=before_midnight) - of_day
    # A zone in which it is shortly before midnight; an offset is less than a day, either way.
    await_whole_day(
        timezone(to_midnight if to_midnight < timedelta(hours=23) else to_midnight - timedelta(days=1))
    )
    assert [round(one) for one in waited] in ([[before_midnight], [before_midnight - 1]] if waits else [[]])
