"""Payment links that were sent: written before Wix is asked, and once more when it has answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from processor.store.tables import LinkSend


@dataclass(frozen=True, slots=True)
class Send:
    """One sending; see `store.tables.LinkSend`."""

    asked_at: datetime
    actor: str
    door: str
    contact_ids: list[str] | None
    methods: list[str]
    outcome: str
    reason: str | None
    answered_at: datetime | None


_COLUMNS = [getattr(LinkSend, one.name) for one in fields(Send)]


def begin(
    connection: Connection,
    instance_id: UUID,
    payment_link_id: UUID,
    *,
    reference: UUID,
    actor: str,
    door: str,
    contact_ids: Sequence[str] | None,
    methods: Sequence[str],
    now: datetime,
) -> int | None:
    """Write down that a link is about to be sent; returns the number, None when the reference was used before.

    contact_ids: None for those whom the link names.
    """
    return connection.execute(
        insert(LinkSend)
        .values(
            reference=reference,
            instance_id=instance_id,
            payment_link_id=payment_link_id,
            asked_at=now,
            actor=actor,
            door=door,
            contact_ids=None if contact_ids is None else list(contact_ids),
            methods=list(methods),
            outcome="asking",
        )
        .on_conflict_do_nothing(index_elements=[LinkSend.reference])
        .returning(LinkSend.send_id)
    ).scalar_one_or_none()


def finish(
    connection: Connection, send_id: int, outcome: str, *, reason: str | None = None, now: datetime
) -> None:
    """Write down how a sending ended: `sent`, or `refused` or `unclear` with the reason."""
    connection.execute(
        update(LinkSend)
        .where(LinkSend.send_id == send_id)
        .values(outcome=outcome, reason=reason, answered_at=now)
    )


def of_link(connection: Connection, instance_id: UUID, payment_link_id: UUID, limit: int) -> list[Send]:
    """The latest sendings of a link, the newest first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(LinkSend.instance_id == instance_id, LinkSend.payment_link_id == payment_link_id)
        .order_by(LinkSend.send_id.desc())
        .limit(limit)
    )
    return [Send(*row) for row in rows]
