"""What takes longer than a page may: asked by a page, read by a worker, kept in Redis for some minutes.

A page reads for PAGE_READ_SECONDS itself; what is not through by then is a question, left in Redis for a job, and the
page looks again. Redis is disposable here as well: what is lost is asked anew. An answer holds what the question was
narrowed down to, the app instances of who asked among it, and is found by nothing else than the same question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from redis import Redis

from processor.domain.access import Reach
from processor.store.database import Database
from processor.store.report_views import REPORTS, Scope, Total
from processor.store.screens import links, payments, reports
from processor.store.screens.payments import Totals
from processor.store.screens.reports import Found, TakesTooLong

__all__ = ["TakesTooLong"]

# How long an answer is shown again, and a failure: its page says of when it is, and how to have it read anew.
KEPT = timedelta(minutes=5)
FAILURE_KEPT = timedelta(seconds=30)
# A question that nobody answered is asked again by a page that still waits: its job may be lost, or far behind.
ASKED_AGAIN = timedelta(minutes=2)
WAITING_KEPT = timedelta(minutes=5)
WAITING_MAX = 4  # questions of all pages together
WORKER_SECONDS = 60.0  # for one answer
# Of a worker's minute; questions beyond wait behind the checks of the books instead of going before them.
IN_FRONT_SECONDS = 20.0
_PREFIX = "prepared"


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    """instance_ids: of the reach of who asks, in their order; None for every one."""

    instance_ids: tuple[UUID, ...] | None

    @property
    def reach(self) -> Reach:
        """What who asks may see."""
        return Reach(None if self.instance_ids is None else frozenset(self.instance_ids))


class ReportQuestion(_Question, frozen=True, kw_only=True, tag="report"):
    """A report. columns: of the view, `instance_id` among them. since, until: of `Scope`, days or moments."""

    view: str
    columns: tuple[str, ...]
    limit: int
    instance_id: UUID | None
    since_day: date | None
    since: datetime | None
    until_day: date | None
    until: datetime | None
    currency: str | None

    @classmethod
    def of(
        cls, view: str, scope: Scope, reach: Reach, *, columns: tuple[str, ...], limit: int
    ) -> ReportQuestion:
        """The question for a report within a reach."""

        def day(value: date | None) -> date | None:
            return None if isinstance(value, datetime) else value

        def moment(value: date | None) -> datetime | None:
            return value if isinstance(value, datetime) else None

        return cls(
            instance_ids=_ordered(reach),
            view=view,
            columns=columns,
            limit=limit,
            instance_id=scope.instance_id,
            since_day=day(scope.since),
            since=moment(scope.since),
            until_day=day(scope.until),
            until=moment(scope.until),
            currency=scope.currency,
        )

    @property
    def scope(self) -> Scope:
        """What it is narrowed down to, apart from the reach."""
        return Scope(
            instance_id=self.instance_id,
            since=self.since or self.since_day,
            until=self.until or self.until_day,
            currency=self.currency,
        )


class SumsQuestion(_Question, frozen=True, kw_only=True, tag="sums"):
    """What all payments of a filter add up to."""

    by: payments.Filter

    @classmethod
    def of(cls, by: payments.Filter, reach: Reach) -> SumsQuestion:
        """The question for a filter within a reach."""
        return cls(instance_ids=_ordered(reach), by=by)


class LinkSumsQuestion(_Question, frozen=True, kw_only=True, tag="link_sums"):
    """What all payments of a link add up to."""

    instance_id: UUID
    payment_link_id: UUID

    @classmethod
    def of(cls, instance_id: UUID, link_id: UUID) -> LinkSumsQuestion:
        """The question for a link that who asks may see."""
        return cls(instance_ids=(instance_id,), instance_id=instance_id, payment_link_id=link_id)


Question = ReportQuestion | SumsQuestion | LinkSumsQuestion


class Sums(msgspec.Struct, frozen=True):
    """What all payments of a filter added up to at `as_of`."""

    as_of: _Moment
    totals: Totals


class LinkSums(msgspec.Struct, frozen=True):
    """What all payments of a link added up to at `as_of`, and what was refunded of them, by currency."""

    as_of: _Moment
    booked: links.Booked
    given_back: dict[str, links.GivenBack]


Answer = Found | Sums | LinkSums


def _ordered(reach: Reach) -> tuple[UUID, ...] | None:
    return None if reach.instance_ids is None else tuple(sorted(reach.instance_ids))


def read(database: Database, time_zone: str, question: Question, *, seconds: float, now: datetime) -> Answer:
    """Answer from the books. seconds: for all of it. Raises TakesTooLong."""
    if isinstance(question, ReportQuestion):
        return read_report(database, time_zone, question, seconds=seconds, now=now)
    if isinstance(question, SumsQuestion):
        return read_sums(database, time_zone, question, seconds=seconds, now=now)
    return read_link_sums(database, time_zone, question, seconds=seconds, now=now)


def read_report(
    database: Database, time_zone: str, question: ReportQuestion, *, seconds: float, now: datetime
) -> Found:
    """The report that is asked for. seconds, raises: as `read`."""
    with reports.reading_within(database, time_zone, seconds) as (connection, stage):
        return reports.found(
            connection,
            REPORTS[question.view],
            question.scope,
            question.reach,
            columns=question.columns,
            limit=question.limit,
            as_of=now,
            stage=stage,
        )


def read_sums(
    database: Database, time_zone: str, question: SumsQuestion, *, seconds: float, now: datetime
) -> Sums:
    """The sums that are asked for. seconds, raises: as `read`."""
    with reports.reading_within(database, time_zone, seconds) as (connection, stage):
        stage()
        sought = payments.seek(connection, question.by, question.reach)
        stage()
        added = payments.totals(connection, question.by, question.reach, sought, looked_max=None, stage=stage)
        return Sums(now, added)


def read_link_sums(
    database: Database, time_zone: str, question: LinkSumsQuestion, *, seconds: float, now: datetime
) -> LinkSums:
    """The sums of a link that are asked for. seconds, raises: as `read`."""
    instance_id, link_id = question.instance_id, question.payment_link_id
    with reports.reading_within(database, time_zone, seconds) as (connection, stage):
        stage()
        booked = links.booked(connection, instance_id, [link_id], limit=None)
        stage()
        back = links.given_back(connection, instance_id, link_id, limit=None)
        return LinkSums(now, booked.get(link_id, links.NOTHING), back)


def key_of(question: Question) -> str:
    """What a question and its answer are found by: 40 letters, the same in every process of a release."""
    asked = msgspec.json.encode([_shape(), question])
    return hashlib.blake2b(asked, digest_size=20).hexdigest()


def _shape() -> list[str]:
    """Of the answers: another release that answers otherwise does not find what this one kept."""
    kinds = (Found, Sums, LinkSums, Totals, payments.Sum, Total, reports.Named, reports.Noted, links.Booked)
    return [f"{kind.__name__}.{name}" for kind in kinds for name in kind.__annotations__]


# -- Bytes -------------------------------------------------------------------------------------------

_TYPES: Mapping[str, Any] = {
    "uuid": UUID | None,
    "text": str | None,
    "bigint": int | None,
    "boolean": bool | None,
    "jsonb": dict[str, Any] | None,
    "numeric": Decimal | None,
    "timestamp with time zone": datetime | None,
    "date": date | None,
}
"""Of values, by what PostgreSQL calls their type."""


def packed(answer: Answer) -> bytes:
    """An answer as it is kept."""
    return msgspec.json.encode(
        asdict(answer) | {"rows": answer.rows} if isinstance(answer, Found) else answer
    )


def unpacked_link_sums(kept: bytes) -> LinkSums:
    """The sums of a link that were packed. Raises msgspec.MsgspecError when it was something else."""
    return msgspec.json.decode(kept, type=LinkSums)


def unpacked_sums(kept: bytes) -> Sums:
    """The sums that were packed. Raises msgspec.MsgspecError when it was something else."""
    return msgspec.json.decode(kept, type=Sums)


class _Kept(msgspec.Struct):
    as_of: _Moment
    columns: tuple[str, ...]
    rows: msgspec.Raw
    totals: list[Total]
    named: list[reports.Named]
    noted: list[reports.Noted]


def unpacked_report(kept: bytes, columns: tuple[str, ...], types: Mapping[str, str]) -> Found:
    """The report that was packed. columns: as asked for; types: of them, as PostgreSQL writes them.

    Raises msgspec.MsgspecError when it was something else.
    """
    found = msgspec.json.decode(kept, type=_Kept)
    if found.columns != columns:
        raise msgspec.ValidationError("other columns than were asked for")
    row: Any = tuple.__class_getitem__(
        tuple(_TYPES.get(types[name].partition("(")[0], Any) for name in found.columns)
    )
    rows = msgspec.json.decode(found.rows, type=list[row])
    return Found(found.as_of, found.columns, rows, found.totals, found.named, found.noted)


# -- Kept in Redis -----------------------------------------------------------------------------------


class State(StrEnum):
    """Of a question: a worker has not answered yet, has, or could not."""

    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """at: since when it is so. is_slow: of a failure, that the time did not suffice."""

    state: State
    at: _Moment
    is_slow: bool = False
    question: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class Shelf:
    """Questions and answers in Redis. Every method raises RedisError when it does not answer."""

    redis: Redis

    def look(self, key: str) -> tuple[Status, bytes | None] | None:
        """How a question stands, with the answer that is there. None when it was not asked, or long ago."""
        status, answer = self._get(_name(key), _name(key, "answer"))
        if status is None:
            return None
        try:
            found = msgspec.json.decode(status, type=Status)
        except msgspec.MsgspecError:
            return None  # of another release
        if found.state is State.READY and answer is None:
            return None
        return found, answer

    def ask(self, key: str, question: Question, now: datetime) -> bool:
        """Leave a question. False when too many wait already."""
        waiting = _name("waiting")
        with self.redis.pipeline() as pipeline:
            pipeline.zremrangebyscore(waiting, "-inf", (now - ASKED_AGAIN).timestamp())
            pipeline.zcard(waiting)
            pipeline.zscore(waiting, key)
            _, number, mine = pipeline.execute()
        if number >= WAITING_MAX and mine is None:
            return False
        status = Status(state=State.WAITING, at=now, question=msgspec.Raw(msgspec.json.encode(question)))
        with self.redis.pipeline() as pipeline:
            pipeline.zadd(waiting, {key: now.timestamp()})
            pipeline.set(_name(key), msgspec.json.encode(status), ex=WAITING_KEPT)
            pipeline.execute()
        return True

    def forget(self, key: str) -> None:
        """Take a question back that no job was sent for."""
        self.redis.delete(_name(key))
        self.redis.zrem(_name("waiting"), key)

    def may_go_in_front(self, now: datetime) -> bool:
        """Whether the job may go before the checks of the books."""
        spent = self._get(_minute(now), _minute(now - timedelta(minutes=1)))
        return sum(float(one or 0) for one in spent) < IN_FRONT_SECONDS

    def take(self, key: str) -> tuple[Question, datetime] | None:
        """The question and when it was asked by the clock of its page, None when it is answered or forgotten.

        Raises msgspec.MsgspecError on another release's.
        """
        [status] = self._get(_name(key))
        found = None if status is None else msgspec.json.decode(status, type=Status)
        if found is None or found.state is not State.WAITING:
            return None
        return msgspec.json.decode(found.question, type=Question), found.at

    def put(self, key: str, answer: Answer, now: datetime) -> None:
        """Keep an answer."""
        with self.redis.pipeline() as pipeline:
            pipeline.set(_name(key, "answer"), packed(answer), ex=KEPT)
            pipeline.set(_name(key), msgspec.json.encode(Status(state=State.READY, at=now)), ex=KEPT)
            pipeline.zrem(_name("waiting"), key)
            pipeline.execute()

    def fail(self, key: str, now: datetime, *, is_slow: bool) -> None:
        """Say for a while that there is no answer."""
        status = Status(state=State.FAILED, at=now, is_slow=is_slow)
        self.redis.set(_name(key), msgspec.json.encode(status), ex=FAILURE_KEPT)
        self.redis.zrem(_name("waiting"), key)

    def spend(self, seconds: float, now: datetime) -> None:
        """Count what an answer took of a worker's time."""
        with self.redis.pipeline() as pipeline:
            pipeline.incrbyfloat(_minute(now), seconds)
            pipeline.expire(_minute(now), 180)
            pipeline.execute()

    def _get(self, *names: str) -> list[bytes | None]:
        found: Any = self.redis.mget(names)
        return list(found)


def _name(*parts: str) -> str:
    return ":".join((_PREFIX, *parts))


def _minute(now: datetime) -> str:
    return _name("spent", f"{now:%Y-%m-%dT%H:%M}")
