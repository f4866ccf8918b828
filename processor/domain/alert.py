"""Alerts: what persons are told without asking, each change once, and how many messages that takes. Pure.

An alert tells of a change of state, never of a state: a discrepancy that stays open is told of when it opens, and then
by digests. What timing explains is no discrepancy before the settling time is over, so nothing is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from processor.domain.discrepancy import Severity, Standing, Step, StepKind


class AlertKind(StrEnum):
    """Every change that is told. The texts beside them are in `TITLES`."""

    DISCREPANCY_OPENED = "discrepancy_opened"
    DISCREPANCY_REOPENED = "discrepancy_reopened"
    DISCREPANCY_WORSENED = "discrepancy_worsened"
    DISCREPANCY_RESOLVED = "discrepancy_resolved"
    DISCREPANCY_WRITTEN_OFF = "discrepancy_written_off"
    WRITE_OFF_PROPOSED = "write_off_proposed"
    WEBHOOKS_SILENT = "webhooks_silent"
    WEBHOOKS_BACK = "webhooks_back"
    WIX_UNREACHABLE = "wix_unreachable"
    WIX_REACHABLE = "wix_reachable"
    BACKFILL_FINISHED = "backfill_finished"
    RULES_UNREADABLE = "rules_unreadable"


class Channel(StrEnum):
    """A way by which alerts leave the service. The log is none: a line of it is not delivered."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class DeliveryKind(StrEnum):
    """What one message holds."""

    ALERT = "alert"
    GROUP = "group"
    DIGEST = "digest"
    TEST = "test"


TITLES: dict[AlertKind, str] = {
    AlertKind.DISCREPANCY_OPENED: "A discrepancy was opened.",
    AlertKind.DISCREPANCY_REOPENED: "A discrepancy that was closed is open again.",
    AlertKind.DISCREPANCY_WORSENED: "A discrepancy that could have an innocent cause has none any more.",
    AlertKind.DISCREPANCY_RESOLVED: "A discrepancy was resolved.",
    AlertKind.DISCREPANCY_WRITTEN_OFF: "A discrepancy was written off.",
    AlertKind.WRITE_OFF_PROPOSED: "A write-off waits for a second person.",
    AlertKind.WEBHOOKS_SILENT: "Webhooks of a site do not arrive.",
    AlertKind.WEBHOOKS_BACK: "Webhooks of a site arrive again.",
    AlertKind.WIX_UNREACHABLE: "Wix cannot be asked about a site, so nothing of it is reconciled.",
    AlertKind.WIX_REACHABLE: "Wix can be asked about a site again.",
    AlertKind.BACKFILL_FINISHED: "A backfill is finished.",
    AlertKind.RULES_UNREADABLE: "The rules in force are of another release: nothing is tolerated under them.",
}

REMEDIES: dict[AlertKind, str] = {
    AlertKind.WRITE_OFF_PROPOSED: "Another person approves or rejects it.",
    AlertKind.WEBHOOKS_SILENT: (
        "See in the app's Webhooks page whether the subscription stands and its address is right. Payments are found by"
        " polls meanwhile."
    ),
    AlertKind.WIX_UNREACHABLE: (
        "Run `processor doctor`: it tells credentials, permissions and network apart. Webhooks are stored meanwhile."
    ),
    AlertKind.RULES_UNREADABLE: "Upgrade every process, or propose rules that this release can read.",
}
"""What to do about those that are about no single discrepancy; that of a discrepancy is its type's advice."""

SEVERITIES: dict[AlertKind, Severity] = {
    AlertKind.DISCREPANCY_OPENED: Severity.ERROR,
    AlertKind.DISCREPANCY_REOPENED: Severity.ERROR,
    AlertKind.DISCREPANCY_WORSENED: Severity.ERROR,
    AlertKind.DISCREPANCY_RESOLVED: Severity.INFORMATIONAL,
    AlertKind.DISCREPANCY_WRITTEN_OFF: Severity.INFORMATIONAL,
    AlertKind.WRITE_OFF_PROPOSED: Severity.ERROR,
    AlertKind.WEBHOOKS_SILENT: Severity.ERROR,
    AlertKind.WEBHOOKS_BACK: Severity.INFORMATIONAL,
    AlertKind.WIX_UNREACHABLE: Severity.ERROR,
    AlertKind.WIX_REACHABLE: Severity.INFORMATIONAL,
    AlertKind.BACKFILL_FINISHED: Severity.INFORMATIONAL,
    AlertKind.RULES_UNREADABLE: Severity.ERROR,
}
"""How grave each is unless it says otherwise. Error: a person must act."""

ENDS: frozenset[AlertKind] = frozenset((AlertKind.WEBHOOKS_BACK, AlertKind.WIX_REACHABLE))
"""Those that end what was told at once, and so are told at once themselves, though nobody must act."""

STANDS_OPEN: frozenset[AlertKind] = frozenset(
    (AlertKind.DISCREPANCY_OPENED, AlertKind.DISCREPANCY_REOPENED, AlertKind.DISCREPANCY_WORSENED)
)
"""Those after which whoever was told believes a discrepancy to be open."""


CLOSES: frozenset[AlertKind] = frozenset((AlertKind.DISCREPANCY_RESOLVED, AlertKind.DISCREPANCY_WRITTEN_OFF))
"""Those after which it is closed."""

REPEAT_AFTER = timedelta(days=1)
"""What flaps is told once in this time: a discrepancy that was told to be open, and is open again, is no news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One change. Kind, subject and change together are its identity: it is told once, however often it is raised.

    subject: what it is about, such as a discrepancy's id. change: which of its changes, such as the number of the step.
    document: what whoever is told gets, as JSON can hold it; never personal, amounts as text. instance_id: None when it
    is of no single instance.
    """

    kind: AlertKind
    instance_id: UUID | None
    subject: str
    change: str
    severity: Severity
    document: dict[str, Any] = field(default_factory=dict)


def told_by(before: Standing, steps: Sequence[Step]) -> tuple[AlertKind, Step] | None:
    """What the steps of one discrepancy change for a person, and the step that does. None when nothing.

    before: where it stood; of one just opened, where its opening left it. Steps of one transaction are one change: what
    is opened and tolerated at once was never open.
    """
    if not steps:
        return None
    after, last = steps[-1].after, steps[-1]
    is_new = steps[0].kind is StepKind.OPENED
    if after.is_closed:
        if is_new or before.state is after.state:
            return None
        is_written_off = last.kind is StepKind.WRITE_OFF_APPROVED
        return (AlertKind.DISCREPANCY_WRITTEN_OFF if is_written_off else AlertKind.DISCREPANCY_RESOLVED), last
    for step in steps:
        match step.kind:
            case StepKind.OPENED:
                return AlertKind.DISCREPANCY_OPENED, step
            case StepKind.REOPENED:
                return AlertKind.DISCREPANCY_REOPENED, step
            case StepKind.WRITE_OFF_PROPOSED:
                return AlertKind.WRITE_OFF_PROPOSED, step
            case StepKind.CHANGED:
                if (before.difference.severity, after.difference.severity) == (
                    Severity.INFORMATIONAL,
                    Severity.ERROR,
                ):
                    return AlertKind.DISCREPANCY_WORSENED, step
            case _:
                pass
    return None


def severity_of(kind: AlertKind, step: Step) -> Severity:
    """How grave the alert of a step is: that a discrepancy stands open is as grave as the discrepancy."""
    return step.after.difference.severity if kind in STANDS_OPEN else SEVERITIES[kind]


# -- How many messages that takes ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pace:
    """messages_max: of one channel within one gap. gather: how long the first alert waits for company."""

    messages_max: int
    gather: timedelta


PACES: dict[Channel, Pace] = {
    # A program reads alerts one by one, as long as they are few.
    Channel.WEBHOOK: Pace(20, timedelta()),
    # A person reads one mail. What one check finds is written in several transactions, a little apart.
    Channel.MAIL: Pace(1, timedelta(seconds=15)),
}


class Making(StrEnum):
    """What is made of the alerts that wait for a channel."""

    NOTHING_YET = "nothing_yet"
    ONE_EACH = "one_each"
    ONE_FOR_ALL = "one_for_all"


def making(pace: Pace, *, waiting: int, oldest_age: timedelta, recent: int) -> Making:
    """How many messages are made of `waiting` alerts. recent: messages made within the last gap.

    As many as fit are made at once, one for each alert. When more alerts wait than messages may still be made, all go
    together in one, with counts and the first few; when none may be made, they wait for the end of the gap.
    """
    free = pace.messages_max - recent
    if waiting == 0 or free <= 0 or oldest_age < pace.gather:
        return Making.NOTHING_YET
    return Making.ONE_EACH if waiting <= free else Making.ONE_FOR_ALL


def period_end(now: datetime, seconds: float) -> datetime:
    """When the last digest's period ended: the last multiple of `seconds` in UTC, so that no clock has to be kept."""
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, now.tzinfo)


# -- What follows from an attempt ------------------------------------------------------------------

GIVE_UP_AFTER = timedelta(days=1)
WAITS = (10, 60, 300, 900, 3_600)
"""Seconds until the next attempt, by how many there were; the last for all further ones."""
WAIT_SECONDS_MAX = 21_600
"""The longest that a receiver may put us off at once: it has a day altogether."""


def wait_seconds(failures: int, asked_seconds: float | None) -> float:
    """Seconds until the next attempt. failures: in a row, with the last. asked_seconds: None when no time was named."""
    ladder = WAITS[min(failures, len(WAITS)) - 1]
    return min(max(ladder, asked_seconds or 0.0), WAIT_SECONDS_MAX)
