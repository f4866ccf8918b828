"""What people asked for on the pages: written before it is done, and never changed but for the answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, update

from processor.domain.access import Account
from processor.store.tables import ActionRow


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


def answer(connection: Connection, action_id: int, status: int, *, made: str | None = None) -> None:
    """Write down what was answered, once. made: what the action made, as what it was about where it named nothing."""
    connection.execute(
        update(ActionRow)
        .where(ActionRow.action_id == action_id, ActionRow.status.is_(None))
        .values(status=status, object=func.coalesce(ActionRow.object, made))
    )
