"""`/pay/` and the id of a link: off unless wanted, and nothing is made at Wix before somebody clicks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from processor.domain.access import Role
from processor.web.pages import create_pages
from processor.web.pages.throttle import Throttle, place_of
from tests.web.pages.books import Books, empty_books
from tests.web.pages.test_links import fault


@pytest.fixture
def link_id(fresh_books: Books) -> UUID:
    """A link that we know of."""
    return known(fresh_books)


def known(books: Books, instance_id: UUID | None = None) -> UUID:
    link_id = books.shop.link()
    books.person(Role.AUDITOR).read(f"/links/{instance_id or books.instance_id}/{link_id}")
    return link_id


@pytest.fixture
def few(database_url: str, redis_url: str) -> Iterator[Books]:
    """Books of which two checkouts may be begun in a minute."""
    with empty_books(database_url, redis_url, PAY_PER_MINUTE="2") as books:
        yield books


def checkouts(books: Books) -> int:
    return len(books.shop.sandbox.documents.all("checkout"))


def test_a_click_leads_to_the_checkout_and_looking_makes_none(fresh_books: Books, link_id: UUID) -> None:
    nobody = fresh_books.nobody()

    page = nobody.get(f"/pay/{link_id}")
    nobody.client.head(f"/pay/{link_id}")
    before = checkouts(fresh_books)
    answer = nobody.post(f"/pay/{link_id}")

    assert page.status_code == 200
    assert "Go to the checkout" in page.text
    assert "thing" not in page.text
    assert before == 0
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("http://127.0.0.1")
    assert checkouts(fresh_books) == 1


def test_the_form_may_lead_away_and_nothing_else_may(fresh_books: Books, link_id: UUID) -> None:
    headers = fresh_books.nobody().get(f"/pay/{link_id}").headers

    policy = headers["Content-Security-Policy"]
    assert "form-action 'self' https: http:;" in policy  # Wix is a sandbox without TLS here
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Robots-Tag"] == "noindex, nofollow"


def test_at_wix_it_leads_to_https_alone(fresh_books: Books, link_id: UUID) -> None:
    services = fresh_books.shop.services
    settings = replace(services.settings, wix_url="https://www.wixapis.com")
    app = create_pages(replace(services, settings=settings))

    policy = app.test_client().get(f"/pay/{link_id}").headers["Content-Security-Policy"]

    assert "form-action 'self' https:;" in policy
    assert "http:" not in policy


def test_it_is_not_there_while_it_is_off(database_url: str, redis_url: str) -> None:
    with empty_books(database_url, redis_url, PAY_PAGE="0") as books:
        link_id = known(books)
        nobody = books.nobody()

        assert nobody.get(f"/pay/{link_id}").status_code == 404
        assert nobody.post(f"/pay/{link_id}").status_code == 404
        assert "leads to the checkout" not in books.person().read(f"/links/{books.instance_id}/{link_id}")
        assert checkouts(books) == 0


def test_links_that_we_do_not_know_are_not_there(fresh_books: Books, link_id: UUID) -> None:
    nobody = fresh_books.nobody()
    unknown = fresh_books.shop.link()

    for path in (f"/pay/{unknown}", f"/pay/{uuid4()}", "/pay/odd", "/pay/"):
        assert nobody.get(path).status_code == 404
        assert nobody.post(path).status_code == 404
    assert checkouts(fresh_books) == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE payment_links SET missing_since = now()",
        "UPDATE app_instances SET removed_at = now()",
    ],
)
def test_what_wix_no_longer_knows_is_not_there(fresh_books: Books, link_id: UUID, change: str) -> None:
    with fresh_books.shop.services.database.begin() as connection:
        connection.exec_driver_sql(change)

    assert fresh_books.nobody().get(f"/pay/{link_id}").status_code == 404


def test_a_link_of_two_instances_is_of_neither(fresh_books: Books, link_id: UUID) -> None:
    with fresh_books.shop.services.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO payment_links (instance_id, payment_link_id, rest, seen_at)"
            f" SELECT '{fresh_books.other_instance_id}', payment_link_id, rest, seen_at FROM payment_links"
        )

    assert fresh_books.nobody().get(f"/pay/{link_id}").status_code == 404


def test_nothing_begins_without_the_forms_token(fresh_books: Books, link_id: UUID) -> None:
    assert fresh_books.nobody().client.post(f"/pay/{link_id}").status_code == 400
    assert checkouts(fresh_books) == 0


def test_one_address_begins_so_many_in_a_minute(few: Books) -> None:
    link_id = known(few)
    first, second = few.nobody(), few.nobody()

    answers = [first.post(f"/pay/{link_id}").status_code for _ in range(3)]
    elsewhere = second.post(f"/pay/{link_id}", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    late = first.post(f"/pay/{link_id}")

    assert answers == [303, 303, 429]
    assert elsewhere.status_code == 303
    assert "Wait a minute" in late.text
    assert checkouts(few) == 3


def test_a_crowd_leaves_wixs_calls_to_the_books(database_url: str, redis_url: str) -> None:
    with empty_books(database_url, redis_url, WIX_CALLS_PER_MINUTE="20", WIX_PROCESSES="1") as books:
        link_id = known(books)
        before = books.shop.calls
        # Most of the crowd has been there: at this rate its calls alone would take the better part of the minute.
        counted = Throttle(redis_url)
        for _ in range(9):
            assert counted.may("10 per 1 minute", "pay", "budget", str(books.instance_id))

        answers = [
            books.nobody()
            .post(f"/pay/{link_id}", environ_base={"REMOTE_ADDR": f"192.0.2.{number}"})
            .status_code
            for number in range(2)
        ]

        assert answers == [303, 503]
        assert books.shop.calls == before + 1


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        (None, ""),
    ],
)
def test_one_place_is_one_address_or_one_network(address: str | None, place: str) -> None:
    assert place_of(address) == place


def test_ids_are_not_tried_out(few: Books) -> None:
    nobody = few.nobody()

    answers = [nobody.get(f"/pay/{uuid4()}").status_code for _ in range(21)]

    assert answers == [404] * 20 + [429]


def test_a_link_that_takes_no_payment_says_so(fresh_books: Books, link_id: UUID) -> None:
    fresh_books.shop.services.wix.deactivate_link(fresh_books.instance_id, link_id)

    answer = fresh_books.nobody().post(f"/pay/{link_id}")

    assert answer.status_code == 409
    assert "takes no payments now" in answer.text
    assert "SANDBOX" not in answer.text


@pytest.mark.parametrize("status", [429, 500, 403])
def test_while_wix_is_away_one_tries_again(fresh_books: Books, link_id: UUID, status: int) -> None:
    with fault(fresh_books, kind="status", status=status):
        answer = fresh_books.nobody().post(f"/pay/{link_id}")

    assert answer.status_code == 503
    assert "Nothing was paid" in answer.text
    assert "Wix" not in answer.text


def test_nobody_is_led_to_anything_but_a_web_address(
    fresh_books: Books, link_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.wix import wire
    from processor.wix.client import WixClient

    target = wire.InitiatedPayment(ecom_checkout=wire.EcomCheckoutTarget("javascript:alert(1)"))
    monkeypatch.setattr(WixClient, "initiate_payment", lambda *_: target)

    answer = fresh_books.nobody().post(f"/pay/{link_id}")

    assert answer.status_code == 503
    assert "javascript" not in answer.text
    assert "Location" not in answer.headers
