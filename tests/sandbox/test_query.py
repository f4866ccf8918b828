"""Queries of the pretend Wix, against a plain reading of the documented language, and by which index they run."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.sandbox import query
from processor.sandbox.core import timestamp
from processor.sandbox.documents import Documents, microseconds, value_at
from processor.sandbox.errors import Refused
from tests.sandbox.wixlike import LINKS, Site, a_site

START = datetime(2026, 1, 1, tzinfo=UTC)
US = "us"
VIEW = query.View(US)
Entity = dict[str, Any]


def payment(number: int, **fields: Any) -> Entity:
    made = START + timedelta(milliseconds=fields.pop("at", number))
    return {
        "id": f"{number:08x}",
        "createdDate": timestamp(made),
        "transactionDate": timestamp(made) if fields.pop("is_transacted", True) else None,
        "amount": "1.00",
        "currency": "USD",
        "paymentLinkId": fields.pop("link", "l1"),
        "type": fields.pop("type", "REGULAR"),
        "regularPaymentLinkPayment": fields,
    }


def keep(documents: Documents, entity: Entity, instance_id: str = US, at: datetime = START) -> None:
    held = {"id": entity["id"], "instanceId": instance_id, "linkId": entity["paymentLinkId"], "sequence": 0}
    documents.put_version("payment", held, entity, at)


@pytest.fixture
def documents() -> Iterator[Documents]:
    held = Documents(None)
    query.define_functions(held)
    yield held
    held.close()


PAYMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 3),
            "link": st.sampled_from(("l1", "l2", "m1")),
            "type": st.sampled_from(("REGULAR", "GIFT_CARD")),
            "is_transacted": st.booleans(),
            "method": st.sampled_from((None, "CREDIT_CARD", "OFFLINE")),
        }
    ),
    max_size=12,
)
DATES = st.integers(0, 3).map(lambda number: timestamp(START + timedelta(milliseconds=number)))
LINK_IDS = st.sampled_from(("l1", "l2", "none"))
METHODS = st.sampled_from((None, "CREDIT_CARD", "OTHER"))
CONDITIONS = st.one_of(
    *(
        st.tuples(st.sampled_from(names), st.sampled_from(operators), values).map(
            lambda one: {one[0]: {one[1]: one[2]}}
        )
        for names, operators, values in (
            (("createdDate", "transactionDate"), ("$lt", "$lte", "$gt", "$gte", "$eq", "$ne"), DATES),
            (
                ("createdDate", "transactionDate"),
                ("$in", "$hasSome"),
                st.lists(DATES | st.none(), max_size=3),
            ),
            (("paymentLinkId",), ("$eq", "$ne", "$startsWith"), LINK_IDS | st.just("L")),
            (("paymentLinkId",), ("$in",), st.lists(LINK_IDS, max_size=3)),
            (("regularPaymentLinkPayment.method",), ("$eq", "$ne"), METHODS),
            (("regularPaymentLinkPayment.method",), ("$in",), st.lists(METHODS, max_size=3)),
            (("transactionDate", "type", "regularPaymentLinkPayment.method"), ("$exists",), st.booleans()),
        )
    )
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts})
        | inner.map(lambda part: {"$not": part})
    ),
    max_leaves=4,
)
SORTS = st.lists(
    st.tuples(
        st.sampled_from(
            ("createdDate", "transactionDate", "paymentLinkId", "regularPaymentLinkPayment.method")
        ),
        st.sampled_from(("ASC", "DESC")),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[0],
)


def means(filter_: Entity, entity: Entity) -> bool:
    """The documented language, read plainly."""

    def one(name: str, wanted: Any) -> bool:
        if name == "$and":
            return all(means(part, entity) for part in wanted)
        if name == "$or":
            return any(means(part, entity) for part in wanted)
        if name == "$not":
            return not means(wanted, entity)
        value = value_at(entity, name)
        [(operator, bound)] = wanted.items()
        match operator:
            case "$eq":
                return bool(value == bound)
            case "$ne":
                return bool(value != bound)
            case "$in" | "$hasSome":
                return value in bound
            case "$exists":
                return (value is not None) is bound
            case "$startsWith":
                return str(value or "").lower().startswith(bound.lower())
        if value is None:
            return False
        return bool(
            {"$lt": value < bound, "$lte": value <= bound, "$gt": value > bound, "$gte": value >= bound}[
                operator
            ]
        )

    return all(one(name, wanted) for name, wanted in filter_.items())


def in_order(entities: list[Entity], sort: list[tuple[str, str]]) -> list[str]:
    """Ids in the documented order; ties by date of creation and id, in the last direction."""
    found = sorted(entities, key=lambda entity: str(entity["id"]), reverse=sort[-1][1] == "DESC")
    for name, order in reversed([*sort, ("createdDate", sort[-1][1])]):
        found.sort(
            key=lambda entity: (value_at(entity, name) is not None, value_at(entity, name) or ""),
            reverse=order == "DESC",
        )
    return [entity["id"] for entity in found]


@pytest.mark.fact("Q7", "Q13", "Q14", "Q15", "Q17", "Q20", "R23")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(given_=PAYMENTS, filter_=FILTERS, sort=SORTS, limit=st.integers(1, 4))
def test_pages_forth_and_back_hold_what_the_language_says_in_its_order(
    documents: Documents, given_: list[Entity], filter_: Entity, sort: list[tuple[str, str]], limit: int
) -> None:
    documents.rows("DELETE FROM payment")
    entities = [payment(number, **one) for number, one in enumerate(given_)]
    for entity in entities:
        keep(documents, entity)
    keep(documents, payment(99), "another instance")
    wanted = in_order([entity for entity in entities if means(filter_, entity)], sort)

    asked: Any = {
        "filter": filter_,
        "sort": [{"fieldName": name, "order": order} for name, order in sort],
        "cursorPaging": {"limit": limit},
    }
    pages: list[query.Page] = []
    while True:
        page = query.run_query({"query": asked}, documents, query.PAYMENTS, VIEW)
        pages.append(page)
        if page.next is None:
            break
        asked = {"cursorPaging": {"cursor": page.next}}
    back = page
    backwards = [back]
    while back.prev is not None:
        back = query.run_query(
            {"query": {"cursorPaging": {"cursor": back.prev}}}, documents, query.PAYMENTS, VIEW
        )
        backwards.append(back)

    assert [entity["id"] for page in pages for entity in page.items] == wanted
    assert [entity["id"] for page in reversed(backwards) for entity in page.items] == wanted


@pytest.mark.fact("Q22")
def test_a_lagging_view_shows_each_entity_as_it_was(documents: Documents) -> None:
    first, later = payment(1), payment(2)
    keep(documents, first, at=START)
    held = documents.get("payment", first["id"])
    assert held is not None
    for revision in range(2, 5):
        documents.put_version(
            "payment", held, {**first, "revision": str(revision)}, START + timedelta(seconds=revision)
        )
    keep(documents, later, at=START + timedelta(seconds=10))

    def seen(seconds: float) -> list[tuple[str, str | None]]:
        view = query.View(US, microseconds(START + timedelta(seconds=seconds)))
        page = query.run_query({"query": {}}, documents, query.PAYMENTS, view)
        return [(entity["id"], entity.get("revision")) for entity in page.items]

    assert seen(-1) == []
    assert seen(0) == [(first["id"], None)]
    assert seen(3.5) == [(first["id"], "3")]
    assert seen(10) == [(later["id"], None), (first["id"], "4")]


CREATED = "created_id_transacted_link_type_method_payment_method"
TRANSACTED = "transacted_created_id_link_type_method_payment_method"
METHOD = "regularPaymentLinkPayment.method"


@pytest.mark.parametrize(
    ("asked", "columns"),
    [
        ({}, CREATED),
        ({"sort": [{"fieldName": "createdDate"}]}, CREATED),
        ({"sort": [{"fieldName": "createdDate", "order": "DESC"}]}, CREATED),
        ({"filter": {"createdDate": {"$gte": timestamp(START)}}}, CREATED),
        ({"filter": {"type": {"$ne": "OTHER"}}}, CREATED),
        ({"filter": {"transactionDate": {"$gte": timestamp(START)}}}, CREATED),
        ({"filter": {"$or": [{"paymentLinkId": "a"}, {"paymentLinkId": "b"}]}}, CREATED),
        ({"filter": {"paymentLinkId": {"$in": ["a", "b"]}}}, "link_created_id"),
        ({"filter": {"paymentLinkId": "a"}}, "link_created_id"),
        ({"sort": [{"fieldName": "transactionDate"}]}, TRANSACTED),
        ({"sort": [{"fieldName": "transactionDate", "order": "DESC"}]}, TRANSACTED),
        (
            {
                "filter": {"createdDate": {"$gte": timestamp(START)}},
                "sort": [{"fieldName": "transactionDate"}],
            },
            TRANSACTED,
        ),
        ({"sort": [{"fieldName": "type", "order": "DESC"}]}, "type_created_id"),
        ({"sort": [{"fieldName": METHOD, "order": "DESC"}]}, "method_created_id"),
        ({"sort": [{"fieldName": METHOD}]}, "method_created_id"),
        ({"filter": {"type": "GIFT_CARD"}}, "type_created_id"),
    ],
)
def test_a_query_and_its_next_page_run_by_an_index(documents: Documents, asked: Entity, columns: str) -> None:
    for number in range(5):
        keep(documents, payment(number, link="a", type="GIFT_CARD" if number % 2 else "REGULAR"))
    first = {**asked, "cursorPaging": {"limit": 1}}
    page = query.run_query({"query": first}, documents, query.PAYMENTS, VIEW)
    assert page.next
    following = {"cursorPaging": {"cursor": page.next}}

    plans = [query.plan({"query": one}, documents, query.PAYMENTS, VIEW) for one in (first, following)]

    # What is asked for by link alone is little enough to be put in order.
    is_sorted = "paymentLinkId" in asked.get("filter", {})
    for step in [step for plan in plans for step in plan]:
        if not (is_sorted and step.startswith("USE TEMP B-TREE FOR")):
            assert step.startswith(f"SEARCH payment USING INDEX payment_by_instance_{columns} "), plans


@pytest.mark.parametrize("order", ["ASC", "DESC"])
@pytest.mark.parametrize("name", ["createdDate", "transactionDate", "type", METHOD])
def test_a_deep_page_reads_no_more_than_the_first(documents: Documents, name: str, order: str) -> None:
    """Counted in SQLite's own steps: a thousand payments lie before the page."""
    for number in range(1_010):
        keep(documents, payment(number, method="CREDIT_CARD"))
    asked: Any = {"sort": [{"fieldName": name, "order": order}], "cursorPaging": {"limit": 5}}

    def steps() -> tuple[int, query.Page]:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1

        documents._connection.set_progress_handler(count, 10)
        page = query.run_query({"query": asked}, documents, query.PAYMENTS, VIEW)
        documents._connection.set_progress_handler(None, 0)
        return taken, page

    first, page = steps()
    for _ in range(10):
        asked = {"cursorPaging": {"cursor": page.next, "limit": 100}}
        _, page = steps()
    asked = {"cursorPaging": {"cursor": page.prev, "limit": 5}}
    back, _ = steps()
    asked = {"cursorPaging": {"cursor": page.next, "limit": 5}}
    deep, page = steps()

    assert len(page.items) == 5
    assert deep < first + 30
    assert back < first + 30


def test_a_filter_that_no_cursor_could_hold_is_refused_at_the_first_page(documents: Documents) -> None:
    ids = [f"{number:036}" for number in range(1_000)]
    view = query.View(US, in_max=1_000)

    with pytest.raises(Refused) as refused:
        query.run_query(
            {"query": {"filter": {"paymentLinkId": {"$in": ids}}}}, documents, query.PAYMENTS, view
        )

    [violation] = refused.value.body["details"]["validationError"]["fieldViolations"]
    assert violation["field"] == "query.filter"
    for number in range(2):
        keep(documents, payment(number, link=ids[0]))
    asked = {"filter": {"paymentLinkId": {"$in": ids[:450]}}, "cursorPaging": {"limit": 1}}
    page = query.run_query({"query": asked}, documents, query.PAYMENTS, view)
    following = {"query": {"cursorPaging": {"cursor": page.next}}}
    assert len(query.run_query(following, documents, query.PAYMENTS, view).items) == 1


def test_indexes_of_an_earlier_version_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.sqlite"
    Documents(file).close()
    with closing(sqlite3.connect(file)) as held:
        held.execute("CREATE INDEX payment_by_instance_transacted_id ON payment (instance, transacted, id)")

    Documents(file).close()

    with closing(sqlite3.connect(file)) as held:
        found = {name for (name,) in held.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert "payment_by_instance_transacted_id" not in found
    assert "payment_by_link" in found


@pytest.mark.parametrize(
    "place",
    [
        [],
        ["x", "id"],
        [1],
        [1, 2],
        [1, None],
        [True, "id"],
        [10**30, "id"],
        [[], "id"],
    ],
)
def test_a_cursor_somebody_made_up_is_refused(documents: Documents, place: list[Any]) -> None:
    made_up = {"filter": {}, "sort": [["createdDate", False]], "limit": 5, "place": place}
    cursor = base64.urlsafe_b64encode(json.dumps(made_up).encode()).decode()

    with pytest.raises(Refused) as refused:
        query.run_query({"query": {"cursorPaging": {"cursor": cursor}}}, documents, query.PAYMENTS, VIEW)

    assert refused.value.status == 400


# -- Search ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site(calls_per_minute=100_000) as running:
        for title, description in (
            ("Stoneware mug", "blue"),
            ("Linen apron", "goes with the mug"),
            ("Tea", ""),
        ):
            running.link(title=title, description=description)
        yield running


@pytest.mark.fact("R14", "Q2", "Q10")
@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({"expression": "MUG"}, {"Stoneware mug", "Linen apron"}),
        ({"expression": "mug", "fields": ["title"]}, {"Stoneware mug"}),
        ({"expression": "mug linen", "mode": "AND"}, {"Linen apron"}),
        ({"expression": "tea linen"}, {"Tea", "Linen apron"}),
        ({"expression": "stonware"}, set()),
        ({"expression": "stonware", "fuzzy": True}, {"Stoneware mug"}),
        ({"expression": "te", "fuzzy": True}, {"Tea"}),
        ({"expression": ""}, {"Stoneware mug", "Linen apron", "Tea"}),
    ],
)
def test_words_are_searched_for(site: Site, search: Entity, found: set[str]) -> None:
    answer = site.post(f"{LINKS}/search", {"search": {"search": search, "filter": {"status": "ACTIVE"}}})

    assert {link["title"] for link in answer["paymentLinks"]} == found


@pytest.mark.fact("Q3", "Q5")
def test_a_search_goes_on_from_its_cursor(site: Site) -> None:
    asked: Any = {"search": {"expression": "mug"}, "cursorPaging": {"limit": 1}}

    first = site.post(f"{LINKS}/search", {"search": asked})
    cursor = first["pagingMetadata"]["cursors"]["next"]
    second = site.post(f"{LINKS}/search", {"search": {"cursorPaging": {"cursor": cursor}}})

    titles = {page["paymentLinks"][0]["title"] for page in (first, second)}
    assert titles == {"Linen apron", "Stoneware mug"}
    assert not second["pagingMetadata"]["hasNext"]


@pytest.mark.fact("Q11")
def test_a_search_counts_what_it_finds(site: Site) -> None:
    link = site.link("1.00", title="Counted", paymentsLimit=1)
    site.pay(link["id"])
    aggregations = [
        {"name": "by status", "type": "VALUE", "fieldPath": "status"},
        {"name": "how many", "type": "SCALAR", "fieldPath": "status", "scalar": {"type": "COUNT_DISTINCT"}},
        {
            "name": "days",
            "type": "DATE_HISTOGRAM",
            "fieldPath": "createdDate",
            "dateHistogram": {"interval": "DAY"},
        },
        {
            "name": "paid",
            "type": "RANGE",
            "fieldPath": "totalReceived.paymentCount",
            "range": {"buckets": [{"to": 1}, {"from": 1}]},
        },
    ]

    answer = site.post(f"{LINKS}/search", {"search": {"aggregations": aggregations}})

    by_name = {one["name"]: one for one in answer["aggregationData"]["results"]}
    assert by_name["by status"]["values"]["results"] == [
        {"value": "ACTIVE", "count": 3},
        {"value": "PAID", "count": 1},
    ]
    assert by_name["how many"]["scalar"] == {"type": "COUNT_DISTINCT", "value": 2}
    assert [one["count"] for one in by_name["days"]["dateHistogram"]["results"]] == [4]
    assert [one["count"] for one in by_name["paid"]["ranges"]["results"]] == [3, 1]


@pytest.mark.fact("Q2", "Q11")
@pytest.mark.parametrize(
    ("search", "place"),
    [
        ({"search": {"expression": "x", "fields": ["secret"]}}, "search.search.fields"),
        ({"search": {"expression": "x" * 101}}, "search.search"),
        ({"search": {"mode": "MAYBE"}}, "search.search"),
        ({"timeZone": "Mars"}, "search.timeZone"),
        ({"aggregations": [{"name": "a", "type": "VALUE", "fieldPath": "title"}]}, "fieldPath"),
        ({"aggregations": [{"name": "a", "type": "NESTED", "fieldPath": "status"}]}, "type"),
        ({"aggregations": [{"name": "a", "type": "SCALAR", "fieldPath": "status"}]}, "scalar.type"),
        ({"aggregations": {}}, "search.aggregations"),
        ({"paging": {}}, "search.paging"),
    ],
)
def test_a_search_beyond_the_documentation_is_refused(site: Site, search: Entity, place: str) -> None:
    answer = site.call("POST", f"{LINKS}/search", {"search": search})

    assert answer.status_code == 400
    assert place in answer.json()["details"]["validationError"]["fieldViolations"][0]["field"]
