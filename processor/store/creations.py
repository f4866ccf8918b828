"""Payment links asked for under a reference, so that no answer lost on the way makes two of one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, text

from processor.store.tables import LinkCreation, is_any_of


@dataclass(frozen=True, slots=True)
class Creation:
    """How a creation stands. lease_until: another process is at it until then; payment_link_id: once created."""

    status: str
    digest: bytes
    payment_link_id: UUID | None
    first_asked_at: datetime
    last_asked_at: datetime
    lease_until: datetime | None


_COLUMNS = [getattr(LinkCreation, name) for name in Creation.__dataclass_fields__]


def begin(
    connection: Connection,
    instance_id: UUID,
    reference: str,
    *,
    request: dict[str, Any],
    digest: bytes,
    now: datetime,
    lease: timedelta,
) -> Creation | None:
    """Write down what is asked, before Wix is. None when it is ours to ask, else how it stands, locked."""
    row = connection.execute(
        text("""
            INSERT INTO link_creations (instance_id, reference, request, digest, status, first_asked_at,
                last_asked_at, lease_until)
            VALUES (:instance_id, :reference, :request, :digest, 'asking', :now, :now, :until)
            ON CONFLICT DO NOTHING RETURNING 1""").bindparams(
            bindparam("request", type_=LinkCreation.__table__.c.request.type)
        ),
        {
            "instance_id": instance_id,
            "reference": reference,
            "request": request,
            "digest": digest,
            "now": now,
            "until": now + lease,
        },
    ).first()
    if row is not None:
        return None
    found = connection.execute(
        select(*_COLUMNS)
        .where(LinkCreation.instance_id == instance_id, LinkCreation.reference == reference)
        .with_for_update()
    ).one()
    return Creation(**{name: getattr(found, name) for name in Creation.__dataclass_fields__})


def ask_again(
    connection: Connection, instance_id: UUID, reference: str, *, now: datetime, lease: timedelta
) -> None:
    """Wix is about to be asked once more."""
    _update(
        connection,
        instance_id,
        reference,
        "status = 'asking', last_asked_at = GREATEST(last_asked_at, :now), lease_until = :until",
        now=now,
        until=now + lease,
    )


def hold(connection: Connection, instance_id: UUID, reference: str, until: datetime) -> None:
    """Be the only one who looks for the link or asks again, until the lease ends."""
    _update(
        connection,
        instance_id,
        reference,
        "status = 'asking', reason = NULL, finished_at = NULL, lease_until = :until",
        until=until,
    )


def leave_unclear(connection: Connection, instance_id: UUID, reference: str) -> None:
    """No answer came, or the link was not found yet."""
    _update(connection, instance_id, reference, "status = 'unclear', lease_until = NULL")


def refuse(connection: Connection, instance_id: UUID, reference: str, reason: str, now: datetime) -> None:
    """Wix made nothing, and said so."""
    _update(
        connection,
        instance_id,
        reference,
        "status = 'refused', reason = :reason, finished_at = :now, lease_until = NULL",
        reason=reason[:500],
        now=now,
    )


def finish(connection: Connection, instance_id: UUID, reference: str, link_id: UUID, now: datetime) -> None:
    """This is the link."""
    _update(
        connection,
        instance_id,
        reference,
        "status = 'created', payment_link_id = :link_id, finished_at = :now, lease_until = NULL, reason = NULL",
        link_id=link_id,
        now=now,
    )


def claimed(connection: Connection, instance_id: UUID, link_ids: Collection[UUID]) -> set[UUID]:
    """Which of these links were made under some reference already."""
    rows = connection.execute(
        select(LinkCreation.payment_link_id).where(
            LinkCreation.instance_id == instance_id, is_any_of(LinkCreation.payment_link_id, link_ids)
        )
    )
    return {link_id for (link_id,) in rows if link_id is not None}


def _update(
    connection: Connection, instance_id: UUID, reference: str, assignments: str, **values: Any
) -> None:
    connection.execute(
        text(
            f"UPDATE link_creations SET {assignments}"
            " WHERE instance_id = :instance_id AND reference = :reference"
        ),
        {"instance_id": instance_id, "reference": reference, **values},
    )
