"""Everything that a flow or command needs, imported once; in processes of flow_process and tests.command alone."""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event
from typing import Any

import soda_core.contracts.contract_verification  # noqa: F401
import soda_postgres  # noqa: F401

import warehouse.load.contract  # noqa: F401  # turns telemetry off before Soda is imported
from flows.engine import run_without_prefect

run_without_prefect()

import cli.main  # noqa: E402, F401
from flows.backfill import backfill  # noqa: E402, F401
from flows.daily_warehouse import daily_warehouse  # noqa: E402
from flows.databases import with_urls  # noqa: E402
from flows.export_tables import export_tables  # noqa: E402
from flows.ingest_source import ingest_source  # noqa: E402
from flows.ingest_weblogs import ingest_weblogs  # noqa: E402
from flows.maintain_archive import maintain_archive  # noqa: E402
from flows.rebuild import rebuild  # noqa: E402
from flows.refresh_marts import refresh_marts  # noqa: E402
from flows.replay_quarantine import discard_entries, replay  # noqa: E402
from flows.undo import undo_run  # noqa: E402
from warehouse.live import loop as live  # noqa: E402
from warehouse.runs.alerts.rules import Rules  # noqa: E402
from warehouse.runs.audit import code_version  # noqa: E402
from warehouse.runs.quarantine import Selection  # noqa: E402
from warehouse.settings import Settings  # noqa: E402
from warehouse.sources.declaration import read_declaration  # noqa: E402
from warehouse.sources.registry import find_source  # noqa: E402


def live_shop() -> None:
    """Be live until all that the shop has to show is published, and nothing was found twice in a row."""
    live.PAUSES = (0.1, 0.2, 0.4)
    settings, stop, answers = with_urls(Settings.load()), Event(), [True, True]
    environment = live.Environment(settings, Rules(), lambda *_: None)
    source = read_declaration(find_source("shop", settings.sources))
    loop = live.SourceLoop(source, settings.source_url("shop"), environment, stop)
    ask = loop._reader.has_moved

    def has_moved() -> bool:
        answers.append(ask())
        if not any(answers[-2:]):
            stop.set()
        return answers[-1]

    loop._reader.has_moved = has_moved  # type: ignore[method-assign]
    loop.run()


FLOWS: Mapping[str, Callable[..., Any]] = {
    # Tables are emptied on purpose.
    "ingest-shop": partial(ingest_source, "shop", confirm_deletes=True),
    "ingest-orders": partial(ingest_source, "orders"),
    "ingest-leads": partial(ingest_source, "leads"),
    "ingest-companies": partial(ingest_source, "companies"),
    "ingest-weblogs": ingest_weblogs,
    "live-shop": live_shop,
    "refresh-marts": refresh_marts,
    "daily-warehouse": daily_warehouse,
    "rebuild": rebuild,
    "replay-quarantine": lambda ids, edited: replay(Selection(ids), edited=edited.encode()),
    "discard-quarantine": lambda ids: discard_entries(Selection(ids), "not wanted"),
    "undo": undo_run,
    "maintain-archive": maintain_archive,
    "export-tables": export_tables,
}
# Remembered for all: asking git takes as long as a small run.
code_version()
# No process that is forked from this one looks for garbage among all that was imported, whose memory it would copy.
gc.collect()
gc.freeze()
