"""The ledger against the database: equality of sets of ids, never a rate of success."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg

from tests.chaos.ledger import Entry, Expected, Ledger

SHOWN_MAX = 20
# A batch whose connection broke after its commit is committed once more, and so counted twice.
COUNTED_AT_MOST = 2


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of webhook_events."""

    event_id: UUID
    instance_id: UUID
    status: str
    digest: bytes
    deliveries: int


@dataclass(frozen=True, slots=True)
class Booked:
    """A row of payments."""

    payment_id: UUID
    instance_id: UUID
    revision: int
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Books:
    """What the database holds.

    conflicts: (event id, digest of another content). versions: of payments, how many by event. news: those that were
    new, by payment. unread: digests of tokens. tokens: signed bodies kept, how many by event; None when not looked at.
    """

    events: list[StoredEvent]
    payments: list[Booked]
    conflicts: set[tuple[UUID, bytes]] = field(default_factory=set)
    versions: Counter[UUID] = field(default_factory=Counter)
    news: Counter[UUID] = field(default_factory=Counter)
    unread: set[bytes] = field(default_factory=set)
    tokens: Counter[UUID] | None = None


@dataclass(slots=True)
class Findings:
    """What is not as it must be, in words. wrong: neither of the three, but wrong all the same."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    regressed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.regressed or self.wrong)

    def __str__(self) -> str:
        parts = []
        for name in ("lost", "doubled", "regressed", "wrong"):
            found: list[str] = getattr(self, name)
            if found:
                more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
                parts.append(f"{name}: {'; '.join(found[:SHOWN_MAX])}{more}")
        return "\n".join(parts) or "nothing"

    def add(self, other: Findings) -> None:
        """Take over what another check found, and was not found before."""
        for name in ("lost", "doubled", "regressed", "wrong"):
            mine: list[str] = getattr(self, name)
            mine += [one for one in getattr(other, name) if one not in mine]


@dataclass(frozen=True, slots=True)
class Promise:
    """What one entry of the ledger stood at before the books were read."""

    entry: Entry
    answered: int


def promises(entries: Sequence[Entry]) -> list[Promise]:
    """How the entries stand now; whatever was answered before the books are read must be in them."""
    return [Promise(entry, entry.answered) for entry in entries]


def compare(
    promised: Sequence[Promise], books: Books, seen_revisions: dict[UUID, int], *, is_whole: bool
) -> Findings:
    """What the books lack, have twice or have set back. is_whole: whether `promised` is all that was ever told.

    seen_revisions: the highest revision ever read, by payment; raised by what is read here.
    """
    found = Findings()
    by_content = {(event.instance_id, event.digest): event for event in books.events}
    by_id = {event.event_id: event for event in books.events}
    by_payment = {one.payment_id: one for one in books.payments}
    _count_rows(books, found)

    highest: dict[UUID, int] = {}
    amounts: dict[tuple[UUID, int], set[tuple[Decimal, str]]] = defaultdict(set)
    answers: Counter[UUID] = Counter()
    attempts: Counter[UUID] = Counter()
    for one in promised:
        told = one.entry.told
        name = f"event {told.event_id}"
        stored = by_content.get((told.instance_id, told.digest))
        if told.expected is Expected.REFUSED:
            if one.answered or stored is not None or one.entry.token_digests & books.unread:
                found.wrong.append(f"{name} is not Wix's, and was taken")
            continue
        answers[told.event_id] += one.answered
        attempts[told.event_id] += one.entry.attempts
        if told.payment_id is not None:
            amounts[told.payment_id, told.revision].add((told.amount, told.currency))
        if not one.answered:
            continue
        if told.expected is Expected.UNREAD:
            if not one.entry.token_digests & books.unread:
                found.lost.append(f"{name} (unread)")
            continue
        if stored is None and (told.event_id, told.digest) not in books.conflicts:
            found.lost.append(name)
            continue
        if stored is not None and told.expected is Expected.BOOKED and stored.status != "recorded":
            found.lost.append(f"{name} is kept as {stored.status}, not booked")
        if stored is not None and books.tokens is not None and books.tokens[stored.event_id] == 0:
            found.lost.append(f"the signed body of {name}")
        if told.payment_id is None:
            continue
        highest[told.payment_id] = max(told.revision, highest.get(told.payment_id, told.revision))
        if stored is not None and stored.status == "recorded" and books.versions[told.event_id] == 0:
            found.lost.append(f"the version told by {name}")

    for payment_id, revision in highest.items():
        payment = by_payment.get(payment_id)
        if payment is None:
            found.lost.append(f"payment {payment_id}")
        elif payment.revision < revision:
            found.regressed.append(
                f"payment {payment_id} is at {payment.revision}, {revision} was answered 200"
            )
    for payment in books.payments:
        before = seen_revisions.get(payment.payment_id, payment.revision)
        if payment.revision < before:
            found.regressed.append(f"payment {payment.payment_id} went from {before} to {payment.revision}")
        seen_revisions[payment.payment_id] = max(before, payment.revision)
        said = amounts.get((payment.payment_id, payment.revision))
        if said is not None and (payment.amount, payment.currency) not in said:
            found.doubled.append(
                f"payment {payment.payment_id} is booked with {payment.amount} {payment.currency}, which nobody told"
            )
        elif said is None and is_whole:
            found.wrong.append(f"payment {payment.payment_id} at {payment.revision} was never told")
    if is_whole:
        for event_id, count in answers.items():
            event = by_id.get(event_id)
            if event is None:
                continue
            if event.deliveries < count:
                found.wrong.append(
                    f"event {event_id} counts {event.deliveries} deliveries, {count} were answered 200"
                )
            if event.deliveries > COUNTED_AT_MOST * attempts[event_id]:
                found.wrong.append(
                    f"event {event_id} counts {event.deliveries} deliveries of {attempts[event_id]} attempts"
                )
        sent = {(one.entry.told.instance_id, one.entry.told.digest) for one in promised}
        found.wrong += [
            f"event {event.event_id} was never sent" for key, event in by_content.items() if key not in sent
        ]
        _sums(promised, books, found)
    return found


def _count_rows(books: Books, found: Findings) -> None:
    rows = Counter(event.event_id for event in books.events)
    found.doubled += [f"event {id_} is stored {count} times" for id_, count in rows.items() if count > 1]
    contents = Counter((event.instance_id, event.digest) for event in books.events)
    found.doubled += [f"a content is stored {n} times in {key[0]}" for key, n in contents.items() if n > 1]
    found.doubled += [f"event {id_} told {n} versions" for id_, n in books.versions.items() if n > 1]
    found.doubled += [f"payment {id_} was new {n} times" for id_, n in books.news.items() if n > 1]
    found.doubled += [
        f"the body of event {id_} is kept {n} times" for id_, n in (books.tokens or {}).items() if n > 1
    ]
    payments = Counter(one.payment_id for one in books.payments)
    found.doubled += [f"payment {id_} is booked {n} times" for id_, n in payments.items() if n > 1]


def _sums(promised: Sequence[Promise], books: Books, found: Findings) -> None:
    """The sum by currency, as the ledger has it at the revisions booked. Events with two bodies stand as booked."""
    said: dict[tuple[UUID, int], dict[bytes, tuple[Decimal, str]]] = defaultdict(dict)
    for one in promised:
        told = one.entry.told
        if told.payment_id is not None and told.expected is Expected.BOOKED:
            said[told.payment_id, told.revision][told.digest] = (told.amount, told.currency)
    kept = {event.digest for event in books.events}
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for payment in books.payments:
        ours[payment.currency] += int(payment.amount * 1000)
        versions = said.get((payment.payment_id, payment.revision), {})
        first = [version for digest, version in versions.items() if digest in kept]
        for amount, currency in first[:1]:
            theirs[currency] += int(amount * 1000)
    for currency in sorted(ours.keys() | theirs.keys()):
        if ours[currency] != theirs[currency]:
            found.doubled.append(
                f"the sum in {currency} is {ours[currency]} thousandths, the ledger's {theirs[currency]}"
            )


def read(
    connection: psycopg.Connection[Any], instances: Sequence[UUID], entries: Sequence[Entry] | None
) -> Books:
    """The rows about these entries, or all of the instances for None. One transaction sees one state."""
    told = None if entries is None else [entry.told for entry in entries]
    values = {
        "instances": list(instances),
        "all": told is None,
        "events": list({one.event_id for one in told or ()}),
        "digests": list({one.digest for one in told or ()}),
        "payments": list({one.payment_id for one in told or () if one.payment_id}),
    }
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        events = connection.execute(
            "SELECT event_id, instance_id, status, content_digest, delivery_count FROM webhook_events"
            " WHERE instance_id = ANY(%(instances)s) AND kind IN ('payment', 'link', 'other')"
            " AND (%(all)s OR event_id = ANY(%(events)s) OR (status = 'unreadable' AND"
            " content_digest = ANY(%(digests)s)))",
            values,
        ).fetchall()
        payments = connection.execute(
            "SELECT payment_id, instance_id, revision, amount, currency FROM payments"
            " WHERE instance_id = ANY(%(instances)s) AND (%(all)s OR payment_id = ANY(%(payments)s))",
            values,
        ).fetchall()
        conflicts = connection.execute(
            "SELECT event_id, content_digest FROM webhook_event_conflicts WHERE instance_id = ANY(%(instances)s)"
            " AND (%(all)s OR event_id = ANY(%(events)s))",
            values,
        ).fetchall()
        tellings, tokens_of = _where(connection)
        versions = connection.execute(
            f"SELECT event_id, count(*) FROM {tellings} WHERE instance_id = ANY(%(instances)s)"
            " AND event_id IS NOT NULL AND (%(all)s OR event_id = ANY(%(events)s)) GROUP BY event_id",
            values,
        ).fetchall()
        news = connection.execute(
            f"SELECT payment_id, count(*) FROM {tellings} WHERE instance_id = ANY(%(instances)s)"
            " AND verdict = 'new' AND (%(all)s OR payment_id = ANY(%(payments)s)) GROUP BY payment_id",
            values,
        ).fetchall()
        tokens = (
            connection.execute(
                f"SELECT event_id, count(*) FROM ({tokens_of}) t WHERE instance_id = ANY(%(instances)s)"
                " GROUP BY event_id",
                values,
            ).fetchall()
            if told is None
            else None
        )
        unread = connection.execute("SELECT token_digest FROM unread_deliveries").fetchall()
    return Books(
        events=[StoredEvent(row[0], row[1], row[2], bytes(row[3]), row[4]) for row in events],
        payments=[Booked(*row) for row in payments],
        conflicts={(row[0], bytes(row[1])) for row in conflicts},
        versions=Counter({row[0]: row[1] for row in versions}),
        news=Counter({row[0]: row[1] for row in news}),
        unread={bytes(row[0]) for row in unread},
        tokens=None if tokens is None else Counter({row[0]: row[1] for row in tokens}),
    )


def _where(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Where every telling of a payment is found, and every signed body: since migration 0005 in places of their own."""
    row = connection.execute(
        "SELECT to_regclass('payment_tellings') IS NOT NULL, to_regclass('webhook_event_tokens') IS NOT NULL"
    ).fetchone()
    has_tellings, has_tokens = row or (False, False)
    bodies = "SELECT instance_id, event_id FROM webhook_events WHERE token IS NOT NULL"
    if has_tokens:
        bodies += " UNION ALL SELECT instance_id, event_id FROM webhook_event_tokens"
    return "payment_tellings" if has_tellings else "payment_versions", bodies


def check_fresh(connection: psycopg.Connection[Any], instances: Sequence[UUID], ledger: Ledger) -> Findings:
    """Look at what was answered 200 since the last look."""
    entries = ledger.related(ledger.take_fresh())
    promised = promises(entries)
    return compare(promised, read(connection, instances, entries), ledger.seen_revisions, is_whole=False)


def check_all(connection: psycopg.Connection[Any], instances: Sequence[UUID], ledger: Ledger) -> Findings:
    """Look at everything ever told, and at everything stored."""
    # What was answered is noted before the books are read, what was sent after.
    answered = promises(ledger.snapshot())
    books = read(connection, instances, None)
    before = {id(one.entry): one.answered for one in answered}
    sent = [Promise(entry, before.get(id(entry), 0)) for entry in ledger.snapshot()]
    return compare(sent, books, ledger.seen_revisions, is_whole=True)
