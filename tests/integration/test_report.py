"""The HTML report: whole, self-contained, safe with hostile data, and fit for a phone."""

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import maxminddb
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.pipeline import Pipeline
from tests.weblog_lake import line, make_lake
from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.errors import QualityGateStopped, SchemaOutdated
from warehouse.load import marts
from warehouse.report import write as report
from warehouse.report.read import _rows
from warehouse.report.write import ReportNotWritten
from warehouse.runs.audit import start_run

SCRIPT = "<script>document.title='broken'</script>"
IMAGE = "\"><img src='https://example.org/x.png' onerror=\"document.title='broken'\">"
LONG = "Donaudampfschifffahrtsgesellschaft" * 30

WEB_TRAFFIC = (
    "insert into dwh.dim_device (device_key, family, run_id) values (1, %(script)s, 1), (2, %(long)s, 1)",
    "insert into dwh.agg_weblog_device (device_key, request_count, user_count, run_id) "
    "values (1, 900, 30, 1), (2, 100, 15, 1)",
    "insert into dwh.agg_weblog_country (country, request_count, user_count, run_id) "
    "values ('AR', 800, 40, 1), ('ZZ', 200, 5, 1)",
    "insert into dwh.agg_weblog_country_product (country, product_id, view_count, run_id) "
    "values ('AR', '1', 77, 1), ('AR', %(image)s, 7, 1)",
    "insert into dwh.agg_weblog_quarter_hour (quarter_hour_at, action, request_count, run_id) "
    "values ('2024-04-10 12:00+00', 'view', 600, 1), ('2024-04-12 12:00+00', 'search', 400, 1)",
    """update audit.run set parameters = '{"geoip": "DBIP-Country-Lite 2026-11-01"}' where run_id = 1""",
)

# Loads the report at the widths of a phone and a desktop, and puts what it measures into its own title.
MEASURE = """
<!doctype html><title>not measured</title><body><script>
const widths = [360, 1280];
const measured = widths.map(width => new Promise(done => {
  const frame = document.createElement('iframe');
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => {
    const page = frame.contentDocument;
    const drawn = [...page.querySelectorAll('rect')].filter(rect => rect.getBoundingClientRect().width > 0).length;
    done(`${width}: ${page.documentElement.scrollWidth} wide, title ${page.title.split(',')[0]}, drawn ${drawn > 20}`);
  };
  frame.src = 'REPORT';
  document.body.append(frame);
}));
Promise.all(measured).then(said => { document.title = said.join('; '); });
</script></body>
"""


class Page(HTMLParser):
    """A page taken apart: its tags, the addresses that they name, its text, and the cells of each table row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: set[str] = set()
        self.text = ""
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses |= {value or "" for name, value in attrs if name in ("src", "href", "action", "data")}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()


@pytest.fixture
def hostile(shop: Pipeline) -> Pipeline:
    """A warehouse with two months of sales, web traffic, a stopped run and a quarantined row, all names hostile."""
    shop.shop.execute("update product set name = %s", [IMAGE])
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-04-10", {}, {"status": "returned"}, {"status": "cancelled"})
    shop.order(3, "2024-04-11", {}, {"discount_amount": 10_000})
    # The newest sale: the twelve months before its own are the last year.
    shop.order(4, "2024-05-02")
    shop.capture()
    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    with (
        pytest.raises(QualityGateStopped),
        start_run(shop.warehouse_url, flow=f"ingest {SCRIPT}", launched_by=LONG),
    ):
        raise QualityGateStopped(f"The gate said {IMAGE}.", hint=LONG)
    for statement in WEB_TRAFFIC:
        shop.warehouse.execute(statement.encode(), {"script": SCRIPT, "image": IMAGE, "long": LONG})
    return shop


def test_report_shows_marts_runs_quality_and_proof(hostile: Pipeline, tmp_path: Path) -> None:
    page = Page(report.write(hostile.warehouse_url, tmp_path / "folder made for it" / "report.html"))
    assert ["Mar 2024", "1", "1", "2", "200.00", "10.00", "190.00", "30.00", "0.00", "0.00"] in page.rows
    assert ["Apr 2024", "1", "2", "4", "400.00", "20.00", "380.00", "60.00", "190.00", "190.00"] in page.rows
    assert ["Year", "2", "3", "6", "600.00", "30.00", "570.00", "90.00", "190.00", "190.00"] in page.rows
    assert [row[:5] for row in page.rows if row[:2] == ["shop", "order_item"]] == [
        ["shop", "order_item", "equal", "7", "7"]
    ]
    for said in (
        "Top 5 devices by users",
        "Argentina",
        "Requests per day",
        "discount is not between 0 and the gross amount",
        "IP geolocation by DB-IP",
    ):
        assert said in page.text


def test_report_shows_every_run_and_each_failure_once(warehouse_url: str, tmp_path: Path) -> None:
    noon = datetime.now(UTC).replace(hour=12)
    first, second = noon - timedelta(days=3), noon - timedelta(days=2)
    with connect(warehouse_url, autocommit=True) as warehouse:
        for started_at, flow, status, seconds, error in (
            (first, "ingest-shop", "succeeded", 30, None),
            (first, "ingest-shop", "failed", 10, "The shop is down."),
            (second, "ingest-shop", "failed", 10, "The shop is down."),
            (second, "ingest-shop", "skipped", 0.01, "Run 3 holds the lock."),
            (second, "ingest-shop", "crashed", 90_000, "The process is gone."),
            (second, "reconcile", "succeeded", 5, None),
        ):
            warehouse.execute(
                """
                insert into audit.run (flow, launched_by, code_version, host, pid, started_at, ended_at, status, error)
                values (%s, 'schedule', 'x', 'a', 1, %s, %s, %s, %s)
                """,
                [flow, started_at, started_at + timedelta(seconds=seconds), status, error],
            )
    path = report.write(warehouse_url, tmp_path / "report.html")
    page = Page(path)
    titles = re.findall(r"<title>([^<]*)</title>", path.read_text())[1:]
    assert [title for title in titles if ":" in title and not title.startswith("Run")][:2] == [
        f"{first:%a %-d %b %Y}: 1 succeeded, 1 failed",
        f"{second:%a %-d %b %Y}: 1 succeeded, 1 skipped, 1 failed, 1 crashed",
    ]
    assert [title.split(": ")[1] for title in titles if title.startswith("Run")] == [
        "succeeded after 30.0 s",
        "failed after 10.0 s",
        "failed after 10.0 s",
        "skipped after 0.0 s",
        "crashed after 90,000.0 s",
        "succeeded after 5.0 s",
    ]
    assert "last 5 runs: median 10.0 s, longest 30.0 s" in page.text
    assert sorted(
        row[1:4] + row[5:] for row in page.rows if row[1:2] == ["ingest-shop"] and len(row) == 6
    ) == [
        ["ingest-shop", "crashed", "1", "The process is gone."],
        ["ingest-shop", "failed", "2", "The shop is down."],
    ]


def test_report_asks_nothing_of_a_network_and_runs_nothing(hostile: Pipeline, tmp_path: Path) -> None:
    path = report.write(hostile.warehouse_url, tmp_path / "report.html")
    page = Page(path)
    text = path.read_text()
    # One script of its own, allowed by its hash; the others are the data of pictures that move.
    assert set(re.findall(r"<script([^>]*)>", text)) == {"", ' type="application/json"'}
    assert text.count("<script>") == 1
    assert not page.tags & {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert {address for address in page.addresses if not address.startswith("#")} == {"https://db-ip.com"}
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"url\(|@import|javascript:", markup)
    for said in (SCRIPT, IMAGE, LONG):
        assert said in page.text


def test_report_of_an_empty_warehouse_says_so(warehouse_url: str, tmp_path: Path) -> None:
    path = report.write(warehouse_url, tmp_path / "report.html")
    page = Page(path)
    for said in (
        "Nothing has been loaded yet.",
        "No sales yet",
        "No web log loaded yet.",
        "No run has ended yet.",
        "The quarantine is empty.",
        "Nothing has been checked yet.",
        "Nothing has been verified yet.",
    ):
        assert said in page.text
    told = path.read_text()
    before = tmp_path / "before the definitions.html"
    before.write_text(told[: told.index('<h2 id="definitions">')])
    assert Page(before).rows == []


def test_report_does_not_depend_on_how_a_server_writes_dates(warehouse_url: str, tmp_path: Path) -> None:
    with connect(warehouse_url, autocommit=True) as connection:
        connection.execute(f"alter database {connection.info.dbname} set datestyle = 'SQL, DMY'".encode())
    with start_run(warehouse_url, flow="ingest-shop"):
        pass
    page = Page(report.write(warehouse_url, tmp_path / "report.html"))
    assert "No run has ended yet." not in page.text


def test_report_of_a_database_without_tables_says_what_to_do(
    empty_database_url: Callable[[], str], tmp_path: Path
) -> None:
    with pytest.raises(SchemaOutdated, match="dwh migrate"):
        report.write(empty_database_url(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("database_type", "address"),
    [
        ("DBIP-Country-Lite", {"https://db-ip.com"}),
        ("GeoLite2-Country", {"https://www.maxmind.com"}),
        ("Demo-Country", set()),
    ],
)
def test_report_names_whose_geoip_data_it_shows(
    warehouse_url: str, tmp_path: Path, database_type: str, address: set[str]
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=database_type)
    writer.insert_network(IPSet(["0.0.0.0/1"]), {"country": {"iso_code": "AR"}})
    writer.to_db_file(str(geoip.path_of(lake.settings)))
    lake.put("access.log", line(address="9.9.9.9"))
    lake.load()
    page = Page(report.write(warehouse_url, tmp_path / "report.html"))
    assert {found for found in page.addresses if not found.startswith("#")} == address
    with maxminddb.open_database(geoip.path_of(lake.settings)) as database:
        built = datetime.fromtimestamp(database.metadata().build_epoch, UTC)
    assert (f"({database_type} {built:%Y-%m-%d})" in page.text) == bool(address)


def test_report_that_cannot_be_written_leaves_the_old_one(warehouse_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ReportNotWritten, match="Choose another file"):
        report.write(warehouse_url, tmp_path / "file" / "report.html")
    assert (tmp_path / "file").read_text() == "old"


def test_browser_lays_the_report_out_for_phone_and_desktop(hostile: Pipeline, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here: Debian's package is called chromium")
    path = report.write(hostile.warehouse_url, tmp_path / "report.html")
    measure = tmp_path / "measure.html"
    measure.write_text(MEASURE.replace("REPORT", path.as_uri()))
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run([browser, *options, measure.as_uri()], capture_output=True, text=True, timeout=300)
    assert re.findall(r"<title>(.*?)</title>", done.stdout) == [
        "360: 360 wide, title Warehouse report, drawn true; 1280: 1280 wide, title Warehouse report, drawn true"
    ]


def test_whole_numbers_stay_whole_beside_a_missing_one(warehouse_url: str) -> None:
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: connect(warehouse_url), poolclass=NullPool
    )
    query = "select * from (values (614::bigint, 1.5), (null, 'NaN'::numeric)) as customer (customer_key, net_amount)"
    with engine.connect() as connection:
        known, unknown = _rows(connection, query)
    assert (str(known["customer_key"]), known["net_amount"]) == ("614", 1.5)
    assert unknown == {"customer_key": None, "net_amount": None}
