"""A short run of chaos: a fixed seed, the quickest faults of every part, and the same proof as in the long one."""

from __future__ import annotations

import pytest

from tests.chaos.faults import Fault
from tests.chaos.run import run

SEED = 232  # draws kills of a web server, PostgreSQL, a backend and the clock, and an emptied Valkey
FAULTS = 11
SECONDS = 18.0  # after which no further fault begins, on a machine with much else to do
AT_LEAST = 4
# These wait for what takes long, several starts as a rule; the long run has them.
SLOW = (
    "rolling deploy",
    "restart of everything",
    "new signing key",
    "two versions and a migration",
    "Valkey away for long",
    "kill -9 of both web servers",
    "kill -9 of both workers, thrice",
)


# Of the many links, those that every event goes over.
LINKS = ("link sender→web-a", "link web→postgres")


def is_quick(fault: Fault) -> bool:
    return fault.name not in SLOW and (not fault.kind.startswith("link ") or fault.kind in LINKS)


@pytest.mark.timeout(300)
def test_a_short_run_loses_doubles_and_regresses_nothing() -> None:
    told: list[str] = [f"seed {SEED}"]

    outcome = run(SEED, FAULTS, rate=40.0, only=is_quick, say=told.append, seconds=SECONDS, at_least=AT_LEAST)

    assert outcome.is_good, "\n".join([*told, str(outcome.findings)])
    assert len(outcome.struck) >= AT_LEAST, "\n".join(told)
    assert outcome.answered > 100
    assert outcome.given_up == 0
