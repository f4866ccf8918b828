"""Our half, as these tests meet it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.credentials import ApiKeyCredentials, OAuthCredentials
from tests.builders import INSTANCE
from tests.sandbox.wixlike import Site


@contextmanager
def a_client(base_url: str, **credentials: Any) -> Iterator[WixClient]:
    """A client of ours: with an API key, or with app_id and app_secret."""
    common: dict[str, Any] = {
        "base_url": base_url,
        "timeout_seconds": 5,
        "on_response": lambda operation, status: None,
    }
    signed_in = (
        OAuthCredentials(**common, **credentials)
        if credentials
        else ApiKeyCredentials(api_key="key", site_id="site", instance_id=INSTANCE)
    )
    client = WixClient(credentials=signed_in, **common)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def a_client_of(site: Site) -> Iterator[tuple[WixClient, UUID]]:
    """A client of ours that calls a pretend Wix, and the instance it speaks for."""
    app = site.http.get("/_sandbox/app").json()
    with a_client(site.sandbox.url, app_id=app["appId"], app_secret=app["appSecret"]) as client:
        yield client, UUID(site.instance["instanceId"])


def new(**more: Any) -> wire.NewPaymentLink:
    """A link for one thing of 10.00 USD, unless told otherwise."""
    item = wire.LineItem("CUSTOM", wire.CustomItem(name="Tea", quantity=1, price="10.00"))
    values: dict[str, Any] = {
        "title": "Tea",
        "currency": "USD",
        "type": "ECOM",
        "ecom_payment_link": wire.EcomPaymentLink([item]),
        **more,
    }
    return wire.NewPaymentLink(**values)


def create(client: WixClient, instance_id: UUID, link: wire.NewPaymentLink) -> wire.PaymentLink:
    """Create a link and read it."""
    made = client.create_link(instance_id, link)
    assert isinstance(made, wire.PaymentLink)
    return made
