"""What every part of the pretend Wix's world needs: reading input, writing money and dates, versions and events."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from processor.sandbox import events, query
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Refused, Violation, failed, invalid, not_found
from processor.sandbox.events import Entity, NewEvent
from processor.sandbox.faults import Faults
from processor.wix import wire

_NO_DIGITS = frozenset(
    (
        *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
        *("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
    )
)
_THREE_DIGITS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
AMOUNT_MAX = Decimal(10) ** 15  # of a payment, in main units (Wix docs, "Payment Link Payment Object")
_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,3})?")
_CURRENCY = re.compile(r"[A-Z]{3}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rules:
    """What Wix leaves open, chosen for this sandbox. Each is named as unknown in `docs/wix.md`.

    link_fqdn: the entity name of payment link events. currency_field: `currency` or `currencyCode` in a
    payment. gift_card_type: `type` of a gift card's payment. refund_raises_update: whether a refund makes a new
    revision of the payment and tells of it. totals_fall_on_refund: whether `totalReceived` gets smaller.
    split_counts_once: whether a purchase paid by two means counts as one payment in `totalReceived`.
    offline_makes_payment: whether an offline purchase makes a payment link payment at once.
    gift_card_field: the object of a gift card's payment. contact_id_field: where a payment names the buyer's
    contact, none for nowhere. buyer_identity: who causes the events of a purchase. link_tells_of_payments:
    whether a link that is paid or expires is told of by an update. refusal_status: of refusals that Wix
    documents without one. receipt_answer: what Issue Receipt answers with. page_default: items of a page when
    the query does not say. in_max: how many values `$in` takes. other_filters_ignored: whether a filter on a
    field that is not listed is ignored instead of refused. retry_after: whether a 429 says how long to wait.
    content_type: of deliveries. any_2xx_succeeds: whether another 2xx ends a delivery as 200 does.
    token_lifetime_seconds: `exp` - `iat` of a webhook. issuer_and_audience: whether its token has both.
    """

    link_fqdn: str = wire.LINK_FQDN_GUESS
    currency_field: str = "currency"
    gift_card_type: str = "GIFT_CARD"
    refund_raises_update: bool = False
    totals_fall_on_refund: bool = False
    split_counts_once: bool = False
    offline_makes_payment: bool = True
    gift_card_field: str = "giftCardPaymentLinkPayment"
    contact_id_field: str = ""
    buyer_identity: str = "ANONYMOUS_VISITOR"
    link_tells_of_payments: bool = True
    refusal_status: int = 428
    receipt_answer: str = "receiptId"
    page_default: int = query.PAGE_DEFAULT
    in_max: int = query.IN_MAX
    other_filters_ignored: bool = False
    retry_after: bool = False
    content_type: str = "text/plain"
    any_2xx_succeeds: bool = False
    token_lifetime_seconds: int = 300_000
    issuer_and_audience: bool = False


CHOICES = {
    "currency_field": ("currency", "currencyCode"),
    "buyer_identity": ("ANONYMOUS_VISITOR", "MEMBER", "WIX_USER", "APP"),
    "receipt_answer": ("receiptId", "receipt", "paymentLinkPayment", "nothing"),
}
"""Of the Rules that are text: those that take only certain words."""
RANGES = {
    "refusal_status": (400, 428),
    "page_default": (1, query.PAGE_MAX),
    "in_max": (1, 100_000),
    "token_lifetime_seconds": (1, 31_536_000),
}
"""Of the Rules that are numbers: from and to."""


class Core:
    """State, time and chance; versions of links and payments; the events that follow from a change."""

    def __init__(
        self,
        documents: Documents,
        faults: Faults,
        *,
        now: Callable[[], datetime],
        chance: random.Random,
        rules: Rules,
        base_url: Callable[[], str],
        send: Callable[[NewEvent], None],
        new_id: Callable[[], UUID],
    ) -> None:
        self._documents = documents
        self._faults = faults
        self._now = now
        self._random = chance
        self._rules = rules
        self._base_url = base_url
        self._send = send
        self._new_id = new_id

    def instance(self, instance_id: str) -> Document:
        """An installation. Raises Refused (404)."""
        return self._found("instance", instance_id)

    def _found(self, kind: str, id_: str) -> Document:
        document = self._documents.get(kind, id_)
        if document is None:
            raise not_found(kind, id_)
        return document

    def _owned(self, kind: str, id_: str, instance_id: str) -> Document:
        """A document of this instance. Raises Refused (404), for another's as well."""
        document = self._documents.get(kind, id_)
        if document is None or document["instanceId"] != instance_id:
            raise not_found(kind, id_)
        return document

    def _app(self) -> Document:
        return self._found("app", "app")

    def _time(self) -> str:
        return timestamp(self._now())

    # -- Versions and events -----------------------------------------------------------------------

    def _save(self, kind: str, document: Document, entity: Entity) -> None:
        self._documents.put_version(kind, document, entity, self._now())

    def _change_link(self, link: Document, change: Entity, slug: str | None) -> Entity:
        """The link's next revision. slug: of the event that tells of it, None for none."""
        entity = {**link["entity"], **change}
        entity |= {"revision": str(int(entity["revision"]) + 1), "updatedDate": self._time()}
        self._save("link", link, entity)
        if slug is not None:
            self._emit_link(link, slug)
        return entity

    def _change_payment(self, payment: Document, change: Entity, *, is_anonymization: bool = False) -> Entity:
        """The payment's next revision, told by an update."""
        entity = {**payment["entity"], **change}
        entity["revision"] = str(int(entity["revision"]) + 1)
        self._save("payment", payment, entity)
        self._emit_payment(payment, "updated", is_anonymization=is_anonymization)
        return entity

    def _emit_payment(self, payment: Document, slug: str, *, is_anonymization: bool = False) -> None:
        self._emit(payment, "payment", wire.PAYMENT_FQDN, slug, payment["linkId"], is_anonymization)

    def _emit_link(self, link: Document, slug: str) -> None:
        self._emit(link, "link", self._rules.link_fqdn, slug, link["id"], False)

    def _emit(
        self, document: Document, kind: str, fqdn: str, slug: str, link_id: str, is_anonymization: bool
    ) -> None:
        document["sequence"] += 1
        self._documents.put(kind, document["id"], document)
        instance = self.instance(document["instanceId"])
        app = {"identityType": "APP", "appId": self._app()["appId"]}
        self._send(
            events.domain_event(
                instance=instance,
                fqdn=fqdn,
                slug=slug,
                entity=document["entity"],
                entity_id=document["id"],
                payment_link_id=link_id,
                sequence=document["sequence"],
                at=self._time(),
                identity=self._buyer_identity(instance) if kind == "payment" else app,
                is_anonymization=is_anonymization,
                new_id=self._new_id,
            )
        )

    def _buyer_identity(self, instance: Document) -> Entity:
        """Who causes the events of a purchase: exactly one id, of the kind that the type says."""
        ids = {
            "ANONYMOUS_VISITOR": ("anonymousVisitorId", str(self._new_id())),
            "MEMBER": ("memberId", str(self._new_id())),
            "WIX_USER": ("wixUserId", instance["accountId"]),
            "APP": ("appId", self._app()["appId"]),
        }
        name, id_ = ids[self._rules.buyer_identity]
        return {"identityType": self._rules.buyer_identity, name: id_}

    def _refused(self, code: str, why: str) -> Refused:
        """A refusal for which Wix documents no status."""
        return failed(self._rules.refusal_status, code, why)


# -- Money and dates -------------------------------------------------------------------------------


def digits_of(currency: str) -> int:
    """Decimals of a currency."""
    return 0 if currency in _NO_DIGITS else 3 if currency in _THREE_DIGITS else 2


def money(amount: Decimal, currency: str) -> str:
    """An amount as Wix writes it: decimal text with the currency's digits."""
    return f"{amount:.{digits_of(currency)}f}"


def currency_of(payment: Entity) -> str:
    """A payment's currency, whichever of its two names the field had when it was paid."""
    return str(payment.get("currency") or payment["currencyCode"])


def timestamp(moment: datetime) -> str:
    """As Wix writes it: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_after(moment: datetime, now: datetime) -> bool:
    """Whether `moment` is an instant that Wix could write, and later than `now`."""
    if moment.tzinfo is None:
        return False
    try:
        return moment.astimezone(UTC) > now
    except OverflowError:  # a day before the first or after the last year
        return False


# -- Input: each raises Refused (400) naming the field ---------------------------------------------


def as_money(value: Any, currency: str, where: str) -> Decimal:
    """Decimal text in main units."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise invalid(Violation(where, 'must be a decimal as text, such as "10.99"', "FORMAT"))
    amount = Decimal(value)
    if amount != round(amount, digits_of(currency)):
        raise invalid(Violation(where, f"has more decimals than {currency}", "DECIMAL_MAX_SCALE"))
    return amount


def as_object(given: Any, where: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(given, dict):
        raise invalid(Violation(where or "body", "must be an object"))
    return given


def as_part(given: Any, where: str) -> dict[str, Any]:
    """A JSON object that may be left out or null: it is empty then."""
    return {} if given is None else as_object(given, where)


def as_list(given: Any, where: str, most: int, least: int = 1) -> list[Any]:
    """A JSON list of so many."""
    if not isinstance(given, list) or not least <= len(given) <= most:
        raise invalid(Violation(where, f"must be a list of {least} to {most}", "MAX_SIZE"))
    return given


def as_text(given: Any, where: str, length: int) -> str:
    """Text that is not empty."""
    if not isinstance(given, str) or not 1 <= len(given) <= length:
        raise invalid(Violation(where, f"must be text of 1 to {length} characters", "MAX_LENGTH"))
    return given


def as_flag(given: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(given, bool):
        raise invalid(Violation(where, "must be true or false"))
    return given


def is_currency(given: Any) -> bool:
    """Whether it has the form of an ISO 4217 code."""
    return isinstance(given, str) and _CURRENCY.fullmatch(given) is not None


def as_currency(given: Any, where: str) -> str:
    """The form of an ISO 4217 code."""
    if not is_currency(given):
        raise invalid(Violation(where, "must be an ISO 4217 code", "FORMAT"))
    return str(given)


def as_guid(given: Any, where: str) -> str:
    """A GUID."""
    try:
        return str(UUID(given))
    except (ValueError, AttributeError, TypeError):
        raise invalid(Violation(where, "must be a GUID", "FORMAT")) from None


def as_model(given: Any, model: type[T], where: str) -> T:
    """A wire model."""
    try:
        return msgspec.convert(given, model)
    except msgspec.ValidationError as why:
        said, _, path = str(why).partition(" - at ")
        field = path.strip("`").replace("$", where, 1) or where
        raise invalid(Violation(field, said, "FORMAT")) from None
