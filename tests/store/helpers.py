"""What tests of the store do again and again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from processor.store import inbox, instances
from processor.store.database import Database
from processor.wix.parse import parse_event
from tests.builders import INSTANCE, NOW, app_claims, sign


def delivery(claims: dict[str, Any]) -> inbox.Delivery:
    """A verified delivery of these claims."""
    token = sign(claims).decode()
    return inbox.Delivery(parse_event(claims), token, b"d" * 32)


class Way:
    """How `receive` stores: as the inbox does, or whatever it is by the statement for what may be known."""

    is_inbox = False


def receive(database: Database, claims: dict[str, Any], now: datetime = NOW) -> inbox.Stored:
    """Store one delivery."""
    if Way.is_inbox:
        with closing(inbox.Inbox(database, lambda: now, seconds=30, lanes=1, is_preparing=False)) as opened:
            return opened.store(delivery(claims))
    with database.begin() as connection:
        [stored] = inbox.record(connection, [delivery(claims)], now)
    return stored


def confirm(database: Database, instance_id: UUID = INSTANCE) -> None:
    """Let Wix vouch for the instance."""
    with database.begin() as connection:
        instances.confirm(connection, instance_id, NOW)


def install(database: Database, instance_id: UUID = INSTANCE, at: datetime = NOW) -> None:
    """Wix says AppInstalled."""
    receive(database, app_claims("AppInstalled", instance_id=instance_id, at=at))


def rows(database: Database, sql: str, **values: Any) -> Sequence[Any]:
    """What a statement returns."""
    with database.begin() as connection:
        return connection.execute(text(sql), values).all()


def one(database: Database, sql: str, **values: Any) -> Any:
    """The only row of a statement."""
    [row] = rows(database, sql, **values)
    return row


def lock_waits(database: Database) -> list[int]:
    """Process numbers of connections to this database that wait for a lock; other tests share its server."""
    found = rows(
        database,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    return [row.pid for row in found]
