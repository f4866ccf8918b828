"""`processor events`, `payments` and `instances`: what we were told and what we believe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    Impossible,
    any_instance_option,
    echo_fields,
    echo_json,
    echo_table,
    follow,
    json_option,
    limit_option,
    open_services,
    personal_option,
    plain,
    window_options,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from processor.store.listings import EventLine, GivenBack, Narrowing, PaymentLine

# Rows are committed a moment after the time they carry, so a follower looks back that far.
LOOK_BACK = timedelta(seconds=60)
PAGE = 1_000
Place = tuple[datetime, UUID, UUID]
"""Where a row stands in a list: its time, its id, its app instance."""


# -- Events ----------------------------------------------------------------------------------------


@click.group("events")
def events() -> None:
    """Events Wix told us of."""


def _event_options(command: Any) -> Any:
    for option in (
        click.option("--payment", "payment_id", type=click.UUID, help="About this payment."),
        click.option("--link", "payment_link_id", type=click.UUID, help="About this payment link."),
        click.option("--type", help="Ending of the event type, such as payment_created."),
        click.option(
            "--status",
            type=click.Choice(("recorded", "held", "ignored", "unreadable")),
            help="What became of it.",
        ),
        any_instance_option,
    ):
        command = option(command)
    return command


_EVENT_COLUMNS = ("received", "event", "type", "status", "payment or link", "deliveries")


def _event_row(event: EventLine) -> Sequence[Any]:
    return (
        event.received_at,
        event.event_id,
        event.event_type.rsplit(".", 1)[-1],
        event.status if event.reason is None else f"{event.status}: {event.reason}",
        event.entity_id,
        event.delivery_count,
    )


def _event_json(event: EventLine) -> dict[str, Any]:
    return {name: value for name, value in plain(event).items() if name != "token"}


@events.command("list")
@_event_options
@window_options
@limit_option
@json_option
def list_events(limit: int, as_json: bool, **narrowing: Any) -> None:
    """List events, the newest first."""
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.events(connection, listings.Narrowing(**narrowing), limit=limit)
    if as_json:
        echo_json([_event_json(event) for event in found])
    else:
        echo_table(_EVENT_COLUMNS, map(_event_row, found), nothing="no such event")


@events.command("show")
@click.argument("event_id", type=click.UUID)
@any_instance_option
@personal_option
@click.option("--token", "only_token", is_flag=True, help="Print the signed body as Wix sent it. Personal.")
@json_option
def show_event(
    event_id: UUID, instance_id: UUID | None, personal: bool, only_token: bool, as_json: bool
) -> None:
    """Show an event and what became of it."""
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.event(connection, event_id, instance_id)
    event = _only(found, "event")
    if only_token:
        if event.token is None:
            raise Impossible(f"the token was {event.why_bodiless}")
        click.echo(event.token)
        return
    told = _told(event, personal=personal)
    if as_json:
        echo_json({**_event_json(event), "told": told})
        return
    echo_fields(_event_json(event).items())
    click.echo()
    echo_json(told if told is not None else event.why_bodiless)


def _told(event: EventLine, *, personal: bool) -> Any:
    """What the event's token says, as far as it can be read; None once that is erased or archived.

    Unless personal data is wanted, only what is known to say nothing about a person is shown.
    """
    from processor.wix import wire
    from processor.wix.signature import decode_segment

    if event.token is None:
        return None
    told = wire.decode_json(decode_segment(event.token.split(".")[1].encode()))

    def open_up(holder: Any, name: str) -> Any:
        try:
            return wire.decode_json(holder[name])
        except (wire.NotJson, KeyError, TypeError):
            return None

    envelope = open_up(told, "data")
    if isinstance(envelope, dict):
        inner = open_up(envelope, "data")
        told = {**envelope, "data": envelope.get("data") if inner is None else inner}
    return told if personal else _impersonal(told)


# Names, anywhere in an event, of what says nothing about a person: of objects and lists, and of values. Whatever else
# Wix sends is hidden, text that could not be read as an object among it.
_IMPERSONAL_OBJECTS = frozenset(
    (
        *("data", "accountInfo", "createdEvent", "updatedEvent", "deletedEvent", "actionEvent"),
        *("entity", "currentEntity", "deletedEntity", "body", "paymentLink"),
        *("regularPaymentLinkPayment", "order", "ecomOrder", "ecomCheckout"),
        *("totalReceived", "links", "url", "ecomPaymentLink", "lineItems", "customItem", "catalogItem"),
        *("catalogReference", "ecomOrderPaymentLink", "source"),
    )
)
_IMPERSONAL_VALUES = frozenset(
    (
        *("eventType", "instanceId", "accountId", "parentAccountId", "siteId", "appId", "originInstanceId"),
        *(
            "id",
            "entityFqdn",
            "slug",
            "entityId",
            "eventTime",
            "triggeredByAnonymizeRequest",
            "originatedFrom",
        ),
        *("entityEventSequence", "revision", "createdDate", "updatedDate", "transactionDate", "iat", "exp"),
        *(
            "amount",
            "currency",
            "currencyCode",
            "paymentLinkId",
            "receiptId",
            "type",
            "method",
            "paymentMethod",
        ),
        *(
            "paymentProvider",
            "ecomOrderId",
            "ecomCheckoutId",
            "orderId",
            "catalogItemId",
            "quantity",
            "price",
        ),
        *("title", "status", "paymentsLimit", "paymentCount", "lastPaymentDate", "expirationDate"),
        *("url", "base", "path"),
    )
)
HIDDEN = "(hidden; --personal shows it)"


def _impersonal(value: Any) -> Any:
    if isinstance(value, list):
        return [_impersonal(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _impersonal(one)
        if name in (_IMPERSONAL_OBJECTS if isinstance(one, dict | list) else _IMPERSONAL_VALUES)
        or one in (None, "")
        else HIDDEN
        for name, one in value.items()
    }


@events.command("follow")
@_event_options
@json_option
def follow_events(as_json: bool, **narrowing: Any) -> None:
    """Show events as they come, until Ctrl-C."""
    from processor.store import listings

    def look(after: Place, by: Narrowing) -> list[EventLine]:
        with services.database.begin() as connection:
            return listings.events(connection, by, limit=PAGE, after=after, oldest_first=True)

    services = open_services()
    by = listings.Narrowing(**narrowing)
    _follow(
        services.now,
        lambda after: look(after, by),
        lambda event: (event.received_at, event.event_id, event.instance_id),
        lambda event: _line(_event_json(event), _event_row(event), as_json),
    )


def _follow(
    now: Callable[[], datetime],
    look: Callable[[Place], list[Any]],
    place: Callable[[Any], Place],
    show: Callable[[Any], None],
) -> None:
    """Show what `look` finds behind a place in time, a page at a time, each once, as it comes."""
    began = now()
    newest = began
    seen: set[Place] = set()

    def step() -> bool:
        nonlocal newest
        since = max(began, newest - LOOK_BACK)
        after: Place = (since, UUID(int=0), UUID(int=0))
        while True:
            page = look(after)
            for one in page:
                after = place(one)
                if after not in seen:
                    seen.add(after)
                    show(one)
                newest = max(newest, after[0])
            if len(page) < PAGE:
                break
        seen.difference_update([one for one in seen if one[0] < since])
        return True

    follow(step)


def _line(record: dict[str, Any], row: Sequence[Any], as_json: bool, currency: str | None = None) -> None:
    from processor.commands.common import printable, shown

    if as_json:
        echo_json(record, indent=None)
    else:
        click.echo("  ".join(printable(shown(value, currency)) for value in row))


def _only(found: list[Any], what: str) -> Any:
    if not found:
        raise Impossible(f"no such {what}: `processor {what}s list` shows what there is")
    if len(found) > 1:
        ids = ", ".join(str(one.instance_id) for one in found)
        raise Impossible(f"several app instances have a {what} of this id: name one with --instance ({ids})")
    return found[0]


# -- Payments --------------------------------------------------------------------------------------


@click.group("payments")
def payments() -> None:
    """Payments as they are booked."""


def _upper(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    return value.upper() if value else value


def _payment_options(command: Any) -> Any:
    for option in (
        click.option("--link", "payment_link_id", type=click.UUID, help="Of this payment link."),
        click.option("--currency", callback=_upper, help="In this currency, such as EUR."),
        click.option("--type", help="REGULAR or GIFT_CARD."),
        click.option(
            "--status",
            type=click.Choice(("matched", "expected", "discrepant")),
            help="How it stood at its last check.",
        ),
        any_instance_option,
    ):
        command = option(command)
    return command


_PAYMENT_COLUMNS = (
    "created",
    "payment",
    "amount",
    "currency",
    "payment link",
    "type",
    "status",
    "first told by",
    "recovery",
)


def _payment_row(payment: PaymentLine) -> Sequence[Any]:
    return (
        payment.created_at,
        payment.payment_id,
        payment.amount,
        payment.currency,
        payment.payment_link_id,
        payment.type,
        payment.match_state or "not checked yet",
        payment.first_origin,
        payment.recovery,
    )


def _net(amount: Decimal, back: GivenBack | None) -> Decimal | None:
    """What is left after the refunds that were told of; None when that is unclear."""
    if back is None:
        return amount
    return None if back.unclear else amount - back.amount


def _less(amount: Decimal, back: GivenBack | None, currency: str) -> str:
    """Such as ", 4.00 refunded, 8.00 net of refunds"; empty where no refund was told of."""
    from processor.commands.common import shown

    if back is None:
        return ""
    unclear = f" and unclear for {back.unclear}" if back.unclear else ""
    net = _net(amount, back)
    left = "" if net is None else f", {shown(net, currency)} net of refunds"
    return f", {shown(back.amount, currency)} refunded{unclear}{left}"


@payments.command("list")
@_payment_options
@window_options
@limit_option
@json_option
def list_payments(limit: int, as_json: bool, **narrowing: Any) -> None:
    """List payments, the newest first, with sums.

    The sums are those of all that fit, per currency, whatever the limit: gross, and where refunds were told of, those
    and what is left.
    """
    from processor.commands.common import shown
    from processor.store import listings

    services = open_services()
    by = listings.Narrowing(**narrowing)
    with services.database.begin() as connection:
        found = listings.payments(connection, by, limit=limit)
        sums = listings.totals(connection, by)
        back = listings.given_back(connection, by)
    if as_json:
        totals = [
            {
                "currency": currency,
                "payments": number,
                "amount": amount,
                "refunded": back[currency].amount if currency in back else None,
                "refunds_unclear": back[currency].unclear if currency in back else 0,
                "net_of_refunds": _net(amount, back.get(currency)),
            }
            for currency, number, amount in sums
        ]
        echo_json({"payments": found, "totals": totals})
        return
    echo_table(_PAYMENT_COLUMNS, map(_payment_row, found), nothing="no such payment")
    for currency, number, amount in sums:
        click.echo(
            f"{number} payment{'' if number == 1 else 's'}: {shown(amount, currency)} {currency} gross"
            + _less(amount, back.get(currency), currency)
        )
    if len(found) == limit < sum(number for _, number, _ in sums):
        click.echo(f"only the newest {limit} are listed; --limit shows more")


@payments.command("show")
@click.argument("payment_id", type=click.UUID)
@any_instance_option
@personal_option
@json_option
def show_payment(payment_id: UUID, instance_id: UUID | None, personal: bool, as_json: bool) -> None:
    """Show a payment, its versions, refunds and events."""
    from processor.domain.reconciliation import RECOVERIES, Recovery
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        payment = _only(listings.payment(connection, payment_id, instance_id), "payment")
        owner = payment.instance_id
        by = listings.Narrowing(instance_id=owner, payment_id=payment_id)
        versions = listings.versions(connection, owner, payment_id)
        refunds = listings.refunds(connection, owner, payment_id)
        told = listings.events(connection, by, limit=1_000, oldest_first=True)
        differences = listings.open_discrepancies(connection, by)
        buyer = listings.buyer(connection, owner, payment_id) if personal else None
    if as_json:
        document = {"payment": payment, "versions": versions, "events": [_event_json(one) for one in told]}
        document["refunds"] = refunds
        echo_json({**document, "open_discrepancies": differences, **({"buyer": buyer} if personal else {})})
        return
    fields = dataclasses.asdict(payment)
    if payment.recovery is not None:
        fields["recovery"] = f"{payment.recovery}: {RECOVERIES[Recovery(payment.recovery)]}"
    echo_fields(fields.items())
    click.echo("\nVersions")
    echo_table(
        ("told", "revision", "verdict", "origin", "amount", "currency", "event or run"),
        [
            (
                one.told_at,
                one.revision,
                one.verdict,
                one.origin,
                one.amount,
                one.currency,
                one.event_id or one.run_id,
            )
            for one in versions
        ],
        nothing="none",
    )
    click.echo("\nRefunds")
    echo_table(
        ("happened", "refund", "status", "amount", "currency"),
        [
            (
                one.occurred_at,
                one.refund_id,
                one.status,
                one.reason if one.amount is None else one.amount,
                one.currency,
            )
            for one in refunds
        ],
        nothing="none was told of",
    )
    click.echo("\nEvents")
    echo_table(_EVENT_COLUMNS, map(_event_row, told), nothing="none: it was found by a query")
    click.echo("\nOpen discrepancies")
    echo_table(
        ("since", "type", "severity", "booked", "wix"),
        [
            (one.first_seen_at, one.type, one.severity, one.sides.get("booked"), one.sides.get("wix"))
            for one in differences
        ],
        nothing="none",
    )
    if personal:
        click.echo("\nBuyer")
        echo_json(buyer if buyer is not None else "nothing is kept")


@payments.command("follow")
@_payment_options
@json_option
def follow_payments(as_json: bool, **narrowing: Any) -> None:
    """Show payments as they are booked, until Ctrl-C."""
    from processor.store import listings

    def look(after: Place, by: Narrowing) -> list[PaymentLine]:
        with services.database.begin() as connection:
            return listings.payments(connection, by, limit=PAGE, after=after, oldest_first=True)

    services = open_services()
    by = listings.Narrowing(**narrowing)
    _follow(
        services.now,
        lambda after: look(after, by),
        lambda payment: (payment.stored_at, payment.payment_id, payment.instance_id),
        lambda payment: _line(plain(payment), _payment_row(payment), as_json, payment.currency),
    )


# -- Instances -------------------------------------------------------------------------------------


@click.group("instances")
def instances() -> None:
    """Installations of the app on sites."""


@instances.command("list")
@json_option
def list_instances(as_json: bool) -> None:
    """List the app instances we heard of."""
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.instances(connection)
    if as_json:
        echo_json(found)
        return
    echo_table(
        ("instance", "status", "payments", "links", "held", "due", "open", "last event"),
        [
            (
                one.instance_id,
                one.status,
                one.payments,
                one.links,
                one.held_events,
                one.due,
                one.open,
                one.last_event_at,
            )
            for one in found
        ],
        nothing="no app instance is known yet: install the app on a site",
    )


@instances.command("show")
@click.argument("instance_id", type=click.UUID)
@json_option
def show_instance(instance_id: UUID, as_json: bool) -> None:
    """Show one app instance."""
    from processor.store import listings

    services = open_services()
    with services.database.begin() as connection:
        found = listings.instances(connection, instance_id)
    if not found:
        raise Impossible("no such instance: `processor instances list` shows what there is")
    if as_json:
        echo_json(found[0])
    else:
        echo_fields(dataclasses.asdict(found[0]).items())
