"""Stories in which everything goes wrong: in the end the books are right, and what is wrong at Wix is open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import pytest

from processor.domain import reconciliation
from processor.domain.payment import Payment, Verdict, judge
from processor.sandbox.faults import FAULTS
from processor.store import discrepancies, events
from processor.wix.client import WixClient
from tests.conftest import Owner, a_database
from tests.simulation import run
from tests.simulation.run import Played, play
from tests.simulation.story import CALL_FAULTS, DELIVERY_FAULTS

SEEDS = range(1, 11)
# A deliberate mistake must be noticed in one of so many stories.
SEEDS_MAX = 20


@pytest.fixture
def story(_owner: Owner, _template: str, redis_url: str) -> Callable[..., Played]:
    """Plays a seed, in a database of its own."""

    def played(seed: int, **more: Any) -> Played:
        with a_database(_owner.get().database_url, _owner.new_database(), template=_template) as url:
            return play(seed, url, redis_url, **more)

    return played


@pytest.fixture(scope="module")
def _played() -> dict[int, Played]:
    return {}


@pytest.fixture
def whole(story: Callable[..., Played], _played: dict[int, Played]) -> Callable[[int], Played]:
    """A seed as it was played once, for every test that changes nothing of it."""

    def once(seed: int) -> Played:
        if seed not in _played:
            _played[seed] = story(seed)
        return _played[seed]

    return once


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_end_every_payment_is_matched_and_only_true_differences_are_open(
    seed: int, whole: Callable[[int], Played]
) -> None:
    played = whole(seed)

    assert played.wrong is None, "\n".join(["", *played.trace, f"python -m tests.simulation --seed {seed}"])


def test_a_seed_is_the_same_story_with_the_same_end(
    story: Callable[..., Played], whole: Callable[[int], Played]
) -> None:
    first, second, other = whole(4), story(4), whole(5)

    assert second.trace == first.trace
    assert second.digest == first.digest
    assert other.digest != first.digest


def test_a_story_can_be_cut_short(story: Callable[..., Played], whole: Callable[[int], Played]) -> None:
    all_of_it, cut, none = whole(4), story(4, steps=5), story(4, steps=0)

    told = cut.trace[: next(number for number, line in enumerate(cut.trace) if "no more" in line)]
    assert told == all_of_it.trace[: len(told)]
    assert [one.wrong for one in (all_of_it, cut, none)] == [None, None, None]
    assert none.counts["payments"] == 0 < cut.counts["payments"] < all_of_it.counts["payments"]


# -- It can fail -----------------------------------------------------------------------------------


def ignoring_revisions(known: Payment | None, seen: Payment) -> Verdict:
    verdict = judge(known, seen)
    return Verdict.SAME if verdict is Verdict.NEWER else verdict


QUERY = WixClient.query_payments


def without_the_first_page(
    client: WixClient, instance_id: Any, filter: Any, **more: Any
) -> Iterator[list[Any]]:
    pages = QUERY(client, instance_id, filter, **more)
    if "createdDate" in filter:
        next(pages, None)
    return pages


# How it is made, settings, what is said of it, and the seed that is tried first because it noticed it before.
MISTAKES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], dict[str, str], str, int]] = {
    "a check ignores revisions": (
        lambda: mock.patch.object(reconciliation, "judge", ignoring_revisions),
        {},
        r"is booked as .*, and is",
        6,
    ),
    "nothing is given time to settle": (
        nullcontext,
        {"SETTLING_SECONDS": "0"},
        r"was opened .* after it happened",
        1,
    ),
    "the sweep passes a page over": (
        lambda: mock.patch.object(WixClient, "query_payments", without_the_first_page),
        {},
        r"is not booked",
        10,
    ),
    "what is over is not resolved": (
        lambda: mock.patch.object(discrepancies, "resolve_absent", return_value=0),
        {},
        r"open without a cause",
        1,
    ),
    "events with two bodies are not looked for": (
        lambda: mock.patch.object(events, "conflicts", return_value={}),
        {},
        r"not noticed: event_conflict",
        6,
    ),
}


@pytest.mark.parametrize(("patched", "settings", "said", "first"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_of_ours_is_noticed(
    patched: Callable[[], AbstractContextManager[Any]],
    settings: dict[str, str],
    said: str,
    first: int,
    story: Callable[..., Played],
) -> None:
    seeds = (first, *range(1, SEEDS_MAX + 1))
    with patched():
        found = next((wrong for seed in seeds if (wrong := story(seed, **settings).wrong)), None)

    assert found is not None
    assert re.search(said, found), found


# -- What it is made of ----------------------------------------------------------------------------


def test_every_fault_of_the_sandbox_has_a_part_but_those_that_take_real_time() -> None:
    drawn = {fault["kind"] for fault in (*DELIVERY_FAULTS, *CALL_FAULTS)}
    others = {"read_lag", "wrong_total", "amount_edited", "payment_deleted", "link_deleted"}

    assert drawn | others == FAULTS.keys() - {"hang", "slow"}


def test_the_result_of_a_run_is_told() -> None:
    def played(seed: int, wrong: str | None) -> Played:
        counts = Counter(payments=7, recovered=2)
        return Played(
            seed, 1.5, 4.0, [], "", wrong, counts, Counter(drop=1), Counter(late=1), Counter(over_limit=seed)
        )

    told = run.told([played(1, None), played(2, "P1 is not booked")], 120.0)

    assert "seeds 1 to 2, 2 stories, 1 as they must be, in 2 min" in told
    assert "- seed 2 failed: P1 is not booked" in told
    assert "| payments, of which no webhook told in time of | 14, 4 |" in told
    assert "Open in the end, by type: over limit 3." in told
