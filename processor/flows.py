"""The flows of the Payment Links API that change something at Wix: create a link once, send, initiate, and so on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from uuid import UUID

import msgspec
import structlog

from processor.domain.link import SeenLink
from processor.errors import (
    ConfigurationError,
    CreationConflict,
    CreationUnclear,
    Unreadable,
    WixError,
    WixUnavailable,
)
from processor.store import creations, links
from processor.wiring import Services
from processor.wix import wire
from processor.wix.client import TooManyPages, UnreadableItem
from processor.wix.parse import guid, seen_link

log = structlog.get_logger(__name__)

# One call with all its waits; beyond, the process that asked is taken for dead.
CREATION_LEASE = timedelta(seconds=180)
# How far Wix's clock and ours may be apart.
CLOCK_SKEW = timedelta(minutes=5)
LOOKED_AT_PAGES_MAX = 200


class How(StrEnum):
    """Where the link of a creation came from: made just now, found after a lost answer, or made before."""

    MADE = "made"
    FOUND = "found"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Created:
    """The link of a creation."""

    link_id: UUID
    how: How
    link: wire.PaymentLink


def create_link(
    services: Services, instance_id: UUID, new: wire.NewPaymentLink, *, reference: str
) -> Created:
    """Create a payment link, once for each reference, whatever happens on the way.

    Wix has no key by which it would know a request again. So the request is committed before it is sent, and
    when its answer was lost the link is looked for among those created since (`createdDate` is a documented
    filter) and taken when its content is that of the request. Only when Wix had the settling time to show it
    and does not is it asked for again.

    Raises CreationConflict, CreationUnclear, WixError, ConfigurationError.
    """
    request = msgspec.to_builtins(new)
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).digest()
    now = services.now()
    with services.database.begin() as connection:
        known = creations.begin(
            connection,
            instance_id,
            reference,
            request=request,
            digest=digest,
            now=now,
            lease=CREATION_LEASE,
        )
        if known is not None:
            _refuse_other(known, digest, reference, now)
            if known.status != "created":
                # Ours from now on: to look for it, or to ask again after a refusal.
                creations.hold(connection, instance_id, reference, now + CREATION_LEASE)
    if known is None or known.status == "refused":
        return _ask(services, instance_id, new, reference, is_again=known is not None)
    if known.payment_link_id is not None:
        return Created(
            known.payment_link_id, How.KNOWN, _as_it_is(services, instance_id, known.payment_link_id)
        )
    try:
        found = _look_for(services, instance_id, new, known)
    except (WixError, ConfigurationError, CreationUnclear):
        with services.database.begin() as connection:
            creations.leave_unclear(connection, instance_id, reference)
        raise
    if found is not None:
        log.info("creation_found", instance_id=str(instance_id), payment_link_id=found.id)
        return _finish(services, instance_id, reference, found, How.FOUND)
    settled = known.last_asked_at + timedelta(seconds=services.settings.settling_seconds)
    if services.now() < settled:
        with services.database.begin() as connection:
            creations.leave_unclear(connection, instance_id, reference)
        seconds = max(1.0, (settled - services.now()).total_seconds())
        raise CreationUnclear(
            "Wix does not show the link yet, though it may have been made: ask again with the same reference"
            f" in {seconds:.0f} s",
            retry_after_seconds=seconds,
        )
    return _ask(services, instance_id, new, reference, is_again=True)


def _refuse_other(known: creations.Creation, digest: bytes, reference: str, now: datetime) -> None:
    if known.digest != digest:
        raise CreationConflict(
            f"the reference {reference} was used for another link: choose a new one, or ask for the same link"
        )
    if known.lease_until is not None and known.lease_until > now:
        seconds = (known.lease_until - now).total_seconds()
        raise CreationUnclear(
            "this link is being created by another process: ask again with the same reference"
            f" in at most {seconds:.0f} s",
            retry_after_seconds=seconds,
        )


def _ask(
    services: Services, instance_id: UUID, new: wire.NewPaymentLink, reference: str, *, is_again: bool
) -> Created:
    if is_again:
        with services.database.begin() as connection:
            creations.ask_again(connection, instance_id, reference, now=services.now(), lease=CREATION_LEASE)
    try:
        made = services.wix.create_link(instance_id, new)
    except (WixError, ConfigurationError) as why:
        with services.database.begin() as connection:
            if isinstance(why, WixUnavailable) and not why.is_unsent:
                creations.leave_unclear(connection, instance_id, reference)
            else:
                creations.refuse(connection, instance_id, reference, str(why), services.now())
        raise
    return _finish(services, instance_id, reference, made, How.MADE)


def _finish(
    services: Services, instance_id: UUID, reference: str, link: wire.PaymentLink, how: How
) -> Created:
    link_id = guid(link.id)
    if link_id is None:
        raise WixUnavailable("create_link: Wix's answer has an id that is no GUID", status=200)
    with services.database.begin() as connection:
        creations.finish(connection, instance_id, reference, link_id, services.now())
    keep(services, instance_id, link)
    return Created(link_id, how, link)


def _as_it_is(services: Services, instance_id: UUID, link_id: UUID) -> wire.PaymentLink:
    told = services.wix.get_link(instance_id, link_id)
    if isinstance(told, UnreadableItem):
        return wire.PaymentLink(id=str(link_id))
    keep(services, instance_id, told)
    return told


def _look_for(
    services: Services, instance_id: UUID, new: wire.NewPaymentLink, known: creations.Creation
) -> wire.PaymentLink | None:
    """The link that an earlier try made, None when Wix shows none."""
    window = {
        "$gte": instant(known.first_asked_at - CLOCK_SKEW),
        "$lte": instant(known.last_asked_at + CREATION_LEASE + CLOCK_SKEW),
    }
    found: list[wire.PaymentLink] = []
    try:
        for page in services.wix.query_links(
            instance_id, {"createdDate": window}, sort=[("createdDate", "ASC")], pages_max=LOOKED_AT_PAGES_MAX
        ):
            found += [
                one
                for one in page
                if isinstance(one, wire.PaymentLink) and is_made_of(one, new, services.settings.app_id)
            ]
    except TooManyPages as why:
        raise CreationUnclear(
            "too many links were created meanwhile to look for this one: look for it by title at Wix",
            retry_after_seconds=services.settings.settling_seconds,
        ) from why
    ids = {link_id for one in found if (link_id := guid(one.id)) is not None}
    with services.database.begin() as connection:
        others = creations.claimed(connection, instance_id, ids)
    return next((one for one in found if guid(one.id) not in others), None)


def instant(moment: datetime) -> str:
    """A date as Wix writes it: UTC, milliseconds, Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def keep(services: Services, instance_id: UUID, link: wire.PaymentLink | UnreadableItem) -> None:
    """Remember how Wix describes a link. One that cannot be read waits for its check, which raises that."""
    if isinstance(link, UnreadableItem):
        return
    try:
        seen: SeenLink = seen_link(link, instance_id)
    except Unreadable as why:
        log.warning(
            "link_unreadable",
            instance_id=str(instance_id),
            payment_link_id=link.id[:64],
            reason=why.reason,
            detail=why.detail,
        )
        return
    with services.database.begin() as connection:
        links.save(connection, [seen], services.now())


# -- Whether a link is the one that was asked for ----------------------------------------------------


def is_made_of(link: wire.PaymentLink, new: wire.NewPaymentLink, app_id: str | None) -> bool:
    """Whether `link` has just the content that `new` asks for, and was made by our app as far as it says."""
    if app_id and link.source and link.source.app_id and link.source.app_id != app_id:
        return False
    limit = 1 if new.type == "ECOM_ORDER" and new.payments_limit is None else new.payments_limit
    return (
        (link.type, link.currency, link.payments_limit) == (new.type, new.currency, limit)
        # Wix trims what cannot be seen from a title (Wix docs, "Payment Link Object").
        and _visible(link.title) == _visible(new.title)
        and (link.description or "") == (new.description or "")
        and _milliseconds(link.expiration_date) == _milliseconds(new.expiration_date)
        and _items(link.ecom_payment_link) == _items(msgspec.to_builtins(new.ecom_payment_link))
        and _has_same_order(link.ecom_order_payment_link, new.ecom_order_payment_link)
    )


def _visible(text: str | None) -> str:
    return "".join(letter for letter in text or "" if letter.isprintable()).strip()


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


def _items(ecom: object) -> list[tuple[object, ...]] | None:
    """What is sold, with prices as numbers: Wix may write 5 as 5.00. None for none, or for what cannot be read."""
    if ecom is None:
        return None
    try:
        told = msgspec.convert(ecom, wire.EcomPaymentLink)
        return [
            (
                item.type,
                item.custom_item
                and (
                    item.custom_item.name,
                    item.custom_item.quantity,
                    Decimal(item.custom_item.price),
                    item.custom_item.description or "",
                ),
                item.catalog_item and msgspec.to_builtins(item.catalog_item),
            )
            for item in told.line_items
        ]
    except (msgspec.ValidationError, InvalidOperation):
        return None


def _has_same_order(link: wire.EcomOrderPaymentLink | None, new: wire.EcomOrderPaymentLink | None) -> bool:
    if link is None or new is None:
        return link is new
    if link.order_id != new.order_id:
        return False
    # Without an amount Wix takes the order's balance.
    return new.amount is None or (link.amount is not None and Decimal(link.amount) == Decimal(new.amount))
