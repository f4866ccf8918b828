"""When no webhook comes: is that usual for this shop at this time of its week? Pure.

Only events of payments are listened to. A payment told of late or never is what silence costs, it is what Wix can be
asked about, and each type of event has a subscription of its own: that of links may work while that of payments does
not.

How long silence is usual is seen in the shop's own past, at the same time of the week: in each of the last WEEKS weeks
the longest pause that held at that time, or an hour before or after it. So nights, weekends and days off that come
every week are pauses and not silence, a shop that is busy by day is missed within two hours by day, and a change to or
from daylight saving time makes no difference. Of three weeks or more the second longest pause counts: one outage nobody
knew of, or one holiday, must not make us patient for a month. Weeks in which a silence was confirmed do not count.

A suspicion costs a call to Wix and troubles nobody: people hear of a silence only once Wix lists a payment made in it.
So it is rather raised once too often a week than a day too late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WEEK = timedelta(days=7)
WEEKS = 4
WEEKS_MIN = 2  # with less of a past, nothing is known to be usual
AROUND = (timedelta(hours=-1), timedelta(0), timedelta(hours=1))
FACTOR = 1.5  # by how much a pause may be longer than it usually is
PATIENCE_MIN = timedelta(hours=2)
PATIENCE_MAX = timedelta(days=7)
# Wix sends what was not taken again after 1 min and after 10 more (Wix docs, Webhook Resend Policy, read 2026-11). A
# younger payment may well be told of by one of these.
TELLING = timedelta(minutes=15)
LOOK_MIN = timedelta(minutes=1)
LOOK_MAX = timedelta(minutes=30)
ASK_MIN = timedelta(minutes=30)
ASK_MAX = timedelta(days=1)
# Processes stamp events by clocks of their own. What is further ahead came under one that has been set back since.
AHEAD_MAX = timedelta(minutes=5)


def moments(now: datetime) -> tuple[tuple[int, datetime], ...]:
    """The times of the past to look at: (1 for last week to WEEKS, moment). now: aware, UTC."""
    return tuple((week, now - week * WEEK + hour) for week in range(1, WEEKS + 1) for hour in AROUND)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time. until: None while it goes on."""

    since: datetime
    until: datetime | None


def pauses(
    received: Sequence[datetime], now: datetime, *, known_since: datetime, silences: Sequence[Span] = ()
) -> tuple[timedelta | None, ...]:
    """By week, the longest pause that held around this time of it; None where that is not known.

    received: first receipts, sorted. known_since: from when events could come. silences: those that were confirmed. A
    pause is followed for PATIENCE_MAX to either side. `store.silences.due` finds the same in the database.
    """
    longest: dict[int, timedelta | None] = {}
    for week, moment in moments(now):
        place = bisect_right(received, moment)
        since = max(moment - PATIENCE_MAX, known_since)
        if place and received[place - 1] > since:
            since = received[place - 1]
        until = min(moment + PATIENCE_MAX, now)
        if place < len(received) and received[place] < until:
            until = received[place]
        is_known = moment >= known_since and not any(
            one.since < until and (one.until is None or one.until > since) for one in silences
        )
        before = longest.get(week, timedelta(0))
        longest[week] = max(before, until - since) if is_known and before is not None else None
    return tuple(longest[week] for week in range(1, WEEKS + 1))


def patience(pauses: Sequence[timedelta | None]) -> timedelta:
    """How long silence is usual, from the longest pause of each week; None where it is not known."""
    known = sorted((one for one in pauses if one is not None), reverse=True)
    if len(known) < WEEKS_MIN:
        return PATIENCE_MAX
    usual = known[1] if len(known) > WEEKS_MIN else known[0]
    return min(max(FACTOR * usual, PATIENCE_MIN), PATIENCE_MAX)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. silent_since: since when we listen in vain. look_at: when it is worth to look again."""

    silent_since: datetime
    patience: timedelta
    is_suspect: bool
    look_at: datetime


def look(
    pauses: Sequence[timedelta | None],
    *,
    last_event_at: datetime | None,
    known_since: datetime,
    listening_since: datetime,
    now: datetime,
) -> Look:
    """Whether an instance has been silent for longer than it usually is.

    last_event_at: last first receipt, None for never. known_since: from when events could come. listening_since: since
    when we listen without a break; what was before that is our own silence, and counts for nothing.
    """
    silent_since = max(known_since, listening_since, last_event_at or known_since)
    usual = patience(pauses)
    is_suspect = now - silent_since >= usual
    if is_suspect:
        return Look(silent_since, usual, is_suspect, now + LOOK_MAX)
    # Nothing can be unusual before; after that, patience is another at another time of the week.
    earliest = max(silent_since + PATIENCE_MIN, now + LOOK_MIN)
    look_at = min(max(silent_since + usual, earliest), max(earliest, now + LOOK_MAX))
    return Look(silent_since, usual, is_suspect, min(look_at, now + PATIENCE_MIN + AHEAD_MAX))


def ask_again_after(silent_for: timedelta) -> timedelta:
    """How long after Wix listed nothing it is asked again: half as long as the silence has lasted.

    So webhooks that stop while a shop is quiet are missed a little later, and a silent week costs a dozen calls.
    """
    return min(max(silent_for / 2, ASK_MIN), ASK_MAX)
