"""The guard in SQL says what `domain.payment.judge` says, and no order or concurrency changes the end."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from processor.config import database_url as sqlalchemy_url
from processor.domain.payment import Origin, Payment, SeenPayment, Verdict, judge
from processor.store import payments
from processor.store.database import Database, open_database
from tests.builders import INSTANCE, NOW, make_payment, payment_claims
from tests.store.helpers import confirm, install, one, receive, rows

texts = st.none() | st.sampled_from(["a", "b"])
moments = st.none() | st.sampled_from([NOW, datetime(2025, 1, 1, tzinfo=UTC)])
versions = st.builds(
    make_payment,
    revision=st.integers(1, 3),
    amount=st.sampled_from([Decimal("1.000"), Decimal("2.500")]),
    currency=st.sampled_from(["USD", "KWD"]),
    payment_link_id=st.sampled_from([UUID(int=1), UUID(int=2)]),
    type=texts,
    created_at=moments,
    transaction_at=moments,
    receipt_id=st.none() | st.sampled_from([UUID(int=3), UUID(int=4)]),
    ecom_checkout_id=texts,
    ecom_order_id=texts,
    method=texts,
    payment_method=texts,
    payment_provider=texts,
)


def apply(database: Database, seen: Payment) -> Verdict:
    told = payments.telling(SeenPayment(seen, None, {}), origin=Origin.WEBHOOK, told_at=NOW, event_id=uuid4())
    with database.begin() as connection:
        return payments.apply(connection, [told])[seen.payment_id]


def believed(database: Database, payment_id: UUID) -> Payment | None:
    with database.begin() as connection:
        return payments.lock(connection, INSTANCE, payment_id)


def test_sql_and_python_judge_alike(database: Database) -> None:
    confirm(database)

    @given(st.lists(versions, min_size=1, max_size=4))
    @settings(max_examples=120)
    def alike(told: list[Payment]) -> None:
        payment_id = uuid4()
        known: Payment | None = None
        for one_version in told:
            seen = Payment(
                **{
                    name: getattr(one_version, name)
                    for name in Payment.__struct_fields__
                    if name != "payment_id"
                },
                payment_id=payment_id,
            )
            verdict = judge(known, seen)
            assert apply(database, seen) is verdict
            known = seen if verdict.applies else known
            assert believed(database, payment_id) == known

    alike()


def test_any_order_and_duplication_over_concurrent_connections_ends_alike(database: Database) -> None:
    install(database)
    link_id = uuid4()

    @given(st.permutations(range(1, 6)), st.lists(st.integers(1, 5), max_size=5))
    @settings(max_examples=25)
    def alike(order: list[int], again: list[int]) -> None:
        payment_id = uuid4()
        told = {
            number: payment_claims(
                id=str(payment_id),
                revision=str(number),
                amount=f"{number}.50",
                paymentLinkId=str(link_id),
            )
            for number in order
        }

        def deliver(numbers: list[int]) -> None:
            for number in numbers:
                receive(database, told[number])

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(deliver, part) for part in (order[:3], order[3:], again, again[::-1])]:
                done.result()

        final = believed(database, payment_id)
        assert final is not None
        assert (final.revision, final.amount) == (5, Decimal("5.500"))

    alike()
    assert one(database, "SELECT count(*) = sum((revision = 5)::int) AS same FROM payments").same


def _deliver(url: str, claims: list[dict[str, Any]]) -> None:
    database = open_database(
        sqlalchemy_url(url), name="test", pool_size=1, pool_seconds=10, statement_seconds=30
    )
    for told in claims:
        receive(database, told)
    database.dispose()


def test_separate_processes_told_the_same_end_in_the_same_books(
    database: Database, database_url: str
) -> None:
    install(database)
    told = [
        payment_claims(id=str(UUID(int=number)), revision=str(revision), amount=f"{number}.{revision}")
        for number in range(1, 13)
        for revision in range(1, 5)
    ]
    chance = random.Random(1)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_deliver, args=(database_url, chance.sample(told, len(told))))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    booked = rows(database, "SELECT payment_id, revision, amount FROM payments ORDER BY payment_id")
    assert [(row.payment_id.int, row.revision, row.amount) for row in booked] == [
        (number, 4, Decimal(f"{number}.4")) for number in range(1, 13)
    ]
    assert (
        one(database, "SELECT sum(delivery_count) AS n FROM webhook_events WHERE kind = 'payment'").n == 144
    )


def test_a_version_that_came_twice_by_poll_is_kept_as_evidence_each_time(database: Database) -> None:
    confirm(database)
    for _ in range(2):
        apply(database, make_payment())

    kept = rows(database, "SELECT verdict FROM payment_tellings ORDER BY version_id")
    assert [row.verdict for row in kept] == ["new", "same"]


def test_the_newest_telling_dates_the_row_but_an_older_one_does_not(database: Database) -> None:
    confirm(database)
    apply(database, make_payment(revision=2))
    with database.begin() as connection:
        connection.execute(text("UPDATE payments SET changed_at = stored_at"))

    apply(database, make_payment(revision=1))

    row = one(database, "SELECT changed_at = stored_at AS unchanged, last_verdict FROM payments")
    assert (row.unchanged, row.last_verdict) == (True, "stale")
