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
from warehouse.errors import DeclarationError, WrongParameters
from warehouse.settings import Settings
from warehouse.weblogs.formats.declaration import parse_formats, read_formats
from warehouse.weblogs.inspect.declare import write_declaration
from warehouse.weblogs.inspect.inspect import inspect

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
        f"shop.example {CLF}", 'files = "vhost-*.log*"\npreset = "vhost_combined_without_port"\n'
    ),
    "d/forwarded.log": (
        f"6.6.6.6, {CLF}", 'files = "d/**"\npreset = "forwarded_combined"\ntrusted_proxies = 1\n'
    ),
    "timed.log": (f"{CLF} 0.003", 'files = "timed.log*"\npreset = "nginx_timed"\n'),
    "micro.log": (f"{CLF} 3000", 'files = "micro.log*"\npreset = "apache_timed"\n'),
    "caddy.log": (READ["Caddy"][1], 'files = "caddy.log*"\npreset = "caddy"\n'),
    "traefik/access.json": (TRAEFIK, 'files = ["traefik/*.json", "traefik/*.json.*"]\npreset = "traefik"\n'),
    "nginx.log": (READ["nginx's variables as JSON"][1], 'files = "nginx.log*"\npreset = "nginx_json"\n'),
    "ingress.log": (
        READ["nginx ingress, two upstreams"][1], 'files = "ingress.log*"\npreset = "nginx_ingress"\n'
    ),
    "x.csv": (
        f'7;"{DOUBLED}";x',
        'files = "x.csv*"\npreset = "combined"\nwrapped = "csv"\ncolumn = 2\ndelimiter = ";"\n',
    ),
    "quoted.log": (f'"{CLF}"', 'files = "quoted.log*"\npreset = "combined"\nwrapped = "quotes"\n'),
    "docker.log": (READ["as Docker writes it"][1], 'files = "docker.log*"\npreset = "combined"\nwrapped = "docker"\n'),
    "cri.log": (READ["as Kubernetes writes it"][1], 'files = "cri.log*"\npreset = "combined"\nwrapped = "cri"\n'),
    "syslog": (READ["after a prefix of syslog"][1], 'files = "syslog*"\npreset = "combined"\nwrapped = "syslog"\n'),
    "own.log": (
        '{"@timestamp":"2026-11-20T01:02:03Z","client":{"ip":"2.0.0.9"},"http":{"method":"GET","status_code":200},'
        '"url":"/x","durationMs":12}',
        'files = "own.log*"\n[formats.json]\ntime = "@timestamp"\naddress = "client.ip"\nmethod = "http.method"\n'
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
    "content",
    [
        f"{ALB}\n" * 3, "", "just some text\n" * 9, "2026/11/20 01:02:03 [error] 7#7: *1 x\n" * 9,
        '{"ts": "2024-03-10T10:00:00Z", "ip": "2.0.0.9"}\n' * 9, "a;b;c\n" * 9,
    ],
)  # fmt: skip
def test_other_files_are_named_and_not_declared(settings: Settings, content: str) -> None:
    found = inspect(settings, put(settings, "a.log", content.encode()))
    assert (found.format, found.declaration, found.rows) == (None, None, ())
    assert found.hint and "weblogs inspect" not in found.hint
    with pytest.raises(WrongParameters, match="nothing to declare"):
        write_declaration(settings, found)


def test_path_of_the_lake_in_a_pattern_is_refused(settings: Settings) -> None:
    pattern = f"{settings.lake}/landing/weblogs/cdn/**"
    Path(settings.lake, "weblogs.toml").write_text(f'[[formats]]\nfiles = "{pattern}"\npreset = "caddy"\n')
    with pytest.raises(DeclarationError, match=r"format 1: files = .* matches no file") as raised:
        read_formats(settings)
    assert raised.value.hint


def test_entry_that_says_otherwise_is_not_overruled(settings: Settings) -> None:
    Path(settings.lake, "weblogs.toml").write_text('[[formats]]\nfiles = "cdn/**"\npreset = "caddy"\n')
    found = inspect(settings, put(settings, "cdn/a.log", f"shop.example:80 {CLF}\n".encode()))
    before = Path(settings.lake, "weblogs.toml").read_text()
    with pytest.raises(WrongParameters, match="declares another format"):
        write_declaration(settings, found)
    assert Path(settings.lake, "weblogs.toml").read_text() == before


VHOST = f"shop.example:443 {CLF}"
# Files beside the one that is inspected; those of them that are read as before; the patterns that are declared.
BESIDE = {
    "of the same format": ({"cdn/a.log": VHOST, "cdn/sub/b.log": VHOST}, {}, '"cdn/**"'),
    "of no format": ({"cdn/README": "how to read\nthis"}, {}, '"cdn/**"'),
    "empty": ({"cdn/a.log": ""}, {}, '"cdn/**"'),
    "combined, in a folder below": ({"cdn/x/a.log": CLF}, {"cdn/x/a.log"}, '"cdn/*"'),
    "combined, of another name": ({"cdn/access.log": CLF}, {"cdn/access.log"}, '"cdn/vhost-site*"'),
    "combined, of nearly its name": (
        {"cdn/vhost-site.log": CLF, "cdn/vhost-site-3.log": VHOST},
        {"cdn/vhost-site.log"},
        '"cdn/vhost-site-*.log*"',
    ),
    "combined, of its name with another number": (
        {"cdn/vhost-site-3.log": CLF}, {"cdn/vhost-site-3.log"}, '"cdn/vhost-site-2.log*"'
    ),
    "combined, of its name before rotation": (
        {"cdn/vhost-site-2.log.1": CLF}, {"cdn/vhost-site-2.log.1"}, '"cdn/vhost-site-2.log"'
    ),
    "of a third format": (
        {"cdn/caddy.log": READ["Caddy"][1]}, {"cdn/caddy.log"}, '"cdn/vhost-site*"'
    ),
    "that is compressed": ({"cdn/a.log.gz": CLF}, {"cdn/a.log.gz"}, '"cdn/vhost-site*"'),
    "in an archive": ({"cdn/a.zip": CLF}, {"cdn/a.zip!in/a.log"}, '"cdn/*"'),
    "elsewhere": ({"web/a.log": CLF}, {"web/a.log"}, '"cdn/**"'),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_declaration_that_is_written_leaves_files_of_other_formats_as_they_are(
    settings: Settings, name: str, tmp_path: Path
) -> None:
    beside, kept, patterns = BESIDE[name]
    for path, line in beside.items():
        content = f"{line}\n".encode() * 3 if line else b""
        if path.endswith(".gz"):
            content = gzip.compress(content)
        if path.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                archive.writestr("in/a.log", content)
            content = (tmp_path / "a.zip").read_bytes()
        put(settings, path, content)
    found = inspect(settings, put(settings, "cdn/vhost-site-2.log", f"{VHOST}\n".encode() * 3))
    assert found.declaration == f'[[formats]]\nfiles = {patterns}\npreset = "vhost_combined"\n'
    write_declaration(settings, found)
    formats = read_formats(settings)
    assert str(formats.of("cdn/vhost-site-2.log")) == "vhost_combined"
    assert {path for path in kept if formats.declares(path)} == set()
    narrowed = [note for note in found.notes if "named like this one alone" in note]
    assert len(narrowed) == (patterns != '"cdn/**"')


def test_file_whose_name_occurs_elsewhere_is_declared_by_its_folder(settings: Settings) -> None:
    put(settings, "web/vhost.log", f"{CLF}\n".encode())
    put(settings, "vhost.log.1", f"{CLF}\n".encode())
    found = inspect(settings, put(settings, "vhost.log", f"{VHOST}\n".encode()))
    write_declaration(settings, found)
    assert [read_formats(settings).declares(path) for path in ("vhost.log", "web/vhost.log", "vhost.log.1")] == [
        True, False, False,
    ]  # fmt: skip


def test_declaration_that_would_have_other_files_misread_is_refused(settings: Settings) -> None:
    # A name that is a pattern of others.
    name = put(settings, "cdn/web?.log", f"{VHOST}\n".encode())
    put(settings, "cdn/web1.log", f"{CLF}\n".encode())
    put(settings, "cdn/web2.log", f"2.1.0.9 {CLF}\n".encode())
    found = inspect(settings, name)
    assert found.misread == ("cdn/web1.log", "cdn/web2.log")
    with pytest.raises(WrongParameters, match=r"another format, too: cdn/web1\.log, cdn/web2\.log"):
        write_declaration(settings, found)
    assert not Path(settings.lake, "weblogs.toml").exists()


def test_ignored_file_that_would_be_read_by_the_declaration_keeps_it_narrow(settings: Settings) -> None:
    put(settings, "api/config.json", b'{"debug": true}\n')
    found = inspect(settings, put(settings, "api/access-1.json", f"{TRAEFIK}\n".encode()))
    write_declaration(settings, found)
    formats = read_formats(settings)
    assert (formats.names("api/access-1.json"), formats.names("api/access-2.json")) == (True, True)
    assert not formats.declares("api/config.json")


def test_files_that_an_earlier_entry_declares_do_not_narrow_a_declaration(settings: Settings) -> None:
    Path(settings.lake, "weblogs.toml").write_text('[[formats]]\nfiles = "cdn/own*"\npreset = "combined"\n')
    put(settings, "cdn/own.log", f"{CLF}\n".encode())
    found = inspect(settings, put(settings, "cdn/vhost.log", f"{VHOST}\n".encode()))
    assert found.declaration == '[[formats]]\nfiles = "cdn/**"\npreset = "vhost_combined"\n'


def test_of_many_files_one_of_each_name_is_looked_at(settings: Settings) -> None:
    for number in range(250):
        put(settings, f"cdn/vhost-{number}.log", f"{VHOST}\n".encode())
    put(settings, "cdn/zz.log", f"{CLF}\n".encode())
    found = inspect(settings, "cdn/vhost-0.log")
    assert found.declaration == '[[formats]]\nfiles = "cdn/vhost*"\npreset = "vhost_combined"\n'
    assert "49 more files that the pattern matches were not looked at." in found.notes


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
