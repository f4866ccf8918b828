"""What the application asks of a filled database: how long each question takes, and which index answers it.

The functions are those of `processor.store`, as the web process, jobs, the clock and the commands call them, one
transaction each, which is rolled back. An index that no webhook and no question used is named; one that keeps rows
unique earns its keep all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from processor import wiring
from processor.domain.payment import Origin, SeenPayment
from processor.domain.reconciliation import Outcome
from processor.domain.rerun import Piece
from processor.errors import StoreUnavailable
from processor.store import (
    checks,
    discrepancies,
    events,
    evidence,
    inbox,
    instances,
    links,
    listings,
    matching,
    operations,
    payments,
    reports,
    run_evidence,
    runs,
    staging,
    sweeps,
)

LINKS = 100  # of one check
LISTED = 1_000  # payments Wix lists to it
SWEPT = 2_000  # payments of a part of a sweep
LARGE = 10_000  # rows of a table that no question should read from end to end
LEASE = timedelta(minutes=5)
HOT = (
    *("webhook_events", "webhook_event_tokens", "payments", "payment_buyers", "payment_versions"),
    *("check_requests", "link_checks", "payment_links", "listed_payments"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is asked for: one payment with its link and event, a few links, and an instance with held events."""

    now: datetime
    instance_id: UUID
    unconfirmed_id: UUID
    link_id: UUID
    payment_id: UUID
    event_id: UUID
    received_at: datetime
    link_ids: list[UUID]

    @property
    def day(self) -> listings.Narrowing:
        """A day of one instance."""
        return listings.Narrowing(
            instance_id=self.instance_id, since=self.received_at - timedelta(days=1), until=self.received_at
        )


Question = Callable[[Connection, Sample], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. ms: None when it took longer than a statement may. indexes: used; read: large tables read whole."""

    name: str
    ms: float | None
    indexes: list[str]
    read: list[str]


def _narrowed(**by: str) -> Callable[[Sample], listings.Narrowing]:
    return lambda one: listings.Narrowing(**{name: getattr(one, field) for name, field in by.items()})


def _check(connection: Connection, one: Sample) -> None:
    """A check of some links from its claim to its end, with what Wix lists as we believe it."""
    checks.request(connection, one.instance_id, one.link_ids, one.now)
    checks.drain(connection, one.now)
    lease = checks.claim(connection, one.instance_id, one.now, LEASE)
    link_ids = [claim.payment_link_id for claim in lease.claims]
    run_id = runs.start(connection, one.instance_id, "check", one.now)
    rows = connection.execute(
        text("SELECT payment_id FROM payments WHERE payment_link_id = ANY(:ids) LIMIT :limit"),
        {"ids": link_ids, "limit": LISTED},
    ).scalars()
    believed = payments.believed(connection, one.instance_id, list(rows))
    listed = [SeenPayment(payment.payment, None, {}) for payment in believed.values()]
    checks.extend(connection, one.instance_id, lease, one.now + LEASE * 2)
    matching.write(connection, one.instance_id, lease.lease_id, listed)
    matching.count(connection, lease.lease_id)
    matching.write_unlisted(connection, one.instance_id, lease.lease_id, link_ids)
    place: matching.Place | None = matching.BEGINNING
    while place is not None:
        place = matching.match_part(
            connection, lease.lease_id, link_ids, after=place, limit=1_000, now=one.now
        ).last
    matching.book(
        connection, lease.lease_id, [seen.payment for seen in listed[:10]], run_id=run_id, now=one.now
    )
    matching.totals(connection, one.instance_id, link_ids, run_id=run_id)
    run_evidence.recent(connection, one.instance_id, link_ids, one.now)
    run_evidence.write(
        connection,
        run_id,
        one.instance_id,
        [Piece(payment_link_id=link_id, part=1, document={}) for link_id in link_ids],
    )
    events.conflicts(connection, one.instance_id, link_ids)
    discrepancies.open_types(connection, one.instance_id, link_ids)
    discrepancies.resolve_absent(connection, one.instance_id, link_ids, run_id=run_id, now=one.now)
    outcomes = dict.fromkeys(list(believed)[:10], Outcome.EXPECTED)
    payments.note_outcomes(connection, one.instance_id, outcomes, one.now)
    checks.still_held(connection, one.instance_id, lease)
    finished = [checks.Finished(claim, True, None) for claim in lease.claims]
    checks.finish(connection, one.instance_id, lease, finished, run_id=run_id, now=one.now)
    matching.forget(connection, lease.lease_id)
    matching.forget_abandoned(connection)
    checks.has_due(connection, one.instance_id, one.now)
    runs.finish(connection, run_id, runs.Counts(), {}, one.now)


def _sweep(connection: Connection, one: Sample) -> None:
    sweeps.take_due(connection, one.now, LEASE)
    lease = sweeps.claim(connection, one.instance_id, one.now, lease=LEASE, overlap=timedelta(days=3))
    if lease is not None:
        sweeps.hold(connection, one.instance_id, lease, one.now + LEASE)
        rows = connection.execute(
            text("""
                SELECT payment_id, created_at FROM payments
                WHERE instance_id = :instance_id AND created_at >= :since ORDER BY created_at LIMIT :limit"""),
            {"instance_id": one.instance_id, "since": lease.position_at, "limit": SWEPT},
        ).all()
        believed = payments.believed(connection, one.instance_id, [row.payment_id for row in rows])
        staging.stage(connection, [payment.payment for payment in believed.values()])
        staging.compare(
            *(connection, one.instance_id),
            since=lease.position_at,
            until=rows[-1].created_at if rows else one.now,
            settling=LEASE,
            now=one.now,
        )
        sweeps.finish(
            connection, one.instance_id, lease, due_at=one.now, now=one.now, overlap=timedelta(days=3)
        )


def _tell_again(connection: Connection, one: Sample) -> None:
    known = payments.lock(connection, one.instance_id, one.payment_id)
    assert known is not None
    seen = SeenPayment(known, None, {})
    payments.apply(
        connection, [payments.telling(seen, origin=Origin.REPLAY, told_at=one.now, event_id=uuid4())]
    )


QUESTIONS: tuple[tuple[str, Question], ...] = (
    ("listings.instances", lambda c, _: listings.instances(c)),
    ("listings.instances, one", lambda c, one: listings.instances(c, one.instance_id)),
    ("listings.installed", lambda c, _: listings.installed(c)),
    ("listings.events, newest", lambda c, _: listings.events(c, listings.Narrowing(), limit=50)),
    (
        "listings.events, newest of an instance",
        lambda c, one: listings.events(c, _narrowed(instance_id="instance_id")(one), limit=50),
    ),
    ("listings.events, a day", lambda c, one: listings.events(c, one.day, limit=50)),
    (
        "listings.events, of a link",
        lambda c, one: listings.events(
            c, _narrowed(instance_id="instance_id", payment_link_id="link_id")(one), limit=50
        ),
    ),
    (
        "listings.events, of a payment",
        lambda c, one: listings.events(
            c, _narrowed(instance_id="instance_id", payment_id="payment_id")(one), limit=50
        ),
    ),
    (
        "listings.events, held",
        lambda c, one: listings.events(
            c, listings.Narrowing(instance_id=one.unconfirmed_id, status="held"), limit=50
        ),
    ),
    (
        "listings.events, a replay's next",
        lambda c, one: listings.events(
            c,
            one.day,
            limit=500,
            after=(one.received_at - timedelta(hours=12), one.event_id, one.instance_id),
            oldest_first=True,
        ),
    ),
    ("listings.event", lambda c, one: listings.event(c, one.event_id)),
    ("listings.event, of an instance", lambda c, one: listings.event(c, one.event_id, one.instance_id)),
    ("listings.payments, newest", lambda c, _: listings.payments(c, listings.Narrowing(), limit=50)),
    (
        "listings.payments, newest of an instance",
        lambda c, one: listings.payments(c, _narrowed(instance_id="instance_id")(one), limit=50),
    ),
    ("listings.payments, a day", lambda c, one: listings.payments(c, one.day, limit=50)),
    (
        "listings.payments, of a link",
        lambda c, one: listings.payments(
            c, _narrowed(instance_id="instance_id", payment_link_id="link_id")(one), limit=50
        ),
    ),
    ("listings.totals, a day", lambda c, one: listings.totals(c, one.day)),
    (
        "listings.totals, an instance",
        lambda c, one: listings.totals(c, _narrowed(instance_id="instance_id")(one)),
    ),
    ("listings.payment", lambda c, one: listings.payment(c, one.payment_id)),
    ("listings.payment, of an instance", lambda c, one: listings.payment(c, one.payment_id, one.instance_id)),
    ("listings.versions", lambda c, one: listings.versions(c, one.instance_id, one.payment_id)),
    ("listings.buyer", lambda c, one: listings.buyer(c, one.instance_id, one.payment_id)),
    (
        "listings.open_discrepancies",
        lambda c, one: listings.open_discrepancies(c, _narrowed(instance_id="instance_id")(one)),
    ),
    ("listings.link_checks", lambda c, one: listings.link_checks(c, one.instance_id, one.link_ids)),
    ("listings.links_due", lambda c, one: listings.links_due(c, one.instance_id, 1_000)),
    ("listings.links_paid, a day", lambda c, one: listings.links_paid(c, one.day, 1_000)),
    ("listings.instance_of_link", lambda c, one: listings.instance_of_link(c, one.link_id)),
    ("listings.descriptions", lambda c, one: listings.descriptions(c, one.instance_id, one.link_ids)),
    (
        "evidence.tokens",
        lambda c, one: evidence.tokens(c, [(one.instance_id, one.event_id, one.received_at)]),
    ),
    ("reports.links, some", lambda c, one: reports.links(c, one.instance_id, link_ids=one.link_ids)),
    ("reports.links", lambda c, one: reports.links(c, one.instance_id)),
    ("reports.booked", lambda c, one: reports.booked(c, [one.instance_id], limit=1_000)),
    ("reports.unsettled", lambda c, one: reports.unsettled(c, [one.instance_id])),
    ("reports.open_by_link", lambda c, one: reports.open_by_link(c, [one.instance_id])),
    ("operations.backlog", lambda c, one: operations.backlog(c, one.now)),
    ("operations.counters", lambda c, _: operations.counters(c)),
    ("operations.open_discrepancies", lambda c, _: operations.open_discrepancies(c)),
    ("operations.last_beat", lambda c, _: operations.last_beat(c, "clock")),
    ("checks.take_instances_to_enqueue", lambda c, one: checks.take_instances_to_enqueue(c, one.now, LEASE)),
    ("a check of links, from claim to end (checks, matching, runs, events)", _check),
    ("a sweep, from claim to end", _sweep),
    ("runs.abandon", lambda c, one: runs.abandon(c, one.now - timedelta(hours=1), one.now)),
    ("instances.status", lambda c, one: instances.status(c, one.instance_id)),
    ("links.creation_dates", lambda c, one: links.creation_dates(c, one.instance_id, one.link_ids)),
    ("events.lock_held", lambda c, one: events.lock_held(c, one.unconfirmed_id, 100)),
    ("events.lock_status", lambda c, one: events.lock_status(c, one.instance_id, one.event_id)),
    ("payments.is_erased", lambda c, one: payments.is_erased(c, one.instance_id, one.payment_id)),
    ("payments.apply, a telling again", _tell_again),
    ("payments.erase", lambda c, one: payments.erase(c, one.instance_id, one.payment_id, one.now)),
    (
        "inbox.keep_refused",
        lambda c, one: inbox.keep_refused(
            c, inbox.Refused({"malformed": 1}, {bytes(32): "malformed"}), one.now
        ),
    ),
)

# Partitions count for the table they belong to.
SCANS = """
SELECT COALESCE(pg_partition_root(i.indrelid)::regclass, i.indrelid::regclass)::text,
    COALESCE((SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)::regclass,
        i.indexrelid::regclass)::text,
    sum(s.idx_scan)::bigint, sum(pg_relation_size(i.indexrelid))::bigint, bool_or(i.indisunique)
FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
GROUP BY 1, 2 ORDER BY 1, 2
"""
READ = """
SELECT COALESCE(pg_partition_root(relid)::regclass, relid::regclass)::text, sum(seq_scan)::bigint
FROM pg_stat_user_tables WHERE n_live_tup >= %s GROUP BY 1
"""


def _sample(connection: psycopg.Connection) -> Sample:
    """A payment of about the middle of the year, of a link with some more."""
    found = connection.execute(
        """SELECT l.instance_id, l.payment_link_id, e.entity_id, e.event_id, e.received_at
           FROM (SELECT instance_id, payment_link_id FROM payment_links WHERE payment_count >= 2
               ORDER BY payment_link_id LIMIT 1) AS l
           JOIN payments p USING (instance_id, payment_link_id)
           JOIN webhook_events e ON e.instance_id = l.instance_id AND e.event_id = p.event_id
           ORDER BY e.received_at LIMIT 1"""
    ).fetchone()
    assert found is not None, "nothing is filled"
    [[unconfirmed]] = connection.execute(
        "SELECT instance_id FROM app_instances WHERE status = 'unconfirmed'"
    ).fetchall()
    links = connection.execute(
        "SELECT payment_link_id FROM link_checks WHERE instance_id = %s ORDER BY due_at, payment_link_id LIMIT %s",
        [found[0], LINKS],
    ).fetchall()
    instance_id, link_id, payment_id, event_id, received_at = found
    return Sample(
        now=datetime.now(UTC),
        instance_id=instance_id,
        unconfirmed_id=unconfirmed,
        link_id=link_id,
        payment_id=payment_id,
        event_id=event_id,
        received_at=received_at,
        link_ids=[row[0] for row in links],
    )


def run(services: wiring.Services, url: str, by_webhooks: Mapping[str, int]) -> dict[str, Any]:
    """Ask every question once; tells what came of it, and returns it for a file. Closes the services.

    by_webhooks: scans of each index while webhooks were received.
    """
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
            sample = _sample(connection)
            # What we looked up ourselves is no question's.
            connection.execute("SELECT pg_stat_force_next_flush()")
            asked = [_ask(services, connection, sample, name, question) for name, question in QUESTIONS]
            after = scans(connection)
    finally:
        services.close()
    used = {index for one in asked for index in one.indexes}
    indexes = [
        {
            "table": table,
            "index": index,
            "by_webhooks": by_webhooks.get(index, 0),
            "questions": sum(index in one.indexes for one in asked),
            "bytes": size,
            "is_unique": is_unique,
        }
        for (table, index), (_, size, is_unique) in after.items()
        if table in HOT
    ]
    print(f"\n{questions_table(asked)}\n\n{indexes_table(indexes)}")
    unused = [
        str(one["index"])
        for one in indexes
        if not one["by_webhooks"] and one["index"] not in used and not one["is_unique"]
    ]
    only_unique = [
        str(one["index"])
        for one in indexes
        if not one["by_webhooks"] and one["index"] not in used and one["is_unique"]
    ]
    print(
        f"Never used: {', '.join(unused) or 'none'}. Used only to keep rows unique: {', '.join(only_unique) or 'none'}."
    )
    return {
        "questions": [
            {"question": one.name, "ms": one.ms, "indexes": one.indexes, "read_whole": one.read}
            for one in asked
        ],
        "indexes": indexes,
        "unused_indexes": unused,
        "only_unique_indexes": only_unique,
    }


def _ask(
    services: wiring.Services, watching: psycopg.Connection, sample: Sample, name: str, question: Question
) -> Asked:
    before, read = scans(watching), _read(watching)
    began = time.perf_counter()
    took: float | None = None
    with services.database.engine.connect() as connection:
        try:
            question(connection, sample)
            took = round((time.perf_counter() - began) * 1000, 1)
        except (StoreUnavailable, DBAPIError) as why:
            if (
                getattr(getattr(why, "orig", why), "sqlstate", None) != "57014"
            ):  # longer than a statement may take
                raise
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.rollback()
    now, now_read = scans(watching), _read(watching)
    return Asked(
        name,
        took,
        sorted(index for (table, index), one in now.items() if one[0] > before[table, index][0]),
        sorted(table for table, count in now_read.items() if count > read.get(table, 0)),
    )


def scans(connection: psycopg.Connection) -> dict[tuple[str, str], tuple[int, int, bool]]:
    """By table and index: how often it was scanned so far, its bytes, and whether it keeps rows unique."""
    rows = connection.execute(SCANS).fetchall()
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def _read(connection: psycopg.Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(READ, [LARGE])}


def questions_table(asked: Sequence[Asked]) -> str:
    """What was asked, for people."""
    width = max(len(one.name) for one in asked)
    lines = [f"{'question':<{width}} {'ms':>9}  tables of {LARGE:,} rows or more read whole"]
    for one in asked:
        took = "too long" if one.ms is None else f"{one.ms:,.1f}"
        lines.append(f"{one.name:<{width}} {took:>9}  {', '.join(one.read)}")
    return "\n".join(lines)


def indexes_table(indexes: Sequence[Mapping[str, Any]]) -> str:
    """Every index, for people."""
    width = max(len(str(one["index"])) for one in indexes)
    lines = [f"{'index':<{width}} {'MB':>9} {'by webhooks':>12} {'questions':>10}"]
    lines += [
        f"{one['index']:<{width}} {one['bytes'] / 2**20:>9,.1f} {one['by_webhooks']:>12,} {one['questions']:>10}"
        + ("  unique" if one["is_unique"] else "")
        for one in indexes
    ]
    return "\n".join(lines)
