"""The pretend Wix's payment links: the methods of the Payment Links API but querying, and their preconditions.

Sources: the reference pages of the Payment Links API and Wix's recipe "Create Payment Links". Codes that Wix
does not document begin with SANDBOX_.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from processor.sandbox.core import (
    AMOUNT_MAX,
    as_list,
    as_model,
    as_money,
    as_object,
    as_part,
    as_text,
    is_after,
    is_currency,
    money,
    timestamp,
)
from processor.sandbox.documents import Document, microseconds
from processor.sandbox.errors import Refused, Violation, failed, invalid, not_found
from processor.sandbox.events import Entity
from processor.sandbox.sites import Sites
from processor.wix import wire

TITLE_MAX, RECIPIENTS_MAX, QUANTITY_MAX, NOTE_MAX = 200, 50, 100_000, 500
DESCRIPTION_MAX, ITEM_DESCRIPTION_MAX = 500, 600
BULK_MAX = 100
TAG_MAX = 100
PAYMENTS_LIMIT_MAX = 2**31 - 1  # Wix does not say; its integers are of 32 bits
NO_LIMIT = 1 << 62


TAG_LISTS = ("privateTags", "tags")
TagChange = tuple[dict[str, list[str]], dict[str, list[str]]]
"""Tag ids to assign and to unassign, by list."""

SITE_FLAGS = (
    ("isPublished", "UNPUBLISHED_SITE", "the site is not published"),
    ("acceptsPayments", "MISSING_ACCEPT_PAYMENTS", "the site cannot accept payments"),
    ("hasEcom", "FAILED_TO_INSTALL_ECOM", "Wix eCommerce could not be installed on the site"),
)
"""What a site must be, and Wix's code when it is not (Wix's recipe "Create Payment Links")."""


class Links(Sites):
    """Every method that changes something is one transaction and sends the events that follow from it."""

    def create_link(self, instance_id: str, given: Any) -> Entity:
        """Create Payment Link. Raises Refused."""
        told = as_model(as_object(given, "").get("paymentLink"), wire.NewPaymentLink, "paymentLink")
        title = "".join(letter for letter in told.title if letter.isprintable()).strip()
        wrong: list[Violation] = []
        if not title or len(told.title) > TITLE_MAX:
            wrong.append(Violation("paymentLink.title", f"must have 1 to {TITLE_MAX} characters"))
        if not is_currency(told.currency):
            wrong.append(Violation("paymentLink.currency", "must be an ISO 4217 code", "FORMAT"))
        if told.description is not None and len(told.description) > DESCRIPTION_MAX:
            wrong.append(
                Violation(
                    "paymentLink.description", f"has more than {DESCRIPTION_MAX} characters", "MAX_LENGTH"
                )
            )
        if told.expiration_date is not None and not is_after(told.expiration_date, self._now()):
            wrong.append(
                Violation("paymentLink.expirationDate", "must lie in the future and have a time zone")
            )
        if told.payments_limit is not None and not 1 <= told.payments_limit <= PAYMENTS_LIMIT_MAX:
            wrong.append(Violation("paymentLink.paymentsLimit", f"must be from 1 to {PAYMENTS_LIMIT_MAX}"))
        if wrong:
            raise invalid(*wrong)
        with self._documents.transaction():
            self._refuse_unready_site(instance_id)
            id_ = str(self._new_id())
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
            entity |= self._what_is_paid(instance_id, told)
            if told.recipients:
                entity["recipients"] = self._recipients(
                    instance_id, msgspec.to_builtins(told.recipients), "paymentLink.recipients"
                )
            link = {"id": id_, "instanceId": instance_id, "sequence": 0, "purchases": 0}
            self._save("link", link, entity)
            self._emit_link(link, "created")
            return entity

    def _what_is_paid(self, instance_id: str, told: wire.NewPaymentLink) -> Entity:
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
        total = Decimal(0)
        for number, item in enumerate(ecom.line_items):
            place = f"{where}[{number}]"
            match item.type, item.custom_item, item.catalog_item:
                case "CUSTOM", wire.CustomItem() as custom, None:
                    where_quantity = f"{place}.customItem.quantity"
                    quantity = custom.quantity
                    if len(custom.description or "") > ITEM_DESCRIPTION_MAX:
                        too_long = f"has more than {ITEM_DESCRIPTION_MAX} characters"
                        raise invalid(Violation(f"{place}.customItem.description", too_long, "MAX_LENGTH"))
                    price = as_money(custom.price, currency, f"{place}.customItem.price")
                    as_text(custom.name, f"{place}.customItem.name", TITLE_MAX)
                case "CATALOG", None, wire.CatalogItem() as catalog:
                    where_quantity = f"{place}.catalogItem.quantity"
                    quantity = catalog.quantity
                    product = self._catalog_product(instance_id, catalog.catalog_reference, currency)
                    price = Decimal(product["price"])
                case _:
                    raise invalid(
                        Violation(f"{place}.type", "must be CUSTOM or CATALOG, and agree with the item sent")
                    )
            if not 1 <= quantity <= QUANTITY_MAX:
                raise invalid(Violation(where_quantity, f"must be from 1 to {QUANTITY_MAX}"))
            total += quantity * price
        if total > AMOUNT_MAX:
            raise invalid(Violation(where, f"cost more than a payment can be, {AMOUNT_MAX:f}", "MAX"))
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
            raise self._refused("SANDBOX_CURRENCY_MISMATCH", f"the item is priced in {product['currency']}")
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
            raise self._refused("SANDBOX_CURRENCY_MISMATCH", f"the order is in {held['currency']}")
        balance = Decimal(held["total"]) - Decimal(held["paid"])
        amount = balance
        if order.amount is not None:
            amount = as_money(order.amount, told.currency, "paymentLink.ecomOrderPaymentLink.amount")
        if not 0 < amount <= balance:
            raise self._refused("SANDBOX_AMOUNT_EXCEEDS_BALANCE", f"the order's balance is {balance}")
        return {
            "paymentsLimit": 1,
            "ecomOrderPaymentLink": {"orderId": order.order_id, "amount": money(amount, told.currency)},
        }

    def _recipients(self, instance_id: str, given: Any, where: str) -> list[Entity]:
        recipients = as_list(given, where, RECIPIENTS_MAX)
        for number, one in enumerate(recipients):
            recipient = as_object(one, f"{where}[{number}]")
            contact = self._documents.get("contact", str(recipient.get("contactId")))
            if contact is None or contact["instanceId"] != instance_id:
                raise failed(404, "RECIPIENT_NOT_FOUND", "a recipient is not a contact of the site")
            if recipient.get("sendMethods", []) not in ([], ["EMAIL_METHOD"]):
                raise invalid(
                    Violation(f"{where}[{number}].sendMethods", "EMAIL_METHOD is the only known one", "ENUM")
                )
        return recipients

    def _share_links(self, link_id: str) -> Entity:
        base, path = self._base_url(), f"/_paylink/{link_id}"
        return {"url": {"url": f"{base}{path}", "base": base, "path": path}}

    def _refuse_unready_site(self, instance_id: str) -> None:
        """The preconditions of creating a link that Wix documents by code."""
        site = self.instance(instance_id)
        for flag, code, why in SITE_FLAGS:
            if not site.get(flag, True):
                raise self._refused(code, why)

    # -- One link ----------------------------------------------------------------------------------

    def link(self, instance_id: str, link_id: str) -> Document:
        """A link as it is now, its expiry noticed. Raises Refused (404)."""
        with self._documents.transaction():
            link = self._documents.get("link", link_id)
            hidden = {fault["linkId"] for fault in self._faults.of_read("link_deleted")}
            if link is None or link["instanceId"] != instance_id or link_id in hidden:
                raise not_found("payment link", link_id)
            return self._with_expiry(link)

    def any_link(self, link_id: str) -> Document:
        """A link of whichever site, for pages and the control API. Raises Refused (404)."""
        with self._documents.transaction():
            return self._with_expiry(self._found("link", link_id))

    def _with_expiry(self, link: Document) -> Document:
        expires = link["entity"].get("expirationDate")
        is_open = link["entity"]["status"] in ("ACTIVE", "INACTIVE")
        if expires and is_open and datetime.fromisoformat(expires) <= self._now():
            self._change_link(link, {"status": "EXPIRED"}, self._payment_slug())
        return link

    def _payment_slug(self) -> str | None:
        """How a link's own event tells that it was paid or expired, None when none does."""
        return "updated" if self._rules.link_tells_of_payments else None

    def expire_due(self) -> None:
        """Notice every expiry that has come."""
        with self._documents.transaction():
            due = self._documents.rows(
                "SELECT id FROM link WHERE expires <= ? AND status IN ('ACTIVE', 'INACTIVE')",
                (microseconds(self._now()),),
            )
            for (link_id,) in due:
                self._with_expiry(self._found("link", link_id))

    def expire(self, link_id: str) -> Entity:
        """Let a link's validity end now."""
        with self._documents.transaction():
            link = self.any_link(link_id)
            if link["entity"]["status"] not in ("ACTIVE", "INACTIVE"):
                raise self._refused("SANDBOX_INVALID_STATUS", f"the link is {link['entity']['status']}")
            return self._change_link(
                link, {"expirationDate": self._time(), "status": "EXPIRED"}, self._payment_slug()
            )

    def delete_link(self, instance_id: str, link_id: str) -> None:
        """Delete Payment Link: only while nothing was paid."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            if link["purchases"]:
                raise self._refused("SANDBOX_LINK_HAS_PAYMENTS", "a link that received a payment stays")
            self._emit_link(link, "deleted")
            self._documents.remove("link", link_id)

    def set_active(self, instance_id: str, link_id: str, *, is_active: bool) -> Entity:
        """Activate or deactivate. Only ACTIVE and INACTIVE links change."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            if link["entity"]["status"] not in ("ACTIVE", "INACTIVE"):
                raise self._refused("SANDBOX_INVALID_STATUS", f"the link is {link['entity']['status']}")
            status, slug = ("ACTIVE", "activated") if is_active else ("INACTIVE", "deactivated")
            return self._change_link(link, {"status": status}, slug)

    def set_note(self, instance_id: str, link_id: str, given: Any) -> Entity:
        """Set the merchant's own note on a link."""
        note = as_object(as_object(given, "").get("note"), "note")
        text = as_text(note.get("text"), "note.text", NOTE_MAX)
        with self._documents.transaction():
            return self._change_link(self.link(instance_id, link_id), {"note": {"text": text}}, "note_set")

    def send_link(self, instance_id: str, link_id: str, given: Any) -> None:
        """Send to contacts: those given, else those of the link's creation. Noted, not mailed."""
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            given = as_object(given, "")
            if given.get("paymentLinkId", link_id) != link_id:
                raise invalid(Violation("paymentLinkId", "is not the link of the path"))
            asked = given.get("recipients")
            if asked in (None, []):
                asked = link["entity"].get("recipients")
            for recipient in self._recipients(instance_id, asked, "recipients"):
                id_ = str(self._new_id())
                mail = {"id": id_, "instanceId": instance_id, "linkId": link_id, "at": self._time()}
                self._documents.put("mail", id_, {**mail, "contactId": recipient["contactId"]})
            self._emit_link(link, "sent")

    def update_extended_fields(self, instance_id: str, link_id: str, given: Any) -> Entity:
        """Put data of an app beside a link's own."""
        given = as_object(given, "")
        namespace = as_text(given.get("namespace"), "namespace", 100)
        data = as_object(given.get("namespaceData"), "namespaceData")
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            known = link["entity"].get("extendedFields", {}).get("namespaces", {})
            fields = {"namespaces": {**known, namespace: data}}
            return self._change_link(link, {"extendedFields": fields}, "updated")

    def update_tags(self, instance_id: str, given: Any) -> Document:
        """Bulk Update Tags: each link by itself, and what became of it."""
        given = as_object(given, "")
        link_ids = as_list(given.get("paymentLinkIds"), "paymentLinkIds", BULK_MAX)
        for number, link_id in enumerate(link_ids):
            as_text(link_id, f"paymentLinkIds[{number}]", 100)
        change = _tag_change(given)
        results = []
        for number, link_id in enumerate(link_ids):
            told: Document = {"id": link_id, "originalIndex": number, "success": True}
            try:
                self._tag(instance_id, link_id, change)
            except Refused as why:
                told |= {"success": False, "error": why.body["details"]["applicationError"]}
            results.append({"itemMetadata": told})
        failures = sum(not one["itemMetadata"]["success"] for one in results)
        return {
            "results": results,
            "bulkActionMetadata": {
                "totalSuccesses": len(results) - failures,
                "totalFailures": failures,
                "undetailedFailures": 0,
            },
        }

    def update_tags_of(self, instance_id: str, link_ids: Sequence[str], given: Any) -> Document:
        """Bulk Update Tags By Filter, once the links are known. The job is done when this returns."""
        change = _tag_change(as_object(given, ""))
        with self._documents.transaction():
            for link_id in link_ids:
                self._tag(instance_id, link_id, change)
        return {"jobId": str(self._new_id())}

    def _tag(self, instance_id: str, link_id: str, change: TagChange) -> None:
        with self._documents.transaction():
            link = self.link(instance_id, link_id)
            known = link["entity"].get("tags", {})
            tags = {}
            for name in TAG_LISTS:
                held = [one for one in known.get(name, {}).get("tagIds", []) if one not in change[1][name]]
                held += [one for one in change[0][name] if one not in held]
                if len(held) > TAG_MAX:
                    raise failed(400, "SANDBOX_TOO_MANY_TAGS", f"a link has at most {TAG_MAX} of {name}")
                tags[name] = {"tagIds": held}
            self._change_link(link, {"tags": tags}, "updated")


def _tag_change(given: Document) -> TagChange:
    def read(name: str) -> dict[str, list[str]]:
        tags = as_part(given.get(name), name)
        if unknown := set(tags) - set(TAG_LISTS):
            raise invalid(Violation(f"{name}.{min(unknown)}", f"is not one of {', '.join(TAG_LISTS)}"))
        found = {}
        for one in TAG_LISTS:
            where = f"{name}.{one}"
            ids = as_part(tags.get(one), where).get("tagIds")
            ids = [] if ids is None else as_list(ids, f"{where}.tagIds", TAG_MAX, 0)
            found[one] = [as_text(id_, f"{where}.tagIds[{n}]", 100) for n, id_ in enumerate(ids)]
        return found

    change = read("assignTags"), read("unassignTags")
    if not any(ids for tags in change for ids in tags.values()):
        raise invalid(Violation("assignTags", "or unassignTags must name a tag", "REQUIRED_FIELD"))
    return change
