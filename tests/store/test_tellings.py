"""The first telling of a payment is the payment; with the second, both are written down."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import text

from processor.store.database import Database
from tests.builders import payment_claims
from tests.store.helpers import install, one, receive, rows

TELLINGS = "SELECT revision, verdict, amount::text AS amount FROM payment_tellings ORDER BY version_id"


def tell(database: Database, revision: int, amount: str) -> None:
    receive(database, payment_claims({"id": str(uuid4())}, revision=str(revision), amount=amount))


def test_one_telling_is_shown_and_takes_no_row(database: Database) -> None:
    install(database)
    tell(database, 1, "10.00")

    assert rows(database, TELLINGS) == [(1, "new", "10.000")]
    assert rows(database, "SELECT FROM payment_versions") == []


def test_the_second_brings_the_first_along_as_it_was(database: Database) -> None:
    install(database)
    tell(database, 1, "10.00")
    first = one(database, "SELECT event_id, stored_at FROM payments")
    tell(database, 3, "30.00")
    tell(database, 2, "20.00")

    assert rows(database, TELLINGS) == [(1, "new", "10.000"), (3, "newer", "30.000"), (2, "stale", "20.000")]
    kept = one(database, "SELECT event_id, told_at FROM payment_versions WHERE verdict = 'new'")
    assert kept == first
    assert one(database, "SELECT count(*) FROM payment_versions").count == 3


def test_a_first_telling_the_release_before_wrote_down_is_not_written_again(database: Database) -> None:
    install(database)
    tell(database, 1, "10.00")
    with database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO payment_versions (instance_id, payment_id, revision, verdict, origin, event_id, told_at,
                    payment_link_id, amount, currency)
                SELECT instance_id, payment_id, revision, 'new', origin, event_id, stored_at, payment_link_id,
                    amount, currency FROM payments""")
        )
    assert rows(database, TELLINGS) == [(1, "new", "10.000")]

    tell(database, 2, "20.00")

    assert rows(database, TELLINGS) == [(1, "new", "10.000"), (2, "newer", "20.000")]
