"""A difference that needs a decision: its closed list of types, and how grave each is."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from uuid import UUID


class DiscrepancyType(StrEnum):
    """Every difference we can name. The texts beside them are in `EXPLANATIONS`."""

    MISSING_AT_WIX = "missing_at_wix"
    AMOUNT_DIFFERS = "amount_differs"
    CURRENCY_DIFFERS = "currency_differs"
    LINK_DIFFERS = "link_differs"
    TYPE_DIFFERS = "type_differs"
    DETAIL_DIFFERS = "detail_differs"
    BEHIND_AT_WIX = "behind_at_wix"
    VERSION_CONFLICT = "version_conflict"
    EVENT_CONFLICT = "event_conflict"
    UNREADABLE_AT_WIX = "unreadable_at_wix"
    TOTAL_DIFFERS = "total_differs"
    COUNT_DIFFERS = "count_differs"
    OVER_LIMIT = "over_limit"
    LINK_MISSING = "link_missing"


class Severity(StrEnum):
    """How grave a discrepancy is. INFORMATIONAL may have an innocent cause that Wix does not document."""

    INFORMATIONAL = "informational"
    ERROR = "error"


class State(StrEnum):
    """Where a discrepancy stands."""

    OPEN = "open"
    INVESTIGATING = "investigating"
    RESOLVED = "resolved"
    WRITTEN_OFF = "written_off"


EXPLANATIONS: dict[DiscrepancyType, str] = {
    DiscrepancyType.MISSING_AT_WIX: "We booked a payment that Wix does not list.",
    DiscrepancyType.AMOUNT_DIFFERS: "Wix lists another amount than the one booked, at the same revision.",
    DiscrepancyType.CURRENCY_DIFFERS: "Wix lists another currency than the one booked, at the same revision.",
    DiscrepancyType.LINK_DIFFERS: "Wix lists the payment under another payment link than the one booked.",
    DiscrepancyType.TYPE_DIFFERS: "Wix lists another payment type than the one booked, at the same revision.",
    DiscrepancyType.DETAIL_DIFFERS: (
        "Wix lists another date, order or receipt than the one booked, at the same revision."
    ),
    DiscrepancyType.BEHIND_AT_WIX: "Wix lists an older revision of the payment than the one it told us of.",
    DiscrepancyType.VERSION_CONFLICT: "Wix told us two different contents of one revision of the payment.",
    DiscrepancyType.EVENT_CONFLICT: "One webhook event id came with two different bodies.",
    DiscrepancyType.UNREADABLE_AT_WIX: "Wix lists a payment that we cannot read, so it is not booked.",
    DiscrepancyType.TOTAL_DIFFERS: "The total Wix shows on the payment link is not the sum of its payments.",
    DiscrepancyType.COUNT_DIFFERS: "The number of payments Wix shows on the payment link is not the number it lists.",
    DiscrepancyType.OVER_LIMIT: "The payment link was paid more often than its limit allows.",
    DiscrepancyType.LINK_MISSING: "Wix no longer knows the payment link that payments were booked for.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A discrepancy as one check sees it. Link, type and payment together are its identity.

    sides: what each side says ("booked", "wix", "told"), as text, never personal. amount_at_risk is in
    `currency`, None where no money can be named.
    """

    type: DiscrepancyType
    payment_link_id: UUID
    payment_id: UUID | None = None
    severity: Severity = Severity.ERROR
    sides: dict[str, str | None] = field(default_factory=dict)
    amount_at_risk: Decimal | None = None
    currency: str | None = None
