"""Declaration of the calendar, dim_date: one row per day."""

from typing import Final

from warehouse.model.declaration import Column
from warehouse.model.tables import Table

# Migrations fill the calendar with these days; loads add others.
FIRST_DAY, LAST_DAY = "1990-01-01", "2040-12-31"

DATE: Final = Table(
    "dwh",
    "dim_date",
    "The calendar: one row per day; days outside are added when a fact needs them.",
    (
        Column("date_key", "integer", "Day as the number yyyymmdd; 0 is the unknown day", required=True),
        Column("date", "date", "The day; empty for the unknown day"),
        Column("year", "smallint", "Year"),
        Column("quarter", "smallint", "Quarter, 1 to 4"),
        Column("month", "smallint", "Month, 1 to 12"),
        Column("month_name", "text", "English name of the month"),
        Column("month_start_date", "date", "First day of the month"),
        Column("week_year", "smallint", "Year that the ISO week belongs to"),
        Column("week", "smallint", "ISO week, 1 to 53"),
        Column("day_of_month", "smallint", "Day of the month, 1 to 31"),
        Column("day_of_year", "smallint", "Day of the year, 1 to 366"),
        Column("day_of_week", "smallint", "ISO day of the week: 1 Monday to 7 Sunday"),
        Column("day_name", "text", "English name of the day"),
        Column("is_weekend", "boolean", "Saturday or Sunday"),
        Column("run_id", "bigint", "Run that added the day; 0: the migration", required=True),
    ),
    {"pk_dim_date": "primary key (date_key)", "uq_dim_date_date": "unique (date)"},
    unknown={"date_key": "0", "run_id": "0"},
)
