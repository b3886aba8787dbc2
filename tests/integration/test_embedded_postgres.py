"""The embedded PostgreSQL: starts anywhere, survives kills, harms no foreign process, leaves none."""

import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from stack.errors import StackError
from stack.postgres import EmbeddedPostgres

START = """
import sys; from pathlib import Path; from stack.postgres import EmbeddedPostgres
cluster = EmbeddedPostgres(Path(sys.argv[1]), int(sys.argv[2])); cluster.start()
print(cluster.port, flush=True)
"""
FILL = """
cluster.stop(); full = (cluster.folder / "full").open("wb", buffering=0)
try:
    while full.write(b"x" * 4096): pass
except OSError: cluster.start()
"""
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
OVERRIDE = ("--inh-caps", "-all,+dac_override", "--ambient-caps", "-all,+dac_override")

as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change users or mount")


def servers(folder: Path) -> list[psutil.Process]:
    found = {}
    for process in psutil.process_iter(["cmdline", "status", "ppid"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["-D", str(folder / "data")] and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = process
    # A child that was forked a moment ago still bears its parent's command line.
    return [process for process in found.values() if process.info["ppid"] not in found]


def postmaster(cluster: EmbeddedPostgres) -> psutil.Process:
    (process,) = servers(cluster.folder)
    return process


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(60)


def run(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def one(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def test_each_call_gives_another_empty_database(empty_database_url: Callable[[], str]) -> None:
    first, second = empty_database_url(), empty_database_url()
    run(first, "create table only_here (id int)")
    assert one(second, "select to_regclass('only_here')") is None


def test_restart_keeps_data_port_and_password(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.create_database("shop")
    own_postgres.create_database("shop")
    url = own_postgres.url("shop")
    run(url, "create table kept as select 42 as answer")
    processes = [postmaster(own_postgres), *postmaster(own_postgres).children()]
    own_postgres.stop()
    assert psutil.wait_procs(processes, timeout=60)[1] == []
    assert not own_postgres.is_running()
    own_postgres.stop()
    own_postgres.start()
    assert own_postgres.url("shop") == url
    assert one(url, "select answer from kept") == 42


def test_starts_at_the_same_time_make_one_server(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, str(tmp_path / "shared"), "18"]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ports = {start.communicate()[0].strip() for start in starts}
    try:
        assert [start.returncode for start in starts] == [0, 0, 0, 0]
        assert len(ports) == 1
        assert len(servers(tmp_path / "shared")) == 1
    finally:
        EmbeddedPostgres(tmp_path / "shared").stop()
    assert servers(tmp_path / "shared") == []


@pytest.fixture(params=["nobody", "a manager of the session"])
def adopter_of_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who is the parent of processes whose own has ended: process 1, or one that has asked for them (here this one)."""
    if request.param == "nobody":
        yield
        return
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process adopt orphans")
    adopt, libc = 36, ctypes.CDLL(None)
    libc.prctl(adopt, 1, 0, 0, 0)
    yield
    libc.prctl(adopt, 0, 0, 0, 0)


@pytest.mark.usefixtures("adopter_of_orphans")
def test_killed_server_recovers_while_its_backends_still_die(own_postgres: EmbeddedPostgres) -> None:
    run(own_postgres.url(), "create table kept as select g from generate_series(1, 1000) g")
    busy = threading.Thread(target=_run_until_cut, args=(own_postgres.url(),))
    busy.start()
    _wait_until_busy(own_postgres)
    kill(postmaster(own_postgres))
    own_postgres.start()
    busy.join()
    assert one(own_postgres.url(), "select count(*) from kept") == 1000
    assert len(servers(own_postgres.folder)) == 1


def _wait_until_busy(cluster: EmbeddedPostgres) -> None:
    while one(cluster.url(), "select count(*) from pg_stat_activity where query like '%do forever%'") != 2:
        time.sleep(0.05)


def _run_until_cut(url: str) -> None:
    with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as connection:
        connection.execute("do $$ begin loop /* do forever */ end loop; end $$")


def test_stop_ends_busy_backends_of_a_killed_server(own_postgres: EmbeddedPostgres) -> None:
    busy = threading.Thread(target=_run_until_cut, args=(own_postgres.url(),))
    busy.start()
    _wait_until_busy(own_postgres)
    family = postmaster(own_postgres).children()
    kill(postmaster(own_postgres))
    own_postgres.stop()
    busy.join()
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_foreign_process_with_the_number_of_a_dead_server_lives_on(own_postgres: EmbeddedPostgres) -> None:
    server = postmaster(own_postgres)
    pid_file = own_postgres.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill(server)
    owner = own_postgres.data.stat().st_uid
    foreign = subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None)
    try:
        pid_file.write_text("\n".join([str(foreign.pid), *lines[1:]]) + "\n")
        assert not own_postgres.is_running()
        own_postgres.stop()
        assert foreign.poll() is None
        own_postgres.start()
        assert one(own_postgres.url(), "select 1") == 1
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_server_killed_while_it_wrote_its_pid_file_starts_again(own_postgres: EmbeddedPostgres) -> None:
    kill(postmaster(own_postgres))
    (own_postgres.data / "postmaster.pid").write_text("")
    own_postgres.start()
    assert one(own_postgres.url(), "select 1") == 1


def test_taken_port_is_replaced(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    taken = own_postgres.port
    with socket.create_server(("127.0.0.1", taken)):
        own_postgres.start()
        assert own_postgres.port != taken
        assert one(own_postgres.url(), "select 1") == 1


def test_initdb_killed_half_way_is_made_anew(tmp_path: Path) -> None:
    cluster = EmbeddedPostgres(tmp_path / "half", settings={"fsync": "off"})
    half = cluster.folder / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    cluster.start()
    try:
        assert one(cluster.url(), "select 1") == 1
        assert sorted(path.name for path in cluster.folder.iterdir()) == [
            "data",
            "lock",
            "pgpass",
            "server.log",
        ]
    finally:
        cluster.stop()


def test_password_is_asked_for_and_stays_in_its_file(own_postgres: EmbeddedPostgres) -> None:
    url = own_postgres.url()
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(url.replace(f":{password}", ""))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (own_postgres.passfile, own_postgres.log)]
    assert modes == [0o600, 0o600]
    assert password not in own_postgres.log.read_text()
    assert password not in own_postgres.psql_command()
    psql = subprocess.run(
        own_postgres.psql_command() + " -Atc 'select 6 * 7'", shell=True, capture_output=True, text=True
    )
    assert (psql.stdout, psql.stderr) == ("42\n", "")


def test_server_is_reached_from_this_machine_alone_and_not_by_ctrl_c(own_postgres: EmbeddedPostgres) -> None:
    server = postmaster(own_postgres)
    listening = {c.laddr[:2] for c in server.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", own_postgres.port)}
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


@as_root_only
def test_server_of_root_runs_as_another_user_even_in_a_folder_closed_to_others(
    own_postgres: EmbeddedPostgres,
) -> None:
    closed = own_postgres.folder.parent
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert closed.stat().st_uid == 0
    assert set(postmaster(own_postgres).uids()) == {own_postgres.data.stat().st_uid} != {0}


@as_root_only
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv to become another user")
def test_normal_user_starts_a_server_of_his_own_and_no_one_elses(
    tmp_path: Path, own_postgres: EmbeddedPostgres
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    # The capability lets him read this interpreter, wherever root has put it.
    command = [*NOBODY, *OVERRIDE, sys.executable, "-B", "-c", START]
    subprocess.run(
        [*command, str(home / "pg"), "18"], check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert servers(home / "pg")[0].uids().real == 65534
        assert one(EmbeddedPostgres(home / "pg").url(), "select 1") == 1
    finally:
        EmbeddedPostgres(home / "pg").stop()
    assert servers(home / "pg") == []


def test_wrong_version_of_data_is_reported(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    other = 16 if own_postgres.major == 18 else 18
    with pytest.raises(StackError, match=f"holds data of PostgreSQL {own_postgres.major}, not {other}"):
        EmbeddedPostgres(own_postgres.folder, other).start()


def test_server_that_does_not_start_shows_its_log(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    broken = EmbeddedPostgres(own_postgres.folder, own_postgres.major, {"shared_buffers": "plenty"})
    with pytest.raises(StackError, match=r'invalid value for parameter "shared_buffers": "plenty"'):
        broken.start()
    assert servers(own_postgres.folder) == []


def test_folder_that_was_never_started_has_no_url(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="No embedded PostgreSQL has been started") as raised:
        EmbeddedPostgres(tmp_path).url()
    assert raised.value.hint == "Start it with `dwh up`."


@as_root_only
@pytest.mark.parametrize(("megabytes", "script"), [(8, START), (100, START + FILL)])
def test_full_disk_is_reported(tmp_path: Path, megabytes: int, script: str) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["unshare", "--mount", "sh", "-c"]
    mount.append(f'mount -t tmpfs -o size={megabytes}m,mode=755 tmpfs {mounted} && exec "$@"')
    if subprocess.run([*mount, "sh", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a file system")
    command = [*mount, "sh", sys.executable, "-c", script, str(mounted / "pg"), "18"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert servers(mounted / "pg") == []
    assert done.stderr.strip().splitlines()[-1] == (
        f"stack.errors.StackError: The disk that holds {mounted}/pg is full. Free some space and start again."
    )


def test_terminated_starter_leaves_the_server_running(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START + "import time; time.sleep(60)", str(tmp_path / "pg"), "18"]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert starter.stdout is not None
        starter.stdout.readline()
        os.killpg(starter.pid, signal.SIGINT)
        starter.wait(60)
        assert one(EmbeddedPostgres(tmp_path / "pg").url(), "select 1") == 1
    finally:
        EmbeddedPostgres(tmp_path / "pg").stop()


def test_server_that_is_killed_while_an_unlogged_table_is_made_starts_again(
    own_postgres: EmbeddedPostgres,
) -> None:
    """Its backends take the file away on their way out, and nobody is left to write that down."""
    making = psycopg.connect(own_postgres.url())
    making.execute("create unlogged table staged (id int)")
    with psycopg.connect(own_postgres.url()) as other:
        other.execute("create table logged (id int)")
    server = psutil.Process(int((own_postgres.data / "postmaster.pid").read_text().split()[0]))
    backends = server.children()
    server.kill()
    psutil.wait_procs(backends, timeout=60)
    own_postgres.start()
    with psycopg.connect(own_postgres.url()) as connection:
        assert connection.execute("select to_regclass('staged'), to_regclass('logged')::text").fetchone() == (
            None,
            "logged",
        )
