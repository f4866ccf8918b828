"""The REST API of the pretend Wix: what Wix documents for payment links, and its sign-in.

Everything else is answered 404. Paths, wrappers and errors: `docs/wix.md`.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, g, jsonify, request

from processor.sandbox import query
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Refused, Violation, failed, invalid, plain, system
from processor.sandbox.faults import REST_KINDS, Faults
from processor.sandbox.world import World
from processor.wix.wire import PATH_LINKS, PATH_PAYMENTS, PATH_TOKEN, NotJson, decode_json

TOKEN_SECONDS = 14_400
RATE_SECONDS = 60.0
DRIPS = 20


class RateLimit:
    """Calls of each instance within the last minute (Wix docs, "Rate Limits")."""

    def __init__(self, calls_per_minute: int) -> None:
        self._calls_max = calls_per_minute
        self._lock = threading.Lock()
        self._calls: dict[str, deque[float]] = defaultdict(deque)

    def take(self, instance_id: str) -> None:
        """Count one call. Raises Refused (429)."""
        now = time.monotonic()
        with self._lock:
            calls = self._calls[instance_id]
            while calls and calls[0] <= now - RATE_SECONDS:
                calls.popleft()
            if len(calls) >= self._calls_max:
                raise plain(429, "too many requests")
            calls.append(now)


def body_json() -> Any:
    """The request's JSON. Raises Refused (400)."""
    try:
        return decode_json(request.get_data() or b"{}")
    except NotJson:
        raise invalid(Violation("body", "must be JSON", "FORMAT")) from None


def blueprint(
    documents: Documents, world: World, faults: Faults, *, calls_per_minute: int, stopping: threading.Event
) -> Blueprint:
    """Wix's paths."""
    routes = Blueprint("api", __name__)
    limit = RateLimit(calls_per_minute)

    @routes.before_request
    def sign_in() -> None:
        g.fault = None
        if request.path.startswith("/oauth2/"):
            g.instance_id = None
            g.fault = faults.strike(REST_KINDS, {"path": request.path})
        else:
            instance = _signed_in(documents)
            g.instance_id = instance["instanceId"]
            limit.take(g.instance_id)
            g.fault = faults.strike(REST_KINDS, {"path": request.path, "instanceId": g.instance_id})
        if g.fault is None:
            return
        if g.fault["kind"] == "hang":
            stopping.wait(g.fault["seconds"])
        if g.fault["kind"] == "status":
            headers = {}
            if (seconds := g.fault.get("retryAfterSeconds")) is not None:
                headers["Retry-After"] = f"{seconds:g}"
            status = g.fault["status"]
            raise system(status, headers) if status >= 500 else plain(status, "planted fault", headers)

    @routes.after_request
    def spoil(answer: Response) -> Response:
        answer.headers["x-wix-request-id"] = str(uuid4())
        fault = g.get("fault")
        if fault is None or fault["kind"] not in ("slow", "truncated"):
            return answer
        content = answer.get_data()
        if fault["kind"] == "truncated":
            answer.headers["Connection"] = "close"
            answer.response = [content[: len(content) // 2]]
            answer.headers["Content-Length"] = str(len(content))
            return answer
        answer.response = _dripping(content, fault["seconds"], stopping)
        return answer

    @routes.post(PATH_TOKEN)
    def create_token() -> Response:
        """OAuth 2 client credentials, for one instance."""
        try:
            asked = decode_json(request.get_data())
        except NotJson:
            asked = None
        if not isinstance(asked, dict):
            raise _oauth(400, "invalid_request", "the body must be a JSON object")
        app = documents.get("app", "app") or {}
        if asked.get("grant_type") != "client_credentials":
            raise _oauth(400, "unsupported_grant_type", "only client_credentials")
        if asked.get("client_id") != app.get("appId") or asked.get("client_secret") != app.get("appSecret"):
            raise _oauth(401, "invalid_client", "unknown app or wrong secret")
        instance = documents.get("instance", str(asked.get("instance_id")))
        if instance is None or instance["isRemoved"]:
            raise _oauth(400, "invalid_grant", "the app is not installed on that instance")
        token = f"OauthNG.JWS.{uuid4().hex}{uuid4().hex}"
        held = {
            "id": token,
            "instanceId": instance["instanceId"],
            "expires": time.time() + TOKEN_SECONDS,
        }
        documents.put("token", token, held)
        return jsonify({"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS})

    @routes.post("/oauth2/token-info")
    def token_info() -> Response:
        """Facts of a token."""
        asked = body_json()
        token = documents.get("token", str(asked.get("token") if isinstance(asked, dict) else None))
        if token is None or token["expires"] <= time.time():
            return jsonify(active=False)
        app = documents.get("app", "app") or {}
        return jsonify(
            active=True,
            clientId=app.get("appId"),
            instanceId=token["instanceId"],
            exp=int(token["expires"]),
        )

    @routes.post(PATH_LINKS)
    def create_link() -> Response:
        """Create Payment Link."""
        return jsonify(paymentLink=world.create_link(g.instance_id, body_json()))

    @routes.post(f"{PATH_LINKS}/query")
    def query_links() -> Response:
        """Query Payment Links."""
        page = query.run(body_json(), world.queried_links(g.instance_id), query.LINK_FIELDS)
        return jsonify(paymentLinks=page.items, pagingMetadata=page.metadata)

    @routes.get(f"{PATH_LINKS}/<link_id>")
    def get_link(link_id: str) -> Response:
        """Get Payment Link."""
        return jsonify(paymentLink=world.link_answer(world.link(g.instance_id, link_id)))

    @routes.delete(f"{PATH_LINKS}/<link_id>")
    def delete_link(link_id: str) -> Response:
        """Delete Payment Link."""
        world.delete_link(g.instance_id, link_id)
        return jsonify({})

    @routes.post(f"{PATH_LINKS}/<link_id>/activate")
    def activate(link_id: str) -> Response:
        """Activate Payment Link."""
        return jsonify(paymentLink=world.set_active(g.instance_id, link_id, is_active=True))

    @routes.post(f"{PATH_LINKS}/<link_id>/deactivate")
    def deactivate(link_id: str) -> Response:
        """Deactivate Payment Link."""
        return jsonify(paymentLink=world.set_active(g.instance_id, link_id, is_active=False))

    @routes.post(f"{PATH_LINKS}/<link_id>/set-note")
    def set_note(link_id: str) -> Response:
        """Set Payment Link Note."""
        return jsonify(paymentLink=world.set_note(g.instance_id, link_id, body_json()))

    @routes.post(f"{PATH_LINKS}/<link_id>/send")
    def send(link_id: str) -> Response:
        """Send Payment Link."""
        world.send_link(g.instance_id, link_id, body_json())
        return jsonify({})

    @routes.post(f"{PATH_LINKS}/<link_id>/initiate-payment")
    def initiate(link_id: str) -> Response:
        """Initiate Payment."""
        return jsonify(world.initiate(g.instance_id, link_id))

    @routes.post(f"{PATH_PAYMENTS}/query")
    def query_payments() -> Response:
        """Query Payment Link Payments."""
        page = query.run(body_json(), world.queried_payments(g.instance_id), query.PAYMENT_FIELDS)
        return jsonify(paymentLinkPayments=page.items, pagingMetadata=page.metadata)

    @routes.post(f"{PATH_PAYMENTS}/<payment_id>/issue-receipt")
    def issue_receipt(payment_id: str) -> Response:
        """Issue Receipt."""
        return jsonify(world.issue_receipt(g.instance_id, payment_id))

    return routes


def _signed_in(documents: Documents) -> Document:
    """The instance that a call speaks for. Raises Refused (401, 403)."""
    held = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if not held:
        raise plain(401, "no Authorization header")
    token = documents.get("token", held)
    if token is not None:
        if token["expires"] <= time.time():
            raise plain(401, "the token has expired")
        instance = documents.get("instance", token["instanceId"])
        if instance is None or instance["isRemoved"]:
            raise failed(403, "SANDBOX_APP_NOT_INSTALLED", "the app was removed from the site")
        return instance
    for instance in documents.all("instance"):
        if instance["apiKey"] == held:
            if "wix-account-id" in request.headers:
                raise failed(403, "SANDBOX_SITE_LEVEL_ONLY", "payment links need wix-site-id alone")
            if request.headers.get("wix-site-id") != instance["siteId"]:
                raise failed(403, "SANDBOX_WRONG_SITE", "wix-site-id is not the site of this key")
            return instance
    raise plain(401, "neither a token nor an API key of ours")


def _oauth(status: int, error: str, description: str) -> Refused:
    return Refused(status, {"error": error, "error_description": description})


def _dripping(content: bytes, seconds: float, stopping: threading.Event) -> Iterator[bytes]:
    size = max(1, len(content) // DRIPS)
    for start in range(0, len(content), size):
        stopping.wait(seconds / DRIPS)
        yield content[start : start + size]
