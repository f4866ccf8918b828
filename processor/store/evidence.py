"""The signed bodies of events, as they were received: kept by month, so that old months leave as a whole."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime, Uuid

from processor.store.tables import TokenArchive

TABLE = "webhook_event_tokens"
MONTHS_AHEAD = 2  # made before they are needed; what has no month goes to the default partition
# Two clocks make months one after the other. The number is "mon" in ASCII; any constant would do.
_ADVISORY_LOCK = 0x6D6F6E
_LOCK_SECONDS = 2

_TOKENS = text(f"""
    SELECT t.instance_id, t.event_id, t.token FROM {TABLE} t
    WHERE t.received_at = ANY(:times) AND t.event_id = ANY(:event_ids)""").bindparams(
    bindparam("times", type_=ARRAY(DateTime(timezone=True))), bindparam("event_ids", type_=ARRAY(Uuid()))
)


def tokens(
    connection: Connection, events: Iterable[tuple[UUID, UUID, datetime]]
) -> dict[tuple[UUID, UUID], str]:
    """Tokens by instance and event. events: instance, event, received_at.

    Missing: those erased, and those whose month was archived.
    """
    wanted = list(events)
    if not wanted:
        return {}
    rows = connection.execute(
        _TOKENS,
        {"times": list({at for _, _, at in wanted}), "event_ids": [event_id for _, event_id, _ in wanted]},
    )
    return {(row.instance_id, row.event_id): row.token for row in rows}


def month_of(at: datetime) -> datetime:
    """The first instant of a month, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(month: datetime) -> datetime:
    """The first instant of the month after `month`."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def partition_of(month: datetime) -> str:
    """The name of a month's partition."""
    return f"{TABLE}_{month:%Y_%m}"


def ensure_months(connection: Connection, now: datetime) -> list[str]:
    """Make the partitions of this month and of those ahead that are missing; returns their names.

    What the default partition holds of a month goes along. Raises StoreUnavailable (through the transaction) when
    the default partition is busy; nothing depends on the months but that they can be detached.
    """
    month = month_of(now)
    wanted = {}
    for _ in range(MONTHS_AHEAD + 1):
        wanted[partition_of(month)] = month
        month = month_after(month)
    missing = (
        connection.execute(
            text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NULL"),
            {"names": list(wanted)},
        )
        .scalars()
        .all()
    )
    if not missing:
        return []
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    made = []
    for name in sorted(missing):
        if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one() is not None:
            continue  # another clock was faster
        _make(connection, name, wanted[name])
        made.append(name)
    return made


def _make(connection: Connection, name: str, month: datetime) -> None:
    first, last = (f"'{at.isoformat()}'" for at in (month, month_after(month)))
    # Attached rather than made as a partition: that does not keep deliveries waiting.
    connection.execute(
        text(f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING STORAGE) WITH (toast_tuple_target = 8160)")
    )
    connection.execute(text(f"LOCK TABLE {TABLE}_default IN ACCESS EXCLUSIVE MODE"))
    connection.execute(
        text(f"""
            WITH moved AS (
                DELETE FROM {TABLE}_default WHERE received_at >= {first} AND received_at < {last} RETURNING *
            )
            INSERT INTO {name} SELECT * FROM moved""")
    )
    connection.execute(
        text(f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({last})")
    )


# -- Months that leave -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptToken:
    """A token as it is exported. token_digest: its SHA-256 as of its event, None when that is gone."""

    instance_id: UUID
    event_id: UUID
    received_at: datetime
    token: str
    token_digest: bytes | None


@dataclass(frozen=True, slots=True)
class Archived:
    """A month that left. is_there: its detached table was not dropped yet.

    erased: how many of its events were erased since, and so must leave the file as well.
    """

    month: date
    partition: str
    file_name: str
    file_digest: bytes
    event_count: int
    archived_at: datetime
    is_there: bool
    erased: int


def months_before(connection: Connection, end: datetime) -> list[datetime]:
    """The months that are attached and lie wholly before `end`, the oldest first."""
    names = connection.execute(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:table AS regclass)"),
        {"table": TABLE},
    ).scalars()
    starts = (name.removeprefix(f"{TABLE}_") for name in names if not name.endswith("_default"))
    months = [datetime.strptime(start, "%Y_%m").replace(tzinfo=UTC) for start in starts]
    return sorted(month for month in months if month_after(month) <= end)


def export(connection: Connection, month: datetime) -> Generator[KeptToken, None, None]:
    """Every token of a month, about in the order of receipt, with flat memory. Close it when you end early."""
    found = connection.execution_options(stream_results=True, yield_per=500).execute(
        text(f"""
            SELECT t.instance_id, t.event_id, t.received_at, t.token,
                (SELECT e.token_digest FROM webhook_events e
                    WHERE e.instance_id = t.instance_id AND e.event_id = t.event_id) AS token_digest
            FROM {partition_of(month)} t""")
    )
    with found as rows:
        for row in rows:
            yield KeptToken(row.instance_id, row.event_id, row.received_at, row.token, row.token_digest)


def detach(
    connection: Connection,
    month: datetime,
    *,
    file_name: str,
    file_digest: bytes,
    event_count: int,
    drop: bool,
    now: datetime,
) -> bool:
    """Take a month out of the table and note its archive; False, and nothing done, if it changed since the export.

    drop: the table goes altogether; else it stays under its name, apart.
    """
    name = partition_of(month)
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    connection.execute(text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
    if connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() != event_count:
        return False
    connection.execute(text(f"ALTER TABLE {TABLE} DETACH PARTITION {name}"))
    if drop:
        connection.execute(text(f"DROP TABLE {name}"))
    connection.execute(
        insert(TokenArchive).values(
            month=month.date(),
            partition=name,
            file_name=file_name,
            file_digest=file_digest,
            event_count=event_count,
            archived_at=now,
        )
    )
    return True


def archives(connection: Connection) -> list[Archived]:
    """Every month that left, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT a.month, a.partition, a.file_name, a.file_digest, a.event_count, a.archived_at,
                to_regclass(a.partition) IS NOT NULL AS is_there,
                (SELECT count(*) FROM webhook_events e
                    WHERE e.erased_at > a.archived_at
                        AND e.received_at >= a.month AT TIME ZONE 'UTC'
                        AND e.received_at < (a.month + interval '1 month') AT TIME ZONE 'UTC') AS erased
            FROM token_archives a ORDER BY a.month, a.archived_at""")
    )
    return [Archived(*row) for row in rows]


def restore(connection: Connection, kept: Sequence[KeptToken]) -> int:
    """Put tokens back for events that have none and were not erased; returns how many.

    One that is not the token its event was stored with is passed over.
    """
    values = [
        {
            "instance_id": str(one.instance_id),
            "event_id": str(one.event_id),
            "received_at": one.received_at.isoformat(),
            "token": one.token,
        }
        for one in kept
    ]
    return connection.execute(
        text(f"""
            INSERT INTO {TABLE} (instance_id, event_id, received_at, token)
            SELECT k.instance_id, k.event_id, k.received_at, k.token
            FROM jsonb_to_recordset(CAST(:kept AS jsonb))
                AS k (instance_id uuid, event_id uuid, received_at timestamptz, token text)
            JOIN webhook_events e USING (instance_id, event_id, received_at)
            WHERE e.erased_at IS NULL AND e.token IS NULL AND e.token_digest = sha256(convert_to(k.token, 'UTF8'))
                AND NOT EXISTS (
                    SELECT FROM {TABLE} t WHERE t.received_at = k.received_at AND t.event_id = k.event_id
                        AND t.instance_id = k.instance_id)"""),
        {"kept": json.dumps(values)},
    ).rowcount
