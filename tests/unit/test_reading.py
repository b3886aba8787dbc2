"""Which tables of a source a run reads completely."""

import pytest

from warehouse.extract.reading import take_smallest
from warehouse.sources.source import Table


@pytest.mark.parametrize(
    ("scan_rows", "small"), [(0, ""), (49, ""), (50, "c"), (109, "c"), (110, "ac"), (120, "ac"), (210, "abc")]
)
def test_rows_that_every_run_scans_are_those_of_a_source_not_of_a_table(scan_rows: int, small: str) -> None:
    sizes = {
        Table("shop", name, "public", ("id",), None): rows
        for name, rows in (("a", 60), ("b", 100), ("c", 50))
    }
    assert {table.name for table in take_smallest(sizes, scan_rows)} == {*small}
