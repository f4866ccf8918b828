"""The command line: one sentence for an error, no traceback, documented exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from processor.cli import cli
from processor.config import declared_settings
from processor.outgoing import LOCAL
from processor.processes import Child, free_port, wait_until
from processor.sandbox.server import running_sandbox
from processor.store import migrations
from tests import builders

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processor", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of an error."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself(name: str) -> None:
    done = run(name, "--help")

    assert done.returncode == 0
    assert cli.commands[name].get_short_help_str()[:20] in done.stdout


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("processor, version ")


def test_an_unknown_command_is_wrong_usage() -> None:
    done = run("dance")

    assert done.returncode == 2
    assert "dance" in done.stderr


@pytest.mark.parametrize("name", ["serve", "worker", "clock", "migrate"])
def test_a_process_without_a_database_says_what_is_missing(name: str) -> None:
    done = run(name)

    assert done.returncode == 2
    assert "DATABASE_URL is not set" in said(done)


def test_every_fault_of_the_configuration_is_named_at_once() -> None:
    done = run("serve", PORT="x", ANSWER_SECONDS="9", DATABASE_URL="mysql://secret@h/d")

    assert done.returncode == 2
    for variable in ("PORT", "ANSWER_SECONDS", "DATABASE_URL"):
        assert variable in said(done)
    assert "secret" not in done.stderr


def test_an_unusable_key_is_found_before_anything_is_served() -> None:
    done = run("serve", DATABASE_URL="postgres://h/d", WIX_PUBLIC_KEYS="nonsense!")

    assert done.returncode == 2
    assert "key 1" in said(done)


def test_a_database_that_is_away_is_an_exit_code_of_its_own() -> None:
    done = run("migrate", DATABASE_URL=f"postgres://u:secret@127.0.0.1:{free_port()}/d")

    assert done.returncode == 3
    assert "cannot be migrated" in said(done)
    assert "secret" not in done.stderr


def test_migrate_makes_the_tables_and_may_be_repeated(empty_database_url: str) -> None:
    for _ in range(2):
        done = run("migrate", DATABASE_URL=empty_database_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"at migration {migrations.head()}\n" in done.stdout


def test_a_database_without_our_tables_is_told_by_one_sentence(empty_database_url: str) -> None:
    done = run("payments", "list", DATABASE_URL=empty_database_url)

    assert done.returncode == 3
    assert "run `processor migrate`" in said(done)


def test_arguments_that_are_no_text_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "processor", b"links", b"note", b"\xff"], capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stderr == "processor: the arguments are not UTF-8\n"


def test_settings_lists_every_variable_and_hides_secrets() -> None:
    done = run("settings", "--json", WIX_APP_SECRET="hush", PORT="81", DATABASE_URL="postgres://u:hush@h/d")

    rows = {row["variable"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {declared.variable for declared in declared_settings().values()}
    assert rows["PORT"] == rows["PORT"] | {"value": "81", "default": "8000", "is_set": True}
    assert rows["WIX_APP_SECRET"]["value"] == "(set, hidden)"
    assert "hush" not in done.stdout + run("settings", WIX_APP_SECRET="hush").stdout


def test_doctor_says_what_is_wrong_and_what_to_do() -> None:
    done = run("doctor", "--json")

    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["configuration"]["is_ok"]
    for name in ("public keys", "database"):
        assert not found[name]["is_ok"]
        assert found[name]["remedy"]


def test_doctor_looks_at_everything(database_url: str, redis_url: str) -> None:
    with running_sandbox() as sandbox:
        app = sandbox.documents.get("app", "app")
        assert app is not None
        environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "WIX_API_URL": sandbox.url,
            "WIX_APP_ID": app["appId"],
            "WIX_APP_SECRET": app["appSecret"],
            "WIX_PUBLIC_KEYS": sandbox.key.public_pem,
        }
        found = doctor(environ)
        assert {name for name, one in found.items() if one["is_ok"] is False} == {"clock", "worker"}
        assert found["wix"]["is_ok"] is None
        assert set(found) >= {
            "configuration",
            "public keys",
            "database",
            "migrations",
            "redis",
            "wix",
            "worker",
        }

        away = doctor(environ | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}", "WIX_APP_SECRET": "wrong"})
        assert not away["redis"]["is_ok"]
        assert "wrong" not in json.dumps(away)


def test_doctor_notices_a_database_without_tables(empty_database_url: str) -> None:
    found = doctor({"DATABASE_URL": empty_database_url, "WIX_PUBLIC_KEYS": builders.public_pem()})

    assert found["migrations"]["remedy"] == "run `processor migrate`"


def doctor(environ: dict[str, str]) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(run("doctor", "--json", **environ).stdout)}


def test_the_sandbox_tells_the_settings_it_needs_and_stops_on_request(tmp_path: Path) -> None:
    port = free_port()
    child = Child(
        "sandbox",
        [sys.executable, "-m", "processor", "sandbox", "--port", str(port), "--data", str(tmp_path / "data")],
        environ=os.environ,
        log_file=tmp_path / "log",
    )
    child.start()
    wait_until(lambda: "WIX_PUBLIC_KEYS" in child.tail(), what="its words", seconds=30, children=[child])

    assert f"WIX_API_URL=http://127.0.0.1:{port}" in child.tail()
    assert child.stop() == 0
    assert list((tmp_path / "data").iterdir())


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with running_sandbox() as sandbox:
        done = run("sandbox", "--port", sandbox.url.rpartition(":")[2])

    assert done.returncode == 2
    assert "cannot start" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# -- The demo --------------------------------------------------------------------------------------


def demo_child(folder: Path, number: int, *options: str) -> Child:
    return Child(
        f"demo {number}",
        [sys.executable, "-m", "processor", "demo", "--data", str(folder / "data"), *options],
        environ=os.environ,
        log_file=folder / f"demo-{number}.log",
    )


def processes() -> dict[int, tuple[int, str]]:
    """Every process of this machine: its parent and its command; those that ended but were not collected are out."""
    listed = subprocess.run(
        ["ps", "-Aww", "-o", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True
    )
    found = {}
    for line in listed.stdout.splitlines():
        pid, parent, state, command = line.split(None, 3)
        if not state.startswith("Z"):
            found[int(pid)] = (int(parent), command)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Every process that this one started, and those started: number and command."""
    everything = processes()
    found = {pid: everything[pid][1]}
    while more := {
        child: command
        for child, (parent, command) in everything.items()
        if parent in found and child not in found
    }:
        found |= more
    return found


def still_living(before: dict[int, str]) -> dict[int, str]:
    """Those that are the same processes still."""
    now = processes()
    return {pid: command for pid, command in before.items() if pid in now and now[pid][1] == command}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="processor-demo-"))
    made.chmod(0o755)  # root's servers run as another user
    yield made
    shutil.rmtree(made)


@pytest.mark.timeout(300)
def test_demos_end_with_right_books_and_however_they_end_leave_nothing_behind(folder: Path) -> None:
    """Two at once, and then two more on the data of the first, since each demo takes its time."""
    once, endless = demo_child(folder, 1, "--once"), demo_child(folder, 2)
    for child in (once, endless):
        child.start()
    end(endless, signal.SIGTERM)
    wait_until(lambda: not once.is_running, what="a demo", seconds=180)

    assert once.stop() == 0, once.tail(40)
    for child in (once, endless):
        assert "9 of 9 payments" in child.tail(100)
        assert "discrepancy: total_differs" in child.tail(100)
        assert "recovered: webhook missed" in child.tail(100)
        assert "found, not made twice" in child.tail(100)
        assert "once more: nothing changed" in child.tail(100)

    killed = demo_child(folder, 3)
    killed.start()
    end(killed, signal.SIGKILL)
    assert "18 of 18 payments" in killed.tail(100)

    interrupted = demo_child(folder, 4)
    interrupted.start()
    end(interrupted, signal.SIGINT)
    assert "27 of 27 payments" in interrupted.tail(100)


def end(child: Child, number: signal.Signals) -> None:
    """End a demo by a signal once its story is told; nothing of it is left."""
    wait_until(
        lambda: "Ctrl-C stops everything" in child.tail(5), what="the story", seconds=180, children=[child]
    )
    family = descendants(child.pid)
    words = {word for command in family.values() for word in command.split()}
    assert words >= {"sandbox", "worker", "clock", "wsgi:app"}
    by_hand = re.search(r"(http\S+/_sandbox/events/\S+/token) .* (http\S+/webhooks/wix)", child.tail(10))
    assert by_hand is not None
    token = httpx2.get(by_hand[1], **LOCAL).content
    assert httpx2.post(by_hand[2], content=token, **LOCAL).status_code == 200

    os.kill(child.pid, number)

    wait_until(lambda: not child.is_running, what="its end", seconds=60)
    wait_until(lambda: not still_living(family), what="the end of its children", seconds=60)
    assert child.stop() == (-9 if number is signal.SIGKILL else 0)


def test_a_port_somebody_listens_on_is_not_shared_silently() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(
            "serve",
            DATABASE_URL="postgresql://x@127.0.0.1/x",
            WIX_PUBLIC_KEYS=builders.public_pem(),
            PORT=str(port),
            HOST="127.0.0.1",
        )

    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
