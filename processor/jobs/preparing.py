"""Answering what takes longer than a page may."""

from __future__ import annotations

import time

import msgspec
import structlog

from processor import prepared
from processor.prepared import Shelf, TakesTooLong
from processor.wiring import Services

log = structlog.get_logger(__name__)


def run_prepare(services: Services, key: str) -> None:
    """Answer the question that waits under `key`; does nothing when none does. Raises what keeps it from an answer."""
    if services.queue.redis is None:
        return
    shelf = Shelf(services.queue.redis)
    try:
        taken = shelf.take(key)
    except msgspec.MsgspecError:
        # Of another release, which answers it itself or asks anew.
        log.info("question_of_another_release", key=key)
        return
    if taken is None:
        return
    question, asked_at = taken
    began = time.monotonic()
    try:
        answer = prepared.read(
            services.database,
            services.settings.report_time_zone,
            question,
            seconds=prepared.WORKER_SECONDS,
            # A worker whose clock is behind that of the page reads after it was asked, all the same.
            now=max(services.now(), asked_at),
        )
    except TakesTooLong:
        # Nothing is broken: the page says to ask for less.
        shelf.fail(key, services.now(), is_slow=True)
    except Exception:
        # The page is told at once; the job fails with it, where an operator finds why.
        shelf.fail(key, services.now(), is_slow=False)
        raise
    else:
        shelf.put(key, answer, services.now())
    finally:
        shelf.spend(time.monotonic() - began, services.now())
