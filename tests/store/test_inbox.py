"""One statement stores an event with everything it demands."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from processor.domain.payment import Verdict
from processor.errors import Unreadable
from processor.store import inbox
from processor.store.database import Database
from processor.store.inbox import Outcome
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
from tests.store.helpers import Way, install, one, receive, rows

LATER = NOW + timedelta(hours=1)


def told(revision: int = 1, *, event_id: str | None = None, **entity: Any) -> dict[str, Any]:
    inner = {} if event_id is None else {"id": event_id}
    return payment_claims(inner, revision=str(revision), **entity)


@pytest.fixture(autouse=True, params=["inbox", "record"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Way, "is_inbox", request.param == "inbox")


def tokens_of_payments(database: Database) -> int:
    return int(
        one(
            database,
            "SELECT count(*) FROM webhook_event_tokens JOIN webhook_events USING (instance_id, event_id)"
            " WHERE kind = 'payment'",
        ).count
    )


def test_a_payment_event_stores_event_payment_version_buyer_and_check_request(database: Database) -> None:
    install(database)

    stored = receive(database, told())

    assert (stored.outcome, stored.verdict) == (Outcome.STORED, Verdict.NEW)
    payment = one(database, "SELECT * FROM payments")
    assert (payment.payment_id, payment.amount, payment.currency) == (PAYMENT, Decimal("10.990"), "USD")
    assert (payment.first_origin, payment.last_verdict) == ("webhook", "new")
    assert one(database, "SELECT verdict FROM payment_tellings").verdict == "new"
    buyer = one(database, "SELECT personal FROM payment_buyers").personal
    assert buyer["contactDetails"]["fullName"] == "Hedwig Eva"
    assert one(database, "SELECT payment_link_id FROM check_requests").payment_link_id == LINK
    kept = one(database, "SELECT * FROM webhook_events WHERE kind = 'payment'")
    token = one(
        database,
        "SELECT t.* FROM webhook_event_tokens t JOIN webhook_events e USING (event_id, received_at)"
        " WHERE e.kind = 'payment'",
    )
    assert token.token.count(".") == 2
    assert kept.delivery_count == 1


@pytest.mark.fact("D14", "D16")
def test_a_duplicate_counts_its_delivery_and_changes_nothing_else(database: Database) -> None:
    install(database)
    again = told()
    receive(database, again)

    stored = receive(database, again | {"iat": 5, "exp": 9}, LATER)

    assert stored.outcome is Outcome.DUPLICATE
    kept = one(database, "SELECT * FROM webhook_events WHERE kind = 'payment'")
    assert (kept.delivery_count, kept.received_at, kept.last_received_at) == (2, NOW, LATER)
    assert len(rows(database, "SELECT FROM payment_tellings")) == 1
    assert len(rows(database, "SELECT FROM check_requests")) == 1


@pytest.mark.fact("D17")
def test_the_same_event_id_with_another_body_is_kept_as_a_conflict(database: Database) -> None:
    install(database)
    event_id = str(uuid4())
    receive(database, told(event_id=event_id))

    answers = [receive(database, told(event_id=event_id, amount="99.00")).outcome for _ in range(2)]

    assert answers == [Outcome.CONFLICT] * 2
    assert one(database, "SELECT amount FROM payments").amount == Decimal("10.990")
    kept = one(database, "SELECT conflict_count, delivery_count FROM webhook_events WHERE kind = 'payment'")
    assert (kept.conflict_count, kept.delivery_count) == (2, 3)
    conflict = one(database, "SELECT delivery_count, token FROM webhook_event_conflicts")
    assert (conflict.delivery_count, conflict.token.count(".")) == (2, 2)


@pytest.mark.fact("D12", "P2")
def test_an_update_that_overtakes_the_creation_stands(database: Database) -> None:
    install(database)

    first = receive(database, told(2, amount="20.00"))
    second = receive(database, told(1, amount="10.00"))

    assert (first.verdict, second.verdict) == (Verdict.NEW, Verdict.STALE)
    payment = one(database, "SELECT * FROM payments")
    assert (payment.revision, payment.amount) == (2, Decimal("20.000"))
    assert [
        row.verdict for row in rows(database, "SELECT verdict FROM payment_tellings ORDER BY version_id")
    ] == [
        "new",
        "stale",
    ]


def test_another_content_of_one_revision_is_a_conflict_and_not_booked(database: Database) -> None:
    install(database)
    receive(database, told(1))

    stored = receive(database, told(1, amount="99.00"))

    assert (stored.outcome, stored.verdict) == (Outcome.STORED, Verdict.CONFLICT)
    assert one(database, "SELECT amount FROM payments").amount == Decimal("10.990")


@pytest.mark.fact("D20", "U9")
def test_events_of_an_instance_nobody_vouches_for_are_held(database: Database) -> None:
    stored = receive(database, told())

    assert stored.outcome is Outcome.HELD
    assert rows(database, "SELECT FROM payments") == []
    assert one(database, "SELECT payment_link_id FROM check_requests").payment_link_id == LINK


def test_an_unknown_event_type_is_kept(database: Database) -> None:
    stored = receive(database, claims(envelope(event(), eventType="wix.ecom.v1.order_approved")))

    assert stored.outcome is Outcome.IGNORED
    assert one(database, "SELECT event_type FROM webhook_events").event_type == "wix.ecom.v1.order_approved"


def test_an_unreadable_payment_is_kept_with_its_reason(database: Database) -> None:
    install(database)

    stored = receive(database, told(amount="10.9999"))

    assert stored.outcome is Outcome.UNREADABLE
    kept = one(database, "SELECT status, reason, token FROM webhook_events WHERE kind = 'payment'")
    assert (kept.status, kept.reason) == ("unreadable", "amount_too_fine")
    assert rows(database, "SELECT FROM payments") == []


@pytest.mark.fact("E34")
def test_a_link_event_requests_a_check_and_books_nothing(database: Database) -> None:
    install(database)
    inner = event(slug="sent", entityId=str(LINK), createdEvent=...)

    stored = receive(database, claims(envelope(inner, eventType="wix.paymentlinks.v1.payment_link_sent")))

    assert stored.outcome is Outcome.STORED
    assert one(database, "SELECT payment_link_id FROM check_requests").payment_link_id == LINK
    assert rows(database, "SELECT FROM payments") == []


@pytest.mark.fact("E36")
def test_the_later_of_installation_and_removal_stands_in_any_order(database: Database) -> None:
    removal = app_claims("AppRemoved", at=NOW + timedelta(minutes=1))

    receive(database, removal)
    install(database)

    assert one(database, "SELECT status FROM app_instances").status == "removed"
    install(database, at=NOW + timedelta(minutes=2))
    assert one(database, "SELECT status FROM app_instances").status == "installed"
    assert len(rows(database, "SELECT FROM sweeps")) == 1


@pytest.mark.fact("E15", "E16")
def test_a_privacy_request_blanks_buyer_and_tokens_and_keeps_digests(database: Database) -> None:
    install(database)
    receive(database, told(1, novelty="might be personal"))
    blank = payment_entity(revision="2", regularPaymentLinkPayment={"method": "CREDIT_CARD"})

    receive(database, claims(envelope(event(blank, triggeredByAnonymizeRequest=True))), LATER)

    assert one(database, "SELECT personal FROM payment_buyers").personal is None
    kept = rows(database, "SELECT token_digest, erased_at FROM webhook_events WHERE kind = 'payment'")
    assert [(len(row.token_digest), row.erased_at) for row in kept] == [(32, LATER)] * 2
    assert tokens_of_payments(database) == 0
    payment = one(database, "SELECT revision, amount, rest, erased_at FROM payments")
    assert (payment.revision, payment.amount, payment.rest) == (2, Decimal("10.990"), {})
    everything = json.dumps(
        [[str(value) for value in row] for row in rows(database, "SELECT rest FROM payment_tellings")]
    )
    assert "personal" not in everything


def test_a_late_resend_brings_nothing_personal_back(database: Database) -> None:
    install(database)
    first = told(1)
    receive(database, first)
    receive(database, claims(envelope(event(payment_entity(revision="3"), triggeredByAnonymizeRequest=True))))

    receive(database, first, LATER)
    receive(database, told(2), LATER)

    assert one(database, "SELECT personal FROM payment_buyers").personal is None
    assert tokens_of_payments(database) == 0


def test_a_privacy_request_that_comes_first_keeps_later_personal_data_out(database: Database) -> None:
    install(database)
    receive(database, claims(envelope(event(payment_entity(revision="2"), triggeredByAnonymizeRequest=True))))

    receive(database, told(1))

    assert rows(database, "SELECT FROM payment_buyers WHERE personal IS NOT NULL") == []


def test_what_names_no_instance_is_kept_once_and_counted(database: Database) -> None:
    answers = []
    for _ in range(2):
        with database.begin() as connection:
            answers.append(
                inbox.keep_unread(
                    connection, token="a.b.c", token_digest=b"x" * 32, why=Unreadable("r", "d"), now=NOW
                )
            )

    assert answers == [True, False]
    assert one(database, "SELECT delivery_count FROM unread_deliveries").delivery_count == 2


def test_refused_deliveries_are_counted_and_their_digests_capped(database: Database) -> None:
    samples = {number.to_bytes(32, "big"): "not_a_token" for number in range(inbox.REJECTED_ROWS_MAX + 10)}
    refused = inbox.Refused({"not_a_token": len(samples)}, samples)

    for _ in range(2):
        with database.begin() as connection:
            inbox.keep_refused(connection, refused, NOW)

    counted = one(database, "SELECT delivery_count FROM rejection_counts").delivery_count
    assert counted == 2 * len(samples)
    assert len(rows(database, "SELECT FROM rejected_deliveries")) == inbox.REJECTED_ROWS_MAX


@pytest.mark.fact("E4")
def test_instances_are_kept_apart(database: Database) -> None:
    other = uuid4()
    install(database)
    install(database, other)
    same_event = event()

    receive(database, claims(envelope(same_event)))
    stored = receive(database, claims(envelope(same_event, instanceId=str(other))))

    assert stored.outcome is Outcome.STORED
    assert {row.instance_id for row in rows(database, "SELECT instance_id FROM payments")} == {
        INSTANCE,
        other,
    }
