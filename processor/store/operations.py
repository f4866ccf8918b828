"""What operators and metrics ask of the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

CLOCK = "clock"
"""The process whose heartbeat says that what is due is looked for."""
# A process started anew within this time has not been away. A step of the machine's clock beyond it is a break as well.
BREAK = timedelta(minutes=5)


def beat(connection: Connection, process: str, now: datetime) -> datetime:
    """Note that a background process lives. Returns since when it has, without a break."""
    since: datetime = connection.execute(
        text("""
            INSERT INTO heartbeats AS h (process, beat_at, steady_since) VALUES (:process, :now, :now)
            ON CONFLICT (process) DO UPDATE SET beat_at = excluded.beat_at,
                steady_since = CASE WHEN h.steady_since <= excluded.beat_at
                        AND excluded.beat_at BETWEEN h.beat_at - CAST(:break AS interval)
                            AND h.beat_at + CAST(:break AS interval)
                    THEN h.steady_since ELSE excluded.beat_at END
            RETURNING h.steady_since"""),
        {"process": process, "now": now, "break": BREAK},
    ).scalar_one()
    return since


def last_beat(connection: Connection, process: str) -> datetime | None:
    """When the process last showed that it lives, None for never."""
    return connection.execute(
        text("SELECT beat_at FROM heartbeats WHERE process = :process"), {"process": process}
    ).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a worker. oldest_seconds: age of the longest due link or request, 0 for none.

    open_backfills: of installed instances, that are not through. sweep_seconds: how late the sweep is that is due the
    longest, 0 for none.
    """

    due_links: int
    waiting_requests: int
    held_events: int
    oldest_seconds: float
    open_backfills: int
    sweep_seconds: float


def backlog(connection: Connection, now: datetime) -> Backlog:
    """The work waiting, over all instances."""
    row = connection.execute(
        text("""
            -- Nothing is checked for a site that removed the app.
            WITH due AS (
                SELECT c.due_at FROM link_checks c JOIN app_instances a USING (instance_id)
                WHERE c.due_at <= :now AND a.status <> 'removed'
            )
            SELECT
                (SELECT count(*) FROM due) AS due_links,
                (SELECT count(*) FROM check_requests) AS waiting_requests,
                (SELECT count(*) FROM webhook_events WHERE status = 'held') AS held_events,
                GREATEST(0, EXTRACT(epoch FROM :now - LEAST(
                    (SELECT min(due_at) FROM due),
                    (SELECT min(requested_at) FROM check_requests)))) AS oldest,
                (SELECT count(*) FROM backfills b JOIN app_instances a USING (instance_id)
                    WHERE b.due_at IS NOT NULL AND a.status = 'installed') AS open_backfills,
                (SELECT GREATEST(0, EXTRACT(epoch FROM :now - min(s.due_at))) FROM sweeps s
                    JOIN app_instances a USING (instance_id) WHERE a.status = 'installed') AS sweep"""),
        {"now": now},
    ).one()
    return Backlog(
        row.due_links,
        row.waiting_requests,
        row.held_events,
        float(row.oldest or 0),
        row.open_backfills,
        float(row.sweep or 0),
    )


def counters(connection: Connection) -> list[tuple[str, str, int]]:
    """Counters kept by jobs: name, label, value."""
    rows = connection.execute(text("SELECT name, label, value FROM counters ORDER BY name, label"))
    return [(row.name, row.label, row.value) for row in rows]


def open_discrepancies(connection: Connection) -> list[tuple[str, str, int]]:
    """Open discrepancies over all instances: type, severity, number."""
    rows = connection.execute(
        text("""
            SELECT type, severity, count(*) AS number FROM discrepancies WHERE closed_at IS NULL
            GROUP BY type, severity ORDER BY type, severity""")
    )
    return [(row.type, row.severity, row.number) for row in rows]
