"""Files of a feed: read plain and compressed, whole and broken, and known again under other names."""

import bz2
import gzip
import lzma
import os
import random
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from warehouse.errors import SettingsError
from warehouse.feeds.landing import landed_feeds
from warehouse.files.compression import compression_of
from warehouse.files.content import ContentReader
from warehouse.files.encoding import encoding_of
from warehouse.files.lake import (
    LakeError,
    LakeFile,
    Landing,
    discover,
    folder,
    printable_path,
    what_is_missing,
)
from warehouse.files.locations import location_of
from warehouse.settings import Settings
from warehouse.weblogs.files.blocks import BlockReader
from warehouse.weblogs.reader.key_table import KeyTable

CONTENT = b"".join(b"line %d\n" % number for number in range(50_000))


def lake_file(path: Path) -> LakeFile:
    return LakeFile(path.name, path, path.stat().st_size, path.stat().st_mtime_ns)


def content_of(path: Path) -> tuple[bytes, str | None]:
    with ContentReader(path) as reader:
        return reader.read(10 * len(CONTENT)), reader.fault


def test_plain_and_gzipped_files_read_alike_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT)
    (tmp_path / "b.log").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "c").write_bytes(gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]) + b"\0" * 512)
    (tmp_path / "d").write_bytes(b"")
    assert [content_of(tmp_path / name) for name in ("a.gz", "b.log", "c")] == [(CONTENT, None)] * 3
    assert content_of(tmp_path / "d") == (b"", None)


def test_broken_gzip_gives_what_can_be_read_and_says_the_rest(tmp_path: Path) -> None:
    whole = gzip.compress(CONTENT)
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 20] = b"\xff" * 20
    (tmp_path / "damaged").write_bytes(bytes(damaged))
    got, fault = content_of(tmp_path / "truncated")
    assert CONTENT.startswith(got) and len(got) > len(CONTENT) // 4
    assert fault == "breaks off: its end is missing"
    got, fault = content_of(tmp_path / "damaged")
    assert len(got) > len(CONTENT) // 4
    assert fault is not None and fault.startswith("is damaged: ")


COMPRESSED = {
    "bzip2": bz2.compress,
    "gzip": gzip.compress,
    "lz4": lambda content: bytes(pyarrow.compress(content, codec="lz4", asbytes=True)),
    "xz": lzma.compress,
    "zstd": lambda content: bytes(pyarrow.compress(content, codec="zstd", asbytes=True)),
}


@pytest.mark.parametrize("compressed", COMPRESSED.values(), ids=COMPRESSED)
def test_all_that_precedes_what_is_no_compressed_content_is_read(
    tmp_path: Path, compressed: Callable[[bytes], bytes]
) -> None:
    for times in (1, 2):
        (tmp_path / "a").write_bytes(times * compressed(CONTENT) + b"garbage")
        got, fault = content_of(tmp_path / "a")
        assert got == times * CONTENT
        assert fault is not None and fault.startswith("is damaged: ")


@pytest.mark.parametrize(("compression", "block"), [("bzip2", 900_000), ("xz", 1 << 14)])
def test_blocks_before_a_damaged_one_are_read(tmp_path: Path, compression: str, block: int) -> None:
    rng = random.Random(1)
    content = b"".join(b"line %d\n" % rng.getrandbits(64) for _ in range(160_000))
    damaged = bytearray(COMPRESSED[compression](content))
    place = len(damaged) * 7 // 10
    damaged[place : place + 40] = b"\xff" * 40
    (tmp_path / "a").write_bytes(damaged)
    got, fault = content_of(tmp_path / "a")
    assert fault is not None and fault.startswith("is damaged: ")
    assert len(got) > len(content) * 7 // 10 - block
    assert content.startswith(got[:-block])


def test_no_two_paths_look_alike() -> None:
    names = [b"\xe9", b"\\xe9", b"\\x5cxe9", b"\\x5c", b"\\\xe9", b"\\\\xe9", b"\xc3\xa9", b"\\xE9", b"\\n"]
    paths = [printable_path(os.fsdecode(name)) for name in names]
    assert len({*paths}) == len(names)
    assert paths[0] == r"\xe9"
    assert [paths[number] for number in (6, 7, 8)] == ["é", r"\xE9", r"\n"]


@pytest.mark.parametrize("compressed", [False, True])
def test_reader_goes_on_at_an_offset(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(CONTENT) if compressed else CONTENT)
    with ContentReader(path) as reader:
        reader.skip_to(123_456)
        assert reader.read(100) == CONTENT[123_456:123_556]


@given(
    st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=40),
    st.booleans(),
    st.integers(8, 64),
)
def test_blocks_hold_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, room: int
) -> None:
    content = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    # That would be compressed, or text of another encoding.
    assume(not compression_of(content) and encoding_of(content).name == "utf-8")
    assume(not encoding_of(content).has_cr_ends)
    path = tmp_path_factory.mktemp("blocks") / "a"
    path.write_bytes(content)
    got, offset = b"", 0
    for block in BlockReader(room).blocks(lake_file(path), 0):
        assert block.byte_offset == offset
        offset += block.byte_count
        got += block.buffer[: block.size].tobytes()[: block.byte_count]
        # Before the first line, a block has none.
        if block.size:
            assert block.buffer[block.size - 1] == ord("\n")
            assert block.is_unterminated == (block.byte_count == block.size - 1)
    assert offset == len(content)
    assert got == content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\0")


def test_line_beyond_the_longest_is_passed_over_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first\n" + b"x" * (3 << 20) + b"\nlast\n")
    blocks = [
        (block.byte_offset, block.byte_count, block.is_oversized, block.buffer[:5].tobytes())
        for block in BlockReader(1 << 17, max_line_bytes=1 << 18).blocks(lake_file(path), 0)
    ]
    assert blocks == [
        (0, 6, False, b"first"),
        (6, (3 << 20) + 1, True, b"xxxxx"),
        ((3 << 20) + 7, 5, False, b"last\n"),
    ]


def test_files_are_found_below_the_landing_folder_and_others_left_out(tmp_path: Path) -> None:
    for name in (
        "b.log",
        "2026/11/a.log.gz",
        ".hidden",
        "2026/.git/x",
        "a.log.json",
        "a.log.part",
        "_SUCCESS",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked").symlink_to(tmp_path / "2026")
    (tmp_path / "link.log").symlink_to(tmp_path / "b.log")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    found = discover(tmp_path, (".*", "_*", "*.json", "*.part"))
    assert [file.path for file in found.files] == ["2026/11/a.log.gz", "b.log", "link.log"]
    assert [(one.path, one.status, one.reason) for one in found.unread] == [
        (".hidden", "ignored", "names like .* are ignored"),
        # Of a folder that is ignored, only the folder.
        ("2026/.git/", "ignored", "names like .* are ignored"),
        ("_SUCCESS", "ignored", "names like _* are ignored"),
        ("a.log.json", "ignored", "names like *.json are ignored"),
        ("a.log.part", "ignored", "names like *.part are ignored"),
        ("broken", "unread", "is a symbolic link that leads nowhere"),
        ("linked", "unread", "is a symbolic link to a folder, which is not followed"),
        ("pipe", "unread", "is a named pipe"),
        ("socket", "unread", "is a socket"),
    ]
    assert discover(tmp_path / "nothing here", ()) == Landing((), ())


def test_lake_is_a_folder_or_a_file_url() -> None:
    assert folder("lake", "landing/weblogs") == Path("lake/landing/weblogs")
    assert folder("file:///srv/my%20lake", "landing") == Path("/srv/my lake/landing")
    with pytest.raises(SettingsError, match="for s3:// install dwh"):
        folder("nosuch://bucket/lake", "landing")


@given(st.lists(st.lists(st.integers(1, 2**64 - 1), max_size=300), max_size=12))
def test_key_table_finds_what_was_entered_and_nothing_else(rounds: list[list[int]]) -> None:
    table, known = KeyTable(1), dict[int, int]()
    for entries in rounds:
        # Hashes that want the same slots.
        new = sorted({entry >> 40 << 40 | entry & 7 for entry in entries} - known.keys() - {0})
        for entry in new:
            known[entry] = len(known) + 1
        table.add(np.array(new, np.uint64), [(known[entry], -known[entry]) for entry in new])
        slots = table.find(np.array(list(known), np.uint64))
        assert table.values(slots).T.tolist() == [[key, -key] for key in known.values()]
        assert (table.find(np.array([entry ^ 8 for entry in known], np.uint64)) == -1).all()


def test_lake_that_cannot_be_reached_is_named_and_its_feeds_fail_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("s3fs")
    for name, value in {
        "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "ENDPOINT_URL": "http://127.0.0.1:1", "MAX_ATTEMPTS": "1"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    folder = location_of("s3://lake/landing/weblogs")
    for look in (what_is_missing, partial(discover, ignore=())):
        with pytest.raises(
            LakeError, match=r"^s3://lake/landing/weblogs cannot be read: the server cannot be reached"
        ):
            look(folder)
    # The flows that load every source begin with these names: databases are loaded whatever has become of the lake.
    assert landed_feeds(Settings(lake="s3://lake")) == ["companies", "orders", "leads"]
