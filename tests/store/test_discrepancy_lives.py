"""Lives of a discrepancy at random, in the database, against a model that knows nothing of how it is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from processor.domain.discrepancy import (
    Action,
    ApproveWriteOff,
    Assign,
    Comment,
    Difference,
    DiscrepancyType,
    Investigate,
    ProposeWriteOff,
    Reason,
    RejectWriteOff,
    Reopen,
    Resolve,
    WithdrawWriteOff,
)
from processor.domain.rules import Rules, parse
from processor.errors import NotAllowed
from processor.store import discrepancies, runs
from processor.store.database import Database
from tests.builders import INSTANCE, NOW, PAYMENT
from tests.store.helpers import confirm, one, rows

PERSONS = st.sampled_from(["ada", "grace"])
AMOUNTS = st.sampled_from([Decimal(1), Decimal(2), Decimal(5)])
LIMIT = Decimal(3)
TOLERATED = Decimal(1)


@dataclass
class Model:
    """What a person would say of it. accepted: the amount written off, None while none is."""

    state: str | None = None
    amount: Decimal = Decimal(0)
    owner: str | None = None
    proposer: str | None = None
    accepted: Decimal | None = None
    why: str | None = None
    reopened: int = 0
    seen: int = 0
    approvals: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in ("open", "investigating")

    def close(self, state: str, why: str = "decided") -> None:
        self.state = state
        self.why = why
        self.proposer = None

    def reopen(self, amount: Decimal) -> None:
        self.state, self.amount = "open", amount
        self.accepted = self.why = self.proposer = None
        self.reopened += 1


class Lives(RuleBasedStateMachine):
    """One difference of one link. Rules: 1 USD is tolerated, 3 USD may be written off."""

    def __init__(self, database: Database, in_force: Rules) -> None:
        super().__init__()
        self.database = database
        self.in_force = in_force
        self.link_id = uuid4()
        self.now = NOW
        self.model = Model()
        self.discrepancy_id: UUID | None = None

    def look(self, amount: Decimal | None) -> None:
        self.now += timedelta(minutes=1)
        with self.database.begin() as connection:
            run_id = runs.start(connection, INSTANCE, "check", self.now)
            if amount is not None:
                difference = Difference(
                    type=DiscrepancyType.AMOUNT_DIFFERS,
                    payment_link_id=self.link_id,
                    payment_id=PAYMENT,
                    sides={"booked": str(amount), "difference": f"-{amount} USD"},
                    amount_at_risk=amount,
                    currency="USD",
                )
                discrepancies.note(
                    connection, INSTANCE, [difference], run_id=run_id, now=self.now, rules=self.in_force
                )
            discrepancies.resolve_absent(connection, INSTANCE, [self.link_id], run_id=run_id, now=self.now)
            self.discrepancy_id = connection.execute(
                text("SELECT discrepancy_id FROM discrepancies WHERE payment_link_id = :id"),
                {"id": self.link_id},
            ).scalar_one_or_none()

    @initialize(amount=AMOUNTS)
    def it_comes_up(self, amount: Decimal) -> None:
        self.a_check_sees_it(amount)

    @rule(amount=AMOUNTS)
    def a_check_sees_it(self, amount: Decimal) -> None:
        self.look(amount)
        model = self.model
        model.seen += 1
        is_new = model.state is None
        if model.accepted is not None:
            # Each amount here says something else, in one direction: less is covered, more is not.
            if amount > model.accepted:
                model.reopen(amount)
                if amount <= TOLERATED:
                    model.close("resolved", "tolerated")
        elif model.why == "tolerated":
            model.amount = amount
            if amount > TOLERATED:
                model.reopen(amount)
        elif is_new or model.is_open:
            if not is_new and amount != model.amount:
                model.proposer = None
            model.state = model.state or "open"
            model.amount = amount
            if amount <= TOLERATED:
                model.close("resolved", "tolerated")
        else:
            model.reopen(amount)
            if amount <= TOLERATED:
                model.close("resolved", "tolerated")

    @rule()
    def a_check_does_not_see_it(self) -> None:
        self.look(None)
        if self.model.is_open or self.model.accepted is not None or self.model.why == "tolerated":
            self.model.accepted = None
            self.model.close("resolved", "gone")

    def does(self, action: Action, actor: str, *, is_allowed: bool) -> bool:
        """Do it, and say whether it is there to be done at all."""
        if self.discrepancy_id is None:
            return False
        self.now += timedelta(minutes=1)
        with self.database.begin() as connection:
            [held] = discrepancies.lock(connection, [self.discrepancy_id])
            if is_allowed:
                discrepancies.act(connection, held, action, actor=actor, rules=self.in_force, now=self.now)
            else:
                with pytest.raises(NotAllowed):
                    discrepancies.act(
                        connection, held, action, actor=actor, rules=self.in_force, now=self.now
                    )
        return is_allowed

    @precondition(lambda self: self.discrepancy_id is not None)
    @rule(actor=PERSONS)
    def investigates(self, actor: str) -> None:
        if self.does(Investigate(), actor, is_allowed=self.model.state == "open"):
            self.model.state = "investigating"
            self.model.owner = self.model.owner or actor

    @precondition(lambda self: self.discrepancy_id is not None)
    @rule(actor=PERSONS, owner=PERSONS)
    def assigns(self, actor: str, owner: str) -> None:
        if self.does(Assign(owner), actor, is_allowed=self.model.is_open and self.model.owner != owner):
            self.model.owner = owner

    @precondition(lambda self: self.discrepancy_id is not None)
    @rule(actor=PERSONS)
    def comments(self, actor: str) -> None:
        self.does(Comment("hm"), actor, is_allowed=True)

    @precondition(lambda self: self.discrepancy_id is not None)
    @rule(actor=PERSONS)
    def resolves(self, actor: str) -> None:
        is_allowed = self.model.is_open and self.model.proposer is None
        if self.does(Resolve(Reason.CORRECTED_AT_WIX), actor, is_allowed=is_allowed):
            self.model.close("resolved")

    @precondition(lambda self: self.discrepancy_id is not None)
    @rule(actor=PERSONS)
    def proposes(self, actor: str) -> None:
        is_allowed = self.model.is_open and self.model.proposer is None and self.model.amount <= LIMIT
        if self.does(ProposeWriteOff(Reason.FEE), actor, is_allowed=is_allowed):
            self.model.proposer = actor

    @precondition(lambda self: self.model.proposer is not None)
    @rule(actor=PERSONS)
    def approves(self, actor: str) -> None:
        if self.does(ApproveWriteOff(), actor, is_allowed=self.model.proposer not in (None, actor)):
            self.model.accepted = self.model.amount
            self.model.approvals += 1
            self.model.close("written_off")

    @precondition(lambda self: self.model.proposer is not None)
    @rule(actor=PERSONS)
    def rejects(self, actor: str) -> None:
        if self.does(RejectWriteOff("no"), actor, is_allowed=self.model.proposer not in (None, actor)):
            self.model.proposer = None

    @precondition(lambda self: self.model.proposer is not None)
    @rule(actor=PERSONS)
    def withdraws(self, actor: str) -> None:
        if self.does(WithdrawWriteOff(), actor, is_allowed=self.model.proposer == actor):
            self.model.proposer = None

    @precondition(lambda self: self.model.is_open and self.model.amount <= LIMIT)
    @rule(proposer=PERSONS)
    def two_write_it_off(self, proposer: str) -> None:
        if self.model.proposer is None:
            self.proposes(proposer)
        self.approves("joan")

    @precondition(lambda self: not self.model.is_open)
    @rule(actor=PERSONS)
    def reopens(self, actor: str) -> None:
        is_allowed = self.model.state in ("resolved", "written_off")
        if self.does(Reopen("look again"), actor, is_allowed=is_allowed):
            self.model.reopen(self.model.amount)

    @invariant()
    def the_row_is_what_the_model_says(self) -> None:
        if self.discrepancy_id is None:
            assert self.model.state is None
            return
        row = one(
            self.database,
            """SELECT d.*, p.proposed_by AS proposer, a.amount AS accepted FROM discrepancies d
               LEFT JOIN write_offs p ON p.discrepancy_id = d.discrepancy_id AND p.status = 'proposed'
               LEFT JOIN write_offs a ON a.discrepancy_id = d.discrepancy_id AND a.status = 'approved'
               WHERE d.discrepancy_id = :id""",
            id=self.discrepancy_id,
        )
        model = self.model
        assert (row.state, row.amount_at_risk, row.owner, row.proposer, row.accepted) == (
            *(model.state, model.amount, model.owner, model.proposer, model.accepted),
        )
        assert (row.times_seen, row.times_reopened) == (model.seen, model.reopened)
        assert (row.closed_at is None) == (row.reason is None) == (row.resolution is None) == model.is_open

    @invariant()
    def the_steps_lead_to_the_row(self) -> None:
        if self.discrepancy_id is None:
            return
        steps = rows(
            self.database,
            "SELECT * FROM discrepancy_steps WHERE discrepancy_id = :id ORDER BY step_id",
            id=self.discrepancy_id,
        )
        assert steps[0].kind == "opened"
        last = steps[-1]
        assert (last.state, last.amount_at_risk, last.owner) == (
            *(self.model.state, self.model.amount, self.model.owner),
        )
        kinds = [step.kind for step in steps]
        closed = sum(
            before.state in ("open", "investigating") and after.state in ("resolved", "written_off")
            for before, after in pairwise(steps)
        )
        # The roll-forward of this one: what came up, less what was closed, is what is open.
        assert kinds.count("opened") + kinds.count("reopened") - closed == self.model.is_open
        assert kinds.count("write_off_approved") == self.model.approvals
        assert [step.at for step in steps] == sorted(step.at for step in steps)


def test_whatever_checks_and_persons_do_row_steps_and_write_offs_agree(database: Database) -> None:
    confirm(database)
    rule_set = parse(
        {
            "tolerances": [
                {"id": "small", "type": "amount_differs", "currency": "USD", "amount": str(TOLERATED)}
            ],
            "write_off_limits": {"USD": str(LIMIT)},
        }
    )
    with database.begin() as connection:
        version = connection.execute(
            text(
                "INSERT INTO rule_sets (document, created_by, created_at) VALUES ('{}', 'ada', now()) RETURNING version"
            )
        ).scalar_one()

    class OfThisDatabase(Lives):
        def __init__(self) -> None:
            super().__init__(database, Rules(version, rule_set))

    run_state_machine_as_test(
        OfThisDatabase,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
