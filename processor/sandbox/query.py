"""Wix's query and search language, exactly as far as it is documented for payment links: anything else is refused.

Wix does not say what it does with a filter on another field. Refusing keeps a client from relying on it.
A query becomes SELECTs that an index answers, and a cursor holds the last item's place, so the
ten-thousandth page costs what the first does.
Sources: "API Query and Search Language", "Sorting and Paging", and the two "Filtering and Sorting" pages.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from processor.sandbox.documents import Documents, index_name, microseconds, value_at
from processor.sandbox.errors import Violation, invalid

PAGE_MAX = 100
PAGE_DEFAULT = 50  # inferred: the default of Wix's sister APIs
SORTS_MAX = 5  # of Query, and of Search: inferred from Wix's sister APIs
SEARCH_SORTS_MAX = 10
CURSOR_MAX = 32_000
FILTER_MAX = 20_000  # as JSON: what a cursor can hold beside sort, search and place
IN_MAX = 100
NESTED_MAX = 10
CONDITIONS_MAX = 200
EXPRESSION_MAX = 100
AGGREGATIONS_MAX = 10
BUCKETS_MAX = 250
_NEVER_NULL = ("created", "id")
_WHOLE_MAX = 2**63 - 1

_ALWAYS = frozenset(("$eq", "$ne", "$exists", "$in", "$hasSome"))
_ORDERED = frozenset(("$lt", "$lte", "$gt", "$gte"))
_SELECTIVE = frozenset(("$eq", "$in", "$hasSome", "$startsWith"))
_SQL_OF = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}

Entity = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A documented field: the column that holds it, what its values are, and the operators it takes."""

    column: str
    type: Literal["date", "number", "text"]
    operators: frozenset[str] = _ALWAYS
    is_guid: bool = False  # then it is lower case, and a prefix is a range of the index


LINK_FIELDS: dict[str, Field] = {
    "createdDate": Field("created", "date", _ALWAYS | _ORDERED),
    "totalReceived.paymentCount": Field("payment_count", "number", _ALWAYS | _ORDERED),
    "paymentsLimit": Field("payments_limit", "number", _ALWAYS | _ORDERED),
    "status": Field("status", "text"),
    "source": Field("source", "text"),  # the id of the app that made the link
}
PAYMENT_FIELDS: dict[str, Field] = {
    "createdDate": Field("created", "date", _ALWAYS | _ORDERED),
    "transactionDate": Field("transacted", "date", _ALWAYS | _ORDERED),
    "paymentLinkId": Field("link", "text", _ALWAYS | {"$startsWith"}, is_guid=True),
    "type": Field("type", "text"),
    "regularPaymentLinkPayment.method": Field("method", "text"),
    "regularPaymentLinkPayment.paymentMethod": Field("payment_method", "text", _ALWAYS | {"$startsWith"}),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """What is queried. searched: fields in which Search looks for words; Wix does not list them."""

    kind: Literal["link", "payment"]
    fields: dict[str, Field]
    searched: tuple[str, ...]


LINKS = Resource("link", LINK_FIELDS, ("title", "description", "note.text"))
_BUYER = "regularPaymentLinkPayment.contactDetails"
PAYMENTS = Resource(
    "payment",
    PAYMENT_FIELDS,
    (f"{_BUYER}.fullName", f"{_BUYER}.email", f"{_BUYER}.company", f"{_BUYER}.phone"),
)


@dataclass(frozen=True, slots=True)
class View:
    """Whose entities a query sees, and how. as_of: in microseconds, None for now; hidden: ids left out.

    The rest is what Wix leaves open: see Rules.
    """

    instance_id: str
    as_of: int | None = None
    hidden: Collection[str] = ()
    page_default: int = PAGE_DEFAULT
    in_max: int = IN_MAX
    other_filters_ignored: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an answer. next, prev: cursors, None where there is no such page."""

    items: list[Entity]
    next: str | None
    prev: str | None
    aggregations: list[dict[str, Any]] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """`pagingMetadata`."""
        cursors = {
            name: value for name, value in (("next", self.next), ("prev", self.prev)) if value is not None
        }
        return {"count": len(self.items), "cursors": cursors, "hasNext": self.next is not None}


class _Search(msgspec.Struct, frozen=True):
    expression: Annotated[str, msgspec.Meta(max_length=EXPRESSION_MAX)] = ""
    fields: Annotated[list[str], msgspec.Meta(max_length=20)] = []
    mode: Literal["AND", "OR"] = "OR"
    fuzzy: bool = False


class _Held(msgspec.Struct):
    """What a cursor holds. A client may have made it up, so it is checked like any input.

    place: of the item at the edge, its values in the columns of `_order`. back: the page lies before it.
    """

    filter: dict[str, Any]
    sort: Annotated[list[tuple[str, bool]], msgspec.Meta(max_length=SEARCH_SORTS_MAX)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]
    place: Annotated[list[str | int | None], msgspec.Meta(max_length=SEARCH_SORTS_MAX + 2)]
    back: bool = False
    search: _Search | None = None


@dataclass(slots=True)
class _Sql:
    """A condition and its values."""

    text: str
    values: list[Any] = field(default_factory=list)


def define_functions(documents: Documents) -> None:
    """Teach the state what Search needs."""
    documents.define("matches", 3, _matches)


def has_cursor(body: Any) -> bool:
    """Whether the request asks for a further page."""
    asked = body.get("query", body.get("search")) if isinstance(body, dict) else None
    return value_at(asked, "cursorPaging.cursor") is not None


def run_query(body: Any, documents: Documents, resource: Resource, view: View) -> Page:
    """The page that a Query request asks for. Raises Refused (400)."""
    if not isinstance(body, dict) or not isinstance(body.get("query"), dict):
        raise invalid(Violation("query", "is required and must be an object", "REQUIRED_FIELD"))
    query = body["query"]
    if unknown := set(query) - {"filter", "sort", "cursorPaging"}:
        raise invalid(Violation(f"query.{min(unknown)}", "is not supported"))
    return _page(_read(query, "query", resource, view, None), documents, resource, view)


def plan(body: Any, documents: Documents, resource: Resource, view: View) -> list[str]:
    """How SQLite answers a Query request, step by step."""
    held = _read(body["query"], "query", resource, view, None)
    return [
        step for one in _selections(held, resource, view) for step in documents.plan(one.text, one.values)
    ]


def run_search(body: Any, documents: Documents, resource: Resource, view: View) -> Page:
    """The page that a Search request asks for, with its aggregations. Raises Refused (400)."""
    if not isinstance(body, dict) or not isinstance(body.get("search"), dict):
        raise invalid(Violation("search", "is required and must be an object", "REQUIRED_FIELD"))
    asked = body["search"]
    if unknown := set(asked) - {"filter", "sort", "cursorPaging", "search", "aggregations", "timeZone"}:
        raise invalid(Violation(f"search.{min(unknown)}", "is not supported"))
    if asked.get("timeZone") not in (None, "UTC"):
        raise invalid(Violation("search.timeZone", "must be UTC: the sandbox knows no other", "ENUM"))
    held = _read(asked, "search", resource, view, _searched(asked.get("search"), resource))
    page = _page(held, documents, resource, view)
    aggregations = [
        _aggregated(one, f"search.aggregations[{number}]", held, documents, resource, view)
        for number, one in enumerate(_listed(asked.get("aggregations"), "search.aggregations"))
    ]
    return Page(page.items, page.next, page.prev, aggregations if "aggregations" in asked else None)


# -- Reading a request -----------------------------------------------------------------------------


def _read(asked: dict[str, Any], name: str, resource: Resource, view: View, search: _Search | None) -> _Held:
    paging = asked.get("cursorPaging")
    if paging is None:
        paging = {}
    if not isinstance(paging, dict):
        raise invalid(Violation(f"{name}.cursorPaging", "must be an object"))
    if unknown := set(paging) - {"limit", "cursor"}:
        raise invalid(Violation(f"{name}.cursorPaging.{min(unknown)}", "is not supported"))
    limit = paging.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise invalid(Violation(f"{name}.cursorPaging.limit", "must be a positive integer", "MIN"))
    if limit is not None and limit > PAGE_MAX:
        raise invalid(Violation(f"{name}.cursorPaging.limit", f"must be at most {PAGE_MAX}", "MAX"))
    if (cursor := paging.get("cursor")) is not None:
        further = asked.get("filter") in (None, {}) and asked.get("sort") in (None, [])
        if not further or asked.get("search") is not None:
            raise invalid(
                Violation(f"{name}.cursorPaging.cursor", "cannot be combined with filter, sort or search")
            )
        held = _opened(cursor, f"{name}.cursorPaging.cursor", resource)
        held.limit = limit or held.limit
        return held
    filter_ = asked.get("filter")
    if filter_ is None:
        filter_ = {}
    if not isinstance(filter_, dict):
        raise invalid(Violation(f"{name}.filter", "must be an object"))
    sorts_max = SEARCH_SORTS_MAX if name == "search" else SORTS_MAX
    sort = _sorted(asked.get("sort"), f"{name}.sort", resource, sorts_max)
    held = _Held(filter_, sort, limit or view.page_default, [], search=search)
    _Filter(resource, f"{name}.filter", view).conjunction(filter_)  # so that a mistake names its place
    if len(json.dumps(filter_)) > FILTER_MAX:
        raise invalid(Violation(f"{name}.filter", f"has more than {FILTER_MAX} characters", "MAX_LENGTH"))
    return held


def _sorted(given: Any, where: str, resource: Resource, most: int) -> list[tuple[str, bool]]:
    if given is None or given == []:
        return [("createdDate", True)]  # the default of most Wix APIs
    if not isinstance(given, list) or len(given) > most:
        raise invalid(Violation(where, f"must be a list of at most {most}", "MAX_SIZE"))
    found: list[tuple[str, bool]] = []
    for number, one in enumerate(given):
        name = one.get("fieldName") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in resource.fields:
            raise invalid(Violation(f"{where}[{number}].fieldName", "is not a sortable field"))
        if one.get("order", "ASC") not in ("ASC", "DESC"):
            raise invalid(Violation(f"{where}[{number}].order", "must be ASC or DESC", "ENUM"))
        found.append((name, one.get("order") == "DESC"))
    return found


def _searched(given: Any, resource: Resource) -> _Search | None:
    if given is None:
        return None
    try:
        search = msgspec.convert(given, _Search)
    except msgspec.ValidationError as why:
        raise invalid(Violation("search.search", str(why), "FORMAT")) from None
    for name in search.fields:
        if name not in resource.searched:
            known = ", ".join(resource.searched)
            raise invalid(Violation("search.search.fields", f"must be among {known}", "ENUM"))
    return search if search.expression.strip() else None


def _listed(given: Any, where: str) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > AGGREGATIONS_MAX:
        raise invalid(Violation(where, f"must be a list of at most {AGGREGATIONS_MAX}", "MAX_SIZE"))
    return given


def _cursor(held: _Held, place: list[Any], *, back: bool) -> str:
    content = _Held(held.filter, held.sort, held.limit, place, back, held.search)
    return base64.urlsafe_b64encode(msgspec.json.encode(content)).decode()


def _opened(cursor: Any, where: str, resource: Resource) -> _Held:
    try:
        if not isinstance(cursor, str) or len(cursor) > CURSOR_MAX:
            raise ValueError("not text, or too long")
        held = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode("ascii")), type=_Held)
        if any(name not in resource.fields for name, _ in held.sort):
            raise ValueError("a cursor of another query")
        types = {one.column: one.type for one in resource.fields.values()}
        order = _order(held, resource)
        if len(held.place) != len(order) or not isinstance(held.place[-1], str):
            raise ValueError("a cursor without a place")
        for (column, _), value in zip(order[:-1], held.place, strict=False):
            if value is not None and isinstance(value, str) is not (types[column] == "text"):
                raise ValueError("a place of another kind")
            if isinstance(value, int) and abs(value) > _WHOLE_MAX:
                raise ValueError("a place beyond reckoning")
    except (ValueError, RecursionError):
        raise invalid(Violation(where, "is not a cursor of ours", "FORMAT")) from None
    return held


# -- One page --------------------------------------------------------------------------------------


def _source(held: _Held, resource: Resource, view: View) -> _Sql:
    """What is selected from: the current versions, or those of the moment the view is of."""
    if view.as_of is None:
        asked = held.filter.get("paymentLinkId") if resource is PAYMENTS else None
        if isinstance(asked, str) or (isinstance(asked, dict) and _SELECTIVE & set(asked)):
            # SQLite would rather walk all payments in the order wanted, hoping to meet those of the links soon.
            return _Sql(f"payment INDEXED BY {index_name('payment', 'instance, link, created, id')}")
        return _Sql(resource.kind)
    columns = ", ".join(dict.fromkeys(one.column for one in resource.fields.values()))
    return _Sql(
        f"(SELECT id, entity, instance, {columns} FROM {resource.kind} WHERE instance = ? AND changed <= ?"
        f" UNION ALL SELECT id, entity, instance, {columns} FROM {resource.kind}_past"
        " WHERE instance = ? AND until > ? AND changed <= ?)",
        [view.instance_id, view.as_of, view.instance_id, view.as_of, view.as_of],
    )


def _conditions(held: _Held, resource: Resource, view: View, lead: str | None) -> _Sql:
    """What the rows must be. lead: the column they are ordered by first, None for no order."""
    found = _Sql("instance = ?", [view.instance_id])
    if view.hidden:
        found.text += f" AND id NOT IN ({', '.join('?' * len(view.hidden))})"
        found.values += view.hidden
    if held.filter:
        condition = _Filter(resource, "query.filter", view, lead).conjunction(held.filter)
        found.text += f" AND {condition.text}"
        found.values += condition.values
    if held.search is not None:
        fields = held.search.fields or list(resource.searched)
        how = {"fields": fields, "mode": held.search.mode, "fuzzy": held.search.fuzzy}
        found.text += " AND matches(entity, ?, ?)"
        found.values += [held.search.expression, json.dumps(how)]
    return found


def _page(held: _Held, documents: Documents, resource: Resource, view: View) -> Page:
    rows: list[tuple[Any, ...]] = []
    with documents.transaction():
        for one in _selections(held, resource, view):
            rows += documents.rows(one.text, one.values)
            if len(rows) > held.limit:
                break
    has_more = len(rows) > held.limit
    rows = rows[: held.limit]
    if held.back:
        rows.reverse()
    has_next, has_prev = (True, has_more) if held.back else (has_more, bool(held.place))
    return Page(
        items=[json.loads(row[0]) for row in rows],
        next=_cursor(held, list(rows[-1][1:]), back=False) if rows and has_next else None,
        prev=_cursor(held, list(rows[0][1:]), back=True) if rows and has_prev else None,
    )


def _order(held: _Held, resource: Resource) -> list[tuple[str, bool]]:
    """The columns a page is ordered by, and whether descending.

    Ties are broken by the date of creation and the id, in the direction of the last sort: pages never
    overlap, and every index of one field ends in these two.
    """
    order = [(resource.fields[name].column, is_descending != held.back) for name, is_descending in held.sort]
    last = order[-1][1] if order else held.back
    return order + [(column, last) for column in ("created", "id") if column not in dict(order)]


def _selections(held: _Held, resource: Resource, view: View) -> list[_Sql]:
    """SELECTs whose rows, one after the other, are the page and one row more."""
    order = _order(held, resource)
    source, where = _source(held, resource, view), _conditions(held, resource, view, order[0][0])
    columns = ", ".join(column for column, _ in order)
    by = ", ".join(f"{column} {'DESC' if is_descending else 'ASC'}" for column, is_descending in order)
    return [
        _Sql(
            f"SELECT entity, {columns} FROM {source.text} WHERE {where.text} AND {after.text}"
            f" ORDER BY {by} LIMIT ?",
            [*source.values, *where.values, *after.values, held.limit + 1],
        )
        for after in (_ranges(order, held.place) if held.place else [_Sql("TRUE")])
    ]


def _ranges(order: list[tuple[str, bool]], place: list[Any]) -> list[_Sql]:
    """What lies behind `place`, nearest first: each a range of an index, which one condition would not be.

    NULL is the smallest, as in SQLite.
    """
    found: list[_Sql] = []
    for number in reversed(range(len(order))):
        (column, is_descending), value = order[number], place[number]
        if value is None:
            beyond = [] if is_descending else [_Sql(f"{column} IS NOT NULL")]
        elif is_descending:
            beyond = [_Sql(f"{column} < ?", [value])]
            if column not in _NEVER_NULL:
                beyond.append(_Sql(f"{column} IS NULL"))
        else:
            beyond = [_Sql(f"{column} > ?", [value])]
        equal = [f"{name} IS ?" for name, _ in order[:number]]
        found += [_Sql(" AND ".join([*equal, one.text]), [*place[:number], *one.values]) for one in beyond]
    return found


# -- Filters ---------------------------------------------------------------------------------------


class _Filter:
    """Turns a filter into a condition. Raises Refused (400) where it is not as documented.

    lead: the column that the rows are ordered by first. A range of another column is not looked up by its
    index: SQLite would put all of it in order, which may be everything there is.
    """

    def __init__(self, resource: Resource, where: str, view: View, lead: str | None = None) -> None:
        self._lead = lead
        self._fields = resource.fields
        self._view = view
        self._where = where
        self._count = 0

    def conjunction(self, given: Any, where: str | None = None, depth: int = 0) -> _Sql:
        """Every member must hold."""
        where = where or self._where
        if not isinstance(given, dict):
            raise invalid(Violation(where, "must be an object"))
        if depth > NESTED_MAX:
            raise invalid(Violation(where, "is nested too deeply"))
        return _joined(
            [self._one(name, value, f"{where}.{name}", depth) for name, value in given.items()], "AND"
        )

    def _one(self, name: str, value: Any, where: str, depth: int) -> _Sql:
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise invalid(Violation(where, "must be a list of filters"))
            return _joined([self.conjunction(part, where, depth + 1) for part in value], name[1:].upper())
        if name == "$not":
            inner = self.conjunction(value, where, depth + 1)
            return _Sql(f"NOT {inner.text}", inner.values)
        known = self._fields.get(name)
        if known is None and self._view.other_filters_ignored and not name.startswith("$"):
            return _Sql("TRUE")
        if known is None:
            raise invalid(Violation(where, "is not a filterable field"))
        if not isinstance(value, dict):
            value = {"$eq": value}
        conditions = []
        for operator, operand in value.items():
            self._count += 1
            if self._count > CONDITIONS_MAX:
                raise invalid(
                    Violation(self._where, f"has more than {CONDITIONS_MAX} conditions", "MAX_SIZE")
                )
            if operator not in known.operators:
                raise invalid(Violation(f"{where}.{operator}", "is not supported for this field"))
            conditions.append(
                _ranged(known, operator, operand, f"{where}.{operator}", self._lead)
                if operator in _ORDERED
                else _operation(known, operator, operand, f"{where}.{operator}", self._view.in_max)
            )
        return _joined(conditions, "AND")


def _joined(conditions: list[_Sql], word: str) -> _Sql:
    if not conditions:
        return _Sql("TRUE")
    text = f" {word} ".join(condition.text for condition in conditions)
    return _Sql(f"({text})", [value for condition in conditions for value in condition.values])


def _operation(known: Field, operator: str, operand: Any, where: str, in_max: int) -> _Sql:
    """A condition that is true or false, never NULL, so that `$not` means what it says.

    `+` keeps the index for the comparison: SQLite would use it for IS NOT NULL.
    """
    column = known.column
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise invalid(Violation(where, "must be true or false"))
        return _Sql(f"{column} IS {'NOT ' if operand else ''}NULL")
    if operator in ("$in", "$hasSome"):
        if not isinstance(operand, list) or len(operand) > in_max:
            raise invalid(Violation(where, f"must be a list of at most {in_max}", "MAX_SIZE"))
        wanted = [_comparable(known, one, where) for one in operand]
        values = [one for one in wanted if one is not None]
        choices = [_Sql(f"(+{column} IS NOT NULL AND {column} IN ({', '.join('?' * len(values))}))", values)]
        if len(values) < len(wanted):
            choices.append(_Sql(f"{column} IS NULL"))
        return _joined(choices, "OR")
    bound = _comparable(known, operand, where)
    if operator == "$eq":
        return _Sql(f"{column} IS ?", [bound])
    if operator == "$ne":
        return _Sql(f"{column} IS NOT ?", [bound])
    assert operator == "$startsWith", operator
    if bound is None:
        raise invalid(Violation(where, "must not be null"))
    if known.is_guid:
        low = str(bound).lower()
        return _Sql(f"(+{column} IS NOT NULL AND {column} >= ? AND {column} < ?)", [low, f"{low}\U0010ffff"])
    pattern = str(bound).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    # LIKE ignores case, as Wix's $startsWith does.
    return _Sql(f"(+{column} IS NOT NULL AND {column} LIKE ? ESCAPE '\\')", [pattern])


def _ranged(known: Field, operator: str, operand: Any, where: str, lead: str | None) -> _Sql:
    """A condition of before, after, less or more, never NULL either."""
    bound = _comparable(known, operand, where)
    if bound is None:
        raise invalid(Violation(where, "must not be null"))
    column = known.column if lead in (None, known.column) else f"+{known.column}"
    return _Sql(f"(+{known.column} IS NOT NULL AND {column} {_SQL_OF[operator]} ?)", [bound])


def _comparable(known: Field, value: Any, where: str) -> str | int | None:
    """`value` of a filter as it can be compared with the column. Raises Refused."""
    if value is None:
        return None
    match known.type:
        case "number":
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _WHOLE_MAX:
                raise invalid(Violation(where, "must be a whole number", "FORMAT"))
            return value
        case "date":
            moment = _date(value)
            if moment is None:
                raise invalid(Violation(where, "must be an ISO 8601 date with a time zone", "FORMAT"))
            return moment
        case _:
            if not isinstance(value, str):
                raise invalid(Violation(where, "must be text", "FORMAT"))
            return value


def _date(value: Any) -> int | None:
    try:
        moment = datetime.fromisoformat(value)
        return microseconds(moment) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


# -- Search ----------------------------------------------------------------------------------------


def _matches(entity: str, expression: str, how: str) -> bool:
    """Whether the words of `expression` are found in the fields of an entity, whatever their case."""
    asked = _how(how)
    held = msgspec.json.decode(entity)
    text = " ".join(str(value_at(held, name) or "") for name in asked["fields"]).casefold()
    found = (
        word in text or (asked["fuzzy"] and any(_is_alike(word, other) for other in text.split()))
        for word in expression.casefold().split()
    )
    return all(found) if asked["mode"] == "AND" else any(found)


@lru_cache(maxsize=16)
def _how(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def _is_alike(word: str, other: str) -> bool:
    """Whether one letter more, less or different makes one word the other; short words must be equal."""
    if min(len(word), len(other)) < 4 or abs(len(word) - len(other)) > 1:
        return word == other
    if len(word) > len(other):
        word, other = other, word
    start = next((n for n, letter in enumerate(word) if other[n] != letter), len(word))
    return word[start + (len(word) == len(other)) :] == other[start + 1 :]


# -- Aggregations ----------------------------------------------------------------------------------

INTERVALS = {"YEAR": "%Y", "MONTH": "%Y-%m", "DAY": "%Y-%m-%d", "HOUR": "%Y-%m-%dT%H"}
SCALARS = {"COUNT_DISTINCT": "count(DISTINCT {})", "MIN": "min({})", "MAX": "max({})"}


def _aggregated(
    given: Any, where: str, held: _Held, documents: Documents, resource: Resource, view: View
) -> dict[str, Any]:
    """One aggregation over everything the search finds, in the shape of Wix's sister APIs."""
    if not isinstance(given, dict):
        raise invalid(Violation(where, "must be an object"))
    name, path, type_ = (given.get(one) for one in ("name", "fieldPath", "type"))
    if not isinstance(name, str) or not 1 <= len(name) <= 100:
        raise invalid(Violation(f"{where}.name", "must be text of 1 to 100 characters"))
    known = resource.fields.get(path) if isinstance(path, str) else None
    if known is None:
        raise invalid(Violation(f"{where}.fieldPath", "is not a filterable field"))
    source, condition = _source(held, resource, view), _conditions(held, resource, view, None)
    rest = f"FROM {source.text} WHERE {condition.text} AND {known.column} IS NOT NULL"
    values = [*source.values, *condition.values]
    found: dict[str, Any] = {"name": name, "type": type_, "fieldPath": path}
    match type_:
        case "VALUE":
            options = _options(given, "value", where)
            sort_type = options.get("sortType", "COUNT")
            if sort_type not in ("COUNT", "VALUE"):
                raise invalid(Violation(f"{where}.value.sortType", "must be COUNT or VALUE", "ENUM"))
            by = "2 DESC, 1" if sort_type == "COUNT" else "1"
            rows = documents.rows(
                f"SELECT {known.column}, count(*) {rest} GROUP BY 1 ORDER BY {by} LIMIT ?",
                [*values, _limit(options, f"{where}.value")],
            )
            found["values"] = {"results": [{"value": _shown(known, row[0]), "count": row[1]} for row in rows]}
        case "SCALAR":
            kind = _options(given, "scalar", where).get("type")
            if not isinstance(kind, str) or kind not in SCALARS:
                raise invalid(
                    Violation(f"{where}.scalar.type", f"must be one of {', '.join(SCALARS)}", "ENUM")
                )
            [(value,)] = documents.rows(f"SELECT {SCALARS[kind].format(known.column)} {rest}", values)
            found["scalar"] = {
                "type": kind,
                "value": value if kind == "COUNT_DISTINCT" else _shown(known, value),
            }
        case "DATE_HISTOGRAM":
            interval = _options(given, "dateHistogram", where).get("interval")
            if known.type != "date" or not isinstance(interval, str) or interval not in INTERVALS:
                raise invalid(Violation(where, f"needs a date and one of {', '.join(INTERVALS)}", "ENUM"))
            # strftime reads whole seconds; the column is in microseconds.
            bucket = f"strftime('{INTERVALS[interval]}', {known.column} / 1000000, 'unixepoch')"
            rows = documents.rows(
                f"SELECT {bucket}, count(*) {rest} GROUP BY 1 ORDER BY 1 LIMIT {BUCKETS_MAX}", values
            )
            found["dateHistogram"] = {"results": [{"value": row[0], "count": row[1]} for row in rows]}
        case "RANGE":
            if known.type != "number":
                raise invalid(Violation(f"{where}.fieldPath", "must be a number"))
            results = []
            buckets = _options(given, "range", where).get("buckets")
            for number, one in enumerate(_listed(buckets, f"{where}.range.buckets")):
                place = f"{where}.range.buckets[{number}]"
                if not isinstance(one, dict) or set(one) - {"from", "to"}:
                    raise invalid(Violation(place, "has from and to"))
                low, high = (_comparable(known, one.get(name), place) for name in ("from", "to"))
                [(count,)] = documents.rows(
                    f"SELECT count(*) {rest} AND {known.column} >= coalesce(?, {known.column})"
                    f" AND (? IS NULL OR {known.column} < ?)",
                    [*values, low, high, high],
                )
                results.append({**one, "count": count})
            found["ranges"] = {"results": results}
        case _:
            raise invalid(
                Violation(f"{where}.type", "must be VALUE, SCALAR, RANGE or DATE_HISTOGRAM", "ENUM")
            )
    return found


def _options(given: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    options = given.get(name)
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise invalid(Violation(f"{where}.{name}", "must be an object"))
    return options


def _limit(options: dict[str, Any], where: str) -> int:
    limit = options.get("limit", BUCKETS_MAX)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= BUCKETS_MAX:
        raise invalid(Violation(f"{where}.limit", f"must be from 1 to {BUCKETS_MAX}"))
    return limit


def _shown(known: Field, value: Any) -> Any:
    if known.type != "date" or value is None:
        return value
    moment = datetime.fromtimestamp(value // 1_000_000, tz=UTC).replace(microsecond=value % 1_000_000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
