"""A source whose rows come from files: where they land, how they are written, and what becomes of what does not fit."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Format = Literal["json", "table"]
# What a column of a feed may hold; texts of files are converted to it, and rescued where that fails.
ColumnType = Literal["text", "numeric", "bigint", "boolean", "date", "timestamptz", "jsonb"]
# What becomes of a field that is new, gone or of another type: it is kept in _rescued_data (rescue), it becomes a
# column (evolve), or nothing is loaded until somebody has looked at it (stop).
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

    # Below the lake.
    landing: str
    bad_records: str
    format: Format
    # Name of the table whose rows are the files' records.
    record: str
    # Contract of the records as they came, in checks/ or in the source's own folder; None: there is none.
    contract: str | None = None
    # Names of files that are not read, with * and ?.
    ignore: tuple[str, ...] = ()
    # A file is read once it has not changed for so long, or once a file of its name with .done lies beside it.
    settle_seconds: float = 0
    needs_done_marker: bool = False
    # How dates are written in tables, beside ISO 8601, in the order in which they are tried: strptime's formats.
    date_formats: tuple[str, ...] = ()
    # Which sign stands before the decimals in tables, if the other one stands between thousands; None: as found.
    decimal_mark: DecimalMark | None = None
    # Other names that a column may have in the header, by the column's own.
    header_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_schema_change: FieldPolicy = FieldPolicy()


def for_every_change(policy: object) -> object:
    """One word stands for every kind of change."""
    kinds = ("new_column", "dropped_column", "changed_type")
    return dict.fromkeys(kinds, policy) if isinstance(policy, str) else policy


def plain_header(name: str) -> str:
    """A column's name as headers are compared by it: without case, spaces and signs."""
    return re.sub(r"[\W_]+", "", name.strip().lower())


def _below_the_lake(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or ":" in path or not path.isprintable():
        raise PydanticCustomError("no_lake_path", "no path below the lake")
    return "/".join(parts)


def _date_format(text: str) -> str:
    """A day written in it has to be read as that day, as far as it says it."""
    day = datetime(2024, 11, 30, 13, 14, 15)
    with suppress(ValueError):
        if datetime.strptime(day.strftime(text), text).year == day.year:
            return text
    raise PydanticCustomError("no_date_format", "no format of dates")


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
    decimal_mark: DecimalMark | None = None
    header_names: dict[str, tuple[str, ...]] = {}
    on_schema_change: Annotated[FieldPolicy, BeforeValidator(for_every_change)] = FieldPolicy()

    def feed(self) -> Feed:
        """The feed that this declares."""
        return Feed(
            self.landing,
            self.bad_records,
            self.format,
            self.record,
            self.contract,
            # A marker is no file of records, whatever else is ignored.
            tuple(dict.fromkeys((*self.ignore, "*.done"))) if self.done_marker else self.ignore,
            self.settle_seconds,
            self.done_marker,
            self.date_formats,
            self.decimal_mark,
            self.header_names,
            self.on_schema_change,
        )
