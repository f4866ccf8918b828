"""The queue of discrepancies, and what is shown of one.

What is open is read in the order of its age, what is closed in the order in which it was closed, both from indexes of
just these, and no more than LOOKED_MAX for a page: where a filter finds less than a page in so many, the next page goes
on there. What is of one payment or link is found by the index of that. See migration 0021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    any_,
    case,
    func,
    select,
    text,
    true,
)

from processor.domain.access import PERMISSIONS, Permission, Reach
from processor.domain.discrepancy import AGING, State
from processor.store import listings
from processor.store.listings import DiscrepancyLine, StepLine, WriteOffLine
from processor.store.screens.common import keep_to_order, within
from processor.store.screens.keyset import Position, Slice, fetch
from processor.store.screens.sieve import Sifted, sift
from processor.store.tables import (
    AccountInstance,
    AccountRow,
    AppInstance,
    Discrepancy,
    DiscrepancyStep,
    PaymentLinkRow,
    WriteOffRow,
    is_any_of,
)

LOOKED_MAX = 10_000  # looked at for one page, and added up unless everything is asked for; some milliseconds
WORKERS_MAX = 1_000
OPEN = frozenset((State.OPEN, State.INVESTIGATING))
CLOSED = frozenset((State.RESOLVED, State.WRITTEN_OFF))


class Approval(StrEnum):
    """Whose approval a write-off waits for."""

    MINE = "mine"  # proposed by another than who asks
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What the queue is narrowed down to; None for what does not matter.

    states: one, or all that are open, or closed, or both. owner: a name, "" for nobody. aging: the number of a bucket
    in `AGING`. least, most: the amount at risk, in main units of each one's own currency, both included. asker: who
    asks, of whom Approval.MINE is.
    """

    asker: str
    states: tuple[State, ...] = (State.OPEN, State.INVESTIGATING)
    type: str | None = None
    severity: str | None = None
    owner: str | None = None
    instance_id: UUID | None = None
    currency: str | None = None
    payment_link_id: UUID | None = None
    payment_id: UUID | None = None
    aging: int | None = None
    least: Decimal | None = None
    most: Decimal | None = None
    approval: Approval | None = None

    @property
    def is_open(self) -> bool:
        """Whether only what needs a decision is asked for."""
        return set(self.states) <= OPEN

    @property
    def is_by_closing(self) -> bool:
        """Whether the list is in the order in which its items were closed, the last first."""
        return not self.is_open and self.payment_id is None and self.payment_link_id is None


@dataclass(frozen=True, slots=True)
class QueueLine:
    """An item of the queue. proposed_by: whose write-off of it waits, None when none does.

    last_step: the number of its newest step. title: of its payment link, None when Wix told none.
    """

    one: DiscrepancyLine
    proposed_by: str | None
    last_step: int
    title: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Some of what a filter finds: of one currency and one bucket of ages.

    currency: None where no money can be named. amount: their sum in main units, None where none is known.
    """

    currency: str | None
    aging: int
    count: int
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Sums:
    """What a filter finds, whatever it says of ages. is_whole: otherwise it is of the oldest LOOKED_MAX alone."""

    groups: list[Group]
    is_whole: bool


# -- The queue ---------------------------------------------------------------------------------------

_PROPOSED = text("write_offs.status = 'proposed'")


def _place(by: Filter, reach: Reach) -> list[ColumnElement[bool]]:
    """What an index knows of a discrepancy, but for its age."""
    row = Discrepancy
    found: list[ColumnElement[bool]] = []
    if by.is_open:
        found.append(row.closed_at.is_(None))
    elif by.is_by_closing or set(by.states) <= CLOSED:
        found.append(row.closed_at.is_not(None))
    instance_id = by.instance_id
    if instance_id is None and reach.instance_ids is not None and len(reach.instance_ids) == 1:
        [instance_id] = reach.instance_ids  # as one, its rows have an order
    found += [] if instance_id in (reach.instance_ids or ()) else within(row.instance_id, reach)
    for column, value in (
        (row.instance_id, instance_id),
        (row.payment_link_id, by.payment_link_id),
        (row.payment_id, by.payment_id),
    ):
        if value is not None:
            found.append(column == value)
    if by.approval is not None:
        found.append(_is_waiting(by))
    if by.payment_link_id is not None and instance_id is None and reach.instance_ids is None:
        # The index of links begins with the instance: this lets it be asked for each.
        every = select(AppInstance.instance_id).scalar_subquery()
        found.append(row.instance_id == any_(func.array(every)))
    return found


def _is_waiting(by: Filter) -> ColumnElement[bool]:
    """A write-off of it waits, and for who asks unless it is Approval.ANY. Persons propose them: they are few."""
    proposed = select(WriteOffRow.discrepancy_id).where(_PROPOSED)
    if by.approval is not Approval.ANY:
        proposed = proposed.where(func.lower(WriteOffRow.proposed_by) != func.lower(by.asker))
    return Discrepancy.discrepancy_id == any_(func.array(proposed.scalar_subquery()))


def _rest(by: Filter) -> list[ColumnElement[bool]]:
    """What else is asked of it."""
    row = Discrepancy
    found: list[ColumnElement[bool]] = []
    if len(by.states) == 1:
        found.append(row.state == by.states[0])  # several are all that are open, closed, or both: see _place
    for column, value in ((row.type, by.type), (row.severity, by.severity), (row.currency, by.currency)):
        if value is not None:
            found.append(column == value)
    if by.owner == "":
        found.append(row.owner.is_(None))
    elif by.owner is not None:
        found.append(func.lower(row.owner) == func.lower(by.owner))
    if by.least is not None:
        found.append(row.amount_at_risk >= by.least)
    if by.most is not None:
        found.append(row.amount_at_risk <= by.most)
    return found


def page(
    connection: Connection, by: Filter, reach: Reach, *, at: Position | None, now: datetime
) -> Sifted[QueueLine]:
    """A page of the queue, the oldest by age first; of what is closed, the last closed first."""
    keep_to_order(connection)
    row = Discrepancy
    conditions, rest = _place(by, reach), _rest(by)
    if by.aging is not None:
        conditions += _aged(by.aging, now)
    order = row.closed_at if by.is_by_closing else row.aged_from
    found = sift(
        connection,
        select(row.discrepancy_id).where(*conditions),
        rest,
        [order, row.discrepancy_id],
        at=at,
        looked_max=LOOKED_MAX,
        is_descending=by.is_by_closing,
    )
    lines = _lines(connection, [one.discrepancy_id for one in found.page.items], reach)
    page = Slice(lines, found.page.before, found.page.after)
    return Sifted(page, found.looked_to, found.looked_max)


def sums(connection: Connection, by: Filter, reach: Reach, *, now: datetime, is_whole: bool = False) -> Sums:
    """What the filter finds by currency and bucket of ages, whatever it says of these. is_whole: however much."""
    keep_to_order(connection)
    row = Discrepancy
    looked = select(
        row.currency, row.amount_at_risk, row.aged_from, and_(true(), *_rest(by)).is_(True).label("fits")
    ).where(*_place(by, reach))
    if not is_whole:
        looked = looked.order_by(row.aged_from, row.discrepancy_id).limit(LOOKED_MAX)
    one = looked.subquery().c
    buckets = case(
        *(
            (one.aged_from > now - until, number)
            for number, (_, until) in enumerate(AGING)
            if until is not None
        ),
        else_=len(AGING) - 1,
    ).label("aging")
    found = connection.execute(
        select(
            one.currency,
            buckets,
            func.count().filter(one.fits).label("number"),
            func.sum(one.amount_at_risk).filter(one.fits).label("amount"),
            func.count().label("looked"),
        ).group_by(one.currency, buckets)
    ).all()
    return Sums(
        [Group(line.currency, line.aging, line.number, line.amount) for line in found if line.number],
        is_whole or sum(line.looked for line in found) < LOOKED_MAX,
    )


def waiting(connection: Connection, by: Filter, reach: Reach) -> int:
    """Of what the filter finds, whatever it says of ages, the write-offs that wait for who asks."""
    keep_to_order(connection)
    conditions = (*_place(replace(by, approval=Approval.MINE), reach), *_rest(by))
    return connection.execute(select(func.count()).where(*conditions)).scalar_one()


def _aged(aging: int, now: datetime) -> list[ColumnElement[bool]]:
    """It is in this bucket of ages."""
    until = AGING[aging][1]
    begins = AGING[aging - 1][1] if aging else None
    found: list[ColumnElement[bool]] = []
    if until is not None:
        found.append(Discrepancy.aged_from > now - until)
    if begins is not None:
        found.append(Discrepancy.aged_from <= now - begins)
    return found


def _lines(connection: Connection, ids: Sequence[UUID], reach: Reach) -> list[QueueLine]:
    """These, in their order."""
    if not ids:
        return []
    row, step = Discrepancy, DiscrepancyStep
    last_step = (
        select(func.max(step.step_id))
        .where(step.discrepancy_id == row.discrepancy_id)
        .correlate(row)
        .scalar_subquery()
    )
    proposed_by = (
        select(WriteOffRow.proposed_by)
        .where(WriteOffRow.discrepancy_id == row.discrepancy_id, _PROPOSED)
        .correlate(row)
        .scalar_subquery()
    )
    title = (
        select(PaymentLinkRow.title)
        .where(
            PaymentLinkRow.instance_id == row.instance_id,
            PaymentLinkRow.payment_link_id == row.payment_link_id,
        )
        .correlate(row)
        .scalar_subquery()
    )
    statement: Select[Any] = listings.discrepancy_lines().add_columns(proposed_by, last_step, title)
    found = connection.execute(
        statement.where(is_any_of(row.discrepancy_id, ids), *within(row.instance_id, reach))
    )
    lines = {}
    for line in found:
        one = DiscrepancyLine(*line[:-3])
        lines[one.discrepancy_id] = QueueLine(one, line[-3], line[-2] or 0, line[-1])
    return [lines[one] for one in ids if one in lines]


# -- One discrepancy -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A discrepancy as its page shows it. write_off: proposed or in force, None when neither.

    first_run_id, last_run_id: the checks that saw it first and last.
    """

    line: QueueLine
    first_run_id: UUID
    last_run_id: UUID
    write_off: WriteOffLine | None


def find(connection: Connection, instance_id: UUID, discrepancy_id: UUID) -> Found | None:
    """One discrepancy of an instance, None when it has no such one."""
    lines = _lines(connection, [discrepancy_id], Reach(frozenset({instance_id})))
    if not lines:
        return None
    row = WriteOffRow
    off = connection.execute(
        select(*(getattr(row, name) for name in WriteOffLine.__dataclass_fields__)).where(
            row.discrepancy_id == discrepancy_id, text("write_offs.status IN ('proposed', 'approved')")
        )
    ).one_or_none()
    runs = connection.execute(
        select(Discrepancy.first_run_id, Discrepancy.last_run_id).where(
            Discrepancy.discrepancy_id == discrepancy_id
        )
    ).one()
    return Found(lines[0], runs.first_run_id, runs.last_run_id, None if off is None else WriteOffLine(*off))


def steps(connection: Connection, discrepancy_id: UUID, *, at: Position | None) -> Slice[StepLine]:
    """What happened to it, the newest first."""
    row = DiscrepancyStep
    found = fetch(
        connection,
        select(*(getattr(row, name) for name in StepLine.__dataclass_fields__)).where(
            row.discrepancy_id == discrepancy_id
        ),
        [row.step_id],
        at=at,
    )
    return Slice([StepLine(*list(line)[:-1]) for line in found.items], found.before, found.after)


# -- Who ---------------------------------------------------------------------------------------------


def workers(connection: Connection, reach: Reach) -> list[str]:
    """Names of those who may work on discrepancies of at least one of these instances, by name."""
    row = AccountRow
    roles = sorted(role for role, held in PERMISSIONS.items() if Permission.WORK in held)
    conditions: list[ColumnElement[bool]] = [row.roles.overlap(roles), row.disabled_at.is_(None)]
    if reach.instance_ids is not None:
        of_these = (
            select(AccountInstance.account_id)
            .where(
                AccountInstance.account_id == row.account_id,
                is_any_of(AccountInstance.instance_id, reach.instance_ids),
            )
            .correlate(row)
        )
        conditions.append(row.sees_every_instance | of_these.exists())
    return list(
        connection.scalars(
            select(row.name).where(*conditions).order_by(func.lower(row.name)).limit(WORKERS_MAX)
        )
    )
