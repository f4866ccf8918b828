"""The control API under `/_sandbox/`: what site owners, buyers and Wix do, and what really happened. JSON both ways."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from flask import Blueprint, Response, jsonify, request

from processor.sandbox import openapi, scenarios
from processor.sandbox.api import body_json
from processor.sandbox.core import as_object, as_text
from processor.sandbox.documents import Document
from processor.sandbox.errors import Violation, invalid, plain
from processor.sandbox.faults import FAULTS, parameters_of
from processor.sandbox.pages.common import is_from_here

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

STRAYS = ("test_event", "unknown_event")
LISTED_MAX = 1_000


def blueprint(sandbox: Sandbox) -> Blueprint:
    """Paths of the control API."""
    routes = Blueprint("control", __name__, url_prefix="/_sandbox")
    documents, world, faults, deliverer = sandbox.documents, sandbox.world, sandbox.faults, sandbox.deliverer

    @routes.before_request
    def refuse_strangers() -> None:
        """A page of somebody else's, open in the developer's browser, must change nothing here."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if request.method != "GET" and not is_from_here(site, origin, request.host_url):
            raise plain(403, "sent by a page of another site")

    @routes.get("/health")
    def health() -> Response:
        """200 while the sandbox serves."""
        return jsonify(status="ok")

    @routes.get("/openapi.json")
    def describe() -> Response:
        """The REST API as OpenAPI."""
        return Response(openapi.text(sandbox.url), mimetype="application/json")

    @routes.get("/public-key")
    def public_key() -> Response:
        """The PEM that a developer copies from the dashboard."""
        return Response(sandbox.key.public_pem, mimetype="application/x-pem-file")

    @routes.get("/app")
    def app() -> Response:
        """What the dashboard shows of the app."""
        held = documents.get("app", "app") or {}
        return jsonify(**held, publicKey=sandbox.key.public_pem)

    @routes.put("/webhook")
    def set_webhook() -> Response:
        """Where events go, and of which types; a null url for nowhere, null eventTypes for those of payment links."""
        return jsonify(sandbox.take_webhook(body_json()))

    @routes.get("/instances")
    def instances() -> Response:
        """Every site on which the app was installed."""
        return jsonify(instances=[world.shown(one) for one in documents.all("instance")])

    @routes.post("/instances")
    def install() -> Response:
        """Install the app on a new site."""
        return jsonify(world.install(body_json()))

    @routes.patch("/instances/<instance_id>")
    def change_site(instance_id: str) -> Response:
        """Take something from a site, or give it back."""
        return jsonify(world.change_site(instance_id, body_json()))

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
        return jsonify(world.issue_receipt(world.payment(payment_id)["instanceId"], payment_id))

    @routes.post("/payments/<payment_id>/refund")
    def refund(payment_id: str) -> Response:
        """The site's owner refunds a payment, or a part of it."""
        return jsonify(world.refund(payment_id, body_json()))

    @routes.post("/payments/<payment_id>/refunds/<refund_id>/reverse")
    def reverse_refund(payment_id: str, refund_id: str) -> Response:
        """A refund that succeeded fails after all."""
        return jsonify(world.reverse_refund(payment_id, refund_id))

    @routes.post("/links/<link_id>/expire")
    def expire(link_id: str) -> Response:
        """Let a link's validity end now."""
        return jsonify(paymentLink=world.expire(link_id))

    @routes.get("/truth")
    def truth() -> Response:
        """What really happened; `summary` for counts and sums alone, `instanceId` for one site."""
        instance_id = request.args.get("instanceId")
        found = world.summary(instance_id) if "summary" in request.args else list(world.truth(instance_id))
        return jsonify(instances=found, droppedEvents=documents.count("event", {"status": "dropped"}))

    @routes.get("/scenarios")
    def list_scenarios() -> Response:
        """Stories that can be played."""
        found = [{"name": name, "title": scenarios.read(name)["title"]} for name in scenarios.names()]
        return jsonify(scenarios=found)

    @routes.post("/scenarios/<name>")
    def play_scenario(name: str) -> Response:
        """Play a story to its end."""
        return jsonify(scenarios.play(sandbox, name))

    @routes.get("/rate")
    def rate() -> Response:
        """Calls of each instance since the start, and the most within one minute."""
        return jsonify(instances=sandbox.rate.seen())

    @routes.get("/mails")
    def mails() -> Response:
        """Links that were sent to contacts, newest first."""
        return jsonify(mails=_newest("mail", {"instance": "instanceId", "link": "linkId"}))

    @routes.get("/events")
    def events() -> Response:
        """Events, newest first; `paymentLinkId`, `entityId`, `instanceId` and `status` narrow it down."""
        names = {
            "link": "paymentLinkId",
            "entity_id": "entityId",
            "instance": "instanceId",
            "status": "status",
        }
        return jsonify(events=_newest("event", names))

    @routes.get("/deliveries")
    def deliveries() -> Response:
        """Delivery attempts, newest first; `eventId` and `instanceId` narrow it down."""
        return jsonify(deliveries=_newest("delivery", {"event": "eventId", "instance": "instanceId"}))

    def _newest(kind: str, names: dict[str, str]) -> list[Document]:
        """Documents whose columns are as the parameters of the URL say. names: parameter by column."""
        wanted = {column: request.args[name] for column, name in names.items() if name in request.args}
        return documents.find(kind, wanted, newest_first=True, limit=LISTED_MAX)

    @routes.post("/deliveries/idle")
    def idle() -> Response:
        """Wait until nothing is in flight or soon due."""
        seconds = as_object(body_json(), "").get("timeoutSeconds", 10)
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
        sandbox.redeliver(event_id)
        return jsonify({})

    @routes.get("/events/<event_id>/token")
    def token(event_id: str) -> Response:
        """The signed body of an event, as text: pipe it to curl."""
        return Response(sandbox.token_of(sandbox.event(event_id), 1), mimetype="text/plain")

    @routes.post("/strays")
    def send_stray() -> Response:
        """Send a test of the dashboard, or an event of an unknown type, about a site."""
        given = as_object(body_json(), "")
        kind = given.get("kind")
        if kind not in STRAYS:
            raise invalid(Violation("kind", f"must be one of {', '.join(STRAYS)}", "ENUM"))
        instance_id = as_text(given.get("instanceId"), "instanceId", 100)
        return jsonify(eventId=sandbox.send_stray(kind, instance_id))

    @routes.post("/tokens")
    def sign() -> Response:
        """Sign any claims with the app's key, as text."""
        claims = as_object(body_json(), "").get("claims")
        if not isinstance(claims, dict):
            raise invalid(Violation("claims", "must be an object"))
        return Response(sandbox.key.sign(claims), mimetype="text/plain")

    @routes.get("/faults")
    def list_faults() -> Response:
        """Faults that are switched on."""
        return jsonify(faults=faults.all())

    @routes.post("/faults")
    def add_fault() -> Response:
        """Switch a fault on."""
        return jsonify(faults.add(body_json()))

    @routes.get("/faults/kinds")
    def fault_kinds() -> Response:
        """Every kind of fault: what it does and which parameters it takes."""
        return jsonify(
            kinds=[
                {
                    "kind": kind,
                    "group": one.group,
                    "summary": one.summary,
                    "parameters": parameters_of(kind),
                    "required": [name for name, is_required in one.parameters.items() if is_required],
                }
                for kind, one in FAULTS.items()
            ]
        )

    @routes.post("/faults/mix")
    def add_mix() -> Response:
        """Switch on a bit of everything; `share`: how likely each is."""
        return jsonify(faults=faults.add_mix(body_json()))

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
