"""The list of payment links and the page of one: Wix's word beside what is booked, and what can be done."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import Connection, event

from processor import jobs
from processor.domain.access import Reach, Role
from processor.queue import QUEUE
from processor.store import instances
from processor.store.screens import links as store
from processor.web.pages import create_pages
from processor.web.pages.link_view import qr_code, web_address
from processor.web.pages.site import CROWDED
from processor.wix import wire
from tests.web.pages.books import MARKUP, Books, Person


@contextmanager
def fault(books: Books, **given: Any) -> Iterator[None]:
    """Something goes wrong at Wix meanwhile."""
    faults = books.shop.sandbox.faults
    held = faults.add(given)
    try:
        yield
    finally:
        if any(one["id"] == held["id"] for one in faults.all()):
            faults.remove(held["id"])


def page_of(books: Books, link: str | UUID, instance_id: UUID | None = None) -> str:
    link_id = books.links[link] if isinstance(link, str) else link
    return f"/links/{instance_id or books.instance_id}/{link_id}"


def row_of(page: str, link_id: UUID) -> str:
    found = re.search(rf"<tr>(?:(?!</tr>).)*{link_id}.*?</tr>", page, re.DOTALL)
    assert found, f"no row of {link_id}"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))


# -- The list ----------------------------------------------------------------------------------------


def test_the_list_shows_what_is_booked_beside_what_wix_says(books: Books) -> None:
    page = books.person().read("/links")

    mug, yen = row_of(page, books.links["mug"]), row_of(page, books.links["yen"])
    assert "Active" in mug
    assert "thing" in mug
    assert "147.00" in mug or "72.00" in mug
    assert "1,200 JPY" in yen
    assert "1,205 JPY differs" in yen
    assert "1 open" in yen
    assert "Inactive" in row_of(page, books.links["inactive"])
    assert str(books.links["other"]) not in page


def test_hostile_titles_are_shown_as_text(books: Books) -> None:
    person = books.person()
    for page in (person.read("/links"), person.read(page_of(books, "markup"))):
        assert "<b onclick" not in page
        assert html.escape("<b onclick=alert(1)>", quote=False) in page
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page


def test_the_list_is_of_one_instance_at_a_time(books: Books) -> None:
    person = books.person()

    page = person.read(f"/links?instance={books.other_instance_id}")

    assert str(books.links["other"]) in page
    assert str(books.links["mug"]) not in page


def test_the_list_of_an_instance_beyond_the_reach_is_not_there(books: Books) -> None:
    person = books.person(reach=Reach(frozenset({books.other_instance_id})))

    assert person.get(f"/links?instance={books.instance_id}").status_code == 404
    page = person.read("/links")
    assert str(books.links["other"]) in page
    assert str(books.links["mug"]) not in page


def test_who_sees_no_instance_is_told_so(books: Books) -> None:
    person = books.person(reach=Reach(frozenset()))

    assert "No app instance is known yet" in person.read("/links")


def test_links_are_filtered_by_status_and_words(books: Books) -> None:
    person = books.person()

    inactive = person.read("/links?status=INACTIVE")
    found = person.read("/links?q=Deposit")
    nothing = person.read("/links?q=nosuchword")

    assert str(books.links["inactive"]) in inactive
    assert str(books.links["mug"]) not in inactive
    assert str(books.links["order"]) in found
    assert str(books.links["mug"]) not in found
    assert "No payment link is so." in nothing


@pytest.mark.parametrize(
    "query",
    [
        "status=ODD",
        "status=ACTIVE&status=PAID",
        "instance=odd",
        "instance=" + "9" * 10_000,
        "q=" + "x" * 10_000,
        "q=%00",
        "q=%E2%80%AE",
        "status=%00",
        "instance=%00",
        "q=a&at=",
    ],
)
def test_odd_filters_are_told_and_never_fail(books: Books, query: str) -> None:
    page = books.person().read(f"/links?{query}")

    if "&" not in query:
        assert "wrong-words" in page
    assert str(books.links["mug"]) in page or "status=ACTIVE" in query or "q=a" in query


def test_an_instance_that_nobody_knows_has_no_links(books: Books) -> None:
    page = books.person().read(f"/links?instance={uuid4()}")

    assert "Wix does not let us read its payment links" in page
    assert str(books.links["mug"]) not in page


@pytest.mark.parametrize("at", ["odd", "%00", "e30", "x" * 15_000])
def test_a_place_that_wix_does_not_know_leads_to_the_first_page(books: Books, at: str) -> None:
    person = books.person()

    answer = person.get(f"/links?status=ACTIVE&at={at}")

    assert answer.status_code == 303
    assert answer.headers["Location"] == "/links?status=ACTIVE&at="
    assert "first" in person.read(answer.headers["Location"])


def test_the_list_goes_on_by_wixs_own_places(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processor.web.pages.screens.links.PAGE", 2)
    person = books.person()
    seen: list[str] = []
    path: str | None = "/links"
    page, pages = "", 0

    while path:
        page = person.read(path)
        seen += [str(one) for one in books.links.values() if f"/{one}" in page]
        found = re.search(r'rel="next" href="([^"]+)"', page)
        path = html.unescape(found[1]) if found else None
        pages += 1

    assert sorted(seen) == sorted(str(one) for name, one in books.links.items() if name != "other")
    assert pages == 3
    assert 'rel="prev"' in page


def test_while_wix_is_away_the_list_is_what_we_hold(books: Books) -> None:
    person = books.person()
    with fault(books, kind="status", status=503):
        page = person.read("/links")
        narrowed = person.read("/links?status=ACTIVE&q=depos")

    assert "Wix does not answer now." in page
    assert "1,200 JPY" in row_of(page, books.links["yen"])
    assert str(books.links["order"]) not in narrowed or "Deposit" in narrowed
    assert str(books.links["mug"]) not in narrowed


@pytest.mark.parametrize("kind", ["truncated", "revoked_token"])
def test_the_list_never_fails_for_wix(books: Books, kind: str) -> None:
    with fault(books, kind=kind, count=1):
        assert str(books.links["mug"]) in books.person().read("/links")


def test_booked_sums_stop_at_a_limit(books: Books) -> None:
    with books.shop.services.database.begin() as connection:
        found = store.booked(connection, books.instance_id, [books.links["mug"]], limit=2)
        whole = store.booked(connection, books.instance_id, [books.links["mug"]], limit=3)

    assert found[books.links["mug"]].is_more
    assert not whole[books.links["mug"]].is_more
    assert whole[books.links["mug"]].payments == 3


def test_the_page_of_a_link_adds_up_all_payments_when_asked(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BOOKED_MAX_OF_ONE", 2)
    person = books.person(app=books.another_app(has_redis=False))
    path = f"/links/{books.instance_id}/{books.links['mug']}"

    page, whole = person.read(path), person.read(f"{path}?totals=all")

    assert "2 payments of it were added up" in page
    assert "totals=all" in page
    assert "were added up" not in whole
    assert "All of its payments, as of" in whole


def test_a_worker_adds_up_what_takes_the_page_of_a_link_too_long(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is looked for again, Wix is not asked again."""
    redis = books.shop.services.queue.redis
    assert redis is not None
    redis.flushdb()
    monkeypatch.setattr(store, "BOOKED_MAX_OF_ONE", 2)
    path = f"/links/{books.instance_id}/{books.links['mug']}?totals=all"
    here = books.person(app=books.another_app(has_redis=False)).read(path)
    person = books.person()

    asked = person.read(path)
    polled = re.search(r'id="sums" hx-get="([^"]+)" hx-trigger="every 1s"', asked)
    assert polled
    before = books.shop.calls
    part = person.get(polled[1].replace("&amp;", "&"), headers={"HX-Request": "true"})
    [job] = Queue(QUEUE, connection=redis, serializer=JSONSerializer).jobs
    jobs.run_prepare(books.shop.services, job.args[0])
    shown = person.get(polled[1].replace("&amp;", "&"), headers={"HX-Request": "true"})
    redis.flushdb()

    def sums(page: str) -> list[str]:
        [found] = re.findall(r'<section class="card" id="sums".*?</section>', page, re.DOTALL)
        return re.findall(r"<td[^>]*>(.*?)</td>", found, re.DOTALL)

    assert part.status_code == shown.status_code == 200
    assert "A worker adds up all of its payments" in part.text
    assert "hx-trigger" not in re.findall(r'<section class="card" id="sums".*?>', shown.text)[0]
    assert sums(shown.text) == sums(here)
    assert books.shop.calls == before


# -- One link ----------------------------------------------------------------------------------------


def test_a_link_shows_what_is_paid_its_totals_and_payments(books: Books) -> None:
    page = books.person(Role.CLERK).read(page_of(books, "mug"))

    assert "thing" in page
    assert 'class="qr"' in page
    assert "Initiate a payment" in page
    assert str(books.payments["matched"])[:8] in page
    assert "Amount differs" in page
    assert f"/_paylink/{books.links['mug']}" in page


def test_a_links_totals_that_differ_are_marked(books: Books) -> None:
    page = books.person().read(page_of(books, "yen"))

    assert 'class="differs"' in page
    assert "Wix less booked" in page
    assert "+5 <span" in page


def of_a_product(books: Books) -> tuple[UUID, wire.Product]:
    """A link to a product of the shop's catalog."""
    wix = books.shop.services.wix
    product = next(
        one
        for page in wix.query_products(books.instance_id, pages_max=5)
        for one in page
        if one.price_data and one.price_data.currency == "USD"
    )
    reference = wire.CatalogReference(wire.WIX_STORES_APP_ID, product.id)
    line = wire.LineItem(type="CATALOG", catalog_item=wire.CatalogItem(reference, 2))
    new = wire.NewPaymentLink(
        title="of the shop", currency="USD", type="ECOM", ecom_payment_link=wire.EcomPaymentLink([line])
    )
    return UUID(str(wix.create_link(books.instance_id, new).id)), product


def test_a_product_is_called_as_in_the_catalog_and_asked_for_once(fresh_books: Books) -> None:
    link_id, product = of_a_product(fresh_books)
    person, path = fresh_books.person(), page_of(fresh_books, link_id)

    pages = [person.read(path) for _ in range(2)]

    for page in pages:
        assert f"<bdi>{html.escape(product.name or '')}</bdi> <code>{product.id}</code>" in page
    before = sum(fresh_books.shop.services.wix_responses.values())
    person.read(path)
    assert sum(fresh_books.shop.services.wix_responses.values()) == before + 1, "of the link alone"


def test_a_product_that_wix_does_not_know_any_more_is_named_by_its_id(fresh_books: Books) -> None:
    link_id, product = of_a_product(fresh_books)
    fresh_books.shop.sandbox.documents.remove("product", product.id)
    person, path = fresh_books.person(), page_of(fresh_books, link_id)

    assert f"<bdi>Product</bdi> <code>{product.id}</code>" in person.read(path)
    with fault(fresh_books, kind="status", status=503):
        assert f"<bdi>Product</bdi> <code>{product.id}</code>" in person.read(path)


def test_the_link_of_an_order_names_it(books: Books) -> None:
    page = books.person().read(page_of(books, "order"))

    assert "60.00" in page
    assert "An order" in page


def test_an_auditor_is_offered_nothing_to_do(books: Books) -> None:
    page = books.person(Role.AUDITOR).read(page_of(books, "mug"))

    assert "Initiate" not in page
    assert "Deactivate" not in page
    assert "Send to" not in page


def test_a_link_is_shown_from_our_books_while_wix_is_away(books: Books) -> None:
    person = books.person()
    with fault(books, kind="status", status=500):
        page = person.read(page_of(books, "mug"))
        nothing = person.get(f"/links/{books.instance_id}/{uuid4()}")

    assert "Wix does not answer now." in page
    assert "as Wix last described it" in page
    assert nothing.status_code == 503


def test_a_link_that_wix_forgot_is_shown_from_our_books_with_nothing_to_do(books: Books) -> None:
    with fault(books, kind="link_deleted", linkId=str(books.links["markup"])):
        page = books.person(Role.CLERK).read(page_of(books, "markup"))

    assert "Wix does not know this link" in page
    assert "Deleted at Wix" in page
    assert '<span class="badge good">Active</span>' not in page
    for offered in (
        "Initiate a payment",
        "Deactivate",
        "Delete the link",
        "Send to",
        "Set the note",
        'class="qr"',
        "/_paylink/",
    ):
        assert offered not in page, offered


def test_a_link_of_an_instance_that_wix_does_not_vouch_for_is_described_as_not_known(
    fresh_books: Books,
) -> None:
    shop, instance_id, link_id = fresh_books.shop, uuid4(), uuid4()
    with shop.services.database.begin() as connection:
        instances.note(connection, instance_id, shop.services.now())
    clerk = fresh_books.person(Role.CLERK)

    answer = clerk.get(page_of(fresh_books, link_id, instance_id))
    listed = clerk.read(f"/links?instance={instance_id}")

    assert answer.status_code == 200
    assert "what webhooks told of it is held" in answer.text
    assert "<dt>Limit</dt><dd>–</dd>" in answer.text
    assert "<dt>Expires</dt><dd>–</dd>" in answer.text
    assert "0.00" not in answer.text
    for offered in ("Initiate", "Activate", "Deactivate", "Delete", "Send to", "Set the note", "/pay/"):
        assert offered not in answer.text, offered
    assert "We hold no description" in listed
    assert "Create one here" not in listed


def test_a_link_that_nobody_knows_is_not_there(books: Books) -> None:
    assert books.person().get(f"/links/{books.instance_id}/{uuid4()}").status_code == 404
    assert books.person().get(f"/links/{books.instance_id}/odd").status_code == 404


# -- What is done with it ------------------------------------------------------------------------------


@pytest.fixture
def clerk(fresh_books: Books) -> Person:
    return fresh_books.person(Role.CLERK)


def contact_of(books: Books, name: str = "Maya Example") -> str:
    return str(books.shop.sandbox.world.add_contact(str(books.instance_id), {"name": name})["id"])


def mails(books: Books) -> list[str]:
    return [one["contactId"] for one in books.shop.sandbox.documents.all("mail")]


def test_a_link_is_deactivated_and_activated(fresh_books: Books, clerk: Person) -> None:
    link_id = fresh_books.shop.link()
    where = page_of(fresh_books, link_id)

    answer = clerk.post(f"{where}/deactivate")
    off = clerk.read(where)
    clerk.post(f"{where}/activate")
    on = clerk.read(where)

    assert (answer.status_code, answer.headers["Location"]) == (303, where)
    assert "takes no payments any more" in off
    assert "takes payments again" in on
    [row] = fresh_books.shop.rows("SELECT status FROM payment_links")
    assert row.status == "ACTIVE"


def test_what_wix_refuses_is_told_with_what_to_do(fresh_books: Books, clerk: Person) -> None:
    link_id = fresh_books.shop.link(payments_limit=1)
    fresh_books.shop.pay(link_id)
    where = page_of(fresh_books, link_id)

    clerk.post(f"{where}/activate")
    page = clerk.read(where)
    clerk.post(f"{where}/initiate")
    again = clerk.read(where)

    assert "its status does not allow it" in page
    assert "takes no payment now" in again


@pytest.mark.parametrize("action", ["activate", "deactivate", "delete", "initiate", "note", "send"])
def test_nothing_is_done_with_a_link_that_is_not_there(
    fresh_books: Books, clerk: Person, action: str
) -> None:
    form = {"note": "x", "to": "recipients", "once": str(uuid4())}

    assert clerk.post(f"/links/{fresh_books.instance_id}/{uuid4()}/{action}", form).status_code == 404


def test_a_note_is_set_and_its_limits_are_told(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    answer = clerk.post(f"{where}/note", {"note": "<i>first</i>\r\nsecond"})
    page = clerk.read(where)
    wrong = [clerk.post(f"{where}/note", {"note": text}) for text in ("", " ", "x" * 501, "a\0b", MARKUP)]

    assert answer.status_code == 303
    assert "&lt;i&gt;first&lt;/i&gt;\nsecond" in page
    assert [one.status_code for one in wrong] == [422] * 5
    assert "at most 500 letters" in wrong[2].text


def test_who_only_reads_sees_no_address_in_a_note(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())
    clerk.post(f"{where}/note", {"note": "for maya@example.com, +371 2612 3456"})

    page = fresh_books.person(Role.AUDITOR).read(where)

    assert "maya@" not in page
    assert "2612" not in page
    assert "for " in page


PERSONAL_NOTE = "for maya@example.com, +371 2612 3456"


def test_a_note_is_masked_for_who_changes_it_and_the_mask_is_never_sent(
    fresh_books: Books, clerk: Person
) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())
    clerk.post(f"{where}/note", {"note": PERSONAL_NOTE})

    page = clerk.read(where)
    [area] = re.findall(r'<textarea id="field-note".*?>(.*?)</textarea>', page, re.DOTALL)
    unchanged = clerk.post(f"{where}/note", {"note": area})

    assert "maya@" not in page
    assert "2612" not in page
    assert "for •" in page
    assert area.strip() == ""
    assert "What is written here replaces it." in page
    assert unchanged.status_code == 422
    assert "maya@" not in unchanged.text
    assert "/note/personal" not in page


def test_a_note_is_shown_whole_to_who_may_and_that_is_recorded(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())
    clerk.post(f"{where}/note", {"note": PERSONAL_NOTE})
    for role in (Role.CLERK, Role.AUDITOR):
        person = fresh_books.person(role, personal=True)
        plain = person.read(where)
        whole = person.post(f"{where}/note/personal")

        assert "maya@" not in plain
        assert "/note/personal" in plain
        assert whole.status_code == 200
        assert PERSONAL_NOTE in whole.text
        assert ("<textarea" in whole.text) is (role is Role.CLERK)
    assert clerk.post(f"{where}/note/personal").status_code == 403
    rows = fresh_books.shop.rows(
        "SELECT status FROM actions WHERE action = 'links.personal' ORDER BY action_id"
    )
    assert [row.status for row in rows] == [200, 200, 403]


def test_what_looks_personal_in_words_of_merchants_is_masked(fresh_books: Books) -> None:
    """On every page that shows them, as on that of the event."""
    from processor.wix import wire

    books, personal = fresh_books, ("maya@", "4111", "2612 3456")
    item = wire.CustomItem(
        name="of maya@example.com", quantity=1, price="10.00", description="card 4111 1111 1111 1111"
    )
    new = wire.NewPaymentLink(
        title="Balance, call +371 2612 3456",
        description="ask maya@example.com",
        currency="USD",
        type="ECOM",
        ecom_payment_link=wire.EcomPaymentLink([wire.LineItem(type="CUSTOM", custom_item=item)]),
    )
    link_id = UUID(str(books.shop.services.wix.create_link(books.instance_id, new).id))
    [payment_id] = books.shop.pay(link_id)
    books.shop.deliver()
    books.shop.sandbox.faults.add({"kind": "amount_edited", "paymentId": str(payment_id), "amount": "99.00"})
    for _ in range(2):
        books.shop.request(link_id)
        books.shop.check()
        books.shop.pass_time()
    [found] = books.shop.rows("SELECT discrepancy_id FROM discrepancies WHERE payment_id IS NOT NULL LIMIT 1")
    person = books.person(personal=True)

    for path in (
        "/links",
        page_of(books, link_id),
        "/payments",
        "/payments?text=Balance",
        f"/payments/{books.instance_id}/{payment_id}",
        "/discrepancies",
        f"/discrepancies/{books.instance_id}/{found.discrepancy_id}",
        "/payments/export.csv",
    ):
        page = person.read(path)
        assert "Balance, call •" in page, path
        assert [one for one in personal if one in page] == [], path


def crowded(books: Books, calls: int) -> Flask:
    """The pages of a service that Wix allows so many calls of a minute."""
    services = books.shop.services
    return create_pages(replace(services, settings=replace(services.settings, wix_calls_per_minute=calls)))


def calls_of(books: Books, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of Wix that are made from now on."""
    calls: list[str] = []
    wix = type(books.shop.services.wix)
    for name in ("get_link", "links_page", "query_payments"):
        told = getattr(wix, name)

        def call(*given: Any, _name: str = name, _told: Any = told, **more: Any) -> Any:
            calls.append(_name)
            return _told(*given, **more)

        monkeypatch.setattr(wix, name, call)
    return calls


def test_pages_take_a_part_of_wixs_calls_and_show_what_we_hold_beyond(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 calls a minute four are for pages, and two of them for one person."""
    books = fresh_books
    link_id = books.shop.link(title="Green tea")
    [payment_id] = books.shop.pay(link_id)
    books.shop.deliver()
    books.shop.check()
    app = crowded(books, 16)
    first, second, third = (books.person(app=app, personal=True) for _ in range(3))
    calls = calls_of(books, monkeypatch)
    wix = f"/payments/{books.instance_id}/{payment_id}/wix"

    pages = [first.read(f"/links?instance={books.instance_id}"), first.read(page_of(books, link_id))]
    assert calls == ["links_page", "get_link"]
    beyond = [
        first.read(f"/links?instance={books.instance_id}"),
        first.read(page_of(books, link_id)),
        first.read(f"{page_of(books, link_id)}/recipients"),
    ]
    not_asked = first.read(wix)
    pages += [second.read(page_of(books, link_id)), second.read(wix)]
    beyond.append(third.read(page_of(books, link_id)))

    assert all(CROWDED not in page for page in pages)
    assert all(CROWDED in page and "Green tea" in page for page in beyond)
    assert CROWDED in not_asked
    # Payments are asked for page by page: that they are to be asked for is no call yet.
    assert calls.count("get_link") == 2
    assert calls.count("links_page") == 1
    assert CROWDED not in third.read(f"/links?instance={books.other_instance_id}")


def test_a_link_is_sent_to_its_recipients_and_once_for_a_form(fresh_books: Books, clerk: Person) -> None:
    from processor.wix import wire

    contact_id = contact_of(fresh_books)
    link_id = fresh_books.shop.link(recipients=[wire.Recipient(contact_id, ["EMAIL_METHOD"])])
    where = page_of(fresh_books, link_id)
    once = str(uuid4())

    page = clerk.read(where)
    clerk.post(f"{where}/send", {"to": "recipients", "once": once})
    clerk.post(f"{where}/send", {"to": "recipients", "once": once})
    after = clerk.read(where)

    assert contact_id in page
    assert "Send to its recipient" in page
    assert "Maya Example" not in page
    assert mails(fresh_books) == [contact_id]
    assert "is not done a second time" in after


def test_contacts_are_chosen_at_sending(fresh_books: Books, clerk: Person) -> None:
    first, second = contact_of(fresh_books), contact_of(fresh_books)
    where = page_of(fresh_books, fresh_books.shop.link())

    form = {"to": "chosen", "contacts": f" {first},\n{second} ; {first}", "channel": "EMAIL_METHOD"}
    clerk.post(f"{where}/send", {**form, "once": str(uuid4())})

    page = clerk.read(where)
    assert "Wix sends the link to 2 contacts" in page
    assert "To 2 contacts" in page
    assert f">{first[:8]}<" in page
    assert "by e-mail" in page
    assert sorted(mails(fresh_books)) == sorted([first, second])


@pytest.mark.parametrize(
    ("contacts", "words"),
    [
        ("", "Name at least one contact"),
        ("maya@example.com", "not mail addresses"),
        ("odd", "The id number 1 is no id"),
        (" ".join(str(uuid4()) for _ in range(51)), "at most 50 recipients"),
        ("6f1a2b3c-0000-4000-8000-00000000beef", "a recipient is no contact of the site"),
    ],
)
def test_wrong_contacts_are_told_beside_the_field(
    fresh_books: Books, clerk: Person, contacts: str, words: str
) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    answer = clerk.post(f"{where}/send", {"to": "chosen", "contacts": contacts, "once": str(uuid4())})

    assert answer.status_code == 422
    assert words in answer.text
    assert html.escape(contacts) in answer.text
    assert mails(fresh_books) == []
    kept = fresh_books.shop.rows("SELECT detail FROM actions WHERE action = 'links.send'")
    assert "@" not in str(kept)


def test_a_link_without_recipients_asks_for_them(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    answer = clerk.post(f"{where}/send", {"to": "recipients", "once": str(uuid4())})

    assert answer.status_code == 422
    assert "names no recipients" in answer.text


def test_a_lost_answer_to_sending_is_not_called_undone(fresh_books: Books, clerk: Person) -> None:
    contact_id = contact_of(fresh_books)
    where = page_of(fresh_books, fresh_books.shop.link())

    once = str(uuid4())
    with fault(fresh_books, kind="status", status=503, path="send", count=1):
        clerk.post(f"{where}/send", {"to": "chosen", "contacts": contact_id, "once": once})
        page = clerk.read(where)
    clerk.post(f"{where}/send", {"to": "chosen", "contacts": contact_id, "once": once})
    again = clerk.read(where)

    assert "may or may not be done" in page
    assert "Not known whether sent" in page
    assert "is not done a second time" in again
    assert mails(fresh_books) == []


def sends(books: Books) -> list[tuple[Any, ...]]:
    rows = books.shop.rows("SELECT actor, door, contact_ids, outcome FROM link_sends ORDER BY send_id")
    return [tuple(row) for row in rows]


def test_every_sending_is_kept_and_shown(fresh_books: Books, clerk: Person) -> None:
    contact_id, nobody = contact_of(fresh_books), str(uuid4())
    where = page_of(fresh_books, fresh_books.shop.link())
    before = clerk.read(where)

    for to in (contact_id, nobody):
        clerk.post(f"{where}/send", {"to": "chosen", "contacts": to, "once": str(uuid4())})
    page = fresh_books.person(Role.AUDITOR).read(where)

    assert "What Wix's own pages sent is not listed here" in before
    name = fresh_books.shop.rows("SELECT actor FROM actions LIMIT 1")[0].actor
    assert sends(fresh_books) == [
        (name, "page", [contact_id], "sent"),
        (name, "page", [nobody], "refused"),
    ]
    assert page.index("Not sent") < page.index(">Sent</span>")
    assert "no contact of the site" in page
    assert "Maya" not in page


def test_two_clicks_at_once_send_once(fresh_books: Books) -> None:
    contact_id = contact_of(fresh_books)
    where, once = page_of(fresh_books, fresh_books.shop.link()), str(uuid4())
    people = [fresh_books.person(Role.CLERK) for _ in range(3)]
    for person in people:
        person.post("/theme", {"theme": "auto"})  # the token is at hand

    with ThreadPoolExecutor(3) as pool:
        list(
            pool.map(
                lambda one: (
                    one.post(
                        f"{where}/send", {"to": "chosen", "contacts": contact_id, "once": once}
                    ).status_code
                ),
                people,
            )
        )

    assert mails(fresh_books) == [contact_id]
    assert len(sends(fresh_books)) == 1


@pytest.mark.parametrize("once", ["", "odd", "\0"])
def test_a_form_without_its_reference_sends_nothing(fresh_books: Books, clerk: Person, once: str) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    clerk.post(f"{where}/send", {"to": "chosen", "contacts": contact_of(fresh_books), "once": once})

    assert "came without its reference" in clerk.read(where)
    assert mails(fresh_books) == []


def test_what_died_while_it_was_sent_is_not_known(
    fresh_books: Books, clerk: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor import flows
    from processor.wix.client import WixClient

    shop, link_id = fresh_books.shop, fresh_books.shop.link()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WixClient, "send_link", die)
    with pytest.raises(KeyboardInterrupt):
        flows.send_link(
            shop.services, shop.instance_id, link_id, [], actor="ada", door="command", reference=uuid4()
        )

    page = clerk.read(page_of(fresh_books, link_id))
    assert "Not known whether sent" in page
    assert "To the recipients that the link named at Wix" in page
    assert "from the command line" in page


def test_a_link_is_deleted_once_and_kept_here(fresh_books: Books, clerk: Person) -> None:
    link_id = fresh_books.shop.link()
    where = page_of(fresh_books, link_id)

    page = clerk.read(where)
    answers = [clerk.post(f"{where}/delete") for _ in range(2)]
    after = clerk.read(f"/links?instance={fresh_books.instance_id}")

    assert "That cannot be taken back" in page
    assert [one.status_code for one in answers] == [303, 303]
    assert f"The link {link_id} is deleted at Wix." in after
    assert fresh_books.shop.sandbox.documents.all("link") == []
    [row] = fresh_books.shop.rows("SELECT missing_since FROM payment_links")
    assert row.missing_since is not None
    kept = fresh_books.shop.rows("SELECT object, status FROM actions WHERE action = 'links.delete'")
    assert [(one.object, one.status) for one in kept] == [(str(link_id), 303)] * 2


def test_what_is_done_with_a_deleted_link_leads_back_to_it(fresh_books: Books, clerk: Person) -> None:
    link_id = fresh_books.shop.link()
    where = page_of(fresh_books, link_id)
    clerk.read(where)
    clerk.post(f"{where}/delete")
    form = {"note": "x", "to": "recipients"}

    for action in ("activate", "deactivate", "initiate", "note", "send"):
        answer = clerk.post(f"{where}/{action}", {**form, "once": str(uuid4())})
        assert (answer.status_code, answer.headers.get("Location")) == (303, where), action
        page = clerk.read(where)
        assert "Nothing was done." in page, action
        assert "/pay/" not in page


def test_a_link_that_was_paid_by_is_not_deleted(fresh_books: Books, clerk: Person) -> None:
    shop = fresh_books.shop
    link_id = shop.link()
    shop.pay(link_id)
    where = page_of(fresh_books, link_id)

    page = clerk.read(where)
    clerk.post(f"{where}/delete")
    after = clerk.read(where)

    assert "Delete the link" not in page
    assert "nothing was paid by" in after
    assert len(shop.sandbox.documents.all("link")) == 1


def test_a_lost_answer_to_deleting_may_be_tried_again(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    with fault(fresh_books, kind="status", status=503):
        clerk.post(f"{where}/delete")
    page = clerk.read(where)
    clerk.post(f"{where}/delete")

    assert "Wix answered 503" in page or "may or may not be done" in page
    assert fresh_books.shop.sandbox.documents.all("link") == []


def test_what_has_consequences_is_asked_once_more(fresh_books: Books, clerk: Person) -> None:
    from processor.wix import wire

    shop = fresh_books.shop
    link_id = shop.link(recipients=[wire.Recipient(contact_of(fresh_books))])
    shop.pay(link_id)
    shop.deliver()
    page = clerk.read(page_of(fresh_books, link_id))

    for button in ("Deactivate the link", "Send it now", "Send it to these now", "Issue the receipt"):
        before = page[: page.index(f">{button}</button>")]
        assert before.rindex("<details") > before.rindex("</details>") if "</details>" in before else True
        assert '<details class="confirm"' in before


def test_names_are_shown_to_who_may_and_that_is_recorded(fresh_books: Books, clerk: Person) -> None:
    from processor.wix import wire

    contact_id = contact_of(fresh_books, "Maya <Example>")
    link_id = fresh_books.shop.link(recipients=[wire.Recipient(contact_id)])
    where = page_of(fresh_books, link_id)
    privileged = fresh_books.person(Role.CLERK, personal=True)

    plain = privileged.read(where)
    shown = privileged.read(f"{where}/recipients")
    refused = clerk.get(f"{where}/recipients")

    assert "Maya" not in plain
    assert "Maya &lt;Example&gt;" in shown
    assert "Maya" not in refused.text
    rows = fresh_books.shop.rows("SELECT action, object, status FROM actions ORDER BY action_id")
    assert [(row.action, row.object, row.status) for row in rows] == [
        ("links.recipients", str(link_id), 200),
        ("links.recipients", str(link_id), 403),
    ]


def test_contacts_are_looked_up_while_a_link_is_sent(fresh_books: Books) -> None:
    contact_id = contact_of(fresh_books, "Maya <Example>")
    privileged = fresh_books.person(Role.CLERK, personal=True)
    where = page_of(fresh_books, fresh_books.shop.link())
    path, other_id = f"{where}/recipients/find", str(uuid4())

    found = privileged.post(
        path, {"find_contact": "EXAMP maya", "contacts": other_id, "step": "find_contact"}
    ).text
    chosen = privileged.post(path, {"add_contact": contact_id, "contacts": other_id}).text
    nothing = privileged.post(path, {"find_contact": "nobody of that name"}).text
    empty = privileged.post(path, {"find_contact": " "}).text

    assert re.findall(r'name="add_contact" value="([^"]+)"', found) == [contact_id]
    assert "Maya &lt;Example&gt;" in found
    assert f">\n{other_id}</textarea>" in found
    assert f">\n{other_id}\n{contact_id}</textarea>" in chosen
    assert "No contact is called so." in nothing
    assert "Write the name or the mail address first." in empty
    kept = fresh_books.shop.rows("SELECT * FROM actions WHERE action = 'links.find_recipients'")
    assert [row.status for row in kept] == [200] * 4
    assert "maya" not in str(kept).lower()


def test_contacts_are_not_looked_up_while_wix_is_away(fresh_books: Books) -> None:
    person = fresh_books.person(Role.CLERK, personal=True)
    where = page_of(fresh_books, fresh_books.shop.link())
    person.read(where)

    with fault(fresh_books, kind="status", status=503):
        answer = person.post(f"{where}/recipients/find", {"find_contact": "Maya"})

    assert answer.status_code in (200, 503)
    assert "Wix does not answer now." in answer.text
    assert "Paste the contact" in answer.text


def test_looking_up_is_bounded_as_other_displays_are(
    fresh_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processor.web.pages.site import Site

    person = fresh_books.person(Role.CLERK, personal=True)
    where = page_of(fresh_books, fresh_books.shop.link())
    monkeypatch.setattr(Site, "may_display", lambda *_: False)

    answer = person.post(f"{where}/recipients/find", {"find_contact": "Maya"})

    assert CROWDED in html.unescape(answer.text)


def test_initiating_leads_to_the_checkout(fresh_books: Books, clerk: Person) -> None:
    where = page_of(fresh_books, fresh_books.shop.link())

    answer = clerk.post(f"{where}/initiate")

    assert answer.status_code == 200
    assert "Go to the checkout" in answer.text
    assert re.search(r'href="http://127[^"]*checkout[^"]*"', answer.text)
    assert answer.headers["Cache-Control"] == "no-store"


def test_initiating_an_orders_link_leads_to_the_order(fresh_books: Books, clerk: Person) -> None:
    from tests.web.pages.books import _order_link

    where = page_of(fresh_books, _order_link(fresh_books))

    assert "The order can be paid" in clerk.post(f"{where}/initiate").text


def test_a_receipt_is_issued_once_for_a_payment_of_the_link(fresh_books: Books, clerk: Person) -> None:
    shop = fresh_books.shop
    link_id, other_id = shop.link(), shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    once = {"once": str(uuid4())}

    missing = clerk.post(f"{page_of(fresh_books, other_id)}/payments/{payment_id}/receipt", once)
    clerk.post(f"{page_of(fresh_books, link_id)}/payments/{payment_id}/receipt", once)
    first = clerk.read(page_of(fresh_books, link_id))
    clerk.post(f"{page_of(fresh_books, link_id)}/payments/{payment_id}/receipt", once)
    second = clerk.read(page_of(fresh_books, link_id))

    assert missing.status_code == 404
    assert "Wix issued the receipt" in first
    assert "not done a second time" in second


def test_a_payment_that_wix_does_not_know_has_no_receipt(fresh_books: Books, clerk: Person) -> None:
    shop = fresh_books.shop
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    path = f"=/payment-links/v1/payment-link-payments/{payment_id}/issue-receipt"

    with fault(fresh_books, kind="status", status=404, path=path, count=1):
        answer = clerk.post(
            f"{page_of(fresh_books, link_id)}/payments/{payment_id}/receipt", {"once": str(uuid4())}
        )

    assert answer.status_code == 303
    assert f"Wix knows no payment {payment_id}" in clerk.read(page_of(fresh_books, link_id))


def test_of_many_recipients_some_names_are_shown(fresh_books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    from processor.wix import wire

    monkeypatch.setattr("processor.web.pages.screens.links.NAMES_MAX", 1)
    ids = [contact_of(fresh_books, name) for name in ("Maya Example", "Noor Example")]
    link_id = fresh_books.shop.link(recipients=[wire.Recipient(one) for one in ids])

    page = fresh_books.person(personal=True).read(f"{page_of(fresh_books, link_id)}/recipients")

    assert "Maya Example" in page
    assert "Noor" not in page
    assert "Only the first 1 of 2 names" in page


# -- Addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("https://shop.example/_paylink/1?a=b#c", True),
        ("http://127.0.0.1:1/x", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://", False),
        ("https://[::1", False),
        ("//shop.example", False),
        (" https://shop.example", False),
        ("https://shop.example/\n", False),
        ("https://sh\N{CYRILLIC SMALL LETTER O}p.example", False),
        ("", False),
        (None, False),
    ],
)
def test_browsers_are_led_to_web_addresses_alone(text: str | None, is_one: bool) -> None:
    assert (web_address(text) is not None) is is_one


def test_a_qr_code_is_plain_drawing_and_has_a_limit() -> None:
    code = qr_code("https://shop.example/_paylink/1")

    assert code is not None
    assert "style" not in code
    assert "script" not in code
    assert 'viewBox="0 0' in code
    assert qr_code("https://shop.example/" + "x" * 5_000) is None


# -- Queries -------------------------------------------------------------------------------------------


def plans_of(books: Books, ask: Callable[[Connection], object], *settings: str) -> list[str]:
    """How the statements of `ask` are answered, in their order."""
    engine = books.shop.services.database.engine
    plans: list[str] = []

    def note(*given: Any) -> None:
        cursor, statement, values = given[1:4]
        cursor.execute("EXPLAIN " + statement, values)
        plans.append("\n".join(row[0] for row in cursor.fetchall()))

    with books.shop.services.database.begin() as connection:
        for one in settings:
            connection.exec_driver_sql(f"SET LOCAL {one}")
        event.listen(engine, "before_cursor_execute", note)
        try:
            ask(connection)
        finally:
            event.remove(engine, "before_cursor_execute", note)
    return plans


def test_what_is_booked_of_links_is_found_by_an_index(books: Books) -> None:
    """Even where planners rather read a whole table of a few rows: so it is the index of the link."""
    instance_id, link_id = books.instance_id, books.links["mug"]

    def ask(connection: Connection) -> None:
        store.booked(connection, instance_id, [link_id])
        store.recent_payments(connection, instance_id, link_id)
        store.open_discrepancies(connection, instance_id, [link_id])
        store.newest_stored(connection, instance_id, status="PAID", words="x")

    booked, recent, open_, newest = plans_of(books, ask, "enable_seqscan = off", "enable_bitmapscan = off")

    assert "ix_payments_of_link_created" in booked
    assert "ix_payments_of_link_created" in recent
    assert "Sort" not in recent
    assert "ix_discrepancies_link" in open_
    assert "ix_payment_links_created" in newest
    assert not any("Seq Scan" in plan for plan in (booked, recent, open_, newest))


def test_the_owner_of_a_link_is_looked_up_by_its_key(fresh_books: Books) -> None:
    with fresh_books.shop.services.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO payment_links (instance_id, payment_link_id, seen_at)"
            " SELECT instance_id, gen_random_uuid(), now() FROM app_instances, generate_series(1, 5000)"
        )
    with fresh_books.shop.services.database.begin() as connection:
        connection.exec_driver_sql("ANALYZE payment_links, app_instances")

    [plan] = plans_of(fresh_books, lambda connection: store.instance_of_link(connection, uuid4()))

    assert "pk_payment_links" in plan
    assert "payment_link_id = " in plan.split("pk_payment_links")[1].split("Filter")[0]
