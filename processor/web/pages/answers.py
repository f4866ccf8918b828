"""Answers that take their time: read within the page if that is quick, else by a worker while the page looks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import BoundedSemaphore
from typing import TypeVar

import msgspec
from flask import request
from redis.exceptions import RedisError

from processor import prepared
from processor.errors import StoreUnavailable
from processor.prepared import Question, Shelf, State, TakesTooLong
from processor.web.pages.site import Busy, Site

LATE = timedelta(seconds=20)  # until a page that waits says that perhaps no worker runs
PAGE_SECONDS = 15.0  # where no worker can be asked
WAIT_SECONDS = 2.0  # for each of the places one needs then
A = TypeVar("A", bound=prepared.Answer)


class Unanswered(StoreUnavailable):
    """A worker could not read what was asked; why is in its log, and in the list of jobs."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A worker was asked, at `since`."""

    since: datetime


def answer(
    site: Site,
    question: Question,
    places: BoundedSemaphore,
    *,
    read: Callable[[float], A],
    unpacked: Callable[[bytes], A],
    is_quick: bool = True,
) -> A | Pending:
    """What answers `question`, or that a worker was asked for it.

    places: for what is read here, of its kind. read: does that, within so many seconds; unpacked: what a worker kept.
    is_quick: whether it may be through at once; else a worker is asked without a try.
    The address may name in `after` a moment: then an answer of then or before is none. Raises TakesTooLong, Busy and
    Unanswered.
    """

    def here() -> A:
        with site.long_read(places, wait_seconds=WAIT_SECONDS):
            return read(PAGE_SECONDS)

    services = site.services
    redis, now = services.queue.redis, services.now()
    if redis is None:
        return here()
    shelf, key = Shelf(redis), prepared.key_of(question)
    try:
        found = _kept(shelf, key, unpacked, now)
        if found is not None:
            return found
        quick = _quickly(site, places, read) if is_quick else None
        if quick is not None:
            return quick
        if not shelf.ask(key, question, now):
            raise Busy
        is_asked = services.queue.enqueue_prepare(key, in_front=shelf.may_go_in_front(now))
        if not is_asked:
            shelf.forget(key)
    except RedisError:
        is_asked = False
    return Pending(now) if is_asked else here()


def _kept(shelf: Shelf, key: str, unpacked: Callable[[bytes], A], now: datetime) -> A | Pending | None:
    found = shelf.look(key)
    if found is None:
        return None
    status, packed = found
    if status.state is State.WAITING:
        return Pending(status.at) if now - status.at < prepared.ASKED_AGAIN else None
    if status.state is State.FAILED:
        raise TakesTooLong("a worker was not through in time") if status.is_slow else Unanswered(key)
    assert packed is not None
    try:
        kept = unpacked(packed)
    except msgspec.MsgspecError:
        return None  # of another release
    after = _after(now)
    return kept if after is None or kept.as_of > after else None


def _after(now: datetime) -> datetime | None:
    try:
        moment = datetime.fromisoformat(request.args.get("after", ""))
    except ValueError:
        return None
    # Of what is to come there will be no answer, and a page would ask for one for ever.
    return moment if moment.tzinfo is not None and moment <= now else None


def _quickly(site: Site, places: BoundedSemaphore, read: Callable[[float], A]) -> A | None:
    seconds = site.services.settings.page_read_seconds
    if not seconds:
        return None
    try:
        with site.long_read(places):
            return read(seconds)
    except (StoreUnavailable, Busy):
        return None  # of a database that is away, the rest of the page says so
