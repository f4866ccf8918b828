"""What the pretend Wix knows and its rules: sites, contacts, products, orders, links, checkouts, payments.

Entities are kept in Wix's own JSON shapes. Each has versions, so that queries can lag behind writes, and a
sequence for its events. Money is decimal text of the currency's own digits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID, uuid4

import msgspec

from processor.sandbox import events
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Violation, failed, invalid, not_found
from processor.sandbox.events import Entity, NewEvent
from processor.sandbox.faults import Faults
from processor.wix import wire

TITLE_MAX, RECIPIENTS_MAX, QUANTITY_MAX, NOTE_MAX = 200, 50, 100_000, 500
DESCRIPTION_MAX, ITEM_DESCRIPTION_MAX = 500, 600
VERSIONS_KEPT = 8
_NO_DIGITS = frozenset(
    (
        *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
        *("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
    )
)
_THREE_DIGITS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,30})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
TENDERS = ("CARD", "GIFT_CARD", "OFFLINE")
BUYER_FIELDS = ("name", "email", "phone", "company")

# For test data only; nobody lives there.
_NAMES = ("Ada Byron", "Grace Murray", "Emmy Nathan", "Lise Philipp", "Mary Anning", "Rosa Parks")


def digits_of(currency: str) -> int:
    """Decimals of a currency."""
    return 0 if currency in _NO_DIGITS else 3 if currency in _THREE_DIGITS else 2


def money(amount: Decimal, currency: str) -> str:
    """An amount as Wix writes it: decimal text with the currency's digits."""
    return f"{amount:.{digits_of(currency)}f}"


def parse_money(value: Any, currency: str, where: str) -> Decimal:
    """Decimal text in main units. Raises Refused (400)."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise invalid(Violation(where, 'must be a decimal as text, such as "10.99"', "FORMAT"))
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise invalid(Violation(where, "must be a decimal as text", "FORMAT")) from None
    if amount != round(amount, digits_of(currency)):
        raise invalid(Violation(where, f"has more decimals than {currency}", "DECIMAL_MAX_SCALE"))
    return amount


def timestamp(moment: datetime) -> str:
    """As Wix writes it: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Rules:
    """What Wix leaves open, chosen for this sandbox."""

    link_fqdn: str = wire.LINK_FQDN_GUESS
    currency_field: str = "currency"


class World:
    """Every method that changes something is one transaction and sends the events that follow from it."""

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
    ) -> None:
        self._documents = documents
        self._faults = faults
        self._now = now
        self._random = chance
        self._rules = rules
        self._base_url = base_url
        self._send = send

    # -- Sites -------------------------------------------------------------------------------------

    def install(self, given: Any) -> Document:
        """Install the app on a new site with contacts, products and an open order."""
        given = _object(given, "")
        ids = {name: self._guid(given.get(name), name) for name in ("instanceId", "siteId", "accountId")}
        with self._documents.transaction():
            existing = self._documents.get("instance", ids["instanceId"])
            if existing is not None and not existing["isRemoved"]:
                raise failed(409, "SANDBOX_INSTANCE_EXISTS", "the app is installed on that site already")
            instance: Document = existing or {
                **ids,
                "apiKey": f"IST.{uuid4().hex}",
                "createdDate": self._time(),
                "contactIds": [],
                "productIds": [],
                "orderIds": [],
            }
            instance["isRemoved"] = False
            self._documents.put("instance", instance["instanceId"], instance)
            if existing is None:
                for number in range(2):
                    self.add_contact(instance["instanceId"], {"name": _NAMES[number]})
                self.add_product(instance["instanceId"], {"name": "Stoneware mug", "price": "24.00"})
                self.add_product(instance["instanceId"], {"name": "Linen apron", "price": "49.50"})
                self.add_order(instance["instanceId"], {"currency": "USD", "total": "180.00"})
            self._emit_app(instance, is_installation=True)
        return instance

    def remove(self, instance_id: str) -> None:
        """The site's owner removes the app: tokens end, and AppRemoved is sent."""
        with self._documents.transaction():
            instance = self.instance(instance_id)
            instance["isRemoved"] = True
            self._documents.put("instance", instance_id, instance)
            self._emit_app(instance, is_installation=False)

    def instance(self, instance_id: str) -> Document:
        """An installation. Raises Refused (404)."""
        return self._found("instance", instance_id)

    def add_contact(self, instance_id: str, given: Any) -> Document:
        """A contact to whom links can be sent."""
        given = _object(given, "")
        name = _text(given.get("name", self._random.choice(_NAMES)), "name", 100)
        id_ = str(uuid4())
        contact = {"id": id_, "instanceId": instance_id, "name": name, "email": _email(name)}
        return self._belongs("contact", id_, contact)

    def add_product(self, instance_id: str, given: Any) -> Document:
        """A Wix Stores product, priced in USD unless given otherwise."""
        given = _object(given, "")
        currency = _currency(given.get("currency", "USD"), "currency")
        price = money(parse_money(given.get("price", "10.00"), currency, "price"), currency)
        id_ = str(uuid4())
        name = _text(given.get("name", "Product"), "name", 100)
        product = {"id": id_, "instanceId": instance_id, "name": name, "price": price, "currency": currency}
        return self._belongs("product", id_, product)

    def add_order(self, instance_id: str, given: Any) -> Document:
        """An unpaid order of the site's eCommerce."""
        given = _object(given, "")
        currency = _currency(given.get("currency", "USD"), "currency")
        total = money(parse_money(given.get("total", "100.00"), currency, "total"), currency)
        return self._new_order(instance_id, currency, total)

    def _new_order(self, instance_id: str, currency: str, total: str) -> Document:
        id_ = str(uuid4())
        order = {
            "id": id_,
            "instanceId": instance_id,
            "currency": currency,
            "total": total,
            "paid": money(Decimal(0), currency),
            "paymentStatus": "UNPAID",
        }
        return self._belongs("order", id_, order)

    def _belongs(self, kind: str, id_: str, document: Document) -> Document:
        with self._documents.transaction():
            instance = self.instance(document["instanceId"])
            instance[f"{kind}Ids"].append(id_)
            self._documents.put("instance", instance["instanceId"], instance)
            return self._documents.put(kind, id_, document)

    # -- Links -------------------------------------------------------------------------------------

    def create_link(self, instance_id: str, given: Any) -> Entity:
        """Create Payment Link. Raises Refused."""
        told = _converted(_object(given, "").get("paymentLink"), wire.NewPaymentLink, "paymentLink")
        title = "".join(letter for letter in told.title if letter.isprintable()).strip()
        wrong: list[Violation] = []
        if not 1 <= len(title) <= TITLE_MAX:
            wrong.append(Violation("paymentLink.title", f"must have 1 to {TITLE_MAX} characters"))
        if not _CURRENCY.fullmatch(told.currency):
            wrong.append(Violation("paymentLink.currency", "must be an ISO 4217 code", "FORMAT"))
        if told.description is not None and len(told.description) > DESCRIPTION_MAX:
            wrong.append(
                Violation(
                    "paymentLink.description", f"has more than {DESCRIPTION_MAX} characters", "MAX_LENGTH"
                )
            )
        if told.expiration_date is not None and not _is_after(told.expiration_date, self._now()):
            wrong.append(
                Violation("paymentLink.expirationDate", "must lie in the future and have a time zone")
            )
        if told.payments_limit is not None and told.payments_limit < 1:
            wrong.append(Violation("paymentLink.paymentsLimit", "must be at least 1", "MIN"))
        if wrong:
            raise invalid(*wrong)
        with self._documents.transaction():
            id_ = str(uuid4())
            at = self._time()
            entity: Entity = {
                "id": id_,
                "revision": "1",
                "createdDate": at,
                "updatedDate": at,
                "title": title,
                "currency": told.currency,
                "type": told.type,
                "status": "ACTIVE",
                "totalReceived": {"paymentCount": 0, "amount": money(Decimal(0), told.currency)},
                "links": self._share_links(id_),
                "source": {"appId": self._app()["appId"]},
            }
            if told.description:
                entity["description"] = told.description
            if told.payments_limit is not None:
                entity["paymentsLimit"] = told.payments_limit
            if told.expiration_date is not None:
                entity["expirationDate"] = timestamp(told.expiration_date)
            entity |= self._sub_object(instance_id, told)
            if told.recipients:
                entity["recipients"] = self._recipients(
                    instance_id, msgspec.to_builtins(told.recipients), "paymentLink.recipients"
                )
            link = {"id": id_, "instanceId": instance_id, "sequence": 0, "purchases": 0, "versions": []}
            self._save(link, "link", entity)
            self._emit_link(link, "created")
            return entity

    def _sub_object(self, instance_id: str, told: wire.NewPaymentLink) -> Entity:
        match told.type, told.ecom_payment_link, told.ecom_order_payment_link:
            case "ECOM", wire.EcomPaymentLink() as ecom, None:
                return {"ecomPaymentLink": self._line_items(instance_id, ecom, told.currency)}
            case "ECOM_ORDER", None, wire.EcomOrderPaymentLink() as order:
                return self._order_link(instance_id, order, told)
            case _:
                raise invalid(
                    Violation(
                        "paymentLink.type", "must be ECOM or ECOM_ORDER, and agree with the one object sent"
                    )
                )

    def _line_items(self, instance_id: str, ecom: wire.EcomPaymentLink, currency: str) -> Entity:
        where = "paymentLink.ecomPaymentLink.lineItems"
        if not ecom.line_items:
            raise invalid(Violation(where, "must not be empty", "MIN_SIZE"))
        for number, item in enumerate(ecom.line_items):
            place = f"{where}[{number}]"
            match item.type, item.custom_item, item.catalog_item:
                case "CUSTOM", wire.CustomItem() as custom, None:
                    where_quantity = f"{place}.customItem.quantity"
                    quantity = custom.quantity
                    if len(custom.description or "") > ITEM_DESCRIPTION_MAX:
                        too_long = f"has more than {ITEM_DESCRIPTION_MAX} characters"
                        raise invalid(Violation(f"{place}.customItem.description", too_long, "MAX_LENGTH"))
                    parse_money(custom.price, currency, f"{place}.customItem.price")
                    _text(custom.name, f"{place}.customItem.name", TITLE_MAX)
                case "CATALOG", None, wire.CatalogItem() as catalog:
                    where_quantity = f"{place}.catalogItem.quantity"
                    quantity = catalog.quantity
                    self._catalog_product(instance_id, catalog.catalog_reference, currency)
                case _:
                    raise invalid(
                        Violation(f"{place}.type", "must be CUSTOM or CATALOG, and agree with the item sent")
                    )
            if not 1 <= quantity <= QUANTITY_MAX:
                raise invalid(Violation(where_quantity, f"must be from 1 to {QUANTITY_MAX}"))
        built: Entity = msgspec.to_builtins(ecom)
        return built

    def _catalog_product(self, instance_id: str, reference: wire.CatalogReference, currency: str) -> Document:
        product = self._documents.get("product", reference.catalog_item_id)
        if (
            reference.app_id != wire.WIX_STORES_APP_ID
            or product is None
            or product["instanceId"] != instance_id
        ):
            raise failed(
                404,
                "SANDBOX_CATALOG_ITEM_NOT_FOUND",
                f"no item {reference.catalog_item_id[:64]} in the catalog",
            )
        if product["currency"] != currency:
            raise failed(428, "SANDBOX_CURRENCY_MISMATCH", f"the item is priced in {product['currency']}")
        return product

    def _order_link(
        self, instance_id: str, order: wire.EcomOrderPaymentLink, told: wire.NewPaymentLink
    ) -> Entity:
        held = self._documents.get("order", order.order_id)
        if held is None or held["instanceId"] != instance_id:
            raise failed(404, "ORDER_NOT_FOUND", "the order does not exist")
        if told.payments_limit not in (None, 1):
            raise failed(
                400,
                "INVALID_PAYMENTS_LIMIT_FOR_ECOM_ORDER_PAYMENT_LINK",
                "paymentsLimit must be 1 for a link to an order",
            )
        if held["currency"] != told.currency:
            raise failed(428, "SANDBOX_CURRENCY_MISMATCH", f"the order is in {held['currency']}")
        balance = Decimal(held["total"]) - Decimal(held["paid"])
        amount = balance
        if order.amount is not None:
            amount = parse_money(order.amount, told.currency, "paymentLink.ecomOrderPaymentLink.amount")
        if not 0 < amount <= balance:
            raise failed(428, "SANDBOX_AMOUNT_EXCEEDS_BALANCE", f"the order's balance is {balance}")
        return {
            "paymentsLimit": 1,
            "ecomOrderPaymentLink": {"orderId": order.order_id, "amount": money(amount, told.currency)},
        }

    def _recipients(self, instance_id: str, given: Any, where: str) -> list[Entity]:
        if not isinstance(given, list) or not 1 <= len(given) <= RECIPIENTS_MAX:
            raise invalid(Violation(where, f"must be a list of 1 to {RECIPIENTS_MAX}", "MAX_SIZE"))
        for number, one in enumerate(given):
            recipient = _object(one, f"{where}[{number}]")
            contact = self._documents.get("contact", str(recipient.get("contactId")))
            if contact is None or contact["instanceId"] != instance_id:
                raise failed(404, "RECIPIENT_NOT_FOUND", "a recipient is not a contact of the site")
            if recipient.get("sendMethods", []) not in ([], ["EMAIL_METHOD"]):
                raise invalid(
                    Violation(f"{where}[{number}].sendMethods", "EMAIL_METHOD is the only known one", "ENUM")
                )
        return given

    def link(self, instance_id: str, link_id: str) -> Document:
        """A link as it is now, its expiry noticed. Raises Refused (404)."""
        with self._documents.transaction():
            link = self._documents.get("link", link_id)
            if link is None or link["instanceId"] != instance_id:
                raise not_found("payment link", link_id)
            return self._with_expiry(link)

    def any_link(self, link_id: str) -> Document:
        """A link of whichever site, for pages and the control API. Raises Refused (404)."""
        with self._documents.transaction():
            return self._with_expiry(self._found("link", link_id))

    def _with_expiry(self, link: Document) -> Document:
        entity = current(link)
        expires = entity.get("expirationDate")
        is_open = entity["status"] in ("ACTIVE", "INACTIVE")
        if expires and is_open and datetime.fromisoformat(expires) <= self._now():
            self._change_link(link, {"status": "EXPIRED"}, "updated")
        return link

    def delete_link(self, instance_id: str, link_id: str) -> None:
        """Delete Payment Link: only while nothing was paid."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            if link["purchases"]:
                raise failed(428, "SANDBOX_LINK_HAS_PAYMENTS", "a link that received a payment stays")
            self._emit_link(link, "deleted")
            self._documents.remove("link", link_id)

    def set_active(self, instance_id: str, link_id: str, *, is_active: bool) -> Entity:
        """Activate or deactivate. Only ACTIVE and INACTIVE links change."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            if current(link)["status"] not in ("ACTIVE", "INACTIVE"):
                raise failed(428, "SANDBOX_INVALID_STATUS", f"the link is {current(link)['status']}")
            status, slug = ("ACTIVE", "activated") if is_active else ("INACTIVE", "deactivated")
            return self._change_link(link, {"status": status}, slug)

    def set_note(self, instance_id: str, link_id: str, given: Any) -> Entity:
        """Set the merchant's own note on a link."""
        note = _object(_object(given, "").get("note"), "note")
        text = _text(note.get("text"), "note.text", NOTE_MAX)
        with self._documents.transaction():
            return self._change_link(self.link(instance_id, link_id), {"note": {"text": text}}, "note_set")

    def send_link(self, instance_id: str, link_id: str, given: Any) -> None:
        """Send to contacts: those given, else those of the link's creation. Noted, not mailed."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            given = _object(given, "")
            if given.get("paymentLinkId", link_id) != link_id:
                raise invalid(Violation("paymentLinkId", "is not the link of the path"))
            asked = given.get("recipients") or current(link).get("recipients")
            for recipient in self._recipients(instance_id, asked, "recipients"):
                id_ = str(uuid4())
                mail = {"id": id_, "instanceId": instance_id, "linkId": link_id, "at": self._time()}
                self._documents.put("mail", id_, {**mail, "contactId": recipient["contactId"]})
            self._emit_link(link, "sent")

    def initiate(self, instance_id: str, link_id: str) -> Entity:
        """Initiate Payment: a checkout to lead the buyer to. Not a payment."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            self._refuse_unpayable(link)
            entity = current(link)
            self._emit_link(link, "payment_initiated")
            if entity["type"] == "ECOM_ORDER":
                order_id = entity["ecomOrderPaymentLink"]["orderId"]
                return {"ecomOrder": {"orderUrl": f"{self._base_url()}/order/{order_id}?link={link_id}"}}
            id_ = str(uuid4())
            checkout = {"id": id_, "instanceId": instance_id, "linkId": link_id, "isPaid": False}
            self._documents.put("checkout", id_, checkout)
            url = f"{self._base_url()}/checkout/{id_}"
            return {"ecomCheckout": {"checkoutUrl": url, "checkoutId": id_}}

    # -- Paying ------------------------------------------------------------------------------------

    def due(self, link: Document) -> Decimal:
        """What a buyer pays through the link, in main units."""
        entity = current(link)
        if entity["type"] == "ECOM_ORDER":
            return Decimal(entity["ecomOrderPaymentLink"]["amount"])
        total = Decimal(0)
        for item in entity["ecomPaymentLink"]["lineItems"]:
            if item["type"] == "CUSTOM":
                total += item["customItem"]["quantity"] * Decimal(item["customItem"]["price"])
            else:
                product = self._found("product", item["catalogItem"]["catalogReference"]["catalogItemId"])
                total += item["catalogItem"]["quantity"] * Decimal(product["price"])
        return total

    def pay_checkout(self, checkout_id: str, given: Any) -> list[Entity]:
        """A buyer completes a checkout that was initiated."""
        with self._documents.transaction():
            checkout = self._found("checkout", checkout_id)
            if checkout["isPaid"]:
                raise failed(428, "SANDBOX_CHECKOUT_COMPLETED", "the checkout is paid already")
            paid = self._pay(self.any_link(checkout["linkId"]), checkout, given)
            checkout["isPaid"] = bool(paid)
            self._documents.put("checkout", checkout_id, checkout)
            return paid

    def pay_link(self, link_id: str, given: Any) -> list[Entity]:
        """A buyer opens the link and completes its checkout. Returns the payments, none if declined."""
        with self._documents.transaction():
            return self._pay(self.any_link(link_id), None, given)

    def _pay(self, link: Document, checkout: Document | None, given: Any) -> list[Entity]:
        given = _object(given, "")
        self._refuse_unpayable(link)
        entity = current(link)
        currency = entity["currency"]
        tenders = self._tenders(given.get("tenders"), self.due(link), currency)
        buyer = self._buyer(given.get("buyer"))
        is_declined = given.get("isDeclined", False)
        if not isinstance(is_declined, bool):
            raise invalid(Violation("isDeclined", "must be true or false"))
        if is_declined:
            return []
        at = self._time()
        if entity["type"] == "ECOM_ORDER":
            order = self._found("order", entity["ecomOrderPaymentLink"]["orderId"])
            place: Entity = {"ecomOrder": {"ecomOrderId": order["id"]}}
        else:
            # Every purchase through an ECOM link makes an order of its own.
            order = self._new_order(link["instanceId"], currency, money(self.due(link), currency))
            place = {"ecomCheckout": {"ecomCheckoutId": checkout["id"] if checkout else str(uuid4())}}
        paid: list[Entity] = []
        for tender, amount in tenders:
            payment: Entity = {
                "id": str(uuid4()),
                "revision": "1",
                "createdDate": at,
                "transactionDate": at,
                "amount": money(amount, currency),
                self._rules.currency_field: currency,
                "paymentLinkId": link["id"],
                **place,
            }
            payment |= self._payment_details(tender, buyer, order["id"], payment["id"])
            document = {
                "id": payment["id"],
                "instanceId": link["instanceId"],
                "linkId": link["id"],
                "sequence": 0,
                "versions": [],
            }
            self._save(document, "payment", payment)
            paid.append(payment)
        order["paid"] = money(Decimal(order["paid"]) + sum(amount for _, amount in tenders), currency)
        is_paid = Decimal(order["paid"]) >= Decimal(order["total"])
        order["paymentStatus"] = "PAID" if is_paid else "PARTIALLY_PAID"
        self._documents.put("order", order["id"], order)
        self._note_received(link, paid, at)
        for payment in paid:
            self._emit_payment(self._found("payment", payment["id"]), "created")
        self._emit_link(link, "updated")
        return paid

    def _tenders(self, given: Any, due: Decimal, currency: str) -> list[tuple[str, Decimal]]:
        if not given:
            return [("CARD", due)]
        if not isinstance(given, list) or len(given) > 5:
            raise invalid(Violation("tenders", "must be a list of at most 5", "MAX_SIZE"))
        found: list[tuple[str, Decimal]] = []
        for number, one in enumerate(given):
            tender = _object(one, f"tenders[{number}]")
            if tender.get("type") not in TENDERS:
                raise invalid(
                    Violation(f"tenders[{number}].type", f"must be one of {', '.join(TENDERS)}", "ENUM")
                )
            amount = parse_money(tender.get("amount"), currency, f"tenders[{number}].amount")
            if not amount and due:
                raise invalid(Violation(f"tenders[{number}].amount", "must be more than nothing", "MIN"))
            found.append((tender["type"], amount))
        if sum(amount for _, amount in found) != due:
            raise invalid(Violation("tenders", f"must add up to {money(due, currency)} {currency}"))
        return found

    def _refuse_unpayable(self, link: Document) -> None:
        entity = current(link)
        if entity["status"] != "ACTIVE":
            raise failed(428, "SANDBOX_LINK_NOT_ACTIVE", f"the link is {entity['status']}")
        if link["purchases"] >= entity.get("paymentsLimit", 1 << 62):
            raise failed(428, "SANDBOX_PAYMENTS_LIMIT_REACHED", "the link was paid as often as it may be")
        if entity["type"] == "ECOM_ORDER":
            # Another link may have paid the order meanwhile.
            order = self._found("order", entity["ecomOrderPaymentLink"]["orderId"])
            balance = Decimal(order["total"]) - Decimal(order["paid"])
            if self.due(link) > balance:
                raise failed(428, "SANDBOX_AMOUNT_EXCEEDS_BALANCE", f"the order's balance is {balance}")

    def _buyer(self, given: Any) -> Entity:
        """The buyer's contact details: what was given, the rest made up. Raises Refused (400)."""
        given = {} if given is None else _object(given, "buyer")
        if unknown := set(given) - set(BUYER_FIELDS):
            known = ", ".join(BUYER_FIELDS)
            raise invalid(Violation(f"buyer.{min(unknown)}", f"is not one of {known}"))
        told = {
            name: _text(value, f"buyer.{name}", 100) for name, value in given.items() if value is not None
        }
        name = told.get("name") or self._random.choice(_NAMES)
        first, _, last = name.partition(" ")
        details = {
            "firstName": first,
            "lastName": last,
            "fullName": name,
            "phone": told.get("phone") or f"+1 555 01{self._random.randrange(100):02d}",
            "email": told.get("email") or _email(name),
        }
        return details | ({"company": told["company"]} if "company" in told else {})

    def _payment_details(self, tender: str, buyer: Entity, order_id: str, payment_id: str) -> Entity:
        if tender == "GIFT_CARD":
            return {
                "type": "GIFT_CARD",
                "giftCardPaymentLinkPayment": {
                    # A gift card payment's id is that of the link payment (Wix docs, payment object).
                    "giftCardPaymentId": payment_id,
                    "maskedCode": f"****{self._random.randrange(10_000):04d}",
                },
            }
        house = str(self._random.randrange(1, 99))
        details: Entity = {
            "contactDetails": buyer,
            "billingAddress": {
                "country": "US",
                "subdivision": "VT",
                "city": "Springfield",
                "postalCode": "05156",
                "streetAddress": {"number": house, "name": "Main Street"},
                "formattedAddress": f"VT, Main Street {house}",
            },
            "order": {"type": "ECOM", "ecomOrder": {"ecomOrderId": order_id}},
        }
        if tender == "CARD":
            details |= {
                "method": "CREDIT_CARD",
                "paymentMethod": "creditCard",
                "paymentProvider": "Credit/Debit Cards",
                "creditCardPaymentMethodData": {
                    "network": "visa",
                    "maskedCreditCard": f"**** **** **** {self._random.randrange(10_000):04d}",
                    "holderName": buyer["fullName"],
                },
            }
        else:
            # Wix documents no value for an offline method; its transactions call it Offline.
            details |= {"method": "OFFLINE", "paymentMethod": "offline", "paymentProvider": "Offline"}
        return {"type": "REGULAR", "regularPaymentLinkPayment": details}

    def _note_received(self, link: Document, paid: Sequence[Entity], at: str) -> None:
        entity = current(link)
        total = Decimal(entity["totalReceived"]["amount"]) + sum(Decimal(one["amount"]) for one in paid)
        link["purchases"] += 1
        change: Entity = {
            # Whether a split purchase counts once or twice is not documented; here every payment counts.
            "totalReceived": {
                "paymentCount": entity["totalReceived"]["paymentCount"] + len(paid),
                "amount": money(total, entity["currency"]),
            },
            "lastPaymentDate": at,
        }
        if link["purchases"] >= entity.get("paymentsLimit", 1 << 62):
            change["status"] = "PAID"
        self._change_link(link, change, None)

    # -- Payments ----------------------------------------------------------------------------------

    def issue_receipt(self, instance_id: str, payment_id: str) -> Entity:
        """Issue Receipt: the payment gets a receipt and its next revision."""
        with self._documents.transaction():
            payment = self._payment(instance_id, payment_id)
            if current(payment).get("receiptId"):
                raise failed(428, "SANDBOX_RECEIPT_EXISTS", "the payment has a receipt already")
            receipt_id = str(uuid4())
            self._change_payment(payment, {"receiptId": receipt_id})
            return {"receiptId": receipt_id}

    def anonymize(self, payment_id: str) -> Entity:
        """A privacy request: personal fields go, money stays, and an update says so."""
        with self._documents.transaction():
            payment = self._found("payment", payment_id)
            entity = dict(current(payment))
            regular = entity.get("regularPaymentLinkPayment")
            if regular:
                personal = ("contactDetails", "billingAddress", "creditCardPaymentMethodData")
                kept = {name: value for name, value in regular.items() if name not in personal}
                entity["regularPaymentLinkPayment"] = kept
            return self._change_payment(payment, entity, is_anonymization=True)

    def _payment(self, instance_id: str, payment_id: str) -> Document:
        payment = self._documents.get("payment", payment_id)
        if payment is None or payment["instanceId"] != instance_id:
            raise not_found("payment link payment", payment_id)
        return payment

    # -- Reading -----------------------------------------------------------------------------------

    def link_answer(self, link: Document) -> Entity:
        """A link as the API shows it: what is planted on its total included."""
        return self._planted_total(current(link))

    def queried_links(self, instance_id: str) -> list[Entity]:
        """Links as Query Payment Links sees them now."""
        with self._documents.transaction():
            for link in self._documents.all("link"):
                if link["instanceId"] == instance_id:
                    self._with_expiry(link)
            return [self._planted_total(entity) for entity in self._lagging("link", instance_id)]

    def queried_payments(self, instance_id: str) -> list[Entity]:
        """Payments as Query Payment Link Payments sees them now."""
        deleted = {fault["paymentId"] for fault in self._faults.of_read("payment_deleted")}
        edited = {fault["paymentId"]: fault["amount"] for fault in self._faults.of_read("amount_edited")}
        return [
            {**entity, "amount": edited.get(entity["id"], entity["amount"])}
            for entity in self._lagging("payment", instance_id)
            if entity["id"] not in deleted
        ]

    def _lagging(self, kind: str, instance_id: str) -> list[Entity]:
        lag = max((fault["seconds"] for fault in self._faults.of_read("read_lag")), default=0.0)
        until = self._now() - timedelta(seconds=lag)
        seen: list[Entity] = []
        for document in self._documents.all(kind):
            if document["instanceId"] != instance_id:
                continue
            for version in reversed(document["versions"]):
                if not lag or datetime.fromisoformat(version["at"]) <= until:
                    seen.append(version["entity"])
                    break
        return seen

    def _planted_total(self, entity: Entity) -> Entity:
        for fault in self._faults.of_read("wrong_total"):
            if fault["linkId"] == entity["id"]:
                amount = Decimal(entity["totalReceived"]["amount"]) + Decimal(fault["by"])
                total = {**entity["totalReceived"], "amount": money(amount, entity["currency"])}
                entity = {**entity, "totalReceived": total}
        return entity

    def truth(self) -> list[Document]:
        """What really happened, instance by instance, whatever was delivered or is shown."""
        with self._documents.transaction():
            return [self._truth_of(instance) for instance in self._documents.all("instance")]

    def _truth_of(self, instance: Document) -> Document:
        id_ = instance["instanceId"]
        links = [link for link in self._documents.all("link") if link["instanceId"] == id_]
        payments = [one for one in self._documents.all("payment") if one["instanceId"] == id_]
        return {
            "instanceId": id_,
            "isRemoved": instance["isRemoved"],
            "links": [
                {
                    "id": link["id"],
                    "title": current(link)["title"],
                    "currency": current(link)["currency"],
                    "status": current(link)["status"],
                    "received": current(link)["totalReceived"],
                    "shown": self.link_answer(link)["totalReceived"],
                }
                for link in links
            ],
            "payments": [
                {
                    "id": payment["id"],
                    "paymentLinkId": payment["linkId"],
                    "amount": current(payment)["amount"],
                    # The field's name is an option, which may have been another when this was paid.
                    "currency": current(payment).get("currency") or current(payment)["currencyCode"],
                    "revision": current(payment)["revision"],
                    "type": current(payment)["type"],
                }
                for payment in payments
            ],
        }

    # -- Inner -------------------------------------------------------------------------------------

    def _found(self, kind: str, id_: str) -> Document:
        document = self._documents.get(kind, id_)
        if document is None:
            raise not_found(kind, id_)
        return document

    def _app(self) -> Document:
        return self._found("app", "app")

    def _time(self) -> str:
        return timestamp(self._now())

    def _guid(self, given: Any, where: str) -> str:
        if given is None:
            return str(uuid4())
        try:
            return str(UUID(given))
        except (ValueError, AttributeError, TypeError):
            raise invalid(Violation(where, "must be a GUID", "FORMAT")) from None

    def _share_links(self, link_id: str) -> Entity:
        base, path = self._base_url(), f"/_paylink/{link_id}"
        return {"url": {"url": f"{base}{path}", "base": base, "path": path}}

    def _save(self, document: Document, kind: str, entity: Entity) -> None:
        document["versions"] = [*document["versions"], {"at": self._time(), "entity": entity}][
            -VERSIONS_KEPT:
        ]
        self._documents.put(kind, document["id"], document)

    def _change_link(self, link: Document, change: Entity, slug: str | None) -> Entity:
        entity = {**current(link), **change}
        entity |= {"revision": str(int(entity["revision"]) + 1), "updatedDate": self._time()}
        self._save(link, "link", entity)
        if slug is not None:
            self._emit_link(link, slug)
        return entity

    def _change_payment(self, payment: Document, change: Entity, *, is_anonymization: bool = False) -> Entity:
        entity = {**current(payment), **change}
        entity["revision"] = str(int(entity["revision"]) + 1)
        self._save(payment, "payment", entity)
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
        visitor = {"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": str(uuid4())}
        app = {"identityType": "APP", "appId": self._app()["appId"]}
        self._send(
            events.domain_event(
                instance=instance,
                fqdn=fqdn,
                slug=slug,
                entity=current(document),
                entity_id=document["id"],
                payment_link_id=link_id,
                sequence=document["sequence"],
                at=self._time(),
                identity=visitor if kind == "payment" else app,
                is_anonymization=is_anonymization,
            )
        )

    def _emit_app(self, instance: Document, *, is_installation: bool) -> None:
        self._send(events.app_event(instance, app_id=self._app()["appId"], is_installation=is_installation))


def current(document: Document) -> Entity:
    """The newest version of a link or payment."""
    entity: Entity = document["versions"][-1]["entity"]
    return entity


def _object(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(Violation(where or "body", "must be an object"))
    return given


def _is_after(moment: datetime, now: datetime) -> bool:
    """Whether `moment` is an instant that Wix could write, and later than `now`."""
    if moment.tzinfo is None:
        return False
    try:
        return moment.astimezone(UTC) > now
    except OverflowError:  # a day before the first or after the last year
        return False


def _text(given: Any, where: str, length: int) -> str:
    if not isinstance(given, str) or not 1 <= len(given) <= length:
        raise invalid(Violation(where, f"must be text of 1 to {length} characters", "MAX_LENGTH"))
    return given


def _currency(given: Any, where: str) -> str:
    if not isinstance(given, str) or not _CURRENCY.fullmatch(given):
        raise invalid(Violation(where, "must be an ISO 4217 code", "FORMAT"))
    return given


def _converted(given: Any, model: type[wire.NewPaymentLink], where: str) -> wire.NewPaymentLink:
    try:
        return msgspec.convert(given, model)
    except msgspec.ValidationError as why:
        said, _, path = str(why).partition(" - at ")
        field = path.strip("`").replace("$", where, 1) or where
        raise invalid(Violation(field, said, "FORMAT")) from None


def _email(name: str) -> str:
    return f"{name.lower().replace(' ', '.')}@example.com"
