"""What the audit log shows: what people asked for on the pages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, false, select

from processor.domain.access import Reach
from processor.store.screens.common import within
from processor.store.screens.keyset import Position, Slice
from processor.store.screens.sieve import Sifted, sift
from processor.store.tables import ActionRow

KEY_TYPES = (datetime, int)


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


_LINE = [getattr(ActionRow, one.name) for one in fields(ActionLine)]


def actions(
    connection: Connection,
    reach: Reach,
    *,
    account_id: UUID | None = None,
    is_nobody: bool = False,
    action: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    at: Position | None = None,
) -> Sifted[ActionLine]:
    """Actions in [since, until), the newest first: those about the instances of `reach`, and with every one all.

    None for what does not matter; is_nobody: of an account that is none. Who sees some instances only is answered the
    same for an account that is none, and for one that did nothing there: also how far back was looked, which tells how
    much there is to look through, is then the same.
    """
    row = ActionRow
    conditions: list[ColumnElement[bool]] = []
    sieve: list[ColumnElement[bool]] = [*within(row.instance_id, reach)]
    if account_id is not None:
        (conditions if reach.instance_ids is None else sieve).append(row.account_id == account_id)
    if is_nobody:
        sieve.append(false())
    if since is not None:
        conditions.append(row.at >= since)
    if until is not None:
        conditions.append(row.at < until)
    if action is not None:
        sieve.append(row.action == action)
    found = sift(connection, select(*_LINE).where(*conditions), sieve, (row.at, row.action_id), at=at)
    lines = [ActionLine(*line[: len(_LINE)]) for line in found.page.items]
    return Sifted(Slice(lines, found.page.before, found.page.after), found.looked_to)
