"""The whole system on this machine, every part a process of its own: for the demo and for tests of faults.

A pretend Wix, the web server, a worker and a clock, over a PostgreSQL and a Redis that the caller provides.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx2

from processor.config import database_url, declared_settings
from processor.domain.discrepancy import DiscrepancyType
from processor.domain.refund import EVENT_TYPES as REFUND_EVENT_TYPES
from processor.errors import ProcessorError
from processor.outgoing import LOCAL, is_local_ready
from processor.processes import Child, free_port, wait_until
from processor.store import migrations, reports
from processor.store.database import Database

START_SECONDS = 60.0
LOCALHOST = "127.0.0.1"

# A story is told in seconds, so every wait is short.
PACE = {
    "SETTLING_SECONDS": "2",
    "RECHECK_SECONDS": "0.5,1,2,4,8",
    "SWEEP_SECONDS": "2",
    "TICK_SECONDS": "0.5",
    "LEASE_SECONDS": "10",
    "WEB_CONCURRENCY": "2",
    "WEB_THREADS": "16",
    "DATABASE_POOL_SIZE": "8",
    # The sandbox of demo and tests allows as many.
    "WIX_CALLS_PER_MINUTE": "6000",
}


# As the README has an app subscribe, refunds among them; the sandbox tells of those only who names them.
EVENT_TYPES = (
    *(f"payment_link_payment_{slug}" for slug in ("created", "updated")),
    *(
        f"payment_link_{slug}"
        for slug in ("created", "updated", "deleted", "activated", "deactivated", "sent")
    ),
    *("payment_link_payment_initiated", "payment_link_note_set", "AppInstalled", "AppRemoved"),
    *REFUND_EVENT_TYPES,
)


class ControlFailed(ProcessorError):
    """The sandbox refused a control request, or did not answer."""


class Control:
    """The control API of a sandbox: what Wix, merchants and buyers do, and what really happened."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = httpx2.Client(base_url=base_url, timeout=30, **LOCAL)

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `/_sandbox/{path}`. Raises ControlFailed."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the sandbox says to a POST of `body`. Raises ControlFailed."""
        return self._ask("POST", path, json=dict(body or {}))

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the sandbox says to a PUT of `body`. Raises ControlFailed."""
        return self._ask("PUT", path, json=dict(body))

    def delete(self, path: str) -> Any:
        """What the sandbox says to a DELETE. Raises ControlFailed."""
        return self._ask("DELETE", path)

    def is_up(self) -> bool:
        """Whether the sandbox answers."""
        try:
            return self._http.get("/_sandbox/health").status_code == 200
        except httpx2.TransportError:
            return False

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        try:
            answer = self._http.request(method, f"/_sandbox/{path}", **content)
        except httpx2.TransportError as why:
            raise ControlFailed(f"the sandbox did not answer {method} {path}: {type(why).__name__}") from why
        if answer.status_code >= 300:
            raise ControlFailed(
                f"the sandbox answered {method} {path} with {answer.status_code}: {answer.text}"
            )
        return answer.json() if answer.content else None


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the two web servers listen, on 127.0.0.1."""

    web: int
    sandbox: int


class System:
    """Sandbox, web, worker and clock. Each is a `Child`: stop, kill and start it at will.

    folder: logs and the sandbox's state are kept there. settings: added to, or instead of, those of PACE.
    hears_refunds: whether the app subscribed to events about refunds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        redis_url: str,
        environ: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        ports: Ports | None = None,
        sandbox_options: tuple[str, ...] = (),
        hears_refunds: bool = False,
    ) -> None:
        self._hears_refunds = hears_refunds
        self.folder = folder
        self.ports = ports or Ports(web=free_port(), sandbox=free_port())
        self.control = Control(f"http://{LOCALHOST}:{self.ports.sandbox}")
        self.web_url = f"http://{LOCALHOST}:{self.ports.web}"
        self.webhook_url = f"{self.web_url}/webhooks/wix"
        ours = {declared.variable for declared in declared_settings().values()}
        # Settings of the caller's own installation must not reach the pretend one.
        self._environ = {name: value for name, value in environ.items() if name not in ours}
        self.settings: dict[str, str] = {
            **PACE,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "WIX_API_URL": self.control.base_url,
            "HOST": LOCALHOST,
            "PORT": str(self.ports.web),
            **(settings or {}),
        }
        self.sandbox = self._child(
            "sandbox", "--port", str(self.ports.sandbox), "--data", str(folder / "sandbox"), *sandbox_options
        )
        self.web: Child
        self.worker: Child
        self.clock: Child

    def start(self) -> None:
        """Start everything and return when it is ready. Raises ProcessorError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sandbox.start()
        wait_until(self.control.is_up, what="the sandbox", seconds=START_SECONDS, children=[self.sandbox])
        app = self.control.get("app")
        self.settings |= {
            "WIX_APP_ID": app["appId"],
            "WIX_APP_SECRET": app["appSecret"],
            "WIX_PUBLIC_KEYS": app["publicKey"],
        }
        migrations.upgrade(database_url(self.settings["DATABASE_URL"]))
        self.web, self.worker, self.clock = (self._child(name) for name in ("serve", "worker", "clock"))
        for child in (self.web, self.worker, self.clock):
            child.start()
        self.await_web()
        types = {"eventTypes": list(EVENT_TYPES)} if self._hears_refunds else {}
        self.control.put("webhook", {"url": self.webhook_url, **types})

    def await_web(self) -> None:
        """Return when the web server can store webhooks. Raises ProcessorError."""
        wait_until(self.is_web_ready, what="the web server", seconds=START_SECONDS, children=[self.web])

    def is_web_ready(self) -> bool:
        """Whether `/readyz` says so."""
        return is_local_ready(f"{self.web_url}/readyz")

    def install(self) -> UUID:
        """Install the app on a new site of the sandbox; returns the app instance."""
        return UUID(self.control.post("instances")["instanceId"])

    def differences(self, database: Database) -> list[str]:
        """What still sets the books apart from what really happened; see the function of that name."""
        return differences(self.control, database, hears_refunds=self._hears_refunds)

    @property
    def children(self) -> list[Child]:
        """Those that were made, in the order in which they are stopped."""
        made = (getattr(self, name, None) for name in ("clock", "worker", "web", "sandbox"))
        return [child for child in made if child is not None]

    def stop(self) -> None:
        """Stop every child in good order, first those that others do not need."""
        for child in self.children:
            if child is not self.sandbox:
                child.request_stop()
        for child in self.children:
            child.stop()
        self.control.close()

    def __enter__(self) -> System:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _child(self, command: str, *arguments: str) -> Child:
        return Child(
            "web" if command == "serve" else command,
            [sys.executable, "-m", "processor", command, *arguments],
            environ={**self._environ, **self.settings},
            log_file=self.folder / f"{'web' if command == 'serve' else command}.log",
        )


def differences(control: Control, database: Database, *, hears_refunds: bool = False) -> list[str]:
    """What still sets the books apart from what really happened, in words; empty when nothing does.

    Payments must be equal one by one, nothing may wait to be settled, and the open discrepancies must
    be those links alone on which the sandbox shows another total than was received, or one in which a refund that
    was told of is not taken off. hears_refunds: whether our app hears of refunds.
    """
    truth = control.get("truth")["instances"]
    instance_ids = [UUID(one["instanceId"]) for one in truth]
    with database.begin() as connection:
        booked = {str(one.payment_id): one for one in reports.booked(connection, instance_ids)}
        unsettled = reports.unsettled(connection, instance_ids)
        open_ = {(str(link), type_) for link, type_ in reports.open_by_link(connection, instance_ids)}
    happened = {payment["id"]: payment for one in truth for payment in one["payments"]}
    found = [f"payment {id_} is not booked" for id_ in sorted(happened.keys() - booked.keys())]
    found += [f"payment {id_} never happened" for id_ in sorted(booked.keys() - happened.keys())]
    for id_ in sorted(happened.keys() & booked.keys()):
        ours, theirs = booked[id_], happened[id_]
        said = (
            theirs["paymentLinkId"],
            Decimal(theirs["amount"]),
            theirs["currency"],
            int(theirs["revision"]),
        )
        if (str(ours.payment_link_id), ours.amount, ours.currency, ours.revision) != said:
            found.append(f"payment {id_} is booked otherwise than it happened")
    if unsettled:
        found.append(f"{unsettled} payments or links {'is' if unsettled == 1 else 'are'} not settled yet")
    planted = {
        (link["id"], DiscrepancyType.TOTAL_DIFFERS.value)
        for one in truth
        for link in one["links"]
        if link["received"] != link["shown"]
    }
    if hears_refunds:
        planted |= {
            (payment["paymentLinkId"], DiscrepancyType.REFUND_ON_ORDER_ONLY.value)
            for payment in happened.values()
            if Decimal(payment["refunded"])
        }
    found += [f"discrepancy {type_} of link {id_} is not noticed" for id_, type_ in sorted(planted - open_)]
    found += [f"discrepancy {type_} of link {id_} has no cause" for id_, type_ in sorted(open_ - planted)]
    return found
