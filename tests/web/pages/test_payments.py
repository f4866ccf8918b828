"""The list of payments, and the page of one."""

from __future__ import annotations

import re
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from processor.domain.access import Reach, Role
from tests.web.pages.books import MARKUP, Books, Person


@pytest.fixture(scope="module")
def auditor(books: Books) -> Person:
    return books.person(Role.AUDITOR)


def listed(page: str) -> set[str]:
    """First letters of the payments in the table of a page."""
    return set(re.findall(r'data-label="Payment">\s*<[^>]*title="([0-9a-f-]{36})"', page))


def part(person: Person, path: str) -> str:
    """What htmx is answered."""
    return person.get(path, headers={"HX-Request": "true"}).text


def ids(books: Books, *names: str) -> set[str]:
    return {str(books.payments[name]) for name in names}


# -- The list ----------------------------------------------------------------------------------------


def test_every_payment_is_listed_with_what_is_known_of_it(books: Books, auditor: Person) -> None:
    page = auditor.read("/payments")

    assert listed(page) == {str(one) for one in books.payments.values()}
    assert "1,200" in page
    assert "Deposit" in page
    assert "Webhook missed" in page
    assert "Discrepancy" in page


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("currency=jpy", ["yen"]),
        ("amount_from=1000", ["yen"]),
        ("amount_from=60&amount_to=60.000", ["order"]),
        ("state=discrepant", ["discrepant", "other"]),
        ("recovery=any", ["recovered"]),
        ("recovery=webhook_missed", ["recovered"]),
        ("recovery=webhook_late", []),
        ("recovery=none&currency=JPY", ["yen"]),
        ("type=GIFT_CARD", []),
        ("state=unchecked", []),
        ("from=2001-01-01&until=2001-12-31", []),
        ("undated=1", []),
        ("text=of the other", ["other"]),
        ("text=no such thing", []),
        ("text=DEPOSIT", ["order"]),
        ("text=%25", []),
    ],
)
def test_filters_leave_what_fits(books: Books, auditor: Person, query: str, names: list[str]) -> None:
    assert listed(auditor.read(f"/payments?{query}")) == ids(books, *names)


@pytest.mark.parametrize("more", ["", "&recovery=none", "&state=matched"])
def test_a_link_an_instance_and_ids_are_filters_too(books: Books, auditor: Person, more: str) -> None:
    yen, other = books.links["yen"], books.other_instance_id

    assert listed(auditor.read(f"/payments?link={yen}{more}")) == ids(books, "yen")
    if not more:
        assert listed(auditor.read(f"/payments?instance={other}")) == ids(books, "other")
        for text in (str(yen), str(yen)[:8], str(books.payments["yen"]), str(books.payments["yen"])[:6]):
            assert listed(auditor.read(f"/payments?text={text}")) == ids(books, "yen")


def test_an_order_or_a_receipt_is_found_by_its_whole_id(books: Books, auditor: Person) -> None:
    row = books.shop.one(
        "SELECT ecom_order_id FROM payments WHERE payment_id = :id", id=books.payments["order"]
    )

    assert listed(auditor.read(f"/payments?text={row.ecom_order_id}")) == ids(books, "order")


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "from=0001-01-01",
        "until=99999-01-01",
        "from=2026-02-02&until=2026-02-01",
        "amount_from=12,5",
        "amount_from=" + "9" * 60,
        "amount_from=1e3",
        "amount_to=-1",
        "amount_from=2&amount_to=1",
        "instance=x",
        "link=%00",
        "link=" + "a" * 10_000,
        "currency=EURO",
        "currency=%00%00%00",
        "state=lost",
        "recovery=luck",
        "type=%00",
        "method=" + "x" * 10_000,
        "text=" + "x" * 10_000,
        "text=%00",
        "undated=perhaps",
        "order=random",
    ],
)
def test_what_cannot_be_read_is_said_beside_the_field_and_finds_nothing(auditor: Person, query: str) -> None:
    page = auditor.read(
        f"/payments?{query}&currency=EUR" if "currency" not in query else f"/payments?{query}"
    )

    assert "wrong-words" in page
    assert 'aria-invalid="true"' in page
    assert "Nothing was looked for" in page
    assert listed(page) == set()
    assert auditor.get(f"/payments/totals?{query}", headers={"HX-Request": "true"}).status_code == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("at=x", 400),
        ("at=" + "A" * 5_000, 400),
        ("from=2026-01-01&from=x", 200),
        ("no=such", 200),
        ("text=" + quote(MARKUP), 200),
        ("text=\N{GRINNING FACE}", 200),
        ("text=%ff%fe", 200),
        ("type=' OR 1=1 --", 200),
        ("totals=lots", 200),
    ],
)
def test_odd_addresses_are_no_faults(auditor: Person, query: str, status: int) -> None:
    assert auditor.get(f"/payments?{query}").status_code == status


def test_the_address_keeps_only_filters_that_say_something(auditor: Person) -> None:
    answer = auditor.get("/payments?from=&until=&currency=EUR&text=")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/payments?currency=EUR")


def test_a_person_finds_what_is_of_their_instances_alone(books: Books) -> None:
    person = books.person(reach=Reach(frozenset({books.other_instance_id})))

    assert listed(person.read("/payments")) == ids(books, "other")
    for query in (
        f"link={books.links['yen']}",
        f"text={books.payments['yen']}",
        f"text={books.links['yen']}",
        "text=Deposit",
        "recovery=any",
        "currency=JPY",
        f"instance={books.other_instance_id}&currency=JPY",
    ):
        page = person.read(f"/payments?{query}&totals=1")
        assert listed(page) == set()
        assert "JPY</span>" not in page
    assert person.get(f"/payments?instance={books.instance_id}").status_code == 404
    assert person.get(f"/payments/totals?instance={books.instance_id}").status_code == 404


def test_who_sees_nothing_yet_gets_an_empty_list(books: Books) -> None:
    person = books.person(reach=Reach(frozenset({uuid4()})))

    assert "No payment is booked yet" in person.read("/payments")


def test_titles_of_others_are_harmless(auditor: Person) -> None:
    page = auditor.read("/payments")

    assert "<b onclick" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "&lt;b onclick" in page


def test_totals_are_those_of_the_whole_filter(books: Books, auditor: Person) -> None:
    whole = part(auditor, "/payments/totals")
    sums = books.shop.rows("SELECT currency, count(*) AS n, sum(amount) AS amount FROM payments GROUP BY 1")

    for row in sums:
        assert f"{row.n} payment{'' if row.n == 1 else 's'} in {row.currency}" in whole
        assert f"{row.amount:,.{0 if row.currency == 'JPY' else 2}f}" in whole
    assert "in USD" not in part(auditor, "/payments/totals?currency=JPY")
    assert "in JPY" in auditor.read("/payments?currency=JPY&totals=1")
    assert "Add up these payments" in auditor.read("/payments")


def test_a_part_of_the_page_is_no_page(auditor: Person) -> None:
    page = part(auditor, "/payments/totals")

    assert "<html" not in page
    assert 'id="totals"' in page
    assert auditor.get("/payments/totals?all=1").headers["Location"] == "/payments?totals=all"


def test_every_page_is_reached_and_left_again(fresh_books: Books) -> None:
    shop = fresh_books.shop
    shop.rows(
        """
        INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, created_at,
            first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
        SELECT CAST(:id AS uuid), gen_random_uuid(), 1, CAST(:id AS uuid), n, 'EUR',
            CASE WHEN n > 2 THEN timestamptz '2026-11-01Z' + n / 3 * interval '1 s' END,
            'webhook', 'webhook', gen_random_uuid(), now(), now(), 'new', now()
        FROM generate_series(1, 130) n RETURNING 1""",
        id=fresh_books.instance_id,
    )
    person = fresh_books.person()

    for query in (
        "",
        f"?instance={fresh_books.instance_id}",
        "?order=oldest",
        f"?link={fresh_books.instance_id}",
    ):
        path: str | None = f"/payments{query}"
        seen: list[set[str]] = []
        while path:
            page = person.read(path)
            seen.append(listed(page))
            back = re.search(r'rel="prev" href="([^"]+)"', page)
            if len(seen) > 1:
                assert back
                assert listed(person.read(back[1].replace("&amp;", "&"))) == seen[-2]
            found = re.search(r'rel="next" href="([^"]+)"', page)
            path = found[1].replace("&amp;", "&") if found else None
        assert [len(one) for one in seen] == [50, 50, 28]
        assert len(set.union(*seen)) == 128
    assert "have no creation date" in person.read("/payments")
    assert len(listed(person.read("/payments?undated=1"))) == 2
    one = shop.rows("SELECT payment_id FROM payments WHERE created_at IS NULL")[0]
    assert listed(person.read(f"/payments?text={UUID(str(one.payment_id))}")) == {str(one.payment_id)}
