"""Group commit: request threads hand items over, and one of them commits everything that has gathered.

Whoever comes while a lane is idle leads it at once, so a lone item is committed at once; what comes meanwhile waits,
and when a commit ends the next takes all that gathered. So the batch grows with the load by itself, without a timer.
A lane is one commit in flight; how many of the open ones are used at once is for `store.pace` to say.

There are two ways to hand an item over. `submit` holds the caller's thread until the item is committed: when a commit
ends, the first thread that waits leads the next. `hand_over` returns at once, and `lead` commits what was handed over
for as long as there is something: no thread waits for a commit but the one that makes it, so none must be woken.

The mechanism knows nothing of databases. A lane does the work, and says with `LaneBroken` that it must be opened
anew, which a background thread does, so that nobody's request waits for a connection longer than for its turn.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, Generic, TypeVar

import structlog

from processor.errors import StoreUnavailable
from processor.store.pace import STUCK_SECONDS, Pace

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

REOPEN_SECONDS = (0.05, 0.2, 0.5, 1.0)  # waits between attempts to open a lane; the last is repeated
# A batch that could not be sent at all may be committed by another lane; once, lest a poisonous one break them all.
TRIES_MAX = 2
TICK_SECONDS = 0.05  # how late a deadline, or a commit that is stuck, is noticed at most


class Again(Enum):
    """What a lane may say of an item: not committed, hand it over anew with the next batch."""

    AGAIN = auto()


AGAIN: Final = Again.AGAIN


class LaneBroken(Exception):
    """The lane cannot go on. is_repeatable: another lane may try the batch, since time is left for it.

    decided: what became of items by their place, where that is known; those are not tried again.
    """

    def __init__(self, message: str, *, is_repeatable: bool) -> None:
        super().__init__(message)
        self.is_repeatable = is_repeatable
        self.decided: Mapping[int, Any] = {}


class Lane(ABC, Generic[Item, Result]):
    """Commits batches, one at a time."""

    @abstractmethod
    def commit(self, items: Sequence[Item]) -> list[Result | Exception | Again]:
        """Commit the items and return what became of each, in their order.

        An exception in the list is that item's alone. AGAIN lets the others be told at once, where one item needs
        a further commit. Raises LaneBroken, and StoreUnavailable when nothing of the batch was committed in time but
        the lane is whole.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of whatever it holds. Never raises."""


class _State(Enum):
    WAITING = auto()
    HELD_BACK = auto()
    LEADING = auto()
    COMMITTING = auto()
    DONE = auto()
    GONE = auto()


class _Ticket(Generic[Item, Result]):
    """One item, and how whoever handed it over learns what became of it."""

    __slots__ = ("item", "keys", "outcome", "state", "tries")

    def __init__(self, item: Item, keys: Sequence[Hashable]) -> None:
        self.item = item
        self.keys = keys
        self.state = _State.WAITING
        self.tries = 0
        self.outcome: Result | Exception | None = None

    def tell(self) -> None:
        """There is an outcome. Called once at most, without the mutex; never raises."""
        raise NotImplementedError


class _Held(_Ticket[Item, Result]):
    """A thread waits for it. wake: locked until there is something to do for the thread."""

    __slots__ = ("lane", "wake")

    def __init__(self, item: Item, keys: Sequence[Hashable]) -> None:
        super().__init__(item, keys)
        self.lane: Lane[Item, Result] | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def tell(self) -> None:
        self.wake.release()


class _Handed(_Ticket[Item, Result]):
    """No thread waits. deadline: `time.monotonic()`."""

    __slots__ = ("deadline", "told")

    def __init__(
        self,
        item: Item,
        keys: Sequence[Hashable],
        deadline: float,
        told: Callable[[Result | Exception], None],
    ) -> None:
        super().__init__(item, keys)
        self.deadline = deadline
        self.told = told

    def tell(self) -> None:
        told = self.told
        # It is remembered until its deadline is looked at; what it holds need not be.
        del self.item, self.told
        try:
            told(self.outcome)  # type: ignore[arg-type]  # told only when it is there
        except Exception:
            # The others of the batch are to be told all the same.
            log.exception("outcome_not_told")


class GroupCommit(Generic[Item, Result]):
    """Shared by all threads of a process.

    open_lane: makes a lane, or raises StoreUnavailable. keys_of: no two items in flight share a key. held_back: told,
    perhaps more than once, of an item that waits until another with one of its keys has landed. lanes: how many commits
    may be in flight at most. batch_max: items in one. waiting_max: items that may wait; one more is refused.
    """

    def __init__(
        self,
        open_lane: Callable[[], Lane[Item, Result]],
        *,
        keys_of: Callable[[Item], Sequence[Hashable]],
        held_back: Callable[[Item], None] = lambda item: None,
        lanes: int,
        batch_max: int,
        waiting_max: int,
    ) -> None:
        self._open_lane = open_lane
        self._keys_of = keys_of
        self._held_back = held_back
        self._lanes = lanes
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._mutex = threading.Lock()
        self._waiting: deque[_Ticket[Item, Result]] = deque()
        self._idle: list[Lane[Item, Result]] = []
        self._busy: dict[Lane[Item, Result], float] = {}  # since when, `time.monotonic()`
        self._in_flight: dict[Lane[Item, Result], set[Hashable]] = {}  # keys
        self._behind: dict[Lane[Item, Result], list[_Ticket[Item, Result]]] = {}  # until it has landed
        self._pace = Pace(lanes)
        self._pause_ends = 0.0  # `time.monotonic()`: when the next may begin beside another
        self._pausing = threading.Lock()  # held by the thread that awaits it
        self._open = 0  # lanes that are open, idle or not
        self._opener: threading.Thread | None = None
        self._handed: deque[_Handed[Item, Result]] = deque()  # in the order of their deadlines, nearly
        self._watcher: threading.Thread | None = None
        self._is_watching = threading.Event()
        self._is_away = False  # the last attempt to open a lane failed, and none is open
        self._is_closed = False
        self._closing = threading.Event()
        self._pid = os.getpid()

    def submit(self, item: Item, *, seconds: float) -> Result:
        """Commit one item, together with whatever else is waiting. Returns what became of it.

        Raises StoreUnavailable when that is not known within about `seconds`, or at once when it cannot be hoped
        for; the item may be committed all the same. Raises the item's own exception if it has one.
        """
        deadline = time.monotonic() + seconds
        ticket: _Held[Item, Result] = _Held(item, self._keys_of(item))
        lane: Lane[Item, Result] | None = None
        with self._mutex:
            self._admit()
            if self._is_turn() and not self._is_held_back(ticket):
                lane = self._occupy(ticket)
            elif ticket.state is _State.WAITING:
                self._waiting.append(ticket)
                self._ensure_watched()
        if lane is None:
            self.call_leader()
        while True:
            if lane is not None:
                self._commit(lane, ticket)
                self.call_leader()
            if ticket.state is _State.DONE:
                break
            if not ticket.wake.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._leave(ticket)
            lane, ticket.lane = ticket.lane, None
        outcome = ticket.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value]  # DONE says that it is there

    def hand_over(self, item: Item, *, deadline: float, told: Callable[[Result | Exception], None]) -> None:
        """Let one item be committed with whatever else waits, when somebody leads; returns at once.

        told: called once by some thread with what became of it: StoreUnavailable when that is not known soon after
        `deadline` (`time.monotonic()`), though it may be committed all the same. Raises StoreUnavailable when it
        cannot be hoped for; then nobody is told.
        """
        ticket: _Handed[Item, Result] = _Handed(item, self._keys_of(item), deadline, told)
        with self._mutex:
            self._admit()
            self._waiting.append(ticket)
            self._handed.append(ticket)
            self._ensure_watched()

    def lead(self) -> None:
        """Commit what was handed over, on this thread, as long as some of it waits and a lane is free for it."""
        while self._waiting and self._is_lane_free():
            if self._is_pause() and not self._sit_out():
                return
            with self._mutex:
                if not self._is_turn():
                    continue
                if (leader := self._next()) is None:
                    continue
                lane = self._occupy(leader)
                if isinstance(leader, _Held):
                    self._promote(leader, lane)
                    continue
            self._commit(lane, leader)

    def call_leader(self) -> None:
        """The same on another thread."""
        if self._waiting and self._is_lane_free() and not (self._is_pause() and self._pausing.locked()):
            try:
                threading.Thread(target=self.lead, name="leader", daemon=True).start()
            except RuntimeError as why:
                # No more threads may be started. Whoever watches the deadlines tries again.
                log.warning("leader_not_started", why=str(why))

    @property
    def waiting(self) -> int:
        """How many items wait for their turn."""
        return len(self._waiting) + sum(map(len, self._behind.values()))

    def close(self) -> None:
        """Refuse what comes from now on, commit what waits, and close lanes that nobody needs any more."""
        with self._mutex:
            self._is_closed = True
            self._forget_gone()
            idle: list[Lane[Item, Result]] = []
            if not self._waiting:
                idle, self._idle = self._idle, []
                self._open -= len(idle)
            if self._watcher is not None:
                self._is_watching.set()  # so that it ends, once there is nothing to watch
        self._closing.set()
        self.call_leader()
        for lane in idle:
            lane.close()

    # -- Under the mutex -----------------------------------------------------------------------------

    def _admit(self) -> None:
        """Raise StoreUnavailable for an item that cannot be committed in time."""
        if self._pid != os.getpid():
            # A fork takes no threads along, and must not share connections.
            self._pid = os.getpid()
            self._idle, self._open, self._opener, self._is_away = [], 0, None, False
            self._busy, self._in_flight, self._behind = {}, {}, {}
            self._pausing = threading.Lock()
            self._watcher, self._is_watching = None, threading.Event()
            self._waiting.clear()
            self._handed.clear()
        if self._is_closed:
            raise StoreUnavailable("this process is stopping")
        if self._is_away:
            self._ensure_opener()
            raise StoreUnavailable("the database is away")
        if self.waiting >= self._waiting_max:
            raise StoreUnavailable("too many wait already")
        if self._open < self._lanes:
            self._ensure_opener()

    def _ensure_watched(self) -> None:
        if not self._is_watching.is_set():
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._watcher.start()
            self._is_watching.set()

    def _is_turn(self) -> bool:
        """Whether a commit should begin. Without the mutex, only a hint, as are the next two."""
        return self._is_lane_free() and not self._is_pause()

    def _is_lane_free(self) -> bool:
        """Whether one more commit may be in flight."""
        if not self._idle:
            return False
        if len(self._busy) < self._pace.commits:
            return True
        return self._going() < self._pace.commits

    def _going(self) -> int:
        """How many commits are in flight and not stuck."""
        begun = time.monotonic() - STUCK_SECONDS
        return sum(since > begun for since in self._busy.copy().values())

    def _is_pause(self) -> bool:
        """Whether more is to gather before a commit begins beside others."""
        return time.monotonic() < self._pause_ends and self._going() > 0

    def _occupy(self, leader: _Ticket[Item, Result]) -> Lane[Item, Result]:
        leader.state = _State.LEADING
        lane = self._idle.pop()
        self._in_flight[lane] = set(leader.keys)
        self._busy[lane] = began = time.monotonic()
        self._pause_ends = began + self._pace.pause
        return lane

    def _ensure_opener(self) -> None:
        if self._opener is None or not self._opener.is_alive():
            self._opener = threading.Thread(target=self._keep_open, name="lanes", daemon=True)
            self._opener.start()

    def _next(self) -> _Ticket[Item, Result] | None:
        """The first that waits and may go; it waits no longer, and is to lead."""
        while self._waiting:
            ticket = self._waiting.popleft()
            if ticket.state is _State.WAITING and not self._is_held_back(ticket):
                return ticket
        return None

    def _is_held_back(self, ticket: _Ticket[Item, Result]) -> bool:
        """Whether a commit in flight has one of its keys, behind which it stands from now on.

        In a commit of its own it could only wait for that one, and all of its batch with it.
        """
        for lane, keys in self._in_flight.items():
            if not keys.isdisjoint(ticket.keys):
                ticket.state = _State.HELD_BACK
                self._behind.setdefault(lane, []).append(ticket)
                self._held_back(ticket.item)
                return True
        return False

    def _promote(self, ticket: _Held[Item, Result], lane: Lane[Item, Result]) -> None:
        ticket.lane = lane
        ticket.wake.release()

    def _take(self, lane: Lane[Item, Result], leader: _Ticket[Item, Result]) -> list[_Ticket[Item, Result]]:
        """The leader's ticket, and of those that wait as many as may be in one batch with it."""
        batch = [leader]
        taken = self._in_flight[lane]
        while len(batch) < self._batch_max and (ticket := self._next()) is not None:
            taken.update(ticket.keys)
            batch.append(ticket)
        for ticket in batch:
            ticket.state = _State.COMMITTING
        return batch

    def _forget_gone(self) -> None:
        """Leave out those at the head of the queue that nobody waits for any more."""
        while self._waiting and self._waiting[0].state is _State.GONE:
            self._waiting.popleft()

    def _land(self, lane: Lane[Item, Result]) -> None:
        """Nothing of the lane is in flight any more, and what stood behind it is first to go."""
        self._busy.pop(lane, None)
        self._in_flight.pop(lane, None)
        behind = [ticket for ticket in self._behind.pop(lane, ()) if ticket.state is _State.HELD_BACK]
        for ticket in behind:
            ticket.state = _State.WAITING
        if behind:
            self._waiting.extendleft(reversed(behind))
            self._ensure_watched()
            self._pause_ends = 0.0  # it has waited for one commit already
        elif self._going() and not self._is_pause():
            # Where others landed too, what comes next comes together.
            self._pause_ends = time.monotonic() + self._pace.pause

    def _hand_on(self, lane: Lane[Item, Result]) -> None:
        """Let a lane be idle, or give it to the first thread that waits, unless others are first."""
        self._forget_gone()
        self._idle.append(lane)
        if self._is_closed and not self._waiting:
            self._open -= len(self._idle)
            for idle in self._idle:
                idle.close()
            self._idle.clear()
        elif self._waiting and isinstance(first := self._waiting[0], _Held) and self._is_turn():
            self._waiting.popleft()
            if not self._is_held_back(first):
                self._promote(first, self._occupy(first))

    def _finish(self, ticket: _Ticket[Item, Result], outcome: Result | Exception) -> None:
        if ticket.state is not _State.GONE:
            ticket.outcome = outcome
            ticket.state = _State.DONE

    # -- By request threads --------------------------------------------------------------------------

    def _sit_out(self) -> bool:
        """Wait until the pause is over. Returns False at once where another thread does."""
        if not self._pausing.acquire(blocking=False):
            return False
        try:
            time.sleep(max(0.0, self._pause_ends - time.monotonic()))
        finally:
            self._pausing.release()
        return True

    def _leave(self, ticket: _Held[Item, Result]) -> None:
        """The time is up. Raises StoreUnavailable, unless there is an answer or a lane to lead just now."""
        with self._mutex:
            is_late = ticket.state in (_State.WAITING, _State.HELD_BACK, _State.COMMITTING)
            if ticket.state is _State.WAITING:
                self._waiting.remove(ticket)
            if is_late:
                ticket.state = _State.GONE
        if is_late:
            raise StoreUnavailable("the database did not answer in time")
        ticket.wake.acquire()  # whoever changed the state has released it, or is about to

    def _commit(self, lane: Lane[Item, Result], leader: _Ticket[Item, Result]) -> None:
        """Commit a batch, hand the lane on, and tell the others."""
        with self._mutex:
            batch = self._take(lane, leader)
            # From here on one whose time is up may be told so, and let go of its item.
            items = [ticket.item for ticket in batch]
        broken: LaneBroken | None = None
        outcomes: list[Result | Exception | Again]
        took: float | None = None
        began = time.monotonic()
        try:
            outcomes = lane.commit(items)
            took = time.monotonic() - began
        except StoreUnavailable as why:
            outcomes = [why] * len(batch)
        except LaneBroken as why:
            broken = why
            fault = StoreUnavailable(str(why))
            outcomes = [why.decided.get(place, fault) for place in range(len(batch))]
        except BaseException:
            # A fault of ours: nobody may be left waiting for it.
            self._settle(
                lane, batch, [StoreUnavailable("the commit failed")] * len(batch), leader, is_broken=True
            )
            raise
        again = [ticket for ticket, outcome in zip(batch, outcomes, strict=True) if outcome is AGAIN]
        if broken is not None and broken.is_repeatable:
            undecided = [ticket for place, ticket in enumerate(batch) if place not in broken.decided]
            for ticket in undecided:
                ticket.tries += 1
            again += [ticket for ticket in undecided if ticket.tries < TRIES_MAX]
        self._settle(lane, batch, outcomes, leader, took=took, is_broken=broken is not None, again=again)

    def _settle(
        self,
        lane: Lane[Item, Result],
        batch: list[_Ticket[Item, Result]],
        outcomes: Sequence[Result | Exception | Again],
        leader: _Ticket[Item, Result],
        *,
        is_broken: bool,
        took: float | None = None,
        again: Sequence[_Ticket[Item, Result]] = (),
    ) -> None:
        suspects = [lane] if is_broken else []
        finished: list[_Ticket[Item, Result]] = []
        with self._mutex:
            if took is not None:
                self._pace.note(took, len(batch))
            self._land(lane)
            if is_broken:
                # What broke this lane has likely broken the idle ones too, and they would each cost a try.
                suspects += self._idle
                self._open -= len(suspects)
                self._idle.clear()
            for ticket in reversed(again):
                if ticket.state is _State.COMMITTING:
                    ticket.state = _State.WAITING
                    self._waiting.appendleft(ticket)
                    self._ensure_watched()
            if is_broken:
                if not self._is_closed:
                    self._ensure_opener()
            else:
                # Before the answers are told, so that the next commit begins meanwhile.
                self._hand_on(lane)
            for ticket, outcome in zip(batch, outcomes, strict=True):
                if ticket.state is _State.COMMITTING and outcome is not AGAIN:
                    self._finish(ticket, outcome)
                    # Its own thread is this one, and sees it.
                    if ticket is not leader or isinstance(ticket, _Handed):
                        finished.append(ticket)
        for ticket in finished:
            ticket.tell()
        for suspect in suspects:
            suspect.close()

    # -- By the thread that opens lanes ----------------------------------------------------------------

    def _keep_open(self) -> None:
        failures = 0
        while True:
            with self._mutex:
                missing = self._lanes - self._open
                if missing <= 0 or self._is_closed:
                    # Whoever breaks the next lane finds no opener and starts one.
                    self._opener = None
                    return
            try:
                lane = self._open_lane()
            except StoreUnavailable as why:
                with self._mutex:
                    was_away, self._is_away = self._is_away, self._open == 0
                    hopeless = list(self._waiting) if self._is_away else []
                    if self._is_away:
                        self._waiting.clear()
                    for ticket in hopeless:
                        self._finish(ticket, StoreUnavailable(str(why)))
                for ticket in hopeless:
                    if ticket.state is _State.DONE:
                        ticket.tell()
                if not was_away:
                    log.warning("lane_not_opened", why=str(why))
                pause = REOPEN_SECONDS[min(failures, len(REOPEN_SECONDS) - 1)]
                failures += 1
                self._closing.wait(pause)
            else:
                failures = 0
                with self._mutex:
                    if self._is_away:
                        log.info("lanes_back")
                    self._is_away = False
                    self._open += 1
                    self._hand_on(lane)
                self.call_leader()

    # -- By the thread that watches deadlines ----------------------------------------------------------

    def _watch(self) -> None:
        while self._is_watching.wait():
            time.sleep(TICK_SECONDS)  # between two looks: time alone makes an item late
            with self._mutex:
                late = self._late(time.monotonic())
                is_idle = not (self._handed or self._waiting)
                is_over = is_idle and self._is_closed
                if is_idle:
                    self._is_watching.clear()
                if is_over:
                    # Whoever is handed back by a commit still in flight starts another.
                    self._watcher = None
            for ticket in late:
                ticket.tell()
            if is_over:
                return
            # Whoever came while a commit was stuck need not wait for its end.
            self.call_leader()

    def _late(self, now: float) -> list[_Handed[Item, Result]]:
        """Those whose time is up, from now on gone; forgets those that have their answer."""
        late: list[_Handed[Item, Result]] = []
        while self._handed:
            ticket = self._handed[0]
            if ticket.state not in (_State.DONE, _State.GONE):
                if ticket.deadline > now or ticket.state is _State.LEADING:  # for an instant only
                    break
                ticket.outcome = StoreUnavailable("the database did not answer in time")
                ticket.state = _State.GONE
                late.append(ticket)
            self._handed.popleft()
        self._forget_gone()
        return late
