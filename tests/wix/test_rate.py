"""The budget of calls: never more than Wix allows in any minute, whoever calls and whatever Redis does.

A minute is scaled down to a second. Processes race for real, over a real server, and note when they were let
through; the busiest window is then counted.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis

from processor import embedded
from processor.errors import WixUnavailable
from processor.processes import wait_until
from processor.sandbox.server import running_sandbox
from processor.wix import rate as rate_module
from processor.wix.rate import Gate, RateLimit, open_rate_redis
from tests.wix.scripted import deaf_port

INSTANCE = UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
LIMIT = 200
PERIOD = 1.0
PROCESSES = 3

RACER = """
import json, sys, threading, time
from uuid import UUID
from processor.errors import WixUnavailable
from processor.wix.rate import RateLimit, open_rate_redis

url, instance, limit, period, processes, seconds = json.loads(sys.argv[1])
rate = RateLimit(open_rate_redis(url), calls_per_minute=limit, processes=processes, period_seconds=period)
stop = threading.Event()
taken = []
end = time.monotonic() + seconds

def race():
    while time.monotonic() < end:
        try:
            rate.take(UUID(instance), pause=lambda seconds: not stop.wait(seconds), patience=0.2)
        except WixUnavailable as why:
            stop.wait(min(0.05, why.retry_after_seconds or 0.05))
        else:
            taken.append(time.monotonic())

threads = [threading.Thread(target=race) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(taken))
"""


def race(
    url: str | list[str | None] | None, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> list[float]:
    """When processes were let through, in order. url: one for all, or one for each."""
    urls = url if isinstance(url, list) else [url] * PROCESSES
    racers = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", RACER),
                json.dumps([one, str(INSTANCE), LIMIT, PERIOD, PROCESSES, seconds]),
            ],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        for one in urls
    ]
    meanwhile()
    taken: list[float] = []
    for racer in racers:
        said, _ = racer.communicate(timeout=30)
        assert racer.returncode == 0
        taken += json.loads(said.splitlines()[-1])  # after what it logs
    return sorted(taken)


def busiest(taken: list[float]) -> int:
    """The most within any one period."""
    return max(
        (number + 1 - bisect_left(taken, moment - PERIOD) for number, moment in enumerate(taken)), default=0
    )


@pytest.fixture
def rate(redis_url: str) -> RateLimit:
    return a_rate(redis_url)


def a_rate(url: str | None, *, limit: int = LIMIT, period: float = PERIOD) -> RateLimit:
    return RateLimit(open_rate_redis(url), calls_per_minute=limit, processes=PROCESSES, period_seconds=period)


def take(rate: RateLimit, patience: float = 10.0, instance_id: UUID = INSTANCE) -> float:
    """Seconds waited."""

    def pause(seconds: float) -> bool:
        return not threading.Event().wait(seconds)

    return rate.take(instance_id, pause=pause, patience=patience)


# -- Racing ----------------------------------------------------------------------------------------


def test_processes_share_one_budget(redis_url: str) -> None:
    taken = race(redis_url, 3.0)

    assert busiest(taken) <= LIMIT
    assert len(taken) > 1.5 * LIMIT, "the budget is used, too"


def test_an_emptied_redis_gives_no_second_burst(redis_url: str) -> None:
    def empty() -> None:
        client = redis.Redis.from_url(redis_url)
        key = f"wix-calls:{{{INSTANCE}}}"
        wait_until(lambda: bool(client.exists(key)), what="the first call", seconds=10)
        wait_until(lambda: float(client.hget(key, "tokens") or 0) < -5, what="a rush", seconds=10)
        client.flushdb()
        client.close()

    taken = race(redis_url, 3.0, empty)

    assert busiest(taken) <= LIMIT


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_restarted_redis_gives_no_second_burst(durable_servers: embedded.Servers, how: str) -> None:
    valkey = durable_servers.valkey
    valkey.start()
    url = valkey.url

    def restart() -> None:
        client = redis.Redis.from_url(url)
        client.save()  # what it holds is old when it comes back
        client.close()
        if how == "killed":
            valkey.kill()
            valkey.start()
        else:
            valkey.restart()

    taken = race(url, 4.0, restart)

    assert busiest(taken) <= LIMIT
    assert taken[-1] - taken[0] > 2.5, "calls went on after the restart"


def test_without_redis_each_process_keeps_to_its_share() -> None:
    with deaf_port() as port:
        taken = race(f"redis://127.0.0.1:{port}/0", 3.0)

    assert busiest(taken) <= LIMIT * 0.15
    assert taken, "some calls are made all the same"


def test_a_process_cut_off_does_not_make_it_too_many(redis_url: str) -> None:
    with deaf_port() as port:
        cut_off = f"redis://127.0.0.1:{port}/0"
        taken = race([redis_url, redis_url, cut_off], 3.0)

    assert busiest(taken) <= LIMIT


# -- Two workers at Wix ----------------------------------------------------------------------------

WORKER = """
import json, sys, time
from uuid import UUID
from processor.errors import WixUnavailable
from processor.wix.client import WixClient
from processor.wix.credentials import ApiKeyCredentials
from processor.wix.rate import RateLimit, open_rate_redis

url, base_url, instance, limit, period, seconds = json.loads(sys.argv[1])
client = WixClient(
    base_url=base_url,
    credentials=ApiKeyCredentials(
        api_key=instance["apiKey"], site_id=instance["siteId"], instance_id=UUID(instance["instanceId"])
    ),
    timeout_seconds=5,
    on_response=lambda operation, status: None,
    rate=RateLimit(open_rate_redis(url), calls_per_minute=limit, processes=2, period_seconds=period),
)
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        client.check_credentials(UUID(instance["instanceId"]))
    except WixUnavailable:
        pass
client.close()
"""


@pytest.mark.fact("X1")
@pytest.mark.parametrize("redis_is", ["up", "restarted", "absent"])
def test_two_workers_never_exceed_the_budget_by_wixs_own_count(
    durable_servers: embedded.Servers, redis_is: str
) -> None:
    valkey = durable_servers.valkey
    valkey.start()
    limit = 60  # few enough that two workers could exceed it
    with running_sandbox(calls_per_minute=limit, rate_seconds=PERIOD) as sandbox, deaf_port() as port:
        instance = sandbox.world.install({})
        url = f"redis://127.0.0.1:{port}/0" if redis_is == "absent" else valkey.url
        workers = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", WORKER),
                    json.dumps([url, sandbox.url, instance, limit, PERIOD, 4.0]),
                ],
                cwd=Path(__file__).parents[2],
            )
            for _ in range(2)
        ]
        if redis_is == "restarted":
            wait_until(lambda: sandbox.rate.seen() != [], what="the first call", seconds=20)
            valkey.restart()
        assert [worker.wait(timeout=30) for worker in workers] == [0, 0]

        [seen] = sandbox.rate.seen()

    assert seen["refused"] == 0
    assert 0 < seen["peak"] <= limit
    assert seen["answered"] > (4 if redis_is == "absent" else limit)


# -- One bucket ------------------------------------------------------------------------------------


def test_a_burst_gathers_and_is_then_spent(redis_url: str) -> None:
    period = 5 * PERIOD  # a slow machine must not take as slowly as tokens come
    rate = a_rate(redis_url, period=period)
    first = take(rate)
    assert 0 < first <= period, "a new bucket is empty"
    time.sleep(first + LIMIT * 0.10 / (LIMIT * 0.75) * period)  # time is what it gathers by

    waits = [take(rate) for _ in range(40)]

    assert waits[:18] == [0.0] * 18
    assert waits[-1] > 0


def test_calls_beyond_a_burst_are_spread_over_the_minute(rate: RateLimit) -> None:
    began = time.monotonic()

    for _ in range(60):
        take(rate)

    assert time.monotonic() - began > 55 / (LIMIT * 0.75) * PERIOD


def test_a_token_is_never_promised_far_ahead(redis_url: str) -> None:
    """What an emptied Redis forgets is no more than this."""
    client = redis.Redis.from_url(redis_url)
    rate, stop = a_rate(redis_url), threading.Event()

    def wait_long() -> None:
        with suppress(WixUnavailable):
            rate.take(INSTANCE, pause=lambda seconds: not stop.wait(seconds), patience=30.0)

    threads = [threading.Thread(target=wait_long) for _ in range(100)]
    for thread in threads:
        thread.start()
    debts = [float(client.hget(f"wix-calls:{{{INSTANCE}}}", "tokens") or 0) for _ in range(200)]
    stop.set()
    for thread in threads:
        thread.join()
    client.close()

    assert min(debts) >= -(LIMIT * 0.75 * 0.05) - 1


def test_short_lived_processes_do_not_begin_with_a_call_each() -> None:
    for _ in range(20):
        with pytest.raises(WixUnavailable):
            take(a_rate(None), patience=0.0)


def test_patience_ends_with_an_error_that_says_when(rate: RateLimit) -> None:
    rate.hold(INSTANCE, 5.0)

    with pytest.raises(WixUnavailable) as why:
        take(rate, patience=0.1)

    assert why.value.retry_after_seconds is not None
    assert 4 < why.value.retry_after_seconds < 6


def test_instances_do_not_share(rate: RateLimit) -> None:
    rate.hold(INSTANCE, 5.0)

    assert take(rate, instance_id=uuid4()) < 1


@pytest.mark.fact("U25")
def test_wix_asking_to_wait_holds_every_process_back(redis_url: str) -> None:
    one, other = a_rate(redis_url), a_rate(redis_url)

    one.hold(INSTANCE, 1.0)

    assert 0.8 < take(other) < 2
    assert take(one) < 0.2, "the time has passed for both"
    assert take(other, instance_id=uuid4()) < 1


def test_wix_asking_to_wait_is_kept_without_redis() -> None:
    rate = a_rate(None)

    rate.hold(INSTANCE, 1.0)

    assert take(rate) > 0.8


def test_an_endless_retry_after_is_not_believed(redis_url: str) -> None:
    rate = a_rate(redis_url)

    rate.hold(INSTANCE, 1e9)

    with pytest.raises(WixUnavailable) as why:
        take(rate, patience=1.0)
    assert why.value.retry_after_seconds is not None
    assert why.value.retry_after_seconds < 700


@pytest.mark.parametrize("limit", [2, 5, 10, 37])
def test_a_small_limit_is_kept_and_calls_are_still_made(redis_url: str, limit: int) -> None:
    rate = a_rate(redis_url, limit=limit)

    moments = []
    for _ in range(limit * 3):
        take(rate, patience=30)
        moments.append(time.monotonic())

    assert busiest(moments) <= limit


def test_a_closed_client_waits_no_more(rate: RateLimit) -> None:
    with pytest.raises(WixUnavailable, match="closed"):
        rate.take(INSTANCE, pause=lambda seconds: False, patience=10)


def test_a_gate_without_a_limit_lets_everything_through() -> None:
    gate = Gate(None, INSTANCE, lambda seconds: False)

    assert gate.admit(0.0) == 0.0
    gate.hold(5.0)


def test_a_hung_redis_costs_a_moment_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_module, "AWAY_SECONDS", 100.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # takes connections and never answers
        rate = a_rate(f"redis://127.0.0.1:{listening.getsockname()[1]}/0")
        for _ in range(20):
            with suppress(WixUnavailable):
                take(rate, patience=0.0)

        listening.setblocking(False)
        asked = 0
        with suppress(BlockingIOError):
            while True:
                listening.accept()[0].close()
                asked += 1

    assert asked == 1
