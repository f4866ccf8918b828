"""What each side says of what differs: what was told, what is booked, and what Wix said to a check."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.payment import FACTS, Payment
from processor.store.payments import payment_from

PIECES_MAX = 500  # of the evidence of one run that are looked through
BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Sides:
    """told: by the newest webhook; booked: now. None for a side that knows nothing of the payment.

    wix: facts of the payment as Wix listed it to the check of `run_id`, by name, without what it did not say; empty
    when Wix did not list it. link: what that check compared of the link itself, see `domain.rerun`. Both None when the
    check kept nothing of them: what agrees is not kept, and runs of a release before kept nothing.
    """

    told: Payment | None
    booked: Payment | None
    wix: dict[str, Any] | None
    link: dict[str, Any] | None
    run_id: UUID


def sides(
    connection: Connection, instance_id: UUID, link_id: UUID, payment_id: UUID | None, run_id: UUID
) -> Sides:
    """What each side says. payment_id: None for a difference of the link itself. run_id: the check that saw it last."""
    told = booked = None
    if payment_id is not None:
        values = {"instance_id": instance_id, "payment_id": payment_id}
        where = "WHERE instance_id = :instance_id AND payment_id = :payment_id"
        columns = f"instance_id, payment_id, revision, {', '.join(FACTS)}"
        told = connection.execute(
            text(f"""
                SELECT {columns} FROM payment_tellings {where} AND origin = 'webhook'
                ORDER BY revision DESC, version_id DESC LIMIT 1"""),
            values,
        ).one_or_none()
        booked = connection.execute(text(f"SELECT {columns} FROM payments {where}"), values).one_or_none()
    record = _record(connection, instance_id, run_id, link_id, payment_id)
    return Sides(
        None if told is None else payment_from(told),
        None if booked is None else payment_from(booked),
        _facts(record["wix"] or {}) if record is not None and payment_id is not None else None,
        record if payment_id is None else None,
        run_id,
    )


def _record(
    connection: Connection, instance_id: UUID, run_id: UUID, link_id: UUID, payment_id: UUID | None
) -> dict[str, Any] | None:
    """What a run kept of a payment, or of the link itself; None when it kept nothing of it."""
    kind = "link" if payment_id is None else "payment"
    pieces = connection.execute(
        text("""
            SELECT lines FROM (
                SELECT e.lines, e.part, sum(length(e.lines)) OVER (ORDER BY e.part) AS total
                FROM (SELECT lines, part, payment_link_id FROM run_evidence
                    WHERE run_id = :run_id AND instance_id = :instance_id
                    ORDER BY part, payment_link_id LIMIT :pieces) e
                WHERE e.payment_link_id = :link_id) AS counted
            WHERE total <= :bytes AND strpos(lines, :about) > 0 ORDER BY part"""),
        {
            "run_id": run_id,
            "instance_id": instance_id,
            "link_id": link_id,
            "about": str(payment_id or link_id),
            "pieces": PIECES_MAX,
            "bytes": BYTES_MAX,
        },
    ).scalars()
    for lines in pieces:
        for one in lines.splitlines():
            record: dict[str, Any] = json.loads(one)
            if record["record"] == kind and (payment_id is None or record["payment_id"] == str(payment_id)):
                return record
    return None


def _facts(told: dict[str, Any]) -> dict[str, Any]:
    def read(name: str, value: Any) -> Any:
        if name == "amount":
            return Decimal(value)
        if name.endswith("_at"):
            return datetime.fromisoformat(value)
        return value

    return {name: read(name, value) for name, value in told.items()}
