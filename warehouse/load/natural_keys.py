"""Natural keys of an entity as expressions over the key columns of its source table, and the reverse."""

from collections.abc import Mapping, Sequence

from psycopg import sql

from warehouse.db.composite_key import SEPARATOR, composite_key, key_part, split
from warehouse.errors import DeclarationError
from warehouse.extract.catalog import columns_of, mirrored_columns
from warehouse.load.batch import Batch
from warehouse.sources.source import Entity

# Number of conformed rows whose keys are looked up in the mirror: SQL that makes other keys does so in most rows.
CHECKED = 100


def natural_values(entity: Entity, table: str) -> dict[str, sql.Composable]:
    """Return each natural key column as an expression over the source's key columns in `table`."""
    return {
        natural: composite_key([sql.SQL("{}::text").format(sql.Identifier(table, one)) for one in columns])
        for natural, columns in entity.key.items()
    }


def natural_keys(entity: Entity, table: str) -> sql.Composable:
    """Select list that makes the natural key of the source's key columns in `table`."""
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(value, sql.Identifier(natural))
        for natural, value in natural_values(entity, table).items()
    )


def natural_array(entity: Entity, table: str) -> sql.Composable:
    """The natural key of the source's key columns in `table` as an array of texts, as quarantine has it."""
    return sql.SQL("array[{}]::text[]").format(sql.SQL(", ").join(natural_values(entity, table).values()))


def source_texts(entity: Entity, natural: Sequence[sql.Composable]) -> dict[str, sql.Composable]:
    """Return each key column of the source's table as a text, taken from expressions of the natural key."""
    texts = {
        column: key_part(value, position, len(columns))
        for value, columns in zip(natural, entity.key.values(), strict=True)
        for position, column in enumerate(columns, start=1)
    }
    return {column: texts[column] for column in entity.table.key}


def source_values(
    entity: Entity, natural: Sequence[sql.Composable], types: Mapping[str, str]
) -> tuple[sql.Composable, sql.Composable]:
    """Return the source's key columns, cast to their `types`, and the condition that they can be cast.

    Some cannot where the source's key had another type before.
    """
    texts = source_texts(entity, natural).items()
    values = (
        sql.SQL("{}::{} as {}").format(text, sql.SQL(types[name]), sql.Identifier(name))
        for name, text in texts
    )
    valid = (
        sql.SQL("pg_input_is_valid({}, {})").format(text, sql.Literal(types[name])) for name, text in texts
    )
    return sql.SQL(", ").join(values), sql.SQL(" and ").join(valid)


def check_composite_keys(batch: Batch) -> None:
    """Check that the conform SQL makes the composite keys that the declaration makes: deletes are found by these, and
    members by those that rows refer to.

    Raises:
        DeclarationError: a conformed row has the key of no row of the mirror, or refers to no possible member.
    """
    if batch.entity.has_composite_key:
        _check_own_key(batch)
    if batch.entity.member_keys:
        _check_references(batch)


def _check_own_key(batch: Batch) -> None:
    entity, own = batch.entity, batch.target.natural_key
    sample = [sql.Identifier("sample", name) for name in own]
    types = mirrored_columns(batch.connection, entity.table)
    same = [
        sql.SQL("mirror.{name} = case when pg_input_is_valid({text}, {kind}) then {text}::{type} end").format(
            name=sql.Identifier(name), text=text, kind=sql.Literal(types[name]), type=sql.SQL(types[name])
        )
        for name, text in source_texts(entity, sample).items()
    ]
    same += [
        sql.SQL("{} = {}").format(value, text)
        for value, text in zip(natural_values(entity, "mirror").values(), sample, strict=True)
    ]
    wrong = batch.execute(
        "select array[{sample}] from (select {natural_key} from {conformed} limit {limit}) as sample "
        "where not exists (select from {mirror} as mirror where {same}) limit 1",
        sample=sql.SQL(", ").join(sample),
        limit=sql.Literal(CHECKED),
        same=sql.SQL(" and ").join(same),
    ).fetchone()
    if wrong:
        made = [_made_of(name, columns) for name, columns in entity.key.items() if len(columns) > 1]
        raise DeclarationError(
            f"conform/{entity.name}.sql of source '{entity.source}' delivers ({', '.join(own)}) = "
            f"({', '.join(map(str, wrong[0]))}), which is the key of no row of {entity.table}.",
            hint=f"Deliver {'; '.join(made)}, of {entity.table}.",
        )


def _check_references(batch: Batch) -> None:
    looked_up = {f"{lookup.dimension}_id" for lookup in batch.entity.lookups}
    delivered = columns_of(batch.connection, "staging", f"conformed_{batch.entity.name}").keys()
    for name in sorted(
        (batch.entity.member_keys.keys() & delivered) - looked_up - {*batch.target.natural_key}
    ):
        columns = batch.entity.member_keys[name]
        wrong = batch.execute(
            "select {name} from (select {name} from {conformed} where {name} is not null limit {limit}) as sample "
            "where length({name}) - length(replace({name}, {separator}, '')) <> {separators} limit 1",
            name=sql.Identifier(name),
            limit=sql.Literal(CHECKED),
            separator=sql.Literal(SEPARATOR),
            separators=sql.Literal(len(columns) - 1),
        ).fetchone()
        if wrong:
            raise DeclarationError(
                f"conform/{batch.entity.name}.sql of source '{batch.source}' delivers {name} = {wrong[0]}, which no "
                f"{name.removesuffix('_id')} can have: it consists of {', '.join(columns)}.",
                hint=f"Deliver {_made_of(name, columns)}, by the columns that refer to these.",
            )


def _made_of(name: str, columns: Sequence[str]) -> str:
    return f"{name} as mart.composite_key({', '.join(f'{column}::text' for column in columns)})"


def source_key(entity: Entity, natural: Sequence[str]) -> tuple[str, ...] | None:
    """Return the key of the source's table that a natural key stands for; None if it stands for none."""
    found: dict[str, str] = {}
    for text, columns in zip(natural, entity.key.values(), strict=True):
        parts = split(text, len(columns))
        if len(parts) != len(columns):
            return None
        found |= dict(zip(columns, parts, strict=True))
    return tuple(found[column] for column in entity.table.key)
