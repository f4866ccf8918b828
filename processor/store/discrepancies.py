"""Discrepancies: opened, seen again, resolved. One row for each difference however often it is seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, text

from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.store.tables import Discrepancy

_SIDES = bindparam("sides", type_=Discrepancy.__table__.c.sides.type)

CAUGHT_UP = "no longer differs"


def note(
    connection: Connection,
    instance_id: UUID,
    differences: Sequence[Difference],
    *,
    run_id: UUID,
    now: datetime,
) -> int:
    """Open a discrepancy for each difference, or note that an open one was seen again.

    Returns how many were opened.
    """
    opened = 0
    ordered = sorted(differences, key=lambda one: (one.payment_link_id, one.type, str(one.payment_id)))
    for one in ordered:
        opened += connection.execute(
            text("""
                INSERT INTO discrepancies AS d (discrepancy_id, instance_id, type, severity, state,
                    payment_link_id, payment_id, sides, amount_at_risk, currency, first_seen_at,
                    last_seen_at, first_run_id, last_run_id)
                VALUES (:id, :instance_id, :type, :severity, 'open', :link_id, :payment_id, :sides, :risk,
                    :currency, :now, :now, :run_id, :run_id)
                ON CONFLICT (instance_id, type, payment_link_id, payment_id) WHERE closed_at IS NULL
                DO UPDATE SET severity = excluded.severity, sides = excluded.sides,
                    amount_at_risk = excluded.amount_at_risk, currency = excluded.currency,
                    last_seen_at = GREATEST(d.last_seen_at, excluded.last_seen_at),
                    times_seen = d.times_seen + 1, last_run_id = excluded.last_run_id
                RETURNING CASE WHEN times_seen = 1 THEN 1 ELSE 0 END""").bindparams(_SIDES),
            {
                "id": uuid4(),
                "instance_id": instance_id,
                "type": one.type.value,
                "severity": one.severity.value,
                "link_id": one.payment_link_id,
                "payment_id": one.payment_id,
                "sides": one.sides,
                "risk": one.amount_at_risk,
                "currency": one.currency,
                "now": now,
                "run_id": run_id,
            },
        ).scalar_one()
    return opened


def open_types(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, frozenset[DiscrepancyType]]:
    """By link, the types of open discrepancies of the link itself, not of one of its payments."""
    rows = connection.execute(
        text("""
            SELECT payment_link_id, array_agg(type) AS types FROM discrepancies
            WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids) AND payment_id IS NULL
                AND closed_at IS NULL
            GROUP BY payment_link_id"""),
        {"instance_id": instance_id, "link_ids": list(link_ids)},
    )
    return {row.payment_link_id: frozenset(map(DiscrepancyType, row.types)) for row in rows}


def resolve_absent(
    connection: Connection,
    instance_id: UUID,
    link_ids: Collection[UUID],
    *,
    run_id: UUID,
    now: datetime,
) -> int:
    """Resolve open discrepancies of these links that run `run_id` did not see. Returns how many."""
    return connection.execute(
        text("""
            UPDATE discrepancies SET state = 'resolved', closed_at = :now, resolution = :resolution
            WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids)
                AND closed_at IS NULL AND last_run_id <> :run_id"""),
        {
            "instance_id": instance_id,
            "link_ids": list(link_ids),
            "run_id": run_id,
            "now": now,
            "resolution": CAUGHT_UP,
        },
    ).rowcount
