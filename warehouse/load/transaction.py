"""The transaction that writes the star: one at a time, under the id of its run, planned for whole batches."""

from collections.abc import Callable

import psycopg

from warehouse.db import staying_session
from warehouse.db.locks import transaction_lock
from warehouse.history.change_log import STAR_LOCK

# Set-based statements: hashes that fit in memory, workers, no JIT, which costs more than it saves. Where whole tables
# are joined, PostgreSQL's own costs of pages and comparisons are right.
PLANNER_FOR_WHOLE_TABLES = (
    "set local work_mem = '96MB'; set local maintenance_work_mem = '256MB'; set local jit = off; "
    "set local parallel_setup_cost = 100; set local parallel_tuple_cost = 0.001; "
    "set local min_parallel_table_scan_size = '1MB'"
)
# Over a batch also cheap pages and comparisons, since recent rows are in memory: where few rows changed, index probes
# beat scans. No memoize: the keys of a batch differ, so a cache of look-ups is filled in vain.
PLANNER = (
    f"{PLANNER_FOR_WHOLE_TABLES}; "
    "set local seq_page_cost = 0.1; set local random_page_cost = 0.11; set local cpu_operator_cost = 0.0005; "
    "set local enable_memoize = off"
)


def begin_publishing(
    connection: psycopg.Connection,
    run_id: int,
    progress: Callable[[str], None] = lambda _: None,
    *,
    planner: str = PLANNER,
) -> None:
    """Wait for the lock on the star, and let the change log record this transaction's changes under the run."""
    transaction_lock(connection, STAR_LOCK, progress)
    staying_session.begin(connection)
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
    connection.execute(planner.encode())
