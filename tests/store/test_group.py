"""Group commit: everything that gathered goes together, nobody waits for ever, nothing is answered twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.errors import StoreUnavailable
from processor.processes import wait_until
from processor.store import group as group_module
from processor.store.group import AGAIN, TICK_SECONDS, Again, GroupCommit, Lane, LaneBroken
from processor.store.pace import PAUSE_SECONDS_MAX, STUCK_SECONDS

SECONDS = 20.0


class BadItem(Exception):
    """The item's own fault."""


@dataclass
class Log:
    """What all lanes did. gate: while it is closed, commits wait in the lane.

    not_yet: items that are not committed with others the first time. shared: commits begun while a key of theirs was in
    flight.
    """

    batches: list[list[Any]] = field(default_factory=list)
    not_yet: set[Any] = field(default_factory=set)
    keys: list[Hashable] = field(default_factory=list)  # in flight
    shared: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    plan: Callable[[Sequence[Any]], None] = lambda _items: None
    opened: int = 0
    closed: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    beside: int = 0  # commits begun while another was in flight
    mutex: threading.Lock = field(default_factory=threading.Lock)


def outcome_of(item: Any) -> str | Exception:
    return BadItem(item) if str(item).startswith("bad") else f"{item} is in"


class Pretend(Lane[Any, str]):
    def __init__(self, log: Log) -> None:
        self.log = log
        with log.mutex:
            log.opened += 1

    def commit(self, items: Sequence[Any]) -> list[str | Exception | Again]:
        keys = [key for item in items for key in keys_of(item)]
        with self.log.mutex:
            self.log.batches.append(list(items))
            self.log.shared += not set(keys).isdisjoint(self.log.keys)
            self.log.keys += keys
            left = self.log.not_yet.intersection(items) if len(items) > 1 else set()
            self.log.not_yet -= left
            self.log.beside += self.log.in_flight > 0
            self.log.in_flight += 1
            self.log.most_in_flight = max(self.log.most_in_flight, self.log.in_flight)
        try:
            assert self.log.gate.wait(SECONDS)
            self.log.plan([item for item in items if item not in left])
        finally:
            with self.log.mutex:
                self.log.in_flight -= 1
                for key in keys:
                    self.log.keys.remove(key)
        return [AGAIN if item in left else outcome_of(item) for item in items]

    def close(self) -> None:
        with self.log.mutex:
            self.log.closed += 1


def keys_of(item: Any) -> Sequence[Hashable]:
    return (str(item).split("/", maxsplit=1)[0],)


def group_of(
    log: Log, *, lanes: int = 1, open_lane: Callable[[], Lane[Any, str]] | None = None, **more: Any
) -> GroupCommit[Any, str]:
    limits: dict[str, Any] = {"batch_max": 100, "waiting_max": 1_000, **more}
    return GroupCommit(open_lane or (lambda: Pretend(log)), keys_of=keys_of, lanes=lanes, **limits)


@contextmanager
def threads(number: int = 64) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(number) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, what="the condition", seconds=SECONDS)


def opened(group: GroupCommit[Any, str], *, lanes: int = 1, log: Log | None = None) -> None:
    """Wait until its lanes are open; more than one by their log."""
    assert group.submit("opener", seconds=SECONDS)
    until(lambda: log is None or log.opened == lanes)


@pytest.fixture
def log() -> Log:
    made = Log()
    made.gate.set()
    return made


def test_a_lone_item_is_committed_at_once_and_by_itself(log: Log) -> None:
    group = group_of(log)

    assert group.submit("a", seconds=SECONDS) == "a is in"
    assert group.submit("b", seconds=SECONDS) == "b is in"

    assert log.batches == [["a"], ["b"]]
    assert log.opened == 1


def test_what_gathers_while_a_commit_runs_is_the_next_batch(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        first = pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        others = [pool.submit(group.submit, number, seconds=SECONDS) for number in range(30)]
        until(lambda: group.waiting == 30)
        log.gate.set()

        assert [one.result() for one in others] == [f"{number} is in" for number in range(30)]
        assert first.result() == "first is in"

    assert [len(batch) for batch in log.batches] == [1, 30]


def test_a_batch_has_a_bound_and_the_rest_follows(log: Log) -> None:
    log.gate.clear()
    group = group_of(log, batch_max=10)
    with threads() as pool:
        pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        others = [pool.submit(group.submit, number, seconds=SECONDS) for number in range(25)]
        until(lambda: group.waiting == 25)
        log.gate.set()
        assert all(one.result() for one in others)

    assert [len(batch) for batch in log.batches] == [1, 10, 10, 5]


def test_two_items_with_one_key_are_never_in_one_batch_and_keep_their_order(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        others: list[Future[str]] = []
        for item in ("a/1", "b/1", "a/2", "a/3", "c/1"):
            others.append(pool.submit(group.submit, item, seconds=SECONDS))
            until(lambda: group.waiting == len(others))
        log.gate.set()
        assert all(one.result() for one in others)

    assert log.batches == [["first"], ["a/1", "b/1", "c/1"], ["a/2"], ["a/3"]]


def test_beside_a_commit_that_is_stuck_others_go_ahead_until_no_lane_is_left(log: Log) -> None:
    log.gate.clear()
    group, told = group_of(log, lanes=3), Told()
    with threads() as pool:
        first = pool.submit(group.submit, "a", seconds=SECONDS)
        until(lambda: log.in_flight == 1 and log.opened == 3)
        # Nobody comes after them: whoever waits is not left to the end of what is stuck.
        second = pool.submit(group.submit, "b", seconds=SECONDS)
        until(lambda: log.in_flight == 2)
        told.hand(group, "c")
        until(lambda: log.in_flight == 3)
        last = pool.submit(group.submit, "d", seconds=SECONDS)
        until(lambda: group.waiting == 1)
        log.gate.set()
        assert [one.result() for one in (first, second, last)] == ["a is in", "b is in", "d is in"]
        until(lambda: told.has(1))

    assert log.batches == [["a"], ["b"], ["c"], ["d"]]


def test_while_commits_are_quick_one_is_in_flight_and_the_rest_gathers(log: Log) -> None:
    group = group_of(log, lanes=4)
    opened(group, lanes=4, log=log)
    with threads(16) as pool:
        answers = list(pool.map(lambda number: group.submit(number, seconds=SECONDS), range(2_000)))

    assert answers == [f"{number} is in" for number in range(2_000)]
    # Unless the machine itself stood still for as long as a slow disk takes.
    assert log.beside <= len(log.batches) // 10


class Clock:
    """`time` for the group: it goes on only when told to. sleepers: those that sit a pause out."""

    def __init__(self) -> None:
        self._now = 100.0
        self._changed = threading.Condition()
        self.sleepers = 0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        if seconds == TICK_SECONDS:  # whoever looks after deadlines
            time.sleep(seconds)
            return
        with self._changed:
            end = self._now + seconds
            self.sleepers += 1
            assert self._changed.wait_for(lambda: self._now >= end, SECONDS)
            self.sleepers -= 1

    def go_on(self, seconds: float) -> None:
        with self._changed:
            self._now += seconds
            self._changed.notify_all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(group_module, "time", clock)
    return clock


DISK_SECONDS = 0.02
PAUSE_SECONDS = PAUSE_SECONDS_MAX


@pytest.fixture
def slow(log: Log, clock: Clock) -> GroupCommit[Any, str]:
    """With three lanes, on a disk that has shown to be slow; the next commits wait for the gate."""
    group = group_of(log, lanes=3)
    log.plan = lambda _items: clock.go_on(DISK_SECONDS)
    opened(group, lanes=3, log=log)
    log.plan = lambda _items: None
    log.gate.clear()
    log.batches.clear()
    return group


def test_while_the_disk_is_slow_commits_overlap_until_no_lane_is_left(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    told = Told()
    with threads() as pool:
        leads = []
        for number in range(1, 5):
            told.hand(slow, number, clock)
            leads.append(pool.submit(slow.lead))
            until(lambda number=number: log.in_flight == min(number, 3))  # type: ignore[misc]
            clock.go_on(PAUSE_SECONDS)
        assert slow.waiting == 1
        log.gate.set()
        until(lambda: told.has(4))
        clock.go_on(PAUSE_SECONDS)
        for lead in leads:
            lead.result(SECONDS)

    assert log.batches == [[1], [2], [3], [4]]


def test_while_one_is_in_flight_the_next_lets_more_gather(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    told = Told()
    with threads() as pool:
        told.hand(slow, "first", clock)
        pool.submit(slow.lead)
        until(lambda: log.in_flight == 1)
        told.hand(slow, "second", clock)
        waits = pool.submit(slow.lead)
        until(lambda: clock.sleepers > 0)
        held = pool.submit(slow.submit, "third", seconds=SECONDS)
        until(lambda: slow.waiting == 2)
        told.hand(slow, "fourth", clock)
        slow.lead()  # one that waits for it is enough
        clock.go_on(PAUSE_SECONDS / 2)
        assert log.in_flight == 1
        clock.go_on(PAUSE_SECONDS / 2)
        until(lambda: log.in_flight == 2)
        log.gate.set()
        waits.result(SECONDS)
        assert held.result(SECONDS) == "third is in"
        until(lambda: told.has(3))

    assert log.batches == [["first"], ["second", "third", "fourth"]]


def test_after_one_has_ended_beside_another_the_next_lets_more_gather(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    told, may_end = Told(), {"first": threading.Event(), "second": threading.Event()}
    log.gate.set()

    def plan(items: Sequence[Any]) -> None:
        if items[0] in may_end:
            assert may_end[items[0]].wait(SECONDS)

    log.plan = plan
    with threads() as pool:
        for number, item in enumerate(may_end, start=1):
            told.hand(slow, item, clock)
            pool.submit(slow.lead)
            until(lambda number=number: log.in_flight == number)  # type: ignore[misc]
            clock.go_on(PAUSE_SECONDS)
        may_end["first"].set()
        until(lambda: told.has(1))
        told.hand(slow, "third", clock)
        pool.submit(slow.lead)
        told.hand(slow, "fourth", clock)
        until(lambda: clock.sleepers > 0)
        assert log.in_flight == 1
        clock.go_on(PAUSE_SECONDS)
        until(lambda: told.has(3))
        may_end["second"].set()

    assert log.batches == [["first"], ["second"], ["third", "fourth"]]


def test_when_none_is_in_flight_nothing_waits_for_more(slow: GroupCommit[Any, str], log: Log) -> None:
    log.gate.set()
    for item in ("a", "b", "c"):
        assert slow.submit(item, seconds=SECONDS) == f"{item} is in"

    assert log.batches == [["a"], ["b"], ["c"]]


def test_what_has_a_key_in_flight_waits_for_it_alone(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    """Others go ahead of it, and no pause is added to its wait."""
    told, may_land = Told(), threading.Event()

    def plan(items: Sequence[Any]) -> None:
        if items == ["b/1"]:
            assert may_land.wait(SECONDS)
        clock.go_on(DISK_SECONDS)

    log.plan = plan
    with threads() as pool:
        leads = []
        for item in ("a/1", "a/2", "a/3", "b/1"):
            told.hand(slow, item, clock)
            leads.append(pool.submit(slow.lead))
            until(lambda: log.in_flight > 0)
            clock.go_on(PAUSE_SECONDS)
        until(lambda: log.in_flight == 2)
        assert slow.waiting == 2
        log.gate.set()
        until(lambda: told.has(3))  # while "b/1" is in flight, and the clock goes on by commits alone
        may_land.set()
        for lead in leads:
            lead.result(SECONDS)

    assert log.batches == [["a/1"], ["b/1"], ["a/2"], ["a/3"]]
    assert log.shared == 0


def test_beside_one_that_is_stuck_nothing_waits_for_more(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    told, may_land = Told(), threading.Event()

    def plan(items: Sequence[Any]) -> None:
        assert items[0] != "stuck" or may_land.wait(SECONDS)

    log.plan = plan
    log.gate.set()
    with threads() as pool:
        told.hand(slow, "stuck", clock)
        leading = pool.submit(slow.lead)
        until(lambda: log.in_flight == 1)
        clock.go_on(STUCK_SECONDS)
        for number in range(3):
            told.hand(slow, number, clock)
            slow.lead()
            assert told.has(number + 1)
        may_land.set()
        leading.result(SECONDS)

    assert log.batches == [["stuck"], [0], [1], [2]]


def test_who_waits_for_a_key_in_flight_leads_when_it_has_landed(log: Log) -> None:
    held_back: list[Any] = []
    group = group_of(log, lanes=2, held_back=held_back.append)
    opened(group, lanes=2, log=log)
    log.gate.clear()
    with threads() as pool:
        first = pool.submit(group.submit, "a/1", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        second = pool.submit(group.submit, "a/2", seconds=SECONDS)
        until(lambda: "a/2" in held_back)  # once the first is stuck, and a lane free
        with pytest.raises(StoreUnavailable, match="in time"):
            group.submit("a/3", seconds=0.01)
        log.gate.set()
        assert [first.result(), second.result()] == ["a/1 is in", "a/2 is in"]

    assert log.batches[1:] == [["a/1"], ["a/2"]]
    assert log.shared == 0
    assert group.waiting == 0


def test_while_no_thread_can_be_started_nothing_is_lost(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    group, told = group_of(log), Told()
    opened(group)
    start = threading.Thread.start
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "leader" and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    told.hand(group, "item")
    group.call_leader()

    assert refused
    until(lambda: told.has(1))
    assert not told.faults


def test_what_needs_a_further_commit_keeps_the_others_from_nothing(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    log.not_yet = {2, 3}
    for number in range(5):
        told.hand(group, number)
    group.lead()

    assert told.outcomes == [(number, f"{number} is in") for number in (0, 1, 4, 2, 3)]
    assert log.batches[1:] == [[0, 1, 2, 3, 4], [2, 3]]


def test_a_leader_whose_own_item_needs_a_further_commit_waits_for_it(log: Log) -> None:
    log.gate.clear()
    log.not_yet = {"second"}
    group = group_of(log)
    with threads() as pool:
        submitted = [pool.submit(group.submit, "first", seconds=SECONDS)]
        until(lambda: log.in_flight == 1)
        for number, item in enumerate(("second", "third"), start=1):
            submitted.append(pool.submit(group.submit, item, seconds=SECONDS))
            until(lambda number=number: group.waiting == number)  # type: ignore[misc]
        log.gate.set()
        assert [one.result() for one in submitted] == ["first is in", "second is in", "third is in"]

    assert log.batches == [["first"], ["second", "third"], ["second"]]


def test_a_bad_item_fails_alone(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        good, bad = (pool.submit(group.submit, item, seconds=SECONDS) for item in ("good", "bad"))
        until(lambda: group.waiting == 2)
        log.gate.set()

        assert good.result() == "good is in"
        with pytest.raises(BadItem):
            bad.result()


def test_a_wait_is_bounded_in_the_queue_and_in_a_commit_that_hangs(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        leader = pool.submit(group.submit, "leader", seconds=SECONDS)
        until(lambda: log.in_flight == 1)

        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="in time"):
            group.submit("late", seconds=0.05)
        assert time.monotonic() - began < SECONDS / 2
        assert group.waiting == 0, "who gave up waits no more"

        log.gate.set()
        assert leader.result() == "leader is in"
        assert group.submit("next", seconds=SECONDS) == "next is in"
    assert log.batches == [["leader"], ["next"]]


def test_who_gives_up_while_a_commit_of_theirs_runs_leaves_the_others_untouched(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        first = pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        leader = pool.submit(group.submit, "leader", seconds=SECONDS)
        until(lambda: group.waiting == 1)
        impatient = pool.submit(group.submit, "impatient", seconds=0.3)
        until(lambda: group.waiting == 2)
        log.plan = lambda items: until(impatient.done) if "impatient" in items else None
        log.gate.set()

        with pytest.raises(StoreUnavailable):
            impatient.result()
        assert (first.result(), leader.result()) == ("first is in", "leader is in")
    assert log.batches == [["first"], ["leader", "impatient"]]


def test_one_more_than_may_wait_is_sent_away_at_once(log: Log) -> None:
    log.gate.clear()
    group = group_of(log, waiting_max=2)
    with threads() as pool:
        all_ = [pool.submit(group.submit, "first", seconds=SECONDS)]
        until(lambda: log.in_flight == 1)
        all_ += [pool.submit(group.submit, number, seconds=SECONDS) for number in range(2)]
        until(lambda: group.waiting == 2)

        with pytest.raises(StoreUnavailable, match="too many"):
            group.submit("one more", seconds=SECONDS)

        log.gate.set()
        assert all(one.result() for one in all_)


def test_a_broken_lane_is_opened_anew_and_its_batch_tried_once_more(log: Log) -> None:
    group = group_of(log)

    def break_once(items: Sequence[Any]) -> None:
        if len(log.batches) == 1:
            raise LaneBroken("gone", is_repeatable=True)

    log.plan = break_once

    assert group.submit("a", seconds=SECONDS) == "a is in"

    assert log.batches == [["a"], ["a"]]
    assert (log.opened, log.closed) == (2, 1)


def test_what_breaks_every_lane_is_given_up(log: Log) -> None:
    group = group_of(log)

    def break_(items: Sequence[Any]) -> None:
        if "poison" in items:
            raise LaneBroken("gone", is_repeatable=True)

    log.plan = break_

    with pytest.raises(StoreUnavailable, match="gone"):
        group.submit("poison", seconds=SECONDS)
    assert group.submit("a", seconds=SECONDS) == "a is in"


def test_while_no_lane_can_be_opened_everybody_is_sent_away_at_once_and_served_after(log: Log) -> None:
    is_away = threading.Event()
    is_away.set()

    def open_lane() -> Lane[Any, str]:
        if is_away.is_set():
            raise StoreUnavailable("connection refused")
        return Pretend(log)

    group = group_of(log, open_lane=open_lane)
    with pytest.raises(StoreUnavailable, match="refused"):
        group.submit("first", seconds=SECONDS)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="away"):
        group.submit("second", seconds=SECONDS)
    assert time.monotonic() - began < SECONDS / 2

    is_away.clear()

    def is_served() -> bool:
        try:
            return group.submit("third", seconds=SECONDS) == "third is in"
        except StoreUnavailable:
            return False

    until(is_served)


def test_a_fault_of_a_lane_leaves_nobody_waiting(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)

    def fail(items: Sequence[Any]) -> None:
        if "leader" in items:
            raise ZeroDivisionError

    log.plan = fail
    with threads() as pool:
        pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        leader = pool.submit(group.submit, "leader", seconds=SECONDS)
        until(lambda: group.waiting == 1)
        follower = pool.submit(group.submit, "follower", seconds=SECONDS)
        until(lambda: group.waiting == 2)
        log.gate.set()

        with pytest.raises(ZeroDivisionError):
            leader.result()
        with pytest.raises(StoreUnavailable):
            follower.result()
    assert group.submit("next", seconds=SECONDS) == "next is in"


def test_when_closed_in_a_pause_what_waits_is_committed_though_the_commit_beside_it_breaks(
    slow: GroupCommit[Any, str], log: Log, clock: Clock
) -> None:
    told = Told()

    def plan(items: Sequence[Any]) -> None:
        if items == ["breaks"]:
            raise LaneBroken("gone", is_repeatable=False)

    log.plan = plan
    with threads() as pool:
        told.hand(slow, "breaks", clock)
        leads = [pool.submit(slow.lead)]
        until(lambda: log.in_flight == 1)
        told.hand(slow, "waits", clock)
        leads.append(pool.submit(slow.lead))
        until(lambda: clock.sleepers > 0)
        slow.close()
        clock.go_on(PAUSE_SECONDS)
        until(lambda: log.in_flight == 2)
        log.gate.set()
        for lead in leads:
            lead.result(SECONDS)

    assert told.faults == ["breaks"]
    assert told.has(2)
    until(lambda: log.closed == log.opened)


def test_what_was_handed_over_before_the_end_needs_no_leader_after_it(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    told.hand(group, "last")
    group.close()

    until(lambda: told.has(1))
    assert not told.faults
    until(lambda: log.closed == log.opened)


def test_when_closed_nobody_watches_once_everything_is_told(log: Log) -> None:
    group, told = group_of(log), Told()
    before = set(threading.enumerate())
    opened(group)
    log.gate.clear()
    told.hand(group, "slow")
    leader = threading.Thread(target=group.lead)
    leader.start()
    until(lambda: log.in_flight == 1)
    group.close()
    time.sleep(TICK_SECONDS * 2)
    assert "deadlines" in {one.name for one in set(threading.enumerate()) - before}, "it may be late yet"

    log.gate.set()
    leader.join()
    assert told.has(1)
    until(lambda: not set(threading.enumerate()) - before)


def test_when_closed_what_waits_is_committed_and_what_comes_is_refused(log: Log) -> None:
    log.gate.clear()
    group = group_of(log)
    with threads() as pool:
        all_ = [pool.submit(group.submit, "first", seconds=SECONDS)]
        until(lambda: log.in_flight == 1)
        all_ += [pool.submit(group.submit, number, seconds=SECONDS) for number in range(3)]
        until(lambda: group.waiting == 3)

        group.close()
        with pytest.raises(StoreUnavailable, match="stopping"):
            group.submit("late", seconds=SECONDS)
        log.gate.set()

        assert all(one.result() for one in all_)
    assert log.closed == log.opened == 1


def breaking(log: Log, breaks: set[int], commit_seconds: float) -> list[str]:
    """Let the commits of these numbers break their lane. Returns what is committed, as it grows."""
    committed: list[str] = []

    def plan(items: Sequence[Any]) -> None:
        time.sleep(commit_seconds)
        with log.mutex:
            if len(log.batches) in breaks:
                raise LaneBroken("gone", is_repeatable=True)
            committed.extend(items)

    log.plan = plan
    return committed


# Numbers of commits that break their lane, of items that are to come again, and what else makes a load another.
LOAD: dict[str, st.SearchStrategy[Any]] = {
    "lanes": st.integers(1, 4),
    "keys": st.lists(st.integers(0, 12), min_size=1, max_size=120),
    "breaks": st.sets(st.integers(1, 12), max_size=4),
    "not_yet": st.sets(st.integers(0, 120), max_size=20),
    "commit_seconds": st.sampled_from([0.000_5, 0.006]),
    "batch_max": st.integers(1, 16),
    "patience": st.sampled_from([SECONDS, 0.002]),
}


@settings(max_examples=30)
@given(workers=st.integers(1, 32), **LOAD)
def test_under_any_load_every_item_is_committed_at_most_once_and_answered_truly(
    lanes: int,
    workers: int,
    keys: list[int],
    breaks: set[int],
    not_yet: set[int],
    commit_seconds: float,
    batch_max: int,
    patience: float,
) -> None:
    log = Log()
    log.gate.set()
    committed = breaking(log, breaks, commit_seconds)
    group = group_of(log, lanes=lanes, batch_max=batch_max)
    items = [f"{key}/{number}" for number, key in enumerate(keys)]
    log.not_yet = {item for number, item in enumerate(items) if number in not_yet}

    def submit(item: str) -> bool:
        try:
            assert group.submit(item, seconds=patience) == f"{item} is in"
        except StoreUnavailable:
            return False
        return True

    with threads(workers) as pool:
        answers = dict(zip(items, pool.map(submit, items), strict=True))

    assert sorted(committed) == sorted(set(committed)), "at most once"
    assert {item for item, is_in in answers.items() if is_in} <= set(committed), "never answered in vain"
    if patience == SECONDS and not breaks:
        assert all(answers.values())
    assert log.most_in_flight <= lanes
    assert log.shared == 0
    for batch in log.batches:
        names = [keys_of(item) for item in batch]
        assert len(names) == len(set(names)) <= batch_max
    group.close()
    until(lambda: log.closed == log.opened)


# -- Handed over: no thread waits --------------------------------------------------------------------


@dataclass
class Told:
    """What was told of each item, in the order of telling."""

    outcomes: list[tuple[Any, str | Exception]] = field(default_factory=list)

    def of(self, item: Any) -> Callable[[str | Exception], None]:
        return lambda outcome: self.outcomes.append((item, outcome))

    def hand(
        self, group: GroupCommit[Any, str], item: Any, clock: Any = time, *, seconds: float = SECONDS
    ) -> None:
        group.hand_over(item, deadline=clock.monotonic() + seconds, told=self.of(item))

    def has(self, number: int) -> bool:
        return len(self.outcomes) == number

    @property
    def faults(self) -> list[Any]:
        return [item for item, outcome in self.outcomes if isinstance(outcome, Exception)]


def test_what_was_handed_over_is_committed_by_whoever_leads_and_told_once(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    for number in range(30):
        told.hand(group, number)
    assert group.waiting == 30

    group.lead()

    assert told.outcomes == [(number, f"{number} is in") for number in range(30)]
    assert log.batches[1:] == [list(range(30))]
    group.lead()  # nothing to do
    assert log.batches[2:] == []


def test_a_leader_goes_on_while_something_waits(log: Log) -> None:
    group, told = group_of(log, batch_max=4), Told()
    opened(group)
    for number in range(10):
        told.hand(group, number)

    group.lead()

    assert [len(batch) for batch in log.batches[1:]] == [4, 4, 2]
    assert told.has(10)


def test_what_is_handed_over_while_a_commit_runs_needs_no_leader_of_its_own(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    log.gate.clear()
    told.hand(group, "first")
    with threads() as pool:
        leading = pool.submit(group.lead)
        until(lambda: log.in_flight == 1)
        for number in range(5):
            told.hand(group, number)
            group.lead()  # no lane is idle, so it returns
        log.gate.set()
        leading.result(SECONDS)

    assert told.has(6)


def test_threads_that_wait_and_items_without_one_are_served_together(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    log.gate.clear()
    with threads() as pool:
        first = pool.submit(group.submit, "first", seconds=SECONDS)
        until(lambda: log.in_flight == 1)
        told.hand(group, "handed")
        held = pool.submit(group.submit, "held", seconds=SECONDS)
        until(lambda: group.waiting == 2)
        log.gate.set()

        assert {first.result(), held.result()} == {"first is in", "held is in"}
    until(lambda: told.has(1))
    assert not told.faults


def test_a_lane_that_opens_finds_a_leader(log: Log) -> None:
    group, told = group_of(log), Told()

    told.hand(group, "before any lane is open")

    until(lambda: told.has(1))
    assert not told.faults


def test_a_deadline_is_kept_in_the_queue_and_in_a_commit_that_hangs(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)
    log.gate.clear()
    told.hand(group, "in the commit", seconds=0.05)
    with threads() as pool:
        leading = pool.submit(group.lead)
        until(lambda: log.in_flight == 1)
        told.hand(group, "in the queue", seconds=0.05)
        told.hand(group, "patient")
        until(lambda: told.has(2))
        assert told.faults == ["in the commit", "in the queue"]
        assert group.waiting == 1
        log.gate.set()
        leading.result(SECONDS)

    assert told.outcomes[2:] == [("patient", "patient is in")]
    assert log.batches[2:] == [["patient"]], "nobody waits for it any more, so it is not committed"


def test_a_fault_in_telling_one_keeps_no_other_from_being_told(log: Log) -> None:
    group, told = group_of(log), Told()
    opened(group)

    def fail(outcome: str | Exception) -> None:
        raise ZeroDivisionError

    group.hand_over("first", deadline=time.monotonic() + SECONDS, told=fail)
    told.hand(group, "second")
    group.lead()

    assert told.outcomes == [("second", "second is in")]


def test_what_is_handed_over_is_refused_as_what_waits_is(log: Log) -> None:
    group, told = group_of(log, waiting_max=2), Told()
    opened(group)
    told.hand(group, 1)
    told.hand(group, 2)
    with pytest.raises(StoreUnavailable, match="too many"):
        told.hand(group, 3)
    group.lead()
    assert told.has(2)

    group.close()
    with pytest.raises(StoreUnavailable, match="stopping"):
        told.hand(group, 4)


def test_when_no_lane_can_be_opened_everybody_is_told(log: Log) -> None:
    may_fail = threading.Event()

    def fail() -> Lane[Any, str]:
        assert may_fail.wait(SECONDS)
        raise StoreUnavailable("no lane")

    group, told = group_of(log, open_lane=fail), Told()
    for number in range(3):
        told.hand(group, number)
    may_fail.set()

    until(lambda: told.has(3))
    assert told.faults == [0, 1, 2]
    group.close()


@settings(max_examples=30)
@given(workers=st.integers(1, 16), waits=st.sets(st.integers(0, 120), max_size=40), **LOAD)
def test_under_any_load_every_item_handed_over_is_told_exactly_once_and_truly(
    lanes: int,
    workers: int,
    keys: list[int],
    breaks: set[int],
    not_yet: set[int],
    commit_seconds: float,
    batch_max: int,
    patience: float,
    waits: set[int],
) -> None:
    """Some wait in a thread of their own, by `waits`; breaks: the commits that break their lane."""
    log = Log()
    log.gate.set()
    committed = breaking(log, breaks, commit_seconds)
    group, told = group_of(log, lanes=lanes, batch_max=batch_max), Told()
    items = [f"{key}/{number}" for number, key in enumerate(keys)]
    log.not_yet = {item for number, item in enumerate(items) if number in not_yet}

    def hand(place: int) -> None:
        item = items[place]
        tell = told.of(item)
        try:
            if place in waits:
                tell(group.submit(item, seconds=patience))
            else:
                told.hand(group, item, seconds=patience)
                group.lead()
        except StoreUnavailable as why:
            tell(why)

    with threads(workers) as pool:
        list(pool.map(hand, range(len(items))))
    until(lambda: told.has(len(items)))

    assert sorted(item for item, _ in told.outcomes) == sorted(items), "each once"
    is_in = {item for item, outcome in told.outcomes if outcome == f"{item} is in"}
    assert sorted(committed) == sorted(set(committed)), "at most once"
    assert is_in <= set(committed), "never told in vain"
    assert is_in | set(told.faults) == set(items)
    if patience == SECONDS and not breaks:
        assert is_in == set(items)
    assert log.most_in_flight <= lanes
    assert log.shared == 0
    group.close()
    until(lambda: log.closed == log.opened)
