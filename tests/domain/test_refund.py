"""Which event about a refund stands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from processor.domain.refund import supersedes
from tests.builders import NOW, make_refund

LATER = NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("known", "seen", "stands"),
    [
        ({"sequence": 1}, {"sequence": 2}, True),
        ({"sequence": 2, "occurred_at": NOW}, {"sequence": 1, "occurred_at": LATER}, False),
        ({"sequence": None}, {"occurred_at": LATER}, True),
        ({"sequence": None, "occurred_at": LATER}, {"occurred_at": NOW}, False),
        ({"sequence": 1}, {"sequence": 1, "occurred_at": LATER}, True),
        ({"status": "PENDING"}, {"status": "SUCCEEDED"}, True),
        ({"status": "SUCCEEDED"}, {"status": "REVERSED"}, True),
        ({"status": "REVERSED"}, {"status": "SUCCEEDED"}, False),
        ({"status": "SUCCEEDED"}, {"status": "SUCCEEDED"}, False),
        ({"status": None}, {"status": "UNHEARD_OF"}, False),
    ],
)
def test_the_later_event_stands_however_they_arrive(
    known: dict[str, Any], seen: dict[str, Any], stands: bool
) -> None:
    assert supersedes(make_refund(**seen), make_refund(**known)) is stands
