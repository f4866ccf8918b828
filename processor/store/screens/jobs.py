"""What the screen of jobs shows of the database: what is due is there, whatever the queue holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.access import Reach

INSTANCES_MAX = 100
COUNTED_MAX = 1_000  # of one instance


@dataclass(frozen=True, slots=True)
class DueLine:
    """What is due of an instance. due_links: at most COUNTED_MAX; open_backfills: that are not through.

    oldest_at: since when its longest due link has been due, None when none is. sweep_at: when it is swept next, and how
    often in a row Wix could not be asked.
    """

    instance_id: UUID
    due_links: int
    oldest_at: datetime | None
    sweep_at: datetime
    is_sweeping: bool
    sweep_failures: int
    open_backfills: int


def due(connection: Connection, reach: Reach, now: datetime) -> list[DueLine]:
    """Installed instances by when they are swept next, the longest due first, at most INSTANCES_MAX."""
    rows = connection.execute(
        text(f"""
            WITH first AS MATERIALIZED (
                SELECT s.instance_id, s.due_at, s.window_from IS NOT NULL AS is_sweeping, s.failures
                FROM sweeps s JOIN app_instances a USING (instance_id)
                WHERE a.status = 'installed'
                    AND (CAST(:ids AS uuid[]) IS NULL OR s.instance_id = ANY(CAST(:ids AS uuid[])))
                ORDER BY s.due_at, s.instance_id LIMIT {INSTANCES_MAX}
            )
            SELECT f.instance_id, l.number, l.oldest_at, f.due_at, f.is_sweeping, f.failures,
                (SELECT count(*) FROM backfills b WHERE b.instance_id = f.instance_id AND b.due_at IS NOT NULL)
            FROM first f CROSS JOIN LATERAL (
                SELECT count(*) AS number, min(due_at) AS oldest_at FROM (
                    SELECT c.due_at FROM link_checks c WHERE c.instance_id = f.instance_id AND c.due_at <= :now
                    ORDER BY c.due_at LIMIT {COUNTED_MAX}) AS longest) l
            ORDER BY f.due_at, f.instance_id"""),
        {"ids": None if reach.instance_ids is None else list(reach.instance_ids), "now": now},
    )
    return [DueLine(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class BeatLine:
    """A process of the background, when it last showed that it lives, and since when without a break."""

    process: str
    beat_at: datetime
    steady_since: datetime | None


def beats(connection: Connection) -> list[BeatLine]:
    """Every process that ever showed itself."""
    rows = connection.execute(
        text("SELECT process, beat_at, steady_since FROM heartbeats ORDER BY process LIMIT 100")
    )
    return [BeatLine(*row) for row in rows]
