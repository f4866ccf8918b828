"""Whatever dies or is away, the books end equal to what happened. Every part is a real process.

The tests share one system, each on a site of its own, and each proves that it goes on afterwards; see `Stage`.
"""

from __future__ import annotations

import redis

from processor import embedded
from processor.processes import wait_until
from tests.journeys.conftest import Journey


def test_a_worker_killed_in_the_middle_of_a_job_loses_nothing(journey: Journey) -> None:
    journey.break_("hang", seconds=5, path="payments/query", count=1)
    journey.trade()
    leased = "SELECT count(*) FROM link_checks WHERE instance_id = :site AND lease_id IS NOT NULL"
    wait_until(lambda: journey.count(leased) > 0, what="a job in the middle of its work", seconds=20)

    journey.system.worker.kill()
    assert journey.count(leased) > 0
    journey.system.worker.start()

    journey.await_books()


def test_a_web_server_killed_between_commit_and_answer_books_nothing_twice(journey: Journey) -> None:
    # Every payment event is held for a while inside its commit: the server dies with commits under way, and
    # the database finishes them although nobody is left to answer.
    with journey.database.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON webhook_events"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.kind = 'payment')"
            " EXECUTE FUNCTION linger()"
        )
    journey.trade(links=2, times=3)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    wait_until(lambda: journey.count(waiting) > 0, what="a commit under way", seconds=20)

    journey.system.web.kill()
    with journey.database.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER linger ON webhook_events")
        connection.exec_driver_sql("DROP FUNCTION linger")
    journey.system.web.start()
    journey.system.await_web()

    def is_all_delivered() -> bool:
        events = journey.control.get("events", instanceId=str(journey.instance_id))["events"]
        stands = {one["status"] for one in events}
        return stands <= {"delivered", "unsubscribed"}  # of Wix's other products

    wait_until(is_all_delivered, what="Wix's resends", seconds=40)
    journey.await_books()
    attempts = journey.control.get("deliveries", instanceId=str(journey.instance_id))["deliveries"]
    assert any(attempt["status"] != 200 for attempt in attempts), "some delivery had no answer"
    assert any(attempt["attempt"] > 1 and attempt["status"] == 200 for attempt in attempts)


def test_redis_away_for_the_whole_story_delays_but_loses_nothing(
    journey: Journey, durable_servers: embedded.Servers
) -> None:
    durable_servers.valkey.stop()

    journey.trade()
    payments = "SELECT count(*) FROM payments WHERE instance_id = :site"
    wait_until(lambda: journey.count(payments) == 6, what="the payments", seconds=30)
    assert journey.count(f"{payments} AND match_state IS NOT NULL") == 0

    durable_servers.valkey.start()
    journey.await_books()


def test_an_emptied_redis_loses_nothing(journey: Journey, durable_servers: embedded.Servers) -> None:
    with redis.Redis.from_url(durable_servers.redis_url) as client:
        for _ in range(3):
            journey.trade(links=2, times=1)
            client.flushall()

    journey.await_books()


def test_a_restarted_database_loses_nothing(journey: Journey, durable_servers: embedded.Servers) -> None:
    journey.trade(links=2)
    durable_servers.postgres.stop()
    journey.pay(journey.link(), times=3)  # answered 503, resent
    durable_servers.postgres.start()
    journey.trade(links=1)
    durable_servers.postgres.kill()
    durable_servers.postgres.start()

    journey.await_books()


def test_a_stopped_clock_delays_but_loses_nothing(journey: Journey) -> None:
    assert journey.system.clock.stop() == 0
    journey.break_("drop", eventType="payment_link_payment_created")

    journey.trade()
    assert journey.count("SELECT count(*) FROM payments WHERE instance_id = :site") == 0

    journey.system.clock.start()
    journey.await_books()


def test_when_every_webhook_is_lost_polling_recovers_every_payment(journey: Journey) -> None:
    journey.control.post("deliveries/idle")
    journey.break_("drop")

    journey.trade(links=3, times=4)
    journey.await_books()

    assert (
        journey.count("SELECT count(*) FROM payments WHERE instance_id = :site AND first_origin = 'poll'")
        == 12
    )
    assert (
        journey.count("SELECT count(*) FROM webhook_events WHERE instance_id = :site AND kind = 'payment'")
        == 0
    )


def test_duplicates_reordering_and_delays_are_ordinary(journey: Journey) -> None:
    for kind, more in (("duplicate", {}), ("reorder", {}), ("delay", {"seconds": 0.5})):
        journey.break_(kind, probability=0.4, **more)

    journey.trade(links=3, times=5)
    journey.control.delete("faults")
    journey.control.post("deliveries/flush")

    journey.await_books()


def test_a_graceful_stop_takes_no_time_and_ends_with_success(journey: Journey) -> None:
    journey.trade(links=1)

    assert [child.stop() for child in (journey.system.web, journey.system.worker)] == [0, 0]

    journey.pay(journey.link())
    journey.system.web.start()
    journey.system.worker.start()
    journey.await_books()
