"""What is open, how it came about and what was written off: the reports against the rows they are about."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from processor.domain.discrepancy import (
    AGING,
    Action,
    ApproveWriteOff,
    Comment,
    Difference,
    DiscrepancyType,
    Investigate,
    ProposeWriteOff,
    Reason,
    RejectWriteOff,
    Reopen,
    Resolve,
    WithdrawWriteOff,
    aging,
)
from processor.domain.rules import BUILT_IN, Rules, parse
from processor.errors import NotAllowed
from processor.store import discrepancies, runs
from processor.store.database import Database
from tests.builders import INSTANCE, LINK, NOW, PAYMENT
from tests.store.helpers import confirm, one, rows
from tests.store.test_report_views import book, only, read

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def a_difference(amount: str | None = "5.00", currency: str | None = "EUR", **facts: Any) -> Difference:
    """One of a payment's amount, unless told otherwise."""
    values: dict[str, Any] = {
        "type": DiscrepancyType.AMOUNT_DIFFERS,
        "payment_link_id": LINK,
        "payment_id": PAYMENT,
        "sides": {"field": "amount", "booked": f"12.00 {currency}", "wix": f"{amount} {currency}"},
        "amount_at_risk": None if amount is None else Decimal(amount),
        "currency": currency,
    }
    return Difference(**values | facts)


def look(
    database: Database,
    at: datetime,
    *found: Difference,
    instance_id: UUID = INSTANCE,
    rules: Rules = BUILT_IN,
) -> None:
    """A check of the link that sees these differences and no other."""
    with database.begin() as connection:
        run_id = runs.start(connection, instance_id, "check", at)
        discrepancies.note(connection, instance_id, found, run_id=run_id, now=at, rules=rules)
        discrepancies.resolve_absent(connection, instance_id, [LINK], run_id=run_id, now=at)


def act(
    database: Database,
    at: datetime,
    action: Action,
    actor: str = "ada",
    *,
    discrepancy_id: UUID | None = None,
    rules: Rules = BUILT_IN,
) -> None:
    """A person does this to a discrepancy: to the only one there is, unless told."""
    with database.begin() as connection:
        wanted = (
            discrepancy_id
            or connection.execute(text("SELECT discrepancy_id FROM discrepancies")).scalar_one()
        )
        [held] = discrepancies.lock(connection, [wanted])
        discrepancies.act(connection, held, action, actor=actor, rules=rules, now=at)


def write_off(database: Database, at: datetime) -> None:
    act(database, at, ProposeWriteOff(Reason.FEE), "ada")
    act(database, at, ApproveWriteOff(), "grace")


# -- What is open ----------------------------------------------------------------------------------


def test_an_open_item_is_shown_with_both_sides_and_who_is_at_it(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference())
    look(database, NOW + HOUR, a_difference())
    act(database, NOW + HOUR, Investigate(), "ada")

    line = only(database, "open_items")

    assert line == {
        **line,
        "instance_id": INSTANCE,
        "type": "amount_differs",
        "severity": "error",
        "state": "investigating",
        "owner": "ada",
        "payment_link_id": LINK,
        "payment_id": PAYMENT,
        "booked": "12.00 EUR",
        "wix": "5.00 EUR",
        "sides": {"field": "amount", "booked": "12.00 EUR", "wix": "5.00 EUR"},
        "amount_at_risk": Decimal("5.000"),
        "currency": "EUR",
        "first_seen_at": NOW,
        "last_seen_at": NOW + HOUR,
        "times_seen": 2,
        "times_reopened": 0,
        "is_write_off_waiting": False,
        "write_off_proposed_by": None,
        "write_off_proposed_at": None,
    }
    assert line["discrepancy_id"] == one(database, "SELECT discrepancy_id FROM discrepancies").discrepancy_id


def test_it_is_said_when_a_write_off_waits_and_what_is_closed_is_not_listed(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference())
    act(database, NOW + HOUR, ProposeWriteOff(Reason.FEE), "ada")

    line = only(database, "open_items")
    assert (line["is_write_off_waiting"], line["write_off_proposed_by"]) == (True, "ada")
    assert line["write_off_proposed_at"] == NOW + HOUR

    act(database, NOW + HOUR, WithdrawWriteOff(), "ada")
    assert not only(database, "open_items")["is_write_off_waiting"]

    write_off(database, NOW + 2 * HOUR)
    assert read(database, "open_items") == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"transaction_at": NOW - 9 * DAY, "created_at": NOW - 2 * DAY}, NOW - 9 * DAY),
        ({"created_at": NOW - 2 * DAY}, NOW - 2 * DAY),
        ({}, NOW),
        ({"instance_id": uuid4(), "transaction_at": NOW - 9 * DAY}, NOW),
        (None, NOW),
    ],
    ids=["transaction", "creation", "neither", "of another instance", "not booked"],
)
def test_age_counts_from_the_transaction_else_the_creation_else_when_it_came_up(
    database: Database, facts: dict[str, Any] | None, expected: datetime
) -> None:
    confirm(database)
    if facts is not None:
        with database.begin() as connection:
            book(connection, [{"payment_id": PAYMENT, **facts}])
    look(database, NOW, a_difference())

    line = only(database, "open_items")

    assert line["aged_from"] == expected
    assert line["age_days"] == max(0, (line["as_of"] - expected) // DAY)
    assert line["aging"] == aging(line["as_of"] - expected)


def test_a_date_that_is_corrected_counts_from_the_next_check_on(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        book(connection, [{"payment_id": PAYMENT, "transaction_at": NOW - 9 * DAY}])
    look(database, NOW, a_difference())
    with database.begin() as connection:
        connection.execute(text("UPDATE payments SET transaction_at = :at"), {"at": NOW - 3 * DAY})

    assert only(database, "open_items")["aged_from"] == NOW - 9 * DAY
    look(database, NOW + HOUR, a_difference())
    assert only(database, "open_items")["aged_from"] == NOW - 3 * DAY


def test_a_check_that_sees_the_same_again_writes_no_index(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference())

    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW + HOUR)
        discrepancies.note(connection, INSTANCE, [a_difference()], run_id=run_id, now=NOW + HOUR)
        written = connection.execute(
            text("""
                SELECT pg_stat_get_xact_tuples_updated(oid) AS rows, pg_stat_get_xact_tuples_hot_updated(oid) AS within
                FROM pg_class WHERE oid = 'discrepancies'::regclass""")
        ).one()

    assert (written.rows, written.within) == (1, 1)


def test_what_came_up_again_is_as_old_as_that(database: Database) -> None:
    confirm(database)
    of_the_link = a_difference(type=DiscrepancyType.TOTAL_DIFFERS, payment_id=None)
    look(database, NOW, of_the_link)
    look(database, NOW + DAY)
    look(database, NOW + 2 * DAY, of_the_link)

    line = only(database, "open_items")

    assert (line["first_seen_at"], line["opened_at"]) == (NOW, NOW + 2 * DAY)
    assert line["aged_from"] == NOW + 2 * DAY


def test_the_buckets_are_those_of_the_commands_at_every_boundary(database: Database) -> None:
    confirm(database)
    ages = [
        age + nearly
        for age in (timedelta(), *(until for _, until in AGING if until is not None), timedelta(days=4_000))
        for nearly in (-timedelta(microseconds=1), timedelta(), timedelta(microseconds=1))
    ]
    links = {uuid4(): age for age in ages}
    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        now = connection.execute(text("SELECT now()")).scalar_one()
        for link_id, age in links.items():
            found = a_difference(payment_link_id=link_id, payment_id=None)
            discrepancies.note(connection, INSTANCE, [found], run_id=run_id, now=now - age)
        # In the same transaction, and so at the same now().
        lines = connection.execute(text("SELECT * FROM report.open_items")).all()

    assert len(lines) == len(ages)
    for line in lines:
        age = links[line.payment_link_id]
        assert line.as_of - line.aged_from == age
        assert line.aging == aging(age), age
        assert line.age_days == max(0, age // DAY)
    assert {line.aging for line in lines} == {name for name, _ in AGING}


# -- How it came about -----------------------------------------------------------------------------

FLOWS = (
    *("opened", "reopened", "adjusted", "caught_up", "within_tolerance", "resolved_by_person"),
    *("written_off", "unexplained"),
)


def moved(line: dict[str, Any]) -> dict[str, Any]:
    """What is not 0 of a line of the roll-forward, as (number, amount)."""
    names = ("opening", *FLOWS, "closing")
    pairs = {name: (line[name], line[f"{name}_amount"]) for name in names}
    return {name: pair for name, pair in pairs.items() if pair != (0, 0)}


def test_a_life_is_rolled_forward_from_day_to_day(database: Database) -> None:
    confirm(database)
    day = datetime(2026, 11, 2, 12, tzinfo=UTC)
    rules = Rules(
        1,
        parse({"tolerances": [{"id": "cents", "type": "amount_differs", "amount": "1", "currency": "EUR"}]}),
    )
    look(database, day, a_difference("5.00"))
    act(database, day + HOUR, Investigate())
    look(database, day + 1 * DAY, a_difference("7.125"))
    look(database, day + 2 * DAY, a_difference("7.125"))  # nothing is new, so nothing moves
    look(database, day + 3 * DAY)
    look(database, day + 4 * DAY, a_difference("3.00"))
    act(database, day + 4 * DAY, Resolve(Reason.CORRECTED_HERE))
    act(database, day + 5 * DAY, Reopen("still there"))
    write_off(database, day + 6 * DAY)
    act(database, day + 7 * DAY, Comment("asked again"))
    look(database, day + 8 * DAY, a_difference("4.00"))
    look(database, day + 9 * DAY, a_difference("0.50"), rules=rules)

    lines = read(database, "roll_forward")

    def money(number: int, amount: str) -> tuple[int, Decimal]:
        return number, Decimal(amount)

    assert [(line["reporting_day"].day, moved(line)) for line in lines] == [
        (2, {"opened": money(1, "5"), "closing": money(1, "5")}),
        (3, {"opening": money(1, "5"), "adjusted": money(0, "2.125"), "closing": money(1, "7.125")}),
        (5, {"opening": money(1, "7.125"), "caught_up": money(1, "7.125")}),
        (6, {"reopened": money(1, "3"), "resolved_by_person": money(1, "3")}),
        (7, {"reopened": money(1, "3"), "closing": money(1, "3")}),
        (8, {"opening": money(1, "3"), "written_off": money(1, "3")}),
        (10, {"reopened": money(1, "4"), "closing": money(1, "4")}),
        (
            11,
            {
                "opening": money(1, "4"),
                "adjusted": money(0, "-3.5"),
                "within_tolerance": money(1, "0.5"),
            },
        ),
    ]
    assert {(line["type"], line["currency"], line["is_explained"]) for line in lines} == {
        ("amount_differs", "EUR", True)
    }
    assert read(database, "open_items") == []


def test_a_change_of_currency_leaves_one_and_comes_to_another(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference("5.00", "EUR"))
    look(database, NOW + DAY, a_difference("900", "JPY"))
    look(database, NOW + 2 * DAY, a_difference(None, None))

    lines = read(database, "roll_forward")

    found = {(line["currency"], line["reporting_day"]): moved(line) for line in lines}
    first = NOW.date()
    assert found == {
        ("EUR", first): {"opened": (1, 5), "closing": (1, 5)},
        ("EUR", first + DAY): {"opening": (1, 5), "adjusted": (-1, -5)},
        ("JPY", first + DAY): {"adjusted": (1, 900), "closing": (1, 900)},
        ("JPY", first + 2 * DAY): {"opening": (1, 900), "adjusted": (-1, -900)},
        (None, first + 2 * DAY): {"adjusted": (1, 0), "closing": (1, 0)},
    }


def test_a_clock_set_back_over_midnight_closes_nothing_before_it_was_opened(database: Database) -> None:
    confirm(database)
    midnight = datetime(2026, 11, 3, tzinfo=UTC)
    look(database, midnight + timedelta(seconds=1), a_difference())
    act(database, midnight - timedelta(seconds=1), Resolve(Reason.TEST_DATA))

    line = only(database, "roll_forward")

    assert line["reporting_day"] == date(2026, 11, 3)
    assert moved(line) == {"opened": (1, 5), "resolved_by_person": (1, 5)}


def by_hand(database: Database, change: str) -> None:
    with database.begin() as connection:
        connection.execute(text(f"UPDATE discrepancies SET {change}"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("amount_at_risk = 4", (0, -1)),
        ("currency = 'USD'", (0, 0)),
        ("state = 'resolved', resolution = 'x', closed_at = '2026-11-26T12:00Z'", (-1, -5)),
    ],
)
def test_what_is_changed_by_hand_is_not_explained_and_still_ties(
    database: Database, change: str, expected: tuple[int, int]
) -> None:
    confirm(database)
    look(database, NOW, a_difference())
    assert all(line["is_explained"] for line in read(database, "roll_forward"))

    by_hand(database, change)

    lines = read(database, "roll_forward")
    assert not any(line["is_explained"] for line in lines if line["unexplained_amount"])
    assert any(not line["is_explained"] for line in lines)
    assert (
        sum(line["unexplained"] for line in lines),
        sum(line["unexplained_amount"] for line in lines),
    ) == (expected)
    assert last_closings(lines) == open_items(database)
    for line in lines:
        assert holds(line)


def test_what_the_release_before_opened_without_a_step_is_not_explained(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference())
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE discrepancy_steps DISABLE TRIGGER append_only"))
        connection.execute(text("DELETE FROM discrepancy_steps"))

    line = only(database, "roll_forward")
    assert moved(line) == {"unexplained": (1, 5), "closing": (1, 5)}
    assert not line["is_explained"]

    act(database, NOW + DAY, Resolve(Reason.TEST_DATA))

    first, second = read(database, "roll_forward")
    assert first == line, "what was reported of a day stays"
    assert moved(second) == {"opening": (1, 5), "resolved_by_person": (1, 5)}
    assert second["is_explained"]


def test_sums_over_days_are_of_what_moved_and_not_of_what_was_open(database: Database) -> None:
    from processor.store import report_views
    from processor.store.report_views import REPORTS, Scope

    confirm(database)
    look(database, NOW, a_difference())
    look(database, NOW + DAY, a_difference("6.00"))
    look(database, NOW + 2 * DAY)

    with report_views.reading(database, "UTC") as connection:
        scope = Scope(since=NOW.date() + DAY)
        [total] = report_views.totals(connection, REPORTS["roll_forward"], scope)
        [line, _] = read(database, "roll_forward", since=NOW.date() + DAY)

    assert (total.currency, total.rows) == ("EUR", 2)
    assert {name: value for name, value in total.sums.items() if value} == {
        "adjusted_amount": 1,
        "resolved": 1,
        "resolved_amount": 6,
    }
    assert line["opening_amount"] == 5, "a window changes no opening"


# -- At random -------------------------------------------------------------------------------------

Key = tuple[UUID, str, str | None]
Sum = tuple[int, Decimal]


def holds(line: dict[str, Any]) -> bool:
    """Whether the equation of a line holds, in number and in amount, and its split of what was resolved."""
    return all(
        line[f"opening{of}"]
        + line[f"opened{of}"]
        + line[f"reopened{of}"]
        + line[f"adjusted{of}"]
        - line[f"resolved{of}"]
        - line[f"written_off{of}"]
        + line[f"unexplained{of}"]
        == line[f"closing{of}"]
        and line[f"resolved{of}"]
        == line[f"caught_up{of}"] + line[f"within_tolerance{of}"] + line[f"resolved_by_person{of}"]
        for of in ("", "_amount")
    )


def key(line: dict[str, Any]) -> Key:
    return line["instance_id"], line["type"], line["currency"]


def last_closings(lines: list[dict[str, Any]]) -> dict[Key, Sum]:
    """Of lines in the order of their days; what closed with nothing is left out."""
    found = {key(line): (line["closing"], line["closing_amount"]) for line in lines}
    return {of: sums for of, sums in found.items() if any(sums)}


def open_items(database: Database, **scope: Any) -> dict[Key, Sum]:
    return summed(read(database, "open_items", **scope))


def summed(lines: list[dict[str, Any]]) -> dict[Key, Sum]:
    found: dict[Key, Sum] = {}
    for line in lines:
        number, amount = found.get(key(line), (0, Decimal(0)))
        found[key(line)] = (number + 1, amount + (line["amount_at_risk"] or 0))
    return found


SLOTS = (
    (DiscrepancyType.AMOUNT_DIFFERS, PAYMENT),
    (DiscrepancyType.AMOUNT_DIFFERS, UUID(int=1)),
    (DiscrepancyType.TOTAL_DIFFERS, None),
    (DiscrepancyType.COUNT_DIFFERS, None),
)
RISKS = st.sampled_from(
    [("0.500", "EUR"), ("1.234", "EUR"), ("3.001", "EUR"), ("0.001", "KWD"), ("7", "KWD"), (None, "EUR")]
)
NOTHING = (None, None)
BY_TWO = ((ProposeWriteOff(Reason.FEE), "ada"), (ApproveWriteOff(), "grace"))
ACTIONS = st.sampled_from(
    [
        BY_TWO,
        *(
            (one,)
            for one in (
                (Investigate(), "ada"),
                (Resolve(Reason.CORRECTED_AT_WIX), "ada"),
                *BY_TWO,
                (RejectWriteOff("no"), "grace"),
                (WithdrawWriteOff(), "ada"),
                (Reopen("look again"), "ada"),
                (Comment("hm"), "ada"),
            )
        ),
    ]
)
SEEN = st.lists(st.one_of(st.just(NOTHING), RISKS, RISKS), min_size=len(SLOTS), max_size=len(SLOTS))
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 60 * 30).map(lambda minutes: timedelta(minutes=minutes)),
        st.one_of(SEEN, st.tuples(st.integers(0, len(SLOTS) - 1), ACTIONS)),
    ),
    min_size=1,
    max_size=25,
)
SEEN_BY_ALL = [("3.001", "EUR"), ("1.234", "EUR"), ("7", "KWD"), (None, "EUR")]
EVERYTHING: list[Any] = [
    (HOUR, SEEN_BY_ALL),
    (DAY, (0, BY_TWO)),
    (DAY, [("3.001", "EUR"), ("0.500", "EUR"), ("0.001", "KWD"), NOTHING]),
    (DAY, SEEN_BY_ALL),
    (DAY, (2, ((Resolve(Reason.CORRECTED_AT_WIX), "ada"),))),
]
"""Every way an item comes and goes."""
# A day before the clock in Berlin is put forward, and back: days of 23 and 25 hours are among those that follow.
STARTS = st.sampled_from([datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)])


def step_at_random(database: Database, instance_id: UUID, event: Any, at: datetime, rules: Rules) -> None:
    if isinstance(event, list):
        found = [
            a_difference(amount, currency, type=type_, payment_id=payment_id, sides={"wix": str(amount)})
            for (type_, payment_id), (amount, currency) in zip(SLOTS, event, strict=True)
            if currency is not None
        ]
        look(database, at, *found, instance_id=instance_id, rules=rules)
        return
    slot, actions = event
    type_, payment_id = SLOTS[slot]
    held = rows(
        database,
        """SELECT discrepancy_id FROM discrepancies WHERE instance_id = :instance_id AND type = :type
        AND payment_id IS NOT DISTINCT FROM :payment_id""",
        instance_id=instance_id,
        type=type_.value,
        payment_id=payment_id,
    )
    for row in held:
        for action, actor in actions:
            with contextlib.suppress(NotAllowed):
                act(database, at, action, actor, discrepancy_id=row.discrepancy_id, rules=rules)


def what_is_open(connection: Connection, instance_id: UUID) -> dict[Key, Sum]:
    """By the rows themselves, which know nothing of steps."""
    found = connection.execute(
        text("SELECT * FROM discrepancies WHERE instance_id = :id AND closed_at IS NULL"), {"id": instance_id}
    )
    return summed([dict(row) for row in found.mappings()])


def test_whatever_happens_each_day_closes_with_what_was_open_then(database: Database) -> None:
    rule_set = parse(
        {
            "tolerances": [{"id": "small", "type": "amount_differs", "currency": "EUR", "amount": "1"}],
            "write_off_limits": {"EUR": "3.01", "KWD": "6"},
        }
    )
    with database.begin() as connection:
        version = connection.execute(
            text(
                "INSERT INTO rule_sets (document, created_by, created_at) VALUES ('{}', 'ada', now()) RETURNING version"
            )
        ).scalar_one()
    rules = Rules(version, rule_set)
    happened: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @example(start=datetime(2026, 3, 28, 12, tzinfo=UTC), events=EVERYTHING, zone="Europe/Berlin")
    @given(start=STARTS, events=EVENTS, zone=st.sampled_from(["Europe/Berlin", "UTC", "Africa/Cairo"]))
    def lives(start: datetime, events: list[Any], zone: str) -> None:
        instance_id = uuid4()
        confirm(database, instance_id)
        at = start
        was_open: dict[date, dict[Key, Sum]] = {}
        for gap, event in events:
            at += gap
            step_at_random(database, instance_id, event, at, rules)
            with database.begin() as connection:
                was_open[at.astimezone(ZoneInfo(zone)).date()] = what_is_open(connection, instance_id)

        lines = read(database, "roll_forward", zone, instance_id=instance_id)

        assert {line["reporting_zone"] for line in lines} <= {zone}
        closed: dict[Key, Sum] = defaultdict(lambda: (0, Decimal(0)))
        for day in sorted(was_open):
            for line in [line for line in lines if line["reporting_day"] == day]:
                assert holds(line)
                assert (line["unexplained"], line["unexplained_amount"], line["is_explained"]) == (0, 0, True)
                assert (line["opening"], line["opening_amount"]) == closed[key(line)]
                closed[key(line)] = (line["closing"], line["closing_amount"])
                happened.update(name for name in FLOWS if line[name] or line[f"{name}_amount"])
            assert {of: sums for of, sums in closed.items() if any(sums)} == was_open[day]
        assert {line["reporting_day"] for line in lines} <= set(was_open)
        assert last_closings(lines) == open_items(database, instance_id=instance_id)
        resolved: dict[Any, Sum] = defaultdict(lambda: (0, Decimal(0)))
        for line in read(database, "resolutions", zone, instance_id=instance_id):
            number, amount = resolved[line["reporting_day"], key(line)]
            resolved[line["reporting_day"], key(line)] = number + 1, amount + (line["amount_at_risk"] or 0)
        assert resolved == {
            (line["reporting_day"], key(line)): (line["resolved"], line["resolved_amount"])
            for line in lines
            if line["resolved"]
        }
        accepted: dict[Any, Decimal] = defaultdict(Decimal)
        for off in read(database, "write_offs", instance_id=instance_id):
            accepted[off["currency"]] += off["approved_amount"]
        written: dict[Any, Decimal] = defaultdict(Decimal)
        for line in lines:
            written[line["currency"]] += line["written_off_amount"]
        assert {of: amount for of, amount in accepted.items() if amount} == {
            of: amount for of, amount in written.items() if amount
        }

    lives()
    assert set(happened) == set(FLOWS) - {"unexplained"}, "the examples must be worth something"


# -- What was resolved -----------------------------------------------------------------------------


def test_each_time_an_item_was_resolved_is_listed_with_who_did_it_and_why(database: Database) -> None:
    confirm(database)
    at = [NOW + n * DAY for n in range(7)]
    rules = Rules(
        2,
        parse({"tolerances": [{"id": "cents", "type": "amount_differs", "amount": "1", "currency": "EUR"}]}),
    )
    look(database, at[0], a_difference("5.00"))
    look(database, at[1])
    look(database, at[2], a_difference("6.00"))
    act(database, at[3], Resolve(Reason.CORRECTED_HERE), "ada")
    look(database, at[4], a_difference("7.00"))
    look(database, at[5], a_difference("0.50"), rules=rules)
    act(database, at[6], Comment("well"), "ada")

    lines = read(database, "resolutions")

    names = (
        *("opened_at", "resolved_at", "reopened_at", "amount_at_risk", "reason", "resolved_by"),
        *("rule_set_version", "reporting_day"),
    )
    assert [tuple(line[name] for name in names) for line in lines] == [
        (at[0], at[1], at[2], 5, "caught_up", "automation", None, at[1].date()),
        (at[2], at[3], at[4], 6, "corrected_here", "ada", None, at[3].date()),
        (at[4], at[5], None, Decimal("0.5"), "within_tolerance", "automation", 2, at[5].date()),
    ]
    assert [line["run_id"] is None for line in lines] == [False, True, False]


def test_a_write_off_is_no_resolution(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference())
    write_off(database, NOW)

    assert read(database, "resolutions") == []


# -- The register of write-offs --------------------------------------------------------------------


def test_a_write_off_is_registered_with_both_persons_and_how_it_ended(database: Database) -> None:
    confirm(database)
    at = [NOW + n * HOUR for n in range(12)]
    look(database, at[0], a_difference("5.00"))
    act(database, at[1], ProposeWriteOff(Reason.FEE), "ada")
    act(database, at[2], RejectWriteOff("too much"), "grace")
    act(database, at[3], ProposeWriteOff(Reason.REFUND), "ada")
    act(database, at[4], WithdrawWriteOff(), "ada")
    act(database, at[5], ProposeWriteOff(Reason.FEE), "ada")
    look(database, at[6], a_difference("6.00"))
    act(database, at[7], ProposeWriteOff(Reason.FEE), "ada")
    act(database, at[8], ApproveWriteOff(), "grace")
    look(database, at[9], a_difference("7.00"))
    act(database, at[10], ProposeWriteOff(Reason.ROUNDING), "grace")

    lines = read(database, "write_offs")

    names = (
        "proposed_at",
        "amount",
        "reason",
        "status",
        "proposed_by",
        "approved_by",
        "ended_by",
        "ended_at",
    )
    assert [tuple(line[name] for name in names) for line in lines] == [
        (at[1], 5, "fee", "rejected", "ada", None, "grace", at[2]),
        (at[3], 5, "refund", "withdrawn", "ada", None, "ada", at[4]),
        (at[5], 5, "fee", "voided", "ada", None, "automation", at[6]),
        (at[7], 6, "fee", "reversed", "ada", "grace", "automation", at[9]),
        (at[10], 7, "rounding", "proposed", "grace", None, None, None),
    ]
    assert [line["approved_amount"] for line in lines] == [0, 0, 0, 6, 0]
    assert {line["in_force_amount"] for line in lines} == {0}
    assert {line["discrepancy_state"] for line in lines} == {"open"}
    assert {
        (line["type"], line["payment_link_id"], line["payment_id"], line["currency"]) for line in lines
    } == {("amount_differs", LINK, PAYMENT, "EUR")}

    act(database, at[11], ApproveWriteOff(), "ada")

    last = read(database, "write_offs")[-1]
    assert (last["status"], last["approved_by"], last["approved_at"]) == ("approved", "ada", at[11])
    assert (last["in_force_amount"], last["discrepancy_state"]) == (7, "written_off")
    assert last["rule_set_version"] is None


def test_a_write_off_names_the_rules_it_was_approved_under(database: Database) -> None:
    confirm(database)
    look(database, NOW, a_difference("5.00"))
    act(database, NOW, ProposeWriteOff(Reason.FEE), "ada")
    assert only(database, "write_offs")["rule_set_version"] is None

    act(database, NOW + HOUR, ApproveWriteOff(), "grace", rules=Rules(3, BUILT_IN.rule_set))

    assert only(database, "write_offs")["rule_set_version"] == 3
