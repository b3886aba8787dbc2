"""Load a lake in a process of its own: `python -m bench.weblogs.ours URL LAKE HOME` prints the result as JSON."""

import json
import resource
import sys
import time
from pathlib import Path

from warehouse import weblogs
from warehouse.runs import audit
from warehouse.settings import Settings


def main() -> None:
    """Load new files, and print time, memory and rows."""
    url, lake, home = sys.argv[1:]
    settings = Settings(_env_file=None, home=Path(home), lake=lake, warehouse_url=url)
    started, cpu_started = time.perf_counter(), time.process_time()
    with audit.start_run(url, flow="ingest-weblogs") as run:
        loaded = weblogs.load(settings, run)
    result = {
        "seconds": time.perf_counter() - started,
        "client_cpu_seconds": time.process_time() - cpu_started,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "lines": loaded.lines,
        "rows": loaded.rows_loaded,
        "quarantined": loaded.rows_quarantined,
    }
    sys.stdout.write(json.dumps(result) + "\n")


main()
