"""Conform: a source's own SQL, run for the keys that its changes affect, fills the entity's batch."""

from collections.abc import Iterable, Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.db.identifiers import listed, qualified
from warehouse.errors import DeclarationError
from warehouse.extract.mirror import Column
from warehouse.load.conversion import create_unconvertible, fill_by_halves, unconvertible_table
from warehouse.load.fit import scales
from warehouse.model.star import TARGETS, Dimension, Fact
from warehouse.sources.declaration import Entity, Table


def affected_table(entity: Entity) -> sql.Identifier:
    """Table of the keys, as the source has them, that a run must conform."""
    return sql.Identifier("staging", f"{entity.source}_{entity.name}_affected")


def batch_table(entity: str) -> sql.Identifier:
    """Table that holds an entity's conformed batch."""
    return sql.Identifier("staging", f"conformed_{entity}")


def find_affected(
    connection: psycopg.Connection,
    run_id: int,
    entity: Entity,
    target: Dimension | Fact,
    columns: Sequence[Column],
) -> int:
    """Fill the affected keys; how many.

    They are the rows that changed, the rows whose parents did, those that wait in quarantine, and the facts whose
    dimension version was closed under them or whose member has come late. Each is marked by whether a stamp of the
    source tells when it changed, by whether its row has come with this run, and by whether a version was closed.
    """
    affected = affected_table(entity)
    connection.execute(sql.SQL("drop table if exists {}").format(affected))
    types = {column.name: column.type for column in columns}
    found = [_changed(entity)]
    found += [_changed_parent(entity, parent, names) for parent, names in entity.parents.items()]
    found.append(_waiting(entity, types))
    if isinstance(target, Fact):
        found += _outdated(connection, run_id, entity, target, types)
        found += _late_members(connection, run_id, entity, target, types)
        found += _refused_members(connection, run_id, entity, target, types)
    query = sql.SQL(
        "select {keys}, bit_or(_marks) & 1 > 0 as _is_stamped, bit_or(_marks) & 2 > 0 as _is_new, "
        "bit_or(_marks) & 4 > 0 as _is_outdated from ({found}) as found group by {keys}"
    ).format(keys=listed(entity.table.key), found=sql.SQL(" union all ").join(found))
    made = connection.execute(sql.SQL("create unlogged table {} as {}").format(affected, query))
    comment_affected(connection, entity)
    analyze_briefly(connection, affected)
    return made.rowcount


def conform(connection: psycopg.Connection, entity: Entity) -> int:
    """Fill the entity's batch by the source's SQL; how many rows, those that cannot be converted included.

    Raises:
        DeclarationError: the SQL fails, or delivers other columns than the entity has.
        SourceError: too many rows cannot be converted.
    """
    batch = batch_table(entity.name)
    connection.execute(sql.SQL("truncate {}").format(batch))
    selected = delivered_values(connection, entity)
    insert = sql.SQL("insert into {} ({}) select {} from ({}) as conformed").format(
        batch, listed(list(selected)), sql.SQL(", ").join(selected.values()), conformed(entity)
    )
    create_unconvertible(connection, entity.name)

    def fill() -> int:
        return connection.execute(insert).rowcount

    try:
        with connection.transaction():
            rows = fill()
    except psycopg.DataError:
        fill_by_halves(connection, entity, affected_table(entity), fill, selected, conformed(entity))
        rows = sum(_count(connection, table) for table in (batch, unconvertible_table(entity.name)))
    analyze_batch(connection, entity, list(selected))
    return rows


def analyze_batch(connection: psycopg.Connection, entity: Entity, columns: Sequence[str]) -> None:
    """Analyze the columns by which the batch is joined: text that nobody joins by takes most of the time."""
    joined = [name for name in columns if name.endswith(("_id", "_at"))]
    analyze_briefly(connection, batch_table(entity.name), joined)


def delivered_columns(connection: psycopg.Connection, entity: Entity) -> list[str]:
    """Columns that the entity's SQL delivers, checked against those that the batch has and the source lacks."""
    where = f"warehouse/sources/{entity.source}/conform/{entity.name}.sql"
    try:
        with connection.transaction():
            described = connection.execute(
                sql.SQL("select * from ({}) as conformed limit 0").format(conformed(entity))
            )
    except psycopg.Error as error:
        raise DeclarationError(
            f"{where} cannot be run: {str(error).strip().splitlines()[0]}.",
            hint="It must be one select over the mirrors (raw.…) and its affected keys.",
        ) from None
    delivered = [column.name for column in described.description or ()]
    wanted = set(_batch_columns(connection, entity.name)) - {"source_system"}
    unknown = sorted(set(delivered) - wanted)
    missing = sorted(wanted - set(delivered) - entity.lacks)
    if unknown or missing:
        said = [f"delivers unknown columns: {', '.join(unknown)}"] if unknown else []
        said += [f"does not deliver: {', '.join(missing)}"] if missing else []
        raise DeclarationError(
            f"{where} {'; '.join(said)}.",
            hint="Rename or add them, or list what the source has nothing for under lacks in "
            f"[entities.{entity.name}].",
        )
    return delivered


def delivered_values(connection: psycopg.Connection, entity: Entity) -> dict[str, sql.Composable]:
    """By column of the batch, what is selected for it: numbers with as many decimal places as the star has."""
    (target,) = (target for target in TARGETS if target.entity == entity.name)
    places = scales(target)
    values: dict[str, sql.Composable] = {"source_system": sql.Literal(entity.source)}
    for name in delivered_columns(connection, entity):
        values[name] = sql.Identifier("conformed", name)
        if name in places:
            values[name] = sql.SQL("round({}::numeric, {})").format(values[name], sql.Literal(places[name]))
    return values


def forget_stale_stamps(connection: psycopg.Connection, entity: Entity, dimension: Dimension) -> None:
    """Empty `changed_at` of the rows that changed without a stamp: it tells of an earlier change.

    So it is where a trigger was disabled, or a parent vanished; such a version starts at the snapshot.
    """
    (natural,), (key,) = dimension.natural_key, entity.table.key
    connection.execute(
        sql.SQL(
            """
            update {batch} as batch set changed_at = null from {affected} as affected
            where not affected._is_stamped and batch.changed_at is not null and batch.{natural} = affected.{key}::text
            """
        ).format(
            batch=batch_table(entity.name),
            affected=affected_table(entity),
            natural=sql.Identifier(natural),
            key=sql.Identifier(key),
        )
    )


def fill_removed(connection: psycopg.Connection, entity: Entity, target: Dimension | Fact) -> int:
    """Fill pg_temp.removed with the natural keys that were affected and are no longer conformed; how many."""
    key = entity.table.key
    connection.execute("drop table if exists pg_temp.removed")
    made = connection.execute(
        sql.SQL(
            """
            create temp table removed on commit drop as
            select {keys} from {affected} as affected
            where not exists (select from {batch} as batch where {same})
                and array[{key}] not in (select row_key from {unconvertible})
            """
        ).format(
            keys=natural_keys(entity, target),
            affected=affected_table(entity),
            batch=batch_table(entity.name),
            unconvertible=unconvertible_table(entity.name),
            key=sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier("affected", column)) for column in key
            ),
            same=sql.SQL(" and ").join(
                sql.SQL("{} = {}::text").format(
                    sql.Identifier("batch", natural), sql.Identifier("affected", column)
                )
                for column, natural in zip(key, target.natural_key, strict=True)
            ),
        )
    )
    return made.rowcount


def known_keys(entity: Entity, target: Dimension | Fact) -> sql.Composable:
    """Select the natural keys that were affected, without those whose row has come with this run."""
    return _affected_keys(entity, target, sql.SQL("not _is_new"))


def outdated_keys(entity: Entity, target: Dimension | Fact) -> sql.Composable:
    """Select the natural keys of facts whose dimension version this run has closed before their event."""
    return _affected_keys(entity, target, sql.SQL("_is_outdated"))


def _affected_keys(entity: Entity, target: Dimension | Fact, which: sql.Composable) -> sql.Composable:
    return sql.SQL("select {} from {} as affected where {}").format(
        natural_keys(entity, target), affected_table(entity), which
    )


def natural_keys(entity: Entity, target: Dimension | Fact) -> sql.Composable:
    """Select list of the natural keys of a target, made of the keys that `affected` has as the source has them."""
    return sql.SQL(", ").join(
        sql.SQL("{}::text as {}").format(sql.Identifier("affected", column), sql.Identifier(natural))
        for column, natural in zip(entity.table.key, target.natural_key, strict=True)
    )


def comment_affected(connection: psycopg.Connection, entity: Entity) -> None:
    """Say what the table of affected keys holds."""
    affected = affected_table(entity)
    said = dict.fromkeys(entity.table.key, f"Key of {entity.table}")
    said["_is_stamped"] = "Whether a stamp of the source tells when the row changed"
    said["_is_new"] = "Whether the row has come with this run"
    said["_is_outdated"] = "Whether its fact names a version that this run has closed before its event"
    what = f"Keys of {entity.table} of source {entity.source} that the last run conformed to {entity.name}."
    connection.execute(sql.SQL("comment on table {} is {}").format(affected, sql.Literal(what)))
    for column, text in said.items():
        name = sql.Identifier("staging", f"{entity.source}_{entity.name}_affected", column)
        connection.execute(sql.SQL("comment on column {} is {}").format(name, sql.Literal(text)))


def _changed(entity: Entity) -> sql.Composable:
    return sql.SQL(
        "select {}, _is_stamped::integer + 2 * (_operation = 'insert')::integer as _marks from {}"
    ).format(listed(entity.table.key), sql.Identifier("staging", f"{entity.table.mirror}_delta"))


def _changed_parent(entity: Entity, parent: Table, names: Sequence[str]) -> sql.Composable:
    same = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier("child", name), sql.Identifier("parent", key))
        for name, key in zip(names, parent.key, strict=True)
    )
    return sql.SQL(
        "select {}, parent._is_stamped::integer from {} as parent inner join {} as child on {}"
    ).format(
        qualified("child", entity.table.key),
        sql.Identifier("staging", f"{parent.mirror}_delta"),
        sql.Identifier("raw", entity.table.mirror),
        same,
    )


def _waiting(entity: Entity, types: Mapping[str, str]) -> sql.Composable:
    keys = [
        sql.SQL("row_key[{}]::{}").format(sql.Literal(position), sql.SQL(types[name]))
        for position, name in enumerate(entity.table.key, start=1)
    ]
    return sql.SQL(
        "select {}, 0 from audit.quarantine where source = {} and entity = {} "
        "and resolved_at is null and row_key is not null and {}"
    ).format(
        sql.SQL(", ").join(keys),
        sql.Literal(entity.source),
        sql.Literal(entity.name),
        _valid(
            (sql.SQL("row_key[{}]").format(sql.Literal(position)), types[name])
            for position, name in enumerate(entity.table.key, start=1)
        ),
    )


def _valid(keys: Iterable[tuple[sql.Composable, str]]) -> sql.Composable:
    """Whether texts can be keys of these types: not where the source's key was of another type."""
    return sql.SQL(" and ").join(
        sql.SQL("pg_input_is_valid({}, {})").format(text, sql.Literal(kind)) for text, kind in keys
    )


def _outdated(
    connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact, types: Mapping[str, str]
) -> list[sql.Composable]:
    """Facts of this source whose dimension version this run has closed before their event."""
    names = {
        "keys": _fact_keys(entity, fact, types),
        "valid": _valid_fact(entity, fact, types),
        "fact": sql.Identifier("dwh", fact.table),
        "event": sql.Identifier(fact.event_time),
        "source": sql.Literal(entity.source),
        "run_id": sql.Literal(run_id),
    }
    found: list[sql.Composable] = []
    for name in (*fact.references, *fact.derived):
        if not _has_history(connection, f"dim_{name}"):
            continue
        names |= {
            "dimension": sql.Identifier("dwh", f"dim_{name}"),
            "key": sql.Identifier(f"{name}_key"),
            "closed": sql.Identifier("pg_temp", f"closed_{name}"),
            "closed_name": sql.Identifier(f"closed_{name}"),
        }
        # A table of their own, analyzed: the dimension's statistics know nothing of this run's versions, and a plan for
        # one version looks through the facts once per version.
        connection.execute(
            sql.SQL(
                """
                drop table if exists {closed};
                create temp table {closed_name} on commit drop as
                select {key}, valid_to from {dimension} where expired_by_run_id = {run_id};
                analyze {closed}
                """
            ).format(**names)
        )
        row = connection.execute(sql.SQL("select min(valid_to) from {closed}").format(**names)).fetchone()
        if row is None or row[0] is None:
            continue
        found.append(
            sql.SQL(
                """
                select {keys}, 4
                from {fact} as fact inner join {closed} as version on fact.{key} = version.{key}
                where fact.{event} >= version.valid_to
                    and fact.{event} >= {earliest} and fact.source_system = {source} and {valid}
                """
            ).format(**names, earliest=sql.Literal(row[0]))
        )
    return found


def _late_members(
    connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact, types: Mapping[str, str]
) -> list[sql.Composable]:
    """Facts of this source whose derived member could not be told until this run brought it, or what leads to it.

    An inferred product names no company; a product may be there before its company is.
    """
    found: list[sql.Composable] = []
    for derived, through in fact.derived.items():
        names = {
            "keys": _fact_keys(entity, fact, types),
            "valid": _valid_fact(entity, fact, types),
            "fact": sql.Identifier("dwh", fact.table),
            "event": sql.Identifier(fact.event_time),
            "source": sql.Literal(entity.source),
            "via": sql.Identifier("dwh", f"dim_{through}"),
            "via_key": sql.Identifier(f"{through}_key"),
            "compared_via": sql.Identifier("pg_temp", f"compared_{through}"),
            "run_id": sql.Literal(run_id),
            "derived_id": sql.Identifier(f"{derived}_id"),
            "derived_key": sql.Identifier(f"{derived}_key"),
            "compared_derived": sql.Identifier("pg_temp", f"compared_{derived}"),
        }
        completed = sql.SQL("select open_key from {compared_via} where verdict = 'inferred'").format(**names)
        # A member's children that came with it have no facts yet: those that were there before it are the exception.
        orphans = sql.SQL(
            """
            select via.{via_key} from {via} as via
            inner join {compared_derived} as compared on via.{derived_id} = compared.{derived_id}
            where via.source_system = {source} and compared.verdict in ('first', 'reappeared')
                and via.run_id <> {run_id}
            """
        ).format(**names)
        for wanted, of in ((completed, through), (orphans, derived)):
            if _is_compared(connection, of) and connection.execute(wanted + sql.SQL(" limit 1")).rowcount:
                found.append(
                    sql.SQL(
                        "select {keys}, 0 from {fact} as fact where fact.source_system = {source} "
                        "and fact.{derived_key} = 0 and fact.{via_key} in ({wanted}) and {valid}"
                    ).format(**names, wanted=wanted)
                )
    return found


def _refused_members(
    connection: psycopg.Connection, run_id: int, entity: Entity, fact: Fact, types: Mapping[str, str]
) -> list[sql.Composable]:
    """Facts of this source that name an inferred member whose refused row has changed or gone with this run.

    They may take a column from that row, as an order line its currency.
    """
    found: list[sql.Composable] = []
    for name in fact.references:
        if not _has_history(connection, f"dim_{name}"):
            continue
        names = {
            "keys": _fact_keys(entity, fact, types),
            "valid": _valid_fact(entity, fact, types),
            "fact": sql.Identifier("dwh", fact.table),
            "dimension": sql.Identifier("dwh", f"dim_{name}"),
            "key": sql.Identifier(f"{name}_key"),
            "natural": sql.Identifier(f"{name}_id"),
            "entity": sql.Literal(name),
            "source": sql.Literal(entity.source),
            "run_id": sql.Literal(run_id),
        }
        refused = sql.SQL(
            """
            select {key} from {dimension}
            where expired_by_run_id = {run_id} and is_inferred and source_system = {source}
            union all
            select member.{key} from audit.quarantine as entry
            inner join {dimension} as member
                on member.{natural} = entry.row_key[1] and member.source_system = entry.source
            where entry.run_id = {run_id} and entry.source = {source} and entry.entity = {entity}
                and member.is_inferred
            """
        ).format(**names)
        if connection.execute(refused + sql.SQL(" limit 1")).rowcount:
            found.append(
                sql.SQL(
                    "select {keys}, 0 from {fact} as fact "
                    "where fact.source_system = {source} and fact.{key} in ({refused}) and {valid}"
                ).format(**names, refused=refused)
            )
    return found


def _fact_keys(entity: Entity, fact: Fact, types: Mapping[str, str]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{}::{}").format(sql.Identifier("fact", natural), sql.SQL(types[name]))
        for name, natural in zip(entity.table.key, fact.natural_key, strict=True)
    )


def _valid_fact(entity: Entity, fact: Fact, types: Mapping[str, str]) -> sql.Composable:
    return _valid(
        (sql.Identifier("fact", natural), types[name])
        for name, natural in zip(entity.table.key, fact.natural_key, strict=True)
    )


def _is_compared(connection: psycopg.Connection, entity: str) -> bool:
    """Whether this run has merged the dimension: its verdicts are in pg_temp.compared_<entity> until the commit."""
    row = connection.execute("select to_regclass(%s) is not null", [f"pg_temp.compared_{entity}"]).fetchone()
    return bool(row and row[0])


def _count(connection: psycopg.Connection, table: sql.Identifier) -> int:
    row = connection.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()
    return int(row[0]) if row else 0


def _has_history(connection: psycopg.Connection, table: str) -> bool:
    return "valid_to" in _columns(connection, "dwh", table)


def _batch_columns(connection: psycopg.Connection, entity: str) -> list[str]:
    return _columns(connection, "staging", f"conformed_{entity}")


def _columns(connection: psycopg.Connection, schema: str, table: str) -> list[str]:
    rows = connection.execute(
        """
        select attname from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
        order by attnum
        """,
        [schema, table],
    ).fetchall()
    return [name for (name,) in rows]


def conformed(entity: Entity) -> sql.Composable:
    """The source's own SQL, to be selected from."""
    return sql.SQL("\n" + entity.sql.strip().rstrip(";") + "\n")
