"""The delivery log: every event with its attempts, the answers to them, and what was sent."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from processor.sandbox.delivery import RESEND_SECONDS
from processor.sandbox.documents import Document
from processor.sandbox.errors import plain
from processor.sandbox.faults import FAULTS
from processor.sandbox.pages.common import SHOWN_MAX, SITES_MAX, Answer, Refusal, act, done, ending, later
from processor.sandbox.pages.keyset import page_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from processor.sandbox.server import Sandbox

STATUSES = ("delivered", "pending", "held", "given_up", "dropped", "unsubscribed")
ATTEMPTS_MAX = 1 + len(RESEND_SECONDS)
ATTEMPTS_SHOWN = 50
# Longer than the deadline of a delivery, so that its answer is there when the page comes again.
ANSWER_SECONDS = 3.0
# Columns by the name in the address. What is about one thing is narrowed by that alone: it is little.
ABOUT = {"link": "link", "entity": "entity_id"}
NARROWED_BY = {"instance": "instance", "type": "type", "status": "status"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A token's levels, each with the text of the next replaced by a mark."""

    header: Any
    claims: Any
    envelope: Any
    event: Any


def add_routes(routes: Blueprint, sandbox: Sandbox) -> None:
    """`/deliveries` and `/deliveries/EVENT`."""
    documents, deliverer = sandbox.documents, sandbox.deliverer

    @routes.get("/deliveries")
    def deliveries() -> str:
        """Events, newest first, narrowed by what the address says."""
        about = asked_by(ABOUT)
        rows = page_of(documents, "event", about or asked_by(NARROWED_BY), limit=SHOWN_MAX)
        due = deliverer.due_in({event["id"] for event in rows.items})
        return render_template(
            "deliveries.html",
            rows=rows,
            last={event["id"]: last_attempt(event["id"]) for event in rows.items},
            due=due,
            about=about,
            types=documents.distinct("event", "type"),
            statuses=STATUSES,
            sites=documents.find("instance", newest_first=True, limit=SITES_MAX),
            webhook_url=webhook_url(),
        )

    @routes.get("/deliveries/<event_id>")
    def event(event_id: str) -> str:
        """One event: its attempts, and what was sent."""
        return show(event_id)

    @routes.post("/deliveries/<event_id>")
    def event_do(event_id: str) -> Answer:
        sandbox.event(event_id)

        def redeliver() -> Response:
            if webhook_url() is None:
                raise plain(428, "no webhook URL is set, so there is nowhere to deliver to")
            made = documents.count("delivery", {"event": event_id})
            sandbox.redeliver(event_id)
            deliverer.await_attempts(event_id, made + 1, ANSWER_SECONDS)
            return done("event", "redelivered", event_id=event_id)

        return act({"redeliver": redeliver}, lambda refusal: show(event_id, refusal))

    def show(event_id: str, refusal: Refusal | None = None) -> str:
        event = sandbox.event(event_id)
        token = sandbox.token_of(event, 1)
        due = deliverer.due_in({event_id}).get(event_id)
        wanted = {"event": event_id}
        return render_template(
            "event.html",
            event=event,
            name=ending(event["eventType"]),
            attempts=documents.find("delivery", wanted, newest_first=True, limit=ATTEMPTS_SHOWN),
            attempts_count=documents.count("delivery", wanted),
            attempts_max=ATTEMPTS_MAX,
            due=due,
            due_at=later(sandbox.now(), due) if due is not None else None,
            faults=[(kind, FAULTS[kind].summary) for kind in event["faults"]],
            is_of_a_site=documents.get("instance", event["instanceId"]) is not None,
            token=token,
            decoded=decode(token),
            webhook_url=webhook_url(),
            refusal=refusal,
        )

    def last_attempt(event_id: str) -> Document | None:
        found = documents.find("delivery", {"event": event_id}, newest_first=True, limit=1)
        return found[0] if found else None

    def webhook_url() -> str | None:
        app = documents.get("app", "app")
        return None if app is None else app["webhookUrl"]


def asked_by(names: dict[str, str]) -> dict[str, str]:
    """The parameters of the address that are not empty, by column."""
    return {column: request.args[name] for name, column in names.items() if request.args.get(name)}


def decode(token: str) -> Decoded:
    """What a token of ours says, level by level, its signature unread."""
    header, payload = (_part(part) for part in token.split(".")[:2])
    envelope = json.loads(payload["data"])
    event = json.loads(envelope["data"])
    outer = {**envelope, "data": "… (the event, as text)"}
    if "identity" in envelope:
        outer["identity"] = json.loads(envelope["identity"])
    return Decoded(header, {**payload, "data": "… (the envelope, as text)"}, outer, event)


def _part(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
