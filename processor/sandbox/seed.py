"""A past of any size for the pretend Wix: links, orders and payments from a seed, in bounded memory.

Nothing of it is told by webhook: it is what a service finds when it is installed on a site that has traded
for years.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from processor.sandbox.checkout import order_payment
from processor.sandbox.core import money, timestamp
from processor.sandbox.documents import Document, microseconds
from processor.sandbox.events import Entity
from processor.sandbox.server import Sandbox
from processor.sandbox.sites import NAMES, email_of

BATCH = 5_000  # payments written in one transaction
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "KWD")
_PRICES = ("4.00", "12.00", "24.00", "49.50", "180.00", "999.99")


@dataclass(frozen=True, slots=True)
class Volume:
    """How much there is to be, in all. days: how far back it goes."""

    payments: int
    links: int
    sites: int
    days: int


def load(sandbox: Sandbox, volume: Volume, seed: int, sites: Sequence[str] = ()) -> Iterator[int]:
    """Write it, a batch at a time; yields the number of payments just written.

    sites: app instances to fill, none for as many new ones as the volume says.
    """
    chance = random.Random(seed)
    now = datetime.now(UTC)
    app_id = (sandbox.documents.get("app", "app") or {})["appId"]
    sites = sites or [
        sandbox.world.install({"instanceId": str(_guid(chance)), "siteId": str(_guid(chance))})["instanceId"]
        for _ in range(volume.sites)
    ]
    links_left, payments_left = volume.links, volume.payments
    batch: dict[str, list[tuple[str, Document]]] = {"link": [], "payment": [], "order": []}
    while links_left:
        count = payments_left // links_left
        born = now - timedelta(seconds=chance.uniform(0.2, 1.0) * volume.days * 86_400)
        link = _link(chance, sites[links_left % len(sites)], app_id, sandbox.url, born)
        gap = (now - born) / (count + 1)
        price = Decimal(link["entity"]["ecomPaymentLink"]["lineItems"][0]["customItem"]["price"])
        for number in range(1, count + 1):
            payment, order = _payment(chance, link, price, born + gap * number)
            batch["payment"].append((payment["id"], payment))
            batch["order"].append((order["id"], order))
            if len(batch["payment"]) == BATCH:
                yield _write(sandbox, batch)
        if count:
            last = timestamp(born + gap * count)
            received = {"paymentCount": count, "amount": money(price * count, link["entity"]["currency"])}
            link["entity"] |= {
                "totalReceived": received,
                "lastPaymentDate": last,
                "updatedDate": last,
                "revision": str(count + 1),
            }
            link |= {"purchases": count, "changed": microseconds(last)}
        batch["link"].append((link["id"], link))
        links_left -= 1
        payments_left -= count
    yield _write(sandbox, batch)


def _write(sandbox: Sandbox, batch: dict[str, list[tuple[str, Document]]]) -> int:
    written = len(batch["payment"])
    with sandbox.documents.transaction():
        for kind, rows in batch.items():
            sandbox.documents.put_many(kind, rows)
            rows.clear()
    return written


def _guid(chance: random.Random) -> UUID:
    return UUID(int=chance.getrandbits(128), version=4)


def _link(chance: random.Random, instance_id: str, app_id: str, base_url: str, born: datetime) -> Document:
    id_, currency, at = str(_guid(chance)), chance.choice(CURRENCIES), timestamp(born)
    price = money(Decimal(chance.choice(_PRICES)), currency)
    item = {"type": "CUSTOM", "customItem": {"name": "Item", "quantity": 1, "price": price}}
    path = f"/_paylink/{id_}"
    entity: Entity = {
        "id": id_,
        "revision": "1",
        "createdDate": at,
        "updatedDate": at,
        "title": f"Link {id_[:8]}",
        "currency": currency,
        "type": "ECOM",
        "status": "ACTIVE",
        "ecomPaymentLink": {"lineItems": [item]},
        "totalReceived": {"paymentCount": 0, "amount": money(Decimal(0), currency)},
        "links": {"url": {"url": f"{base_url}{path}", "base": base_url, "path": path}},
        "source": {"appId": app_id},
    }
    return {
        "id": id_,
        "instanceId": instance_id,
        "sequence": 1,
        "purchases": 0,
        "changed": microseconds(born),
        "entity": entity,
    }


def _payment(
    chance: random.Random, link: Document, price: Decimal, paid: datetime
) -> tuple[Document, Document]:
    id_, order_id, at = str(_guid(chance)), str(_guid(chance)), timestamp(paid)
    currency, name = link["entity"]["currency"], chance.choice(NAMES)
    amount = money(price, currency)
    first, _, last = name.partition(" ")
    entity: Entity = {
        "id": id_,
        "revision": "1",
        "createdDate": at,
        "transactionDate": at,
        "amount": amount,
        "currency": currency,
        "paymentLinkId": link["id"],
        "type": "REGULAR",
        "ecomCheckout": {"ecomCheckoutId": str(_guid(chance))},
        "regularPaymentLinkPayment": {
            "method": "CREDIT_CARD",
            "paymentMethod": "creditCard",
            "paymentProvider": "Credit/Debit Cards",
            "contactDetails": {
                "firstName": first,
                "lastName": last,
                "fullName": name,
                "email": email_of(name),
            },
            "order": {"type": "ECOM", "ecomOrder": {"ecomOrderId": order_id}},
        },
    }
    payment = {
        "id": id_,
        "instanceId": link["instanceId"],
        "linkId": link["id"],
        "orderId": order_id,
        "sequence": 1,
        "changed": microseconds(paid),
        "entity": entity,
    }
    order = {
        "id": order_id,
        "instanceId": link["instanceId"],
        "createdDate": at,
        "currency": currency,
        "total": amount,
        "paid": amount,
        "refunded": money(Decimal(0), currency),
        "paymentStatus": "PAID",
        "payments": [order_payment(id_, "CARD", amount, at)],
        "refunds": [],
    }
    return payment, order
