"""What Wix says of links that are checked, in as few calls as it allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from processor.domain.link import SeenLink
from processor.domain.payment import SeenPayment, judge
from processor.errors import Unreadable, WixNotFound
from processor.jobs.common import PAYMENT_PAGES_MAX, guid_of
from processor.store import checks, links, matching
from processor.wiring import Services
from processor.wix import wire
from processor.wix.client import TooManyPages, UnreadableItem
from processor.wix.parse import Reason, clean_json, guid, parse_payment, seen_link

log = structlog.get_logger(__name__)

# Of links listed by their creation dates: as many as there are links, unless very many share their dates.
LINK_PAGES_MAX = 50
# Listing pays when a page shows at least so many links that would be fetched one by one otherwise.
UNKNOWN_LINKS_PER_PAGE = 4
UNREADABLE_TOLD_MAX = 10  # of one link, by id


@dataclass(frozen=True, slots=True)
class Theirs:
    """What Wix says of the claimed links, but for the payments, which are written down.

    payments: how many are. unreadable: by link, what Wix lists that cannot be read, by id text, with the
    reason. missing: links it does not know. others: further links it described.
    """

    payments: int
    unreadable: dict[UUID, dict[str, str]]
    links: dict[UUID, SeenLink]
    missing: frozenset[UUID]
    others: list[SeenLink]


def ask(services: Services, instance_id: UUID, lease: checks.Lease, beat: Callable[[], None]) -> Theirs:
    """Ask Wix for the payments and the description of every claimed link. beat: told of every page."""
    link_ids = sorted(claim.payment_link_id for claim in lease.claims)
    unreadable: dict[UUID, dict[str, str]] = {link_id: {} for link_id in link_ids}
    most = services.settings.wix_in_max
    listed = 0
    for start in range(0, len(link_ids), most):
        asked = [str(link_id) for link_id in link_ids[start : start + most]]
        for page in services.wix.query_payments(
            instance_id,
            filter={"paymentLinkId": {"$in": asked}},
            sort=[("createdDate", "ASC")],
            pages_max=PAYMENT_PAGES_MAX,
        ):
            beat()
            seen, unread = _read_page(instance_id, page, unreadable)
            with services.database.begin() as connection:
                listed += matching.write(connection, instance_id, lease.lease_id, seen, unread)
    others: list[SeenLink] = []
    described, missing = _links_of(services, instance_id, link_ids, unreadable, others, beat)
    return Theirs(listed, unreadable, described, missing, others)


def _read_page(
    instance_id: UUID, page: Sequence[Any], unreadable: dict[UUID, dict[str, str]]
) -> tuple[Collection[SeenPayment], Collection[matching.Unread]]:
    """A page of payments under the links in `unreadable`, where what cannot be read is told as well."""
    seen: dict[tuple[UUID, UUID], SeenPayment] = {}
    unread: dict[tuple[UUID, UUID], matching.Unread] = {}
    for entity in page:
        try:
            one = parse_payment(entity, instance_id)
        except Unreadable as why:
            log.warning("payment_unreadable", instance_id=str(instance_id), reason=why.reason)
            link_id, payment_id = guid_of(entity, "paymentLinkId"), guid_of(entity, "id")
            if link_id not in unreadable:
                continue
            if len(unreadable[link_id]) < UNREADABLE_TOLD_MAX:
                unreadable[link_id][clean_json(str(entity.get("id")))[:64]] = why.reason
            if payment_id is not None:
                unread[link_id, payment_id] = matching.Unread(link_id, payment_id, why.reason)
            continue
        if one.payment.payment_link_id not in unreadable:
            continue  # not what was asked for; its own check will be
        # While items move between pages one may come twice; the higher revision stands.
        key = (one.payment.payment_link_id, one.payment.payment_id)
        if judge(seen[key].payment if key in seen else None, one.payment).applies:
            seen[key] = one
    return seen.values(), [one for key, one in unread.items() if key not in seen]


def _links_of(
    services: Services,
    instance_id: UUID,
    link_ids: Sequence[UUID],
    unreadable: dict[UUID, dict[str, str]],
    others: list[SeenLink],
    beat: Callable[[], None],
) -> tuple[dict[UUID, SeenLink], frozenset[UUID]]:
    """How Wix describes the links, and which it does not know. What cannot be read goes into `unreadable`.

    A link's id is not a documented filter, its immutable creation date is. So known links are listed by
    their dates in one query. Links never seen are looked for in a listing of the newest, as long as that
    promises fewer calls than fetching each; whatever else is listed goes into `others`, so that its date is
    known when its turn comes. What is then missing is fetched by itself.
    """
    with services.database.begin() as connection:
        dates = links.creation_dates(connection, instance_id, link_ids)
    remaining = set(link_ids)
    described: dict[UUID, SeenLink] = {}
    missing: set[UUID] = set()

    def take(told: wire.PaymentLink | UnreadableItem, link_id: UUID | None) -> None:
        if link_id is None:
            return
        if link_id not in remaining:
            if link_id not in described and isinstance(told, wire.PaymentLink):
                with suppress(Unreadable):  # its own check will say so
                    others.append(seen_link(told, instance_id))
            return
        remaining.discard(link_id)
        try:
            if isinstance(told, UnreadableItem):
                raise Unreadable(Reason.LINK_WRONG_SHAPE, told.detail)
            described[link_id] = seen_link(told, instance_id)
        except Unreadable as why:
            unreadable[link_id][str(link_id)] = why.reason
            log.warning(
                "link_unreadable",
                instance_id=str(instance_id),
                payment_link_id=str(link_id),
                reason=why.reason,
                detail=why.detail,
            )

    if dates:
        moments = sorted({wire.instant_text(moment) for moment in dates.values()})
        most = services.settings.wix_in_max
        for start in range(0, len(moments), most):
            asked = {"createdDate": {"$in": moments[start : start + most]}}
            with suppress(TooManyPages):
                for page in services.wix.query_links(instance_id, filter=asked, pages_max=LINK_PAGES_MAX):
                    for told in page:
                        take(told, guid(told.id))
    if pages := (len(remaining) - len(dates.keys() & remaining)) // UNKNOWN_LINKS_PER_PAGE:
        with suppress(TooManyPages):
            for page in services.wix.query_links(
                instance_id, filter={}, sort=[("createdDate", "DESC")], pages_max=pages
            ):
                for told in page:
                    take(told, guid(told.id))
                if not remaining:
                    break
    for link_id in sorted(remaining):
        beat()
        try:
            take(services.wix.get_link(instance_id, link_id), link_id)
        except WixNotFound:
            missing.add(link_id)
    return described, frozenset(missing)
