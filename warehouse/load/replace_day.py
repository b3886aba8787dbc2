"""Facts of a day derived from the mirrors again, whatever the star holds of that day."""

import time
from datetime import date

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.db.identifiers import listed
from warehouse.db.locks import transaction_lock
from warehouse.errors import SourceError
from warehouse.history.change_log import STAR_LOCK
from warehouse.load import quarantine
from warehouse.load.conform import affected_table, comment_affected, conform, conformed, fill_removed
from warehouse.load.facts import merge_fact
from warehouse.load.fit import UNFIT
from warehouse.load.publish import PLANNER, check
from warehouse.model.contracts import read_contract
from warehouse.model.star import FACTS, Fact
from warehouse.runs.audit import CheckResult, Load, Run, ensure_alive, record_load
from warehouse.sources.declaration import Entity, Source


def rederive(run: Run, source: Source, day: date) -> tuple[Load, ...]:
    """Replace the facts of a day (UTC), in one transaction; doing it again changes nothing.

    Every row that the mirrors now say belongs to the day is conformed, judged and merged, and so is every row that the
    star holds of it: what has gone from the mirrors goes, what belongs to another day goes there.

    Raises:
        SourceError: the source has not been captured yet.
        QualityGateStopped: a contract's dataset rule failed; nothing was changed.
    """
    loads = []
    with connect(run.warehouse_url, application_name=f"dwh {run.flow} {day}") as connection:
        transaction_lock(connection, STAR_LOCK)
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
        connection.execute(PLANNER)
        for fact in FACTS:
            if entity := source.entities.get(fact.entity):
                loads.append(_replace(connection, run, source, entity, fact, day))
                record_load(connection, run.run_id, loads[-1])
        ensure_alive(run)
    return tuple(loads)


def _replace(
    connection: psycopg.Connection, run: Run, source: Source, entity: Entity, fact: Fact, day: date
) -> Load:
    started = time.monotonic()
    read = _find_day(connection, entity, fact, day)
    rows = conform(connection, entity)
    fill_removed(connection, entity, fact)
    checks: list[CheckResult] = []
    contract = read_contract(fact.entity, entity.lacks)
    quarantined = check(connection, run, source.name, fact, contract, checks) if rows else 0
    quarantine.resolve(connection, run.run_id, source.name, fact)
    counts = merge_fact(connection, run.run_id, source.name, fact, all_new=False)
    return Load(
        source.name,
        f"dwh.{fact.table}",
        window_low=str(day),
        window_high=str(day),
        rows_read=read,
        rows_inserted=counts["inserted"],
        rows_updated=counts["updated"],
        rows_deleted=counts["deleted"],
        rows_unchanged=max(rows - quarantined - counts["inserted"] - counts["updated"], 0),
        rows_quarantined=quarantined,
        seconds=round(time.monotonic() - started, 3),
    )


def _find_day(connection: psycopg.Connection, entity: Entity, fact: Fact, day: date) -> int:
    """Fill the affected keys with those of the day, by the mirrors and by the star; how many."""
    types = _types(connection, entity)
    names = {
        "affected": affected_table(entity),
        "mirror": sql.Identifier("raw", entity.table.mirror),
        "key": listed(entity.table.key),
        "key_texts": sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in entity.table.key
        ),
        "entity": sql.Literal(entity.name),
        "unfit": sql.Literal(UNFIT),
        "natural": sql.SQL(", ").join(
            sql.SQL("{}::{} as {}").format(
                sql.Identifier(natural), sql.SQL(types[name]), sql.Identifier(name)
            )
            for natural, name in zip(fact.natural_key, entity.table.key, strict=True)
        ),
        "event": sql.Identifier(fact.event_time),
        "fact": sql.Identifier("dwh", fact.table),
        "source": sql.Literal(entity.source),
        "low": sql.SQL("{}::timestamp at time zone 'UTC'").format(sql.Literal(str(day))),
    }
    # For once every row of the mirror is looked at, and the source's own SQL says which are of the day; not of those
    # that it cannot convert.
    connection.execute(
        sql.SQL(
            "drop table if exists {affected}; "
            "create view {affected} as select {key}, true as _is_stamped from {mirror} "
            "where not _is_deleted and array[{key_texts}] not in (select row_key from audit.quarantine "
            "where source = {source} and entity = {entity} and resolved_at is null "
            "and row_key is not null and starts_with(rules[1], {unfit}))"
        ).format(**names)
    )
    connection.execute(
        sql.SQL(
            """
            create temp table day_keys on commit drop as
            select {natural} from ({conformed}) as conformed
            where conformed.{event} >= {low} and conformed.{event} < {low} + interval '1 day'
            union
            select {natural} from {fact} as fact
            where fact.{event} >= {low} and fact.{event} < {low} + interval '1 day' and fact.source_system = {source}
            """
        ).format(**names, conformed=conformed(entity))
    )
    connection.execute(sql.SQL("drop view {affected}").format(**names))
    made = connection.execute(
        sql.SQL(
            "create unlogged table {affected} as "
            "select {key}, false as _is_stamped, false as _is_new, false as _is_outdated "
            "from pg_temp.day_keys"
        ).format(**names)
    )
    connection.execute("drop table pg_temp.day_keys")
    comment_affected(connection, entity)
    connection.execute(sql.SQL("analyze {affected}").format(**names))
    return made.rowcount


def _types(connection: psycopg.Connection, entity: Entity) -> dict[str, str]:
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('raw.%%I', %s::text)) and attnum > 0 and not attisdropped
        """,
        [entity.table.mirror],
    ).fetchall()
    if not rows:
        raise SourceError(
            f"Source '{entity.source}' has not been captured yet: there is no raw.{entity.table.mirror}.",
            hint="Run `dwh run shop` first.",
        )
    return dict(rows)
