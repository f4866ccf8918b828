"""The rules of reconciliation, version by version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, Text, insert, literal, select, text

from processor.domain.rules import BUILT_IN, Rules, RuleSet, stored
from processor.store.tables import RuleSet as RuleSetRow
from processor.store.tables import RuleSetApproval, RuleSetEnding


@dataclass(frozen=True, slots=True)
class RuleSetLine:
    """One version. document: as `domain.rules.parse` reads it. approved_by, approved_at: None unless it was approved.

    ended: "withdrawn" or "rejected", by ended_by at ended_at for ending_reason; None while it is neither.
    """

    version: int
    created_at: datetime
    created_by: str
    comment: str | None
    document: dict[str, Any]
    approved_by: str | None
    approved_at: datetime | None
    ended: str | None = None
    ended_by: str | None = None
    ended_at: datetime | None = None
    ending_reason: str | None = None


_COLUMNS: list[Any] = [
    RuleSetRow.version,
    RuleSetRow.created_at,
    RuleSetRow.created_by,
    RuleSetRow.comment,
    RuleSetRow.document,
    RuleSetApproval.approved_by,
    RuleSetApproval.approved_at,
    RuleSetEnding.kind,
    RuleSetEnding.ended_by,
    RuleSetEnding.ended_at,
    RuleSetEnding.reason,
]


def in_force(connection: Connection) -> Rules:
    """The newest version that was approved, or the built-in rules."""
    row = RuleSetRow
    approval = RuleSetApproval
    found = connection.execute(
        select(row.version, row.document)
        .join(approval, approval.version == row.version)
        .order_by(row.version.desc())
        .limit(1)
    ).one_or_none()
    return stored(found.version, found.document) if found else BUILT_IN


def lines() -> Select[Any]:
    """The columns of a `RuleSetLine` of every version, to be narrowed down."""
    return (
        select(*_COLUMNS)
        .outerjoin_from(RuleSetRow, RuleSetApproval, RuleSetApproval.version == RuleSetRow.version)
        .outerjoin(RuleSetEnding, RuleSetEnding.version == RuleSetRow.version)
    )


def versions(connection: Connection, limit: int) -> list[RuleSetLine]:
    """The newest first."""
    rows = connection.execute(lines().order_by(RuleSetRow.version.desc()).limit(limit))
    return [RuleSetLine(*row) for row in rows]


def add(
    connection: Connection, rule_set: RuleSet, *, created_by: str, comment: str | None, now: datetime
) -> int:
    """Propose rules; returns their version. They are in force once `approve` says so."""
    document = msgspec.to_builtins(rule_set, str_keys=True)
    return int(
        connection.execute(
            insert(RuleSetRow)
            .values(document=document, created_by=created_by, comment=comment, created_at=now)
            .returning(RuleSetRow.version)
        ).scalar_one()
    )


def approve(connection: Connection, version: int, *, approved_by: str, now: datetime) -> None:
    """Put a version in force that is there, is not yet, and was proposed by another person."""
    connection.execute(
        insert(RuleSetApproval).from_select(
            ["version", "created_by", "approved_by", "approved_at"],
            select(RuleSetRow.version, RuleSetRow.created_by, literal(approved_by), literal(now)).where(
                RuleSetRow.version == version
            ),
        )
    )


def end(
    connection: Connection, version: int, kind: str, *, ended_by: str, reason: str | None, now: datetime
) -> None:
    """Let a version that waits never come into force. kind: "withdrawn" or "rejected"."""
    connection.execute(
        insert(RuleSetEnding).from_select(
            ["version", "created_by", "kind", "ended_by", "ended_at", "reason"],
            select(
                RuleSetRow.version,
                RuleSetRow.created_by,
                literal(kind),
                literal(ended_by),
                literal(now),
                literal(reason, Text),
            ).where(RuleSetRow.version == version),
        )
    )


def find(connection: Connection, version: int) -> RuleSetLine | None:
    """One version, None when there is no such one."""
    row = connection.execute(lines().where(RuleSetRow.version == version)).one_or_none()
    return RuleSetLine(*row) if row else None


def lock(connection: Connection) -> None:
    """Nobody else approves or turns down rules until the transaction ends."""
    connection.execute(text("LOCK TABLE rule_set_approvals IN SHARE ROW EXCLUSIVE MODE"))
