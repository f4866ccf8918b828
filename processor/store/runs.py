"""Reconciliation runs: what each job looked at, found and cost."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, text

from processor import __version__
from processor.domain.discrepancy import AUTOMATION
from processor.domain.reconciliation import Outcome
from processor.store.tables import ReconciliationRun

_SUMS = bindparam("sums", type_=ReconciliationRun.__table__.c.sums.type)


@dataclass(slots=True)
class Counts:
    """What a run counted so far. sums: by currency, (booked, wix)."""

    links: int = 0
    outcomes: Tally[Outcome] = field(default_factory=Tally)
    opened: int = 0
    resolved: int = 0
    sums: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)

    def add(self, currency: str, booked: Decimal, wix: Decimal) -> None:
        """Add to the sums of one currency."""
        ours, theirs = self.sums.get(currency, (Decimal(0), Decimal(0)))
        self.sums[currency] = (ours + booked, theirs + wix)


def start(
    connection: Connection,
    instance_id: UUID,
    kind: str,
    now: datetime,
    *,
    window: tuple[datetime, datetime] | None = None,
    actor: str = AUTOMATION,
    settling_seconds: float | None = None,
) -> UUID:
    """Record that a run of `kind` ("check", "sweep" or "backfill") begins; returns its id.

    actor: who started it, a person's name or `automation`. settling_seconds: of a run that decides, None for others.
    """
    run_id = uuid4()
    connection.execute(
        text("""
            INSERT INTO reconciliation_runs
                (run_id, instance_id, kind, status, started_at, beat_at, window_from, window_to, code_version, actor,
                settling_seconds)
            VALUES (:run_id, :instance_id, :kind, 'running', :now, :now, :window_from, :window_to, :version, :actor,
                :settling_seconds)"""),
        {
            "run_id": run_id,
            "instance_id": instance_id,
            "kind": kind,
            "now": now,
            "window_from": window[0] if window else None,
            "window_to": window[1] if window else None,
            "version": __version__,
            "actor": actor,
            "settling_seconds": settling_seconds,
        },
    )
    return run_id


def beat(connection: Connection, run_id: UUID, now: datetime) -> None:
    """Note that the run's worker is at it."""
    connection.execute(
        text("UPDATE reconciliation_runs SET beat_at = :now WHERE run_id = :run_id"),
        {"run_id": run_id, "now": now},
    )


def live(connection: Connection, instance_id: UUID, kind: str, since: datetime) -> int:
    """How many runs of the instance have a worker that was at it since then."""
    return int(
        connection.execute(
            text("""
                SELECT count(*) FROM reconciliation_runs
                WHERE status = 'running' AND instance_id = :instance_id AND kind = :kind AND beat_at >= :since"""),
            {"instance_id": instance_id, "kind": kind, "since": since},
        ).scalar_one()
    )


def finish(
    connection: Connection,
    run_id: UUID,
    counts: Counts,
    requests: Mapping[str, int],
    now: datetime,
    *,
    failed: str | None = None,
) -> None:
    """Close a run. requests: answers of Wix by status. failed: why, None when it succeeded."""
    connection.execute(
        text("""
            UPDATE reconciliation_runs SET status = :status, reason = :reason, finished_at = :now,
                link_count = :links, wix_requests = :requests, matched = :matched, expected = :expected,
                recovered = :recovered, discrepant = :discrepant, opened = :opened, resolved = :resolved,
                sums = :sums
            WHERE run_id = :run_id""").bindparams(_SUMS),
        {
            "run_id": run_id,
            "status": "failed" if failed else "succeeded",
            "reason": failed,
            "now": now,
            "links": counts.links,
            "requests": sum(requests.values()),
            "matched": counts.outcomes[Outcome.MATCHED],
            "expected": counts.outcomes[Outcome.EXPECTED],
            "recovered": counts.outcomes[Outcome.RECOVERED],
            "discrepant": counts.outcomes[Outcome.DISCREPANT],
            "opened": counts.opened,
            "resolved": counts.resolved,
            "sums": {
                currency: {"booked": str(booked), "wix": str(wix)}
                for currency, (booked, wix) in sorted(counts.sums.items())
            },
        },
    )
    count(connection, "wix_responses", requests)


def narrow(connection: Connection, run_id: UUID, window_to: datetime) -> None:
    """Note that a run read its window up to here only; another goes on."""
    connection.execute(
        text("UPDATE reconciliation_runs SET window_to = :window_to WHERE run_id = :run_id"),
        {"run_id": run_id, "window_to": window_to},
    )


def abandon(connection: Connection, before: datetime, now: datetime) -> int:
    """Close runs that never ended and that no worker was at since `before`: it died. Returns how many."""
    return connection.execute(
        text("""
            UPDATE reconciliation_runs SET status = 'abandoned', reason = 'worker died', finished_at = :now
            WHERE status = 'running' AND started_at < :before AND COALESCE(beat_at, started_at) < :before"""),
        {"before": before, "now": now},
    ).rowcount


def count(connection: Connection, name: str, values: Mapping[str, int]) -> None:
    """Add to counters kept by jobs, by label."""
    rows = [
        {"name": name, "label": label, "value": value} for label, value in sorted(values.items()) if value
    ]
    if rows:
        connection.execute(
            text("""
                INSERT INTO counters AS c (name, label, value) VALUES (:name, :label, :value)
                ON CONFLICT (name, label) DO UPDATE SET value = c.value + excluded.value"""),
            rows,
        )
