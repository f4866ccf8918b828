"""Reports of payments read those of the days they are asked for, and no others, as query plans show."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from processor.domain.access import EVERYWHERE, Reach
from processor.store.database import Database
from processor.store.report_views import REPORTS, Scope
from processor.store.screens import reports
from tests.store.screens.test_payments import BEGAN, REACHES, costs, database, noted

__all__ = ["database"]  # the fixture
PER_DAY = 24 * 60  # one a minute


@pytest.mark.parametrize("reach", REACHES, ids=["everywhere", "tiny", "both"])
@pytest.mark.parametrize("view", ["payments", "missed_webhooks"])
def test_a_report_of_a_day_reads_that_day(database: Database, view: str, reach: Reach) -> None:
    report, since = REPORTS[view], BEGAN + timedelta(days=20)
    scope = Scope(since=since, until=since + timedelta(days=1))
    with database.begin() as connection:
        nested = connection.begin_nested()
        connection.execute(
            text(
                "UPDATE payments SET first_origin = 'poll', stored_at = created_at WHERE recovery"
                " IS NOT NULL AND created_at IS NOT NULL"
            )
        )
        with noted(connection) as asked:
            found = reports.totals(connection, report, scope, reach)
            with reports.lines(
                connection, report, scope, reach, columns=[*report.shown, "instance_id"], limit=500
            ) as lines:
                rows = list(lines.rows)
        whole, read = costs(connection, asked)
        nested.rollback()

    assert sum(one.rows for one in found) >= len(rows)
    assert reach is not EVERYWHERE or rows
    assert whole == []
    assert read < 3 * PER_DAY
