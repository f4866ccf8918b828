"""Every list of payments is answered from an index, with as many rows read as are bounded, as query plans show."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, text

from processor.domain.access import EVERYWHERE, Reach
from processor.store.database import Database, open_database
from processor.store.screens import payments
from processor.store.screens.keyset import PAGE, Position
from processor.store.screens.payments import (
    ANY,
    LOOKED_MAX,
    NONE,
    SORTED_MAX,
    UNCHECKED,
    Filter,
    Line,
    Order,
    Page,
)
from processor.store.screens.refunded import RefundState, net_of
from tests.conftest import Owner, a_database

ROWS = 50_000
BIG, SMALL, TINY = (UUID(int=number) for number in (1, 2, 3))
POPULAR, RARE = UUID(int=101), UUID(int=102)  # links of 20,000 payments and of few
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
REFUNDED = [state for state in RefundState if state is not RefundState.NONE]
FILL = """
    INSERT INTO app_instances (instance_id, installed_at) SELECT v, now() FROM unnest(CAST(:instances AS uuid[])) v;
"""
# In the order of their creation, but for one in nine, which a backfill booked later.
PAYMENTS = """
    INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, type, created_at,
        method, receipt_id, ecom_order_id, first_origin, origin, event_id, stored_at, changed_at, last_verdict,
        last_told_at, match_state, recovery)
    SELECT CASE WHEN n % 1000 = 7 THEN CAST(:tiny AS uuid) WHEN n % 10 = 3 THEN CAST(:small AS uuid)
            ELSE CAST(:big AS uuid) END,
        md5('payment' || n)::uuid, 1,
        CASE WHEN n % 5 < 2 THEN CAST(:popular AS uuid) WHEN n % 10000 = 4 THEN CAST(:rare AS uuid)
            ELSE md5('link' || n / 50)::uuid END,
        n % 5000 + 0.5, CASE WHEN n = 77 THEN 'JPY' WHEN n % 3 = 0 THEN 'USD' ELSE 'EUR' END, 'REGULAR',
        CASE WHEN n % 5000 <> 9 THEN timestamptz '2026-01-01Z' + n * interval '1 minute' END,
        'CREDIT_CARD', md5('receipt' || n)::uuid, 'order ' || n, 'webhook', 'webhook', gen_random_uuid(), now(), now(),
        'new', now(), CASE WHEN n > :rows - 20 THEN NULL WHEN n % 4000 = 11 THEN 'discrepant' ELSE 'matched' END,
        CASE WHEN n % 700 = 5 THEN 'webhook_missed' WHEN n = 6 THEN 'webhook_late' END
    FROM generate_series(1, :rows) n ORDER BY n % 9 = 8, n
"""
LINKS = """
    INSERT INTO payment_links (instance_id, payment_link_id, title, created_at, seen_at)
    SELECT CAST(:big AS uuid), md5('link' || n)::uuid, 'Link number ' || n,
        timestamptz '2026-01-01Z' + n * interval '1 h', now()
    FROM generate_series(0, 2000) n
"""

# Of payments that divide by 40: wholly by 3 of them, in two refunds, one of which was reversed; unclear by 5.
REFUNDS = """
    INSERT INTO refunds (instance_id, refund_id, payment_id, amount, currency, status, reason, occurred_at, event_id,
        told_at)
    SELECT p.instance_id, md5(s.status || p.payment_id)::uuid, p.payment_id,
        CASE WHEN n % 200 = 0 AND s.status = 'SUCCEEDED' THEN NULL WHEN n % 120 = 0 THEN p.amount ELSE 0.25 END,
        p.currency, s.status, CASE WHEN n % 200 = 0 AND s.status = 'SUCCEEDED' THEN 'amount_too_fine' END,
        p.stored_at, gen_random_uuid(), now()
    FROM generate_series(40, :rows, 40) n
    JOIN payments p ON p.payment_id = md5('payment' || n)::uuid
    CROSS JOIN (VALUES ('SUCCEEDED'), ('REVERSED')) s (status)
    WHERE n % 7 <> 0 OR s.status <> 'SUCCEEDED'
"""


@pytest.fixture(scope="module")
def database(_owner: Owner, _template: str) -> Iterator[Database]:
    with a_database(_owner.get().database_url, _owner.new_database(), template=_template) as url:
        from processor.config import database_url

        opened = open_database(
            database_url(url), name="test", pool_size=2, pool_seconds=10, statement_seconds=60
        )
        with opened.begin() as connection:
            given = {"instances": [BIG, SMALL, TINY], "big": BIG, "small": SMALL, "tiny": TINY, "rows": ROWS}
            given |= {"popular": POPULAR, "rare": RARE}
            for sql in (FILL.rstrip().rstrip(";"), PAYMENTS, LINKS, REFUNDS):
                connection.execute(text(sql), {name: given[name] for name in given if f":{name}" in sql})
        with opened.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        yield opened
        opened.dispose()


Asked = list[tuple[str, Any]]


@contextmanager
def noted(connection: Connection) -> Iterator[Asked]:
    """Every statement that is sent meanwhile, with its parameters."""
    asked: Asked = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        asked.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(connection, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def costs(connection: Connection, asked: Asked) -> tuple[list[str], int]:
    """Whole tables of payments and links that these statements read, and how many rows they read of any table."""
    whole, rows = [], 0
    for statement, parameters in asked:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        [[plan]] = cursor.fetchall()
        for node in nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
            if "Relation Name" not in node:
                continue
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in (
                "payments",
                "payment_links",
                "refunds",
            ):
                whole.append(statement)
            left_out = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows += int((node["Actual Rows"] + left_out) * node["Actual Loops"])
    return whole, rows


NARROW: dict[str, Any] = {
    "currency": "JPY",
    "state": "discrepant",
    "amount_from": Decimal(4_999),
    "refunded": "wholly",
}
NARROWED: list[dict[str, Any]] = [{}, *({name: value} for name, value in NARROW.items())]
PLACES: list[dict[str, Any]] = [
    {},
    {"instance_id": BIG},
    {"instance_id": TINY},
    {"payment_link_id": POPULAR},
    {"payment_link_id": RARE},
    {"payment_link_id": UUID(int=9)},
    {"recovery": ANY},
    {"recovery": "webhook_late"},
    {"recovery": NONE},
    {"is_undated": True},
    {"instance_id": TINY, "payment_link_id": POPULAR},
    {"instance_id": TINY, "recovery": ANY},
]
TIMES: list[dict[str, Any]] = [
    {},
    {"since": BEGAN + timedelta(days=10), "until": BEGAN + timedelta(days=11)},
    {"since": BEGAN + timedelta(days=3)},
]
REACHES = [EVERYWHERE, Reach(frozenset({TINY})), Reach(frozenset({SMALL, TINY}))]
TEXTS = [
    *("no such thing", "order 400", "Link number 7", "Link number", str(RARE), str(UUID(int=5))),
    *("0d1f2e", "ffffff", "00000000-0000-0000-0000-000000000065"),
]


def filters() -> Iterator[Filter]:
    for place, times in itertools.product(PLACES, TIMES):
        for more in NARROWED:
            yield Filter(**place, **times, **more)
    for text_ in TEXTS:
        for place in PLACES:
            yield Filter(**place, text=text_)
    yield Filter(state=UNCHECKED)
    for state in (ANY, *RefundState):
        yield Filter(refunded=state)
    yield Filter(**{**NARROW, "since": BEGAN, "until": BEGAN + timedelta(days=30)})


def test_no_list_reads_payments_as_a_whole_or_more_of_them_than_is_bounded(database: Database) -> None:
    wrong, most, number = [], 0, 0
    with database.begin() as connection:
        for by in filters():
            for reach in (
                REACHES
                if by.currency is None and by.amount_from is None and by.refunded is None
                else REACHES[:1]
            ):
                for at, order in positions(by):
                    with noted(connection) as asked:
                        sought = payments.seek(connection, by, reach)
                        page = payments.page(connection, by, reach, sought, at=at, order=order)
                        payments.refunds_of(connection, page.lines)
                    # The newest links of each instance are looked through for a title.
                    bound = LOOKED_MAX * 1.1 + 300 + (2_500 if by.text else 0)
                    whole, rows = costs(connection, asked)
                    number += 1
                    most = max(most, rows)
                    if whole or rows > bound:
                        wrong.append((by, reach, at, order, rows, whole))
    assert wrong == []
    assert number > 1_000
    assert most > LOOKED_MAX * 0.9, "the bound is never reached: this tests too little"


def positions(by: Filter) -> list[tuple[Position | None, Order]]:
    """Where pages begin: at the first, far behind, and backwards."""
    if by.text is not None:
        return [(None, Order.NEWEST)]
    middle = BEGAN + timedelta(minutes=ROWS / 2)
    key: tuple[Any, ...] = (SMALL, UUID(int=2**127)) if by.is_undated else (middle, SMALL, UUID(int=2**127))
    if by.currency or by.amount_from or by.refunded:
        return [(None, Order.NEWEST), (Position(key), Order.NEWEST)]
    return [
        *((None, order) for order in (Order.NEWEST, Order.OLDEST)),
        *((Position(key, is_back=is_back), Order.NEWEST) for is_back in (False, True)),
    ]


def test_an_unfiltered_page_reads_what_it_shows(database: Database) -> None:
    with database.begin() as connection:
        for place in PLACES[:6]:
            with noted(connection) as asked:
                page = payments.page(connection, Filter(**place), EVERYWHERE, None, at=None)
            with noted(connection) as more:
                payments.refunds_of(connection, page.lines)
            assert costs(connection, more)[1] <= 4 * PAGE
            assert costs(connection, asked)[1] <= PAGE + 2


def everything(connection: Connection, by: Filter, reach: Reach, order: Order) -> list[Line]:
    """What all pages of a list show together, forwards; each page must come back to the one before it."""
    found: list[Line] = []
    at: Position | None = None
    before: Page | None = None
    for _ in range(1_000):
        page = payments.page(connection, by, reach, None, at=at, order=order)
        if before is not None and page.before is not None and before.lines and not page.is_cut:
            back = payments.page(connection, by, reach, None, at=page.before, order=order)
            assert (back.lines or before.lines)[-1] == before.lines[-1]
        found += page.lines
        before, at = page, page.after
        if at is None:
            return found
    raise AssertionError("it never ends")


@pytest.mark.parametrize("order", [Order.NEWEST, Order.OLDEST, Order.LARGEST])
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(
    "by",
    [
        Filter(state="discrepant"),
        Filter(currency="JPY"),
        Filter(recovery=ANY),
        Filter(recovery="webhook_missed", currency="USD"),
        Filter(payment_link_id=RARE),
        Filter(payment_link_id=POPULAR, amount_from=Decimal(4_990)),
        Filter(is_undated=True),
        Filter(instance_id=TINY),
        Filter(amount_from=Decimal(100), amount_to=Decimal(101)),
        Filter(state=UNCHECKED),
        *(Filter(refunded=state, payment_link_id=POPULAR) for state in (ANY, *REFUNDED)),
        # Nearly all of them are so.
        Filter(refunded=RefundState.NONE, payment_link_id=POPULAR, until=BEGAN + timedelta(days=5)),
    ],
)
def test_pages_together_are_what_the_filter_finds(
    database: Database, by: Filter, reach: Reach, order: Order
) -> None:
    if order.is_by_amount:
        by = replace(by, currency=by.currency or "EUR")
        by = replace(by, is_undated=False, payment_link_id=RARE) if by.is_undated else by
    with database.begin() as connection:
        found = everything(connection, by, reach, order)
        exported = list(
            payments.everything(connection, by, reach, None, limit=ROWS, order=order, at_once=137)
        )
        sums = payments.totals(connection, by, reach, None, looked_max=None)
        some = payments.totals(connection, by, reach, None, looked_max=ROWS)
        expected = connection.execute(text(f"SELECT payment_id FROM payments WHERE {plain(by, reach)}"))
        assert {line.payment_id for line in found} == set(expected.scalars())
        counted = payments.count(connection, by, reach, None, most=ROWS)
    assert found == exported
    keys: list[tuple[Any, ...]] = [
        (line.created_at or BEGAN, line.instance_id, line.payment_id) for line in found
    ]
    if order.is_by_amount:
        keys = [(line.amount, *key) for line, key in zip(found, keys, strict=True)]
    assert keys == sorted(keys, reverse=order.goes_down)
    assert len(found) == counted == sum(one.number for one in sums.lines)
    assert sum((one.amount for one in sums.lines), Decimal(0)) == sum(
        (line.amount for line in found), Decimal(0)
    )
    assert sums.lines == some.lines
    assert sums.is_whole


def plain(by: Filter, reach: Reach) -> str:
    """The same as a condition that knows no index."""
    parts = [f"created_at IS {'' if by.is_undated else 'NOT '}NULL"]
    if reach.instance_ids is not None:
        parts.append(f"instance_id IN ({', '.join(repr(str(one)) for one in reach.instance_ids)})")
    names = ("instance_id", "payment_link_id", "currency")
    parts += [f"{name} = '{getattr(by, name)}'" for name in names if getattr(by, name) is not None]
    if by.state is not None:
        parts.append("match_state IS NULL" if by.state == UNCHECKED else f"match_state = '{by.state}'")
    if by.recovery is not None:
        parts.append("recovery IS NOT NULL" if by.recovery == ANY else f"recovery = '{by.recovery}'")
    if by.amount_from is not None:
        parts.append(f"amount >= {by.amount_from}")
    if by.refunded is not None:
        told = "FROM refunds r WHERE r.payment_id = payments.payment_id AND r.status = 'SUCCEEDED'"
        given, is_unclear = f"(SELECT sum(amount) {told})", f"EXISTS (SELECT {told} AND r.amount IS NULL)"
        parts.append(
            {
                ANY: f"EXISTS (SELECT {told})",
                "none": f"NOT EXISTS (SELECT {told})",
                "unclear": is_unclear,
                "partly": f"{given} < amount AND NOT {is_unclear}",
                "wholly": f"{given} >= amount AND NOT {is_unclear}",
            }[by.refunded]
        )
    if by.amount_to is not None:
        parts.append(f"amount <= {by.amount_to}")
    if by.until is not None:
        parts.append(f"created_at < '{by.until.isoformat()}'")
    return " AND ".join(parts)


def test_a_list_by_amount_reads_no_more_than_is_bounded(database: Database) -> None:
    """What an index of dates narrows down to few is sorted, each time anew; of more, the index of amounts is read."""
    wrong: list[Any] = []
    sorted_ = walked = longest = 0
    bound = 1.1 * (SORTED_MAX + max(SORTED_MAX, LOOKED_MAX)) + 300
    amounts = {"amount_from": Decimal(4_000), "amount_to": Decimal(4_700)}
    middle = (Decimal(2_500), BEGAN + timedelta(minutes=ROWS / 2), SMALL, UUID(int=2**127))
    with database.begin() as connection:
        for place, times, more, reach in itertools.product(PLACES, TIMES, (*NARROWED, amounts), REACHES):
            if "is_undated" in place or (reach is not REACHES[0] and more):
                continue
            by = Filter(**{"currency": "EUR", **place, **times, **more})
            for order, at in (
                (Order.LARGEST, None),
                (Order.SMALLEST, Position(middle)),
                (Order.LARGEST, Position(middle, is_back=True)),
            ):
                with noted(connection) as asked:
                    page = payments.page(connection, by, reach, None, at=at, order=order)
                    payments.refunds_of(connection, page.lines)
                whole, rows = costs(connection, asked)
                by_index = any("payments.currency = " in statement for statement, _ in asked)
                walked, sorted_ = walked + by_index, sorted_ + (not by_index)
                longest = max(longest, rows)
                if whole or rows > bound:
                    wrong.append((by, reach, at, order, rows, whole))
    assert wrong == []
    assert min(sorted_, walked) > 100
    assert longest > SORTED_MAX + LOOKED_MAX


def test_a_page_by_amount_that_nothing_else_narrows_down_reads_what_it_shows(database: Database) -> None:
    only = Filter(currency="EUR")
    with database.begin() as connection:
        for by in (only, replace(only, amount_from=Decimal(4_000)), replace(only, amount_to=Decimal(4_700))):
            for order in (Order.LARGEST, Order.SMALLEST):
                with noted(connection) as asked:
                    page = payments.page(connection, by, EVERYWHERE, None, at=None, order=order)
                assert len(page.lines) == PAGE
                assert costs(connection, asked)[1] <= PAGE + 20, "and those of the last amount, to sort them"


def test_only_payments_of_a_currency_with_a_date_are_sorted_by_amount(database: Database) -> None:
    with database.begin() as connection:
        for by in (Filter(), Filter(currency="EUR", is_undated=True)):
            with pytest.raises(ValueError, match="one currency"):
                payments.page(connection, by, EVERYWHERE, None, at=None, order=Order.LARGEST)


def test_an_export_by_amount_reads_each_payment_once(database: Database) -> None:
    with database.begin() as connection:
        by = Filter(currency="EUR", instance_id=BIG, method="CREDIT_CARD")
        with noted(connection) as asked:
            found = list(
                payments.everything(connection, by, EVERYWHERE, None, limit=ROWS, order=Order.LARGEST)
            )
        whole, rows = costs(connection, asked)
    assert len(found) > ROWS / 2
    assert whole == []
    parts = len(found) / 2_000 + 1
    assert rows <= ROWS * 0.7 + parts * (SORTED_MAX + 100)


@pytest.mark.parametrize("sorted_max", [SORTED_MAX, 0])
def test_payments_of_one_amount_and_moment_are_on_one_page_each(
    database: Database, sorted_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted, and as the index has them: pages end and begin within one amount, also of the same moment."""
    monkeypatch.setattr(payments, "SORTED_MAX", sorted_max)
    by = Filter(currency="EUR", amount_from=Decimal(100), amount_to=Decimal(107))
    with database.begin() as connection:
        for order in (Order.LARGEST, Order.SMALLEST):
            for reach in REACHES:
                found = everything(connection, by, reach, order)
                expected = connection.execute(text(f"SELECT count(*) FROM payments WHERE {plain(by, reach)}"))
                assert len(found) == expected.scalar_one()
                keys = [(line.amount, line.created_at, line.instance_id, line.payment_id) for line in found]
                assert keys == sorted(keys, reverse=order.goes_down)
                assert len(keys) == len(set(keys))


def test_payments_of_one_moment_in_several_instances_are_on_one_page_each(database: Database) -> None:
    """The key goes on with the instance: on each way, and over all of them."""
    moment = BEGAN - timedelta(days=400)
    with database.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(
            text("""
                INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, created_at,
                    first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
                SELECT i, md5('same' || n)::uuid, 1, i, 1, 'EUR', :moment, 'webhook', 'webhook', gen_random_uuid(),
                    now(), now(), 'new', now()
                FROM generate_series(1, 60) n, unnest(CAST(:instances AS uuid[])) i"""),
            {"moment": moment, "instances": [BIG, SMALL, TINY]},
        )
        by = Filter(until=moment + timedelta(days=1), currency="EUR")
        for reach in (EVERYWHERE, Reach(frozenset({SMALL, TINY})), Reach(frozenset({BIG, SMALL, TINY}))):
            for order in Order:
                found = everything(connection, by, reach, order)
                keys = [(line.instance_id, line.payment_id) for line in found]
                assert len(keys) == len(set(keys)) == 60 * len(reach.instance_ids or "all")
                assert keys == sorted(keys, reverse=order.goes_down)
        transaction.rollback()


def test_a_look_that_ends_early_says_where_and_goes_on_there(database: Database) -> None:
    by = Filter(currency="JPY")
    with database.begin() as connection:
        looks = []
        at = None
        for _ in range(ROWS // LOOKED_MAX + 2):
            page = payments.page(connection, by, EVERYWHERE, None, at=at)
            looks.append(page)
            if page.after is None:
                break
            assert page.is_cut
            assert page.looked_to is not None
            at = page.after
    assert [len(one.lines) for one in looks].count(1) == 1
    assert len(looks) == ROWS // LOOKED_MAX
    assert not looks[-1].is_cut


def test_sums_say_when_they_are_not_of_everything(database: Database) -> None:
    with database.begin() as connection:
        for by in (Filter(), Filter(currency="EUR"), Filter(instance_id=BIG)):
            part = payments.totals(connection, by, EVERYWHERE, None, looked_max=10_000)
            assert not part.is_whole
            assert part.back_to is not None
            exact = payments.totals(
                connection, replace(by, since=part.back_to), EVERYWHERE, None, looked_max=None
            )
            assert part.lines == exact.lines
        both = Reach(frozenset({BIG, SMALL}))
        part = payments.totals(connection, Filter(), both, None, looked_max=6_000)
        exact = payments.totals(connection, Filter(since=part.back_to), both, None, looked_max=None)
        assert (part.lines, part.is_whole) == (exact.lines, False)
        few = payments.totals(connection, Filter(instance_id=TINY), EVERYWHERE, None, looked_max=10_000)
        assert few.is_whole


def test_sums_read_an_index_and_no_more_than_is_bounded(database: Database) -> None:
    with database.begin() as connection:
        for place, times in itertools.product(PLACES, TIMES):
            by = Filter(**place, **times)
            with noted(connection) as asked:
                payments.totals(connection, by, EVERYWHERE, None, looked_max=10_000)
            whole, rows = costs(connection, asked)
            assert whole == []
            assert rows <= 10_002 * 1.15, "with the refunds of those"


def test_sums_say_what_was_refunded_however_they_are_added_up(database: Database) -> None:
    """All at once, with a bound, of several instances, and by ids: each time what the rows say."""
    with database.begin() as connection:
        for by, reach in (
            (Filter(), EVERYWHERE),
            (Filter(payment_link_id=POPULAR), EVERYWHERE),
            (Filter(), Reach(frozenset({SMALL, TINY}))),
            (Filter(refunded="partly"), EVERYWHERE),
            (Filter(is_undated=True), EVERYWHERE),
        ):
            expected = connection.execute(
                text(f"""
                    SELECT currency, count(*), sum(amount),
                        sum((SELECT CASE WHEN count(*) > 0 AND NOT bool_or(status = 'SUCCEEDED' AND r.amount IS NULL)
                            THEN COALESCE(sum(r.amount) FILTER (WHERE status = 'SUCCEEDED'), 0) END
                            FROM refunds r WHERE r.payment_id = payments.payment_id)),
                        count(*) FILTER (WHERE EXISTS (SELECT FROM refunds r
                            WHERE r.payment_id = payments.payment_id AND status = 'SUCCEEDED' AND r.amount IS NULL))
                    FROM payments WHERE {plain(by, reach)} GROUP BY 1 ORDER BY 1""")
            ).all()
            for looked_max in (None, ROWS * 2):
                sums = payments.totals(connection, by, reach, None, looked_max=looked_max)
                found = [
                    (one.currency, one.number, one.amount, one.refunded, one.unclear) for one in sums.lines
                ]
                assert found == [tuple(row) for row in expected]
        yen = Filter(currency="JPY")
        [line] = payments.totals(connection, yen, EVERYWHERE, None, looked_max=None).lines
        assert (line.refunded, line.net) == (None, line.amount), "no refund was told of: not zero"
        named = Filter(text=str(UUID(bytes=hashlib.md5(b"payment240").digest())))
        sought = payments.seek(connection, named, EVERYWHERE)
        [line] = payments.totals(connection, named, EVERYWHERE, sought, looked_max=None).lines
        assert (line.refunded, line.net) == (line.amount, Decimal(0))


def test_each_payment_says_what_was_refunded(database: Database) -> None:
    with database.begin() as connection:
        for state in RefundState:
            by = Filter(refunded=state.value)
            lines = payments.page(connection, by, EVERYWHERE, None, at=None).lines
            found = payments.refunds_of(connection, lines)
            states = {found[key].state if key in found else None for key in map(_id_of, lines)}
            assert states <= ({state, None} if state is RefundState.NONE else {state})
            for line in lines:
                back = found.get(_id_of(line))
                given = connection.execute(
                    text("SELECT sum(amount) FROM refunds WHERE payment_id = :id AND status = 'SUCCEEDED'"),
                    {"id": line.payment_id},
                ).scalar_one()
                if back is not None and state is not RefundState.UNCLEAR:
                    assert back.amount == (given or 0)
                    assert net_of(line.amount, back) == line.amount - (given or 0)
                elif back is not None:
                    assert (back.amount, net_of(line.amount, back)) == (None, None)


def _id_of(line: Line) -> tuple[UUID, UUID]:
    return line.instance_id, line.payment_id
