"""What the screens of reconciliation runs show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, or_, select, text

from processor.domain.access import Reach
from processor.domain.discrepancy import AUTOMATION
from processor.store.runs import RunLine
from processor.store.screens.common import within
from processor.store.screens.keyset import Position, Slice
from processor.store.screens.sieve import Sifted, sift
from processor.store.tables import Discrepancy, ReconciliationRun, RunEvidence, is_any_of

KINDS = ("check", "sweep", "backfill")
STATUSES = ("running", "succeeded", "failed", "abandoned")
KEY_TYPES = (datetime, UUID)
PIECES_MAX = 200  # of the evidence of a run that are read for its page
LINES_BYTES_MAX = 500_000
SHOWN_MAX = 100
STEPS_MAX = 5_000
CLOCKS_APART = timedelta(minutes=1)  # of the machines on which runs begin, and step by step come to their end

_LINE = [getattr(ReconciliationRun, name) for name in RunLine.__dataclass_fields__]
# Of what a sweep read not every payment was the same on both sides. NULL where it read none.
_DIFFERS = text("""
    (SELECT sum(CAST(s.value ->> 'booked_count' AS bigint)) <> reconciliation_runs.matched
        OR sum(CAST(s.value ->> 'wix_count' AS bigint)) <> reconciliation_runs.matched
    FROM jsonb_each(reconciliation_runs.sums) s)""")


def runs(
    connection: Connection,
    reach: Reach,
    instance_id: UUID,
    *,
    kind: str | None = None,
    status: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    with_idle: bool = True,
    at: Position | None = None,
) -> Sifted[RunLine]:
    """Runs of an instance that began in [since, until), the newest first; None for what does not matter.

    with_idle: also what found nothing new, and was begun by nobody: checks that recovered, opened and closed nothing,
    sweeps and backfills that asked for no check, and each payment was as booked. What differs asks for no check where
    one found it before, or where it may still settle.
    """
    row = ReconciliationRun
    conditions: list[ColumnElement[bool]] = [
        row.instance_id == instance_id,
        *within(row.instance_id, reach),
    ]
    if since is not None:
        conditions.append(row.started_at >= since)
    if until is not None:
        conditions.append(row.started_at < until)
    sieve: list[ColumnElement[bool]] = [
        column == value for column, value in ((row.kind, kind), (row.status, status)) if value is not None
    ]
    if not with_idle:
        sieve.append(
            or_(
                row.status != "succeeded",
                row.actor != AUTOMATION,
                row.opened > 0,
                row.resolved > 0,
                row.recovered > 0,
                and_(row.kind != "check", row.link_count > 0),
                _DIFFERS,
            )
        )
    found = sift(connection, select(*_LINE).where(*conditions), sieve, (row.started_at, row.run_id), at=at)
    lines = [RunLine(*line[: len(_LINE)]) for line in found.page.items]
    return Sifted(Slice(lines, found.page.before, found.page.after), found.looked_to)


def run(connection: Connection, instance_id: UUID, run_id: UUID) -> RunLine | None:
    """One run, None when the instance has no such one."""
    row = ReconciliationRun
    found = connection.execute(
        select(*_LINE).where(row.run_id == run_id, row.instance_id == instance_id)
    ).one_or_none()
    return RunLine(*found) if found else None


@dataclass(frozen=True, slots=True)
class Decided:
    """What a run decided, of its first links. is_whole: whether that is all.

    links, differences, recovered: records of its export, as `domain.rerun` writes them, but with amounts as Decimal and
    times as datetime; `booked` and `listed` of a link are lists of currency, number and amount; what a recovered
    payment says is in it.
    """

    links: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    recovered: list[dict[str, Any]]
    is_whole: bool


def decided(connection: Connection, instance_id: UUID, run_id: UUID) -> Decided:
    """What a run decided, as far as it fits on a page."""
    row = RunEvidence
    pieces = connection.execute(
        text("""
            SELECT lines FROM (
                SELECT lines, part, payment_link_id, sum(length(lines)) OVER (ORDER BY part, payment_link_id) AS total
                FROM (SELECT lines, part, payment_link_id FROM run_evidence
                    WHERE run_id = :run_id AND instance_id = :instance_id
                    ORDER BY part, payment_link_id LIMIT :limit) AS first) AS counted
            WHERE total <= :bytes ORDER BY part, payment_link_id"""),
        {"run_id": run_id, "instance_id": instance_id, "limit": PIECES_MAX, "bytes": LINES_BYTES_MAX},
    ).scalars()
    found: dict[str, list[dict[str, Any]]] = {"link": [], "difference": [], "payment": []}
    read = 0
    for lines in pieces:
        read += 1
        for one in lines.splitlines():
            record = _read(json.loads(one))
            if record["record"] != "payment" or record["outcome"] == "recovered":
                found.setdefault(record["record"], []).append(record)
    all_pieces = connection.execute(
        select(row.part).where(row.run_id == run_id, row.instance_id == instance_id).limit(read + 1)
    ).all()
    cut = [found[name][:SHOWN_MAX] for name in ("link", "difference", "payment")]
    is_whole = len(all_pieces) <= read and all(len(one) <= SHOWN_MAX for one in found.values())
    return Decided(cut[0], cut[1], cut[2], is_whole)


def _read(record: dict[str, Any]) -> dict[str, Any]:
    """A record as a page needs it; see Decided."""
    match record["record"]:
        case "difference" if record["amount_at_risk"] is not None:
            record["amount_at_risk"] = Decimal(record["amount_at_risk"])
        case "link":
            for side in ("booked", "listed"):
                record[side] = [
                    (currency, number, Decimal(amount))
                    for currency, (number, amount) in sorted(record[side].items())
                ]
        case "payment":
            facts = record["wix"] or record["booked"] or {}
            created = facts.get("created_at")
            record |= {
                "amount": Decimal(facts["amount"]) if "amount" in facts else None,
                "currency": facts.get("currency"),
                "created_at": datetime.fromisoformat(created) if created else None,
            }
    return record


@dataclass(frozen=True, slots=True)
class Moved:
    """A step that a run made with a discrepancy. kind: of the step; state: how the discrepancy stands now."""

    discrepancy_id: UUID
    kind: str
    at: datetime
    type: str
    payment_link_id: UUID
    payment_id: UUID | None
    amount_at_risk: Decimal | None
    currency: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A discrepancy as it stands now. reason: why it was closed, None while it is open."""

    discrepancy_id: UUID
    state: str
    reason: str | None


def moved(connection: Connection, run: RunLine) -> tuple[list[Moved], bool]:
    """What a run did to discrepancies, in its order, and whether that is all: SHOWN_MAX of STEPS_MAX looked at.

    Steps have an index by when they were made; other runs and persons may have made some meanwhile.
    """
    rows = connection.execute(
        text("""
            SELECT s.discrepancy_id, s.kind, s.at, d.type, d.payment_link_id, d.payment_id, s.amount_at_risk,
                s.currency, d.state, s.looked
            FROM (SELECT discrepancy_id, kind, at, amount_at_risk, currency, run_id, step_id,
                    row_number() OVER (ORDER BY at, step_id) AS looked
                FROM discrepancy_steps
                WHERE instance_id = :instance_id AND at >= :since AND at <= :until
                ORDER BY at, step_id LIMIT :looked) AS s
            LEFT JOIN discrepancies d ON d.discrepancy_id = s.discrepancy_id AND s.run_id = :run_id
            WHERE s.run_id = :run_id OR s.looked = :looked
            ORDER BY s.at, s.step_id LIMIT :most"""),
        {
            "instance_id": run.instance_id,
            "run_id": run.run_id,
            "since": run.started_at - CLOCKS_APART,
            "until": (run.finished_at or run.beat_at or run.started_at) + CLOCKS_APART,
            "looked": STEPS_MAX,
            "most": SHOWN_MAX + 1,
        },
    ).all()
    is_whole = len(rows) <= SHOWN_MAX and all(row.looked < STEPS_MAX for row in rows)
    return [Moved(*row[:-1]) for row in rows if row.type is not None][:SHOWN_MAX], is_whole


def standings(
    connection: Connection, instance_id: UUID, differences: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str, str | None], Standing]:
    """How the discrepancies of differences stand now, by type, link and payment. differences: records of `decided`."""
    row = Discrepancy
    links = {UUID(one["payment_link_id"]) for one in differences}
    if not links:
        return {}
    found = connection.execute(
        select(row.type, row.payment_link_id, row.payment_id, row.discrepancy_id, row.state, row.reason)
        .where(row.instance_id == instance_id, is_any_of(row.payment_link_id, links))
        .limit(STEPS_MAX)
    )
    return {
        (
            one.type,
            str(one.payment_link_id),
            None if one.payment_id is None else str(one.payment_id),
        ): Standing(one.discrepancy_id, one.state, one.reason)
        for one in found
    }


def is_small(connection: Connection, instance_id: UUID, run_id: UUID) -> bool:
    """Whether what a run decided on can be decided again while somebody waits."""
    row = connection.execute(
        text("""
            SELECT count(*) AS pieces, COALESCE(sum(length(lines)), 0) AS bytes FROM (
                SELECT lines FROM run_evidence WHERE run_id = :run_id AND instance_id = :instance_id
                LIMIT :limit) AS first"""),
        {"run_id": run_id, "instance_id": instance_id, "limit": PIECES_MAX + 1},
    ).one()
    return bool(row.pieces <= PIECES_MAX and row.bytes <= LINES_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Polling:
    """How far the polling of an instance is; see `store.tables.Sweep`."""

    instance_id: UUID
    due_at: datetime
    window_from: datetime | None
    window_to: datetime | None
    position_at: datetime | None
    swept_to: datetime | None
    finished_at: datetime | None
    failures: int

    @property
    def share_done(self) -> float | None:
        """How much of the window under way was read, from 0 to 1; None between sweeps."""
        if self.window_from is None or self.window_to is None or self.position_at is None:
            return None
        span = self.window_to - self.window_from
        return (self.position_at - self.window_from) / span if span else 1.0


def polling(connection: Connection, instance_id: UUID) -> Polling | None:
    """How far the polling of an instance is, None when it is not polled (yet)."""
    row = connection.execute(
        text(
            f"SELECT {', '.join(Polling.__dataclass_fields__)} FROM sweeps WHERE instance_id = :instance_id"
        ),
        {"instance_id": instance_id},
    ).one_or_none()
    return Polling(*row) if row else None
