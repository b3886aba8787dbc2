"""Flow watchdog: mark dead runs, mail what is late, and send queued mail."""

from flows.engine import flow
from flows.watch_round import NAME, Watched, watch_round


@flow(NAME)
def watchdog() -> Watched:
    """Mark runs whose process is gone as crashed, mail what is late, and send queued mail."""
    return watch_round()
