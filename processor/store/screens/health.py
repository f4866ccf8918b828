"""What the screen of settings and health shows of the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, select, text

from processor.domain.access import Reach
from processor.store.screens.common import within
from processor.store.tables import AlertDelivery, Silence, WixOutage

LINES_MAX = 50
TABLES_MAX = 12
GIVEN_UP_SHOWN = timedelta(days=30)
GIVEN_UP_MAX = 20  # of one channel


@dataclass(frozen=True, slots=True)
class SilenceLine:
    """A silence that lasts; see `store.tables.Silence`."""

    instance_id: UUID
    silent_since: datetime
    verdict: str
    payments_found: int
    verified_at: datetime | None


def silences(connection: Connection, reach: Reach) -> list[SilenceLine]:
    """Instances of which no event of a payment comes, confirmed ones first, at most LINES_MAX."""
    row = Silence
    found = connection.execute(
        select(row.instance_id, row.silent_since, row.verdict, row.payments_found, row.verified_at)
        .where(row.ended_at.is_(None), *within(row.instance_id, reach))
        .order_by(row.verdict != "silent", row.silent_since, row.instance_id)
        .limit(LINES_MAX)
    )
    return [SilenceLine(*line) for line in found]


def outages(connection: Connection, reach: Reach) -> list[tuple[UUID, datetime]]:
    """Instances about which Wix cannot be asked, and since when, the longest first, at most LINES_MAX."""
    row = WixOutage
    found = connection.execute(
        select(row.instance_id, row.since)
        .where(row.ended_at.is_(None), *within(row.instance_id, reach))
        .order_by(row.since, row.instance_id)
        .limit(LINES_MAX)
    )
    return [(line[0], line[1]) for line in found]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A message that was given up. last_error: without any secret."""

    delivery_id: UUID
    channel: str
    kind: str
    alert_count: int
    attempts: int
    ended_at: datetime | None
    last_error: str | None


def given_up(connection: Connection, channels: list[str], now: datetime) -> list[GivenUp]:
    """The latest messages of these channels that were given up lately, at most GIVEN_UP_MAX of each."""
    row = AlertDelivery
    lines: list[GivenUp] = []
    for channel in channels:
        found = connection.execute(
            select(*(getattr(row, name) for name in GivenUp.__dataclass_fields__))
            .where(row.channel == channel, row.status == "given_up", row.made_at > now - GIVEN_UP_SHOWN)
            .order_by(row.made_at.desc())
            .limit(GIVEN_UP_MAX)
        )
        lines += [GivenUp(*line) for line in found]
    return lines


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the whole database, and name, bytes and estimated rows (None: never counted) of its largest tables."""

    database: int
    tables: list[tuple[str, int, int | None]]


def sizes(connection: Connection) -> Sizes:
    """How large the database is. A partitioned table counts with its partitions."""
    whole = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    rows = connection.execute(
        text("""
            SELECT COALESCE(parent.relname, c.relname) AS name, sum(pg_total_relation_size(c.oid)) AS bytes,
                NULLIF(sum(GREATEST(c.reltuples, -1)), -count(*))::bigint AS rows
            FROM pg_class c
            LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
            LEFT JOIN pg_class parent ON parent.oid = i.inhparent
            WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
            GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :limit"""),
        {"limit": TABLES_MAX},
    )
    return Sizes(int(whole), [(row.name, int(row.bytes), row.rows) for row in rows])
