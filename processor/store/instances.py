"""App instances: who they are, and whether Wix vouches for them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, text

from processor.store.tables import AppInstance


def status(connection: Connection, instance_id: UUID) -> str | None:
    """`unconfirmed`, `installed` or `removed`; None for an instance never seen."""
    return connection.execute(
        select(AppInstance.status).where(AppInstance.instance_id == instance_id)
    ).scalar_one_or_none()


def lock(connection: Connection, instance_id: UUID) -> None:
    """Let nobody else who asks for this lock go on for the instance until the transaction ends."""
    connection.execute(
        text("SELECT FROM app_instances WHERE instance_id = :instance_id FOR NO KEY UPDATE"),
        {"instance_id": instance_id},
    )


def note(connection: Connection, instance_id: UUID, now: datetime) -> bool:
    """Know of an instance from now on. Whether it was unknown; a check of one of its links then confirms it."""
    added = connection.execute(
        text("""
            INSERT INTO app_instances (instance_id, first_seen_at) VALUES (:instance_id, :now)
            ON CONFLICT DO NOTHING"""),
        {"instance_id": instance_id, "now": now},
    )
    return added.rowcount == 1


def confirm(connection: Connection, instance_id: UUID, now: datetime) -> None:
    """Note that Wix gave us access to the instance, and poll it from now on."""
    connection.execute(
        text("""
            INSERT INTO app_instances AS a (instance_id, first_seen_at, confirmed_at)
            VALUES (:instance_id, :now, :now)
            ON CONFLICT (instance_id) DO UPDATE SET confirmed_at = COALESCE(a.confirmed_at, :now)"""),
        {"instance_id": instance_id, "now": now},
    )
    connection.execute(
        text("INSERT INTO sweeps (instance_id, due_at) VALUES (:instance_id, :now) ON CONFLICT DO NOTHING"),
        {"instance_id": instance_id, "now": now},
    )
