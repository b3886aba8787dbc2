"""Which databases a run works on: those of the settings, else the embedded ones of the local stack."""

from pydantic import SecretStr

from stack.postgres import EmbeddedPostgres
from warehouse.db.connections import connect
from warehouse.db.schema_version import newest, revision_of
from warehouse.settings import Settings

SHOP, WAREHOUSE = "shop", "warehouse"


def uses_embedded(settings: Settings) -> bool:
    """Whether the warehouse or what it captures is an embedded database."""
    return settings.warehouse_url is None or (settings.shop_url is None and settings.source_url is None)


def embedded(settings: Settings) -> EmbeddedPostgres:
    """The embedded PostgreSQL of the local stack."""
    return EmbeddedPostgres(settings.home / "postgres")


def located(settings: Settings, *, migrate: bool = True) -> Settings:
    """Settings in which every database has its URL; embedded ones are started, made and migrated as needed."""
    if not uses_embedded(settings):
        return settings
    server = embedded(settings)
    server.start()
    located = found(settings)
    if settings.shop_url is None:
        server.create_database(SHOP)
    if settings.warehouse_url is None:
        server.create_database(WAREHOUSE)
        with connect(located.warehouse, autocommit=True) as connection:
            revision = revision_of(connection)
        if migrate and revision != newest():
            # Alembic is heavy: only where there is work for it.
            from warehouse import migrations

            migrations.upgrade(located.warehouse)
    return located


def found(settings: Settings) -> Settings:
    """The same, starting and making nothing: of embedded databases the URL, whether they are there or not."""
    if not uses_embedded(settings):
        return settings
    server = embedded(settings)
    return settings.model_copy(
        update={
            "shop_url": settings.shop_url or SecretStr(server.url(SHOP)),
            "warehouse_url": settings.warehouse_url or SecretStr(server.url(WAREHOUSE)),
        }
    )


def bring_back(warehouse_url: str) -> None:
    """Start the embedded server of this warehouse again if it has ended: none survives every crash without help."""
    settings = Settings.load()
    server = embedded(settings)
    if settings.warehouse_url is None and server.data.exists() and server.url(WAREHOUSE) == warehouse_url:
        server.start()
