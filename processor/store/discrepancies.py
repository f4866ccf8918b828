"""Discrepancies: one row for each difference however often it is seen, and a step for whatever happens to it.

What follows from what is decided by `domain.discrepancy`; here the rows are locked, and what was decided is written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from processor.domain import discrepancy as domain
from processor.domain.alert import Alert, severity_of, told_by
from processor.domain.discrepancy import (
    AUTOMATION,
    REASONS,
    Action,
    ApproveWriteOff,
    Difference,
    DiscrepancyType,
    ProposeWriteOff,
    Reason,
    Severity,
    Standing,
    State,
    Step,
    StepKind,
    WriteOff,
)
from processor.domain.rules import BUILT_IN, Rules, tolerate
from processor.errors import NotAllowed
from processor.store import alerts

BATCH = 500  # rows locked and written at once
_DATED = """COALESCE(
    CASE WHEN {row}.type = 'refund_on_order_only' THEN (SELECT max(f.occurred_at) FROM refunds f
        WHERE f.instance_id = {row}.instance_id AND f.payment_id = {row}.payment_id AND f.status = 'SUCCEEDED') END,
    (SELECT COALESCE(p.transaction_at, p.created_at) FROM payments p
        WHERE p.instance_id = {row}.instance_id AND p.payment_id = {row}.payment_id))"""
"""When the payment of a row was made, or refunded where that is what differs; NULL when there is none, or no date."""


@dataclass(frozen=True, slots=True)
class Held:
    """A discrepancy locked until the transaction ends. write_off_id: of the write-off proposed or in force."""

    discrepancy_id: UUID
    instance_id: UUID
    standing: Standing
    opened_at: datetime
    write_off_id: UUID | None


def _held(row: Any) -> Held:
    write_off = (
        WriteOff(row.write_off_amount, Reason(row.write_off_reason), row.proposed_by)
        if row.write_off_id
        else None
    )
    standing = Standing(
        difference=Difference(
            type=DiscrepancyType(row.type),
            payment_link_id=row.payment_link_id,
            payment_id=row.payment_id,
            severity=Severity(row.severity),
            sides=row.sides,
            amount_at_risk=row.amount_at_risk,
            currency=row.currency,
        ),
        state=State(row.state),
        owner=row.owner,
        reason=Reason(row.reason) if row.reason else None,
        proposed=write_off if row.write_off_status == "proposed" else None,
        written_off=write_off if row.write_off_status == "approved" else None,
    )
    return Held(row.discrepancy_id, row.instance_id, standing, row.opened_at, row.write_off_id)


def _read(connection: Connection, discrepancy_ids: Collection[UUID]) -> list[Held]:
    """Those that exist, by id. They are locked already: what stands beside a row is as new as the row."""
    rows = connection.execute(
        text("""
            SELECT d.discrepancy_id, d.instance_id, d.type, d.severity, d.state, d.payment_link_id, d.payment_id,
                d.sides, d.amount_at_risk, d.currency, d.owner, d.reason, d.opened_at,
                w.write_off_id, w.amount AS write_off_amount, w.reason AS write_off_reason,
                w.status AS write_off_status, w.proposed_by
            FROM discrepancies d
            LEFT JOIN write_offs w ON w.discrepancy_id = d.discrepancy_id AND w.status IN ('proposed', 'approved')
            WHERE d.discrepancy_id = ANY(:ids) ORDER BY d.discrepancy_id"""),
        {"ids": list(discrepancy_ids)},
    )
    return [_held(row) for row in rows]


# -- What checks see -------------------------------------------------------------------------------


def note(
    connection: Connection,
    instance_id: UUID,
    differences: Sequence[Difference],
    *,
    run_id: UUID,
    now: datetime,
    rules: Rules = BUILT_IN,
) -> int:
    """Open a discrepancy for each difference, or note that a known one was seen again. No two are of one identity.

    Returns how many were opened or reopened, and need a decision.
    """
    ordered = sorted(differences, key=lambda one: (one.payment_link_id, one.type, str(one.payment_id)))
    opened = 0
    for start in range(0, len(ordered), BATCH):
        opened += _note(connection, instance_id, ordered[start : start + BATCH], run_id, now, rules)
    return opened


_Identity = tuple[DiscrepancyType, UUID, UUID | None]
_Moved = tuple[Held, tuple[Step, ...]]


def _identity(difference: Difference) -> _Identity:
    return difference.type, difference.payment_link_id, difference.payment_id


def _note(
    connection: Connection,
    instance_id: UUID,
    differences: Sequence[Difference],
    run_id: UUID,
    now: datetime,
    rules: Rules,
) -> int:
    wanted = {_identity(one): one for one in differences}
    # Opened first: what is new is then known, and what another check was faster with is locked like the rest.
    new = _open(connection, instance_id, differences, run_id, now)
    known = _lock(
        connection, instance_id, wanted.keys() - {_identity(one.standing.difference) for one in new}
    )
    connection.execute(
        # Its payment may have another date now. Mostly it has not, and no index is written.
        text(f"""
            UPDATE discrepancies d SET last_seen_at = GREATEST(last_seen_at, :now), times_seen = times_seen + 1,
                last_run_id = :run_id, aged_from = COALESCE({_DATED.format(row="d")}, d.opened_at)
            WHERE discrepancy_id = ANY(:ids)"""),
        {"now": now, "run_id": run_id, "ids": [one.discrepancy_id for one in known]},
    )
    opened = {one.discrepancy_id for one in new}
    moved: list[_Moved] = []
    for one in (*new, *known):
        difference = wanted[_identity(one.standing.difference)]
        tolerated = tolerate(difference, rules, opened_at=one.opened_at, now=now)
        anew = tolerate(difference, rules, opened_at=now, now=now)
        if one.discrepancy_id in opened:
            steps = domain.opened(difference, tolerated)
        else:
            steps = domain.seen(one.standing, difference, tolerated, tolerated_anew=anew)
        moved.append((one, steps))
    _write(connection, moved, actor=AUTOMATION, now=now, run_id=run_id, rule_set_version=rules.version)
    return sum(
        any(step.kind in (StepKind.OPENED, StepKind.REOPENED) for step in steps)
        and not steps[-1].after.is_closed
        for _, steps in moved
    )


def _open(
    connection: Connection, instance_id: UUID, differences: Iterable[Difference], run_id: UUID, now: datetime
) -> list[Held]:
    """Rows for the differences that have none yet."""
    records = [
        {
            "id": str(uuid4()),
            "instance_id": str(instance_id),
            "type": one.type.value,
            "severity": one.severity.value,
            "link_id": str(one.payment_link_id),
            "payment_id": str(one.payment_id) if one.payment_id else None,
            "sides": one.sides,
            "risk": _plain(one.amount_at_risk),
            "currency": one.currency,
        }
        for one in differences
    ]
    made = connection.execute(
        text(f"""
            INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id,
                sides, amount_at_risk, currency, first_seen_at, last_seen_at, opened_at, first_run_id, last_run_id,
                aged_from)
            SELECT r.id, r.instance_id, r.type, r.severity, 'open', r.link_id, r.payment_id, r.sides, r.risk,
                r.currency, :now, :now, :now, :run_id, :run_id, COALESCE({_DATED.format(row="r")}, :now)
            FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS r (id uuid, instance_id uuid, type text, severity text,
                link_id uuid, payment_id uuid, sides jsonb, risk numeric, currency text)
            ORDER BY r.link_id, r.type, r.payment_id
            ON CONFLICT (instance_id, type, payment_link_id, payment_id) DO NOTHING
            RETURNING *, NULL AS write_off_id, NULL AS write_off_status"""),
        {"now": now, "run_id": run_id, "records": json.dumps(records)},
    )
    return [_held(row) for row in made]


def _lock(connection: Connection, instance_id: UUID, identities: Iterable[_Identity]) -> list[Held]:
    """The rows of these differences, locked in one order."""
    asked = sorted(identities, key=str)
    whole = [(type_, link_id) for type_, link_id, payment_id in asked if payment_id is None]
    single = [one for one in asked if one[2] is not None]
    # One probe of the key for each, whatever the planner believes of the table: a link may have very many. IS NOT
    # DISTINCT FROM is no condition for an index, so only the key, which begins with the payment, can serve it.
    rows = connection.execute(
        text("""
            SELECT discrepancy_id FROM discrepancies WHERE discrepancy_id = ANY(ARRAY(
                SELECT k.discrepancy_id
                FROM unnest(CAST(:types AS text[]), CAST(:links AS uuid[]), CAST(:payments AS uuid[]))
                    AS t (type, link_id, payment_id)
                CROSS JOIN LATERAL (
                    SELECT d.discrepancy_id FROM discrepancies d
                    WHERE d.payment_id = t.payment_id AND d.type = t.type AND d.payment_link_id = t.link_id
                        AND d.instance_id IS NOT DISTINCT FROM :instance_id
                    OFFSET 0) AS k
                UNION ALL
                SELECT k.discrepancy_id
                FROM unnest(CAST(:whole_types AS text[]), CAST(:whole_links AS uuid[])) AS t (type, link_id)
                CROSS JOIN LATERAL (
                    SELECT d.discrepancy_id FROM discrepancies d
                    WHERE d.payment_id IS NULL AND d.type = t.type AND d.payment_link_id = t.link_id
                        AND d.instance_id IS NOT DISTINCT FROM :instance_id
                    OFFSET 0) AS k))
            ORDER BY discrepancy_id FOR UPDATE"""),
        {
            "instance_id": instance_id,
            "types": [one[0].value for one in single],
            "links": [one[1] for one in single],
            "payments": [one[2] for one in single],
            "whole_types": [one[0].value for one in whole],
            "whole_links": [one[1] for one in whole],
        },
    )
    return _read(connection, rows.scalars().all())


def open_types(
    connection: Connection, instance_id: UUID, link_ids: Collection[UUID]
) -> dict[UUID, frozenset[DiscrepancyType]]:
    """By link, the types of open discrepancies of the link itself, not of one of its payments."""
    rows = connection.execute(
        text("""
            SELECT payment_link_id, array_agg(type) AS types FROM discrepancies
            WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids) AND payment_id IS NULL
                AND closed_at IS NULL AND type = ANY(:known)
            GROUP BY payment_link_id"""),
        {"instance_id": instance_id, "link_ids": list(link_ids), "known": _KNOWN},
    )
    return {row.payment_link_id: frozenset(map(DiscrepancyType, row.types)) for row in rows}


def resolve_absent(
    connection: Connection,
    instance_id: UUID,
    link_ids: Collection[UUID],
    *,
    run_id: UUID,
    now: datetime,
    unknown: Collection[DiscrepancyType] = (),
    lease_id: UUID | None = None,
) -> int:
    """Close every discrepancy of these links that run `run_id` did not see, whatever was decided. Returns how many.

    unknown: types the run could not look for; they stay as they are. So do types this release does not know, which a
    newer one beside it may have opened, and whatever is of a payment that the check of `lease_id` found listed and
    could not read.
    """
    resolved = 0
    last = UUID(int=0)
    while True:
        rows = connection.execute(
            text("""
                SELECT discrepancy_id FROM discrepancies
                WHERE instance_id = :instance_id AND payment_link_id = ANY(:link_ids) AND last_run_id <> :run_id
                    AND (closed_at IS NULL OR state = 'written_off' OR reason = 'within_tolerance')
                    AND type = ANY(:known) AND discrepancy_id > :last
                    AND NOT EXISTS (
                        SELECT FROM listed_payments l
                        WHERE l.lease_id = :lease_id AND l.payment_link_id = discrepancies.payment_link_id
                            AND l.payment_id = discrepancies.payment_id AND l.reason IS NOT NULL)
                ORDER BY discrepancy_id LIMIT :limit FOR UPDATE"""),
            {
                "instance_id": instance_id,
                "link_ids": list(link_ids),
                "run_id": run_id,
                "lease_id": lease_id,
                "known": [one for one in _KNOWN if one not in unknown],
                "last": last,
                "limit": BATCH,
            },
        )
        ids = rows.scalars().all()
        if not ids:
            return resolved
        held = _read(connection, ids)
        moved = [(one, domain.absent(one.standing)) for one in held]
        _write(connection, moved, actor=AUTOMATION, now=now, run_id=run_id)
        resolved += sum(bool(steps) for _, steps in moved)
        last = ids[-1]


_KNOWN = [one.value for one in DiscrepancyType]


# -- What persons do -------------------------------------------------------------------------------


def act(
    connection: Connection, held: Held, action: Action, *, actor: str, rules: Rules, now: datetime
) -> Step:
    """Do it, in the caller's transaction. Raises NotAllowed."""
    if not rules.is_readable and isinstance(action, ProposeWriteOff | ApproveWriteOff):
        raise NotAllowed(
            f"version {rules.version} of the rules was put in force by another release, and this one cannot read what"
            " may be written off: upgrade, or set rules that it can read"
        )
    step = domain.act(held.standing, action, actor=actor, limits=rules.rule_set.write_off_limits)
    _write(connection, [(held, (step,))], actor=actor, now=now, run_id=None, rule_set_version=rules.version)
    return step


def lock(connection: Connection, discrepancy_ids: Collection[UUID]) -> list[Held]:
    """Those that exist, locked until the transaction ends."""
    rows = connection.execute(
        text("""
            SELECT discrepancy_id FROM discrepancies WHERE discrepancy_id = ANY(:ids)
            ORDER BY discrepancy_id FOR UPDATE"""),
        {"ids": list(discrepancy_ids)},
    )
    return _read(connection, rows.scalars().all())


def last_step(connection: Connection, discrepancy_id: UUID) -> int | None:
    """The number of its newest step, None when it has none."""
    found: int | None = connection.execute(
        text("SELECT max(step_id) FROM discrepancy_steps WHERE discrepancy_id = :id"), {"id": discrepancy_id}
    ).scalar_one()
    return found


# -- Writing ---------------------------------------------------------------------------------------


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _write(
    connection: Connection,
    moved: Sequence[_Moved],
    *,
    actor: str,
    now: datetime,
    run_id: UUID | None,
    rule_set_version: int | None = None,
) -> None:
    """Write the steps, each row as its last step leaves it, and what persons are told of it.

    Sets of any size are four statements, or fewer.
    """
    moved = [(held, steps) for held, steps in moved if steps]
    if not moved:
        return
    values = {"actor": actor, "now": now, "run_id": run_id, "version": rule_set_version}
    rows = [_row(held, steps) for held, steps in moved]
    connection.execute(
        text(f"""
            UPDATE discrepancies d SET severity = r.severity, state = r.state, sides = r.sides,
                amount_at_risk = r.risk, currency = r.currency, owner = r.owner, reason = r.reason,
                resolution = r.resolution, rule_set_version = r.version, rules = r.rules,
                closed_at = CASE WHEN NOT r.is_closed THEN NULL WHEN r.reopened > 0 THEN :now
                    ELSE COALESCE(d.closed_at, :now) END,
                times_reopened = d.times_reopened + r.reopened,
                opened_at = CASE WHEN r.is_new_life THEN :now ELSE d.opened_at END,
                aged_from = CASE WHEN r.is_new_life THEN COALESCE({_DATED.format(row="d")}, :now) ELSE d.aged_from END
            FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (id uuid, severity text, state text, sides jsonb,
                risk numeric, currency text, owner text, reason text, resolution text, version bigint,
                rules text, is_closed boolean, reopened bigint, is_new_life boolean,
                is_decided boolean)
            WHERE d.discrepancy_id = r.id AND r.is_decided"""),
        {"now": now, "rows": json.dumps(rows)},
    )
    written = connection.execute(
        text("""
            INSERT INTO discrepancy_steps (discrepancy_id, instance_id, at, kind, actor, run_id, rule_set_version,
                state, severity, sides, amount_at_risk, currency, owner, reason, amount, comment, evidence)
            SELECT r.id, r.instance_id, :now, r.kind, :actor, :run_id, COALESCE(r.version, :version), r.state,
                r.severity, r.sides, r.risk, r.currency, r.owner, r.reason, r.amount, r.comment, r.evidence
            FROM jsonb_to_recordset(CAST(:steps AS jsonb)) AS r (number bigint, id uuid, instance_id uuid, kind text,
                state text, severity text, sides jsonb, risk numeric, currency text, owner text, reason text,
                amount numeric, comment text, evidence text, version bigint)
            ORDER BY r.number
            RETURNING step_id, discrepancy_id, kind"""),
        values
        | {
            "steps": json.dumps(
                [
                    {"number": number, **one}
                    for number, one in enumerate(_step(held, step) for held, steps in moved for step in steps)
                ]
            )
        },
    )
    # A kind of step comes once in the steps of one discrepancy.
    numbers = {(row.discrepancy_id, row.kind): row.step_id for row in written}
    alerts.tell_all(connection, _alerts(moved, numbers), now)
    for held, steps in moved:
        for step in steps:
            _write_write_off(connection, held, step, actor, now)


def _alerts(moved: Sequence[_Moved], numbers: Mapping[tuple[UUID, str], int]) -> list[Alert]:
    """What the steps change for a person. numbers: of the steps, by discrepancy and kind."""
    found: list[Alert] = []
    for held, steps in moved:
        told = told_by(held.standing, steps)
        if told is None:
            continue
        kind, step = told
        difference = step.after.difference
        found.append(
            Alert(
                kind=kind,
                instance_id=held.instance_id,
                subject=str(held.discrepancy_id),
                change=str(numbers[held.discrepancy_id, step.kind]),
                severity=severity_of(kind, step),
                # Neither who decided nor what was said: that stays here.
                document={
                    "discrepancy_id": str(held.discrepancy_id),
                    "type": difference.type,
                    "state": step.after.state,
                    "payment_link_id": str(difference.payment_link_id),
                    "payment_id": str(difference.payment_id) if difference.payment_id else None,
                    "amount_at_risk": _plain(difference.amount_at_risk),
                    "currency": difference.currency,
                    "sides": difference.sides,
                    "reason": step.reason,
                },
            )
        )
    return found


_UNDECIDED = frozenset((StepKind.OPENED, StepKind.COMMENTED, StepKind.EVIDENCE_ADDED))


def _row(held: Held, steps: Sequence[Step]) -> dict[str, Any]:
    """The row after its last step. is_decided: whether anything of it changed."""
    last = steps[-1]
    return _after(held, last.after) | {
        "reason": last.reason if last.after.is_closed else None,
        "resolution": (last.comment or REASONS[last.reason])
        if last.after.is_closed and last.reason
        else None,
        "version": last.tolerated.version if last.tolerated else None,
        "rules": last.tolerated.rules if last.tolerated else None,
        "is_closed": last.after.is_closed,
        "is_new_life": domain.is_new_life(held.standing)
        and any(step.kind is StepKind.REOPENED for step in steps),
        "reopened": sum(step.kind is StepKind.REOPENED for step in steps),
        "is_decided": any(step.kind not in _UNDECIDED for step in steps),
    }


def _after(held: Held, standing: Standing) -> dict[str, Any]:
    difference = standing.difference
    return {
        "id": str(held.discrepancy_id),
        "severity": difference.severity,
        "state": standing.state,
        "sides": difference.sides,
        "risk": _plain(difference.amount_at_risk),
        "currency": difference.currency,
        "owner": standing.owner,
    }


def _step(held: Held, step: Step) -> dict[str, Any]:
    return _after(held, step.after) | {
        "instance_id": str(held.instance_id),
        "kind": step.kind,
        "reason": step.reason,
        "amount": _plain(step.write_off.amount) if step.write_off else None,
        "comment": step.comment,
        "evidence": step.evidence,
        "version": step.tolerated.version if step.tolerated else None,
    }


_ENDS = {
    StepKind.WRITE_OFF_REJECTED: "rejected",
    StepKind.WRITE_OFF_WITHDRAWN: "withdrawn",
    StepKind.WRITE_OFF_VOIDED: "voided",
}


_TAKE_BACK = frozenset((StepKind.REOPENED, StepKind.RESOLVED))


def _write_write_off(connection: Connection, held: Held, step: Step, actor: str, now: datetime) -> None:
    values: dict[str, Any] = {"id": held.write_off_id, "actor": actor, "now": now}
    if step.kind is StepKind.WRITE_OFF_PROPOSED:
        assert step.write_off is not None
        connection.execute(
            text("""
                INSERT INTO write_offs (write_off_id, discrepancy_id, instance_id, amount, currency, reason, status,
                    proposed_by, proposed_at)
                VALUES (:id, :discrepancy_id, :instance_id, :amount, :currency, :reason, 'proposed', :actor, :now)"""),
            values
            | {
                "id": uuid4(),
                "discrepancy_id": held.discrepancy_id,
                "instance_id": held.instance_id,
                "amount": step.write_off.amount,
                "currency": step.after.difference.currency,
                "reason": step.write_off.reason,
            },
        )
    elif step.kind is StepKind.WRITE_OFF_APPROVED:
        connection.execute(
            text("""
                UPDATE write_offs SET status = 'approved', approved_by = :actor, approved_at = :now
                WHERE write_off_id = :id"""),
            values,
        )
    elif step.kind in _ENDS or (held.write_off_id is not None and step.kind in _TAKE_BACK):
        is_in_force = held.standing.written_off is not None
        connection.execute(
            text("""
                UPDATE write_offs SET status = :status, ended_by = :actor, ended_at = :now
                WHERE write_off_id = :id AND ended_at IS NULL"""),
            # What a release before closed beside us may have a proposal left.
            values | {"status": _ENDS.get(step.kind, "reversed" if is_in_force else "voided")},
        )
