"""Feeds of tables: CSV and workbooks in any shape that people send, into the same dimension as the shop's."""

import io
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from random import Random
from string import ascii_letters

import pandas as pd
import pytest

from generators.companies import generate
from tests.integration.test_feeds import FeedPipeline
from warehouse.reconcile.reconcile import reconcile_feed
from warehouse.runs.audit import start_run

LISTED = (
    "select company_id, name, country, valid_from::date::text from dwh.dim_company "
    "where is_current and company_key > 0"
)


@pytest.fixture
def companies(warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path / "lake", "companies")
    yield pipeline
    pipeline.warehouse.close()


def workbook(**sheets: list[list[object]]) -> bytes:
    content = io.BytesIO()
    with pd.ExcelWriter(content, engine="xlsxwriter") as writer:
        for name, rows in sheets.items():
            pd.DataFrame(rows).to_excel(writer, sheet_name=name, header=False, index=False)
    return content.getvalue()


def test_tables_are_read_whatever_their_shape(companies: FeedPipeline) -> None:
    companies.land("plain.csv", "cuit,name,country,updated_at\n301,One,ar,2024-01-05\n302,,AR,2024-01-05\n")
    companies.land(
        "german.csv", "\ufeffCOUNTRY;Extra;Company Name;Tax-Number\r\nDE;x;Zwei;303\r\n\r\nDE;;Drei;304\r\n"
    )
    companies.land("latin.csv", "Pais\tRazon social\tCUIT\nAR\tCaf\u00e9\t305\n".encode("latin-1"))
    companies.land("wide.csv", 'Name,Country,CUIT\n"Six, Inc.\nof two lines",US,306,more\nSeven,US\n')
    companies.land("nothing.csv", "a,b\n1,2\n")
    companies.land(
        "book.xlsx",
        workbook(
            First=[["Our sellers", None, None, None], ["Country", "Name", "Updated", "Tax number"],
                   ["CL", "Eight", pd.Timestamp("2024-02-03"), 308], [None, None, None, None]],
            Notes=[["nothing here"]],
            More=[["cuit", "name", "country", "date"], ["309", "Nine", "CL", "04/02/2024"]],
        ),
    )  # fmt: skip
    companies.land("damaged.xlsx", b"PK\x03\x04 no workbook")
    companies.run()
    assert companies.rows(f"{LISTED} order by 1") == [
        ("301", "One", "AR", "1900-01-01"),
        ("303", "Zwei", "DE", "1900-01-01"),
        ("304", "Drei", "DE", "1900-01-01"),
        ("305", "Caf\u00e9", "AR", "1900-01-01"),
        ("306", "Six, Inc.\nof two lines", "US", "1900-01-01"),
        ("308", "Eight", "CL", "1900-01-01"),
        ("309", "Nine", "CL", "1900-01-01"),
    ]
    assert sorted(rules for _, rules in companies.waiting()) == [
        "cuit is missing", "header is missing", "name is missing", "workbook cannot be read"
    ]  # fmt: skip
    assert [(path, loaded, waiting) for path, _, _, loaded, waiting, *_ in companies.counts()] == [
        ("plain.csv", 1, 1), ("german.csv", 2, 0), ("latin.csv", 1, 0), ("wide.csv", 1, 1), ("nothing.csv", 0, 1),
        ("book.xlsx", 2, 0), ("damaged.xlsx", 0, 1),
    ]  # fmt: skip
    assert companies.rows(
        "select cuit, _rescued_data, updated_at::date::text from raw.companies_company "
        "where cuit in ('303', '306', '308', '309') order by 1"
    ) == [
        ("303", {"Extra": "x"}, None),
        ("306", {"_rest": ["more"]}, None),
        ("308", None, "2024-02-03"),
        ("309", None, "2024-02-04"),
    ]
    # A changed company opens a version when the list says so.
    companies.land("later.csv", "cuit,name,country,updated_at\n301,Uno,AR,2024-05-01\n")
    companies.run()
    assert companies.rows(f"{LISTED} and company_id = '301'") == [("301", "Uno", "AR", "2024-05-01")]
    # What waits waits on, whatever is loaded beside it.
    assert [rules for _, rules in companies.waiting()].count("name is missing") == 1
    assert companies.counts()[0][1:] == ("loaded", 2, 0, 1, 0, 1)


def test_copies_of_rows_that_cannot_be_read_are_their_own_bytes(companies: FeedPipeline) -> None:
    bad = ['302,"Caf\u00e9" Ltda,AR', "303,Ni\0\u00f1o,AR"]
    rows = ["cuit,name,country", "301,Caf\u00e9,AR", *bad, ""]
    companies.land("latin.csv", "\r\n".join(rows).encode("latin-1"))
    companies.land("utf8.csv", "\r\n".join(rows).encode("utf-8-sig"))
    companies.land("bare.csv", "304,S\u00e3o,BR\n\n305,Five,BR".encode("latin-1"))
    companies.land("bare.xlsx", workbook(First=[[306, "S\u00e3o"], [None, None], [307, "Seven"]]))
    companies.run()
    copies = {path.name.partition(".")[0] + path.name.split(".")[1][:1]: path.read_bytes()
              for path in (companies.lake / "bad" / "companies").iterdir()}  # fmt: skip
    assert copies == {
        "latinc": "".join(f"{row}\n" for row in bad).encode("latin-1"),
        "utf8c": "".join(f"{row}\n" for row in bad).encode(),
        "barec": b"304,S\xe3o,BR\n\n305,Five,BR\n",
        "barex": "306\tS\u00e3o\n307\tSeven\n".encode(),
    }
    # People read them decoded, whatever the encoding.
    shown = [bad[0], bad[1].replace("\0", "\\x00")]
    assert companies.rows("select raw_text from audit.quarantine order by quarantine_id") == [
        (text,) for text in [*shown, *shown, "304,S\u00e3o,BR\n\n305,Five,BR", "306\tS\u00e3o\n307\tSeven"]
    ]
    assert companies.rows(f"{LISTED} order by 1") == [("301", "Caf\u00e9", "AR", "1900-01-01")]


def test_lists_that_were_put_one_after_the_other_are_read_as_each_of_them_says(
    companies: FeedPipeline,
) -> None:
    companies.land(
        "all.csv",
        "cuit,name,country\n301,One,AR\nCUIT,Name,Country\n302,Two,UY\n"
        "name,tax number,country\nThree,303,CL\n"
        "region,company name,pais,cnpj\nSouth,Four,BR,304\n"
        # Names of companies are no header.
        "South,Country,BR,305\nSouth,Name,Cuit,306\n",
    )
    companies.land(
        "all.xlsx",
        workbook(All=[["cuit", "name", "country"], [307, "Seven", "AR"],
                      ["name", "country", "cuit"], ["Eight", "AR", 308]]),
    )  # fmt: skip
    companies.run()
    assert companies.rows(f"{LISTED} order by 1") == [
        ("301", "One", "AR", "1900-01-01"),
        ("302", "Two", "UY", "1900-01-01"),
        ("303", "Three", "CL", "1900-01-01"),
        ("304", "Four", "BR", "1900-01-01"),
        ("305", "Country", "BR", "1900-01-01"),
        ("306", "Name", "CUIT", "1900-01-01"),
        ("307", "Seven", "AR", "1900-01-01"),
        ("308", "Eight", "AR", "1900-01-01"),
    ]
    assert [row[:4] for row in companies.counts()] == [
        ("all.csv", "loaded", 6, 6),
        ("all.xlsx", "loaded", 2, 2),
    ]


def test_names_and_values_that_the_database_cannot_hold_keep_no_other_row_from_being_loaded(
    companies: FeedPipeline,
) -> None:
    random = Random(1)
    long = "".join(random.choices(ascii_letters, k=10_000))
    companies.land("beyond.csv", "cuit,name,country\n301,One,AR,be\0yond\n302,Two,AR,beyond\n")
    companies.land("header.csv", "cuit,name,country,no\0te\n303,Three,AR,x\n304,Four,AR\n")
    companies.land("long.csv", f"cuit,name,country,{long}\n305,Five,AR,x\n")
    companies.run()
    assert companies.rows(f"{LISTED} order by 1") == [
        ("302", "Two", "AR", "1900-01-01"), ("304", "Four", "AR", "1900-01-01"), ("305", "Five", "AR", "1900-01-01")
    ]  # fmt: skip
    assert [rules for _, rules in companies.waiting()] == ["text has a NUL character"] * 2
    assert companies.rows("select _rescued_data from raw.companies_company where cuit = '305'") == [
        ({long: "x"},)
    ]
    assert (f"{long[:100]}…",) in companies.rows("select field_name from audit.feed_field")


def test_what_was_decided_about_a_row_stays_when_its_list_goes_on(companies: FeedPipeline) -> None:
    rows = [
        "cuit,name,country",
        "301,One,AR",
        ",No number,AR",
        "303,,AR",
        ",Corrected,AR",
        "305,,AR",
        ",Waits,AR",
    ]

    def land(*more: str) -> int:
        rows.extend(more)
        companies.land("a.csv", "\n".join(rows) + "\n")
        return companies.run()

    land()
    ids = dict(companies.rows("select line_number, quarantine_id from audit.quarantine"))
    companies.discard(ids[3], ids[4])
    companies.edit(ids[5], {"cuit": "304", "name": "Corrected", "country": "AR"})
    companies.edit(ids[6], {"cuit": "305", "name": "Five", "country": "AR"})
    companies.replay(ids[5], ids[6])
    assert companies.counts() == [("a.csv", "loaded", 6, 3, 1, 2, 0)]
    for number in (306, 307):
        land(f"{number},More,AR")
        assert companies.waiting() == [(f"{number - 304}:7", "cuit is missing")]
        assert companies.rows("select cuit from raw.companies_company where not _is_deleted order by 1") == [
            (str(cuit),) for cuit in (301, 304, 305, *range(306, number + 1))
        ]
    assert companies.rows("select name from raw.companies_company where cuit = '305'") == [("Five",)]
    assert companies.counts() == [
        ("a.csv", "replaced", 6, 2, 0, 2, 2),
        ("a.csv", "replaced", 7, 0, 0, 2, 5),
        ("a.csv", "loaded", 8, 3, 1, 2, 2),
    ]
    before = companies.counts(), companies.waiting()
    companies.undo(land("308,More,AR"))
    assert [row[2:] for row in companies.counts()[:-1]] == [row[2:] for row in before[0]]
    assert companies.waiting() == before[1]
    companies.run()
    assert companies.waiting() == [("4:7", "cuit is missing")]
    assert companies.counts()[-2:] == [
        ("a.csv", "replaced", 8, 0, 0, 2, 6),
        ("a.csv", "loaded", 9, 4, 1, 2, 2),
    ]
    rows.pop()
    # It is another list now: what waits of the one before waits on, and what was discarded of it says nothing.
    rows[2] = ",Another,AR"
    land()
    assert (len(companies.waiting()), companies.counts()[-1]) == (6, ("a.csv", "loaded", 8, 3, 5, 0, 0))


def test_list_that_goes_on_does_not_bring_back_what_was_changed_since(companies: FeedPipeline) -> None:
    listed = "cuit,name,country\n301,One,AR\n302,Two,AR\n302,,AR\n303,Three,AR\n"
    companies.land("a.csv", listed)
    companies.run()
    ((refused,),) = companies.rows("select quarantine_id from audit.quarantine where resolved_at is null")
    companies.edit(refused, {"cuit": "302", "name": "Second", "country": "AR"})
    companies.replay(refused)
    companies.land("b.csv", "cuit,name,country\n301,Uno,AR\n303,,AR\n")
    companies.run()
    # A copy of a file that was renamed is one, though both are new names.
    folder = companies.lake / "landing/companies"
    (folder / "b.csv").rename(folder / "renamed.csv")
    companies.land("copy.csv", (folder / "renamed.csv").read_bytes())
    for number in (304, 305):
        listed += f"{number},More,AR\n"
        companies.land("a.csv", listed)
        companies.run()
        assert companies.rows("select cuit, name from raw.companies_company where not _is_deleted order by 1") == [
            ("301", "Uno"), ("302", "Second"), ("303", "Three"), *((str(n), "More") for n in range(304, number + 1))
        ]  # fmt: skip
        assert companies.waiting() == [("303", "name is missing")]
    assert companies.counts() == [
        ("a.csv", "replaced", 4, 1, 0, 0, 3),
        ("renamed.csv", "loaded", 2, 1, 1, 0, 0),
        ("copy.csv", "copy", 2, 0, 0, 0, 0),
        ("a.csv", "replaced", 5, 0, 0, 0, 5),
        ("a.csv", "loaded", 6, 3, 0, 0, 3),
    ]
    with start_run(companies.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, companies.source, repair=False)
    assert [str(one) for verdict in verdicts for one in verdict.differences] == []


def test_generated_companies_have_the_defects_that_are_counted_beside_them(companies: FeedPipeline) -> None:
    assert companies.source.feed is not None
    landing = companies.lake / companies.source.feed.landing
    # One day: a later list would supersede what waits of an earlier one.
    made = generate(landing, rows=120, until=date(2024, 3, 10), defects=0.3)
    (name,) = made.files
    beside = json.loads((landing.with_name(f"{landing.name}-expected") / f"{name}.json").read_text())
    assert beside == {"file": name, "rows": 120, "defects": made.defects}
    broken = sum(made.defects.values())
    companies.run()
    assert companies.counts() == [(name, "loaded", 120, 120 - broken, broken, 0, 0)]
    assert dict(companies.rows("select rules[1], count(*) from audit.quarantine group by 1")) == {
        "country is missing": made.defects["no_country"],
        "name is missing": made.defects["no_name"],
        "cuit is missing": made.defects["no_tax_number"],
    }
