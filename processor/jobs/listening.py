"""Silence: instances from which no webhook comes, suspected by the clock and verified at Wix before anybody is told.

While our clock was away, so was perhaps everything of ours: it begins to listen when it comes back, and only payments
made since then can show that webhooks do not reach us. What was made before is still resent, and found by sweeps and
backfills.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy import Connection

from processor.config import RESEND_HORIZON_SECONDS
from processor.domain.alert import AlertKind
from processor.domain.silence import LOOK_MIN, TELLING, ask_again_after, look
from processor.errors import ConfigurationError, WixError
from processor.jobs.common import guid_of, wait_after
from processor.store import alerts, backfills, runs, silences, sweeps
from processor.store.silences import Ended, Looked, SilenceLease
from processor.wiring import Services
from processor.wix import wire

log = structlog.get_logger(__name__)

# What shows that webhooks do not reach us is on the first page. A second, should the first be of events that were
# received under another clock.
PAGES_MAX = 2
RESEND_HORIZON = timedelta(seconds=RESEND_HORIZON_SECONDS)
ACTOR = "automation"


def look_for_silence(services: Services, now: datetime, listening_since: datetime) -> int:
    """Look at every instance that is due, end silences and suspect new ones. Returns how many are suspected anew.

    listening_since: since when the clock has ticked without a break.
    """
    with services.database.begin() as connection:
        silences.listen(connection, now)
        found = silences.due(connection, now)
        looks = [
            look(
                one.pauses,
                last_event_at=one.last_event_at,
                known_since=one.known_since,
                listening_since=listening_since,
                now=now,
            )
            for one in found
        ]
        looked = [Looked(one, seen) for one, seen in zip(found, looks, strict=True)]
        silences.note_looks(connection, looked, now)
        ended = _end(connection, [one.silence_id for one in found if one.silence_id is not None], now)
        suspected = silences.suspect(connection, looked, now)
    _tell(ended)
    return suspected


def _end(connection: Connection, silence_ids: Collection[UUID], now: datetime) -> list[Ended]:
    """End those in which an event came, with what follows from it."""
    ended = silences.end(connection, silence_ids, now) if silence_ids else []
    for one in ended:
        if one.confirmed_at is None:
            continue
        alerts.tell(
            connection,
            AlertKind.WEBHOOKS_BACK,
            instance_id=one.instance_id,
            subject=str(one.instance_id),
            change=str(one.silence_id),
            document={
                "silent_since": one.silent_since.isoformat(),
                "ended_at": one.ended_at.isoformat(),
                "seconds": round((one.ended_at - one.silent_since).total_seconds()),
            },
            now=now,
        )
        if one.ended_at - one.silent_since > RESEND_HORIZON:
            # What it had lasted for when it was confirmed was asked for then, if that was as long.
            is_begun = one.confirmed_at - one.silent_since > RESEND_HORIZON
            since = one.confirmed_at if is_begun else one.silent_since
            _backfill(connection, one.instance_id, since, one.ended_at, now)
    return ended


def _tell(ended: Collection[Ended]) -> None:
    for one in ended:
        if one.confirmed_at is not None:
            log.info(
                "webhooks_back",
                instance_id=str(one.instance_id),
                silence_id=str(one.silence_id),
                silent_since=one.silent_since.isoformat(),
                seconds=round((one.ended_at - one.silent_since).total_seconds()),
            )


def run_listen(services: Services, instance_id: UUID) -> None:
    """Ask Wix for payments made while the instance was silent; with any of which it did not tell, people are told."""
    now = services.now()
    with services.database.begin() as connection:
        lease = silences.claim(
            connection, instance_id, now, lease=timedelta(seconds=services.settings.lease_seconds)
        )
        if lease is None:
            return
        ended = _end(connection, [lease.silence_id], now)
        since = max(lease.silent_since, lease.listening_since)
        # The clock came back after the silence was suspected.
        is_too_early = not ended and now - since < lease.patience
        if is_too_early:
            silences.postpone(connection, lease, due_at=since + lease.patience, is_failure=False)
    _tell(ended)
    if ended or is_too_early:
        return
    before = Counter(services.wix_responses)
    try:
        found = _untold(services, instance_id, since, now)
    except (WixError, ConfigurationError) as why:
        wait = wait_after(why, services, lease.failures)
        log.warning(
            "listen_postponed",
            instance_id=str(instance_id),
            silence_id=str(lease.silence_id),
            seconds=wait,
            why=str(why),
        )
        due_at = services.now() + timedelta(seconds=wait)
        spent = _spent(services, before)
        with services.database.begin() as connection:
            silences.postpone(connection, lease, due_at=due_at, requests=sum(spent.values()), is_failure=True)
            runs.count(connection, "wix_responses", spent)
        return
    spent = _spent(services, before)
    with services.database.begin() as connection:
        runs.count(connection, "wix_responses", spent)
        now = services.now()
        if found:
            # Locked in the order of the clock. Its end is worth to be known soon.
            silences.look_again(connection, instance_id, now + LOOK_MIN)
        ended = _end(connection, [lease.silence_id], now)
        is_confirmed = (
            _conclude(connection, instance_id, lease, found, sum(spent.values()), now) and found > 0
        )
    _tell(ended)
    if is_confirmed:
        log.warning(
            "webhooks_silent",
            instance_id=str(instance_id),
            silence_id=str(lease.silence_id),
            silent_since=lease.silent_since.isoformat(),
            usual_seconds=round(lease.patience.total_seconds()),
            payments=found,
        )


def _spent(services: Services, before: Counter[str]) -> dict[str, int]:
    spent = Counter(services.wix_responses)
    spent.subtract(before)
    return {status: number for status, number in spent.items() if number > 0}


def _untold(services: Services, instance_id: UUID, since: datetime, now: datetime) -> int:
    """How many payments made since then Wix lists of which no event told though it should have, in PAGES_MAX pages."""
    settling = timedelta(seconds=services.settings.settling_seconds)
    window = {"$gt": wire.instant_text(since), "$lte": wire.instant_text(now - max(settling, TELLING))}
    pages = services.wix.query_payments(
        instance_id, filter={"createdDate": window}, sort=[("createdDate", "ASC")], pages_max=PAGES_MAX + 1
    )
    for page in islice(pages, PAGES_MAX):
        listed = {payment_id for entity in page if (payment_id := guid_of(entity, "id")) is not None}
        with services.database.begin() as connection:
            untold = silences.untold(connection, instance_id, listed)
        if untold:
            return len(untold)
    return 0


def _conclude(
    connection: Connection, instance_id: UUID, lease: SilenceLease, found: int, requests: int, now: datetime
) -> bool:
    """Write the verdict, with what follows from it. False when the silence ended meanwhile, or was taken over."""
    is_written = silences.conclude(
        connection,
        lease,
        payments_found=found,
        requests=requests,
        due_at=now + ask_again_after(now - lease.silent_since),
        now=now,
    )
    if is_written and found:
        alerts.tell(
            connection,
            AlertKind.WEBHOOKS_SILENT,
            instance_id=instance_id,
            subject=str(instance_id),
            change=str(lease.silence_id),
            document={
                "silent_since": lease.silent_since.isoformat(),
                "usual_seconds": round(lease.patience.total_seconds()),
                "payments_found": found,
            },
            now=now,
        )
        if now - lease.silent_since > RESEND_HORIZON:
            _backfill(connection, instance_id, lease.silent_since, now, now)
        else:
            sweeps.request(connection, instance_id, lease.silent_since, now, now)
    return is_written


def _backfill(
    connection: Connection, instance_id: UUID, since: datetime, until: datetime, now: datetime
) -> None:
    """What no resend brings any more is read at Wix."""
    backfills.request(connection, instance_id, since, until, reason="silence", actor=ACTOR, now=now)
