"""The rules of reconciliation, version by version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from processor.domain.rules import BUILT_IN, Rules, RuleSet, parse
from processor.store.tables import RuleSet as RuleSetRow


@dataclass(frozen=True, slots=True)
class RuleSetLine:
    """One version. document: as `domain.rules.parse` reads it."""

    version: int
    created_at: datetime
    created_by: str
    comment: str | None
    document: dict[str, Any]


_COLUMNS = [getattr(RuleSetRow, name) for name in RuleSetLine.__dataclass_fields__]


def in_force(connection: Connection) -> Rules:
    """The newest version, or the built-in rules."""
    found = versions(connection, limit=1)
    return Rules(found[0].version, parse(found[0].document)) if found else BUILT_IN


def versions(connection: Connection, limit: int) -> list[RuleSetLine]:
    """The newest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(RuleSetRow.version.desc()).limit(limit))
    return [RuleSetLine(*row) for row in rows]


def add(
    connection: Connection, rule_set: RuleSet, *, created_by: str, comment: str | None, now: datetime
) -> int:
    """Put rules in force; returns their version."""
    document = msgspec.to_builtins(rule_set, str_keys=True)
    return int(
        connection.execute(
            insert(RuleSetRow)
            .values(document=document, created_by=created_by, comment=comment, created_at=now)
            .returning(RuleSetRow.version)
        ).scalar_one()
    )
