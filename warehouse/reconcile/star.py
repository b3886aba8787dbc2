"""Mirror and star: the whole source is conformed anew, judged, and compared with dimensions, facts and quarantine."""

from collections.abc import Callable

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.load.conform import affected_table, conform
from warehouse.model.star import TARGETS, Dimension, Fact
from warehouse.reconcile.accounting import reconcile_quarantine
from warehouse.reconcile.facts import reconcile_calendar, reconcile_facts
from warehouse.reconcile.members import reconcile_members
from warehouse.reconcile.unknown import reconcile_unknown
from warehouse.reconcile.verdict import Verdict
from warehouse.reconcile.versions import reconcile_versions
from warehouse.sources.declaration import Entity, Source


def reconcile_star(
    connection: psycopg.Connection,
    run_id: int,
    source: Source,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Mend dimensions, facts and quarantine of `source`, by its mirrors, in the connection's transaction.

    Raises:
        DeclarationError: the source's SQL does not fit its mirrors.
    """
    targets = [
        (entity, target)
        for target in TARGETS
        if (entity := source.entities.get(target.entity)) and _is_captured(connection, entity)
    ]
    for entity, _ in targets:
        rows = _conform_whole(connection, entity)
        progress(f"{source.name}: {rows:,} rows of {entity.name} conformed anew")
    verdicts: dict[str, Verdict] = {}

    def keep(*found: Verdict) -> None:
        for verdict in found:
            earlier = verdicts.get(verdict.table_name)
            verdicts[verdict.table_name] = earlier.joined(verdict) if earlier else verdict
            progress(str(verdict))

    # What is set aside is not published: every batch is judged before the first is compared.
    for entity, target in targets:
        keep(reconcile_quarantine(connection, run_id, entity, target))
    for entity, target in targets:
        if isinstance(target, Dimension):
            reconcile = reconcile_versions if target.has_history else reconcile_members
            known = reconcile(connection, run_id, entity, target)
            keep(known.joined(reconcile_unknown(connection, source.name, target)))
    for entity, target in targets:
        if isinstance(target, Fact):
            keep(*reconcile_facts(connection, run_id, entity, target))
    if any(isinstance(target, Fact) for _, target in targets):
        keep(reconcile_calendar(connection, run_id))
    return list(verdicts.values())


def _is_captured(connection: psycopg.Connection, entity: Entity) -> bool:
    mirrors = [entity.table.mirror, *(parent.mirror for parent in entity.parents)]
    row = connection.execute(
        "select bool_and(to_regclass(format('raw.%%I', mirror)) is not null) from unnest(%s::text[]) as mirror",
        [mirrors],
    ).fetchone()
    return bool(row and row[0])


def _conform_whole(connection: psycopg.Connection, entity: Entity) -> int:
    """Fill the entity's batch with all that its mirrors hold; how many rows."""
    affected = affected_table(entity)
    connection.execute(sql.SQL("drop table if exists {}").format(affected))
    connection.execute(
        sql.SQL(
            """
            create unlogged table {affected} as
            select {key}, true as _is_stamped from {mirror} where not _is_deleted;
            analyze {affected}
            """
        ).format(
            affected=affected, key=listed(entity.table.key), mirror=sql.Identifier("raw", entity.table.mirror)
        )
    )
    return conform(connection, entity)
