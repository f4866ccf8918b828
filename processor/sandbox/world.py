"""What the pretend Wix knows, as it shows it: queries, the shop's side, and what really happened.

    core.py       input, money, versions, events        checkout.py   buyers pay
    sites.py      installations and their shops         payments.py   receipts, refunds, privacy
    links.py      the Payment Links API's methods       world.py      everything that only reads

Entities are kept in Wix's own JSON shapes. Each has versions, so that queries can lag behind writes, and a
sequence for its events. Money is decimal text of the currency's own digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from processor.sandbox import query
from processor.sandbox.checkout import shown_order
from processor.sandbox.core import currency_of, money
from processor.sandbox.documents import Document, microseconds
from processor.sandbox.events import Entity
from processor.sandbox.payments import Payments

TRUTH_MAX = 100_000  # items of one instance listed one by one; ask for the summary beyond
_THOUSAND = Decimal(1000)


class World(Payments):
    """Everything the pretend Wix can do and show."""

    # -- Links and payments ------------------------------------------------------------------------

    def link_answer(self, link: Document) -> Entity:
        """A link as the API shows it: what is planted on its total included."""
        return _planted_total(link["entity"], self._faults.of_read("wrong_total"))

    def links_page(self, instance_id: str, body: Any, *, is_search: bool = False) -> query.Page:
        """What Query or Search Payment Links answers now. Raises Refused (400)."""
        run = query.run_search if is_search else query.run_query
        with self._documents.transaction():
            self.expire_due()
            hidden = {fault["linkId"] for fault in self._faults.of_read("link_deleted")}
            page = run(body, self._documents, query.LINKS, self._view(instance_id, hidden))
        wrong = self._faults.of_read("wrong_total")
        items = [_planted_total(entity, wrong) for entity in page.items]
        return query.Page(items, page.next, page.prev, page.aggregations)

    def payments_page(self, instance_id: str, body: Any, *, is_search: bool = False) -> query.Page:
        """What Query or Search Payment Link Payments answers now. Raises Refused (400)."""
        run = query.run_search if is_search else query.run_query
        hidden = {fault["paymentId"] for fault in self._faults.of_read("payment_deleted")}
        edited = {fault["paymentId"]: fault["amount"] for fault in self._faults.of_read("amount_edited")}
        page = run(body, self._documents, query.PAYMENTS, self._view(instance_id, hidden))
        items = [{**entity, "amount": edited.get(entity["id"], entity["amount"])} for entity in page.items]
        return query.Page(items, page.next, page.prev, page.aggregations)

    # What the site's owner sees is what there is: no fault of reading strikes it.

    def links_of(self, instance_id: str, *, limit: int, cursor: str | None = None) -> query.Page:
        """A page of a site's links, newest first. Raises Refused (400) for a cursor that is none."""
        with self._documents.transaction():
            self.expire_due()
            asked = _newest(limit, cursor, {})
            return query.run_query(asked, self._documents, query.LINKS, query.View(instance_id))

    def payments_of(
        self, instance_id: str, *, limit: int, cursor: str | None = None, link_id: str | None = None
    ) -> query.Page:
        """A page of a site's or a link's payments, newest first. Raises Refused (400) for a cursor that is none."""
        asked = _newest(limit, cursor, {} if link_id is None else {"paymentLinkId": link_id})
        return query.run_query(asked, self._documents, query.PAYMENTS, query.View(instance_id))

    def link_ids(self, instance_id: str, filter_: Any) -> list[str]:
        """Ids of every link a filter finds. Raises Refused (400)."""
        found: list[str] = []
        asked: Any = {"query": {"filter": filter_, "cursorPaging": {"limit": query.PAGE_MAX}}}
        while True:
            page = self.links_page(instance_id, asked)
            found += [entity["id"] for entity in page.items]
            if page.next is None:
                return found
            asked = {"query": {"cursorPaging": {"cursor": page.next}}}

    def _view(self, instance_id: str, hidden: set[str]) -> query.View:
        lag = max((fault["seconds"] for fault in self._faults.of_read("read_lag")), default=0.0)
        as_of = microseconds(self._now() - timedelta(seconds=lag)) if lag else None
        return query.View(
            instance_id,
            as_of,
            sorted(hidden),
            page_default=self._rules.page_default,
            in_max=self._rules.in_max,
            other_filters_ignored=self._rules.other_filters_ignored,
        )

    # -- The shop's side ---------------------------------------------------------------------------

    def owned(self, kind: str, id_: str, instance_id: str) -> Document:
        """A contact, product, order or receipt of an instance. Raises Refused (404)."""
        return self._owned(kind, id_, instance_id)

    def owned_by(self, kind: str, instance_id: str, offset: int, limit: int) -> tuple[list[Document], int]:
        """Contacts or products of an instance, oldest first, and how many there are in all."""
        found = self._documents.find(kind, {"instance": instance_id}, limit=offset + limit)
        return found[offset:], self._documents.count(kind, {"instance": instance_id})

    def order_answer(self, instance_id: str, order_id: str) -> Entity:
        """An order as the eCommerce API shows it."""
        return shown_order(self._owned("order", order_id, instance_id))

    def newest_orders(self, instance_id: str, limit: int) -> list[Entity]:
        """The instance's orders as the eCommerce API shows them, the newest first."""
        found = self._documents.find("order", {"instance": instance_id}, newest_first=True, limit=limit)
        return [shown_order(one) for one in found]

    def transactions(self, instance_id: str, order_id: str) -> Entity:
        """An order's payments and refunds (Wix docs, "Order Transactions"): the only place refunds show."""
        order = self._owned("order", order_id, instance_id)
        return {
            "orderId": order_id,
            "payments": [_shown_payment(one) for one in order["payments"]],
            "refunds": [
                {
                    "id": one["id"],
                    "createdDate": one["createdDate"],
                    "transactions": [
                        {
                            "paymentId": one["paymentId"],
                            "amount": {"amount": one["amount"]},
                            "refundStatus": one["refundStatus"],
                        }
                    ],
                }
                for one in order["refunds"]
            ],
        }

    # -- The truth ---------------------------------------------------------------------------------

    def truth(self, instance_id: str | None = None) -> Iterator[Document]:
        """What really happened, instance by instance, whatever was delivered or is shown."""
        for instance in self._instances(instance_id):
            with self._documents.transaction():
                self.expire_due()
                id_ = instance["instanceId"]
                links = self._documents.find("link", {"instance": id_}, limit=TRUTH_MAX)
                payments = self._documents.find("payment", {"instance": id_}, limit=TRUTH_MAX)
                wrong = self._faults.of_read("wrong_total")
            yield {
                **self._summary(instance),
                "links": [_true_link(link, wrong) for link in links],
                "payments": [_true_payment(payment) for payment in payments],
            }

    def summary(self, instance_id: str | None = None) -> list[Document]:
        """The truth in counts, and sums per currency."""
        return [self._summary(instance) for instance in self._instances(instance_id)]

    def _instances(self, instance_id: str | None) -> list[Document]:
        return self._documents.all("instance") if instance_id is None else [self.instance(instance_id)]

    def _summary(self, instance: Document) -> Document:
        id_ = instance["instanceId"]
        sums = self._documents.rows(
            # In two parts: a sum of large amounts would be more than SQLite can hold.
            "SELECT currency, count(*), sum(thousandths / 1000), sum(thousandths % 1000)"
            " FROM payment WHERE instance = ? GROUP BY 1 ORDER BY 1",
            (id_,),
        )
        return {
            "instanceId": id_,
            "isRemoved": instance["isRemoved"],
            "linkCount": self._documents.count("link", {"instance": id_}),
            "paymentCount": sum(count for _, count, _, _ in sums),
            "received": {
                currency: money(units + thousandths / _THOUSAND, currency)
                for currency, _, units, thousandths in sums
            },
        }


def _newest(limit: int, cursor: str | None, filter_: Entity) -> Entity:
    """The body of a Query for the first page, or for that of the cursor, which holds the filter."""
    if cursor is not None:
        return {"query": {"cursorPaging": {"limit": limit, "cursor": cursor}}}
    return {"query": {"filter": filter_, "cursorPaging": {"limit": limit}}}


def _planted_total(entity: Entity, faults: Sequence[Document]) -> Entity:
    for fault in faults:
        if fault["linkId"] == entity["id"]:
            amount = Decimal(entity["totalReceived"]["amount"]) + Decimal(fault["by"])
            total = {**entity["totalReceived"], "amount": money(amount, entity["currency"])}
            entity = {**entity, "totalReceived": total}
    return entity


def _true_link(link: Document, faults: Sequence[Document]) -> Document:
    entity = link["entity"]
    return {
        "id": link["id"],
        "title": entity["title"],
        "currency": entity["currency"],
        "status": entity["status"],
        "received": entity["totalReceived"],
        "shown": _planted_total(entity, faults)["totalReceived"],
    }


def _true_payment(payment: Document) -> Document:
    entity = payment["entity"]
    return {
        "id": payment["id"],
        "paymentLinkId": payment["linkId"],
        "orderId": payment["orderId"],
        "amount": entity["amount"],
        "currency": currency_of(entity),
        "refunded": payment.get("refunded", money(Decimal(0), currency_of(entity))),
        "revision": entity["revision"],
        "type": entity["type"],
    }


def _shown_payment(payment: Document) -> Entity:
    common = {
        "id": payment["paymentId"],
        "paymentId": payment["paymentId"],
        "createdDate": payment["createdDate"],
        "amount": {"amount": payment["amount"]},
        "refundDisabled": False,
    }
    if payment["tender"] == "GIFT_CARD":
        details = {"giftCardPaymentId": payment["paymentId"], "voided": payment["status"] == "VOIDED"}
        return {**common, "giftcardPaymentDetails": details}
    details = {
        "gatewayTransactionId": payment["paymentId"],
        "paymentMethod": "CreditCard" if payment["tender"] == "CARD" else "Offline",
        "status": payment["status"],
        "offlinePayment": payment["tender"] == "OFFLINE",
    }
    return {**common, "regularPaymentDetails": details}
