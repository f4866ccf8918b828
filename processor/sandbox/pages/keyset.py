"""Pages of a table by the place of their last row: the ten-thousandth costs what the first does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import request, url_for

from processor.sandbox.documents import Document, Documents
from processor.sandbox.query import Page

# Names in an address that outlive a turn of the page. No others: some mean something to whoever builds it.
FILTERS = ("instance", "type", "status", "link", "entity")


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of rows. newer, older: the addresses of its neighbours, None where there is none."""

    items: list[Any]
    newer: str | None = None
    older: str | None = None


def page_of(documents: Documents, kind: str, equal: Mapping[str, Any], *, limit: int) -> Rows:
    """The documents that the address asks for, newest first, by `before` or `after` with an id."""
    back = documents.number_of(kind, request.args.get("after", ""))
    place = back if back is not None else documents.number_of(kind, request.args.get("before", ""))
    if back is not None:
        found = documents.find(kind, equal, limit=limit + 1, after=back)
    else:
        found = documents.find(kind, equal, newest_first=True, limit=limit + 1, before=place)
    has_more = len(found) > limit
    found = found[:limit]
    if back is not None:
        found.reverse()
    has_newer, has_older = (has_more, True) if back is not None else (place is not None, has_more)
    return Rows(
        found,
        newer=_address(after=_id(found[0])) if has_newer and found else None,
        older=_address(before=_id(found[-1])) if has_older and found else None,
    )


def rows_of(page: Page, items: list[Any]) -> Rows:
    """A page of a query, its rows as `items` has them."""
    return Rows(
        items,
        newer=_address(cursor=page.prev) if page.prev else None,
        older=_address(cursor=page.next) if page.next else None,
    )


def _id(document: Document) -> str:
    return str(document.get("id") or document["instanceId"])


def _address(**place: str | None) -> str:
    """This page's address at another place; a filter stays as it is."""
    kept = {name: request.args[name] for name in FILTERS if name in request.args}
    endpoint = str(request.endpoint).removesuffix("_do")
    return url_for(endpoint, **{**kept, **(request.view_args or {}), **place})
