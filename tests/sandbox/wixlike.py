"""A stranger's view of the sandbox: plain HTTP, no code of ours."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from processor.outgoing import LOCAL
from processor.sandbox.server import Sandbox, running_sandbox

LINKS = "/payment-links/v1/payment-links"
PAYMENTS = "/payment-links/v1/payment-link-payments"


@dataclass
class Site:
    """A site with the app installed, and somebody who may call Wix for it."""

    sandbox: Sandbox
    http: httpx2.Client
    instance: dict[str, Any]
    headers: dict[str, str]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return self.http.request(method, path, json=body, headers={**self.headers, **headers})

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.call("POST", path, body if body is not None else {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def control(self, path: str, body: Any = None, method: str = "POST") -> Any:
        answer = self.http.request(method, f"/_sandbox/{path}", json=body if body is not None else {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def link(
        self, price: str = "10.50", currency: str = "USD", quantity: int = 2, **more: Any
    ) -> dict[str, Any]:
        item = {"type": "CUSTOM", "customItem": {"name": "thing", "quantity": quantity, "price": price}}
        link = {
            "title": "thing",
            "currency": currency,
            "type": "ECOM",
            "ecomPaymentLink": {"lineItems": [item]},
            **more,
        }
        made: dict[str, Any] = self.post(LINKS, {"paymentLink": link})["paymentLink"]
        return made

    def pay(self, link_id: str, **body: Any) -> list[dict[str, Any]]:
        paid: list[dict[str, Any]] = self.control(f"links/{link_id}/pay", body)["payments"]
        return paid

    def get(self, link_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"{LINKS}/{link_id}").json()["paymentLink"]
        return found

    def query(self, path: str, **query: Any) -> Any:
        return self.post(f"{path}/query", {"query": query})


@contextmanager
def a_site(**options: Any) -> Iterator[Site]:
    with (
        running_sandbox(**{"seed": 1, **options}) as sandbox,
        httpx2.Client(base_url=sandbox.url, timeout=10, **LOCAL) as http,
    ):
        app = http.get("/_sandbox/app").json()
        instance = http.post("/_sandbox/instances", json={}).json()
        yield Site(sandbox, http, instance, {"Authorization": token_for(http, app, instance)})


def token_for(http: httpx2.Client, app: dict[str, Any], instance: dict[str, Any]) -> str:
    asked = {
        "grant_type": "client_credentials",
        "client_id": app["appId"],
        "client_secret": app["appSecret"],
        "instance_id": instance["instanceId"],
    }
    token: str = http.post("/oauth2/token", json=asked).json()["access_token"]
    return token


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def event_of(token: str) -> dict[str, Any]:
    """The innermost event of a token."""
    event: dict[str, Any] = json.loads(json.loads(claims_of(token)["data"])["data"])
    return event


@dataclass
class Receiver:
    """A webhook endpoint that remembers and answers as told. `answer` gets the number of the delivery, from 1."""

    url: str = ""
    answer: Callable[[int], int] = lambda number: 200
    bodies: list[str] = field(default_factory=list)
    types: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    release: threading.Event = field(default_factory=threading.Event)

    def slugs(self) -> list[str]:
        """What the payment events were, in the order of their arrival."""
        events = [event_of(body) for body in self.bodies]
        return [event["slug"] for event in events if "payments" in event.get("entityFqdn", "")]


@contextmanager
def a_receiver(site: Site) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with receiver.lock:
                receiver.bodies.append(body)
                receiver.types.append(self.headers["Content-Type"])
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                number = len(receiver.bodies)
            status = receiver.answer(number)
            if status == 0:  # never answer in time
                receiver.release.wait(20)
                status = 200
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:  # Wix gave up
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    site.control("webhook", {"url": receiver.url}, "PUT")
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
