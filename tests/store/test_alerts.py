"""Alerts are written with the change they tell of, once, and for nothing that is no change."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from processor.domain.alert import AlertKind
from processor.domain.discrepancy import (
    Action,
    ApproveWriteOff,
    Difference,
    DiscrepancyType,
    ProposeWriteOff,
    Reason,
    Severity,
)
from processor.domain.rules import BUILT_IN, Rules, parse
from processor.store import alerts, backfills, discrepancies, runs
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


def seen(database: Database, *differences: Difference, minutes: int = 0, rules: Rules = BUILT_IN) -> None:
    """One check of the link that sees these."""
    now = NOW + timedelta(minutes=minutes)
    with database.begin() as connection:
        run_id: UUID = runs.start(connection, INSTANCE, "check", now)
        discrepancies.note(connection, INSTANCE, differences, run_id=run_id, now=now, rules=rules)
        discrepancies.resolve_absent(connection, INSTANCE, [LINK], run_id=run_id, now=now)


def decide(database: Database, action: Action, actor: str) -> None:
    """A person acts on the only discrepancy there is."""
    with database.begin() as connection:
        found = connection.execute(text("SELECT discrepancy_id FROM discrepancies")).scalars().all()
        [held] = discrepancies.lock(connection, found)
        discrepancies.act(connection, held, action, actor=actor, rules=BUILT_IN, now=NOW)


def told(database: Database) -> list[str]:
    return [row.kind for row in rows(database, "SELECT kind FROM alerts ORDER BY at, change::bigint")]


def test_each_change_of_a_discrepancy_is_told_once_however_often_it_is_seen(database: Database) -> None:
    confirm(database)

    seen(database, DIFFERENCE)
    seen(database, DIFFERENCE, minutes=1)
    seen(database, DIFFERENCE, minutes=2)
    seen(database, minutes=3)
    seen(database, minutes=4)
    seen(database, DIFFERENCE, minutes=5)

    assert told(database) == ["discrepancy_opened", "discrepancy_resolved", "discrepancy_reopened"]


def test_an_alert_says_what_differs_and_nothing_of_a_person(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    decide(database, ProposeWriteOff(Reason.FEE, comment="Hedwig says so"), "ada")
    decide(database, ApproveWriteOff(), "grace")

    found = rows(database, "SELECT * FROM alerts ORDER BY change::bigint")
    assert [(row.kind, row.severity) for row in found] == [
        ("discrepancy_opened", "error"),
        ("write_off_proposed", "error"),
        ("discrepancy_written_off", "informational"),
    ]
    assert {row.subject for row in found} == {
        str(one(database, "SELECT discrepancy_id FROM discrepancies")[0])
    }
    assert found[0].document == {
        "discrepancy_id": found[0].subject,
        "type": "amount_differs",
        "state": "open",
        "payment_link_id": str(LINK),
        "payment_id": str(PAYMENT),
        "amount_at_risk": "1",
        "currency": "USD",
        "sides": {"booked": "1", "wix": "2"},
        "reason": None,
    }
    assert not any(name in str(row.document) for row in found for name in ("ada", "grace", "Hedwig"))


def test_a_change_that_is_rolled_back_leaves_no_alert(database: Database) -> None:
    confirm(database)

    def break_off() -> None:
        with database.begin() as connection:
            run_id = runs.start(connection, INSTANCE, "check", NOW)
            discrepancies.note(connection, INSTANCE, [DIFFERENCE], run_id=run_id, now=NOW)
            assert connection.execute(text("SELECT count(*) FROM alerts")).scalar_one() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()

    assert told(database) == []


def test_what_the_rules_allow_is_not_told_of_and_an_innocent_difference_is_informational(
    database: Database,
) -> None:
    confirm(database)
    cents = parse(
        {"tolerances": [{"id": "cents", "type": "amount_differs", "currency": "USD", "amount": "5"}]}
    )
    mild = replace(DIFFERENCE, type=DiscrepancyType.TOTAL_DIFFERS, severity=Severity.INFORMATIONAL)

    seen(database, DIFFERENCE, mild, rules=Rules(1, cents))

    assert rows(database, "SELECT kind, severity FROM alerts") == [("discrepancy_opened", "informational")]
    assert one(database, "SELECT document ->> 'type' AS type FROM alerts").type == "total_differs"


def test_every_one_of_many_differences_is_told_of(database: Database) -> None:
    confirm(database)
    many = [replace(DIFFERENCE, payment_id=UUID(int=number)) for number in range(1, 2_001)]

    seen(database, *many)

    assert one(database, "SELECT count(*), count(DISTINCT subject) FROM alerts") == (2_000, 2_000)


def test_an_alert_of_any_kind_is_raised_once_for_each_change(database: Database) -> None:
    def raised(change: str) -> bool:
        with database.begin() as connection:
            return alerts.tell(
                connection,
                AlertKind.WEBHOOKS_SILENT,
                instance_id=INSTANCE,
                subject=str(INSTANCE),
                change=change,
                document={"silent_since": NOW.isoformat()},
                now=NOW,
            )

    assert [raised("a"), raised("a"), raised("b")] == [True, False, True]
    assert one(database, "SELECT severity FROM alerts WHERE change = 'a'").severity == "error"


def test_the_end_of_a_backfill_is_told_of_once(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        span = (NOW - timedelta(days=9), NOW - timedelta(days=2))
        backfills.request(connection, INSTANCE, *span, reason="downtime", actor="automation", now=NOW)
        held = backfills.claim(connection, INSTANCE, NOW, lease=timedelta(minutes=2))
        assert held is not None
        assert backfills.finish(connection, held, payments=7, now=NOW)
        assert not backfills.finish(connection, held, payments=7, now=NOW)

    [row] = rows(database, "SELECT kind, severity, instance_id, document FROM alerts")
    assert (row.kind, row.severity, row.instance_id) == ("backfill_finished", "informational", INSTANCE)
    assert (row.document["reason"], row.document["payments"]) == ("downtime", 7)
