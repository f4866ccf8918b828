"""Creating a link once, whatever is lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from processor import flows
from processor.errors import (
    CreationConflict,
    CreationUnclear,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.flows import How, create_link, is_made_of
from processor.wix import wire
from tests.shop import SETTLING, Shop, a_shop


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url, WIX_TIMEOUT_SECONDS="0.5") as running:
        running.deliver()
        yield running


def new(title: str = "Tea", price: str = "4.5", **more: Any) -> wire.NewPaymentLink:
    item = wire.LineItem("CUSTOM", wire.CustomItem(name="Tea", quantity=1, price=price))
    return wire.NewPaymentLink(
        title=title, currency="EUR", type="ECOM", ecom_payment_link=wire.EcomPaymentLink([item]), **more
    )


def links_at_wix(shop: Shop) -> int:
    return shop.sandbox.documents.count("link")


def lose_the_next_answer(shop: Shop) -> None:
    """Wix makes the link and its answer never arrives."""
    shop.sandbox.faults.add(
        {
            "kind": "hang",
            "seconds": 2,
            "count": 1,
            "path": wire.PATH_LINKS,
            "instanceId": str(shop.instance_id),
        }
    )


def lose(shop: Shop, reference: str = "r1") -> None:
    lose_the_next_answer(shop)
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference=reference)


@pytest.mark.fact("R10")
def test_a_link_is_created_and_known_at_once(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert made.how is How.MADE
    row = shop.one("SELECT payment_link_id, title, status FROM payment_links")
    assert (row.payment_link_id, row.title, row.status) == (made.link_id, "Tea", "ACTIVE")


def test_the_same_reference_gives_the_same_link(shop: Shop) -> None:
    made = create_link(shop.services, shop.instance_id, new(), reference="r1")

    again = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert (again.link_id, again.how) == (made.link_id, How.KNOWN)
    assert again.link.title == "Tea"
    assert links_at_wix(shop) == 1


def test_another_reference_gives_another_link_of_the_same_content(shop: Shop) -> None:
    one = create_link(shop.services, shop.instance_id, new(), reference="r1")
    other = create_link(shop.services, shop.instance_id, new(), reference="r2")

    assert one.link_id != other.link_id


def test_a_reference_stands_for_one_request_alone(shop: Shop) -> None:
    create_link(shop.services, shop.instance_id, new(), reference="r1")

    with pytest.raises(CreationConflict, match="r1"):
        create_link(shop.services, shop.instance_id, new(price="5"), reference="r1")

    assert links_at_wix(shop) == 1


@pytest.mark.fact("X14")
def test_a_lost_answer_is_made_good_by_finding_the_link(shop: Shop) -> None:
    lose(shop)
    assert links_at_wix(shop) == 1

    found = create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert found.how is How.FOUND
    assert links_at_wix(shop) == 1
    assert shop.one("SELECT status FROM link_creations").status == "created"


def test_a_truncated_answer_too(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "truncated", "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


def test_two_lost_answers_of_the_same_content_find_two_links(shop: Shop) -> None:
    lose(shop, "r1")
    lose(shop, "r2")

    one = create_link(shop.services, shop.instance_id, new(), reference="r1")
    other = create_link(shop.services, shop.instance_id, new(), reference="r2")

    assert one.link_id != other.link_id
    assert links_at_wix(shop) == 2


def test_while_wix_does_not_show_it_nothing_is_created_anew(shop: Shop) -> None:
    lose(shop)
    shop.sandbox.faults.add({"kind": "read_lag", "seconds": 3_600})

    with pytest.raises(CreationUnclear) as why:
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert 0 < why.value.retry_after_seconds <= SETTLING.total_seconds()
    assert links_at_wix(shop) == 1
    shop.sandbox.faults.remove(None)
    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND


def test_what_wix_never_made_is_made_after_the_settling_time(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "status", "status": 503, "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    with pytest.raises(CreationUnclear):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    shop.pass_time(SETTLING + timedelta(seconds=1))

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE
    assert links_at_wix(shop) == 1


@pytest.mark.parametrize("status", [400, 403, 428])
def test_after_a_refusal_the_same_reference_may_ask_again(shop: Shop, status: int) -> None:
    shop.services.wix.check_credentials(shop.instance_id)
    shop.sandbox.faults.add({"kind": "status", "status": status, "count": 1})
    with pytest.raises((WixRefused, WixUnauthorized)):
        create_link(shop.services, shop.instance_id, new(), reference="r1")
    assert shop.one("SELECT status FROM link_creations").status == "refused"

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE
    assert links_at_wix(shop) == 1


def test_being_throttled_is_no_reason_to_wait_for_the_settling_time(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "status", "status": 429, "count": 1, "path": wire.PATH_LINKS})
    with pytest.raises(WixUnavailable):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.MADE


def test_of_many_at_once_one_creates(shop: Shop) -> None:
    def ask(_: int) -> str:
        try:
            return create_link(shop.services, shop.instance_id, new(), reference="r1").how.value
        except CreationUnclear:
            return "unclear"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, range(24)))

    assert told.count("made") == 1
    assert set(told) <= {"made", "known", "unclear"}
    assert links_at_wix(shop) == 1


def test_a_process_that_died_while_asking_is_taken_over(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(flows, "_finish", die)
        with pytest.raises(Died):
            create_link(shop.services, shop.instance_id, new(), reference="r1")
    with pytest.raises(CreationUnclear, match="another process"):
        create_link(shop.services, shop.instance_id, new(), reference="r1")

    shop.pass_time(flows.CREATION_LEASE + timedelta(seconds=1))

    assert create_link(shop.services, shop.instance_id, new(), reference="r1").how is How.FOUND
    assert links_at_wix(shop) == 1


def test_no_transaction_is_open_while_wix_is_asked(shop: Shop) -> None:
    asked = threading.Event()
    shop.sandbox.faults.add({"kind": "hang", "seconds": 0.3, "count": 1, "path": wire.PATH_LINKS})
    seen: list[int] = []

    def watch() -> None:
        while not asked.is_set():
            rows = shop.rows(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                " AND datname = current_database() AND state_change < clock_timestamp() - interval '150 ms'"
            )
            seen.append(rows[0].count)

    watcher = threading.Thread(target=watch)
    watcher.start()
    create_link(shop.services, shop.instance_id, new(), reference="r1")
    asked.set()
    watcher.join()

    assert max(seen) == 0


# -- Whether it is the same link -------------------------------------------------------------------

LATER = datetime(2030, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def told(asked: wire.NewPaymentLink, **more: Any) -> wire.PaymentLink:
    """How Wix would show what was asked for."""
    link = {
        "id": "6a206d71-52f5-4012-b3dd-8a283fea052e",
        "title": asked.title.strip(),
        "currency": asked.currency,
        "type": asked.type,
        "ecomPaymentLink": {
            "lineItems": [
                {"type": "CUSTOM", "customItem": {"name": "Tea", "quantity": 1, "price": "4.50", "novel": 1}}
            ]
        },
        **more,
    }
    return msgspec.convert(link, wire.PaymentLink)


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (new(), {}),
        (new(title=" Tea\u200b "), {"title": "Tea"}),
        (new(payments_limit=3), {"paymentsLimit": 3}),
        (new(description="x"), {"description": "x"}),
        (new(expiration_date=LATER), {"expirationDate": "2030-01-01T12:00:00.123Z"}),
        (new(), {"source": {"appId": "us"}}),
    ],
)
def test_a_link_of_the_same_content_is_recognized(asked: wire.NewPaymentLink, more: dict[str, Any]) -> None:
    assert is_made_of(told(asked, **more), asked, "us")


@pytest.mark.parametrize(
    "more",
    [
        {"title": "Coffee"},
        {"currency": "USD"},
        {"type": "ECOM_ORDER"},
        {"paymentsLimit": 1},
        {"description": "x"},
        {"expirationDate": "2030-01-01T12:00:00.123Z"},
        {"source": {"appId": "them"}},
        {"ecomPaymentLink": {"lineItems": []}},
        {"ecomPaymentLink": {"lineItems": "odd"}},
        {"ecomPaymentLink": None},
        {
            "ecomPaymentLink": {
                "lineItems": [
                    {"type": "CUSTOM", "customItem": {"name": "Tea", "quantity": 1, "price": "4.51"}}
                ]
            }
        },
        {"ecomOrderPaymentLink": {"orderId": "o", "amount": "1"}},
    ],
)
def test_a_link_of_another_content_is_not(more: dict[str, Any]) -> None:
    assert not is_made_of(told(new(), **more), new(), "us")


@pytest.mark.parametrize(
    ("order", "is_same"),
    [
        ({"orderId": "o", "amount": "30.00"}, True),
        ({"orderId": "o", "amount": "30"}, True),
        ({"orderId": "o", "amount": "31"}, False),
        ({"orderId": "p", "amount": "30"}, False),
        (None, False),
    ],
)
def test_a_link_to_an_order_is_recognized_by_order_and_amount(
    order: dict[str, str] | None, is_same: bool
) -> None:
    asked = wire.NewPaymentLink(
        title="Deposit",
        currency="USD",
        type="ECOM_ORDER",
        ecom_order_payment_link=wire.EcomOrderPaymentLink("o", "30.00"),
    )
    seen = told(asked, paymentsLimit=1, ecomPaymentLink=None, ecomOrderPaymentLink=order)

    assert is_made_of(seen, asked, None) is is_same
