"""The form that a payment link is created by: what was entered, what is wrong with it, and what it asks Wix for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from processor.domain import money
from processor.errors import FieldViolation, WixError
from processor.web.pages.formats import seen
from processor.wix import wire
from processor.wix.parse import guid

KINDS = (
    ("items", "Your own items"),
    ("products", "Products of Wix Stores"),
    ("both", "Items and products"),
    ("order", "An order"),
)
HAS_ITEMS, HAS_PRODUCTS = ("items", "both"), ("products", "both")
CHANNELS = (("EMAIL_METHOD", "By e-mail"), ("", "As Wix chooses"))  # no other method is documented
ROWS, ROWS_MORE, ROWS_MAX = 3, 3, 30
TITLE_MAX = 200
RECIPIENTS_MAX = 50
QUANTITY_MAX = 100_000  # as third-party programs have it
ID_MAX = 100

_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_LARGE = re.compile(r"[0-9]{1,18}", re.ASCII)
_PLAIN_AMOUNT = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?", re.ASCII)
_INDEX = re.compile(r"\[(\d{1,6})\]")
_CURRENCY_GUESS = "USD"


@dataclass
class Row:
    """A line of the form as it was entered. name: of an item, or a product's id; extra: description, or choices."""

    name: str = ""
    quantity: str = "1"
    price: str = ""
    extra: str = ""
    variant: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was entered but the quantity, which is there from the beginning."""
        return not (self.name or self.price or self.extra or self.variant)


@dataclass
class Draft:
    """What was entered, as text. wrong: words by the name of the field; rows of each kind are numbered from 0."""

    reference: UUID
    kind: str = "items"
    title: str = ""
    description: str = ""
    currency: str = _CURRENCY_GUESS
    payments_limit: str = ""
    expires: str = ""
    order_id: str = ""
    order_amount: str = ""
    recipients: str = ""
    channel: str = CHANNELS[0][0]
    items: list[Row] = field(default_factory=list)
    products: list[Row] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)

    def fields(self) -> list[tuple[str, str]]:
        """Name and value of every field, to be sent again unseen."""
        told = [(name, getattr(self, name)) for name in _TEXTS]
        for name, rows in (("item", self.items), ("product", self.products)):
            for number, row in enumerate(rows):
                told += [(f"{name}_{part}-{number}", getattr(row, part)) for part in _PARTS]
        told += [("reference", str(self.reference)), ("item_rows", str(len(self.items)))]
        return [*told, ("product_rows", str(len(self.products)))]

    def has_room(self, least: int = ROWS) -> None:
        """Let there be lines to fill in."""
        for rows in (self.items, self.products):
            rows.extend(Row() for _ in range(least - len(rows)))


_TEXTS = (
    "kind",
    "title",
    "description",
    "currency",
    "payments_limit",
    "expires",
    "order_id",
    "order_amount",
    "recipients",
    "channel",
)
_PARTS = ("name", "quantity", "price", "extra", "variant")


def read(form: Mapping[str, str], reference: UUID) -> Draft:
    """What a form holds. reference: when it names none."""
    draft = Draft(guid(form.get("reference")) or reference)
    for name in _TEXTS:
        setattr(draft, name, _clean(form.get(name, getattr(draft, name))))
    if draft.kind not in dict(KINDS):
        draft.kind = KINDS[0][0]
    draft.currency = draft.currency.upper()
    draft.items = _rows(form, "item")
    draft.products = _rows(form, "product")
    return draft


def _rows(form: Mapping[str, str], name: str) -> list[Row]:
    told = form.get(f"{name}_rows", "")
    count = min(int(told), ROWS_MAX) if _WHOLE.fullmatch(told) else ROWS
    return [
        Row(**{part: _clean(form.get(f"{name}_{part}-{number}", getattr(Row, part))) for part in _PARTS})
        for number in range(count)
    ]


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\0", "").strip()


# -- What it asks Wix for --------------------------------------------------------------------------


Rows = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for Wix. rows: of its line items, "item" or "product" and the number of each in the form.

    total: None unless all lines are items, whose prices the form says.
    """

    new: wire.NewPaymentLink
    rows: Rows
    total: Decimal | None


def check(draft: Draft, zone: ZoneInfo, now: datetime) -> Asked | None:
    """The request that a draft stands for. None, with `draft.wrong`, when something is wrong with it."""
    wrong = draft.wrong
    visible = "".join(letter for letter in draft.title if letter.isprintable()).strip()
    if not visible:
        wrong["title"] = "Give it a title: the buyer reads it."
    elif len(draft.title) > TITLE_MAX:
        wrong["title"] = f"A title has at most {TITLE_MAX} letters, this one {len(draft.title)}."
    if draft.currency not in money.MINOR_DIGITS:
        wrong["currency"] = "Write the three letters of a currency, such as EUR."
    limit = _limit(draft)
    expires = _expires(draft, zone, now)
    chosen, words = recipients(draft.recipients, draft.channel)
    if words:
        wrong["recipients"] = words
    ecom = order = None
    rows: Rows = ()
    total: Decimal | None = None
    if draft.kind == "order":
        order = _order(draft)
        limit = 1  # Wix wants it said, and takes nothing else (Wix's recipe "Create Payment Links")
    else:
        lines: list[wire.LineItem] = []
        if draft.kind in HAS_ITEMS:
            lines, rows, total = _items(draft)
        if draft.kind in HAS_PRODUCTS:
            more, more_rows = _products(draft)
            lines, rows, total = lines + more, rows + more_rows, None
        ecom = wire.EcomPaymentLink(lines)
    if wrong:
        return None
    new = wire.NewPaymentLink(
        title=draft.title,
        currency=draft.currency,
        type="ECOM_ORDER" if order else "ECOM",
        description=draft.description or None,
        ecom_payment_link=ecom,
        ecom_order_payment_link=order,
        payments_limit=limit,
        expiration_date=expires,
        recipients=chosen or None,
    )
    return Asked(new, rows, total)


def _limit(draft: Draft) -> int | None:
    text = draft.payments_limit
    if not text or draft.kind == "order":
        return None
    if not _LARGE.fullmatch(text) or int(text) == 0:
        draft.wrong["payments_limit"] = "Write a whole number from 1 on, or nothing for no limit."
        return None
    return int(text)


def _expires(draft: Draft, zone: ZoneInfo, now: datetime) -> datetime | None:
    if not draft.expires:
        return None
    try:
        moment = datetime.fromisoformat(draft.expires)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        is_past = moment <= now
    except (ValueError, OverflowError):
        draft.wrong["expires"] = "Write day and time, such as 2027-01-31T18:00."
        return None
    if is_past:
        draft.wrong["expires"] = "That time is past."
    return moment


def _items(draft: Draft) -> tuple[list[wire.LineItem], Rows, Decimal]:
    lines, rows, total = [], [], Decimal(0)
    wrong = draft.wrong
    for number, row in enumerate(draft.items):
        if row.is_empty:
            continue
        if not row.name:
            wrong[f"item_name-{number}"] = "Say what it is."
        quantity = _quantity(row.quantity, f"item_quantity-{number}", wrong)
        price, words = amount(row.price, draft.currency)
        if words:
            wrong[f"item_price-{number}"] = words
        total += quantity * (price or 0)
        item = wire.CustomItem(row.name, quantity, row.price, row.extra or None)
        lines.append(wire.LineItem("CUSTOM", custom_item=item))
        rows.append(("item", number))
    if not lines:
        wrong["item_name-0"] = "Say what is to be paid."
    elif not total and draft.kind == "items" and not any(name.startswith("item_") for name in wrong):
        wrong["item_price-0"] = "There would be nothing to pay."
    return lines, tuple(rows), total


def _products(draft: Draft) -> tuple[list[wire.LineItem], Rows]:
    lines, rows = [], []
    wrong = draft.wrong
    for number, row in enumerate(draft.products):
        if row.is_empty:
            continue
        if not row.name:
            wrong[f"product_name-{number}"] = "Name the product: search for it, or paste its id."
        elif not _is_id(row.name):
            wrong[f"product_name-{number}"] = "This is no id of a product."
        quantity = _quantity(row.quantity, f"product_quantity-{number}", wrong)
        options: dict[str, Any] = {}
        if row.variant:
            options["variantId"] = row.variant
            if not _is_id(row.variant):
                wrong[f"product_variant-{number}"] = "This is no id of a variant."
        if row.extra:
            choices = _choices(row.extra)
            if choices is None:
                wrong[f"product_extra-{number}"] = (
                    "Write choices as Name: value, such as Size: L, Colour: red."
                )
            else:
                options["options"] = choices
        reference = wire.CatalogReference(wire.WIX_STORES_APP_ID, row.name, options or None)
        lines.append(wire.LineItem("CATALOG", catalog_item=wire.CatalogItem(reference, quantity)))
        rows.append(("product", number))
    if not lines:
        wrong["product_name-0"] = "Choose a product: search for it, or paste its id."
    return lines, tuple(rows)


def _order(draft: Draft) -> wire.EcomOrderPaymentLink:
    if not _is_id(draft.order_id):
        draft.wrong["order_id"] = "Write the id of the order that is to be paid."
    if draft.order_amount:
        value, words = amount(draft.order_amount, draft.currency)
        if words or not value:
            draft.wrong["order_amount"] = words or "There would be nothing to pay."
    return wire.EcomOrderPaymentLink(draft.order_id, draft.order_amount or None)


def _choices(text: str) -> dict[str, str] | None:
    found = {}
    for part in re.split(r"[,;\n]", text):
        name, colon, value = part.partition(":")
        if not part.strip():
            continue
        if not colon or not name.strip() or not value.strip():
            return None
        found[name.strip()] = value.strip()
    return found or None


def _quantity(text: str, name: str, wrong: dict[str, str]) -> int:
    if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= QUANTITY_MAX:
        wrong[name] = f"Write a whole number from 1 to {QUANTITY_MAX:,}."
        return 0
    return int(text)


def _is_id(text: str) -> bool:
    return bool(text) and len(text) <= ID_MAX and all("!" <= letter <= "~" for letter in text)


def amount(text: str, currency: str) -> tuple[Decimal | None, str]:
    """The amount that a person wrote, or None and how to write it. Never guesses what a comma means."""
    digits = money.MINOR_DIGITS.get(currency, 2)
    example = "1234" + ("." + "50"[:digits].ljust(digits, "0") if digits else "")
    if not text:
        return None, f"Write an amount, such as {example}."
    if not _PLAIN_AMOUNT.fullmatch(text):
        return None, f"Write it with a point and without anything else, such as {example}."
    whole, _, places = text.partition(".")
    if len(places) > digits:
        count = {0: "no decimals", 1: "one decimal"}.get(digits, f"at most {digits} decimals")
        return None, f"{currency} has {count}: write it such as {example}."
    try:
        return money.parse_amount(text), ""
    except money.BadAmount:
        return None, f"{whole} is more than Wix takes."


def recipients(text: str, channel: str) -> tuple[list[wire.Recipient], str]:
    """Contacts by their ids, however divided, and what is wrong with them, "" for nothing."""
    methods = [channel] if channel and channel in dict(CHANNELS) else []
    found: dict[UUID, None] = {}
    for number, part in enumerate(re.split(r"[\s,;]+", text.strip()) if text.strip() else [], start=1):
        if "@" in part:
            return [], "Write ids of contacts, not mail addresses: Wix shows the id in a contact's address."
        contact_id = guid(part)
        if contact_id is None:
            return [], f"The id number {number} is no id of a contact."
        found[contact_id] = None
    if len(found) > RECIPIENTS_MAX:
        return [], f"A link has at most {RECIPIENTS_MAX} recipients, these are {len(found)}."
    return [wire.Recipient(str(one), methods) for one in found], ""


# -- What Wix finds wrong --------------------------------------------------------------------------

_FIELDS = {
    "title": "title",
    "description": "description",
    "currency": "currency",
    "expirationDate": "expires",
    "paymentsLimit": "payments_limit",
    "ecomOrderPaymentLink.orderId": "order_id",
    "ecomOrderPaymentLink.amount": "order_amount",
    "ecomOrderPaymentLink": "order_id",
}
_FIELDS_OF_ITEMS = {
    "customItem.name": "item_name",
    "customItem.quantity": "item_quantity",
    "customItem.price": "item_price",
    "customItem.description": "item_extra",
    "customItem": "item_name",
    "catalogItem.quantity": "product_quantity",
    "catalogItem.catalogReference.catalogItemId": "product_name",
    "catalogItem.catalogReference.options.variantId": "product_variant",
    "catalogItem.catalogReference.options": "product_extra",
    "catalogItem.catalogReference": "product_name",
    "catalogItem": "product_name",
}
_FIELDS_OF_CODES = {
    "RECIPIENT_NOT_FOUND": "recipients",
    "ORDER_NOT_FOUND": "order_id",
    "INVALID_PAYMENTS_LIMIT_FOR_ECOM_ORDER_PAYMENT_LINK": "payments_limit",
}


def field_of(path: str, kind: str, rows: Rows) -> str | None:
    """The field of the form that Wix's path means, None when there is none. kind: of the draft; rows: see `Asked`."""
    path = path.removeprefix("paymentLink.")
    if path.startswith("recipients"):
        return "recipients"
    prefix = "ecomPaymentLink.lineItems"
    if path.startswith(prefix):
        rest = path.removeprefix(prefix)
        index = _INDEX.match(rest) or re.match(r"\.(\d{1,6})(?=\.|$)", rest)
        if index is None or int(index[1]) >= len(rows):
            return f"{'item' if kind in HAS_ITEMS else 'product'}_name-0" if not rest else None
        prefix, number = rows[int(index[1])]
        first = f"{prefix}_name"
        inner = rest[index.end() :].lstrip(".")
        name = _longest(inner, _FIELDS_OF_ITEMS) if inner else first
        is_shown = name is not None and name.startswith(prefix)
        return f"{name if is_shown else first}-{number}"
    return _longest(path, _FIELDS)


def _longest(path: str, fields: Mapping[str, str]) -> str | None:
    """The field of the path, or of the nearest thing that the path is a part of."""
    while path:
        if path in fields:
            return fields[path]
        path = path.rpartition(".")[0]
    return None


def blame(draft: Draft, asked: Asked, why: WixError, words: str) -> list[str]:
    """Put what Wix says beside the fields it belongs to; returns the words that belong to none.

    words: about the error as a whole, for one that names no field.
    """
    rest = []
    for one in why.violations:
        name = field_of(one.field, draft.kind, asked.rows)
        if name is None or not _is_shown(draft, name):
            rest.append(_told(one, with_field=True))
        else:
            draft.wrong[name] = f"{draft.wrong[name]} {_told(one)}" if name in draft.wrong else _told(one)
    if not why.violations:
        name = _FIELDS_OF_CODES.get(why.code or "")
        if name is not None and _is_shown(draft, name):
            draft.wrong[name] = words
        else:
            rest.append(words)
    return rest


def _is_shown(draft: Draft, name: str) -> bool:
    if name.startswith("order_"):
        return draft.kind == "order"
    return name != "payments_limit" or draft.kind != "order"


def _told(one: FieldViolation, *, with_field: bool = False) -> str:
    words = seen(one.description or one.violated_rule) or "is not accepted"
    about = f" about {seen(one.field)}" if with_field and one.field else ""
    return f"Wix says{about}: {words}" + ("" if words.endswith(".") else ".")


def blames_recipients(why: WixError) -> bool:
    """Whether Wix found fault with the list of recipients, rather than with one of them."""
    return any(one.field.rpartition(".")[2] == "recipients" for one in why.violations)
