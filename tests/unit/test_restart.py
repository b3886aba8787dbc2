"""Which steps of a run that stopped are still to be done."""

from collections.abc import Mapping, Sequence

import pytest

from warehouse.runs.resume import Step, outstanding

DAY = (Step("shop"), Step("logs"), Step("marts", needs=("shop", "logs")))


@pytest.mark.parametrize(
    ("succeeded", "left"),
    [
        ({}, ["shop", "logs", "marts"]),
        ({"shop": 2}, ["logs", "marts"]),
        ({"shop": 2, "logs": 3}, ["marts"]),
        ({"shop": 2, "logs": 3, "marts": 4}, []),
        # What was loaded after it was refreshed is not in it yet.
        ({"shop": 2, "logs": 7, "marts": 4}, ["marts"]),
        ({"logs": 3, "marts": 4}, ["shop", "marts"]),
    ],
)
def test_what_failed_is_done_again_and_so_is_what_needs_it(
    succeeded: Mapping[str, int], left: Sequence[str]
) -> None:
    assert list(outstanding(DAY, succeeded)) == left
