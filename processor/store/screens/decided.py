"""What was decided about the differences of a link or of a payment, for the pages that show that something differs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, func, or_, select, text

from processor.domain.discrepancy import DiscrepancyType, Reason
from processor.store import listings
from processor.store.listings import DiscrepancyLine, WriteOffLine
from processor.store.tables import Discrepancy, WriteOffRow, is_any_of

OF_LINK_MAX = 50  # that a page shows
LOOKED_MAX = 1_000  # discrepancies of one link
OF_TOTALS = (DiscrepancyType.TOTAL_DIFFERS.value, DiscrepancyType.COUNT_DIFFERS.value)
"""What the totals of a link beside each other come to."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A discrepancy that is open, written off or tolerated. off: its write-off, proposed or in force, else None."""

    one: DiscrepancyLine
    off: WriteOffLine | None


def with_write_offs(connection: Connection, lines: Sequence[DiscrepancyLine]) -> list[Decided]:
    """Discrepancies, each with its write-off that is proposed or in force."""
    row = WriteOffRow
    if not lines:
        return []
    found = connection.execute(
        select(*(getattr(row, name) for name in WriteOffLine.__dataclass_fields__)).where(
            is_any_of(row.discrepancy_id, [one.discrepancy_id for one in lines]),
            text("write_offs.status IN ('proposed', 'approved')"),
        )
    )
    offs = {line.discrepancy_id: WriteOffLine(*line) for line in found}
    return [Decided(one, offs.get(one.discrepancy_id)) for one in lines]


def of_link(connection: Connection, instance_id: UUID, link_id: UUID) -> list[Decided]:
    """Of a link and its payments: what is open, written off or tolerated. The open first, those of the link before.

    OF_LINK_MAX at most, of LOOKED_MAX that are looked at.
    """
    row = Discrepancy
    of_it = (
        select(row.discrepancy_id, row.closed_at, row.payment_id, row.opened_at, row.state, row.reason)
        .where(row.instance_id == instance_id, row.payment_link_id == link_id)
        .limit(LOOKED_MAX)
        .subquery("of_it")
    )
    standing = or_(
        of_it.c.closed_at.is_(None),
        of_it.c.state == "written_off",
        of_it.c.reason == Reason.WITHIN_TOLERANCE.value,
    )
    ids = (
        connection.execute(
            select(of_it.c.discrepancy_id)
            .where(standing)
            .order_by(
                of_it.c.closed_at.is_not(None),
                of_it.c.payment_id.is_not(None),
                of_it.c.opened_at.desc(),
                of_it.c.discrepancy_id,
            )
            .limit(OF_LINK_MAX)
        )
        .scalars()
        .all()
    )
    if not ids:
        return []
    lines = connection.execute(listings.discrepancy_lines().where(is_any_of(row.discrepancy_id, ids)))
    by_id = {line.discrepancy_id: DiscrepancyLine(*line) for line in lines}
    return with_write_offs(connection, [by_id[one] for one in ids])


def accepted(connection: Connection, instance_id: UUID, link_ids: Collection[UUID]) -> dict[UUID, str]:
    """How the difference of the totals of links was accepted, of those of which it was: `written_off` or `tolerated`.

    What is open of a link's totals besides is not accepted.
    """
    row = Discrepancy
    is_written_off = row.state == "written_off"
    found = connection.execute(
        select(row.payment_link_id, func.bool_or(is_written_off))
        .where(
            row.instance_id == instance_id,
            is_any_of(row.payment_link_id, link_ids),
            row.payment_id.is_(None),
            row.type.in_(OF_TOTALS),
            or_(row.closed_at.is_(None), is_written_off, row.reason == Reason.WITHIN_TOLERANCE.value),
        )
        .group_by(row.payment_link_id)
        .having(func.bool_and(row.closed_at.is_not(None)))
    )
    return {line[0]: "written_off" if line[1] else "tolerated" for line in found}
