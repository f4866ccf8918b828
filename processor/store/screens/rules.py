"""The versions of the rules of reconciliation, in pages. They are of no single instance."""

from __future__ import annotations

from sqlalchemy import Connection, select

from processor.store.rules import RuleSetLine, lines
from processor.store.screens.keyset import Position, Slice, fetch
from processor.store.tables import RuleSet, RuleSetApproval


def versions(connection: Connection, *, at: Position | None) -> Slice[RuleSetLine]:
    """The newest first."""
    found = fetch(connection, lines(), [RuleSet.version], at=at)
    return Slice([RuleSetLine(*list(row)[:-1]) for row in found.items], found.before, found.after)


def waiting(connection: Connection, above: int, limit: int) -> list[RuleSetLine]:
    """Versions above this one that nobody approved, the newest first."""
    found = connection.execute(
        lines()
        .where(RuleSet.version > above, RuleSetApproval.version.is_(None))
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
