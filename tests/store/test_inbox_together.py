"""The inbox under many threads: one statement for all that gathered, on a real database that misbehaves."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor.config import database_url as sqlalchemy_url
from processor.domain.event import Kind
from processor.errors import StoreUnavailable
from processor.processes import wait_until
from processor.store import payments
from processor.store.database import BoundedConnection, Database, open_database
from processor.store.inbox import Delivery, Inbox, NotStorable, Outcome
from tests.builders import (
    INSTANCE,
    LINK,
    NOW,
    PAYMENT,
    app_claims,
    claims,
    envelope,
    event,
    payment_claims,
    payment_entity,
)
from tests.store.helpers import delivery, install, lock_waits, one, receive, rows

SECONDS = 20.0


def a_delivery(payment_id: UUID | None = None, **changes: Any) -> Delivery:
    """Of an event and a payment nobody knows, unless named."""
    return delivery(payment_claims({"id": str(uuid4())}, id=str(payment_id or uuid4()), **changes))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[BoundedConnection]:
    """The connections of lanes, as they are opened."""
    opened: list[BoundedConnection] = []
    open_apart = Database.open_apart

    def open_and_keep(self: Database, **settings: str) -> BoundedConnection:
        opened.append(open_apart(self, **settings))
        return opened[-1]

    monkeypatch.setattr(Database, "open_apart", open_and_keep)
    return opened


@contextmanager
def an_inbox(
    database: Database, *, seconds: float = SECONDS, lanes: int = 2, is_preparing: bool = True, **more: Any
) -> Iterator[Inbox]:
    inbox = Inbox(database, lambda: NOW, seconds=seconds, lanes=lanes, is_preparing=is_preparing, **more)
    try:
        yield inbox
    finally:
        inbox.close()


def store_all(inbox: Inbox, deliveries: list[Delivery], threads: int = 32) -> list[Outcome | None]:
    """What became of each; None where it is not known to be stored."""

    def store(one_delivery: Delivery) -> Outcome | None:
        try:
            return inbox.store(one_delivery).outcome
        except (StoreUnavailable, NotStorable):
            return None

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(store, deliveries))


@contextmanager
def every_row_locked(database: Database, table: str) -> Iterator[None]:
    with database.begin() as connection:
        connection.execute(text(f"SELECT FROM {table} FOR UPDATE"))
        yield


@contextmanager
def table_locked(database: Database, table: str) -> Iterator[None]:
    with database.begin() as connection:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))
        yield


def backends(database: Database) -> list[int]:
    """Process numbers of connections that have said the inbox's statement last."""
    found = rows(
        database,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND query LIKE '%WITH told AS%'",
    )
    return [row.pid for row in found]


def test_events_of_many_threads_are_stored_by_few_commits(database: Database) -> None:
    install(database)
    batches: list[int] = []
    with an_inbox(database, observe=lambda _seconds, events: batches.append(events)) as inbox:
        outcomes = store_all(inbox, [a_delivery() for _ in range(200)])

    assert outcomes == [Outcome.STORED] * 200
    assert one(database, "SELECT count(*) FROM payments").count == 200
    assert sum(batches) == 200
    assert len(batches) < 100, "threads waited for commits of their own"


def test_deliveries_of_one_event_at_once_are_stored_once_and_counted(database: Database) -> None:
    install(database)
    same = a_delivery()
    with an_inbox(database) as inbox:
        outcomes = Counter(store_all(inbox, [same] * 40))

    assert outcomes == {Outcome.STORED: 1, Outcome.DUPLICATE: 39}
    kept = one(database, "SELECT delivery_count FROM webhook_events WHERE kind = 'payment'")
    assert kept.delivery_count == 40
    assert one(database, "SELECT count(*) FROM payment_tellings").count == 1


def test_a_repetition_costs_the_events_beside_it_no_second_commit(database: Database) -> None:
    install(database)
    stored, twice = a_delivery(), a_delivery()
    commits: list[int] = []
    with an_inbox(database, lanes=1, observe=lambda _seconds, events: commits.append(events)) as inbox:
        inbox.store(stored)
        with ThreadPoolExecutor(40) as pool, table_locked(database, "check_requests"):
            first = pool.submit(inbox.store, a_delivery())
            wait_until(lambda: bool(lock_waits(database)), what="the first to wait", seconds=SECONDS)
            others = []
            for one_more in (a_delivery(), stored, twice, a_delivery(), twice):
                others.append(pool.submit(inbox.store, one_more))
                wait_until(lambda: inbox.waiting == len(others), what="it to wait", seconds=SECONDS)
        assert first.result().outcome is Outcome.STORED
        outcomes = [one_of_them.result().outcome for one_of_them in others]

    new, known = Outcome.STORED, Outcome.DUPLICATE
    assert outcomes == [new, known, new, new, known]
    # Both repetitions go together, the second without the try that serves what is new alone.
    assert commits == [1, 1, 4, 2]
    counts = rows(database, "SELECT delivery_count FROM webhook_events WHERE kind = 'payment' ORDER BY 1")
    assert [row.delivery_count for row in counts] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("lanes", [1, 4])
def test_repetitions_among_what_is_new_are_each_counted(database: Database, lanes: int) -> None:
    install(database)
    deliveries = [a_delivery() for _ in range(80)] * 4
    random.Random(lanes).shuffle(deliveries)
    with an_inbox(database, lanes=lanes) as inbox:
        outcomes = Counter(store_all(inbox, deliveries))

    assert outcomes == {Outcome.STORED: 80, Outcome.DUPLICATE: 240}
    counts = rows(database, "SELECT DISTINCT delivery_count FROM webhook_events WHERE kind = 'payment'")
    assert [row.delivery_count for row in counts] == [4]
    assert one(database, "SELECT count(*) FROM payment_tellings").count == 80


def test_a_value_our_columns_refuse_fails_alone(database: Database) -> None:
    install(database)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE payments ADD CONSTRAINT picky CHECK (amount <> 13)"))
    bad = a_delivery(amount="13.00")
    batches: list[int] = []
    with an_inbox(database, lanes=1, observe=lambda _seconds, events: batches.append(events)) as inbox:
        inbox.store(a_delivery())
        with ThreadPoolExecutor(40) as pool, table_locked(database, "check_requests"):
            # Nobody commits while the lock is held, so that all of them gather.
            good = [pool.submit(inbox.store, a_delivery()) for _ in range(30)]
            refused = pool.submit(inbox.store, bad)
            good += [pool.submit(inbox.store, a_delivery()) for _ in range(5)]
            wait_until(lambda: inbox.waiting >= 30, what="all to wait", seconds=SECONDS)
        assert [one_good.result().outcome for one_good in good] == [Outcome.STORED] * 35
        with pytest.raises(NotStorable, match="CheckViolation"):
            refused.result()

    assert max(batches) > 1
    assert one(database, "SELECT count(*) FROM payments").count == 36


def test_a_payment_somebody_holds_delays_its_own_event_alone(database: Database) -> None:
    install(database)
    receive(database, payment_claims())
    with an_inbox(database, seconds=2.0, lanes=1) as inbox:
        inbox.store(a_delivery())
        with every_row_locked(database, "payments"):
            held = delivery(payment_claims({"id": str(uuid4())}, id=str(PAYMENT), revision="2"))
            outcomes = store_all(inbox, [held, *(a_delivery() for _ in range(20))])

        assert outcomes == [None, *([Outcome.STORED] * 20)]
        assert inbox.store(held).outcome is Outcome.STORED


def test_what_is_new_beside_a_repetition_is_not_held_up_by_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is known goes by one statement with what is new; somebody holds the payment it is about."""
    install(database)
    receive(database, payment_claims())
    held = delivery(payment_claims({"id": str(uuid4())}, id=str(PAYMENT), revision="2"))
    monkeypatch.setattr("processor.store.inbox.BATCH_MAX", 2)
    commits: list[int] = []
    with an_inbox(
        database, seconds=2.0, lanes=1, observe=lambda _seconds, events: commits.append(events)
    ) as inbox:
        inbox.store(a_delivery())
        with ThreadPoolExecutor(8) as pool, every_row_locked(database, "payments"):
            with table_locked(database, "check_requests"):
                first = pool.submit(inbox.store, a_delivery())
                wait_until(lambda: bool(lock_waits(database)), what="it to wait", seconds=SECONDS)
                others = []
                for one_more in (held, a_delivery(), a_delivery(), a_delivery()):
                    others.append(pool.submit(inbox.store, one_more))
                    wait_until(lambda: inbox.waiting == len(others), what="it to wait", seconds=SECONDS)
            for new in (first, *others[1:]):
                assert new.result().outcome is Outcome.STORED
            with pytest.raises(StoreUnavailable):
                others[0].result()

    # The one held up went with one new event, then with another, which was stored without it in the end.
    assert commits == [1, 1, 2, 1, 1]


def test_events_of_one_link_do_not_wait_for_each_other(database: Database) -> None:
    install(database)
    deliveries = [
        delivery(
            claims(
                envelope(
                    event(
                        {"id": str(LINK)},
                        slug="payment_initiated",
                        entityFqdn="wix.paymentlinks.v1.payment_link",
                    ),
                    eventType="wix.paymentlinks.v1.payment_link_payment_initiated",
                )
            )
        )
        for _ in range(4)
    ]
    assert {one_of_them.event.kind for one_of_them in deliveries} == {Kind.LINK}
    commits: list[int] = []
    with an_inbox(database, lanes=1, observe=lambda _seconds, events: commits.append(events)) as inbox:
        inbox.store(a_delivery())
        with ThreadPoolExecutor(8) as pool, table_locked(database, "check_requests"):
            first = pool.submit(inbox.store, deliveries[0])
            wait_until(lambda: bool(lock_waits(database)), what="it to wait", seconds=SECONDS)
            others = [pool.submit(inbox.store, one_more) for one_more in deliveries[1:]]
            wait_until(lambda: inbox.waiting == 3, what="them to wait", seconds=SECONDS)
        assert {one_of_them.result().outcome for one_of_them in (first, *others)} == {Outcome.STORED}

    assert commits == [1, 1, 3]


def test_connections_that_were_cut_are_opened_anew_and_nothing_is_lost(database: Database) -> None:
    install(database)
    with an_inbox(database, lanes=3) as inbox:
        for _ in range(4):
            assert store_all(inbox, [a_delivery() for _ in range(30)]) == [Outcome.STORED] * 30
            assert backends(database)
            for pid in backends(database):
                rows(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

    assert one(database, "SELECT count(*) FROM payments").count == 120


def test_a_database_that_hangs_is_not_waited_for(durable_database_url: str) -> None:
    database = open_database(
        sqlalchemy_url(durable_database_url), name="test", pool_size=4, pool_seconds=5, statement_seconds=0.3
    )
    install(database)
    with an_inbox(database, seconds=0.5, lanes=1) as inbox:
        inbox.store(a_delivery())
        [pid] = backends(database)
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            lost = [a_delivery() for _ in range(8)]
            # Those in the batch that hangs; the others go by a connection opened meanwhile.
            assert None in store_all(inbox, lost, threads=8)
            assert time.monotonic() - began < SECONDS / 2
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        assert set(store_all(inbox, lost)) <= {Outcome.STORED, Outcome.DUPLICATE}
    database.dispose()


@pytest.mark.parametrize("is_preparing", [True, False])
def test_statements_are_prepared_unless_a_pooler_forbids(
    database: Database, is_preparing: bool, opened: list[BoundedConnection]
) -> None:
    install(database)
    with an_inbox(database, lanes=1, is_preparing=is_preparing) as inbox:
        again = a_delivery()
        outcomes = [inbox.store(again).outcome for _ in range(2)]
        with ThreadPoolExecutor(8) as pool, table_locked(database, "check_requests"):
            together = [pool.submit(inbox.store, a_delivery()) for _ in range(8)]
            wait_until(lambda: inbox.waiting >= 7, what="the others to wait", seconds=SECONDS)
        for one_stored in together:
            assert one_stored.result().outcome is Outcome.STORED
        kept = opened[0].execute("SELECT name FROM pg_prepared_statements").fetchall()

    assert outcomes == [Outcome.STORED, Outcome.DUPLICATE]
    assert {name for (name,) in kept} == (
        {"inserting", "inserting_alone", "recording"} if is_preparing else set()
    )


def test_a_migration_beneath_a_prepared_statement_is_survived(database: Database) -> None:
    install(database)
    with an_inbox(database, lanes=1) as inbox:
        for _ in range(8):
            inbox.store(a_delivery())
        with database.begin() as connection:
            connection.execute(text("ALTER TABLE payments ADD COLUMN extra text"))
            connection.execute(text("ALTER TABLE webhook_events ALTER COLUMN slug SET STATISTICS 10"))

        assert inbox.store(a_delivery()).outcome is Outcome.STORED


def test_a_prepared_statement_that_is_gone_is_prepared_anew(
    database: Database, opened: list[BoundedConnection]
) -> None:
    install(database)
    with an_inbox(database, lanes=1) as inbox:
        inbox.store(a_delivery())
        opened[0].execute("DISCARD ALL")

        assert inbox.store(a_delivery()).outcome is Outcome.STORED


def test_an_event_about_an_erased_buyer_that_comes_late_brings_nothing_back(database: Database) -> None:
    install(database)
    receive(database, payment_claims())
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)
    late = delivery(payment_claims({"id": str(uuid4())}, revision="2"))

    with an_inbox(database) as inbox:
        inbox.store(late)

    assert one(database, "SELECT personal FROM payment_buyers").personal is None
    assert (
        one(
            database, "SELECT count(*) FROM webhook_events WHERE kind = 'payment' AND token IS NOT NULL"
        ).count
        == 0
    )
    assert one(database, "SELECT revision FROM payments").revision == 2


def test_an_erasure_that_fails_fails_its_own_event_alone_and_is_made_up_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(database)
    receive(database, payment_claims())
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)
    late = delivery(payment_claims({"id": str(uuid4())}, revision="2"))

    def fail(*_: Any) -> None:
        raise StoreUnavailable("away")

    with an_inbox(database, lanes=1) as inbox:
        inbox.store(a_delivery())
        with monkeypatch.context() as patched, ThreadPoolExecutor(8) as pool:
            patched.setattr(payments, "erase", fail)
            with table_locked(database, "check_requests"):
                others = [pool.submit(inbox.store, a_delivery()) for _ in range(4)]
                erased = pool.submit(inbox.store, late)
                wait_until(lambda: inbox.waiting >= 4, what="all to wait", seconds=SECONDS)
            assert [other.result().outcome for other in others] == [Outcome.STORED] * 4
            with pytest.raises(StoreUnavailable, match="away"):
                erased.result()

        assert inbox.store(late).outcome is Outcome.DUPLICATE, "sent again, as it was not answered 200"

    assert one(database, "SELECT personal FROM payment_buyers WHERE erased_at IS NOT NULL").personal is None
    event_id = late.event.event_id
    assert rows(database, "SELECT FROM webhook_event_tokens WHERE event_id = :id", id=event_id) == []


def test_an_anonymization_erases_as_it_is_stored(database: Database) -> None:
    install(database)
    receive(database, payment_claims())
    entity = payment_entity(revision="2")
    told = claims(envelope(event(entity) | {"id": str(uuid4()), "triggeredByAnonymizeRequest": True}))

    with an_inbox(database) as inbox:
        inbox.store(delivery(told))

    assert one(database, "SELECT erased_at FROM payments").erased_at == NOW


def test_installation_and_removal_go_the_same_way(database: Database) -> None:
    with an_inbox(database) as inbox:
        assert inbox.store(delivery(app_claims("AppInstalled"))).outcome is Outcome.STORED
        assert inbox.store(delivery(app_claims("AppRemoved"))).outcome is Outcome.STORED

    assert one(database, "SELECT status FROM app_instances").status == "removed"


def test_several_processes_worth_of_lanes_never_wait_in_a_circle(database: Database) -> None:
    """Versions of few payments, in any order, over three inboxes: the statement locks in one order."""
    install(database)
    ids = [uuid4() for _ in range(12)]
    told = [a_delivery(payment_id, revision=str(revision)) for revision in range(1, 11) for payment_id in ids]
    done: list[list[Outcome | None]] = []

    def work(inbox: Inbox, part: list[Delivery]) -> None:
        done.append(store_all(inbox, part, threads=16))

    with an_inbox(database) as first, an_inbox(database) as second, an_inbox(database) as third:
        threads = [
            threading.Thread(target=work, args=(inbox, part))
            for inbox, part in zip((first, second, third), (told, told[::-1], told[::2]), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert all(outcome is not None for part in done for outcome in part)
    finals = rows(database, "SELECT DISTINCT revision FROM payments")
    assert [row.revision for row in finals] == [10]
    deadlocks = one(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks.deadlocks == 0


def test_a_closed_inbox_takes_nothing(database: Database) -> None:
    with an_inbox(database) as inbox:
        inbox.close()
        with pytest.raises(StoreUnavailable, match="stopping"):
            inbox.store(a_delivery())
