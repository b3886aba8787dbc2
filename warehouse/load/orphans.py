"""Orphans: rows of the star and of the quarantine whose source row is no longer in the mirror."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import qualified, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.deletes import confirm_hint
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import natural_keys
from warehouse.model.star import TARGETS, DailySnapshot, Fact


def has_rows_of_source(connection: psycopg.Connection, source: str) -> bool:
    """Whether star or quarantine hold rows of a source: if not, its first load has nothing to look up."""
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
    """Add keys of the target, and of rows that wait in quarantine for it, that no mirror row has to the deleted keys.

    A mirror that was dropped or changed by hand does not show what was deleted in the source meanwhile. Returns the
    number of keys added.

    Raises:
        DeleteThresholdExceeded: too many rows of the target would be deleted.
    """
    if not batch.may_have_orphans:
        return 0
    key = batch.target.natural_key
    rows = batch.format(
        "from {target} as held where source_system = {source} and {live}",
        live=live_rows(batch),
    )
    orphans = _add_deleted_keys(
        batch, batch.format("select {key} {rows}", key=qualified("held", key), rows=rows)
    )
    if orphans:
        (held,) = batch.execute("select count(*) {rows}", rows=rows).fetchone() or (0,)
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
    """Stop a run whose changed definition would delete more of the target than is plausible.

    Raises:
        DeleteThresholdExceeded: naming the target, its share and the limit.
    """
    deleted, held = batch.execute(
        """
        select count(*) filter (where exists (select from {deleted_keys} as deleted where {same})), count(*)
        from {target} as held where source_system = {source} and {live}
        """,
        same=same_key(batch.target.natural_key, "held", "deleted"),
        live=live_rows(batch),
    ).fetchone() or (0, 0)
    if threshold.is_exceeded(deleted, held):
        raise DeleteThresholdExceeded(
            f"Too many rows of dwh.{batch.target.table} are no longer made of source '{batch.source}' "
            f"({batch.reconform_reason}): {deleted:,} of {held:,}, {deleted / held:.0%}; {threshold}.",
            hint=confirm_hint(batch.source, threshold),
        )


def live_rows(batch: Batch) -> sql.Composable:
    """Condition on a row `held` of the target: its source row should be there, as far as the star knows."""
    target = batch.target
    if isinstance(target, Fact):
        return sql.SQL("true")
    if isinstance(target, DailySnapshot):
        # Rows of earlier days stay.
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
        keys=natural_keys(batch, "mirror"),
        held=held,
        same=same_key(batch.target.natural_key, "present", "held"),
    ).rowcount
