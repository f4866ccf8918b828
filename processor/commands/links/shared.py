"""What the commands of payment links share: the group, the instance they act on, and how a link is printed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import Impossible, echo_fields, open_services, plain, the_instance

if TYPE_CHECKING:
    from processor.wiring import Services
    from processor.wix import wire
    from processor.wix.client import UnreadableItem

METHOD = "EMAIL_METHOD"  # the only one Wix documents
METHODS_HELP = (
    f"CONTACT is a contact's id; METHOD is {METHOD} without saying, the only one that Wix documents."
)


class _Command(click.Command):
    """A command whose errors of Wix are told in its own words."""

    def invoke(self, ctx: click.Context) -> Any:
        """Click calls this."""
        from processor.errors import WixError
        from processor.wix import advice

        try:
            return super().invoke(ctx)
        except WixError as why:
            # The same error: only its words are for a person now.
            given = {name: ctx.params.get(name) for name in ("link_id", "payment_id")}
            why.args = (advice.in_words(why, ctx.info_name or "", **given),)
            raise


class _Links(click.Group):
    command_class = _Command


@click.group("links", cls=_Links)
def links() -> None:
    """Create, send, list and change payment links."""


def at(instance_id: UUID | None) -> tuple[Services, UUID]:
    """The services and the instance that is meant; see `common.the_instance`."""
    services = open_services()
    return services, the_instance(services, instance_id)


def kept(services: Services, owner: UUID, told: wire.PaymentLink | UnreadableItem) -> wire.PaymentLink:
    """The changed link, remembered. Raises Impossible for one that we cannot read."""
    from processor import flows
    from processor.wix import wire

    flows.keep(services, owner, told)
    if not isinstance(told, wire.PaymentLink):
        raise Impossible(f"it is done, but Wix describes the link in a way we cannot read: {told.detail}")
    return told


def recipients_of(given: tuple[str, ...]) -> list[wire.Recipient]:
    """Recipients written CONTACT or CONTACT:METHOD. Raises Impossible."""
    from processor.wix import wire

    found = []
    for one in given:
        contact, _, method = one.partition(":")
        if not contact.strip():
            raise Impossible(f"--recipient {one}: write CONTACT, the id of a contact, or CONTACT:METHOD")
        if "@" in one:
            # Wix would refuse it, and it would be kept with the sendings for ever.
            raise Impossible("--recipient: write the id of a contact, not a mail address")
        found.append(wire.Recipient(contact, [method or METHOD]))
    return found


def link_json(link: wire.PaymentLink) -> dict[str, Any]:
    """All that Wix says of a link, as JSON has it."""
    import msgspec

    document: dict[str, Any] = json.loads(msgspec.json.encode(link))
    return {name: value for name, value in plain(document).items() if value is not None}


def sum_words(amount: str | None, currency: str | None, payments: int | None) -> str:
    """Such as "60.00 USD (1 payment)"; what Wix left out is left out, and no number of its is refused here."""
    from processor.domain import money

    with suppress(money.BadAmount):
        amount = amount and money.shown(money.parse_amount(amount), currency or "")
    of = None if payments is None else f"({payments} payment{'' if payments == 1 else 's'})"
    return " ".join(one for one in (amount, amount and currency, of) if one)


def echo_link(link: wire.PaymentLink, *more: tuple[str, Any]) -> None:
    """All of a link, and below it what else is said of it."""
    order = link.ecom_order_payment_link
    items = (link.ecom_payment_link or {}).get("lineItems") or []
    echo_fields(
        [
            ("link", link.id),
            ("title", link.title),
            ("description", link.description),
            ("type", link.type),
            ("status", link.status),
            ("currency", link.currency),
            *(("item", _item_words(one)) for one in items if isinstance(one, dict)),
            ("order", order and order.order_id),
            ("amount", order and order.amount),
            ("limit", link.payments_limit),
            ("expires", link.expiration_date),
            ("created", link.created_date),
            ("share", link.links and link.links.url and link.links.url.url),
            ("note", link.note and link.note.text),
            *more,
        ]
    )


def _item_words(item: dict[str, Any]) -> str:
    custom = item.get("customItem")
    if isinstance(custom, dict):
        return f"{custom.get('quantity')} × {custom.get('name')}, {custom.get('price')} each"
    catalog = item.get("catalogItem")
    reference = catalog.get("catalogReference") if isinstance(catalog, dict) else None
    id_ = reference.get("catalogItemId") if isinstance(reference, dict) else None
    return f"{catalog.get('quantity') if isinstance(catalog, dict) else '?'} × product {id_}"
