"""Sweeps and backfills against a sandbox: read in parts, compared, resumed, and fair."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import clock, jobs, wiring, worker
from processor.domain.event import Kind
from processor.errors import WixUnavailable
from processor.jobs import asking, checking, sweeping
from processor.queue import QUEUE
from processor.sandbox.seed import Volume, load
from processor.store import backfills, checks, operations, staging
from processor.wix import wire
from tests.shop import Shop, a_shop

DAYS = timedelta(days=1)


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as built:
        yield built


def booked(shop: Shop) -> set[UUID]:
    return {row.payment_id for row in shop.rows("SELECT payment_id FROM payments")}


def settle(shop: Shop) -> None:
    """Check what is due until it is settled."""
    shop.check()
    shop.pass_time()
    shop.check()


def test_a_window_is_read_in_parts_that_leave_nothing_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 3)
    assert sum(load(shop.sandbox, Volume(950, 19, 1, 2), 1, [str(shop.instance_id)])) == 950
    shop.deliver()
    before = shop.calls

    parts = 1
    while jobs.run_sweep(shop.services, shop.instance_id):
        parts += 1

    assert parts == 4
    # Floor: ten pages of a hundred. The first payment of a part was the last of the one before.
    assert shop.calls - before <= 11
    runs = shop.rows("SELECT * FROM reconciliation_runs WHERE kind = 'sweep' ORDER BY started_at")
    assert {run.status for run in runs} == {"succeeded"}
    for one, following in pairwise(runs):
        assert one.window_to == following.window_from
    settle(shop)
    assert len(booked(shop)) == 950
    before = shop.calls
    shop.pass_time(timedelta(minutes=15))
    shop.sweep()
    assert shop.calls - before <= 11
    assert shop.rows("SELECT FROM check_requests") == [], "everything is as it was"


def test_the_sums_of_a_run_tie_to_what_was_listed(shop: Shop) -> None:
    link_id = shop.link()
    for _ in range(3):
        shop.pay(link_id)
    shop.deliver()
    shop.check()

    shop.sweep()

    run = shop.one("SELECT * FROM reconciliation_runs WHERE kind = 'sweep'")
    assert run.sums == {
        "USD": {"booked": "30.000", "booked_count": 3, "wix": "30.000", "wix_count": 3},
    }
    assert (run.matched, run.link_count) == (3, 0)


def test_a_payment_that_is_gone_from_wix_is_noticed_by_the_sweep(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.check()
    shop.pass_time()
    shop.sweep()
    assert shop.open() == []

    shop.sandbox.faults.add({"kind": "payment_deleted", "paymentId": str(payment_id)})
    shop.pass_time(timedelta(minutes=15))
    shop.sweep()
    settle(shop)

    assert "missing_at_wix" in shop.open()
    before = shop.calls
    shop.pass_time(timedelta(minutes=15))
    shop.sweep()
    assert shop.rows("SELECT FROM check_requests") == [], "it is known, and looked at again in its own time"
    assert shop.calls - before == 1


def test_items_that_come_twice_or_move_between_pages_cost_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(load(shop.sandbox, Volume(300, 3, 1, 1), 1, [str(shop.instance_id)])) == 300
    shop.deliver()
    query = shop.services.wix.query_payments

    def moving(*arguments: Any, **more: Any) -> Iterator[list[Any]]:
        """Each page begins with the last items of the one before, and an empty one is among them."""
        last: list[Any] = []
        for page in query(*arguments, **more):
            yield [*copy.deepcopy(last), *page]
            yield []
            last = page[-5:]

    monkeypatch.setattr(type(shop.services.wix), "query_payments", lambda self, *a, **k: moving(*a, **k))

    shop.sweep()
    settle(shop)

    assert len(booked(shop)) == 300
    assert shop.rows("SELECT payment_id FROM payment_versions WHERE verdict = 'conflict'") == []
    assert shop.open() == []


def test_very_many_payments_of_one_moment_do_not_stop_a_sweep(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert sum(load(shop.sandbox, Volume(350, 1, 1, 1), 1, [str(shop.instance_id)])) == 350
    shop.deliver()
    moment = wire.instant_text(shop.services.now() - timedelta(hours=1))
    for payment in shop.sandbox.documents.all("payment"):
        payment["entity"]["createdDate"] = moment
        shop.sandbox.documents.put("payment", payment["id"], payment)

    shop.sweep()
    settle(shop)

    assert len(booked(shop)) == 350


# -- Fairness --------------------------------------------------------------------------------------


def work(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, UUID]]:
    """One worker until the queue is empty. Returns the runs there were, in their order."""
    monkeypatch.setattr(wiring, "from_environ", lambda role, environ=None: shop.services)
    worker.run(shop.services, threading.Event(), burst=True)
    rows = shop.rows("SELECT kind, instance_id FROM reconciliation_runs ORDER BY started_at")
    return [(row.kind, row.instance_id) for row in rows]


def test_a_busy_instance_does_not_keep_the_only_worker_from_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    busy = UUID(shop.sandbox.world.install({})["instanceId"])
    assert sum(load(shop.sandbox, Volume(1_000, 10, 1, 1), 1, [str(busy)])) == 1_000
    [payment_id] = shop.pay(shop.link())
    shop.deliver()
    with shop.services.database.begin() as connection:
        backfills.request(
            *(connection, busy, shop.services.now() - 9 * DAYS, shop.services.now()),
            reason="requested",
            actor="ada",
            now=shop.services.now(),
        )
    shop.services.queue.enqueue_backfill(busy)
    shop.services.queue.enqueue_sweep(busy)
    shop.services.queue.enqueue_sweep(shop.instance_id)
    shop.services.queue.enqueue_check(shop.instance_id)

    order = work(shop, monkeypatch)

    before = order[: order.index(("check", shop.instance_id))]
    assert before.count(("sweep", busy)) == 1
    assert before.count(("backfill", busy)) == 1
    assert order.count(("sweep", busy)) >= 11
    assert payment_id in booked(shop)


def test_the_next_part_of_a_sweep_is_asked_for_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert sum(load(shop.sandbox, Volume(300, 3, 1, 1), 1, [str(shop.instance_id)])) == 300
    shop.deliver(only=lambda event: event.kind is Kind.APP_INSTALLED)

    assert jobs.run_sweep(shop.services, shop.instance_id)

    assert shop.tick().sweeps == 0, "whoever read the part asks for the next"
    shop.pass_time(timedelta(seconds=31))
    assert shop.tick().sweeps == 1, "that job was lost"


def test_a_third_worker_on_one_instance_leaves_its_links_to_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = [shop.link() for _ in range(3)]
    for link_id in links:
        shop.pay(link_id)
    shop.deliver()
    monkeypatch.setattr(checks, "LINKS_MAX", 1)
    ask = asking.ask
    depth: list[int] = []

    def meanwhile(*arguments: Any) -> Any:
        depth.append(1)
        if len(depth) <= 2:
            jobs.run_check(shop.services, shop.instance_id)  # another worker, while this one asks Wix
        return ask(*arguments)

    monkeypatch.setattr(checking, "ask", meanwhile)
    with capture_logs() as told:
        jobs.run_check(shop.services, shop.instance_id)

    assert len(depth) == 2, "the third found two at it"
    assert [one["event"] for one in told].count("check_left_to_others") == 1
    with shop.services.database.begin() as connection:
        assert checks.has_due(connection, shop.instance_id, shop.services.now())
    # One that died does not count for longer than its lease.
    shop.rows(
        "UPDATE reconciliation_runs SET status = 'running', finished_at = NULL, result_digest = NULL RETURNING run_id"
    )
    shop.pass_time(timedelta(seconds=130))
    monkeypatch.setattr(checking, "ask", ask)
    shop.check()
    assert {row.match_state for row in shop.rows("SELECT match_state FROM payments")} == {"matched"}


def test_a_job_that_leaves_links_to_others_does_not_ask_for_another(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pay(shop.link())
    shop.deliver()
    monkeypatch.setattr(checking, "WORKERS_MAX", 0)  # as if two were at it
    monkeypatch.setattr(wiring, "from_environ", lambda role, environ=None: shop.services)
    assert shop.tick().checks == 1
    queue = Queue(QUEUE, connection=shop.services.queue.redis, serializer=JSONSerializer)
    before = queue.count

    jobs.check_links(str(shop.instance_id))

    assert queue.count == before
    shop.pass_time(timedelta(seconds=31))
    assert shop.tick().checks == 1, "a clock asks for it again, should they have died"


# -- Backfills -------------------------------------------------------------------------------------


def install_late(shop: Shop, after: timedelta = 10 * DAYS) -> None:
    """Only now do we hear of the shop; what was paid before lies outside of every sweep."""
    shop.pass_time(after)
    shop.deliver(only=lambda event: event.kind is Kind.APP_INSTALLED)


def test_a_new_installation_is_backfilled_beyond_what_sweeps_reach(shop: Shop) -> None:
    paid = {id_ for _ in range(3) for id_ in shop.pay(shop.link())}
    install_late(shop)

    shop.sweep()
    settle(shop)
    assert booked(shop) == set()
    shop.tick()
    shop.backfill()
    settle(shop)

    assert booked(shop) == paid
    row = shop.one("SELECT * FROM backfills")
    assert (row.reason, row.actor, row.payment_count) == ("installed", "automation", 3)
    assert row.finished_at is not None
    assert row.window_to - row.window_from > 80 * DAYS
    shop.tick()
    assert len(shop.rows("SELECT FROM backfills")) == 1, "once for each installation"


def test_a_backfill_of_no_days_reads_nothing(database_url: str, redis_url: str) -> None:
    with a_shop(database_url, redis_url, BACKFILL_DAYS="0") as shop:
        shop.pay(shop.link())
        install_late(shop)

        shop.tick()

        assert shop.rows("SELECT FROM backfills") == []
        assert shop.one("SELECT backfilled_at FROM app_instances").backfilled_at is not None


@pytest.mark.parametrize("page", range(7))
def test_a_backfill_whose_worker_dies_at_any_page_resumes_and_leaves_nothing_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 2)
    assert sum(load(shop.sandbox, Volume(500, 5, 1, 5), 1, [str(shop.instance_id)])) == 500
    install_late(shop)
    shop.tick()
    query = shop.services.wix.query_payments
    pages: list[int] = []

    def dying(self: Any, *arguments: Any, **more: Any) -> Iterator[list[Any]]:
        for one in query(*arguments, **more):
            if len(pages) == page:
                raise SystemExit("killed")
            pages.append(len(one))
            yield one

    with monkeypatch.context() as patched:
        patched.setattr(type(shop.services.wix), "query_payments", dying)
        patched.setattr(backfills, "postpone", die)
        with pytest.raises(SystemExit):
            shop.backfill()
    stood = shop.one("SELECT * FROM backfills")
    assert stood.lease_id is not None, "it died with the part in its hands"
    assert (stood.position_at > stood.window_from) == (page >= 2), "whole parts are not read again"
    shop.pass_time(timedelta(minutes=3))

    shop.backfill()
    settle(shop)

    assert len(booked(shop)) == 500
    assert shop.one("SELECT payment_count FROM backfills").payment_count == 500


def die(*arguments: Any) -> None:
    raise AssertionError("a killed worker gives nothing back")


def test_a_backfill_tells_how_far_it_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert sum(load(shop.sandbox, Volume(400, 4, 1, 5), 1, [str(shop.instance_id)])) == 400
    install_late(shop)
    shop.tick()

    def line() -> backfills.BackfillLine:
        with shop.services.database.begin() as connection:
            [found] = backfills.latest(connection, shop.instance_id, 10)
        return found

    waiting = line()
    assert (waiting.status, waiting.share_done) == ("waiting", 0)
    assert waiting.finishes_at(shop.services.now()) is None
    jobs.run_backfill(shop.services, shop.instance_id)
    shop.pass_time(timedelta(minutes=1))

    running = line()
    assert running.status == "running"
    assert 0 < running.share_done < 1
    assert running.payment_count in range(90, 101)
    eta = running.finishes_at(shop.services.now())
    assert eta is not None
    assert eta > shop.services.now()
    shop.backfill()
    assert (line().status, line().share_done, line().payment_count) == ("finished", 1, 400)


def test_a_cancelled_backfill_is_read_no_further(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert sum(load(shop.sandbox, Volume(300, 3, 1, 5), 1, [str(shop.instance_id)])) == 300
    install_late(shop)
    shop.tick()
    compare = staging.compare

    def meanwhile(*arguments: Any, **more: Any) -> staging.Compared:
        [row] = shop.rows("SELECT backfill_id FROM backfills")
        with shop.services.database.begin() as connection:
            assert backfills.cancel(connection, row.backfill_id, shop.services.now())
            assert not backfills.cancel(connection, row.backfill_id, shop.services.now())
        return compare(*arguments, **more)

    monkeypatch.setattr(staging, "compare", meanwhile)
    jobs.run_backfill(shop.services, shop.instance_id)

    row = shop.one("SELECT * FROM backfills")
    assert (row.due_at, row.payment_count, row.position_at) == (None, 0, row.window_from)
    assert shop.one("SELECT reason FROM reconciliation_runs").reason == "taken over or cancelled"
    shop.pass_time(timedelta(hours=1))
    assert shop.tick().backfills == 0


def test_a_time_in_which_nothing_was_swept_is_backfilled_when_it_outlasts_the_resends(shop: Shop) -> None:
    shop.deliver()
    shop.sweep()
    [payment_id] = shop.pay(shop.link())
    shop.pass_time(8 * DAYS)  # nothing of ours ran

    shop.sweep()
    settle(shop)
    assert booked(shop) == set()
    row = shop.one("SELECT * FROM backfills")
    assert row.reason == "downtime"
    shop.backfill()
    settle(shop)

    assert booked(shop) == {payment_id}
    shop.pass_time(timedelta(hours=1))
    shop.sweep()
    assert len(shop.rows("SELECT FROM backfills")) == 1


def test_a_shorter_time_without_sweeps_is_read_by_the_sweep(shop: Shop) -> None:
    shop.deliver()
    shop.sweep()
    [payment_id] = shop.pay(shop.link())
    shop.pass_time(timedelta(hours=47))

    shop.sweep()
    settle(shop)

    assert booked(shop) == {payment_id}
    assert shop.rows("SELECT FROM backfills") == []


def test_a_wix_that_is_away_postpones_a_backfill_where_it_stands(shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())
    install_late(shop)
    shop.tick()
    fault = shop.sandbox.faults.add({"kind": "status", "status": 503, "count": 100})

    jobs.run_backfill(shop.services, shop.instance_id)

    row = shop.one("SELECT * FROM backfills")
    assert (row.failures, row.finished_at, row.lease_id) == (1, None, None)
    assert row.due_at > shop.services.now()
    assert WixUnavailable.__name__ in shop.one("SELECT reason FROM reconciliation_runs").reason
    shop.sandbox.faults.remove(fault["id"])
    shop.pass_time(timedelta(hours=1))
    shop.backfill()
    settle(shop)
    assert booked(shop) == {payment_id}


def test_what_is_still_to_be_read_is_not_asked_for_twice(shop: Shop) -> None:
    shop.deliver()
    now = shop.services.now()

    def ask(since: timedelta, until: timedelta) -> UUID:
        with shop.services.database.begin() as connection:
            return backfills.request(
                connection,
                shop.instance_id,
                now - since,
                now - until,
                reason="requested",
                actor="ada",
                now=now,
            )

    first = ask(9 * DAYS, 3 * DAYS)

    assert ask(8 * DAYS, 4 * DAYS) == first
    assert ask(9 * DAYS, 2 * DAYS) != first
    shop.backfill()
    assert ask(8 * DAYS, 4 * DAYS) != first, "what was read may be read anew"


def test_a_removed_instance_is_not_backfilled_until_it_is_back(shop: Shop) -> None:
    shop.pay(shop.link())
    install_late(shop)
    shop.tick()
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE app_instances SET removed_at = now() + interval '20 days'"))
    shop.pass_time(timedelta(minutes=5))
    before = shop.calls

    assert shop.tick() == clock.Ticked()
    jobs.run_backfill(shop.services, shop.instance_id)

    assert shop.calls == before
    with shop.services.database.begin() as connection:
        assert operations.backlog(connection, shop.services.now()).open_backfills == 0
        connection.execute(text("UPDATE app_instances SET removed_at = NULL"))
    shop.backfill()
    assert shop.one("SELECT finished_at FROM backfills").finished_at is not None


def test_backfills_of_one_instance_come_one_after_the_other(shop: Shop) -> None:
    shop.deliver()
    now = shop.services.now()
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE app_instances SET backfilled_at = now()"))
        for day in (5, 9):
            backfills.request(
                *(connection, shop.instance_id, now - day * DAYS, now - (day - 1) * DAYS),
                reason="requested",
                actor="ada",
                now=now + timedelta(seconds=day),
            )
    shop.pass_time(timedelta(minutes=1))

    assert shop.tick().backfills == 1
    jobs.run_backfill(shop.services, shop.instance_id)

    rows = shop.rows("SELECT finished_at FROM backfills ORDER BY requested_at")
    assert [row.finished_at is not None for row in rows] == [True, False]
    assert shop.tick().backfills == 1
