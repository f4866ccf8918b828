"""What is due is a row; a lease brings it back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from processor.store import checks, operations, runs, sweeps
from processor.store.checks import Finished
from processor.store.database import Database
from tests.builders import INSTANCE, LINK, NOW
from tests.store.helpers import confirm, one, rows

LEASE = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def _confirmed(database: Database) -> None:
    confirm(database)


def request(database: Database, *link_ids: UUID) -> None:
    with database.begin() as connection:
        checks.request(connection, INSTANCE, link_ids, NOW)
        checks.drain(connection, NOW)


def claim(database: Database, now: datetime = NOW) -> checks.Lease:
    with database.begin() as connection:
        return checks.claim(connection, INSTANCE, now, LEASE)


def finish(
    database: Database, lease: checks.Lease, *, is_settled: bool = True, due_at: datetime | None = None
) -> None:
    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        finished = [Finished(one_claim, is_settled, due_at) for one_claim in lease.claims]
        checks.finish(connection, INSTANCE, lease, finished, run_id=run_id, now=NOW)


def test_requests_of_one_link_become_one_check_of_a_higher_generation(database: Database) -> None:
    request(database, LINK)
    request(database, LINK)
    request(database, LINK)

    row = one(database, "SELECT wanted, checked, due_at FROM link_checks")

    assert (row.wanted, row.checked, row.due_at) == (3, 0, NOW)
    assert rows(database, "SELECT FROM check_requests") == []


def test_a_request_about_an_instance_nobody_knows_stops_no_other(database: Database) -> None:
    with database.begin() as connection:
        checks.request(connection, uuid4(), [LINK], NOW)
        checks.request(connection, INSTANCE, [LINK], NOW)

    with database.begin() as connection:
        checks.drain(connection, NOW)

    assert [row.instance_id for row in rows(database, "SELECT instance_id FROM link_checks")] == [INSTANCE]
    assert one(database, "SELECT count(*) FROM check_requests").count == 0


def test_two_claimers_never_share_a_link(database: Database) -> None:
    request(database, *(UUID(int=number) for number in range(250)))

    with ThreadPoolExecutor(4) as pool:
        leases = list(pool.map(lambda _: claim(database), range(4)))

    claimed = [one_claim.payment_link_id for lease in leases for one_claim in lease.claims]
    assert len(claimed) == len(set(claimed)) == 250
    assert max(len(lease.claims) for lease in leases) == checks.LINKS_MAX


def test_a_finished_check_leaves_nothing_due(database: Database) -> None:
    request(database, LINK)

    finish(database, claim(database))

    row = one(database, "SELECT wanted, checked, due_at, lease_id FROM link_checks")
    assert (row.wanted, row.checked, row.due_at, row.lease_id) == (1, 1, None, None)


def test_a_request_that_lands_during_a_check_leaves_the_link_due(database: Database) -> None:
    request(database, LINK)
    lease = claim(database)

    request(database, LINK)
    finish(database, lease)

    row = one(database, "SELECT wanted, checked, due_at FROM link_checks")
    assert (row.wanted, row.checked, row.due_at) == (2, 1, NOW)


def test_what_a_dead_worker_held_is_claimed_again_when_its_lease_ends(database: Database) -> None:
    request(database, LINK)
    dead = claim(database)

    assert claim(database, NOW + LEASE / 2).claims == ()
    second = claim(database, NOW + LEASE * 1.01)

    assert [one_claim.payment_link_id for one_claim in second.claims] == [LINK]
    assert second.took_over == 1
    with database.begin() as connection:
        assert checks.still_held(connection, INSTANCE, dead) == set()
    finish(database, dead)
    assert one(database, "SELECT checked FROM link_checks").checked == 0


def test_a_link_that_keeps_killing_its_check_is_checked_alone(database: Database) -> None:
    request(database, LINK)
    now = NOW
    for _ in range(checks.STARTS_TOGETHER_MAX + 1):
        claim(database, now)
        now += LEASE * 10
    request(database, UUID(int=1), UUID(int=2))

    healthy = claim(database, now)
    alone = claim(database, now)

    assert {one_claim.payment_link_id for one_claim in healthy.claims} == {UUID(int=1), UUID(int=2)}
    assert [one_claim.payment_link_id for one_claim in alone.claims] == [LINK]


def test_a_postponed_check_stays_wanted_and_comes_back(database: Database) -> None:
    request(database, LINK)
    lease = claim(database)

    with database.begin() as connection:
        checks.postpone(connection, INSTANCE, lease, NOW + timedelta(seconds=30))

    assert claim(database).claims == ()
    assert len(claim(database, NOW + timedelta(seconds=31)).claims) == 1


def test_each_instance_with_due_links_is_enqueued_by_one_clock(database: Database) -> None:
    request(database, LINK)
    again_after = timedelta(seconds=30)

    def take(now: datetime) -> list[UUID]:
        with database.begin() as connection:
            return checks.take_instances_to_enqueue(connection, now, again_after)

    with ThreadPoolExecutor(4) as pool:
        taken = [found for found in pool.map(lambda _: take(NOW), range(4)) if found]

    assert taken == [[INSTANCE]]
    assert take(NOW + timedelta(seconds=29)) == []
    assert take(NOW + timedelta(seconds=31)) == [INSTANCE], "a lost job is enqueued again"


def test_an_unsettled_check_counts_its_attempts_and_remembers_since_when(database: Database) -> None:
    request(database, LINK)

    finish(database, claim(database), is_settled=False, due_at=NOW)
    finish(database, claim(database), is_settled=False, due_at=NOW)

    row = one(database, "SELECT attempt, unsettled_since FROM link_checks")
    assert (row.attempt, row.unsettled_since) == (2, NOW)
    finish(database, claim(database))
    assert one(database, "SELECT attempt, unsettled_since FROM link_checks").unsettled_since is None


def test_a_sweep_is_claimed_once_resumed_after_a_death_and_finished(database: Database) -> None:
    overlap = timedelta(days=2)

    def claimed(now: datetime) -> sweeps.Lease | None:
        with database.begin() as connection:
            return sweeps.claim(connection, INSTANCE, now, lease=LEASE, overlap=overlap)

    first = claimed(NOW)
    assert first is not None
    assert (first.window_from, first.window_to, first.position_at) == (NOW - overlap, NOW, NOW - overlap)
    assert claimed(NOW) is None
    with database.begin() as connection:
        assert sweeps.advance(connection, INSTANCE, first, NOW - timedelta(days=1), due_at=NOW)
        assert not sweeps.hold(connection, INSTANCE, first, NOW + LEASE), "it was given back"
    second = claimed(NOW)
    assert second is not None
    with database.begin() as connection:
        assert sweeps.hold(connection, INSTANCE, second, NOW + LEASE)

    resumed = claimed(NOW + LEASE * 2)

    assert resumed is not None
    assert (resumed.window_to, resumed.position_at) == (NOW, NOW - timedelta(days=1))
    with database.begin() as connection:
        assert not sweeps.advance(connection, INSTANCE, second, NOW, due_at=NOW)
        assert sweeps.finish(connection, INSTANCE, resumed, due_at=NOW + LEASE, now=NOW, overlap=overlap)
        assert not sweeps.finish(connection, INSTANCE, second, due_at=NOW + LEASE, now=NOW, overlap=overlap)
    row = one(database, "SELECT swept_to, window_from, lease_id FROM sweeps")
    assert (row.swept_to, row.window_from, row.lease_id) == (NOW, None, None)
    following = claimed(NOW + LEASE * 3)
    assert following is not None
    assert following.window_from == NOW - overlap


def test_a_window_asked_for_by_hand_leaves_no_gap_behind(database: Database) -> None:
    def swept(now: datetime) -> datetime | None:
        with database.begin() as connection:
            lease = sweeps.claim(connection, INSTANCE, now, lease=LEASE, overlap=timedelta(hours=50))
            assert lease is not None
            sweeps.finish(connection, INSTANCE, lease, due_at=now, now=now, overlap=timedelta(hours=50))
        return one(database, "SELECT swept_to FROM sweeps").swept_to  # type: ignore[no-any-return]

    first = NOW + timedelta(minutes=1)
    assert swept(first) == first
    later = NOW + timedelta(days=30)  # after an outage
    with database.begin() as connection:
        sweeps.request(connection, INSTANCE, later - timedelta(hours=1), later, later)
    assert swept(later) == first, "what lies between is still to be read"
    with database.begin() as connection:
        lease = sweeps.claim(connection, INSTANCE, later, lease=LEASE, overlap=timedelta(hours=50))
    assert lease is not None
    assert lease.window_from == first - timedelta(hours=50)


def test_runs_whose_worker_died_are_closed_as_abandoned(database: Database) -> None:
    with database.begin() as connection:
        runs.start(connection, INSTANCE, "check", NOW)
        runs.start(connection, INSTANCE, "check", NOW + timedelta(hours=1))

        closed = runs.abandon(connection, NOW + timedelta(minutes=1), NOW + timedelta(minutes=2))

    assert closed == 1
    found = rows(database, "SELECT status FROM reconciliation_runs ORDER BY started_at")
    assert [row.status for row in found] == ["abandoned", "running"]


def test_a_run_whose_worker_is_at_it_is_not_abandoned_however_long_it_takes(database: Database) -> None:
    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        runs.beat(connection, run_id, NOW + timedelta(hours=1))

        assert runs.abandon(connection, NOW + timedelta(minutes=59), NOW + timedelta(hours=1)) == 0
        assert runs.abandon(connection, NOW + timedelta(minutes=61), NOW + timedelta(hours=2)) == 1


def test_the_backlog_counts_what_waits_and_for_how_long(database: Database) -> None:
    request(database, LINK)
    with database.begin() as connection:
        checks.request(connection, INSTANCE, [uuid4()], NOW + timedelta(seconds=10))

    with database.begin() as connection:
        found = operations.backlog(connection, NOW + timedelta(seconds=60))

    assert (found.due_links, found.waiting_requests, found.held_events) == (1, 1, 0)
    assert found.oldest_seconds == pytest.approx(60)
