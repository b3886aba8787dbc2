"""Records of JSON files, read in blocks: exactly what each record says, as if it were read alone."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from warehouse.feeds import json_records
from warehouse.feeds.json_parse import parse, parse_all
from warehouse.feeds.json_records import JsonRecords
from warehouse.feeds.record import Problem, Record
from warehouse.feeds.rows import RowMaker
from warehouse.feeds.table_records import TableRecords
from warehouse.feeds.typed import MOST_KEY_BYTES, Mistyped, converters
from warehouse.files.content import ContentReader
from warehouse.sources.feed import ColumnType, DecimalMark
from warehouse.sources.registry import read_source

SOURCE = read_source("orders")
ITEMS = [table for table in SOURCE.tables if table.items]
COLUMNS = {table.name: dict(table.columns) for table in SOURCE.tables}
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
        return RowMaker(SOURCE.record, ITEMS, COLUMNS, UTC)

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


def read(path: Path, content: bytes) -> list[tuple[int, Any]]:
    """Line of each record of a JSON file, and its key or why it cannot be read."""
    path.write_bytes(content)
    with ContentReader(path) as text:
        return [
            (one.line, one.fields["order_id"] if one.fields else one.problem and one.problem.rule)
            for block in JsonRecords(text, TEXTS).blocks()
            for one in block
        ]


def test_an_element_that_cannot_be_read_takes_no_other_one_of_its_line_with_it(tmp_path: Path) -> None:
    depth = 100_000
    elements = [
        '{"order_id": 1}', '{"order_id": 2, "a": [}, "b" c}', '{"order_id": 3}', "oops", '{"order_id": 5, "a": "},{"}',
        "", '{"order_id": 7, "a": ' + "[" * depth + "]" * depth + "}", '{"order_id": 8}', '{"order_id": NaN}', "}",
        '{"order_id": 11, "a": "\\"}]" b}', '{"order_id": 12}',
    ]  # fmt: skip
    assert read(tmp_path / "a.json", f"[{', '.join(elements)}]".encode()) == [
        (1, 1), (2, "record is not JSON"), (3, 3), (4, "record is not JSON"), (5, 5), (6, "record is not JSON"),
        (7, "record is nested too deeply"), (8, 8), (9, "number is not finite"), (10, "record is not JSON"),
        (11, "record is not JSON"), (12, 12),
    ]  # fmt: skip


def test_arrays_that_follow_each_other_are_read_as_one(tmp_path: Path) -> None:
    arrays = b'[{"order_id": 1}, oops]\n[]\n[\n  {"order_id": 3},\n  {"order_id": 4}\n]'
    assert read(tmp_path / "a.json", arrays + b"\n[") == [(1, 1), (2, "record is not JSON"), (3, 3), (4, 4)]
    rest = b'{"order_id": 5}\n' * 100_000
    assert read(tmp_path / "b.json", arrays + rest)[-1] == (5, "record is after the end")
    with ContentReader(tmp_path / "b.json") as content:
        *_, last = JsonRecords(content, TEXTS).blocks()
    assert last[-1].raw == rest


def test_lines_after_one_that_is_too_large_are_lines_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "MOST_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_records, "_BLOCK", 1000)
    large = b'{"order_id": "' + b"x" * 2100 + b'"}\n'
    assert read(tmp_path / "a.json", large + b'broken\n{"order_id": 3}\n{"order_id": 4}\n{"ord') == [
        (1, "record is too large"), (2, "record is not JSON"), (3, 3), (4, 4), (5, "record is cut off")
    ]  # fmt: skip


def test_bytes_that_are_no_character_of_a_wide_encoding_are_those_of_their_record(tmp_path: Path) -> None:
    one, two = ('{"order_id": 1}\n'.encode("utf-32-le"), '{"order_id": 3}\n'.encode("utf-32-le"))
    wrong = b"\xff\xff\xff\xff" + "\n".encode("utf-32-le")
    assert read(tmp_path / "a.json", b"\xff\xfe\0\0" + one + wrong + two) == [
        (1, 1), (2, "record is not UTF-8"), (3, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["numeric", "bigint"])
def test_digits_that_postgresql_does_not_know_are_no_number(kind: ColumnType) -> None:
    with pytest.raises(Mistyped):
        converters(UTC)[kind]("\u0661\u0662")


def test_a_key_is_measured_in_bytes() -> None:
    maker = RowMaker(SOURCE.record, ITEMS, COLUMNS, UTC)
    size = MOST_KEY_BYTES // 4
    keys = ["\U0001f6d2" * size, "\U0001f6d2" * (size + 1), "x" * MOST_KEY_BYTES]
    records = [Record(line, 0, b"", {"order_id": key}) for line, key in enumerate(keys, start=1)]
    assert {place: problem.rule for place, problem in maker.add(records, "1\tfile\t\0\t2024").items()} == {
        1: "order_id is too long"
    }


def test_the_size_of_what_is_not_sent_yet_is_known_without_looking_at_all_of_it() -> None:
    maker, other = (RowMaker(SOURCE.record, ITEMS, COLUMNS, UTC) for _ in range(2))
    for one in (maker, other):
        record = Record(1, 0, b"", {"order_id": "1", "items": [{"amount": 1}, {"amount": 2}]})
        assert one.add([record], "1\tfile\t\0\t2024") == {}
    maker.join(other.tables)
    held = {rows.table.name: rows.take() for rows in maker.tables}
    assert maker.size == 0
    assert sum(map(len, held.values())) == 2 * other.size > 0
    for rows in other.tables:
        rows.lines = _Unseen(rows.lines)
    assert 2 * other.size == sum(map(len, held.values()))


class _Unseen(list[bytes]):
    """Lines that nobody may go through."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("all lines were looked at")


def test_a_quote_that_is_not_closed_takes_no_other_row_with_it(tmp_path: Path) -> None:
    source = read_source("companies")
    assert source.feed is not None
    path = tmp_path / "a.csv"
    path.write_text(
        'cuit,name\n1,One\n2,"Two\n3,"Three\nof two lines"\n4,Fo"ur\n5,"Five" Ltd\n\n6,Six\n7,"Seven\n8,Eight\n'
    )
    with ContentReader(path) as content:
        rows = [one for block in TableRecords(content, source.feed, source.record).blocks() for one in block]
    assert [(row.line, row.raw.decode(), row.fields and row.fields["name"]) for row in rows] == [
        (2, "1,One", "One"),
        (3, '2,"Two', None),
        (4, '3,"Three\nof two lines"', "Three\nof two lines"),
        (6, '4,Fo"ur', 'Fo"ur'),
        (7, '5,"Five" Ltd', None),
        (9, "6,Six", "Six"),
        (10, '7,"Seven', None),
        (11, "8,Eight", "Eight"),
    ]


def leads_of(tmp_path: Path, content: bytes | str) -> list[tuple[int, str | None, str | None, str | None]]:
    """Line, lead, name and company of each row of a list of leads; why it cannot be read in place of the lead."""
    source = read_source("leads")
    assert source.feed is not None
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with ContentReader(path) as reader:
        rows = [one for block in TableRecords(reader, source.feed, source.record).blocks() for one in block]
    return [
        (row.line, *(map(row.fields.get, ("lead_id", "name", "company_name"))))
        if row.fields
        else (row.line, row.problem and row.problem.rule, None, None)
        for row in rows
    ]


def test_a_quote_that_a_later_row_seems_to_close_takes_no_row_with_it(tmp_path: Path) -> None:
    """The text between both would be a cell: 2 to 4 were one lead of a very long name."""
    header = "lead_id,name,company,created\n"
    unclosed = (
        '1,One,A,2024-01-01\n2,"Two,B,2024-01-01\n3,Three,C,2024-01-01\n4,Screen 19",D,2024-01-01\n5,V,E,\n'
    )
    assert leads_of(tmp_path, header + unclosed) == [
        (2, "1", "One", "A"),
        (3, "row cannot be read", None, None),
        (4, "3", "Three", "C"),
        (5, "4", 'Screen 19"', "D"),
        (6, "5", "V", "E"),
    ]
    # What cannot be rows of their own are lines of a text, also where they have as many commas.
    texts = (
        '1,"One,\nof,two,lines\nor,more,,2024",A,2024-01-01\n2,Two,"B, C, and, D\n2,x,y,soon",2024-01-01\n'
    )
    assert leads_of(tmp_path, header + texts) == [
        (2, "1", "One,\nof,two,lines\nor,more,,2024", "A"),
        (5, "2", "Two", "B, C, and, D\n2,x,y,soon"),
    ]


def test_a_cell_is_as_long_as_texts_of_json_may_be(tmp_path: Path) -> None:
    text = "y,\n" * 100_000
    rows = leads_of(tmp_path, f'lead_id,name,company\n1,{"x" * 10_000_000},A\n2,"{text}",B\n3,Three,C\n')
    assert [(line, key, len(name or ""), company) for line, key, name, company in rows] == [
        (2, "1", 10_000_000, "A"),
        (3, "2", len(text) - 1, "B"),
        (100_004, "3", 5, "C"),
    ]


def test_lines_end_in_any_way_within_one_file(tmp_path: Path) -> None:
    content = b'lead_id,name\r\n1,One\n2,Two\r3,Three\r4,Four\r\r\n5,"Fi\rve"\r\n6,Six'
    assert [row[:3] for row in leads_of(tmp_path, content)] == [
        (2, "1", "One"),
        (3, "2", "Two"),
        (4, "3", "Three"),
        (5, "4", "Four"),
        (7, "5", "Fi\rve"),
        (9, "6", "Six"),
    ]


@pytest.mark.parametrize(
    ("mark", "numbers"),
    [
        # A comma before three digits may stand before decimals or between thousands: it is no number.
        (None, {"1,234": "1,234", "-12,345": "-12,345", "1.234": "1.234", "1.234,5": "1234.5", "0,125": "0.125",
                "1,23": "1.23", "1234,567": "1234.567", "1,234.5": "1,234.5"}),
        (",", {"1,234": "1.234", "1.234": "1234", "1.234.567,8": "1234567.8", "12.5": "12.5", "-7": "-7"}),
        (".", {"1,234": "1234", "1.234": "1.234", "1,234,567.8": "1234567.8", "12,5": "12,5", "-7": "-7"}),
    ],
)  # fmt: skip
def test_a_comma_is_what_the_feed_says_it_is(
    mark: DecimalMark | None, numbers: dict[str, str], tmp_path: Path
) -> None:
    source = read_source("companies")
    assert source.feed is not None
    table = replace(source.record, columns={"cuit": "text", "amount": "numeric"})
    path = tmp_path / "a.csv"
    path.write_text("cuit;amount\n" + "".join(f"{n};{number}\n" for n, number in enumerate(numbers)))
    with ContentReader(path) as content:
        blocks = TableRecords(content, replace(source.feed, decimal_mark=mark), table).blocks()
        read = [row.fields["amount"] for block in blocks for row in block if row.fields]
    assert dict(zip(numbers, read, strict=True)) == numbers
