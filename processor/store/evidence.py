"""The signed bodies of events, as they were received: kept by month, so that old months leave as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime, Uuid

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
