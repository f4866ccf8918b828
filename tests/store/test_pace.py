"""How many commits are worth having in flight: one on a quick disk, however busy the machine; more on a slow one.

And how far apart they begin there.
"""

from __future__ import annotations

import pytest

from processor.store.pace import COMMITS, PAUSE_SECONDS_MAX, Pace


def pace_of(*seconds: float, items: int = 1, most: int = 4) -> Pace:
    pace = Pace(most)
    for one in seconds:
        pace.note(one, items)
    return pace


def test_nothing_is_known_at_first() -> None:
    assert Pace(4).commits == 1


@pytest.mark.parametrize(
    ("seconds", "commits"),
    [(0.000_4, 1), (0.002, 1), (0.003, 2), (0.005, 3), (0.007, 4), (0.060, 4)],
)
def test_the_slower_the_disk_the_more_are_in_flight(seconds: float, commits: int) -> None:
    assert pace_of(*[seconds] * COMMITS).commits == commits


def test_a_busy_machine_is_no_slow_disk() -> None:
    """It delays many commits, but not all."""
    assert pace_of(*[0.02] * (COMMITS - 1), 0.001).commits == 1
    assert pace_of(0.001, *[0.02] * COMMITS).commits == 4, "long ago does not count"


def test_the_work_for_a_large_batch_is_no_wait() -> None:
    assert pace_of(0.02, items=200).commits == 1


def test_there_is_always_one_and_never_more_than_there_are_lanes() -> None:
    assert pace_of(0.0, items=256).commits == 1
    assert pace_of(1.0, most=2).commits == 2


def test_on_a_quick_disk_nothing_waits_for_more() -> None:
    assert Pace(4).pause == 0.0
    assert pace_of(0.001).pause == 0.0
    assert pace_of(0.02, 0.001).pause == 0.0


def test_on_a_slow_disk_the_next_begins_half_a_wait_later() -> None:
    assert pace_of(0.0101, 0.3).pause == pytest.approx(0.005)


def test_no_disk_is_so_slow_that_more_is_waited_for_than_helps() -> None:
    assert pace_of(2.0).pause == PAUSE_SECONDS_MAX


def test_where_there_is_one_lane_nothing_waits_for_more() -> None:
    assert pace_of(0.02, most=1).pause == 0.0
