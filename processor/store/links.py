"""Payment links as Wix last described them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, text

from processor.domain.link import Link, SeenLink
from processor.store.tables import PaymentLinkRow, is_any_of

_FIELDS = tuple(Link.__dataclass_fields__)
_KEY = ("instance_id", "payment_link_id")

# A query that lags behind brings an older revision back, and its status with it: that is no step.
_IS_STEP = "l.status <> excluded.status AND COALESCE(excluded.revision > l.revision, true)"
_SAVE = text(f"""
    INSERT INTO payment_links AS l ({", ".join(_FIELDS)}, rest, seen_at, inactive_since)
    VALUES ({", ".join(f":{name}" for name in _FIELDS)}, :rest, :seen_at,
        CASE WHEN :status = 'INACTIVE' THEN CAST(:seen_at AS timestamptz) END)
    ON CONFLICT (instance_id, payment_link_id) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in _FIELDS if name not in _KEY)},
        rest = excluded.rest, seen_at = excluded.seen_at, missing_since = NULL,
        inactive_since = CASE WHEN excluded.status = 'INACTIVE' THEN COALESCE(l.inactive_since, excluded.seen_at) END,
        previous_status = CASE WHEN {_IS_STEP} THEN l.status ELSE l.previous_status END,
        status_changed_at = CASE WHEN {_IS_STEP} THEN excluded.seen_at ELSE l.status_changed_at END
    -- Two checks may read the same link: the later reading stands.
    WHERE l.seen_at <= excluded.seen_at""").bindparams(
    bindparam("rest", type_=PaymentLinkRow.__table__.c.rest.type)
)


def save(connection: Connection, seen: Sequence[SeenLink], now: datetime) -> None:
    """Store how Wix describes these links at `now`."""
    rows = [
        {name: getattr(one.link, name) for name in _FIELDS} | {"rest": one.rest, "seen_at": now}
        for one in sorted(seen, key=lambda one: one.link.payment_link_id)
    ]
    if rows:
        connection.execute(_SAVE, rows)


def mark_missing(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID], now: datetime
) -> None:
    """Note that Wix does not know these links (any more)."""
    connection.execute(
        text("""
            UPDATE payment_links SET missing_since = COALESCE(missing_since, :now)
            WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)"""),
        {"instance_id": instance_id, "link_ids": list(link_ids), "now": now},
    )


def creation_dates(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, datetime]:
    """When each known link was created: the only filter by which Wix lists a given link."""
    rows = connection.execute(
        select(PaymentLinkRow.payment_link_id, PaymentLinkRow.created_at).where(
            PaymentLinkRow.instance_id == instance_id,
            is_any_of(PaymentLinkRow.payment_link_id, link_ids),
            PaymentLinkRow.created_at.is_not(None),
        )
    )
    return {row.payment_link_id: row.created_at for row in rows if row.created_at is not None}


def inactive_since(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, datetime]:
    """By link, when it was first seen deactivated, of those that are since."""
    rows = connection.execute(
        select(PaymentLinkRow.payment_link_id, PaymentLinkRow.inactive_since).where(
            PaymentLinkRow.instance_id == instance_id,
            is_any_of(PaymentLinkRow.payment_link_id, link_ids),
            PaymentLinkRow.inactive_since.is_not(None),
        )
    )
    return {row.payment_link_id: row.inactive_since for row in rows if row.inactive_since is not None}


def previous_statuses(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, str]:
    """By link, the status that Wix gave before the present one, of those that had another."""
    rows = connection.execute(
        select(PaymentLinkRow.payment_link_id, PaymentLinkRow.previous_status).where(
            PaymentLinkRow.instance_id == instance_id,
            is_any_of(PaymentLinkRow.payment_link_id, link_ids),
            PaymentLinkRow.previous_status.is_not(None),
        )
    )
    return {row.payment_link_id: row.previous_status for row in rows if row.previous_status is not None}
