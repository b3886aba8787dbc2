"""Live loading: one long-running process, without Prefect, publishes changes of the sources within a second."""

from collections.abc import Sequence
from threading import Event, Thread

from flows.databases import loaded_sources, restart_server, with_urls
from flows.engine import log
from flows.notify import alert_rules, send_mail
from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import LockHeld, RunLost, WrongParameters
from warehouse.live.archive import ArchiveLoop
from warehouse.live.loop import Environment, SourceLoop
from warehouse.live.marts import MartLoop
from warehouse.runs import live_process
from warehouse.settings import Settings
from warehouse.sources.declaration import read_declaration
from warehouse.sources.registry import find_source
from warehouse.sources.source import Source


def go_live(names: Sequence[str] = (), *, stop: Event | None = None) -> None:
    """Publish what changes in these sources, or in all that have a URL, until `stop` is set or a signal comes.

    Raises:
        LockHeld: another process is live for one of them.
    """
    settings = with_urls(Settings.load())
    stop = stop or Event()
    marts = MartLoop(settings.warehouse, stop, log)
    environment = Environment(
        settings,
        alert_rules(LockHeld, RunLost),
        log,
        published=lambda run, _: marts.published(run.run_id),
        restart=lambda: restart_server(settings.warehouse),
        send_mail=lambda: send_mail(settings.warehouse),
    )
    loops = [
        SourceLoop(source, settings.source_url(source.name), environment, stop)
        for source in _sources(settings, names)
    ]
    ended: list[BaseException] = []

    def work(loop: SourceLoop) -> None:
        try:
            loop.run()
        except BaseException as error:
            ended.append(error)
            # End the whole process, so that its supervisor or user sees the error of this loop.
            stop.set()

    threads = [
        Thread(target=work, args=[loop], name=f"live {loop.source.name}", daemon=True) for loop in loops
    ]
    threads.append(Thread(target=marts.run, name="live marts", daemon=True))
    archive = ArchiveLoop(settings, stop, log) if settings.archive else None
    if archive is not None:
        threads.append(Thread(target=archive.run, name="live archive", daemon=True))
    for thread in threads:
        thread.start()
    log(f"live: {', '.join(loop.source.name for loop in loops)}; SIGTERM or Ctrl-C ends it")
    try:
        stop.wait()
    except KeyboardInterrupt:
        log("live ends after the batch that it is at")
        stop.set()
    marts.wake()
    for thread in threads:
        thread.join()
    if archive is not None:
        archive.add(at_once=True)
    if ended:
        raise ended[0]


def resume_live(names: Sequence[str] = ()) -> list[str]:
    """Resume live loading that an undo has paused; returns the names of the sources that were paused."""
    settings = with_urls(Settings.load())
    ensure_migrated(settings.warehouse)
    with connect(settings.warehouse, autocommit=True) as connection:
        return live_process.resume(connection, [source.name for source in _sources(settings, names)])


def _sources(settings: Settings, names: Sequence[str]) -> list[Source]:
    declared = [
        read_declaration(find_source(name, settings.sources)) for name in names or loaded_sources(settings)
    ]
    if feeds := [source.name for source in declared if source.feed and names]:
        raise WrongParameters(
            f"{', '.join(feeds)} is read from files.", hint="Live reads databases; files come by `dwh run`."
        )
    return [source for source in declared if not source.feed]
