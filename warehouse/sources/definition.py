"""Definition of a target: a hash for each part that its rows depend on, so that a run notices what has changed.

SQL is hashed by its tokens; TOML, YAML and the star's declaration by their parsed values. So comments, descriptions and
white space change no hash.
"""

from collections.abc import Iterator, Mapping

from warehouse.db.time_zone import DEFAULT
from warehouse.model.contracts import Contract
from warehouse.model.declaration import Column, DailySnapshot, Dimension, Fact, Target
from warehouse.model.fact_sql import FACTS_SQL
from warehouse.model.sql_text import hash_parts, hash_sql, sql_tokens
from warehouse.model.star import TARGETS
from warehouse.sources.source import Entity, Source

# Hash by name of the part.
Definition = Mapping[str, str]
COLUMN = "column "
# The part for declarations about other sources: lookups of their members, and precedence.
OTHERS = "lookups and precedence"


def define_targets(
    source: Source,
    contracts: Mapping[str, Contract],
    time_zone: str,
    objects: Mapping[str, Definition],
) -> Mapping[str, Definition]:
    """Return the definition of each target that `source` has an entity for, by entity.

    `contracts` and `objects`, the hashes of views and functions that its SQL reads through, are by entity. Days are
    counted in `time_zone`.
    """
    defined: dict[str, Definition] = {}
    # Dimensions come before the facts that read them.
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            parts = dict(_parts(entity, target, contracts[target.entity]))
            parts.update(objects.get(target.entity, {}))
            has_days = isinstance(target, DailySnapshot) or (isinstance(target, Fact) and target.dates)
            if has_days and time_zone != DEFAULT:
                parts["time zone"] = hash_parts(time_zone)
            for dimension in _read_dimensions(target):
                if dimension in defined:
                    parts[f"dimension {dimension}"] = hash_parts(sorted(defined[dimension].items()))
            defined[target.entity] = parts
    return defined


def added_columns(before: Definition, now: Definition) -> list[str]:
    """Return the columns that are part of a target's definition now and were not before."""
    return [part.removeprefix(COLUMN) for part in now if part.startswith(COLUMN) and part not in before]


def describe_changes(before: Definition | None, now: Definition) -> str:
    """Describe the differences between two definitions for messages; `before` is None if it is not known."""
    if before is None:
        return "what it was made by is not known"
    if not before.keys() & now.keys():
        return "it is declared again"
    changes = [f"{part} is new" for part in now if part not in before]
    changes += [f"{part} is gone" for part in before if part not in now]
    changes += [f"{part} has changed" for part in now if part in before and before[part] != now[part]]
    return ", ".join(changes)


def _parts(entity: Entity, target: Target, contract: Contract) -> Iterator[tuple[str, str]]:
    table = entity.table
    joins = sorted((str(entity.tables[join.table]), hash_sql(join.condition)) for join in entity.joins)
    yield "source declaration", hash_parts(*table.at_source, table.key, joins)
    if [(name,) for name in table.key] != [*entity.key.values()]:
        yield "key", hash_parts([*entity.key.items()])
    if entity.follows:
        yield (
            "followed tables",
            hash_parts(sorted((join.table, hash_sql(join.condition)) for join in entity.follows)),
        )
    for column in _columns(target):
        if column.name not in entity.unmapped_columns:
            yield f"{COLUMN}{column.name}", hash_parts(column.type, column.tracked)
    yield "conform SQL", hash_sql(entity.sql)
    yield (
        "contract",
        hash_parts(sorted((rule.name, hash_sql(rule.broken_if)) for rule in contract.row_rules)),
    )
    if not isinstance(target, Dimension):
        yield (
            "references",
            hash_parts(
                target.natural_key,
                [(one.dimension, one.through) for one in target.refers_to],
                [(date.name, date.time) for date in target.dates] if isinstance(target, Fact) else [],
                target.event_time if isinstance(target, Fact) else "",
            ),
        )
    if isinstance(target, Fact):
        yield "fact SQL", hash_sql(_fact_sql(target))
        # Lookups of a dimension stay in order of precedence.
        lookups = sorted(
            ((one.dimension, one.source, one.by) for one in entity.lookups), key=lambda one: one[0]
        )
        yield OTHERS, hash_parts(lookups, entity.precedence)


def _columns(target: Target) -> tuple[Column, ...]:
    if isinstance(target, Dimension):
        return target.columns
    if isinstance(target, Fact):
        inputs = (one for one in target.inputs if isinstance(one, Column))
        members = (one.natural_key for one in target.refers_to if one.through is None)
        return (*members, *target.measures, *target.attributes, *inputs)
    return target.measures


def _read_dimensions(target: Target) -> Iterator[str]:
    """Yield the dimensions whose attributes a fact's rows depend on, so that it is conformed again with them: members
    that are corrected in place keep their keys, which marks no fact as changed."""
    if not isinstance(target, Fact):
        return
    tokens = sql_tokens(_fact_sql(target))
    read = {*target.derived, *target.derived.values()}
    read |= {name for name in target.references if name in tokens}
    yield from sorted(read)


def _fact_sql(fact: Fact) -> str:
    return (FACTS_SQL / f"{fact.entity}.sql").read_text("utf-8")
