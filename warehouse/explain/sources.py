"""Which sources an explanation covers, and connections to those that can be queried."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import psycopg

from warehouse.db.connections import read_only_transaction
from warehouse.errors import WarehouseError
from warehouse.settings import Settings
from warehouse.sources.registry import declared_sources, read_source, sources_with_url
from warehouse.sources.source import Source


def captured_sources(
    connection: psycopg.Connection, settings: Settings, only: str | None = None
) -> list[Source]:
    """Return the declared sources that were captured or, if none was, that have a URL; with `only`, that one alone.

    Raises:
        SettingsError: there is no source of that name.
    """
    if only is not None:
        return [read_source(only, settings.sources)]
    rows = connection.execute("select distinct source from audit.watermark order by source").fetchall()
    declared = declared_sources(settings.sources)
    names = [name for (name,) in rows if name in declared] or sources_with_url(settings)
    return [read_source(name, settings.sources) for name in names]


@contextmanager
def readers_of(settings: Settings, sources: Sequence[Source]) -> Iterator[Mapping[str, psycopg.Connection]]:
    """Read-only transactions in those of the sources that have a URL and answer, by name."""
    with ExitStack() as stack:
        readers = {}
        for source in sources:
            try:
                url = settings.source_url(source.name)
                reader = read_only_transaction(source.name, url, application_name="dwh explain")
                readers[source.name] = stack.enter_context(reader)
            except WarehouseError:
                # The warehouse's own rows can be explained without the source.
                continue
        yield readers
