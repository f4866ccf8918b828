"""Who comes first must not matter: workers, sweeps, events and pages that meet, in every order, on a real PostgreSQL.

Every order is made by hand, by stopping one side at a place until the other is done; nothing waits for time to pass.
Beside it: `test_jobs.py` has workers that die in a check, leases taken over while Wix is read, and a cursor that
expires in a check; `wix/test_client.py` the same of single pages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from processor import jobs, wiring
from processor.jobs import asking, checking, sweeping
from processor.sandbox.seed import Volume, load
from processor.store import sweeps
from processor.wiring import Services
from processor.wix.client import WixClient
from tests.shop import Shop, a_shop

WAIT_SECONDS = 60.0  # for the other side; only a test that fails waits so long


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as built:
        yield built


def settle(shop: Shop) -> None:
    for _ in range(2):
        shop.check()
        shop.pass_time()


def of_link(shop: Shop, link_id: UUID) -> list[tuple[Any, ...]]:
    """Whatever is kept of a link, but for ids, dates and who did it."""
    discrepancies = "SELECT discrepancy_id FROM discrepancies WHERE payment_link_id = :id"
    asked = (
        """SELECT revision, amount, match_state, first_origin, last_verdict FROM payments
            WHERE payment_link_id = :id ORDER BY created_at""",
        """SELECT type, severity, state, sides, amount_at_risk, times_reopened FROM discrepancies
            WHERE payment_link_id = :id ORDER BY type""",
        f"""SELECT kind, state, amount_at_risk FROM discrepancy_steps WHERE discrepancy_id IN ({discrepancies})
            ORDER BY 1, 2, 3""",
        "SELECT status, payment_count, total_amount FROM payment_links WHERE payment_link_id = :id",
        "SELECT wanted > checked, lease_id, attempt FROM link_checks WHERE payment_link_id = :id",
    )
    return [tuple(map(str, row)) for sql in asked for row in shop.rows(sql, id=link_id)]


# -- Two workers on one link -----------------------------------------------------------------------


@dataclass
class Gate:
    """Where a thread stops until it is let through."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self.reached.set()
        assert self.opened.wait(WAIT_SECONDS), "nobody let it through"

    def await_reached(self) -> None:
        assert self.reached.wait(WAIT_SECONDS), "it never came there"


@dataclass
class Workers:
    """Two workers, each with connections of its own, that stop when they have read what Wix says."""

    gates: dict[str, Gate]
    services: dict[str, Services]
    pool: ThreadPoolExecutor

    def start(self, name: str, instance_id: UUID) -> Future[None]:
        def work() -> None:
            threading.current_thread().name = name
            jobs.run_check(self.services[name], instance_id)

        return self.pool.submit(work)


@pytest.fixture
def workers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    names = ("first", "second")
    gates = {name: Gate() for name in names}
    ask = asking.ask

    def ask_and_stop(*given: Any) -> Any:
        theirs = ask(*given)
        if (gate := gates.get(threading.current_thread().name)) is not None:
            gate.stop()
        return theirs

    monkeypatch.setattr(checking, "ask", ask_and_stop)
    services = {
        name: wiring.build(shop.services.settings, role="worker", now=shop.services.now) for name in names
    }
    with ThreadPoolExecutor(2) as pool:
        try:
            yield Workers(gates, services, pool)
        finally:
            for gate in gates.values():
                gate.opened.set()
    for one in services.values():
        one.close()


def a_link_with_much_to_find(shop: Shop) -> UUID:
    """One payment matched, one no webhook told of, one gone at Wix, and a total that is off."""
    link_id = shop.link()
    told = [*shop.pay(link_id), *shop.pay(link_id)]
    shop.deliver()
    shop.pay(link_id)
    shop.sandbox.faults.add({"kind": "payment_deleted", "paymentId": str(told[1])})
    shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": "3.00"})
    shop.check()
    shop.pass_time()
    return link_id


@pytest.mark.parametrize("faster", ["first", "second"])
def test_a_link_that_two_workers_have_read_is_written_by_the_one_who_holds_it(
    shop: Shop, workers: Workers, faster: str
) -> None:
    link_id = a_link_with_much_to_find(shop)
    began = shop.services.now()
    first = workers.start("first", shop.instance_id)
    workers.gates["first"].await_reached()
    shop.pass_time(timedelta(minutes=5))  # the first seems to have died
    second = workers.start("second", shop.instance_id)
    workers.gates["second"].await_reached()

    slower = "second" if faster == "first" else "first"
    for name, work in sorted({"first": first, "second": second}.items(), key=lambda one: one[0] != faster):
        workers.gates[name].opened.set()
        work.result(WAIT_SECONDS)
    assert faster != slower

    runs = shop.rows(
        "SELECT status, reason, link_count, opened, recovered, matched, discrepant FROM reconciliation_runs"
        " WHERE started_at >= :began ORDER BY started_at",
        began=began,
    )
    assert [(run.status, run.link_count) for run in runs] == [("failed", 0), ("succeeded", 1)]
    assert runs[0].reason == "taken over by another worker"
    assert (runs[0].opened, runs[0].recovered, runs[0].matched, runs[0].discrepant) == (0, 0, 0, 0)
    assert (runs[1].recovered, runs[1].matched, runs[1].discrepant) == (1, 1, 1)
    assert sorted(shop.open()) == ["missing_at_wix", "total_differs"]
    assert shop.rows("SELECT FROM listed_payments") == []
    by_two = of_link(shop, link_id)
    by_one = a_link_with_much_to_find(shop)
    shop.check()
    assert by_two == of_link(shop, by_one)


def test_a_link_that_two_workers_want_at_once_is_read_by_one(shop: Shop, workers: Workers) -> None:
    a_link_with_much_to_find(shop)
    before = shop.one("SELECT count(*) AS n FROM reconciliation_runs").n
    first = workers.start("first", shop.instance_id)
    workers.gates["first"].await_reached()

    second = workers.start("second", shop.instance_id)
    second.result(WAIT_SECONDS)  # it did not come to its gate
    assert not workers.gates["second"].reached.is_set()
    workers.gates["first"].opened.set()
    first.result(WAIT_SECONDS)

    assert shop.one("SELECT count(*) AS n FROM reconciliation_runs").n == before + 1
    assert sorted(shop.open()) == ["missing_at_wix", "total_differs"]


def test_a_request_that_comes_while_a_link_is_read_is_answered_by_a_check_of_its_own(
    shop: Shop, workers: Workers
) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    first = workers.start("first", shop.instance_id)
    workers.gates["first"].await_reached()
    shop.pay(link_id)
    shop.deliver()

    workers.gates["first"].opened.set()
    first.result(WAIT_SECONDS)

    states = shop.rows("SELECT match_state FROM payments ORDER BY created_at")
    assert [row.match_state for row in states] == ["matched", "expected"]
    shop.check()
    assert {row.match_state for row in shop.rows("SELECT match_state FROM payments")} == {"matched"}
    assert shop.open() == []


# -- Pages that are not what they seem -------------------------------------------------------------

PAYMENTS, PER_PAGE = 250, 100
Told = dict[str, Any]


def many(shop: Shop, links: int = 5) -> None:
    """Payments of the past, on three pages, that no webhook told of."""
    shop.deliver()
    volume = Volume(payments=PAYMENTS, links=links, sites=1, days=30)
    assert sum(load(shop.sandbox, volume, 1, [str(shop.instance_id)])) == PAYMENTS


@contextmanager
def paging(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[int, Callable[[], Told]], Told]
) -> Iterator[list[Any]]:
    """Every page of payments is asked for by `look`, which is given its number, from 1, and how to ask.

    Yields what was asked for: each page's query and paging.
    """
    page = WixClient._page
    asked: list[Any] = []

    def call(client: WixClient, what: Any, query: Any, given: Any, size: int) -> tuple[Told, int]:
        if what.operation != "query_payments":
            return page(client, what, query, given, size)
        asked.append((query, given))
        sizes: list[int] = []

        def ask() -> Told:
            told, answered = page(client, what, query, given, size)
            sizes.append(answered)
            return dict(told)

        return look(len(asked), ask), sizes[0] if sizes else size

    with monkeypatch.context() as patched:
        patched.setattr(WixClient, "_page", call)
        # Its place is kept after every page, not only after many.
        patched.setattr(sweeping, "PART_PAGES", 1, raising=False)
        yield asked


def sweep_all(shop: Shop) -> None:
    """Sweep a window over everything, to its end."""
    now = shop.services.now()
    with shop.services.database.begin() as connection:
        sweeps.request(connection, shop.instance_id, now - timedelta(days=31), now, now)
    go_on(shop)


def go_on(shop: Shop) -> None:
    for _ in range(10):
        shop.sweep()
        if shop.one("SELECT window_from FROM sweeps").window_from is None:
            return
    raise AssertionError("the sweep does not come to its end")


def check_all(shop: Shop) -> None:
    shop.request(*(UUID(id_) for (id_,) in shop.sandbox.documents.rows("SELECT id FROM link")))
    shop.check()


def assert_all_is_booked_once(shop: Shop) -> None:
    shop.check()
    counted = shop.one(
        "SELECT count(*) AS n, count(*) FILTER (WHERE match_state = 'matched') AS m FROM payments"
    )
    assert (counted.n, counted.m) == (PAYMENTS, PAYMENTS)
    # One that was told twice, of one revision, leaves no second version.
    assert shop.one("SELECT count(*) AS n FROM payment_tellings").n == PAYMENTS
    booked = shop.one("SELECT sum(recovered) AS n FROM reconciliation_runs").n
    assert booked == PAYMENTS, "counted once"
    shop.pass_time()
    check_all(shop)
    assert shop.open() == []


READ = {"a sweep": sweep_all, "a check": check_all}


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_a_page_that_repeats_an_item_books_it_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, read: Callable[[Shop], None]
) -> None:
    many(shop)
    last: list[Any] = []

    def repeat(number: int, ask: Callable[[], Told]) -> Told:
        told = ask()
        told["paymentLinkPayments"] = [*last, *told["paymentLinkPayments"], *told["paymentLinkPayments"][:1]]
        last[:] = told["paymentLinkPayments"][-2:-1]
        return told

    with paging(monkeypatch, repeat):
        read(shop)
        assert_all_is_booked_once(shop)


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_an_item_that_moves_to_another_page_is_booked_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, read: Callable[[Shop], None]
) -> None:
    """The first item of every further page comes at the end of all, as if it had been written meanwhile."""
    many(shop)
    moved: list[Any] = []

    def move(number: int, ask: Callable[[], Told]) -> Told:
        told = ask()
        items = told["paymentLinkPayments"]
        if number > 1:
            moved.append(items[0])
            items = items[1:]
        if not told["pagingMetadata"]["hasNext"]:
            items = [*items, *moved]
        told["paymentLinkPayments"] = items
        return told

    with paging(monkeypatch, move) as asked:
        read(shop)
        assert len(asked) >= 3
    assert_all_is_booked_once(shop)


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_an_item_listed_again_with_a_newer_revision_is_booked_as_the_newer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, read: Callable[[Shop], None]
) -> None:
    many(shop)
    changed: list[str] = []

    def change(number: int, ask: Callable[[], Told]) -> Told:
        """A receipt is issued between two pages, and the first shows the payment as it was, the next as it is."""
        told = ask()
        if not changed:
            item = told["paymentLinkPayments"][-1]
            changed.append(item["id"])
            shop.sandbox.world.issue_receipt(str(shop.instance_id), item["id"])
        elif number == 2:
            newer = shop.sandbox.documents.get("payment", changed[0])
            assert newer is not None
            told["paymentLinkPayments"] = [newer["entity"], *told["paymentLinkPayments"]]
        return told

    with paging(monkeypatch, change):
        read(shop)
    shop.check()
    shop.pass_time()
    check_all(shop)
    shop.pass_time()
    shop.check()

    [row] = shop.rows("SELECT revision, match_state FROM payments WHERE payment_id = :id", id=changed[0])
    assert (row.revision, row.match_state) == (2, "matched")
    assert shop.one("SELECT count(*) AS n FROM payments").n == PAYMENTS
    assert shop.open() == []


def test_a_cursor_that_expires_in_the_middle_of_a_sweep_loses_and_doubles_nothing(shop: Shop) -> None:
    many(shop)
    shop.sandbox.faults.add({"kind": "expired_cursor", "path": "payments", "count": 2})

    sweep_all(shop)

    assert shop.sandbox.faults.all() == [], "it struck"
    assert_all_is_booked_once(shop)


# -- A worker that is killed -----------------------------------------------------------------------

PAGES = -(-PAYMENTS // PER_PAGE)


@pytest.mark.parametrize("page", range(1, PAGES + 1))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sweep_killed_at_any_page_goes_on_where_it_stood_and_misses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, page: int, when: str
) -> None:
    """before: it is asked for; after: it was read, and nothing of it is written yet."""
    many(shop)
    asked_in_all = 0

    def die(number: int, ask: Callable[[], Told]) -> Told:
        if asked_before + number != page:
            return ask()
        if when == "after":
            ask()
        raise SystemExit("killed")

    asked_before = 0
    now = shop.services.now()
    with shop.services.database.begin() as connection:
        sweeps.request(connection, shop.instance_id, now - timedelta(days=31), now, now)
    with paging(monkeypatch, die) as asked:
        with pytest.raises(SystemExit):
            go_on(shop)
        asked_in_all = len(asked)
    assert asked_in_all == page
    stood = shop.one("SELECT position_at, window_from FROM sweeps")
    assert (stood.position_at > stood.window_from) is (page > 1)

    shop.pass_time()
    asked_before = PAGES + 1  # nobody dies any more
    with paging(monkeypatch, die) as asked:
        go_on(shop)
        first = asked[0][0]["filter"]["createdDate"]["$gte"]

    assert len(asked) <= PAGES + 1 - (page - 1) + 1, "it did not begin anew"
    assert (first > f"{stood.window_from:%Y-%m-%dT%H:%M:%S}.999Z") is (page > 1)
    assert_all_is_booked_once(shop)


# -- A sweep and an event --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment", ["before the page", "after the page", "after the sweep", "after the check"]
)
@pytest.mark.parametrize("what", ["created", "updated"])
def test_an_event_and_a_sweep_that_find_the_same_payment_book_it_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, moment: str, what: str
) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    if what == "updated":
        shop.deliver()
        shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    else:
        shop.deliver(link_id)
    shop.check()
    shop.pass_time()

    def deliver_beside(number: int, ask: Callable[[], Told]) -> Told:
        if moment == "before the page":
            shop.deliver(payment_id)
        told = ask()
        if moment == "after the page":
            shop.deliver(payment_id)
        return told

    with paging(monkeypatch, deliver_beside):
        shop.sweep()
    if moment == "after the sweep":
        shop.deliver(payment_id)
    shop.check()
    shop.pass_time()
    shop.check()
    if moment == "after the check":
        shop.deliver(payment_id)
    settle(shop)

    payment = shop.one("SELECT payment_id, revision, match_state FROM payments")
    revision = 2 if what == "updated" else 1
    assert (payment.payment_id, payment.revision, payment.match_state) == (payment_id, revision, "matched")
    assert shop.rows("SELECT FROM discrepancies") == [], "not even for a moment"
    tellings = shop.rows("SELECT verdict FROM payment_tellings WHERE verdict IN ('new', 'newer')")
    assert len(tellings) == revision, "each revision was booked once"
    assert shop.rows("SELECT FROM link_checks WHERE wanted > checked") == []


def test_events_that_keep_coming_and_sweeps_that_keep_reading_agree_in_the_end(shop: Shop) -> None:
    """Both at full speed, without an order: what the tests above do one by one."""
    links = [shop.link() for _ in range(4)]
    shop.deliver()
    others = wiring.build(shop.services.settings, role="worker", now=shop.services.now)
    barrier = threading.Barrier(2)

    def sell() -> None:
        barrier.wait(WAIT_SECONDS)
        for number in range(40):
            for payment_id in shop.pay(links[number % 4]):
                if number % 5:
                    shop.deliver(payment_id)

    def sweep() -> None:
        barrier.wait(WAIT_SECONDS)
        for _ in range(8):
            now = others.now()
            with others.database.begin() as connection:
                sweeps.request(connection, shop.instance_id, now - timedelta(hours=1), now, now)
            jobs.run_sweep(others, shop.instance_id)
            jobs.run_check(others, shop.instance_id)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(sell), pool.submit(sweep)]:
            done.result(WAIT_SECONDS)
    others.close()
    shop.pass_time()
    now = shop.services.now()
    with shop.services.database.begin() as connection:
        sweeps.request(connection, shop.instance_id, now - timedelta(hours=1), now, now)
    go_on(shop)
    settle(shop)

    counted = shop.one(
        "SELECT count(*) AS n, count(*) FILTER (WHERE match_state = 'matched') AS matched, sum(amount) AS amount"
        " FROM payments"
    )
    assert (counted.n, counted.matched, counted.amount) == (40, 40, Decimal(400))
    assert shop.open() == []
