"""Events, their deliveries and bodies; what is personal in them; and deliveries that became no event."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor import replay
from processor.domain.access import EVERYWHERE, Reach, Role
from processor.errors import Unreadable
from processor.store import inbox
from processor.store.screens import events as store
from processor.store.screens.events import Narrowing
from processor.web.pages.masking import MASK, taken_apart
from tests.builders import claims, envelope, event, of_today, payment_entity, sign
from tests.web.pages.books import Books
from tests.web.pages.test_runs import ODD, plans_of


def event_of(books: Books, payment: str) -> Any:
    return books.shop.rows(
        "SELECT * FROM webhook_events WHERE entity_id = :id ORDER BY received_at LIMIT 1",
        id=books.payments[payment],
    )[0]


def path_of(event: Any) -> str:
    return f"/events/{event.instance_id}/{event.event_id}"


def buyer_of(books: Books, payment: str) -> list[str]:
    """What is personal of a payment, as text."""
    row = books.shop.one(
        "SELECT personal FROM payment_buyers WHERE payment_id = :id", id=books.payments[payment]
    )

    def leaves(value: Any) -> list[str]:
        match value:
            case dict():
                return [leaf for one in value.values() for leaf in leaves(one)]
            case list():
                return [leaf for one in value for leaf in leaves(one)]
        return [str(value)]

    found = [one for one in leaves(row.personal) if len(one) > 4]
    assert found
    return found


def test_the_list_shows_what_was_told_of_one_instance(books: Books) -> None:
    page = books.person().read(f"/events?instance={books.instance_id}")

    assert str(event_of(books, "matched").event_id)[:8] in page
    assert str(event_of(books, "other").event_id)[:8] not in page


@pytest.mark.parametrize(
    "narrowing",
    [
        "entity={payment}",
        "link={link}",
        "kind=payment",
        "status=recorded",
        "type=payment_link_payment_created",
        "since=2026-01-01&until=8000-01-01",
    ],
)
def test_filters_find_the_event(books: Books, narrowing: str) -> None:
    event = event_of(books, "yen")
    query = narrowing.format(payment=books.payments["yen"], link=books.links["yen"])

    page = books.person().read(f"/events?instance={books.instance_id}&{query}")

    assert str(event.event_id)[:8] in page


@pytest.mark.parametrize(
    "narrowing", ["entity={0}", "link={0}", "kind=app_removed", "status=held", "bodies=several"]
)
def test_filters_leave_out_what_does_not_fit(books: Books, narrowing: str) -> None:
    query = narrowing.format(UUID(int=1))

    page = books.person().read(f"/events?instance={books.instance_id}&{query}")

    assert str(event_of(books, "yen").event_id)[:8] not in page
    assert "No event fits" in page


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["kind", "status", "since", "until", "instance", "entity", "link", "bodies"])
def test_odd_filters_are_told_beside_them(books: Books, name: str, odd: str) -> None:
    assert "wrong-words" in books.person().read(f"/events?{name}={quote(odd)}")


@pytest.mark.parametrize("odd", ["%", "_", "\\", "'", "é", "<b>"])
def test_a_type_is_looked_for_as_it_is_written(books: Books, odd: str) -> None:
    page = books.person().read(f"/events?type={quote(odd)}")

    assert ("No event fits" in page) is (odd != "_")
    assert "<b>" not in page


def test_a_body_is_shown_without_what_is_personal(books: Books) -> None:
    page = books.person(Role.OPERATOR, personal=True).read(path_of(event_of(books, "matched")))

    assert MASK in page
    assert "24.00" in page
    assert str(books.links["mug"]) in page
    assert [one for one in buyer_of(books, "matched") if one in page] == []


def test_personal_data_is_shown_to_who_may_and_that_is_written_down(books: Books) -> None:
    event = event_of(books, "matched")

    answer = books.person(Role.AUDITOR, name="ida", personal=True).post(f"{path_of(event)}/personal")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert [one for one in buyer_of(books, "matched") if one not in answer.text] == []
    assert "Verbatim, as signed" in answer.text
    row = books.shop.rows("SELECT * FROM actions ORDER BY action_id DESC LIMIT 1")[0]
    assert (row.actor, row.action, row.object, row.status) == (
        "ida",
        "events.personal",
        str(event.event_id),
        200,
    )


def test_personal_data_stays_hidden_from_who_may_not(books: Books) -> None:
    event = event_of(books, "matched")
    person = books.person(Role.OPERATOR)

    assert "Show personal data" not in person.read(path_of(event))
    answer = person.post(f"{path_of(event)}/personal")
    assert answer.status_code == 403
    assert MASK not in answer.text
    assert person.get(f"{path_of(event)}/personal").status_code == 405


def test_an_erased_event_says_so(fresh_books: Books) -> None:
    from processor.store import payments

    books, shop = fresh_books, fresh_books.shop
    [payment_id] = shop.pay(shop.link())
    shop.deliver()
    with shop.services.database.begin() as connection:
        payments.erase(connection, books.instance_id, payment_id, shop.services.now())
    books.payments["erased"] = payment_id
    event = event_of(books, "erased")
    person = books.person(Role.OPERATOR, personal=True)

    page = person.read(path_of(event))

    assert "not kept any more" in page
    assert "Show personal data" not in page
    assert person.post(f"{path_of(event)}/replay").status_code == 303
    assert "was erased with the buyer" in person.read(path_of(event))


def test_another_body_under_the_same_id_is_shown_masked(fresh_books: Books) -> None:
    from processor.store import inbox
    from processor.wix.parse import parse_claims, parse_event
    from processor.wix.signature import digest

    books, shop = fresh_books, fresh_books.shop
    [books.payments["one"]] = shop.pay(shop.link())
    shop.deliver()
    event = event_of(books, "one")
    entity = {
        "id": str(event.entity_id),
        "revision": "7",
        "amount": "77.00",
        "currency": "USD",
        "paymentLinkId": str(event.payment_link_id),
        "regularPaymentLinkPayment": {"contactDetails": {"firstName": "Philomena"}},
    }
    inner = {"id": str(event.event_id), "createdEvent": {"entity": entity}}
    envelope = {
        "data": json.dumps(inner),
        "instanceId": str(books.instance_id),
        "eventType": event.event_type,
    }
    token = sign({"data": json.dumps(envelope)}).decode()
    with shop.services.database.begin() as connection:
        delivery = inbox.Delivery(
            parse_event(parse_claims(json.dumps({"data": json.dumps(envelope)}).encode())),
            token,
            digest(token.encode()),
        )
        inbox.record(connection, [delivery], shop.services.now())

    person = books.person()

    page = person.read(path_of(event))
    assert "Another body under the same id" in page
    assert "77.00" in page
    assert "Philomena" not in page
    assert str(event.event_id)[:8] in person.read("/events?bodies=several")


def test_a_replay_of_what_is_known_changes_nothing(books: Books) -> None:
    event = event_of(books, "matched")
    operator = books.person(Role.OPERATOR)

    assert operator.post(f"{path_of(event)}/replay").status_code == 303

    assert "what it tells is booked already" in operator.read(path_of(event))


def test_a_replay_books_what_is_missing(fresh_books: Books) -> None:
    books, shop = fresh_books, fresh_books.shop
    [books.payments["lost"]] = shop.pay(shop.link())
    shop.deliver()
    with shop.services.database.begin() as connection:
        for table in ("payment_versions", "payment_buyers", "payments"):
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            connection.execute(text(f"DELETE FROM {table}"))
            connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
    event = event_of(books, "lost")
    operator = books.person(Role.OPERATOR)

    operator.post(f"{path_of(event)}/replay")

    assert "was not booked yet, and is now" in operator.read(path_of(event))
    assert len(shop.rows("SELECT FROM payments")) == 1


def test_an_event_of_another_instance_is_not_found_under_the_own_one(books: Books) -> None:
    event = event_of(books, "other")
    operator = books.person(Role.OPERATOR, personal=True)

    for path in ("", "/personal", "/replay"):
        asked = f"/events/{books.instance_id}/{event.event_id}{path}"
        answer = operator.post(asked) if path else operator.get(asked)
        assert answer.status_code == 404, path


@pytest.mark.parametrize(
    "by", [Narrowing(), Narrowing(kind="link", type="created"), Narrowing(entity_id=UUID(int=7))]
)
def test_the_list_is_read_from_an_index(books: Books, by: Narrowing) -> None:
    plans = plans_of(books, lambda connection: store.events(connection, EVERYWHERE, books.instance_id, by))

    assert plans
    assert all("ix_webhook_events_" in one and "Seq Scan" not in one for one in plans), plans


# -- Deliveries that became no event ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events/rejected", "/events/unread"])
def test_what_is_of_no_instance_is_for_who_sees_every_one(books: Books, path: str) -> None:
    narrow = books.person(Role.OPERATOR, reach=Reach(frozenset({books.instance_id})))

    assert books.person().get(path).status_code == 200
    assert narrow.get(path).status_code == 404
    assert path not in narrow.read("/events")


def test_rejected_deliveries_are_shown_with_reason_and_count(books: Books) -> None:
    now = books.shop.services.now()
    with books.shop.services.database.begin() as connection:
        connection.execute(
            text("INSERT INTO rejection_counts VALUES (:day, 'signature_invalid', 1234)"), {"day": now.date()}
        )

    page = books.person().read("/events/rejected")

    assert "None of the configured keys signed it" in page
    assert "1,234" in page
    assert "Bad signature" in page


def test_unread_deliveries_are_shown_without_what_is_personal(fresh_books: Books) -> None:
    token = sign({"data": json.dumps({"buyer": "Philomena", "eventType": "x.y_created"})}).decode()
    with fresh_books.shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO unread_deliveries (token_digest, reason, token, received_at, last_received_at)
                VALUES (sha256('z'), 'instance_id_missing', :token, now(), now()),
                    (sha256('y'), 'x', 'a', now(), now())"""),
            {"token": token},
        )

    page = fresh_books.person(personal=True).read("/events/unread")

    assert "Instance id missing" in page
    assert "x.y_created" in page
    assert "Philomena" not in page
    assert "It is no readable JSON" in page


def keep_unread(books: Books, token: str) -> str:
    """A delivery that an earlier release could not read; its digest."""
    digest = hashlib.sha256(token.encode()).digest()
    with books.shop.services.database.begin() as connection:
        inbox.keep_unread(
            connection,
            token=token,
            token_digest=digest,
            why=Unreadable("instance_id_missing"),
            now=books.shop.services.now(),
        )
    return digest.hex()


def a_token(books: Books) -> tuple[str, UUID]:
    """A delivery about a payment of the shop, as this release can read it."""
    event_id = uuid4()
    return sign(told_by(books, event_id)).decode(), event_id


def told_by(books: Books, event_id: UUID) -> dict[str, Any]:
    inner = event(payment_entity(id=str(uuid4())), id=str(event_id))
    return of_today(claims(envelope(inner, instanceId=str(books.instance_id))))


def unread_of(books: Books) -> int:
    return len(books.shop.rows("SELECT 1 AS one FROM unread_deliveries"))


def test_an_unread_delivery_is_read_again_and_becomes_its_event_once(fresh_books: Books) -> None:
    token, event_id = a_token(fresh_books)
    digest = keep_unread(fresh_books, token)
    operator = fresh_books.person(Role.OPERATOR)

    page = operator.read("/events/unread")
    answers = [operator.post("/events/unread/again", {"digest": digest}) for _ in range(2)]

    assert "Read again" in page
    assert answers[0].headers["Location"] == f"/events/{fresh_books.instance_id}/{event_id}"
    assert answers[1].headers["Location"] == "/events/unread"
    assert "as if it was read before" in operator.read("/events/unread")
    assert unread_of(fresh_books) == 0
    [row] = fresh_books.shop.rows(f"SELECT delivery_count FROM webhook_events WHERE event_id = '{event_id}'")
    assert row.delivery_count == 1
    kept = fresh_books.shop.rows("SELECT actor, status FROM actions WHERE action = 'events.read_again'")
    assert [one.status for one in kept] == [303, 303]


def test_two_who_read_at_once_make_one_event(fresh_books: Books) -> None:
    token, event_id = a_token(fresh_books)
    digest = bytes.fromhex(keep_unread(fresh_books, token))
    services = fresh_books.shop.services

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: replay.read_again(services, digest), range(4)))

    assert [one.event_id for one in told if one is not None] == [event_id]


def test_what_still_cannot_be_read_stays_with_its_reason(fresh_books: Books) -> None:
    token, _ = a_token(fresh_books)
    for one in (token, "not.a.token", "x", sign({"data": "{}"}).decode()):
        keep_unread(fresh_books, one)
    operator = fresh_books.person(Role.OPERATOR)

    operator.post("/events/unread/again")
    page = operator.read("/events/unread")

    assert "1 of 4 could be read" in page
    assert "are left as they are" in page
    assert unread_of(fresh_books) == 3


def test_what_no_column_takes_stays_and_stands_in_nobodys_way(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "PAGE", 1)
    services = fresh_books.shop.services
    token, refused = a_token(fresh_books)
    with services.database.begin() as connection:
        connection.execute(
            text(f"ALTER TABLE webhook_events ADD CONSTRAINT picky CHECK (event_id <> '{refused}')")
        )
    keep_unread(fresh_books, token)
    token, event_id = a_token(fresh_books)
    keep_unread(fresh_books, token)

    told = list(replay.read_all_again(services))

    assert [(one.left, one.event_id) for one in told] == [("not_storable", None), (None, event_id)]
    assert unread_of(fresh_books) == 1


def test_a_delivery_that_had_expired_when_it_came_is_not_read(fresh_books: Books) -> None:
    keep_unread(fresh_books, sign({**told_by(fresh_books, uuid4()), "exp": 1}).decode())

    [told] = [
        replay.read_again(fresh_books.shop.services, one) for one in replay.unread(fresh_books.shop.services)
    ]

    assert told is not None
    assert told.left == "expired"


@pytest.mark.parametrize("digest", ["x", "\0", "A" * 64, "0" * 64, "0" * 10_000])
def test_an_odd_delivery_is_not_there(fresh_books: Books, digest: str) -> None:
    operator = fresh_books.person(Role.OPERATOR)

    assert operator.post("/events/unread/again", {"digest": digest}).status_code == 303
    assert "there is no such delivery" in operator.read("/events/unread").lower()


def test_only_operators_who_see_every_instance_read_again(fresh_books: Books) -> None:
    digest = keep_unread(fresh_books, a_token(fresh_books)[0])
    narrow = fresh_books.person(Role.OPERATOR, reach=Reach(frozenset({fresh_books.instance_id})))

    assert fresh_books.person(Role.CLERK).post("/events/unread/again", {"digest": digest}).status_code == 403
    assert narrow.post("/events/unread/again", {"digest": digest}).status_code == 404
    assert "Read again</button>" not in fresh_books.person(Role.CLERK).read("/events/unread")
    assert unread_of(fresh_books) == 1


def test_what_is_taken_apart_is_all_there() -> None:
    assert taken_apart({"a": '{"b": "[1, \\"x\\"]"}', "c": "{no"}) == {"a": {"b": [1, "x"]}, "c": "{no"}
