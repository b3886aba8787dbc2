"""Days as tests have them: a test that compares days must not run over midnight."""

import time
from datetime import UTC, datetime, timedelta, tzinfo


def await_whole_day(zone: tzinfo = UTC, *, seconds: float = 90) -> None:
    """Wait for midnight in `zone` if it is no more than these seconds away."""
    now = datetime.now(zone)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), zone)
    left = midnight.timestamp() - now.timestamp()
    if left <= seconds:
        time.sleep(left)
