"""A short run of chaos: a fixed seed, the quickest faults of every part, and the same proof as in the long one."""

from __future__ import annotations

import pytest

from tests.chaos.faults import Fault
from tests.chaos.run import run

SEED = 20261125
FAULTS = 12
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


def is_quick(fault: Fault) -> bool:
    return fault.name not in SLOW


@pytest.mark.timeout(300)
def test_a_short_run_loses_doubles_and_regresses_nothing() -> None:
    told: list[str] = [f"seed {SEED}"]

    outcome = run(SEED, FAULTS, rate=40.0, only=is_quick, say=told.append, seconds=SECONDS, at_least=AT_LEAST)

    assert outcome.is_good, "\n".join([*told, str(outcome.findings)])
    assert len(outcome.struck) >= AT_LEAST, "\n".join(told)
    assert outcome.answered > 100
    assert outcome.given_up == 0
