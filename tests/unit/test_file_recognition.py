"""A file is judged by its first bytes, whatever its name: compression, encoding, and what it looks like."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest

from warehouse.files.content import ContentReader
from warehouse.files.recognize import recognize

CONTENT = b"".join(b"line %d of many\n" % number for number in range(50_000))


def lz4(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "lz4": lz4,
}


def content_of(path: Path) -> tuple[bytes, str | None]:
    with ContentReader(path) as reader:
        return reader.read(10 * len(CONTENT)), reader.fault


@pytest.mark.parametrize("name", COMPRESS)
def test_compression_is_undone_whatever_the_name(tmp_path: Path, name: str) -> None:
    compress, path = COMPRESS[name], tmp_path / "access.log"
    path.write_bytes(compress(CONTENT))
    assert content_of(path) == (CONTENT, None)
    assert recognize(path).compression == (name,)
    # Several streams, one after another, are one file, as `cat a.gz b.gz` makes it.
    path.write_bytes(compress(CONTENT[:1000]) + compress(CONTENT[1000:]))
    assert content_of(path) == (CONTENT, None)
    path.write_bytes(compress(b""))
    assert content_of(path) == (b"", None)
    with ContentReader(path) as reader:
        assert reader.is_compressed


@pytest.mark.parametrize("name", COMPRESS)
def test_reading_goes_on_at_an_offset_of_the_decompressed_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(COMPRESS[name](CONTENT))
    with ContentReader(path) as reader:
        reader.skip_to(123_456)
        assert reader.read(100) == CONTENT[123_456:123_556]


@pytest.mark.parametrize("name", COMPRESS)
def test_of_a_file_that_breaks_off_everything_before_is_read(tmp_path: Path, name: str) -> None:
    noise = b"".join(b"%x\n" % random.Random(n).getrandbits(256) for n in range(40_000))
    whole, path = COMPRESS[name](noise), tmp_path / "a"
    path.write_bytes(whole[: len(whole) // 2])
    with ContentReader(path) as reader:
        got = reader.read(2 * len(noise))
        assert reader.fault == "breaks off: its end is missing"
    assert noise.startswith(got) and len(got) > len(noise) // 4


def test_file_that_was_compressed_twice_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(zstd(CONTENT)))
    assert content_of(path) == (CONTENT, None)
    path.write_bytes(bz2.compress(gzip.compress(CONTENT)))
    assert content_of(path) == (CONTENT, None)


@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-16-le", b"\xff\xfe", "UTF-16-LE with a byte order mark"),
        ("utf-16-be", b"\xfe\xff", "UTF-16-BE with a byte order mark"),
        ("utf-16-le", b"", "UTF-16-LE"),
        ("utf-16-be", b"", "UTF-16-BE"),
        ("utf-32-le", b"\xff\xfe\0\0", "UTF-32-LE with a byte order mark"),
        ("utf-8", b"", "UTF-8"),
    ],
)
def test_text_in_other_encodings_is_read_as_utf8(
    tmp_path: Path, encoding: str, mark: bytes, name: str
) -> None:
    text = CONTENT.decode().replace("many", "mañana \U0001f4a3")
    path = tmp_path / "a"
    path.write_bytes(mark + text.encode(encoding))
    got, fault = content_of(path)
    assert (got[: len(text.encode())].decode(), fault) == (text, None)
    assert recognize(path).encoding == name
    with ContentReader(path) as reader:
        reader.skip_to(123_456)
        assert reader.read(100) == text.encode()[123_456:123_556]
    # The second byte of its last character is not written yet.
    path.write_bytes((mark + text.encode(encoding))[:-1])
    assert text.encode().startswith(content_of(path)[0])


def test_lines_that_end_with_cr_alone_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT.replace(b"\n", b"\r"))
    assert content_of(path) == (CONTENT, None)
    assert recognize(path).encoding == "UTF-8, lines end with CR"
    for other in (CONTENT.replace(b"\n", b"\r\n"), b"half a line end\r", b"a\rb\n"):
        path.write_bytes(other)
        assert content_of(path) == (other, None)


def archive(kind: str) -> bytes:
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("access.log", CONTENT)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w") as tar:
        member = tarfile.TarInfo("access.log")
        member.size = len(CONTENT)
        tar.addfile(member, io.BytesIO(CONTENT))
    return target.getvalue()


def spreadsheet() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as zipped:
        zipped.writestr("[Content_Types].xml", "<Types/>")
        zipped.writestr("xl/workbook.xml", "<workbook/>")
    return target.getvalue()


ALB = (
    b"https 2026-11-20T10:00:00.186641Z app/my-lb/50dc 192.0.2.1:2817 10.0.0.1:80 0.086 0.048 0.037 200 200 "
    b'0 57 "GET https://www.example.com:443/ HTTP/1.1" "curl/7.46.0" - - arn:aws "Root=1" "-" "-" 0 -\n'
)
SAMPLES = {
    "an access log": b'1.2.3.4 - - [20/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-"\n' * 3,
    "an error log of nginx": b"2026/11/20 10:00:00 [error] 31#31: *1 open() failed (2: No such file)\n" * 3,
    "an error log of Apache": b"[Fri Nov 20 10:00:00.123456 2026] [core:error] [pid 1] [client 1.2.3.4] x\n"
    * 3,
    "a log in W3C extended format (as IIS writes it)": b"#Software: Microsoft Internet Information Services 10.0\r\n"
    b"#Fields: date time c-ip cs-method\r\n2026-11-20 10:00:00 1.2.3.4 GET\r\n",
    "a log of Amazon CloudFront": b"#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip\n"
    b"2026-11-20\t10:00:00\tLHR1\t1\t1.2.3.4\n",
    "a log of an AWS Application Load Balancer": ALB * 2,
    "JSON lines": b'{"remote_ip": "1.2.3.4", "status": 200}\n' * 3,
    "a log of a Google Cloud load balancer": b'{"httpRequest": {"status": 200}, "logName": "projects/x"}\n'
    * 2,
    "a JSON document": b'[\n  {"a": 1},\n  {"a": 2}\n]\n',
    "CSV": b'ip,time,status\n1.2.3.4,"a, b",200\n1.2.3.5,c,404\n',
    "a syslog": b"Nov 20 10:00:00 web1 sshd[4711]: Accepted publickey for root\n" * 3,
    "a log of an application": b"2026-11-20 10:00:00,123 INFO started\n  at Main.java\n2026-11-20 10:00:01 INFO\n"
    * 3,
    "an access log in quotes": b'"1.2.3.4 - - [20/Nov/2026:10:00:00 +0000] ""GET / HTTP/1.1"" 200 1"\n' * 3,
    "an access log of Squid": b"1286536309.586    921 192.168.0.68 TCP_MISS/200 507 POST http://x.example/ - D/1 t/x\n"
    * 3,
    "an HTML page": b"<!DOCTYPE html>\n<html><body>503</body></html>\n",
    "an XML document": b'<?xml version="1.0"?>\n<a/>\n',
    "a script of SQL": b"create table a (b int);\ninsert into a values (1);\n",
    "text of an unknown format": b"Dear colleagues,\nthe logs of May are missing.\n",
    "an empty file": b"",
    "a spreadsheet": spreadsheet(),
    "a zip archive": archive("zip"),
    "a tar archive": archive("tar"),
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n",
    "an SQLite database": b"SQLite format 3\0" + bytes(100),
    "a Parquet file": b"PAR1\x15\x04\x15\x00\x00\x00" + bytes(100),
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(100),
    "an encrypted file": b"Salted__\x8f\x9a\x00\x12",
    "a binary file": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("title", SAMPLES)
def test_file_is_called_what_it_looks_like(tmp_path: Path, title: str) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(SAMPLES[title])
    assert str(recognize(path)) == title
    path.write_bytes(gzip.compress(SAMPLES[title]))
    assert str(recognize(path)) == f"{title}, compressed by gzip"


def test_text_that_begins_as_a_binary_file_does_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in (b"MZ is a country\n", b"BZh is no compression\n", b"ORC, elf, dwarf\n", b"PAR1 golf\n"):
        path.write_bytes(text)
        assert content_of(path) == (text, None)
        assert recognize(path).kind.title == "text of an unknown format"
