"""What persons decide about discrepancies, and the rules they set: one transaction each, and a line in the log.

The commands call this, and so does whatever else lets a person decide.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog

from processor.domain import rules as domain_rules
from processor.domain.discrepancy import AUTOMATION, Action, Step
from processor.errors import NotAllowed
from processor.store import discrepancies, rules
from processor.wiring import Services

log = structlog.get_logger(__name__)

COMMENT_MAX = 2_000


def decide(services: Services, discrepancy_id: UUID, action: Action, *, actor: str) -> Step:
    """Do `action` as `actor`, a person's name. Raises NotAllowed, also for a discrepancy that does not exist."""
    with services.database.begin() as connection:
        held = discrepancies.lock(connection, [discrepancy_id])
        if not held:
            raise NotAllowed(
                "there is no such discrepancy: `processor discrepancies list` shows what there is"
            )
        in_force = rules.in_force(connection)
        step = discrepancies.act(connection, held[0], action, actor=actor, rules=in_force, now=services.now())
    log.info(
        "discrepancy_decided",
        instance_id=str(held[0].instance_id),
        discrepancy_id=str(discrepancy_id),
        step=step.kind.value,
        state=step.after.state.value,
        actor=actor,
    )
    return step


def set_rules(services: Services, document: Any, *, actor: str, comment: str | None) -> int:
    """Put rules in force for every check from now on; returns their version. Raises NotAllowed.

    document: as `domain.rules.parse` reads it.
    """
    if not actor.strip() or actor == AUTOMATION:
        raise NotAllowed("name the person who sets the rules")
    if comment is not None and len(comment) > COMMENT_MAX:
        raise NotAllowed(f"a comment has at most {COMMENT_MAX} letters")
    rule_set = domain_rules.parse(document)
    with services.database.begin() as connection:
        version = rules.add(connection, rule_set, created_by=actor, comment=comment, now=services.now())
    log.info("rules_set", version=version, actor=actor)
    return version
