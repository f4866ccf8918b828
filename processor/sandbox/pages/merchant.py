"""What a site's owner sees and does: payment links, payments, refunds, receipts, the site itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Blueprint, render_template, request

from processor.sandbox.core import currency_of
from processor.sandbox.documents import Document
from processor.sandbox.errors import not_found
from processor.sandbox.pages.common import SHOWN_MAX, Answer, Refusal, act, as_moment, as_whole, done
from processor.sandbox.pages.keyset import Rows, rows_of
from processor.sandbox.sites import FLAGS
from processor.wix.wire import WIX_STORES_APP_ID

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from processor.sandbox.server import Sandbox

SHOP_MAX = 20  # contacts and products shown, the newest
ORDERS_MAX = 10
MAILS_MAX = 10
PAYMENTS_SHOWN = 10  # of one link, on its page


def add_routes(routes: Blueprint, sandbox: Sandbox) -> None:
    """`/merchant/INSTANCE` and the pages below it."""
    documents, world = sandbox.documents, sandbox.world

    # -- Links -------------------------------------------------------------------------------------

    @routes.get("/merchant/<instance_id>")
    def merchant(instance_id: str) -> str:
        """The links of a site."""
        return show_links(instance_id)

    @routes.post("/merchant/<instance_id>")
    def merchant_do(instance_id: str) -> Answer:
        def create() -> Response:
            link = world.create_link(instance_id, new_link(request.form))
            return done("merchant_link", "created", instance_id=instance_id, link_id=link["id"])

        return act({"create": create}, lambda refusal: show_links(instance_id, refusal))

    def show_links(instance_id: str, refusal: Refusal | None = None) -> str:
        instance = world.instance(instance_id)
        page = world.links_of(instance_id, limit=SHOWN_MAX, cursor=request.args.get("cursor"))
        return render_template(
            "merchant_links.html", instance=instance, links=rows_of(page, page.items), refusal=refusal
        )

    # -- One link ----------------------------------------------------------------------------------

    @routes.get("/merchant/<instance_id>/links/<link_id>")
    def merchant_link(instance_id: str, link_id: str) -> str:
        """One link: its payments, and what can be done with it."""
        return show_link(instance_id, link_id)

    @routes.post("/merchant/<instance_id>/links/<link_id>")
    def merchant_link_do(instance_id: str, link_id: str) -> Answer:
        def back(note: str, **more: Any) -> Response:
            return done("merchant_link", note, instance_id=instance_id, link_id=link_id, **more)

        def activate() -> Response:
            world.set_active(instance_id, link_id, is_active=True)
            return back("activated")

        def deactivate() -> Response:
            world.set_active(instance_id, link_id, is_active=False)
            return back("deactivated")

        def expire() -> Response:
            owned_link(instance_id, link_id)
            world.expire(link_id)
            return back("expired")

        def delete() -> Response:
            world.delete_link(instance_id, link_id)
            return done("merchant", "deleted", instance_id=instance_id)

        def send() -> Response:
            chosen = request.form.getlist("contact")
            recipients = [{"contactId": one, "sendMethods": ["EMAIL_METHOD"]} for one in chosen]
            world.send_link(instance_id, link_id, {"recipients": recipients})
            return back("sent")

        def initiate() -> Response:
            checkout = world.initiate(instance_id, link_id).get("ecomCheckout")
            return back("initiated", **({"checkout": checkout["checkoutId"]} if checkout else {}))

        actions = {one.__name__: one for one in (activate, deactivate, expire, delete, send, initiate)}
        return act(actions, lambda refusal: show_link(instance_id, link_id, refusal))

    def show_link(instance_id: str, link_id: str, refusal: Refusal | None = None) -> str:
        link = owned_link(instance_id, link_id)
        page = world.payments_of(
            instance_id, limit=PAYMENTS_SHOWN, link_id=link_id, cursor=request.args.get("cursor")
        )
        checkout = documents.get("checkout", request.args.get("checkout", ""))
        return render_template(
            "merchant_link.html",
            instance=world.instance(instance_id),
            link=link["entity"],
            shown=world.link_answer(link)["totalReceived"],
            payments=payment_rows(page),
            contacts=newest("contact", SHOP_MAX, instance=instance_id),
            mails=[
                {**mail, "contact": documents.get("contact", mail["contactId"])}
                for mail in newest("mail", MAILS_MAX, link=link_id)
            ],
            checkout=checkout if checkout is not None and checkout["linkId"] == link_id else None,
            refusal=refusal,
        )

    # -- Payments ----------------------------------------------------------------------------------

    @routes.get("/merchant/<instance_id>/payments")
    def merchant_payments(instance_id: str) -> str:
        """The payments of a site."""
        instance = world.instance(instance_id)
        page = world.payments_of(instance_id, limit=SHOWN_MAX, cursor=request.args.get("cursor"))
        return render_template("merchant_payments.html", instance=instance, payments=payment_rows(page))

    @routes.get("/merchant/<instance_id>/payments/<payment_id>")
    def merchant_payment(instance_id: str, payment_id: str) -> str:
        """One payment: refund it, issue its receipt."""
        return show_payment(instance_id, payment_id)

    @routes.post("/merchant/<instance_id>/payments/<payment_id>")
    def merchant_payment_do(instance_id: str, payment_id: str) -> Answer:
        world.owned("payment", payment_id, instance_id)

        def back(note: str) -> Response:
            return done("merchant_payment", note, instance_id=instance_id, payment_id=payment_id)

        def refund() -> Response:
            world.refund(payment_id, {"amount": typed(request.form, "amount") or None})
            return back("refunded")

        def receipt() -> Response:
            world.issue_receipt(instance_id, payment_id)
            return back("receipt")

        def anonymize() -> Response:
            world.anonymize(payment_id)
            return back("anonymized")

        actions = {one.__name__: one for one in (refund, receipt, anonymize)}
        return act(actions, lambda refusal: show_payment(instance_id, payment_id, refusal))

    def show_payment(instance_id: str, payment_id: str, refusal: Refusal | None = None) -> str:
        payment = world.owned("payment", payment_id, instance_id)
        return render_template(
            "merchant_payment.html",
            instance=world.instance(instance_id),
            payment=payment_row(payment),
            entity=payment["entity"],
            order=world.order_answer(instance_id, payment["orderId"]),
            standing=world.standing(payment),
            refusal=refusal,
        )

    # -- The site ----------------------------------------------------------------------------------

    @routes.get("/merchant/<instance_id>/site")
    def merchant_site(instance_id: str) -> str:
        """The site: its contacts, products and orders; its switches; the app on it."""
        return show_site(instance_id)

    @routes.post("/merchant/<instance_id>/site")
    def merchant_site_do(instance_id: str) -> Answer:
        form = request.form

        def back(note: str) -> Response:
            return done("merchant_site", note, instance_id=instance_id)

        def asked(*names: str) -> Document:
            return {name: typed(form, name) for name in names}

        def contact() -> Response:
            world.add_contact(instance_id, asked("name", "email"))
            return back("contact")

        def product() -> Response:
            world.add_product(instance_id, asked("name", "price", "currency"))
            return back("product")

        def order() -> Response:
            world.add_order(instance_id, asked("total", "currency"))
            return back("order")

        def sell_product() -> Response:
            sold = world.owned("product", form.get("id", ""), instance_id)
            return created(world.create_link(instance_id, link_to_product(sold)))

        def ask_for_order() -> Response:
            owed = world.owned("order", form.get("id", ""), instance_id)
            return created(world.create_link(instance_id, link_to_order(owed)))

        def created(link: Document) -> Response:
            return done("merchant_link", "created", instance_id=instance_id, link_id=link["id"])

        def switches() -> Response:
            world.change_site(instance_id, {name: name in form for name in FLAGS})
            return back("switches")

        def remove() -> Response:
            world.remove(instance_id)
            return back("removed")

        def reinstall() -> Response:
            world.install(
                {name: world.instance(instance_id)[name] for name in ("instanceId", "siteId", "accountId")}
            )
            return back("installed")

        actions = {
            one.__name__: one
            for one in (contact, product, order, sell_product, ask_for_order, switches, remove, reinstall)
        }
        return act(actions, lambda refusal: show_site(instance_id, refusal))

    def show_site(instance_id: str, refusal: Refusal | None = None) -> str:
        return render_template(
            "merchant_site.html",
            instance=world.instance(instance_id),
            contacts=newest("contact", SHOP_MAX, instance=instance_id),
            products=newest("product", SHOP_MAX, instance=instance_id),
            orders=newest("order", ORDERS_MAX, instance=instance_id, status="UNPAID"),
            switches=SWITCHES,
            refusal=refusal,
        )

    # -- What several pages show -------------------------------------------------------------------

    def newest(kind: str, limit: int, **equal: Any) -> list[Document]:
        return documents.find(kind, equal, newest_first=True, limit=limit)

    def owned_link(instance_id: str, link_id: str) -> Document:
        """A link of the site, also one that a fault hides from the API. Raises Refused (404)."""
        link = world.any_link(link_id)
        if link["instanceId"] != instance_id:
            raise not_found("payment link", link_id)
        return link

    def payment_rows(page: Any) -> Rows:
        held = [documents.get("payment", entity["id"]) for entity in page.items]
        return rows_of(page, [payment_row(one) for one in held if one is not None])

    def payment_row(payment: Document) -> dict[str, Any]:
        entity, standing = payment["entity"], world.standing(payment)
        link = documents.get("link", payment["linkId"])
        receipt = documents.get("receipt", entity.get("receiptId") or "")
        contact = entity.get("regularPaymentLinkPayment", {}).get("contactDetails", {})
        return {
            "id": payment["id"],
            "linkId": payment["linkId"],
            "title": link["entity"]["title"] if link is not None else payment["linkId"],
            "amount": entity["amount"],
            "currency": currency_of(entity),
            "at": entity["createdDate"],
            "revision": entity["revision"],
            "tender": standing.tender,
            "status": standing.status,
            "receipt": receipt["number"] if receipt is not None else None,
            "buyer": contact.get("fullName"),
        }


SWITCHES = {
    "isPublished": "The site is published",
    "acceptsPayments": "The site accepts payments",
    "hasEcom": "Wix eCommerce is installed",
    "hasPermission": "The app has its permission",
}
"""What may be taken from a site, in words."""


def typed(form: Mapping[str, str], name: str) -> str:
    """What was typed into a field, without the spaces around it; the letters of a currency are capitals."""
    text = form.get(name, "").strip()
    return text.upper() if name == "currency" else text


def new_link(form: Mapping[str, str]) -> Document:
    """What the form of a simple link says, as Create Payment Link takes it. Raises Refused (400)."""
    title = typed(form, "title")
    quantity = as_whole(typed(form, "quantity"), "quantity")
    item = {
        "name": title,
        "quantity": 1 if quantity is None else quantity,
        "price": typed(form, "price"),
    }
    link: Document = {
        "title": title,
        "currency": typed(form, "currency"),
        "type": "ECOM",
        "ecomPaymentLink": {"lineItems": [{"type": "CUSTOM", "customItem": item}]},
    }
    more = {
        "description": typed(form, "description") or None,
        "paymentsLimit": as_whole(typed(form, "paymentsLimit"), "paymentsLimit"),
        "expirationDate": as_moment(typed(form, "expirationDate"), "expirationDate"),
    }
    return {"paymentLink": link | {name: value for name, value in more.items() if value is not None}}


def link_to_product(product: Document) -> Document:
    """The request for a link that sells one of a product."""
    reference = {"appId": WIX_STORES_APP_ID, "catalogItemId": product["id"]}
    item = {"type": "CATALOG", "catalogItem": {"quantity": 1, "catalogReference": reference}}
    link = {"title": product["name"], "currency": product["currency"], "type": "ECOM"}
    return {"paymentLink": {**link, "ecomPaymentLink": {"lineItems": [item]}}}


def link_to_order(order: Document) -> Document:
    """The request for a link that asks for the balance of an order."""
    link = {"title": f"Order {order['id'][:8]}", "currency": order["currency"], "type": "ECOM_ORDER"}
    return {"paymentLink": {**link, "ecomOrderPaymentLink": {"orderId": order["id"]}}}
