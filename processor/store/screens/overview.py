"""What the overview shows."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Connection, func, select

from processor.domain.access import Reach
from processor.store.screens.common import within
from processor.store.tables import Discrepancy


def open_at_risk(connection: Connection, reach: Reach) -> list[tuple[str | None, int, Decimal | None]]:
    """Of open discrepancies: currency, number and amount at risk, None where none is known."""
    row = Discrepancy
    found = connection.execute(
        select(row.currency, func.count(), func.sum(row.amount_at_risk))
        .where(row.closed_at.is_(None), *within(row.instance_id, reach))
        .group_by(row.currency)
        .order_by(row.currency)
    )
    return [(line[0], line[1], line[2]) for line in found]
