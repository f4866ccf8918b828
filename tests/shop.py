"""A shop on a sandbox, and our service beside it without its processes: for tests of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from processor import clock, jobs, wiring
from processor.config import Settings
from processor.domain.event import Event
from processor.sandbox.core import Rules
from processor.sandbox.server import Sandbox, running_sandbox
from processor.store import checks, inbox
from processor.wiring import Services
from processor.wix import wire
from processor.wix.parse import parse_claims, parse_event
from processor.wix.signature import verify

SETTLING = timedelta(minutes=10)


@dataclass
class Shop:
    """Webhooks are delivered by hand; time passes when told to."""

    sandbox: Sandbox
    services: Services
    instance_id: UUID
    ahead: list[timedelta] = field(default_factory=list)

    def link(self, price: str = "10.00", currency: str = "USD", *, title: str = "thing", **more: Any) -> UUID:
        item = wire.CustomItem(name=title, quantity=1, price=price)
        new = wire.NewPaymentLink(
            title=title,
            currency=currency,
            type="ECOM",
            ecom_payment_link=wire.EcomPaymentLink([wire.LineItem(type="CUSTOM", custom_item=item)]),
            **more,
        )
        return UUID(str(self.services.wix.create_link(self.instance_id, new).id))

    def pay(self, link_id: UUID, **given: Any) -> list[UUID]:
        """A buyer pays; nobody tells us."""
        return [UUID(payment["id"]) for payment in self.sandbox.world.pay_link(str(link_id), given)]

    def deliver(
        self, entity_id: UUID | None = None, *, only: Callable[[Event], bool] = lambda event: True
    ) -> list[inbox.Stored]:
        """Deliver every event, or those about one entity, as often as this is called.

        only: those for which it is true.
        """
        stored = []
        for held in self.sandbox.documents.all("event"):
            if entity_id is None or held["entityId"] == str(entity_id):
                verified = verify(held["token"].encode(), wiring.public_keys(self.services.settings))
                event = parse_event(parse_claims(verified.claims))
                if not only(event):
                    continue
                delivery = inbox.Delivery(event, verified.token, verified.digest)
                with self.services.database.begin() as connection:
                    stored += inbox.record(connection, [delivery], self.services.now())
        return stored

    def request(self, *link_ids: UUID) -> None:
        """Ask for a check of these links."""
        with self.services.database.begin() as connection:
            checks.request(connection, self.instance_id, link_ids, self.services.now())

    def pass_time(self, gap: timedelta = SETTLING + timedelta(seconds=1)) -> None:
        self.ahead.append(gap)

    def check(self) -> None:
        """Run check jobs until nothing is due."""
        for _ in range(20):
            jobs.run_check(self.services, self.instance_id)
            with self.services.database.begin() as connection:
                if not checks.has_due(connection, self.instance_id, self.services.now()):
                    return
        raise AssertionError("still due")

    def sweep(self) -> None:
        """Sweep to the end of the window."""
        while jobs.run_sweep(self.services, self.instance_id):
            pass

    def backfill(self) -> None:
        """Read every backfill to its end; time passes between its parts."""
        while self.rows("SELECT FROM backfills WHERE due_at IS NOT NULL"):
            jobs.run_backfill(self.services, self.instance_id)
            self.pass_time(timedelta(minutes=1))

    def tick(self) -> clock.Ticked:
        return clock.tick(self.services)

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.services.database.begin() as connection:
            return list(connection.execute(text(sql), values).all())

    def one(self, sql: str, **values: Any) -> Any:
        [row] = self.rows(sql, **values)
        return row

    def open(self) -> list[str]:
        """Types of open discrepancies."""
        return [
            row.type for row in self.rows("SELECT type FROM discrepancies WHERE closed_at IS NULL ORDER BY 1")
        ]

    @property
    def calls(self) -> int:
        """Answers of Wix so far."""
        return self.services.wix_responses.total()


@contextmanager
def a_shop(
    database_url: str,
    redis_url: str,
    *,
    assumed: Mapping[str, Any] | None = None,
    at_noon: bool = False,
    **settings: str,
) -> Iterator[Shop]:
    """assumed: of the sandbox's Rules, those that are otherwise than it has them.

    at_noon: it is noon (UTC) of today for sandbox and service when they begin, for tests of what a day holds. That of
    the database is another.
    """
    ahead: list[timedelta] = []
    begun = datetime.now(UTC)
    shift = begun.replace(hour=12, minute=0, second=0, microsecond=0) - begun if at_noon else timedelta()

    def now() -> datetime:
        return datetime.now(UTC) + shift

    with running_sandbox(seed=1, calls_per_minute=10_000, rules=Rules(**(assumed or {})), now=now) as sandbox:
        app = sandbox.documents.get("app", "app")
        assert app is not None
        environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "WIX_API_URL": sandbox.url,
            "WIX_APP_ID": app["appId"],
            "WIX_APP_SECRET": app["appSecret"],
            "WIX_PUBLIC_KEYS": sandbox.key.public_pem,
            "SETTLING_SECONDS": str(SETTLING.total_seconds()),
            "WIX_TIMEOUT_SECONDS": "2",
            "WIX_CALLS_PER_MINUTE": "1000000",
            **settings,
        }
        services = wiring.build(
            Settings.read(environ), role="worker", now=lambda: now() + sum(ahead, timedelta())
        )
        instance_id = UUID(sandbox.world.install({})["instanceId"])
        try:
            yield Shop(sandbox, services, instance_id, ahead)
        finally:
            services.close()
