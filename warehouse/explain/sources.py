"""Which sources an explanation may look into, and connections to those that can be asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import psycopg

from warehouse.db.connections import connect
from warehouse.errors import WarehouseError
from warehouse.settings import Settings
from warehouse.sources.declaration import Source, read_source


def captured_sources(connection: psycopg.Connection, usual: str, wanted: str | None = None) -> list[Source]:
    """Sources that have been captured, the usual one first; `wanted`: that one alone.

    Raises:
        SettingsError: there is no source of that name.
    """
    if wanted is not None:
        return [read_source(wanted)]
    rows = connection.execute(
        "select source from audit.watermark group by source order by source <> %s, source", [usual]
    ).fetchall()
    return [read_source(name) for (name,) in rows] or [read_source(usual)]


@contextmanager
def readers_of(settings: Settings, sources: Sequence[Source]) -> Iterator[Mapping[str, psycopg.Connection]]:
    """Read-only connections by source: the settings tell of one; where it does not answer, none."""
    with ExitStack() as stack:
        readers = {}
        if settings.source in {source.name for source in sources}:
            try:
                reader = stack.enter_context(connect(settings.captured, application_name="dwh explain"))
                reader.set_read_only(True)
                readers[settings.source] = reader
            except WarehouseError:
                # What the warehouse knows needs no source.
                pass
        yield readers
