"""The compiled parser of web logs is used only if it was made of the scan.c that is there."""

import _ctypes
import ctypes
import shutil
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from cli.diagnostics import _weblog_parser
from warehouse.settings import Settings
from warehouse.weblogs.reader import native

READER = Path(native.__file__).parent
NAME = f"_scan{EXTENSION_SUFFIXES[0]}"

pytestmark = pytest.mark.skipif(native.fault == native.NOT_INSTALLED, reason="no C compiler here")


def test_parser_of_this_source_is_used_and_one_of_another_is_not(tmp_path: Path) -> None:
    shutil.copy(READER / NAME, tmp_path)
    # As in a wheel: without its source.
    assert isinstance(native.load(tmp_path), ctypes.CDLL)
    shutil.copy(READER / "scan.c", tmp_path)
    assert isinstance(native.load(tmp_path), ctypes.CDLL)
    with (tmp_path / "scan.c").open("a") as source:
        source.write("/* changed */\n")
    assert native.load(tmp_path) == native.OTHER_SOURCE
    assert "`make setup`" in native.OTHER_SOURCE.hint


def test_parser_of_a_time_without_fingerprints_is_not_used(tmp_path: Path) -> None:
    shutil.copy(_ctypes.__file__, tmp_path / NAME)
    shutil.copy(READER / "scan.c", tmp_path)
    assert native.load(tmp_path) == native.OTHER_SOURCE


def test_without_a_parser_or_with_a_broken_one_a_compiler_is_asked_for(tmp_path: Path) -> None:
    assert native.load(tmp_path) == native.NOT_INSTALLED
    (tmp_path / NAME).write_bytes(b"no library")
    assert native.load(tmp_path) == native.NOT_INSTALLED


def test_doctor_names_make_setup_where_the_slow_parser_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "fault", native.OTHER_SOURCE)
    (finding,) = _weblog_parser(Settings.load())
    assert (finding.verdict, finding.hint) == ("note", native.OTHER_SOURCE.hint)
