"""Compare a table with its expected rows, list the differences, and repair them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.db.roles import OWNER
from warehouse.errors import AccessRefused
from warehouse.reconcile.verdict import LONGEST_LISTED, MOST_LISTED, Difference, Layer, Problem, Verdict

EXPECTED = sql.Identifier("pg_temp", "expected")
DIFFERENT = sql.Identifier("pg_temp", "different")
_BY_INDEX = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")


@dataclass(frozen=True)
class Comparison:
    """Compares `schema.table` with the relation `expected` by key; both have `key` and `columns`, of the same types."""

    layer: Layer
    source: str
    schema: str
    table: str
    expected: sql.Composable
    key: tuple[str, ...]
    columns: tuple[str, ...]
    # Condition on the rows of the table to compare, aliased `found`; and values for further columns of repaired rows.
    where: sql.Composable
    housekeeping: Mapping[str, sql.Composable] | None = None
    # Compare bytes: that needs no equality operator, and distinguishes 1.0 from 1.00.
    by_image: bool = False
    shown_as: str = ""
    # The query of the expected rows if `expected` was not yet created from it; see `create_expected`.
    query: sql.Composable | None = None
    # Assignments, by a row's `number`, that avoid conflicts with a constraint while rows are repaired one by one.
    parked: sql.Composable | None = None

    @property
    def name(self) -> str:
        return self.shown_as or f"{self.schema}.{self.table}"

    @property
    def names(self) -> dict[str, sql.Composable]:
        left, right = ("row({})::record", "*<>") if self.by_image else ("row({})", "is distinct from")
        # Keys may be equal and differ in their bytes.
        compared = (*self.key, *self.columns) if self.by_image else self.columns
        differ = sql.SQL(f"{left} {right} {left}").format(
            qualified("found", compared), qualified("expected", compared)
        )
        marks = dict(self.housekeeping or {})
        return {
            "different": DIFFERENT,
            "table": sql.Identifier(self.schema, self.table),
            "expected": self.expected,
            "where": self.where,
            "differ": differ if compared else sql.SQL("false"),
            "same": same_key(self.key, "found", "expected"),
            "found_key": qualified("found", self.key),
            "compared": listed([*self.key, *self.columns]),
            "all": listed([*self.key, *self.columns, *marks]),
            "expected_all": sql.SQL(", ").join(
                [qualified("expected", [*self.key, *self.columns]), *marks.values()]
            ),
            "assigned": sql.SQL(", ").join(
                [
                    *(sql.SQL("{0} = expected.{0}").format(sql.Identifier(name)) for name in compared),
                    *(
                        sql.SQL("{} = {}").format(sql.Identifier(name), value)
                        for name, value in marks.items()
                    ),
                ]
            ),
        }


def create_expected(connection: psycopg.Connection, query: sql.Composable) -> None:
    """Create pg_temp.expected from a query."""
    connection.execute(
        sql.SQL("drop table if exists {0}; create temp table expected on commit drop as {1}").format(
            EXPECTED, query
        )
    )


def fill(connection: psycopg.Connection, comparison: Comparison) -> Verdict | None:
    """Insert all expected rows if the table has no rows to compare; returns None if it has some.

    Without a comparison, rows are inserted in the order of the query, mostly that of the key.
    """
    names = comparison.names
    if comparison.query:
        names["expected"] = sql.SQL("({})").format(comparison.query)
    with without_indexes(connection):
        if connection.execute(
            sql.SQL("select from {table} as found where {where} limit 1").format(**names)
        ).rowcount:
            return None
    inserted = connection.execute(
        sql.SQL("insert into {table} ({all}) select {expected_all} from {expected} as expected").format(
            **names
        )
    ).rowcount
    connection.execute(
        sql.SQL(
            "drop table if exists {different}; create temp table different on commit drop as "
            "select 'missing' as problem, null::tid as place, ctid as wanted from {table} as found "
            "where {where} limit {limit}"
        ).format(**names, limit=sql.Literal(MOST_LISTED))
    )
    return Verdict(
        comparison.layer,
        comparison.source,
        comparison.name,
        inserted,
        0,
        rows_differing=inserted,
        differences=list_differences(connection, replace(comparison, expected=names["table"])),
    )


def compare(connection: psycopg.Connection, comparison: Comparison) -> Verdict:
    """Fill pg_temp.different with problem and ctids in the table (place) and among the expected rows (wanted)."""
    with without_indexes(connection):
        return _compare_all(connection, comparison)


@contextmanager
def without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    """Disable index scans, since a damaged index may miss rows of its table."""
    connection.execute("".join(f"set local {way} = off; " for way in _BY_INDEX).encode())
    yield
    connection.execute("".join(f"set local {way} = on; " for way in _BY_INDEX).encode())


def _compare_all(connection: psycopg.Connection, comparison: Comparison) -> Verdict:
    names = comparison.names
    connection.execute(
        sql.SQL(
            """
            drop table if exists pg_temp.duplicate;
            create temp table duplicate (place tid) on commit drop;
            analyze {expected} ({key});
            """
        ).format(**names, key=listed(comparison.key))
    )
    row = connection.execute(
        sql.SQL(
            "select (select count(*) from {expected}), (select count(*) from {table} as found where {where})"
        ).format(**names)
    ).fetchone()
    assert row is not None
    expected, found = row
    counts = _compare(connection, comparison)
    if found - counts.get("extra", 0) - counts.get("duplicated", 0) != expected - counts.get("missing", 0):
        # Some expected rows match several rows: a damaged index no longer enforces the key.
        connection.execute(
            sql.SQL(
                """
                insert into pg_temp.duplicate
                select "<place>" from (
                    select found."<place>",
                        row_number() over (partition by {found_key} order by {differ}, found."<place>") as copy
                    from (select found.ctid as "<place>", {compared} from {table} as found where {where}) as found
                    left join {expected} as expected on {same}
                ) as numbered
                where copy > 1
                """
            ).format(**names)
        )
        counts = _compare(connection, comparison)
    return Verdict(
        comparison.layer,
        comparison.source,
        comparison.name,
        expected,
        found,
        rows_differing=sum(counts.values()),
    )


def _compare(connection: psycopg.Connection, comparison: Comparison) -> dict[str, int]:
    connection.execute("drop table if exists pg_temp.different")
    connection.execute(
        sql.SQL(
            """
            create temp table different on commit drop as
            select
                case
                    when found."<place>" is null then 'missing' when expected."<place>" is null then 'extra'
                    else 'changed'
                end as problem,
                found."<place>" as place,
                expected."<place>" as wanted
            from (
                select found.ctid as "<place>", {compared} from {table} as found
                where {where} and found.ctid not in (select place from pg_temp.duplicate)
            ) as found
            full join (select expected.ctid as "<place>", {compared} from {expected} as expected) as expected on {same}
            where found."<place>" is null or expected."<place>" is null or {differ}
            union all
            select 'duplicated', place, null from pg_temp.duplicate;
            -- select the rows by ctid first: the planner relies on the table's unique key, and may join only one copy
            with found as materialized (
                select found.ctid as "<place>", {compared} from {table} as found
                where found.ctid in (select place from {different} where problem = 'extra')
            )

            update {different} as different set problem = 'duplicated'
            from found inner join {expected} as expected on {same}
            where different.problem = 'extra' and found."<place>" = different.place;
            """
        ).format(**comparison.names)
    )
    rows = connection.execute(
        sql.SQL("select problem, count(*) from {} group by problem").format(DIFFERENT)
    ).fetchall()
    return dict(rows)


def list_differences(
    connection: psycopg.Connection, comparison: Comparison, limit: int = MOST_LISTED
) -> list[Difference]:
    """List the first differences of pg_temp.different, with the values of the columns that differ."""

    def text(table: str, columns: Sequence[str]) -> sql.Composable:
        return sql.SQL("jsonb_object(array[{}]::text[], array[{}]::text[])").format(
            sql.SQL(", ").join(map(sql.Literal, columns)),
            sql.SQL(", ").join(_listed_value(sql.Identifier(table, name)) for name in columns),
        )

    columns = (*comparison.key, *comparison.columns)
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            sql.SQL(
                """
                select different.problem,
                    case when found.ctid is not null then {before} end as before,
                    case when expected.ctid is not null then {after} end as after
                from (
                    select * from {different} order by array_position(array['missing', 'extra', 'duplicated'], problem),
                        wanted, place limit {limit}
                ) as different
                left join {table} as found on found.ctid = different.place
                left join {expected} as expected on expected.ctid = different.wanted
                """
            ).format(
                **comparison.names,
                before=text("found", columns),
                after=text("expected", columns),
                limit=sql.Literal(limit),
            )
        ).fetchall()
    return [_difference(comparison, row["problem"], row["before"], row["after"]) for row in rows]


def _listed_value(column: sql.Identifier) -> sql.Composable:
    """Expression for a value in the list of differences; a long value (up to 1 GB) by its beginning and a hash."""
    return sql.SQL(
        "case when octet_length({text}) > {longest} "
        "then left({text}, {longest}) || format('… (%s characters, md5 %s)', length({text}), md5({text})) "
        "else {text} end"
    ).format(text=sql.SQL("{}::text").format(column), longest=sql.Literal(LONGEST_LISTED))


def reconcile_table(connection: psycopg.Connection, comparison: Comparison) -> Verdict:
    """Compare a table, list its differences and repair it; returns the verdict."""
    if filled := fill(connection, comparison):
        return filled
    verdict = compare(connection, comparison)
    if verdict.rows_differing:
        verdict = replace(verdict, differences=list_differences(connection, comparison))
        repair(connection, comparison)
    return verdict


def count(connection: psycopg.Connection) -> int:
    """Count the rows of pg_temp.different."""
    row = connection.execute(sql.SQL("select count(*) from {}").format(DIFFERENT)).fetchone()
    assert row is not None
    return int(row[0])


def repair(connection: psycopg.Connection, comparison: Comparison) -> None:
    """Repair the rows of the table that are in pg_temp.different, and no others.

    If rows were duplicated, indexes are rebuilt: a damaged one allowed it, and has only one of the copies.
    """
    names = comparison.names
    connection.execute(
        sql.SQL(
            """
            delete from {table} as found using {different} as different
            where found.ctid = different.place and different.wanted is null
            """
        ).format(**names)
    )
    has_copies = connection.execute(
        sql.SQL("select from {different} where problem = 'duplicated' limit 1").format(**names)
    ).rowcount
    damaged = _reindex(connection, _relations(connection, comparison)) if has_copies else []
    update = sql.SQL(
        """
        update {table} as found set {assigned}
        from {different} as different
        inner join {expected} as expected on expected.ctid = different.wanted
        where found.ctid = different.place
        """
    ).format(**names)
    try:
        with connection.transaction():
            connection.execute(update)
    except (psycopg.errors.ExclusionViolation, psycopg.errors.UniqueViolation):
        if comparison.parked is None:
            raise
        _park(connection, comparison)
        connection.execute(update)
    connection.execute(
        sql.SQL(
            """
            insert into {table} ({all}) select {expected_all} from {expected} as expected
            where expected.ctid in (select wanted from {different} where problem = 'missing')
            """
        ).format(**names)
    )
    # Indexes that still cannot be rebuilt have duplicates outside of this comparison; theirs will rebuild them.
    _reindex(connection, damaged)


def _relations(connection: psycopg.Connection, comparison: Comparison) -> list[str]:
    """Return the names of the table, or of its partitions."""
    rows = connection.execute(
        """
        select relid::regclass::text from pg_partition_tree(to_regclass(%(table)s)) where isleaf
        union
        select oid::regclass::text from pg_class where oid = to_regclass(%(table)s) and relkind = 'r'
        """,
        {"table": comparison.names["table"].as_string(connection)},
    ).fetchall()
    return [name for (name,) in rows]


def _reindex(connection: psycopg.Connection, relations: Sequence[str]) -> list[str]:
    """Rebuild the indexes of these relations; returns those with duplicate rows, whose indexes cannot be rebuilt.

    Raises:
        AccessRefused: only the owner may do that, as on PostgreSQL 16.
    """
    refused = []
    for name in relations:
        try:
            with connection.transaction():
                connection.execute(sql.SQL("reindex table {}").format(sql.SQL(name)))
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            refused.append(name)
        except psycopg.errors.InsufficientPrivilege as error:
            raise AccessRefused(
                f"{name} has rows twice, and {connection.info.user} may not build its indexes again: "
                f"{error.diag.message_primary}. Nothing of its source was changed.",
                hint=f"Let a login that has role {OWNER} run `dwh reconcile --repair`: before PostgreSQL 17 no other "
                "role may be granted it.",
            ) from error
    return refused


def _park(connection: psycopg.Connection, comparison: Comparison) -> None:
    """Apply `parked` to the rows that are about to change, and update their ctids in pg_temp.different."""
    assert comparison.parked is not None
    connection.execute(
        sql.SQL(
            """
            create temp table parked on commit drop as
            select place, row_number() over () as number from {different}
            where place is not null and wanted is not null;
            """
        ).format(**comparison.names)
    )
    rows = connection.execute(
        sql.SQL(
            """
            update {table} as found set {parked} from pg_temp.parked as parked where found.ctid = parked.place
            returning parked.place, found.ctid
            """
        ).format(**comparison.names, parked=comparison.parked)
    ).fetchall()
    with connection.cursor() as cursor:
        cursor.executemany(
            sql.SQL("update {different} set place = %s where place = %s and wanted is not null").format(
                **comparison.names
            ),
            [(after, before) for before, after in rows],
        )
    connection.execute("drop table pg_temp.parked")


def _difference(
    comparison: Comparison,
    problem: Problem,
    before: dict[str, str | None] | None,
    after: dict[str, str | None] | None,
) -> Difference:
    row = after or before or {}
    key = {name: row[name] for name in comparison.key}
    if before is not None and after is not None:
        differing = [name for name in before if before[name] != after[name]] or list(comparison.columns)
        before, after = ({name: side[name] for name in differing} for side in (before, after))
    return Difference(comparison.layer, comparison.source, comparison.name, key, problem, before, after)
