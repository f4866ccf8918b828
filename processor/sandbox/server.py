"""The pretend Wix as a server: everything put together."""

from __future__ import annotations

import random
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from processor.sandbox import api, control, events, pages, query
from processor.sandbox.core import Rules, as_list, as_object, as_text, timestamp
from processor.sandbox.delivery import DEADLINE_SECONDS, Deliverer, Post
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Refused, Violation, invalid, not_found
from processor.sandbox.events import NewEvent
from processor.sandbox.faults import Faults
from processor.sandbox.keys import SigningKey
from processor.sandbox.world import World
from processor.wix.wire import APP_REMOVED

BODY_BYTES_MAX = 1_048_576
POLL_SECONDS = 0.02  # how soon `stop` is noticed
EXPIRED_SECONDS = 604_800


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a sandbox behaves.

    port: 0 for any free one. folder: where its state is kept, None for in memory only. time_scale: how many
    times faster than Wix it resends. resign_retries: sign every attempt anew (Wix does not say whether it
    does). seed: makes what is random repeatable. rate_seconds: what is taken for a minute when calls are
    counted. rules: what else Wix leaves open. now: the time; one that moves when told to makes days pass in a moment.
    new_id: how ids are made up; with those of a seed a story is the same to the letter. post: how a delivery is sent,
    None for HTTP. is_by_hand: nothing is delivered but by `deliverer.deliver_due()`, and what is due is told by `now`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    folder: Path | None = None
    time_scale: float = 1.0
    delivery_deadline_seconds: float = DEADLINE_SECONDS
    calls_per_minute: int = 200
    resign_retries: bool = False
    seed: int | None = None
    rate_seconds: float = 60.0
    rules: Rules = field(default_factory=Rules)
    now: Callable[[], datetime] = field(default=utc_now)
    new_id: Callable[[], UUID] = uuid4
    post: Post | None = None
    is_by_hand: bool = False


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
        query.define_functions(self.documents)
        self.rate = api.RateLimit(
            options.calls_per_minute, options.rate_seconds, tells_wait=options.rules.retry_after
        )
        self.key = self._app_key()
        chance = random.Random(options.seed)
        self.faults = Faults(self.documents, chance)
        self.deliverer = Deliverer(
            self.documents,
            token_of=self.token_of,
            time_scale=options.time_scale,
            deadline_seconds=options.delivery_deadline_seconds,
            now_text=lambda: options.now().isoformat(),
            content_type=options.rules.content_type,
            any_2xx_succeeds=options.rules.any_2xx_succeeds,
            post=options.post,
            by_hand=(lambda: options.now().timestamp()) if options.is_by_hand else None,
        )
        self.world = World(
            self.documents,
            self.faults,
            now=options.now,
            chance=chance,
            rules=options.rules,
            base_url=lambda: self.url,
            send=self._send,
            new_id=options.new_id,
        )
        self._app = self._flask()
        try:
            self._server = self._listening()
        except BaseException:
            self.documents.close()
            raise
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="sandbox", daemon=True
        )

    def _listening(self) -> BaseWSGIServer:
        """A server that has its port. Raises OSError."""
        options = self._options
        # A port that is taken raises here; the server's own way would be to print and exit.
        with socket.create_server((options.host, options.port), backlog=128) as listening:
            return make_server(
                options.host,
                options.port,
                self._app,
                threaded=True,
                request_handler=_Handler,
                fd=listening.fileno(),
            )

    @property
    def url(self) -> str:
        """Where it serves, without a trailing slash."""
        return f"http://{self._options.host}:{self._server.port}"

    def now(self) -> datetime:
        """The present moment of this sandbox."""
        return self._options.now()

    @property
    def seed(self) -> int | None:
        """What makes chance repeatable, None when nothing does."""
        return self._options.seed

    def take_webhook(self, given: Any) -> Document:
        """Send events where `url` says, null for nowhere; of the types that `eventTypes` ends. Raises Refused."""
        given = as_object(given, "")
        url, types = given.get("url"), given.get("eventTypes")
        if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise invalid(Violation("url", "must be an http or https URL, or null", "FORMAT"))
        if types is not None:
            types = [as_text(one, "eventTypes", 150) for one in as_list(types, "eventTypes", 100)]
        self.set_webhook(url, types)
        return {"url": url, "eventTypes": types}

    def rules(self) -> list[Rule]:
        """Every path and method that is served."""
        return list(self._app.url_map.iter_rules())

    def set_webhook(self, url: str | None, event_types: list[str] | None = None) -> None:
        """Send events there, None for nowhere. event_types: endings of their types, None for the usual ones."""
        with self.documents.transaction():
            held = self.documents.get("app", "app") or {}
            self.documents.put("app", "app", {**held, "webhookUrl": url, "eventTypes": event_types})

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

    def close(self) -> None:
        """Close the state of a sandbox that was never started."""
        self._server.server_close()
        self.deliverer.stop()
        self.documents.close()

    def token_of(self, event: Document, attempt: int) -> str:
        """The signed body of an event for one attempt."""
        fault = event["tokenFault"] or {"kind": None}
        is_spoiled = attempt <= fault.get("attempts", attempt)
        match fault["kind"]:
            case "wrong_key" if is_spoiled:
                return self._sign(event["envelope"], event["issuedAt"], self._stray_key())
            case "expired_token" if is_spoiled:
                # So that `exp` lies that far back, and `iat` a whole lifetime before it.
                ago = int(fault.get("seconds", EXPIRED_SECONDS)) + self._options.rules.token_lifetime_seconds
                return self._sign(event["envelope"], event["issuedAt"] - ago)
        if attempt > 1 and (self._options.resign_retries or fault["kind"] == "resigned"):
            return self._sign(event["envelope"], self._issued_at())
        return str(event["token"])

    def _issued_at(self) -> int:
        return int(self._options.now().timestamp())

    def _sign(self, envelope: dict[str, Any], issued_at: int, key: SigningKey | None = None) -> str:
        rules = self._options.rules
        claims = events.claims(envelope, issued_at=issued_at, lifetime_seconds=rules.token_lifetime_seconds)
        if rules.issuer_and_audience:
            # As Wix's SDK expects them of calls to service plugins.
            app = self.documents.get("app", "app") or {}
            claims |= {"iss": "wix.com", "aud": app.get("appId")}
        return (key or self.key).sign(claims)

    def _stray_key(self) -> SigningKey:
        """A key that is not the app's."""
        with self.documents.transaction():
            held = self.documents.get("key", "stray")
            if held is None:
                held = self.documents.put("key", "stray", {"pem": SigningKey.generate().private_pem})
        return SigningKey.load(held["pem"])

    def _app_key(self) -> SigningKey:
        """The app's key, made at the first start together with the app."""
        held = self.documents.get("key", "key")
        if held is not None:
            return SigningKey.load(held["pem"])
        key = SigningKey.generate()
        self.documents.put("key", "key", {"pem": key.private_pem})
        app = {
            "appId": str(self._options.new_id()),
            "appSecret": secrets.token_urlsafe(32),
            "webhookUrl": None,
            "eventTypes": None,
        }
        self.documents.put("app", "app", app)
        return key

    def _send(self, new: NewEvent) -> None:
        """Keep an event and deliver it as the faults have it, with the strays that come along."""
        about = {
            "instanceId": new.instance_id,
            "eventType": new.event_type,
            "paymentLinkId": new.payment_link_id,
        }
        if not self._is_subscribed(new):
            self._keep(new, "unsubscribed", new.envelope)
            return
        way = self.faults.strike("delivery", about) or {"kind": None}
        shapes = self.faults.strikes("shape", about)
        token_fault = self.faults.strike("token", about)
        status = {"drop": "dropped", "reorder": "held"}.get(way["kind"], "pending")
        struck = {*shapes, *(one["kind"] for one in (way, token_fault) if one and one["kind"])}
        self._keep(
            new,
            status,
            events.shaped(new.envelope, shapes),
            struck,
            waits_for_entity=bool(way.get("sameEntity")),
            token_fault=token_fault,
        )
        if status == "pending":
            self.deliverer.send(
                new.event_id,
                after_seconds=way["seconds"] if way["kind"] == "delay" else 0.0,
                copies=way.get("copies", 2) if way["kind"] == "duplicate" else 1,
            )
        for stray in sorted(self.faults.strikes("stray", about)):
            self.send_stray(stray, new.instance_id)

    def event(self, event_id: str) -> Document:
        """An event. Raises Refused (404)."""
        found = self.documents.get("event", event_id)
        if found is None:
            raise not_found("event", event_id)
        return found

    def redeliver(self, event_id: str) -> None:
        """Send an event once more, dropped ones too. Raises Refused (404)."""
        self.deliverer.send(self.event(event_id)["id"])

    def send_stray(self, kind: str, instance_id: str) -> str:
        """Send a test of the dashboard (`test_event`) or an `unknown_event`. Returns the event's id."""
        instance = self.world.instance(instance_id)
        at, new_id = timestamp(self._options.now()), self._options.new_id
        if kind == "test_event":
            app = self.documents.get("app", "app") or {}
            new = events.test_event(instance, app_id=app["appId"], at=at, new_id=new_id)
        else:
            new = events.unknown_event(instance, at=at, new_id=new_id)
        self._keep(new, "pending", new.envelope, {kind})
        self.deliverer.send(new.event_id)
        return new.event_id

    def _is_subscribed(self, new: NewEvent) -> bool:
        """Whether the app hears of an event: of the types it named, or of all but Wix's other products'.

        Of a site from which it was removed it hears that, and then nothing until it is installed again.
        """
        app = self.documents.get("app", "app")
        if app is None or app["webhookUrl"] is None:
            return False
        if new.event_type != APP_REMOVED and self.world.instance(new.instance_id)["isRemoved"]:
            return False
        if app["eventTypes"] is not None:
            return new.event_type.endswith(tuple(app["eventTypes"]))
        return not new.event_type.startswith(events.NEIGHBOURS)

    def _keep(
        self,
        new: NewEvent,
        status: str,
        envelope: dict[str, Any],
        struck: Collection[str] = (),
        *,
        waits_for_entity: bool = False,
        token_fault: Document | None = None,
    ) -> None:
        issued_at = self._issued_at()
        event = {
            "id": new.event_id,
            "instanceId": new.instance_id,
            "eventType": new.event_type,
            "entityId": new.entity_id,
            "paymentLinkId": new.payment_link_id,
            "at": self._options.now().isoformat(),
            "status": status,
            "attempts": 0,
            "faults": sorted(struck),
            "tokenFault": token_fault,
            "waitsForEntity": waits_for_entity,
            "envelope": envelope,
            "issuedAt": issued_at,
            # Signed once: a resend carries the data as of the event.
            "token": self._sign(envelope, issued_at),
        }
        self.documents.put("event", new.event_id, event)

    def _flask(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
        app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
        app.url_map.merge_slashes = False  # a redirect has no body that a client of Wix could read
        app.register_blueprint(
            api.blueprint(self.documents, self.world, self.faults, self.rate, self._stopping)
        )
        app.register_blueprint(control.blueprint(self))
        app.register_blueprint(pages.blueprint(self))

        @app.errorhandler(Refused)
        def refuse(why: Refused) -> Response:
            answer = jsonify(why.body)
            answer.status_code = why.status
            answer.headers.update(why.headers)
            return answer

        @app.errorhandler(HTTPException)
        def refuse_http(why: HTTPException) -> Response:
            status = why.code or 500
            if pages.is_wanted():
                return pages.refused(why.description or why.name, status)
            answer = jsonify(message="" if status >= 500 else why.description, details={})
            answer.status_code = status
            answer.headers["x-wix-request-id"] = str(uuid4())
            if allowed := getattr(why, "valid_methods", None):
                answer.headers["Allow"] = ", ".join(sorted(allowed))
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
