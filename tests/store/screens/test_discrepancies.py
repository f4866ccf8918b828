"""The queue is read in the order of its indexes, a bounded number of rows for a page, as query plans show."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from processor.domain.access import EVERYWHERE, Reach
from processor.domain.discrepancy import State
from processor.store import runs
from processor.store.database import Database
from processor.store.screens import discrepancies
from processor.store.screens.discrepancies import Approval, Filter
from tests.builders import INSTANCE, NOW
from tests.store.helpers import confirm
from tests.store.screens.test_payments import nodes, noted

ROWS, LOOKED = 12_000, 500
CLOSED = (State.RESOLVED, State.WRITTEN_OFF)
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "a type there is none of": {"type": "over_limit"},
    "a currency": {"currency": "JPY"},
    "an age": {"aging": 3},
    "an owner": {"owner": "maya"},
    "one state": {"states": (State.INVESTIGATING,)},
    "an instance": {"instance_id": INSTANCE},
    "approval": {"approval": Approval.ANY},
    "closed": {"states": CLOSED},
    "closed of a type": {"states": CLOSED, "type": "over_limit"},
}


@pytest.fixture
def queue(database: Database) -> Database:
    confirm(database)
    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        connection.execute(
            text("""
                INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id,
                    payment_id, sides, amount_at_risk, currency, first_seen_at, last_seen_at, aged_from, first_run_id,
                    last_run_id, closed_at, resolution)
                SELECT gen_random_uuid(), :instance_id, 'amount_differs', 'error',
                    CASE WHEN n % 2 = 0 THEN 'open' ELSE 'resolved' END, gen_random_uuid(), gen_random_uuid(), '{}', n,
                    'EUR', :now, :now, CAST(:now AS timestamptz) - n * interval '1 minute', :run_id, :run_id,
                    CASE WHEN n % 2 = 1 THEN CAST(:now AS timestamptz) - n * interval '1 minute' END,
                    CASE WHEN n % 2 = 1 THEN 'gone' END
                FROM generate_series(1, :rows) n"""),
            {"instance_id": INSTANCE, "now": NOW, "run_id": run_id, "rows": ROWS},
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE discrepancies"))
    return database


@pytest.mark.parametrize("reach", [EVERYWHERE, Reach(frozenset({INSTANCE}))], ids=["everywhere", "one"])
@pytest.mark.parametrize("name", FILTERS)
def test_a_page_and_its_sums_read_a_bounded_number_of_rows(
    queue: Database, monkeypatch: pytest.MonkeyPatch, name: str, reach: Reach
) -> None:
    monkeypatch.setattr(discrepancies, "LOOKED_MAX", LOOKED)
    by, now = Filter(asker="noor", **FILTERS[name]), NOW + timedelta(seconds=1)

    with queue.begin() as connection:
        with noted(connection) as asked:
            discrepancies.page(connection, by, reach, at=None, now=now)
            if by.is_open:
                discrepancies.sums(connection, by, reach, now=now)
                discrepancies.waiting(connection, by, reach)
        read, whole = 0, []
        for statement, parameters in asked:
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            [[plan]] = cursor.fetchall()
            for node in nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
                if node.get("Relation Name") == "discrepancies":
                    whole += [statement] if node["Node Type"] == "Seq Scan" else []
                    left_out = node.get("Rows Removed by Filter", 0)
                    read += int((node["Actual Rows"] + left_out) * node["Actual Loops"])

    assert whole == []
    # For the end of what is looked at, for the page, for the sums, and for the lines themselves.
    assert read <= 3 * LOOKED + 200
