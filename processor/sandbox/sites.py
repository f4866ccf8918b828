"""The pretend Wix's sites: installations of the app, and what a site has that links refer to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

from processor.sandbox import events
from processor.sandbox.core import (
    Core,
    as_currency,
    as_flag,
    as_guid,
    as_money,
    as_object,
    as_text,
    money,
)
from processor.sandbox.documents import Document
from processor.sandbox.errors import Violation, failed, invalid

# For test data only; nobody lives there.
NAMES = ("Ada Byron", "Grace Murray", "Emmy Nathan", "Lise Philipp", "Mary Anning", "Rosa Parks")
SHOWN_MAX = 100
FLAGS = ("isPublished", "acceptsPayments", "hasEcom", "hasPermission")
"""What may be taken from a site; all of it is there unless switched off."""


def email_of(name: str) -> str:
    """An address that leads nowhere."""
    return f"{name.lower().replace(' ', '.')}@example.com"


class Sites(Core):
    """Installing and removing the app; contacts, products and orders."""

    def install(self, given: Any) -> Document:
        """Install the app on a new site with contacts, products and an open order, or again on one it was on.

        `originInstanceId`: of the site that the new one was duplicated from.
        """
        given = as_object(given, "")
        ids = {
            name: str(self._new_id()) if given.get(name) is None else as_guid(given[name], name)
            for name in ("instanceId", "siteId", "accountId")
        }
        origin = given.get("originInstanceId")
        if origin is not None:
            origin = as_guid(origin, "originInstanceId")
        with self._documents.transaction():
            existing = self._documents.get("instance", ids["instanceId"])
            if existing is not None and not existing["isRemoved"]:
                raise failed(409, "SANDBOX_INSTANCE_EXISTS", "the app is installed on that site already")
            instance: Document = existing or {
                **ids,
                "apiKey": f"IST.{uuid4().hex}",
                "createdDate": self._time(),
            }
            instance |= {"isRemoved": False, **dict.fromkeys(FLAGS, True)}
            self._documents.put("instance", instance["instanceId"], instance)
            if existing is None:
                for number in range(2):
                    self.add_contact(instance["instanceId"], {"name": NAMES[number]})
                self.add_product(instance["instanceId"], {"name": "Stoneware mug", "price": "24.00"})
                self.add_product(instance["instanceId"], {"name": "Linen apron", "price": "49.50"})
                self.add_order(instance["instanceId"], {"currency": "USD", "total": "180.00"})
            self._emit_app(instance, is_installation=True, origin=origin)
        return self.shown(instance)

    def remove(self, instance_id: str) -> None:
        """The site's owner removes the app: tokens end, and AppRemoved is sent."""
        with self._documents.transaction():
            instance = self.instance(instance_id)
            if instance["isRemoved"]:
                raise failed(409, "SANDBOX_INSTANCE_REMOVED", "the app was removed from that site already")
            instance["isRemoved"] = True
            self._documents.put("instance", instance_id, instance)
            self._emit_app(instance, is_installation=False)

    def change_site(self, instance_id: str, given: Any) -> Document:
        """Make a site unpublished, unable to take payments, without eCommerce, or the app without its permission."""
        given = as_object(given, "")
        if unknown := set(given) - set(FLAGS):
            raise invalid(Violation(min(unknown), f"is not one of {', '.join(FLAGS)}"))
        flags = {name: as_flag(value, name) for name, value in given.items()}
        with self._documents.transaction():
            instance = {**self.instance(instance_id), **flags}
            return self.shown(self._documents.put("instance", instance_id, instance))

    def shown(self, instance: Document) -> Document:
        """An installation with the ids of what its site has to sell, and to whom: the newest of each."""
        id_ = instance["instanceId"]

        def ids(kind: str, **equal: Any) -> list[str]:
            wanted = {"instance": id_, **equal}
            found = self._documents.find(kind, wanted, newest_first=True, limit=SHOWN_MAX)
            return [one["id"] for one in reversed(found)]

        return {
            **instance,
            "contactIds": ids("contact"),
            "productIds": ids("product"),
            "orderIds": ids("order", status="UNPAID"),
        }

    def add_contact(self, instance_id: str, given: Any) -> Document:
        """A contact to whom links can be sent."""
        given = as_object(given, "")
        name = as_text(given.get("name", self._random.choice(NAMES)), "name", 100)
        email = as_text(given.get("email", email_of(name)), "email", 100)
        return self._belongs("contact", {"instanceId": instance_id, "name": name, "email": email})

    def add_product(self, instance_id: str, given: Any) -> Document:
        """A Wix Stores product, priced in USD unless given otherwise."""
        given = as_object(given, "")
        currency = as_currency(given.get("currency", "USD"), "currency")
        price = money(as_money(given.get("price", "10.00"), currency, "price"), currency)
        name = as_text(given.get("name", "Product"), "name", 100)
        return self._belongs(
            "product", {"instanceId": instance_id, "name": name, "price": price, "currency": currency}
        )

    def add_order(self, instance_id: str, given: Any) -> Document:
        """An unpaid order of the site's eCommerce."""
        given = as_object(given, "")
        currency = as_currency(given.get("currency", "USD"), "currency")
        total = money(as_money(given.get("total", "100.00"), currency, "total"), currency)
        return self._new_order(instance_id, currency, total)

    def _new_order(self, instance_id: str, currency: str, total: str) -> Document:
        nothing = money(Decimal(0), currency)
        # Whoever made it: the site's first contact will do.
        buyer = self._documents.find("contact", {"instance": instance_id}, limit=1)
        return self._belongs(
            "order",
            {
                "instanceId": instance_id,
                "number": str(self._last_number(instance_id) + 1),
                "buyer": {name: buyer[0][name] for name in ("name", "email")} if buyer else None,
                "createdDate": self._time(),
                "currency": currency,
                "total": total,
                "paid": nothing,
                "refunded": nothing,
                "paymentStatus": "UNPAID",
                "payments": [],
                "refunds": [],
            },
        )

    def _last_number(self, instance_id: str) -> int:
        """Of the instance's orders, counted as shops do: from 10001 on."""
        newest = self._documents.find("order", {"instance": instance_id}, newest_first=True, limit=1)
        return int(newest[0].get("number", 10_000)) if newest else 10_000

    def _belongs(self, kind: str, document: Document) -> Document:
        with self._documents.transaction():
            self.instance(document["instanceId"])
            id_ = str(self._new_id())
            return self._documents.put(kind, id_, {"id": id_, **document})

    def _emit_app(self, instance: Document, *, is_installation: bool, origin: str | None = None) -> None:
        app_id = self._app()["appId"]
        self._send(
            events.app_event(
                instance,
                app_id=app_id,
                is_installation=is_installation,
                origin=origin,
                new_id=self._new_id,
            )
        )
