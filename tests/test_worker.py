"""What the worker says while it has nothing to work with."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from processor import wiring, worker
from processor.config import Settings
from processor.processes import free_port


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
