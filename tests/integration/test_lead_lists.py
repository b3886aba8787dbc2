"""Lists of leads in any shape that people send them: each row is loaded or waits, and each file says how many."""

import io
import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import xlsxwriter

from generators.leads import DEFECTS, Contact, generate
from tests.integration.test_feeds import FeedPipeline
from tests.integration.test_table_feeds import workbook
from tests.pipeline import PACKAGED
from warehouse.sources.declaration import read_declaration

PROTECTED = Path(__file__).parents[1] / "fixtures" / "protected.xlsx"
LISTED = """
    select lead_id, name, company_name, email, country, interest, lead_source, created_at::date::text
    from dwh.fact_lead inner join dwh.dim_lead using (lead_key, lead_id)
"""


@pytest.fixture
def leads(warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path / "lake", "leads")
    yield pipeline
    pipeline.warehouse.close()


def merged_workbook() -> bytes:
    """A title and a company over two rows in merged cells."""
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.merge_range("A1:E1", "Leads of March")
        sheet.write_row("A2", ["Lead ID", "Company", "Full name", "Source", "Created"])
        sheet.merge_range("B3:B4", "Acme")
        for row, (key, name) in enumerate([("X-1", "Uma"), ("X-2", "Ugo")], start=2):
            sheet.write_row(row, 0, [key])
            sheet.write_row(row, 2, [name, "fair", "2024-03-02"])
    return content.getvalue()


def test_lists_are_read_whatever_their_shape(leads: FeedPipeline) -> None:
    leads.land(
        "plain.csv",
        "lead_id,name,company,email,country,interest,source,created date\n"
        'A-1,"Ana, Dr.",Acme,Ana@Example.com,ar,Tools,Fair,2024-03-01\n',
    )
    leads.land(
        "semicolons.csv",
        "\ufeffSOURCE;Budget;E-Mail;FULL NAME;Lead ID;Created\r\n"
        "Fair;1.234,50;bo@example.com;Bo;B-1;05/03/2024\r\n;;;;;\r\nWeb;;;Bea;B-2;05.03.2024 14:30\r\n",
    )
    leads.land(
        "latin.csv",
        "Id\tNombre\tEmpresa\tPais\tOrigen\tFecha\nC-1\tJos\u00e9\tCaf\u00e9\tAR\tferia\t7 Mar 2024\n".encode(
            "latin-1"
        ),
    )
    leads.land(
        "sheets.xlsx",
        workbook(
            North=[["Source", "Lead", "Contact", "Date"], ["fair", "D-1", "Dan", pd.Timestamp("2024-03-08")],
                   [None, None, None, None], ["web", 42, "Dora", "2024/03/09"]],
            Notes=[["ask Eve about the fair"]],
            South=[["date", "lead", "contact", "source", "Budget"], ["10/03/2024", "D-3", "Dirk", "fair", 1.5]],
        ),
    )  # fmt: skip
    leads.land("merged.xlsx", merged_workbook())
    leads.land("protected.xlsx", PROTECTED.read_bytes())
    leads.land("damaged.xlsx", merged_workbook()[:2000])
    leads.land("empty.csv", "")
    leads.land("other.csv", "product,price\n1,2\n")
    leads.land(
        "bad.csv",
        "lead_id,name,email,source,created\n"
        "E-1,,,fair,2024-03-01\n"
        "E-2,Eve,eve at example.com,fair,2024-03-01\n"
        "E-3,Eve,eve@example.com,,2024-03-01\n"
        "E-4,Eve,eve@example.com,fair,31/02/2024\n"
        ",Eve,eve@example.com,fair,2024-03-01\n"
        'E-6,"Eve,eve@example.com,fair,2024-03-01\n',
    )
    leads.run()
    assert leads.rows(f"{LISTED} order by 1") == [
        ("42", "Dora", None, None, None, None, "web", "2024-03-09"),
        ("A-1", "Ana, Dr.", "Acme", "ana@example.com", "AR", "Tools", "fair", "2024-03-01"),
        ("B-1", "Bo", None, "bo@example.com", None, None, "fair", "2024-03-05"),
        ("B-2", "Bea", None, None, None, None, "web", "2024-03-05"),
        ("C-1", "Jos\u00e9", "Caf\u00e9", None, "AR", None, "feria", "2024-03-07"),
        ("D-1", "Dan", None, None, None, None, "fair", "2024-03-08"),
        ("D-3", "Dirk", None, None, None, None, "fair", "2024-03-10"),
        # What is merged over several rows is the first one's.
        ("X-1", "Uma", "Acme", None, None, None, "fair", "2024-03-02"),
        ("X-2", "Ugo", None, None, None, None, "fair", "2024-03-02"),
    ]
    assert leads.rows(
        "select lead_id, _rescued_data from raw.leads_lead where _rescued_data is not null order by 1"
    ) == [
        ("B-1", {"Budget": "1.234,50"}),
        ("D-3", {"Budget": 1.5}),
    ]
    assert leads.rows("select created_at::text from dwh.fact_lead where lead_id = 'B-2'") == [
        ("2024-03-05 14:30:00+00",)
    ]
    assert sorted(leads.waiting()) == sorted([
        ("6:1", "workbook cannot be read"), ("7:1", "workbook cannot be read"), ("9:1", "header is missing"),
        ("E-1", "name and e-mail are missing"), ("E-2", "e-mail is not valid"), ("E-3", "lead source is missing"),
        ("E-4", "creation time is missing"), ("10:6", "lead_id is missing"), ("10:7", "row cannot be read"),
    ])  # fmt: skip
    assert [(path, records, loaded, waiting) for path, _, records, loaded, waiting, *_ in leads.counts()] == [
        ("plain.csv", 1, 1, 0), ("semicolons.csv", 2, 2, 0), ("latin.csv", 1, 1, 0), ("sheets.xlsx", 3, 3, 0),
        ("merged.xlsx", 2, 2, 0), ("protected.xlsx", 1, 0, 1), ("damaged.xlsx", 1, 0, 1), ("empty.csv", 0, 0, 0),
        ("other.csv", 1, 0, 1), ("bad.csv", 6, 0, 6),
    ]  # fmt: skip


def test_texts_of_a_workbook_that_others_take_for_no_value_are_kept(leads: FeedPipeline) -> None:
    """As those of a CSV file: NA is the country Namibia, and Null the name of people."""
    header = ["lead_id", "name", "company", "email", "country", "interest", "source", "created"]
    rows = [
        ["N-1", "Null", "NA", "n1@example.com", "NA", "None", "nan", "2024-03-01"],
        ["N-2", "N/A", "", None, "NULL", "#N/A", "fair", "2024-03-01"],
    ]
    leads.land("names.xlsx", workbook(Leads=[header, *rows]))
    leads.run()
    in_workbook = leads.rows(f"{LISTED} order by 1")
    assert in_workbook == [
        ("N-1", "Null", "NA", "n1@example.com", "NA", "None", "nan", "2024-03-01"),
        ("N-2", "N/A", None, None, "NULL", "#N/A", "fair", "2024-03-01"),
    ]
    lines = [",".join(cell or "" for cell in row) for row in (header, *rows)]
    leads.land("names.csv", "\n".join(lines) + "\n")
    leads.run()
    assert leads.rows(f"{LISTED} order by 1") == in_workbook
    assert leads.counts() == [("names.xlsx", "loaded", 2, 0, 0, 0, 2), ("names.csv", "loaded", 2, 2, 0, 0, 0)]


def test_cells_of_any_type_are_kept_whatever_the_policy(leads: FeedPipeline, tmp_path: Path) -> None:
    header = ["lead_id", "name", "source", "created", "interest", "call at"]
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, header)
        for row, (key, length) in enumerate([("T-1", "hh:mm"), ("T-2", "[h]:mm")], start=1):
            sheet.write_row(row, 0, [key, "Tom", "fair", "2024-03-01"])
            for column, value in ((4, 0.4375), (5, 1.75)):
                sheet.write_number(row, column, value, book.add_format({"num_format": length}))
    leads.land("rescue.xlsx", content.getvalue())
    leads.run()
    kept = "select lead_id, interest, _rescued_data from raw.leads_lead order by 1"
    assert leads.rows(kept) == [
        ("T-1", None, {"interest": "10:30:00", "call at": "1900-01-01T18:00:00"}),
        ("T-2", None, {"interest": "10:30:00", "call at": "1 day, 18:00:00"}),
    ]
    folder = tmp_path / "leads"
    shutil.copytree(PACKAGED / "leads", folder)
    path = folder / "source.toml"
    path.write_text(path.read_text().replace("[feed]\n", '[feed]\non_schema_change = "evolve"\n'))
    leads.source = read_declaration(folder)
    leads.land("evolve.xlsx", content.getvalue() + b"\0")
    leads.run()
    assert leads.rows("select lead_id, interest from raw.leads_lead order by 1") == [
        ("T-1", "10:30:00"),
        ("T-2", "10:30:00"),
    ]


def test_a_workbook_that_takes_too_much_memory_waits_and_stops_nothing(leads: FeedPipeline) -> None:
    """Five kilobytes with a cell in the last row and column: what reads it asks for 400 GB, and ends its process."""
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["lead_id", "name", "source", "created"])
        sheet.write_row(1, 0, ["F-1", "Fay", "fair", "2024-03-01"])
        sheet.write(1_048_575, 16_383, "x")
    leads.land("far.xlsx", content.getvalue())
    leads.land("near.xlsx", merged_workbook())
    leads.run()
    assert [row[:2] for row in leads.rows(f"{LISTED} order by 1")] == [("X-1", "Uma"), ("X-2", "Ugo")]
    assert leads.counts() == [("far.xlsx", "loaded", 1, 0, 1, 0, 0), ("near.xlsx", "loaded", 2, 2, 0, 0, 0)]
    ((rules, reason),) = leads.rows("select rules, reason from audit.quarantine")
    assert (rules, reason) == (
        ["workbook cannot be read"],
        "It is damaged, too large, or protected by a password: its reader has ended, as where it takes more than "
        "4,096 MB of memory",
    )


def test_generated_lists_have_the_defects_that_are_counted_beside_them(leads: FeedPipeline) -> None:
    assert leads.source.feed is not None
    landing = leads.lake / leads.source.feed.landing
    contacts = [Contact("Ana", "ana@example.com", "AR")]
    # Eight days: one of them is a workbook.
    made = generate(landing, rows=60, days=8, until=date(2024, 3, 10), defects=0.3, contacts=contacts)
    assert {name.rsplit(".", 1)[1] for name in made.files} == {"csv", "xlsx"}
    assert made.defects.keys() == DEFECTS.keys()
    leads.run()
    assert {path: (records, loaded, waiting) for path, _, records, loaded, waiting, *_ in leads.counts()} == {
        name: (60, 60 - broken, broken)
        for name in made.files
        for broken in [
            sum(
                json.loads((landing.with_name("leads-expected") / f"{name}.json").read_text())[
                    "defects"
                ].values()
            )
        ]
    }
    rules = leads.rows("select rules[1], count(*) from audit.quarantine group by 1")
    assert dict(rules) == {
        "lead_id is missing": made.defects["no_lead_id"],
        "name and e-mail are missing": made.defects["no_name_and_email"],
        "e-mail is not valid": made.defects["bad_email"],
        "lead source is missing": made.defects["no_source"],
        "creation time is missing": made.defects["bad_date"],
    }
    assert made == generate(landing, rows=60, days=8, until=date(2024, 3, 10), defects=0.3, contacts=contacts)
