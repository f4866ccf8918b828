"""The inbox: what Wix delivered, stored in one statement of one transaction before it is answered.

Two statements take their rows as one JSON parameter, and the signed bodies, which are larger than all the rest and need
no reading, as an array beside it: so they serve a batch as well as one event. `_inserting` stores
what is plainly new: an event nobody told us of, about a payment nobody told us of, of a site that has the app. That is
nearly all. `_RECORD` stores whatever it left: it stores each event once, counts every further delivery, applies the
payment behind the guard of revisions, and keeps the version told. Both append a check request. Neither updates a row
shared by a link or instance: a hot row held until the disk answers would make commits queue behind each other.

`Inbox` gathers the deliveries of all request threads into batches (`store.group`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, IntegrityError

from processor.domain.event import Event, Kind
from processor.domain.payment import Origin, Verdict
from processor.errors import ProcessorError, StoreUnavailable, Unreadable
from processor.store import payments
from processor.store.database import NOT_MIGRATED, UNMIGRATED, Database, first_line
from processor.store.group import AGAIN, Again, GroupCommit, Lane, LaneBroken

BATCH_MAX = 256  # events in one statement
# More wait only when threads outnumber it; whoever comes then is sent away rather than answered too late.
WAITING_MAX = 1_024
LOCK_SHARE = 0.25  # of the time for the answer, spent waiting for one lock before the others go ahead
# Of the same: while no more is gone, what failed for no fault of its own is tried again.
REPEATABLE_SHARE = 0.4
_VALUE_REFUSED = ("22", "23")  # SQLSTATE classes: data exception, integrity violation
_HELD_UP = ("55P03", "40P01", "57014")  # lock not available, deadlock, statement cancelled
# How the statement is planned, and the foreign keys' own look-ups with it, for tables of any size. The planner takes
# each batch for one row, and would loop over it for each of its rows.
_PLANNER = {"enable_seqscan": "off", "enable_nestloop": "off", "jit": "off"}
_CHECK = "23514"
# A migration changed what a prepared statement returns; it is gone, by DISCARD ALL or another pooled connection.
_NOT_AS_PREPARED = ("0A000", "26000")


class Outcome(StrEnum):
    """What became of one delivery."""

    STORED = "stored"
    HELD = "held"
    IGNORED = "ignored"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One verified delivery of an event. token: as received; token_digest: its SHA-256, 32 bytes."""

    event: Event
    token: str
    token_digest: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer of the inbox for one event. verdict: None unless a payment was judged."""

    outcome: Outcome
    verdict: Verdict | None


_STATUS = {
    Kind.PAYMENT: "recorded",
    Kind.LINK: "recorded",
    Kind.APP_INSTALLED: "recorded",
    Kind.APP_REMOVED: "recorded",
    Kind.OTHER: "ignored",
}

_EVENT_COLUMNS = """
    event_type text, kind text, slug text, entity_id uuid, entity_sequence bigint, link_id uuid,
    occurred_at timestamptz, issued_at timestamptz, delivery_count int, status text, reason text,
    reason_detail text, content_digest bytea, token_digest bytea, site_id uuid, account_id uuid
"""

# Tables are looked up by scalar subqueries, one index probe for each row, whatever the planner believes of their size:
# it is planned once, perhaps when they were empty. So no other index than the key may serve a look-up: the key of
# events begins with the event's id, and IS NOT DISTINCT FROM is no condition for an index. The joins are of what the
# statement itself holds.
_TOLD = f"""
    SELECT * FROM ROWS FROM (json_to_recordset(CAST(%(events)s AS json))
        AS ({_EVENT_COLUMNS}, {payments.TELLING_COLUMNS}), unnest(CAST(%(tokens)s AS text[]))) WITH ORDINALITY"""
_TOLD_EVENT = """t.instance_id, t.event_id, t.event_type, t.kind, t.slug, t.entity_id, t.entity_sequence, t.link_id,
        t.occurred_at, t.issued_at, t.told_at, t.told_at, t.delivery_count"""
_EVENT = """instance_id, event_id, event_type, kind, slug, entity_id, entity_sequence, payment_link_id,
        occurred_at, issued_at, received_at, last_received_at, delivery_count, status, reason, reason_detail,
        is_anonymization, content_digest, token_digest"""


# Plain inserts: whoever is faster with one of these ids makes it fail whole, and it is left to `_RECORD`. PostgreSQL
# runs them from the last to the first, so events are locked before payments, as in `_RECORD`, and each in the order
# of its keys: several processes do not wait for each other in a circle.
def _inserting(*, is_alone: bool) -> str:
    """The statement for what is plainly new. is_alone: for one event only: it needs no order, which takes its time."""
    by_event, by_payment = (
        ("", "") if is_alone else ("ORDER BY instance_id, event_id", payments.ORDER_BY_PAYMENT)
    )
    return f"""
WITH told AS MATERIALIZED ({_TOLD} t
    WHERE (SELECT a.status FROM app_instances a WHERE a.instance_id = t.instance_id) = 'installed'
        AND (SELECT true FROM webhook_events e
            WHERE e.event_id = t.event_id AND e.instance_id IS NOT DISTINCT FROM t.instance_id) IS NULL
        AND (SELECT true FROM payments p
            WHERE p.instance_id = t.instance_id AND p.payment_id = t.entity_id) IS NULL
    {by_event}
), requests AS (
    INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
    SELECT instance_id, link_id, told_at FROM told WHERE link_id IS NOT NULL
), {payments.inserting("told", order=by_payment)}, evidence AS (
    INSERT INTO webhook_event_tokens (instance_id, event_id, received_at, token)
    SELECT instance_id, event_id, told_at, unnest FROM told
), stored AS (
    INSERT INTO webhook_events ({_EVENT})
    SELECT {_TOLD_EVENT}, t.status, t.reason, t.reason_detail, t.is_anonymization, t.content_digest, t.token_digest
    FROM told t
)
SELECT ordinality FROM told
"""


_RECORD = f"""
WITH told AS MATERIALIZED ({_TOLD}
), first_seen AS (
    INSERT INTO app_instances (instance_id, site_id, account_id, first_seen_at)
    SELECT DISTINCT ON (instance_id) instance_id, site_id, account_id, told_at FROM told t
    WHERE (SELECT true FROM app_instances a WHERE a.instance_id = t.instance_id) IS NULL
    ORDER BY instance_id
    ON CONFLICT DO NOTHING
), stored AS (
    INSERT INTO webhook_events AS e ({_EVENT})
    SELECT {_TOLD_EVENT},
        -- A test of the dashboard, or a site that installed the app unknown to us: nothing is booked for an
        -- instance until Wix vouches for it.
        CASE WHEN t.status = 'recorded' AND t.kind IN ('payment', 'link')
            AND COALESCE((SELECT a.status FROM app_instances a WHERE a.instance_id = t.instance_id),
                'unconfirmed') = 'unconfirmed' THEN 'held' ELSE t.status END,
        t.reason, t.reason_detail, t.is_anonymization, t.content_digest, t.token_digest
    FROM told t
    ORDER BY t.instance_id, t.event_id
    ON CONFLICT (instance_id, event_id) DO UPDATE SET
        delivery_count = e.delivery_count + excluded.delivery_count,
        last_received_at = GREATEST(e.last_received_at, excluded.last_received_at),
        conflict_count = e.conflict_count + (e.content_digest <> excluded.content_digest)::int
    RETURNING e.instance_id, e.event_id, e.status, e.delivery_count, e.content_digest, e.erased_at
), judged AS (
    -- The first delivery of an event is the one whose count is what this statement brought.
    SELECT t.*, s.status AS stored_status, s.delivery_count = t.delivery_count AS is_first,
        s.content_digest <> t.content_digest AS is_conflict, s.erased_at IS NOT NULL AS is_blank
    FROM told t JOIN stored s USING (instance_id, event_id)
), evidence AS (
    INSERT INTO webhook_event_tokens (instance_id, event_id, received_at, token)
    SELECT instance_id, event_id, told_at, unnest FROM judged WHERE is_first
), conflicts AS (
    INSERT INTO webhook_event_conflicts AS c (
        instance_id, event_id, content_digest, token_digest, token, received_at, last_received_at, erased_at)
    -- What was erased with a buyer is not brought back by another body: of a refund, it names no payment here.
    SELECT instance_id, event_id, content_digest, token_digest, CASE WHEN NOT is_blank THEN unnest END, told_at,
        told_at, CASE WHEN is_blank THEN told_at END
    FROM judged WHERE is_conflict ORDER BY instance_id, event_id
    ON CONFLICT (instance_id, event_id, content_digest) DO UPDATE SET
        delivery_count = c.delivery_count + 1,
        last_received_at = GREATEST(c.last_received_at, excluded.last_received_at)
), applicable AS (
    SELECT * FROM judged WHERE is_first AND stored_status = 'recorded' AND payment_id IS NOT NULL
), {payments.applying("applicable")}, requests AS (
    INSERT INTO check_requests (instance_id, payment_link_id, requested_at)
    SELECT instance_id, link_id, told_at FROM judged WHERE link_id IS NOT NULL AND (is_first OR is_conflict)
)
SELECT j.ordinality, CASE WHEN j.is_conflict THEN 'conflict' WHEN NOT j.is_first THEN 'duplicate'
        WHEN j.stored_status = 'recorded' THEN 'stored' ELSE j.stored_status END,
    CASE WHEN j.is_first THEN paid.last_verdict END,
    paid.erased_at IS NOT NULL OR (SELECT p.erased_at FROM payments p
        WHERE p.instance_id = j.instance_id AND p.payment_id = j.entity_id) IS NOT NULL
FROM judged j LEFT JOIN paid ON paid.instance_id = j.instance_id AND paid.payment_id = j.payment_id
"""


class _Record(Struct, omit_defaults=True, gc=False):
    """A delivery as the statements read it: what is None is left out, and NULL all the same.

    The second half is a telling (`payments.telling`), None throughout for an event that tells of no payment.
    """

    instance_id: UUID
    event_id: UUID
    event_type: str
    kind: str
    slug: str | None
    entity_id: UUID | None
    entity_sequence: int | None
    link_id: UUID | None
    occurred_at: datetime | None
    issued_at: datetime | None
    told_at: datetime
    delivery_count: int
    status: str
    reason: str | None
    reason_detail: str | None
    is_anonymization: bool
    content_digest: str
    token_digest: str
    site_id: UUID | None
    account_id: UUID | None
    payment_id: UUID | None = None
    revision: int | None = None
    payment_link_id: UUID | None = None
    amount: Decimal | None = None
    currency: str | None = None
    type: str | None = None
    created_at: datetime | None = None
    transaction_at: datetime | None = None
    receipt_id: UUID | None = None
    ecom_checkout_id: str | None = None
    ecom_order_id: str | None = None
    method: str | None = None
    payment_method: str | None = None
    payment_provider: str | None = None
    rest: dict[str, Any] | None = None
    personal: dict[str, Any] | None = None
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class _Statement:
    """One as a lane sends it. name: under which it is prepared; text: $1 the records, $2 the tokens."""

    name: bytes
    text: bytes


def _statement(name: bytes, text: str) -> _Statement:
    return _Statement(name, text.replace("%(events)s", "$1").replace("%(tokens)s", "$2").encode())


_INSERTING = _statement(b"inserting", _inserting(is_alone=False))
_INSERTING_ALONE = _statement(b"inserting_alone", _inserting(is_alone=True))
_RECORDING = _statement(b"recording", _RECORD)
_FORMATS = [0, 1]  # of the two parameters: text, and binary as by `_texts`
_TEXT = 25  # the type's number, pg_type.oid
_ENCODING = "utf-8"  # of messages
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


def _encode(delivery: Delivery, now: datetime) -> bytes:
    """The delivery as one JSON record of the statement, received at `now`."""
    event = delivery.event
    record = _Record(
        event.instance_id,
        event.event_id,
        event.event_type,
        event.kind.value,
        event.slug,
        event.entity_id,
        event.entity_sequence,
        event.link_id,
        event.occurred_at,
        event.issued_at,
        now,
        1,
        "unreadable" if event.unreadable else _STATUS[event.kind],
        event.unreadable,
        event.unreadable_detail[:500] or None,
        event.anonymized,
        "\\x" + event.content_digest.hex(),
        "\\x" + delivery.token_digest.hex(),
        event.site_id,
        event.account_id,
    )
    if event.seen is not None and event.unreadable is None:
        payment = event.seen.payment
        record.payment_id = payment.payment_id
        record.revision = payment.revision
        record.payment_link_id = payment.payment_link_id
        record.amount = payment.amount
        record.currency = payment.currency
        record.type = payment.type
        record.created_at = payment.created_at
        record.transaction_at = payment.transaction_at
        record.receipt_id = payment.receipt_id
        record.ecom_checkout_id = payment.ecom_checkout_id
        record.ecom_order_id = payment.ecom_order_id
        record.method = payment.method
        record.payment_method = payment.payment_method
        record.payment_provider = payment.payment_provider
        record.rest = event.seen.rest or None
        record.personal = event.seen.personal
        record.origin = Origin.WEBHOOK.value
    return payments.encoded(record)


def record(connection: Connection, deliveries: Sequence[Delivery], now: datetime) -> list[Stored]:
    """Store each event with everything it demands, and say what became of it, in the order given.

    All in the caller's transaction. No two events may share an id or a payment.
    """
    records = [_encode(delivery, now) for delivery in deliveries]
    told = {"events": _joined(records).decode(), "tokens": [delivery.token for delivery in deliveries]}
    rows = connection.exec_driver_sql(_RECORD, told)
    answers = {row[0] - 1: row for row in rows}
    stored: list[Stored] = []
    for place, event in enumerate(delivery.event for delivery in deliveries):
        _, outcome, verdict, is_erased = answers[place]
        if _is_of_life(event):
            _live(connection, event, now)
        if (event.anonymized or is_erased) and event.entity_id is not None:
            payments.erase(connection, event.instance_id, event.entity_id, now)
        stored.append(_ANSWERS[outcome, verdict])
    return stored


def _joined(records: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(records) + b"]"


def _texts(texts: Sequence[bytes]) -> bytes:
    """A text[] as PostgreSQL reads it in binary: dimensions, whether NULLs, type, length and first index; the texts."""
    pieces = [struct.pack("!iiIii", 1, 0, _TEXT, len(texts), 1)]
    for one in texts:
        pieces += (len(one).to_bytes(4), one)
    return b"".join(pieces)


def _is_of_life(event: Event) -> bool:
    """Whether the event says that the app was installed or removed."""
    return event.kind in (Kind.APP_INSTALLED, Kind.APP_REMOVED) and event.unreadable is None


# Every answer there is, made once.
_ANSWERS = {
    (outcome.value, verdict): Stored(outcome, Verdict(verdict) if verdict else None)
    for outcome in Outcome
    for verdict in (None, *(verdict.value for verdict in Verdict))
}


def is_usual(event: Event) -> bool:
    """Whether its delivery is stored together with others. The rest is rare, and takes more than one statement."""
    return not (event.anonymized or _is_of_life(event))


_ANSWERS_AS_WRITTEN: dict[tuple[bytes | None, bytes | None], Stored] = {
    (outcome.encode(), verdict.encode() if verdict else None): stored
    for (outcome, verdict), stored in _ANSWERS.items()
}


class NotStorable(ProcessorError):
    """A value of the event is refused by our columns; no repetition can help. The message names the error only."""


@dataclass(slots=True)
class _Row:
    """A delivery ready for the statements. text: its JSON record. if_new: what becomes of it when nothing is known.

    is_known: it is of no use to try what serves only for what is plainly new.
    """

    event: Event
    text: bytes
    token: bytes
    if_new: Stored
    is_known: bool = False


def _row(delivery: Delivery, now: datetime) -> _Row:
    event = delivery.event
    if event.unreadable:
        if_new = _ANSWERS["unreadable", None]
    elif event.kind is Kind.OTHER:
        if_new = _ANSWERS["ignored", None]
    else:
        if_new = _ANSWERS["stored", "new" if event.seen is not None else None]
    return _Row(event, _encode(delivery, now), delivery.token.encode(), if_new)


def _keys(row: _Row) -> tuple[tuple[UUID, UUID], ...]:
    """The rows that its statement locks: the event's, and that of the payment it tells of."""
    event = row.event
    told = event.seen.payment.payment_id if event.seen is not None else event.event_id
    if told == event.event_id:
        return ((event.instance_id, event.event_id),)
    return (event.instance_id, event.event_id), (event.instance_id, told)


def _know(row: _Row) -> None:
    row.is_known = True


class Inbox:
    """Stores deliveries durably, those of all threads together. One for each process; a fork before use is safe.

    seconds: longest wait for the answer. lanes: commits in flight. is_preparing: whether the statement is prepared,
    which a pooler between must be able to follow. observe: told how long each commit took and of how many events.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        seconds: float,
        lanes: int,
        is_preparing: bool,
        observe: Callable[[float, int], None] = lambda seconds, events: None,
    ) -> None:
        self._database = database
        self._observe = observe
        self._now = now
        self._seconds = seconds
        self._is_preparing = is_preparing
        self._group: GroupCommit[_Row, Stored] = GroupCommit(
            self._open_lane,
            keys_of=_keys,
            held_back=_know,
            lanes=lanes,
            batch_max=BATCH_MAX,
            waiting_max=WAITING_MAX,
        )

    def store(self, delivery: Delivery) -> Stored:
        """Store one delivery; returns once it is durable.

        Raises StoreUnavailable when that is not known in time, and NotStorable. What a delivery stored more than once
        brings is a duplicate, so it may be sent again after either.
        """
        if not is_usual(delivery.event):
            try:
                with self._database.begin() as connection:
                    [stored] = record(connection, [delivery], self._now())
            except (DataError, IntegrityError) as why:
                raise fault_of(why) from why
            return stored
        return self._group.submit(_row(delivery, self._now()), seconds=self._seconds)

    def hand_over(
        self, delivery: Delivery, *, deadline: float, told: Callable[[Stored | Exception], None]
    ) -> None:
        """As `store`, but returns at once: `told` is called once, by some thread, with what `store` returns or raises.

        Only for what `is_usual`; committed when somebody leads. deadline: `time.monotonic()`. Raises StoreUnavailable,
        and then nobody is told.
        """
        self._group.hand_over(_row(delivery, self._now()), deadline=deadline, told=told)

    def lead(self) -> None:
        """Commit what was handed over, on this thread, unless others are at it."""
        self._group.lead()

    def call_leader(self) -> None:
        """The same on another thread."""
        self._group.call_leader()

    @property
    def waiting(self) -> int:
        """How many deliveries wait for their turn."""
        return self._group.waiting

    def close(self) -> None:
        """Let go of the connections, once what has begun is committed."""
        self._group.close()

    def _open_lane(self) -> Lane[_Row, Stored]:
        return _DatabaseLane(
            self._database,
            self._now,
            self._seconds,
            is_preparing=self._is_preparing,
            observe=self._observe,
        )


def fault_of(why: DataError | IntegrityError) -> NotStorable | StoreUnavailable:
    """What it means that `record` was refused: that no repetition helps, or that one does."""
    if isinstance(why.orig, psycopg.Error) and _has_moved(why.orig):
        return StoreUnavailable("a month of tokens was made meanwhile")
    return NotStorable(type(why.orig).__name__)


def _has_moved(why: psycopg.Error) -> bool:
    """Whether a token was on its way to the default partition when its month was attached.

    PostgreSQL says so by a constraint without a name. The value is good, and goes to its month when it is sent again.
    """
    return why.sqlstate == _CHECK and why.diag.constraint_name is None


_Placed = list[tuple[int, _Row]]
_Decided = dict[int, Stored | Exception | Again]


class _DatabaseLane(Lane[_Row, Stored]):
    """One connection; each batch is one statement, or two, and each statement a transaction."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        seconds: float,
        *,
        is_preparing: bool,
        observe: Callable[[float, int], None],
    ) -> None:
        self._database = database
        self._now = now
        self._repeatable_seconds = seconds * REPEATABLE_SHARE
        self._observe = observe
        self._connection = database.open_apart(
            lock_timeout=f"{int(seconds * LOCK_SHARE * 1000)}ms", **_PLANNER
        )
        self._is_preparing = is_preparing
        self._prepared: set[bytes] = set()

    def commit(self, items: Sequence[_Row]) -> list[Stored | Exception | Again]:
        """As of `Lane`."""
        decided: _Decided = {}
        try:
            self._commit(list(enumerate(items)), decided, time.monotonic() + self._repeatable_seconds)
        except LaneBroken as why:
            why.decided = decided
            raise
        return [decided[place] for place in range(len(items))]

    def _commit(self, rows: _Placed, decided: _Decided, deadline: float) -> None:
        """Store rows, each at its place, and note what became of each."""
        if any(row.is_known for _, row in rows):
            # One statement for all of them costs less than a second for those that are known.
            self._record(rows, decided, deadline)
            return
        left = rows
        try:
            statement = _INSERTING if len(rows) > 1 else _INSERTING_ALONE
            new = {int(ordinality or 0) for (ordinality,) in self._execute(statement, rows)}
        except psycopg.errors.UniqueViolation:
            pass  # somebody else was faster with one of them
        except psycopg.Error as why:
            self._failed(rows, decided, why, deadline)
            return
        else:
            left = []
            for ordinality, (place, row) in enumerate(rows, start=1):
                if ordinality in new:
                    decided[place] = row.if_new
                else:
                    left.append((place, row))
        if len(left) < len(rows):
            # Those that are stored need not wait for a second commit.
            for place, row in left:
                _know(row)
                decided[place] = AGAIN
        else:
            self._record(left, decided, deadline)

    def _record(self, rows: _Placed, decided: _Decided, deadline: float) -> None:
        """The same for rows that may be known."""
        try:
            answers = self._execute(_RECORDING, rows)
        except psycopg.Error as why:
            self._failed(rows, decided, why, deadline)
            return
        for ordinality, outcome, verdict, is_erased in answers:
            place, row = rows[int(ordinality or 0) - 1]
            decided[place] = _ANSWERS_AS_WRITTEN[outcome, verdict]
            if is_erased == b"t":
                try:
                    self._erase(row.event)
                except StoreUnavailable as why:
                    decided[place] = why  # its own alone: the others are durable

    def _execute(self, statement: _Statement, rows: _Placed) -> list[list[bytes | None]]:
        """The rows it returns, their values as PostgreSQL writes them. Raises psycopg.Error.

        By libpq's own calls: a cursor does much for each statement that these two never need.
        """
        began = time.monotonic()
        parameters = [_joined([row.text for _, row in rows]), _texts([row.token for _, row in rows])]
        server = self._connection.pgconn
        if self._is_preparing:
            if statement.name not in self._prepared:
                server.send_prepare(statement.name, statement.text)
                self._answer()
                self._prepared.add(statement.name)
            server.send_query_prepared(statement.name, parameters, _FORMATS)
        else:
            server.send_query_params(statement.text, parameters, param_formats=_FORMATS)
        answer = self._answer()
        columns = range(answer.nfields)
        answers = [[answer.get_value(row, column) for column in columns] for row in range(answer.ntuples)]
        self._observe(time.monotonic() - began, len(rows))
        return answers

    def _answer(self) -> PGresult:
        answer: PGresult = self._connection.wait(generators.execute(self._connection.pgconn))[-1]
        if answer.status not in _DONE:
            raise error_from_result(answer, _ENCODING)
        return answer

    def _failed(self, rows: _Placed, decided: _Decided, why: psycopg.Error, deadline: float) -> None:
        """What is left to do for rows that were not committed. Raises LaneBroken."""
        has_time = time.monotonic() < deadline
        state = why.sqlstate or ""
        if _has_moved(why):
            if has_time:
                self._commit(rows, decided, deadline)
                return
            state = ""
        is_of_one = state.startswith(_VALUE_REFUSED)
        if self._connection.closed or (state in _NOT_AS_PREPARED and has_time):
            raise LaneBroken(first_line(why), is_repeatable=has_time) from why
        if len(rows) > 1 and (is_of_one or (state in _HELD_UP and has_time)):
            # One of them is to blame, and must not fail the others.
            known = [(place, row) for place, row in rows if row.is_known]
            if 0 < len(known) < len(rows) and not is_of_one:
                # Likely one of the known; the others do not even need its row.
                self._commit([(place, row) for place, row in rows if not row.is_known], decided, deadline)
                self._commit(known, decided, deadline)
                return
            half = len(rows) // 2
            self._commit(rows[:half], decided, deadline)
            self._commit(rows[half:], decided, deadline)
            return
        fault: Exception = StoreUnavailable(NOT_MIGRATED if state in UNMIGRATED else first_line(why))
        if len(rows) == 1 and is_of_one:
            fault = NotStorable(type(why).__name__)
        fault.__cause__ = why
        decided.update((place, fault) for place, _ in rows)

    def _erase(self, event: Event) -> None:
        """An event about an erased buyer came late: blank it before it is answered; unanswered, it comes again."""
        assert event.entity_id is not None
        with self._database.begin() as connection:
            payments.erase(connection, event.instance_id, event.entity_id, self._now())

    def close(self) -> None:
        """As of `Lane`."""
        self._connection.close()


def _live(connection: Connection, event: Event, now: datetime) -> None:
    """Record AppInstalled or AppRemoved. The later date wins, so that resends in any order agree."""
    happened = event.occurred_at or now
    column = "installed_at" if event.kind is Kind.APP_INSTALLED else "removed_at"
    connection.execute(
        text(f"""
            UPDATE app_instances SET {column} = GREATEST({column}, :happened),
                app_id = COALESCE(:app_id, app_id),
                origin_instance_id = COALESCE(:origin, origin_instance_id),
                site_id = COALESCE(:site_id, site_id), account_id = COALESCE(:account_id, account_id)
            WHERE instance_id = :instance_id"""),
        {
            "happened": happened,
            "app_id": event.app_id,
            "origin": event.origin_instance_id,
            "site_id": event.site_id,
            "account_id": event.account_id,
            "instance_id": event.instance_id,
        },
    )
    if event.kind is Kind.APP_INSTALLED:
        # Poll at once: payments may have been made before we heard of the installation.
        connection.execute(
            text("""
                INSERT INTO sweeps (instance_id, due_at) VALUES (:instance_id, :now)
                ON CONFLICT (instance_id) DO UPDATE SET due_at = LEAST(sweeps.due_at, excluded.due_at)"""),
            {"instance_id": event.instance_id, "now": now},
        )
        connection.execute(
            text("""
                UPDATE link_checks SET due_at = :now
                WHERE instance_id = :instance_id AND due_at > :now AND lease_id IS NULL"""),
            {"instance_id": event.instance_id, "now": now},
        )


def keep_unread(
    connection: Connection, *, token: str, token_digest: bytes, why: Unreadable, now: datetime
) -> bool:
    """Keep an authentic delivery whose instance cannot be read. Returns whether it is a first one."""
    count = connection.execute(
        text("""
            INSERT INTO unread_deliveries AS u
                (token_digest, reason, reason_detail, token, received_at, last_received_at)
            VALUES (:digest, :reason, :detail, :token, :now, :now)
            ON CONFLICT (token_digest) DO UPDATE SET delivery_count = u.delivery_count + 1,
                last_received_at = GREATEST(u.last_received_at, excluded.last_received_at)
            RETURNING delivery_count"""),
        {
            "digest": token_digest,
            "reason": why.reason,
            "detail": why.detail[:500] or None,
            "token": token,
            "now": now,
        },
    ).scalar_one()
    return bool(count == 1)


@dataclass(frozen=True, slots=True)
class Unread:
    """An authentic delivery whose instance could not be read."""

    token: str
    received_at: datetime


UnreadAt = tuple[datetime, bytes]
"""When such a delivery came first, and its digest: its place among them."""


def unread(connection: Connection, limit: int, after: UnreadAt | None = None) -> list[UnreadAt]:
    """Places of such deliveries, the oldest first. after: those behind this place alone."""
    where = "" if after is None else "WHERE (received_at, token_digest) > (:at, :digest)"
    found = connection.execute(
        text(
            f"SELECT received_at, token_digest FROM unread_deliveries {where}"
            " ORDER BY received_at, token_digest LIMIT :limit"
        ),
        {"limit": limit} | ({} if after is None else {"at": after[0], "digest": after[1]}),
    )
    return [(received_at, bytes(digest)) for received_at, digest in found]


def lock_unread(connection: Connection, token_digest: bytes) -> Unread | None:
    """One of them, for this transaction alone; None when there is none (any more)."""
    found = connection.execute(
        text("SELECT token, received_at FROM unread_deliveries WHERE token_digest = :digest FOR UPDATE"),
        {"digest": token_digest},
    ).one_or_none()
    return None if found is None else Unread(*found)


def forget_unread(connection: Connection, token_digest: bytes) -> None:
    """Take it from those that cannot be read: the event that it became has the token."""
    connection.execute(
        text("DELETE FROM unread_deliveries WHERE token_digest = :digest"), {"digest": token_digest}
    )


@dataclass(frozen=True, slots=True)
class Refused:
    """Deliveries refused as not Wix's, gathered by reason; samples: digest by reason, capped by the caller."""

    counts: dict[str, int]
    samples: dict[bytes, str]


REJECTED_ROWS_MAX = 1_000


def keep_refused(connection: Connection, refused: Refused, now: datetime) -> None:
    """Add to the counts of the day, and keep the newest REJECTED_ROWS_MAX digests."""
    for reason, count in sorted(refused.counts.items()):
        connection.execute(
            text("""
                INSERT INTO rejection_counts AS c (day, reason, delivery_count) VALUES (:day, :reason, :count)
                ON CONFLICT (day, reason) DO UPDATE
                    SET delivery_count = c.delivery_count + excluded.delivery_count"""),
            {"day": now.date(), "reason": reason, "count": count},
        )
    for body_digest, reason in sorted(refused.samples.items()):
        connection.execute(
            text("""
                INSERT INTO rejected_deliveries AS r
                    (body_digest, reason, received_at, last_received_at, delivery_count)
                VALUES (:digest, :reason, :now, :now, 1)
                ON CONFLICT (body_digest) DO UPDATE SET delivery_count = r.delivery_count + 1,
                    last_received_at = excluded.last_received_at"""),
            {"digest": body_digest, "reason": reason, "now": now},
        )
    if refused.samples:
        connection.execute(
            text("""
                DELETE FROM rejected_deliveries WHERE body_digest IN (
                    SELECT body_digest FROM rejected_deliveries
                    ORDER BY last_received_at DESC, body_digest OFFSET :rows)"""),
            {"rows": REJECTED_ROWS_MAX},
        )
