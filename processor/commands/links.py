"""`processor links`: the flows of the Payment Links API."""

from __future__ import annotations

import json
import re
import shlex
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import click

from processor.commands.common import (
    Impossible,
    Moment,
    actor_option,
    echo_fields,
    echo_json,
    echo_table,
    instance_option,
    json_option,
    open_services,
    plain,
    printable,
    the_instance,
)

if TYPE_CHECKING:
    from processor.errors import WixError
    from processor.wiring import Services
    from processor.wix import wire
    from processor.wix.client import UnreadableItem

METHOD = "EMAIL_METHOD"  # the only one Wix documents
METHODS_HELP = (
    f"CONTACT is a contact's id; METHOD is {METHOD} without saying, the only one that Wix documents."
)
SORTABLE = ("createdDate", "totalReceived.paymentCount", "paymentsLimit", "status", "source")
STATUSES = ("ACTIVE", "INACTIVE", "PAID", "EXPIRED")
# A starter that found no browser says so at once; one that is still there after this has become the browser.
BROWSER_SECONDS = 5.0
_COUNT = re.compile(r"[0-9]{1,9}")


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


# -- Create ----------------------------------------------------------------------------------------


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
        echo_json({"reference": reference, "how": created.how, **_link_json(created.link)})
        return
    words = {
        "made": "created",
        "found": "found: Wix had created it, though its answer was lost",
        "known": "known: this reference was used before",
    }
    click.echo(words[created.how.value])
    _echo_link(created.link, ("reference", reference))


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
        recipients=_recipients(recipients) or None,
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


def _recipients(given: tuple[str, ...]) -> list[wire.Recipient]:
    from processor.wix import wire

    found = []
    for one in given:
        contact, _, method = one.partition(":")
        if not contact.strip():
            raise Impossible(f"--recipient {one}: write CONTACT, the id of a contact, or CONTACT:METHOD")
        found.append(wire.Recipient(contact, [method or METHOD]))
    return found


# -- What is done with a link ------------------------------------------------------------------------


@links.command("send")
@click.argument("link_id", type=click.UUID)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="CONTACT[:METHOD]",
    help=f"May be given often; those named at its creation without it. {METHODS_HELP}",
)
@actor_option
@instance_option
@json_option
def send(
    link_id: UUID, recipients: tuple[str, ...], actor: str, instance_id: UUID | None, as_json: bool
) -> None:
    """Let Wix send a link to contacts."""
    from processor import flows
    from processor.errors import WixRefused

    to = _recipients(recipients)
    services, owner = _at(instance_id)
    try:
        # A command that is given again is meant again: each has a reference of its own.
        flows.send_link(services, owner, link_id, to, actor=actor, door="command", reference=uuid4())
    except WixRefused as why:
        # Whether a link shows its recipients is not documented, so only Wix can say that it has none.
        if recipients or not _blames_recipients(why):
            raise
        raise Impossible("the link names no recipients: give --recipient CONTACT_ID") from why
    if as_json:
        echo_json({"id": link_id, "recipients": [one.partition(":")[0] for one in recipients]})
        return
    click.echo(
        f"Wix sends it to {len(recipients)} contact{'' if len(recipients) == 1 else 's'}"
        if recipients
        else "Wix sends it to its recipients"
    )


def _blames_recipients(why: WixError) -> bool:
    """Whether Wix found fault with the list of recipients, rather than with one of them."""
    return any(one.field.rpartition(".")[2] == "recipients" for one in why.violations)


@links.command("initiate")
@click.argument("link_id", type=click.UUID)
@click.option("--open", "is_opened", is_flag=True, help="Open it in the browser.")
@instance_option
@json_option
def initiate(link_id: UUID, is_opened: bool, instance_id: UUID | None, as_json: bool) -> None:
    """Make a checkout and print where it is.

    Lead the buyer there. It is not a payment yet.
    """
    services, owner = _at(instance_id)
    target = services.wix.initiate_payment(owner, link_id)
    url = (target.ecom_checkout and target.ecom_checkout.checkout_url) or (
        target.ecom_order and target.ecom_order.order_url
    )
    if not url:
        raise Impossible("Wix made no checkout that we know of")
    if as_json:
        echo_json({"url": url, "checkout_id": target.ecom_checkout and target.ecom_checkout.checkout_id})
    else:
        click.echo(printable(url))
    if is_opened and not url.startswith(("https://", "http://")):
        raise Impossible("that is no web address: it is not opened")
    if is_opened and not _is_shown_in_browser(url):
        raise Impossible("no browser could be opened: open the address yourself")


def _is_shown_in_browser(url: str) -> bool:
    """Whether a browser took the address. What it or its starter prints is not for this terminal."""
    import platform
    import subprocess

    starter = "open" if platform.system() == "Darwin" else "xdg-open"
    nothing = subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            [starter, url], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError:
        return False
    try:
        return child.wait(BROWSER_SECONDS) == 0
    except subprocess.TimeoutExpired:
        child.returncode = 0  # it outlives the command, on purpose: without this Python complains
        return True


@links.command("show")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def show(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Show a link as Wix has it, and what is booked of it."""
    from processor import flows
    from processor.store import listings
    from processor.wix.client import UnreadableItem

    services, owner = _at(instance_id)
    told = services.wix.get_link(owner, link_id)
    flows.keep(services, owner, told)
    by = listings.Narrowing(instance_id=owner, payment_link_id=link_id)
    with services.database.begin() as connection:
        booked = listings.totals(connection, by)
        open_ = listings.open_discrepancies(connection, by)
    if isinstance(told, UnreadableItem):
        raise Impossible(f"Wix describes the link in a way we cannot read: {told.detail}")
    if as_json:
        totals = [{"currency": one[0], "payments": one[1], "amount": one[2]} for one in booked]
        echo_json({**_link_json(told), "booked": totals, "open_discrepancies": open_})
        return
    received = told.total_received
    _echo_link(
        told,
        *(("booked", _sum_words(f"{amount:f}", currency, number)) for currency, number, amount in booked),
        *([] if booked else [("booked", "nothing")]),
        (
            "received, says Wix",
            received and _sum_words(received.amount, told.currency, received.payment_count),
        ),
        ("open discrepancies", ", ".join(one.type for one in open_) or "none"),
    )


@links.command("list")
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="May be given often.")
@click.option("--since", type=Moment(), help="Created from this time on.")
@click.option("--until", type=Moment(), help="Created before this time.")
@click.option("--paid/--unpaid", default=None, help="Whether anything was received.")
@click.option("--limited/--unlimited", default=None, help="Whether the number of payments is limited.")
@click.option("--search", help="Words of title, description or note.")
@click.option("--fuzzy", is_flag=True, help="With --search: forgive slips.")
@click.option(
    "--sort",
    multiple=True,
    metavar="FIELD[:desc]",
    help=f"One of {', '.join(SORTABLE)}; may be given often.  [default: createdDate:desc]",
)
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="At most so many."
)
@instance_option
@json_option
def list_links(
    search: str | None,
    fuzzy: bool,
    sort: tuple[str, ...],
    limit: int,
    instance_id: UUID | None,
    as_json: bool,
    **narrowing: Any,
) -> None:
    """List links as Wix has them now."""
    from processor.wix import wire
    from processor.wix.client import TooManyPages

    if fuzzy and not search:
        raise Impossible("--fuzzy goes with --search")
    services, owner = _at(instance_id)
    filter_ = _filter(**narrowing)
    ordered = [_sort(one) for one in sort] or [("createdDate", "DESC")]
    size, most = min(limit, wire.PAGE_MAX), -(-limit // wire.PAGE_MAX)
    if search:
        pages = services.wix.search_links(
            owner, search, is_fuzzy=fuzzy, filter=filter_, sort=ordered, page_size=size, pages_max=most
        )
    else:
        pages = services.wix.query_links(owner, filter_, sort=ordered, page_size=size, pages_max=most)
    found: list[wire.PaymentLink] = []
    has_more = False
    try:
        for page in pages:
            for one in page:
                if isinstance(one, wire.PaymentLink):
                    found.append(one)
                else:
                    click.echo(f"link {one.id} cannot be read and is left out: {one.detail}", err=True)
    except TooManyPages:
        has_more = True
    has_more = has_more or len(found) > limit
    found = found[:limit]
    if as_json:
        echo_json([_link_json(one) for one in found])
        return
    echo_table(
        ("created", "link", "title", "type", "status", "received", "payments", "limit"),
        [
            (
                one.created_date,
                one.id,
                one.title,
                one.type,
                one.status,
                one.total_received and f"{one.total_received.amount} {one.currency}",
                one.total_received and one.total_received.payment_count,
                one.payments_limit,
            )
            for one in found
        ],
        nothing="no such payment link",
    )
    if has_more:
        click.echo(f"only the first {limit} are listed; --limit shows more")


def _filter(
    *,
    status: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    paid: bool | None,
    limited: bool | None,
) -> dict[str, Any]:
    """The documented filter for what was asked."""
    from processor.wix.wire import instant_text

    filter_: dict[str, Any] = {}
    if status:
        filter_["status"] = {"$in": list(status)}
    created = {
        operator: instant_text(moment)
        for operator, moment in (("$gte", since), ("$lt", until))
        if moment is not None
    }
    if created:
        filter_["createdDate"] = created
    if paid is not None:
        filter_["totalReceived.paymentCount"] = {"$gt": 0} if paid else 0
    if limited is not None:
        filter_["paymentsLimit"] = {"$exists": limited}
    return filter_


def _sort(text: str) -> tuple[str, Any]:
    name, _, order = text.partition(":")
    if name not in SORTABLE or order.lower() not in ("", "asc", "desc"):
        raise Impossible(f"--sort {text}: write FIELD or FIELD:desc, FIELD one of {', '.join(SORTABLE)}")
    return name, "DESC" if order.lower() == "desc" else "ASC"


@links.command("activate")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def activate(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let a link take payments again."""
    services, owner = _at(instance_id)
    _say_status(services, owner, services.wix.activate_link(owner, link_id), as_json)


@links.command("deactivate")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def deactivate(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let a link take no payments."""
    services, owner = _at(instance_id)
    _say_status(services, owner, services.wix.deactivate_link(owner, link_id), as_json)


@links.command("note")
@click.argument("link_id", type=click.UUID)
@click.argument("text")
@instance_option
@json_option
def note(link_id: UUID, text: str, instance_id: UUID | None, as_json: bool) -> None:
    """Set the merchant's own note on a link."""
    services, owner = _at(instance_id)
    link = _kept(services, owner, services.wix.set_note(owner, link_id, text))
    if as_json:
        echo_json(_link_json(link))
    else:
        click.echo(f"noted: {printable(link.note.text if link.note else text)}")


@links.command("delete")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask first.")
def delete(link_id: UUID, instance_id: UUID | None, as_json: bool, is_sure: bool) -> None:
    """Delete a link nothing was paid by."""
    from processor import flows

    if not is_sure:
        _confirm("Delete it at Wix?", "not deleted", as_json)
    services, owner = _at(instance_id)
    flows.delete_link(services, owner, link_id)
    if as_json:
        echo_json({"id": link_id, "deleted": True})
    else:
        click.echo("deleted")


@links.command("receipt")
@click.argument("payment_id", type=click.UUID)
@instance_option
@json_option
def receipt(payment_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Let Wix issue the receipt of a payment."""
    services, owner = _at(instance_id)
    receipt_id = services.wix.issue_receipt(owner, payment_id)
    if as_json:
        echo_json({"receipt_id": receipt_id})
    else:
        click.echo(f"receipt {receipt_id}" if receipt_id else "Wix issued a receipt and did not say its id")


# -- Inner -----------------------------------------------------------------------------------------


def _at(instance_id: UUID | None) -> tuple[Services, UUID]:
    services = open_services()
    return services, the_instance(services, instance_id)


def _confirm(question: str, otherwise: str, as_json: bool) -> None:
    """Go on only if a person says yes. Ends the command with 1 on a no, raises Impossible where nobody can be asked."""
    if as_json or not _is_person_there():
        raise Impossible(f"{otherwise}: say --yes, since nobody can be asked here")
    try:
        is_sure = click.confirm(question)
    except click.Abort:
        click.echo(f"\n{otherwise}", err=True)
        raise
    if not is_sure:
        click.echo(otherwise)
        raise click.exceptions.Exit(1)


def _is_person_there() -> bool:
    return sys.stdin.isatty()


def _say_status(
    services: Services, owner: UUID, told: wire.PaymentLink | UnreadableItem, as_json: bool
) -> None:
    link = _kept(services, owner, told)
    if as_json:
        echo_json(_link_json(link))
    else:
        click.echo(f"the link is {link.status}")


def _kept(services: Services, owner: UUID, told: wire.PaymentLink | UnreadableItem) -> wire.PaymentLink:
    """The changed link, remembered. Raises Impossible for one that we cannot read."""
    from processor import flows
    from processor.wix import wire

    flows.keep(services, owner, told)
    if not isinstance(told, wire.PaymentLink):
        raise Impossible(f"it is done, but Wix describes the link in a way we cannot read: {told.detail}")
    return told


def _link_json(link: wire.PaymentLink) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = json.loads(msgspec.json.encode(link))
    return {name: value for name, value in plain(document).items() if value is not None}


def _sum_words(amount: str | None, currency: str | None, payments: int | None) -> str:
    """Such as "60.00 USD (1 payment)"; what Wix left out is left out, and no number of its is refused here."""
    from processor.domain import money

    with suppress(money.BadAmount):
        amount = amount and money.shown(money.parse_amount(amount), currency or "")
    of = None if payments is None else f"({payments} payment{'' if payments == 1 else 's'})"
    return " ".join(one for one in (amount, amount and currency, of) if one)


def _echo_link(link: wire.PaymentLink, *more: tuple[str, Any]) -> None:
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
