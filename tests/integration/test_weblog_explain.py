"""`dwh explain weblog`: the raw line of a row, what became of it and why; and what is said when its file is gone."""

import gzip
import json
import os
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests import command
from tests.integration.test_weblog_retention import TODAY, remove, visits
from tests.weblog_lake import AGENT, BRAZIL, NOBODYS, WeblogLake, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.errors import SettingsError, WarehouseError
from warehouse.weblogs.explain import Explanation, explain
from warehouse.weblogs.files import checkpoints as files

CONTENT = [
    line(1),
    b"rubbish\n",
    line(2, address=BRAZIL, user="ana", request="GET /product/P-7?utm_source=news HTTP/1.1").replace(
        b"\n", b"\r\n"
    ),
    line(3, request="GET /" + "y" * 200_000 + " HTTP/1.1"),
    b"\n",
    line(4, address="2a00:1::1"),
    line(5, address=NOBODYS).removesuffix(b"\n"),
]


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def explained(lake: WeblogLake, key: str) -> Explanation:
    with connect(lake.settings.warehouse) as connection:
        return explain(connection, lake.settings, key)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_line_is_shown_from_its_place_with_what_became_of_it(
    lake: WeblogLake, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 1)
    content = b"".join(CONTENT)
    lake.put("a/x:1.log", gzip.compress(content) if compressed else content)
    lake.load()
    written_lines = list(CONTENT)
    if not compressed:
        # The end of the last line comes later.
        lake.append("a/x:1.log", b"\n" + line(6))
        lake.load()
        content, written_lines = content + b"\n" + line(6), [*CONTENT, line(6)]
    for number, written in enumerate(written_lines, start=1):
        found = explained(lake, f"a/x:1.log:{number}")
        assert found.fault is None
        assert (found.file_id, found.line_number) == (1, number)
        assert found.byte_offset is not None and content[found.byte_offset :].startswith(written)
        assert found.raw_line == written.decode().rstrip("\r\n")[: 1 << 16]
        assert found.state == ("quarantined" if number in (2, 5) else "loaded")
        assert found.run["status"] == "succeeded" and found.run["geoip"].startswith("Demo-Country")
    found = explained(lake, "1:3")
    shown = {
        name: found.row[name]
        for name in ("country", "product_id", "user_name", "user_agent", "traffic_source")
    }
    assert shown == {
        "country": "BR", "product_id": "P-7", "user_name": "ana", "user_agent": AGENT, "traffic_source": "news"
    }  # fmt: skip
    assert found.row["web_user_key"] > 0
    network = BRAZIL.rsplit(".", 2)[0] + ".0.0/16"
    assert f"has {BRAZIL} in network {network}, country BR." in str(found.country_reason)
    assert explained(lake, "1:2").quarantine["reason"] == "there is no [time]"
    assert "country ZZ." in str(explained(lake, "1:7").country_reason)


def test_file_that_is_renamed_gone_or_changed_is_reported(lake: WeblogLake) -> None:
    path = lake.put("a.log", lines(1, 9))
    lake.put("a.log.1", lines(1, 5))
    lake.load()
    path.write_bytes(gzip.compress(path.read_bytes()))
    path.rename(path.with_name("rotated.gz"))
    moved = explained(lake, "a.log:3")
    assert (moved.location, moved.raw_line) == (str(path.with_name("rotated.gz")), line(3).decode().rstrip())
    path.write_bytes(lines(1, 2) + line(77) + lines(4, 9))
    (lake.landing / "rotated.gz").unlink()
    changed = explained(lake, "a.log:3")
    # Files of less than 4 KB are known by all of their bytes.
    assert changed.raw_line is None and "begins otherwise now" in str(changed.fault)
    path.unlink()
    (lake.landing / "a.log.1").unlink()
    gone = explained(lake, "a.log:3")
    assert gone.fault == f"{path} is gone: the file that the line was read from is not in the lake."
    assert (gone.row["response_bytes"], gone.raw_line) == (103, None)
    copied = explained(lake, "a.log.1:2")
    assert (
        copied.state
        == "loaded as another file's: its first 5 lines are those of a.log, and are not loaded again"
    )


def test_line_that_is_another_one_now_is_not_passed_off_as_the_row_s(lake: WeblogLake) -> None:
    path = lake.put("a.log", lines(1, 100))
    lake.load()
    path.write_bytes(lines(1, 60) + line(1) + lines(62, 100))
    assert explained(lake, "a.log:60").fault is None
    assert explained(lake, "a.log:61").fault == (
        "The file has changed since: this line is not the one that was loaded."
    )
    path.write_bytes(lines(1, 50))
    assert explained(lake, "a.log:61").fault == f"{path} has no line 61 any more: it is shorter than it was."


def test_line_that_retention_has_removed_is_reported_as_such(lake: WeblogLake) -> None:
    lake = replace(lake, settings=lake.settings.model_copy(update={"weblog_retention_days": 40}))
    lake.put("a.log", visits(TODAY - timedelta(days=90), BRAZIL, "ana") + visits(TODAY, BRAZIL))
    lake.load()
    remove(lake)
    assert explained(lake, "a.log:1").state == "loaded, and removed by retention since"
    assert explained(lake, "a.log:4").state == "loaded"


@pytest.mark.parametrize("key", ["", "3", "a.log", "a.log:", ":3", "a.log:x", "a.log:0", "a.log:-1"])
def test_key_that_is_none_is_refused(lake: WeblogLake, key: str) -> None:
    with pytest.raises(SettingsError, match="is not a web-log line"):
        explained(lake, key)


def test_command_shows_it_and_fails_where_the_file_is_gone(lake: WeblogLake) -> None:
    path = lake.put("a.log", lines(1, 3))
    lake.load()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(lake.settings.home), "DWH_HOME": str(lake.settings.home),
        "DWH_LAKE": lake.settings.lake, "DWH_WAREHOUSE_URL": lake.settings.warehouse,
        "DWH_SHOP_URL": lake.settings.warehouse,
    }  # fmt: skip

    def dwh(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return command.run("explain", *arguments, environment=environment, folder=lake.settings.home)

    shown = dwh("weblog", "a.log:2")
    assert shown.returncode == 0, shown.stderr
    assert all(
        part in shown.stdout for part in (line(2).decode().rstrip(), "request_key", "Demo-Country", "iPhone")
    )
    told = json.loads(dwh("fact_weblog", "1:2", "--json").stdout)
    assert (told["raw_line"], told["byte_offset"], told["row"]["country"]) == (
        line(2).decode().rstrip(),
        len(line(1)),
        "AR",
    )
    path.unlink()
    gone = dwh("weblog", "a.log:2")
    assert (gone.returncode, "102" in gone.stdout) == (1, True)
    assert "is gone" in gone.stderr and "Traceback" not in gone.stderr
    for arguments, code in ((("weblog", "b.log:1"), 1), (("weblog", "1"), 2), (("nonsense", "1"), 2)):
        assert dwh(*arguments).returncode == code
    with pytest.raises(WarehouseError, match=r"Line 4 of a\.log \(file 1\) is not loaded: it had 3"):
        explained(lake, "1:4")
