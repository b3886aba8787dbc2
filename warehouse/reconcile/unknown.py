"""Reconcile the unknown member of a dimension: the row with key 0, without attributes."""

import time

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.model.star import BEGINNING, END_OF_TIME, Dimension
from warehouse.reconcile.compare import EXPECTED, Comparison, reconcile_table
from warehouse.reconcile.verdict import Verdict


def reconcile_unknown(connection: psycopg.Connection, source: str, dimension: Dimension) -> Verdict:
    """Repair the row with key 0 of a dimension, as the migrations inserted it."""
    started = time.monotonic()
    (natural,) = dimension.natural_key
    values: dict[str, object] = {dimension.key: 0, "source_system": "", natural: "", "is_inferred": False}
    values |= dict.fromkeys(dimension.attributes)
    if dimension.has_history:
        values |= {"valid_from": BEGINNING, "valid_to": END_OF_TIME, "is_current": True}
        values |= {"row_hash": 0, "expired_by_run_id": None}
    else:
        values |= {"is_deleted": False}
    names = listed(list(values))
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.expected;
            create temp table expected on commit drop as select {names} from {dimension} limit 0;
            insert into pg_temp.expected ({names}) values ({values});
            """
        ).format(
            names=names,
            dimension=sql.Identifier("dwh", dimension.table),
            values=sql.SQL(", ").join(map(sql.Literal, values.values())),
        )
    )
    comparison = Comparison(
        "star",
        source,
        "dwh",
        dimension.table,
        EXPECTED,
        (dimension.key,),
        tuple(name for name in values if name != dimension.key),
        sql.SQL("found.{} = 0").format(sql.Identifier(dimension.key)),
        {"run_id": sql.Literal(0)},
    )
    return reconcile_table(connection, comparison).timed(started)
