"""The pretend Wix's payments after they are made: receipts, refunds, privacy requests."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from processor.sandbox import events
from processor.sandbox.checkout import Checkouts
from processor.sandbox.core import as_money, as_object, currency_of, money
from processor.sandbox.documents import Document
from processor.sandbox.errors import Violation, invalid, not_found
from processor.sandbox.events import Entity

PERSONAL = ("contactDetails", "billingAddress", "creditCardPaymentMethodData")


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a payment. tender: CARD, GIFT_CARD or OFFLINE; refunded, left: decimal text.

    status: APPROVED, PARTIALLY_REFUNDED, REFUNDED, or VOIDED (a gift card given back).
    """

    tender: str
    status: str
    refunded: str
    left: str
    refunds: list[Document]


class Payments(Checkouts):
    """What the site's owner, the payment provider and privacy rules do to a payment."""

    def payment(self, payment_id: str) -> Document:
        """A payment of whichever site. Raises Refused (404)."""
        return self._found("payment", payment_id)

    def standing(self, payment: Document) -> Standing:
        """How a payment stands on its order, the only place where refunds show."""
        order = self._found("order", payment["orderId"])
        line = _line_of(order, payment["id"])
        refunded = Decimal(line.get("refunded", "0"))
        return Standing(
            tender=line["tender"],
            status=line["status"],
            refunded=money(refunded, order["currency"]),
            left=money(Decimal(line["amount"]) - refunded, order["currency"]),
            refunds=[one for one in order["refunds"] if one["paymentId"] == payment["id"]],
        )

    def issue_receipt(self, instance_id: str, payment_id: str) -> Entity:
        """Issue Receipt: the payment gets a receipt and its next revision."""
        with self._documents.transaction():
            payment = self._owned("payment", payment_id, instance_id)
            if payment["entity"].get("receiptId"):
                raise self._refused("SANDBOX_RECEIPT_EXISTS", "the payment has a receipt already")
            receipt = {
                "id": str(self._new_id()),
                "instanceId": instance_id,
                "number": str(self._documents.count("receipt", {"instance": instance_id}) + 1),
                "createdDate": self._time(),
                "paymentId": payment_id,
                "amount": payment["entity"]["amount"],
                "currency": currency_of(payment["entity"]),
            }
            self._documents.put("receipt", receipt["id"], receipt)
            self._change_payment(payment, {"receiptId": receipt["id"]})
            match self._rules.receipt_answer:
                case "receipt":
                    return {"receipt": {name: receipt[name] for name in receipt if name != "instanceId"}}
                case "paymentLinkPayment":
                    return {"paymentLinkPayment": payment["entity"]}
                case "nothing":
                    return {}
            return {"receiptId": receipt["id"]}

    def refund(self, payment_id: str, given: Any) -> Document:
        """Refund a payment, wholly unless `amount` says less. It shows on the order's side.

        Whether a refund changes the payment or the link's totals is not documented: see Rules.
        """
        given = as_object(given, "")
        with self._documents.transaction():
            payment = self._found("payment", payment_id)
            entity = payment["entity"]
            currency = currency_of(entity)
            order = self._found("order", payment["orderId"])
            line = _line_of(order, payment_id)
            left = Decimal(line["amount"]) - Decimal(line.get("refunded", "0"))
            amount = left
            if given.get("amount") is not None:
                amount = as_money(given["amount"], currency, "amount")
            if not 0 < amount <= left:
                raise invalid(Violation("amount", f"must be more than nothing and at most {left}", "MAX"))
            if line["tender"] == "GIFT_CARD" and amount != Decimal(line["amount"]):
                # "About Gift Cards": gift cards have no partial refunds.
                raise self._refused("SANDBOX_NO_PARTIAL_REFUND", "a gift card is refunded as a whole")
            is_full = amount == left
            line["refunded"] = money(Decimal(line.get("refunded", "0")) + amount, currency)
            line["status"] = "VOIDED" if line["tender"] == "GIFT_CARD" else _refund_status(is_full)
            refund = {
                "id": str(self._new_id()),
                "paymentId": payment_id,
                "amount": money(amount, currency),
                "createdDate": self._time(),
                "refundStatus": "SUCCEEDED",
            }
            order["refunds"].append(refund)
            order["refunded"] = money(Decimal(order["refunded"]) + amount, currency)
            is_all = Decimal(order["refunded"]) >= Decimal(order["paid"])
            order["paymentStatus"] = "FULLY_REFUNDED" if is_all else "PARTIALLY_REFUNDED"
            self._documents.put("order", order["id"], order)
            self._follow_refund(payment, amount)
            self._send(
                events.refund_event(
                    self.instance(payment["instanceId"]),
                    refund=refund,
                    currency=currency,
                    is_full=is_full,
                    at=self._time(),
                    new_id=self._new_id,
                )
            )
            self._emit_order(order, "payment_status_updated")
            return {"refund": refund, "orderId": order["id"], "paymentStatus": order["paymentStatus"]}

    def reverse_refund(self, payment_id: str, refund_id: str) -> Document:
        """A refund that succeeded fails after all: the money is the merchant's again."""
        with self._documents.transaction():
            payment = self._found("payment", payment_id)
            order = self._found("order", payment["orderId"])
            of_payment = [
                one for one in order["refunds"] if (one["id"], one["paymentId"]) == (refund_id, payment_id)
            ]
            if not of_payment:
                raise not_found("refund", refund_id)
            [refund] = of_payment
            if refund["refundStatus"] == "REVERSED":
                raise self._refused("SANDBOX_REFUND_REVERSED", "the refund was reversed already")
            refund["refundStatus"] = "REVERSED"
            line, currency, amount = _line_of(order, payment_id), order["currency"], Decimal(refund["amount"])
            left = Decimal(line["refunded"]) - amount
            line["refunded"] = money(left, currency)
            line["status"] = _refund_status(is_full=False) if left else "APPROVED"
            order["refunded"] = money(Decimal(order["refunded"]) - amount, currency)
            is_any = Decimal(order["refunded"]) > 0
            is_paid = Decimal(order["paid"]) >= Decimal(order["total"])
            whole = "PAID" if is_paid else "PARTIALLY_PAID"
            order["paymentStatus"] = "PARTIALLY_REFUNDED" if is_any else whole
            self._documents.put("order", order["id"], order)
            self._follow_refund(payment, -amount)
            self._send(
                events.refund_event(
                    self.instance(payment["instanceId"]),
                    refund=refund,
                    currency=currency,
                    is_full=amount == Decimal(line["amount"]),
                    at=self._time(),
                    new_id=self._new_id,
                    sequence=2,
                )
            )
            self._emit_order(order, "payment_status_updated")
            return {"refund": refund, "orderId": order["id"], "paymentStatus": order["paymentStatus"]}

    def _follow_refund(self, payment: Document, amount: Decimal) -> None:
        before = Decimal(payment.get("refunded", "0"))
        payment["refunded"] = money(before + amount, currency_of(payment["entity"]))  # of the truth alone
        self._documents.put("payment", payment["id"], payment)
        if self._rules.refund_raises_update:
            self._change_payment(payment, {})
        if self._rules.totals_fall_on_refund:
            link = self._found("link", payment["linkId"])
            received = link["entity"]["totalReceived"]
            total = money(Decimal(received["amount"]) - amount, link["entity"]["currency"])
            self._change_link(link, {"totalReceived": {**received, "amount": total}}, "updated")

    def anonymize(self, payment_id: str) -> Entity:
        """A privacy request: personal fields go, money stays, and an update says so."""
        with self._documents.transaction():
            payment = self._found("payment", payment_id)
            entity = dict(payment["entity"])
            regular = entity.get("regularPaymentLinkPayment")
            if regular:
                kept = {name: value for name, value in regular.items() if name not in PERSONAL}
                entity["regularPaymentLinkPayment"] = kept
            return self._change_payment(payment, entity, is_anonymization=True)


def _line_of(order: Document, payment_id: str) -> Document:
    [line] = [one for one in order["payments"] if one["paymentId"] == payment_id]
    found: Document = line
    return found


def _refund_status(is_full: bool) -> str:
    return "REFUNDED" if is_full else "PARTIALLY_REFUNDED"
