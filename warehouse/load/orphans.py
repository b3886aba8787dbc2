"""Find orphans, which are rows of star and quarantine without a mirror row, and check or defer deletes."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import qualified, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.deletes import confirm_hint
from warehouse.extract.staging_tables import delta_table
from warehouse.load.batch import Batch
from warehouse.load.natural_keys import natural_keys
from warehouse.model.star import TARGETS, DailySnapshot, Fact


def has_rows_of_source(connection: psycopg.Connection, source: str) -> bool:
    """Return whether star or quarantine have rows of a source; if not, its first load has nothing to look up."""
    queries = [
        sql.SQL("exists (select from {} where source_system = {})").format(
            sql.Identifier("dwh", target.table), sql.Literal(source)
        )
        for target in TARGETS
    ]
    queries.append(
        sql.SQL("exists (select from audit.quarantine where source = {} and resolved_at is null)").format(
            sql.Literal(source)
        )
    )
    row = connection.execute(sql.SQL("select {}").format(sql.SQL(" or ").join(queries))).fetchone()
    return bool(row and row[0])


def find_orphans(batch: Batch, threshold: DeleteThreshold) -> int:
    """Add keys of the target and of its quarantined rows to the deleted keys if no mirror row has them.

    A mirror that was dropped or changed by hand does not show what was deleted in the source meanwhile. Returns the
    number of keys added.

    Raises:
        DeleteThresholdExceeded: too many rows of the target would be deleted.
    """
    if not batch.may_have_orphans:
        return 0
    key = batch.target.natural_key
    orphans = _add_deleted_keys(
        batch,
        batch.format(
            "select {key} from {target} as held where source_system = {source} and {live}",
            key=qualified("held", key),
            live=live_rows(batch),
        ),
    )
    if orphans and not batch.is_before_merge:
        held = count_live_rows(batch)
        if threshold.is_exceeded(orphans, held):
            raise DeleteThresholdExceeded(
                f"Too many rows of dwh.{batch.target.table} have no row in source '{batch.source}' any more, whose "
                f"mirror was made again: {orphans:,} of {held:,}, {orphans / held:.0%}; {threshold}.",
                hint=confirm_hint(batch.source, threshold),
            )
    return orphans + _add_deleted_keys(
        batch,
        batch.format(
            "select {row_key} from audit.quarantine where source = {source} and entity = {entity} "
            "and resolved_at is null and row_key is not null",
            row_key=sql.SQL(", ").join(
                sql.SQL("row_key[{}] as {}").format(sql.Literal(position), sql.Identifier(name))
                for position, name in enumerate(key, start=1)
            ),
        ),
    )


def check_deleted_share(batch: Batch, threshold: DeleteThreshold) -> None:
    """Stop a run whose changed definition or full refresh would delete too large a share of the target.

    Raises:
        DeleteThresholdExceeded: names the target, the share and the limit.
    """
    held = batch.deferred.rows_held if batch.deferred else count_live_rows(batch)
    reason = batch.deferred.reason if batch.deferred else batch.reconform_reason
    deleted = count_live_rows(
        batch,
        "exists (select from ({keys}) as deleted where {same})",
        keys=batch.format(
            _DEFERRED_DELETES if batch.deferred else "table {deleted_keys}",
            delta=delta_table(batch.entity.table),
            deleted_at_source=natural_keys(batch.entity, "delta"),
        ),
        same=same_key(batch.target.natural_key, "held", "deleted"),
    )
    if threshold.is_exceeded(deleted, held):
        raise DeleteThresholdExceeded(
            f"Too many rows of dwh.{batch.target.table} are no longer made of source '{batch.source}' "
            f"({reason}): {deleted:,} of {held:,}, {deleted / held:.0%}; {threshold}.",
            hint=confirm_hint(batch.source, threshold),
        )


# Deletes at the source were already checked against the threshold when they were read.
_DEFERRED_DELETES = """
    (table {deleted_keys} intersect table {deferred_keys})
    except select {deleted_at_source} from {delta} as delta where _operation = 'delete'
"""


def defer_deletes(batch: Batch) -> int:
    """Move the deleted keys to `deferred_keys` for the batch that conforms this run's changes; returns their number."""
    deferred = batch.execute("create temp table {deferred_keys} on commit drop as table {deleted_keys}")
    batch.execute("truncate {deleted_keys}")
    return deferred.rowcount


def count_live_rows(batch: Batch, condition: str = "true", /, **names: sql.Composable) -> int:
    """Count the live rows of the target, aliased `held`, for which `condition` holds; see `live_rows`."""
    (rows,) = batch.execute(
        f"select count(*) from {{target}} as held where source_system = {{source}} and {{live}} and {condition}",
        live=live_rows(batch),
        **names,
    ).fetchone() or (0,)
    return int(rows)


def live_rows(batch: Batch) -> sql.Composable:
    """Condition that a row `held` of the target should have a source row: it is not deleted, expired or inferred."""
    target = batch.target
    if isinstance(target, Fact):
        return sql.SQL("true")
    if isinstance(target, DailySnapshot):
        # Rows of earlier days are kept when their source row is deleted.
        return batch.format(
            "held.snapshot_date = (select max(snapshot_date) from {target} where source_system = {source})"
        )
    if target.has_history:
        return sql.SQL("held.is_current and not held.is_inferred")
    return sql.SQL("not held.is_deleted and not held.is_inferred")


def _add_deleted_keys(batch: Batch, held: sql.Composable) -> int:
    return batch.execute(
        """
        with present as (select {keys} from {mirror} as mirror where not _is_deleted)

        insert into {deleted_keys}
        select held.* from ({held}) as held where not exists (select from present where {same})
        """,
        keys=natural_keys(batch.entity, "mirror"),
        held=held,
        same=same_key(batch.target.natural_key, "present", "held"),
    ).rowcount
