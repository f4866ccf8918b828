"""The worker process: RQ, one job at a time, until it is told to stop.

Jobs run in this process rather than in a fork each: they are short, a fork costs more than most of them,
and this way the Wix token and the connections are kept from job to job. What a dying job held in hand
comes back by its lease, so nothing depends on RQ noticing.
"""

from __future__ import annotations

import contextlib
import threading
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from processor import jobs
from processor.queue import QUEUE
from processor.wiring import Services

log = structlog.get_logger(__name__)

RECONNECT_SECONDS = 1.0
MAINTENANCE_SECONDS = 60


class Worker(SimpleWorker):
    """RQ's worker without fork, looking for a Redis that went away at least every two seconds.

    stop: set at the first request to stop, so that the loop around the worker ends too.
    """

    max_connection_wait_time = 2.0

    def __init__(self, *arguments: Any, stop: threading.Event | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.stop = stop if stop is not None else threading.Event()

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if self.stop.is_set():  # asked before these handlers were there
            self._stop_requested = True

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the job in hand, then end. Called as a signal handler."""
        self.stop.set()
        # RQ notes the request in Redis; a Redis that is away must not fail the job this interrupts.
        with contextlib.suppress(RedisError):
            SimpleWorker.request_stop(self, signum, frame)


def run(services: Services, stop: threading.Event, *, burst: bool = False) -> None:
    """Work until a SIGTERM or SIGINT, finishing the job in hand. burst: stop when the queue is empty.

    A Redis that is away is waited for; RQ takes the signals over while it works.
    """
    services.settings.require("redis_url")
    redis_url = str(services.settings.redis_url)
    # Imported before the first job, so that none pays for it.
    log.info(
        "worker_started",
        jobs=[
            one.__name__
            for one in (
                jobs.check_links,
                jobs.sweep,
                jobs.backfill,
                jobs.listen,
                jobs.dispatch,
                jobs.deliver_alerts,
                jobs.prepare,
            )
        ],
    )
    is_away = False
    while not stop.is_set():
        # RQ blocks on this connection for minutes, so it has no read timeout; a dead peer shows by keepalive.
        connection = Redis.from_url(
            redis_url,
            socket_connect_timeout=RECONNECT_SECONDS,
            socket_keepalive=True,
            health_check_interval=15,
        )
        try:
            worker = Worker(
                [QUEUE],
                connection=connection,
                serializer=JSONSerializer,
                maintenance_interval=MAINTENANCE_SECONDS,
                log_job_description=False,
                stop=stop,
            )
            if is_away:
                log.info("redis_back")
                is_away = False
            worker.work(burst=burst, logging_level="WARNING")
            if burst:
                break
        except RedisError as why:
            if not is_away:
                log.error("redis_unavailable", server=_server(redis_url), why=type(why).__name__)
            is_away = True
        finally:
            connection.close()
        stop.wait(RECONNECT_SECONDS)
    log.info("worker_stopped")


def _server(redis_url: str) -> str:
    """Host and port of a Redis URL, or its socket; never the rest, which may hold a password."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return parts.path
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # A password with a slash that was not escaped: what looks like the host is part of it.
        return "of REDIS_URL"
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
