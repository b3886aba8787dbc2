"""Begin the transaction that writes the star: take its lock, refuse another release's tables, set id and costs."""

from collections.abc import Callable

import psycopg

from warehouse.db import staying_session
from warehouse.db.connections import without_password
from warehouse.db.locks import transaction_lock
from warehouse.db.schema_version import compare_revision, revision_of
from warehouse.history.change_log import STAR_LOCK
from warehouse.runs.audit import Run

# For statements over whole tables: hash tables in memory and parallel workers, but no JIT, which costs more than it
# saves. PostgreSQL's default costs of pages and operators fit here.
PLANNER_FOR_WHOLE_TABLES = (
    "set local work_mem = '96MB'; set local maintenance_work_mem = '256MB'; set local jit = off; "
    "set local parallel_setup_cost = 100; set local parallel_tuple_cost = 0.001; "
    "set local min_parallel_table_scan_size = '1MB'"
)
# For batches, lower costs of pages and operators as well, since recent rows are cached: if few rows changed, index
# scans are faster. No memoize: the keys of a batch are distinct, so cached look-ups are never used again.
PLANNER = (
    f"{PLANNER_FOR_WHOLE_TABLES}; "
    "set local seq_page_cost = 0.1; set local random_page_cost = 0.11; set local cpu_operator_cost = 0.0005; "
    "set local enable_memoize = off"
)


def begin_publishing(
    connection: psycopg.Connection,
    run: Run,
    progress: Callable[[str], None] = lambda _: None,
    *,
    planner: str = PLANNER,
) -> None:
    """Wait for the lock on the star, and have the change log record this transaction's changes under the run.

    Raises:
        SchemaOutdated: a newer release, or an older one, has migrated the warehouse since the run began.
    """
    transaction_lock(connection, STAR_LOCK, progress)
    staying_session.begin(connection)
    # Whoever migrates has this lock, too: the revision stays as it is while this publishes.
    if error := compare_revision(without_password(run.warehouse_url), revision_of(connection)):
        raise error
    connection.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
    connection.execute(planner.encode())
