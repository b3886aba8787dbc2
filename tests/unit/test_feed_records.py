"""Records of JSON files, read in blocks: exactly what each record says, as if it were read alone."""

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from warehouse.feeds.json_parse import parse, parse_all
from warehouse.feeds.json_records import JsonRecords
from warehouse.feeds.record import Problem, Record
from warehouse.feeds.rows import RowMaker
from warehouse.files.content import ContentReader
from warehouse.sources.registry import read_source

SOURCE = read_source("orders")
ITEMS = [table for table in SOURCE.tables if table.items]
TEXTS = {
    table.items or "": [name for name, kind in table.columns.items() if kind == "text"]
    for table in SOURCE.tables
}
NUMBERS = (
    "0", "-0.5", "1.10", "100", "1e5", "1E-3", "12345678901234567", "0.1234567890123456", "1.5e400",
    "123456789012345678901234567890.10", "-7",
)  # fmt: skip
VALUES = (
    *NUMBERS,
    '"text"',
    '"1e5"',
    '"a\\tb\\\\"',
    '"\\n"',
    '"\\": 1"',
    "null",
    "true",
    "[1.10, {}]",
    '{"a": {"b": 2.50}}',
    '""',
)
NAMES = (
    "order_id",
    "total_price",
    "status",
    "customer_birth_day",
    "order_dt",
    "lead_id",
    "other",
    "weight",
    "items",
)
ITEM_NAMES = ("product_id", "cuit", "amount", "item_price", "colour")


def a_record(rng: random.Random) -> bytes:
    """A record with fields of any type, in any spelling; some are broken."""
    fields = {name: rng.choice(VALUES) for name in rng.sample(NAMES, rng.randrange(1, len(NAMES)))}
    fields["order_id"] = rng.choice((*NUMBERS, '"P-1"', '"P-2"', '"P-3"'))
    if rng.random() < 0.7:
        items = [
            "{" + ", ".join(f'"{name}": {rng.choice(VALUES)}' for name in rng.sample(ITEM_NAMES, 3)) + "}"
            for _ in range(rng.randrange(3))
        ]
        fields["items"] = "[" + ", ".join([*items, *rng.sample(("7", '"x"', "null"), rng.randrange(2))]) + "]"
    colon = rng.choice((": ", ":", ":", ":", " : "))
    text = "{" + ", ".join(f'"{name}"{colon}{value}' for name, value in fields.items())
    if rng.random() < 0.02:
        text += ', "order_id": "twice"'
    return (text + ("}" if rng.random() > 0.02 else "")).encode()


def written_numbers(value: Any) -> Iterator[Decimal]:
    """All numbers of a value that was parsed, in their order."""
    if isinstance(value, dict):
        for member in value.values():
            yield from written_numbers(member)
    elif isinstance(value, list):
        for member in value:
            yield from written_numbers(member)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield Decimal(str(value))
    elif type(value).__name__ == "Number":
        yield Decimal(value)


@pytest.mark.parametrize("seed", range(20))
def test_a_block_is_read_as_each_of_its_records_alone(seed: int) -> None:
    rng = random.Random(seed)
    raws = [a_record(rng) for _ in range(rng.randrange(1, 60))]
    if seed % 2:
        # Without those that make the reader look at each record alone.
        raws = [raw for raw in raws if b" :" not in raw and not isinstance(parse(raw, TEXTS), Problem)] or [
            b"{}"
        ]
    parsed = parse_all(raws, TEXTS)
    assert parsed == [parse(raw, TEXTS) for raw in raws]
    for raw, fields in zip(raws, parsed, strict=True):
        if isinstance(fields, dict):
            as_written = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
            assert list(written_numbers(fields)) == list(written_numbers(as_written))
        else:
            assert fields.rule in ("field is there twice", "record is not JSON")

    def maker() -> RowMaker:
        return RowMaker(SOURCE.record, ITEMS, {table.name: dict(table.columns) for table in SOURCE.tables})

    def records() -> list[Record]:
        return [
            Record(line, 0, raw, fields)
            for line, raw in enumerate(raws, start=1)
            if isinstance(fields := parse(raw, TEXTS), dict)
        ]

    at_once, one_by_one = maker(), maker()
    problems = at_once.add(records(), "1\tfile\t\0\t2024")
    alone = [one_by_one.add([record], "1\tfile\t\0\t2024").get(0) for record in records()]
    assert [problems.get(position) for position in range(len(alone))] == alone
    for block, single in zip(at_once.tables, one_by_one.tables, strict=True):
        assert block.take() == single.take()
        assert (block.count, block.seen, block.mistyped) == (single.count, single.seen, single.mistyped)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # As many colons as fields: one name is twice there, another is written apart from its colon.
        (b'{"order_id": "1", "order_id": "2", "status" : "x"}', "field is there twice"),
        (b'{"order_id": "1", "items": [{"amount": 1, "amount": 2}]}', "field is there twice"),
        (b'{"order_id": "1", "\\u006frder_id": "2"}', "field is there twice"),
    ],
)
def test_a_field_that_is_there_twice_is_found_however_it_is_written(raw: bytes, expected: str) -> None:
    (parsed,) = parse_all([raw], TEXTS)
    assert isinstance(parsed, Problem) and parsed.rule == expected


def test_a_text_that_is_given_as_a_number_keeps_its_digits() -> None:
    raws = [
        b'{"order_id": "1", "status": 1.10, "items": [{"product_id": 2.50}, {"product_id": 7}]}',
        b'{"order_id": 30}',
    ]
    first, second = parse_all(raws, TEXTS)
    assert first == {
        "order_id": "1",
        "status": "1.10",
        "items": [{"product_id": "2.50"}, {"product_id": "7"}],
    }
    assert str(second["order_id"]) == "30"  # type: ignore[call-overload]


def test_a_file_that_has_grown_is_read_from_where_it_ended_with_lines_numbered_from_its_beginning(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    before = b'\xef\xbb\xbf{"order_id": 1}\n\n  broken\n'
    path.write_bytes(before + b'{"order_id": 2}\n\n{"order_id": 3}')
    with ContentReader(path) as content:
        records = [one for block in JsonRecords(content, TEXTS, len(before)).blocks() for one in block]
    assert [(one.line, one.byte_offset, one.fields) for one in records] == [
        (4, len(before), {"order_id": 2}),
        (6, len(before) + 17, {"order_id": 3}),
    ]
