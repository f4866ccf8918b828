"""Where something is shown that differs, it is said what was decided about it; and every side says all it said."""

from __future__ import annotations

import html
import re

import pytest
from sqlalchemy import text

from processor import decisions
from processor.domain.access import Role
from processor.domain.discrepancy import ApproveWriteOff
from processor.domain.payment import FACTS
from processor.store.screens import decided
from processor.web.pages import sides
from tests.web.pages.books import Books, Person, fill


def words(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.fixture(scope="module")
def auditor(books: Books) -> Person:
    return books.person()


def link_page(books: Books, name: str) -> str:
    return f"/links/{books.instance_id}/{books.links[name]}"


def discrepancy_page(books: Books) -> str:
    return f"/discrepancies/{books.instance_id}/{books.discrepancies['proposed']}"


@pytest.fixture
def written_off(fresh_books: Books) -> Books:
    fill(fresh_books, {})
    discrepancy_id = fresh_books.discrepancies["proposed"]
    decisions.decide(fresh_books.shop.services, discrepancy_id, ApproveWriteOff(), actor="noor")
    return fresh_books


def test_a_difference_that_was_written_off_says_by_whom(written_off: Books) -> None:
    person = written_off.person()
    said = "Written off by maya , approved by noor , on"

    page = person.read(link_page(written_off, "order"))

    assert said in words(page)
    assert ": rounding." in words(page)
    assert f"/discrepancies/{written_off.instance_id}/{written_off.discrepancies['proposed']}" in page
    assert '<tr class="differs">' in page, "the totals differ all the same"
    assert "until the next check" not in page, "no check makes them equal"
    one = words(person.read(discrepancy_page(written_off)))
    assert "Written off 5.00 USD" in one
    assert "At risk" not in one
    listed = words(person.read(f"/links?instance={written_off.instance_id}"))
    assert listed.count("differs, written off") == 1
    assert "1,205 JPY differs" in listed, "what is open is not accepted"
    with written_off.shop.services.database.begin() as connection:
        ids = list(written_off.links.values())
        assert decided.accepted(connection, written_off.other_instance_id, ids) == {}
        assert decided.accepted(connection, written_off.instance_id, ids) == {
            written_off.links["order"]: "written_off"
        }


def test_a_payment_says_what_was_decided_about_it(written_off: Books) -> None:
    """The same words as on a link, which a payment has as well."""
    shop = written_off.shop
    with shop.services.database.begin() as connection:
        connection.execute(
            text("""
                UPDATE discrepancies SET state = 'resolved', closed_at = now(), reason = 'within_tolerance',
                    resolution = 'tolerated', rule_set_version = 1, rules = 'up to 100 USD'
                WHERE discrepancy_id = :id"""),
            {"id": written_off.discrepancies["open"]},
        )
    page = words(
        written_off.person().read(f"/payments/{written_off.instance_id}/{written_off.payments['discrepant']}")
    )

    assert "Amount differs Tolerated Tolerated since" in page
    assert "up to 100 USD, version 1 of the rules" in page


def test_what_is_open_or_proposed_is_said_where_it_differs(books: Books, auditor: Person) -> None:
    yen, order = (words(auditor.read(link_page(books, name))) for name in ("yen", "order"))

    assert "Total differs Investigating With noor ," in yen
    assert "Write-off proposed" in order
    assert "A write-off was proposed by maya on" in order
    assert "waits for another person" in order
    payment = words(auditor.read(f"/payments/{books.instance_id}/{books.payments['discrepant']}"))
    assert "Amount differs Open With nobody," in payment
    assert "Discrepancy Amount differs" in payment, "the payment itself says so"


def test_a_refund_that_wixs_total_does_not_show_is_told_as_what_it_is(fresh_books: Books) -> None:
    shop = fresh_books.shop
    [payment_id] = shop.pay(shop.link("10.00"))
    shop.deliver()
    shop.sandbox.world.refund(str(payment_id), {"amount": "4.00"})
    shop.deliver()
    for _ in range(2):
        shop.tick()
        shop.check()
        shop.pass_time()
    one = shop.one("SELECT discrepancy_id, type FROM discrepancies WHERE closed_at IS NULL")
    clerk = fresh_books.person(Role.CLERK)

    payment = words(clerk.read(f"/payments/{fresh_books.instance_id}/{payment_id}"))
    assert "Matched but a discrepancy is open" in payment
    assert "Refund not in Wix’s total Open With nobody," in payment
    assert "Told: refunded 4.00 USD · Booked: refunded 4.00 USD · Wix: not in the link's total" in payment

    page = clerk.read(f"/discrepancies/{fresh_books.instance_id}/{one.discrepancy_id}")
    assert one.type == "refund_on_order_only", "the code stays"
    assert "<h1>Refund not in Wix’s total</h1>" in page
    assert rows_of(page)["Refund"] == [*["refunded 4.00 USD"] * 2, "not in the link's total"]
    assert "“Both sides are right” then lasts only until the next check" in page
    overview = words(clerk.read("/"))
    assert "1 discrepancy with 4.00 USD at risk is informational: the cause may be innocent." in overview
    assert "needs a decision" not in overview


def test_nothing_of_another_instance_is_shown_as_decided(books: Books) -> None:
    with books.shop.services.database.begin() as connection:
        assert decided.of_link(connection, books.other_instance_id, books.links["yen"]) == []
        assert len(decided.of_link(connection, books.instance_id, books.links["yen"])) == 1


def test_what_came_up_again_says_so_and_when_it_was_first_seen(written_off: Books) -> None:
    path = f"/discrepancies/{written_off.instance_id}/{written_off.discrepancies['investigating']}"
    person = written_off.person()
    before = words(person.read(path)), words(person.read("/discrepancies"))
    with written_off.shop.services.database.begin() as connection:
        connection.execute(
            text("""
                UPDATE discrepancies SET first_seen_at = '2026-01-02Z', times_seen = 7, times_reopened = 1
                WHERE discrepancy_id = :id"""),
            {"id": written_off.discrepancies["investigating"]},
        )

    page, queue = words(person.read(path)), person.read("/discrepancies")

    assert "It had gone and came up again on" in page
    assert (
        "First seen on 02 Jan 2026, 00:00:00 , seen 7 times; its age counts from when it came up again."
        in page
    )
    assert "First seen on 02 Jan 2026, seen 7 times." in queue
    assert " again " in words(queue)
    assert "came up again" not in before[0]
    assert " again " not in before[1]


# -- Sides -------------------------------------------------------------------------------------------


def rows_of(page: str) -> dict[str, list[str]]:
    found = re.findall(
        r'<tr[^>]*>\s*<th scope="row" data-label="Field">(.*?)</th>(.*?)</tr>', page, re.DOTALL
    )
    return {
        words(name).replace(" Differs", "").strip().split(" Wix less")[0].strip(): [
            words(cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", cells, re.DOTALL)
        ]
        for name, cells in found
    }


def test_every_side_says_all_that_was_compared(books: Books, auditor: Person) -> None:
    page = auditor.read(f"/discrepancies/{books.instance_id}/{books.discrepancies['open']}")

    rows = rows_of(page)
    assert rows["Amount"] == ["24.00 USD", "24.00 USD", "99.00 USD"]
    assert rows["Revision"] == ["1", "1", "1"]
    [created] = set(rows["Created by Wix"])
    assert re.fullmatch(r"\d\d \w{3} \d{4}, \d\d:\d\d:\d\d UTC", created), "a time is not masked"
    assert set(rows["Payment method"]) == {"Credit card"}
    assert rows["Type"] == ["Regular"] * 3
    assert page.count('<tr class="differs">') == 1
    assert "Wix's side is what it said to the check of" in page


def test_a_difference_of_a_link_shows_what_else_was_compared(books: Books, auditor: Person) -> None:
    page = auditor.read(f"/discrepancies/{books.instance_id}/{books.discrepancies['investigating']}")

    rows = rows_of(page)
    assert rows["Total"] == ["–", "1200 JPY", "1205 JPY"]
    assert rows["Payments, by Wix's total"] == ["–", "1", "1"]
    assert rows["Payments one by one, JPY"] == ["–", "1, 1200 JPY", "1, 1200 JPY"]


def test_a_run_that_kept_nothing_leaves_wixs_side_to_what_was_named(fresh_books: Books) -> None:
    """Those of a release before did not keep what they compared."""
    fill(fresh_books, {})
    shop = fresh_books.shop
    with shop.services.database.begin() as connection:
        connection.execute(
            text("UPDATE discrepancies SET last_run_id = gen_random_uuid() WHERE discrepancy_id = :id"),
            {"id": fresh_books.discrepancies["open"]},
        )

    page = fresh_books.person().read(
        f"/discrepancies/{fresh_books.instance_id}/{fresh_books.discrepancies['open']}"
    )

    rows = rows_of(page)
    assert rows["Amount"][2] == "99.00 USD"
    assert rows["Revision"] == ["1", "1", "–"]
    assert "of the rest it kept nothing" in page


def test_every_fact_of_a_payment_can_be_compared() -> None:
    assert set(FACTS) == {*sides._NAMES, "currency"} - {"revision"}
