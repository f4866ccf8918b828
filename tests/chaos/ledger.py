"""What the sender told, and what it was answered: the other side of every claim that nothing was lost."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from uuid import UUID


class Expected(StrEnum):
    """What must become of a body."""

    BOOKED = "booked"  # a payment event: stored, its payment booked, one version kept
    KEPT = "kept"  # stored as an event, with nothing to book
    UNREAD = "unread"  # authentic, but of no instance: kept in unread_deliveries
    REFUSED = "refused"  # not Wix's, or too large: answered 4xx and never stored


@dataclass(frozen=True, slots=True)
class Told:
    """One body. digest: of its content, the same for every resend, see `domain.event`. payment_id: None for none."""

    event_id: UUID
    instance_id: UUID
    digest: bytes
    claims: bytes
    expected: Expected
    payment_id: UUID | None = None
    revision: int = 0
    amount: Decimal = Decimal(0)
    currency: str = ""


@dataclass(slots=True, eq=False)
class Entry:
    """A body and its fate so far. answered: how many 200 came. token_digests: of every signature it was sent with."""

    told: Told
    token: bytes = b""
    attempts: int = 0
    answered: int = 0
    given_up: bool = False
    token_digests: set[bytes] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether it still is to be answered 200."""
        return self.told.expected is not Expected.REFUSED and not (self.answered or self.given_up)


class Ledger:
    """Shared by all threads of the sender."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries: list[Entry] = []
        self.answers: Counter[str] = Counter()
        self.seen_revisions: dict[UUID, int] = {}
        """The highest revision that was ever read from the books, by payment."""
        self._fresh: list[Entry] = []
        self._by_payment: dict[UUID, list[Entry]] = {}

    def open(self, told: Told) -> Entry:
        """A new body, before its first attempt."""
        entry = Entry(told)
        with self._lock:
            self.entries.append(entry)
            if told.payment_id is not None:
                self._by_payment.setdefault(told.payment_id, []).append(entry)
        return entry

    def attempt(self, entry: Entry, token_digest: bytes) -> None:
        """The body is about to be sent."""
        with self._lock:
            entry.attempts += 1
            entry.token_digests.add(token_digest)

    def answer(self, entry: Entry, said: str) -> None:
        """An attempt has ended. said: the status, or what went wrong."""
        with self._lock:
            self.answers[said] += 1
            if said == "200":
                if not entry.answered:
                    self._fresh.append(entry)
                entry.answered += 1

    def give_up(self, entry: Entry) -> None:
        """The last resend was not answered 200."""
        with self._lock:
            entry.given_up = True

    def take_fresh(self) -> list[Entry]:
        """What was first answered 200 since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh

    def related(self, entries: list[Entry]) -> list[Entry]:
        """These entries, and every other about the same payments."""
        with self._lock:
            about = {entry.told.payment_id for entry in entries if entry.told.payment_id is not None}
            found = [other for payment_id in about for other in self._by_payment[payment_id]]
        return found + [entry for entry in entries if entry.told.payment_id is None]

    def snapshot(self) -> list[Entry]:
        """Every entry of this moment."""
        with self._lock:
            return list(self.entries)

    def open_count(self) -> int:
        """Bodies that still wait for their 200."""
        with self._lock:
            return sum(entry.is_open for entry in self.entries)

    def answered_count(self) -> int:
        """Bodies answered 200."""
        with self._lock:
            return sum(1 for entry in self.entries if entry.answered)

    def given_up_count(self) -> int:
        """Bodies whose first attempt and twelve resends all failed."""
        with self._lock:
            return sum(entry.given_up and entry.attempts > 1 for entry in self.entries)
