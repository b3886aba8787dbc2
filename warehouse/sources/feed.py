"""Declaration of a feed, a source of files: landing folder, format, columns, and policies for changed fields."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from warehouse.db.time_zone import declared_zone
from warehouse.errors import DeclarationError

Format = Literal["json", "table"]
# Types of a feed's columns; values that cannot be converted to them go to _rescued_data.
ColumnType = Literal["text", "numeric", "bigint", "boolean", "date", "timestamptz", "jsonb"]
# What happens to a field that is new, missing or of another type: keep it in _rescued_data (rescue), make it a column
# (evolve), or load nothing until somebody has looked at it (stop).
FeedPolicy = Literal["rescue", "evolve", "stop"]
DecimalMark = Literal[".", ","]
# Columns that the engine adds to the table of records.
RESCUED, FILE_ID, FILE, LINE, RECORDED_AT = "_rescued_data", "_file_id", "_file", "_line", "record_timestamp"
RECORD_COLUMNS: Mapping[str, tuple[str, str]] = {
    RESCUED: ("jsonb", "Fields that the schema does not know, and values that are not of its types (personal data)"),
    FILE_ID: ("integer", "File that the record was read from: audit.file"),
    FILE: ("text", "Path of that file below the landing folder"),
    LINE: ("bigint", "Line of the record in that file, from 1; in a list its place, in a sheet its row"),
    RECORDED_AT: ("timestamptz", "When that file was last written (UTC)"),
}  # fmt: skip


@dataclass(frozen=True)
class FieldPolicy:
    """What to do when the fields of a feed's records change: rescue, evolve or stop."""

    __pydantic_config__ = ConfigDict(extra="forbid", frozen=True)

    new_column: FeedPolicy = "rescue"
    dropped_column: FeedPolicy = "rescue"
    changed_type: FeedPolicy = "rescue"


@dataclass(frozen=True)
class Feed:
    """Where a feed's files land and how they are read."""

    # Paths below DWH_LAKE.
    landing: str
    bad_records: str
    format: Format
    # Name of the table whose rows are the files' records.
    record: str
    # Contract of the records before they are conformed, in checks/ or in the source's own folder; None for no contract.
    contract: str | None = None
    # Patterns, with * and ?, of files that are not read.
    ignore: tuple[str, ...] = ()
    # A file is read once it has not changed for this time, or once a file of its name with .done is beside it.
    settle_seconds: float = 0
    needs_done_marker: bool = False
    # Date formats of tables besides ISO 8601, as for strptime, in the order in which they are tried.
    date_formats: tuple[str, ...] = ()
    # Zone of times without one; None: the company's.
    time_zone: str | None = None
    # Decimal mark of numbers in tables; the other one separates thousands. None: recognized from the values.
    decimal_mark: DecimalMark | None = None
    # Other names that a column may have in the header, by column.
    header_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_schema_change: FieldPolicy = FieldPolicy()


def for_every_change(policy: object) -> object:
    """Expand a single policy to all kinds of change."""
    kinds = ("new_column", "dropped_column", "changed_type")
    return dict.fromkeys(kinds, policy) if isinstance(policy, str) else policy


def plain_header(name: str) -> str:
    """Normalize a column's name for comparing headers: lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.strip().lower())


def _below_the_lake(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or ":" in path or not path.isprintable():
        raise PydanticCustomError("no_lake_path", "no path below the lake")
    return "/".join(parts)


def _date_format(text: str) -> str:
    """Check that a date written in this format is read back with the same year."""
    day = datetime(2024, 11, 30, 13, 14, 15)
    with suppress(ValueError):
        if datetime.strptime(day.strftime(text), text).year == day.year:
            return text
    raise PydanticCustomError("no_date_format", "no format of dates")


def _time_zone(name: str) -> str:
    try:
        declared_zone(name)
    except DeclarationError as error:
        raise PydanticCustomError(
            "no_time_zone", "no time zone", {"what": error.what, "hint": error.hint}
        ) from None
    return name


LakePath = Annotated[str, AfterValidator(_below_the_lake)]


class FeedSpec(BaseModel):
    """[feed]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    landing: LakePath
    bad_records: LakePath
    format: Format
    record: Annotated[str, Field(min_length=1)]
    contract: Annotated[str, Field(min_length=1)] | None = None
    ignore: tuple[str, ...] = (".*", "_*", "*.tmp", "*.part", "*.done", "~$*")
    settle_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    done_marker: bool = False
    date_formats: tuple[Annotated[str, AfterValidator(_date_format)], ...] = ()
    time_zone: Annotated[str, AfterValidator(_time_zone)] | None = None
    decimal_mark: DecimalMark | None = None
    header_names: dict[str, tuple[str, ...]] = {}
    on_schema_change: Annotated[FieldPolicy, BeforeValidator(for_every_change)] = FieldPolicy()

    def feed(self) -> Feed:
        """Build the Feed that this section declares."""
        return Feed(
            self.landing,
            self.bad_records,
            self.format,
            self.record,
            self.contract,
            # Done markers are never read as records, even if the declaration replaces `ignore`.
            tuple(dict.fromkeys((*self.ignore, "*.done"))) if self.done_marker else self.ignore,
            self.settle_seconds,
            self.done_marker,
            self.date_formats,
            self.time_zone,
            self.decimal_mark,
            self.header_names,
            self.on_schema_change,
        )
