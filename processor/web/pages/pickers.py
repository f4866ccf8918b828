"""Finding contacts, orders and products at Wix for a form that wants their ids: the form comes back as it was typed.

What Wix can search by is not documented for any of them as far as we could read it, so the newest or the first few
hundred are read and looked through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from uuid import UUID

from processor.domain import money
from processor.errors import ConfigurationError, WixError, WixNotFound
from processor.web.pages import link_view
from processor.web.pages.access import account
from processor.web.pages.masking import MASK
from processor.web.pages.site import CROWDED, Site
from processor.wix import wire
from processor.wix.client import TooManyPages
from processor.wix.parse import guid

PAGES_MAX = 5  # of 100
FOUND_MAX = 20
SOUGHT_MAX = 100
NAMES_MAX = 20  # each is a call to Wix

_DIVIDED = re.compile(r"[\s,;]+")

CONTACT, ORDER, PRODUCT = "contact", "order", "product"


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that can be chosen. value: what its button sends; name: as it may be shown to who asked."""

    value: str
    name: str
    hint: str = ""
    amount: Decimal | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a kind. words: that it is not all, or why there is nothing; "" when it is all."""

    kind: str
    sought: str
    choices: list[Choice]
    words: str = ""


def find(site: Site, instance_id: UUID, kind: str, sought: str) -> Found:
    """Contacts, orders or products that have all of these words; nothing sought finds all, but of contacts none."""
    sought = sought.replace("\0", "").strip()[:SOUGHT_MAX]
    words = sought.casefold().split()
    if kind == CONTACT and not words:
        return Found(kind, sought, [], "Write the name or the mail address first.")
    found: list[Choice] = []
    told = ""
    try:
        for page in _pages(site, instance_id, kind):
            if page is None:
                told = CROWDED
                break
            found += [choice for choice in (_choice(one, words, sought) for one in page) if choice]
            if len(found) > FOUND_MAX:
                told = f"There are more: only {FOUND_MAX} are shown. Write more of it."
                break
    except TooManyPages:
        told = _TOO_MANY[kind]
    except (WixError, ConfigurationError) as why:
        told = f"{link_view.not_asked(why)} {_INSTEAD[kind]}"
    if not found and not told:
        told = _NOTHING[kind]
        if kind == CONTACT and not account().sees_personal:
            told += f" {_WHOLE}"
    return Found(kind, sought, found[:FOUND_MAX], told)


_TOO_MANY = {
    CONTACT: "The site has more contacts than were looked through: find the id in Wix if it is not here.",
    ORDER: "",
    PRODUCT: "Only a part of the catalog was searched: paste the product's id if it is not here.",
}
_INSTEAD = {
    CONTACT: "Paste the contact's id: it is in the address of the contact's page at Wix.",
    ORDER: "Paste the order's id: it is in the address of the order's page at Wix.",
    PRODUCT: "Paste the product's id.",
}
_NOTHING = {
    CONTACT: "No contact is called so.",
    ORDER: "None of the newest 100 orders that are still to be paid is so. Paste the order's id if it is older.",
    PRODUCT: "No product has these words in its name.",
}
_WHOLE = "Your account may not see personal data, so the whole name or the whole mail address is needed."

_Item = wire.Contact | wire.Order | wire.Product


def _pages(site: Site, instance_id: UUID, kind: str) -> Iterable[Iterable[_Item] | None]:
    """Pages of Wix; None instead of one that may not be asked for now."""
    wix = site.services.wix
    if kind == ORDER:
        yield wix.newest_orders(instance_id) if site.may_display(instance_id) else None
        return
    pages: Iterator[Iterable[_Item]] = (
        wix.query_contacts(instance_id, pages_max=PAGES_MAX)
        if kind == CONTACT
        else wix.query_products(instance_id, pages_max=PAGES_MAX)
    )
    while True:
        if not site.may_display(instance_id):
            yield None
            return
        page = next(pages, None)
        if page is None:
            return
        yield page


def _choice(one: _Item, words: list[str], sought: str) -> Choice | None:
    """The thing as a choice, None when it is not what is sought."""
    match one:
        case wire.Contact():
            return _contact(one, words, sought)
        case wire.Order():
            return _order(one, words)
        case wire.Product():
            shown = link_view.product(one)
            if not all(word in (shown.name or "").casefold() for word in words):
                return None
            return Choice(
                shown.product_id, shown.name or shown.product_id, amount=shown.price, currency=shown.currency
            )


def _contact(one: wire.Contact, words: list[str], sought: str) -> Choice | None:
    name = name_of(one)
    if account().sees_personal:
        return Choice(one.id, name) if all(word in name.casefold() for word in words) else None
    # Who may not see names may still send to somebody they know: by the whole of it, so that nothing is learnt.
    whole = " ".join(words)
    if whole not in {part.casefold() for part in _parts(one)}:
        return None
    return Choice(one.id, ", ".join(_initials(part) for part in _parts(one)))


def _order(one: wire.Order, words: list[str]) -> Choice | None:
    shown = link_view.order(one)
    is_open = shown.balance > 0 if shown.balance is not None else one.payment_status not in _SETTLED
    if not is_open:
        return None
    number = "" if one.number is None else str(one.number)
    day = one.created_date.date().isoformat() if one.created_date else ""
    texts = [number, day, one.id, one.currency or ""]
    amounts = [value for value in (shown.total, shown.balance) if value is not None]
    texts += [money.shown(value, one.currency or "") for value in amounts]
    buyer = _buyer(one)
    sees = account().sees_personal
    known = " ".join(texts).casefold() + (" " + " ".join(buyer).casefold() if sees else "")
    # Of buyers only the whole name or address finds something for who may not see them.
    if not all(word in known for word in words) and " ".join(words) not in {
        part.casefold() for part in buyer
    }:
        return None
    name = f"Order {number}" if number else f"Order {one.id[:8]}"
    parts = [day, ", ".join(part if sees else _initials(part) for part in buyer)]
    open_ = shown.balance if shown.balance is not None else shown.total
    value = f"{one.id} {one.currency or ''}".strip()
    return Choice(value, name, " · ".join(part for part in parts if part), open_, one.currency)


_SETTLED = ("PAID", "FULLY_REFUNDED", "PARTIALLY_REFUNDED")


def _buyer(one: wire.Order) -> list[str]:
    contact = one.billing_info.contact_details if one.billing_info else None
    name = " ".join(part for part in (contact and contact.first_name, contact and contact.last_name) if part)
    return [part for part in (name, one.buyer_info and one.buyer_info.email) if part]


def _parts(contact: wire.Contact) -> list[str]:
    """Name and mail address, as far as there are any. Personal."""
    name = contact.info.name if contact.info else None
    whole = " ".join(part for part in (name and name.first, name and name.last) if part)
    mail = contact.primary_info.email if contact.primary_info else None
    return [part for part in (whole, mail) if part]


def name_of(contact: wire.Contact) -> str:
    """How a contact is called, and its mail address. Personal."""
    return ", ".join(_parts(contact)) or "no name"


def names(site: Site, instance_id: UUID, contact_ids: Iterable[str]) -> dict[str, str]:
    """How contacts are called, by their ids, as far as who is signed in may see it: others get initials. Personal.

    Of the first NAMES_MAX; "" for what is no contact of the site. Whom Wix cannot be asked about is left out.
    """
    found: dict[str, str] = {}
    for contact_id in islice(contact_ids, NAMES_MAX):
        if not site.may_display(instance_id):
            break
        try:
            contact = site.services.wix.get_contact(instance_id, contact_id)
        except WixNotFound:
            found[contact_id] = ""
        except (WixError, ConfigurationError):
            break
        else:
            sees = account().sees_personal
            found[contact_id] = name_of(contact) if sees else ", ".join(map(_initials, _parts(contact)))
    return found


def ids_of(recipients: str) -> list[str]:
    """The ids in a list of recipients, however divided; what is no id is left out."""
    found = (guid(part) for part in _DIVIDED.split(recipients))
    return list(dict.fromkeys(str(one) for one in found if one is not None))


def _initials(text: str) -> str:
    """Such as "M•••••• E••••••"; of a mail address the first letter alone."""
    if "@" in text:
        return f"{text[:1]}{MASK}@{MASK}"
    return " ".join(f"{word[:1]}{MASK}" for word in text.split())


def order_chosen(value: str) -> tuple[str, str | None]:
    """Id and currency of the order whose button was pressed; None for a currency that is none."""
    order_id, _, currency = value.partition(" ")
    return order_id, currency if currency in money.MINOR_DIGITS else None


def with_contact(recipients: str, contact_id: str) -> str:
    """A list of recipients, one a line, and this one below if it is not among them."""
    known = recipients.replace(",", " ").replace(";", " ").split()
    return "\n".join([*known, *([] if contact_id in known else [contact_id])])
