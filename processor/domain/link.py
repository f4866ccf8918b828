"""A payment link as Wix last described it, and what its control total says about money."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A payment link. None: Wix did not say.

    payment_count and total_amount are Wix's `totalReceived`: a cross-check only, since the documentation
    does not say whether they fall after a refund or count a split payment once. status PAID must never
    be read as "has money": a link without a limit stays ACTIVE however often it is paid.
    """

    instance_id: UUID
    payment_link_id: UUID
    revision: int | None = None
    title: str | None = None
    currency: str | None = None
    type: str | None = None
    status: str | None = None
    payments_limit: int | None = None
    payment_count: int | None = None
    total_amount: Decimal | None = None
    last_payment_at: datetime | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    share_url: str | None = None
    ecom_order_id: str | None = None
    order_amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link as Wix described it. rest: what has no column, by Wix's names."""

    link: Link
    rest: dict[str, Any]
