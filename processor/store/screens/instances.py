"""The app instances a person may choose from."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select

from processor.domain.access import Reach
from processor.store.screens.common import within
from processor.store.tables import AppInstance

CHOICES_MAX = 500


@dataclass(frozen=True, slots=True)
class Choice:
    """An app instance and how it stands."""

    instance_id: UUID
    status: str


def choices(connection: Connection, reach: Reach) -> list[Choice]:
    """Those that may be seen, at most CHOICES_MAX: installed ones first, then by when they were first seen."""
    row = AppInstance
    found = connection.execute(
        select(row.instance_id, row.status)
        .where(*within(row.instance_id, reach))
        .order_by(row.status != "installed", row.first_seen_at, row.instance_id)
        .limit(CHOICES_MAX)
    )
    return [Choice(*line) for line in found]
