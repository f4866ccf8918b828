"""The reports say what the tables say: each against planted books, and their sums against each other."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, create_engine, text

from processor.config import database_url as sqlalchemy_url
from processor.domain.payment import Origin
from processor.domain.reconciliation import Outcome
from processor.domain.rerun import Sum
from processor.errors import ConfigurationError, Unreadable
from processor.store import inbox, matching, migrations, payments, report_views, runs
from processor.store.database import Database
from processor.store.report_views import REPORTS, Scope
from tests.builders import (
    INSTANCE,
    LINK,
    NOW,
    PAYMENT,
    claims,
    envelope,
    event,
    make_seen,
    payment_claims,
    payment_entity,
)
from tests.store.helpers import confirm, one, receive, rows

OTHER = UUID("8d1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
LATER = NOW + timedelta(minutes=7)


def read(database: Database, view: str, zone: str = "UTC", **scope: Any) -> list[dict[str, Any]]:
    with (
        report_views.reading(database, zone) as connection,
        report_views.lines(connection, REPORTS[view], Scope(**scope), limit=None) as found,
    ):
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def only(database: Database, view: str, **scope: Any) -> dict[str, Any]:
    [line] = read(database, view, **scope)
    return line


def found_by_poll(database: Database, at: datetime = LATER, **facts: Any) -> UUID:
    """A check books this payment from what Wix lists; returns its run."""
    with database.begin() as connection:
        run_id: UUID = runs.start(connection, facts.get("instance_id", INSTANCE), "check", at)
        told = payments.telling(make_seen(**facts), origin=Origin.POLL, told_at=at, run_id=run_id)
        payments.apply(connection, [told])
    return run_id


def book(connection: Connection, many: list[dict[str, Any]]) -> None:
    """Payments straight into the table; what is not given is the same for all."""
    for values in many:
        row = {
            "instance_id": INSTANCE,
            "payment_id": uuid4(),
            "amount": Decimal("0.001"),
            "currency": "EUR",
            "first_origin": "webhook",
            "match_state": "matched",
            "created_at": None,
            "transaction_at": None,
            "stored_at": NOW,
            "payment_link_id": LINK,
            **values,
        }
        connection.execute(
            text("""
                INSERT INTO payments (instance_id, payment_id, payment_link_id, revision, amount, currency,
                    first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at, match_state,
                    created_at, transaction_at)
                VALUES (:instance_id, :payment_id, :payment_link_id, 1, :amount, :currency,
                    :first_origin, 'webhook', gen_random_uuid(), :stored_at, :stored_at, 'new', :stored_at,
                    :match_state, :created_at, :transaction_at)"""),
            row,
        )


# -- All of them -----------------------------------------------------------------------------------


def test_every_view_can_be_read_by_the_command_line_and_is_a_barrier(database: Database) -> None:
    views = rows(
        database,
        """SELECT c.relname, c.reloptions FROM pg_class c
        WHERE c.relnamespace = 'report'::regnamespace ORDER BY 1""",
    )

    assert {view.relname for view in views} == set(REPORTS)
    assert {tuple(view.reloptions) for view in views} == {("security_barrier=true",)}
    columns = rows(
        database,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'report'",
    )
    known = {(line.table_name, line.column_name) for line in columns}
    for report in REPORTS.values():
        named = {report.at, *report.key, *report.sums, *report.shown, *(["currency"] * report.has_currency)}
        assert {(report.view, name) for name in named} <= known
        assert report.has_currency is ((report.view, "currency") in known)
        assert read(database, report.view) == []


def test_every_view_and_column_is_described_in_the_catalogue(database: Database) -> None:
    with database.begin() as connection:
        described = report_views.described(connection)

    assert [(one.view, one.column) for one in described if not one.meaning] == []
    assert {one.view for one in described} == set(REPORTS)
    assert len(described) > 100


def test_nothing_personal_is_in_any_view(database: Database) -> None:
    receive(database, payment_claims())
    confirm(database)
    receive(database, payment_claims(id=str(uuid4())))

    told = "".join(str(read(database, view)) for view in REPORTS)

    assert "Hedwig" not in told
    assert "*4242" not in told
    names = {one.column for view in REPORTS for one in _described(database) if one.view == view}
    assert names.isdisjoint({"token", "rest", "personal", "title", "comment", "evidence"})


def _described(database: Database) -> list[report_views.Described]:
    with database.begin() as connection:
        return report_views.described(connection)


def test_the_migration_goes_back_and_comes_again(empty_database_url: str) -> None:
    url = sqlalchemy_url(empty_database_url)
    engine = create_engine(url)

    def catalogue() -> list[Any]:
        with engine.begin() as connection:
            return [
                *report_views.described(connection),
                *connection.execute(
                    text("""
                        SELECT schemaname || '.' || viewname, definition FROM pg_views
                        WHERE schemaname IN ('public', 'report') ORDER BY 1""")
                ),
            ]

    migrations.upgrade(url)
    first = catalogue()
    migrations.downgrade(url, "0009")
    before = catalogue()
    migrations.upgrade(url)

    assert [name for name, _ in before] == ["public.payment_tellings"]
    assert catalogue() == first
    with engine.begin() as connection:
        assert connection.execute(text("SELECT to_regnamespace('report')")).scalar_one() is not None
    engine.dispose()


def test_the_migrations_of_reports_wait_for_nobody_and_nobody_for_them(empty_database_url: str) -> None:
    url = sqlalchemy_url(empty_database_url)
    migrations.upgrade(url, "0009")
    engine = create_engine(url)

    with engine.begin() as connection:
        book(connection, [{}])  # not committed yet
        migrations.upgrade(url, "0011")
        book(connection, [{}])
        migrations.downgrade(url, "0009")

    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM payments")).scalar_one() == 2
    engine.dispose()


# -- Payments and their summary --------------------------------------------------------------------


def test_a_payment_is_itemised_with_what_it_came_from(database: Database) -> None:
    confirm(database)
    receive(database, payment_claims())

    line = only(database, "payments")

    stored = one(database, "SELECT event_id, encode(token_digest, 'hex') AS digest FROM webhook_events")
    assert line == {
        **line,
        "instance_id": INSTANCE,
        "payment_id": PAYMENT,
        "payment_link_id": LINK,
        "type": "REGULAR",
        "ecom_order_id": "5d6f",
        "ecom_checkout_id": "c0ffee",
        "receipt_id": None,
        "revision": 1,
        "currency": "USD",
        "amount": Decimal("10.990"),
        "fee": None,
        "net": None,
        "method": "CREDIT_CARD",
        "stored_at": NOW,
        "reporting_day": date(2026, 11, 24),
        "reporting_zone": "UTC",
        "first_origin": "webhook",
        "event_id": stored.event_id,
        "event_received_at": NOW,
        "event_token_digest": stored.digest,
        "run_id": None,
        "match_state": None,
        "is_erased": False,
    }
    with database.begin() as connection:
        payments.erase(connection, INSTANCE, PAYMENT, NOW)
    assert only(database, "payments")["is_erased"]


@pytest.mark.parametrize(
    ("facts", "day"),
    [
        ({"transaction_at": datetime(2026, 5, 1, tzinfo=UTC), "created_at": NOW}, date(2026, 5, 1)),
        ({"created_at": datetime(2026, 5, 2, tzinfo=UTC)}, date(2026, 5, 2)),
        ({"stored_at": datetime(2026, 5, 3, tzinfo=UTC)}, date(2026, 5, 3)),
    ],
)
def test_the_transaction_decides_the_day_else_the_creation_else_when_it_was_stored(
    database: Database, facts: dict[str, Any], day: date
) -> None:
    with database.begin() as connection:
        book(connection, [facts])

    assert only(database, "payments")["reporting_day"] == day


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("Africa/Cairo", date(2026, 4, 24), 23),  # at midnight: the day begins at one
        ("Africa/Cairo", date(2026, 10, 29), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("UTC", date(2026, 3, 29), 24),
    ],
)
def test_when_the_clock_is_changed_every_payment_falls_on_one_day_and_sums_tie(
    database: Database, zone: str, day: date, hours: float
) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    moments = [start + timedelta(minutes=15 * n) for n in range(4 * 24 * 4)]
    with database.begin() as connection:
        book(
            connection,
            [
                {
                    "transaction_at": at,
                    "amount": Decimal(n * 7 + 1) / 1000,
                    "currency": ("EUR", "KWD")[n % 2],
                    "match_state": ("matched", "expected", "discrepant", None)[n % 4],
                    "first_origin": ("webhook", "webhook", "poll")[n % 3],
                }
                for n, at in enumerate(moments)
            ],
        )

    lines = read(database, "payments", zone)
    summary = read(database, "reconciliation_summary", zone)

    expected = Counter(at.astimezone(ZoneInfo(zone)).date() for at in moments)
    assert Counter(line["reporting_day"] for line in lines) == expected
    assert expected[day] == hours * 4
    assert sum(line["payments"] for line in summary if line["reporting_day"] == day) == hours * 4
    itemised: dict[Any, list[Decimal]] = {}
    for line in lines:
        itemised.setdefault((line["reporting_day"], line["currency"]), []).append(line["amount"])
    assert {(line["reporting_day"], line["currency"]): line["amount"] for line in summary} == {
        key: sum(amounts) for key, amounts in itemised.items()
    }
    states = ("matched", "expected", "discrepant", "not_checked")
    for line in summary:
        assert sum(line[state] for state in states) == line["payments"]
        assert sum(line[f"{state}_amount"] for state in states) == line["amount"]
    polled = [line["amount"] for line in lines if line["first_origin"] == "poll"]
    assert sum(line["recovered"] for line in summary) == len(polled)
    assert sum(line["recovered_amount"] for line in summary) == sum(polled)
    assert {line["reporting_zone"] for line in summary} == {zone}


def test_without_a_setting_days_are_those_of_utc_and_a_session_may_choose(database: Database) -> None:
    with database.begin() as connection:
        book(connection, [{"transaction_at": datetime(2026, 11, 24, 23, 30, tzinfo=UTC)}])
        asked = text("SELECT reporting_day, reporting_zone FROM report.payments")

        def day() -> Any:
            return tuple(connection.execute(asked).one())

        assert day() == (date(2026, 11, 24), "UTC")
        connection.execute(text("SET processor.report_time_zone = 'Europe/Berlin'"))
        assert day() == (date(2026, 11, 25), "Europe/Berlin")
        connection.execute(text("SET processor.report_time_zone = ''"))
        assert day() == (date(2026, 11, 24), "UTC")
        connection.execute(text("RESET processor.report_time_zone"))


def test_a_zone_that_the_database_does_not_know_is_a_fault_of_the_configuration(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="REPORT_TIME_ZONE"):
        read(database, "payments", "Mars/Phobos")


def test_a_report_is_narrowed_and_its_totals_are_those_of_its_rows(database: Database) -> None:
    with database.begin() as connection:
        book(
            connection,
            [
                {"amount": Decimal(n), "currency": currency, "instance_id": instance_id, "stored_at": at}
                for n, currency, instance_id, at in (
                    (1, "EUR", INSTANCE, NOW),
                    (2, "EUR", OTHER, NOW),
                    (4, "JPY", INSTANCE, NOW),
                    (8, "EUR", INSTANCE, LATER),
                )
            ],
        )

    def total(**scope: Any) -> dict[str | None, Any]:
        listed = sum(line["amount"] for line in read(database, "payments", **scope))
        with report_views.reading(database, "UTC") as connection:
            found = report_views.totals(connection, REPORTS["payments"], Scope(**scope))
        assert sum(one.sums["amount"] for one in found) == listed
        return {one.currency: (one.rows, one.sums["amount"]) for one in found}

    assert total() == {"EUR": (3, 11), "JPY": (1, 4)}
    assert total(instance_id=INSTANCE) == {"EUR": (2, 9), "JPY": (1, 4)}
    assert total(currency="EUR", until=LATER) == {"EUR": (2, 3)}
    assert total(since=LATER) == {"EUR": (1, 8)}
    assert total(since=LATER + timedelta(seconds=1)) == {}


def test_a_report_sees_one_state_of_the_books(database: Database) -> None:
    with database.begin() as connection:
        book(connection, [{}])

    with report_views.reading(database, "UTC") as connection:
        with report_views.lines(connection, REPORTS["payments"], Scope(), limit=None) as found:
            listed = len(list(found.rows))
        with database.begin() as other:
            book(other, [{}])
        [total] = report_views.totals(connection, REPORTS["payments"], Scope())

    assert listed == total.rows == 1


# -- Controls --------------------------------------------------------------------------------------


def test_a_payment_found_by_a_poll_is_a_missed_webhook_with_its_delay(database: Database) -> None:
    confirm(database)
    run_id = found_by_poll(database, created_at=LATER - timedelta(seconds=3_661))

    line = only(database, "missed_webhooks")

    assert (line["missed"], line["payment_id"], line["run_id"]) == ("payment", PAYMENT, run_id)
    assert (line["delay_seconds"], line["found_at"]) == (3_661, LATER)
    assert (line["webhook"], line["webhook_received_at"]) == ("never", None)
    assert line["amount"] == line["found_amount"] == Decimal("10.99")

    receive(database, payment_claims(), LATER + timedelta(hours=1))

    line = only(database, "missed_webhooks")
    assert (line["webhook"], line["webhook_received_at"]) == ("late", LATER + timedelta(hours=1))


def test_a_missed_webhook_says_why_the_payment_was_recovered(database: Database) -> None:
    def noted() -> Any:
        with database.begin() as connection:
            matching.note_late_webhooks(connection, INSTANCE, [LINK])
        return only(database, "missed_webhooks")["recovery"]

    confirm(database)
    found_by_poll(database)

    assert noted() == "webhook_missed"
    receive(database, payment_claims(), LATER + timedelta(hours=1))
    assert noted() == "webhook_late"


def test_a_webhook_that_came_but_could_not_be_read_is_told_apart(database: Database) -> None:
    confirm(database)
    receive(database, payment_claims(amount="ten"))
    found_by_poll(database)

    assert only(database, "missed_webhooks")["webhook"] == "unused"


def test_a_payment_told_by_a_webhook_first_is_none(database: Database) -> None:
    confirm(database)
    receive(database, payment_claims())
    found_by_poll(database)

    assert read(database, "missed_webhooks") == []


def test_an_update_that_a_poll_found_is_a_missed_webhook_and_no_second_amount(database: Database) -> None:
    confirm(database)
    receive(database, payment_claims())
    found_by_poll(database, revision=3, amount=Decimal("12.00"))

    line = only(database, "missed_webhooks")
    assert (line["missed"], line["revision"], line["amount"]) == ("update", 3, None)
    assert (line["found_amount"], line["delay_seconds"], line["webhook"]) == (Decimal(12), None, "never")

    # An older revision does not announce it.
    older = event({**payment_entity(), "revision": "2"}, slug="updated")
    receive(database, claims(envelope(older)), LATER + timedelta(minutes=1))
    assert only(database, "missed_webhooks")["webhook"] == "never"
    newer = event({**payment_entity(), "revision": "3", "amount": "12.00"}, slug="updated")
    receive(database, claims(envelope(newer)), LATER + timedelta(minutes=2))
    line = only(database, "missed_webhooks")
    assert (line["webhook"], line["webhook_received_at"]) == ("late", LATER + timedelta(minutes=2))


def test_what_polls_found_sums_up_to_what_the_summary_says(database: Database) -> None:
    confirm(database)
    found_by_poll(database)
    found_by_poll(database, at=LATER + timedelta(minutes=1), revision=2, amount=Decimal("9.999"))
    found_by_poll(database, payment_id=uuid4(), amount=Decimal("0.001"))

    missed = [line["amount"] for line in read(database, "missed_webhooks") if line["amount"] is not None]
    summary = only(database, "reconciliation_summary")

    assert (len(missed), sum(missed)) == (summary["recovered"], summary["recovered_amount"])
    assert summary["recovered_amount"] == Decimal("10.000")


def test_duplicates_and_conflicts_are_counted_by_event(database: Database) -> None:
    confirm(database)
    told = payment_claims()
    for minutes in range(3):
        receive(database, told, NOW + timedelta(minutes=minutes))
    inner = event({**payment_entity(), "amount": "99.00"})
    twisted = claims(envelope({**inner, "id": _event_id(database)}))
    for minutes in (3, 4):
        receive(database, twisted, NOW + timedelta(minutes=minutes))
    receive(database, payment_claims(id=str(uuid4())))

    line = only(database, "duplicates")

    assert (line["delivery_count"], line["duplicate_count"], line["conflict_count"]) == (5, 2, 2)
    assert (line["conflicting_contents"], line["status"]) == (1, "recorded")
    assert (line["received_at"], line["last_received_at"]) == (NOW, NOW + timedelta(minutes=4))


def _event_id(database: Database) -> str:
    return str(one(database, "SELECT event_id FROM webhook_events").event_id)


def test_what_came_out_of_order_shows_the_control_that_held(database: Database) -> None:
    confirm(database)
    receive(database, claims(envelope(event({**payment_entity(), "revision": "2"}, slug="updated"))), NOW)
    receive(database, payment_claims(), LATER)
    receive(database, claims(envelope(event({**payment_entity(), "revision": "2"}, slug="updated"))), LATER)
    twisted = event({**payment_entity(), "revision": "2", "amount": "11.00"}, slug="updated")
    receive(database, claims(envelope(twisted)), LATER)

    lines = read(database, "out_of_order")

    assert sorted((line["control"], line["revision"], line["booked_revision"]) for line in lines) == [
        ("conflict", 2, 2),
        ("same", 2, 2),
        ("stale", 1, 2),
        ("updated_before_created", 2, 2),
    ]
    assert {line["created_received_at"] for line in lines} == {LATER}
    assert one(database, "SELECT amount FROM payments").amount == Decimal("10.99")


def test_a_created_event_that_comes_first_is_in_order(database: Database) -> None:
    confirm(database)
    receive(database, payment_claims())
    receive(database, claims(envelope(event({**payment_entity(), "revision": "2"}, slug="updated"))), LATER)

    assert read(database, "out_of_order") == []


def _link(connection: Connection, **values: Any) -> None:
    row = {
        "instance_id": INSTANCE,
        "payment_link_id": LINK,
        "currency": "EUR",
        "payment_count": 2,
        "total_amount": Decimal("3.50"),
        "payments_limit": None,
        "seen_at": NOW,
        "status": "ACTIVE",
        **values,
    }
    names = ", ".join(row)
    connection.execute(
        text(f"INSERT INTO payment_links ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row
    )


def test_our_total_of_a_link_stands_beside_wixs(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        _link(connection, payments_limit=1)
        book(connection, [{"amount": Decimal("1.25"), "transaction_at": at} for at in (NOW, LATER)])

    line = only(database, "control_totals")

    assert (line["booked_count"], line["payment_count"], line["wix_less_booked_count"]) == (2, 2, 0)
    assert (line["booked_amount"], line["total_amount"]) == (Decimal("2.500"), Decimal("3.500"))
    assert (line["wix_less_booked_amount"], line["is_equal"]) == (Decimal("1.000"), False)
    assert (line["is_over_limit"], line["status"], line["last_checked_at"]) == (True, "ACTIVE", None)
    assert line["booked_last_payment_at"] == LATER


def test_wixs_total_stands_beside_the_links_own_currency_alone(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        _link(connection, total_amount=Decimal("1.00"))
        book(connection, [{"amount": Decimal(1), "currency": currency} for currency in ("EUR", "USD")])

    lines = {line["currency"]: line for line in read(database, "control_totals")}

    assert (lines["EUR"]["wix_less_booked_count"], lines["EUR"]["wix_less_booked_amount"]) == (0, 0)
    assert lines["EUR"]["is_equal"]
    assert lines["USD"]["total_amount"] is lines["USD"]["is_equal"] is None
    assert lines["USD"]["booked_amount"] == 1


@pytest.mark.parametrize("currencies", [(), ("EUR",), ("EUR", "USD")])
def test_a_total_without_a_currency_is_of_the_only_one_there_is(
    database: Database, currencies: tuple[str, ...]
) -> None:
    confirm(database)
    with database.begin() as connection:
        _link(connection, currency=None, payment_count=1, total_amount=Decimal(1))
        book(connection, [{"amount": Decimal(1), "currency": currency} for currency in currencies])

    lines = {line["currency"]: line for line in read(database, "control_totals")}

    assert set(lines) == {*currencies, *([] if len(currencies) == 1 else [None])}
    [total] = [line for line in lines.values() if line["total_amount"] is not None]
    assert total["currency"] == ("EUR" if currencies == ("EUR",) else None)
    assert total["wix_less_booked_count"] == 1 - len(currencies)


def test_a_link_nobody_described_and_one_nobody_paid_are_listed(database: Database) -> None:
    confirm(database)
    unpaid = uuid4()
    with database.begin() as connection:
        _link(connection, payment_link_id=unpaid, payment_count=0, total_amount=Decimal(0))
        book(connection, [{}])

    lines = {line["payment_link_id"]: line for line in read(database, "control_totals")}

    assert (lines[LINK]["seen_at"], lines[LINK]["is_equal"]) == (None, None)
    assert (lines[unpaid]["booked_count"], lines[unpaid]["is_equal"]) == (0, True)


def test_every_delivery_is_accounted_for_by_day_and_instance(database: Database) -> None:
    confirm(database)
    tomorrow = NOW + timedelta(days=1)
    told = payment_claims()
    receive(database, told)
    receive(database, told, tomorrow)
    inner = event({**payment_entity(), "amount": "99.00"})
    receive(database, claims(envelope({**inner, "id": _event_id(database)})), tomorrow)
    receive(database, payment_claims(id=str(uuid4()), amount="ten"), tomorrow)
    receive(database, claims(envelope(event(), instanceId=str(OTHER))), tomorrow)
    with database.begin() as connection:
        for at in (NOW, tomorrow):
            inbox.keep_unread(
                connection, token="t", token_digest=b"u" * 32, why=Unreadable("no_instance"), now=at
            )
        inbox.keep_refused(connection, inbox.Refused({"bad_signature": 4, "expired": 1}, {}), tomorrow)

    lines = {(line["day"], line["instance_id"]): line for line in read(database, "completeness")}

    parts = ("stored_first", "unreadable", "duplicates", "conflicts", "unread", "rejected")
    assert {key: tuple(line[part] for part in parts) for key, line in lines.items()} == {
        (NOW.date(), INSTANCE): (1, 0, 1, 1, 0, 0),
        (NOW.date(), None): (0, 0, 1, 0, 1, 0),
        (tomorrow.date(), INSTANCE): (0, 1, 0, 0, 0, 0),
        (tomorrow.date(), OTHER): (1, 0, 0, 0, 0, 0),
        (tomorrow.date(), None): (0, 0, 0, 0, 0, 5),
    }
    assert lines[tomorrow.date(), OTHER]["held"] == 1
    for line in lines.values():
        assert sum(line[part] for part in parts) == line["deliveries"]
        assert (line["unaccounted"], line["is_complete"]) == (0, True)
    assert sum(line["deliveries"] for line in lines.values()) == 12


def test_a_delivery_that_is_nowhere_is_noticed(database: Database) -> None:
    confirm(database)
    told = payment_claims()
    receive(database, told)
    inner = event({**payment_entity(), "amount": "99.00"})
    receive(database, claims(envelope({**inner, "id": _event_id(database)})))
    with database.begin() as connection:
        connection.execute(text("DELETE FROM webhook_event_conflicts"))

    line = only(database, "completeness")

    assert (line["unaccounted"], line["is_complete"]) == (1, False)


def _silence(database: Database, **changes: Any) -> UUID:
    values = {
        "silence_id": uuid4(),
        "silent_since": NOW,
        "verdict": "silent",
        "judged_at": LATER,
        "found": 1,
        "ended_at": NOW + timedelta(hours=5),
        "end_reason": "event",
        **changes,
    }
    rows(
        database,
        """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
            verified_at, confirmed_at, payments_found, ended_at, end_reason)
        VALUES (:silence_id, '3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162', :silent_since, 7200, :judged_at, :verdict,
            :judged_at, CASE WHEN :verdict = 'silent' THEN CAST(:judged_at AS timestamptz) END, :found, :ended_at,
            :end_reason) RETURNING 1""",
        **values,
    )
    return UUID(str(values["silence_id"]))


def test_a_silence_says_how_long_it_lasted_and_which_payments_it_cost(database: Database) -> None:
    confirm(database)
    silence_id = _silence(database)
    within = NOW + timedelta(hours=1)
    late, never = uuid4(), uuid4()
    for payment_id in (late, never):
        found_by_poll(database, within, payment_id=payment_id, created_at=within)
    receive(
        database,
        payment_claims(id=str(late), createdDate="2026-11-24T13:00:00.000Z"),
        NOW + timedelta(hours=5),
    )
    for at in (NOW - timedelta(seconds=1), NOW + timedelta(hours=5)):  # before it, and when it had ended
        found_by_poll(database, within, payment_id=uuid4(), created_at=at)
    receive(database, payment_claims(id=str(uuid4()), createdDate="2026-11-24T13:00:00.000Z"))

    line = only(database, "silences")

    assert (line["silence_id"], line["verdict"], line["end_reason"]) == (silence_id, "silent", "event")
    assert (line["duration_seconds"], line["missed_payments"], line["told_late"]) == (5 * 3_600, 2, 1)
    assert line["missed_payments"] == len(
        [
            one
            for one in read(database, "missed_webhooks")
            if NOW < one["created_at"] < NOW + timedelta(hours=5)
        ]
    )


def test_a_silence_that_goes_on_has_lasted_until_now(database: Database) -> None:
    confirm(database)
    _silence(database, ended_at=None, end_reason=None, silent_since=datetime.now(UTC) - timedelta(days=3))

    line = only(database, "silences")

    assert 3 * 86_400 <= line["duration_seconds"] < 3 * 86_400 + 600
    assert (line["ended_at"], line["missed_payments"]) == (None, 0)


# -- Runs ------------------------------------------------------------------------------------------


def test_a_run_has_a_line_for_each_currency_and_says_what_it_decided_by(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        run_id = runs.start(connection, INSTANCE, "check", NOW, actor="ada", settling_seconds=600)
        counts = runs.Counts(links=2, opened=1)
        counts.outcomes.update({Outcome.MATCHED: 2, Outcome.DISCREPANT: 1, Outcome.EXPECTED: 1})
        counts.add("EUR", Sum(2, Decimal("20.000")), Sum(1, Decimal("10.500")))
        counts.add("KWD", Sum(1, Decimal("0.125")), Sum(1, Decimal("0.125")))
        concluded = runs.Conclusion(LATER, None, b"d" * 32)
        runs.finish(connection, run_id, counts, {"200": 3}, LATER, conclusion=concluded)

    euro, dinar = read(database, "runs")

    assert euro == {
        **euro,
        "run_id": run_id,
        "instance_id": INSTANCE,
        "kind": "check",
        "status": "succeeded",
        "actor": "ada",
        "started_at": NOW,
        "finished_at": LATER,
        "cutoff_at": LATER,
        "rule_set_version": None,
        "settling_seconds": 600,
        "wix_requests": 3,
        "link_count": 2,
        "matched": 2,
        "unmatched": 1,
        "expected": 1,
        "opened": 1,
        "currency": "EUR",
        "booked_count": 2,
        "booked_amount": Decimal(20),
        "wix_count": 1,
        "wix_amount": Decimal("10.5"),
        "wix_less_booked_amount": Decimal("-9.5"),
        "is_reproducible": True,
        "result_digest": (b"d" * 32).hex(),
    }
    assert (dinar["currency"], dinar["booked_amount"], dinar["wix_less_booked_amount"]) == (
        *("KWD", Decimal("0.125"), Decimal(0)),
    )


def test_a_run_of_an_older_release_or_without_payments_has_a_line_all_the_same(database: Database) -> None:
    confirm(database)
    with database.begin() as connection:
        runs.start(connection, INSTANCE, "sweep", NOW, window=(NOW, LATER))
        old = runs.start(connection, INSTANCE, "check", LATER)
        connection.execute(
            text("""
                UPDATE reconciliation_runs SET actor = NULL, sums = '{"EUR": {"booked": "1.000", "wix": "2.000"}}'
                WHERE run_id = :run_id"""),
            {"run_id": old},
        )

    sweep, check = read(database, "runs")

    assert (sweep["currency"], sweep["window_to"], sweep["booked_count"]) == (None, LATER, None)
    assert (check["actor"], check["booked_count"], check["wix_less_booked_amount"]) == (
        None,
        None,
        Decimal(1),
    )
    assert not check["is_reproducible"]
