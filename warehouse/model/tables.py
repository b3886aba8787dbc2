"""Derive tables from the declaration of dimensions and facts: their own, and those of their conformed batches."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from warehouse.model.declaration import (
    BEGINNING,
    END_OF_TIME,
    IDENTITY,
    SOURCE_SYSTEM,
    Column,
    DailySnapshot,
    Dimension,
    Fact,
    Target,
)

CHANGED_AT = Column(
    "changed_at",
    "timestamptz",
    "When the source changed it (UTC); empty where the source does not say",
)
IS_INFERRED = Column(
    "is_inferred",
    "boolean",
    "Whether a fact referred to this member before its source had it",
    required=True,
    default="false",
)
HAS_QUARANTINED_UPDATE = Column(
    "has_quarantined_update",
    "boolean",
    "Whether a newer state of it is in quarantine: this is the last one that was accepted",
    required=True,
    default="false",
)
# The default reads a session setting, so that no INSERT has to name the column.
BATCH_ID = Column(
    "batch_id",
    "bigint",
    "Batch of live that inserted it: audit.batch; empty where another run did",
    default="(nullif(current_setting('dwh.batch_id'::text, true), ''::text))::bigint",
)

# Autovacuum summarizes new pages within a minute: every search reads those that are not summarized, and a vacuum comes
# only after a fifth of the table was added.
_BRIN = "pages_per_range = 32, autosummarize = on"


@dataclass(frozen=True)
class Index:
    """An index; `definition` is what follows `on <table>`."""

    name: str
    definition: str
    unique: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the warehouse; `constraints` are by name."""

    schema: str
    name: str
    description: str
    columns: tuple[Column, ...]
    constraints: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[Index, ...] = ()
    # SQL literals of the row for the unknown member.
    unknown: Mapping[str, str] = field(default_factory=dict)
    partitioned_by: str | None = None
    unlogged: bool = False

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def dimension_table(dimension: Dimension) -> Table:
    """Return the table of a dimension; a constraint prevents overlapping versions of a member."""
    return _versions(dimension) if dimension.has_history else _members(dimension)


def fact_table(fact: Fact) -> Table:
    """Return the table of a fact."""
    days_of_event = [date.key for date in fact.dates if date.time == fact.event_time]
    others = [date.key for date in fact.dates if date.time != fact.event_time]
    return Table(
        "dwh",
        fact.table,
        fact.description,
        (
            *fact.grain,
            replace(SOURCE_SYSTEM, description="Source system that the natural keys belong to"),
            fact.event,
            *days_of_event,
            *(reference.key for reference in fact.refers_to),
            *fact.measures,
            *fact.attributes,
            *others,
            HAS_QUARANTINED_UPDATE,
            _run_id("Run that wrote this row last"),
            BATCH_ID,
        ),
        {f"pk_{fact.table}": f"primary key ({', '.join(fact.natural_key)}, source_system)"},
        # Rows arrive nearly in order of time, so a BRIN index finds a day with a few bytes per 32 pages.
        (
            Index(
                f"ix_{fact.table}_{fact.event_time}",
                f"using brin ({fact.event_time}) with ({_BRIN})",
            ),
            *(
                Index(f"ix_{fact.table}_{name}", f"({name}) where {name} is not null")
                for name in fact.indexed
            ),
            _marked(fact.table),
            _inserted_live(fact.table),
        ),
    )


def snapshot_table(snapshot: DailySnapshot) -> Table:
    """Return the table of a daily snapshot; its key begins with the day, so that a day's rows are one range."""
    return Table(
        "dwh",
        snapshot.table,
        snapshot.description,
        (
            Column("snapshot_date", "date", "Day, in the company's time zone", required=True),
            *(replace(one.natural_key, required=True) for one in snapshot.refers_to),
            replace(SOURCE_SYSTEM, description="Source system that the natural keys belong to"),
            Column("snapshot_date_key", "integer", "Its day: dim_date", required=True, refers_to="dim_date"),
            *(one.key for one in snapshot.refers_to),
            *snapshot.measures,
            Column(
                "is_carried_forward",
                "boolean",
                "Whether no run was made on that day: the row is that of the day before",
                required=True,
            ),
            HAS_QUARANTINED_UPDATE,
            _run_id("Run that wrote this row last"),
            BATCH_ID,
        ),
        {
            f"pk_{snapshot.table}": (
                f"primary key (snapshot_date, {', '.join(snapshot.natural_key)}, source_system)"
            )
        },
        (
            _marked(snapshot.table),
            # Finds the rows of the last day that a run has changed, to archive them.
            Index(f"ix_{snapshot.table}_run_id", f"using brin (run_id) with ({_BRIN})"),
        ),
    )


def batch_table(target: Target) -> Table:
    """Return the staging table of conformed rows of a dimension or fact, which every source's conform SQL fills."""
    if isinstance(target, Dimension):
        (natural,) = target.natural_key
        columns: tuple[Column, ...] = (Column(natural, "text", "Natural key"), *target.columns)
    elif isinstance(target, DailySnapshot):
        columns = (*(one.natural_key for one in target.refers_to), *target.measures)
    else:
        own = {column.name: column for column in (*target.measures, *target.attributes)}
        # A fact's natural key may be a member's, which is then in the grain already.
        references = [
            one.natural_key for one in target.refers_to if one.natural_key.name not in target.natural_key
        ]
        inputs = [own[one] if isinstance(one, str) else one for one in target.inputs]
        sources = [one.member_source for one in target.refers_to]
        columns = (*target.grain, *references, target.event, *inputs, *sources)
    words = target.entity.replace("_", " ")
    return Table(
        "staging",
        f"conformed_{target.entity}",
        f"Conformed rows of {words} of the last run: one row per {words} that changed.",
        (
            replace(SOURCE_SYSTEM, description="Source system"),
            *(_conformed(column) for column in columns),
            CHANGED_AT,
        ),
        unlogged=True,
    )


def delivered_columns(target: Target) -> list[Column]:
    """Return the columns of the batch that conform SQL delivers; source systems are filled from the declaration."""
    filled = {SOURCE_SYSTEM.name}
    if not isinstance(target, Dimension):
        filled |= {one.member_source.name for one in target.refers_to}
    return [column for column in batch_table(target).columns if column.name not in filled]


def _conformed(column: Column) -> Column:
    """Return the batch's column for a column of the star: nullable, and numeric without precision, so that values are
    checked by the contract and not by types."""
    kind = re.sub(r"^numeric\(.*", "numeric", column.type)
    return Column(
        column.name,
        kind,
        column.description,
        personal=column.personal,
        may_be_omitted=column.may_be_omitted,
    )


def _versions(dimension: Dimension) -> Table:
    words, table, key = dimension.entity.replace("_", " "), dimension.table, dimension.key
    (natural,) = dimension.natural_key
    attributes = [
        column
        if column.tracked
        else replace(column, description=f"{column.description} (overwritten in all versions)")
        for column in dimension.columns
    ]
    members = (
        f"hashtextextended({natural}, 0)",
        f"hashtextextended({natural}, hashtextextended(source_system, 1))",
    )
    # GiST has no operator class for text without an extension, but for ranges: use two 64-bit hashes of the key.
    overlap = ", ".join(f"int8range({member}, {member}, '[]') with &&" for member in members)
    return Table(
        "dwh",
        table,
        dimension.description,
        (
            Column(
                key,
                "bigint",
                f"Key of this version; 0 is the unknown {words}",
                required=True,
                default=IDENTITY,
            ),
            SOURCE_SYSTEM,
            Column(natural, "text", f"Natural key: the {words}'s key in the source", required=True),
            *attributes,
            Column(
                "valid_from",
                "timestamptz",
                "First moment at which this version is valid (UTC); 1900-01-01 for the first",
                required=True,
            ),
            Column(
                "valid_to",
                "timestamptz",
                "First moment at which it is no longer valid (UTC); 2100-01-01 for the current one",
                required=True,
                default=f"'{END_OF_TIME}'",
            ),
            Column(
                "is_current",
                "boolean",
                "Whether it is the current version",
                required=True,
                default="true",
            ),
            IS_INFERRED,
            HAS_QUARANTINED_UPDATE,
            Column("row_hash", "bigint", "Hash of the tracked attributes", required=True),
            _run_id("Run that wrote this version last"),
            Column("expired_by_run_id", "bigint", "Run that expired this version"),
            BATCH_ID,
        ),
        {
            f"pk_{table}": f"primary key ({key})",
            f"uq_{table}_{natural}_valid_from": f"unique ({natural}, source_system, valid_from)",
            f"ck_{table}_valid": "check (valid_from < valid_to)",
            f"ck_{table}_is_current": f"check (is_current = (valid_to = '{END_OF_TIME}'))",
            f"ex_{table}_overlap": f"exclude using gist ({overlap}, tstzrange(valid_from, valid_to) with &&)",
        },
        (
            Index(f"uq_{table}_current", f"({natural}, source_system) where is_current", unique=True),
            Index(f"ix_{table}_expired_by_run_id", "(expired_by_run_id) where expired_by_run_id is not null"),
            _marked(table),
        ),
        {
            key: "0",
            "source_system": "''",
            natural: "''",
            "valid_from": f"'{BEGINNING}'",
            "row_hash": "0",
            "run_id": "0",
        },
    )


def _members(dimension: Dimension) -> Table:
    words, table, key = dimension.entity.replace("_", " "), dimension.table, dimension.key
    (natural,) = dimension.natural_key
    return Table(
        "dwh",
        table,
        dimension.description,
        (
            Column(key, "bigint", f"Key; 0 is the unknown {words}", required=True, default=IDENTITY),
            SOURCE_SYSTEM,
            Column(natural, "text", f"Natural key: the {words}'s key in the source", required=True),
            *dimension.columns,
            IS_INFERRED,
            Column(
                "is_deleted",
                "boolean",
                "Whether it was deleted from the source",
                required=True,
                default="false",
            ),
            HAS_QUARANTINED_UPDATE,
            _run_id("Run that wrote this row last"),
            BATCH_ID,
        ),
        {
            f"pk_{table}": f"primary key ({key})",
            f"uq_{table}_{natural}": f"unique ({natural}, source_system)",
        },
        (_marked(table),),
        unknown={key: "0", "source_system": "''", natural: "''", "run_id": "0"},
    )


def _run_id(description: str) -> Column:
    return Column("run_id", "bigint", description, required=True)


def _inserted_live(table: str) -> Index:
    """Index on the rows that `dwh live` has inserted, by batch."""
    return Index(f"ix_{table}_batch_id", "(batch_id) where batch_id is not null")


def _marked(table: str) -> Index:
    """Index on the rows whose newer state is in quarantine, which every load looks up."""
    return Index(
        f"ix_{table}_{HAS_QUARANTINED_UPDATE.name}", f"(source_system) where {HAS_QUARANTINED_UPDATE.name}"
    )
