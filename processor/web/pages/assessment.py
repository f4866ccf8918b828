"""Whether the books are right, in a sentence for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from processor.web.pages import formats

CURRENCIES_MAX = 3  # named in the sentence; the table beside it has all


class Mood(StrEnum):
    """How it looks: a class of the stylesheet."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    NOTE = "note"


class About(StrEnum):
    """What a sentence speaks of."""

    OPEN = "open"
    INFORMATIONAL = "informational"
    CLOCK = "clock"
    INSTANCES = "instances"
    HELD = "held"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Instances that something is wrong with, and since when with the first of them."""

    instances: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What is known of the books.

    open: discrepancies without a decision, without the informational, which may have an innocent cause; at_risk:
    (amount, currency) of those that have one; and the same of informational ones. waiting: payment links that
    changed and were not compared with Wix since; waiting_since: when the first of them was due, None while none is.
    Both numbers may be the least there are: is_open_cut, is_waiting_cut. stalled_since: when the clock was last
    heard of, None while it runs, or never did. unreachable: Wix cannot be asked about them. silent: Wix lists
    payments of theirs of which no webhook told. held: events of instances that Wix has not vouched for. is_empty:
    nothing was ever booked.
    """

    open: int = 0
    is_open_cut: bool = False
    at_risk: Sequence[tuple[Decimal, str]] = ()
    informational: int = 0
    informational_at_risk: Sequence[tuple[Decimal, str]] = ()
    waiting: int = 0
    is_waiting_cut: bool = False
    waiting_since: datetime | None = None
    stalled_since: datetime | None = None
    unreachable: Trouble | None = None
    silent: Trouble | None = None
    held: int = 0
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing to say of the books. about: what it speaks of, None when of nothing that could be shown."""

    mood: Mood
    words: str
    about: About | None = None


def assess(
    books: Books, now: datetime, *, late_after: timedelta, at: Callable[[datetime], str]
) -> list[Sentence]:
    """Whether the books are right, first what matters most; never empty.

    late_after: how long a check may be due before that is worth a word. at: writes a time.
    """
    said = list(_troubles(books, now, late_after, at))
    if said:
        return said
    if books.is_empty:
        return [
            Sentence(
                Mood.NOTE,
                "Nothing is booked yet: the first webhook of a payment, or the first sweep, does so.",
            )
        ]
    if books.waiting:
        links = _count(books.waiting, "payment link", books.is_waiting_cut)
        verb = "is" if books.waiting == 1 else "are"
        words = f"The books are right; {links} {verb} being compared with Wix."
        return [Sentence(Mood.GOOD, words, About.WAITING)]
    return [Sentence(Mood.GOOD, "The books are right: every payment is booked as Wix lists it.")]


def _troubles(
    books: Books, now: datetime, late_after: timedelta, at: Callable[[datetime], str]
) -> Iterator[Sentence]:
    if books.open:
        what = _count(books.open, "discrepancy", books.is_open_cut)
        verb = "needs" if books.open == 1 else "need"
        words = f"{what}{_at_risk(books.at_risk)} {verb} a decision."
        yield Sentence(Mood.BAD, words[:1].upper() + words[1:], About.OPEN)
    if books.stalled_since is not None:
        yield Sentence(
            Mood.BAD,
            f"Nothing has been reconciled since {at(books.stalled_since)}: the clock, which starts every check, does"
            " not run.",
            About.CLOCK,
        )
    if books.unreachable is not None:
        yield Sentence(
            Mood.WARN,
            f"Wix cannot be asked about {_count(books.unreachable.instances, 'instance')}, not since"
            f" {at(books.unreachable.since)}: what came after that is booked, but not reconciled.",
            About.INSTANCES,
        )
    if books.silent is not None:
        yield Sentence(
            Mood.WARN,
            f"Webhooks of {_count(books.silent.instances, 'instance')} have not arrived since"
            f" {at(books.silent.since)}: the payments are booked by polling.",
            About.INSTANCES,
        )
    if books.held:
        verb, whose = ("is", "its") if books.held == 1 else ("are", "their")
        yield Sentence(
            Mood.WARN,
            f"{_count(books.held, 'event')} {verb} held and not booked, until Wix vouches for {whose} instance.",
            About.HELD,
        )
    if books.waiting and books.waiting_since is not None and now - books.waiting_since > late_after:
        links = _count(books.waiting, "payment link", books.is_waiting_cut)
        verb = "waits" if books.waiting == 1 else "wait"
        yield Sentence(
            Mood.WARN,
            f"The books are right as far as they were checked; {links} {verb} to be compared with Wix, for"
            f" {formats.span(now - books.waiting_since)} by now.",
            About.WAITING,
        )
    if books.informational:
        what = _count(books.informational, "discrepancy", books.is_open_cut)
        verb = "is" if books.informational == 1 else "are"
        words = (
            f"{what}{_at_risk(books.informational_at_risk)} {verb} informational: the cause may be innocent."
        )
        yield Sentence(Mood.NOTE, words[:1].upper() + words[1:], About.INFORMATIONAL)


def _count(number: int, noun: str, is_cut: bool = False) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{'more than ' if is_cut else ''}{number:,} {noun if number == 1 else plural}"


def _at_risk(amounts: Sequence[tuple[Decimal, str]]) -> str:
    """Such as " with 5.00 EUR and 3.00 USD at risk"; nothing where no amount is known."""
    told = [f"{formats.amount(amount, currency)} {currency}" for amount, currency in amounts if amount]
    if not told:
        return ""
    if len(told) > CURRENCIES_MAX:
        more = len(told) - CURRENCIES_MAX
        told = [*told[:CURRENCIES_MAX], f"amounts in {more} more {'currency' if more == 1 else 'currencies'}"]
    listed = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    return f" with {listed} at risk"
