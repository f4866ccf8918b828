"""What people asked for on the pages: written before it is done, and never changed but for the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, update

from processor.domain.access import Account, Reach
from processor.store.tables import ActionRow, is_any_of


@dataclass(frozen=True, slots=True)
class ActionLine:
    """What was asked for; see `store.tables.ActionRow`."""

    action_id: int
    at: datetime
    actor: str | None
    action: str
    instance_id: UUID | None
    object: str | None
    detail: dict[str, Any]
    request_id: str
    status: int | None


def note(
    connection: Connection,
    account: Account | None,
    action: str,
    *,
    request_id: str,
    now: datetime,
    instance_id: UUID | None = None,
    about: str | None = None,
    detail: Mapping[str, Any] | None = None,
    status: int | None = None,
) -> int:
    """Write down what was asked for; returns its number. detail: never personal, never secret."""
    return connection.execute(
        insert(ActionRow)
        .values(
            at=now,
            account_id=account and account.account_id,
            actor=account and account.name,
            action=action,
            instance_id=instance_id,
            object=about,
            detail=dict(detail or {}),
            request_id=request_id,
            status=status,
        )
        .returning(ActionRow.action_id)
    ).scalar_one()


def answer(connection: Connection, action_id: int, status: int) -> None:
    """Write down what was answered, once."""
    connection.execute(
        update(ActionRow)
        .where(ActionRow.action_id == action_id, ActionRow.status.is_(None))
        .values(status=status)
    )


def actions(
    connection: Connection,
    reach: Reach,
    *,
    limit: int,
    actor: str | None = None,
    before: tuple[datetime, int] | None = None,
) -> list[ActionLine]:
    """Actions, the newest first: those about the instances of `reach`, and with every instance those about none.

    before: only those that came before that (at, action_id).
    """
    row = ActionRow
    conditions = []
    if reach.instance_ids is not None:
        conditions.append(is_any_of(row.instance_id, reach.instance_ids))
    if actor is not None:
        conditions.append(row.actor == actor)
    if before is not None:
        conditions.append(func.row(row.at, row.action_id) < func.row(*before))
    found = connection.execute(
        select(*[getattr(row, name) for name in ActionLine.__dataclass_fields__])
        .where(*conditions)
        .order_by(row.at.desc(), row.action_id.desc())
        .limit(limit)
    )
    return [ActionLine(*line) for line in found]
