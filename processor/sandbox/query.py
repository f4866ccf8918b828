"""Wix's query language, exactly as far as it is documented for payment links: anything else is refused.

Wix does not say what it does with a filter on another field. Refusing keeps a client from relying on it.
Sources: "API Query and Search Language", "Sorting and Paging", and the two "Filtering and Sorting" pages.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from processor.sandbox.errors import Violation, invalid

PAGE_MAX = 100
PAGE_DEFAULT = 50  # inferred: the default of Wix's sister APIs
SORTS_MAX = 5
CURSOR_MAX = 16_000
IN_MAX = 100

_ALWAYS = frozenset(("$eq", "$ne", "$exists", "$in", "$hasSome"))
_ORDERED = frozenset(("$lt", "$lte", "$gt", "$gte"))

LINK_FIELDS: dict[str, frozenset[str]] = {
    "createdDate": _ALWAYS | _ORDERED,
    "totalReceived.paymentCount": _ALWAYS | _ORDERED,
    "paymentsLimit": _ALWAYS | _ORDERED,
    "status": _ALWAYS,
    "source": _ALWAYS,
}
PAYMENT_FIELDS: dict[str, frozenset[str]] = {
    "createdDate": _ALWAYS | _ORDERED,
    "transactionDate": _ALWAYS | _ORDERED,
    "paymentLinkId": _ALWAYS | {"$startsWith"},
    "type": _ALWAYS,
    "regularPaymentLinkPayment.method": _ALWAYS,
    "regularPaymentLinkPayment.paymentMethod": _ALWAYS | {"$startsWith"},
}
_DATES = frozenset(("createdDate", "transactionDate"))

Entity = dict[str, Any]
Test = Callable[[Entity], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an answer. next, prev: cursors, None where there is no such page."""

    items: list[Entity]
    next: str | None
    prev: str | None

    @property
    def metadata(self) -> dict[str, Any]:
        """`pagingMetadata`."""
        cursors = {
            name: value for name, value in (("next", self.next), ("prev", self.prev)) if value is not None
        }
        return {"count": len(self.items), "cursors": cursors, "hasNext": self.next is not None}


class _Held(msgspec.Struct):
    """What a cursor holds. A client may have made it up, so it is checked like any input."""

    filter: dict[str, Any]
    sort: list[tuple[str, bool]]
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class _Query:
    filter: dict[str, Any]
    sort: list[tuple[str, bool]]
    limit: int
    offset: int


def run(body: Any, entities: Sequence[Entity], fields: dict[str, frozenset[str]]) -> Page:
    """The page of `entities` that the request `body` asks for. Raises Refused (400)."""
    query = _parse(body, fields)
    test = _conjunction(query.filter, fields, "query.filter", depth=0)
    found = [entity for entity in entities if test(entity)]
    # Ties are broken by id, so that pages never overlap.
    found.sort(key=lambda entity: str(entity["id"]))
    for name, is_descending in reversed(query.sort):
        found.sort(key=lambda entity: _sort_key(name, entity), reverse=is_descending)
    end = query.offset + query.limit
    return Page(
        items=found[query.offset : end],
        next=_cursor(query, end) if end < len(found) else None,
        prev=_cursor(query, max(0, query.offset - query.limit)) if query.offset else None,
    )


def _parse(body: Any, fields: dict[str, frozenset[str]]) -> _Query:
    if not isinstance(body, dict) or not isinstance(body.get("query"), dict):
        raise invalid(Violation("query", "is required and must be an object", "REQUIRED_FIELD"))
    query = body["query"]
    if unknown := set(query) - {"filter", "sort", "cursorPaging"}:
        raise invalid(Violation(f"query.{min(unknown)}", "is not supported"))
    paging = query.get("cursorPaging")
    if paging is None:
        paging = {}
    if not isinstance(paging, dict):
        raise invalid(Violation("query.cursorPaging", "must be an object"))
    limit = paging.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise invalid(Violation("query.cursorPaging.limit", "must be a positive integer", "MIN"))
    if limit is not None and limit > PAGE_MAX:
        raise invalid(Violation("query.cursorPaging.limit", f"must be at most {PAGE_MAX}", "MAX"))
    if (cursor := paging.get("cursor")) is not None:
        if query.get("filter") or query.get("sort"):
            raise invalid(Violation("query.cursorPaging.cursor", "cannot be combined with filter or sort"))
        return _opened(cursor, limit, fields)
    filter_ = query.get("filter")
    if filter_ is None:
        filter_ = {}
    if not isinstance(filter_, dict):
        raise invalid(Violation("query.filter", "must be an object"))
    return _Query(filter_, _sort(query.get("sort"), fields), limit or PAGE_DEFAULT, 0)


def _sort(given: Any, fields: dict[str, frozenset[str]]) -> list[tuple[str, bool]]:
    if given is None or given == []:
        return [("createdDate", True)]  # the default of most Wix APIs
    if not isinstance(given, list) or len(given) > SORTS_MAX:
        raise invalid(Violation("query.sort", f"must be a list of at most {SORTS_MAX}", "MAX_SIZE"))
    found = []
    for number, one in enumerate(given):
        where = f"query.sort[{number}]"
        name = one.get("fieldName") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in fields:
            raise invalid(Violation(f"{where}.fieldName", "is not a sortable field"))
        if one.get("order", "ASC") not in ("ASC", "DESC"):
            raise invalid(Violation(f"{where}.order", "must be ASC or DESC", "ENUM"))
        found.append((name, one.get("order") == "DESC"))
    return found


def _cursor(query: _Query, offset: int) -> str:
    held = _Held(query.filter, query.sort, query.limit, offset)
    return base64.urlsafe_b64encode(msgspec.json.encode(held)).decode()


def _opened(cursor: Any, limit: int | None, fields: dict[str, frozenset[str]]) -> _Query:
    try:
        if not isinstance(cursor, str) or len(cursor) > CURSOR_MAX:
            raise ValueError("not text, or too long")
        held = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode("ascii")), type=_Held)
        if any(name not in fields for name, _ in held.sort):
            raise ValueError("a cursor of another query")
        return _Query(held.filter, held.sort, limit or held.limit, held.offset)
    except (ValueError, RecursionError):
        raise invalid(Violation("query.cursorPaging.cursor", "is not a cursor of ours", "FORMAT")) from None


# -- Filters ---------------------------------------------------------------------------------------


def _conjunction(given: Any, fields: dict[str, frozenset[str]], where: str, depth: int) -> Test:
    if not isinstance(given, dict):
        raise invalid(Violation(where, "must be an object"))
    if depth > 10:
        raise invalid(Violation(where, "is nested too deeply"))
    tests = [_one(name, value, fields, f"{where}.{name}", depth) for name, value in given.items()]
    return lambda entity: all(test(entity) for test in tests)


def _one(name: str, value: Any, fields: dict[str, frozenset[str]], where: str, depth: int) -> Test:
    if name in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise invalid(Violation(where, "must be a list of filters"))
        tests = [_conjunction(part, fields, where, depth + 1) for part in value]
        if name == "$and":
            return lambda entity: all(test(entity) for test in tests)
        return lambda entity: any(test(entity) for test in tests)
    if name == "$not":
        inner = _conjunction(value, fields, where, depth + 1)
        return lambda entity: not inner(entity)
    if name not in fields:
        raise invalid(Violation(where, "is not a filterable field"))
    if not isinstance(value, dict):
        value = {"$eq": value}
    tests = []
    for operator, operand in value.items():
        if operator not in fields[name]:
            raise invalid(Violation(f"{where}.{operator}", "is not supported for this field"))
        tests.append(_operation(name, operator, operand, f"{where}.{operator}"))
    return lambda entity: all(test(entity) for test in tests)


def _operation(name: str, operator: str, operand: Any, where: str) -> Test:
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise invalid(Violation(where, "must be true or false"))
        return lambda entity: (value_at(entity, name) is not None) is operand
    if operator in ("$in", "$hasSome"):
        if not isinstance(operand, list) or len(operand) > IN_MAX:
            raise invalid(Violation(where, f"must be a list of at most {IN_MAX}", "MAX_SIZE"))
        wanted = [_comparable(name, one, where) for one in operand]
        return lambda entity: _held(name, entity) in wanted
    bound = _comparable(name, operand, where)
    match operator:
        case "$eq":
            return lambda entity: _held(name, entity) == bound
        case "$ne":
            return lambda entity: _held(name, entity) != bound
        case "$startsWith":
            if not isinstance(bound, str):
                raise invalid(Violation(where, "must be text"))
            return lambda entity: str(_held(name, entity) or "").lower().startswith(bound.lower())
        case _:
            return _ordering(name, operator, bound, where)


def _ordering(name: str, operator: str, bound: Any, where: str) -> Test:
    if not isinstance(bound, datetime | int):
        raise invalid(Violation(where, "must be a date" if name in _DATES else "must be a number"))

    def test(entity: Entity) -> bool:
        value = _held(name, entity)
        if value is None:
            return False
        match operator:
            case "$lt":
                return bool(value < bound)
            case "$lte":
                return bool(value <= bound)
            case "$gt":
                return bool(value > bound)
            case _:
                return bool(value >= bound)

    return test


def _comparable(name: str, value: Any, where: str) -> Any:
    """`value` of a filter as it can be compared with the field. Raises Refused."""
    if value is None or name not in _DATES:
        if isinstance(value, dict | list):
            raise invalid(Violation(where, "must be a plain value"))
        return value
    moment = _date(value)
    if moment is None:
        raise invalid(Violation(where, "must be an ISO 8601 date with a time zone", "FORMAT"))
    return moment


def _held(name: str, entity: Entity) -> Any:
    value = value_at(entity, name)
    if isinstance(value, dict):  # `source` holds the id of the app that made the link
        value = value.get("appId")
    return _date(value) if name in _DATES else value


def _date(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _sort_key(name: str, entity: Entity) -> tuple[bool, Any]:
    value = _held(name, entity)
    return (value is not None, value if value is not None else 0)


def value_at(entity: Entity, path: str) -> Any:
    """The value at a dotted path, None when any part is missing."""
    value: Any = entity
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
