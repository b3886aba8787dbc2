"""Rows that the source's SQL cannot convert: found by halving the batch, and stored for the quarantine.

A cast, a product or a date that overflows fails the statement for all rows. So the keys are halved until each row that
fails stands alone; all others are conformed.
"""

import re
from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from warehouse.db.identifiers import each
from warehouse.errors import SourceError
from warehouse.load.batch import Batch
from warehouse.load.fit import UNFIT

# Above this number it is the SQL that is wrong, not the rows.
MOST_UNCONVERTIBLE = 1000


def create_unconvertible(batch: Batch) -> None:
    """Create the batch's table of rows that cannot be converted, empty."""
    batch.create_temporary(
        f"unconvertible_{batch.entity.name}",
        "select null::text[] as row_key, null::text[] as rules, null::text as reason, null::jsonb as row_data "
        "where false",
    )


def fill_by_halves(
    batch: Batch, fill: Callable[[], int], values: Mapping[str, sql.Composable], query: sql.Composable
) -> int:
    """Call `fill` for ever smaller parts of the changed keys; returns the number of rows, unconvertible ones included.

    A single key that fails goes to the table of unconvertible rows, with the columns that fail of those `values` that
    are selected from `query`.

    Raises:
        SourceError: more than MOST_UNCONVERTIBLE rows fail.
    """
    batch.execute(
        "alter table {changed_keys} rename to all_changed_keys; "
        "create unlogged table {changed_keys} as select * from staging.all_changed_keys limit 0"
    )
    # Named after the entity: a reconcile conforms all batches before it closes the first.
    numbered = f"numbered_keys_{batch.entity.name}"
    names = {"numbered": sql.Identifier("pg_temp", numbered)}
    count = batch.create_temporary(
        numbered, "select keys.*, row_number() over () as _number from staging.all_changed_keys as keys"
    )
    batch.execute("alter table {numbered} add primary key (_number)", **names)
    rows = failed = 0
    parts = [(1, count)]
    while parts:
        first, last = parts.pop()
        batch.execute("truncate {changed_keys}")
        batch.execute(
            "insert into {changed_keys} select keys.* from {numbered} as numbered "
            "inner join staging.all_changed_keys as keys using ({source_key}) "
            "where numbered._number between {first} and {last}",
            **names,
            first=sql.Literal(first),
            last=sql.Literal(last),
        )
        try:
            with batch.connection.transaction():
                rows += fill()
        except psycopg.DataError as error:
            # Without values, which may be personal data.
            message = re.sub('".*"', '"…"', error.diag.message_primary or "", flags=re.DOTALL)
            if first < last:
                middle = (first + last) // 2
                parts += [(middle + 1, last), (first, middle)]
                continue
            failed += 1
            if failed > MOST_UNCONVERTIBLE:
                raise SourceError(
                    f"More than {MOST_UNCONVERTIBLE:,} rows of {batch.entity.name} of source '{batch.source}' cannot "
                    f"be converted: {message}.",
                    hint=f"Look for a conversion that fits in conform/{batch.entity.name}.sql.",
                ) from error
            _store(batch, values, query, message)
    batch.execute(
        "drop table {changed_keys}; alter table staging.all_changed_keys rename to {name}",
        name=sql.Identifier(batch.changed_keys_name),
    )
    return rows + failed


def _store(batch: Batch, values: Mapping[str, sql.Composable], query: sql.Composable, message: str) -> None:
    """Store the only changed row, which fails: its key, which columns fail and why, and the values of all others."""

    def select(columns: Mapping[str, sql.Composable]) -> sql.Composed:
        return sql.SQL("select {} from ({}) as conformed").format(
            sql.SQL(", ").join(
                sql.SQL("{} as {}").format(value, sql.Identifier(name)) for name, value in columns.items()
            ),
            query,
        )

    failing = {name for name, value in values.items() if not _succeeds(batch, select({name: value}))}
    rules = [f"{UNFIT}: {name}" for name in values if name in failing]
    if len(failing) == len(values):
        rules = [UNFIT]
    convertible = {name: sql.NULL if name in failing else value for name, value in values.items()}
    row = sql.SQL("select to_jsonb(converted) from ({}) as converted").format(select(convertible))
    batch.execute(
        "insert into {unconvertible} select array[{key}], {rules}, {reason}, {row} from {changed_keys} as changed",
        key=each("changed.{}::text", batch.entity.table.key),
        rules=sql.Literal(rules),
        reason=sql.Literal(f"{'; '.join(rules)} ({message})"),
        row=sql.SQL("({})").format(row) if _succeeds(batch, row) else sql.SQL("to_jsonb(changed)"),
    )


def _succeeds(batch: Batch, query: sql.Composed) -> bool:
    try:
        with batch.connection.transaction():
            batch.connection.execute(query)
    except psycopg.DataError:
        return False
    return True
