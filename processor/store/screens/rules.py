"""The versions of the rules of reconciliation, in pages. They are of no single instance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, func, select

from processor.domain.discrepancy import DiscrepancyType
from processor.domain.rules import TOLERABLE
from processor.store.rules import RuleSetLine, lines
from processor.store.screens.keyset import Position, Slice, fetch
from processor.store.tables import Discrepancy, RuleSet, RuleSetApproval, RuleSetEnding


def versions(connection: Connection, *, at: Position | None) -> Slice[RuleSetLine]:
    """The newest first."""
    found = fetch(connection, lines(), [RuleSet.version], at=at)
    return Slice([RuleSetLine(*list(row)[:-1]) for row in found.items], found.before, found.after)


def waiting(
    connection: Connection, above: int, limit: int, *, not_by: str | None = None
) -> list[RuleSetLine]:
    """Versions above this one that nobody approved or turned down, the newest first. not_by: of others than this."""
    of_others = [] if not_by is None else [func.lower(RuleSet.created_by) != func.lower(not_by)]
    found = connection.execute(
        lines()
        .where(RuleSet.version > above, RuleSetApproval.version.is_(None), RuleSetEnding.version.is_(None))
        .where(*of_others)
        .order_by(RuleSet.version.desc())
        .limit(limit)
    )
    return [RuleSetLine(*row) for row in found]


def in_force_before(connection: Connection, version: int) -> RuleSetLine | None:
    """The version that was in force when this one came, or would come, into force. None: the built-in rules."""
    approval = RuleSetApproval
    number = (
        select(approval.version)
        .where(approval.version < version)
        .order_by(approval.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    row = connection.execute(lines().where(RuleSet.version == number)).one_or_none()
    return RuleSetLine(*row) if row else None


@dataclass(frozen=True, slots=True)
class OpenDifference:
    """An open discrepancy of a type that rules can tolerate. opened_at: since when it has been open."""

    type: DiscrepancyType
    amount_at_risk: Decimal | None
    currency: str | None
    opened_at: datetime


def open_differences(connection: Connection, most: int) -> tuple[list[OpenDifference], bool]:
    """Those of the first `most` open discrepancies that rules can tolerate, and whether more are open."""
    row = Discrepancy
    first = (
        select(row.type, row.amount_at_risk, row.currency, row.opened_at)
        .where(row.closed_at.is_(None))
        .order_by(row.instance_id, row.first_seen_at)
        .limit(most + 1)
    )
    found = connection.execute(first).all()
    return [
        OpenDifference(DiscrepancyType(one.type), one.amount_at_risk, one.currency, one.opened_at)
        for one in found[:most]
        if one.type in _TOLERABLE
    ], len(found) > most


_TOLERABLE = frozenset(one.value for one in TOLERABLE)
