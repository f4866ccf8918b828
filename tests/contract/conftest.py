from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from processor import wiring
from processor.config import Settings
from processor.web import create_app
from processor.wiring import Services
from processor.wix.client import WixClient
from tests import builders
from tests.contract.ours import a_client, a_client_of
from tests.sandbox.wixlike import Receiver, Site, a_receiver, a_site
from tests.wix.scripted import Scripted, scripted_server


@pytest.fixture
def wix() -> Iterator[Scripted]:
    """A server that answers as a test has written down."""
    with scripted_server() as scripted:
        yield scripted


@pytest.fixture
def client(wix: Scripted) -> Iterator[WixClient]:
    """Our client of that server."""
    with a_client(wix.base_url) as ours:
        yield ours


def ticking() -> Callable[[], datetime]:
    """A clock that begins at the builders' moment."""
    began = time.monotonic()
    return lambda: builders.NOW + timedelta(seconds=time.monotonic() - began)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A pretend Wix, seen as a stranger sees it. Its day is that of the builders, whatever day it is."""
    with a_site(calls_per_minute=100_000, time_scale=6_000, now=ticking()) as running:
        yield running


@pytest.fixture
def receiver(site: Site) -> Iterator[Receiver]:
    """Where that site's webhooks go; afterwards nowhere, so that no resend reaches the next test."""
    with a_receiver(site) as running:
        yield running
        site.control("webhook", {"url": None}, "PUT")


@pytest.fixture
def our_client(site: Site) -> Iterator[tuple[WixClient, UUID]]:
    """Our client of that site."""
    with a_client_of(site) as ours:
        yield ours


@dataclass
class Endpoint:
    """Our webhook endpoint, and what it stored."""

    http: FlaskClient
    services: Services

    def post(self, body: bytes | str, headers: dict[str, str] | None = None) -> int:
        return self.http.post("/webhooks/wix", data=body, headers=headers or {}).status_code

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.services.database.begin() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values).all()]


Open = Callable[..., Endpoint]


@pytest.fixture
def open_endpoint(database_url: str) -> Iterator[Open]:
    """Opens the endpoint with these settings; its keys are those of the builders unless given."""
    with ExitStack() as stack:

        def build(**settings: str) -> Endpoint:
            environ = {"DATABASE_URL": database_url, "WIX_PUBLIC_KEYS": builders.public_pem(), **settings}
            services = wiring.build(Settings.read(environ), role="web", now=lambda: builders.NOW)
            stack.callback(services.close)
            app = create_app(services)
            stack.callback(app.extensions["intake"].close)
            return Endpoint(app.test_client(), services)

        yield build


@pytest.fixture
def endpoint(open_endpoint: Open) -> Endpoint:
    """The endpoint of an instance that is known."""
    opened = open_endpoint()
    assert opened.post(builders.sign(builders.app_claims("AppInstalled"))) == 200
    return opened
