"""Creating a payment link: fill in, look at it, create it. However often it is sent, there is one link of a form.

A form has a reference from the moment it is first shown, under which `flows.create_link` makes the link once.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
from flask import Blueprint, render_template, request, url_for
from werkzeug.wrappers import Response

from processor import flows
from processor.domain import money
from processor.domain.access import Permission
from processor.errors import (
    ConfigurationError,
    CreationConflict,
    CreationUnclear,
    StoreUnavailable,
    WixError,
    WixRefused,
    WixUnavailable,
)
from processor.web.pages import link_forms, link_view, pickers
from processor.web.pages.access import made, needs
from processor.web.pages.link_forms import Asked, Draft, Row
from processor.web.pages.pickers import Found
from processor.web.pages.site import Site, done
from processor.wix.parse import guid

LOOKED_UP_MAX = 10  # products whose names a preview asks Wix for

_PAGE = tuple[str, int]


def add_routes(routes: Blueprint, site: Site) -> None:
    """`/links/…/new` and what its forms are sent to."""
    services = site.services

    @routes.get("/links/<uuid:instance_id>/new")
    @needs(Permission.LINKS)
    def new(instance_id: UUID) -> _PAGE:
        return _form(instance_id, Draft(uuid4()))

    @routes.post("/links/<uuid:instance_id>/draft")
    @needs(Permission.LINKS, keeps=("reference", "step"))
    def draft(instance_id: UUID) -> _PAGE:
        form = request.form
        entered = link_forms.read(form, uuid4())
        if is_chosen(entered, form):
            return _form(instance_id, entered, named="add_contact" in form)
        match form.get("step"):
            case "rows" | "product_rows" as step:
                rows = entered.items if step == "rows" else entered.products
                count = min(len(rows) + link_forms.ROWS_MORE, link_forms.ROWS_MAX)
                rows.extend(Row() for _ in range(count - len(rows)))
                return _form(instance_id, entered)
            case "edit":
                return _form(instance_id, entered)
            case "find_product":
                if entered.kind not in ("products", "both"):
                    entered.kind = "products"
                return _form(
                    instance_id, entered, found=_find(instance_id, pickers.PRODUCT, form.get("find", ""))
                )
            case "find_order":
                entered.kind = "order"
                sought = form.get("find_order", "")
                return _form(instance_id, entered, found=_find(instance_id, pickers.ORDER, sought))
            case "find_contact":
                sought = form.get("find_contact", "")
                found = _find(instance_id, pickers.CONTACT, sought)
                return _form(instance_id, entered, found=found, named=True)
        asked = link_forms.check(entered, site.clock.zone, services.now())
        if asked is None:
            return _form(instance_id, entered, status=422)
        about = _look_up(instance_id, entered, asked)
        if entered.wrong:
            return _form(instance_id, entered, status=422)
        return render_template(
            "link_preview.html",
            instance_id=instance_id,
            draft=entered,
            new=asked.new,
            total=_total(entered, asked, about["products"]),
            who=pickers.names(site, instance_id, [one.contact_id for one in asked.new.recipients or ()]),
            amount=link_forms.amount(entered.order_amount, entered.currency)[0],
            items=link_view.items({"ecomPaymentLink": msgspec.to_builtins(asked.new.ecom_payment_link)}),
            channel=dict(link_forms.CHANNELS).get(entered.channel, ""),
            **about,
        ), 200

    @routes.post("/links/<uuid:instance_id>/create")
    @needs(Permission.LINKS, keeps=("reference", "currency", "kind"))
    def create(instance_id: UUID) -> _PAGE | Response:
        entered = link_forms.read(request.form, uuid4())
        if guid(request.form.get("reference")) is None:
            return _form(
                instance_id,
                entered,
                status=422,
                top=["The form came without its reference: send it once more."],
            )
        asked = link_forms.check(entered, site.clock.zone, services.now())
        if asked is None:
            return _form(instance_id, entered, status=422)
        try:
            created = flows.create_link(services, instance_id, asked.new, reference=str(entered.reference))
        except CreationConflict as why:
            # What the form made, or may have made, before it was changed.
            entered.reference = uuid4()
            return _form(instance_id, entered, status=409, top=[_sentence(why), _CHANGED])
        except CreationUnclear as why:
            return _unclear(instance_id, entered, why.retry_after_seconds)
        except StoreUnavailable:
            return _unclear(instance_id, entered, None)
        except WixUnavailable as why:
            if not why.is_unsent:
                return _unclear(instance_id, entered, None)
            return _form(instance_id, entered, status=503, top=[link_view.said(why, "create")])
        except WixRefused as why:
            top = link_forms.blame(entered, asked, why, link_view.said(why, "create"))
            return _form(instance_id, entered, status=422, top=top)
        except (WixError, ConfigurationError) as why:
            return _form(instance_id, entered, status=503, top=[link_view.said(why, "create")])
        made(created.link_id)
        where = url_for("links.link", instance_id=instance_id, payment_link_id=created.link_id)
        return done(where, _HOW[created.how])

    def _form(
        instance_id: UUID,
        entered: Draft,
        *,
        status: int = 200,
        top: list[str] | None = None,
        found: Found | None = None,
        named: bool = False,
    ) -> _PAGE:
        entered.has_room()
        return render_template(
            "link_new.html",
            instance_id=instance_id,
            draft=entered,
            kinds=link_forms.KINDS,
            channels=link_forms.CHANNELS,
            rows_max=link_forms.ROWS_MAX,
            top=top or [],
            found=found,
            # Of people one cannot tell by an id whom one chose.
            who=pickers.names(site, instance_id, pickers.ids_of(entered.recipients)) if named else {},
        ), status

    def _unclear(instance_id: UUID, entered: Draft, seconds: float | None) -> _PAGE:
        return render_template(
            "link_unclear.html", instance_id=instance_id, draft=entered, seconds=seconds
        ), 503

    def _find(instance_id: UUID, kind: str, sought: str) -> Found:
        return pickers.find(site, instance_id, kind, sought)

    def _look_up(instance_id: UUID, entered: Draft, asked: Asked) -> dict[str, Any]:
        """What Wix says of the products or the order, as far as it can be asked; what it does not know is wrong."""
        products: dict[str, link_view.Product] = {}
        order: link_view.Order | None = None
        told, name = "", "order_id"
        try:
            if asked.new.ecom_order_payment_link:
                order = link_view.order(services.wix.get_order(instance_id, entered.order_id))
                _check_balance(entered, order)
            else:
                numbers = [number for kind, number in asked.rows if kind == "product"]
                for number in numbers[:LOOKED_UP_MAX]:
                    name = f"product_name-{number}"
                    product_id = entered.products[number].name
                    products[product_id] = link_view.product(
                        services.wix.get_product(instance_id, product_id)
                    )
        except (WixError, ConfigurationError) as why:
            if isinstance(why, WixRefused) and why.status in (400, 404):
                entered.wrong[name] = (
                    "Wix knows no such order." if name == "order_id" else "Wix knows no such product."
                )
            else:
                told = f"{link_view.not_asked(why)} So names and prices are not shown here."
        return {"products": products, "order": order, "looked_up": told}


def _check_balance(entered: Draft, order: link_view.Order) -> None:
    """Mark an amount above what Wix says is still open of the order, which Wix would refuse."""
    asked, _ = link_forms.amount(entered.order_amount, entered.currency)
    if asked is None or order.balance is None or order.currency != entered.currency:
        return
    if asked > order.balance:
        open_ = f"{money.shown(order.balance, entered.currency)} {entered.currency}"
        entered.wrong["order_amount"] = f"Of this order {open_} is still open: ask for no more than that."


def _total(entered: Draft, asked: Asked, products: Mapping[str, link_view.Product]) -> Decimal | None:
    """What one payment of it comes to, before tax and shipping; None when a price is not known for sure.

    The price of a product is that of the shop; of a chosen variant it may be another.
    """
    if asked.total is not None or asked.new.ecom_payment_link is None:
        return asked.total
    total = Decimal(0)
    for (_, number), line in zip(asked.rows, asked.new.ecom_payment_link.line_items, strict=True):
        if line.custom_item is not None:
            price, _ = link_forms.amount(line.custom_item.price, entered.currency)
            quantity = line.custom_item.quantity
        elif line.catalog_item is not None:
            row = entered.products[number]
            shown = products.get(row.name)
            is_sure = (
                shown is not None and shown.currency == entered.currency and not (row.variant or row.extra)
            )
            price = shown.price if shown is not None and is_sure else None
            quantity = line.catalog_item.quantity
        else:
            return None
        if price is None:
            return None
        total += price * quantity
    return total


def is_chosen(entered: Draft, form: Mapping[str, str]) -> bool:
    """Whether a button of something that was found was pressed; then it is in the draft."""
    if product_id := form.get("add"):
        _add_product(entered, product_id)
    elif contact_id := form.get("add_contact"):
        entered.recipients = pickers.with_contact(entered.recipients, contact_id[: link_forms.ID_MAX])
    elif order := form.get("add_order"):
        entered.kind = "order"
        entered.order_id, currency = pickers.order_chosen(order[: 2 * link_forms.ID_MAX])
        entered.currency = currency or entered.currency
    else:
        return False
    return True


def _add_product(entered: Draft, product_id: str) -> None:
    """Put a product on the first line that is free."""
    if entered.kind not in ("products", "both"):
        entered.kind = "products"
    free = next((row for row in entered.products if row.is_empty), None)
    if free is None:
        if len(entered.products) >= link_forms.ROWS_MAX:
            entered.wrong["product_name-0"] = f"A form has at most {link_forms.ROWS_MAX} products."
            return
        free = Row()
        entered.products.append(free)
    free.name = product_id[: link_forms.ID_MAX]


def _sentence(why: Exception) -> str:
    text = str(why)
    return text[:1].upper() + text[1:] + "."


_HOW = {
    flows.How.MADE: "The link is created. Nothing was sent to anybody yet.",
    flows.How.FOUND: "Wix had created the link, though its answer was lost: here it is.",
    flows.How.KNOWN: "This form had created the link before: here it is. There is no second one.",
}
_CHANGED = (
    "This form was sent before, with something else in it. Look at the list of links first: creating it now makes"
    " another link."
)
