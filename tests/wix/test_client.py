"""The client against a real server: paging, repeating, bounds of time and size, errors, and what is never shown."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
import signal
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from processor.errors import (
    ConfigurationError,
    FieldViolation,
    WixError,
    WixNotFound,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.wix import client as client_module
from processor.wix import wire
from processor.wix.client import (
    WAIT_SECONDS_MAX,
    Answer,
    Http,
    NoAnswer,
    TooManyPages,
    UnreadableItem,
    WixClient,
    backoff_seconds,
    failure,
    is_worth_repeating,
)
from processor.wix.credentials import ApiKeyCredentials, OAuthCredentials
from processor.wix.rate import RateLimit
from tests.wix.scripted import (
    HANG,
    TOKEN_PATH,
    Asked,
    Raw,
    Reply,
    Script,
    Scripted,
    deaf_port,
    head,
    scripted_server,
)

INSTANCE = UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
LINK = UUID("6a206d71-52f5-4012-b3dd-8a283fea052e")
SECRET = "very-secret-7f3a"
KEY = "key-secret-91bc"
LINKS = wire.PATH_LINKS
LINKS_QUERY = f"{wire.PATH_LINKS}/query"
PAYMENTS_QUERY = f"{wire.PATH_PAYMENTS}/query"
ONE = f"{LINKS}/{LINK}"
MUG = wire.LineItem("CUSTOM", wire.CustomItem(name="Mug", quantity=1, price="5.00"))
NEW = wire.NewPaymentLink(
    title="Private title", currency="USD", type="ECOM", ecom_payment_link=wire.EcomPaymentLink([MUG])
)
TO = [wire.Recipient(contact_id="contact-private", send_methods=["EMAIL_METHOD"])]
TAG = wire.Tags(tags=wire.TagIds(["t1"]))

Responses = list[tuple[str, int | None]]
Make = Callable[..., WixClient]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine, and hardly any wait between tries."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(client_module, "BACKOFF_SECONDS", 0.001)


@pytest.fixture
def wix() -> Iterator[Scripted]:
    with scripted_server() as scripted:
        scripted.otherwise(ONE, Reply(body={"paymentLink": {"id": str(LINK)}}))
        yield scripted


@pytest.fixture
def responses() -> Responses:
    """What on_response was told."""
    return []


@pytest.fixture
def make(wix: Scripted, responses: Responses) -> Iterator[Make]:
    made: list[WixClient] = []

    def build(
        base_url: str = "",
        *,
        timeout_seconds: float = 5,
        is_oauth: bool = False,
        rate: RateLimit | None = None,
    ) -> WixClient:
        common: dict[str, Any] = {
            "base_url": base_url or wix.base_url,
            "timeout_seconds": timeout_seconds,
            "on_response": lambda operation, status: responses.append((operation, status)),
        }
        credentials = (
            OAuthCredentials(app_id="the-app", app_secret=SECRET, **common)
            if is_oauth
            else ApiKeyCredentials(api_key=KEY, site_id="site-1", instance_id=INSTANCE)
        )
        made.append(WixClient(credentials=credentials, rate=rate, **common))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def client(make: Make) -> WixClient:
    return make()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which are noted instead of being waited."""
    noted: list[float] = []

    def note(self: Http, seconds: float) -> bool:
        noted.append(seconds)
        return True

    monkeypatch.setattr(Http, "pause", note)
    return noted


def page(*ids: str, cursor: str | None = None, **paging: Any) -> Reply:
    """A page of payments."""
    metadata = {"count": len(ids), "cursors": {"next": cursor} if cursor else {}, **paging}
    return Reply(body={"paymentLinkPayments": [{"id": one} for one in ids], "pagingMetadata": metadata})


def read_payments(client: WixClient, *, pages_max: int = 10, **more: Any) -> list[list[str]]:
    pages = client.query_payments(INSTANCE, {"paymentLinkId": str(LINK)}, pages_max=pages_max, **more)
    return [[item["id"] for item in page] for page in pages]


Call = tuple[str, Callable[[WixClient], object]]
READS: dict[str, Call] = {
    "get_link": (ONE, lambda client: client.get_link(INSTANCE, LINK)),
    "query_links": (LINKS_QUERY, lambda client: list(client.query_links(INSTANCE, {}, pages_max=1))),
    "query_payments": (PAYMENTS_QUERY, lambda client: list(client.query_payments(INSTANCE, {}, pages_max=1))),
    "check_credentials": (LINKS_QUERY, lambda client: client.check_credentials(INSTANCE)),
    "search_links": (
        f"{LINKS}/search",
        lambda client: list(client.search_links(INSTANCE, "mug", pages_max=1)),
    ),
    "search_payments": (
        f"{wire.PATH_PAYMENTS}/search",
        lambda client: list(client.search_payments(INSTANCE, "mug", pages_max=1)),
    ),
    "get_receipt": (f"{wire.PATH_RECEIPTS}/r1", lambda client: client.get_receipt(INSTANCE, "r1")),
    "get_settings": (wire.PATH_SETTINGS, lambda client: client.get_settings(INSTANCE)),
    "get_contact": (f"{wire.PATH_CONTACTS}/c1", lambda client: client.get_contact(INSTANCE, "c1")),
    "query_contacts": (
        f"{wire.PATH_CONTACTS}/query",
        lambda client: list(client.query_contacts(INSTANCE, pages_max=1)),
    ),
    "get_product": (f"{wire.PATH_PRODUCTS}/p1", lambda client: client.get_product(INSTANCE, "p1")),
    "query_products": (
        f"{wire.PATH_PRODUCTS}/query",
        lambda client: list(client.query_products(INSTANCE, pages_max=1)),
    ),
    "newest_orders": (f"{wire.PATH_ORDERS}/search", lambda client: client.newest_orders(INSTANCE)),
    "get_order": (f"{wire.PATH_ORDERS}/o1", lambda client: client.get_order(INSTANCE, "o1")),
    "order_transactions": (
        f"{wire.PATH_ORDER_PAYMENTS}/o1",
        lambda client: client.order_transactions(INSTANCE, "o1"),
    ),
    # Changes that leave the same behind when they are made twice.
    "delete_link": (ONE, lambda client: client.delete_link(INSTANCE, LINK)),
    "activate_link": (f"{ONE}/activate", lambda client: client.activate_link(INSTANCE, LINK)),
    "deactivate_link": (f"{ONE}/deactivate", lambda client: client.deactivate_link(INSTANCE, LINK)),
    "set_note": (f"{ONE}/set-note", lambda client: client.set_note(INSTANCE, LINK, "Private note")),
    "update_extended_fields": (
        f"{ONE}/update-extended-fields",
        lambda client: client.update_extended_fields(INSTANCE, LINK, "@us/app", {"a": 1}),
    ),
    "update_tags": (
        f"{LINKS}/bulk-update-tags",
        lambda client: client.update_tags(INSTANCE, [LINK], assign=TAG, unassign=wire.Tags()),
    ),
    "update_tags_by_filter": (
        wire.PATH_TAGS_BY_FILTER,
        lambda client: client.update_tags_by_filter(INSTANCE, {}, assign=TAG, unassign=wire.Tags()),
    ),
    "update_settings": (wire.PATH_SETTINGS, lambda client: client.update_settings(INSTANCE, {"a": 1})),
}
WRITES: dict[str, Call] = {
    "create_link": (LINKS, lambda client: client.create_link(INSTANCE, NEW)),
    "initiate_payment": (f"{ONE}/initiate-payment", lambda client: client.initiate_payment(INSTANCE, LINK)),
    "send_link": (f"{ONE}/send", lambda client: client.send_link(INSTANCE, LINK, TO)),
    "issue_receipt": (
        f"{wire.PATH_PAYMENTS}/p1/issue-receipt",
        lambda client: client.issue_receipt(INSTANCE, "p1"),
    ),
}
# For somebody who waits: asked once, whatever comes of it.
ASKED_ONCE: dict[str, Call] = {
    "links_page": (LINKS_QUERY, lambda client: client.links_page(INSTANCE, page_size=1)),
}
CALLS = READS | WRITES | ASKED_ONCE
WIX_NAMES = {"links_page": "query_links"}  # of Wix's operation, where ours is called otherwise
each_read = pytest.mark.parametrize("operation", READS)
each_write = pytest.mark.parametrize("operation", WRITES | ASKED_ONCE)
each_call = pytest.mark.parametrize("operation", CALLS)


def test_the_tables_above_name_every_call() -> None:
    public = {name for name, one in vars(WixClient).items() if not name.startswith("_") and callable(one)}

    assert set(CALLS) == public - {"close"}


# -- What is sent and read -------------------------------------------------------------------------


@pytest.mark.fact("X11")
@each_call
def test_no_call_sends_a_revision_which_might_be_stale(
    wix: Scripted, client: WixClient, operation: str
) -> None:
    path, call = CALLS[operation]
    wix.otherwise(path, Reply(400))

    with pytest.raises(WixError):
        call(client)

    [asked] = wix.of(path)
    assert "revision" not in json.dumps(asked.body)


@pytest.mark.fact("R10", "R33")
def test_create_sends_the_link_and_reads_it_back(wix: Scripted, client: WixClient) -> None:
    wix.plan(LINKS, Reply(body={"paymentLink": {"id": str(LINK), "status": "ACTIVE", "novel": [1]}}))

    made = client.create_link(INSTANCE, NEW)

    assert isinstance(made, wire.PaymentLink)
    assert (made.id, made.status) == (str(LINK), "ACTIVE")
    (asked,) = wix.asked
    assert (asked.method, asked.path) == ("POST", LINKS)
    assert (asked.headers["authorization"], asked.headers["wix-site-id"]) == (KEY, "site-1")
    item = {"type": "CUSTOM", "customItem": {"name": "Mug", "quantity": 1, "price": "5.00"}}
    assert asked.body == {
        "paymentLink": {
            "title": "Private title",
            "currency": "USD",
            "type": "ECOM",
            "ecomPaymentLink": {"lineItems": [item]},
        }
    }


@pytest.mark.fact("R11", "R34")
def test_get_asks_for_the_link_with_nothing_in_the_body(wix: Scripted, client: WixClient) -> None:
    assert client.get_link(INSTANCE, LINK) == wire.PaymentLink(id=str(LINK))

    (asked,) = wix.asked
    assert (asked.method, asked.path, asked.body) == ("GET", ONE, None)


@pytest.mark.fact("R17", "R48", "R49", "R50")
def test_initiate_reads_where_to_lead_the_buyer(wix: Scripted, client: WixClient) -> None:
    wix.plan(f"{ONE}/initiate-payment", Reply(body={"ecomCheckout": {"checkoutUrl": "https://shop/c"}}))

    target = client.initiate_payment(INSTANCE, LINK)

    assert target.ecom_checkout == wire.EcomCheckoutTarget(checkout_url="https://shop/c")
    assert target.ecom_order is None


@pytest.mark.fact("R18", "R53", "U19")
@pytest.mark.parametrize("answer", [Reply(), Reply(body=b""), Reply(body=[])])
def test_send_needs_only_a_200(wix: Scripted, client: WixClient, answer: Reply) -> None:
    wix.plan(f"{ONE}/send", answer)

    client.send_link(INSTANCE, LINK, TO)

    assert wix.asked[0].body == {
        "paymentLinkId": str(LINK),
        "recipients": [{"contactId": "contact-private", "sendMethods": ["EMAIL_METHOD"]}],
    }


def test_a_link_id_is_quoted_into_the_path(wix: Scripted, client: WixClient) -> None:
    wix.otherwise(f"{LINKS}/a%2F..%2Fb%3Fx%23%20%25", Reply(body={"paymentLink": {"id": "odd"}}))

    assert client.get_link(INSTANCE, "a/../b?x# %") == wire.PaymentLink(id="odd")


@pytest.mark.parametrize("link_id", ["", ".", ".."])
def test_an_id_that_is_no_path_segment_is_not_asked_for(
    wix: Scripted, client: WixClient, link_id: str
) -> None:
    with pytest.raises(WixNotFound):
        client.get_link(INSTANCE, link_id)

    assert wix.asked == []


def test_a_link_of_another_shape_is_a_value(wix: Scripted, client: WixClient) -> None:
    wix.plan(ONE, Reply(body={"paymentLink": {"id": "x", "title": 5}}))

    found = client.get_link(INSTANCE, LINK)

    assert found == UnreadableItem("x", "Expected `str | null`, got `int` - at `$.title`")


@pytest.mark.parametrize("body", [{}, [], None, 5, "text", {"paymentLink": None}, {"paymentLink": []}])
@pytest.mark.parametrize("operation", ["get_link", "create_link"])
def test_an_answer_without_a_link_is_unavailable(
    wix: Scripted, client: WixClient, operation: str, body: Any
) -> None:
    path, call = CALLS[operation]
    wix.otherwise(path, Reply(body=body))

    with pytest.raises(WixUnavailable):
        call(client)


# -- Paging ----------------------------------------------------------------------------------------


@pytest.mark.fact("Q1", "Q5")
def test_pages_follow_the_cursor_and_send_nothing_else(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, page("a", "b", cursor="c1"), page(cursor="c2"), page("c"))

    assert read_payments(client) == [["a", "b"], [], ["c"]]

    first, *others = [asked.body["query"] for asked in wix.asked]
    assert first == {
        "filter": {"paymentLinkId": str(LINK)},
        "sort": [{"fieldName": "createdDate", "order": "ASC"}],
        "cursorPaging": {"limit": 100},
    }
    assert others == [{"cursorPaging": {"cursor": cursor, "limit": 100}} for cursor in ("c1", "c2")]


@pytest.mark.fact("Q4")
@pytest.mark.parametrize(("asked", "sent"), [(0, 1), (7, 7), (100, 100), (1000, 100)])
def test_a_page_is_never_larger_than_wix_allows(
    wix: Scripted, client: WixClient, asked: int, sent: int
) -> None:
    wix.plan(PAYMENTS_QUERY, page())

    read_payments(client, page_size=asked, sort=())

    assert wix.asked[0].body["query"] == {
        "filter": {"paymentLinkId": str(LINK)},
        "cursorPaging": {"limit": sent},
    }


@pytest.mark.fact("Q13")
@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"cursors": None}, {"cursors": {"next": ""}}, {"cursors": {"next": "x"}, "hasNext": False}],
)
def test_the_last_page_is_known_by_what_is_missing(
    wix: Scripted, client: WixClient, metadata: dict[str, Any] | None
) -> None:
    wix.plan(PAYMENTS_QUERY, Reply(body={"paymentLinkPayments": [{"id": "a"}], "pagingMetadata": metadata}))

    assert read_payments(client) == [["a"]]


@pytest.mark.fact("R36", "R37")
@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        {"message": "maintenance"},
        {"paymentLinkPayments": {}},
        {"paymentLinkPayments": "many"},
        {"paymentLinkPayments": [], "pagingMetadata": []},
        {"paymentLinkPayments": [], "pagingMetadata": {"cursors": "c"}},
        {"paymentLinkPayments": [], "pagingMetadata": {"cursors": {"next": 5}}},
        {"paymentLinkPayments": [], "pagingMetadata": {"hasNext": True}},
        {"paymentLinkPayments": [], "pagingMetadata": {"hasNext": True, "cursors": {"next": ""}}},
    ],
)
def test_a_page_that_is_none_is_unavailable_not_empty(wix: Scripted, client: WixClient, body: Any) -> None:
    wix.plan(PAYMENTS_QUERY, Reply(body=body))

    with pytest.raises(WixUnavailable):
        read_payments(client)


def test_odd_metadata_we_do_not_need_costs_nothing(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, page("a", count="many", hasNext="perhaps"))

    assert read_payments(client) == [["a"]]


def test_a_page_that_leaves_out_its_empty_list_is_empty(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, Reply(body={"pagingMetadata": {"count": 0}}))

    assert read_payments(client) == [[]]


def test_payments_are_handed_on_as_they_came(wix: Scripted, client: WixClient) -> None:
    items = [{"id": 5, "amount": "1.0", "novel": {"x": [1]}}, None, "text"]
    wix.plan(PAYMENTS_QUERY, Reply(body={"paymentLinkPayments": items, "pagingMetadata": {}}))

    assert list(client.query_payments(INSTANCE, {}, pages_max=1)) == [items]


def test_links_are_decoded_and_odd_ones_are_named(wix: Scripted, client: WixClient) -> None:
    odd = [{"id": "odd", "createdDate": "soon"}, {"title": "x"}, None, {"id": 7}]
    listed = [{"id": "ok", "status": "PAID"}, *odd]
    wix.plan(LINKS_QUERY, Reply(body={"paymentLinks": listed, "pagingMetadata": {}}))

    ((first, *others),) = client.query_links(INSTANCE, {"status": "PAID"}, pages_max=1)

    assert first == wire.PaymentLink(id="ok", status="PAID")
    unreadable = [one for one in others if isinstance(one, UnreadableItem)]
    assert [one.id for one in unreadable] == ["odd", None, None, None]
    assert not any("soon" in one.detail for one in unreadable)
    assert wix.asked[0].body == {"query": {"filter": {"status": "PAID"}, "cursorPaging": {"limit": 100}}}


def test_more_pages_than_allowed_are_too_many(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, page("a", cursor="c1"), page("b", cursor="c2"))
    pages = client.query_payments(INSTANCE, {}, pages_max=2)

    assert [next(pages), next(pages)] == [[{"id": "a"}], [{"id": "b"}]]
    with pytest.raises(TooManyPages):
        next(pages)

    assert len(wix.asked) == 2


def test_exactly_as_many_pages_as_allowed_are_fine(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, page("a", cursor="c1"), page("b"))

    assert read_payments(client, pages_max=2) == [["a"], ["b"]]


def test_a_repeated_cursor_ends_the_reading(wix: Scripted, client: WixClient) -> None:
    wix.plan(
        PAYMENTS_QUERY, page("a", cursor="tell-nobody"), page("b", cursor="c2"), page(cursor="tell-nobody")
    )

    with pytest.raises(WixUnavailable, match="same cursor twice") as raised:
        read_payments(client, pages_max=1000)

    assert len(wix.asked) == 3
    assert "tell-nobody" not in str(raised.value)


def test_a_page_is_asked_for_only_when_wanted(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, page("a", cursor="c1"))

    pages = client.query_payments(INSTANCE, {}, pages_max=5)
    assert wix.asked == []
    next(pages)

    assert len(wix.asked) == 1


@pytest.mark.fact("X10")
def test_a_504_halves_the_page_and_later_pages_stay_small(wix: Scripted, client: WixClient) -> None:
    wix.plan(
        PAYMENTS_QUERY, page("a", cursor="c1"), Reply(504), Reply(504), page("b", cursor="c2"), page("c")
    )

    assert read_payments(client) == [["a"], ["b"], ["c"]]

    paging = [asked.body["query"]["cursorPaging"] for asked in wix.asked]
    assert [(one.get("cursor"), one["limit"]) for one in paging] == [
        (None, 100),
        ("c1", 100),
        ("c1", 50),
        ("c1", 25),
        ("c2", 25),
    ]


def test_pages_that_shrank_hold_as_many_items_as_were_allowed(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, Reply(504), page("a", cursor="c1"), page("b"))

    assert read_payments(client, pages_max=1) == [["a"], ["b"]]


def test_what_an_earlier_try_may_have_done_is_not_called_unsent(wix: Scripted, make: Make) -> None:
    spent = iter([0.0])

    class OneCall(RateLimit):
        def take(self, instance_id: UUID, *, pause: Callable[[float], bool], patience: float) -> float:
            try:
                return next(spent)
            except StopIteration:
                raise WixUnavailable("spent", is_unsent=True) from None

    wix.otherwise(f"{LINKS}/l1/set-note", Reply(503))
    client = make(rate=OneCall(None, calls_per_minute=1, processes=1))

    with pytest.raises(WixUnavailable, match="spent") as raised:
        client.set_note(INSTANCE, "l1", "x")

    assert not raised.value.is_unsent


def test_a_lasting_504_is_unavailable_after_three_tries(wix: Scripted, client: WixClient) -> None:
    wix.otherwise(PAYMENTS_QUERY, Reply(504))

    with pytest.raises(WixUnavailable) as raised:
        read_payments(client, page_size=2)

    assert raised.value.status == 504
    assert [asked.body["query"]["cursorPaging"]["limit"] for asked in wix.asked] == [2, 1, 1]


# -- Repeating -------------------------------------------------------------------------------------

GZIP = {"Content-Encoding": "gzip"}
# What may be better the next time, and the status told to on_response.
PASSING: dict[str, tuple[Script, int | None]] = {
    "500": (Reply(500), 500),
    "503": (Reply(503, b""), 503),
    "599": (Reply(599, b"<html>"), 599),
    "429": (Reply(429), 429),
    "not JSON": (Reply(200, b"<html>"), 200),
    "empty": (Reply(200, b""), 200),
    "cut off": (Raw([head(100), b'{"pay']), None),
    "headers cut off": (Raw([b"HTTP/1.1 200 OK\r\nContent-"]), None),
    "nothing": (Raw(), None),
    "no HTTP": (Raw([b"220 mail.example ESMTP\r\n\r\n"]), None),
    "gzip cut off": (Reply(200, gzip.compress(b"{}" * 99)[:-9], GZIP), None),
    "no gzip": (Reply(200, b"{}", GZIP), None),
}


@pytest.mark.parametrize("fault", PASSING)
@each_read
def test_a_read_is_tried_three_times(
    wix: Scripted, client: WixClient, responses: Responses, operation: str, fault: str
) -> None:
    path, call = READS[operation]
    script, status = PASSING[fault]
    wix.otherwise(path, script)

    with pytest.raises(WixUnavailable, match=operation):
        call(client)

    assert len(wix.asked) == 3
    assert responses == [(operation, status)] * 3


def test_a_read_succeeds_after_two_failures(wix: Scripted, client: WixClient, responses: Responses) -> None:
    wix.plan(ONE, Reply(503), Raw([head(5), b"{"]))

    client.get_link(INSTANCE, LINK)

    assert responses == [("get_link", 503), ("get_link", None), ("get_link", 200)]


@pytest.mark.fact("X14")
@pytest.mark.parametrize("fault", [*PASSING, "504", "hang"])
@each_write
def test_what_may_have_arrived_and_is_not_harmless_to_repeat_is_not_repeated(
    wix: Scripted, make: Make, responses: Responses, operation: str, fault: str
) -> None:
    path, call = CALLS[operation]
    script, status = (PASSING | {"504": (Reply(504), 504), "hang": (HANG, None)})[fault]
    wix.otherwise(path, script)
    client = make(timeout_seconds=0.1 if fault == "hang" else 5)

    if operation == "send_link" and status == 200:
        call(client)  # all that sending needs
    else:
        with pytest.raises(WixUnavailable):
            call(client)

    assert len(wix.asked) == 1
    assert responses == [(WIX_NAMES.get(operation, operation), status)]


@each_call
def test_without_a_connection_everything_is_tried_again(
    make: Make, responses: Responses, operation: str
) -> None:
    name = WIX_NAMES.get(operation, operation)
    with deaf_port() as port, pytest.raises(WixUnavailable, match=f"{name}.*refused"):
        CALLS[operation][1](make(f"http://127.0.0.1:{port}"))

    assert responses == [(name, None)] * 3


@pytest.mark.parametrize(
    ("outcome", "of_read", "of_write"),
    [
        (NoAnswer("refused", was_sent=False), True, True),
        (NoAnswer("timed out"), True, False),
        (NoAnswer("too large", is_passing=False), False, False),
        (NoAnswer("closed", was_sent=False, is_passing=False), False, False),
        *[(Answer(status, {}, None, is_json=False), True, False) for status in (200, 429, 500, 503, 504)],
        *[(Answer(status, {}, {}, is_json=True), False, False) for status in (201, 302, 400, 401, 404, 409)],
    ],
)
def test_what_is_worth_repeating(outcome: Answer | NoAnswer, of_read: bool, of_write: bool) -> None:
    assert is_worth_repeating(outcome, is_repeatable=True) is of_read
    assert is_worth_repeating(outcome, is_repeatable=False) is of_write


def test_waits_grow_and_are_spread_from_nothing_to_their_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_SECONDS", 0.5)

    for tries, longest in ((1, 0.5), (2, 1.0)):
        drawn = [backoff_seconds(tries) for _ in range(500)]
        assert 0 <= min(drawn) < longest / 4
        assert longest * 3 / 4 < max(drawn) <= longest


@pytest.mark.fact("U25")
def test_a_short_retry_after_is_waited_for(wix: Scripted, client: WixClient, waits: list[float]) -> None:
    wix.plan(ONE, Reply(429, headers={"Retry-After": "3"}), Reply(503, headers={"Retry-After": "2"}))

    client.get_link(INSTANCE, LINK)

    assert waits == [3, 2]


def test_all_waits_of_a_call_together_are_bounded(
    wix: Scripted, client: WixClient, waits: list[float]
) -> None:
    wix.otherwise(ONE, Reply(429, headers={"Retry-After": "4"}))

    with pytest.raises(WixUnavailable) as raised:
        client.get_link(INSTANCE, LINK)

    assert raised.value.retry_after_seconds == 4
    assert sum(waits) == 4 <= WAIT_SECONDS_MAX


@pytest.mark.parametrize("status", [429, 503])
@each_call
def test_a_long_retry_after_is_told_at_once(
    wix: Scripted, client: WixClient, waits: list[float], operation: str, status: int
) -> None:
    path, call = CALLS[operation]
    wix.otherwise(path, Reply(status, headers={"Retry-After": "60"}))

    with pytest.raises(WixUnavailable) as raised:
        call(client)

    assert (raised.value.status, raised.value.retry_after_seconds) == (status, 60)
    assert (len(wix.asked), waits) == (1, [])


def test_a_retry_after_may_be_a_date(wix: Scripted, client: WixClient) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    wix.otherwise(ONE, Reply(503, headers={"Retry-After": later}))

    with pytest.raises(WixUnavailable) as raised:
        client.get_link(INSTANCE, LINK)

    assert raised.value.retry_after_seconds == pytest.approx(120, abs=10)
    assert len(wix.asked) == 1


@pytest.mark.parametrize(
    "text", ["soon", "", "-5", "1.5", "0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015"]
)
def test_a_retry_after_that_is_past_or_unreadable_is_an_ordinary_failure(
    wix: Scripted, client: WixClient, text: str
) -> None:
    wix.plan(ONE, Reply(503, headers={"Retry-After": text}))

    client.get_link(INSTANCE, LINK)

    assert len(wix.asked) == 2


@example("Mon, 01 Jan 2020 10:00:00 +99999999999999999999")
@example("Mon, 01 Jan 99999999999999999999 10:00:00 +0000")
@example("Mon, 31 Dec 9999 23:59:59 -2359")
@given(st.text(max_size=60) | st.from_regex(r"Mon, [0-9]{1,4} Jan [0-9]{1,6} 10:00:00 [+-][0-9]{1,30}"))
def test_no_retry_after_breaks_us(text: str) -> None:
    why = failure("get_link", Answer(503, {"retry-after": text}, None, is_json=False))

    assert isinstance(why, WixUnavailable)
    assert why.retry_after_seconds is None or why.retry_after_seconds >= 0


# -- Time, size, connections -----------------------------------------------------------------------

SLOW: dict[str, Raw] = {
    "no answer": HANG,
    "dripping body": Raw([head(10_000), *[b" "] * 1000], gap_seconds=0.02),
    "dripping headers": Raw([b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 1000], gap_seconds=0.02),
    "interim answers": Raw([b"HTTP/1.1 102 Processing\r\n\r\n"] * 1000, gap_seconds=0.02),
    "headers, then nothing": Raw([head(10)], is_kept_open=True),
}


@pytest.mark.parametrize("slow", SLOW)
def test_an_exchange_ends_at_the_timeout_as_a_whole(wix: Scripted, make: Make, slow: str) -> None:
    wix.otherwise(LINKS, SLOW[slow])
    client = make(timeout_seconds=0.3)
    began = time.monotonic()

    with pytest.raises(WixUnavailable, match="nothing whole within"):
        client.create_link(INSTANCE, NEW)

    # Far below the 10 or 20 seconds the server would take, far above what a busy machine adds.
    assert 0.29 <= time.monotonic() - began < 4


def test_the_timeout_holds_for_a_connection_used_again(wix: Scripted, make: Make) -> None:
    wix.otherwise(LINKS, SLOW["dripping headers"])
    client = make(timeout_seconds=0.3)
    client.get_link(INSTANCE, LINK)
    began = time.monotonic()

    with pytest.raises(WixUnavailable, match="nothing whole within"):
        client.create_link(INSTANCE, NEW)

    assert time.monotonic() - began < 4


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("excess", [0, 1])
def test_an_answer_is_at_most_so_large(
    wix: Scripted, client: WixClient, monkeypatch: pytest.MonkeyPatch, excess: int, is_compressed: bool
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 200_000)
    content = b'{"paymentLink": {"id": "x"}}'.ljust(200_000 + excess)
    wix.otherwise(
        ONE, Reply(body=gzip.compress(content), headers=GZIP) if is_compressed else Reply(body=content)
    )

    if excess:
        with pytest.raises(WixUnavailable, match="more than 200000 bytes"):
            client.get_link(INSTANCE, LINK)
    else:
        assert client.get_link(INSTANCE, LINK) == wire.PaymentLink(id="x")

    assert len(wix.asked) == 1, "a second answer would be as large"


def test_an_endless_answer_is_left_at_the_bound(
    wix: Scripted, client: WixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 100_000)
    wix.otherwise(ONE, Raw([head(10**12), *[b" " * 50_000] * 200], is_kept_open=True))

    with pytest.raises(WixUnavailable, match="more than"):
        client.get_link(INSTANCE, LINK)


def test_a_small_answer_that_unpacks_to_a_large_one_is_left_at_the_bound(
    wix: Scripted, client: WixClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 100_000)
    wix.otherwise(ONE, Reply(body=gzip.compress(bytes(50_000_000)), headers=GZIP))

    tracemalloc.start()
    try:
        with pytest.raises(WixUnavailable, match="more than"):
            client.get_link(INSTANCE, LINK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 10_000_000


def test_a_flood_without_any_pause_ends_at_the_timeout(wix: Scripted, make: Make) -> None:
    # No read ever waits, so no timeout of a read can end it.
    wix.otherwise(LINKS, Raw(itertools.chain([head(10**12)], itertools.repeat(b" " * 10))))
    client = make(timeout_seconds=0.2)

    with pytest.raises(WixUnavailable, match="nothing whole within"):
        client.create_link(INSTANCE, NEW)


def test_a_compression_we_did_not_ask_for_is_not_unpacked(wix: Scripted, client: WixClient) -> None:
    wix.otherwise(ONE, Reply(200, b"\x0b\x02\x80", {"Content-Encoding": "br"}))

    with pytest.raises(WixUnavailable, match="compressed"):
        client.get_link(INSTANCE, LINK)

    assert wix.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.fact("R2")
@pytest.mark.parametrize("status", [201, 202, 204, 206, 301, 302, 304, 307, 308])
@each_call
def test_success_is_200_only_and_redirects_are_not_followed(
    wix: Scripted, client: WixClient, operation: str, status: int
) -> None:
    path, call = CALLS[operation]
    body = b"" if status in (204, 304) else b'{"paymentLink": {"id": "x"}, "paymentLinks": []}'
    wix.otherwise(path, Reply(status, body, {"Location": f"{wix.base_url}/elsewhere"}))

    with pytest.raises(WixUnavailable) as raised:
        call(client)

    assert raised.value.status == status
    assert [asked.path for asked in wix.asked] == [path]


def test_cookies_are_not_sent_back(wix: Scripted, client: WixClient) -> None:
    wix.plan(ONE, Reply(body={"paymentLink": {"id": "x"}}, headers={"Set-Cookie": "session=one; Path=/"}))

    client.get_link(INSTANCE, LINK)
    client.get_link(INSTANCE, LINK)

    assert "cookie" not in wix.asked[1].headers


def test_neither_netrc_nor_the_url_replaces_our_token(
    wix: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\ndefault login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))

    make().get_link(INSTANCE, LINK)
    make(wix.base_url.replace("//", "//other:other@")).get_link(INSTANCE, LINK)

    assert [asked.headers["authorization"] for asked in wix.asked] == [KEY, KEY]


def test_a_proxy_of_the_environment_is_used(
    wix: Scripted, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    wix.otherwise(f"http://wix.invalid{ONE}", Reply(body={"paymentLink": {"id": "by proxy"}}))
    monkeypatch.setenv("http_proxy", wix.base_url)

    assert make("http://wix.invalid").get_link(INSTANCE, LINK) == wire.PaymentLink(id="by proxy")

    monkeypatch.setenv("http_proxy", "http://proxy.invalid")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert make().get_link(INSTANCE, LINK) == wire.PaymentLink(id=str(LINK))


@pytest.mark.parametrize("proxy", ["ftp://user:hidden@proxy", "http://user:hidden@proxy:port"])
def test_a_proxy_that_cannot_be_used_is_a_fault_of_configuration(
    make: Make, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)

    with pytest.raises(ConfigurationError, match="proxy") as raised:
        make().get_link(INSTANCE, LINK)

    assert "hidden" not in everything_of(raised.value)


def test_the_base_url_may_have_a_path(wix: Scripted, make: Make) -> None:
    wix.otherwise(f"/pretend{ONE}", Reply(body={"paymentLink": {"id": "x"}}))

    assert make(f"{wix.base_url}/pretend").get_link(INSTANCE, LINK) == wire.PaymentLink(id="x")


# -- Signing in ------------------------------------------------------------------------------------


def tokens(*names: str) -> list[Reply]:
    return [Reply(body={"access_token": name, "expires_in": 14_400}) for name in names]


@pytest.mark.fact("A5", "X9")
@each_call
def test_after_a_401_a_new_token_is_tried_once(wix: Scripted, make: Make, operation: str) -> None:
    path, call = CALLS[operation]
    answer: dict[str, Any] = {
        "paymentLink": {"id": "x"},
        "paymentLinks": [],
        "paymentLinkPayments": [],
        "contact": {"id": "c1"},
        "contacts": [],
        "product": {"id": "p1"},
        "products": [],
        "order": {"id": "o1"},
        "orders": [],
        "orderTransactions": {},
        "jobId": "j1",
    }
    wix.plan(TOKEN_PATH, *tokens("old", "new"))
    wix.plan(path, Reply(401, b""), Reply(body=answer))

    call(make(is_oauth=True))

    assert [asked.headers["authorization"] for asked in wix.of(path)] == ["old", "new"]


def test_a_second_401_is_unauthorized(wix: Scripted, make: Make, responses: Responses) -> None:
    wix.plan(TOKEN_PATH, *tokens("old", "new"))
    wix.otherwise(ONE, Reply(401, {"message": "no", "details": {}}))

    with pytest.raises(WixUnauthorized) as raised:
        make(is_oauth=True).get_link(INSTANCE, LINK)

    assert raised.value.status == 401
    assert Counter(responses) == {("create_token", 200): 2, ("get_link", 401): 2}


@pytest.mark.fact("A13")
def test_a_401_for_an_api_key_is_final(wix: Scripted, client: WixClient) -> None:
    wix.otherwise(ONE, Reply(401))

    with pytest.raises(WixUnauthorized):
        client.get_link(INSTANCE, LINK)

    assert len(wix.asked) == 1


@pytest.mark.fact("R5")
def test_a_403_is_about_permission_and_keeps_the_token(wix: Scripted, make: Make) -> None:
    wix.plan(ONE, Reply(403))
    client = make(is_oauth=True)

    with pytest.raises(WixUnauthorized) as raised:
        client.get_link(INSTANCE, LINK)
    client.get_link(INSTANCE, LINK)

    assert raised.value.status == 403
    assert len(wix.of(TOKEN_PATH)) == 1


def test_a_token_refused_to_many_threads_is_renewed_once(wix: Scripted, make: Make) -> None:
    gate = threading.Barrier(10)

    def answer(asked: Asked) -> Reply:
        if asked.headers["authorization"] == "new":
            return Reply(body={"paymentLink": {"id": "x"}})
        gate.wait(10)  # until every thread has been refused
        return Reply(401)

    wix.plan(TOKEN_PATH, *tokens("old", "new"))
    wix.otherwise(ONE, answer)
    client = make(is_oauth=True)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: client.get_link(INSTANCE, LINK), range(10)))

    assert len(wix.of(TOKEN_PATH)) == 2


def test_credentials_that_work_are_shown_by_one_cheap_query(wix: Scripted, client: WixClient) -> None:
    wix.plan(LINKS_QUERY, Reply(body={"paymentLinks": [{}], "pagingMetadata": {}}))

    client.check_credentials(INSTANCE)

    assert [asked.body for asked in wix.asked] == [{"query": {"cursorPaging": {"limit": 1}}}]


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.fact("X4", "X7", "X8", "X9")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, WixRefused),
        (401, WixUnauthorized),
        (403, WixUnauthorized),
        (404, WixNotFound),
        (409, WixRefused),
        (428, WixRefused),
        (429, WixUnavailable),
        (500, WixUnavailable),
        (501, WixUnavailable),
        (503, WixUnavailable),
    ],
)
def test_each_status_has_its_kind(
    wix: Scripted, client: WixClient, status: int, kind: type[WixError]
) -> None:
    error = {"code": "SOME_CODE", "description": "Private"}
    said = {"message": "Private", "details": {"applicationError": error}}
    wix.otherwise(LINKS, Reply(status, said, {"x-wix-request-id": "1700000000.123"}))

    with pytest.raises(WixError) as raised:
        client.create_link(INSTANCE, NEW)

    why = raised.value
    assert type(why) is kind
    assert (why.status, why.code, why.request_id) == (status, "SOME_CODE", "1700000000.123")
    assert str(why) == f"create_link: Wix answered {status} SOME_CODE [request 1700000000.123]"


@pytest.mark.fact("X5")
def test_field_violations_are_read(wix: Scripted, client: WixClient) -> None:
    bad_title = {"field": "paymentLink.title", "description": "'Private title'", "violatedRule": "MAX"}
    listed = [bad_title, {"field": 5, "violatedRule": ["x"]}, "text", {}]
    wix.otherwise(LINKS, Reply(400, {"details": {"validationError": {"fieldViolations": listed}}}))

    with pytest.raises(WixRefused) as raised:
        client.create_link(INSTANCE, NEW)

    nothing = FieldViolation("", "", "")
    assert raised.value.violations == (
        FieldViolation("paymentLink.title", "'Private title'", "MAX"),
        nothing,
        nothing,
    )
    assert "paymentLink.title: MAX" in str(raised.value)
    assert "Private" not in str(raised.value)


GARBAGE: list[Any] = [
    b"",
    b"<html><body>Bad gateway</body></html>",
    b"\xff\xfe\x00",
    b"{",
    b"[" * 100_000,
    b"NaN",
    None,
    5,
    "text",
    [],
    {},
    {"message": None, "details": None},
    {"details": []},
    {"details": "x"},
    {"details": {"applicationError": "x"}},
    {"details": {"applicationError": {"code": 5}}},
    {"details": {"applicationError": {"code": {"a": 1}}}},
    {"details": {"applicationError": {"code": "line\nbreak action=event_finished"}}},
    {"details": {"applicationError": {"code": "x" * 10_000}}},
    {"details": {"validationError": []}},
    {"details": {"validationError": {"fieldViolations": {}}}},
    {"details": {"validationError": {"fieldViolations": [None, 5, [], {"field": {}}]}}},
    {"error": {"code": 5}},
]


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body)[:40])
@pytest.mark.parametrize(("status", "kind"), [(400, WixRefused), (404, WixNotFound), (500, WixUnavailable)])
def test_an_error_may_hold_any_garbage(
    wix: Scripted, client: WixClient, body: Any, status: int, kind: type[WixError]
) -> None:
    wix.otherwise(LINKS, Reply(status, body))

    with pytest.raises(kind) as raised:
        client.create_link(INSTANCE, NEW)

    assert (raised.value.status, raised.value.code) == (status, None)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


NAMES = ["details", "applicationError", "code", "validationError", "fieldViolations", "error", "field"]
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@given(any_json, st.integers(100, 999), st.text(max_size=20))
def test_no_answer_breaks_the_sorting_of_errors(body: Any, status: int, request_id: str) -> None:
    why = failure("get_link", Answer(status, {"x-wix-request-id": request_id}, body, is_json=True))

    assert str(why).isprintable()
    assert why.status == status
    assert isinstance(why, WixUnavailable) == (status == 429 or not 400 <= status < 500)


# -- What is never shown ---------------------------------------------------------------------------

SHOWN_NOWHERE = (SECRET, KEY, "token-of-ours", "Private title", "contact-private")


def everything_of(why: BaseException) -> str:
    """The exception and its causes with all they hold, as a careless log would show them."""
    parts = traceback.format_exception(why)
    one: BaseException | None = why
    while one is not None:
        assert "httpx2" not in type(one).__module__, "it holds the request, and that our token"
        parts += [repr(one), *map(repr, vars(one).values())]
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n".join(parts)


FAULTS: dict[str, Script] = {name: script for name, (script, _) in PASSING.items()} | {
    "400": Reply(400, {"message": SECRET, "details": {"applicationError": {"description": KEY}}}),
    "401": Reply(401),
    "403": Reply(403),
    "302": Reply(302),
    "hang": HANG,
}


@pytest.mark.fact("X3")
@pytest.mark.parametrize(
    ("fault", "is_oauth"), [*((fault, True) for fault in FAULTS), ("400", False), ("401", False)]
)
@each_call
def test_no_error_and_no_log_shows_secrets_or_bodies(
    wix: Scripted,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    operation: str,
    fault: str,
    is_oauth: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    path, call = CALLS[operation]
    wix.otherwise(path, FAULTS[fault])
    wix.otherwise(TOKEN_PATH, tokens("token-of-ours")[0])
    client = make(is_oauth=is_oauth, timeout_seconds=0.05 if fault == "hang" else 5)

    shown = ""
    with structlog.testing.capture_logs() as events:
        try:
            call(client)
        except WixError as why:
            shown = everything_of(why)

    shown += caplog.text + repr(events)
    assert "httpcore2" in shown, "the libraries' own logs were read"
    assert not [secret for secret in SHOWN_NOWHERE if secret in shown]


# -- One client for all ----------------------------------------------------------------------------


def test_threads_share_one_client(wix: Scripted, client: WixClient, responses: Responses) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(body={"paymentLink": {"id": asked.path.rsplit("/", 1)[1]}})

    ids = [str(uuid4()) for _ in range(60)]
    for one in ids:
        wix.otherwise(f"{LINKS}/{one}", answer)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda one: client.get_link(INSTANCE, one), ids))

    assert [one.id for one in found] == ids
    assert len(responses) == 60


def connections(caplog: pytest.LogCaptureFixture) -> int:
    """How many were made, by the library's log."""
    return caplog.text.count("connect_tcp.complete")


def test_a_connection_is_used_again(
    wix: Scripted, client: WixClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "httpcore2")

    for _ in range(3):
        client.get_link(INSTANCE, LINK)

    assert connections(caplog) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_connection(
    wix: Scripted, client: WixClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.get_link(INSTANCE, LINK)
    caplog.set_level(logging.DEBUG, "httpcore2")

    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs dies of it
        status = 1
        try:
            client.get_link(INSTANCE, LINK)
            status = 0 if connections(caplog) == 1 else 2
            client.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    client.get_link(INSTANCE, LINK)
    assert connections(caplog) == 0, "the parent's connection still stands"


def test_nothing_is_connected_before_the_first_call(make: Make, responses: Responses) -> None:
    with deaf_port() as port:
        make(f"http://127.0.0.1:{port}").close()

    assert responses == []


def test_close_ends_a_wait(wix: Scripted, client: WixClient, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    pause = Http.pause

    def tell_and_pause(self: Http, seconds: float) -> bool:
        waits.set()
        return pause(self, seconds)

    monkeypatch.setattr(Http, "pause", tell_and_pause)
    wix.otherwise(ONE, Reply(503, headers={"Retry-After": "5"}))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get_link, INSTANCE, LINK)
        assert waits.wait(10)
        began = time.monotonic()
        client.close()

        with pytest.raises(WixUnavailable):
            waiting.result()

    assert time.monotonic() - began < 4
    assert len(wix.asked) == 1


@pytest.mark.parametrize("is_oauth", [False, True])
@each_call
def test_a_closed_client_asks_nothing(
    wix: Scripted, make: Make, responses: Responses, operation: str, is_oauth: bool
) -> None:
    client = make(is_oauth=is_oauth)
    client.close()
    client.close()

    with pytest.raises(WixUnavailable, match="closed"):
        CALLS[operation][1](client)

    assert wix.asked == []
    assert responses == [], "there was no exchange"


def test_close_during_an_exchange_ends_it_as_unavailable(wix: Scripted, make: Make) -> None:
    wix.otherwise(ONE, Raw([head(10_000), *[b" "] * 200], gap_seconds=0.01))
    client = make(timeout_seconds=2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get_link, INSTANCE, LINK)
        wix.wait_for(ONE)
        client.close()

        with pytest.raises(WixUnavailable):
            waiting.result()

    assert len(wix.asked) == 1


# -- Reading on after a cursor expired ---------------------------------------------------------------


def dated(*items: tuple[str, int], cursor: str | None = None) -> Reply:
    """A page of payments, each with its id and the second it was created."""
    listed = [{"id": id_, "createdDate": f"2026-01-01T00:00:{second:02d}.000Z"} for id_, second in items]
    return Reply(
        body={
            "paymentLinkPayments": listed,
            "pagingMetadata": {"cursors": {"next": cursor} if cursor else {}},
        }
    )


EXPIRED = Reply(400, {"message": "unknown cursor", "details": {}})


@pytest.mark.fact("X13")
def test_after_an_expired_cursor_the_rest_is_read_from_the_last_date(
    wix: Scripted, client: WixClient
) -> None:
    wix.plan(
        PAYMENTS_QUERY,
        dated(("a", 1), ("b", 2), ("c", 2), cursor="one"),
        EXPIRED,
        dated(("b", 2), ("c", 2), ("d", 2), ("e", 3), cursor="two"),
        dated(("f", 4)),
    )

    assert read_payments(client) == [["a", "b", "c"], ["d", "e"], ["f"]]

    queries = [asked.body["query"] for asked in wix.of(PAYMENTS_QUERY)]
    since = {"createdDate": {"$gte": "2026-01-01T00:00:02.000Z"}}
    assert queries[2]["filter"] == {"$and": [{"paymentLinkId": str(LINK)}, since]}
    assert queries[2]["sort"] == queries[0]["sort"]
    assert "cursor" not in queries[2]["cursorPaging"]


def test_cursors_that_always_expire_end_the_reading(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, dated(("a", 1), cursor="one"), EXPIRED, dated(("a", 1), cursor="two"), EXPIRED)

    with pytest.raises(WixUnavailable, match="no longer knows the cursor"):
        read_payments(client)


def test_in_another_order_an_expired_cursor_ends_the_reading(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, dated(("a", 1), cursor="one"), EXPIRED)

    with pytest.raises(WixUnavailable, match="no longer knows the cursor"):
        read_payments(client, sort=[("createdDate", "DESC")])


def test_a_refused_first_page_is_no_expired_cursor(wix: Scripted, client: WixClient) -> None:
    wix.plan(PAYMENTS_QUERY, EXPIRED)

    with pytest.raises(WixRefused):
        read_payments(client)


def test_an_item_that_moves_to_the_next_page_is_given_once_within_its_date(
    wix: Scripted, client: WixClient
) -> None:
    wix.plan(PAYMENTS_QUERY, dated(("a", 1), ("b", 2), cursor="one"), dated(("b", 2), ("c", 2)))

    assert read_payments(client) == [["a", "b"], ["c"]]


# -- The other calls -------------------------------------------------------------------------------


@pytest.mark.fact("R14", "R24", "Q2", "Q5")
def test_a_search_sends_its_words_and_a_further_page_only_the_cursor(
    wix: Scripted, client: WixClient
) -> None:
    path = f"{LINKS}/search"
    first = {"paymentLinks": [{"id": "a"}], "pagingMetadata": {"cursors": {"next": "on"}}}
    wix.plan(path, Reply(body=first), Reply(body={"paymentLinks": [{"id": "b"}]}))

    pages = client.search_links(
        INSTANCE,
        "mug",
        fields=["title"],
        is_fuzzy=True,
        filter={"status": "ACTIVE"},
        sort=[("createdDate", "DESC")],
        page_size=1,
        pages_max=3,
    )

    assert [link.id for page in pages for link in page] == ["a", "b"]
    assert [asked.body for asked in wix.of(path)] == [
        {
            "search": {
                "filter": {"status": "ACTIVE"},
                "sort": [{"fieldName": "createdDate", "order": "DESC"}],
                "search": {"expression": "mug", "fields": ["title"], "fuzzy": True},
                "cursorPaging": {"limit": 1},
            }
        },
        {"search": {"cursorPaging": {"cursor": "on", "limit": 1}}},
    ]


def test_a_link_deleted_by_a_try_whose_answer_was_lost_is_deleted(wix: Scripted, client: WixClient) -> None:
    wix.plan(ONE, Raw([head(50), b"{"]), Reply(404))

    client.delete_link(INSTANCE, LINK)

    assert [asked.method for asked in wix.asked] == ["DELETE", "DELETE"]


def test_a_link_that_was_never_there_cannot_be_deleted(wix: Scripted, client: WixClient) -> None:
    wix.plan(ONE, Reply(404))

    with pytest.raises(WixNotFound):
        client.delete_link(INSTANCE, LINK)


@pytest.mark.fact("R25", "U19")
@pytest.mark.parametrize(
    ("answer", "receipt_id"),
    [
        ({"receiptId": "r1"}, "r1"),
        ({"receipt": {"id": "r1"}}, "r1"),
        ({"paymentLinkPayment": {"receiptId": "r1"}}, "r1"),
        ({"receipt": 5}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_receipt_is_found_in_every_shape_it_may_have(
    wix: Scripted, client: WixClient, answer: Any, receipt_id: str | None
) -> None:
    wix.plan(f"{wire.PATH_PAYMENTS}/p1/issue-receipt", Reply(body=answer))

    assert client.issue_receipt(INSTANCE, "p1") == receipt_id


def test_contacts_are_read_by_offset_until_a_page_is_not_full(wix: Scripted, client: WixClient) -> None:
    path = f"{wire.PATH_CONTACTS}/query"
    wix.plan(
        path, Reply(body={"contacts": [{"id": "a"}, {"id": "b"}]}), Reply(body={"contacts": [{"id": "c"}]})
    )

    pages = list(client.query_contacts(INSTANCE, page_size=2, pages_max=5))

    assert [contact.id for page in pages for contact in page] == ["a", "b", "c"]
    assert [asked.body["query"]["paging"]["offset"] for asked in wix.of(path)] == [0, 2]
    wix.otherwise(path, Reply(body={"contacts": [{"id": "a"}]}))
    with pytest.raises(TooManyPages):
        list(client.query_contacts(INSTANCE, page_size=1, pages_max=2))


@pytest.mark.fact("S13")
def test_refunds_are_read_from_the_order(wix: Scripted, client: WixClient) -> None:
    refund = {
        "transactions": [{"paymentId": "p1", "amount": {"amount": "1.50"}, "refundStatus": "SUCCEEDED"}]
    }
    wix.plan(
        f"{wire.PATH_ORDER_PAYMENTS}/o1",
        Reply(body={"orderTransactions": {"orderId": "o1", "payments": [{"id": "p1"}], "refunds": [refund]}}),
    )

    told = client.order_transactions(INSTANCE, "o1")

    [transaction] = told.refunds[0].transactions
    assert transaction == wire.RefundTransaction("p1", wire.Price("1.50"), "SUCCEEDED")


@pytest.mark.fact("R21", "R57", "R59")
def test_bulk_answers_say_of_each_link_how_it_went(wix: Scripted, client: WixClient) -> None:
    told = {"itemMetadata": {"id": "x", "originalIndex": 0, "success": False, "error": {"code": "NO"}}}
    wix.plan(f"{LINKS}/bulk-update-tags", Reply(body={"results": [told]}))

    answer = client.update_tags(
        INSTANCE, ["x"], assign=TAG, unassign=wire.Tags(private_tags=wire.TagIds(["t2"]))
    )

    assert answer.results[0].item_metadata.error == wire.BulkError("NO")
    assert wix.asked[0].body == {
        "paymentLinkIds": ["x"],
        "assignTags": {"tags": {"tagIds": ["t1"]}},
        "unassignTags": {"privateTags": {"tagIds": ["t2"]}},
    }
