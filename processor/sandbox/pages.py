"""What people see of the pretend Wix: a start page, and the pages on which a buyer pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from processor.sandbox.core import digits_of, money
from processor.sandbox.documents import Document
from processor.sandbox.errors import Refused, not_found
from processor.sandbox.world import World

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

SHOWN_MAX = 50
GIFT_CARD_SHARE = 4  # the gift card pays one part of so many


def blueprint(sandbox: Sandbox) -> Blueprint:
    """Pages, all of them plain HTML."""
    documents, world = sandbox.documents, sandbox.world
    routes = Blueprint("pages", __name__, template_folder="templates")

    @routes.get("/")
    def index() -> str:
        """What there is: sites, links, events."""
        deliveries: dict[str, list[Document]] = {}
        for attempt in documents.all("delivery"):
            deliveries.setdefault(attempt["eventId"], []).append(attempt)
        return render_template(
            "index.html",
            app=documents.get("app", "app"),
            instances=documents.all("instance")[-SHOWN_MAX:],
            links=[_shown(world, link) for link in reversed(documents.all("link")[-SHOWN_MAX:])],
            events=[
                {**event, "tries": deliveries.get(event["id"], [])}
                for event in reversed(documents.all("event")[-SHOWN_MAX:])
            ],
        )

    @routes.get("/_paylink/<link_id>")
    def paylink(link_id: str) -> str:
        """The page a link leads to."""
        return _page(world, world.any_link(link_id))

    @routes.post("/_paylink/<link_id>")
    def pay_link(link_id: str) -> str | Response:
        """The buyer pays there."""
        return _paid(world, world.any_link(link_id), lambda given: world.pay_link(link_id, given))

    @routes.get("/checkout/<checkout_id>")
    def checkout(checkout_id: str) -> str | Response:
        """A checkout that was initiated."""
        held = _checkout(checkout_id)
        if held["isPaid"]:
            return redirect(url_for("pages.thanks", link_id=held["linkId"]))
        return _page(world, world.any_link(held["linkId"]))

    @routes.post("/checkout/<checkout_id>")
    def pay_checkout(checkout_id: str) -> str | Response:
        """The buyer completes it."""
        link = world.any_link(_checkout(checkout_id)["linkId"])
        return _paid(world, link, lambda given: world.pay_checkout(checkout_id, given))

    @routes.get("/order/<order_id>")
    def order(order_id: str) -> str:
        """An order that is paid by a link."""
        return _page(world, _order_link(order_id))

    @routes.post("/order/<order_id>")
    def pay_order(order_id: str) -> str | Response:
        """The buyer pays it."""
        link = _order_link(order_id)
        return _paid(world, link, lambda given: world.pay_link(link["id"], given))

    @routes.get("/thanks/<link_id>")
    def thanks(link_id: str) -> str:
        """The purchase is done."""
        return render_template("thanks.html", link=_shown(world, world.any_link(link_id)))

    def _checkout(checkout_id: str) -> Document:
        held = documents.get("checkout", checkout_id)
        if held is None:
            raise not_found("checkout", checkout_id)
        return held

    def _order_link(order_id: str) -> Document:
        link = world.any_link(request.args.get("link", ""))
        if link["entity"].get("ecomOrderPaymentLink", {}).get("orderId") != order_id:
            raise not_found("order", order_id)
        return link

    @routes.errorhandler(Refused)
    def refuse(why: Refused) -> tuple[str, int]:
        """A page instead of JSON."""
        return render_template("refused.html", message=why.body["message"]), why.status

    return routes


def _shown(world: World, link: Document) -> dict[str, Any]:
    entity = world.link_answer(link)
    return {**entity, "due": money(world.due(link), entity["currency"]), "instanceId": link["instanceId"]}


def _page(world: World, link: Document, message: str | None = None) -> str:
    return render_template("pay.html", link=_shown(world, link), message=message)


def _paid(world: World, link: Document, pay: Any) -> str | Response:
    """Pay by the method the form names."""
    currency = link["entity"]["currency"]
    due = world.due(link)
    given: dict[str, Any] = {}
    if name := request.form.get("name"):
        given["buyer"] = {"name": name[:100]}
    match request.form.get("method"):
        case "split":
            part = round(due / GIFT_CARD_SHARE, digits_of(currency))
            given["tenders"] = [
                {"type": kind, "amount": money(amount, currency)}
                for kind, amount in (("GIFT_CARD", part), ("CARD", due - part))
                if amount
            ]
        case "gift_card":
            given["tenders"] = [{"type": "GIFT_CARD", "amount": money(due, currency)}]
        case "declined":
            given["isDeclined"] = True
        case _:
            given["tenders"] = [{"type": "CARD", "amount": money(due, currency)}]
    if not pay(given):
        return _page(world, link, "The card was declined. Nothing was paid.")
    return redirect(url_for("pages.thanks", link_id=link["id"]))
