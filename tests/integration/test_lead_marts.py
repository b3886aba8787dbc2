"""Lead marts agree with what pandas computes from lists and shop; contacts of leads are for their readers alone."""

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from tests.integration.test_feeds import FeedPipeline
from tests.marts import MartWorld, refresh
from warehouse.db.connections import connect
from warehouse.errors import AccessRefused
from warehouse.report.contacts import write_contacts

COLUMNS = ["lead_id", "name", "company", "email", "country", "interest", "lead_source", "created"]


def raw_leads(folder: Path) -> pd.DataFrame:
    """The rows of all lists that are right, read by pandas alone."""
    frames = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".xlsx":
            frame = pd.read_excel(path, header=1, dtype=str, engine="calamine")
        else:
            content = path.read_bytes()
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = content.decode("cp1252")
            frame = pd.read_csv(io.StringIO(text), sep=None, engine="python", dtype=str)
        frames.append(frame.set_axis(COLUMNS, axis=1))
    leads = pd.concat(frames).reset_index(drop=True)
    dates = leads.created.str.replace(r"(\d\d)[/.](\d\d)[/.](\d{4})", r"\3-\2-\1", regex=True)
    leads["created_at"] = pd.to_datetime(dates, errors="coerce", utc=True)
    is_right = (
        leads.lead_id.notna()
        & (leads.name.notna() | leads.email.notna())
        & ~leads.email.fillna("").str.contains(" ")
        & leads.lead_source.notna()
        & leads.created_at.notna()
    )
    return leads[is_right]


def test_conversion_per_lead_source(mart_world: MartWorld) -> None:
    listed = raw_leads(mart_world.lake.landing.with_name("leads"))
    customers = mart_world.raw_table("customer")
    by_email = (
        customers.dropna(subset=["email"]).groupby(customers.email.str.lower().str.strip()).id.agg(list)
    )
    by_name = customers.groupby([customers.name.str.lower().str.strip(), customers.country]).id.agg(list)
    lines = mart_world.raw_lines()
    bought = lines[lines.line_status != "cancelled"].groupby("customer_id").ordered_at.agg(list)
    expected: dict[str, list[float]] = {}
    for lead in listed.itertuples():
        email = lead.email.lower().strip() if isinstance(lead.email, str) else None
        name = lead.name.lower().strip() if isinstance(lead.name, str) else None
        found = by_email.get(email, []) or by_name.get((name, lead.country), [])
        orders = [at for at in bought.get(found[0], []) if at >= lead.created_at] if len(found) == 1 else []
        counts = expected.setdefault(lead.lead_source, [0, 0, 0])
        for place, is_so in enumerate((True, len(found) == 1, bool(orders))):
            counts[place] += is_so
    mart = mart_world.mart("lead_source_conversion")
    assert {
        row.lead_source: [row.lead_count, row.matched_lead_count, row.converted_lead_count]
        for row in mart.itertuples()
    } == expected
    assert {row.lead_source: float(row.lead_conversion_rate) for row in mart.itertuples()} == pytest.approx(
        {source: converted / count for source, (count, _, converted) in expected.items()}
    )
    assert sum(counts[2] for counts in expected.values()) > 10
    # The mart of details has the same leads.
    details = mart_world.mart("leads")
    assert sorted(details.lead_id) == sorted(listed.lead_id)
    assert details.has_converted.sum() == sum(counts[2] for counts in expected.values())


def test_marketing_sees_leads_without_name_and_e_mail(mart_world: MartWorld) -> None:
    with psycopg.connect(mart_world.warehouse_url) as connection:
        connection.execute("set role dwh_marketing")
        cursor = connection.execute("select * from mart.leads_masked")
        columns = [column.name for column in cursor.description or ()]
        assert not {"name", "email", "lead_id"} & set(columns)
        text = "\n".join(str(row) for row in cursor.fetchall())
        assert connection.execute("select count(*) from mart.lead_source_conversion").fetchone() == (6,)
        for table in ("mart.leads", "dwh.dim_lead", "dwh.fact_lead"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(f"select from {table}".encode())
    # Of an address its domain is left, of a name its first letter.
    assert not re.search(r"\w@|Lead \d", text)


def test_contacts_are_read_as_their_own_role_into_a_private_file(
    mart_world: MartWorld, tmp_path: Path
) -> None:
    leads = FeedPipeline(mart_world.warehouse_url, tmp_path / "lake", "leads")
    leads.land("z.csv", 'lead_id,name,email,source,created\n=1+1,"=cmd|x",+1@example.com,@fair,2024-03-01\n')
    leads.run()
    leads.warehouse.close()
    path = write_contacts(mart_world.warehouse_url, tmp_path / "leads-contacts.xlsx")
    assert path.stat().st_mode & 0o777 == 0o600
    book = pd.read_excel(path, engine="calamine", keep_default_na=False)
    assert len(book) == len(mart_world.mart("leads"))
    assert list(book.iloc[-1][["Lead id", "Name", "Email", "Lead source"]]) == [
        "'=1+1", "'=cmd|x", "'+1@example.com", "'@fair"
    ]  # fmt: skip
    with connect(mart_world.warehouse_url, autocommit=True) as connection:
        connection.execute("set role dwh_lead_reader")
        for table in ("mart.sales", "dwh.dim_lead", "mart.leads_masked", "dwh.dim_customer"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select from {table}".encode())


def test_conversion_per_lead_source_is_computed_again_when_leads_have_changed(
    mart_world: MartWorld, tmp_path: Path
) -> None:
    def lead_count() -> tuple[int]:
        (row,) = mart_world.pipeline.warehouse.execute(
            "select lead_count from mart.lead_source_conversion where lead_source = 'radio'"
        ).fetchall() or [(0,)]
        return row

    leads = FeedPipeline(mart_world.warehouse_url, tmp_path / "lake", "leads")
    leads.land("y.csv", "lead_id,name,email,source,created\nR-1,Ada,ada@example.com,radio,2024-03-01\n")
    leads.run()
    leads.warehouse.close()
    assert lead_count() == (0,)
    assert "lead_source_conversion" in refresh(mart_world.warehouse_url)
    assert lead_count() == (1,)
    assert "lead_source_conversion" not in refresh(mart_world.warehouse_url)
    # By hand, without a run: the change log has it.
    mart_world.pipeline.warehouse.execute("delete from dwh.fact_lead where lead_id = 'R-1'")
    assert "lead_source_conversion" in refresh(mart_world.warehouse_url)
    assert lead_count() == (0,)


def test_a_login_without_the_role_gets_no_contacts(mart_world: MartWorld, tmp_path: Path) -> None:
    login = f"analyst_{datetime.now(UTC):%H%M%S%f}"
    admin = mart_world.pipeline.warehouse
    admin.execute(f"create role {login} login password 'secret' in role dwh_reader".encode())
    try:
        url = re.sub(r"//[^@]*@", f"//{login}:secret@", mart_world.warehouse_url)
        with pytest.raises(
            AccessRefused, match=f"no member of dwh_lead_reader.*grant dwh_lead_reader to {login}"
        ):
            write_contacts(url, tmp_path / "leads-contacts.xlsx")
        assert list(tmp_path.iterdir()) == []
    finally:
        admin.execute(f"drop role {login}".encode())
