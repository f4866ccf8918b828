"""What the page of one payment shows: its timeline, what differs between versions, and what Wix sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from processor.domain.payment import FACTS, Payment, SeenPayment
from processor.domain.refund import RefundStatus
from processor.errors import Unreadable
from processor.store.screens.payment import Event, Story, Telling
from processor.web.pages.masking import hidden, masked, taken_apart
from processor.wiring import Services
from processor.wix import wire
from processor.wix.client import TooManyPages
from processor.wix.parse import parse_payment
from processor.wix.signature import decode_segment

PAGES_MAX = 20  # of a link's payments, when one is not found by its date


# -- Differences -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that two versions state differently. before, after: None where one does not state it."""

    name: str
    before: Any
    after: Any


def changes(before: Payment, after: Payment) -> list[Change]:
    """What differs between two versions, the revision first."""
    return [
        Change(name, old, new)
        for name in ("revision", *FACTS)
        if (old := getattr(before, name)) != (new := getattr(after, name))
    ]


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact as we have it and as Wix has it. differs: both state it, differently."""

    name: str
    ours: Any
    theirs: Any
    differs: bool


def compared(ours: Payment, theirs: Payment) -> list[Fact]:
    """Every fact that either states, side by side."""
    found = []
    for name in ("revision", *FACTS):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine is not None or other is not None:
            found.append(Fact(name, mine, other, mine is not None and other is not None and mine != other))
    return found


# -- The timeline ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """A version that was told, and what it changed against the one told before; None for the first."""

    telling: Telling
    changes: list[Change] | None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a payment. kind: event, telling, check, step, refund or state. about: it itself.

    told: the version that an event brought. tone: good, warn, bad, note or quiet.
    """

    at: datetime
    kind: str
    tone: str
    about: Any
    told: Told | None = None
    of: Any = None


_REFUNDS: dict[str, str] = {
    RefundStatus.SUCCEEDED: "warn",
    RefundStatus.REVERSED: "bad",
    RefundStatus.FAILED: "quiet",
}
_VERDICTS = {"new": "good", "newer": "good", "same": "quiet", "stale": "quiet", "conflict": "bad"}


def timeline(story: Story) -> list[Moment]:
    """Everything that happened, the newest first."""
    told: list[Told] = []
    for telling in story.tellings:
        before = told[-1].telling.facts if told else None
        told.append(Told(telling, None if before is None else changes(before, telling.facts)))
    by_event = {one.telling.event_id: one for one in told if one.telling.event_id is not None}
    found: list[Moment] = []
    shown: set[UUID] = set()
    for event in story.events:
        row = event.row
        shown.add(row.event_id)
        is_odd = bool(event.others or row.conflict_count or row.status == "unreadable")
        brought = by_event.get(row.event_id)
        tone = "bad" if is_odd else _VERDICTS[brought.telling.verdict] if brought else "quiet"
        found.append(Moment(row.received_at, "event", tone, event, brought))
    for one in told:
        if one.telling.event_id not in shown:
            tone = "note" if one.telling.origin == "poll" else _VERDICTS[one.telling.verdict]
            run = story.runs.get(one.telling.run_id) if one.telling.run_id else None
            found.append(Moment(one.telling.told_at, "telling", tone, one.telling, one, run))
    for difference, steps in story.discrepancies:
        for step in steps:
            tone = "good" if step.state in ("resolved", "written_off") else "bad" if step.run_id else "warn"
            found.append(Moment(step.at, "step", tone, step, None, difference))
    found += [
        Moment(one.occurred_at, "refund", _REFUNDS.get(one.status or "", "note"), one)
        for one in story.refunds
    ]
    if story.payment.matched_at is not None:
        tone = "bad" if story.payment.match_state == "discrepant" else "good"
        found.append(Moment(story.payment.matched_at, "state", tone, story.payment))
    if story.check is not None and story.check.last_checked_at is not None:
        run = story.runs.get(story.check.last_run_id) if story.check.last_run_id else None
        found.append(Moment(story.check.last_checked_at, "check", "quiet", story.check, None, run))
    return sorted(found, key=lambda one: one.at, reverse=True)


# -- What Wix sent ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """The body of an event. decoded: as JSON, masked unless asked otherwise; None when there is nothing to read.

    token: verbatim, None unless it was asked for or when it is no longer kept. is_kept: whether it is.
    """

    event: Event
    decoded: str | None
    token: str | None
    is_kept: bool


def sent(event: Event, *, personal: bool) -> Sent:
    """What an event's token says. personal: unmasked, and the token itself."""
    if event.token is None:
        return Sent(event, None, None, False)
    try:
        claims = wire.decode_json(decode_segment(event.token.split(".")[1].encode()))
    except (wire.NotJson, ValueError, IndexError):
        return Sent(event, None, event.token if personal else None, True)
    shown = taken_apart(claims) if personal else masked(claims)
    return Sent(event, pretty(shown), event.token if personal else None, True)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def buyer_fields(buyer: dict[str, Any] | None, *, personal: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is kept of a buyer, by block and field; masked unless asked otherwise."""
    if not buyer:
        return []
    shown = buyer if personal else hidden(buyer)
    return [(block, list(_flat(fields, ""))) for block, fields in shown.items()]


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for inner, one in value.items():
                yield from _flat(one, f"{name}: {inner}" if name else inner)
        case list():
            for number, one in enumerate(value, start=1):
                yield from _flat(one, f"{name} {number}")
        case None | "":
            pass
        case _:
            yield name, value if isinstance(value, str) else json.dumps(value)


# -- What Wix says now -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Theirs:
    """What Wix lists of a payment now. seen: None when it lists none of that id, or when it cannot be read.

    everything: of it, masked. reason: why it cannot be read. is_unsure: the link has more payments than were looked at.
    is_crowded: no more calls of Wix may be taken for it now.
    """

    seen: SeenPayment | None = None
    everything: str | None = None
    reason: str | None = None
    is_unsure: bool = False
    is_crowded: bool = False


def ask(services: Services, ours: Payment, may_call: Callable[[], bool]) -> Theirs:
    """Ask Wix for a payment. may_call: asked before each call. Raises WixError, ConfigurationError.

    A payment's id is no documented filter; its link and its creation date, which never changes, are. One that is not
    there under its date is looked for among all payments of its link.
    """
    if ours.created_at is not None:
        second = timedelta(seconds=1)
        span = {
            "$gte": wire.instant_text(ours.created_at - second),
            "$lte": wire.instant_text(ours.created_at + second),
        }
        found = _listed(services, ours, {"createdDate": span}, may_call)
        if found != Theirs():
            return found
    return _listed(services, ours, {}, may_call)


def _listed(services: Services, ours: Payment, more: dict[str, Any], may_call: Callable[[], bool]) -> Theirs:
    asked = {"paymentLinkId": {"$in": [str(ours.payment_link_id)]}, **more}
    pages = services.wix.query_payments(ours.instance_id, asked, pages_max=PAGES_MAX)
    try:
        while True:
            if not may_call():
                return Theirs(is_crowded=True)
            page = next(pages, None)
            if page is None:
                return Theirs()
            for entity in page:
                if isinstance(entity, dict) and str(entity.get("id")).lower() == str(ours.payment_id):
                    return _read(entity, ours)
    except TooManyPages:
        return Theirs(is_unsure=True)


def _read(entity: dict[str, Any], ours: Payment) -> Theirs:
    everything = pretty(masked(entity))
    try:
        return Theirs(parse_payment(entity, ours.instance_id), everything)
    except Unreadable as why:
        return Theirs(None, everything, why.reason)
