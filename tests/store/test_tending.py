"""Updates that follow soon after a row was stored find room in its page, and most touch no index."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import text

from processor.domain.reconciliation import Outcome
from processor.store import payments
from processor.store.database import Database
from processor.store.inbox import Inbox
from tests.builders import INSTANCE, NOW, payment_claims
from tests.store.helpers import delivery, install, one

PAYMENTS = 400
APART = 30


def test_most_outcomes_and_counted_duplicates_touch_no_index(database: Database) -> None:
    install(database)
    told = [
        delivery(payment_claims({"id": str(uuid4())}, id=str(UUID(int=number))))
        for number in range(1, PAYMENTS + 1)
    ]
    inbox = Inbox(database, lambda: NOW, seconds=30, lanes=1, is_preparing=True)
    for one_delivery in told:
        inbox.store(one_delivery)
    # As a check does: some of the payments at a time.
    for first in range(1, PAYMENTS, 40):
        with database.begin() as connection:
            outcomes = {UUID(int=number): Outcome.MATCHED for number in range(first, first + 40)}
            payments.note_outcomes(connection, INSTANCE, outcomes, NOW + timedelta(minutes=1))
    # Far enough apart to be of different pages: of one page, room for more than one comes from what others do not see
    # any more, and an ANALYZE under way may still see it.
    for again in told[::APART]:
        inbox.store(again)
    inbox.close()

    with database.begin() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    for table, updates, share in (("payments", PAYMENTS, 0.6), ("webhook_events", len(told[::APART]), 0.9)):
        seen = one(
            database,
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :table",
            table=table,
        )
        assert seen.n_tup_upd == updates
        assert seen.n_tup_hot_upd >= share * updates, f"{table}: {seen}"
