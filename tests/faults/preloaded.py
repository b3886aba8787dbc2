"""Everything that a flow needs, imported once; in processes of tests.faults.flow_process alone."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import soda_core.contracts.contract_verification  # noqa: F401
import soda_postgres  # noqa: F401

import warehouse.load.contract  # noqa: F401  # turns telemetry off before Soda is imported
from flows.engine import run_without_prefect

run_without_prefect()

from flows.daily_warehouse import daily_warehouse  # noqa: E402
from flows.ingest_source import ingest_source  # noqa: E402
from flows.ingest_weblogs import ingest_weblogs  # noqa: E402
from flows.rebuild import rebuild  # noqa: E402
from flows.refresh_marts import refresh_marts  # noqa: E402
from warehouse.runs.audit import code_version  # noqa: E402

FLOWS: Mapping[str, Callable[..., Any]] = {
    # Tables are emptied on purpose.
    "ingest-shop": partial(ingest_source, "shop", confirm_deletes=True),
    "ingest-weblogs": ingest_weblogs,
    "refresh-marts": refresh_marts,
    "daily-warehouse": daily_warehouse,
    "rebuild": rebuild,
}
# Remembered for all: asking git takes as long as a small run.
code_version()
