"""Files of the landing folder: what is read whatever its form, what is not read and named, and what is a copy."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow
import pytest

from tests import command
from tests.weblog_lake import AGENT, WeblogLake, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.files.archive import COPY_AGAIN, UNPACK_YOURSELF
from warehouse.report.write import write
from warehouse.runs.status import read_status
from warehouse.weblogs.explain import explain
from warehouse.weblogs.result import Progress

BOTH = "its first {} lines are the same as those of {}; nothing shows that it is a copy, so both are loaded"
ERROR_LOG = b"2026/11/20 10:00:00 [error] 31#31: *1 open() failed (2: No such file)\n"


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def zipped(files: dict[str, bytes], **options: object) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.log")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return target.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


def unread(lake: WeblogLake) -> list[tuple[str, ...]]:
    return lake.rows(
        "select path, status, message from audit.file where status in ('unrecognized', 'unread', 'ignored') order by 1"
    )


def test_compressed_files_and_other_encodings_are_read_whatever_their_names(lake: WeblogLake) -> None:
    forms = [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        zstd,
        lambda content: gzip.compress(zstd(content)),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: b"\xff\xfe" + content.decode().encode("utf-16-le"),
        lambda content: content.decode().encode("utf-16-be"),
        lambda content: content.replace(b"\n", b"\r"),
        # What a server leaves that writes on in a file that rotation has emptied.
        lambda content: bytes(100_000) + content,
    ]
    for number, form in enumerate(forms):
        lake.put(f"{number:02}.log", form(lines(10 * number, 10 * number + 9)))
    loaded = lake.load()
    assert lake.sizes() == list(range(10 * len(forms)))
    assert (loaded.rows_quarantined, loaded.unread) == (0, ())
    assert lake.load().unchanged == len(forms)
    lake.assert_consistent()
    with connect(lake.settings.warehouse) as connection:
        for number in range(len(forms)):
            for line_number in (1, 10):
                explanation = explain(connection, lake.settings, f"{number:02}.log:{line_number}")
                expected = line(10 * number + line_number - 1).decode().rstrip("\n")
                assert (explanation.raw_line, explanation.fault) == (expected, None)


def test_files_of_other_encodings_grow(lake: WeblogLake) -> None:
    forms = {
        "mark.log": lambda content: b"\xef\xbb\xbf" + content,
        "wide.log": lambda content: b"\xff\xfe" + content.decode().encode("utf-16-le"),
        "mac.log": lambda content: content.replace(b"\n", b"\r"),
        "gap.log": lambda content: bytes(5000) + content,
    }
    content = {name: form(lines(10 * n, 10 * n + 9)) for n, (name, form) in enumerate(forms.items())}
    for share in (0.2, 0.55, 0.9, 1):
        for name, whole in content.items():
            lake.put(name, whole[: int(len(whole) * share)])
        lake.load()
        lake.assert_consistent()
    assert sorted(lake.sizes()) == list(range(40))
    assert lake.rows("select count(*) from audit.quarantine where resolved_at is null") == [(0,)]


def test_archive_within_an_archive_is_named_and_none_of_its_lines_is_loaded(lake: WeblogLake) -> None:
    inner = tarred({"a.log": lines(1, 40), "b.log": lines(51, 90)})
    nested = {"day.tar": inner, "day.tgz": gzip.compress(inner), "day.zip": zipped({"c.log": lines(1, 40)})}
    lake.put("logs.zip", zipped({**nested, "good.log": lines(101, 103)}))
    assert [(one.path, one.reason) for one in lake.load().unread] == [
        ("logs.zip!day.tar", "is a tar archive"),
        ("logs.zip!day.tgz", "is a tar archive, compressed by gzip"),
        ("logs.zip!day.zip", "is a zip archive"),
    ]
    assert sorted(lake.sizes()) == [101, 102, 103]
    assert lake.rows("select count(*) from audit.quarantine") == [(0,)]
    lake.assert_consistent()


def test_archives_are_as_many_files_as_they_hold(lake: WeblogLake) -> None:
    files = {
        "web1/access.log": lines(1, 3),
        "web2/access.log.gz": gzip.compress(lines(11, 13)),
        "error.log": ERROR_LOG * 3,
        "__MACOSX/._access.log": b"\0\5",
        "empty.log": b"",
    }
    lake.put("logs.zip", zipped(files))
    lake.put("logs.tar", tarred({"a.log": lines(21, 22)}))
    lake.put("renamed.log", bz2.compress(tarred({"b.log": lines(31, 32).removesuffix(b"\n")})))
    loaded = lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 11, 12, 13, 21, 22, 31, 32]
    assert lake.rows(
        "select path, status, line_count from audit.file where status <> 'ignored' order by 1"
    ) == [
        ("logs.tar", "archive", 0),
        ("logs.tar!a.log", "loaded", 2),
        ("logs.tar!link.log", "unread", 0),
        ("logs.zip", "archive", 0),
        ("logs.zip!empty.log", "loaded", 0),
        ("logs.zip!error.log", "unrecognized", 0),
        ("logs.zip!web1/access.log", "loaded", 3),
        ("logs.zip!web2/access.log.gz", "loaded", 3),
        ("renamed.log", "archive", 0),
        ("renamed.log!b.log", "loaded", 2),
        ("renamed.log!link.log", "unread", 0),
    ]
    expected = [
        ("logs.tar!link.log", "is a link or a device"),
        ("logs.zip!__MACOSX/._access.log", "names like _* are ignored"),
        (
            "logs.zip!error.log",
            "looks like an error log of nginx: none of its first lines can be read",
        ),
        ("renamed.log!link.log", "is a link or a device"),
    ]
    assert [(one.path, one.reason) for one in loaded.unread] == expected
    lake.assert_consistent()
    before = lake.content()
    again = lake.load()
    # Archives that have not changed are not unpacked again, and what is not read of them is said all the same.
    assert (again.lines, again.unchanged) == (0, 3)
    assert [(one.path, one.reason) for one in again.unread] == expected
    assert lake.content() == before
    # Written anew with one more file, and one that has grown.
    files |= {"web1/access.log": lines(1, 4), "web3.log": lines(41, 42)}
    lake.put("logs.zip", zipped(files))
    assert lake.load().lines == 3
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 11, 12, 13, 21, 22, 31, 32, 41, 42]
    lake.assert_consistent()
    with connect(lake.settings.warehouse) as connection:
        explanation = explain(connection, lake.settings, "logs.zip!web1/access.log:4")
    assert (explanation.raw_line, explanation.fault) == (line(4).decode().rstrip("\n"), None)
    assert not list(Path(tempfile.gettempdir()).glob("dwh-unpacked-*/0"))


def test_files_of_an_archive_made_in_their_own_folder_are_not_hidden(lake: WeblogLake) -> None:
    lake.put(
        "dot.tar",
        tarred({"./web1/a.log": lines(1, 3), "./.hidden.log": lines(4, 5), "../b.log": lines(6, 7)}),
    )
    lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 6, 7]
    assert unread(lake) == [
        ("dot.tar!.hidden.log", "ignored", "names like .* are ignored"),
        ("dot.tar!link.log", "unread", "is a link or a device"),
    ]
    lake.assert_consistent()


def test_files_of_an_archive_are_read_once_their_format_is_declared(lake: WeblogLake) -> None:
    w3c = (
        b"#Fields: date time c-ip cs-method cs-uri-stem sc-status sc-bytes\n"
        b"2026-11-20 10:00:00 190.1.2.3 GET / 200 107\n"
    )
    lake.put(
        "iis/logs.zip",
        zipped({"u_ex.log": w3c, "u_ex.json": w3c.replace(b"107", b"108"), "error.log": ERROR_LOG}),
    )
    lake.load()
    assert lake.sizes() == []
    lake.put("../../weblogs.toml", b'[[formats]]\nfiles = ["iis/*.zip!u_ex.log", "*.json"]\npreset = "w3c"\n')
    loaded = lake.load()
    assert sorted(lake.sizes()) == [7, 8]
    assert [one.path for one in loaded.unread] == ["iis/logs.zip!error.log"]
    again = lake.load()
    assert (again.lines, again.unchanged) == (0, 1)
    lake.assert_consistent()


def test_load_that_dies_inside_an_archive_is_resumed(lake: WeblogLake) -> None:
    lake.put("logs.zip", zipped({"a.log": lines(1, 9), "b.log": lines(11, 19), "c.log": lines(21, 29)}))

    def dies_at_the_last(progress: Progress) -> None:
        if progress.path.endswith("c.log"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.load(progress=dies_at_the_last, batch_bytes=1)
    assert sorted(lake.sizes()) == [*range(1, 10), *range(11, 20)]
    assert lake.load().lines == 9
    assert sorted(lake.sizes()) == [*range(1, 10), *range(11, 20), *range(21, 30)]
    lake.assert_consistent()


def test_members_that_are_encrypted_or_damaged_are_named_and_others_load(lake: WeblogLake) -> None:
    content = bytearray(
        zipped({"a.log": lines(1, 9), "damaged.log": lines(11, 99), "secret.log": lines(101, 109)})
    )
    place = content.index(b"damaged.log") + 60
    content[place : place + 8] = b"\xff" * 8
    # The flag of encryption, in the directory at the end.
    place = content.rindex(b"PK\x01\x02") + 8
    content[place] |= 1
    lake.put("logs.zip", bytes(content))
    loaded = lake.load()
    assert lake.sizes() == list(range(1, 10))
    assert [(one.path, one.reason.partition(":")[0], one.hint) for one in loaded.unread] == [
        ("logs.zip!damaged.log", "is damaged", COPY_AGAIN),
        ("logs.zip!secret.log", "is encrypted", UNPACK_YOURSELF),
    ]
    whole = tarred({"a.log": lines(1001, 1009), "b.log": lines(1011, 1999)})
    lake.put("logs.tar.gz", gzip.compress(whole)[:-3000])
    assert ("logs.tar.gz!b.log: is not all there: the archive breaks off", COPY_AGAIN) in [
        (str(one), one.hint) for one in lake.load().unread
    ]
    assert set(range(1001, 1010)) < set(lake.sizes()) and not set(range(1011, 2000)) & set(lake.sizes())
    assert lake.rows("select status, message from audit.file where path = 'logs.tar.gz'") == [
        ("truncated", "the archive breaks off: its end is missing")
    ]
    lake.put("logs.tar.gz", gzip.compress(whole))
    lake.load()
    assert set(range(1001, 1010)) | set(range(1011, 2000)) < set(lake.sizes())
    assert len(set(lake.sizes())) == len(lake.sizes())
    lake.assert_consistent()
    # Archives of which nothing can be read, and a link in one.
    lake.put("cut.zip", zipped({"a.log": lines(2001, 2999)})[:-100])
    link = tarfile.TarInfo("link.log")
    link.type, link.linkname = tarfile.SYMTYPE, "a.log"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(link)
    lake.put("link.tar", content.getvalue())
    found = [one for one in lake.load().unread if one.path.startswith(("cut", "link"))]
    assert [(str(one), one.hint) for one in found] == [
        ("cut.zip: is damaged: File is not a zip file", COPY_AGAIN),
        (
            "link.tar!link.log: is a link or a device",
            "Put the file itself into the archive, if it should be loaded.",
        ),
    ]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"unpack_mb": 1}, "unpacks to more than 1 MB (DWH_UNPACK_MB)"),
        ({"unpack_ratio": 10}, "unpacks to more than 10 times its size (DWH_UNPACK_RATIO)"),
    ],
)
def test_archive_that_is_a_bomb_stops_at_a_limit(
    lake: WeblogLake, limit: dict[str, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.files.archive._HARMLESS", 1 << 20)
    bomb = line(1) * 20_000
    settings = lake.settings.model_copy(update=limit)
    limited = WeblogLake(lake.landing, settings)
    lake.put("bomb.zip", zipped({"a.log": line(2), "b.log": bomb}))
    lake.put("bomb.tar.xz", lzma.compress(tarred({"a.log": line(2), "b.log": bomb})))
    lake.put("good.log", line(3))
    loaded = limited.load()
    assert lake.sizes() == [3]
    assert [(one.path, one.status, one.reason) for one in loaded.unread] == [
        ("bomb.tar.xz", "unread", reason),
        ("bomb.zip", "unread", reason),
    ]
    assert limited.load().unread == loaded.unread
    # A file that is compressed, without an archive, is read up to the ratio.
    if "unpack_ratio" in limit:
        lake.put("bomb.log.gz", gzip.compress(bomb * 5))
        limited.load()
        assert lake.rows(
            "select status, message, line_count < 100000 from audit.file where path = 'bomb.log.gz'"
        ) == [("truncated", f"the compressed file {reason}", True)]
        lake.assert_consistent()


def test_file_of_a_single_line_is_not_loaded_if_it_can_be_no_line_of_a_log(lake: WeblogLake) -> None:
    text = line(1)[:-1]
    binary = bytes(range(1, 10)) * 40
    files = {
        "binary": binary,
        "high": bytes(range(128, 256)) * 3,
        "nul": b"some words " * 40 + b"\0" + b"more words " * 40,
        "page": b"<!DOCTYPE html><html><body>503</body></html>",
        "words.gz": gzip.compress(b"no line of a log"),
        "archive.zip": zipped({"words": b"no line of a log", "whole": text}),
        # Somebody may still be writing these.
        "begun": text[:30],
        "whole": line(2)[:-1],
        "whole.gz": gzip.compress(line(3)[:-1]),
    }
    for name, content in files.items():
        lake.put(f"{name}.log" if "." not in name else name, content)
    assert {one.path: one.reason.partition(":")[0] for one in lake.load().unread} == {
        "binary.log": "is a binary file",
        "high.log": "is a binary file",
        "nul.log": "is a binary file",
        "page.log": "looks like an HTML page",
        "words.gz": "looks like text of an unknown format, compressed by gzip",
        "archive.zip!words": "looks like text of an unknown format",
    }
    assert sorted(lake.sizes()) == [1, 2, 3]
    assert lake.rows("select path, status, rows_quarantined from audit.file where rows_quarantined > 0") == [
        ("begun.log", "loaded", 1)
    ]
    lake.assert_consistent()


def test_what_lies_there_and_is_not_read_is_named(lake: WeblogLake, tmp_path: Path) -> None:
    lake.put("access.log", lines(1, 2))
    lake.put("access.json", b"{}\n")
    lake.put(".access.log.swp", b"x")
    lake.put("trash.txt", b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "access.log").write_bytes(lines(11, 12))
    (lake.landing / "web2").symlink_to(elsewhere)
    (lake.landing / "gone.log").symlink_to(elsewhere / "nothing")
    os.mkfifo(lake.landing / "pipe.log")
    ignoring = WeblogLake(lake.landing, lake.settings.model_copy(update={"weblog_ignore": "*.bak, trash*"}))
    loaded = ignoring.load()
    expected = [
        (".access.log.swp", "ignored", "names like .* are ignored"),
        ("access.json", "ignored", "names like *.json are ignored"),
        ("gone.log", "unread", "is a symbolic link that leads nowhere"),
        ("pipe.log", "unread", "is a named pipe"),
        ("trash.txt", "ignored", "names like trash* are ignored"),
        ("web2", "unread", "is a symbolic link to a folder, which is not followed"),
    ]
    assert lake.sizes() == [1, 2]
    assert [(one.path, one.status, one.reason) for one in loaded.unread] == unread(lake) == expected
    assert {one.path: one.hint for one in loaded.unread if one.status == "unread"} == {
        "gone.log": "Put back the file that it leads to, or remove the link.",
        "pipe.log": "Only files are read: move it out of the landing folder.",
        "web2": "Mount or move the folder itself there, or link its files: links to files are followed.",
    }
    before = lake.rows("select * from audit.file order by file_id")
    assert ignoring.load().unread == loaded.unread
    assert lake.rows("select * from audit.file order by file_id") == before
    # What is gone is not named any more; what got another name is read.
    (lake.landing / "pipe.log").unlink()
    (lake.landing / "web2").unlink()
    shutil.copytree(elsewhere, lake.landing / "web2")
    assert [one.path for one in ignoring.load().unread] == [
        path for path, _, _ in expected if path not in ("pipe.log", "web2")
    ]
    assert len(unread(lake)) == 4
    assert sorted(lake.sizes()) == [1, 2, 11, 12]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_the_right_to_read_it_keeps_no_other_from_being_loaded(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 2))
    lake.put("secret.log", lines(11, 12)).chmod(0)
    loaded = lake.load()
    assert [(one.path, one.reason) for one in loaded.unread] == [
        ("secret.log", "cannot be opened: Permission denied")
    ]
    (lake.landing / "secret.log").chmod(0o600)
    assert (lake.load().unread, lake.sizes()) == ((), [1, 2, 11, 12])


def test_file_that_cannot_be_opened_keeps_no_other_from_being_loaded(
    lake: WeblogLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("access.log", lines(1, 2))
    lake.put("secret.log", lines(11, 12))
    real = Path.open

    def refusing(path: Path, *args: object, **options: object) -> object:
        if path.name == "secret.log":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        loaded = lake.load()
    assert [(one.path, one.status, one.reason) for one in loaded.unread] == [
        ("secret.log", "unread", "cannot be opened: Permission denied")
    ]
    assert (lake.load().unread, lake.sizes()) == ((), [1, 2, 11, 12])
    assert not unread(lake)


OTHERS = {
    "error.log": (ERROR_LOG * 30, "looks like an error log of nginx: none of its first lines can be read"),
    "iis.log": (
        b"#Software: Microsoft Internet Information Services 10.0\r\n#Fields: date time c-ip\r\n"
        b"2026-11-20 10:00:00 1.2.3.4\r\n",
        "looks like a log in W3C extended format (as IIS writes it): none of its first lines can be read",
    ),
    "lines.txt": (b'{"status": 200}\n' * 9, "looks like JSON lines: none of its first lines can be read"),
    "table.csv": (b"a,b,c\n1,2,3\n4,5,6\n", "looks like CSV: none of its first lines can be read"),
    "page.html": (
        b"<!doctype html>\n<p>503</p>\n",
        "looks like an HTML page: none of its first lines can be read",
    ),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is a picture"),
    "one.txt": (b"hello\n", "looks like text of an unknown format: none of its first lines can be read"),
    "noise": (bytes(range(256)) * 1000, "is a binary file"),
}


def test_file_of_another_format_is_named_and_does_not_flood_the_quarantine(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 2))
    for name, (content, _) in OTHERS.items():
        lake.put(name, content)
    loaded = lake.load()
    assert {one.path: one.reason for one in loaded.unread} == {
        name: reason for name, (_, reason) in OTHERS.items()
    }
    assert {status for _, status, _ in unread(lake)} == {"unrecognized"}
    assert (loaded.rows_loaded, loaded.rows_quarantined, loaded.lines) == (2, 0, 2)
    assert lake.rows("select count(*) from audit.quarantine") == [(0,)]
    lake.assert_consistent()
    before = lake.rows("select * from audit.file order by file_id")
    # Every later run names them, and writes nothing.
    assert lake.load().unread == loaded.unread
    assert lake.rows("select * from audit.file order by file_id") == before
    # One that grows is still the same news.
    lake.append("error.log", ERROR_LOG)
    lake.load()
    assert lake.rows("select run_id, size_bytes from audit.file where path = 'error.log'") == [
        (1, 31 * len(ERROR_LOG))
    ]


def test_mostly_good_file_is_loaded_and_its_bad_lines_go_to_quarantine(lake: WeblogLake) -> None:
    lake.put("a.log", (line(1) + ERROR_LOG * 4) * 10)
    lake.put("b.log", line(2) + ERROR_LOG * 40)
    loaded = lake.load()
    assert (loaded.rows_loaded, loaded.rows_quarantined) == (10, 40)
    assert [(one.path, one.reason) for one in loaded.unread] == [
        ("b.log", "looks like an error log of nginx: fewer than 10% of its first lines can be read")
    ]
    stricter = WeblogLake(lake.landing, lake.settings.model_copy(update={"weblog_readable_share": 0.01}))
    assert (stricter.load().rows_loaded, stricter.load().unread) == (1, ())
    lake.assert_consistent()


def test_file_that_becomes_readable_is_read_from_its_beginning(lake: WeblogLake) -> None:
    lake.put("access.log", ERROR_LOG)
    assert [one.path for one in lake.load().unread] == ["access.log"]
    lake.append("access.log", lines(1, 5))
    loaded = lake.load()
    assert (loaded.unread, loaded.rows_loaded, loaded.rows_quarantined) == ((), 5, 1)
    assert lake.files() == [("access.log", "loaded", 6, 5, 1)]
    # Once a line of it is loaded, it goes on, whatever comes.
    lake.append("access.log", ERROR_LOG * 100)
    assert lake.load().rows_quarantined == 100
    # Other content at its path is judged for itself.
    lake.put("access.log", ERROR_LOG * 3)
    assert [one.path for one in lake.load().unread] == ["access.log"]
    assert lake.files() == [("access.log", "replaced", 106, 5, 101), ("access.log", "unrecognized", 0, 0, 0)]
    lake.assert_consistent()


def test_file_whose_lines_were_all_quarantined_by_an_earlier_version_is_judged_anew(lake: WeblogLake) -> None:
    everything = WeblogLake(lake.landing, lake.settings)
    wide = lines(1, 9).decode().encode("utf-16-le")
    lake.put("error.log", ERROR_LOG * 30)
    lake.put("wide.log", wide)
    lake.load()
    # As it was before files were judged: each line in quarantine, the file loaded.
    for path, count in (("error.log", 30), ("wide.log", 9)):
        lake.execute(
            f"""
            delete from dwh.fact_weblog where file_id = (select file_id from audit.file where path = '{path}');
            update audit.file set status = 'loaded', line_count = {count}, rows_loaded = 0, rows_quarantined = {count},
                byte_offset = 999, size_bytes = {(lake.landing / path).stat().st_size},
                modified_ns = {(lake.landing / path).stat().st_mtime_ns}
            where path = '{path}';
            delete from audit.file_part where file_id = (select file_id from audit.file where path = '{path}');
            insert into audit.file_part (file_id, first_line, line_count, byte_offset, byte_count, rows_loaded,
                rows_quarantined, run_id)
            select file_id, 1, {count}, 0, 999, 0, {count}, run_id from audit.file where path = '{path}';
            insert into audit.quarantine (source, entity, row_key, rules, reason, file_id, line_number, run_id)
            select 'weblogs', 'weblog', array[file_id::text, n::text], array['malformed_line'], 'x', file_id, n, run_id
            from audit.file, generate_series(1, {count}) as n where path = '{path}';
            """
        )
    loaded = everything.load()
    assert [one.path for one in loaded.unread] == ["error.log"]
    assert lake.sizes() == list(range(1, 10))
    assert lake.rows("select count(*) from audit.quarantine where resolved_at is null") == [(0,)]
    assert lake.rows(
        "select path, status, line_count, rows_loaded, rows_quarantined from audit.file order by 1"
    ) == [
        ("error.log", "unrecognized", 0, 0, 0),
        ("wide.log", "loaded", 9, 9, 0),
    ]
    assert lake.load().lines == 0


def test_files_of_two_servers_that_begin_alike_are_both_loaded(lake: WeblogLake) -> None:
    for names in (("web1.log", "web2.log"), ("web1/access.log", "web2/access.log")):
        before = len(lake.sizes())
        for name in names:
            lake.put(name, lines(1, 3))
        assert lake.load().lines == 6
        for number, name in enumerate(names):
            lake.append(name, line(10 + number))
        assert lake.load().lines == 2
        assert len(lake.sizes()) - before == 8
    assert {status for _, status, *_ in lake.files()} == {"loaded"}
    # A third server's, when the others' are gone.
    shutil.rmtree(lake.landing / "web1")
    lake.put("web3/access.log", lines(1, 3) + line(10) + line(12))
    assert lake.load().lines == 5
    lake.assert_consistent()


def test_equal_files_without_a_sign_that_they_are_copies_are_both_loaded_and_named(lake: WeblogLake) -> None:
    lake.put("a.log", lines(1, 5))
    os.utime(lake.put("b/a.log", lines(1, 5)), (1, 1))
    lake.load()
    assert sorted(lake.sizes()) == sorted([*range(1, 6), *range(1, 6)])
    assert lake.rows("select path, status, message from audit.file order by 1") == [
        ("a.log", "loaded", None),
        (
            "b/a.log",
            "loaded",
            "its first 5 lines are the same as those of a.log; nothing shows that it is a copy, so both are loaded",
        ),
    ]


@pytest.mark.parametrize("times", [1, 2])
def test_file_that_may_be_a_copy_is_named_also_by_the_load_that_goes_on_with_it(
    lake: WeblogLake, times: int
) -> None:
    lake.put("a.log", lines(1, 20_000))
    os.utime(lake.put("b/a.log", lines(1, 20_000)), (1, 1))
    lake.put("c.log", lines(30_001, 30_060))
    seen = 0

    def dies(progress: Progress) -> None:
        nonlocal seen
        seen += progress.path == "b/a.log"
        # With the first batch of the file before its commit, or after it.
        if seen == times:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.load(progress=dies, batch_bytes=100_000)
    assert lake.rows("select status, line_count > 0 from audit.file where path = 'b/a.log'") == [
        ("partial", times > 1)
    ]
    lake.load()
    assert lake.rows("select path, status, message from audit.file where message is not null") == [
        ("b/a.log", "loaded", BOTH.format("20,000", "a.log"))
    ]
    lake.assert_consistent()


def test_copies_that_rotation_leaves_are_not_loaded_again_but_what_they_have_beyond_is(
    lake: WeblogLake,
) -> None:
    lake.put("access.log", lines(1, 5))
    lake.put("access.log.1", lines(1, 5))
    lake.put("access.log-20261120.gz", gzip.compress(lines(1, 7)))
    lake.put("other.log.1", lines(11, 15))
    lake.put("other.log.1.zst", zstd(lines(11, 12)))
    loaded = lake.load()
    assert sorted(lake.sizes()) == [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15]
    assert (loaded.lines, loaded.rows_loaded) == (12, 12)
    assert lake.rows(
        "select path, line_count, lines_duplicated from audit.file where status = 'copy' order by 1"
    ) == [
        ("access.log-20261120.gz", 7, 5),
        ("access.log.1", 5, 5),
        ("other.log.1.zst", 2, 2),
    ]
    assert lake.load().lines == 0
    lake.assert_consistent()


def test_file_that_the_file_system_knows_is_known_under_any_name(lake: WeblogLake) -> None:
    lake.put("a.log", lines(101, 130))
    lake.put("b.log", lines(1, 3))
    lake.put("linked.log", lines(11, 13))
    (lake.landing / "also.log").hardlink_to(lake.landing / "linked.log")
    lake.put("copied.log", lines(21, 23))
    shutil.copy2(lake.landing / "copied.log", lake.landing / "kept.log")
    assert lake.load().lines == 39
    (lake.landing / "done").mkdir()
    (lake.landing / "a.log").rename(lake.landing / "done" / "yesterday.txt")
    lake.append("done/yesterday.txt", line(131))
    (lake.landing / "b.log").rename(lake.landing / "done" / "short.txt")
    assert lake.load().lines == 1
    assert sorted(lake.sizes()) == [1, 2, 3, 11, 12, 13, 21, 22, 23, *range(101, 132)]
    lake.assert_consistent()


def visits(first: int, last: int) -> bytes:
    """Lines of a server that people visit: no two are alike."""
    words = [f"{chr(97 + number // 26 % 26)}{chr(97 + number % 26)}" for number in range(26 * 26)]
    return b"".join(
        line(number, request=f"GET /{words[number % 676]} HTTP/1.1") for number in range(first, last + 1)
    )


def test_file_that_is_moved_by_hand_is_known_by_its_content(lake: WeblogLake, tmp_path: Path) -> None:
    lake.put("shop/access.log", visits(1, 900))
    lake.put("idle/access.log", lines(1, 900))
    lake.put("small/access.log", visits(1, 9))
    lake.load()
    lake.append("shop/access.log", visits(901, 950))
    assert lake.load().lines == 50
    before = sorted(lake.sizes())
    # By way of another file system: another inode, another time; and it goes on.
    for name, content in (("shop", visits(1, 951)), ("idle", lines(1, 900)), ("small", visits(1, 9))):
        (lake.landing / name).rename(tmp_path / name)
        os.utime(lake.put(f"archive/{name} of november", content), (1, 1))
    loaded = lake.load()
    assert {file.path: (file.lines, file.message) for file in loaded.files} == {
        "archive/shop of november": (
            1, "it was shop/access.log, by its content: what is loaded of that is not loaded again",
        ),
        # Two servers may well write these.
        "archive/idle of november": (900, BOTH.format(900, "idle/access.log")),
        "archive/small of november": (9, BOTH.format(9, "small/access.log")),
    }  # fmt: skip
    assert sorted(lake.sizes()) == sorted([*before, 951, *range(1, 901), *range(1, 10)])
    assert lake.load().lines == 0
    lake.assert_consistent()


def test_copy_that_is_made_by_hand_is_known_by_its_content(lake: WeblogLake, tmp_path: Path) -> None:
    lake.put("access.log", visits(1, 900))
    lake.load()
    os.utime(lake.put("backup/all", visits(1, 900) + visits(2000, 2001)), (1, 1))
    os.utime(lake.put("backup/some.gz", gzip.compress(visits(1, 700))), (2, 2))
    # The same beginning and end, but not what lies between.
    other = visits(1, 900).replace(
        line(400, request="GET /pk HTTP/1.1"), line(399, request="GET /pk HTTP/1.1")
    )
    assert other != visits(1, 900) and len(other) == len(visits(1, 900))
    os.utime(lake.put("other", other), (3, 3))
    assert {file.path: (file.status, file.rows_loaded) for file in lake.load().files} == {
        "backup/all": ("copy", 2), "backup/some.gz": ("copy", 0), "other": ("loaded", 900),
    }  # fmt: skip
    # And of one that is gone; the file system does not give its number to another.
    for name in ("access.log", "backup", "other"):
        (lake.landing / name).rename(tmp_path / name)
    third = other.replace(line(401, request="GET /pl HTTP/1.1"), line(402, request="GET /pl HTTP/1.1"))
    os.utime(lake.put("third", third), (4, 4))
    assert lake.load().rows_loaded == 900
    lake.assert_consistent()


def test_file_of_which_a_part_has_no_checksum_is_loaded_rather_than_taken_for_another(
    lake: WeblogLake,
    tmp_path: Path,
) -> None:
    lake.put("access.log", visits(1, 900))
    lake.load()
    with connect(lake.settings.warehouse) as connection:
        connection.execute("update audit.file_part set content_crc32 = null")
    (lake.landing / "access.log").rename(tmp_path / "access.log")
    os.utime(lake.put("moved", visits(1, 900)), (1, 1))
    assert lake.load().rows_loaded == 900


def test_rotated_names_alone_do_not_make_a_copy_of_other_content(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 3) + line(8))
    lake.put("access.log.1", lines(1, 3) + line(9))
    assert lake.load().lines == 8
    # Its first and last bytes are those of the other, but not what lies between.
    inner = [AGENT + "x" * 9000, AGENT + "y" * 9000]
    for name, agent in zip(("big.log", "big.log.1"), inner, strict=True):
        lake.put(name, lines(1, 40) + line(41, agent=agent) + lines(42, 90))
    assert lake.load().lines == 180
    lake.assert_consistent()


def test_files_that_are_not_read_are_in_mail_status_and_report(lake: WeblogLake) -> None:
    lake.put("access.log", lines(1, 2))
    lake.put("error.log", ERROR_LOG * 30)
    lake.put("access.json", b"{}")
    (lake.landing / "gone.log").symlink_to(lake.landing / "nothing")
    lake.load()
    lake.load()
    hint = "Move it out of the landing folder, or add its name to DWH_WEBLOG_IGNORE."
    # One mail, by the run that met them first; names that are ignored send none.
    assert lake.rows("select kind, subject, resolved_at is not null, run_id from audit.outbox") == [
        (
            "files not read",
            "[dwh] ingest-weblogs met files that it cannot read: 2 files are not read.",
            True,
            1,
        )
    ]
    ((body,),) = lake.rows("select body_text from audit.outbox")
    reason = "looks like an error log of nginx: none of its first lines can be read"
    assert f"- error.log {reason}. {hint}" in body
    assert "- gone.log is a symbolic link that leads nowhere. Put back the file" in body
    # A name that would forge a line.
    lake.put("second\n- nothing.log is\x1b[2J fine", ERROR_LOG)
    lake.load()
    forged = "second\\n- nothing.log is\\x1b[2J fine"
    ((run_id, subject, text, html),) = lake.rows(
        "select run_id, subject, body_text, body_html from audit.outbox offset 1"
    )
    assert (run_id, subject) == (3, "[dwh] ingest-weblogs met files that it cannot read: 1 file is not read.")
    assert f"- {forged} {reason}. {hint}" in text and f"{forged} {reason}" in html
    with connect(lake.settings.warehouse) as connection:
        status = read_status(connection, {})
    assert [(row["path"], row["status"], row["reason"], row["run_id"]) for row in status.unread_files] == [
        ("error.log", "unrecognized", reason, 1),
        ("gone.log", "unread", "is a symbolic link that leads nowhere", 1),
        ("second\n- nothing.log is\x1b[2J fine", "unrecognized", reason, 3),
        ("access.json", "ignored", "names like *.json are ignored", 1),
    ]
    page = write(lake.settings.warehouse, lake.settings.home / "report.html").read_text()
    assert f"error.log {reason}: it is not read." in page and "access.json" in page
    assert page.count(forged) == 3 and "\x1b" not in page and "\n- nothing" not in page


def test_command_names_files_that_are_not_read_and_ends_with_3(lake: WeblogLake, tmp_path: Path) -> None:
    settings = lake.settings
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DWH_HOME": str(settings.home),
        "DWH_LAKE": settings.lake,
        "DWH_WAREHOUSE_URL": settings.warehouse,
    }

    def dwh(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return command.run(*arguments, environment=environment)

    lake.put("access.log", lines(1, 2))
    lake.put("access.json", b"{}")
    good = dwh("run", "weblogs")
    assert good.returncode == 0, good.stderr
    assert "Ignored by name: access.json" in good.stdout
    lake.put("error.log", ERROR_LOG * 30)
    lake.put("forged\nname.log", ERROR_LOG * 30)
    bad = dwh("run", "weblogs", "--json")
    assert bad.returncode == 3, bad.stderr
    assert [(one["path"], one["status"]) for one in json.loads(bad.stdout)["unread_files"]] == [
        ("access.json", "ignored"),
        ("error.log", "unrecognized"),
        ("forged\nname.log", "unrecognized"),
    ]
    again = dwh("run", "weblogs")
    # The log says how many, the result says which: each once.
    assert "cannot read 2 files" in again.stderr and "error.log" not in again.stderr
    assert [again.stdout.count(name) for name in ("error.log", r"forged\nname.log", "access.json")] == [
        1,
        1,
        1,
    ]
    shown = dwh("status").stdout
    assert "Files that are not read" in shown and r"forged\nname.log" in shown
    assert [run[0] for run in lake.rows("select status from audit.run")] == ["succeeded"] * 3
    assert lake.sizes() == [1, 2]


def test_files_that_are_renamed_or_gone_since_they_were_listed_keep_no_other_from_being_loaded(
    lake: WeblogLake,
) -> None:
    for number, name in enumerate(("a.log", "b.log", "c.log", "d.log")):
        lake.put(name, lines(10 * number + 1, 10 * number + 3))

    def rotate(progress: Progress) -> None:
        if progress.path == "a.log":
            (lake.landing / "b.log").rename(lake.landing / "b.log.1")
            (lake.landing / "c.log").unlink()

    assert lake.load(progress=rotate).unread == ()
    # Under its new name it is found by the same load.
    assert lake.sizes() == [1, 2, 3, 31, 32, 33, 11, 12, 13]
    assert [path for path, *_ in lake.files()] == ["a.log", "d.log", "b.log.1"]
    assert lake.load().unread == ()
    lake.assert_consistent()
