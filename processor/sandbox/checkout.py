"""The pretend Wix's checkout: buyers pay links and orders, by card, gift card, both, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from processor.sandbox import events
from processor.sandbox.core import as_flag, as_list, as_money, as_object, as_text, money
from processor.sandbox.documents import Document
from processor.sandbox.errors import Violation, failed, invalid
from processor.sandbox.events import Entity
from processor.sandbox.links import NO_LIMIT, Links
from processor.sandbox.sites import NAMES, email_of

TENDERS = ("CARD", "GIFT_CARD", "OFFLINE")
TENDERS_MAX = 5
BUYER_FIELDS = ("name", "email", "phone", "company", "vatId")
VAT_TYPES = ("UNSPECIFIED", "CPF", "CNPJ")


class Checkouts(Links):
    """Initiating payments, and paying."""

    def initiate(self, instance_id: str, link_id: str) -> Entity:
        """Initiate Payment: a checkout to lead the buyer to. Not a payment."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            self._refuse_unpayable(link)
            entity = link["entity"]
            self._emit_link(link, "payment_initiated")
            if entity["type"] == "ECOM_ORDER":
                order_id = entity["ecomOrderPaymentLink"]["orderId"]
                return {"ecomOrder": {"orderUrl": f"{self._base_url()}/order/{order_id}?link={link_id}"}}
            id_ = str(self._new_id())
            checkout = {"id": id_, "instanceId": instance_id, "linkId": link_id, "isPaid": False}
            self._documents.put("checkout", id_, checkout)
            url = f"{self._base_url()}/checkout/{id_}"
            return {"ecomCheckout": {"checkoutUrl": url, "checkoutId": id_}}

    def due(self, link: Document) -> Decimal:
        """What a buyer pays through the link, in main units."""
        entity = link["entity"]
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
        given = as_object(given, "")
        self._refuse_unpayable(link)
        entity = link["entity"]
        currency = entity["currency"]
        due = self.due(link)
        tenders = self._tenders(given.get("tenders"), due, currency)
        buyer = self._buyer(given.get("buyer"))
        if as_flag(given.get("isDeclined", False), "isDeclined"):
            return []
        if self._rules.contact_id_field:
            contact = {"name": buyer["fullName"], "email": buyer["email"]}
            buyer[self._rules.contact_id_field] = self.add_contact(link["instanceId"], contact)["id"]
        if entity["type"] == "ECOM_ORDER":
            order = self._found("order", entity["ecomOrderPaymentLink"]["orderId"])
            place: Entity = {"ecomOrder": {"ecomOrderId": order["id"]}}
        else:
            # Every purchase through an ECOM link makes an order of its own.
            order = self._new_order(link["instanceId"], currency, money(due, currency))
            place = {"ecomCheckout": {"ecomCheckoutId": checkout["id"] if checkout else str(self._new_id())}}
        at = self._time()
        paid: list[Document] = []
        for tender, amount in tenders:
            if tender == "OFFLINE" and not self._rules.offline_makes_payment:
                order["payments"].append(
                    order_payment(str(self._new_id()), tender, money(amount, currency), at)
                )
                continue
            payment: Entity = {
                "id": str(self._new_id()),
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
                "orderId": order["id"],
                "sequence": 0,
            }
            self._save("payment", document, payment)
            order["payments"].append(order_payment(payment["id"], tender, payment["amount"], at))
            paid.append(document)
        order["paid"] = money(Decimal(order["paid"]) + sum(amount for _, amount in tenders), currency)
        is_paid = Decimal(order["paid"]) >= Decimal(order["total"])
        order["paymentStatus"] = "PAID" if is_paid else "PARTIALLY_PAID"
        self._documents.put("order", order["id"], order)
        self._note_received(link, [document["entity"] for document in paid], at)
        for document in paid:
            self._emit_payment(document, "created")
        if (slug := self._payment_slug()) is not None:
            self._emit_link(link, slug)
        self._emit_order(order, "payment_status_updated")
        return [document["entity"] for document in paid]

    def _emit_order(self, order: Document, slug: str) -> None:
        """Tell of an order: only apps that subscribed to eCommerce events hear it."""
        self._send(
            events.order_event(
                self.instance(order["instanceId"]),
                order=shown_order(order),
                slug=slug,
                at=self._time(),
                new_id=self._new_id,
            )
        )

    def _tenders(self, given: Any, due: Decimal, currency: str) -> list[tuple[str, Decimal]]:
        if not given:
            return [("CARD", due)]
        found: list[tuple[str, Decimal]] = []
        for number, one in enumerate(as_list(given, "tenders", TENDERS_MAX)):
            tender = as_object(one, f"tenders[{number}]")
            if tender.get("type") not in TENDERS:
                raise invalid(
                    Violation(f"tenders[{number}].type", f"must be one of {', '.join(TENDERS)}", "ENUM")
                )
            amount = as_money(tender.get("amount"), currency, f"tenders[{number}].amount")
            if not amount and due:
                raise invalid(Violation(f"tenders[{number}].amount", "must be more than nothing", "MIN"))
            found.append((tender["type"], amount))
        if sum(amount for _, amount in found) != due:
            raise invalid(Violation("tenders", f"must add up to {money(due, currency)} {currency}"))
        return found

    def _refuse_unpayable(self, link: Document) -> None:
        entity = link["entity"]
        if entity["status"] != "ACTIVE":
            raise failed(428, "SANDBOX_LINK_NOT_ACTIVE", f"the link is {entity['status']}")
        if link["purchases"] >= entity.get("paymentsLimit", NO_LIMIT):
            raise failed(428, "SANDBOX_PAYMENTS_LIMIT_REACHED", "the link was paid as often as it may be")
        if entity["type"] == "ECOM_ORDER":
            # Another link may have paid the order meanwhile.
            order = self._found("order", entity["ecomOrderPaymentLink"]["orderId"])
            balance = Decimal(order["total"]) - Decimal(order["paid"])
            if self.due(link) > balance:
                raise failed(428, "SANDBOX_AMOUNT_EXCEEDS_BALANCE", f"the order's balance is {balance}")

    def _buyer(self, given: Any) -> Entity:
        """The buyer's contact details: what was given, the rest made up. Raises Refused (400)."""
        given = {} if given is None else as_object(given, "buyer")
        if unknown := set(given) - set(BUYER_FIELDS):
            known = ", ".join(BUYER_FIELDS)
            raise invalid(Violation(f"buyer.{min(unknown)}", f"is not one of {known}"))
        told = {
            name: as_text(value, f"buyer.{name}", 100)
            for name, value in given.items()
            if value is not None and name != "vatId"
        }
        name = told.get("name") or self._random.choice(NAMES)
        first, _, last = name.partition(" ")
        details: Entity = {
            "firstName": first,
            "lastName": last,
            "fullName": name,
            "phone": told.get("phone") or f"+1 555 01{self._random.randrange(100):02d}",
            "email": told.get("email") or email_of(name),
        }
        if "company" in told:
            details["company"] = told["company"]
        if given.get("vatId") is not None:
            details["vatId"] = _vat_id(given["vatId"])
        return details

    def _payment_details(self, tender: str, buyer: Entity, order_id: str, payment_id: str) -> Entity:
        if tender == "GIFT_CARD":
            return {
                "type": self._rules.gift_card_type,
                self._rules.gift_card_field: {
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
                "streetAddress": {"number": house, "name": "Main Street", "apt": "2"},
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
        entity = link["entity"]
        received = entity["totalReceived"]
        total = Decimal(received["amount"]) + sum(Decimal(one["amount"]) for one in paid)
        link["purchases"] += 1
        change: Entity = {
            "totalReceived": {
                "paymentCount": received["paymentCount"]
                + (min(1, len(paid)) if self._rules.split_counts_once else len(paid)),
                "amount": money(total, entity["currency"]),
            },
        }
        if paid:
            change["lastPaymentDate"] = at
        if link["purchases"] >= entity.get("paymentsLimit", NO_LIMIT):
            change["status"] = "PAID"
        self._change_link(link, change, None)


def _vat_id(given: Any) -> Entity:
    vat = as_object(given, "buyer.vatId")
    if vat.get("type") not in VAT_TYPES:
        raise invalid(Violation("buyer.vatId.type", f"must be one of {', '.join(VAT_TYPES)}", "ENUM"))
    return {"id": as_text(vat.get("id"), "buyer.vatId.id", 100), "type": vat["type"]}


def order_payment(payment_id: str, tender: str, amount: str, at: str) -> Document:
    """A payment as the order's transactions hold it."""
    return {
        "paymentId": payment_id,
        "tender": tender,
        "amount": amount,
        "createdDate": at,
        "status": "APPROVED",
    }


def shown_order(order: Document) -> Entity:
    """An order as the eCommerce API shows it, as far as payments go (Wix docs, "Order Object")."""
    balance = Decimal(order["total"]) - Decimal(order["paid"])
    return {
        "id": order["id"],
        **_called(order),
        "createdDate": order["createdDate"],
        "currency": order["currency"],
        "status": "APPROVED",
        "paymentStatus": order["paymentStatus"],
        "priceSummary": {"total": {"amount": order["total"]}},
        "balanceSummary": {
            "balance": {"amount": money(balance, order["currency"])},
            "paid": {"amount": order["paid"]},
            "refunded": {"amount": order["refunded"]},
        },
    }


def _called(order: Document) -> Entity:
    """What an order is called and who made it, as far as it was written down: a seeded past says neither."""
    told: Entity = {}
    if order.get("number") is not None:
        told["number"] = order["number"]
    if buyer := order.get("buyer"):
        first, _, last = buyer["name"].partition(" ")
        told["buyerInfo"] = {"email": buyer["email"]}
        told["billingInfo"] = {"contactDetails": {"firstName": first, "lastName": last}}
    return told
