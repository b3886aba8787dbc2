"""Classes for declaring the star: columns, references, dimensions, facts and daily snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BEGINNING: Final = "1900-01-01 00:00:00+00"
END_OF_TIME: Final = "2100-01-01 00:00:00+00"


@dataclass(frozen=True)
class Column:
    """A column: name, SQL type and description.

    A change of a `tracked` attribute opens a new version of the member; other attributes are overwritten in place.
    `personal` is the kind of personal data that the column holds, as 'e-mail'.
    """

    name: str
    type: str
    description: str
    tracked: bool = False
    personal: str | None = None
    required: bool = False
    # SQL expression, or IDENTITY.
    default: str | None = None
    # Table whose key the column holds.
    refers_to: str | None = None
    # Conform SQL need not deliver it, and does not list it as unmapped either.
    may_be_omitted: bool = False

    @property
    def comment(self) -> str:
        """The description, with a note if the column holds personal data and the description does not mention it."""
        if self.personal is None or PERSONAL_DATA in self.description:
            return self.description
        return f"{self.description} ({PERSONAL_DATA})"


PERSONAL_DATA: Final = "personal data"
IDENTITY: Final = "identity"
SOURCE_SYSTEM: Final = Column(
    "source_system", "text", "Source system that the natural key belongs to", required=True
)


@dataclass(frozen=True)
class Measure(Column):
    """A numeric column of a fact; an additive measure may be summed over any dimension."""

    required: bool = True
    additive: bool = True


@dataclass(frozen=True)
class Reference:
    """A fact's reference to a dimension by the natural key in its batch, or, if that is null, `through` another one."""

    dimension: str
    description: str
    # Sources need not deliver the natural key then: the seller is the product's, unless the line has another.
    through: str | None = None

    @property
    def key(self) -> Column:
        """The column of the fact that holds the dimension's surrogate key."""
        return Column(
            f"{self.dimension}_key",
            "bigint",
            self.description,
            required=True,
            refers_to=f"dim_{self.dimension}",
        )

    @property
    def natural_key(self) -> Column:
        """The column of the batch that holds the member's natural key."""
        description = f"Natural key of the {self.dimension.replace('_', ' ')}"
        if self.through is not None:
            description += f"; empty where it is that of the {self.through}"
        return Column(f"{self.dimension}_id", "text", description)

    @property
    def member_source(self) -> Column:
        """The column of the batch for the member's source system; null if it is the row's own."""
        words = self.dimension.replace("_", " ")
        return Column(
            f"{self.dimension}_source_system",
            "text",
            f"Source system that the natural key of the {words} belongs to; empty where it is the row's own",
        )


@dataclass(frozen=True)
class DateKey:
    """A fact's reference to dim_date: the day, in the company's time zone, of one of its times; 0 if that is null."""

    time: str
    description: str

    @property
    def name(self) -> str:
        return f"{self.time.removesuffix('_at')}_date_key"

    @property
    def key(self) -> Column:
        return Column(self.name, "integer", self.description, required=True, refers_to="dim_date")


@dataclass(frozen=True)
class Dimension:
    """A dimension: SCD2, with one row per version of a member, if any column is tracked; else SCD1, one per member."""

    entity: str
    description: str
    columns: tuple[Column, ...]

    @property
    def has_history(self) -> bool:
        return bool(self.tracked)

    @property
    def table(self) -> str:
        return f"dim_{self.entity}"

    @property
    def key(self) -> str:
        return f"{self.entity}_key"

    @property
    def natural_key(self) -> tuple[str, ...]:
        return (f"{self.entity}_id",)

    @property
    def tracked(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.tracked)

    @property
    def untracked(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if not column.tracked)

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.tracked + self.untracked


@dataclass(frozen=True)
class Fact:
    """A fact with the latest state of each event: one row per `grain` and source system."""

    entity: str
    description: str
    grain: tuple[Column, ...]
    event: Column
    refers_to: tuple[Reference, ...]
    measures: tuple[Measure, ...]
    # Descriptive columns of the event that are in no dimension.
    attributes: tuple[Column, ...] = ()
    # Attributes that few events have, indexed because another source's SQL finds events by them.
    indexed: tuple[str, ...] = ()
    dates: tuple[DateKey, ...] = ()
    # Columns that sources deliver besides natural keys and event time; a name refers to the fact's own column.
    inputs: tuple[str | Column, ...] = field(default=())
    # Name of the table if it is not fact_<entity>.
    table_name: str | None = None

    @property
    def table(self) -> str:
        return self.table_name or f"fact_{self.entity}"

    @property
    def natural_key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.grain)

    @property
    def event_time(self) -> str:
        return self.event.name

    @property
    def references(self) -> tuple[str, ...]:
        """Dimensions that the batch refers to by natural key; missing members are inferred."""
        return tuple(one.dimension for one in self.refers_to if one.through is None)

    @property
    def derived(self) -> Mapping[str, str]:
        """Derived dimensions, each with the dimension through which it is reached if the batch has no natural key."""
        return {one.dimension: one.through for one in self.refers_to if one.through is not None}


@dataclass(frozen=True)
class DailySnapshot:
    """A fact with one row per day and combination of members, as the source had it at the day's last run.

    Days are those of the company's time zone (DWH_TIME_ZONE). Every run writes the rows of its day; the next run
    carries rows forward over days without a run. Dimension versions are those valid when the day began.
    """

    entity: str
    description: str
    refers_to: tuple[Reference, ...]
    measures: tuple[Measure, ...]

    @property
    def table(self) -> str:
        return f"fact_{self.entity}_day"

    @property
    def natural_key(self) -> tuple[str, ...]:
        """Natural keys of the members, which are unique within a day."""
        return tuple(one.natural_key.name for one in self.refers_to)

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(one.dimension for one in self.refers_to)

    @property
    def derived(self) -> Mapping[str, str]:
        return {}


Target = Dimension | Fact | DailySnapshot
