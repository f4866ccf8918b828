"""Tokens are kept by month, and move to theirs when it is made late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from processor.errors import StoreUnavailable
from processor.processes import wait_until
from processor.store import evidence, listings
from processor.store.database import Database
from processor.store.inbox import Inbox, Outcome
from tests.builders import NOW, app_claims, payment_claims
from tests.store.helpers import delivery, install, one, receive, rows

FAR = datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)  # of which no month was made


def partition_of_each(database: Database) -> dict[str, int]:
    return {
        row.name: row.count
        for row in rows(
            database, "SELECT tableoid::regclass::text AS name, count(*) FROM webhook_event_tokens GROUP BY 1"
        )
    }


def make(database: Database, now: datetime) -> list[str]:
    with database.begin() as connection:
        return evidence.ensure_months(connection, now)


def test_months_are_made_ahead_once_and_over_the_turn_of_the_year(database: Database) -> None:
    names = [f"webhook_event_tokens_{month}" for month in ("2031_12", "2032_01", "2032_02")]

    assert make(database, FAR) == names
    assert make(database, FAR) == []
    assert make(database, FAR + timedelta(seconds=1)) == ["webhook_event_tokens_2032_03"]


def test_what_came_before_its_month_was_made_goes_along(database: Database) -> None:
    install(database)
    receive(database, payment_claims({"id": str(uuid4())}), FAR)
    after = receive(database, payment_claims({"id": str(uuid4())}), FAR + timedelta(days=400))
    assert partition_of_each(database)["webhook_event_tokens_default"] >= 2

    make(database, FAR)

    found = partition_of_each(database)
    assert found["webhook_event_tokens_2031_12"] == 1
    assert found["webhook_event_tokens_default"] >= 1, after
    with database.begin() as connection:
        tokens = [line.token for line in listings.events(connection, listings.Narrowing(), limit=10)]
    assert len(tokens) == 3
    assert all(token and token.count(".") == 2 for token in tokens)


def test_clocks_that_make_the_same_months_at_once_make_each_once(database: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: make(database, FAR), range(2)))

    assert sorted(map(len, made)) == [0, 3]


def test_a_delivery_that_meets_the_making_of_its_month_is_stored_and_booked(database: Database) -> None:
    install(database)
    opened = Inbox(database, lambda: FAR, seconds=30, lanes=1, is_preparing=True)
    opened.store(delivery(payment_claims({"id": str(uuid4())}, id=str(uuid4()))))  # its plan is made
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            evidence.ensure_months(connection, FAR)
            storing = pool.submit(
                opened.store, delivery(payment_claims({"id": str(uuid4())}, id=str(uuid4())))
            )
            wait_until(lambda: waits_for_a_lock(database), what="it to wait", seconds=20)
        assert storing.result().outcome is Outcome.STORED
    opened.close()

    assert one(database, "SELECT count(*) FROM payments").count == 2
    assert partition_of_each(database)["webhook_event_tokens_2031_12"] == 2


def test_an_installation_that_meets_it_is_sent_again(database: Database) -> None:
    opened = Inbox(database, lambda: FAR, seconds=30, lanes=1, is_preparing=True)
    told = delivery(app_claims("AppInstalled"))
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            evidence.ensure_months(connection, FAR)
            storing = pool.submit(opened.store, told)
            wait_until(lambda: waits_for_a_lock(database), what="it to wait", seconds=20)
        with pytest.raises(StoreUnavailable, match="month"):
            storing.result()
    assert opened.store(told).outcome is Outcome.STORED
    opened.close()


def waits_for_a_lock(database: Database) -> bool:
    return bool(
        one(
            database,
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())",
        ).count
    )


def test_a_token_stays_in_its_row_up_to_a_page(database: Database) -> None:
    install(database)
    receive(database, payment_claims({"id": str(uuid4())}, filler="x" * 3000), NOW)

    name = one(database, "SELECT tableoid::regclass::text AS name FROM webhook_event_tokens LIMIT 1").name
    assert name == evidence.partition_of(evidence.month_of(NOW)) or name.endswith("_default")
    with database.begin() as connection:
        toast = connection.execute(
            text("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = CAST(:name AS regclass)"),
            {"name": name},
        ).scalar_one()
    assert toast == 0


def test_rows_of_the_release_before_keep_their_token_inline_and_are_erased_with_it(
    database: Database,
) -> None:
    install(database)
    receive(database, payment_claims({"id": str(uuid4())}))
    with database.begin() as connection:
        connection.execute(text("DELETE FROM webhook_event_tokens"))
        connection.execute(text("UPDATE webhook_events SET token = 'a.b.c' WHERE kind = 'payment'"))
    with database.begin() as connection:
        found = listings.events(connection, listings.Narrowing(), limit=10)

    assert [line.token for line in found if line.kind == "payment"] == ["a.b.c"]
