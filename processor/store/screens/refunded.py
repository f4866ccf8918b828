"""What was given back of payments, as far as Wix told of it.

Wix's payments do not show refunds: only events about refunds do, where the app subscribed to them. So what was refunded
is null, and not zero, of a payment of which no refund was ever told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    func,
    or_,
    select,
    text,
)

from processor.domain.refund import RefundStatus
from processor.store.tables import RefundRow


class RefundState(StrEnum):
    """How much of a payment was given back. UNCLEAR: a refund succeeded whose amount cannot be booked."""

    NONE = "none"
    PARTLY = "partly"
    WHOLLY = "wholly"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Refunded:
    """What was told of refunds of one payment. amount: given back, None when that is unclear.

    told: refunds that were told of, whatever became of them; at least one.
    """

    state: RefundState
    amount: Decimal | None
    told: int


_NEVER = Decimal(0)


def net(amount: Decimal, refunded: Decimal | None, *, is_unclear: bool = False) -> Decimal | None:
    """What is left of an amount after the refunds that were told of; None when that is unclear.

    Fees are not in it: Wix does not tell of them.
    """
    return None if is_unclear else amount - (refunded or _NEVER)


def net_of(amount: Decimal, back: Refunded | None) -> Decimal | None:
    """`net` of one payment. back: None when no refund of it was told of."""
    return amount if back is None else net(amount, back.amount, is_unclear=back.amount is None)


class _Sums(NamedTuple):
    """Of some refunds. least, most: currencies of those that succeeded; unread: of them, those without an amount."""

    told: Any
    succeeded: Any
    unread: Any
    least: Any
    most: Any
    amount: Any


def _sums() -> _Sums:
    row = RefundRow
    succeeded = row.status == RefundStatus.SUCCEEDED.value
    return _Sums(
        told=func.count(),
        succeeded=func.count().filter(succeeded),
        unread=func.count().filter(and_(succeeded, row.amount.is_(None))),
        least=func.min(row.currency).filter(succeeded),
        most=func.max(row.currency).filter(succeeded),
        amount=func.coalesce(func.sum(row.amount).filter(succeeded), 0),
    )


def _summed(*also: Any) -> Select[Any]:
    return select(*also, *(one.label(name) for name, one in _sums()._asdict().items()))


def _of(payment: Any) -> list[ColumnElement[bool]]:
    return [RefundRow.instance_id == payment.instance_id, RefundRow.payment_id == payment.payment_id]


def of_each(payment: Any) -> Any:
    """The refunds of each payment of a statement, added up: to be joined laterally. payment: its columns.

    One look-up in the index of refunds for each; see `common.keep_to_order`.
    """
    return _summed().where(*_of(payment)).correlate_except(RefundRow).lateral("refunded")


def of_all() -> Any:
    """All refunds, added up by instance_id and payment_id: to be joined where most payments are read anyway."""
    row = RefundRow
    return (
        _summed(row.instance_id, row.payment_id)
        .group_by(row.instance_id, row.payment_id)
        .subquery("refunded")
    )


def is_of(payment: Any, sums: Any) -> list[ColumnElement[bool]]:
    """That sums of `of_all` are of a payment. payment: its columns."""
    return [sums.instance_id == payment.instance_id, sums.payment_id == payment.payment_id]


def is_unclear(payment: Any, sums: Any) -> ColumnElement[bool]:
    """Whether a refund of the payment succeeded that is not in the sum. sums: columns of `of_each` or `of_all`."""
    return and_(
        sums.succeeded > 0,
        or_(sums.unread > 0, sums.least != payment.currency, sums.most != payment.currency),
    )


def given_back(payment: Any, sums: Any) -> ColumnElement[Any]:
    """What was refunded of a payment; NULL when nothing was told, and when it is unclear."""
    return case((and_(sums.told > 0, ~is_unclear(payment, sums)), sums.amount))


def state_of(payment: Any) -> ColumnElement[Any]:
    """The RefundState of each payment of a statement, NONE also where nothing was told. payment: its columns."""
    sums = _sums()
    state = case(
        (is_unclear(payment, sums), RefundState.UNCLEAR.value),
        (sums.amount == 0, RefundState.NONE.value),
        (sums.amount < payment.amount, RefundState.PARTLY.value),
        else_=RefundState.WHOLLY.value,
    )
    return select(state).where(*_of(payment)).correlate_except(RefundRow).scalar_subquery()


def of_payments(
    connection: Connection, payments: Collection[tuple[UUID, UUID, Decimal, str]]
) -> dict[tuple[UUID, UUID], Refunded]:
    """What was refunded of payments, by (instance, payment), of those of which a refund was told.

    payments: (instance_id, payment_id, amount, currency) of each.
    """
    if not payments:
        return {}
    by_key = {
        (instance_id, payment_id): (amount, currency)
        for instance_id, payment_id, amount, currency in payments
    }
    rows = connection.execute(
        text("""
            SELECT a.instance_id, a.payment_id, r.* FROM
                unnest(CAST(:instance_ids AS uuid[]), CAST(:payment_ids AS uuid[])) AS a (instance_id, payment_id)
            CROSS JOIN LATERAL (
                SELECT count(*) AS told, count(*) FILTER (WHERE r.status = 'SUCCEEDED') AS succeeded,
                    count(*) FILTER (WHERE r.status = 'SUCCEEDED' AND r.amount IS NULL) AS unread,
                    min(r.currency) FILTER (WHERE r.status = 'SUCCEEDED') AS least,
                    max(r.currency) FILTER (WHERE r.status = 'SUCCEEDED') AS most,
                    COALESCE(sum(r.amount) FILTER (WHERE r.status = 'SUCCEEDED'), 0) AS amount
                FROM refunds r WHERE r.instance_id = a.instance_id AND r.payment_id = a.payment_id
            ) AS r
            WHERE r.told > 0"""),
        {
            "instance_ids": [instance_id for instance_id, _ in by_key],
            "payment_ids": [payment_id for _, payment_id in by_key],
        },
    )
    found: dict[tuple[UUID, UUID], Refunded] = {}
    for one in rows:
        key = (one.instance_id, one.payment_id)
        paid, currency = by_key[key]
        found[key] = _refunded(one, paid, currency)
    return found


def _refunded(sums: Any, paid: Decimal, currency: str) -> Refunded:
    if sums.succeeded and (sums.unread or {sums.least, sums.most} != {currency}):
        return Refunded(RefundState.UNCLEAR, None, sums.told)
    return _booked(Decimal(sums.amount), paid, sums.told)


def _booked(amount: Decimal, paid: Decimal, told: int) -> Refunded:
    if not amount:
        return Refunded(RefundState.NONE, amount, told)
    return Refunded(RefundState.PARTLY if amount < paid else RefundState.WHOLLY, amount, told)
