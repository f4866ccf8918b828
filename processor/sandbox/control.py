"""The control API under `/_sandbox/`: what site owners, buyers and Wix do, and what really happened. JSON both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, jsonify, request

from processor.sandbox.api import body_json
from processor.sandbox.delivery import Deliverer
from processor.sandbox.documents import Document, Documents
from processor.sandbox.errors import Violation, invalid, not_found
from processor.sandbox.faults import Faults
from processor.sandbox.keys import SigningKey
from processor.sandbox.world import World

LISTED_MAX = 1_000


def blueprint(
    documents: Documents,
    world: World,
    faults: Faults,
    deliverer: Deliverer,
    key: SigningKey,
    token_of: Callable[[Document, int], str],
) -> Blueprint:
    """Paths of the control API."""
    routes = Blueprint("control", __name__, url_prefix="/_sandbox")

    @routes.get("/health")
    def health() -> Response:
        """200 while the sandbox serves."""
        return jsonify(status="ok")

    @routes.get("/public-key")
    def public_key() -> Response:
        """The PEM that a developer copies from the dashboard."""
        return Response(key.public_pem, mimetype="application/x-pem-file")

    @routes.get("/app")
    def app() -> Response:
        """What the dashboard shows of the app."""
        held = documents.get("app", "app") or {}
        return jsonify(**held, publicKey=key.public_pem)

    @routes.put("/webhook")
    def set_webhook() -> Response:
        """Where events go; null for nowhere."""
        url = _object(body_json()).get("url")
        if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise invalid(Violation("url", "must be an http or https URL, or null", "FORMAT"))
        with documents.transaction():
            held = documents.get("app", "app") or {}
            documents.put("app", "app", {**held, "webhookUrl": url})
        return jsonify(url=url)

    @routes.get("/instances")
    def instances() -> Response:
        """Every site on which the app was installed."""
        return jsonify(instances=documents.all("instance"))

    @routes.post("/instances")
    def install() -> Response:
        """Install the app on a new site."""
        return jsonify(world.install(body_json()))

    @routes.delete("/instances/<instance_id>")
    def remove(instance_id: str) -> Response:
        """Remove the app from a site."""
        world.remove(instance_id)
        return jsonify({})

    @routes.post("/instances/<instance_id>/contacts")
    def add_contact(instance_id: str) -> Response:
        """Add a contact."""
        return jsonify(world.add_contact(instance_id, body_json()))

    @routes.post("/instances/<instance_id>/products")
    def add_product(instance_id: str) -> Response:
        """Add a Wix Stores product."""
        return jsonify(world.add_product(instance_id, body_json()))

    @routes.post("/instances/<instance_id>/orders")
    def add_order(instance_id: str) -> Response:
        """Add an unpaid order."""
        return jsonify(world.add_order(instance_id, body_json()))

    @routes.post("/links/<link_id>/pay")
    def pay_link(link_id: str) -> Response:
        """A buyer pays through the link's page."""
        return jsonify(payments=world.pay_link(link_id, body_json()))

    @routes.post("/checkouts/<checkout_id>/pay")
    def pay_checkout(checkout_id: str) -> Response:
        """A buyer completes a checkout that was initiated."""
        return jsonify(payments=world.pay_checkout(checkout_id, body_json()))

    @routes.post("/payments/<payment_id>/anonymize")
    def anonymize(payment_id: str) -> Response:
        """Apply a privacy rule to a payment."""
        return jsonify(payment=world.anonymize(payment_id))

    @routes.post("/payments/<payment_id>/receipt")
    def issue_receipt(payment_id: str) -> Response:
        """The site's owner issues a receipt in the dashboard."""
        payment = documents.get("payment", payment_id)
        if payment is None:
            raise not_found("payment", payment_id)
        return jsonify(world.issue_receipt(payment["instanceId"], payment_id))

    @routes.get("/truth")
    def truth() -> Response:
        """What really happened."""
        dropped = sum(event["status"] == "dropped" for event in documents.all("event"))
        return jsonify(instances=world.truth(), droppedEvents=dropped)

    @routes.get("/events")
    def events() -> Response:
        """Events, newest first; `paymentLinkId`, `entityId` and `instanceId` narrow it down."""
        return jsonify(events=_newest("event", ("paymentLinkId", "entityId", "instanceId", "status")))

    @routes.get("/deliveries")
    def deliveries() -> Response:
        """Delivery attempts, newest first; `eventId` and `instanceId` narrow it down."""
        return jsonify(deliveries=_newest("delivery", ("eventId", "instanceId")))

    def _newest(kind: str, names: tuple[str, ...]) -> list[Document]:
        wanted = {name: request.args[name] for name in names if name in request.args}
        found = [
            document
            for document in reversed(documents.all(kind))
            if all(document.get(name) == value for name, value in wanted.items())
        ]
        return found[:LISTED_MAX]

    @routes.post("/deliveries/idle")
    def idle() -> Response:
        """Wait until nothing is in flight or soon due."""
        seconds = _object(body_json()).get("timeoutSeconds", 10)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 60:
            raise invalid(Violation("timeoutSeconds", "must be a number from 0 to 60"))
        stand = asdict(deliverer.await_idle(seconds))
        return jsonify(
            isIdle=stand["is_idle"],
            inFlight=stand["in_flight"],
            due=stand["due"],
            waiting=stand["waiting"],
            held=stand["held"],
        )

    @routes.post("/deliveries/flush")
    def flush() -> Response:
        """Send what `reorder` keeps back."""
        return jsonify(released=deliverer.release_all())

    @routes.post("/events/<event_id>/redeliver")
    def redeliver(event_id: str) -> Response:
        """Send an event once more, dropped ones too."""
        event = _event(event_id)
        deliverer.send(event["id"])
        return jsonify({})

    @routes.get("/events/<event_id>/token")
    def token(event_id: str) -> Response:
        """The signed body of an event, as text: pipe it to curl."""
        return Response(token_of(_event(event_id), 1), mimetype="text/plain")

    def _event(event_id: str) -> Document:
        event = documents.get("event", event_id)
        if event is None:
            raise not_found("event", event_id)
        return event

    @routes.post("/tokens")
    def sign() -> Response:
        """Sign any claims with the app's key, as text."""
        claims = _object(body_json()).get("claims")
        if not isinstance(claims, dict):
            raise invalid(Violation("claims", "must be an object"))
        return Response(key.sign(claims), mimetype="text/plain")

    @routes.get("/faults")
    def list_faults() -> Response:
        """Faults that are switched on."""
        return jsonify(faults=faults.all())

    @routes.post("/faults")
    def add_fault() -> Response:
        """Switch a fault on."""
        return jsonify(faults.add(body_json()))

    @routes.delete("/faults")
    def remove_faults() -> Response:
        """Switch every fault off."""
        faults.remove(None)
        return jsonify({})

    @routes.delete("/faults/<fault_id>")
    def remove_fault(fault_id: str) -> Response:
        """Switch one fault off."""
        faults.remove(fault_id)
        return jsonify({})

    return routes


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(Violation("body", "must be an object"))
    return given
