"""Generates lists of leads as marketing sends them: CSV and workbooks, reproducible by seed, with known defects."""

import csv
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from generators.feed_files import FIRST, FileCounts, check_request, days_until, write_file
from generators.shop.database import connect

HEADER = ("Lead ID", "Full name", "Company", "E-mail", "Country", "Interested in", "Source", "Created")
SOURCES = ("fair", "newsletter", "webinar", "partner", "search ads", "social ads")
COUNTRIES = ("AR", "BR", "CL", "US", "DE", "FR", "PT")
INTERESTS = ("Tools", "Paint", "Lighting", "Gardening", "Safety")
# By kind of defect: what the row has in which columns instead. All these rows are quarantined.
DEFECTS: Mapping[str, Mapping[int, str]] = {
    "no_lead_id": {0: ""},
    "no_name_and_email": {1: "", 3: ""},
    "bad_email": {3: "somebody at example.com"},
    "no_source": {6: ""},
    "bad_date": {7: "31/02/2024"},
}
# Separator, encoding and date format of a file; every seventh day it is a workbook instead.
STYLES = ((",", "utf-8", "%Y-%m-%d"), (";", "utf-8-sig", "%d/%m/%Y"), ("\t", "cp1252", "%d.%m.%Y"))


@dataclass(frozen=True)
class Contact:
    """A person whom marketing may meet: a customer of the shop, say."""

    name: str
    email: str
    country: str


def generate(
    folder: Path,
    *,
    rows: int = FIRST,
    days: int = 1,
    seed: int = 42,
    until: date | None = None,
    defects: float = 0.02,
    contacts: Sequence[Contact] = (),
) -> FileCounts:
    """Write a file a day with `rows` leads each, the last for `until` (default: yesterday, UTC).

    A third of the leads are `contacts`, half of those without their e-mail. `defects` is the share of rows that are
    broken in a known way; the folder <folder>-expected gets the counts of each file.

    Raises:
        GeneratorError: a number is out of range.
    """
    check_request("leads", rows, days, defects)
    names, counts = [], Counter[str]()
    for day in days_until(until, days):
        rng = random.Random(f"leads {seed} {day}")
        broken: Counter[str] = Counter()
        separator, encoding, date_format = rng.choice(STYLES)
        leads = []
        for number in range(1, rows + 1):
            lead = _lead(rng, day, number, date_format, contacts)
            if rng.random() < defects:
                kind = rng.choice(list(DEFECTS))
                broken[kind] += 1
                for place, value in DEFECTS[kind].items():
                    lead[place] = value
            leads.append(lead)
        if day.toordinal() % 7 == 0:
            name, content = f"leads-{day}.xlsx", _workbook(leads)
        else:
            name, text = f"leads-{day}.csv", _text(leads, separator)
            try:
                content = text.encode(encoding)
            except UnicodeEncodeError:
                content = text.encode()
        description = {"rows": rows, "defects": dict(sorted(broken.items()))}
        write_file(folder, name, content, description)
        names.append(name)
        counts.update(broken)
    return FileCounts(tuple(names), rows * days, dict(sorted(counts.items())))


def lead_id(day: date, number: int) -> str:
    """Return the id of a day's lead with this number, for orders that refer to it."""
    return f"L{day:%Y%m%d}-{number}"


def contacts_of(url: str, limit: int = 50_000) -> list[Contact]:
    """Read customers of a shop, at most `limit`; none if it has no tables yet."""
    with connect(url) as connection:
        if connection.execute("select to_regclass('public.customer')").fetchone() == (None,):
            return []
        rows = connection.execute(
            "select name, email, country from public.customer "
            "where name is not null and email is not null and country is not null order by id limit %s",
            [limit],
        )
        return [Contact(*row) for row in rows.fetchall()]


def _lead(
    rng: random.Random, day: date, number: int, date_format: str, contacts: Sequence[Contact]
) -> list[str]:
    name, email, country = f"Lead {number}", f"lead{number}.{day:%Y%m%d}@example.org", rng.choice(COUNTRIES)
    draw, contact_draw, has_email = rng.random(), rng.random(), rng.random() < 0.5
    if contacts and draw < 1 / 3:
        contact = contacts[int(contact_draw * len(contacts))]
        name, email, country = contact.name, contact.email if has_email else "", contact.country
    created = day - timedelta(days=rng.randrange(90))
    return [
        lead_id(day, number),
        name,
        f"Company {rng.randrange(1000)}",
        email,
        country,
        rng.choice(INTERESTS),
        rng.choice(SOURCES),
        f"{created:{date_format}}",
    ]


def _text(leads: Sequence[Sequence[str]], separator: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(HEADER)
    writer.writerows(leads)
    return text.getvalue()


def _workbook(leads: Sequence[Sequence[str]]) -> bytes:
    """A workbook with a title above the header, and a sheet of notes."""
    import xlsxwriter

    content = io.BytesIO()
    # Write texts as texts: xlsxwriter would turn some into formulas or links.
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(content, options) as book:
        sheet = book.add_worksheet("Leads")
        sheet.merge_range(0, 0, 0, len(HEADER) - 1, "Leads of the day")
        for number, row in enumerate((HEADER, *leads), start=1):
            sheet.write_row(number, 0, row)
        book.add_worksheet("Notes").write(0, 0, "Nothing to load here")
    return content.getvalue()
