"""What is due, sent to the queue."""

from __future__ import annotations

from datetime import datetime, timedelta

from processor.store import checks
from processor.wiring import Services

# A job enqueued longer ago than this and not begun is taken for lost. Enqueueing twice is harmless.
LOST_AFTER = timedelta(seconds=30)


def enqueue_due_checks(services: Services, now: datetime) -> int:
    """Drain the outbox, then enqueue one check job for each instance with due links. Returns how many."""
    with services.database.begin() as connection:
        while checks.drain(connection, now) == checks.DRAIN_MAX:
            pass
    with services.database.begin() as connection:
        due = checks.take_instances_to_enqueue(connection, now, LOST_AFTER)
    return sum(services.queue.enqueue_check(instance_id) for instance_id in due)
