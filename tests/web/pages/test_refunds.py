"""What was refunded, wherever money is shown: as Wix told of it, late, in part, in an amount nobody can book."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor.domain.access import EVERYWHERE
from processor.store.screens import links as link_store
from processor.store.screens import overview
from processor.store.screens.payment import OTHERS_MAX
from processor.web.pages.formats import Clock
from processor.web.pages.screens.overview import last_days
from tests.web.pages.books import Books, Person

MARK = "<i>PENDING"


@pytest.fixture(scope="module")
def refunded(books: Books) -> Iterator[Books]:
    """Of the payments of the books: one in part, one wholly, one unclear; and others that gave nothing back."""
    payments = books.payments
    refund(books, payments["matched"], "4.00")
    refund(books, payments["matched"], "1.50", status="REVERSED")
    refund(books, payments["yen"], "1200", "JPY")
    refund(books, payments["order"], None)
    refund(books, payments["recovered"], "24.00", status="PENDING")
    refund(books, payments["markup"], "1.00", status=MARK)
    yield books
    with books.shop.services.database.begin() as connection:
        connection.execute(text("DELETE FROM refunds"))


def refund(
    books: Books, payment_id: UUID, amount: str | None, currency: str = "USD", *, status: str = "SUCCEEDED"
) -> None:
    with books.shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO refunds (instance_id, refund_id, payment_id, amount, currency, status, reason, occurred_at,
                    event_id, told_at)
                SELECT instance_id, :refund_id, payment_id, CAST(:amount AS numeric), :currency, :status,
                    CASE WHEN CAST(:amount AS numeric) IS NULL THEN 'amount_too_fine' END, now(),
                    COALESCE(event_id, gen_random_uuid()), now()
                FROM payments WHERE payment_id = :payment_id"""),
            {
                "refund_id": uuid4(),
                "payment_id": payment_id,
                "amount": amount,
                "currency": currency,
                "status": status,
            },
        )


@pytest.fixture(scope="module")
def auditor(refunded: Books) -> Person:
    return refunded.person()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\N{MINUS SIGN}", "-")


def row_of(page: str, payment_id: UUID) -> str:
    found = re.search(rf"<tr>(?:(?!</tr>).)*{payment_id}.*?</tr>", page, re.DOTALL)
    assert found
    return words(found[0])


def test_the_list_shows_what_was_refunded_and_what_is_left(refunded: Books, auditor: Person) -> None:
    page = auditor.read("/payments")

    assert "24.00 USD 4.00 20.00" in row_of(page, refunded.payments["matched"])
    assert "1,200 JPY 1,200 0" in row_of(page, refunded.payments["yen"])
    assert "60.00 USD Unclear –" in row_of(page, refunded.payments["order"])
    assert "24.00 USD 0.00 24.00" in row_of(page, refunded.payments["recovered"])
    assert "24.00 USD – 24.00" in row_of(page, refunded.payments["discrepant"]), "no refund told of: not zero"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("refunded=any", {"matched", "yen", "order"}),
        ("refunded=partly", {"matched"}),
        ("refunded=wholly", {"yen"}),
        ("refunded=unclear", {"order"}),
        ("refunded=none", {"recovered", "markup", "discrepant", "other"}),
        ("refunded=any&currency=JPY", {"yen"}),
    ],
)
def test_the_list_is_narrowed_to_what_was_refunded(
    refunded: Books, auditor: Person, query: str, names: set[str]
) -> None:
    page = auditor.read(f"/payments?{query}")

    found = set(re.findall(r'data-label="Payment">\s*<[^>]*title="([0-9a-f-]{36})"', page))
    assert found == {str(refunded.payments[name]) for name in names}


@pytest.mark.parametrize("value", ["some", "%00", "x" * 10_000, "ANY"])
def test_a_filter_of_refunds_that_is_none_is_said_beside_it(auditor: Person, value: str) -> None:
    page = auditor.read(f"/payments?refunded={value}")

    assert "There is no such choice." in page
    assert "Nothing was looked for" in page


def test_totals_are_gross_refunded_and_net_by_currency(auditor: Person) -> None:
    def totals(query: str) -> str:
        return words(auditor.get(f"/payments/totals?{query}", headers={"HX-Request": "true"}).text)

    assert "1 payment in JPY, gross 1,200 JPY Refunded 1,200 JPY Net of refunds 0 JPY" in totals(
        "currency=JPY"
    )
    assert "24.00 USD Refunded 4.00 USD Net of refunds 20.00 USD" in totals("refunded=partly")
    unclear = totals("currency=USD")
    assert "Refunded 4.00 USD" in unclear
    assert "Net of refunds unclear: of 1 payment a refund cannot be booked" in unclear
    assert "No refund told of" in totals("state=discrepant")


def test_the_page_of_a_payment_tells_of_each_refund(refunded: Books, auditor: Person) -> None:
    def page_of(name: str) -> str:
        return auditor.read(f"/payments/{refunded.instance_id}/{refunded.payments[name]}")

    page = words(page_of("matched"))
    assert "Gross amount 24.00 USD Refunded 4.00 USD Net of refunds 20.00 USD" in page
    assert "Wix does not tell of fees" in page
    assert "Refund made : 4.00 USD" in page.replace("made:", "made :")
    assert "Refund reversed: 1.50 USD" in page
    assert "only a refund that succeeded gave money back" in page
    event = refunded.shop.one(
        "SELECT event_id FROM refunds WHERE payment_id = :id LIMIT 1", id=refunded.payments["matched"]
    )
    assert f"/events/{refunded.instance_id}/{event.event_id}" in page_of("matched")
    assert "Amount not booked: amount too fine" in words(page_of("order"))
    assert "Net of refunds unclear" in words(page_of("order"))
    assert "no refund told of" in words(page_of("discrepant"))
    assert "&lt;i&gt;pending" in page_of("markup")
    assert "<i>" not in page_of("markup").lower()


def test_a_payment_of_more_refunds_than_its_page_lists_is_less_all_of_them(fresh_books: Books) -> None:
    shop = fresh_books.shop
    [payment_id] = shop.pay(shop.link("24.00"))
    shop.deliver()
    for _ in range(OTHERS_MAX + 1):
        refund(fresh_books, payment_id, "0.10")
    person = fresh_books.person()

    page = words(person.read(f"/payments/{fresh_books.instance_id}/{payment_id}"))

    assert "Refunded 10.10 USD Net of refunds 13.90 USD" in page
    assert "24.00 USD 10.10 13.90" in row_of(person.read("/payments"), payment_id)


def test_the_page_of_a_link_shows_refunds_beside_what_is_booked(refunded: Books, auditor: Person) -> None:
    page = words(auditor.read(f"/links/{refunded.instance_id}/{refunded.links['mug']}"))

    assert "Refunded, as told 4.00 USD" in page
    assert "Booked, net of refunds 68.00 USD" in page
    order = words(auditor.read(f"/links/{refunded.instance_id}/{refunded.links['order']}"))
    assert "Refunded, as told unclear for 1 –" in order
    inactive = words(auditor.read(f"/links/{refunded.instance_id}/{refunded.links['inactive']}"))
    assert "No refund of these payments" not in inactive, "there are none"
    other = words(auditor.read(f"/links/{refunded.other_instance_id}/{refunded.links['other']}"))
    assert "No refund of these payments was told of" in other


def test_refunds_of_a_link_are_of_the_payments_that_are_counted(refunded: Books) -> None:
    link_id = refunded.links["mug"]
    with refunded.shop.services.database.begin() as connection:
        found = link_store.given_back(connection, refunded.instance_id, link_id, limit=100)
        other = link_store.given_back(connection, refunded.other_instance_id, link_id, limit=100)

    assert (found["USD"].amount, found["USD"].unclear) == (Decimal(4), 0)
    assert other == {}


def test_a_late_refund_is_of_the_day_of_its_payment(refunded: Books) -> None:
    now = refunded.shop.services.now()
    days = last_days(Clock("UTC", lambda: now), now, 3)
    with refunded.shop.services.database.begin() as connection:
        found = {
            one.currency: one
            for day in overview.received(connection, EVERYWHERE, days).values()
            for one in day
        }
        settings = connection.execute(
            text("SELECT current_setting('enable_seqscan'), current_setting('enable_bitmapscan')")
        ).one()

    assert (found["JPY"].refunded, found["JPY"].net, found["JPY"].unclear) == (Decimal(1200), Decimal(0), 0)
    assert (found["USD"].refunded, found["USD"].net, found["USD"].unclear) == (Decimal(4), None, 1)
    assert tuple(settings) == ("on", "on")


def test_the_overview_shows_refunds_beside_what_was_received(refunded: Books, auditor: Person) -> None:
    page = ""
    for _ in range(40):  # a look adds up one day at least, and more as far as there is time
        page = words(auditor.read("/"))
        if "still being added up" not in page:
            break

    assert "JPY, gross Payments Refunded Net of refunds" in page
    assert "Refunded 1,200 JPY Net of refunds 0 JPY" in page
    assert "Refunded 4.00 USD Net of refunds unclear" in page


def test_an_export_has_no_zero_where_no_refund_was_told_of(refunded: Books, auditor: Person) -> None:
    data = auditor.get("/payments/export.csv").text
    rows = {row["payment_id"]: row for row in csv.DictReader(io.StringIO(data, newline=""))}

    def of(name: str) -> tuple[str, ...]:
        row = rows[str(refunded.payments[name])]
        return row["amount"], row["refunded"], row["net_of_refunds"], row["refund_state"]

    assert of("matched") == ("24.00", "4.00", "20.00", "partly")
    assert of("yen") == ("1200", "1200", "0", "wholly")
    assert of("order") == ("60.00", "", "", "unclear")
    assert of("recovered") == ("24.00", "0.00", "24.00", "none")
    assert of("discrepant") == ("24.00", "", "24.00", "")
    assert auditor.get("/payments/export.xlsx").status_code == 200
