"""A difference is one row however often it is seen; it opens, is seen again, and is resolved."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from processor.domain.discrepancy import Difference, DiscrepancyType
from processor.store import discrepancies, reports, runs
from processor.store.database import Database
from tests.builders import INSTANCE, LINK, NOW, PAYMENT
from tests.store.helpers import confirm, one, rows

DIFFERENCE = Difference(
    type=DiscrepancyType.AMOUNT_DIFFERS,
    payment_link_id=LINK,
    payment_id=PAYMENT,
    sides={"booked": "1", "wix": "2"},
    amount_at_risk=Decimal(1),
    currency="USD",
)


def seen(database: Database, *differences: Difference, minutes: int = 0) -> tuple[int, int]:
    """One check of the link that sees these; returns how many it opened and resolved."""
    now = NOW + timedelta(minutes=minutes)
    with database.begin() as connection:
        run_id: UUID = runs.start(connection, INSTANCE, "check", now)
        opened = discrepancies.note(connection, INSTANCE, differences, run_id=run_id, now=now)
        resolved = discrepancies.resolve_absent(connection, INSTANCE, [LINK], run_id=run_id, now=now)
    return opened, resolved


def test_a_difference_opens_is_seen_again_is_resolved_and_may_come_back(database: Database) -> None:
    confirm(database)

    assert seen(database, DIFFERENCE) == (1, 0)
    assert seen(database, DIFFERENCE, minutes=1) == (0, 0)
    row = one(database, "SELECT times_seen, last_seen_at - first_seen_at AS age FROM discrepancies")
    assert (row.times_seen, row.age) == (2, timedelta(minutes=1))
    assert seen(database, minutes=2) == (0, 1)
    assert seen(database, DIFFERENCE, minutes=3) == (1, 0)
    states = rows(database, "SELECT state, resolution FROM discrepancies ORDER BY first_seen_at")
    assert [(row.state, row.resolution) for row in states] == [
        ("resolved", "no longer differs"),
        ("open", None),
    ]


def test_a_difference_of_a_link_as_a_whole_is_one_row_as_well(database: Database) -> None:
    confirm(database)
    whole = Difference(type=DiscrepancyType.TOTAL_DIFFERS, payment_link_id=LINK)

    assert seen(database, whole, DIFFERENCE) == (2, 0)
    assert seen(database, whole, DIFFERENCE) == (0, 0)
    with database.begin() as connection:
        assert reports.open_by_link(connection, [INSTANCE]) == {
            (LINK, "total_differs"),
            (LINK, "amount_differs"),
        }


def test_discrepancies_of_links_that_were_not_checked_stay_open(database: Database) -> None:
    confirm(database)
    elsewhere = Difference(type=DiscrepancyType.TOTAL_DIFFERS, payment_link_id=UUID(int=9))

    seen(database, elsewhere)

    assert seen(database, minutes=1) == (0, 0)
