"""Creating a link: what is entered, what Wix finds wrong with it, and that there is one link of one form."""

from __future__ import annotations

import html
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from processor.domain.access import Role
from processor.web.pages import link_forms
from processor.web.pages.link_forms import amount, check, field_of, read
from tests.web.pages.books import MARKUP, Books, Person
from tests.web.pages.test_links import contact_of, fault

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Riga")


@pytest.fixture
def clerk(fresh_books: Books) -> Person:
    return fresh_books.person(Role.CLERK)


def a_form(**fields: str) -> dict[str, str]:
    """A form that is right: one custom item of 12.50 USD."""
    return {
        "reference": str(uuid4()),
        "kind": "items",
        "title": "Green tea",
        "currency": "USD",
        "item_name-0": "Tea",
        "item_quantity-0": "2",
        "item_price-0": "6.25",
        **fields,
    }


def at(books: Books, what: str) -> str:
    return f"/links/{books.instance_id}/{what}"


def made(books: Books) -> list[dict[str, Any]]:
    """Links of the shop at Wix."""
    return [one["entity"] for one in books.shop.sandbox.documents.all("link")]


def fields_of(page: str) -> dict[str, str]:
    """Hidden fields of the first form that has a reference."""
    form = next(one for one in page.split("<form")[1:] if 'name="reference"' in one).split("</form>")[0]
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
    return {name: html.unescape(value) for name, value in found if name != "csrf_token"}


def wrong_of(page: str) -> dict[str, str]:
    """What is said beside which field."""
    found = re.findall(r'<p class="wrong-words" id="field-(.+?)-wrong">(.*?)</p>', page)
    return {name: html.unescape(words) for name, words in found}


# -- What is entered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "currency", "words"),
    [
        ("", "EUR", "Write an amount, such as 1234.50."),
        ("1.234,50", "EUR", "with a point and without anything else, such as 1234.50."),
        ("1,234.50", "EUR", "with a point"),
        ("1234,50", "EUR", "with a point"),
        ("1 234", "EUR", "with a point"),
        ("-5", "EUR", "with a point"),
        ("+5", "EUR", "with a point"),
        ("5e3", "EUR", "with a point"),
        ("€5", "EUR", "with a point"),
        ("٣", "EUR", "with a point"),
        (".5", "EUR", "with a point"),
        ("5.", "EUR", "with a point"),
        ("5.001", "EUR", "at most 2 decimals"),
        ("5.00000000", "EUR", "at most 2 decimals"),
        ("5.0", "JPY", "JPY has no decimals: write it such as 1234."),
        ("5.0001", "KWD", "at most 3 decimals: write it such as 1234.500."),
        ("9" * 16, "EUR", "more than Wix takes"),
        ("9" * 17, "EUR", "with a point"),
    ],
)
def test_amounts_are_not_guessed(text: str, currency: str, words: str) -> None:
    value, said = amount(text, currency)

    assert value is None
    assert words in said


@pytest.mark.parametrize(
    ("text", "currency"), [("5", "EUR"), ("5.5", "EUR"), ("1200", "JPY"), ("12.345", "KWD")]
)
def test_amounts_with_the_currencys_decimals_are_taken(text: str, currency: str) -> None:
    value, said = amount(text, currency)

    assert said == ""
    assert str(value).rstrip("0").rstrip(".") in (text, text.rstrip("0"))


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"title": ""}, "title", "Give it a title"),
        ({"title": "\N{ZERO WIDTH SPACE}"}, "title", "Give it a title"),
        ({"title": "x" * 201}, "title", "at most 200"),
        ({"currency": "EURO"}, "currency", "three letters"),
        ({"currency": ""}, "currency", "three letters"),
        ({"payments_limit": "0"}, "payments_limit", "whole number"),
        ({"payments_limit": "two"}, "payments_limit", "whole number"),
        ({"payments_limit": "9" * 4_000}, "payments_limit", "whole number"),
        ({"expires": "tomorrow"}, "expires", "day and time"),
        ({"expires": "9999-99-99T00:00"}, "expires", "day and time"),
        ({"expires": "2026-11-28T13:59"}, "expires", "past"),
        ({"expires": "0001-01-01T00:00"}, "expires", ""),
        ({"recipients": "maya@example.com"}, "recipients", "not mail addresses"),
        ({"item_name-0": ""}, "item_name-0", "Say what it is"),
        ({"item_quantity-0": "0"}, "item_quantity-0", "from 1 to 100,000"),
        ({"item_quantity-0": "1.5"}, "item_quantity-0", "from 1 to 100,000"),
        ({"item_price-0": "1.234,50"}, "item_price-0", "with a point"),
        ({"item_price-0": "0"}, "item_price-0", "nothing to pay"),
        ({"item_name-0": "", "item_price-0": ""}, "item_name-0", "what is to be paid"),
        ({"item_rows": "x", "item_price-2": "x"}, "item_price-2", "with a point"),
        ({"kind": "products"}, "product_name-0", "Choose a product"),
        ({"kind": "products", "product_name-0": "a b"}, "product_name-0", "no id"),
        (
            {"kind": "products", "product_name-0": "x", "product_extra-0": "large"},
            "product_extra-0",
            "Name: value",
        ),
        (
            {"kind": "products", "product_name-0": "x", "product_variant-0": "\N{BULLET}"},
            "product_variant-0",
            "no id",
        ),
        ({"kind": "order"}, "order_id", "id of the order"),
        ({"kind": "order", "order_id": "x", "order_amount": "5,0"}, "order_amount", "with a point"),
        ({"kind": "order", "order_id": "x", "order_amount": "0"}, "order_amount", "nothing to pay"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(change: dict[str, str], field: str, words: str) -> None:
    draft = read({**a_form(), **change}, uuid4())

    asked = check(draft, ZONE, NOW)

    assert asked is None
    assert words in draft.wrong[field]


def test_a_time_is_one_of_the_zone_of_reports() -> None:
    asked = check(read(a_form(expires="2026-11-28T14:01"), uuid4()), ZONE, NOW)

    assert asked is not None
    assert asked.new.expiration_date == NOW + timedelta(minutes=1)


def test_a_form_of_everything_is_what_wix_takes() -> None:
    contact_id = str(uuid4())
    draft = read(
        a_form(
            kind="products",
            **{
                "currency": "eur",
                "description": "a\r\nb",
                "payments_limit": "3",
                "recipients": contact_id,
                "channel": "EMAIL_METHOD",
                "product_name-1": "p-1",
                "product_quantity-1": "2",
                "product_extra-1": "Size: L; Colour: red",
                "product_name-2": "p-2",
                "product_variant-2": "v-1",
            },
        ),
        uuid4(),
    )

    asked = check(draft, ZONE, NOW)

    assert asked is not None
    assert asked.rows == (("product", 1), ("product", 2))
    new = asked.new
    assert (new.currency, new.type, new.payments_limit, new.description) == ("EUR", "ECOM", 3, "a\nb")
    assert new.ecom_payment_link is not None
    first, second = (one.catalog_item for one in new.ecom_payment_link.line_items)
    assert first is not None
    assert second is not None
    assert first.catalog_reference.options == {"options": {"Size": "L", "Colour": "red"}}
    assert second.catalog_reference.options == {"variantId": "v-1"}
    assert new.recipients is not None
    assert [(one.contact_id, one.send_methods) for one in new.recipients] == [(contact_id, ["EMAIL_METHOD"])]


def test_a_draft_sent_again_unseen_is_the_same() -> None:
    form = a_form(**{"item_name-7": "late", "item_price-7": "1", "item_rows": "9", "description": "a\nb"})
    draft = read(form, uuid4())

    again = read(dict(draft.fields()), uuid4())

    assert again == draft
    assert again.items[7].name == "late"


@pytest.mark.parametrize("rows", ["-1", "99999999999", "9" * 4_000, "", "\0", "1e3"])
def test_a_form_has_a_bounded_number_of_lines(rows: str) -> None:
    draft = read({"item_rows": rows, "product_rows": rows}, uuid4())

    assert len(draft.items) <= link_forms.ROWS_MAX


# -- What Wix finds wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "field"),
    [
        ("paymentLink.title", "items", "title"),
        ("title", "items", "title"),
        ("paymentLink.expirationDate", "items", "expires"),
        ("paymentLink.paymentsLimit", "items", "payments_limit"),
        ("paymentLink.recipients[3].contactId", "items", "recipients"),
        ("paymentLink.ecomPaymentLink.lineItems[1].customItem.price", "items", "item_price-4"),
        ("paymentLink.ecomPaymentLink.lineItems.1.customItem.name", "items", "item_name-4"),
        ("paymentLink.ecomPaymentLink.lineItems[0].customItem.price.value", "items", "item_price-2"),
        ("paymentLink.ecomPaymentLink.lineItems[0].customItem.taxable", "items", "item_name-2"),
        ("paymentLink.ecomPaymentLink.lineItems[0].strange", "items", "item_name-2"),
        ("paymentLink.ecomPaymentLink.lineItems[9].customItem.price", "items", None),
        ("paymentLink.ecomPaymentLink.lineItems[999999999999].customItem.price", "items", None),
        ("paymentLink.ecomPaymentLink.lineItems", "items", "item_name-0"),
        (
            "paymentLink.ecomPaymentLink.lineItems[1].catalogItem.catalogReference.catalogItemId",
            "products",
            "product_name-4",
        ),
        ("paymentLink.ecomPaymentLink.lineItems[1].customItem.name", "products", "product_name-4"),
        ("paymentLink.ecomPaymentLink.lineItems[0].customItem.price", "both", "item_price-2"),
        ("paymentLink.ecomPaymentLink.lineItems[1].catalogItem.quantity", "both", "product_quantity-4"),
        ("paymentLink.ecomPaymentLink.lineItems[1].customItem.price", "both", "product_name-4"),
        ("paymentLink.ecomPaymentLink.lineItems", "both", "item_name-0"),
        ("paymentLink.ecomOrderPaymentLink.amount", "order", "order_amount"),
        ("paymentLink.ecomOrderPaymentLink.orderId", "order", "order_id"),
        ("paymentLink.displayData.colour", "items", None),
        ("", "items", None),
        ("...", "items", None),
    ],
)
def test_wixs_paths_lead_to_fields(path: str, kind: str, field: str | None) -> None:
    rows = {
        "items": (("item", 2), ("item", 4)),
        "both": (("item", 2), ("product", 4)),
        "products": (("product", 2), ("product", 4)),
        "order": (),
    }

    assert field_of(path, kind, rows[kind]) == field


def test_wixs_words_are_beside_the_field_they_belong_to(fresh_books: Books, clerk: Person) -> None:
    form = a_form(description="x" * 501, **{"item_extra-0": "y" * 601})
    form["payments_limit"] = str(2**31)

    answer = clerk.post(at(fresh_books, "create"), form)

    assert answer.status_code == 422
    assert wrong_of(answer.text) == {
        "description": "Wix says: has more than 500 characters.",
        "payments_limit": "Wix says: must be from 1 to 2147483647.",
    }
    assert fields_of(answer.text)["reference"] == form["reference"]
    assert "y" * 601 in answer.text
    assert made(fresh_books) == []


def test_a_field_of_wixs_that_is_not_on_the_form_is_told_at_its_top(
    fresh_books: Books, clerk: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.errors import FieldViolation, WixRefused
    from processor.wix.client import WixClient

    def refuse(*_: Any) -> None:
        violation = FieldViolation("paymentLink.displayData", f"is odd {MARKUP}", "CUSTOM")
        raise WixRefused("create_link: Wix answered 400", status=400, violations=(violation,))

    monkeypatch.setattr(WixClient, "create_link", refuse)

    answer = clerk.post(at(fresh_books, "create"), a_form())

    assert answer.status_code == 422
    assert "Wix says about paymentLink.displayData: is odd &lt;b onclick" in answer.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in answer.text


def test_a_site_that_cannot_take_payments_is_told_what_to_do(fresh_books: Books, clerk: Person) -> None:
    fresh_books.shop.sandbox.world.change_site(str(fresh_books.instance_id), {"acceptsPayments": False})

    answer = clerk.post(at(fresh_books, "create"), a_form())

    assert answer.status_code == 422
    assert "let the site accept payments first" in answer.text


def test_contacts_and_orders_that_wix_does_not_know_are_told_at_their_fields(
    fresh_books: Books, clerk: Person
) -> None:
    contact = clerk.post(at(fresh_books, "create"), a_form(recipients=str(uuid4())))
    order = clerk.post(at(fresh_books, "create"), a_form(kind="order", order_id=str(uuid4())))

    assert "no contact of the site" in wrong_of(contact.text)["recipients"]
    assert "no such order" in wrong_of(order.text)["order_id"]
    assert (contact.status_code, order.status_code) == (422, 422)


def test_too_much_for_the_order_is_told(fresh_books: Books, clerk: Person) -> None:
    world = fresh_books.shop.sandbox.world
    order = world.add_order(str(fresh_books.instance_id), {"currency": "USD", "total": "18.00"})

    answer = clerk.post(
        at(fresh_books, "create"), a_form(kind="order", order_id=order["id"], order_amount="18.01")
    )

    assert answer.status_code == 422
    assert "SANDBOX_AMOUNT_EXCEEDS_BALANCE" in answer.text
    assert "premium plan" not in answer.text


def test_a_preview_refuses_more_than_is_open_of_the_order(fresh_books: Books, clerk: Person) -> None:
    world = fresh_books.shop.sandbox.world
    order = world.add_order(str(fresh_books.instance_id), {"currency": "USD", "total": "18.00"})

    more, all_, yen = (
        clerk.post(
            at(fresh_books, "draft"),
            a_form(
                kind="order", order_id=order["id"], order_amount=amount, currency=currency, step="preview"
            ),
        )
        for amount, currency in (("18.01", "USD"), ("18.00", "USD"), ("500", "JPY"))
    )

    assert more.status_code == 422
    assert "18.00 USD is still open" in wrong_of(more.text)["order_amount"]
    assert (all_.status_code, yen.status_code) == (200, 200)  # in another currency it is Wix that says


# -- From the form to the link -------------------------------------------------------------------------


def test_who_may_not_create_gets_no_form(fresh_books: Books) -> None:
    auditor = fresh_books.person(Role.AUDITOR)

    assert auditor.get(at(fresh_books, "new")).status_code == 403
    assert "Create a link" not in auditor.read("/links")


def test_a_preview_shows_all_and_sends_nothing(fresh_books: Books, clerk: Person) -> None:
    reference = fields_of(clerk.read(at(fresh_books, "new")))["reference"]
    calls = fresh_books.shop.calls

    page = clerk.post(at(fresh_books, "draft"), a_form(reference=reference, title=MARKUP, step="preview"))

    assert page.status_code == 200
    assert "Nothing was sent to Wix yet" in page.text
    assert "12.50" in page.text
    assert "<b onclick" not in page.text
    assert fields_of(page.text)["reference"] == reference
    assert fresh_books.shop.calls == calls
    assert made(fresh_books) == []


def test_from_the_preview_a_link_is_created_and_shown(fresh_books: Books, clerk: Person) -> None:
    contact_id = contact_of(fresh_books)
    form = a_form(payments_limit="3", recipients=contact_id, expires="2099-01-31T18:00", step="preview")

    preview = clerk.post(at(fresh_books, "draft"), form)
    answer = clerk.post(at(fresh_books, "create"), fields_of(preview.text))
    page = clerk.read(answer.headers["Location"])

    [link] = made(fresh_books)
    assert answer.status_code == 303
    assert "The link is created" in page
    assert contact_id in page
    assert (link["title"], link["paymentsLimit"]) == ("Green tea", 3)
    assert link["ecomPaymentLink"]["lineItems"][0]["customItem"]["price"] == "6.25"
    [row] = fresh_books.shop.rows("SELECT detail FROM actions WHERE action = 'links.create'")
    assert "Green tea" not in str(row.detail)  # what is typed may be anything, and the row is kept for ever
    assert contact_id not in str(row.detail)


def test_from_the_preview_one_goes_back_to_the_form(fresh_books: Books, clerk: Person) -> None:
    preview = clerk.post(at(fresh_books, "draft"), a_form(step="preview"))

    page = clerk.post(at(fresh_books, "draft"), {**fields_of(preview.text), "step": "edit"}).text

    assert 'value="Green tea"' in page
    assert 'value="6.25"' in page


def test_a_preview_adds_up_products_where_their_prices_are_sure(fresh_books: Books, clerk: Person) -> None:
    path = at(fresh_books, "draft")
    found = clerk.post(path, {**a_form(), "step": "find_product", "find": "MUG"}).text
    [product_id] = re.findall(r'name="add" value="([^"]+)"', found)
    form = a_form(kind="both", **{"product_name-0": product_id, "product_quantity-0": "2", "step": "preview"})
    price = fresh_books.shop.services.wix.get_product(fresh_books.instance_id, product_id).price_data
    assert price is not None
    own = clerk.post(path, {**form, "kind": "items"}).text

    both = clerk.post(path, form).text
    chosen = clerk.post(path, {**form, "product_extra-0": "Size: L"}).text

    def total(page: str) -> Decimal:
        foot = re.sub("<[^>]+>", " ", page.split("<tfoot>", 1)[1].split("</tfoot>", 1)[0])
        return Decimal(re.findall(r"[0-9]+\.[0-9]+", foot)[0])

    assert total(both) == total(own) + 2 * Decimal(str(price.price))
    assert "by the shop's prices of now" in both
    assert "<tfoot>" not in chosen


def test_more_lines_are_there_when_asked_for(fresh_books: Books, clerk: Person) -> None:
    page = clerk.post(at(fresh_books, "draft"), a_form(step="rows", item_rows="3")).text

    assert 'name="item_name-5"' in page
    assert 'value="6.25"' in page


def test_products_are_searched_in_the_catalog_and_added(fresh_books: Books, clerk: Person) -> None:
    form = {**a_form(), "step": "find_product", "find": "MUG"}

    found = clerk.post(at(fresh_books, "draft"), form).text
    product_id = re.findall(r'name="add" value="([^"]+)"', found)
    added = clerk.post(at(fresh_books, "draft"), {**a_form(), "add": product_id[0]}).text
    preview = clerk.post(
        at(fresh_books, "draft"),
        a_form(kind="products", **{"product_name-0": product_id[0], "step": "preview"}),
    ).text
    answer = clerk.post(at(fresh_books, "create"), fields_of(preview))

    assert len(product_id) == 1
    assert "Stoneware mug" in found
    assert f'value="{product_id[0]}"' in added
    assert 'value="Green tea"' in added
    assert "Stoneware mug" in preview
    assert answer.status_code == 303
    [link] = made(fresh_books)
    assert link["ecomPaymentLink"]["lineItems"][0]["catalogItem"]["catalogReference"] == {
        "appId": "215238eb-22a5-4c36-9e7b-e7c08025e04e",
        "catalogItemId": product_id[0],
    }


def test_items_and_products_are_in_one_link(fresh_books: Books, clerk: Person) -> None:
    found = clerk.post(
        at(fresh_books, "draft"), {**a_form(kind="both"), "step": "find_product", "find": "mug"}
    ).text
    [product_id] = re.findall(r'name="add" value="([^"]+)"', found)
    added = clerk.post(at(fresh_books, "draft"), {**a_form(kind="both"), "add": product_id}).text
    form = a_form(kind="both", **{"product_name-0": product_id, "product_quantity-0": "3"})

    preview = clerk.post(at(fresh_books, "draft"), {**form, "step": "preview"}).text
    clerk.post(at(fresh_books, "create"), fields_of(preview))

    assert re.search(r'value="both" checked', added)
    assert "Tea" in preview
    assert "Stoneware mug" in preview
    assert "Together, by the shop's prices of now" in preview
    [link] = made(fresh_books)
    items = link["ecomPaymentLink"]["lineItems"]
    assert [one["type"] for one in items] == ["CUSTOM", "CATALOG"]
    assert items[1]["catalogItem"]["quantity"] == 3


def test_of_items_and_products_neither_may_be_missing(fresh_books: Books, clerk: Person) -> None:
    answer = clerk.post(at(fresh_books, "draft"), {**a_form(kind="both"), "step": "preview"})

    assert answer.status_code == 422
    assert "Choose a product" in wrong_of(answer.text)["product_name-0"]


# -- Choosing what has an id ---------------------------------------------------------------------------


def orders(books: Books, *totals: str) -> list[dict[str, Any]]:
    world = books.shop.sandbox.world
    return [world.add_order(str(books.instance_id), {"currency": "EUR", "total": one}) for one in totals]


def test_an_order_is_found_by_its_amount_and_chosen(fresh_books: Books, clerk: Person) -> None:
    small, large = orders(fresh_books, "18.00", "412.50")

    found = clerk.post(
        at(fresh_books, "draft"), {**a_form(), "step": "find_order", "find_order": "412.50"}
    ).text
    values = re.findall(r'name="add_order" value="([^"]+)"', found)
    chosen = clerk.post(at(fresh_books, "draft"), {**a_form(), "add_order": values[0]}).text

    assert values == [f"{large['id']} EUR"]
    assert f"Order {large['number']}" in found
    assert f"Order {small['number']}" not in found
    assert f'name="order_id" type="text" value="{large["id"]}"' in chosen
    assert 'name="currency" type="text" value="EUR"' in chosen
    assert re.search(r'value="order" checked', chosen)
    for page in (found, chosen):
        assert 'value="Green tea"' in page
        assert 'value="6.25"' in page


def test_orders_are_found_by_number_and_by_day(fresh_books: Books, clerk: Person) -> None:
    first, second = orders(fresh_books, "18.00", "19.00")
    day = first["createdDate"][:10]

    by_number = clerk.post(
        at(fresh_books, "draft"), {**a_form(), "step": "find_order", "find_order": second["number"]}
    ).text
    by_day = clerk.post(at(fresh_books, "draft"), {**a_form(), "step": "find_order", "find_order": day}).text
    none = clerk.post(
        at(fresh_books, "draft"), {**a_form(), "step": "find_order", "find_order": "no such"}
    ).text

    assert re.findall(r'name="add_order" value="([^ ]+) ', by_number) == [second["id"]]
    assert {first["id"], second["id"]} <= set(re.findall(r'name="add_order" value="([^ ]+) ', by_day))
    assert "name=&#34;add_order" not in none
    assert "None of the newest 100 orders that are still to be paid is so" in none


def test_a_paid_order_is_not_offered(fresh_books: Books, clerk: Person) -> None:
    [order] = orders(fresh_books, "18.00")
    documents = fresh_books.shop.sandbox.documents
    documents.put("order", order["id"], {**order, "paid": "18.00", "paymentStatus": "PAID"})

    found = clerk.post(at(fresh_books, "draft"), {**a_form(), "step": "find_order", "find_order": "18.00"})

    assert order["id"] not in found.text


def test_who_bought_is_found_and_masked(
    fresh_books: Books, clerk: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.wix import wire
    from processor.wix.client import WixClient

    contact = wire.BillingInfo(wire.OrderContact("Maya", "Berg"))
    order = wire.Order(
        id="o-1",
        number=7,
        currency="EUR",
        billing_info=contact,
        buyer_info=wire.BuyerInfo("maya@example.com"),
    )
    monkeypatch.setattr(WixClient, "newest_orders", lambda *_, **__: [order])
    personal = fresh_books.person(Role.CLERK, personal=True)

    def found(person: Person, sought: str) -> str:
        form = {**a_form(), "step": "find_order", "find_order": sought}
        return re.sub(r"<input[^>]*>", "", person.post(at(fresh_books, "draft"), form).text)

    assert "Maya Berg" in found(personal, "maya")
    assert "Order 7" not in found(clerk, "maya")
    whole = found(clerk, "Maya Berg")
    assert "Order 7" in whole
    assert "Maya" not in whole
    assert "example.com" not in whole


def test_contacts_are_chosen_one_after_the_other(fresh_books: Books) -> None:
    person = fresh_books.person(Role.CLERK, personal=True)
    contact_id, other_id = contact_of(fresh_books, "Maya <Example>"), str(uuid4())

    found = person.post(
        at(fresh_books, "draft"),
        a_form(step="find_contact", find_contact="EXAMP maya", recipients=other_id),
    ).text
    chosen = person.post(at(fresh_books, "draft"), a_form(add_contact=contact_id, recipients=other_id)).text
    again = person.post(
        at(fresh_books, "draft"), a_form(add_contact=contact_id, recipients=f"{other_id}\n{contact_id}")
    ).text

    assert re.findall(r'name="add_contact" value="([^"]+)"', found) == [contact_id]
    assert "Maya &lt;Example&gt;" in found
    for page in (chosen, again):
        assert f">\n{other_id}\n{contact_id}</textarea>" in page
        assert 'value="Green tea"' in page
        assert re.search(rf'<bdi>Maya &lt;Example&gt;[^<]*</bdi> <code title="{contact_id}">', page)
        assert f'No contact of the site</span> <code title="{other_id}">' in page


def test_a_preview_names_the_contacts_as_far_as_one_may_see_them(fresh_books: Books, clerk: Person) -> None:
    contact_id, other_id = contact_of(fresh_books, "Maya <Example>"), str(uuid4())
    form = a_form(recipients=f"{contact_id} {other_id}", step="preview")
    path = at(fresh_books, "draft")

    whole = fresh_books.person(Role.CLERK, personal=True).post(path, form).text
    masked = clerk.post(path, form).text
    with fault(fresh_books, kind="status", status=503, path="contacts"):
        away = clerk.post(path, form)

    assert re.search(rf"<bdi>Maya &lt;Example&gt;[^<]*</bdi> <code>{contact_id}</code>", whole)
    assert f"No contact of the site</span> <code>{other_id}</code>" in whole
    assert "<bdi>M•" in masked
    assert "Maya" not in masked
    assert away.status_code == 200
    assert f"<code>{contact_id}</code>" in away.text
    assert "maya" not in str(fresh_books.shop.rows("SELECT * FROM actions")).lower()


def test_who_may_not_see_contacts_finds_one_by_the_whole_name_alone(
    fresh_books: Books, clerk: Person
) -> None:
    contact_id = contact_of(fresh_books, "Maya <Example>")

    def found(sought: str) -> str:
        return clerk.post(at(fresh_books, "draft"), a_form(step="find_contact", find_contact=sought)).text

    part, whole = found("maya"), found(" maya  <EXAMPLE>")

    assert contact_id not in part
    assert "the whole name or the whole mail address is needed" in part
    assert contact_id in whole
    shown = re.sub(r"<input[^>]*>", "", whole)
    assert "Example" not in shown.replace("wix.example", "")
    assert "M•" in shown


def test_what_is_sought_is_not_written_down(fresh_books: Books, clerk: Person) -> None:
    clerk.post(at(fresh_books, "draft"), a_form(step="find_contact", find_contact="Maya Berg"))

    [row] = fresh_books.shop.rows("SELECT action, detail, status FROM actions WHERE action = 'links.draft'")
    assert row.detail["step"] == "find_contact"
    assert "maya" not in str(row).lower()


@pytest.mark.parametrize("kind", ["contact", "order", "product"])
@pytest.mark.parametrize("sought", ["\0", "x" * 10_000, "<b onclick=alert(1)>", "\u202e"])
def test_odd_words_are_looked_for_without_failing(
    fresh_books: Books, clerk: Person, kind: str, sought: str
) -> None:
    field = "find" if kind == "product" else f"find_{kind}"

    answer = clerk.post(at(fresh_books, "draft"), a_form(step=f"find_{kind}", **{field: sought}))

    assert answer.status_code == 200
    assert "<b onclick" not in answer.text
    assert "\u202e" not in answer.text


@pytest.mark.parametrize("value", ["", " ", "o ZZZ", "x" * 10_000, "\0 EUR"])
def test_an_odd_choice_of_an_order_is_told_later(fresh_books: Books, clerk: Person, value: str) -> None:
    answer = clerk.post(at(fresh_books, "draft"), a_form(add_order=value, step="edit"))

    assert answer.status_code == 200
    assert 'value="USD"' in answer.text or value == "\0 EUR"


def test_a_product_that_is_not_there_is_told_before_anything_is_made(
    fresh_books: Books, clerk: Person
) -> None:
    form = a_form(kind="products", **{"product_name-1": str(uuid4()), "step": "preview"})

    answer = clerk.post(at(fresh_books, "draft"), form)

    assert answer.status_code == 422
    assert "knows no such product" in wrong_of(answer.text)["product_name-1"]


def test_without_wix_a_catalog_is_not_searched_but_an_id_is_pasted(fresh_books: Books, clerk: Person) -> None:
    with fault(fresh_books, kind="status", status=503):
        found = clerk.post(at(fresh_books, "draft"), {**a_form(), "step": "find_product", "find": "mug"})
        preview = clerk.post(
            at(fresh_books, "draft"), a_form(kind="products", **{"product_name-0": "p", "step": "preview"})
        )

    assert "Paste the product" in found.text
    assert preview.status_code == 200
    assert "Wix does not answer now." in preview.text


def test_a_link_of_an_order_is_created(fresh_books: Books, clerk: Person) -> None:
    world = fresh_books.shop.sandbox.world
    order = world.add_order(str(fresh_books.instance_id), {"currency": "USD", "total": "180.00"})
    form = a_form(kind="order", order_id=order["id"], order_amount="60.00", step="preview")

    preview = clerk.post(at(fresh_books, "draft"), form).text
    answer = clerk.post(at(fresh_books, "create"), fields_of(preview))

    assert "180.00" in preview
    assert answer.status_code == 303
    [link] = made(fresh_books)
    assert link["ecomOrderPaymentLink"] == {"orderId": order["id"], "amount": "60.00"}
    assert link["paymentsLimit"] == 1


# -- One link of one form ------------------------------------------------------------------------------


def test_a_form_sent_twice_makes_one_link(fresh_books: Books, clerk: Person) -> None:
    form = a_form()

    first = clerk.post(at(fresh_books, "create"), form)
    second = clerk.post(at(fresh_books, "create"), form)

    assert first.headers["Location"] == second.headers["Location"]
    assert "There is no second one" in clerk.read(second.headers["Location"])
    assert len(made(fresh_books)) == 1


def test_two_clicks_at_once_make_one_link(fresh_books: Books) -> None:
    form = a_form()
    people = [fresh_books.person(Role.CLERK) for _ in range(2)]
    for person in people:
        person.read(at(fresh_books, "new"))
        person.post("/theme", {"theme": "auto"})  # the token is at hand

    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda person: person.post(at(fresh_books, "create"), form).status_code, people)
        )
    again = people[0].post(at(fresh_books, "create"), form)

    assert set(answers) <= {303, 503}
    assert 303 in answers
    assert again.status_code == 303
    assert len(made(fresh_books)) == 1


def test_a_lost_answer_is_looked_for_and_found(fresh_books: Books, clerk: Person) -> None:
    form = a_form()

    with fault(fresh_books, kind="truncated", path="=/payment-links/v1/payment-links", count=1):
        lost = clerk.post(at(fresh_books, "create"), form)
    again = clerk.post(at(fresh_books, "create"), fields_of(lost.text))

    assert lost.status_code == 503
    assert "not known yet whether the link was created" in lost.text
    assert "Look again" in lost.text
    assert again.status_code == 303
    assert "its answer was lost" in clerk.read(again.headers["Location"])
    assert len(made(fresh_books)) == 1


def test_a_link_that_does_not_show_yet_is_waited_for(fresh_books: Books, clerk: Person) -> None:
    form = a_form()

    with fault(fresh_books, kind="status", status=503, path="=/payment-links/v1/payment-links", count=1):
        lost = clerk.post(at(fresh_books, "create"), form)
    early = clerk.post(at(fresh_books, "create"), fields_of(lost.text))
    fresh_books.shop.pass_time()
    late = clerk.post(at(fresh_books, "create"), fields_of(early.text))

    assert (lost.status_code, early.status_code, late.status_code) == (503, 503, 303)
    assert "Look again in " in early.text
    assert len(made(fresh_books)) == 1


def test_a_refused_form_is_mended_and_sent_again(fresh_books: Books, clerk: Person) -> None:
    refused = clerk.post(at(fresh_books, "create"), a_form(description="x" * 501))
    form = {**a_form(), "reference": fields_of(refused.text)["reference"]}

    answer = clerk.post(at(fresh_books, "create"), form)

    assert answer.status_code == 303
    assert len(made(fresh_books)) == 1


def test_a_form_changed_after_it_made_a_link_is_not_sent_unasked(fresh_books: Books, clerk: Person) -> None:
    form = a_form()
    clerk.post(at(fresh_books, "create"), form)

    answer = clerk.post(at(fresh_books, "create"), {**form, "title": "Black tea"})

    assert answer.status_code == 409
    assert "creating it now makes another link" in answer.text
    assert fields_of(answer.text)["reference"] != form["reference"]
    assert len(made(fresh_books)) == 1


def test_a_form_without_its_reference_makes_nothing(fresh_books: Books, clerk: Person) -> None:
    for reference in ("", "odd", "x" * 5_000):
        answer = clerk.post(at(fresh_books, "create"), a_form(reference=reference))
        assert answer.status_code == 422
        assert UUID(fields_of(answer.text)["reference"]).version == 4

    assert made(fresh_books) == []


def test_without_wix_nothing_is_made_and_the_form_is_kept(fresh_books: Books, clerk: Person) -> None:
    with fault(fresh_books, kind="status", status=429, count=5):
        answer = clerk.post(at(fresh_books, "create"), a_form())

    assert answer.status_code == 503
    assert "nothing was done" in answer.text
    assert 'value="Green tea"' in answer.text
