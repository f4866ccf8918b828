"""`processor sandbox` and its commands, as processes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from processor.config import Settings
from processor.outgoing import LOCAL, is_local_ready
from processor.processes import Child, free_port, wait_until
from processor.sandbox.documents import Documents, FolderInUse
from processor.sandbox.faults import FAULTS, parameters_of
from processor.sandbox.server import Options, Sandbox, running_sandbox
from processor.wiring import public_keys
from processor.wix.signature import parse_key
from tests.sandbox.wixlike import Site, a_site


def finished(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processor", "sandbox", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run(*arguments: str, code: int = 0) -> str:
    done = finished(*arguments)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    child = Child(
        "sandbox",
        [sys.executable, "-m", "processor", "sandbox", "--port", str(port), *options],
        environ=os.environ,
        log_file=folder / "sandbox.log",
    )
    child.start()
    try:
        wait_until(lambda: is_up(url), what="the sandbox", seconds=20, children=[child])
        yield url
    finally:
        child.stop()


def is_up(url: str) -> bool:
    return is_local_ready(f"{url}/_sandbox/health")


def get(url: str, path: str) -> Any:
    return httpx2.get(f"{url}/_sandbox/{path}", **LOCAL).json()


def wait_for(log: Path, words: str) -> str:
    wait_until(lambda: words in log.read_text(), what=words, seconds=10)
    return log.read_text()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as running:
        yield running


def test_everything_can_be_chosen_at_the_start(tmp_path: Path) -> None:
    with served(
        tmp_path,
        *("--webhook", "http://127.0.0.1:9/hook", "--assume", "currency-field=currencyCode"),
        *("--fault", "drop,count=2,eventType=_created", "--mix", "0.1", "--scenario", "many-buyers"),
    ) as url:
        wait_until(
            lambda: (
                get(url, "truth")["instances"][:1] and get(url, "truth")["instances"][0]["paymentCount"] == 3
            ),
            what="the scenario",
            seconds=10,
        )
        assert get(url, "app")["webhookUrl"] == "http://127.0.0.1:9/hook"
        assert "status" in {one["kind"] for one in get(url, "faults")["faults"]}
        assert get(url, "truth")["instances"][0]["received"] == {"EUR": "13.50"}


def test_a_shell_reads_what_is_said_at_the_start(tmp_path: Path) -> None:
    with served(tmp_path, "--data", str(tmp_path / "data")) as url:
        app = get(url, "app")
        said = wait_for(tmp_path / "sandbox.log", "curl -X PUT")

    shell = subprocess.run(
        ["/bin/sh", "-euc", f". {tmp_path}/sandbox.log; exec env -0"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    read = dict(one.split("=", 1) for one in shell.stdout.split("\0") if one)
    assert shell.stderr == ""
    assert read["WIX_API_URL"] == read["SANDBOX_URL"] == url
    assert (read["WIX_APP_ID"], read["WIX_APP_SECRET"]) == (app["appId"], app["appSecret"])
    settings = Settings.read({name: value for name, value in read.items() if name.startswith("WIX_")})
    assert [key.public_numbers() for key in public_keys(settings)] == [
        parse_key(app["publicKey"]).public_numbers()
    ]
    assert "events go nowhere until a webhook is set: start with --webhook URL" in said


def test_a_webhook_that_is_set_is_said_also_when_it_was_kept(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))

    for options in (("--webhook", "http://127.0.0.1:9/hook"), ()):
        (tmp_path / "sandbox.log").unlink(missing_ok=True)
        with served(tmp_path, *data, *options):
            said = wait_for(tmp_path / "sandbox.log", "# events go")
        assert "# events go to http://127.0.0.1:9/hook\n" in said
        assert "nowhere" not in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--assume", "nonsense=1"), "--assume takes NAME=VALUE with a name of link-fqdn"),
        (("--assume", "split-counts-once=perhaps"), "takes true or false"),
        (("--assume", "currency-field=money"), "takes currency or currencyCode"),
        (("--webhook", "127.0.0.1:9", "--port", "0"), "url must be an http or https URL"),
        (("--fault", "gremlins", "--port", "0"), "kind must be one of drop"),
        (("--scenario", "nonsense", "--port", "0"), "scenario nonsense not found"),
        (("fault", "drop", "count"), "a parameter is NAME=VALUE"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: tuple[str, ...], why: str) -> None:
    assert why in run(*arguments, code=2)


def test_a_state_of_another_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "sandbox.sqlite") as old:
        old.execute("CREATE TABLE documents (kind TEXT)")
    old.close()

    assert "another version of the sandbox" in run("--data", str(tmp_path), "--port", "0", code=2)


def test_faults_are_switched_by_commands(site: Site) -> None:
    url = ("--url", site.sandbox.url)
    assert run("faults", *url) == "no fault is on\n"

    fault_id = run("fault", "wrong_total", "linkId=l1", "by=-2.00", *url).strip()
    run("fault", "hang", "seconds=0.5", "count=3", *url)

    listed = json.loads(run("faults", "--json", *url))
    assert [one["kind"] for one in listed] == ["wrong_total", "hang"]
    assert (listed[0]["by"], listed[1]["seconds"], listed[1]["count"]) == ("-2.00", 0.5, 3)
    assert fault_id in run("faults", *url)
    run("heal", fault_id, *url)
    assert [one["kind"] for one in json.loads(run("faults", "--json", *url))] == ["hang"]
    assert run("mix", "--share", "0.2", *url) == "17 faults are on\n"
    run("heal", *url)
    assert json.loads(run("faults", "--json", *url)) == []
    assert "seconds is required for hang" in run("fault", "hang", *url, code=2)
    assert "created_current_entity" in run("faults", "--kinds", *url)


def test_switching_says_what_happened(site: Site) -> None:
    url = ("--url", site.sandbox.url)
    assert run("heal", *url) == "no fault was on\n"

    done = finished("fault", "drop", "count=1", "eventType=_created", *url)
    run("fault", "resigned", *url)
    run("fault", "truncated", *url)

    assert done.stderr.startswith("drop is on with count=1, eventType=_created; ")
    assert run("heal", done.stdout.strip(), *url) == "drop is off, 2 still on\n"
    assert "not found" in run("heal", "nonsense", *url, code=2)
    assert run("heal", *url) == "2 faults switched off, none is on\n"


def test_what_a_fault_does_and_takes_is_not_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")

    told = run("faults", "--kinds", "--url", site.sandbox.url)

    assert max(len(line) for line in told.splitlines()) <= 110
    for kind, fault in FAULTS.items():
        # Of a kind's lines the first begins with it; those that follow are indented.
        lines = re.search(rf"^{kind} .*\n(?: .*\n)*", told, re.MULTILINE)
        assert lines is not None
        words = set(re.findall(r"[\w`().]+", lines[0]))
        assert set(parameters_of(kind)) <= words
        assert set(re.findall(r"[\w`().]+", fault.summary)) <= words


def test_scenarios_are_played_by_command(site: Site) -> None:
    url = ("--url", site.sandbox.url)

    told = run("scenario", "order-balance", *url)

    assert told.startswith("A deposit and then the balance of one order")
    assert "both links are PAID" in told
    assert "gift-card-split" in run("scenario", *url)
    assert json.loads(run("scenario", "receipt", "--json", *url))["name"] == "receipt"


def test_nobody_there_is_exit_code_3() -> None:
    assert "start one with `processor sandbox`" in run(
        "faults", "--url", f"http://127.0.0.1:{free_port()}", code=3
    )


def test_a_folder_is_filled_by_command(tmp_path: Path) -> None:
    told = run("load", "--data", str(tmp_path), "--payments", "300", "--links", "5", "--sites", "2")

    assert told == "loaded 300 payments by 5 links on 2 sites\n"
    with a_site(folder=tmp_path) as site:
        summary = site.http.get("/_sandbox/truth", params={"summary": "yes"}).json()["instances"]
    assert sum(one["paymentCount"] for one in summary) == 300


def test_a_folder_is_not_filled_twice_with_the_same(tmp_path: Path) -> None:
    volume = ("load", "--data", str(tmp_path), "--payments", "1", "--links", "1")

    assert run(*volume) == "loaded 1 payment by 1 link on 1 site\n"
    assert "take another --seed" in run(*volume, code=2)
    assert run(*volume, "--seed", "2") == "loaded 1 payment by 1 link on 1 site\n"


def test_the_folder_of_a_running_sandbox_is_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"

    with served(tmp_path, "--data", str(data)) as url:
        before = get(url, "truth")
        refused = [
            run("load", "--data", str(data), "--payments", "1", "--links", "1", code=2),
            run("--data", str(data), "--port", "0", code=2),
        ]
        assert get(url, "truth") == before

    pid = (data / "lock").read_text().strip()
    for told in refused:
        assert told == (
            f"Error: {data} is in use by process {pid}: stop that one, or choose another folder\n"
        )
    assert run("load", "--data", str(data), "--payments", "1", "--links", "1").startswith("loaded 1 payment")


def test_a_sandbox_that_cannot_start_lets_go_of_its_folder(tmp_path: Path) -> None:
    with running_sandbox() as other:
        port = other.url.rpartition(":")[2]
        with pytest.raises(OSError, match="in use"):
            Sandbox(Options(folder=tmp_path, port=int(port)))

    with running_sandbox(folder=tmp_path) as sandbox:
        with pytest.raises(FolderInUse):
            Documents(tmp_path / "sandbox.sqlite")
        assert is_up(sandbox.url)
