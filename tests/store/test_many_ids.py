"""A link may have more payments than a statement has parameters."""

from __future__ import annotations

from uuid import UUID

from processor.domain.reconciliation import Outcome
from processor.store import payments
from processor.store.database import Database
from tests.builders import INSTANCE, NOW, PAYMENT, payment_claims
from tests.store.helpers import install, one, receive

PARAMETERS_MAX = 65_535


def test_as_many_payments_as_there_may_be_are_looked_up_and_noted(database: Database) -> None:
    install(database)
    receive(database, payment_claims())
    ids = [PAYMENT, *(UUID(int=number) for number in range(PARAMETERS_MAX + 1))]

    with database.begin() as connection:
        found = payments.believed(connection, INSTANCE, ids)
        payments.note_outcomes(connection, INSTANCE, dict.fromkeys(ids, Outcome.MATCHED), NOW)

    assert set(found) == {PAYMENT}
    assert one(database, "SELECT match_state FROM payments").match_state == "matched"
