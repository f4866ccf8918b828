"""What persons decide about discrepancies, and the rules they set: one transaction each, and a line in the log.

The commands call this, and so does whatever else lets a person decide.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog

from processor.domain import rules as domain_rules
from processor.domain.discrepancy import TEXT_MAX, Action, Step, StepKind, check_person, is_same_person
from processor.errors import NotAllowed
from processor.store import checks, discrepancies, rules
from processor.wiring import Services

log = structlog.get_logger(__name__)


def decide(
    services: Services,
    discrepancy_id: UUID,
    action: Action,
    *,
    actor: str,
    instance_id: UUID | None = None,
    seen_step: int | None = None,
) -> Step:
    """Do `action` as `actor`, a person's name. Raises NotAllowed, also for a discrepancy that does not exist.

    instance_id: only if it is of that instance. seen_step: only if that is its newest step still, the last that the
    person saw; None when that is not known.
    """
    with services.database.begin() as connection:
        held = discrepancies.lock(connection, [discrepancy_id])
        if not held or (instance_id is not None and held[0].instance_id != instance_id):
            raise NotAllowed(
                "there is no such discrepancy: `processor discrepancies list` shows what there is"
            )
        if seen_step is not None and discrepancies.last_step(connection, discrepancy_id) != seen_step:
            raise NotAllowed(
                "something happened to it since you looked, so nothing was done: look at its history again, then decide"
            )
        in_force = rules.in_force(connection)
        step = discrepancies.act(connection, held[0], action, actor=actor, rules=in_force, now=services.now())
        if step.kind is StepKind.REOPENED:
            # A check alone can say that it still differs, or no more.
            links = [step.after.difference.payment_link_id]
            checks.request(connection, held[0].instance_id, links, services.now())
    log.info(
        "discrepancy_decided",
        instance_id=str(held[0].instance_id),
        discrepancy_id=str(discrepancy_id),
        step=step.kind.value,
        state=step.after.state.value,
        actor=actor,
    )
    return step


def propose_rules(services: Services, document: Any, *, actor: str, comment: str | None) -> int:
    """Propose rules; returns their version. Raises NotAllowed.

    document: as `domain.rules.parse` reads it.
    """
    check_person(actor)
    if comment is not None and (len(comment) > TEXT_MAX or "\0" in comment):
        raise NotAllowed(f"a comment has at most {TEXT_MAX} letters")
    rule_set = domain_rules.parse(document)
    with services.database.begin() as connection:
        version = rules.add(connection, rule_set, created_by=actor, comment=comment, now=services.now())
    log.info("rules_proposed", version=version, actor=actor)
    return version


def approve_rules(services: Services, version: int, *, actor: str, seen_in_force: int | None = None) -> None:
    """Put rules that another person proposed in force for every check from now on. Raises NotAllowed.

    seen_in_force: only while that version is in force still, 0 for the built-in rules; None when it does not matter.
    """
    check_person(actor)
    with services.database.begin() as connection:
        rules.lock(connection)
        found = rules.find(connection, version)
        in_force = rules.in_force(connection).version
        if seen_in_force is not None and seen_in_force != (in_force or 0):
            raise NotAllowed(
                "other rules came into force since you looked, so nothing was done: compare the rules again"
            )
        if found is None:
            raise NotAllowed("there is no such version: `processor rules list` shows what there is")
        if found.approved_by is not None:
            raise NotAllowed(f"{found.approved_by} approved it already")
        if found.ended is not None:
            raise NotAllowed(f"{found.ended_by} has {found.ended} it: propose these rules anew")
        if in_force is not None and version < in_force:
            raise NotAllowed(f"version {in_force} is in force, which is newer: propose these rules anew")
        if is_same_person(found.created_by, actor):
            raise NotAllowed("whoever proposes rules does not approve them: another person must")
        domain_rules.parse(found.document)
        rules.approve(connection, version, approved_by=actor, now=services.now())
    log.info("rules_approved", version=version, actor=actor)


def withdraw_rules(services: Services, version: int, *, actor: str, reason: str | None = None) -> None:
    """Take back rules that `actor` proposed and nobody approved yet. Raises NotAllowed.

    reason: None when nothing is said.
    """
    _turn_down(services, version, "withdrawn", actor=actor, reason=reason)
    log.info("rules_withdrawn", version=version, actor=actor)


def reject_rules(services: Services, version: int, *, actor: str, reason: str) -> None:
    """Say no, for a reason, to rules that another person proposed and nobody approved yet. Raises NotAllowed."""
    if not reason.strip():
        raise NotAllowed("say why the rules are rejected: who proposed them has to know")
    _turn_down(services, version, "rejected", actor=actor, reason=reason)
    log.info("rules_rejected", version=version, actor=actor)


def _turn_down(services: Services, version: int, kind: str, *, actor: str, reason: str | None) -> None:
    check_person(actor)
    reason = (reason or "").strip() or None
    if reason is not None and (len(reason) > TEXT_MAX or "\0" in reason):
        raise NotAllowed(f"a reason has at most {TEXT_MAX} letters")
    with services.database.begin() as connection:
        rules.lock(connection)
        found = rules.find(connection, version)
        if found is None:
            raise NotAllowed("there is no such version: `processor rules list` shows what there is")
        if found.approved_by is not None:
            raise NotAllowed(f"{found.approved_by} approved it already: propose other rules to replace it")
        if found.ended is not None:
            raise NotAllowed(f"{found.ended_by} has {found.ended} it already")
        is_own = is_same_person(found.created_by, actor)
        if kind == "withdrawn" and not is_own:
            raise NotAllowed(
                f"only {found.created_by}, who proposed these rules, withdraws them: reject them"
            )
        if kind == "rejected" and is_own:
            raise NotAllowed("whoever proposes rules does not reject them: withdraw them")
        rules.end(connection, version, kind, ended_by=actor, reason=reason, now=services.now())
