"""Which test files run on one worker of pytest-xdist, and in what order: a long file that begins last runs alone."""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Files that run on one worker: what they share is made once, or they would wait for each other.
TOGETHER = (
    # A server to be killed, and what each flow does in peace.
    ("tests/faults/test_kill.py", "tests/faults/test_two_at_once.py"),
    # The names of deployments.
    ("tests/flows/test_deployments.py", "tests/flows/test_worker.py"),
)
# Files of more than twenty seconds, the longest first; all others follow as they are collected.
LONGEST = (
    *TOGETHER[0],
    *TOGETHER[1],
    *(
        f"tests/{folder}/test_{name}.py"
        for folder, names in (
            (
                "integration",
                "archive rebuild live cli large_tables cli_demo capture history own_feeds extending",
            ),
            ("integration", "dashboard_in_a_browser rebuild_feeds reconform"),
            ("flows", "daily_warehouse ingest_source"),
            ("integration", "migrations schema_objects reconcile joins local_stack archive_damage export"),
            ("integration", "several_sources daily_snapshot values_that_do_not_fit wheel feeds"),
        )
        for name in names.split()
    ),
)


class Schedule(LoadFileScheduling):
    """One file after the other to whichever worker is free, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((" ".join(files) for files in TOGETHER if file in files), file)


def sort_by_length(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
