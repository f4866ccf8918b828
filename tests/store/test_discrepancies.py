"""A difference is one row however often it is seen; it opens, is seen again, and is resolved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from processor.domain.discrepancy import (
    Action,
    ApproveWriteOff,
    Comment,
    Difference,
    DiscrepancyType,
    Investigate,
    ProposeWriteOff,
    Reason,
    Reopen,
)
from processor.domain.rules import BUILT_IN, Rules, parse
from processor.errors import NotAllowed
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


def history(database: Database) -> list[str]:
    return [row.kind for row in rows(database, "SELECT kind FROM discrepancy_steps ORDER BY step_id")]


def decide(database: Database, action: Action, actor: str, rules: Rules = BUILT_IN) -> None:
    """A person acts on the only discrepancy there is."""
    with database.begin() as connection:
        [found] = connection.execute(text("SELECT discrepancy_id FROM discrepancies")).scalars()
        [held] = discrepancies.lock(connection, [found])
        discrepancies.act(connection, held, action, actor=actor, rules=rules, now=NOW)


def seen(
    database: Database, *differences: Difference, minutes: int = 0, rules: Rules = BUILT_IN
) -> tuple[int, int]:
    """One check of the link that sees these; returns how many it opened and resolved."""
    now = NOW + timedelta(minutes=minutes)
    with database.begin() as connection:
        run_id: UUID = runs.start(connection, INSTANCE, "check", now)
        opened = discrepancies.note(connection, INSTANCE, differences, run_id=run_id, now=now, rules=rules)
        resolved = discrepancies.resolve_absent(connection, INSTANCE, [LINK], run_id=run_id, now=now)
    return opened, resolved


def test_a_difference_opens_is_seen_again_is_resolved_and_may_come_back(database: Database) -> None:
    confirm(database)

    assert seen(database, DIFFERENCE) == (1, 0)
    assert seen(database, DIFFERENCE, minutes=1) == (0, 0)
    row = one(database, "SELECT times_seen, last_seen_at - first_seen_at AS age FROM discrepancies")
    assert (row.times_seen, row.age) == (2, timedelta(minutes=1))
    assert seen(database, minutes=2) == (0, 1)
    row = one(database, "SELECT state, reason, resolution, closed_at FROM discrepancies")
    assert (row.state, row.reason, row.closed_at) == ("resolved", "caught_up", NOW + timedelta(minutes=2))
    assert seen(database, DIFFERENCE, minutes=3) == (1, 0)
    row = one(database, "SELECT state, reason, closed_at, times_seen, times_reopened FROM discrepancies")
    assert (row.state, row.reason, row.closed_at, row.times_seen, row.times_reopened) == (
        *("open", None, None),
        *(3, 1),
    )
    assert history(database) == ["opened", "resolved", "reopened"]


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


def test_what_persons_do_is_written_with_who_did_it(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)

    decide(database, Investigate(), "ada")
    decide(database, Comment("the receipt says 2"), "ada")
    decide(database, ProposeWriteOff(Reason.ROUNDING, comment="rounding of the till"), "ada")
    decide(database, ApproveWriteOff(), "grace")

    row = one(database, "SELECT state, owner, reason, resolution, closed_at FROM discrepancies")
    assert (row.state, row.owner, row.reason, row.closed_at) == ("written_off", "ada", "rounding", NOW)
    steps = rows(
        database, "SELECT actor, kind, state, amount, comment FROM discrepancy_steps ORDER BY step_id"
    )
    assert [tuple(step) for step in steps] == [
        ("automation", "opened", "open", None, None),
        ("ada", "investigated", "investigating", None, None),
        ("ada", "commented", "investigating", None, "the receipt says 2"),
        ("ada", "write_off_proposed", "investigating", Decimal(1), "rounding of the till"),
        ("grace", "write_off_approved", "written_off", Decimal(1), None),
    ]
    off = one(database, "SELECT status, amount, currency, proposed_by, approved_by FROM write_offs")
    assert tuple(off) == ("approved", Decimal(1), "USD", "ada", "grace")


def test_a_check_leaves_what_is_written_off_until_more_is_at_risk(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    decide(database, ProposeWriteOff(Reason.ROUNDING), "ada")
    decide(database, ApproveWriteOff(), "grace")

    assert seen(database, DIFFERENCE, minutes=1) == (0, 0)
    assert one(database, "SELECT state, times_seen FROM discrepancies") == ("written_off", 2)
    more = replace(DIFFERENCE, amount_at_risk=Decimal(2))
    assert seen(database, more, minutes=3) == (1, 0)

    assert one(database, "SELECT state, amount_at_risk FROM discrepancies") == ("open", Decimal(2))
    assert one(database, "SELECT status, ended_by FROM write_offs") == ("reversed", "automation")
    decide(database, ProposeWriteOff(Reason.ROUNDING), "ada")
    assert [
        row.status for row in rows(database, "SELECT status FROM write_offs ORDER BY proposed_at, status")
    ] == [
        "proposed",
        "reversed",
    ]


def test_what_was_written_off_and_goes_is_taken_back(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    decide(database, ProposeWriteOff(Reason.ROUNDING), "ada")
    decide(database, ApproveWriteOff(), "grace")

    assert seen(database, minutes=1) == (0, 1)
    assert seen(database, minutes=2) == (0, 0)

    assert one(database, "SELECT state, reason FROM discrepancies") == ("resolved", "caught_up")
    assert one(database, "SELECT status, ended_by FROM write_offs") == ("reversed", "automation")
    assert seen(database, DIFFERENCE, minutes=3) == (1, 0)


def test_a_proposal_left_by_what_a_release_before_closed_is_void_when_it_recurs(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    decide(database, ProposeWriteOff(Reason.ROUNDING), "ada")
    with database.begin() as connection:
        # As the release before resolves: it knows no write-offs.
        connection.execute(
            text(
                "UPDATE discrepancies SET state = 'resolved', closed_at = now(), resolution = 'no longer differs'"
            )
        )

    with pytest.raises(NotAllowed, match="no write-off"):
        decide(database, ApproveWriteOff(), "grace")
    assert seen(database, DIFFERENCE, minutes=1) == (1, 0)
    assert one(database, "SELECT status FROM write_offs").status == "voided"


def test_what_a_newer_release_opened_is_left_to_it(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    with database.begin() as connection:
        connection.execute(text("UPDATE discrepancies SET type = 'of_tomorrow', payment_id = NULL"))

    assert seen(database, minutes=1) == (0, 0)
    with database.begin() as connection:
        assert discrepancies.open_types(connection, INSTANCE, [LINK]) == {}


def test_a_proposal_is_void_when_the_difference_goes(database: Database) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    decide(database, ProposeWriteOff(Reason.ROUNDING), "ada")

    assert seen(database, minutes=1) == (0, 1)

    assert one(database, "SELECT status FROM write_offs").status == "voided"
    assert history(database)[-2:] == ["write_off_voided", "resolved"]
    decide(database, Reopen("it was not looked at"), "grace")
    with pytest.raises(NotAllowed, match="no write-off"):
        decide(database, ApproveWriteOff(), "grace")


def test_what_the_rules_tolerate_needs_nobody_and_says_by_which_rule(database: Database) -> None:
    confirm(database)
    small = Rules(
        None,
        parse(
            {
                "tolerances": [
                    {"id": "small", "type": "amount_differs", "currency": "USD", "amount": 1, "days": 1}
                ]
            }
        ),
    )
    with database.begin() as connection:
        version = connection.execute(
            text(
                "INSERT INTO rule_sets (document, created_by, created_at) VALUES ('{}', 'ada', now())"
                " RETURNING version"
            )
        ).scalar_one()
    by = Rules(version, small.rule_set)

    assert seen(database, DIFFERENCE, rules=by) == (0, 0)
    row = one(database, "SELECT state, reason, rules, rule_set_version FROM discrepancies")
    assert tuple(row) == ("resolved", "within_tolerance", "small (1.00 USD, 1 days)", version)
    assert seen(database, DIFFERENCE, rules=by, minutes=60) == (0, 0)
    assert seen(database, DIFFERENCE, rules=by, minutes=25 * 60) == (1, 0), "older than tolerated"
    row = one(database, "SELECT state, rules, rule_set_version FROM discrepancies")
    assert tuple(row) == ("open", None, None)
    assert history(database) == ["opened", "resolved", "reopened"]

    hours = 26
    assert seen(database, rules=by, minutes=hours * 60) == (0, 1)
    assert seen(database, DIFFERENCE, rules=by, minutes=hours * 60 + 1) == (0, 0), "it came up anew"
    row = one(database, "SELECT state, closed_at, opened_at, first_seen_at FROM discrepancies")
    again = NOW + timedelta(hours=hours, minutes=1)
    assert tuple(row) == ("resolved", again, again, NOW)


def test_thousands_of_differences_are_rows_and_steps_of_their_own(database: Database) -> None:
    confirm(database)
    many = [replace(DIFFERENCE, payment_id=uuid4()) for _ in range(discrepancies.BATCH * 2 + 7)]

    assert seen(database, *many) == (len(many), 0)
    assert seen(database, *many, minutes=1) == (0, 0)
    assert seen(database, minutes=2) == (0, len(many))

    found = one(
        database,
        "SELECT count(*), min(times_seen) AS least, max(times_seen) AS most FROM discrepancies"
        " WHERE state = 'resolved'",
    )
    assert tuple(found) == (len(many), 2, 2)
    assert len(history(database)) == 2 * len(many)


# Rows of the table this session has read.
READ = """
SELECT seq_tup_read + COALESCE(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'discrepancies'
"""


def test_a_few_of_very_many_are_found_by_their_key(database: Database) -> None:
    confirm(database)
    many = [replace(DIFFERENCE, payment_id=uuid4()) for _ in range(3_000)]
    whole = [
        Difference(type=type_, payment_link_id=LINK)
        for type_ in (DiscrepancyType.TOTAL_DIFFERS, DiscrepancyType.COUNT_DIFFERS)
    ]
    seen(database, *many, *whole)

    with database.begin() as connection:
        before = connection.execute(text(READ)).scalar_one()
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        discrepancies.note(connection, INSTANCE, [*many[:10], *whole], run_id=run_id, now=NOW)
        read = connection.execute(text(READ)).scalar_one() - before

    assert read < 200


def together(database: Database, *actions: tuple[Action, str]) -> list[str]:
    """Several persons act at once, each in a transaction; returns what became of it, sorted."""
    barrier = Barrier(len(actions))

    def one_of_them(action: Action, actor: str) -> str:
        barrier.wait(10)
        try:
            decide(database, action, actor)
        except NotAllowed:
            return "refused"
        return "done"

    with ThreadPoolExecutor(len(actions)) as pool:
        return sorted(pool.map(lambda one: one_of_them(*one), actions))


def test_of_several_persons_at_once_one_proposes_and_one_approves(database: Database) -> None:
    confirm(database)
    for _ in range(5):
        seen(database, DIFFERENCE)
        propose = ProposeWriteOff(Reason.ROUNDING)
        assert together(database, (propose, "ada"), (propose, "grace"), (propose, "joan")) == [
            *("done", "refused", "refused")
        ]
        [proposer] = rows(database, "SELECT proposed_by FROM write_offs WHERE status = 'proposed'")
        others = {"ada", "grace", "joan"} - {proposer.proposed_by}
        assert together(database, *((ApproveWriteOff(), other) for other in others)) == ["done", "refused"]
        decide(database, Reopen("once more"), "ada")

    assert {row.status for row in rows(database, "SELECT status FROM write_offs")} == {"reversed"}


def test_two_checks_that_see_one_difference_first_open_one_row(database: Database) -> None:
    confirm(database)
    barrier = Barrier(4)

    def check(_: int) -> int:
        barrier.wait(10)
        with database.begin() as connection:
            run_id = runs.start(connection, INSTANCE, "check", NOW)
            return discrepancies.note(connection, INSTANCE, [DIFFERENCE], run_id=run_id, now=NOW)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(check, range(4))) == [0, 0, 0, 1]

    assert one(database, "SELECT times_seen FROM discrepancies").times_seen == 4
    assert history(database) == ["opened"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE discrepancy_steps SET comment = 'other'",
        "DELETE FROM discrepancy_steps",
        "UPDATE rule_sets SET document = '{}'",
        "DELETE FROM rule_sets",
        "TRUNCATE discrepancy_steps",
    ],
)
def test_history_cannot_be_edited_away(database: Database, statement: str) -> None:
    confirm(database)
    seen(database, DIFFERENCE)
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO rule_sets (document, created_by, created_at) VALUES ('{}', 'ada', now())")
        )

    with pytest.raises(DBAPIError, match="append-only"), database.begin() as connection:
        connection.execute(text(statement))
