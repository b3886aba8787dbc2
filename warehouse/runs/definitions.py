"""Definition hashes of each target table, in audit.definition: if one changes, the next run conforms all rows again."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import psycopg
from psycopg import sql

from warehouse.db.dependencies import read_bodies
from warehouse.db.time_zone import zone_of
from warehouse.errors import DeclarationError, ReconformLimitExceeded
from warehouse.model.contracts import Contract
from warehouse.model.sql_text import hash_parts, hash_sql
from warehouse.model.star import TARGETS, Target
from warehouse.model.weblog_definition import define_lookups
from warehouse.sources.declaration import read_declaration
from warehouse.sources.definition import OTHERS, Definition, added_columns, define_targets, describe_changes
from warehouse.sources.source import Entity, Source, Table

# Recorded instead of all other parts, when a source no longer declares a target.
REMOVED = "removed from the source's declaration"
# Stored beside the parts of a definition, but none of them: the hash of what the target's SQL reads, once a run has
# checked that the declaration follows changes of all of it. While it is the same, runs skip that check.
CHECKED_READS = "reads are followed"
WEBLOGS = "weblogs"
NOT_DECLARED = "it is no longer declared: its rows are kept and not updated"


@dataclass(frozen=True)
class StaleTarget:
    """A target with rows of a source that were conformed by another definition than the present one."""

    source: str
    table_name: str
    reason: str
    # Number of mirror rows to conform again; 0 if the target is no longer declared.
    rows: int = 0
    entity: str | None = None
    # Columns that were added since; None if that is unknown.
    new_columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Definitions:
    """Recorded and present definitions of a source's targets."""

    source: Source
    contracts: Mapping[str, Contract]
    time_zone: str
    # Recorded definitions by table.
    recorded: Mapping[str, Definition]
    # Hash of what a target's SQL reads, by table, if a run has checked that all of it is followed.
    checked_reads: Mapping[str, str]
    # Present hashes of the views and functions that an entity's SQL uses, by entity.
    objects: Mapping[str, Definition]

    @cached_property
    def before(self) -> Mapping[str, Definition]:
        """Definitions by table with which its rows were last conformed."""
        before = {name: dict(parts) for name, parts in self.recorded.items()}
        for name, parts in before.items():
            # Earlier releases did not record this part: do not conform the table again only for that.
            if REMOVED not in parts and OTHERS in (now := self.now.get(name, {})):
                parts.setdefault(OTHERS, now[OTHERS])
        return before

    @cached_property
    def now(self) -> Mapping[str, Definition]:
        """Present definitions by table."""
        defined = define_targets(self.source, self.contracts, self.time_zone, self.objects)
        return {f"dwh.{target.table}": defined[target.entity] for target, _ in _declared(self.source)}

    def is_removed(self, table_name: str) -> bool:
        """Whether a run has already recorded that the source no longer declares a table."""
        return REMOVED in self.before.get(table_name, {}) and table_name not in self.now

    def is_checked(self, entity: Entity, reads: str) -> bool:
        """Whether a run has checked what the SQL of `entity` reads, with the present definition and hash `reads`."""
        (table_name,) = (f"dwh.{target.table}" for target in TARGETS if target.entity == entity.name)
        is_same = self.before.get(table_name) == self.now[table_name]
        return is_same and self.checked_reads.get(table_name) == reads


def read_definitions(connection: psycopg.Connection, source: str) -> Mapping[str, dict[str, str]]:
    """Return the recorded definitions of a source's targets by table, with CHECKED_READS."""
    definitions: dict[str, dict[str, str]] = {}
    rows = connection.execute(
        "select table_name, part, hash from audit.definition where source = %s order by table_name, part",
        [source],
    )
    for table_name, part, digest in rows.fetchall():
        definitions.setdefault(table_name, {})[part] = digest
    return definitions


def compare_definitions(
    connection: psycopg.Connection, source: Source, contracts: Mapping[str, Contract]
) -> Definitions:
    """Read the recorded definitions of a source's targets, and compute the present ones."""
    recorded = read_definitions(connection, source.name)
    checked_reads = {
        name: parts.pop(CHECKED_READS) for name, parts in recorded.items() if CHECKED_READS in parts
    }
    parts_by_entity = {
        target.entity: [
            part
            for part in recorded.get(f"dwh.{target.table}", {})
            if part.startswith(("view ", "function "))
        ]
        for target, _ in _declared(source)
    }
    hashes = hash_objects(connection, {part for parts in parts_by_entity.values() for part in parts})
    objects = {
        entity: {part: hashes[part] for part in parts if part in hashes}
        for entity, parts in parts_by_entity.items()
    }
    return Definitions(source, contracts, zone_of(connection), recorded, checked_reads, objects)


def hash_objects(connection: psycopg.Connection, objects: Collection[str]) -> Definition:
    """Hash the present bodies of views and functions, named like `view raw.paid`. Missing ones are skipped."""
    if not objects:
        return {}
    return {
        name: hash_parts(signature, hash_sql(body) if is_text else body)
        for name, signature, body, is_text in read_bodies(connection, sorted(objects))
    }


def record_definition(
    connection: psycopg.Connection, run_id: int, source: str, table_name: str, definition: Definition
) -> None:
    """Record a target's definition in the transaction that conforms its rows. Unchanged parts keep their run."""
    connection.execute(
        "delete from audit.definition where source = %s and table_name = %s and part <> all(%s)",
        [source, table_name, list(definition)],
    )
    connection.execute(
        """
        insert into audit.definition as known (source, table_name, part, hash, run_id)
        select %s, %s, part, hash, %s from unnest(%s::text[], %s::text[]) as made_by (part, hash)
        on conflict (source, table_name, part) do update set
            hash = excluded.hash, defined_at = excluded.defined_at, run_id = excluded.run_id
        where known.hash <> excluded.hash
        """,
        [source, table_name, run_id, list(definition), list(definition.values())],
    )


def read_contracts(source: Source) -> Mapping[str, Contract]:
    """Return the contract of each entity of a source.

    Raises:
        DeclarationError: a contract is missing or wrong.
    """
    return {name: entity.contract() for name, entity in source.entities.items()}


def find_stale_targets(
    connection: psycopg.Connection, source: Source, contracts: Mapping[str, Contract]
) -> list[StaleTarget]:
    """Return targets of a source whose rows all have to be conformed again, and those that it no longer declares.

    A target without a mirror is not stale: the run that creates the mirror loads all of its rows anyway.
    """
    return find_stale(connection, compare_definitions(connection, source, contracts))


def find_stale(connection: psycopg.Connection, definitions: Definitions) -> list[StaleTarget]:
    """Return the stale targets for already compared definitions; see `find_stale_targets`."""
    source, before, after = definitions.source, definitions.before, definitions.now
    stale = []
    for target, entity in _declared(source):
        name = f"dwh.{target.table}"
        previous, now = before.get(name), after[name]
        rows = None if previous == now else _mirror_rows(connection, entity)
        if rows is not None:
            has_columns = previous is not None and REMOVED not in previous
            stale.append(
                StaleTarget(
                    source.name,
                    name,
                    describe_changes(previous, now),
                    rows,
                    target.entity,
                    tuple(added_columns(previous or {}, now)) if has_columns else None,
                )
            )
    declared = {*after, *map(_mirror, source.tables)}
    # A mirror that somebody has dropped since is no longer anybody's concern.
    kept = connection.execute(
        "select name from unnest(%s::text[]) as name where to_regclass(format("
        "'%%I.%%I', split_part(name, '.', 1), substr(name, strpos(name, '.') + 1))) is not null order by name",
        [sorted(before.keys() - declared)],
    ).fetchall()
    return stale + [StaleTarget(source.name, name, NOT_DECLARED) for (name,) in kept]


def list_stale_targets(connection: psycopg.Connection, declared: Mapping[str, Path]) -> list[StaleTarget]:
    """Return the stale targets of all sources, including sources whose declaration cannot be read, with the reason."""
    stale: list[StaleTarget] = []
    for name, folder in declared.items():
        try:
            source = read_declaration(folder)
            stale += find_stale_targets(connection, source, read_contracts(source))
        except DeclarationError as error:
            stale.append(StaleTarget(name, "all", f"its declaration cannot be read: {error.what}"))
    try:
        stale += find_stale_lookups(connection)
    except DeclarationError as error:
        stale.append(StaleTarget(WEBLOGS, "all", f"its declaration cannot be read: {error.what}"))
    rows = connection.execute(
        "select distinct source, table_name from audit.definition where source <> all(%s) order by 1, 2",
        [[*declared, WEBLOGS]],
    ).fetchall()
    return stale + [StaleTarget(source, table_name, NOT_DECLARED) for source, table_name in rows]


def find_stale_lookups(connection: psycopg.Connection) -> list[StaleTarget]:
    """Return lookup tables of the web logs whose texts were classified by other rules than the present ones."""
    before = read_definitions(connection, WEBLOGS)
    stale = []
    for name, now in define_lookups().items():
        if before.get(name) != now and (rows := _texts(connection, name)):
            stale.append(StaleTarget(WEBLOGS, name, describe_changes(before.get(name), now), rows))
    return stale


def check_reconform_limit(stale: list[StaleTarget], limit: int) -> None:
    """Check that a run conforms no more than `limit` rows again.

    Raises:
        ReconformLimitExceeded: it would; the message has each target and the reason.
    """
    rows = sum(one.rows for one in stale)
    if rows > limit:
        (source, *_) = {one.source for one in stale}
        reasons = "; ".join(
            f"{one.table_name} ({one.rows:,} rows): {one.reason}" for one in stale if one.rows
        )
        raise ReconformLimitExceeded(
            f"What {rows:,} rows of '{source}' were made by has changed, and they have to be conformed again; "
            f"the limit is {limit:,}. {reasons}.",
            hint=f"Nothing was read. To do it now: `dwh run {source} --reconform`; DWH_RECONFORM_ROWS sets the limit.",
        )


def record_definitions(
    connection: psycopg.Connection,
    run_id: int,
    definitions: Definitions,
    checked: Mapping[str, tuple[str, Definition]],
) -> list[str]:
    """Record the present definitions of a source's targets, and mark those, and mirrors, that it no longer declares.

    A marked target is conformed completely if it is declared again, since its rows were not updated in between.
    `checked` has, for each entity whose reads this run has checked, their hash and the views and functions found.
    Returns the tables that were marked by this run.
    """
    source, recorded, checked_reads = definitions.source, definitions.recorded, definitions.checked_reads
    checked_objects = {entity: objects for entity, (_, objects) in checked.items()}
    after = replace(definitions, objects={**definitions.objects, **checked_objects}).now
    mirrors = {_mirror(table) for table in source.tables}
    removed = [
        name
        for name, previous in recorded.items()
        if name not in after and name not in mirrors and REMOVED not in previous
    ]
    removed += sorted(_captured(connection, source.name) - mirrors - recorded.keys())
    for name in removed:
        record_definition(connection, run_id, source.name, name, {REMOVED: ""})
    for name in mirrors & recorded.keys():
        record_definition(connection, run_id, source.name, name, {})
    for target, _ in _declared(source):
        name = f"dwh.{target.table}"
        reads = checked[target.entity][0] if target.entity in checked else checked_reads.get(name)
        if (after[name], reads) != (recorded.get(name), checked_reads.get(name)):
            stored = after[name] if reads is None else {**after[name], CHECKED_READS: reads}
            record_definition(connection, run_id, source.name, name, stored)
    return removed


def _mirror(table: Table) -> str:
    return f"raw.{table.mirror}"


def _captured(connection: psycopg.Connection, source: str) -> set[str]:
    """Return the mirrors of all tables of a source that were ever captured."""
    rows = connection.execute("select 'raw.' || mirror from audit.watermark where source = %s", [source])
    return {name for (name,) in rows}


def _declared(source: Source) -> Iterator[tuple[Target, Entity]]:
    for target in TARGETS:
        if entity := source.entities.get(target.entity):
            yield target, entity


def _texts(connection: psycopg.Connection, lookup: str) -> int:
    schema, _, table = lookup.partition(".")
    # Do not count key 0, which stands for a missing text.
    (rows,) = connection.execute(
        sql.SQL("select count(*) - 1 from {}").format(sql.Identifier(schema, table))
    ).fetchone() or (0,)
    return int(rows)


def _mirror_rows(connection: psycopg.Connection, entity: Entity) -> int | None:
    """Return the number of rows in the entity's mirror; None if there is no mirror yet."""
    mirror = sql.Identifier("raw", entity.table.mirror)
    (oid,) = connection.execute("select to_regclass(%s)", [mirror.as_string(connection)]).fetchone() or (
        None,
    )
    if oid is None:
        return None
    (rows,) = connection.execute(
        sql.SQL("select count(*) from {} where not _is_deleted").format(mirror)
    ).fetchone() or (0,)
    return int(rows)
