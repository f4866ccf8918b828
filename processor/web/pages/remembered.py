"""Sums of days, remembered by each process: the overview is looked at every few seconds, and a day may be long.

What one look takes is bounded. Where the books are large, days further back are added up by the looks that follow, and
what is shown says which are missing. Days are read anew after a while, since payments are found late: the longer
reading took, the rarer, so that looking costs the database a small part of its time, however many payments there are.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from processor.domain.access import Reach
from processor.store.screens.overview import Day, DaySum, Delivered

SECONDS_MAX = 0.03  # after so long, a look begins no further day; the one it is at may take longer
REACHES_MAX = 100  # of so many different people's instances
LIFE_TODAY = timedelta(seconds=2)
LIFE_YESTERDAY = timedelta(minutes=1)
LIFE = timedelta(minutes=10)
LIFE_FACTOR = 200  # how many times longer than reading took it is good for

Read = Callable[[Sequence[Day]], Mapping[date, Sequence[DaySum]]]
Timer = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Kept:
    sums: tuple[DaySum, ...]
    until: datetime


class DaySums:
    """Sums of days, by who may see them. timer: in seconds."""

    def __init__(self, timer: Timer = time.perf_counter) -> None:
        self._timer = timer
        self._kept: OrderedDict[Reach, dict[date, _Kept]] = OrderedDict()
        self._lock = threading.Lock()

    def look(
        self, reach: Reach, days: Sequence[Day], now: datetime, read: Read
    ) -> dict[date, tuple[DaySum, ...]]:
        """What was received on each of `days`, as far as it is known; `days` begin with today and go back.

        read: reads the days it is given.
        """
        with self._lock:
            kept = dict(self._kept.get(reach, {}))
        wanted = [one for one in days if one.day not in kept]
        wanted += [one for one in days if one.day in kept and kept[one.day].until <= now]
        wanted.sort(
            key=lambda one: one.day != days[0].day
        )  # today first, else what is missing, then what is old
        fresh: dict[date, _Kept] = {}
        begun, number = self._timer(), 1
        while wanted and (not fresh or self._timer() - begun < SECONDS_MAX):
            part, wanted = wanted[:number], wanted[number:]
            before = self._timer()
            found = read(part)
            seconds = (self._timer() - before) / len(part)
            for day, sums in found.items():
                fresh[day] = _Kept(tuple(sums), now + _life(day, days[0].day, seconds))
            # The first ones show how long a day takes, and so how many more there is time for.
            left = SECONDS_MAX - (self._timer() - begun)
            number = max(1, min(number * 2, int(left / seconds))) if seconds > 0 else number * 2
        with self._lock:
            ours = self._kept.setdefault(reach, {})
            ours.update(fresh)
            for day in ours.keys() - {one.day for one in days}:
                del ours[day]
            self._kept.move_to_end(reach)
            while len(self._kept) > REACHES_MAX:
                self._kept.popitem(last=False)
        kept.update(fresh)
        return {one.day: kept[one.day].sums for one in days if one.day in kept}


def _life(day: date, today: date, seconds: float) -> timedelta:
    age = (today - day).days
    least = LIFE_TODAY if age == 0 else LIFE_YESTERDAY if age == 1 else LIFE
    return max(least, timedelta(seconds=seconds * LIFE_FACTOR))


class DayDeliveries:
    """What became of a day's webhooks, by who may see them; read anew as today's sums are."""

    def __init__(self, timer: Timer = time.perf_counter) -> None:
        self._timer = timer
        self._kept: OrderedDict[tuple[Reach, date], tuple[Delivered, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, reach: Reach, day: date, now: datetime, read: Callable[[], Delivered]) -> Delivered:
        """What became of them so far. read: finds out."""
        key = reach, day
        with self._lock:
            found = self._kept.get(key)
        if found is not None and now < found[1]:
            return found[0]
        before = self._timer()
        value = read()
        life = max(LIFE_TODAY, timedelta(seconds=(self._timer() - before) * LIFE_FACTOR))
        with self._lock:
            self._kept[key] = value, now + life
            self._kept.move_to_end(key)
            while len(self._kept) > REACHES_MAX:
                self._kept.popitem(last=False)
        return value
