"""All that is known of one payment, each part bounded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, text

from processor.domain.payment import FACTS, Payment
from processor.store import evidence, listings
from processor.store.listings import DiscrepancyLine, Narrowing, RefundLine, StepLine
from processor.store.payments import payment_from
from processor.store.screens import refunded
from processor.store.screens.decided import Decided, with_write_offs
from processor.store.screens.refunded import Refunded
from processor.store.tables import (
    LinkCheck,
    PaymentLinkRow,
    PaymentRow,
    ReconciliationRun,
    WebhookEvent,
    WebhookEventConflict,
    is_any_of,
)

TELLINGS_MAX = 100
EVENTS_MAX = 100
STEPS_MAX = 100  # of each discrepancy
OTHERS_MAX = 100  # discrepancies, refunds
TOKENS_MAX = 20  # signed bodies, the newest


@dataclass(frozen=True, slots=True)
class Telling:
    """A version of a payment as somebody told of it. event_id, run_id: one of the two is None."""

    facts: Payment
    verdict: str
    origin: str
    event_id: UUID | None
    run_id: UUID | None
    told_at: datetime


@dataclass(frozen=True, slots=True)
class OtherBody:
    """Another body that came under the id of an event."""

    received_at: datetime
    last_received_at: datetime
    delivery_count: int


@dataclass(frozen=True, slots=True)
class Event:
    """An event about a payment, however often it was delivered. row: of webhook_events; others: under the same id.

    token: personal; its signed body, None once erased or archived, and of all but the newest TOKENS_MAX.
    """

    row: Row[Any]
    others: list[OtherBody]
    token: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A check, sweep or backfill that told of the payment or of a difference about it."""

    run_id: UUID
    kind: str
    status: str
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class LinkLine:
    """How Wix last described the link of a payment. missing_since: Wix no longer knows it."""

    title: str | None
    status: str | None
    missing_since: datetime | None


@dataclass(frozen=True, slots=True)
class Story:
    """A payment and everything about it.

    payment, check: rows of payments and link_checks; check is None before the first was asked for. link: None until
    Wix described it. decided: the same discrepancies, with how they stand. back: what was refunded by all refunds, None
    when none was told of. buyer: personal. is_whole: False when there is more than was read.
    """

    payment: Row[Any]
    facts: Payment
    link: LinkLine | None
    check: Row[Any] | None
    tellings: list[Telling]
    events: list[Event]
    runs: dict[UUID, Run]
    discrepancies: list[tuple[DiscrepancyLine, list[StepLine]]]
    decided: list[Decided]
    refunds: list[RefundLine]
    back: Refunded | None
    buyer: dict[str, Any] | None
    is_whole: bool


def story(connection: Connection, instance_id: UUID, payment_id: UUID) -> Story | None:
    """Everything about a payment, None when there is no such payment."""
    row = PaymentRow
    payment = connection.execute(
        select(*row.__table__.columns).where(row.instance_id == instance_id, row.payment_id == payment_id)
    ).one_or_none()
    if payment is None:
        return None
    by = Narrowing(instance_id=instance_id, payment_id=payment_id)
    tellings = _tellings(connection, instance_id, payment_id)
    events = _events(connection, instance_id, payment_id)
    differences = listings.discrepancies(connection, by, limit=OTHERS_MAX)
    steps = [listings.steps(connection, one.discrepancy_id, STEPS_MAX) for one in differences]
    refunds = listings.refunds(connection, instance_id, payment_id, OTHERS_MAX)
    check = connection.execute(
        select(*LinkCheck.__table__.columns).where(
            LinkCheck.instance_id == instance_id, LinkCheck.payment_link_id == payment.payment_link_id
        )
    ).one_or_none()
    run_ids = {one.run_id for one in tellings} | {step.run_id for some in steps for step in some}
    if check is not None:
        run_ids.add(check.last_run_id)
    return Story(
        payment=payment,
        facts=payment_from(payment),
        link=_link(connection, instance_id, payment.payment_link_id),
        check=check,
        tellings=tellings,
        events=events,
        runs=_runs(connection, instance_id, {one for one in run_ids if one is not None}),
        discrepancies=list(zip(differences, steps, strict=True)),
        decided=with_write_offs(connection, differences),
        refunds=refunds,
        back=refunded.of_payments(
            connection, [(instance_id, payment_id, payment.amount, payment.currency)]
        ).get((instance_id, payment_id)),
        buyer=listings.buyer(connection, instance_id, payment_id),
        is_whole=len(tellings) < TELLINGS_MAX
        and len(events) < EVENTS_MAX
        and max(len(differences), len(refunds)) < OTHERS_MAX
        and all(len(some) < STEPS_MAX for some in steps),
    )


def facts(connection: Connection, instance_id: UUID, payment_id: UUID) -> Payment | None:
    """A payment as booked, None when there is no such payment."""
    row = PaymentRow
    found = connection.execute(
        select(*row.__table__.columns).where(row.instance_id == instance_id, row.payment_id == payment_id)
    ).one_or_none()
    return None if found is None else payment_from(found)


def _link(connection: Connection, instance_id: UUID, link_id: UUID) -> LinkLine | None:
    row = PaymentLinkRow
    found = connection.execute(
        select(row.title, row.status, row.missing_since).where(
            row.instance_id == instance_id, row.payment_link_id == link_id
        )
    ).one_or_none()
    return None if found is None else LinkLine(*found)


def _tellings(connection: Connection, instance_id: UUID, payment_id: UUID) -> list[Telling]:
    found = connection.execute(
        text(f"""
            SELECT instance_id, payment_id, revision, verdict, origin, event_id, run_id, told_at, {", ".join(FACTS)}
            FROM payment_tellings WHERE instance_id = :instance_id AND payment_id = :payment_id
            ORDER BY version_id DESC LIMIT :limit"""),
        {"instance_id": instance_id, "payment_id": payment_id, "limit": TELLINGS_MAX},
    )
    return [
        Telling(payment_from(one), one.verdict, one.origin, one.event_id, one.run_id, one.told_at)
        for one in found
    ][::-1]


def _events(connection: Connection, instance_id: UUID, payment_id: UUID) -> list[Event]:
    row, other = WebhookEvent, WebhookEventConflict
    found = connection.execute(
        select(*row.__table__.columns)
        .where(row.instance_id == instance_id, row.entity_id == payment_id)
        .order_by(row.received_at.desc(), row.event_id)
        .limit(EVENTS_MAX)
    ).all()
    conflicting = [one.event_id for one in found if one.conflict_count]
    others: dict[UUID, list[OtherBody]] = {}
    if conflicting:
        rows = connection.execute(
            select(other.event_id, other.received_at, other.last_received_at, other.delivery_count)
            .where(other.instance_id == instance_id, is_any_of(other.event_id, conflicting))
            .order_by(other.received_at)
            .limit(OTHERS_MAX)
        )
        for event_id, first, last, number in rows:
            others.setdefault(event_id, []).append(OtherBody(first, last, number))
    apart = [(instance_id, one.event_id, one.received_at) for one in found[:TOKENS_MAX] if one.token is None]
    tokens = evidence.tokens(connection, apart)
    return [
        Event(one, others.get(one.event_id, []), one.token or tokens.get((instance_id, one.event_id)))
        for one in reversed(found)
    ]


def _runs(connection: Connection, instance_id: UUID, run_ids: Collection[UUID]) -> dict[UUID, Run]:
    row = ReconciliationRun
    if not run_ids:
        return {}
    found = connection.execute(
        select(row.run_id, row.kind, row.status, row.started_at, row.finished_at).where(
            row.instance_id == instance_id, is_any_of(row.run_id, run_ids)
        )
    )
    return {line.run_id: Run(*line) for line in found}
