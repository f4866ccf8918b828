"""Silence from suspicion to alarm and back, against a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from processor import clock, findings, jobs, wiring
from processor.domain.silence import PATIENCE_MAX
from processor.jobs import listening
from processor.metrics import exposition
from processor.store import silences
from processor.wix import wire
from tests.shop import Shop, a_shop

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as built:
        yield built


def hear(shop: Shop, *received: datetime) -> None:
    """Events of payments that no longer matter, first received then."""
    shop.rows(
        """INSERT INTO webhook_events (event_id, instance_id, event_type, kind, entity_id, received_at,
            last_received_at, status, is_anonymization, content_digest, token_digest)
        SELECT gen_random_uuid(), :instance_id, 't', 'payment', gen_random_uuid(), at, at, 'recorded', false,
            sha256(''), sha256('')
        FROM unnest(CAST(:received AS timestamptz[])) AS t (at) RETURNING 1""",
        instance_id=shop.instance_id,
        received=list(received),
    )


def paid_for_weeks(shop: Shop, gap: timedelta = HOUR / 2, since: datetime | None = None) -> datetime:
    """The app was installed long ago, and payments were told of at that gap until now. Returns the last receipt."""
    shop.deliver()
    now = shop.services.now()
    since = since or now - timedelta(days=60)
    shop.rows("UPDATE app_instances SET first_seen_at = :at, installed_at = :at RETURNING 1", at=since)
    shop.rows("UPDATE webhook_events SET received_at = :at, last_received_at = :at RETURNING 1", at=since)
    received = [now - n * gap for n in range(int(min(now - since, timedelta(days=60)) / gap))]
    hear(shop, *received)
    listened(shop, since, now)
    return received[0]


def listened(shop: Shop, since: datetime, until: datetime) -> None:
    """The clock ticked from then until then."""
    shop.rows(
        "INSERT INTO heartbeats (process, beat_at, steady_since) VALUES ('clock', :until, :since) RETURNING 1",
        since=since,
        until=until,
    )


def pay(shop: Shop, link_id: UUID) -> UUID:
    """A buyer pays at the time of the shop, and nobody tells us."""
    [payment_id] = shop.pay(link_id)
    document = shop.sandbox.documents.get("payment", str(payment_id))
    assert document is not None
    document["entity"]["createdDate"] = wire.instant_text(shop.services.now())
    shop.sandbox.documents.put("payment", str(payment_id), document)
    return payment_id


def listen_for(shop: Shop, length: timedelta) -> None:
    """Time passes while the clock ticks and a worker does what it enqueues.

    Ticks that find nothing to do, but that the clock still ticks, are passed over.
    """
    until = shop.services.now() + length
    while True:
        if shop.tick().listens:
            jobs.run_listen(shop.services, shop.instance_id)
        now = shop.services.now()
        [row] = shop.rows(
            """SELECT LEAST(min(look_at), (SELECT min(due_at) FROM silences)) AS at
            FROM listening JOIN app_instances USING (instance_id) WHERE status = 'installed'"""
        )
        if now >= until:
            return
        skip(shop, min(max(row.at or until, now + 30 * SECOND), until) - now)


def away(shop: Shop, length: timedelta) -> None:
    """Time passes without a clock."""
    shop.pass_time(length)


def skip(shop: Shop, length: timedelta) -> None:
    """Time passes in which a clock ticks, and nothing is seen of it."""
    shop.pass_time(length)
    shop.rows("UPDATE heartbeats SET beat_at = :now RETURNING 1", now=shop.services.now())


def silence(shop: Shop) -> Any:
    return shop.one("SELECT * FROM silences")


def verdicts(shop: Shop) -> list[str]:
    return [row.verdict for row in shop.rows("SELECT verdict FROM silences ORDER BY silent_since")]


def actions(logs: list[Any]) -> list[str]:
    """What was said of silence."""
    return [line["event"] for line in logs if line["event"].startswith("webhooks_")]


def told(shop: Shop) -> list[str]:
    """Kinds of the alerts about silence."""
    return [
        row.kind
        for row in shop.rows("SELECT kind FROM alerts WHERE kind LIKE 'webhooks%' ORDER BY at, alert_id")
    ]


def test_a_busy_shop_that_is_silent_for_two_hours_while_it_is_paid_is_raised_once(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    payment_id = pay(shop, link_id)

    with capture_logs() as logs:
        listen_for(shop, 90 * MINUTE)
        assert shop.rows("SELECT FROM silences") == []
        listen_for(shop, 20 * MINUTE)
        found = silence(shop)
        listen_for(shop, HOUR)

    assert (found.verdict, found.silent_since, found.payments_found) == ("silent", last, 1)
    assert last + 2 * HOUR <= found.suspected_at <= found.confirmed_at <= last + 2 * HOUR + 10 * MINUTE
    assert (found.times_verified, found.wix_requests) == (1, 1)
    assert actions(logs) == ["webhooks_silent"]
    assert verdicts(shop) == ["silent"]
    assert told(shop) == ["webhooks_silent"]
    alert = shop.one("SELECT instance_id, severity, change, document FROM alerts")
    assert (alert.instance_id, alert.severity, alert.change) == (
        shop.instance_id,
        "error",
        str(found.silence_id),
    )
    assert alert.document == {
        "silent_since": last.isoformat(),
        "usual_seconds": 7_200,
        "payments_found": 1,
    }
    swept = shop.one("SELECT window_from, due_at <= :now AS is_due FROM sweeps", now=shop.services.now())
    assert (swept.window_from <= last, swept.is_due) == (True, True)
    shop.sweep()
    shop.check()
    assert shop.one("SELECT payment_id FROM payments").payment_id == payment_id


def test_a_busy_shop_that_is_silent_and_not_paid_troubles_nobody(shop: Shop) -> None:
    paid_for_weeks(shop)

    with capture_logs() as logs:
        listen_for(shop, 7 * HOUR + 30 * MINUTE)

    found = silence(shop)
    assert (found.verdict, found.ended_at, found.confirmed_at) == ("quiet", None, None)
    assert found.times_verified == 4, "after 2 hours, 3, 4.5 and 7"
    assert found.due_at > shop.services.now()
    assert (actions(logs), told(shop)) == ([], [])


def test_webhooks_that_stop_while_a_shop_is_quiet_are_missed_at_the_next_question(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 2 * HOUR + 10 * MINUTE)
    assert verdicts(shop) == ["quiet"]

    pay(shop, link_id)
    listen_for(shop, 80 * MINUTE)

    assert verdicts(shop) == ["silent"]


def test_a_payment_that_may_yet_be_told_of_is_no_silence(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 2 * HOUR - 10 * MINUTE)
    pay(shop, link_id)

    listen_for(shop, 12 * MINUTE)

    assert verdicts(shop) == ["quiet"]


def test_a_payment_whose_event_came_is_no_silence(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    payment_id = pay(shop, link_id)
    shop.deliver(payment_id)
    # As it looks when Wix's clock goes before ours: the payment is younger than the receipt of its event.
    shop.rows(
        "UPDATE webhook_events SET received_at = :at WHERE entity_id = :id RETURNING 1",
        at=shop.services.now() - 19 * MINUTE,
        id=payment_id,
    )

    listen_for(shop, 2 * HOUR + 10 * MINUTE)

    assert verdicts(shop) == ["quiet"]


def test_a_quiet_shop_is_waited_for_a_week(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop, gap=timedelta(days=5))
    listen_for(shop, HOUR)
    pay(shop, link_id)
    skip(shop, PATIENCE_MAX - 2 * HOUR)
    listen_for(shop, 50 * MINUTE)
    assert verdicts(shop) == []

    listen_for(shop, 20 * MINUTE)

    found = silence(shop)
    assert (found.verdict, found.silent_since) == ("silent", last)
    assert found.patience_seconds == PATIENCE_MAX.total_seconds()
    asked = shop.one("SELECT reason, actor, window_from, window_to FROM backfills WHERE reason = 'silence'")
    assert (asked.reason, asked.actor, asked.window_from) == ("silence", "automation", last)
    assert asked.window_to == found.confirmed_at, "resends are over for what is older"


def test_a_pause_that_comes_every_day_is_no_silence(shop: Shop) -> None:
    shop.deliver()
    now = shop.services.now()
    since = now - timedelta(days=60)
    shop.rows("UPDATE app_instances SET first_seen_at = :at, installed_at = :at RETURNING 1", at=since)
    # Paid for twelve hours each day, of which the last are over now.
    listened(shop, since, now)
    hear(shop, *(now - day * 24 * HOUR - n * HOUR / 2 for day in range(40) for n in range(24)))

    listen_for(shop, 11 * HOUR)

    assert verdicts(shop) == []
    listen_for(shop, 4 * HOUR)
    assert verdicts(shop) == ["quiet"], "the next day began without it"


def test_it_ends_with_the_next_event(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    listen_for(shop, 2 * HOUR)
    payment_id = pay(shop, link_id)

    with capture_logs() as logs:
        shop.deliver(payment_id)
        back = shop.one("SELECT received_at FROM webhook_events WHERE entity_id = :id", id=payment_id)
        listen_for(shop, 5 * MINUTE)

    found = silence(shop)
    assert (found.ended_at, found.end_reason, found.verdict) == (back.received_at, "event", "silent")
    assert told(shop) == ["webhooks_silent", "webhooks_back"]
    seconds = round((back.received_at - last).total_seconds())
    assert [line["seconds"] for line in logs if line["event"] == "webhooks_back"] == [seconds]
    alert = shop.one("SELECT document, severity FROM alerts WHERE kind = 'webhooks_back'")
    assert (alert.document["seconds"], alert.severity) == (seconds, "informational")
    assert shop.rows("SELECT FROM backfills WHERE reason = 'silence'") == [], "resends and the sweep cover it"
    shop.sweep()
    shop.pass_time()
    shop.check()
    line = shop.one("SELECT * FROM report.silences")
    assert (line.verdict, line.missed_payments, line.told_late) == ("silent", 1, 0)


def test_a_silence_that_outlasts_resends_is_read_once_it_ends(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    listen_for(shop, 2 * HOUR)
    skip(shop, timedelta(hours=50))
    listen_for(shop, 10 * MINUTE)
    assert shop.rows("SELECT FROM backfills WHERE reason = 'silence'") == []

    payment_id = pay(shop, link_id)
    shop.deliver(payment_id)
    listen_for(shop, 2 * MINUTE)

    asked = shop.one("SELECT window_from, window_to FROM backfills WHERE reason = 'silence'")
    assert (asked.window_from, asked.window_to) == (last, silence(shop).ended_at)


def test_two_clocks_and_two_workers_raise_it_once(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    listen_for(shop, 2 * HOUR - 24 * MINUTE)
    shop.pass_time(4 * MINUTE)

    barrier = Barrier(2)

    def work(_: int) -> int:
        services = wiring.build(shop.services.settings, role="worker", now=shop.services.now)
        try:
            barrier.wait()
            enqueued = clock.tick(services).listens
            barrier.wait()
            jobs.run_listen(services, shop.instance_id)
        finally:
            services.close()
        return enqueued

    with capture_logs() as logs, ThreadPoolExecutor(2) as pool:
        enqueued = sum(pool.map(work, range(2)))

    assert enqueued == 1
    assert actions(logs) == told(shop) == ["webhooks_silent"]
    assert (silence(shop).verdict, silence(shop).times_verified) == ("silent", 1)


def test_while_wix_is_away_nothing_is_said_and_it_is_asked_again(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    shop.sandbox.faults.add({"kind": "status", "status": 503})

    with capture_logs() as logs:
        listen_for(shop, 2 * HOUR)

    found = silence(shop)
    assert (found.verdict, found.verified_at) == ("unverified", None)
    assert found.failures >= 2
    assert (actions(logs), told(shop)) == ([], [])
    postponed = [line for line in logs if line["event"] == "listen_postponed"]
    assert [line["seconds"] for line in postponed][:2] == [5, 30]
    shop.sandbox.faults.remove(None)
    shop.pass_time(4 * MINUTE)
    listen_for(shop, 20 * MINUTE)
    assert (silence(shop).verdict, silence(shop).failures) == ("silent", 0)


def test_a_site_that_removed_the_app_is_not_asked_about(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    shop.rows("UPDATE app_instances SET removed_at = :now RETURNING 1", now=shop.services.now())
    before = shop.calls

    listen_for(shop, 5 * HOUR)

    assert (verdicts(shop), shop.calls) == ([], before)


def test_an_outage_in_the_past_makes_nobody_patient(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop)
    week = timedelta(days=7)
    shop.rows(
        "DELETE FROM webhook_events WHERE received_at BETWEEN :since AND :until RETURNING 1",
        since=last - week - 20 * HOUR,
        until=last - week + 20 * HOUR,
    )
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)

    listen_for(shop, 2 * HOUR)

    assert (silence(shop).verdict, silence(shop).patience_seconds) == ("silent", 7_200)


def test_while_we_were_away_nobody_was_silent(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    away(shop, 9 * HOUR)

    with capture_logs() as logs:
        listen_for(shop, 2 * HOUR - 10 * MINUTE)
        assert verdicts(shop) == [], "it has listened for less than two hours"
        listen_for(shop, 20 * MINUTE)

    assert verdicts(shop) == ["quiet"], "what was made while we were away is still resent"
    assert actions(logs) == []
    pay(shop, link_id)
    listen_for(shop, 90 * MINUTE)
    assert verdicts(shop) == ["silent"]


def test_a_clock_that_was_away_after_a_suspicion_listens_anew_before_wix_is_asked(shop: Shop) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)
    listen_for(shop, 90 * MINUTE)
    for _ in range(5):  # no worker runs
        shop.pass_time(4 * MINUTE)
        shop.tick()
    assert verdicts(shop) == ["unverified"]
    away(shop, 9 * HOUR)
    shop.tick()
    back = shop.services.now()
    before = shop.calls

    jobs.run_listen(shop.services, shop.instance_id)

    found = silence(shop)
    assert (found.verdict, found.failures, shop.calls) == ("unverified", 0, before)
    assert back + 2 * HOUR - MINUTE <= found.due_at <= back + 2 * HOUR
    listen_for(shop, 2 * HOUR + 5 * MINUTE)
    assert verdicts(shop) == ["quiet"]


def test_an_event_that_comes_while_wix_is_asked_ends_the_suspicion(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    payment_id = pay(shop, link_id)
    ask = listening._untold

    def slowly(*given: Any) -> int:
        found = ask(*given)
        shop.deliver(payment_id)
        return found

    monkeypatch.setattr(listening, "_untold", slowly)

    with capture_logs() as logs:
        listen_for(shop, 2 * HOUR)

    assert (silence(shop).verdict, silence(shop).end_reason) == ("unverified", "event")
    assert (actions(logs), told(shop)) == ([], [])


def test_a_worker_that_died_while_it_asked_is_replaced(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    link_id = shop.link()
    paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)
    pay(shop, link_id)

    def die(*_: Any) -> int:
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(listening, "_untold", die)
        with pytest.raises(SystemExit):
            listen_for(shop, 2 * HOUR)
    listen_for(shop, 10 * MINUTE)

    assert verdicts(shop) == ["silent"]


def test_what_cannot_be_read_at_wix_is_not_counted(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    paid_for_weeks(shop)
    monkeypatch.setattr(
        shop.services.wix, "query_payments", lambda *_, **__: iter([[{"id": "seven"}, {}, "odd"]])
    )

    listen_for(shop, 2 * HOUR + 10 * MINUTE)

    assert verdicts(shop) == ["quiet"]


def test_at_most_two_pages_are_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    paid_for_weeks(shop)
    read: list[int] = []

    def pages(*_: Any, **__: Any) -> Iterator[list[Any]]:
        while True:
            read.append(1)
            told = shop.rows("SELECT entity_id FROM webhook_events WHERE kind = 'payment' LIMIT 100")
            yield [{"id": str(row.entity_id)} for row in told]

    monkeypatch.setattr(shop.services.wix, "query_payments", pages)

    listen_for(shop, 2 * HOUR + 10 * MINUTE)

    assert (len(read), verdicts(shop)) == (2, ["quiet"])


def test_metrics_and_doctor_say_who_is_silent(shop: Shop) -> None:
    link_id = shop.link()
    last = paid_for_weeks(shop)
    listen_for(shop, 20 * MINUTE)

    def metric() -> bytes:
        told = exposition(shop.services.database, shop.services.now())
        [line] = [line for line in told.splitlines() if line.startswith(b"processor_silent_instances")]
        return line

    def finding() -> findings.Finding:
        [found] = [one for one in findings.database(shop.services) if one.name == "webhooks"]
        return found

    assert (metric(), finding().is_ok) == (b"processor_silent_instances 0.0", True)
    pay(shop, link_id)
    listen_for(shop, 2 * HOUR)

    assert metric() == b"processor_silent_instances 1.0"
    found = finding()
    assert found.is_ok is False
    assert str(shop.instance_id) in found.detail
    assert last.isoformat(timespec="minutes") in found.detail


def test_a_job_for_an_instance_without_a_silence_does_nothing(shop: Shop) -> None:
    shop.deliver()
    before = shop.calls

    jobs.run_listen(shop.services, shop.instance_id)
    jobs.run_listen(shop.services, uuid4())

    assert shop.calls == before


def test_a_thousand_instances_cost_the_clock_next_to_nothing(shop: Shop) -> None:
    shop.rows(
        """INSERT INTO app_instances (instance_id, first_seen_at, installed_at)
        SELECT gen_random_uuid(), :at, :at FROM generate_series(1, 1000) RETURNING 1""",
        at=shop.services.now() - timedelta(days=60),
    )
    looked: list[int] = []
    for _ in range(8):
        shop.tick()
        looked.append(shop.one("SELECT count(*) AS n FROM listening WHERE looked_at IS NOT NULL").n)
        shop.pass_time(timedelta(seconds=1))

    assert looked[:5] == [silences.LOOKS_MAX * n for n in range(1, 6)]
    assert looked[5:] == [1_000] * 3
    with shop.services.database.begin() as connection:
        assert silences.due(connection, shop.services.now()) == [], "none is due again"
