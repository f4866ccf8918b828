"""The flows of the Payment Links API that change something at Wix: create a link once, send, initiate, and so on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

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
from processor.store import checks, creations, instances, links, sends
from processor.store.creations import Creation, Hold
from processor.wiring import Services
from processor.wix import advice, wire
from processor.wix.client import TooManyPages, UnreadableItem
from processor.wix.parse import guid, seen_link

log = structlog.get_logger(__name__)

# How far Wix's clock and ours may be apart.
CLOCK_SKEW = timedelta(minutes=5)
LOOKED_AT_PAGES_MAX = 200
REFERENCE_MAX = 100


class How(StrEnum):
    """Where the link of a creation came from: made just now, found after a lost answer, or made before."""

    MADE = "made"
    FOUND = "found"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Created:
    """The link of a creation. link: with nothing but its id when Wix describes it in a way we cannot read."""

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

    Once Wix refused, nothing was made: the reference is free for any request.

    What no care of ours can prevent: a process that is stopped between its commit and its request for longer than
    its lease may send the request all the same. Two links are then told of (CreationConflict).

    reference: 1 to 100 characters of the caller's. Raises CreationConflict, CreationUnclear, WixError,
    ConfigurationError.
    """
    request = msgspec.to_builtins(new)
    _refuse_odd_text(reference, request)
    digest = hashlib.sha256(repr(_content(new)).encode()).digest()
    attempt = _Attempt(services, Hold(instance_id, reference, uuid4()), new, digest)
    known = attempt.begin(request)
    if known is not None and known.payment_link_id is not None:
        return Created(
            known.payment_link_id, How.KNOWN, _as_it_is(services, instance_id, known.payment_link_id)
        )
    with attempt.left_unclear_unless_decided():
        if known is None:
            return attempt.ask()
        found = attempt.look_for(known)
        if found is not None:
            return found
        attempt.refuse_to_hurry(known)
        attempt.note_asking()
        return attempt.ask()


def _refuse_odd_text(reference: str, request: dict[str, Any]) -> None:
    """Raises CreationConflict for what no database or no JSON can hold."""
    if not 1 <= len(reference) <= REFERENCE_MAX:
        raise CreationConflict(f"a reference has 1 to {REFERENCE_MAX} characters, this one {len(reference)}")
    if _is_odd(reference) or _is_odd(request):
        raise CreationConflict("the reference or the link holds a character that no text can have")


def _is_odd(value: Any) -> bool:
    if isinstance(value, str):
        return any(letter == "\x00" or "\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, dict):
        return any(_is_odd(one) for pair in value.items() for one in pair)
    return isinstance(value, list) and any(map(_is_odd, value))


class _Attempt:
    """One try at a creation, of which this process is the only one as long as it holds it."""

    def __init__(self, services: Services, hold: Hold, new: wire.NewPaymentLink, digest: bytes) -> None:
        self._services = services
        self._hold = hold
        self._new = new
        self._digest = digest
        # A call cannot take longer, so nobody takes over while one is on its way.
        self._lease = timedelta(seconds=services.wix.call_seconds_max + 5)
        self._may_have_asked = False

    def begin(self, request: dict[str, Any]) -> Creation | None:
        """Take hold of the creation. None when Wix is to be asked at once, else how it stood.

        Raises CreationConflict, CreationUnclear.
        """
        now = self._services.now()
        asked: dict[str, Any] = {
            "request": request,
            "digest": self._digest,
            "now": now,
            "until": now + self._lease,
        }
        with self._services.database.begin() as connection:
            known = creations.begin(connection, self._hold, **asked)
            if known is None:
                return None
            if known.status == "refused":
                creations.begin_anew(connection, self._hold, **asked)
                return None
            if known.digest != self._digest:
                use = "was used" if known.payment_link_id is not None else "is in use"
                raise CreationConflict(
                    f"the reference {self._hold.reference} {use} for another link: choose a new one, or ask"
                    " for the same link"
                )
            if known.is_held(now):
                assert known.lease_until is not None
                raise _unclear("this link is being created by another process", known.lease_until - now)
            if known.payment_link_id is None:
                creations.take(
                    connection, self._hold, asked_until=known.asked_until(now), until=now + self._lease
                )
        return known

    def note_asking(self) -> None:
        """Write down that Wix is asked once more. Raises CreationUnclear."""
        now = self._services.now()
        with self._services.database.begin() as connection:
            self._demand(creations.ask(connection, self._hold, now=now, until=now + self._lease))

    def ask(self) -> Created:
        """Ask Wix, and write down what it says."""
        services, hold = self._services, self._hold
        self._may_have_asked = True
        try:
            made = services.wix.create_link(hold.instance_id, self._new)
        except (WixError, ConfigurationError) as why:
            if not isinstance(why, WixUnavailable) or why.is_unsent:
                with services.database.begin() as connection:
                    creations.refuse(connection, hold, str(why), services.now())
            raise
        link_id = guid(made.id)
        if link_id is None:
            raise WixUnavailable("create_link: Wix's answer has an id that is no GUID", status=200)
        with services.database.begin() as connection:
            end = creations.finish(connection, hold, link_id, digest=self._digest, now=services.now())
        if end.is_of_another_request:
            log.error("creation_doubled", instance_id=str(hold.instance_id), payment_link_id=str(link_id))
            raise CreationConflict(
                f"the reference {hold.reference} stands for another request by now, since this process was held up"
                f" for too long: deactivate or delete {link_id}"
            )
        if end.other_link_id is not None:
            log.error(
                "creation_doubled",
                instance_id=str(hold.instance_id),
                payment_link_id=str(link_id),
                other_payment_link_id=str(end.other_link_id),
            )
            raise CreationConflict(
                f"two links were made under the reference {hold.reference}, since this process was held up for"
                f" too long: {end.other_link_id} counts; deactivate or delete {link_id}"
            )
        if end.is_taken_back:
            log.error("creation_taken_back", instance_id=str(hold.instance_id), payment_link_id=str(link_id))
        keep(services, hold.instance_id, made)
        return Created(link_id, How.MADE, _readable(made, link_id))

    def look_for(self, known: Creation) -> Created | None:
        """The link that an earlier try made, None when Wix shows none. Raises CreationUnclear, WixError."""
        services, hold = self._services, self._hold
        found: dict[UUID, wire.PaymentLink] = {}
        unreadable: list[UUID] = []
        nameless: list[str] = []
        for one in self._made_meanwhile(known):
            link_id = guid(one.id)
            if link_id is None:
                nameless.append(f"the one with the id {(one.id or 'none')[:64]!r}")
            elif isinstance(one, UnreadableItem):
                unreadable.append(link_id)
            elif is_made_of(one, self._new, services.settings.app_id):
                found[link_id] = one
        now = services.now()
        with services.database.begin() as connection:
            told = creations.take_found(connection, hold, list(found), now)
            unreadable = creations.nobodys(connection, hold.instance_id, unreadable)
        if told.is_lost:
            self._demand(False)
        if told.rival_until is not None:
            raise _unclear(
                "a link of this content is being created under another reference", told.rival_until - now
            )
        if told.link_id is not None:
            log.info("creation_found", instance_id=str(hold.instance_id), payment_link_id=str(told.link_id))
            link = found[told.link_id]
            keep(services, hold.instance_id, link)
            return Created(told.link_id, How.FOUND, link)
        if strange := [*map(str, unreadable), *nameless]:
            raise _unclear(
                "Wix lists a link created meanwhile in a way we cannot read, so it cannot be told whether it is this"
                f" one: look at {strange[0]} at Wix, and choose a new reference if it is not",
                timedelta(seconds=services.settings.settling_seconds),
            )
        return None

    def _made_meanwhile(self, known: Creation) -> Iterator[wire.PaymentLink | UnreadableItem]:
        services, hold = self._services, self._hold
        window = {
            "$gte": wire.instant_text(known.first_asked_at - CLOCK_SKEW),
            "$lte": wire.instant_text(known.asked_until(services.now()) + CLOCK_SKEW),
        }
        pages = services.wix.query_links(
            hold.instance_id,
            {"createdDate": window},
            sort=[("createdDate", "ASC")],
            pages_max=LOOKED_AT_PAGES_MAX,
        )
        # A page takes up to three calls: it is asked for in smaller parts when Wix runs out of time.
        lease = 3 * self._lease
        try:
            while True:
                with services.database.begin() as connection:
                    self._demand(creations.extend(connection, hold, services.now() + lease))
                page = next(pages, None)
                if page is None:
                    return
                yield from page
        except TooManyPages as why:
            raise _unclear(
                "too many links were created meanwhile to look for this one: look for it by title at Wix",
                timedelta(seconds=services.settings.settling_seconds),
            ) from why

    def refuse_to_hurry(self, known: Creation) -> None:
        """Raises CreationUnclear while Wix may not show yet what it made."""
        now = self._services.now()
        settled = known.asked_until(now) + timedelta(seconds=self._services.settings.settling_seconds)
        if now < settled:
            raise _unclear("Wix does not show the link yet, though it may have been made", settled - now)

    @contextmanager
    def left_unclear_unless_decided(self) -> Iterator[None]:
        """However the attempt ends without an outcome, by Ctrl-C too: the next one need not wait for the lease."""
        try:
            yield
        except BaseException:
            asked_at = self._services.now() if self._may_have_asked else None
            with self._services.database.begin() as connection:
                creations.leave_unclear(connection, self._hold, asked_at=asked_at)
            raise

    def _demand(self, is_ours: bool) -> None:
        if not is_ours:
            raise _unclear("another process took this creation over", timedelta(seconds=1))


def _unclear(why: str, wait: timedelta) -> CreationUnclear:
    seconds = max(1.0, wait.total_seconds())
    return CreationUnclear(
        f"{why}: ask again with the same reference in {seconds:.0f} s", retry_after_seconds=seconds
    )


def _readable(link: wire.PaymentLink | UnreadableItem, link_id: UUID) -> wire.PaymentLink:
    return wire.PaymentLink(id=str(link_id)) if isinstance(link, UnreadableItem) else link


def _as_it_is(services: Services, instance_id: UUID, link_id: UUID) -> wire.PaymentLink:
    """The link as Wix describes it now; with nothing but its id when Wix cannot be asked or does not know it."""
    try:
        told = services.wix.get_link(instance_id, link_id)
    except WixError:
        return wire.PaymentLink(id=str(link_id))
    keep(services, instance_id, told)
    return _readable(told, link_id)


def keep(services: Services, instance_id: UUID, link: wire.PaymentLink | UnreadableItem) -> None:
    """Remember how Wix describes a link. One that cannot be read waits for its check, which raises that.

    Wix answering for an instance that no event told of yet makes it known: its links are checked from now on.
    """
    seen: SeenLink | None = None
    if isinstance(link, wire.PaymentLink):
        try:
            seen = seen_link(link, instance_id)
        except Unreadable as why:
            log.warning(
                "link_unreadable",
                instance_id=str(instance_id),
                payment_link_id=link.id[:64],
                reason=why.reason,
                detail=why.detail,
            )
    link_id = guid(link.id)
    if link_id is None:
        return
    with services.database.begin() as connection:
        is_new = instances.note(connection, instance_id, services.now())
        if seen is not None:
            links.save(connection, [seen], services.now())
        if is_new:
            checks.request(connection, instance_id, [link_id], services.now())


# -- Sending -----------------------------------------------------------------------------------------

REASON_MAX = 500


def send_link(
    services: Services,
    instance_id: UUID,
    link_id: UUID,
    recipients: Sequence[wire.Recipient],
    *,
    actor: str,
    door: str,
    reference: UUID,
) -> bool:
    """Let Wix send a link, to those whom it names when `recipients` is empty. False when it is not done a second time.

    It is written down before Wix is asked and when it has answered; door: `page` or `command`. What died meanwhile may
    have been sent, so the same reference never sends again. Raises WixError, ConfigurationError.
    """
    contact_ids = [_text_of(one.contact_id) for one in recipients] or None
    methods = dict.fromkeys(_text_of(method) for one in recipients for method in one.send_methods or ())
    with services.database.begin() as connection:
        send_id = sends.begin(
            connection,
            instance_id,
            link_id,
            reference=reference,
            actor=actor,
            door=door,
            contact_ids=contact_ids,
            methods=list(methods),
            now=services.now(),
        )
    if send_id is None:
        return False
    outcome, reason = "unclear", "the process was stopped while Wix was asked"
    try:
        services.wix.send_link(instance_id, link_id, recipients)
        outcome, reason = "sent", ""
    except (WixError, ConfigurationError) as why:
        is_unclear = isinstance(why, WixUnavailable) and not why.is_unsent
        words = advice.in_words(why, "send") if isinstance(why, WixError) else str(why)
        outcome, reason = "unclear" if is_unclear else "refused", _text_of(words)[:REASON_MAX]
        raise
    finally:
        with services.database.begin() as connection:
            sends.finish(connection, send_id, outcome, reason=reason or None, now=services.now())
    return True


def delete_link(services: Services, instance_id: UUID, link_id: UUID) -> None:
    """Delete a link that nothing was paid by, at Wix; one that is gone is deleted. Raises WixError.

    What is held here of it stays, and says since when Wix does not know it.
    """
    services.wix.delete_link(instance_id, link_id)
    with services.database.begin() as connection:
        links.mark_missing(connection, instance_id, [link_id], services.now())


def _text_of(text: str) -> str:
    """The text as far as a database can hold it."""
    return "".join(letter for letter in text if letter != "\x00" and not "\ud800" <= letter <= "\udfff")


# -- Whether a link is the one that was asked for ----------------------------------------------------


def is_made_of(link: wire.PaymentLink, new: wire.NewPaymentLink, app_id: str | None) -> bool:
    """Whether `link` has just the content that `new` asks for, and was made by our app as far as it says."""
    if app_id and link.source and link.source.app_id and link.source.app_id != app_id:
        return False
    try:
        ecom = link.ecom_payment_link
        items = None if ecom is None else msgspec.convert(ecom, wire.EcomPaymentLink)
        told = _content(
            wire.NewPaymentLink(
                title=link.title or "",
                currency=link.currency or "",
                type=link.type or "",
                description=link.description,
                ecom_payment_link=items,
                ecom_order_payment_link=link.ecom_order_payment_link,
                payments_limit=link.payments_limit,
                expiration_date=link.expiration_date,
                # Whether Wix shows the recipients of a link is not documented.
                recipients=new.recipients if link.recipients is None else link.recipients,
            )
        )
    except msgspec.ValidationError:
        return False
    asked = _content(new)
    if told["order"] and asked["order"] and asked["order"][1] is None:
        # Without an amount Wix takes the order's balance.
        told["order"] = (told["order"][0], None)
    return told == asked


def _content(new: wire.NewPaymentLink) -> dict[str, Any]:
    """What a link is about, however it is written: "5" is "5.00", and Wix trims what cannot be seen from a title."""
    limit = 1 if new.type == "ECOM_ORDER" and new.payments_limit is None else new.payments_limit
    order, ecom = new.ecom_order_payment_link, new.ecom_payment_link
    return {
        "type": new.type,
        "currency": new.currency,
        "limit": limit,
        "title": _visible(new.title),
        "description": _visible(new.description),
        "expires": new.expiration_date and int(new.expiration_date.timestamp() * 1000),
        "items": ecom and [_item(item) for item in ecom.line_items],
        "order": order and (order.order_id, _number(order.amount)),
        "recipients": sorted({one.contact_id for one in new.recipients or ()}),
    }


def _item(item: wire.LineItem) -> tuple[Any, ...]:
    custom, catalog = item.custom_item, item.catalog_item
    return (
        item.type,
        custom and (custom.name, custom.quantity, _number(custom.price), _visible(custom.description)),
        catalog
        and (
            catalog.catalog_reference.app_id,
            catalog.catalog_reference.catalog_item_id,
            json.dumps(catalog.catalog_reference.options or {}, sort_keys=True),
            catalog.quantity,
        ),
    )


def _visible(text: str | None) -> str:
    return "".join(letter for letter in text or "" if letter.isprintable()).strip()


def _number(text: str | None) -> str | None:
    """A decimal without needless zeros; what is none stays as it is."""
    try:
        return text and f"{Decimal(text).normalize():f}"
    except InvalidOperation:
        return text
