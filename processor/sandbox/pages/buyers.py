"""What a buyer sees: the page of a link, a checkout, an order; and what was paid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flask import Blueprint, redirect, render_template, request, url_for

from processor.sandbox.core import as_money, digits_of, money
from processor.sandbox.documents import Document
from processor.sandbox.errors import Refused, Violation, invalid, not_found
from processor.sandbox.pages.common import Answer, words_of

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

GIFT_CARD_SHARE = 4  # the gift card of a split pays one part of so many, unless the buyer says otherwise
PAID_MAX = 10  # payments shown on the page of thanks
CONTACT_FIELDS = ("name", "email")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of what is bought. amount: of all its pieces, in main units."""

    name: str
    description: str
    quantity: int
    price: str
    amount: str


def add_routes(routes: Blueprint, sandbox: Sandbox) -> None:
    """`/_paylink/ID`, `/checkout/ID`, `/order/ID?link=ID`, `/thanks/ID`."""
    documents, world = sandbox.documents, sandbox.world

    @routes.route("/_paylink/<link_id>", methods=["GET", "POST"])
    def paylink(link_id: str) -> Answer:
        """Where a link leads."""
        link = world.any_link(link_id)
        return buy(link, lambda given: world.pay_link(link_id, given))

    @routes.route("/checkout/<checkout_id>", methods=["GET", "POST"])
    def checkout(checkout_id: str) -> Answer:
        """A checkout that was initiated."""
        held = documents.get("checkout", checkout_id)
        if held is None:
            raise not_found("checkout", checkout_id)
        link = world.any_link(held["linkId"])
        return buy(link, lambda given: world.pay_checkout(checkout_id, given), is_paid=held["isPaid"])

    @routes.route("/order/<order_id>", methods=["GET", "POST"])
    def order(order_id: str) -> Answer:
        """An order that is paid by a link."""
        link = world.any_link(request.args.get("link", ""))
        if link["entity"].get("ecomOrderPaymentLink", {}).get("orderId") != order_id:
            raise not_found("order", order_id)
        return buy(link, lambda given: world.pay_link(link["id"], given))

    @routes.get("/thanks/<link_id>")
    def thanks(link_id: str) -> str:
        """The purchase is done."""
        link = world.any_link(link_id)
        asked = dict.fromkeys(request.args.getlist("payment")[:PAID_MAX])
        found = [documents.get("payment", id_) for id_ in asked]
        paid = [one for one in found if one is not None and one["linkId"] == link_id]
        if not paid:
            raise not_found("payment", next(iter(asked), ""))
        return render_template(
            "thanks.html",
            link=link["entity"],
            instance_id=link["instanceId"],
            payments=[{**one["entity"], "tender": world.standing(one).tender} for one in paid],
            total=money(
                sum((Decimal(one["entity"]["amount"]) for one in paid), Decimal()), link["entity"]["currency"]
            ),
        )

    def buy(
        link: Document, pay: Callable[[dict[str, Any]], list[Document]], *, is_paid: bool = False
    ) -> Answer:
        """The page on which a buyer pays; what the form of a POST says is tried first."""
        if request.method == "GET":
            return show(link, is_paid=is_paid)
        try:
            paid = pay(purchase_of(request.form.to_dict(), world.due(link), link["entity"]["currency"]))
        except Refused as why:
            # Others may have paid meanwhile.
            link = world.any_link(link["id"])
            return show(link, is_paid=is_paid, words=words_of(why)), why.status
        if not paid:
            return show(link, words="The card was declined. Nothing was paid.")
        ids = [one["id"] for one in paid]
        return redirect(url_for("pages.thanks", link_id=link["id"], payment=ids), 303)

    def show(link: Document, *, is_paid: bool = False, words: str | None = None) -> str:
        entity = link["entity"]
        order_id = entity.get("ecomOrderPaymentLink", {}).get("orderId")
        due, currency = world.due(link), entity["currency"]
        gift_part = gift_part_of(due, currency)
        return render_template(
            "buy.html",
            link=entity,
            instance_id=link["instanceId"],
            state="CHECKOUT_PAID" if is_paid else entity["status"],
            lines=lines_of(entity, lambda id_: documents.get("product", id_)),
            order=documents.get("order", order_id) if order_id else None,
            due=money(due, currency),
            is_free=not due,
            gift_part=money(gift_part, currency) if gift_part is not None else None,
            words=words,
        )


def gift_part_of(due: Decimal, currency: str) -> Decimal | None:
    """What the gift card of a split pays unless the buyer says otherwise, None for what cannot be split."""
    least = Decimal(1).scaleb(-digits_of(currency))
    return max(least, round(due / GIFT_CARD_SHARE, digits_of(currency))) if due > least else None


def purchase_of(form: dict[str, str], due: Decimal, currency: str) -> dict[str, Any]:
    """What the checkout's form says, as the world takes it. Raises Refused (400)."""
    buyer = {name: form[name].strip() for name in CONTACT_FIELDS if form.get(name, "").strip()}
    tenders: list[tuple[str, Decimal]]
    match form.get("method"):
        case "split":
            part = as_money(form.get("giftAmount", "").strip(), currency, "gift card amount")
            if not 0 < part < due:
                raise invalid(
                    Violation(
                        "gift card amount", f"must be more than nothing and less than {money(due, currency)}"
                    )
                )
            tenders = [("GIFT_CARD", part), ("CARD", due - part)]
        case "gift_card":
            tenders = [("GIFT_CARD", due)]
        case "card" | "declined":
            tenders = [("CARD", due)]
        case _:
            raise invalid(Violation("payment method", "must be chosen"))
    return {
        "buyer": buyer,
        "tenders": [{"type": kind, "amount": money(amount, currency)} for kind, amount in tenders],
        "isDeclined": form.get("method") == "declined",
    }


def lines_of(link: Document, product: Callable[[str], Document | None]) -> list[Line]:
    """What a link sells, line by line; nothing for a link to an order. product: a product of the shop by its id."""
    found = []
    for item in link.get("ecomPaymentLink", {}).get("lineItems", []):
        if item["type"] == "CUSTOM":
            told = item["customItem"]
            quantity, price = told["quantity"], Decimal(told["price"])
            name, description = told["name"], told.get("description") or ""
        else:
            quantity = item["catalogItem"]["quantity"]
            sold = product(item["catalogItem"]["catalogReference"]["catalogItemId"]) or {}
            price, name, description = Decimal(sold.get("price", 0)), sold.get("name", "Item"), ""
        found.append(
            Line(
                name=name,
                description=description,
                quantity=quantity,
                price=money(price, link["currency"]),
                amount=money(quantity * price, link["currency"]),
            )
        )
    return found
