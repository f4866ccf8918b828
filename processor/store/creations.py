"""Payment links asked for under a reference, so that no answer lost on the way makes two of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, text

from processor.store.tables import LinkCreation, is_any_of

# A lease that ends later than this was written under a clock since set back.
FAR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Creation:
    """How a creation stands. lease_until: a process was at it until then; payment_link_id: once created."""

    status: str
    digest: bytes
    payment_link_id: UUID | None
    first_asked_at: datetime
    last_asked_at: datetime
    lease_until: datetime | None

    def is_held(self, now: datetime) -> bool:
        """Whether a process is at it."""
        return self.lease_until is not None and now < self.lease_until < now + FAR

    def asked_until(self, now: datetime) -> datetime:
        """When Wix was last asked, at the latest: a process that died asking may have done so until its lease ended."""
        if self.status != "asking" or self.lease_until is None:
            return self.last_asked_at
        return max(self.last_asked_at, min(self.lease_until, now))


_COLUMNS = [getattr(LinkCreation, name) for name in Creation.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class Hold:
    """One process' hold on a creation. Whoever lost it to another changes nothing any more."""

    instance_id: UUID
    reference: str
    lease_id: UUID


def begin(
    connection: Connection,
    hold: Hold,
    *,
    request: dict[str, Any],
    digest: bytes,
    now: datetime,
    until: datetime,
) -> Creation | None:
    """Write down what is asked, before Wix is. None when it is ours to ask, else how it stands, locked."""
    row = connection.execute(
        text("""
            INSERT INTO link_creations (instance_id, reference, request, digest, status, first_asked_at,
                last_asked_at, lease_id, lease_until)
            VALUES (:instance_id, :reference, :request, :digest, 'asking', :now, :now, :lease_id, :until)
            ON CONFLICT DO NOTHING RETURNING 1""").bindparams(
            bindparam("request", type_=LinkCreation.__table__.c.request.type)
        ),
        {**_named(hold), "request": request, "digest": digest, "now": now, "until": until},
    ).first()
    return None if row is not None else _locked(connection, hold)


def begin_anew(
    connection: Connection,
    hold: Hold,
    *,
    request: dict[str, Any],
    digest: bytes,
    now: datetime,
    until: datetime,
) -> None:
    """Ask under a reference that Wix refused: nothing was made, so this request may be another.

    The row is locked and `refused`.
    """
    connection.execute(
        text("""
            UPDATE link_creations SET status = 'asking', reason = NULL, finished_at = NULL,
                request = :request, digest = :digest, lease_id = :lease_id, lease_until = :until,
                -- What an earlier try for the same content may have left is looked for, too.
                first_asked_at = CASE WHEN digest = :digest THEN LEAST(first_asked_at, :now) ELSE :now END,
                last_asked_at = CASE WHEN digest = :digest THEN GREATEST(last_asked_at, :now) ELSE :now END
            WHERE instance_id = :instance_id AND reference = :reference""").bindparams(
            bindparam("request", type_=LinkCreation.__table__.c.request.type)
        ),
        {**_named(hold), "request": request, "digest": digest, "now": now, "until": until},
    )


def take(connection: Connection, hold: Hold, *, asked_until: datetime, until: datetime) -> None:
    """Be the only one who looks for the link. The row is locked, and nobody holds it."""
    connection.execute(
        text("""
            UPDATE link_creations SET status = 'looking', reason = NULL, finished_at = NULL,
                last_asked_at = :asked_until, lease_id = :lease_id, lease_until = :until
            WHERE instance_id = :instance_id AND reference = :reference"""),
        {**_named(hold), "asked_until": asked_until, "until": until},
    )


def extend(connection: Connection, hold: Hold, until: datetime) -> bool:
    """Hold on to it. False when another process took it over."""
    return _held(connection, hold, "lease_until = :until", until=until)


def ask(connection: Connection, hold: Hold, *, now: datetime, until: datetime) -> bool:
    """Wix is about to be asked once more. False when another process took it over."""
    return _held(
        connection,
        hold,
        "status = 'asking', last_asked_at = GREATEST(last_asked_at, :now), lease_until = :until",
        now=now,
        until=until,
    )


def leave_unclear(connection: Connection, hold: Hold, *, asked_at: datetime | None = None) -> None:
    """No answer came, or the link was not found yet. asked_at: until when Wix may have got our request."""
    _held(
        connection,
        hold,
        "status = 'unclear', lease_id = NULL, lease_until = NULL,"
        " last_asked_at = GREATEST(last_asked_at, :asked_at)",
        asked_at=asked_at,
    )


def refuse(connection: Connection, hold: Hold, reason: str, now: datetime) -> None:
    """Wix made nothing, and said so."""
    _held(
        connection,
        hold,
        "status = 'refused', reason = :reason, finished_at = :now, lease_id = NULL, lease_until = NULL",
        reason=reason[:500],
        now=now,
    )


@dataclass(frozen=True, slots=True)
class End:
    """What came of Wix's answer. other_link_id: what somebody else gave to this reference meanwhile; there are two.

    is_taken_back: another reference had found the link and taken it for its own; that one is unclear again.
    is_of_another_request: the reference stands for another request by now, and the link was not given to it.
    """

    other_link_id: UUID | None = None
    is_taken_back: bool = False
    is_of_another_request: bool = False


def finish(connection: Connection, hold: Hold, link_id: UUID, *, digest: bytes, now: datetime) -> End:
    """Wix answered with this link: it is ours, whoever holds the creation by now.

    Unless the reference was freed by a refusal meanwhile and taken for a request of another digest.
    """
    _one_at_a_time(connection, hold.instance_id)
    known = _locked(connection, hold)
    if known.digest != digest:
        return End(is_of_another_request=True)
    if known.payment_link_id is not None:
        return End(other_link_id=known.payment_link_id if known.payment_link_id != link_id else None)
    taken_back = connection.execute(
        text("""
            UPDATE link_creations SET status = 'unclear', payment_link_id = NULL, finished_at = NULL
            WHERE instance_id = :instance_id AND payment_link_id = :link_id"""),
        {"instance_id": hold.instance_id, "link_id": link_id},
    )
    connection.execute(
        text(f"""
            UPDATE link_creations SET {_CREATED}
            WHERE instance_id = :instance_id AND reference = :reference"""),
        {**_named(hold), "link_id": link_id, "now": now},
    )
    return End(is_taken_back=taken_back.rowcount > 0)


_CREATED = (
    "status = 'created', payment_link_id = :link_id, finished_at = :now, reason = NULL,"
    " lease_id = NULL, lease_until = NULL"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of looking. link_id: taken for ours, None for none; rival_until: somebody else may own it.

    is_lost: another process took the creation over.
    """

    link_id: UUID | None = None
    rival_until: datetime | None = None
    is_lost: bool = False


def take_found(connection: Connection, hold: Hold, link_ids: Sequence[UUID], now: datetime) -> Found:
    """Take the first of these links that no other reference has. They have the content of the request.

    Not while the same content is being asked for under another reference: it may be that one's link.
    """
    _one_at_a_time(connection, hold.instance_id)
    known = _locked(connection, hold)
    rivals = connection.execute(
        select(LinkCreation.lease_until).where(
            LinkCreation.instance_id == hold.instance_id,
            LinkCreation.reference != hold.reference,
            LinkCreation.digest == known.digest,
            LinkCreation.status == "asking",
            LinkCreation.lease_until > now,
            LinkCreation.lease_until < now + FAR,
        )
    )
    free = nobodys(connection, hold.instance_id, link_ids)
    if not free:
        return Found()
    if (until := max((row.lease_until for row in rivals), default=None)) is not None:
        return Found(rival_until=until)
    if not _held(connection, hold, _CREATED, link_id=free[0], now=now):
        return Found(is_lost=True)
    return Found(free[0])


def nobodys(connection: Connection, instance_id: UUID, link_ids: Sequence[UUID]) -> list[UUID]:
    """Those of the links that no reference has."""
    taken = connection.execute(
        select(LinkCreation.payment_link_id).where(
            LinkCreation.instance_id == instance_id, is_any_of(LinkCreation.payment_link_id, link_ids)
        )
    )
    others = {row.payment_link_id for row in taken}
    return [link_id for link_id in link_ids if link_id not in others]


def _one_at_a_time(connection: Connection, instance_id: UUID) -> None:
    """Until the transaction ends nobody else gives a link of the instance to a reference."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('link_creations ' || :instance_id, 0))"),
        {"instance_id": str(instance_id)},
    )


def _locked(connection: Connection, hold: Hold) -> Creation:
    found = connection.execute(
        select(*_COLUMNS)
        .where(LinkCreation.instance_id == hold.instance_id, LinkCreation.reference == hold.reference)
        .with_for_update()
    ).one()
    return Creation(**{name: getattr(found, name) for name in Creation.__dataclass_fields__})


def _held(connection: Connection, hold: Hold, assignments: str, **values: Any) -> bool:
    """Change the creation if we still hold it. False when we do not."""
    changed = connection.execute(
        text(f"""
            UPDATE link_creations SET {assignments}
            WHERE instance_id = :instance_id AND reference = :reference AND lease_id = :lease_id"""),
        {**_named(hold), **values},
    )
    return changed.rowcount == 1


def _named(hold: Hold) -> dict[str, Any]:
    return {"instance_id": hold.instance_id, "reference": hold.reference, "lease_id": hold.lease_id}
