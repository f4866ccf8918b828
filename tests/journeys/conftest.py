from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from processor import embedded
from processor.config import database_url as sqlalchemy_url
from processor.errors import StoreUnavailable
from processor.processes import wait_until
from processor.store.database import Database, open_database
from processor.system import System
from processor.wix import wire
from processor.wix.client import WixClient
from processor.wix.credentials import OAuthCredentials
from tests.conftest import a_database, migrated_template

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
            try:
                last = self.system.differences(self.database)
            except StoreUnavailable as why:  # a connection of ours from before a restart
                last = [str(why)]
            return not last

        try:
            wait_until(is_equal, what="the books", seconds=SECONDS)
        except BaseException as why:
            logs = "\n".join(f"--- {child.name}\n{child.tail(30)}" for child in self.system.children)
            raise AssertionError(f"books differ: {last}\n{logs}") from why

    def count(self, sql: str) -> int:
        """The number a statement returns; `:site` in it is this journey's app instance."""
        given = {"site": self.instance_id} if ":site" in sql else {}
        with self.database.begin() as connection:
            return int(connection.execute(text(sql), given).scalar_one())

    def break_(self, kind: str, **more: object) -> None:
        """Switch a fault on, for this journey's site alone."""
        self.control.post("faults", {"kind": kind, "instanceId": str(self.instance_id), **more})

    def close(self) -> None:
        self.client.close()

    def end(self) -> None:
        """End what the test broke, and prove that everything goes on.

        The site stays, since a late resend must find it: the books of later tests are judged with it.
        """
        self.control.delete("faults")
        self.control.post("deliveries/flush")
        self.control.post("deliveries/idle")
        prove_health(self.system)
        self.await_books()


def prove_health(system: System) -> None:
    """That every process runs, webhooks can be stored, and Wix does nothing but what it should."""
    assert [child.name for child in system.children if not child.is_running] == []
    system.await_web()
    assert system.control.get("faults") == {"faults": []}


@dataclass
class Stage:
    """The system of a module, started when it is first needed, and anew after a test that it did not survive."""

    servers: embedded.Servers
    _stack: ExitStack | None = None
    _system: System | None = None
    _database: Database | None = None

    @contextmanager
    def journey(self) -> Iterator[Journey]:
        """On a site of its own, of a system that was proven to be healthy before and is proven to be so afterwards."""
        self.servers.postgres.start()
        self.servers.valkey.start()
        if self._system is None:
            self._open()
        assert self._system is not None
        assert self._database is not None
        is_sound = False
        try:
            prove_health(self._system)
            built = Journey(self._system, self._database)
            try:
                yield built
                built.end()
            finally:
                built.close()
            is_sound = True
        finally:
            if not is_sound:
                self.close()

    def _open(self) -> None:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="processor-journey-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            admin_url = self.servers.postgres.url_of("postgres")
            migrated_template(admin_url, "template_ours")
            name = f"test_{secrets.token_hex(6)}"
            url = stack.enter_context(a_database(admin_url, name, template="template_ours"))
            # The database can only be removed where its server runs, which a test may have stopped.
            stack.callback(self.servers.postgres.start)
            self._database = open_database(
                sqlalchemy_url(url), name="test", pool_size=2, pool_seconds=10, statement_seconds=30
            )
            stack.callback(self._database.dispose)
            self._system = stack.enter_context(
                System(
                    folder,
                    database_url=url,
                    redis_url=self.servers.redis_url,
                    environ=os.environ,
                    # Two days of resends take five minutes: a server that starts slowly meets the next one all the
                    # same.
                    sandbox_options=("--time-scale", "600", "--calls-per-minute", "100000"),
                )
            )
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Stop what there is."""
        self._system = self._database = None
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()


@pytest.fixture(scope="module")
def stage(durable_servers: embedded.Servers) -> Iterator[Stage]:
    made = Stage(durable_servers)
    yield made
    made.close()
    durable_servers.postgres.start()
    durable_servers.valkey.start()


@pytest.fixture
def journey(stage: Stage) -> Iterator[Journey]:
    """Everything running, the app installed on a site of this test alone."""
    with stage.journey() as running:
        yield running
