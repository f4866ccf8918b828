"""A refund as an event of the order side tells of it. Pure.

Wix's payments and links do not say what was refunded; only these events do, where the app subscribed to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

EVENT_TYPES = ("wix.payments.refunds.v1.refund_created", "wix.payments.refunds.v1.refund_updated")


class RefundStatus(StrEnum):
    """How a refund stands, in Wix's words; of any other word nothing is concluded. Only SUCCEEDED gave money back."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REVERSED = "REVERSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund of one payment. None: Wix did not say.

    payment_id: the refund's `chargeId`, which is inferred to be the payment's id. amount: in main units, None when what
    Wix says is no amount we can book; reason says why, a code of `wix.parse.Reason`. sequence: Wix's count of the
    refund's events. occurred_at: when the event happened.
    """

    instance_id: UUID
    refund_id: UUID
    payment_id: UUID
    amount: Decimal | None
    currency: str | None
    status: str | None
    reason: str | None
    sequence: int | None
    occurred_at: datetime


_ORDER = (RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.REVERSED)


def supersedes(seen: Refund, known: Refund) -> bool:
    """Whether what was just read of a refund stands from now on: the later event does, however they arrive.

    A status that can only follow decides where two events have one time.
    """
    if seen.sequence is not None and known.sequence is not None and seen.sequence != known.sequence:
        return seen.sequence > known.sequence
    return (seen.occurred_at, rank(seen.status)) > (known.occurred_at, rank(known.status))


def rank(status: str | None) -> int:
    """How late in the life of a refund a status comes: one that succeeded may be reversed."""
    return next((number for number, one in enumerate(_ORDER, start=1) if one == status), 0)
