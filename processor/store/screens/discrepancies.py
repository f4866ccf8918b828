"""The queue of discrepancies, and what is shown of one.

What is open is found by the index of the open ones, and looked through up to a bound: it is what needs a decision, so
it stays small beside the books. What is closed grows for ever. It is paged by the steps that closed it, the newest
first, a bounded number of steps for each page; of one payment or link by the index of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    any_,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
    true,
)

from processor.domain.access import PERMISSIONS, Permission, Reach
from processor.domain.discrepancy import AGING, State, StepKind
from processor.store import listings
from processor.store.listings import DiscrepancyLine, StepLine, WriteOffLine
from processor.store.screens.common import within
from processor.store.screens.keyset import PAGE, Position, Slice, fetch
from processor.store.tables import (
    AccountInstance,
    AccountRow,
    AppInstance,
    Discrepancy,
    DiscrepancyStep,
    PaymentLinkRow,
    PaymentRow,
    WriteOffRow,
    is_any_of,
)

# Open ones whose ages are looked up for one page. More than that is no queue any more, and each age is a look at a
# payment; their totals are of all nevertheless.
LOOKED_MAX = 10_000
WINDOW = 10_000  # steps looked through for one page of closed ones
WORKERS_MAX = 1_000


class Approval(StrEnum):
    """Whose approval a write-off waits for."""

    MINE = "mine"  # proposed by another than who asks
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What the queue is narrowed down to; None for what does not matter.

    states: any of these. owner: a name, "" for nobody. aging: the number of a bucket in `AGING`. least, most: the
    amount at risk, in main units of each one's own currency, both included. asker: who asks, of whom Approval.MINE is.
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
        return set(self.states) <= {State.OPEN, State.INVESTIGATING}

    @property
    def is_walked(self) -> bool:
        """Whether the list is paged by the steps that closed its items."""
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
    """Some of what a filter finds: of one currency, one bucket of ages, and one answer to whether a write-off waits.

    currency: None where no money can be named. approval: None when none waits, MINE when another proposed it than asks,
    ANY when who asks did. amount: their sum in main units, None where none is known.
    """

    currency: str | None
    aging: int
    approval: Approval | None
    count: int
    amount: Decimal | None


# -- The queue ---------------------------------------------------------------------------------------

_PROPOSED = text("write_offs.status IN ('proposed', 'approved') AND write_offs.status = 'proposed'")
_CLOSING = ("resolved", "write_off_approved")


def _conditions(by: Filter, reach: Reach) -> list[ColumnElement[bool]]:
    """What can be said of the row of a discrepancy alone."""
    row = Discrepancy
    found = within(row.instance_id, reach)
    if by.is_open:
        found.append(row.closed_at.is_(None))
        if len(by.states) == 1:
            found.append(row.state == by.states[0])
    else:
        found.append(row.state.in_(by.states))
    for column, value in (
        (row.instance_id, by.instance_id),
        (row.payment_link_id, by.payment_link_id),
        (row.payment_id, by.payment_id),
        (row.type, by.type),
        (row.severity, by.severity),
        (row.currency, by.currency),
    ):
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
    if by.approval is not None:
        # Persons propose them one by one: they are fewer than what is open.
        proposed = select(WriteOffRow.discrepancy_id).where(_PROPOSED).scalar_subquery()
        found.append(row.discrepancy_id == any_(func.array(proposed)))
    if by.payment_link_id is not None and by.instance_id is None and reach.instance_ids is None:
        # The index of links begins with the instance: this lets it be asked for each.
        every = select(AppInstance.instance_id).scalar_subquery()
        found.append(row.instance_id == any_(func.array(every)))
    return found


def _set(by: Filter, reach: Reach) -> Select[Any]:
    """What the filter finds whatever it says of ages: key, age and what is summed, of the LOOKED_MAX seen first.

    What stands beside a row is looked up by its key for each, whatever the planner believes of the tables; OFFSET 0
    keeps it from being looked up more than once.
    """
    row = Discrepancy
    seen_first = (
        select(
            row.discrepancy_id,
            row.instance_id,
            row.payment_id,
            row.currency,
            row.amount_at_risk,
            row.opened_at,
        )
        .where(*_conditions(by, reach))
        .order_by(row.first_seen_at, row.discrepancy_id)
        .limit(LOOKED_MAX)
        .subquery()
    )
    one = seen_first.c
    dated = (
        select(func.coalesce(PaymentRow.transaction_at, PaymentRow.created_at))
        .where(PaymentRow.instance_id == one.instance_id, PaymentRow.payment_id == one.payment_id)
        .correlate(seen_first)
        .scalar_subquery()
    )
    proposed_by = (
        select(WriteOffRow.proposed_by)
        .where(WriteOffRow.discrepancy_id == one.discrepancy_id, _PROPOSED)
        .correlate(seen_first)
        .scalar_subquery()
    )
    return select(
        one.discrepancy_id,
        one.currency,
        one.amount_at_risk,
        # As in listings and the view report.open_items.
        func.coalesce(dated, one.opened_at).label("aged_from"),
        proposed_by.label("proposed_by"),
    ).offset(literal_column("0"))


def _approval(proposed_by: Any, asker: str) -> Any:
    return case(
        (proposed_by.is_(None), None),
        (func.lower(proposed_by) != func.lower(asker), Approval.MINE.value),
        else_=Approval.ANY.value,
    )


def page(
    connection: Connection, by: Filter, reach: Reach, *, at: Position | None, now: datetime
) -> tuple[Slice[QueueLine], list[Group]]:
    """A page of the queue, the oldest by age first, and its `groups`; see `walked` for what is closed.

    One statement, so that everything is looked through once.
    """
    found = _set(by, reach).cte("found")
    sums = _groups(found, by, now).subquery()
    told = select(
        func.json_agg(
            func.json_build_array(
                sums.c.currency, sums.c.aging, sums.c.approval, sums.c.count, cast(sums.c.amount, Text)
            )
        )
    ).scalar_subquery()
    statement = select(found.c.discrepancy_id, told.label("sums"))
    if by.aging is not None:
        older, younger = _span(by.aging, now)
        if older is not None:
            statement = statement.where(found.c.aged_from > older)
        if younger is not None:
            statement = statement.where(found.c.aged_from <= younger)
    if by.approval is not None:
        statement = statement.where(found.c.proposed_by.is_not(None))
    if by.approval is Approval.MINE:
        statement = statement.where(func.lower(found.c.proposed_by) != func.lower(by.asker))
    rows = fetch(
        connection,
        statement,
        [found.c.aged_from, found.c.discrepancy_id],
        at=at,
        is_descending=False,
    )
    lines = _lines(connection, [row.discrepancy_id for row in rows.items], reach)
    if rows.items:
        groups = [_group(*one) for one in rows.items[0].sums]
    else:
        # Only a row can bring them along.
        groups = [_group(*row) for row in connection.execute(_groups(_set(by, reach).subquery(), by, now))]
    return Slice(lines, rows.before, rows.after), groups


def _span(aging: int, now: datetime) -> tuple[datetime | None, datetime | None]:
    """(after, until]: when what is in this bucket is aged from, None for no end."""
    until = AGING[aging][1]
    begins = AGING[aging - 1][1] if aging else None
    return (
        None if until is None else now - until,
        None if begins is None else now - begins,
    )


def walked(
    connection: Connection, by: Filter, reach: Reach, *, at: Position | None, limit: int = PAGE
) -> Slice[QueueLine]:
    """A page of what is closed, the last closed first. It may be short, or empty, with more behind it.

    Its positions are steps, of which each page looks through WINDOW.
    """
    step, row = DiscrepancyStep, Discrepancy
    is_back = at is not None and at.is_back
    window = select(step.step_id, step.discrepancy_id, step.kind)
    if at is not None:
        [number] = at.key
        window = window.where(step.step_id > number if is_back else step.step_id < number)
    looked = window.order_by(step.step_id.asc() if is_back else step.step_id.desc()).limit(WINDOW).subquery()
    held = (
        select(row.discrepancy_id)
        .where(row.discrepancy_id == looked.c.discrepancy_id, *_conditions(by, reach))
        .offset(literal_column("0"))
        .lateral()
    )
    later = (
        select(step.step_id)
        .where(
            step.discrepancy_id == looked.c.discrepancy_id,
            step.step_id > looked.c.step_id,
            step.kind.in_((*_CLOSING, StepKind.REOPENED.value)),
        )
        .limit(1)
        .correlate(looked)
        .scalar_subquery()
    )
    order = looked.c.step_id.asc() if is_back else looked.c.step_id.desc()
    rows = connection.execute(
        select(looked.c.step_id, looked.c.discrepancy_id)
        .join_from(looked, held, true())
        .where(looked.c.kind.in_(_CLOSING), later.is_(None))
        .order_by(order)
        .limit(limit + 1)
    ).all()
    has_more, shown = len(rows) > limit, list(rows[:limit])
    edge: int | None = shown[-1].step_id if has_more else None
    if not has_more:
        count, lowest, highest = connection.execute(
            select(func.count(), func.min(looked.c.step_id), func.max(looked.c.step_id))
        ).one()
        if count == WINDOW:
            edge = highest if is_back else lowest
    if is_back:
        shown.reverse()
        before = None if edge is None else Position((edge,), is_back=True)
        after = Position((shown[-1].step_id if shown else at.key[0] + 1,)) if at is not None else None
    else:
        first = shown[0].step_id if shown else (at.key[0] - 1 if at is not None else None)
        before = None if at is None or first is None else Position((first,), is_back=True)
        after = None if edge is None else Position((edge,))
    return Slice(_lines(connection, [one.discrepancy_id for one in shown], reach), before, after)


def of_currency(
    connection: Connection, by: Filter, reach: Reach
) -> list[tuple[str | None, int, Decimal | None]]:
    """Currency, number and amount at risk of everything the filter finds, whatever it says of ages; see `Group`."""
    row = Discrepancy
    found = connection.execute(
        select(row.currency, func.count(), func.sum(row.amount_at_risk))
        .where(*_conditions(by, reach))
        .group_by(row.currency)
        .order_by(row.currency)
    )
    return [(line[0], line[1], line[2]) for line in found]


def _groups(found: Any, by: Filter, now: datetime) -> Select[Any]:
    """The columns of a `Group` of everything in `found`, whatever the filter says of ages and approvals."""
    buckets = case(
        *(
            (found.c.aged_from > now - until, number)
            for number, (_, until) in enumerate(AGING)
            if until is not None
        ),
        else_=len(AGING) - 1,
    )
    inner = select(
        found.c.currency,
        buckets.label("aging"),
        _approval(found.c.proposed_by, by.asker).label("approval"),
        found.c.amount_at_risk,
    ).subquery()
    columns = [inner.c.currency, inner.c.aging, inner.c.approval]
    return select(
        *columns, func.count().label("count"), func.sum(inner.c.amount_at_risk).label("amount")
    ).group_by(*columns)


def _group(
    currency: str | None, aging: int, approval: str | None, count: int, amount: Decimal | str | None
) -> Group:
    return Group(
        currency,
        aging,
        None if approval is None else Approval(approval),
        count,
        None if amount is None else Decimal(amount),
    )


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


@dataclass(frozen=True, slots=True)
class Facts:
    """What one side says of a payment; None for what it does not say."""

    revision: int
    amount: Decimal
    currency: str
    type: str | None
    payment_link_id: UUID
    created_at: datetime | None
    transaction_at: datetime | None
    receipt_id: UUID | None
    ecom_order_id: str | None


def told_and_booked(
    connection: Connection, instance_id: UUID, payment_id: UUID
) -> tuple[Facts | None, Facts | None]:
    """What the newest webhook told of a payment, and what is booked. None for a side that knows nothing of it."""
    columns = ", ".join(Facts.__dataclass_fields__)
    values = {"instance_id": instance_id, "payment_id": payment_id}
    where = "WHERE instance_id = :instance_id AND payment_id = :payment_id"
    told = connection.execute(
        text(f"""
            SELECT {columns} FROM payment_tellings {where} AND origin = 'webhook'
            ORDER BY revision DESC, version_id DESC LIMIT 1"""),
        values,
    ).one_or_none()
    booked = connection.execute(text(f"SELECT {columns} FROM payments {where}"), values).one_or_none()
    return (None if told is None else Facts(*told), None if booked is None else Facts(*booked))


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
