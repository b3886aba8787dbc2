"""`dwh geoip update` against a real HTTP server: what it takes, what it refuses, and what it never says."""

import base64
import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from warehouse import geoip
from warehouse.errors import SettingsError, WarehouseError
from warehouse.geoip import GeoIpNotUpdated, LicenceRefused
from warehouse.geoip.newest import KNOWN
from warehouse.settings import Settings

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = "s3cret/key"


class Mirror(ThreadingHTTPServer):
    """A server of one answer per request, the last of them for ever; remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.asked: list[tuple[str, str | None]] = []

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.answers.append((status, body, headers))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror = self.server
        assert isinstance(mirror, Mirror)
        mirror.asked.append((self.path, self.headers.get("Authorization")))
        status, body, headers = mirror.answers.pop(0) if len(mirror.answers) > 1 else mirror.answers[0]
        headers = dict(headers)
        pause = float(headers.pop("pause", 0))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:100])
        self.wfile.flush()
        time.sleep(pause)
        self.wfile.write(body[100:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., bytes]:
    """Makes databases in which each known address is a network of its own."""

    def database(
        known: dict[str, str] = KNOWN, built: str = "2026-11-01", kind: str = "DBIP-Country-Lite"
    ) -> bytes:
        writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
        for address, country in known.items():
            if country != "ZZ":
                writer.insert_network(IPSet([address]), {"country": {"iso_code": country}})
        epoch = datetime.fromisoformat(built).replace(tzinfo=UTC).timestamp()
        with mock.patch("mmdb_writer.time.time", lambda: epoch):
            writer.to_db_file(str(tmp_path / "made"))
        return (tmp_path / "made").read_bytes()

    return database


def settings(
    tmp_path: Path, mirror: Mirror | None, path: str = "/{month}.mmdb.gz", **more: object
) -> Settings:
    url = {"geoip_url": mirror.url + path} if mirror else {}
    return Settings(_env_file=None, home=tmp_path / "home", **{**url, **more})  # type: ignore[call-arg, arg-type]


def update(settings: Settings, **options: float) -> geoip.Update:
    return geoip.update(settings, now=NOW, pauses=(0, 0), **options)  # type: ignore[arg-type]


def archive(content: bytes, name: str = "GeoLite2-Country_20261117/GeoLite2-Country.mmdb") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member, data in (("GeoLite2-Country_20261117/LICENSE.txt", b"x"), (name, content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def test_the_month_s_file_is_fetched_and_used_from_then_on(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mirror.answer(gzip.compress(make()))
    mine = settings(tmp_path, mirror)
    demo = geoip.path_of(mine)
    first = update(mine)
    assert (first.status, first.database, f"{first.built_at:%Y-%m-%d}") == (
        "installed",
        "DBIP-Country-Lite",
        "2026-11-01",
    )
    assert geoip.path_of(mine) == tmp_path / "home" / "geoip" / "country.mmdb" != demo
    assert str(geoip.read(geoip.path_of(mine))) == "DBIP-Country-Lite 2026-11-01"
    assert mirror.asked == [("/2026-11.mmdb.gz", None)]
    inode = first.path.stat().st_ino
    assert (update(mine).status, first.path.stat().st_ino) == ("unchanged", inode)
    mirror.answers = [(200, gzip.compress(make(built="2026-12-01")), {})]
    newer = update(mine)
    assert (newer.status, newer.replaced) == ("installed", "DBIP-Country-Lite 2026-11-01")
    mirror.answers = [(200, make(), {})]
    # What is older than the one in use does not take its place; another kind does.
    assert (update(mine).status, f"{geoip.read(first.path).built_at:%m}") == ("unchanged", "12")
    mirror.answers = [(200, archive(make(kind="GeoLite2-Country")), {})]
    assert update(mine).database == "GeoLite2-Country"
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["country.mmdb"]


def test_where_this_month_s_file_is_not_there_yet_last_month_s_is_fetched(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mirror.answer(b"no", 404)
    mirror.answer(gzip.compress(make(built="2026-10-01")))
    assert f"{update(settings(tmp_path, mirror)).built_at:%Y-%m}" == "2026-10"
    assert [path for path, _ in mirror.asked] == ["/2026-11.mmdb.gz", "/2026-10.mmdb.gz"]


def test_trouble_that_passes_is_tried_again(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    whole = gzip.compress(make())
    mirror.answer(b"busy", 503)
    mirror.answer(whole[:200], **{"Content-Length": str(len(whole))})
    mirror.answer(whole)
    assert update(settings(tmp_path, mirror)).fetched_bytes == len(whole)
    assert len(mirror.asked) == 3


def test_licence_key_goes_to_its_server_alone_and_is_never_shown(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    storage = mirror.url.replace("127.0.0.1", "localhost") + "/storage"
    mirror.answer(status=302, Location=storage)
    mirror.answer(archive(make(kind="GeoLite2-Country")))
    mine = settings(tmp_path, mirror, "/db?suffix=tar.gz", geoip_license_key=KEY, geoip_account_id="42")
    assert update(mine).database == "GeoLite2-Country"
    basic = "Basic " + base64.b64encode(f"42:{KEY}".encode()).decode()
    assert mirror.asked == [("/db?suffix=tar.gz", basic), ("/storage", None)]

    by_key = settings(tmp_path, mirror, "/app?license_key={license_key}", geoip_license_key=KEY)
    said = [str(update(by_key)), repr(by_key)]
    assert mirror.asked[-1] == ("/app?license_key=s3cret%2Fkey", None)
    for status, error in (
        (401, LicenceRefused),
        (403, LicenceRefused),
        (404, WarehouseError),
        (500, GeoIpNotUpdated),
    ):
        mirror.answers = [(status, b"", {})]
        with pytest.raises(error) as raised:
            update(by_key)
        said.append(f"{raised.value} {raised.value!r} {raised.getrepr(style='short')}")
    mirror.answers = [(200, b"no database", {})]
    with pytest.raises(GeoIpNotUpdated) as raised:
        update(by_key)
    with pytest.raises(SettingsError) as in_the_clear:
        update(
            settings(tmp_path, None, geoip_url="http://maxmind.example/{license_key}", geoip_license_key=KEY)
        )
    said += [str(raised.value), str(in_the_clear.value), caplog.text]
    assert "unencrypted" in said[-2]
    assert not any(secret in text for text in said for secret in (KEY, "s3cret%2Fkey", basic[6:]))


def test_key_may_come_from_a_file(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.setenv("DWH_GEOIP_LICENSE_KEY_FILE", str(tmp_path / "key"))
    mirror.answer(archive(make()))
    update(settings(tmp_path, mirror, "/{license_key}"))
    assert mirror.asked == [("/s3cret%2Fkey", None)]


BAD = {
    "truncated": lambda make: gzip.compress(make())[:-300],
    "truncated archive": lambda make: archive(make())[:-300],
    "an error page": lambda make: b"<html>maintenance</html>",
    "empty": lambda make: b"",
    "no country database": lambda make: gzip.compress(make({}, kind="DBIP-ASN-Lite")),
    "archive without a database": lambda make: archive(b"x", "GeoLite2/README.txt"),
    "half a database": lambda make: gzip.compress(make()[:-400]),
    "one in which everybody is elsewhere": lambda make: gzip.compress(make(dict.fromkeys(KNOWN, "FR"))),
    "one that knows nobody": lambda make: gzip.compress(make({"9.9.9.9": "US"})),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_good_database_leaves_the_one_in_use(
    what: str, tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mine = settings(tmp_path, mirror)
    mirror.answer(make(built="2026-10-01"))
    used = update(mine).path
    before = used.read_bytes()
    mirror.answers = [(200, BAD[what](make), {})]
    with pytest.raises(GeoIpNotUpdated, match="sent is not used: ") as raised:
        update(mine)
    assert "stays in use" in raised.value.hint
    assert used.read_bytes() == before
    assert [path.name for path in used.parent.iterdir()] == ["country.mmdb"]


def test_server_that_is_gone_silent_or_slow_is_given_up_in_time(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mirror.answer(make(), pause="5")
    with pytest.raises(GeoIpNotUpdated, match="was interrupted: timed out"):
        update(settings(tmp_path, mirror), timeout_seconds=1.0)
    assert len(mirror.asked) == 3
    with pytest.raises(GeoIpNotUpdated, match="cannot be reached"):
        update(settings(tmp_path, None, geoip_url="http://127.0.0.1:1/x"))
    for url in ("ftp://example.com/x", "https://me:s3cret@example.com/x", "x", "http://[1/x"):
        with pytest.raises(SettingsError, match="DWH_GEOIP_URL cannot be used") as raised:
            update(settings(tmp_path, None, geoip_url=url))
        assert "s3cret" not in str(raised.value)


def test_folder_that_cannot_be_written_is_reported(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mirror.answer(make())
    (tmp_path / "file").write_text("")
    with pytest.raises(GeoIpNotUpdated, match="cannot be written"):
        update(settings(tmp_path, mirror, geoip_path=tmp_path / "file" / "x.mmdb"))


def test_readers_see_one_database_or_the_other_while_it_is_swapped(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    path = tmp_path / "used.mmdb"
    mine = settings(tmp_path, mirror, geoip_path=path)
    old = dict.fromkeys([f"{n}.0.0.0/8" for n in range(20, 60)], "AR")
    mirror.answers = [(200, make(KNOWN | old, built="2026-01-01"), {})]
    update(mine)
    seen: set[tuple[str, str]] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            read = geoip.read(path)
            seen.add((f"{read.built_at:%Y-%m}", read.country_of("25.0.0.1")))

    reader = threading.Thread(target=read)
    reader.start()
    for month in range(2, 10):
        mirror.answers = [(200, make(KNOWN | (old if month % 2 else {}), built=f"2026-0{month}-01"), {})]
        update(mine)
        give_up_at = time.monotonic() + 120
        while f"2026-0{month}" not in {built for built, _ in seen.copy()}:
            assert reader.is_alive() and time.monotonic() < give_up_at
            time.sleep(0.001)
    stop.set()
    reader.join()
    assert len(seen) >= 8 and {country for _, country in seen} == {"AR", "ZZ"}
    assert len(seen) == len({month for month, _ in seen})


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from warehouse import geoip
from warehouse.geoip import newest
from warehouse.settings import Settings

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "killed":
    newest._replace = die
else:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
settings = Settings(_env_file=None, home=sys.argv[2], geoip_url=sys.argv[3])
try:
    geoip.update(settings, pauses=(), now=datetime(2026, 11, 21, tzinfo=UTC))
except geoip.GeoIpNotUpdated as error:
    sys.exit(str(error))
"""


def test_update_that_is_killed_or_finds_no_room_leaves_the_one_in_use(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mine = settings(tmp_path, mirror)
    mirror.answer(make(built="2026-10-01"))
    used = update(mine).path
    before = used.read_bytes()
    mirror.answers = [(200, make(), {})]
    command = [sys.executable, "-c", KILLED]
    arguments = [str(mine.home), str(mine.geoip_url)]
    killed = subprocess.run([*command, "killed", *arguments], capture_output=True, text=True)
    assert (killed.returncode, used.read_bytes()) == (-signal.SIGKILL, before)
    left = list(used.parent.glob(".*.part"))
    assert len(left) == 2
    full = subprocess.run([*command, "no room", *arguments], capture_output=True, text=True)
    assert full.returncode == 1 and "country.mmdb cannot be written: File too large." in full.stderr
    assert used.read_bytes() == before
    # What a killed update has left is cleared away by a later one, not by one that runs at the same time.
    assert list(used.parent.glob(".*.part")) == left
    os.utime(left[0], (0, 0))
    assert update(mine).status == "installed"
    assert list(used.parent.glob(".*.part")) == left[1:]


def test_two_updates_at_once_do_not_disturb_each_other(
    tmp_path: Path, mirror: Mirror, make: Callable[..., bytes]
) -> None:
    mine = settings(tmp_path, mirror)
    mirror.answer(gzip.compress(make()), pause="0.2")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: update(mine), range(4)))
    assert {one.status for one in done} <= {"installed", "unchanged"}
    assert str(geoip.read(geoip.path_of(mine))) == "DBIP-Country-Lite 2026-11-01"
    assert [path.name for path in done[0].path.parent.iterdir()] == ["country.mmdb"]


@pytest.mark.parametrize("always", [True, False])
def test_stack_that_starts_without_a_file_fetches_it_once(
    always: bool,
    mirror: Mirror,
    make: Callable[..., bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cli.stack_commands import fetch_missing_geoip

    mirror.answer(gzip.compress(make(built=f"{datetime.now(UTC):%Y-%m}-01")))
    here = settings(tmp_path, mirror, lake=str(tmp_path / "lake"))
    fetch_missing_geoip(here, always=always)
    # Without a worker, only where there are web logs.
    assert len(mirror.asked) == always
    (tmp_path / "lake" / "landing" / "weblogs").mkdir(parents=True)
    fetch_missing_geoip(here, always=always)
    fetch_missing_geoip(here, always=always)
    assert len(mirror.asked) == 1
    assert geoip.path_of(here).exists()
    assert "DBIP-Country-Lite" in capsys.readouterr().err


def test_stack_starts_where_the_file_cannot_be_fetched(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.stack_commands import fetch_missing_geoip

    mirror.answer(status=404)
    fetch_missing_geoip(settings(tmp_path, mirror, lake=str(tmp_path / "lake")), always=True)
    assert "No GeoIP file: There is no file at" in capsys.readouterr().err
