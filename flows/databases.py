"""The databases that a run works on: those of the settings, else the embedded ones of the local stack."""

from stack.postgres import EmbeddedPostgres
from warehouse.db.connections import connect
from warehouse.db.schema_version import newest, revision_of
from warehouse.db.time_zone import zone_of
from warehouse.settings import Settings
from warehouse.sources.registry import sources_with_url

SHOP, WAREHOUSE = "shop", "warehouse"


def embedded_databases(settings: Settings) -> list[str]:
    """Return which of shop and warehouse are databases of the embedded server.

    The warehouse is embedded if it has no URL; the shop if it has none, unless the warehouse and some other source
    have URLs: such a user does not want a shop. With DWH_EMBEDDED=never none is embedded.
    """
    if settings.embedded == "never":
        return []
    has_shop = SHOP in settings.source_urls or bool(settings.warehouse_url and settings.source_urls)
    return [*([] if has_shop else [SHOP]), *([] if settings.warehouse_url else [WAREHOUSE])]


def loaded_sources(settings: Settings) -> list[str]:
    """Names of the sources that are loaded: those that have a URL, and the embedded shop, running or not."""
    return [*sources_with_url(settings), *(name for name in embedded_databases(settings) if name == SHOP)]


def embedded_server(settings: Settings) -> EmbeddedPostgres:
    """The embedded PostgreSQL of the local stack."""
    return EmbeddedPostgres(settings.home / "postgres")


def with_urls(settings: Settings, *, start: bool = True, migrate: bool = True) -> Settings:
    """Settings with the URLs of the embedded databases filled in.

    Args:
        settings: Settings to complete.
        start: Start the embedded server and create its databases as needed. If false, nothing is started or created,
            and there is no embedded shop if the warehouse has a URL and no server was ever started here.
        migrate: Migrate an embedded warehouse that has just been created or is outdated.
    """
    names = embedded_databases(settings)
    if not names:
        return settings
    server = embedded_server(settings)
    if start:
        server.start()
    elif WAREHOUSE not in names and not server.data.exists():
        # This machine only monitors a warehouse that others load: watchdog, metrics or status.
        return settings
    complete = settings
    if SHOP in names:
        complete = complete.with_source_url(SHOP, server.url(SHOP))
    if WAREHOUSE in names:
        complete = complete.with_warehouse_url(server.url(WAREHOUSE))
    if start:
        for name in names:
            server.create_database(name)
        if WAREHOUSE in names and migrate:
            _migrate(complete.warehouse, settings.time_zone)
    return complete


def shop_url(settings: Settings) -> str:
    """URL of the shop's database: that of the settings, else the embedded one, started and created as needed."""
    if SHOP not in settings.source_urls and settings.embedded != "never":
        server = embedded_server(settings)
        server.start()
        server.create_database(SHOP)
        return server.url(SHOP)
    return settings.source_url(SHOP)


def restart_server(warehouse_url: str) -> None:
    """Start the embedded server again if it holds this warehouse and has stopped: nothing else restarts it."""
    settings = Settings.load()
    server = embedded_server(settings)
    if settings.warehouse_url is None and server.data.exists() and server.url(WAREHOUSE) == warehouse_url:
        server.start()


def _migrate(url: str, time_zone: str | None) -> None:
    with connect(url, autocommit=True) as connection:
        is_current = revision_of(connection) == newest() and time_zone in (None, zone_of(connection))
    if not is_current:
        # Import Alembic, which takes long, only if there is something to migrate.
        from warehouse.migrations import revisions

        revisions.upgrade(url, time_zone=time_zone)
