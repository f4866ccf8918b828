"""The Wix Payment Links API: links and payments, page by page, with every error sorted by what follows.

Paths, shapes and limits are those of Wix's reference pages (`docs/wix.md`). From top to bottom: the calls
(`WixClient`), the rules of repeating, one HTTP exchange (`Http`), and Wix's errors. One client serves all
threads of a process, and a forked child makes its own connections.
"""

from __future__ import annotations

import os
import random
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx2
import msgspec

from processor.errors import (
    FieldViolation,
    WixError,
    WixNotFound,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.outgoing import new_client, printable, retry_after, seconds_left, within
from processor.wix import wire
from processor.wix.rate import Gate, RateLimit

if TYPE_CHECKING:
    from processor.wix.credentials import Credentials

T = TypeVar("T")

Order = Literal["ASC", "DESC"]
Sort = Sequence[tuple[str, Order]]
OnResponse = Callable[[str, int | None], None]
"""Told once for every HTTP exchange: the operation, and Wix's status, None when no whole answer came."""

ANSWER_BYTES_MAX = 32 * 1024 * 1024  # decompressed; 100 payments are some 200 kB
TRIES_MAX = 3
BACKOFF_SECONDS = 0.5  # the longest first wait; each further one may be twice as long
# All waits of one call together. What takes longer is not waited for in a job: the caller puts the work off.
WAIT_SECONDS_MAX = 5.0
# Of names Wix gives and we repeat in messages: nothing that could break a log line.
_NAME = re.compile(r"[\w.:\-\[\]$]{1,100}", re.ASCII)
_TEXT_MAX = 500


class TooManyPages(WixError):
    """A query has more pages than the caller allowed; ask for less at once."""


@dataclass(frozen=True, slots=True)
class UnreadableItem:
    """An item of another shape than documented. id: None when it has none; detail: where, without values."""

    id: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class LinksPage:
    """A page of links. before, after: cursors of the pages around it, None where there is none."""

    items: list[wire.PaymentLink | UnreadableItem]
    before: str | None
    after: str | None


class WixClient:
    """Calls on behalf of app instances. Every method raises WixUnavailable, WixUnauthorized or WixRefused."""

    def __init__(
        self,
        *,
        base_url: str,
        credentials: Credentials,
        timeout_seconds: float,
        on_response: OnResponse,
        rate: RateLimit | None = None,
        wait_seconds_max: float = WAIT_SECONDS_MAX,
    ) -> None:
        """timeout_seconds: for each exchange as a whole, from connecting to the last byte. rate: None for no limit.

        wait_seconds_max: for all waits of one call together; what takes longer is WixUnavailable.
        """
        self._rate = rate
        self._credentials = credentials
        self._http = Http(
            base_url=base_url,
            timeout_seconds=timeout_seconds,
            on_response=on_response,
            wait_seconds_max=wait_seconds_max,
        )

    @property
    def call_seconds_max(self) -> float:
        """The longest that one call can take: with a token, every try, every wait, and once more after a 401."""
        return 2 * (self._http.call_seconds_max + self._credentials.seconds_max)

    # -- Links ---------------------------------------------------------------------------------------

    def create_link(self, instance_id: UUID, link: wire.NewPaymentLink) -> wire.PaymentLink | UnreadableItem:
        """Create a payment link. Never sent twice: Wix has no key by which it would know the second.

        After WixUnavailable the link may exist all the same. Call `flows.create_link`, which sees to that.
        """
        body = {"paymentLink": msgspec.to_builtins(link)}
        return _told_link("create_link", self._write("create_link", instance_id, wire.PATH_LINKS, body))

    def get_link(
        self, instance_id: UUID, link_id: UUID | str, *, is_repeatable: bool = True
    ) -> wire.PaymentLink | UnreadableItem:
        """One link as it is now. Raises WixNotFound as well. is_repeatable: ask again when no answer comes."""
        path = _link_path("get_link", link_id)
        told = self._call("get_link", instance_id, "GET", path, is_repeatable=is_repeatable)
        return _told_link("get_link", told)

    def delete_link(self, instance_id: UUID, link_id: UUID | str) -> None:
        """Delete a link; Wix refuses once something was paid. Raises WixNotFound as well."""
        path = _link_path("delete_link", link_id)
        self._call(
            "delete_link",
            instance_id,
            "DELETE",
            path,
            is_repeatable=True,
            is_gone_done=True,
        )

    def activate_link(self, instance_id: UUID, link_id: UUID | str) -> wire.PaymentLink | UnreadableItem:
        """Let a link take payments again. Raises WixNotFound as well."""
        return self._change_link("activate_link", instance_id, link_id, "activate")

    def deactivate_link(self, instance_id: UUID, link_id: UUID | str) -> wire.PaymentLink | UnreadableItem:
        """Let a link take no payments. Raises WixNotFound as well."""
        return self._change_link("deactivate_link", instance_id, link_id, "deactivate")

    def set_note(
        self, instance_id: UUID, link_id: UUID | str, text: str
    ) -> wire.PaymentLink | UnreadableItem:
        """Set the merchant's own note on a link. Raises WixNotFound as well."""
        return self._change_link("set_note", instance_id, link_id, "set-note", {"note": {"text": text}})

    def update_extended_fields(
        self, instance_id: UUID, link_id: UUID | str, namespace: str, data: Mapping[str, Any]
    ) -> wire.PaymentLink | UnreadableItem:
        """Keep data of ours beside a link's own. Raises WixNotFound as well."""
        body = {"namespace": namespace, "namespaceData": dict(data)}
        return self._change_link(
            "update_extended_fields", instance_id, link_id, "update-extended-fields", body
        )

    def update_tags(
        self, instance_id: UUID, link_ids: Sequence[UUID | str], *, assign: wire.Tags, unassign: wire.Tags
    ) -> wire.BulkAnswer:
        """Give tags to up to 100 links and take others away; the answer says of each link how it went."""
        body = {
            "paymentLinkIds": [str(link_id) for link_id in link_ids],
            "assignTags": msgspec.to_builtins(assign),
            "unassignTags": msgspec.to_builtins(unassign),
        }
        path = f"{wire.PATH_LINKS}/bulk-update-tags"
        told = self._call("update_tags", instance_id, "POST", path, body, is_repeatable=True)
        return _read("update_tags", told, wire.BulkAnswer)

    def update_tags_by_filter(
        self, instance_id: UUID, filter: Mapping[str, Any], *, assign: wire.Tags, unassign: wire.Tags
    ) -> str:
        """The same for every link that a filter finds, an empty one for all. Returns the id of Wix's job."""
        body = {
            "filter": dict(filter),
            "assignTags": msgspec.to_builtins(assign),
            "unassignTags": msgspec.to_builtins(unassign),
        }
        told = self._call(
            "update_tags_by_filter", instance_id, "POST", wire.PATH_TAGS_BY_FILTER, body, is_repeatable=True
        )
        return _read("update_tags_by_filter", told, wire.JobAnswer).job_id

    def initiate_payment(self, instance_id: UUID, link_id: UUID | str) -> wire.InitiatedPayment:
        """Make a checkout for the link, to which a buyer can be led. It is not a payment."""
        path = _link_path("initiate_payment", link_id, "initiate-payment")
        told = self._write("initiate_payment", instance_id, path, None)
        return _read("initiate_payment", told, wire.InitiatedPayment)

    def send_link(self, instance_id: UUID, link_id: UUID | str, recipients: Sequence[wire.Recipient]) -> None:
        """Let Wix send the link to these contacts, none for those of its creation.

        After WixUnavailable they may have been sent it.
        """
        body: dict[str, Any] = {"paymentLinkId": str(link_id)}
        if recipients:
            body["recipients"] = msgspec.to_builtins(list(recipients))
        self._write("send_link", instance_id, _link_path("send_link", link_id, "send"), body, is_read=False)

    def query_links(
        self,
        instance_id: UUID,
        filter: Mapping[str, Any],
        *,
        sort: Sort = (),
        page_size: int = wire.PAGE_MAX,
        pages_max: int,
    ) -> Iterator[list[wire.PaymentLink | UnreadableItem]]:
        """Links by documented filters, a page at a time. Raises TooManyPages when there are more than pages_max."""
        asked = _Asked("query_links", instance_id, f"{wire.PATH_LINKS}/query", "query", "paymentLinks")
        for items in self._pages(asked, filter, sort, page_size, pages_max):
            yield [_link(item) for item in items]

    def search_links(
        self,
        instance_id: UUID,
        expression: str | None,
        *,
        fields: Sequence[str] = (),
        is_fuzzy: bool = False,
        filter: Mapping[str, Any] | None = None,
        sort: Sort = (),
        page_size: int = wire.PAGE_MAX,
        pages_max: int,
    ) -> Iterator[list[wire.PaymentLink | UnreadableItem]]:
        """Links in whose text the words of `expression` occur, None for all; like query_links otherwise.

        fields: where to look, none for where Wix looks by itself.
        """
        asked = _Asked("search_links", instance_id, f"{wire.PATH_LINKS}/search", "search", "paymentLinks")
        words = _search(expression, fields, is_fuzzy)
        for items in self._pages(asked, filter or {}, sort, page_size, pages_max, words):
            yield [_link(item) for item in items]

    def links_page(
        self,
        instance_id: UUID,
        *,
        expression: str | None = None,
        filter: Mapping[str, Any] | None = None,
        sort: Sort = (),
        cursor: str | None = None,
        page_size: int,
    ) -> LinksPage:
        """One page of links for somebody who waits for it, so it is asked for once only.

        expression: words that occur in their text, None for all. cursor: of a page before, which brings its own
        filter and order with it; Wix refuses (WixRefused with status 400) one it does not know any more.
        """
        operation, wrapper = ("search_links", "search") if expression else ("query_links", "query")
        start = _start(filter or {}, sort, _search(expression, (), False)) if cursor is None else {}
        paging = {"limit": page_size} if cursor is None else {"limit": page_size, "cursor": cursor}
        told = self._call(
            operation,
            instance_id,
            "POST",
            f"{wire.PATH_LINKS}/{wrapper}",
            {wrapper: {**start, "cursorPaging": paging}},
            is_repeatable=False,
        )
        items, after = _items(operation, told, "paymentLinks")
        before = _dict(_dict(_dict(told).get("pagingMetadata")).get("cursors")).get("prev")
        return LinksPage(
            [_link(item) for item in items], before if isinstance(before, str) and before else None, after
        )

    # -- Payments ------------------------------------------------------------------------------------

    def query_payments(
        self,
        instance_id: UUID,
        filter: Mapping[str, Any],
        *,
        sort: Sort = (("createdDate", "ASC"),),
        page_size: int = wire.PAGE_MAX,
        pages_max: int,
    ) -> Iterator[list[Any]]:
        """Payments by documented filters, a page at a time, undecoded: one odd payment must not cost the page.

        Items are JSON objects, unless Wix lists something else. Sorted by `createdDate` upwards, the reading
        goes on after a cursor expired. Raises TooManyPages when there are more than pages_max.
        """
        asked = _Asked(
            "query_payments", instance_id, f"{wire.PATH_PAYMENTS}/query", "query", "paymentLinkPayments"
        )
        return self._pages(asked, filter, sort, page_size, pages_max)

    def search_payments(
        self,
        instance_id: UUID,
        expression: str | None,
        *,
        fields: Sequence[str] = (),
        is_fuzzy: bool = False,
        filter: Mapping[str, Any] | None = None,
        sort: Sort = (),
        page_size: int = wire.PAGE_MAX,
        pages_max: int,
    ) -> Iterator[list[Any]]:
        """Payments in whose text the words of `expression` occur, None for all; undecoded, as query_payments."""
        asked = _Asked(
            "search_payments", instance_id, f"{wire.PATH_PAYMENTS}/search", "search", "paymentLinkPayments"
        )
        words = _search(expression, fields, is_fuzzy)
        return self._pages(asked, filter or {}, sort, page_size, pages_max, words)

    def issue_receipt(self, instance_id: UUID, payment_id: UUID | str) -> str | None:
        """Let Wix issue a receipt for a payment. Returns its id, None when the answer does not show it.

        Never sent twice. After WixUnavailable it may have been issued: the payment then has a `receiptId`.
        """
        path = f"{wire.PATH_PAYMENTS}/{_segment('issue_receipt', payment_id)}/issue-receipt"
        told = self._write("issue_receipt", instance_id, path, None)
        # What Wix answers is not documented: a receipt, its id, or the payment.
        for place in (
            _dict(told),
            *(_dict(_dict(told).get(name)) for name in ("paymentLinkPayment", "payment")),
        ):
            if isinstance(receipt_id := place.get("receiptId"), str):
                return receipt_id
        receipt_id = _dict(_dict(told).get("receipt")).get("id")
        return receipt_id if isinstance(receipt_id, str) else None

    # -- What payments and links refer to ------------------------------------------------------------

    def get_receipt(self, instance_id: UUID, receipt_id: UUID | str) -> dict[str, Any]:
        """A receipt, in whatever shape Wix gives it. Raises WixNotFound as well."""
        told = self._get(
            "get_receipt", instance_id, f"{wire.PATH_RECEIPTS}/{_segment('get_receipt', receipt_id)}"
        )
        return _inner("get_receipt", told, "receipt")

    def get_settings(self, instance_id: UUID) -> dict[str, Any]:
        """The site's settings of payment links, in whatever shape Wix gives them."""
        return _inner(
            "get_settings", self._get("get_settings", instance_id, wire.PATH_SETTINGS), wire.SETTINGS
        )

    def update_settings(self, instance_id: UUID, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Change the site's settings of payment links. Returns them as they are then."""
        body = {wire.SETTINGS: dict(settings)}
        told = self._call(
            "update_settings", instance_id, "PATCH", wire.PATH_SETTINGS, body, is_repeatable=True
        )
        return _inner("update_settings", told, wire.SETTINGS)

    def get_contact(self, instance_id: UUID, contact_id: UUID | str) -> wire.Contact:
        """A contact of the site. Personal. Raises WixNotFound as well."""
        told = self._get(
            "get_contact", instance_id, f"{wire.PATH_CONTACTS}/{_segment('get_contact', contact_id)}"
        )
        return _read("get_contact", told, wire.ContactAnswer).contact

    def query_contacts(
        self, instance_id: UUID, *, page_size: int = 100, pages_max: int
    ) -> Iterator[list[wire.Contact]]:
        """The site's contacts, a page at a time. Personal. Raises TooManyPages when there are more than pages_max."""
        path = f"{wire.PATH_CONTACTS}/query"
        for told in self._offset_pages("query_contacts", instance_id, path, "contacts", page_size, pages_max):
            yield _read("query_contacts", told, wire.ContactsPage).contacts

    def get_product(self, instance_id: UUID, product_id: UUID | str) -> wire.Product:
        """A Wix Stores product. Raises WixNotFound as well."""
        told = self._get(
            "get_product", instance_id, f"{wire.PATH_PRODUCTS}/{_segment('get_product', product_id)}"
        )
        return _read("get_product", told, wire.ProductAnswer).product

    def query_products(
        self, instance_id: UUID, *, page_size: int = 100, pages_max: int
    ) -> Iterator[list[wire.Product]]:
        """The shop's products, a page at a time. Raises TooManyPages when there are more than pages_max."""
        path = f"{wire.PATH_PRODUCTS}/query"
        for told in self._offset_pages("query_products", instance_id, path, "products", page_size, pages_max):
            yield _read("query_products", told, wire.ProductsPage).products

    def get_order(self, instance_id: UUID, order_id: UUID | str) -> wire.Order:
        """An order of Wix eCommerce. Raises WixNotFound as well."""
        told = self._get("get_order", instance_id, f"{wire.PATH_ORDERS}/{_segment('get_order', order_id)}")
        return _read("get_order", told, wire.OrderAnswer).order

    def newest_orders(self, instance_id: UUID, *, count: int = wire.PAGE_MAX) -> list[wire.Order]:
        """The orders that came last, the newest first, paid or not. Personal.

        Nothing narrows them: which filters Wix takes here is not documented where we could read it.
        """
        path = f"{wire.PATH_ORDERS}/search"
        newest = {"sort": [{"fieldName": "createdDate", "order": "DESC"}], "cursorPaging": {"limit": count}}
        told = self._call("newest_orders", instance_id, "POST", path, {"search": newest}, is_repeatable=True)
        return _read("newest_orders", told, wire.OrdersPage).orders

    def order_transactions(self, instance_id: UUID, order_id: UUID | str) -> wire.OrderTransactions:
        """An order's payments and refunds: the only place where refunds show. Raises WixNotFound as well."""
        path = f"{wire.PATH_ORDER_PAYMENTS}/{_segment('order_transactions', order_id)}"
        told = self._get("order_transactions", instance_id, path)
        return _read("order_transactions", told, wire.OrderTransactionsAnswer).order_transactions

    # -- Others --------------------------------------------------------------------------------------

    def check_credentials(self, instance_id: UUID) -> None:
        """Prove by the cheapest query that Wix lets us read this instance's links."""
        body = {"query": {"cursorPaging": {"limit": 1}}}
        path = f"{wire.PATH_LINKS}/query"
        told = self._call("check_credentials", instance_id, "POST", path, body, is_repeatable=True)
        _items("check_credentials", told, "paymentLinks")

    def close(self) -> None:
        """Give connections back, and end the waits of other threads. Calls from now on are WixUnavailable."""
        self._http.close()
        self._credentials.close()

    # -- Inner ---------------------------------------------------------------------------------------

    def _write(self, operation: str, instance_id: UUID, path: str, body: Any, *, is_read: bool = True) -> Any:
        return self._call(
            operation, instance_id, "POST", path, body, is_repeatable=False, is_answer_read=is_read
        )

    def _get(self, operation: str, instance_id: UUID, path: str) -> Any:
        return self._call(operation, instance_id, "GET", path, is_repeatable=True)

    def _change_link(
        self, operation: str, instance_id: UUID, link_id: UUID | str, action: str, body: Any = None
    ) -> wire.PaymentLink | UnreadableItem:
        """A change that leaves the same behind when it is made twice."""
        path = _link_path(operation, link_id, action)
        return _told_link(
            operation, self._call(operation, instance_id, "POST", path, body, is_repeatable=True)
        )

    def _call(
        self,
        operation: str,
        instance_id: UUID,
        method: str,
        path: str,
        body: Any = None,
        *,
        is_repeatable: bool,
        is_answer_read: bool = True,
        is_504_final: bool = False,
        is_gone_done: bool = False,
    ) -> Any:
        """One call within the instance's budget, once more with a new token when Wix refuses the one we have."""

        gate = Gate(self._rate, instance_id, self._http.pause)

        def ask(headers: Mapping[str, str]) -> Any:
            return self._http.call(
                operation,
                method,
                path,
                headers=headers,
                body=body,
                is_repeatable=is_repeatable,
                is_answer_read=is_answer_read,
                is_504_final=is_504_final,
                is_gone_done=is_gone_done,
                gate=gate,
            )

        headers = self._credentials.headers(instance_id)
        try:
            return ask(headers)
        except WixUnauthorized as why:
            if why.status != 401:  # 403 is about permissions: another token changes nothing
                raise
            self._credentials.forget(instance_id, headers)
            renewed = self._credentials.headers(instance_id)
            if renewed == headers:  # an API key has no successor
                raise
        # A 401 was refused before anything was done: even a write may be sent again.
        return ask(renewed)

    def _pages(
        self,
        asked: _Asked,
        filter: Mapping[str, Any],
        sort: Sort,
        page_size: int,
        pages_max: int,
        words: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Any]]:
        """Items, a page at a time.

        A cursor may expire, and a request be refused for it. Read by `createdDate` upwards, the rest is asked
        for anew from the last date seen, and what was seen of that date is left out; otherwise it is
        WixUnavailable, since a page read twice elsewhere could hide one that was not read.
        """
        page_size = max(1, min(page_size, wire.PAGE_MAX))
        room = pages_max * page_size
        start = _start(filter, sort, words)
        query, paging = start, dict[str, Any]()
        place = _Place()
        cursors: set[int] = set()
        while room > 0:
            try:
                told, page_size = self._page(asked, query, paging, page_size)
            except WixRefused as why:
                if not paging or why.status != 400:
                    raise
                if [*sort][:1] != [("createdDate", "ASC")] or not place.may_restart():
                    raise WixUnavailable(
                        f"{asked.operation}: Wix no longer knows the cursor", status=400
                    ) from why
                query, paging = _start(place.rest_of(filter), sort, words), {}
                cursors.clear()
                continue
            items, cursor = _items(asked.operation, told, asked.items_name)
            if hash(cursor) in cursors:
                raise WixUnavailable(f"{asked.operation}: Wix gave the same cursor twice", status=200)
            yield place.pass_by(items)
            if cursor is None:
                return
            # Pages that shrank after a 504 are more of them for as many items.
            room -= page_size
            cursors.add(hash(cursor))
            # Filter and sort live in the cursor and are not sent again (Wix docs, "Sorting and Paging").
            query, paging = {}, {"cursor": cursor}
        raise TooManyPages(f"{asked.operation}: more than {pages_max} pages of {page_size}")

    def _page(
        self, asked: _Asked, query: Mapping[str, Any], paging: Mapping[str, Any], page_size: int
    ) -> tuple[Any, int]:
        """One page and its size: halved each time Wix runs out of time (Wix docs, "Errors": ask for less)."""
        tries = 1
        while True:
            body = {asked.wrapper: {**query, "cursorPaging": {**paging, "limit": page_size}}}
            try:
                told = self._call(
                    asked.operation,
                    asked.instance_id,
                    "POST",
                    asked.path,
                    body,
                    is_repeatable=True,
                    is_504_final=True,
                )
            except WixUnavailable as why:
                if why.status != 504 or tries == TRIES_MAX or not self._http.pause(backoff_seconds(tries)):
                    raise
            else:
                return told, page_size
            tries += 1
            page_size = max(1, page_size // 2)

    def _offset_pages(
        self, operation: str, instance_id: UUID, path: str, items_name: str, page_size: int, pages_max: int
    ) -> Iterator[Any]:
        """Answers of an API that pages by offset, until one holds fewer items than it might."""
        page_size = max(1, min(page_size, wire.PAGE_MAX))
        for number in range(pages_max):
            paging = {"limit": page_size, "offset": number * page_size}
            told = self._call(
                operation, instance_id, "POST", path, {"query": {"paging": paging}}, is_repeatable=True
            )
            yield told
            if len(_items(operation, told, items_name)[0]) < page_size:
                return
        raise TooManyPages(f"{operation}: more than {pages_max} pages of {page_size}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is read page by page. wrapper: `query` or `search`; items_name: where the answer has its items."""

    operation: str
    instance_id: UUID
    path: str
    wrapper: str
    items_name: str


def _start(filter: Mapping[str, Any], sort: Sort, words: Mapping[str, Any] | None) -> dict[str, Any]:
    query: dict[str, Any] = {"filter": dict(filter)}
    if sort:
        query["sort"] = [{"fieldName": name, "order": order} for name, order in sort]
    if words:
        query["search"] = dict(words)
    return query


def _search(expression: str | None, fields: Sequence[str], is_fuzzy: bool) -> dict[str, Any] | None:
    if expression is None:
        return None
    words: dict[str, Any] = {"expression": expression}
    if fields:
        words["fields"] = list(fields)
    if is_fuzzy:
        words["fuzzy"] = True
    return words


@dataclass(slots=True)
class _Place:
    """How far a reading by creation date came. ids: of the items seen with that very date."""

    date: str | None = None
    ids: set[Any] = field(default_factory=set)
    has_moved: bool = False

    def pass_by(self, items: list[Any]) -> list[Any]:
        """The items not seen before a restart; the place moves behind them."""
        fresh: list[Any] = []
        for item in items:
            id_, date = _dict(item).get("id"), _dict(item).get("createdDate")
            if isinstance(date, str) and date == self.date and id_ in self.ids:
                continue
            fresh.append(item)
            # Only Wix's own format, of which one length sorts like time.
            if isinstance(date, str) and isinstance(id_, str) and (self.date is None or date >= self.date):
                if date != self.date:
                    self.date, self.ids = date, set()
                self.ids.add(id_)
        self.has_moved = self.has_moved or bool(fresh)
        return fresh

    def may_restart(self) -> bool:
        """Whether something was read since the last restart, so that another one cannot go on for ever."""
        moved, self.has_moved = self.has_moved and self.date is not None, False
        return moved

    def rest_of(self, filter: Mapping[str, Any]) -> Mapping[str, Any]:
        """The filter for what may not have been read."""
        rest = {"createdDate": {"$gte": self.date}}
        return {"$and": [dict(filter), rest]} if filter else rest


def _told_link(operation: str, told: Any) -> wire.PaymentLink | UnreadableItem:
    entity = told.get("paymentLink") if isinstance(told, dict) else None
    if not isinstance(entity, dict):
        raise WixUnavailable(f"{operation}: Wix's answer holds no payment link", status=200)
    return _link(entity)


def _inner(operation: str, told: Any, name: str) -> dict[str, Any]:
    """The object called `name` in an answer, or the answer itself: the wrapper is not documented."""
    if not isinstance(told, dict):
        raise WixUnavailable(f"{operation}: Wix's answer is no JSON object", status=200)
    inner = told.get(name, told)
    return inner if isinstance(inner, dict) else told


def _segment(operation: str, id_: UUID | str) -> str:
    """An id as part of a path, whatever characters it has. Raises WixNotFound for one that cannot be."""
    segment = quote(str(id_), safe="")
    if segment in ("", ".", ".."):
        raise WixNotFound(f"{operation}: nothing can have this id")
    return segment


def _link_path(operation: str, link_id: UUID | str, action: str | None = None) -> str:
    """The link's path. Raises WixNotFound for an id that is no path segment."""
    path = f"{wire.PATH_LINKS}/{_segment(operation, link_id)}"
    return f"{path}/{action}" if action else path


def _read(operation: str, told: Any, model: type[T]) -> T:
    try:
        return msgspec.convert(told, model)
    except (msgspec.ValidationError, OverflowError) as why:
        # The message names the path and the types, never the value.
        raise WixUnavailable(
            f"{operation}: Wix's answer has another shape than documented: {why}", status=200
        ) from None


def _link(entity: Any) -> wire.PaymentLink | UnreadableItem:
    try:
        return msgspec.convert(entity, wire.PaymentLink)
    except (msgspec.ValidationError, OverflowError) as why:
        id_ = entity.get("id") if isinstance(entity, dict) else None
        return UnreadableItem(id_ if isinstance(id_, str) else None, str(why))


def _items(operation: str, told: Any, name: str) -> tuple[list[Any], str | None]:
    """The items of a page, and the cursor of the next, None on the last. Raises WixUnavailable.

    Only what paging needs must have the documented shape. An answer with neither items nor paging is not
    taken for "nothing there": every payment we know would look deleted.
    """
    strange = WixUnavailable(f"{operation}: Wix's answer has another shape than documented", status=200)
    if not isinstance(told, dict) or not (name in told or "pagingMetadata" in told):
        raise strange
    items = told.get(name)
    paging = told.get("pagingMetadata")
    cursors = paging.get("cursors") if isinstance(paging, dict) else None
    cursor = cursors.get("next") if isinstance(cursors, dict) else None
    if not (
        isinstance(items, list | None)
        and isinstance(paging, dict | None)
        and isinstance(cursors, dict | None)
        and isinstance(cursor, str | None)
    ):
        raise strange
    has_next = paging.get("hasNext") if paging else None
    if has_next is True and not cursor:
        # Stopping here would silently leave the rest out.
        raise WixUnavailable(f"{operation}: Wix says there is more but gave no cursor", status=200)
    return items or [], (cursor or None) if has_next is not False else None


# -- Repeating -------------------------------------------------------------------------------------
#
# A loop of our own rather than stamina's: its waits cannot be ended by close(), and it knows no budget for
# all waits of a call that a Retry-After must fit into.


@dataclass(frozen=True, slots=True)
class Answer:
    """What Wix answered. body: decoded JSON, None when it was not JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any
    is_json: bool

    def is_usable(self, *, is_body_read: bool) -> bool:
        """Whether it is a success (200 and nothing else), and JSON where that is read."""
        return self.status == 200 and (self.is_json or not is_body_read)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No whole answer came, or no usable one.

    why: a few words, without values. was_sent: whether Wix may have received the request. is_passing:
    whether the same request may fare better.
    """

    why: str
    was_sent: bool = True
    is_passing: bool = True


Outcome = Answer | NoAnswer


def is_worth_repeating(outcome: Outcome, *, is_repeatable: bool, is_504_final: bool = False) -> bool:
    """Whether the same request should be sent again.

    is_repeatable: whether a request that Wix may have received is harmless twice.
    """
    if isinstance(outcome, NoAnswer):
        return outcome.is_passing and (is_repeatable or not outcome.was_sent)
    if outcome.status == 504 and is_504_final:  # the caller asks for less instead
        return False
    # A 200 gets here when it was not JSON: cut off, or a proxy's page.
    return is_repeatable and (outcome.status in (200, 429) or outcome.status >= 500)


def backoff_seconds(tries: int) -> float:
    """A random wait after that many tries: full jitter, so that workers refused together part."""
    return random.SystemRandom().uniform(0, BACKOFF_SECONDS * 2 ** (tries - 1))


class Http:
    """HTTP to one base URL, for the client and its credentials. Shared by threads, made anew after a fork."""

    def __init__(
        self,
        *,
        base_url: str,
        timeout_seconds: float,
        on_response: OnResponse,
        wait_seconds_max: float = WAIT_SECONDS_MAX,
    ) -> None:
        self._wait_seconds_max = wait_seconds_max
        self.call_seconds_max = TRIES_MAX * timeout_seconds + wait_seconds_max
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._on_response = on_response
        self._closed = threading.Event()
        self._made: tuple[int, threading.Lock, list[httpx2.Client]] = (-1, threading.Lock(), [])

    def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: Any = None,
        is_repeatable: bool,
        is_answer_read: bool = True,
        is_504_final: bool = False,
        is_gone_done: bool = False,
        gate: Gate | None = None,
    ) -> Any:
        """The JSON of a 200 answer, tried again where that is harmless. Raises WixError, ConfigurationError.

        is_answer_read: False when a 200 is all the caller needs, whatever it holds. is_504_final: do not
        repeat after a 504. is_gone_done: a 404 counts as done once an earlier try may have done it.
        gate: asked before every try; None for calls that no budget counts.
        """
        waited = 0.0
        tries = 1
        is_unsent = True
        while True:
            if gate is not None:
                try:
                    waited += gate.admit(self._wait_seconds_max - waited)
                except WixUnavailable as spent:
                    # What an earlier try has done, this one cannot take back.
                    spent.is_unsent = spent.is_unsent and is_unsent
                    raise
            outcome = self.exchange(operation, method, path, headers=headers, body=body)
            if isinstance(outcome, Answer) and outcome.is_usable(is_body_read=is_answer_read):
                return outcome.body
            if is_gone_done and tries > 1 and isinstance(outcome, Answer) and outcome.status == 404:
                return None
            why = failure(operation, outcome)
            is_unsent = is_unsent and isinstance(why, WixUnavailable) and why.is_unsent
            asked = why.retry_after_seconds if isinstance(why, WixUnavailable) else None
            if gate is not None and asked and why.status == 429:
                gate.hold(asked)
            wait = asked or backoff_seconds(tries)
            if (
                tries == TRIES_MAX
                or not is_worth_repeating(outcome, is_repeatable=is_repeatable, is_504_final=is_504_final)
                or waited + wait > self._wait_seconds_max
                or not self.pause(wait)
            ):
                raise why
            waited += wait
            tries += 1

    def pause(self, seconds: float) -> bool:
        """Wait. False at once when the client was closed, before or meanwhile."""
        return not self._closed.wait(seconds)

    def exchange(
        self, operation: str, method: str, path: str, *, headers: Mapping[str, str], body: Any = None
    ) -> Outcome:
        """One request and its whole answer, within `timeout_seconds` from connecting to the last byte.

        Looking the host's name up is not within: the system's resolver has its own limit.
        """
        client = self._client()
        if client is None:
            return NoAnswer("the client is closed", was_sent=False, is_passing=False)
        status: int | None = None
        try:
            with within(self._timeout_seconds):
                outcome = self._exchange(client, method, path, headers, body)
            status = outcome.status if isinstance(outcome, Answer) else None
            return outcome
        finally:
            self._on_response(operation, status)

    def _exchange(
        self, client: httpx2.Client, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> Outcome:
        try:
            # A URL with a user name in it must not replace the token: no authentication but our header.
            with client.stream(
                method, path, headers=dict(headers), json=body, auth=httpx2.Auth()
            ) as response:
                content = _content(response)
                if isinstance(content, NoAnswer):
                    return content
                status, answer_headers = response.status_code, response.headers
        except (TimeoutError, httpx2.TimeoutException) as why:
            never_sent = isinstance(why, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return NoAnswer(f"nothing whole within {self._timeout_seconds:g} s", was_sent=not never_sent)
        except httpx2.ConnectError as why:
            # The system's words, such as "Connection refused": nothing of ours was sent yet.
            return NoAnswer(f"no connection: {printable(str(why))}", was_sent=False)
        except httpx2.TransportError as why:
            # Only its kind: the library's message may quote a header, and its request holds our token.
            is_ours = isinstance(why, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol)
            return NoAnswer(type(why).__name__, is_passing=not is_ours)
        except RuntimeError:
            if not self._closed.is_set():
                raise
            return NoAnswer("the client was closed", is_passing=False)
        try:
            return Answer(status, answer_headers, wire.decode_json(content), is_json=True)
        except wire.NotJson:
            return Answer(status, answer_headers, None, is_json=False)

    def close(self) -> None:
        """Give the connections back and end waits; every exchange from now on is a NoAnswer."""
        self._closed.set()
        pid, lock, clients = self._made
        if pid == os.getpid():
            with lock:
                for client in clients:
                    client.close()

    def _client(self) -> httpx2.Client | None:
        """This process' client, None when closed. After a fork the parent's is left alone: the parent uses it."""
        if self._made[0] != os.getpid():
            # The lock, too, may have been held by another thread at the moment of the fork. Should two
            # threads come here at once, the client of one is forgotten and its connections end with it.
            self._made = (os.getpid(), threading.Lock(), [])
        _, lock, clients = self._made
        with lock:
            if self._closed.is_set():
                return None
            if not clients:
                clients.append(new_client(self._base_url, self._timeout_seconds))
            return clients[0]


# -- One exchange ----------------------------------------------------------------------------------


def _content(response: httpx2.Response) -> bytes | NoAnswer:
    """The decompressed body, read until it is whole, or too large."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        return NoAnswer("compressed in a way we did not ask for", is_passing=False)
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    content = bytearray()
    for chunk in response.iter_raw():
        # One byte beyond the limit tells that there is more.
        room = ANSWER_BYTES_MAX + 1 - len(content)
        try:
            content += inflate.decompress(chunk, room) if inflate else chunk
        except zlib.error:
            return NoAnswer("cannot be decompressed")
        if len(content) > ANSWER_BYTES_MAX:
            return NoAnswer(f"more than {ANSWER_BYTES_MAX} bytes", is_passing=False)
        # Data that is already here can be read without any wait.
        seconds_left(None)
    if inflate and not inflate.eof and content:
        return NoAnswer("cut off")
    return bytes(content)


# -- Errors ----------------------------------------------------------------------------------------

_KINDS: dict[int, type[WixError]] = {401: WixUnauthorized, 403: WixUnauthorized, 404: WixNotFound}


def failure(operation: str, outcome: Outcome) -> WixError:
    """The error for an outcome the caller cannot use (Wix docs, "Errors"; Wix's SDK accepts only 200)."""
    if isinstance(outcome, NoAnswer):
        return WixUnavailable(
            f"{operation}: no usable answer from Wix: {outcome.why}", is_unsent=not outcome.was_sent
        )
    status = outcome.status
    code, violations = _details(outcome.body)
    request_id = _name(outcome.headers.get("x-wix-request-id"))
    said = f"{operation}: Wix answered {status}"
    if status == 200:
        said += " with something other than JSON"
    if code:
        said += f" {code}"
    if violations:
        # Which field and rule; a description may quote what was sent.
        rules = (f"{_name(one.field)}: {_name(one.violated_rule)}" for one in violations[:3])
        said += f" ({'; '.join(rules)})"
    if request_id:
        said += f" [request {request_id}]"
    if 400 <= status < 500 and status != 429:
        kind = _KINDS.get(status, WixRefused)
        return kind(said, status=status, code=code, violations=violations, request_id=request_id)
    return WixUnavailable(
        said,
        status=status,
        code=code,
        request_id=request_id,
        is_unsent=status == 429,
        retry_after_seconds=retry_after(outcome.headers.get("retry-after"), datetime.now(UTC)),
    )


def _details(body: Any) -> tuple[str | None, tuple[FieldViolation, ...]]:
    """Wix's application error code and field violations, from a body that may be anything."""
    details = _dict(_dict(body).get("details"))
    code = _name(_dict(details.get("applicationError")).get("code"))
    if code is None:
        code = _name(_dict(body).get("error"))  # OAuth's form
    listed = _dict(details.get("validationError")).get("fieldViolations")
    violations = tuple(
        FieldViolation(
            field=_text(one.get("field")),
            description=_text(one.get("description")),
            violated_rule=_text(one.get("violatedRule")),
        )
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict)
    )
    return code, violations


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""
