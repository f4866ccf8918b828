"""Silences in the database: what is looked at, what begins and ends, and who verifies."""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor.domain.silence import LOOK_MIN, PATIENCE_MAX, Look, Span, look, pauses
from processor.store import operations, silences
from processor.store.database import Database
from processor.store.silences import Looked
from tests.builders import INSTANCE, NOW
from tests.store.helpers import install, one, rows

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LEASE = timedelta(minutes=2)
LOST = timedelta(seconds=30)
LONG_AGO = NOW - 60 * DAY


def hear(
    database: Database, received: Iterable[datetime], instance_id: UUID = INSTANCE, kind: str = "payment"
) -> None:
    """Events of that kind, first received then."""
    with database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO webhook_events (event_id, instance_id, event_type, kind, entity_id, received_at,
                    last_received_at, status, is_anonymization, content_digest, token_digest)
                SELECT gen_random_uuid(), :instance_id, 't', :kind, gen_random_uuid(), at, at, 'recorded', false,
                    sha256(''), sha256('')
                FROM unnest(CAST(:received AS timestamptz[])) AS t (at)"""),
            {"instance_id": instance_id, "kind": kind, "received": list(received)},
        )


def known(database: Database, instance_id: UUID = INSTANCE, since: datetime = LONG_AGO) -> None:
    """An instance that has been installed for long."""
    install(database, instance_id, since)
    rows(
        database,
        "UPDATE app_instances SET first_seen_at = :since WHERE instance_id = :id RETURNING 1",
        since=since,
        id=instance_id,
    )
    rows(
        database,
        "UPDATE webhook_events SET received_at = :since, last_received_at = :since WHERE instance_id = :id"
        " RETURNING 1",
        since=since,
        id=instance_id,
    )


def busy(database: Database, instance_id: UUID = INSTANCE, until: datetime = NOW) -> None:
    """One that has been paid every hour for five weeks, until then."""
    known(database, instance_id)
    hear(database, [until - n * HOUR for n in range(35 * 24)], instance_id)


def look_at_all(
    database: Database, now: datetime, listening_since: datetime = LONG_AGO
) -> list[silences.Ended]:
    """What the clock does."""
    with database.begin() as connection:
        silences.listen(connection, now)
        found = silences.due(connection, now)
        looked = [
            Looked(
                listened,
                look(
                    listened.pauses,
                    last_event_at=listened.last_event_at,
                    known_since=listened.known_since,
                    listening_since=listening_since,
                    now=now,
                ),
            )
            for listened in found
        ]
        silences.note_looks(connection, looked, now)
        ended = silences.end(connection, [one.silence_id for one in found if one.silence_id], now)
        silences.suspect(connection, looked, now)
    return ended


def claimed(database: Database, now: datetime) -> silences.SilenceLease | None:
    with database.begin() as connection:
        return silences.claim(connection, INSTANCE, now, lease=LEASE)


def concluded(database: Database, lease: silences.SilenceLease, now: datetime, found: int) -> bool:
    with database.begin() as connection:
        return silences.conclude(
            connection, lease, payments_found=found, requests=1, due_at=now + HOUR, now=now
        )


def suspected(database: Database) -> datetime:
    """A busy shop that was silent for two hours and a bit, as of the moment that is returned."""
    busy(database)
    look_at_all(database, NOW)
    now = NOW + 2 * HOUR + timedelta(minutes=6)
    look_at_all(database, now)
    return now


def confirmed(database: Database) -> datetime:
    now = suspected(database)
    lease = claimed(database, now)
    assert lease is not None
    with database.begin() as connection:
        silences.look_again(connection, INSTANCE, now + LOOK_MIN)
    assert concluded(database, lease, now, 3)
    return now


# -- What is known of an instance ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_the_database_finds_the_pauses_that_the_pure_rule_finds(database: Database, seed: int) -> None:
    dice = random.Random(seed)
    since = NOW - dice.choice([60, 24, 12, 3]) * DAY
    known(database, since=since)
    # Now and then nothing for days; some events are of the moments themselves.
    received = [since + dice.random() ** 2 * (NOW - since) for _ in range(dice.choice([0, 3, 40, 200]))] + [
        at for week in (7, 14) if (at := NOW - week * DAY) > since
    ]
    hear(database, received)
    hear(database, [since + dice.random() * (NOW - since) for _ in range(50)], kind="link")
    spans = [Span(at, at + 5 * HOUR) for at in dice.sample(received, min(2, len(received)))]
    for span in spans:
        a_silence(database, silent_since=span.since, ended_at=span.until, end_reason="event")

    with database.begin() as connection:
        silences.listen(connection, NOW)
        [found] = silences.due(connection, NOW)

    heard = sorted(received)
    assert found.known_since == since
    assert found.last_event_at == (heard[-1] if heard else None)
    assert found.pauses == pauses(heard, NOW, known_since=since, silences=spans)


def a_silence(database: Database, instance_id: UUID = INSTANCE, **changes: Any) -> UUID:
    """A confirmed silence as a row."""
    values = {
        "silence_id": uuid4(),
        "instance_id": instance_id,
        "silent_since": NOW - HOUR,
        "suspected_at": NOW,
        "ended_at": None,
        "end_reason": None,
        **changes,
    }
    rows(
        database,
        """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
            verified_at, confirmed_at, payments_found, ended_at, end_reason)
        VALUES (:silence_id, :instance_id, :silent_since, 7200, :suspected_at, 'silent', :suspected_at,
            :suspected_at, 1, :ended_at, :end_reason) RETURNING 1""",
        **values,
    )
    return UUID(str(values["silence_id"]))


def test_only_installed_instances_are_looked_at(database: Database) -> None:
    removed, unconfirmed = uuid4(), uuid4()
    known(database)
    known(database, removed)
    hear(database, [NOW], unconfirmed)
    rows(
        database,
        "UPDATE app_instances SET removed_at = :now WHERE instance_id = :id RETURNING 1",
        now=NOW,
        id=removed,
    )
    rows(
        database,
        "INSERT INTO app_instances (instance_id, first_seen_at) VALUES (:id, :now) RETURNING 1",
        id=unconfirmed,
        now=LONG_AGO,
    )

    with database.begin() as connection:
        silences.listen(connection, NOW)
        found = silences.due(connection, NOW)

    assert [listened.instance_id for listened in found] == [INSTANCE]


def test_events_of_links_are_no_sign_of_payments(database: Database) -> None:
    busy(database)
    hear(database, [NOW + n * HOUR / 4 for n in range(1, 12)], kind="link")

    look_at_all(database, NOW + 3 * HOUR)

    assert one(database, "SELECT silent_since FROM silences").silent_since == NOW


def test_very_many_events_of_links_are_not_read_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(database)
    hear(database, [NOW + n * timedelta(seconds=1) for n in range(1, silences.EVENTS_MAX + 2)], kind="link")

    with database.begin() as connection:
        silences.listen(connection, NOW + HOUR)
        [found] = silences.due(connection, NOW + HOUR)

    assert found.last_event_at is None, "taken for a shop that says nothing of payments"
    assert found.pauses == (HOUR,) * 4


def test_an_instance_that_is_heard_is_left_alone_until_it_could_be_silent(database: Database) -> None:
    busy(database)

    look_at_all(database, NOW)

    assert one(database, "SELECT look_at, patience_seconds, last_event_at FROM listening") == (
        NOW + 2 * HOUR,
        7_200,
        NOW,
    )
    with database.begin() as connection:
        assert silences.due(connection, NOW + 2 * HOUR - timedelta(seconds=1)) == []
        assert len(silences.due(connection, NOW + 2 * HOUR)) == 1


def test_very_many_instances_are_looked_at_in_turn(database: Database) -> None:
    rows(
        database,
        """INSERT INTO app_instances (instance_id, first_seen_at, installed_at)
        SELECT gen_random_uuid(), :at, :at FROM generate_series(1, 250) RETURNING 1""",
        at=NOW,
    )

    for expected in (50, 0):
        look_at_all(database, NOW)
        assert one(database, "SELECT count(*) AS n FROM listening WHERE looked_at IS NULL").n == expected


def test_two_clocks_share_the_instances(database: Database) -> None:
    for _ in range(6):
        busy(database, uuid4())
    now = NOW + 3 * HOUR
    barrier = Barrier(2)

    def tick() -> int:
        with database.begin() as connection:
            silences.listen(connection, now)
        barrier.wait()
        with database.begin() as connection:
            found = silences.due(connection, now, limit=3)
            barrier.wait()
            looks = [Looked(listened, Look(NOW, 2 * HOUR, True, now + HOUR)) for listened in found]
            silences.note_looks(connection, looks, now)
            return silences.suspect(connection, looks, now)

    with ThreadPoolExecutor(2) as pool:
        began = [future.result() for future in [pool.submit(tick) for _ in range(2)]]

    assert began == [3, 3]
    assert one(database, "SELECT count(*) AS n FROM silences").n == 6


# -- Begin and end ---------------------------------------------------------------------------------


def test_a_silence_is_one_row_however_often_it_is_looked_at(database: Database) -> None:
    now = suspected(database)
    for minutes in range(0, 300, 31):
        look_at_all(database, now + timedelta(minutes=minutes))

    row = one(database, "SELECT * FROM silences")
    assert (row.silent_since, row.last_event_at, row.suspected_at) == (NOW, NOW, now)
    assert (row.verdict, row.due_at, row.ended_at, row.patience_seconds) == ("unverified", now, None, 7_200)


def test_a_silence_ends_with_the_first_event_after_it(database: Database) -> None:
    now = confirmed(database)
    back = now + timedelta(minutes=7)
    hear(database, [back, back + timedelta(minutes=1)])

    [ended] = look_at_all(database, back + timedelta(minutes=2))

    assert (ended.silent_since, ended.ended_at, ended.confirmed_at, ended.payments_found) == (
        NOW,
        back,
        now,
        3,
    )
    assert one(database, "SELECT end_reason, due_at FROM silences") == ("event", None)
    assert look_at_all(database, back + timedelta(minutes=5)) == []
    look_at_all(database, back + 4 * HOUR)
    since = rows(database, "SELECT silent_since FROM silences ORDER BY silent_since")
    assert [row.silent_since for row in since] == [NOW, back + timedelta(minutes=1)]


def test_an_instance_that_is_silent_is_looked_at_every_minute(database: Database) -> None:
    now = confirmed(database)

    look_at_all(database, now + LOOK_MIN)

    assert one(database, "SELECT look_at FROM listening").look_at == now + 2 * LOOK_MIN


def test_a_silence_ends_with_the_removal_of_the_app(database: Database) -> None:
    now = confirmed(database)
    rows(database, "UPDATE app_instances SET removed_at = :now RETURNING 1", now=now)

    assert look_at_all(database, now + HOUR) == [], "nothing is back"

    assert one(database, "SELECT ended_at, end_reason FROM silences") == (now + HOUR, "removed")
    install(database, at=now + 2 * HOUR)
    look_at_all(database, now + 5 * HOUR)
    assert one(database, "SELECT count(*) AS n FROM silences").n == 1, "installed anew, it has no past"


def test_a_week_with_a_confirmed_silence_says_nothing_of_what_is_usual(database: Database) -> None:
    now = confirmed(database)
    hear(database, [now + DAY + n * HOUR for n in range(7 * 24)])
    look_at_all(database, now + DAY)

    with database.begin() as connection:
        connection.execute(text("UPDATE listening SET look_at = :now"), {"now": now})
        [found] = silences.due(connection, now + 7 * DAY)

    assert found.pauses == (None, HOUR, HOUR, HOUR)


# -- Clocks ----------------------------------------------------------------------------------------


def beat(database: Database, at: datetime) -> datetime:
    with database.begin() as connection:
        return operations.beat(connection, operations.CLOCK, at)


def test_a_clock_listens_since_its_last_break(database: Database) -> None:
    minute = timedelta(minutes=1)

    assert [beat(database, NOW + n * minute) for n in (0, 1, 5)] == [NOW] * 3
    assert beat(database, NOW + 10 * minute) == NOW, "restarted in five minutes"
    assert beat(database, NOW + 16 * minute) == NOW + 16 * minute
    assert beat(database, NOW + 16 * minute - timedelta(seconds=20)) == NOW + 16 * minute - timedelta(
        seconds=20
    )


def test_a_clock_that_is_set_forward_and_back_listens_anew(database: Database) -> None:
    beat(database, NOW)

    assert beat(database, NOW + 400 * DAY) == NOW + 400 * DAY
    assert beat(database, NOW + timedelta(seconds=1)) == NOW + timedelta(seconds=1)


def test_the_release_before_beats_beside_us(database: Database) -> None:
    rows(database, "INSERT INTO heartbeats (process, beat_at) VALUES ('clock', :at) RETURNING 1", at=NOW)

    assert beat(database, NOW + timedelta(seconds=1)) == NOW + timedelta(seconds=1)
    rows(database, "UPDATE heartbeats SET beat_at = :at RETURNING 1", at=NOW + timedelta(seconds=2))
    assert beat(database, NOW + timedelta(seconds=3)) == NOW + timedelta(seconds=1)


def test_what_a_fast_clock_wrote_makes_nobody_deaf(database: Database) -> None:
    ahead = NOW + 400 * DAY
    busy(database)
    hear(database, [ahead])
    look_at_all(database, ahead)  # and the next look lies behind that
    a_silence(database, silent_since=ahead, suspected_at=ahead)
    now = NOW + timedelta(minutes=2)

    look_at_all(database, now)

    assert one(database, "SELECT end_reason, ended_at FROM silences") == ("clock", ahead)
    assert one(database, "SELECT last_event_at FROM listening").last_event_at == NOW
    look_at_all(database, NOW + 3 * HOUR)
    assert one(database, "SELECT silent_since FROM silences WHERE ended_at IS NULL").silent_since == NOW


def test_an_instance_of_the_future_is_listened_to_as_if_known_for_long(database: Database) -> None:
    known(database, since=NOW + 400 * DAY)

    with database.begin() as connection:
        silences.listen(connection, NOW)
        [found] = silences.due(connection, NOW)

    assert found.known_since == NOW - PATIENCE_MAX


# -- Verification ----------------------------------------------------------------------------------


def test_each_suspicion_is_given_to_one_clock_and_again_when_its_job_was_lost(database: Database) -> None:
    now = suspected(database)

    def take(at: datetime) -> list[UUID]:
        with database.begin() as connection:
            return silences.take_due(connection, at, LOST)

    assert take(now) == [INSTANCE]
    assert take(now) == []
    assert take(now + timedelta(minutes=1)) == [INSTANCE]
    assert claimed(database, now + timedelta(minutes=1)) is not None
    assert take(now + timedelta(minutes=2)) == [], "a worker has it"
    assert take(now + timedelta(minutes=4)) == [INSTANCE], "that died"
    # Enqueued under a clock since set back.
    rows(
        database,
        "UPDATE silences SET lease_id = NULL, lease_until = NULL, enqueued_at = :at RETURNING 1",
        at=now + DAY,
    )
    assert take(now + timedelta(minutes=5)) == [INSTANCE]


def test_one_worker_verifies_until_its_lease_runs_out(database: Database) -> None:
    now = suspected(database)
    first = claimed(database, now)
    assert first is not None
    assert claimed(database, now) is None

    second = claimed(database, now + LEASE + timedelta(seconds=1))

    assert second is not None
    assert not concluded(database, first, now, 3), "taken over"
    assert one(database, "SELECT verdict FROM silences").verdict == "unverified"
    assert concluded(database, second, now, 0)
    assert one(database, "SELECT verdict, due_at, times_verified, wix_requests FROM silences") == (
        "quiet",
        now + HOUR,
        1,
        1,
    )


def test_what_is_confirmed_is_not_asked_about_again(database: Database) -> None:
    now = confirmed(database)

    assert claimed(database, now + DAY) is None
    with database.begin() as connection:
        assert silences.take_due(connection, now + DAY, LOST) == []
        assert silences.silent_now(connection) == silences.SilentInstances(1, INSTANCE, NOW)


def test_a_verdict_on_a_silence_that_ended_meanwhile_is_not_written(database: Database) -> None:
    now = suspected(database)
    lease = claimed(database, now)
    assert lease is not None
    hear(database, [now])
    rows(database, "UPDATE listening SET look_at = :now RETURNING 1", now=now)
    assert len(look_at_all(database, now)) == 1

    assert not concluded(database, lease, now, 3)

    assert one(database, "SELECT verdict, confirmed_at FROM silences") == ("unverified", None)
    with database.begin() as connection:
        assert silences.silent_now(connection).number == 0


def test_a_wix_that_is_away_is_asked_again_and_the_verdict_stays(database: Database) -> None:
    now = suspected(database)
    lease = claimed(database, now)
    assert lease is not None
    with database.begin() as connection:
        silences.postpone(connection, lease, due_at=now + HOUR, requests=2, is_failure=True)

    row = one(database, "SELECT verdict, due_at, failures, wix_requests, lease_id FROM silences")
    assert row == ("unverified", now + HOUR, 1, 2, None)
    again = claimed(database, now + HOUR)
    assert again is not None
    assert again.failures == 1


def test_a_worker_without_any_clock_knows_of_nobody_who_listened(database: Database) -> None:
    now = suspected(database)

    lease = claimed(database, now)

    assert lease is not None
    assert lease.listening_since == now


def test_of_payments_those_are_untold_of_which_no_event_told(database: Database) -> None:
    busy(database)
    told = one(database, "SELECT entity_id FROM webhook_events WHERE kind = 'payment' LIMIT 1").entity_id
    never = uuid4()

    with database.begin() as connection:
        assert silences.untold(connection, INSTANCE, [told, never]) == {never}
        assert silences.untold(connection, uuid4(), [told]) == {told}
        assert silences.untold(connection, INSTANCE, []) == set()
