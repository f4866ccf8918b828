"""The list of payments, and the page of one."""

from __future__ import annotations

import csv
import io
import re
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from processor.domain.access import Reach, Role
from processor.store import payments as store
from processor.store.screens import payments as listing
from processor.store.screens.keyset import Position
from processor.web.pages import answers
from processor.web.pages.screens import payments as screen
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
        ("since=2001-01-01&until=2001-12-31", []),
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
        "since=yesterday",
        "since=0001-01-01",
        "until=99999-01-01",
        "since=2026-02-02&until=2026-02-01",
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


def amounts(page: str) -> list[str]:
    """As they are in the table of a page, from above."""
    return re.findall(r'data-label="Gross" class="number"><span class="money">([\d.,]+)', page)


def test_payments_of_a_currency_are_sorted_by_amount_however_they_are_found(
    books: Books, auditor: Person
) -> None:
    link = books.links["order"]
    for query in (
        "currency=USD",
        "currency=USD&since=2020-01-01",
        f"currency=USD&link={link}",
        "currency=usd&text=e",
    ):
        largest = amounts(auditor.read(f"/payments?{query}&order=largest"))
        smallest = amounts(auditor.read(f"/payments?{query}&order=smallest"))

        assert largest == sorted(largest, key=lambda one: float(one.replace(",", "")), reverse=True)
        assert smallest == largest[::-1]
        assert sorted(amounts(auditor.read(f"/payments?{query}"))) == sorted(largest)
    assert len(amounts(auditor.read("/payments?currency=USD&order=largest"))) > 2


def test_the_head_of_a_column_leads_to_the_list_sorted_by_it_and_to_the_other_way_round(
    auditor: Person,
) -> None:
    page = auditor.read("/payments?currency=USD&state=matched")
    assert re.search(
        r'aria-sort="descending"><a [^>]*href="/payments\?currency=USD&amp;state=matched&amp;order=oldest"',
        page,
    )
    by_amount = "/payments?currency=USD&amp;state=matched&amp;order=largest"
    assert page.count("aria-sort") == 1
    assert f'href="{by_amount}"' in page

    page = auditor.read(by_amount.replace("&amp;", "&"))

    assert re.search(r'class="number" aria-sort="descending"><a [^>]*order=smallest"', page)
    assert page.count("aria-sort") == 1
    assert 'href="/payments/export.csv?currency=USD&amp;state=matched&amp;order=largest"' in page
    assert '<option value="largest" selected>' in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("order=largest", "Fill in a currency"),
        ("order=smallest&currency=USD&undated=1", "by their ids alone"),
    ],
)
def test_what_has_no_order_by_amount_is_listed_by_date_and_the_form_says_why(
    books: Books, auditor: Person, query: str, words: str
) -> None:
    page = auditor.read(f"/payments?{query}")

    assert words in page
    assert "Nothing was looked for" not in page
    if "undated" not in query:
        assert listed(page) == {str(one) for one in books.payments.values()}
        assert re.search(r'aria-sort="descending"><a [^>]*>Created', page)
        assert not re.search(r"<a [^>]*>Gross", page)
    file = auditor.get(f"/payments/export.csv?{query}").text
    assert [row["payment_id"] for row in csv.DictReader(io.StringIO(file))] == re.findall(
        r'data-label="Payment">\s*<[^>]*title="([0-9a-f-]{36})"', page
    )
    assert auditor.get(f"/payments/totals?{query}", headers={"HX-Request": "true"}).status_code == 200


def test_a_page_of_another_order_is_no_page_of_this_one(auditor: Person) -> None:
    at = Position((datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), UUID(int=1))).text()
    huge = Position((Decimal("1e-9999"), datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), UUID(int=1))).text()

    assert auditor.get(f"/payments?at={at}").status_code == 200
    assert auditor.get(f"/payments?currency=EUR&order=largest&at={at}").status_code == 400
    assert auditor.get(f"/payments?currency=EUR&order=largest&at={huge}").status_code == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("at=x", 400),
        ("at=" + "A" * 5_000, 400),
        ("since=2026-01-01&since=x", 200),
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
    answer = auditor.get("/payments?since=&until=&currency=EUR&text=")

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


def test_only_so_many_add_up_all_payments_at_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes then, while no worker can be asked, gets the newest of them, and is told."""
    inside, go_on, add_up = threading.Semaphore(0), threading.Event(), listing.totals

    def held(*given: Any, looked_max: int | None, **_more: Any) -> listing.Totals:
        if looked_max is None:
            inside.release()
            go_on.wait(30)
        return add_up(*given, looked_max=looked_max)

    monkeypatch.setattr(listing, "totals", held)
    monkeypatch.setattr(screen, "ADDED_MAX", 2)
    monkeypatch.setattr(screen, "SUMS_AT_ONCE", 1)  # the pool of the tests has two connections
    monkeypatch.setattr(answers, "WAIT_SECONDS", 0.05)
    app = books.another_app(has_redis=False)
    people = [books.person(app=app) for _ in range(screen.SUMS_AT_ONCE + 1)]
    threads = [
        threading.Thread(target=one.get, args=("/payments?totals=all",))
        for one in people[: screen.SUMS_AT_ONCE]
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=30)
    try:
        told = [part(people[-1], "/payments/totals?all=1"), people[-1].read("/payments?totals=all")]
    finally:
        go_on.set()
        for thread in threads:
            thread.join()

    for page in told:
        assert "adds up for others right now" in page
        assert "the newest 2 payments were looked at" in page
    assert "Not everything" not in part(people[-1], "/payments/totals?all=1")


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
        "?currency=EUR&order=largest",
        f"?currency=EUR&order=smallest&link={fresh_books.instance_id}",
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


# -- The page of one ---------------------------------------------------------------------------------


def path_of(books: Books, name: str, more: str = "") -> str:
    owner = books.other_instance_id if name == "other" else books.instance_id
    return f"/payments/{owner}/{books.payments[name]}{more}"


def test_a_payment_shows_its_facts_and_what_happened(books: Books, auditor: Person) -> None:
    page = auditor.read(path_of(books, "matched"))

    assert str(books.payments["matched"]) in page
    assert "24.00" in page
    assert "Delivered once" in page
    assert "Matched with Wix" in page
    assert "None, now or before" in page


def test_a_recovered_payment_says_how_it_was_found(books: Books, auditor: Person) -> None:
    page = auditor.read(path_of(books, "recovered"))

    assert "Found by asking Wix" in page
    assert "No event told of it" in page
    assert "No webhook told of the payment" in page


def test_a_difference_shows_its_sides_and_steps(books: Books, auditor: Person) -> None:
    page = auditor.read(path_of(books, "discrepant"))

    assert "Amount differs" in page
    assert "99.00" in page
    assert "opened" in page


def test_what_is_not_there_is_not_found(books: Books, auditor: Person) -> None:
    unknown = uuid4()
    for more in ("", "/wix"):
        assert auditor.get(f"/payments/{books.instance_id}/{unknown}{more}").status_code == 404
        assert auditor.get(f"/payments/{unknown}/{books.payments['matched']}{more}").status_code == 404
    person = books.person(personal=True)
    assert person.post(f"/payments/{books.instance_id}/{unknown}/personal").status_code == 404


def personal_of(books: Books, name: str) -> list[str]:
    """What the buyer of a payment is called, lives and pays with, as long as it is told apart from other text."""
    row = books.shop.one(
        "SELECT personal FROM payment_buyers WHERE payment_id = :id", id=books.payments[name]
    )

    def values(held: object) -> list[str]:
        if isinstance(held, dict):
            return [text for one in held.values() for text in values(one)]
        return [held] if isinstance(held, str) and len(held) > 5 else []

    return values(row.personal)


def test_what_is_personal_is_masked_until_somebody_may_see_it(books: Books) -> None:
    secret = personal_of(books, "matched")
    assert len(secret) > 3
    person, allowed = books.person(Role.CLERK), books.person(Role.AUDITOR, personal=True)

    for one in (person, allowed):
        for more in ("", "/wix"):
            page = one.read(path_of(books, "matched", more))
            assert [text for text in secret if text in page] == []
            assert "eyJ" not in page, "the signed body holds it, too"
    assert "Show personal data" not in person.read(path_of(books, "matched"))
    refused = person.post(path_of(books, "matched", "/personal"))
    assert refused.status_code == 403
    assert [text for text in secret if text in refused.text] == []

    shown = allowed.post(path_of(books, "matched", "/personal"))

    assert shown.status_code == 200
    assert [text for text in secret if text not in shown.text] == []
    token = re.search(r'aria-label="The signed body">(eyJ[\w-]+\.[\w-]+\.[\w-]+)<', shown.text)
    assert token
    rows = books.shop.rows(
        "SELECT status, object, detail::text AS detail FROM actions WHERE action = 'payments.personal'"
        " ORDER BY action_id DESC LIMIT 2"
    )
    assert [row.status for row in rows] == [200, 403]
    assert {row.object for row in rows} == {str(books.payments["matched"])}
    assert [row.detail for row in rows] == ["{}", "{}"]


def test_personal_data_has_no_address(books: Books) -> None:
    person = books.person(personal=True)

    assert person.get(path_of(books, "matched", "/personal")).status_code == 405


def test_what_wix_says_now_is_beside_what_is_booked(books: Books, auditor: Person) -> None:
    same = part(auditor, path_of(books, "matched", "/wix"))
    other = part(auditor, path_of(books, "discrepant", "/wix"))

    assert "Wix says the same" in same
    assert "<html" not in same
    assert "1 field differs" in other
    assert 'class="differs"' in other
    assert "99.00" in other
    assert "Wix says the same" in auditor.read(path_of(books, "matched", "/wix"))


def test_asking_wix_reaches_payments_of_any_link_and_says_what_went_wrong(fresh_books: Books) -> None:
    shop = fresh_books.shop
    link = shop.link()
    [payment] = shop.pay(link)
    shop.deliver()
    person = fresh_books.person()
    path = f"/payments/{fresh_books.instance_id}/{payment}/wix"
    # Booked under a date that Wix does not have, so that its link is looked through.
    shop.rows("UPDATE payments SET created_at = created_at - interval '1 day' RETURNING 1")
    assert "1 field differs" in part(person, path)
    shop.rows("UPDATE payments SET created_at = NULL RETURNING 1")
    assert "Wix says the same" in part(person, path)
    shop.sandbox.faults.add({"kind": "payment_deleted", "paymentId": str(payment)})
    assert "does not list" in part(person, path)
    shop.sandbox.faults.add({"kind": "status", "status": 403})
    assert "does not let us" in part(person, path)
    assert person.get(path).status_code == 200


def test_a_version_shows_what_differs_from_the_one_before(fresh_books: Books) -> None:
    shop = fresh_books.shop
    [payment] = shop.pay(shop.link())
    shop.deliver()
    shop.deliver()
    shop.services.wix.issue_receipt(shop.instance_id, payment)
    shop.deliver()
    person = fresh_books.person()

    page = person.read(f"/payments/{fresh_books.instance_id}/{payment}")

    receipt = shop.one("SELECT receipt_id FROM payments").receipt_id
    changed = page[page.index('<table class="changes">') :]
    assert "Receipt" in changed
    assert "not stated" in changed
    assert str(receipt) in changed
    assert "newer than what was booked, applied" in page
    assert "Delivered 3 times" in page


def test_a_conflicting_body_and_an_erasure_are_shown(fresh_books: Books) -> None:
    shop = fresh_books.shop
    [payment] = shop.pay(shop.link())
    shop.deliver()
    shop.rows(
        """
        WITH changed AS (UPDATE webhook_events SET conflict_count = 1, delivery_count = 3
            WHERE entity_id = :id RETURNING instance_id, event_id)
        INSERT INTO webhook_event_conflicts (instance_id, event_id, content_digest, token_digest, token, received_at,
            last_received_at, delivery_count)
        SELECT instance_id, event_id, sha256('a'), sha256('b'), 'no.token', now(), now(), 2 FROM changed RETURNING 1""",
        id=payment,
    )
    person = fresh_books.person(personal=True)
    path = f"/payments/{fresh_books.instance_id}/{payment}"

    assert "Another body came under this event's id" in person.read(path).replace("&#39;", "'")
    with shop.services.database.begin() as connection:
        store.erase(connection, fresh_books.instance_id, payment, shop.services.now())
    page = person.read(path)
    assert "Personal data erased" in page
    assert "Its digest is kept" in page
    assert "Show personal data" not in page
    assert person.post(f"{path}/personal").status_code == 200


def test_a_body_that_cannot_be_decoded_is_shown_as_such(fresh_books: Books) -> None:
    shop = fresh_books.shop
    [payment] = shop.pay(shop.link())
    shop.deliver()
    shop.rows("UPDATE webhook_event_tokens SET token = 'neither.one<b>.nor' RETURNING 1")
    person = fresh_books.person(personal=True)
    path = f"/payments/{fresh_books.instance_id}/{payment}"

    assert "It cannot be decoded" in person.read(path)
    assert "one&lt;b&gt;" in person.post(f"{path}/personal").text
