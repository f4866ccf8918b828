"""The job queue: names, and how jobs are enqueued. Ids only travel; the serializer is JSON.

Redis is disposable: everything due is a row in PostgreSQL, and the clock enqueues it again. So enqueueing
answers whether it worked, never raises, and waits a bounded time.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

log = structlog.get_logger(__name__)

QUEUE = "reconcile"
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 1.0
# A job ends itself well before; RQ ends one that hangs. At the pace Wix allows, seven million payments of one link
# are read in that time.
JOB_SECONDS = 21_600
FAILURE_KEPT_SECONDS = 86_400
# More wake-ups than this waiting means that no worker runs; one more would help nobody.
WAKE_UPS_WAITING_MAX = 20

CHECK_LINKS = "processor.jobs.check_links"
SWEEP = "processor.jobs.sweep"
BACKFILL = "processor.jobs.backfill"
DISPATCH = "processor.jobs.dispatch"
DELIVER_ALERTS = "processor.jobs.deliver_alerts"
LISTEN = "processor.jobs.listen"
PREPARE = "processor.jobs.prepare"


@dataclass(frozen=True, slots=True)
class JobQueue:
    """Where this process sends jobs. None for `redis`: no Redis is configured, so nothing is sent."""

    redis: Redis | None

    def enqueue_check(self, instance_id: UUID) -> bool:
        """Ask a worker to check the due links of one instance."""
        return self._enqueue(CHECK_LINKS, str(instance_id))

    def enqueue_sweep(self, instance_id: UUID) -> bool:
        """Ask a worker to poll one instance."""
        return self._enqueue(SWEEP, str(instance_id))

    def enqueue_backfill(self, instance_id: UUID) -> bool:
        """Ask a worker to read the next part of an instance's backfill."""
        return self._enqueue(BACKFILL, str(instance_id))

    def enqueue_delivery(self, channel: str) -> bool:
        """Ask a worker to send the alerts that are due by one channel."""
        return self._enqueue(DELIVER_ALERTS, channel)

    def enqueue_listen(self, instance_id: UUID) -> bool:
        """Ask a worker to verify the silence of one instance."""
        return self._enqueue(LISTEN, str(instance_id))

    def enqueue_prepare(self, key: str, *, in_front: bool) -> bool:
        """Ask a worker to answer a question of a page. in_front: before all that waits."""
        return self._enqueue(PREPARE, key, in_front=in_front)

    def wake_up(self) -> bool:
        """Ask a worker to look for due work at once rather than at the clock's next tick."""
        return self._enqueue(DISPATCH, waiting_max=WAKE_UPS_WAITING_MAX)

    def is_reachable(self) -> bool:
        """Whether Redis answers a PING in time."""
        try:
            return self.redis is not None and bool(self.redis.ping())
        except RedisError:
            return False

    def _enqueue(self, job: str, *args: str, waiting_max: int | None = None, in_front: bool = False) -> bool:
        if self.redis is None:
            return False
        try:
            queue = Queue(QUEUE, connection=self.redis, serializer=JSONSerializer)
            if waiting_max is not None and queue.count >= waiting_max:
                return False
            queue.enqueue(
                job,
                *args,
                job_timeout=JOB_SECONDS,
                result_ttl=0,
                failure_ttl=FAILURE_KEPT_SECONDS,
                at_front=in_front,
                description=" ".join((job.rsplit(".", 1)[-1], *args)),
            )
        except RedisError as why:
            log.warning("enqueue_failed", job=job.rsplit(".", 1)[-1], why=type(why).__name__)
            return False
        return True


def open_queue(url: str | None) -> JobQueue:
    """The queue at a Redis URL; connections are opened when first used."""
    if url is None:
        return JobQueue(None)
    return JobQueue(
        Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            # The library would try again with growing waits; here the clock is the second try.
            retry=Retry(NoBackoff(), 0),
        )
    )
