"""Changed keys: find which rows of a source a run has to conform.

These are rows that changed, or whose joined rows changed; once a day, quarantined rows; rows whose delete was deferred;
and facts whose dimension version was closed before their event, or whose dimension member arrived late.
"""

from collections.abc import Iterable, Mapping

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import text_array
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import delta_table
from warehouse.load.batch import Batch, closed_table, late_table
from warehouse.load.followed import CORRECTING, are_corrected, keys_of_followed_rows
from warehouse.load.joined_changes import keys_of_joined_rows, with_rows_joined_to_them
from warehouse.load.lookups import changed_members
from warehouse.load.natural_keys import natural_keys, source_values
from warehouse.load.precedence import is_restored, read_precedences, returning_keys
from warehouse.model.star import Fact

COMMENTS = {
    "_has_updated_at": "Whether the source says when the row changed",
    "_is_new": "Whether the row was inserted into the mirror by this run",
    "_is_outdated": "Whether its fact names a version that this run closed before the event",
}


def find_changed_keys(batch: Batch, staged: StagedTable) -> int:
    """Fill the batch's changed keys from the changes of all tables that its conform SQL reads; returns their number."""
    types = {column.name: column.type for column in staged.columns}
    reached = keys_of_joined_rows(batch)
    reached.keys.insert(0, _changed(batch))
    keys = [with_rows_joined_to_them(batch, reached), *keys_of_followed_rows(batch)]
    # Whether another source takes precedence for an event does not show in this source's mirrors.
    if batch.rechecks_quarantine or read_precedences(batch):
        keys.append(_waiting(batch, types))
    if batch.deferred:
        keys.append(_deferred(batch, types))
    keys += keys_of_changed_members(batch, types)
    if isinstance(batch.target, Fact):
        keys += _looked_up(batch, batch.target, types)
        keys += _memberless(batch, batch.target, types)
        keys += _restored(batch, batch.target, types)
        if (returning := returning_keys(batch)) is not None:
            keys.append(returning)
    return create_from_flags(batch, keys)


def keys_of_changed_members(batch: Batch, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select keys and flags of facts whose version this transaction has closed, or whose member has arrived late.

    `types` are the types of the source's key columns, by name.
    """
    if not isinstance(batch.target, Fact):
        return []
    return [*_outdated(batch, batch.target, types), *_late_members(batch, batch.target, types)]


def create_from_flags(batch: Batch, keys: Iterable[sql.Composable]) -> int:
    """Create the batch's table of changed keys from queries of keys and flags; returns their number."""
    return replace_changed_keys(
        batch,
        """
        select {source_key}, bit_or(_flags) & 1 > 0 as _has_updated_at, bit_or(_flags) & 2 > 0 as _is_new,
            bit_or(_flags) & 4 > 0 as _is_outdated
        from ({keys}) as found group by {source_key}
        """,
        keys=sql.SQL(" union all ").join(keys),
    )


def replace_changed_keys(batch: Batch, query: str, /, **names: sql.Composable) -> int:
    """Create the batch's table of changed keys, replacing that of an earlier run; returns the number of keys."""
    if not staying_session.is_kept(batch.connection, batch.changed_keys_name):
        batch.execute("drop table if exists {changed_keys}")
        return create_changed_keys(batch, query, **names)
    staying_session.empty(batch.connection, batch.changed_keys)
    rows = batch.execute("insert into {changed_keys} " + query, **names).rowcount
    staying_session.expect_rows(batch.connection, rows)
    batch.analyze(batch.changed_keys)
    return rows


def create_changed_keys(batch: Batch, query: str, /, **names: sql.Composable) -> int:
    """Create the batch's table of changed keys from a query of keys and flags; returns their number."""
    created = batch.execute("create unlogged table {changed_keys} as " + query, **names)
    staying_session.keep(batch.connection, batch.changed_keys_name)
    staying_session.expect_rows(batch.connection, created.rowcount)
    _comment(batch)
    batch.analyze(batch.changed_keys)
    return created.rowcount


def create_all_keys_view(batch: Batch, rows: int = 1, *, where: sql.Composable | None = None) -> int:
    """Create the changed keys as a view on all mirror rows that match `where`, so that no key is copied.

    `rows` is the number of mirror rows, which is returned; if it is 0, no view is created. See `materialize_keys`.
    """
    if not rows:
        return 0
    batch.execute(
        "drop table if exists {changed_keys}; create view {changed_keys} as "
        "select {source_key}, true as _has_updated_at, true as _is_new, false as _is_outdated "
        "from {mirror} where not _is_deleted and {where}",
        where=where or sql.SQL("true"),
    )
    return rows


def take_all_keys(batch: Batch) -> int:
    """Mark every key of the mirror as changed; the target may hold their rows already. Returns the number of keys."""
    batch.execute("drop table if exists {changed_keys}")
    return create_changed_keys(
        batch,
        "select {source_key}, true as _has_updated_at, false as _is_new, true as _is_outdated "
        "from {mirror} where not _is_deleted",
    )


def materialize_keys(batch: Batch) -> None:
    """Replace the view on all keys by an empty table: a view would prevent changes of the mirror's columns."""
    batch.create_temporary("no_keys", "select * from {changed_keys} limit 0")
    batch.execute(
        "drop view {changed_keys}; create unlogged table {changed_keys} as select * from pg_temp.no_keys"
    )
    _comment(batch)


def keys_where(batch: Batch, condition: str) -> sql.Composable:
    """Select the natural keys of the changed keys for which `condition`, over their flags, holds."""
    return batch.format(
        f"select {{keys}} from {{changed_keys}} as changed where {condition}",
        keys=natural_keys(batch.entity, "changed"),
    )


def _comment(batch: Batch) -> None:
    entity = batch.entity
    text = f"Keys of {entity.table} of source {entity.source} that the last run conformed to {entity.name}."
    comments = [batch.format("comment on table {changed_keys} is {text}", text=sql.Literal(text))]
    comments += [
        batch.format(
            "comment on column {changed_keys}.{name} is {text}",
            name=sql.Identifier(name),
            text=sql.Literal(text),
        )
        for name, text in {**dict.fromkeys(entity.table.key, f"Key of {entity.table}"), **COMMENTS}.items()
    ]
    batch.connection.execute(sql.SQL("; ").join(comments))


def _changed(batch: Batch) -> sql.Composable:
    return batch.format(
        "select {source_key}, _has_updated_at::integer + 2 * (_operation = 'insert')::integer as _flags from {delta}",
        delta=delta_table(batch.entity.table),
    )


def _waiting(batch: Batch, types: Mapping[str, str]) -> sql.Composable:
    keys, valid = source_values(
        batch.entity,
        [sql.SQL(f"row_key[{position}]") for position in range(1, len(batch.target.natural_key) + 1)],
        types,
    )
    return batch.format(
        "select {keys}, 0 from audit.quarantine where source = {source} and entity = {entity} "
        "and resolved_at is null and row_key is not null and {valid}",
        keys=keys,
        valid=valid,
    )


def _deferred(batch: Batch, types: Mapping[str, str]) -> sql.Composable:
    keys, valid = source_values(batch.entity, [*map(sql.Identifier, batch.target.natural_key)], types)
    return batch.format("select {keys}, 0 from {deferred_keys} where {valid}", keys=keys, valid=valid)


def _outdated(batch: Batch, fact: Fact, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select facts of this source whose dimension version this run has closed before their event."""
    keys: list[sql.Composable] = []
    for name in (*fact.references, *fact.derived):
        if not has_closed(batch, name):
            continue
        names = {
            **_fact_names(batch, fact, types),
            "key": sql.Identifier(f"{name}_key"),
            "closed": closed_table(name),
        }
        # Without statistics the planner expects one closed version, and would scan the facts once per version.
        batch.analyze(names["closed"])
        (earliest,) = batch.execute("select min(valid_to) from {closed}", **names).fetchone() or (None,)
        if earliest is None:
            continue
        keys.append(
            batch.format(
                """
                select {fact_keys}, 4
                from {target} as fact inner join {closed} as version on fact.{key} = version.{key}
                where fact.{event} >= version.valid_to
                    and fact.{event} >= {earliest} and fact.source_system = {source} and {valid}
                """,
                **names,
                earliest=sql.Literal(earliest),
            )
        )
    return keys


def _late_members(batch: Batch, fact: Fact, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select facts whose derived dimension was unknown until this run loaded its member, or the member between them.

    A fact's company, for example, is unknown while its product is inferred, or while the product's company is missing.
    """
    keys: list[sql.Composable] = []
    for derived, through in fact.derived.items():
        names = {
            **_fact_names(batch, fact, types),
            "via": sql.Identifier("dwh", f"dim_{through}"),
            "via_key": sql.Identifier(f"{through}_key"),
            "via_id": sql.Identifier(f"{through}_id"),
            "via_late": late_table(through),
            "derived_id": sql.Identifier(f"{derived}_id"),
            "derived_key": sql.Identifier(f"{derived}_key"),
            "derived_late": late_table(derived),
        }
        completed = batch.format("select open_key from {via_late} where verdict = 'inferred'", **names)
        # Members that this run has inserted together with their derived member have no facts yet, so skip them.
        adopted = batch.format(
            """
            select via.{via_key} from {via} as via
            inner join {derived_late} as member on via.{derived_id} = member.{derived_id}
            where via.source_system = {source} and member.verdict in ('first', 'reappeared') and {was_there}
            """,
            **names,
            was_there=batch.format(
                "via.{via_id} not in (select {via_id} from {via_late} where verdict = 'first')", **names
            )
            if _is_merged(batch.connection, through)
            else sql.SQL("true"),
        )
        for members, dimension in ((completed, through), (adopted, derived)):
            if _is_merged(batch.connection, dimension) and batch.exists("{members}", members=members):
                keys.append(
                    batch.format(
                        "select {fact_keys}, 0 from {target} as fact where fact.source_system = {source} "
                        "and fact.{derived_key} = 0 and fact.{via_key} in ({members}) and {valid}",
                        **names,
                        members=members,
                    )
                )
    return keys


def _looked_up(batch: Batch, fact: Fact, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select facts whose looked-up member belongs, or may belong, to another source that has changed it since."""
    keys: list[sql.Composable] = []
    for lookup in batch.entity.lookups:
        if (changed := changed_members(batch, lookup)) is None:
            continue
        names = {
            **_fact_names(batch, fact, types),
            "dimension": sql.Identifier("dwh", f"dim_{lookup.dimension}"),
            "key": sql.Identifier(f"{lookup.dimension}_key"),
            "natural": sql.Identifier(f"{lookup.dimension}_id"),
            "by": sql.Identifier(lookup.by),
            # A member that comes, changes or goes may give way to, or replace, that of another source with the value.
            "member_sources": sql.Literal(
                [one.source for one in batch.entity.lookups if one.dimension == lookup.dimension]
            ),
            "changed": changed,
        }
        keys.append(
            batch.format(
                """
                select {fact_keys}, 4 from {target} as fact
                where fact.source_system = {source} and {valid} and (
                    fact.{key} = 0 or fact.{key} in (select {key} from {changed})
                    or fact.{key} in (
                        select member.{key} from {dimension} as member
                        where member.source_system = {source} and member.{natural} in (select value from {changed})
                            or member.source_system = any({member_sources})
                                and member.{by} in (select value from {changed})
                    )
                )
                """,
                **names,
            )
        )
    return keys


def _memberless(batch: Batch, fact: Fact, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select facts whose member no longer exists, because the run of another source that inserted it was undone."""
    sources = {lookup.source for lookup in batch.entity.lookups}
    if not sources or not are_corrected(batch, sources):
        return []
    is_gone = [
        sql.SQL(
            "fact.{key} <> 0 and not exists (select from {dimension} as member where member.{key} = fact.{key})"
        ).format(
            key=sql.Identifier(reference.key.name),
            dimension=sql.Identifier("dwh", f"dim_{reference.dimension}"),
        )
        for reference in fact.refers_to
    ]
    return [
        batch.format(
            "select {fact_keys}, 4 from {target} as fact "
            "where fact.source_system = {source} and {valid} and ({is_gone})",
            **_fact_names(batch, fact, types),
            is_gone=sql.SQL(" or ").join(is_gone),
        )
    ]


def _restored(batch: Batch, fact: Fact, types: Mapping[str, str]) -> list[sql.Composable]:
    """Select facts of this source that an undo or a repair of another source has restored.

    They are restored as they were when they were displaced; the mirror may have changed or deleted them since.
    """
    if not is_restored(batch):
        return []
    return [
        batch.format(
            """
            select {fact_keys}, 0 from {target} as fact
            where fact.source_system = {source} and {valid} and {row_key} in (
                select change.row_key
                from audit.change as change inner join audit.row_schema using (row_schema_id)
                inner join audit.run as run on change.run_id = run.run_id
                left join audit.run as correction on run.undone_by_run_id = correction.run_id
                where table_name = {name} and coalesce(correction.flow, run.flow) = any({flows})
            )
            """,
            **_fact_names(batch, fact, types),
            row_key=text_array((*fact.natural_key, "source_system"), "fact"),
            name=sql.Literal(f"dwh.{fact.table}"),
            flows=sql.Literal(list(CORRECTING)),
        )
    ]


def _fact_names(batch: Batch, fact: Fact, types: Mapping[str, str]) -> dict[str, sql.Composable]:
    """Placeholders for queries over a fact: its natural key cast to the source's types, and its event time."""
    natural = [sql.Identifier("fact", name) for name in fact.natural_key]
    keys, valid = source_values(batch.entity, natural, types)
    return {
        "fact_keys": keys,
        "valid": valid,
        "event": sql.Identifier(fact.event_time),
    }


def has_closed(batch: Batch, dimension: str) -> bool:
    """Return whether this transaction has merged the dimension, and so may have closed versions of it."""
    return staying_session.is_filled(batch.connection, f"closed_{dimension}")


def _is_merged(connection: psycopg.Connection, dimension: str) -> bool:
    """Return whether this transaction has merged the dimension, other than in a full load."""
    return staying_session.is_filled(connection, f"late_{dimension}")
