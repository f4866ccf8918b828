"""Alerts: written with the change they tell of, given to the channels later, delivered until they are taken.

`tell` is for whoever changes something; everything else here is for `jobs.alerting`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.alert import SEVERITIES, Alert, AlertKind
from processor.domain.discrepancy import Severity

# -- Raising ---------------------------------------------------------------------------------------


def tell(
    connection: Connection,
    kind: AlertKind,
    *,
    instance_id: UUID | None,
    subject: str,
    change: str,
    document: Mapping[str, Any],
    now: datetime,
    severity: Severity | None = None,
) -> bool:
    """Raise one alert in the caller's transaction. False when this change was told before.

    subject: what it is about, such as an instance's id. change: which of its changes, such as when an outage began.
    document: what whoever is told gets, as JSON can hold it, amounts and times as text; never personal. severity: None
    for that of the kind.
    """
    alert = Alert(
        kind=kind,
        instance_id=instance_id,
        subject=subject,
        change=change,
        severity=severity or SEVERITIES[kind],
        document=dict(document),
    )
    return tell_all(connection, [alert], now) == 1


def tell_all(connection: Connection, alerts: Sequence[Alert], now: datetime) -> int:
    """Raise many, in one statement. Returns how many were not told before."""
    if not alerts:
        return 0
    rows = [
        {
            "kind": one.kind,
            "instance_id": str(one.instance_id) if one.instance_id else None,
            "subject": one.subject,
            "change": one.change,
            "severity": one.severity,
            "document": one.document,
        }
        for one in alerts
    ]
    return connection.execute(
        text("""
            INSERT INTO alerts (instance_id, at, kind, severity, subject, change, document)
            SELECT r.instance_id, :now, r.kind, r.severity, r.subject, r.change, r.document
            FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (instance_id uuid, kind text, severity text,
                subject text, change text, document jsonb)
            -- In one order, or two that tell the same would wait for each other.
            ORDER BY r.subject, r.kind, r.change
            ON CONFLICT (subject, kind, change) DO NOTHING"""),
        {"now": now, "rows": json.dumps(rows)},
    ).rowcount
