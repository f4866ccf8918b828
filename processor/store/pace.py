"""How many commits are worth having in flight at once.

A commit is work for the database's processors and then a wait for its disk. While the disk is fast, a second commit
beside the first only makes two batches of one, and each batch has a price: one in flight took a fifth less of the
processors than two. While the disk is slow, it is the waits that are to overlap. The least time of the last commits
tells the two apart: a busy machine delays some of them, a slow disk all (`make bench`, with added fsync).

Commits that overlap must not all begin at once. PostgreSQL flushes for all that wait, so they end together, and so come
the next items: the first few would take every commit there may be in batches of one, and the rest wait for the disk a
second time. So while one is in flight, the next begins a while after the last began or ended, with all that came.
"""

from __future__ import annotations

from collections import deque

COMMITS = 32  # of which the fastest counts
ITEM_SECONDS = 0.000_1  # of a commit's time, for each of its items: work that is no wait
LANE_SECONDS = 0.002  # of waiting, for each commit more in flight
PAUSE_SHARE = 0.5  # of the wait, between two beginnings
PAUSE_SECONDS_MAX = 0.01
# A commit in flight for so long is held up by something of its own, such as a lock: others go ahead beside it.
STUCK_SECONDS = 0.1


class Pace:
    """Not safe for threads by itself. most: of commits in flight."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waits: deque[float] = deque(maxlen=COMMITS)
        self.commits = 1  # in flight, as things are
        self.pause = 0.0  # seconds, between two beginnings while one is in flight

    def note(self, seconds: float, items: int) -> None:
        """A commit of so many items took so long."""
        self._waits.append(seconds - items * ITEM_SECONDS)
        wait = min(self._waits)
        self.commits = max(1, min(self._most, 1 + int(wait / LANE_SECONDS)))
        self.pause = min(wait * PAUSE_SHARE, PAUSE_SECONDS_MAX) if self.commits > 1 else 0.0
