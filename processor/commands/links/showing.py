"""`processor links show`, `list` and `sends`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    Impossible,
    Moment,
    accepted_words,
    echo_json,
    echo_table,
    instance_option,
    json_option,
)
from processor.commands.links.shared import at, echo_link, link_json, links, sum_words

if TYPE_CHECKING:
    from processor.wix import wire

SORTABLE = ("createdDate", "totalReceived.paymentCount", "paymentsLimit", "status", "source")
ACCEPTED_MAX = 1_000  # written-off or tolerated differences of one link
# Of one that is being asked for nobody knows more either, should its process have died.
OUTCOMES = {"sent": "sent", "refused": "not sent", "unclear": "not known", "asking": "not known"}
STATUSES = ("ACTIVE", "INACTIVE", "PAID", "EXPIRED")


@links.command("show")
@click.argument("link_id", type=click.UUID)
@instance_option
@json_option
def show(link_id: UUID, instance_id: UUID | None, as_json: bool) -> None:
    """Show a link as Wix has it, and what is booked of it."""
    from processor import flows
    from processor.store import listings
    from processor.wix.client import UnreadableItem

    services, owner = at(instance_id)
    told = services.wix.get_link(owner, link_id)
    flows.keep(services, owner, told)
    by = listings.Narrowing(instance_id=owner, payment_link_id=link_id)
    with services.database.begin() as connection:
        booked = listings.totals(connection, by)
        open_ = listings.open_discrepancies(connection, by)
        accepted = listings.accepted(connection, owner, [link_id], ACCEPTED_MAX)
    if isinstance(told, UnreadableItem):
        raise Impossible(f"Wix describes the link in a way we cannot read: {told.detail}")
    if as_json:
        totals = [{"currency": one[0], "payments": one[1], "amount": one[2]} for one in booked]
        echo_json({**link_json(told), "booked": totals, "open_discrepancies": open_, "accepted": accepted})
        return
    received = told.total_received
    echo_link(
        told,
        *(("booked", sum_words(f"{amount:f}", currency, number)) for currency, number, amount in booked),
        *([] if booked else [("booked", "nothing")]),
        (
            "received, says Wix",
            received and sum_words(received.amount, told.currency, received.payment_count),
        ),
        ("open discrepancies", ", ".join(one.type for one in open_) or "none"),
        *([("accepted", accepted_words(accepted))] if accepted else []),
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
    services, owner = at(instance_id)
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
        echo_json([link_json(one) for one in found])
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


@links.command("sends")
@click.argument("link_id", type=click.UUID)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="At most so many."
)
@instance_option
@json_option
def sends(link_id: UUID, limit: int, instance_id: UUID | None, as_json: bool) -> None:
    """Show when a link was sent from here, and by whom.

    To how many and with which outcome as well. Wix is not asked.
    """
    from processor.store import sends as store

    services, owner = at(instance_id)
    with services.database.begin() as connection:
        found = store.of_link(connection, owner, link_id, limit + 1)
    has_more = len(found) > limit
    found = found[:limit]
    if as_json:
        echo_json(found)
        return
    echo_table(
        ("asked", "outcome", "to", "by", "from", "why"),
        [
            (
                one.asked_at,
                OUTCOMES[one.outcome],
                "the link's recipients" if one.contact_ids is None else ", ".join(one.contact_ids),
                one.actor,
                one.door,
                one.reason,
            )
            for one in found
        ],
        nothing="it was never sent from here",
    )
    if has_more:
        click.echo(f"only the latest {limit} are listed; --limit shows more")
