"""The Wix Payment Links API: links and payments, page by page, with every error sorted by what follows.

Paths, shapes and limits are those of Wix's reference pages (`docs/wix.md`). One client serves all threads
of a process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec

from processor.errors import WixError, WixUnauthorized, WixUnavailable
from processor.wix import wire
from processor.wix.credentials import Credentials
from processor.wix.transport import OnResponse, Transport

T = TypeVar("T")

Order = Literal["ASC", "DESC"]
Sort = Sequence[tuple[str, Order]]


class TooManyPages(WixError):
    """A query has more pages than the caller allowed; ask for less at once."""


@dataclass(frozen=True, slots=True)
class UnreadableItem:
    """An item of another shape than documented. id: None when it has none; detail: where, without values."""

    id: str | None
    detail: str


class WixClient:
    """Calls on behalf of app instances. Every method raises WixUnavailable, WixUnauthorized or WixRefused."""

    def __init__(
        self, *, base_url: str, credentials: Credentials, timeout_seconds: float, on_response: OnResponse
    ) -> None:
        self._credentials = credentials
        self._transport = Transport(
            base_url=base_url, timeout_seconds=timeout_seconds, on_response=on_response
        )

    # -- Links ---------------------------------------------------------------------------------------

    def create_link(self, instance_id: UUID, link: wire.NewPaymentLink) -> wire.PaymentLink:
        """Create a payment link. Never sent twice: Wix has no key by which it would know the second."""
        body = {"paymentLink": msgspec.to_builtins(link)}
        told = self._write("create_link", instance_id, wire.PATH_LINKS, body)
        return _read("create_link", told, wire.PaymentLinkAnswer).payment_link

    def get_link(self, instance_id: UUID, link_id: UUID) -> wire.PaymentLink | UnreadableItem:
        """One link as it is now. Raises WixNotFound as well."""
        told = self._call("get_link", instance_id, "GET", _link_path(link_id), is_repeatable=True)
        entity = told.get("paymentLink") if isinstance(told, dict) else None
        return _link(entity)

    def initiate_payment(self, instance_id: UUID, link_id: UUID) -> wire.InitiatedPayment:
        """Make a checkout for the link, to which a buyer can be led. It is not a payment."""
        told = self._write("initiate_payment", instance_id, _link_path(link_id, "initiate-payment"), None)
        return _read("initiate_payment", told, wire.InitiatedPayment)

    def send_link(self, instance_id: UUID, link_id: UUID, recipients: Sequence[wire.Recipient]) -> None:
        """Let Wix send the link to these contacts."""
        body = {"paymentLinkId": str(link_id), "recipients": msgspec.to_builtins(list(recipients))}
        self._write("send_link", instance_id, _link_path(link_id, "send"), body)

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
        for items in self._pages(
            "query_links", instance_id, wire.PATH_LINKS, "paymentLinks", filter, sort, page_size, pages_max
        ):
            yield [_link(item) for item in items]

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

        Raises TooManyPages when there are more than pages_max.
        """
        return self._pages(
            "query_payments",
            instance_id,
            wire.PATH_PAYMENTS,
            "paymentLinkPayments",
            filter,
            sort,
            page_size,
            pages_max,
        )

    # -- Others --------------------------------------------------------------------------------------

    def check_credentials(self, instance_id: UUID) -> None:
        """Prove by the cheapest query that Wix lets us read this instance's links."""
        body = {"query": {"cursorPaging": {"limit": 1}}}
        self._call(
            "check_credentials",
            instance_id,
            "POST",
            f"{wire.PATH_LINKS}/query",
            body,
            is_repeatable=True,
        )

    def close(self) -> None:
        """Give connections back."""
        self._transport.close()
        self._credentials.close()

    # -- Inner ---------------------------------------------------------------------------------------

    def _write(self, operation: str, instance_id: UUID, path: str, body: Any) -> Any:
        return self._call(operation, instance_id, "POST", path, body, is_repeatable=False)

    def _call(
        self,
        operation: str,
        instance_id: UUID,
        method: str,
        path: str,
        body: Any = None,
        *,
        is_repeatable: bool,
    ) -> Any:
        """One call, once more with a new token when Wix refuses the one we have."""
        headers = self._credentials.headers(instance_id)
        try:
            return self._transport.call(
                operation, method, path, headers=headers, body=body, is_repeatable=is_repeatable
            )
        except WixUnauthorized as why:
            # 403 is about permissions: another token changes nothing.
            if why.status != 401 or not self._credentials.forget(instance_id, headers):
                raise
        headers = self._credentials.headers(instance_id)
        return self._transport.call(
            operation, method, path, headers=headers, body=body, is_repeatable=is_repeatable
        )

    def _pages(
        self,
        operation: str,
        instance_id: UUID,
        path: str,
        items_name: str,
        filter: Mapping[str, Any],
        sort: Sort,
        page_size: int,
        pages_max: int,
    ) -> Iterator[list[Any]]:
        query: dict[str, Any] = {"filter": dict(filter)}
        if sort:
            query["sort"] = [{"fieldName": name, "order": order} for name, order in sort]
        paging: dict[str, Any] = {}
        cursors: set[str] = set()
        for _ in range(pages_max):
            told, page_size = self._page(operation, instance_id, f"{path}/query", query, paging, page_size)
            items, cursor = _items(operation, told, items_name)
            yield items
            if cursor is None:
                return
            if cursor in cursors:
                raise WixUnavailable(f"{operation}: Wix gave the same cursor twice")
            cursors.add(cursor)
            # Filter and sort live in the cursor and are not sent again (Wix docs, "Sorting and Paging").
            query, paging = {}, {"cursor": cursor}
        raise TooManyPages(f"{operation}: more than {pages_max} pages of {page_size}")

    def _page(
        self,
        operation: str,
        instance_id: UUID,
        path: str,
        query: Mapping[str, Any],
        paging: Mapping[str, Any],
        page_size: int,
    ) -> tuple[Any, int]:
        """One page, smaller when Wix runs out of time (Wix docs, "Errors": for a 504 ask for less)."""
        while True:
            body = {"query": {**query, "cursorPaging": {**paging, "limit": page_size}}}
            try:
                return self._call(operation, instance_id, "POST", path, body, is_repeatable=True), page_size
            except WixUnavailable as why:
                if why.status != 504 or page_size == 1:
                    raise
                page_size //= 2


def _link_path(link_id: UUID, action: str | None = None) -> str:
    path = f"{wire.PATH_LINKS}/{quote(str(link_id), safe='')}"
    return f"{path}/{action}" if action else path


def _read(operation: str, told: Any, model: type[T]) -> T:
    try:
        return msgspec.convert(told, model)
    except msgspec.ValidationError as why:
        # The message names the path and the types, never the value.
        raise WixUnavailable(f"{operation}: Wix's answer has another shape than documented: {why}") from None


def _link(entity: Any) -> wire.PaymentLink | UnreadableItem:
    try:
        return msgspec.convert(entity, wire.PaymentLink)
    except (msgspec.ValidationError, OverflowError) as why:
        id_ = entity.get("id") if isinstance(entity, dict) else None
        return UnreadableItem(id_ if isinstance(id_, str) else None, str(why))


def _items(operation: str, told: Any, name: str) -> tuple[list[Any], str | None]:
    """The items of a page, and the cursor of the next, None on the last."""
    if not isinstance(told, dict) or not isinstance(told.get(name, []), list):
        raise WixUnavailable(f"{operation}: Wix's answer has another shape than documented")
    paging = _read(operation, told.get("pagingMetadata") or {}, wire.PagingMetadata)
    cursor = paging.cursors.next if paging.cursors else None
    if paging.has_next is False:
        return told.get(name, []), None
    if paging.has_next and not cursor:
        # Stopping here would silently leave the rest out.
        raise WixUnavailable(f"{operation}: Wix says there is more but gave no cursor")
    return told.get(name, []), cursor or None
