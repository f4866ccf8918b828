"""Reconciliation runs: what each job looked at, found and cost."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, text

from processor import __version__
from processor.domain.discrepancy import AUTOMATION
from processor.domain.reconciliation import Outcome
from processor.domain.rerun import ControlTotals, Sum, Terms, sums_told
from processor.domain.rules import Rules
from processor.store.tables import ReconciliationRun

_SUMS = bindparam("sums", type_=ReconciliationRun.__table__.c.sums.type)


@dataclass(slots=True)
class Counts:
    """What a run counted so far. sums: by currency, what is booked and what Wix lists."""

    links: int = 0
    outcomes: Tally[Outcome] = field(default_factory=Tally)
    opened: int = 0
    resolved: int = 0
    sums: dict[str, tuple[Sum, Sum]] = field(default_factory=dict)

    def add(self, currency: str, booked: Sum, wix: Sum) -> None:
        """Add to the sums of one currency."""
        ours, theirs = self.sums.get(currency, (Sum(), Sum()))
        self.sums[currency] = (ours.plus(booked), theirs.plus(wix))


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a run decided. rule_set_version: None for the built-in rules. result_digest: SHA-256 of its lines."""

    cutoff_at: datetime
    rule_set_version: int | None
    result_digest: bytes


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
    conclusion: Conclusion | None = None,
) -> None:
    """Close a run. requests: answers of Wix by status. failed: why, None when it succeeded.

    conclusion: of one that decided and kept its evidence, None for others.
    """
    connection.execute(
        text("""
            UPDATE reconciliation_runs SET status = :status, reason = :reason, finished_at = :now,
                link_count = :links, wix_requests = :requests, matched = :matched, expected = :expected,
                recovered = :recovered, discrepant = :discrepant, opened = :opened, resolved = :resolved,
                sums = :sums, cutoff_at = :cutoff_at, rule_set_version = :rule_set_version,
                result_digest = :result_digest
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
            "sums": sums_told(counts.sums),
            "cutoff_at": conclusion.cutoff_at if conclusion else None,
            "rule_set_version": conclusion.rule_set_version if conclusion else None,
            "result_digest": conclusion.result_digest if conclusion else None,
        },
    )
    count(connection, "wix_responses", requests)


def narrow(connection: Connection, run_id: UUID, window_to: datetime) -> None:
    """Note that a run read its window up to here only; another goes on."""
    connection.execute(
        text("UPDATE reconciliation_runs SET window_to = :window_to WHERE run_id = :run_id"),
        {"run_id": run_id, "window_to": window_to},
    )


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run as it stands. discrepant: payments that need a decision. sums: as `reconciliation_runs` has them.

    None: not (yet) known, not of this kind of run, or not written by the release that ran it.
    """

    run_id: UUID
    instance_id: UUID
    kind: str
    status: str
    reason: str | None
    actor: str | None
    code_version: str
    started_at: datetime
    finished_at: datetime | None
    beat_at: datetime | None
    window_from: datetime | None
    window_to: datetime | None
    cutoff_at: datetime | None
    rule_set_version: int | None
    settling_seconds: float | None
    wix_requests: int
    link_count: int
    matched: int
    expected: int
    recovered: int
    discrepant: int
    opened: int
    resolved: int
    sums: dict[str, dict[str, Any]]
    result_digest: bytes | None

    def terms(self, rules: Rules) -> Terms:
        """What it decides by. rules: of its version."""
        return Terms(
            run_id=self.run_id,
            instance_id=self.instance_id,
            kind=self.kind,
            actor=self.actor or AUTOMATION,
            code_version=self.code_version,
            started_at=self.started_at,
            settling=timedelta(seconds=self.settling_seconds or 0.0),
            rules=rules,
            window=(self.window_from, self.window_to) if self.window_from and self.window_to else None,
        )

    @property
    def totals(self) -> ControlTotals:
        """Its control totals."""
        return ControlTotals(
            links=self.link_count,
            outcomes={
                Outcome.MATCHED: self.matched,
                Outcome.EXPECTED: self.expected,
                Outcome.RECOVERED: self.recovered,
                Outcome.DISCREPANT: self.discrepant,
            },
            sums={
                currency: (
                    Sum(told.get("booked_count", 0), Decimal(told["booked"])),
                    Sum(told.get("wix_count", 0), Decimal(told["wix"])),
                )
                for currency, told in self.sums.items()
            },
        )


_LINE = ", ".join(RunLine.__dataclass_fields__)


def find(connection: Connection, run_id: UUID) -> RunLine | None:
    """One run, None when there is no such one."""
    row = connection.execute(
        text(f"SELECT {_LINE} FROM reconciliation_runs WHERE run_id = :run_id"), {"run_id": run_id}
    ).one_or_none()
    return RunLine(*row) if row else None


def lines(
    connection: Connection,
    *,
    limit: int,
    instance_id: UUID | None = None,
    kind: str | None = None,
    status: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[RunLine]:
    """Runs that began in [since, until), the newest first; None for what does not matter."""
    asked = {
        "instance_id = :instance_id": instance_id,
        "kind = :kind": kind,
        "status = :status": status,
        "started_at >= :since": since,
        "started_at < :until": until,
    }
    wanted = {condition: value for condition, value in asked.items() if value is not None}
    where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
    rows = connection.execute(
        text(f"""
            SELECT {_LINE} FROM reconciliation_runs {where}
            ORDER BY started_at DESC, run_id LIMIT :limit"""),
        {**{condition.rpartition(":")[2]: value for condition, value in wanted.items()}, "limit": limit},
    )
    return [RunLine(*row) for row in rows]


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
