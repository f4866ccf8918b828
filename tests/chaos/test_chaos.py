"""A short run of chaos: a fixed seed, the quickest faults of every part, and the same proof as in the long one.

Only the books of the sandbox's site are left to the long run and to tests/journeys.
"""

from __future__ import annotations

import pytest

from tests.chaos.faults import Fault
from tests.chaos.run import run

SEED = 10455  # draws kills of a web server, the clock and PostgreSQL, a full disk, and connections exhausted
FAULTS = 8
SECONDS = 12.0  # after which no further fault begins, on a machine with much else to do
AT_LEAST = 4
# These wait for what takes long, several starts as a rule; the long run has them.
SLOW = (
    "file system read-only",
    "rolling deploy",
    "restart of everything",
    "new signing key",
    "two versions and a migration",
    "Valkey away for long",
    "kill -9 of both web servers",
    "kill -9 of both workers, thrice",
    # A job that is lost is enqueued again after 30 s, and what a fast clock put off waits until then.
    "kill -9 of a worker",
    "clock step of worker",
    "clock step of clock",
    "kill -9 of Valkey",
    "FLUSHALL",
    "half of the keys lost",
    "jobs popped, not registered",
    "webhooks that never come",
)


# Of the many links, those that every event goes over.
LINKS = ("link sender→web-a", "link web→postgres")


def is_quick(fault: Fault) -> bool:
    return fault.name not in SLOW and (not fault.kind.startswith("link ") or fault.kind in LINKS)


@pytest.mark.timeout(300)
def test_a_short_run_loses_doubles_and_regresses_nothing() -> None:
    told: list[str] = [f"seed {SEED}"]

    outcome = run(
        SEED,
        FAULTS,
        rate=40.0,
        only=is_quick,
        say=told.append,
        seconds=SECONDS,
        at_least=AT_LEAST,
        is_short=True,
    )

    assert outcome.is_good, "\n".join([*told, str(outcome.findings)])
    assert len(outcome.struck) >= AT_LEAST, "\n".join(told)
    assert outcome.answered > 100
    assert outcome.given_up == 0
