"""`dwh weblogs inspect`: which format a file is in, ten of its lines, and its declaration."""

import bz2
import gzip
import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.unit.test_weblog_formats import CLF, DOUBLED, READ, TRAEFIK, W3C
from warehouse.errors import WrongParameters
from warehouse.settings import Settings
from warehouse.weblogs.formats.declaration import parse_formats, read_formats
from warehouse.weblogs.inspect import inspect, write_declaration

ALB = (
    "https 2026-11-20T01:02:03.123456Z app/shop/50dc6c495c0c9188 2.0.0.9:2817 10.0.0.1:80 0.086 0.048 0.037 200 200 0 "
    '57 "GET https://www.example.com:443/ HTTP/1.1" "curl/7.46.0" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 arn "-" "-" "-" '
    '1 2026-11-20T01:02:03.000000Z "forward" "-" "-" "10.0.0.1:80" "200" "-" "-"'
)
# Name of the file, its line, and what is declared for it.
FOUND = {
    "a.log": (CLF, None),
    "cdn/vhost.log": (f"shop.example:443 {CLF}", 'files = "cdn/**"\npreset = "vhost_combined"\n'),
    "vhost-2026-11-20.log": (
        f"shop.example {CLF}", 'files = "vhost-*.log"\npreset = "vhost_combined_without_port"\n'
    ),
    "d/forwarded.log": (
        f"6.6.6.6, {CLF}", 'files = "d/**"\npreset = "forwarded_combined"\ntrusted_proxies = 1\n'
    ),
    "timed.log": (f"{CLF} 0.003", 'files = "timed.log"\npreset = "nginx_timed"\n'),
    "micro.log": (f"{CLF} 3000", 'files = "micro.log"\npreset = "apache_timed"\n'),
    "caddy.log": (READ["Caddy"][1], 'files = "caddy.log"\npreset = "caddy"\n'),
    "traefik/access.json": (TRAEFIK, 'files = "traefik/*.json"\npreset = "traefik"\n'),
    "nginx.log": (READ["nginx's variables as JSON"][1], 'files = "nginx.log"\npreset = "nginx_json"\n'),
    "ingress.log": (
        READ["nginx ingress, two upstreams"][1], 'files = "ingress.log"\npreset = "nginx_ingress"\n'
    ),
    "x.csv": (
        f'7;"{DOUBLED}";x',
        'files = "x.csv"\npreset = "combined"\nwrapped = "csv"\ncolumn = 2\ndelimiter = ";"\n',
    ),
    "quoted.log": (f'"{CLF}"', 'files = "quoted.log"\npreset = "combined"\nwrapped = "quotes"\n'),
    "docker.log": (READ["as Docker writes it"][1], 'files = "docker.log"\npreset = "combined"\nwrapped = "docker"\n'),
    "cri.log": (READ["as Kubernetes writes it"][1], 'files = "cri.log"\npreset = "combined"\nwrapped = "cri"\n'),
    "syslog": (READ["after a prefix of syslog"][1], 'files = "syslog"\npreset = "combined"\nwrapped = "syslog"\n'),
    "own.log": (
        '{"@timestamp":"2026-11-20T01:02:03Z","client":{"ip":"2.0.0.9"},"http":{"method":"GET","status_code":200},'
        '"url":"/x","durationMs":12}',
        'files = "own.log"\n[formats.json]\ntime = "@timestamp"\naddress = "client.ip"\nmethod = "http.method"\n'
        'target = "url"\nstatus = "http.status_code"\nmilliseconds = "durationMs"\n',
    ),
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "lake" / "landing" / "weblogs").mkdir(parents=True)
    return Settings(_env_file=None, lake=str(tmp_path / "lake"))  # type: ignore[call-arg]


def put(settings: Settings, name: str, content: bytes) -> str:
    path = Path(settings.lake, "landing", "weblogs", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


@pytest.mark.parametrize("name", FOUND)
def test_format_is_found_shown_and_declared(settings: Settings, name: str) -> None:
    line, declaration = FOUND[name]
    put(settings, name, f"{line}\n".encode() * 12)
    found = inspect(settings, name)
    assert (found.lines, found.lines_parsed, len(found.rows), found.faults) == (12, 12, 10, ())
    assert (found.rows[0]["visitor"], found.rows[9]["line"]) == ("2.0.0.9", 10)
    assert found.declaration == (declaration and f"[[formats]]\n{declaration}")
    if declaration is None:
        with pytest.raises(WrongParameters, match="nothing to declare"):
            write_declaration(settings, found)
        return
    parse_formats(found.declaration.encode(), "w.toml")
    location = write_declaration(settings, found)
    assert str(location) == f"{settings.lake}/weblogs.toml"
    assert str(read_formats(settings).of(name)) == str(found.format)
    again = inspect(settings, name)
    assert (again.is_declared, again.declaration) == (True, None)


def test_w3c_is_found_by_its_header(settings: Settings) -> None:
    found = inspect(settings, put(settings, "iis/ex.log", W3C.encode()))
    assert (found.lines, found.lines_parsed) == (10, 3)
    assert found.declaration == '[[formats]]\nfiles = "iis/**"\npreset = "w3c"\n'
    assert [fault["reason"] for fault in found.faults] == ["5 fields, where #Fields names 6"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_file_is_read(settings: Settings, compress: object) -> None:
    content = compress(f"shop.example:80 {CLF}\n".encode())  # type: ignore[operator]
    found = inspect(settings, put(settings, "a.log.x", content))
    assert (found.lines_parsed, found.format and found.format.preset) == (1, "vhost_combined")


def test_first_file_of_an_archive_is_read(settings: Settings, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.log", f"shop.example:80 {CLF}\n")
    found = inspect(settings, put(settings, "old/a.zip", (tmp_path / "a.zip").read_bytes()))
    assert (found.lines_parsed, found.path.startswith("old/a.zip"), found.path.endswith("in/a.log")) == (
        1,
        True,
        True,
    )


def test_who_the_visitor_is_is_left_to_say_where_lines_do_not(settings: Settings) -> None:
    found = inspect(settings, put(settings, "a.log", f"2.1.0.9 {CLF}\n".encode()))
    assert found.alternatives == (
        "Combined Log Format with a list of forwarded addresses before the address",
    )


def test_broken_lines_are_counted_and_shown(settings: Settings) -> None:
    content = f"{CLF}\n{CLF[:50]}\n\x1b[31m\n{CLF}\n{CLF}\n{CLF}\nno end".encode()
    found = inspect(settings, put(settings, "a.log", content))
    assert (found.lines, found.lines_parsed) == (7, 4)
    assert [(fault["line"], fault["text"]) for fault in found.faults] == [
        (2, CLF[:50]), (3, "\\x1b[31m"), (7, "no end"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [f"{ALB}\n" * 3, "", "just some text\n" * 9, "2026/11/20 01:02:03 [error] 7#7: *1 x\n" * 9]
)
def test_other_files_are_named_and_not_declared(settings: Settings, content: str) -> None:
    found = inspect(settings, put(settings, "a.log", content.encode()))
    assert (found.format, found.declaration, found.rows) == (None, None, ())
    assert found.hint
    with pytest.raises(WrongParameters, match="nothing to declare"):
        write_declaration(settings, found)


def test_entry_that_says_otherwise_is_not_overruled(settings: Settings) -> None:
    Path(settings.lake, "weblogs.toml").write_text('[[formats]]\nfiles = "cdn/**"\npreset = "caddy"\n')
    found = inspect(settings, put(settings, "cdn/a.log", f"shop.example:80 {CLF}\n".encode()))
    before = Path(settings.lake, "weblogs.toml").read_text()
    with pytest.raises(WrongParameters, match="declares another format"):
        write_declaration(settings, found)
    assert Path(settings.lake, "weblogs.toml").read_text() == before


def test_command_shows_lines_and_declaration_and_writes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DWH_LAKE", settings.lake)
    monkeypatch.chdir(tmp_path)
    agent = CLF.replace("Mozilla", "\x1b[31mMozilla")
    put(settings, "cdn/a.log", f"shop.example:80 {agent}\n".encode() * 3)
    path = put(settings, "alb.log", f"{ALB}\n".encode())
    shown = CliRunner().invoke(app, ["weblogs", "inspect", "cdn/a.log"])
    assert (shown.exit_code, "\x1b[31m" in shown.stdout) == (0, False)
    for text in (
        "3 of its first 3 lines can be read so",
        "shop.example",
        'preset = "vhost_combined"',
        "--write",
    ):
        assert text in shown.stdout
    assert not Path(settings.lake, "weblogs.toml").exists()
    written = CliRunner().invoke(app, ["weblogs", "inspect", "cdn/a.log", "--write", "--json"])
    said = json.loads(written.stdout)
    assert (said["lines_parsed"], said["written_to"]) == (3, f"{settings.lake}/weblogs.toml")
    assert read_formats(settings).of("cdn/a.log").preset == "vhost_combined"
    cloud = CliRunner().invoke(app, ["weblogs", "inspect", path])
    assert (cloud.exit_code, "a log of an AWS Application Load Balancer" in cloud.stdout) == (1, True)
