"""A payment link payment as we believe it, and the one rule by which belief changes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from msgspec import Struct


class Origin(StrEnum):
    """Who told us of a version of a payment."""

    WEBHOOK = "webhook"
    POLL = "poll"
    REPLAY = "replay"


class Payment(Struct, frozen=True, kw_only=True, gc=False):
    """The facts of one payment at one revision. None: Wix did not say.

    amount is in main units of `currency`, at most three decimals. There is no status: a payment link
    payment comes into being when money was received (Wix docs, payment link sample flows).
    """

    instance_id: UUID
    payment_id: UUID
    payment_link_id: UUID
    revision: int
    amount: Decimal
    currency: str
    type: str | None = None
    created_at: datetime | None = None
    transaction_at: datetime | None = None
    receipt_id: UUID | None = None
    ecom_checkout_id: str | None = None
    ecom_order_id: str | None = None
    method: str | None = None
    payment_method: str | None = None
    payment_provider: str | None = None


class SeenPayment(Struct, frozen=True):
    """One payment as told, split by who may read it.

    personal: contact, address and card blocks by Wix's field names, None when Wix sent none.
    rest: every field that has no column of its own, by Wix's names.
    """

    payment: Payment
    personal: dict[str, Any] | None
    rest: dict[str, Any]


class Verdict(StrEnum):
    """What to do with a version of a payment we are told of."""

    NEW = "new"
    NEWER = "newer"
    SAME = "same"
    STALE = "stale"
    CONFLICT = "conflict"

    @property
    def applies(self) -> bool:
        """Whether the version told becomes the one we believe."""
        return self in (Verdict.NEW, Verdict.NEWER)


IDENTITY = ("instance_id", "payment_id")
FACTS = tuple(name for name in Payment.__struct_fields__ if name not in (*IDENTITY, "revision"))
"""The names of what two versions of one revision must agree on."""


def differences(known: Payment, seen: Payment) -> tuple[str, ...]:
    """Names of the facts that both state and state differently, in the order of `FACTS`.

    Silence is not a statement: a webhook and a query answer may leave different optional fields out.
    """
    return tuple(
        name
        for name in FACTS
        if (ours := getattr(known, name)) is not None
        and (theirs := getattr(seen, name)) is not None
        and ours != theirs
    )


def judge(known: Payment | None, seen: Payment) -> Verdict:
    """Say what to do with a payment we have just been told of.

    The revision decides, not arrival: Wix resends for up to two days, and a resend carries the data as
    of the original event (Wix docs, Webhook Resend Policy, read 2026-11). One rule for webhooks, polls
    and replays; the guard in `store.inbox` says the same in SQL, and a property test holds them equal.
    """
    if known is None:
        return Verdict.NEW
    if seen.revision > known.revision:
        return Verdict.NEWER
    if seen.revision < known.revision:
        return Verdict.STALE
    return Verdict.CONFLICT if differences(known, seen) else Verdict.SAME
