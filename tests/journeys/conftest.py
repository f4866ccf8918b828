from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from processor import embedded
from processor.config import database_url as sqlalchemy_url
from processor.processes import wait_until
from processor.store.database import Database, open_database
from processor.system import System
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.credentials import OAuthCredentials

SECONDS = 60.0


class Journey:
    """A whole system, a site owner's client, and waiting for the books to equal the truth."""

    def __init__(self, system: System, database: Database) -> None:
        self.system = system
        self.control = system.control
        self.database = database
        self.instance_id = system.install()
        self.client = WixClient(
            base_url=system.control.base_url,
            credentials=OAuthCredentials(
                app_id=system.settings["WIX_APP_ID"],
                app_secret=system.settings["WIX_APP_SECRET"],
                base_url=system.control.base_url,
                timeout_seconds=10,
                on_response=lambda operation, status: None,
            ),
            timeout_seconds=10,
            on_response=lambda operation, status: None,
        )

    def link(self, price: str = "10.00", currency: str = "USD") -> UUID:
        item = wire.CustomItem(name="thing", quantity=1, price=price)
        new = wire.NewPaymentLink(
            title="thing",
            currency=currency,
            type="ECOM",
            ecom_payment_link=wire.EcomPaymentLink([wire.LineItem(type="CUSTOM", custom_item=item)]),
        )
        return UUID(str(self.client.create_link(self.instance_id, new).id))

    def pay(self, link_id: UUID, times: int = 1) -> None:
        for _ in range(times):
            self.control.post(f"links/{link_id}/pay")

    def trade(self, links: int = 3, times: int = 2) -> None:
        """Several links, each paid several times."""
        for number in range(links):
            self.pay(self.link(*[("10.00", "USD"), ("1.234", "KWD"), ("500", "JPY")][number % 3]), times)

    def await_books(self) -> None:
        """Return once the books equal what happened, to the last payment."""
        last: list[str] = []

        def is_equal() -> bool:
            nonlocal last
            last = self.system.differences(self.database)
            return not last

        try:
            wait_until(is_equal, what="the books", seconds=SECONDS)
        except BaseException as why:
            logs = "\n".join(f"--- {child.name}\n{child.tail(30)}" for child in self.system.children)
            raise AssertionError(f"books differ: {last}\n{logs}") from why

    def count(self, sql: str) -> int:
        """The number a statement returns."""
        with self.database.begin() as connection:
            return int(connection.exec_driver_sql(sql).scalar_one())

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def journey(
    durable_servers: embedded.Servers, durable_database_url: str, request: pytest.FixtureRequest
) -> Iterator[Journey]:
    """Everything running, the app installed on a site. Parameters are settings of the service."""
    folder = Path(tempfile.mkdtemp(prefix="processor-journey-"))
    database = open_database(
        sqlalchemy_url(durable_database_url), name="test", pool_size=2, pool_seconds=10, statement_seconds=30
    )
    system = System(
        folder,
        database_url=durable_database_url,
        redis_url=durable_servers.redis_url,
        environ=os.environ,
        settings=getattr(request, "param", {}),
        # Two days of resends take five minutes: a server that starts slowly meets the next one all the same.
        sandbox_options=("--time-scale", "600", "--calls-per-minute", "100000"),
    )
    try:
        with system:
            built = Journey(system, database)
            yield built
            built.close()
    finally:
        database.dispose()
        durable_servers.postgres.start()
        durable_servers.valkey.start()
        shutil.rmtree(folder, ignore_errors=True)
