"""Children of the demo, of the tests and of the chaos run: how they are asked to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from processor.processes import Child, wait_until

SECONDS = 30.0

# Ends with the number of signals it was sent, once it may.
COUNTS = """
import pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
print("asked", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
sys.exit(len(asked))
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    command = [sys.executable, "-c", COUNTS, str(tmp_path / "may-end")]
    made = Child("counts", command, environ=os.environ, log_file=tmp_path / "log")
    made.start()
    yield made
    made.kill()


def await_line(child: Child, line: str, times: int = 1) -> None:
    def is_there() -> bool:
        return child.tail().splitlines().count(line) == times

    wait_until(is_there, what=line, seconds=SECONDS, children=[child])


def test_a_child_is_asked_to_end_once_and_anew_when_it_runs_anew(child: Child, tmp_path: Path) -> None:
    for times in (1, 2):
        child.start()
        await_line(child, "ready", times)
        child.request_stop()
        await_line(child, "asked", times)
        child.request_stop()
        (tmp_path / "may-end").touch()

        assert child.stop(SECONDS) == 1
        (tmp_path / "may-end").unlink()


def test_who_does_not_end_is_killed(child: Child) -> None:
    await_line(child, "ready")

    assert child.stop(0.05) == -9
