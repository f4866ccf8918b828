"""Events about refunds are stored as they come, read in their turn, and the latest of each refund stands."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from processor import wiring
from processor.config import Settings
from processor.domain.refund import Refund, supersedes
from processor.jobs import refunding
from processor.jobs.refunding import read_refunds
from processor.processes import wait_until
from processor.store import checks, payments, refunds
from processor.store.database import Database
from processor.wiring import Services
from tests.builders import INSTANCE, LINK, NOW, PAYMENT, claims, envelope, event, make_refund, payment_claims
from tests.store.helpers import confirm, lock_waits, one, receive, rows

REFUND = UUID(int=77)
SECONDS = 30


@pytest.fixture
def services(database_url: str) -> Any:
    built = wiring.build(Settings.read({"DATABASE_URL": database_url}), role="worker", now=lambda: NOW)
    yield built
    built.close()


def refund_claims(*, slug: str = "created", inner: dict[str, Any] | None = None, **entity: Any) -> Any:
    """Claims of an event about a refund. A value of `...` leaves the field out."""
    told = {
        "id": str(REFUND),
        "chargeId": str(PAYMENT),
        "amount": "4.00000000",
        "currencyCode": "USD",
        "full": False,
        "status": "SUCCEEDED",
        **entity,
    }
    told = {name: value for name, value in told.items() if value is not ...}
    about = event(told, slug=slug, entityFqdn="wix.payments.refunds.v1.refund", **(inner or {}))
    return claims(envelope(about, eventType=f"wix.payments.refunds.v1.refund_{slug}"))


def test_an_event_about_a_refund_is_read_once_and_asks_for_a_check(
    database: Database, services: Services
) -> None:
    confirm(database)
    receive(database, payment_claims())
    with database.begin() as connection:
        while checks.drain(connection, NOW):
            pass
    receive(database, refund_claims())
    assert one(database, "SELECT status FROM webhook_events WHERE kind = 'other'").status == "ignored"

    assert read_refunds(services) == 1

    row = one(database, "SELECT * FROM refunds")
    assert (row.instance_id, row.refund_id, row.payment_id) == (INSTANCE, REFUND, PAYMENT)
    assert (str(row.amount), row.currency, row.status) == ("4.000", "USD", "SUCCEEDED")
    assert (row.reason, row.told_at) == (None, NOW)
    assert one(database, "SELECT payment_link_id FROM check_requests").payment_link_id == LINK
    assert one(database, "SELECT status FROM webhook_events WHERE kind = 'other'").status == "recorded"
    assert read_refunds(services) == 0
    receive(database, refund_claims(inner={"id": str(uuid4())}))
    assert read_refunds(services) == 1


def test_a_refund_of_a_payment_that_is_not_booked_waits_for_it(
    database: Database, services: Services
) -> None:
    confirm(database)
    receive(database, refund_claims())

    assert read_refunds(services) == 1

    assert one(database, "SELECT payment_id FROM refunds").payment_id == PAYMENT
    assert rows(database, "SELECT FROM check_requests") == []


def test_what_came_for_an_instance_nobody_vouches_for_waits(database: Database, services: Services) -> None:
    receive(database, refund_claims())

    assert read_refunds(services) == 0

    confirm(database)
    assert read_refunds(services) == 1


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ({"amount": "4.00010000"}, "amount_too_fine"),
        ({"amount": "-4"}, "amount_negative"),
        ({"amount": "much"}, "amount_not_decimal"),
        ({"amount": ...}, "amount_missing"),
        ({"currencyCode": "XXX"}, "currency_unknown"),
        ({"currencyCode": ...}, "currency_missing"),
    ],
)
def test_an_amount_that_cannot_be_booked_is_kept_as_a_reason(
    database: Database, services: Services, entity: dict[str, Any], reason: str
) -> None:
    confirm(database)
    receive(database, refund_claims(**entity))

    read_refunds(services)

    row = one(database, "SELECT amount, reason, status FROM refunds")
    assert (row.amount, row.reason, row.status) == (None, reason, "SUCCEEDED")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (refund_claims(chargeId=...), "charge_id_missing"),
        (refund_claims(chargeId="ch_1"), "charge_id_not_guid"),
        (refund_claims(id="re_1"), "refund_id_not_guid"),
        (refund_claims(chargeId=5), "refund_wrong_shape"),
        (refund_claims(inner={"createdEvent": ...}), "entity_missing"),
        (
            claims(envelope("{", eventType="wix.payments.refunds.v1.refund_created")),
            "event_not_json",
        ),
    ],
    ids=["no charge", "odd charge", "odd id", "wrong shape", "no entity", "no JSON"],
)
def test_an_event_that_cannot_be_read_is_kept_with_the_reason(
    database: Database, services: Services, told: Any, reason: str
) -> None:
    confirm(database)
    receive(database, told)

    assert read_refunds(services) == 1

    row = one(database, "SELECT status, reason FROM webhook_events")
    assert (row.status, row.reason) == ("unreadable", reason)
    assert rows(database, "SELECT FROM refunds") == []
    assert read_refunds(services) == 0


def test_an_event_whose_token_is_gone_is_not_read_for_ever(database: Database, services: Services) -> None:
    confirm(database)
    receive(database, refund_claims())
    rows(database, "DELETE FROM webhook_event_tokens RETURNING event_id")

    assert (read_refunds(services), read_refunds(services)) == (1, 0)

    assert one(database, "SELECT reason FROM webhook_events").reason == "token_gone"


def test_events_of_one_refund_read_together_end_as_the_latest(database: Database, services: Services) -> None:
    confirm(database)
    told = [("updated", "3", "REVERSED"), ("created", "1", "PENDING"), ("updated", "2", "SUCCEEDED")]
    for number, (slug, sequence, status) in enumerate(told):
        inner = {"id": str(uuid4()), "entityEventSequence": sequence}
        receive(
            database, refund_claims(slug=slug, inner=inner, status=status), NOW + timedelta(seconds=number)
        )

    assert read_refunds(services) == 3

    row = one(database, "SELECT status, sequence FROM refunds")
    assert (row.status, row.sequence) == ("REVERSED", 3)


def bodies(database: Database) -> list[UUID]:
    """Events whose signed body is still kept."""
    return [
        row.event_id for row in rows(database, "SELECT event_id FROM webhook_event_tokens ORDER BY event_id")
    ]


def test_an_erased_buyer_takes_the_bodies_about_refunds_along(database: Database, services: Services) -> None:
    confirm(database)
    receive(database, payment_claims())
    receive(database, refund_claims(inner={"id": str(uuid4())}))
    receive(database, refund_claims(slug="updated", inner={"id": str(uuid4())}))
    receive(database, refund_claims(id=str(uuid4()), chargeId=str(uuid4()), inner={"id": str(uuid4())}))
    read_refunds(services)
    assert len(bodies(database)) == 4

    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)

    assert len(bodies(database)) == 1  # of another payment's refund
    assert len(rows(database, "SELECT FROM webhook_events WHERE erased_at IS NOT NULL")) == 3
    assert len(rows(database, "SELECT FROM refunds")) == 2


def test_what_waits_to_be_read_of_an_erased_buyer_is_read_first(
    database: Database, services: Services
) -> None:
    confirm(database)
    receive(database, payment_claims())
    receive(database, refund_claims(status="PENDING", inner={"id": str(uuid4()), "entityEventSequence": "1"}))
    read_refunds(services)
    receive(database, refund_claims(slug="updated", inner={"id": str(uuid4()), "entityEventSequence": "2"}))
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)
    assert len(bodies(database)) == 1

    read_refunds(services)

    assert one(database, "SELECT status FROM refunds").status == "SUCCEEDED"
    assert bodies(database) == []
    assert rows(database, "SELECT FROM webhook_events WHERE status = 'unreadable'") == []


def test_what_is_read_of_a_buyer_erased_before_is_never_there_unblanked(
    database: Database, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it may die right after: nobody reads it again."""
    confirm(database)
    receive(database, payment_claims())
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)
    receive(database, refund_claims(inner={"id": str(uuid4())}))
    receive(database, refund_claims(id=str(uuid4()), chargeId=str(uuid4()), inner={"id": str(uuid4())}))

    def die(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(refunding, "_blank", die)
    with pytest.raises(InterruptedError):
        read_refunds(services)

    assert len(bodies(database)) == 1  # of another payment's refund
    assert len(rows(database, "SELECT FROM refunds")) == 2


def test_another_body_of_an_event_that_was_erased_is_not_kept(database: Database, services: Services) -> None:
    confirm(database)
    receive(database, payment_claims())
    event_id = str(uuid4())
    receive(database, refund_claims(inner={"id": event_id}))
    read_refunds(services)
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)

    receive(database, refund_claims(inner={"id": event_id}, amount="5.00000000"))

    other = one(database, "SELECT token, erased_at FROM webhook_event_conflicts")
    assert other.token is None
    assert other.erased_at is not None


def test_a_refund_that_the_release_before_read_is_blanked_with_its_buyer(
    database: Database, services: Services
) -> None:
    confirm(database)
    receive(database, payment_claims())
    receive(database, refund_claims(inner={"id": str(uuid4())}))
    read_refunds(services)
    with database.begin() as connection:
        connection.execute(text("UPDATE webhook_events SET entity_id = NULL WHERE kind = 'other'"))

        payments.erase(connection, INSTANCE, PAYMENT, NOW)

    assert bodies(database) == []


def test_a_buyer_who_is_erased_while_a_refund_is_read_is_waited_for(
    database: Database, services: Services
) -> None:
    confirm(database)
    receive(database, payment_claims())
    receive(database, refund_claims(inner={"id": str(uuid4())}))
    reading = Thread(target=read_refunds, args=(services,))
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)  # sees no refund yet
        reading.start()
        wait_until(
            lambda: bool(lock_waits(database)), what="the reader waits for who erases", seconds=SECONDS
        )
    reading.join(timeout=SECONDS)

    assert not reading.is_alive()
    assert bodies(database) == []
    assert one(database, "SELECT status FROM refunds").status == "SUCCEEDED"


tellings = st.builds(
    make_refund,
    sequence=st.sampled_from([None, 1, 2, 3]),
    occurred_at=st.sampled_from([NOW, NOW + timedelta(seconds=1)]),
    status=st.sampled_from([None, "PENDING", "SUCCEEDED", "FAILED", "REVERSED", "UNHEARD_OF"]),
)


def test_what_stands_is_the_same_in_sql(database: Database) -> None:
    confirm(database)

    @given(told=st.lists(tellings, min_size=1, max_size=5))
    @settings(max_examples=80)
    def alike(told: list[Refund]) -> None:
        refund_id = uuid4()
        known, stands = None, UUID(int=99)
        for number, seen in enumerate(told):
            event_id = UUID(int=number)
            with database.begin() as connection:
                named = make_refund(
                    refund_id=refund_id,
                    sequence=seen.sequence,
                    occurred_at=seen.occurred_at,
                    status=seen.status,
                )
                refunds.save(connection, {(INSTANCE, refund_id): (named, event_id)}, NOW)
            if known is None or supersedes(seen, known):
                known, stands = seen, event_id
        row = one(database, "SELECT event_id FROM refunds WHERE refund_id = :id", id=refund_id)
        assert row.event_id == stands

    alike()
