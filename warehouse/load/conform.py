"""Conform: a source's own SQL, run for the keys that changed, fills the conformed rows of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import listed, same_key, text_array
from warehouse.errors import DeclarationError
from warehouse.extract.catalog import columns_of
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import keys_where
from warehouse.load.conformed_table import replace_conformed
from warehouse.load.conversion import ROW_ERRORS, create_unconvertible, fill_by_halves
from warehouse.load.fit import scales
from warehouse.load.lookups import resolve_lookups
from warehouse.load.natural_keys import check_composite_keys, natural_values
from warehouse.load.precedence import yield_to_higher
from warehouse.load.reads import conform_query, explain_sql_error
from warehouse.model.declaration import Reference
from warehouse.model.star import Dimension, Fact
from warehouse.model.tables import batch_table

# Above this many changed keys, create the conformed rows as a new table: that query may run in parallel.
PARALLEL_ABOVE = 10_000
# OIDs of `date` and `timestamp without time zone`.
_WITHOUT_ZONE = {psycopg.adapters.types[name].oid for name in ("date", "timestamp")}


@dataclass(frozen=True)
class Conformed:
    """Counts of a conformed batch: rows, including unconvertible ones, and events left to a source with precedence."""

    rows: int
    yielded: int
    # By dimension, the number of rows whose looked-up value matches several members.
    ambiguous: Mapping[str, int]


def conform(batch: Batch, changed: int = 0) -> Conformed:
    """Fill the conformed rows of the batch by the source's SQL, for `changed` keys.

    Raises:
        DeclarationError: the SQL fails, or delivers other columns than the entity has.
        SourceError: too many rows cannot be converted.
    """
    values = delivered_values(batch)
    create_unconvertible(batch)
    rows = _create(batch, values) if changed > PARALLEL_ABOVE else None
    if rows is None:
        rows = _refill(batch, values)
    staying_session.remembered(
        batch.connection,
        ("keys checked", batch.source, batch.entity.name),
        lambda: check_composite_keys(batch),
    )
    ambiguous = resolve_lookups(batch)
    yielded = yield_to_higher(batch)
    # Analyze only the columns that are joined: other texts would take most of the time.
    columns = {*values, *(one.member_source.name for one in _references(batch))}
    batch.analyze(
        batch.conformed, sorted(name for name in columns if name.endswith(("_id", "_at", "_source_system")))
    )
    return Conformed(rows, yielded, ambiguous)


def delivered_columns(batch: Batch) -> Mapping[str, int]:
    """Return the columns that the entity's SQL delivers, with the OIDs of their types, after checking them against the
    batch's and the unmapped ones.

    Raises:
        DeclarationError: the SQL fails, or its columns are not those of the entity.
    """
    entity = batch.entity
    try:
        with batch.connection.transaction():
            description = batch.execute(
                "select * from ({query}) as conformed limit 0", query=conform_query(entity)
            ).description
    except psycopg.Error as error:
        raise explain_sql_error(entity, error) from None
    delivered = {column.name: column.type_code for column in description or ()}
    # The source of a referenced member is filled from the declaration; SQL that looks members up may deliver it.
    filled = {one.member_source.name for one in _references(batch)}
    required = columns_of(batch.connection, "staging", f"conformed_{entity.name}").keys() - {"source_system"}
    unknown = sorted(set(delivered) - required)
    optional = filled | {one.name for one in batch_table(batch.target).columns if one.may_be_omitted}
    if isinstance(batch.target, Fact):
        optional |= {f"{dimension}_id" for dimension in batch.target.derived}
    missing = sorted(required - set(delivered) - entity.unmapped_columns - optional)
    # The rules of unmapped columns are not applied, so such a column must not deliver values.
    unmapped = sorted(entity.unmapped_columns & delivered.keys())
    if unknown or missing or unmapped:
        problems = [f"delivers unknown columns: {', '.join(unknown)}"] if unknown else []
        problems += [f"does not deliver: {', '.join(missing)}"] if missing else []
        problems += [f"delivers what is declared as unmapped: {', '.join(unmapped)}"] if unmapped else []
        raise DeclarationError(
            f"conform/{entity.name}.sql of source '{entity.source}' {'; '.join(problems)}.",
            hint="Rename or add them, or list what the source has no data for, and nothing else, as "
            f"unmapped_columns in [entities.{entity.name}].",
        )
    return delivered


def _references(batch: Batch) -> Sequence[Reference]:
    return batch.target.refers_to if isinstance(batch.target, Fact) else ()


def delivered_values(batch: Batch) -> dict[str, sql.Composable]:
    """Return the expression of each column of the batch: cast to its type, and rounded to the star's decimal places.

    A fact's are rounded where they are stored, after its amounts were calculated from them. A date or time without a
    zone that is delivered for a timestamptz is one of the company's zone.
    """
    places = {} if isinstance(batch.target, Fact) else scales(batch.target)
    types = columns_of(batch.connection, "staging", f"conformed_{batch.entity.name}")
    values: dict[str, sql.Composable] = {"source_system": sql.Literal(batch.source)}
    delivered = staying_session.remembered(
        batch.connection, ("delivered by", batch.source, batch.entity.name), lambda: delivered_columns(batch)
    )
    for name, type_oid in delivered.items():
        kind, value = types.get(name, "text"), sql.Identifier("conformed", name)
        is_local = kind == "timestamp with time zone" and type_oid in _WITHOUT_ZONE
        cast = "{}::timestamp at time zone mart.time_zone()" if is_local else "{}::" + kind
        values[name] = sql.SQL(cast).format(value)
        if name in places:
            values[name] = sql.SQL("round({}, {})").format(values[name], sql.Literal(places[name]))
    return values


def clear_stale_timestamps(batch: Batch) -> None:
    """Set `changed_at` to null in rows that changed without a new timestamp: their version then starts at the snapshot.

    Such a timestamp is that of an earlier change: a trigger was disabled, or a parent row was deleted.
    """
    if not isinstance(batch.target, Dimension) or not batch.target.has_history:
        return
    ((natural, key),) = natural_values(batch.entity, "changed").items()
    batch.execute(
        """
        update {conformed} as conformed set changed_at = null from {changed_keys} as changed
        where not changed._has_updated_at and conformed.changed_at is not null
            and conformed.{natural} = {key}
        """,
        natural=sql.Identifier(natural),
        key=key,
    )


def find_deleted_keys(batch: Batch) -> int:
    """Fill the batch's deleted keys with those that changed and are no longer conformed; returns their number.

    In a full load there are none: the star holds nothing of the source.
    """
    key = batch.target.natural_key
    return batch.create_temporary(
        f"deleted_{batch.entity.name}",
        """
        select changed.* from ({changed}) as changed
        where not {is_full_load} and not exists (select from {conformed} as conformed where {same})
            and {row_key} not in (select row_key from {unconvertible})
        """,
        is_full_load=sql.Literal(batch.is_full_load),
        # Deferred keys that cannot be cast to the mirror's key types are not among the changed keys.
        changed=batch.format(
            "{changed} union table {deferred_keys}" if batch.deferred else "{changed}",
            changed=keys_where(batch, "true"),
        ),
        row_key=text_array(key, "changed"),
        same=same_key(key, "conformed", "changed"),
    )


def _refill(batch: Batch, values: Mapping[str, sql.Composable]) -> int:
    staying_session.empty(batch.connection, batch.conformed)
    query = conform_query(batch.entity)
    insert = batch.format(
        "insert into {conformed} ({columns}) select {values} from ({query}) as conformed",
        columns=listed(list(values)),
        values=sql.SQL(", ").join(values.values()),
        query=query,
    )

    def fill() -> int:
        return batch.connection.execute(insert).rowcount

    try:
        with batch.connection.transaction():
            return fill()
    except ROW_ERRORS:
        return fill_by_halves(batch, fill, values, query)


def _create(batch: Batch, values: Mapping[str, sql.Composable]) -> int | None:
    """Replace the conformed rows by those of the source's SQL; returns their number, or None if a value fails."""
    try:
        with batch.connection.transaction():
            return replace_conformed(
                batch,
                lambda column: values.get(column, sql.NULL),
                batch.format("({query}) as conformed", query=conform_query(batch.entity)),
            )
    except ROW_ERRORS:
        return None
