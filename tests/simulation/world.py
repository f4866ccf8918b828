"""A pretend Wix and our service beside it, under one clock that moves only when told to.

Everything is real but time: the sandbox answers over HTTP, the endpoint is the Flask application, jobs go through Redis
and run in this thread, the books are in PostgreSQL. Days pass in a second, and one seed is one story, to the letter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import redis
import structlog
from flask.testing import FlaskClient
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import text

from processor import clock, wiring
from processor.config import Settings
from processor.queue import QUEUE, open_queue
from processor.sandbox.core import Rules
from processor.sandbox.documents import Document
from processor.sandbox.server import Sandbox, running_sandbox
from processor.web import create_app
from processor.web.webhooks import PATH
from processor.wiring import Services
from processor.wix import client, wire

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
ENDPOINT = f"http://service.test{PATH}"
SETTLING = timedelta(minutes=10)
# As in operation, but for fewer and longer gaps: a poll every eighteen hours, the last recheck after a day.
PACE = {
    "SETTLING_SECONDS": str(SETTLING.total_seconds()),
    "RECHECK_SECONDS": "900,7200,86400",
    "SWEEP_SECONDS": "64800",
    "WIX_TIMEOUT_SECONDS": "30",
    "WIX_CALLS_PER_MINUTE": "1000000",
}
# What is due within one of these is done at its end: of resends each has a moment of its own.
GRAIN = timedelta(minutes=10)
LOST_AFTER = timedelta(seconds=31)  # then the clock enqueues again what Redis lost
IDLE = timedelta(hours=8)  # at least so often the clock ticks
TURNS_MAX = 3_000  # of the schedule between two steps; more is no coming to rest


class Killed(BaseException):
    """The worker is killed here. No handler of the service may catch it."""


class WentWrong(AssertionError):
    """The service is not as it must be."""


@dataclass(slots=True)
class Weather:
    """What else than the sandbox's own faults is bad for a while.

    down_until: the endpoint answers nothing good before. answers_lost: share of answers that never reach Wix. idle:
    share of moments at which no worker is free. dies_in: calls to Wix until the worker at them is killed, None for not.
    """

    down_until: datetime = START
    answers_lost: float = 0.0
    idle: float = 0.0
    dies_in: int | None = None


@dataclass
class World:
    """Wix, the service and time.

    names: by id, how the trace calls it. answered: by instance and event id, the types of what we said 200 to;
    app_events: the same of those without an id, by content and date. told_payments: ids of payments we said 200 to an
    event of. told: by payment and revision, what Wix ever said or showed of it: link, amount, currency. revisions: by
    payment, the highest that was ever booked.
    """

    seed: int
    chance: random.Random
    sandbox: Sandbox
    services: Services
    endpoint: FlaskClient
    redis: redis.Redis
    weather: Weather
    trace: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    answered: dict[tuple[str, str], str] = field(default_factory=dict)
    app_events: set[tuple[str, int]] = field(default_factory=set)
    told_payments: set[str] = field(default_factory=set)
    told: dict[str, dict[int, set[tuple[str, Decimal, str]]]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    moment: datetime = START

    # -- Telling the story -------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Add to the trace."""
        passed = self.moment - START
        hours, rest = divmod(int(passed.total_seconds()), 3600)
        self.trace.append(f"{hours:3}:{rest // 60:02}:{rest % 60:02}  {line}")

    def name(self, kind: str, id_: str) -> str:
        """A short name for an id, the same all through the story."""
        if id_ not in self.names:
            number = sum(known.startswith(kind) for known in self.names.values()) + 1
            self.names[id_] = f"{kind}{number}"
        return self.names[id_]

    # -- Time --------------------------------------------------------------------------------------

    def pass_until(self, until: datetime) -> None:
        """Let everything happen that is due until then, in the order of its time."""
        for _ in range(TURNS_MAX):
            due = min(self._next(), until)
            self.moment = max(self.moment, due)
            delivered = self.sandbox.deliverer.deliver_due()
            is_end = self.moment >= until
            if is_end or not delivered or self.chance.random() >= self.weather.idle:
                self.work()
            self.look()
            if is_end:
                return
        raise WentWrong(f"the schedule does not come to rest: {TURNS_MAX} turns before {until}")

    def _next(self) -> datetime:
        """When something is due next."""
        moments = [self.moment + IDLE]
        seconds = self.sandbox.deliverer.next_due()
        if seconds is not None:
            moments.append(self.moment + timedelta(seconds=max(0.0, seconds)))
        for due in self.column("""
            SELECT GREATEST(c.due_at, c.lease_until) FROM link_checks c JOIN app_instances a USING (instance_id)
            WHERE c.due_at IS NOT NULL AND a.status <> 'removed'
            UNION ALL
            SELECT GREATEST(s.due_at, s.lease_until) FROM sweeps s JOIN app_instances a USING (instance_id)
            WHERE a.status = 'installed'"""):
            # Due already, and yet it was not done: its job was lost.
            moments += [due if due > self.moment else self.moment + LOST_AFTER]
        since = min(moments) - START
        return START - (-since // GRAIN) * GRAIN

    def work(self) -> None:
        """The clock ticks, and a worker does whatever is enqueued."""
        clock.tick(self.services)
        queue = Queue(QUEUE, connection=self.redis, serializer=JSONSerializer)
        while queue.count:
            job = Job.fetch(str(queue.pop_job_id()), connection=self.redis, serializer=JSONSerializer)
            job.delete()
            try:
                job.func(*job.args)
            except Killed:
                self.say("the worker was killed")

    def empty_redis(self) -> None:
        """Redis forgets everything."""
        self.redis.flushdb()

    # -- The endpoint ------------------------------------------------------------------------------

    def receive(self, url: str, token: str) -> tuple[int | None, str | None]:
        """What Wix is answered to a delivery: as `processor.sandbox.delivery.Post`."""
        assert url == ENDPOINT
        if self.moment < self.weather.down_until:
            return (503, None) if self.chance.random() < 0.5 else (None, "ConnectError")
        status = self.endpoint.post(PATH, data=token, content_type="text/plain").status_code
        if status == 200:
            self._note_answered(token)
        elif status != 401:
            raise WentWrong(f"a delivery was answered {status}")
        if self.chance.random() < self.weather.answers_lost:
            return None, "ReadTimeout"
        return status, None

    def _note_answered(self, token: str) -> None:
        claims = json.loads(decoded(token.split(".")[1]))
        envelope = json.loads(claims["data"])
        event = json.loads(envelope["data"])
        if "id" not in event:
            self.app_events.add((claims["data"], claims["iat"]))
            return
        self.answered[envelope["instanceId"], event["id"]] = envelope["eventType"]
        if "payment_link_payment_" in envelope["eventType"]:
            self.told_payments.add(event["entityId"])

    def installed_at(self, instance_id: str) -> datetime | None:
        """The latest date by which Wix told us that the site has the app, None when it never did."""
        dates = [
            issued_at
            for data, issued_at in self.app_events
            if (envelope := json.loads(data))["instanceId"] == instance_id
            and envelope["eventType"] == wire.APP_INSTALLED
        ]
        return datetime.fromtimestamp(max(dates), UTC) if dates else None

    def sign(self, event: Document, change: dict[str, Any], *, event_id: str | None = None) -> str:
        """An event's token with something else in its payment. event_id: another than its own, None for that."""
        envelope = dict(event["envelope"])
        inner = json.loads(envelope["data"])
        for holder in ("createdEvent", "updatedEvent"):
            for where in ("entity", "currentEntity", "entityAsJson"):
                if where in inner.get(holder, {}):
                    entity = inner[holder][where]
                    if where == "entityAsJson":
                        inner[holder][where] = json.dumps(json.loads(entity) | change)
                    else:
                        inner[holder][where] = entity | change
        if event_id is not None:
            inner["id"] = event_id
        envelope["data"] = json.dumps(inner)
        issued = int(self.moment.timestamp())
        return self.sandbox.key.sign({"data": json.dumps(envelope), "iat": issued, "exp": issued + 300_000})

    # -- What Wix holds ----------------------------------------------------------------------------

    def documents(self, kind: str, **equal: Any) -> list[Document]:
        """What Wix really has, oldest first."""
        return self.sandbox.documents.find(kind, equal)

    def document(self, kind: str, id_: str) -> Document:
        """One of them."""
        found = self.sandbox.documents.get(kind, id_)
        assert found is not None
        return found

    def rewrite(self, kind: str, id_: str, **changed: Any) -> None:
        """Wix holds something else of an entity than it told, at the same revision."""
        document = self.document(kind, id_)
        document["entity"] |= changed
        self.sandbox.documents.put(kind, id_, document)

    def note_told(self) -> None:
        """Note what Wix says of every payment at this moment."""
        for payment in self.documents("payment"):
            entity = payment["entity"]
            if isinstance(entity["amount"], str):
                self.note_said(payment["id"], entity)

    def note_said(self, payment_id: str, entity: Document) -> None:
        """Note that Wix said this of a payment, or shows it."""
        said = (
            entity["paymentLinkId"],
            Decimal(entity["amount"]),
            entity.get("currency") or entity["currencyCode"],
        )
        self.told.setdefault(payment_id, {}).setdefault(int(entity["revision"]), set()).add(said)

    # -- What we hold ------------------------------------------------------------------------------

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.services.database.begin() as connection:
            return list(connection.execute(text(sql), values).all())

    def column(self, sql: str, **values: Any) -> list[Any]:
        """The first column of the rows."""
        return [row[0] for row in self.rows(sql, **values)]

    # -- What must hold at every moment ------------------------------------------------------------

    def look(self) -> None:
        """Raises WentWrong when something is not as it must be at every moment, whatever the weather."""
        booked = self.rows(
            "SELECT payment_id, revision, payment_link_id, amount, currency, last_verdict FROM payments"
        )
        for row in booked:
            id_ = str(row.payment_id)
            if id_ not in self.told:
                raise WentWrong(f"payment {id_} is booked, of which Wix never told")
            said = self.told[id_].get(row.revision, set())
            if (str(row.payment_link_id), row.amount, row.currency) not in said:
                raise WentWrong(f"{self.name('P', id_)} is booked as Wix never told of it: {row}")
            if row.revision < self.revisions.get(id_, 0):
                raise WentWrong(f"{self.name('P', id_)} went back to revision {row.revision}")
            self.revisions[id_] = row.revision
        stored = self.rows("SELECT instance_id, event_id, kind FROM webhook_events")
        entities = {
            (str(row.instance_id), str(row.event_id)) for row in stored if not row.kind.startswith("app_")
        }
        if entities != self.answered.keys():
            lost, made_up = self.answered.keys() - entities, entities - self.answered.keys()
            raise WentWrong(
                f"events answered 200 and not stored: {lost}; stored and never answered: {made_up}"
            )
        apps = sum(row.kind.startswith("app_") for row in stored)
        if apps != len(self.app_events):
            raise WentWrong(f"{len(self.app_events)} app events were answered 200, {apps} are stored")
        self._look_at_ages()

    def _look_at_ages(self) -> None:
        """No discrepancy that time may cure was opened before the settling time was over."""
        last: dict[str, datetime] = {}
        for payment in self.documents("payment"):
            at = datetime.fromisoformat(payment["entity"]["createdDate"])
            for id_ in (payment["id"], payment["linkId"]):
                last[id_] = max(at, last.get(id_, at))
        for row in self.rows(
            "SELECT type, payment_link_id, payment_id, opened_at FROM discrepancies"
            " WHERE closed_at IS NULL AND type = ANY(:types)",
            types=list(WAIT_TO_SETTLE),
        ):
            id_ = str(row.payment_id or row.payment_link_id)
            # One that stays open while more is paid is as old as it is.
            before = last.get(id_)
            if before is not None and before <= row.opened_at < before + SETTLING:
                raise WentWrong(
                    f"{row.type} of {self.names.get(id_, id_)} was opened {row.opened_at - before} after it happened"
                )

    def digest(self) -> str:
        """One line that differs when the books do, in anything but ids of runs and leases."""
        told = hashlib.sha256()
        for sql in _BOOKS:
            for row in self.rows(sql):
                told.update(repr(tuple(map(str, row))).encode())
        return told.hexdigest()


WAIT_TO_SETTLE = (
    "missing_at_wix",
    "behind_at_wix",
    "total_differs",
    "count_differs",
    "over_limit",
    "order_amount_differs",
)
"""Types that come with lag as well, and so wait for the settling time after a payment."""

_BOOKS = (
    """SELECT instance_id, payment_id, revision, payment_link_id, amount, currency, receipt_id, match_state, matched_at,
        first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at, erased_at
        FROM payments ORDER BY 1, 2""",
    """SELECT instance_id, event_id, kind, status, delivery_count, conflict_count, received_at, last_received_at
        FROM webhook_events ORDER BY 1, 2""",
    """SELECT instance_id, type, payment_link_id, payment_id, severity, state, reason, sides, amount_at_risk, currency,
        first_seen_at, opened_at, closed_at, times_reopened
        FROM discrepancies ORDER BY instance_id, type, payment_link_id, payment_id""",
    """SELECT instance_id, payment_link_id, status, payment_count, total_amount, seen_at, missing_since, inactive_since
        FROM payment_links ORDER BY 1, 2""",
    "SELECT instance_id, payment_link_id, wanted, checked, due_at, last_checked_at FROM link_checks ORDER BY 1, 2",
    """SELECT instance_id, kind, status, started_at, link_count, matched, expected, recovered, discrepant, opened,
        resolved
        FROM reconciliation_runs ORDER BY started_at, instance_id, kind, status, link_count, matched""",
    "SELECT instance_id, status FROM app_instances ORDER BY 1",
)


def decoded(segment: str) -> bytes:
    """A part of a token."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _rules(chance: random.Random) -> Rules:
    return Rules(
        currency_field=chance.choice(("currency", "currencyCode")),
        refund_raises_update=chance.random() < 0.3,
        totals_fall_on_refund=chance.random() < 0.3,
        split_counts_once=chance.random() < 0.3,
        link_tells_of_payments=chance.random() < 0.7,
        token_lifetime_seconds=chance.choice((3_600, 300_000)),
        retry_after=chance.random() < 0.3,
    )


@contextmanager
def a_world(seed: int, database_url: str, redis_url: str, **settings: str) -> Iterator[World]:
    """A world of this seed at its beginning, on a migrated and empty database and an empty Redis."""
    chance = random.Random(f"story {seed}")
    ids = random.Random(f"ids {seed}")
    made: list[World] = []
    with ExitStack() as stack:
        stack.enter_context(_silence())
        # A call that is refused is made again at once, and not after a random part of a real second.
        stack.enter_context(mock.patch.object(client, "BACKOFF_SECONDS", 0.0))
        sandbox = stack.enter_context(
            running_sandbox(
                seed=seed,
                rules=_rules(chance),
                calls_per_minute=1_000_000,
                delivery_deadline_seconds=60.0,
                now=lambda: made[0].moment if made else START,
                new_id=lambda: UUID(int=ids.getrandbits(128), version=4),
                post=lambda url, token: made[0].receive(url, token),
                is_by_hand=True,
            )
        )
        app = sandbox.documents.get("app", "app")
        assert app is not None
        environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "WIX_API_URL": sandbox.url,
            "WIX_APP_ID": app["appId"],
            "WIX_APP_SECRET": app["appSecret"],
            "WIX_PUBLIC_KEYS": sandbox.key.public_pem,
            **PACE,
            **settings,
        }
        read = Settings.read(environ)
        services = wiring.build(read, role="worker", now=lambda: made[0].moment)
        stack.callback(services.close)
        # A busy machine must not make a story another. Without Redis the clock alone says when there is work.
        patient = replace(services, settings=replace(read, answer_seconds=60.0), queue=open_queue(None))
        flask = create_app(patient)
        stack.callback(flask.extensions["intake"].close)
        store = stack.enter_context(redis.Redis.from_url(redis_url))
        world = World(seed, chance, sandbox, services, flask.test_client(), store, Weather())
        made.append(world)
        stack.enter_context(mock.patch.object(wiring, "from_environ", return_value=services))
        stack.enter_context(mock.patch.object(client.Http, "exchange", _deadly(world)))
        sandbox.set_webhook(ENDPOINT)
        yield world


def _deadly(world: World) -> Any:
    exchange = client.Http.exchange

    def call(http: client.Http, *given: Any, **more: Any) -> Any:
        weather = world.weather
        if weather.dies_in is not None:
            weather.dies_in -= 1
            if weather.dies_in < 0:
                weather.dies_in = None
                raise Killed
        return exchange(http, *given, **more)

    return call


@contextmanager
def _silence() -> Iterator[None]:
    """No log lines: the trace tells the story."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


def _drop(_: Any, __: str, ___: Any) -> Any:
    raise structlog.DropEvent
