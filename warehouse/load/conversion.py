"""Find rows that the source's SQL cannot convert, by bisecting the batch, and store them for the quarantine.

One cast, product or date that overflows fails the statement for all rows. So the keys are bisected until each failing
row is alone; all other rows are conformed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import same_key, text_array
from warehouse.errors import SourceError
from warehouse.extract.catalog import mirrored_columns
from warehouse.load.batch import Batch
from warehouse.load.fit import UNFIT
from warehouse.load.natural_keys import natural_array
from warehouse.sources.source import Table

# More failing rows than this mean that the SQL is wrong, not the rows.
MOST_UNCONVERTIBLE = 1000
# Values of unconvertible rows are stored up to this number of characters.
LONGEST_SHOWN = 1000
# Errors that a single value can cause.
ROW_ERRORS = (
    psycopg.DataError,
    psycopg.errors.CardinalityViolation,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.RaiseException,
    psycopg.errors.NotNullViolation,
)


def create_unconvertible(batch: Batch) -> None:
    """Create the batch's empty table of rows that cannot be converted."""
    batch.create_temporary(
        f"unconvertible_{batch.entity.name}",
        "select null::text[] as row_key, null::text[] as rules, null::text as reason, null::jsonb as row_data "
        "where false",
    )


def find_failing_positions(
    batch: Batch, count: int, attempt: Callable[[int, int], None]
) -> Iterator[tuple[int, str]]:
    """Bisect the positions 1 to `count`: call `attempt` (first, last), and halve ranges that fail.

    Yields each position that fails alone, with the error message.

    Raises:
        SourceError: more than MOST_UNCONVERTIBLE positions fail.
    """
    failed, parts = 0, [(1, count)]
    while parts:
        first, last = parts.pop()
        try:
            with batch.connection.transaction():
                attempt(first, last)
        except ROW_ERRORS as error:
            if first < last:
                middle = (first + last) // 2
                parts += [(middle + 1, last), (first, middle)]
                continue
            # Mask quoted values, which may be personal data.
            message = re.sub('".*"', '"…"', error.diag.message_primary or "", flags=re.DOTALL)
            failed += 1
            if failed > MOST_UNCONVERTIBLE:
                raise SourceError(
                    f"More than {MOST_UNCONVERTIBLE:,} rows of {batch.entity.name} of source '{batch.source}' cannot "
                    f"be converted: {message}.",
                    hint=f"Look for a conversion that fits in conform/{batch.entity.name}.sql.",
                ) from error
            yield first, message


def fill_by_halves(
    batch: Batch, fill: Callable[[], int], values: Mapping[str, sql.Composable], query: sql.Composable
) -> int:
    """Bisect the changed keys: call `fill` for ever smaller parts. Returns the number of rows, including unconvertible.

    The row of a key that fails alone goes to the unconvertible rows, with its failing columns. `values` are the
    expressions of all columns over `query`.

    Raises:
        SourceError: more than MOST_UNCONVERTIBLE rows fail.
    """
    batch.execute(
        "alter table {changed_keys} rename to all_changed_keys; "
        "create unlogged table {changed_keys} as select * from staging.all_changed_keys limit 0"
    )
    # The name contains the entity, because a reconcile has the batches of several entities open.
    numbered = f"numbered_keys_{batch.entity.name}"
    names = {"numbered": sql.Identifier("pg_temp", numbered)}
    count = batch.create_temporary(
        numbered, "select keys.*, row_number() over () as _number from staging.all_changed_keys as keys"
    )
    batch.execute("alter table {numbered} add primary key (_number)", **names)
    rows = 0

    def take(first: int, last: int) -> None:
        batch.execute("truncate {changed_keys}")
        batch.execute(
            "insert into {changed_keys} select keys.* from {numbered} as numbered "
            "inner join staging.all_changed_keys as keys using ({source_key}) "
            "where numbered._number between {first} and {last}",
            **names,
            first=sql.Literal(first),
            last=sql.Literal(last),
        )

    def attempt(first: int, last: int) -> None:
        nonlocal rows
        take(first, last)
        rows += fill()

    for place, message in find_failing_positions(batch, count, attempt):
        take(place, place)
        _store(batch, values, query, message)
        rows += 1
    batch.execute(
        "drop table {changed_keys}; alter table staging.all_changed_keys rename to {name}",
        name=sql.Identifier(batch.changed_keys_name),
    )
    return rows


def isolate_rows(
    batch: Batch, relation: sql.Composable, expressions: Sequence[tuple[str, sql.Composable]]
) -> int:
    """Move conformed rows for which an expression fails to the unconvertible ones; returns their number.

    The expressions, each with the name of a column or rule, have one common type. They are evaluated over `relation`,
    which has one row per natural key.

    Raises:
        SourceError: more than MOST_UNCONVERTIBLE rows fail.
    """
    names = {"numbered": sql.Identifier("pg_temp", f"numbered_rows_{batch.entity.name}")}
    count = batch.create_temporary(
        f"numbered_rows_{batch.entity.name}",
        "select {natural_key}, row_number() over () as _number from {conformed}",
    )

    def condition(first: int, last: int) -> sql.Composed:
        return batch.format(
            "({natural_key}) in (select {natural_key} from {numbered} where _number between {first} and {last})",
            **names,
            first=sql.Literal(first),
            last=sql.Literal(last),
        )

    def evaluate(values: Iterable[sql.Composable], rows: sql.Composable) -> sql.Composed:
        return batch.format(
            "select values from (select {natural_key}, array[{values}] as values from {relation}) as evaluated "
            "where {rows}",
            values=sql.SQL(", ").join(values),
            relation=relation,
            rows=rows,
        )

    def attempt(first: int, last: int) -> None:
        query = evaluate([value for _, value in expressions], condition(first, last))
        batch.create_temporary("attempt", "{query}", query=query)

    moved = 0
    for place, message in find_failing_positions(batch, count, attempt):
        rows = condition(place, place)
        failing = dict.fromkeys(
            f"{UNFIT}: {name}" for name, value in expressions if not succeeds(batch, evaluate([value], rows))
        )
        rules = list(failing) or [UNFIT]
        batch.execute(
            "insert into {unconvertible} select {row_key}, {rules}, {reason}, to_jsonb(conformed) from {conformed} "
            "as conformed where {rows}",
            row_key=text_array(batch.target.natural_key, "conformed"),
            rules=sql.Literal(rules),
            reason=sql.Literal(f"{'; '.join(rules)} ({message})"),
            rows=rows,
        )
        moved += batch.execute("delete from {conformed} where {rows}", rows=rows).rowcount
    return moved


def succeeds(batch: Batch, query: sql.Composed) -> bool:
    """Return whether a query runs without an error that a value can cause."""
    try:
        with batch.connection.transaction():
            batch.connection.execute(query)
    except ROW_ERRORS:
        return False
    return True


def _store(batch: Batch, values: Mapping[str, sql.Composable], query: sql.Composable, message: str) -> None:
    """Store the one row of the changed keys as unconvertible: its key, failing columns, reason and all other values."""

    def select(columns: Mapping[str, sql.Composable]) -> sql.Composed:
        return sql.SQL("select {} from ({}) as conformed").format(
            sql.SQL(", ").join(
                sql.SQL("{} as {}").format(value, sql.Identifier(name)) for name, value in columns.items()
            ),
            query,
        )

    failing = {name for name, value in values.items() if not succeeds(batch, select({name: value}))}
    rules = [f"{UNFIT}: {name}" for name in values if name in failing]
    if len(failing) == len(values):
        rules = [UNFIT]
    convertible = {name: sql.NULL if name in failing else value for name, value in values.items()}
    row = sql.SQL("select to_jsonb(converted) from ({}) as converted").format(select(convertible))
    batch.execute(
        "insert into {unconvertible} select {key}, {rules}, {reason}, {row} from {changed_keys} as changed",
        key=natural_array(batch.entity, "changed"),
        rules=sql.Literal(rules),
        reason=sql.Literal(f"{'; '.join(rules)} ({message})"),
        row=batch.format(
            "coalesce(({converted}), '{{}}') || jsonb_build_object('source', {source}, 'joined', {joined})",
            converted=row if succeeds(batch, row) else sql.NULL,
            source=_source_row(batch),
            joined=_joined_rows(batch),
        ),
    )


def _source_row(batch: Batch) -> sql.Composable:
    """Select the mirror row as JSON of texts, without its cursor, so that a reader sees the unconvertible value."""
    own = batch.entity.table
    columns = [name for name in mirrored_columns(batch.connection, own) if name != own.cursor]
    return batch.format(
        "(select {row} from {mirror} as {own} where {same})",
        row=_texts(own, columns),
        own=sql.Identifier(own.name),
        same=same_key(own.key, own.name, "changed"),
    )


def _joined_rows(batch: Batch) -> sql.Composable:
    """Select the rows that the mirror row is joined to as JSON of texts, by table."""
    entity, own = batch.entity, batch.entity.table
    joined = {join.table: join for join in entity.joins if join.near == (own.name,) and not join.is_self_join}
    rows = [
        batch.format(
            "{name}, (select {row} from {mirror} as {own} inner join raw.{joined} as {joined_name} on {condition} "
            "where {same} limit 1)",
            name=sql.Literal(name),
            row=_texts(entity.tables[name], list(mirrored_columns(batch.connection, entity.tables[name]))),
            own=sql.Identifier(own.name),
            joined=sql.Identifier(entity.tables[name].mirror),
            joined_name=sql.Identifier(name),
            condition=sql.SQL(join.condition),
            same=same_key(own.key, own.name, "changed"),
        )
        for name, join in joined.items()
    ]
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(rows))


def _texts(table: Table, columns: Sequence[str]) -> sql.Composable:
    return sql.SQL("jsonb_object(array[{}]::text[], array[{}]::text[])").format(
        sql.SQL(", ").join(map(sql.Literal, columns)),
        sql.SQL(", ").join(
            sql.SQL("left({}::text, {})").format(sql.Identifier(table.name, name), sql.Literal(LONGEST_SHOWN))
            for name in columns
        ),
    )
