"""The pretend Wix as a server: everything put together."""

from __future__ import annotations

import random
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from processor.sandbox import api, control, events, pages
from processor.sandbox.delivery import DEADLINE_SECONDS, Deliverer
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Refused
from processor.sandbox.events import NewEvent
from processor.sandbox.faults import EVENT_KINDS, Faults
from processor.sandbox.keys import SigningKey
from processor.sandbox.world import Rules, World
from processor.wix import wire

BODY_BYTES_MAX = 1_048_576


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a sandbox behaves.

    port: 0 for any free one. folder: where its state is kept, None for in memory only. time_scale: how many
    times faster than Wix it resends. resign_retries: sign every attempt anew (Wix does not say whether it
    does). token_lifetime_seconds: `exp` - `iat`. seed: makes what is random repeatable. currency_field:
    `currency` or `currencyCode`. link_fqdn: entity name of link events, which Wix does not document.
    """

    host: str = "127.0.0.1"
    port: int = 0
    folder: Path | None = None
    time_scale: float = 1.0
    delivery_deadline_seconds: float = DEADLINE_SECONDS
    calls_per_minute: int = 200
    resign_retries: bool = False
    token_lifetime_seconds: int = 300_000
    seed: int | None = None
    currency_field: str = "currency"
    link_fqdn: str = wire.LINK_FQDN_GUESS
    now: Callable[[], datetime] = field(default=utc_now)


class _Handler(WSGIRequestHandler):
    """HTTP/1.1, so that clients keep their connections; silent."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; together they would wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: the delivery log is in the state."""


class Sandbox:
    """A pretend Wix. `start` serves in threads; `stop` ends it, keeping what `folder` holds."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stopping = threading.Event()
        self.documents = Documents(options.folder / "sandbox.sqlite" if options.folder else None)
        self.key = self._app_key()
        chance = random.Random(options.seed)
        self.faults = Faults(self.documents, chance)
        self.deliverer = Deliverer(
            self.documents,
            token_of=self.token_of,
            time_scale=options.time_scale,
            deadline_seconds=options.delivery_deadline_seconds,
            now_text=lambda: options.now().isoformat(),
        )
        self.world = World(
            self.documents,
            self.faults,
            now=options.now,
            chance=chance,
            rules=Rules(link_fqdn=options.link_fqdn, currency_field=options.currency_field),
            base_url=lambda: self.url,
            send=self._send,
        )
        # A port that is taken raises here; the server's own way would be to print and exit.
        with socket.create_server((options.host, options.port), backlog=128) as listening:
            self._server: BaseWSGIServer = make_server(
                options.host,
                options.port,
                self._flask(),
                threaded=True,
                request_handler=_Handler,
                fd=listening.fileno(),
            )
        self._thread = threading.Thread(target=self._server.serve_forever, name="sandbox", daemon=True)

    @property
    def url(self) -> str:
        """Where it serves, without a trailing slash."""
        return f"http://{self._options.host}:{self._server.port}"

    def start(self) -> None:
        """Serve, and deliver what was pending."""
        self.deliverer.start()
        self._thread.start()

    def stop(self) -> None:
        """End every wait, finish what is in flight, close the state."""
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.deliverer.stop()
        self.documents.close()

    def token_of(self, event: Document, attempt: int) -> str:
        """The signed body of an event for one attempt."""
        if attempt == 1 or not self._options.resign_retries:
            return str(event["token"])
        return self._sign(event["envelope"])

    def _sign(self, envelope: dict[str, Any]) -> str:
        issued_at = int(self._options.now().timestamp())
        claims = events.claims(
            envelope, issued_at=issued_at, lifetime_seconds=self._options.token_lifetime_seconds
        )
        return self.key.sign(claims)

    def _app_key(self) -> SigningKey:
        """The app's key, made at the first start together with the app."""
        held = self.documents.get("key", "key")
        if held is not None:
            return SigningKey.load(held["pem"])
        key = SigningKey.generate()
        self.documents.put("key", "key", {"pem": key.private_pem})
        app = {"appId": str(uuid4()), "appSecret": secrets.token_urlsafe(32), "webhookUrl": None}
        self.documents.put("app", "app", app)
        return key

    def _send(self, new: NewEvent) -> None:
        """Keep an event and deliver it as the faults have it."""
        about = {
            "instanceId": new.instance_id,
            "eventType": new.event_type,
            "paymentLinkId": new.payment_link_id,
        }
        app = self.documents.get("app", "app")
        fault = self.faults.strike(EVENT_KINDS, about) or {"kind": None}
        is_subscribed = app is not None and app["webhookUrl"] is not None
        kept = {"drop": "dropped", "reorder": "held"}.get(fault["kind"], "pending")
        event = {
            "id": new.event_id,
            "instanceId": new.instance_id,
            "eventType": new.event_type,
            "entityId": new.entity_id,
            "paymentLinkId": new.payment_link_id,
            "at": self._options.now().isoformat(),
            "status": kept if is_subscribed else "unsubscribed",
            "attempts": 0,
            "fault": fault["kind"],
            "waitsForEntity": fault.get("sameEntity", False),
            "envelope": new.envelope,
            # Signed once: a resend carries the data as of the event.
            "token": self._sign(new.envelope),
        }
        self.documents.put("event", event["id"], event)
        if event["status"] == "pending":
            self.deliverer.send(
                event["id"],
                after_seconds=fault["seconds"] if fault["kind"] == "delay" else 0.0,
                copies=fault.get("copies", 2) if fault["kind"] == "duplicate" else 1,
            )

    def _flask(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
        app.register_blueprint(
            api.blueprint(
                self.documents,
                self.world,
                self.faults,
                calls_per_minute=self._options.calls_per_minute,
                stopping=self._stopping,
            )
        )
        app.register_blueprint(
            control.blueprint(
                self.documents, self.world, self.faults, self.deliverer, self.key, self.token_of
            )
        )
        app.register_blueprint(pages.blueprint(self.documents, self.world))

        @app.errorhandler(Refused)
        def refuse(why: Refused) -> Response:
            answer = jsonify(why.body)
            answer.status_code = why.status
            answer.headers.update(why.headers)
            return answer

        @app.errorhandler(HTTPException)
        def refuse_http(why: HTTPException) -> Response:
            answer = jsonify(message=why.description, details={})
            answer.status_code = why.code or 500
            return answer

        return app


def serve(options: Options, started: Callable[[Sandbox], None]) -> None:
    """Serve until SIGTERM or SIGINT. started: told once it serves."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sandbox = Sandbox(options)
    sandbox.start()
    try:
        started(sandbox)
        stop.wait()
    finally:
        sandbox.stop()


@contextmanager
def running_sandbox(**options: Any) -> Iterator[Sandbox]:
    """A sandbox for tests; `options` are those of Options."""
    sandbox = Sandbox(Options(**options))
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()
