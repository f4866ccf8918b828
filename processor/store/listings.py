"""What people look up: instances, events and payments, by what narrows them down. Lists have a limit and an order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, or_, select, text

from processor.store import evidence
from processor.store.screens import refunded
from processor.store.tables import (
    AppInstance,
    Discrepancy,
    DiscrepancyStep,
    LinkCheck,
    PaymentBuyer,
    PaymentLinkRow,
    PaymentRow,
    RefundRow,
    WebhookEvent,
    WriteOffRow,
    is_any_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What a list is narrowed down to; None for what does not matter. since, until: [since, until)."""

    instance_id: UUID | None = None
    payment_link_id: UUID | None = None
    payment_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: str | None = None
    type: str | None = None
    currency: str | None = None


# -- Instances -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """An app instance and what we hold of it. open: discrepancies; due: links that wait for a check."""

    instance_id: UUID
    status: str
    site_id: UUID | None
    first_seen_at: datetime
    installed_at: datetime | None
    removed_at: datetime | None
    payments: int
    links: int
    held_events: int
    due: int
    open: int
    last_event_at: datetime | None
    swept_to: datetime | None


def instances(
    connection: Connection, instance_id: UUID | None = None, limit: int = 1_000
) -> list[InstanceLine]:
    """Every app instance we heard of, or one, by when it was first seen."""
    rows = connection.execute(
        text("""
            SELECT a.instance_id, a.status, a.site_id, a.first_seen_at, a.installed_at, a.removed_at,
                (SELECT count(*) FROM payments p WHERE p.instance_id = a.instance_id) AS payments,
                (SELECT count(*) FROM payment_links l WHERE l.instance_id = a.instance_id) AS links,
                (SELECT count(*) FROM webhook_events e
                    WHERE e.instance_id = a.instance_id AND e.status = 'held') AS held_events,
                (SELECT count(*) FROM link_checks c
                    WHERE c.instance_id = a.instance_id AND c.wanted > c.checked) AS due,
                (SELECT count(*) FROM discrepancies d
                    WHERE d.instance_id = a.instance_id AND d.closed_at IS NULL) AS open,
                (SELECT max(received_at) FROM webhook_events e WHERE e.instance_id = a.instance_id)
                    AS last_event_at,
                (SELECT swept_to FROM sweeps s WHERE s.instance_id = a.instance_id) AS swept_to
            FROM app_instances a
            WHERE CAST(:instance_id AS uuid) IS NULL OR a.instance_id = :instance_id
            ORDER BY a.first_seen_at, a.instance_id LIMIT :limit"""),
        {"instance_id": instance_id, "limit": limit},
    )
    return [InstanceLine(*row) for row in rows]


def installed(connection: Connection, limit: int = 1_000) -> list[UUID]:
    """Ids of the instances on which the app is installed."""
    rows = connection.execute(
        select(AppInstance.instance_id)
        .where(AppInstance.status == "installed")
        .order_by(AppInstance.first_seen_at, AppInstance.instance_id)
        .limit(limit)
    )
    return [row.instance_id for row in rows]


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as stored. token: its signed body, None once erased (then erased_at says when) or archived."""

    instance_id: UUID
    event_id: UUID
    event_type: str
    kind: str
    status: str
    reason: str | None
    entity_id: UUID | None
    payment_link_id: UUID | None
    occurred_at: datetime | None
    received_at: datetime
    delivery_count: int
    conflict_count: int
    erased_at: datetime | None
    token: str | None

    @property
    def why_bodiless(self) -> str:
        """Why its body is not here any more, and what brings it back, in words that follow "it was"."""
        if self.erased_at:
            return "erased together with the buyer's data"
        return "archived with its month: `processor archive restore FILE` puts it back"


_EVENT = [getattr(WebhookEvent, name) for name in EventLine.__dataclass_fields__]


def events(
    connection: Connection,
    by: Narrowing,
    *,
    limit: int,
    after: tuple[datetime, UUID, UUID] | None = None,
    oldest_first: bool = False,
) -> list[EventLine]:
    """Events by when they were first received, newest first unless asked otherwise.

    after: only those behind that (received_at, event_id, instance_id) in time.
    """
    row = WebhookEvent
    conditions = _conditions(
        (row.instance_id, by.instance_id),
        (row.payment_link_id, by.payment_link_id),
        (row.entity_id, by.payment_id),
        (row.status, by.status),
    )
    if by.type is not None:
        conditions.append(row.event_type.endswith(by.type, autoescape=True))
    conditions += _between(row.received_at, by)
    order = [row.received_at, row.event_id, row.instance_id]
    if after is not None:
        conditions.append(func.row(*order) > func.row(*after))
    found = connection.execute(
        select(*_EVENT)
        .where(*conditions)
        .order_by(*(order if oldest_first else [one.desc() for one in order]))
        .limit(limit)
    )
    return _with_tokens(connection, [EventLine(*line) for line in found])


def _with_tokens(connection: Connection, lines: list[EventLine]) -> list[EventLine]:
    apart = [(one.instance_id, one.event_id, one.received_at) for one in lines if one.token is None]
    kept = evidence.tokens(connection, apart)
    return [
        one if one.token else replace(one, token=kept.get((one.instance_id, one.event_id))) for one in lines
    ]


def event(connection: Connection, event_id: UUID, instance_id: UUID | None = None) -> list[EventLine]:
    """Events of this id: one, or one for each instance should two have used it."""
    row = WebhookEvent
    found = connection.execute(
        select(*_EVENT)
        .where(row.event_id == event_id, *_conditions((row.instance_id, instance_id)))
        .order_by(row.instance_id)
        .limit(100)
    )
    return _with_tokens(connection, [EventLine(*line) for line in found])


# -- Payments --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """A payment as booked. first_origin: `poll` when no webhook told of it first. recovery: None when none."""

    instance_id: UUID
    payment_id: UUID
    revision: int
    payment_link_id: UUID
    amount: Decimal
    currency: str
    type: str | None
    method: str | None
    created_at: datetime | None
    receipt_id: UUID | None
    ecom_order_id: str | None
    first_origin: str
    match_state: str | None
    stored_at: datetime
    recovery: str | None


_PAYMENT = [getattr(PaymentRow, name) for name in PaymentLine.__dataclass_fields__]


def payments(
    connection: Connection,
    by: Narrowing,
    *,
    limit: int,
    after: tuple[datetime, UUID, UUID] | None = None,
    oldest_first: bool = False,
) -> list[PaymentLine]:
    """Payments by when they were stored, newest first unless asked otherwise.

    after: only those behind that (stored_at, payment_id, instance_id) in time.
    """
    row = PaymentRow
    conditions = _of_payments(by)
    order = [row.stored_at, row.payment_id, row.instance_id]
    if after is not None:
        conditions.append(func.row(*order) > func.row(*after))
    found = connection.execute(
        select(*_PAYMENT)
        .where(*conditions)
        .order_by(*(order if oldest_first else [one.desc() for one in order]))
        .limit(limit)
    )
    return [PaymentLine(*line) for line in found]


def totals(connection: Connection, by: Narrowing) -> list[tuple[str, int, Decimal]]:
    """Currency, number and sum of everything that `payments` would list without a limit."""
    row = PaymentRow
    found = connection.execute(
        select(row.currency, func.count(), func.sum(row.amount))
        .where(*_of_payments(by))
        .group_by(row.currency)
        .order_by(row.currency)
    )
    return [(line[0], line[1], line[2]) for line in found]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Of payments in one currency. amount: refunded as told, without the payments of which it is unclear.

    unclear: how many those are.
    """

    amount: Decimal
    unclear: int


def given_back(connection: Connection, by: Narrowing) -> dict[str, GivenBack]:
    """What was refunded of everything that `payments` would list without a limit, by currency.

    Of those currencies of which a refund was told.
    """
    row, back = PaymentRow, refunded.of_all().c
    is_unclear = refunded.is_unclear(row, back)
    found = connection.execute(
        select(
            row.currency,
            func.coalesce(func.sum(refunded.given_back(row, back)), 0),
            func.count().filter(is_unclear),
        )
        .where(*_of_payments(by), *refunded.is_of(row, back))
        .group_by(row.currency)
    )
    return {line[0]: GivenBack(Decimal(line[1]), line[2]) for line in found}


def payment(connection: Connection, payment_id: UUID, instance_id: UUID | None = None) -> list[PaymentLine]:
    """Payments of this id: one, or one for each instance should two have used it."""
    row = PaymentRow
    found = connection.execute(
        select(*_PAYMENT)
        .where(row.payment_id == payment_id, *_conditions((row.instance_id, instance_id)))
        .order_by(row.instance_id)
        .limit(100)
    )
    return [PaymentLine(*line) for line in found]


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One telling of a payment, and what was made of it."""

    revision: int
    verdict: str
    origin: str
    amount: Decimal
    currency: str
    receipt_id: UUID | None
    event_id: UUID | None
    run_id: UUID | None
    told_at: datetime


def versions(
    connection: Connection, instance_id: UUID, payment_id: UUID, limit: int = 1_000
) -> list[VersionLine]:
    """Every telling of a payment, in their order."""
    found = connection.execute(
        text(f"""
            SELECT {", ".join(VersionLine.__dataclass_fields__)} FROM payment_tellings
            WHERE instance_id = :instance_id AND payment_id = :payment_id ORDER BY version_id LIMIT :limit"""),
        {"instance_id": instance_id, "payment_id": payment_id, "limit": limit},
    )
    return [VersionLine(*line) for line in found]


@dataclass(frozen=True, slots=True)
class RefundLine:
    """A refund of a payment as last told. amount: None when it cannot be booked; reason says why."""

    refund_id: UUID
    amount: Decimal | None
    currency: str | None
    status: str | None
    reason: str | None
    occurred_at: datetime
    event_id: UUID


def refunds(
    connection: Connection, instance_id: UUID, payment_id: UUID, limit: int = 1_000
) -> list[RefundLine]:
    """The refunds of a payment, the oldest first."""
    row = RefundRow
    found = connection.execute(
        select(*[getattr(row, name) for name in RefundLine.__dataclass_fields__])
        .where(row.instance_id == instance_id, row.payment_id == payment_id)
        .order_by(row.occurred_at, row.refund_id)
        .limit(limit)
    )
    return [RefundLine(*line) for line in found]


def buyer(connection: Connection, instance_id: UUID, payment_id: UUID) -> dict[str, Any] | None:
    """Personal: what a payment says of its buyer, None when it says nothing or was erased."""
    return connection.execute(
        select(PaymentBuyer.personal).where(
            PaymentBuyer.instance_id == instance_id, PaymentBuyer.payment_id == payment_id
        )
    ).scalar_one_or_none()


# -- Discrepancies and links -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiscrepancyLine:
    """A discrepancy. sides: what each side says, as text.

    aged_from: from when its age counts, see `store.tables.Discrepancy`.
    reason, resolution: why it was closed, None while it is open. rules: by which it is within tolerance, of the
    version rule_set_version; None where none says so.
    """

    discrepancy_id: UUID
    instance_id: UUID
    type: str
    severity: str
    state: str
    payment_link_id: UUID
    payment_id: UUID | None
    sides: dict[str, Any]
    amount_at_risk: Decimal | None
    currency: str | None
    owner: str | None
    first_seen_at: datetime
    opened_at: datetime
    last_seen_at: datetime
    times_seen: int
    times_reopened: int
    closed_at: datetime | None
    reason: str | None
    resolution: str | None
    rule_set_version: int | None
    rules: str | None
    aged_from: datetime


_DISCREPANCY = [getattr(Discrepancy, name) for name in DiscrepancyLine.__dataclass_fields__]


def discrepancy_lines() -> Select[Any]:
    """The columns of a `DiscrepancyLine` of every discrepancy, to be narrowed down; others may be added behind."""
    return select(*_DISCREPANCY)


def open_discrepancies(
    connection: Connection,
    by: Narrowing,
    limit: int = 1_000,
    *,
    link_ids: Collection[UUID] | None = None,
) -> list[DiscrepancyLine]:
    """Those that are open, the oldest first. link_ids: of these links alone."""
    return discrepancies(connection, by, limit=limit, is_closed=False, link_ids=link_ids)


def discrepancies(
    connection: Connection,
    by: Narrowing,
    *,
    limit: int,
    is_closed: bool | None = None,
    owner: str | None = None,
    discrepancy_id: UUID | None = None,
    link_ids: Collection[UUID] | None = None,
) -> list[DiscrepancyLine]:
    """Discrepancies, the oldest by aged_from first. is_closed: None for both.

    since, until: when they were first seen.
    """
    row = Discrepancy
    conditions = _conditions(
        (row.instance_id, by.instance_id),
        (row.payment_link_id, by.payment_link_id),
        (row.payment_id, by.payment_id),
        (row.state, by.status),
        (row.type, by.type),
        (row.currency, by.currency),
        (row.owner, owner),
        (row.discrepancy_id, discrepancy_id),
    )
    if is_closed is not None:
        conditions.append(row.closed_at.is_not(None) if is_closed else row.closed_at.is_(None))
    if link_ids is not None:
        conditions.append(is_any_of(row.payment_link_id, link_ids))
    found = connection.execute(
        discrepancy_lines()
        .where(*conditions, *_between(row.first_seen_at, by))
        .order_by(row.aged_from, row.discrepancy_id)
        .limit(limit)
    )
    return [DiscrepancyLine(*line) for line in found]


@dataclass(frozen=True, slots=True)
class AcceptedLine:
    """A difference that stands and needs no decision any more.

    how: `written_off` or `tolerated`. amount: what was written off, or is at risk within the rules, in currency; None
    where no money can be named.
    """

    discrepancy_id: UUID
    payment_link_id: UUID
    payment_id: UUID | None
    type: str
    how: str
    amount: Decimal | None
    currency: str | None


def accepted(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], limit: int
) -> list[AcceptedLine]:
    """What is written off, or within the rules, of these links and their payments; the oldest first."""
    row, off = Discrepancy, WriteOffRow
    is_written_off = row.state == "written_off"
    found = connection.execute(
        select(
            *(row.discrepancy_id, row.payment_link_id, row.payment_id, row.type),
            case((is_written_off, "written_off"), else_="tolerated"),
            case(
                (row.currency.is_(None), None),
                else_=func.coalesce(off.amount, row.amount_at_risk),
            ),
            row.currency,
        )
        .outerjoin(off, and_(off.discrepancy_id == row.discrepancy_id, off.status == "approved"))
        .where(
            row.instance_id == instance_id,
            is_any_of(row.payment_link_id, link_ids),
            or_(is_written_off, row.reason == "within_tolerance"),
        )
        .order_by(row.aged_from, row.discrepancy_id)
        .limit(limit)
    )
    return [AcceptedLine(*line) for line in found]


@dataclass(frozen=True, slots=True)
class StepLine:
    """One thing that happened to a discrepancy; see `store.tables.DiscrepancyStep`."""

    step_id: int
    at: datetime
    kind: str
    actor: str
    run_id: UUID | None
    rule_set_version: int | None
    state: str
    severity: str
    sides: dict[str, Any]
    amount_at_risk: Decimal | None
    currency: str | None
    owner: str | None
    reason: str | None
    amount: Decimal | None
    comment: str | None
    evidence: str | None


def steps(connection: Connection, discrepancy_id: UUID, limit: int) -> list[StepLine]:
    """The newest steps of a discrepancy, in their order."""
    row = DiscrepancyStep
    found = connection.execute(
        select(*(getattr(row, name) for name in StepLine.__dataclass_fields__))
        .where(row.discrepancy_id == discrepancy_id)
        .order_by(row.step_id.desc())
        .limit(limit)
    )
    return [StepLine(*line) for line in found][::-1]


@dataclass(frozen=True, slots=True)
class WriteOffLine:
    """A write-off and what became of it; see `store.tables.WriteOffRow`."""

    write_off_id: UUID
    discrepancy_id: UUID
    instance_id: UUID
    amount: Decimal
    currency: str | None
    reason: str
    status: str
    proposed_by: str
    proposed_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    ended_by: str | None
    ended_at: datetime | None


def write_offs(
    connection: Connection, by: Narrowing, *, limit: int, discrepancy_id: UUID | None = None
) -> list[WriteOffLine]:
    """The register of write-offs, the newest proposal first. since, until: when they were proposed."""
    row = WriteOffRow
    conditions = _conditions(
        (row.instance_id, by.instance_id),
        (row.status, by.status),
        (row.currency, by.currency),
        (row.discrepancy_id, discrepancy_id),
    )
    found = connection.execute(
        select(*(getattr(row, name) for name in WriteOffLine.__dataclass_fields__))
        .where(*conditions, *_between(row.proposed_at, by))
        .order_by(row.proposed_at.desc(), row.write_off_id)
        .limit(limit)
    )
    return [WriteOffLine(*line) for line in found]


@dataclass(frozen=True, slots=True)
class CheckLine:
    """How far the check of a link is. It is finished once checked >= what was wanted when it was asked for."""

    payment_link_id: UUID
    wanted: int
    checked: int
    is_settled: bool
    failures: int
    due_at: datetime | None
    last_checked_at: datetime | None


def link_checks(connection: Connection, instance_id: UUID, link_ids: list[UUID]) -> list[CheckLine]:
    """Checks of these links, as far as any was asked for."""
    row = LinkCheck
    found = connection.execute(
        select(
            row.payment_link_id,
            row.wanted,
            row.checked,
            row.unsettled_since.is_(None),
            row.failures,
            row.due_at,
            row.last_checked_at,
        )
        .where(row.instance_id == instance_id, is_any_of(row.payment_link_id, link_ids))
        .order_by(row.payment_link_id)
    )
    return [CheckLine(*line) for line in found]


def links_due(connection: Connection, instance_id: UUID, limit: int) -> list[UUID]:
    """Payment links of an instance whose check was asked for and has not ended."""
    row = LinkCheck
    found = connection.execute(
        select(row.payment_link_id)
        .where(row.instance_id == instance_id, row.wanted > row.checked)
        .order_by(row.payment_link_id)
        .limit(limit)
    )
    return [line.payment_link_id for line in found]


def links_paid(connection: Connection, by: Narrowing, limit: int) -> list[tuple[UUID, UUID]]:
    """(instance, payment link) of every link we know with payments or a creation in the window."""
    rows = connection.execute(
        text("""
            SELECT instance_id, payment_link_id FROM payments
            WHERE (CAST(:instance_id AS uuid) IS NULL OR instance_id = :instance_id)
                AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
                AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
            UNION SELECT instance_id, payment_link_id FROM payment_links
            WHERE (CAST(:instance_id AS uuid) IS NULL OR instance_id = :instance_id)
                AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
                AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
            ORDER BY 1, 2 LIMIT :limit"""),
        {"instance_id": by.instance_id, "since": by.since, "until": by.until, "limit": limit},
    )
    return [(row.instance_id, row.payment_link_id) for row in rows]


def instance_of_link(connection: Connection, link_id: UUID, limit: int = 10) -> list[UUID]:
    """Instances that know a payment link of this id, from its description, its payments or its events."""
    rows: list[Row[Any]] = list(
        connection.execute(
            text("""
                SELECT instance_id FROM payment_links WHERE payment_link_id = :link_id
                UNION SELECT instance_id FROM payments WHERE payment_link_id = :link_id
                UNION SELECT instance_id FROM link_checks WHERE payment_link_id = :link_id
                ORDER BY 1 LIMIT :limit"""),
            {"link_id": link_id, "limit": limit},
        )
    )
    return [row.instance_id for row in rows]


@dataclass(frozen=True, slots=True)
class Description:
    """A payment link as Wix last described it. missing_since: Wix no longer knows it."""

    title: str | None
    currency: str | None
    payment_count: int | None
    total_amount: Decimal | None
    missing_since: datetime | None


def descriptions(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, Description]:
    """How Wix describes these links, as far as it has."""
    row = PaymentLinkRow
    rows = connection.execute(
        select(
            row.payment_link_id,
            row.title,
            row.currency,
            row.payment_count,
            row.total_amount,
            row.missing_since,
        ).where(row.instance_id == instance_id, is_any_of(row.payment_link_id, link_ids))
    )
    return {
        line.payment_link_id: Description(
            line.title, line.currency, line.payment_count, line.total_amount, line.missing_since
        )
        for line in rows
    }


# -- Inner -----------------------------------------------------------------------------------------


def _of_payments(by: Narrowing) -> list[ColumnElement[bool]]:
    row = PaymentRow
    return [
        *_conditions(
            (row.instance_id, by.instance_id),
            (row.payment_link_id, by.payment_link_id),
            (row.payment_id, by.payment_id),
            (row.match_state, by.status),
            (row.type, by.type),
            (row.currency, by.currency),
        ),
        *_between(row.created_at, by),
    ]


def _conditions(*pairs: tuple[Any, Any]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _between(column: Any, by: Narrowing) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if by.since is not None:
        found.append(column >= by.since)
    if by.until is not None:
        found.append(column < by.until)
    return found
