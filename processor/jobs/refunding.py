"""Events about refunds read: the intake stores them as it stores whatever it does not know."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import structlog

from processor.domain.refund import Refund, supersedes
from processor.errors import Unreadable
from processor.store import payments, refunds
from processor.wiring import Services
from processor.wix.parse import parse_claims, parse_refund
from processor.wix.signature import decode_segment

log = structlog.get_logger(__name__)

READ_MAX = 500  # events in one transaction
PARTS_MAX = 10  # transactions one after the other; what is left waits for the next tick, as do the checks


def read_refunds(services: Services) -> int:
    """Read events about refunds that nobody has read, and ask for a check of what they are about. Returns how many.

    At most PARTS_MAX times READ_MAX. Several at once share the events out between them.
    """
    total = 0
    for _ in range(PARTS_MAX):
        with services.database.begin() as connection:
            now = services.now()
            unread = refunds.lock_unread(connection, READ_MAX)
            if not unread:
                return total
            read = [_read(one) for one in unread]
            newest: dict[tuple[UUID, UUID], tuple[Refund, UUID]] = {}
            for one in read:
                if one.refund is None:
                    continue
                key = (one.refund.instance_id, one.refund.refund_id)
                if key not in newest or supersedes(one.refund, newest[key][0]):
                    newest[key] = (one.refund, one.event.event_id)
            refunds.save(connection, newest, now)
            refunds.note_read(connection, read)
            refunds.blank_of_erased(connection, read, now)
            told = {(one.refund.instance_id, one.refund.payment_id) for one in read if one.refund is not None}
            refunds.request_checks(connection, told, now)
        _blank(services, told)
        for one in read:
            if one.refund is None:
                log.warning(
                    "refund_unreadable",
                    instance_id=str(one.event.instance_id),
                    event_id=str(one.event.event_id),
                    reason=one.reason,
                )
        total += len(read)
    return total


def _blank(services: Services, told: Collection[tuple[UUID, UUID]]) -> None:
    """Blank what was just read of these payments, by instance and payment id, where their buyer was erased meanwhile.

    Each in a transaction of its own, which so holds nothing else while it waits for whoever erases the same buyer.
    """
    with services.database.begin() as connection:
        payment_ids = payments.not_surely_kept(connection, told)
    for instance_id, payment_id in payment_ids:
        with services.database.begin() as connection:
            payments.lock(connection, instance_id, payment_id)
            if payments.is_erased(connection, instance_id, payment_id):
                payments.erase(connection, instance_id, payment_id, services.now())


def _read(event: refunds.UnreadEvent) -> refunds.Read:
    if event.token is None:
        return refunds.Read(event, None, refunds.TOKEN_GONE)
    try:
        claims = parse_claims(decode_segment(event.token.split(".")[1].encode()))
        return refunds.Read(event, parse_refund(claims, received_at=event.received_at))
    except Unreadable as why:
        return refunds.Read(event, None, why.reason, why.detail)
