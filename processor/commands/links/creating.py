"""`processor links create`."""

from __future__ import annotations

import re
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import click

from processor.commands.common import (
    Impossible,
    Moment,
    echo_json,
    instance_option,
    json_option,
    open_services,
    the_instance,
)
from processor.commands.links.shared import METHODS_HELP, echo_link, link_json, links, recipients_of

if TYPE_CHECKING:
    from processor.wix import wire

_COUNT = re.compile(r"[0-9]{1,9}")


@links.command("create")
@click.option("--title", help="What the buyer reads.")
@click.option("--currency", help="ISO 4217 code, such as EUR.")
@click.option(
    "--item",
    "items",
    multiple=True,
    metavar="NAME:QUANTITY:PRICE",
    help="A custom item; may be given often. PRICE is for one, such as 4.50.",
)
@click.option(
    "--product",
    "products",
    multiple=True,
    metavar="ID[:QUANTITY[:VARIANT]]",
    help="A Wix Stores product; may be given often.",
)
@click.option("--order", metavar="ID", help="An order that is to be paid, instead of items.")
@click.option("--amount", help="Of the order, what is to be paid; all that is open without it.")
@click.option("--description", help="What the buyer reads below the title.")
@click.option("--payments-limit", type=click.IntRange(1), help="How often it may be paid.")
@click.option("--expires", type=Moment(), help="Until when it may be paid.")
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="CONTACT[:METHOD]",
    help=f"To whom `links send` sends it; may be given often. Creating sends nothing. {METHODS_HELP}",
)
@click.option(
    "--file",
    "file",
    type=click.Path(allow_dash=True, path_type=Path),
    help='JSON instead of options, as Wix takes it: {"paymentLink": {…}}; - for standard input.',
)
@click.option(
    "--reference",
    help="Makes the creation repeatable: the same reference never makes a second link. Made up without it.",
)
@click.option("--dry-run", is_flag=True, help="Print the request and send nothing.")
@instance_option
@json_option
def create(
    file: Path | None,
    reference: str | None,
    dry_run: bool,
    instance_id: UUID | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a link for items, products or an order."""
    import msgspec

    link = _from_file(file, given) if file is not None else _from_options(**given)
    if dry_run:
        echo_json({"paymentLink": msgspec.to_builtins(link)})
        return
    from processor.errors import CreationConflict, WixRefused
    from processor.flows import create_link

    services = open_services()
    owner = the_instance(services, instance_id)
    # An empty one is no wish for one to be made up: a script's variable was not set.
    reference = str(uuid4()) if reference is None else reference
    try:
        created = create_link(services, owner, link, reference=reference)
    except (CreationConflict, WixRefused):
        raise
    except BaseException:
        # Ctrl-C and a database that went away among them: the link may exist.
        click.echo(f"to go on without making a second link: --reference {shlex.quote(reference)}", err=True)
        raise
    if as_json:
        echo_json({"reference": reference, "how": created.how, **link_json(created.link)})
        return
    words = {
        "made": "created",
        "found": "found: Wix had created it, though its answer was lost",
        "known": "known: this reference was used before",
    }
    click.echo(words[created.how.value])
    echo_link(created.link, ("reference", reference))


def _from_file(file: Path, given: dict[str, Any]) -> wire.NewPaymentLink:
    import msgspec

    from processor.wix import wire

    if named := [name for name, value in given.items() if value]:
        option = {"items": "item", "products": "product", "recipients": "recipient"}.get(named[0], named[0])
        raise Impossible(f"--file says everything: leave out --{option.replace('_', '-')}")
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        told = wire.decode_json(content)
        link = told.get("paymentLink", told) if isinstance(told, dict) else told
        new = msgspec.convert(link, wire.NewPaymentLink)
    except OSError as why:
        raise Impossible(f"{file} cannot be read: {why.strerror}") from why
    except wire.NotJson as why:
        raise Impossible(f"{file} is not JSON: {why}") from why
    except msgspec.ValidationError as why:
        raise Impossible(f"{file} is no payment link: {why}") from why
    if unknown := _left_out(link, msgspec.to_builtins(new)):
        raise Impossible(f"{file} says something that Create Payment Link does not take: {unknown}")
    return new


def _left_out(given: Any, taken: Any, path: str = "") -> str | None:
    """Where in `given` the first thing is that `taken` lacks, None when nothing is: a slip must not pass silently."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for name, value in given.items():
            where = f"{path}.{name}".lstrip(".")
            if name not in taken and value not in (None, [], {}):
                return where
            if name in taken and (found := _left_out(value, taken[name], where)):
                return found
    elif isinstance(given, list) and isinstance(taken, list):
        for number, (one, other) in enumerate(zip(given, taken, strict=True)):
            if found := _left_out(one, other, f"{path}[{number}]"):
                return found
    return None


def _from_options(
    *,
    title: str | None,
    currency: str | None,
    items: tuple[str, ...],
    products: tuple[str, ...],
    order: str | None,
    amount: str | None,
    description: str | None,
    payments_limit: int | None,
    expires: datetime | None,
    recipients: tuple[str, ...],
) -> wire.NewPaymentLink:
    from processor.wix import wire

    if not title or not currency:
        raise Impossible("--title and --currency are needed, or --file")
    if bool(items or products) == bool(order):
        raise Impossible("say what is to be paid: --item or --product, or --order")
    if amount is not None and not order:
        raise Impossible("--amount goes with --order; an item has its price")
    ecom = wire.EcomPaymentLink([*map(_item, items), *map(_product, products)]) if not order else None
    return wire.NewPaymentLink(
        title=title,
        currency=currency.upper(),
        type="ECOM_ORDER" if order else "ECOM",
        description=description,
        ecom_payment_link=ecom,
        ecom_order_payment_link=wire.EcomOrderPaymentLink(order, amount) if order else None,
        # Wix wants it said, and takes nothing else (Wix's recipe "Create Payment Links").
        payments_limit=payments_limit if payments_limit is not None or not order else 1,
        expiration_date=expires,
        recipients=recipients_of(recipients) or None,
    )


def _item(text: str) -> wire.LineItem:
    from processor.wix import wire

    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not all(one.strip() for one in parts) or not _COUNT.fullmatch(parts[1]):
        raise Impossible(f"--item {text}: write NAME:QUANTITY:PRICE, such as 'Green tea:2:4.50'")
    name, quantity, price = parts
    return wire.LineItem("CUSTOM", custom_item=wire.CustomItem(name, int(quantity), price))


def _product(text: str) -> wire.LineItem:
    from processor.wix import wire

    id_, _, rest = text.partition(":")
    quantity, _, variant = rest.partition(":")
    if not id_.strip() or (quantity and not _COUNT.fullmatch(quantity)):
        raise Impossible(f"--product {text}: write ID, ID:QUANTITY or ID:QUANTITY:VARIANT")
    reference = wire.CatalogReference(
        wire.WIX_STORES_APP_ID, id_, options={"variantId": variant} if variant else None
    )
    return wire.LineItem("CATALOG", catalog_item=wire.CatalogItem(reference, int(quantity or "1")))
