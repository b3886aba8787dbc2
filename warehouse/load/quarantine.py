"""Quarantine: move rows that break a row rule or do not fit the star to audit.quarantine, until they pass."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from warehouse.db.identifiers import same_row_key, text_array
from warehouse.load.batch import Batch
from warehouse.load.conversion import ROW_ERRORS, isolate_rows
from warehouse.load.fit import UNFIT, unfit_rules
from warehouse.load.last_good_states import keep_last_good_states
from warehouse.load.orphans import live_rows
from warehouse.model.contracts import RowRule
from warehouse.model.star import DailySnapshot, Fact
from warehouse.model.tables import HAS_QUARANTINED_UPDATE

# Parts of an entry's row_data that differ when an unchanged row is checked again: its timestamp is then null, and rows
# that it is joined to may have changed.
NOT_ITS_OWN = sql.SQL("'{changed_at, joined}'::text[]")
WRONG_MARKS = sql.Identifier("pg_temp", "wrong_marks")


def find_failing(batch: Batch, rules: Sequence[RowRule]) -> Mapping[str, int]:
    """Fill the batch's failing rows with those that break a rule, do not fit or cannot be converted.

    Returns the number of rows that do not fit or cannot be converted, by rule. Only rows that break none of `rules` are
    checked for fit.
    """
    try:
        with batch.connection.transaction():
            _find_failing(batch, rules)
    except ROW_ERRORS:
        if not isolate_unjudgeable(batch, rules):
            raise
        _find_failing(batch, rules)
    counts = batch.execute(
        """
        select rule, count(*) from {failing_rows} cross join unnest(rules) as rule
        where starts_with(rule, {unfit}) group by rule order by rule
        """,
        unfit=sql.Literal(UNFIT),
    ).fetchall()
    return dict(counts)


def isolate_unjudgeable(batch: Batch, rules: Sequence[RowRule]) -> int:
    """Move conformed rows for which evaluating a rule fails, as when a product overflows, to the unconvertible ones.

    Returns the number of rows moved.
    """
    if not rules:
        return 0
    broken = [(rule.column or rule.name, sql.SQL("({})").format(sql.SQL(rule.broken_if))) for rule in rules]
    return isolate_rows(batch, batch.conformed, broken)


def _find_failing(batch: Batch, rules: Sequence[RowRule]) -> None:
    unfit = unfit_rules(batch.target)
    batch.create_temporary(
        "failing_rows",
        """
        select
            checked.place, checked.row_key, checked.rules, array_to_string(checked.rules, '; ') as reason,
            checked.row_data
        from (
            select
                conformed.ctid as place,
                {key} as row_key,
                coalesce(nullif({broken}, '{{}}'), {unfit}) as rules,
                to_jsonb(conformed) as row_data
            from {conformed} as conformed where {any_broken}
        ) as checked
        union all
        select null, row_key, rules, reason, row_data from {unconvertible}
        """,
        key=text_array(batch.target.natural_key, "conformed"),
        broken=broken_rules(rules),
        unfit=broken_rules(unfit),
        any_broken=sql.SQL(" or ").join(
            sql.SQL("({}) is true").format(sql.SQL(rule.broken_if)) for rule in (*rules, *unfit)
        ),
    )


def broken_rules(rules: Sequence[RowRule]) -> sql.Composable:
    """Expression for the array of names of the rules that a conformed row breaks."""
    return sql.SQL("array_remove(array[{}]::text[], null)").format(
        sql.SQL(", ").join(
            sql.SQL("case when {} then {} end").format(sql.SQL(rule.broken_if), sql.Literal(rule.name))
            for rule in rules
        )
    )


def take_failing(batch: Batch) -> int:
    """Delete the failing rows from the conformed rows; returns their number."""
    return batch.execute(
        "delete from {conformed} as conformed using {failing_rows} as failing where conformed.ctid = failing.place"
    ).rowcount


def add_isolated(batch: Batch) -> None:
    """Add unconvertible rows that were found after `find_failing` to the failing rows."""
    batch.execute(
        "insert into {failing_rows} select null, row_key, rules, reason, row_data from {unconvertible} "
        "where row_key not in (select row_key from {failing_rows})"
    )


class Moved(NamedTuple):
    """Number of a batch's rows that were moved to quarantine, and of their new entries: of a feed, one per record."""

    rows: int = 0
    entries: int = 0


def move_failing(batch: Batch) -> Moved:
    """Move the failing rows from the batch to audit.quarantine.

    An unchanged row that is checked again and breaks the same rules keeps its entry; otherwise it gets a new one.
    """
    take_failing(batch)
    entries = batch.execute(
        """
        insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data)
        select {run_id}, {source}, {entity}, failing.row_key, failing.rules, failing.reason, failing.row_data
        from {failing_rows} as failing
        left join audit.quarantine as waiting
            on waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
            and waiting.row_key = failing.row_key and waiting.rules = failing.rules
            and waiting.row_data - {not_its_own} = failing.row_data - {not_its_own}
        where waiting.quarantine_id is null
        """,
        not_its_own=NOT_ITS_OWN,
    ).rowcount
    return Moved(entries, entries)


def last_entry(connection: psycopg.Connection) -> int:
    """Return the id of the newest entry: entries that a batch adds are newer."""
    (newest,) = connection.execute(
        "select coalesce(max(quarantine_id), 0) from audit.quarantine"
    ).fetchone() or (0,)
    return int(newest)


def resolve(batch: Batch, last_entry: int) -> Mapping[str, int]:
    """Resolve entries up to `last_entry` of keys that this batch has checked again; returns counts by resolution.

    Call it after the failing rows have moved: a key that is still conformed has passed and is 'released', one with a
    new entry is 'replaced', and one without a source row is 'deleted'. `last_entry` excludes the entries of this batch;
    a run may check a key twice, in a reconform and then with its changes.
    """
    if batch.is_full_load:
        return {}
    rows = batch.execute(
        """
        with judged as (
            select array[{natural_key}]::text[] as row_key, 'released' as resolution from {conformed}
            union all
            select array[{natural_key}]::text[], 'deleted' from {deleted_keys}
            union all
            select row_key, 'replaced' from audit.quarantine
            where quarantine_id > {last_entry} and source = {source} and entity = {entity}
        ),

        resolved as (
            update audit.quarantine as waiting
            set resolved_at = clock_timestamp(), resolved_run_id = {run_id}, resolution = judged.resolution
            from judged
            where waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null
                and waiting.row_key = judged.row_key and waiting.quarantine_id <= {last_entry}
            returning judged.resolution
        )

        select resolution, count(*) from resolved group by resolution
        """,
        last_entry=sql.Literal(last_entry),
    ).fetchall()
    return dict(rows)


def mark_rows(batch: Batch, *, last_entry: int = 0, every_entry: bool = False) -> int:
    """Mark the target's rows whose newer state is in quarantine, and unmark all others; returns the rows changed.

    The last good states of marked facts are kept with their entries.

    Call it after the merge. Only entries of this run that are newer than `last_entry` are looked up in the target: rows
    of older entries were marked before. With `every_entry`, all entries are looked up.
    """
    target = batch.target
    # Snapshot rows of a new day are copied without marks, so all entries are looked up; earlier days keep their marks.
    is_snapshot = isinstance(target, DailySnapshot)
    names: dict[str, sql.Composable] = {
        "mark": sql.Identifier(HAS_QUARANTINED_UPDATE.name),
        "is_live": live_rows(batch),
        "row_key": text_array(target.natural_key, "held"),
        "same": same_row_key(target.natural_key, "held", "waiting"),
        "waiting": batch.format(
            "select row_key from audit.quarantine where source = {source} and entity = {entity} "
            "and resolved_at is null and row_key is not null"
        ),
    }
    wrong = batch.create_temporary(
        "wrong_marks",
        """
        select held.ctid as place, {row_key} as row_key, false as {mark}
        from {target} as held
        where held.source_system = {source} and held.{mark} and {is_judged}
            and not ({is_live} and {row_key} in ({waiting}))
        union all
        select held.ctid, {row_key}, true
        from ({waiting} and {is_looked_up}) as waiting
        inner join {target} as held on {same} and held.source_system = {source}
        where not held.{mark} and {is_live}
        """,
        **names,
        is_judged=live_rows(batch) if is_snapshot else sql.SQL("true"),
        is_looked_up=sql.SQL("true")
        if every_entry or is_snapshot
        else batch.format(
            "run_id = {run_id} and quarantine_id > {last_entry}", last_entry=sql.Literal(last_entry)
        ),
    )
    if wrong:
        batch.execute(
            "update {target} as held set {mark} = wrong.{mark}, run_id = {run_id} "
            "from {wrong_marks} as wrong where held.ctid = wrong.place",
            **names,
            wrong_marks=WRONG_MARKS,
        )
    if isinstance(target, Fact):
        keep_last_good_states(batch)
    return wrong


def is_waiting(connection: psycopg.Connection, source: str, entity: str, key: Sequence[str]) -> bool:
    """Return whether the source's row with this key is in quarantine, so that the star has an older state or none."""
    row = connection.execute(
        """
        select exists (
            select from audit.quarantine
            where source = %s and entity = %s and resolved_at is null and row_key = %s
        )
        """,
        [source, entity, list(key)],
    ).fetchone()
    return bool(row and row[0])
