"""The overview: whether the books are right, what was received, and what is the matter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from processor import decisions, jobs, metrics
from processor.domain.access import EVERYWHERE, Reach, Role
from processor.domain.discrepancy import AGING, Assign, Reason, Resolve, aging
from processor.store import operations
from processor.store.screens import overview as asked
from processor.store.screens.overview import Day, DaySum, Delivered
from processor.web.pages.assessment import Books as Known
from processor.web.pages.assessment import Mood, Trouble, assess
from processor.web.pages.charts import HEIGHT, brief, ceiling, chart
from processor.web.pages.formats import Clock
from processor.web.pages.remembered import DayDeliveries, DaySums
from processor.web.pages.screens.overview import DAYS, RULES_MAX, last_days, trends
from tests.conftest import Owner, a_database
from tests.web.pages.books import Books, empty_books, some_books
from tests.web.pages.conftest import shared_redis

NOW = datetime(2026, 11, 28, 19, 30, tzinfo=UTC)
LATE = timedelta(minutes=15)


@pytest.fixture(scope="module")
def books(_owner: Owner, _template: str) -> Iterator[Books]:
    """Two shops with something on every screen, at noon: what is of today stays so while their time passes."""
    url = shared_redis(_owner)
    with (
        a_database(_owner.get().database_url, _owner.new_database(), template=_template) as database_url,
        some_books(database_url, url, at_noon=True) as filled,
    ):
        yield filled


@pytest.fixture
def fresh_books(database_url: str, redis_url: str) -> Iterator[Books]:
    """Two shops of one test in which nothing happened yet, at noon."""
    with empty_books(database_url, redis_url, at_noon=True) as made:
        yield made


# -- The sentence ------------------------------------------------------------------------------------


def said(**known: Any) -> list[str]:
    found = assess(Known(**known), NOW, late_after=LATE, at=lambda moment: f"{moment:%H:%M}")
    return [f"{one.mood}: {one.words}" for one in found]


def test_books_without_trouble_are_right() -> None:
    assert said() == ["good: The books are right: every payment is booked as Wix lists it."]


def test_books_nothing_was_ever_booked_in_are_not_said_to_be_right() -> None:
    [one] = said(is_empty=True)

    assert one.startswith("note: Nothing is booked yet")


@pytest.mark.parametrize(
    ("number", "at_risk", "words"),
    [
        (1, [(Decimal("5.000"), "USD")], "1 discrepancy with 5.00 USD at risk needs a decision."),
        (
            3,
            [(Decimal(1200), "JPY"), (Decimal("1234.5"), "USD")],
            "3 discrepancies with 1,200 JPY and 1,234.50 USD at risk need a decision.",
        ),
        (2, [], "2 discrepancies need a decision."),
        (2, [(Decimal(0), "EUR")], "2 discrepancies need a decision."),
        (
            9,
            [(Decimal(1), code) for code in ("AED", "EUR", "GBP", "USD")],
            "9 discrepancies with 1.00 AED, 1.00 EUR, 1.00 GBP and amounts in 1 more currency at risk need a decision.",
        ),
    ],
)
def test_open_discrepancies_are_told_with_what_is_at_risk(
    number: int, at_risk: Sequence[tuple[Decimal, str]], words: str
) -> None:
    assert said(open=number, at_risk=at_risk) == [f"bad: {words}"]


def test_what_may_be_innocent_is_told_apart() -> None:
    one = said(informational=1, informational_at_risk=[(Decimal(45), "USD")])
    both = said(open=1, informational=2, held=1)

    assert one == ["note: 1 discrepancy with 45.00 USD at risk is informational: the cause may be innocent."]
    assert both[0] == "bad: 1 discrepancy needs a decision."
    assert both[-1] == "note: 2 discrepancies are informational: the cause may be innocent."


def test_numbers_that_were_not_counted_to_the_end_say_so() -> None:
    assert said(open=10_000, is_open_cut=True)[0].startswith("bad: More than 10,000 discrepancies")


def test_what_is_being_compared_is_no_trouble_until_it_is_late() -> None:
    fresh = said(waiting=2, waiting_since=NOW - LATE)
    late = said(waiting=1, waiting_since=NOW - LATE - timedelta(minutes=1))

    assert fresh == ["good: The books are right; 2 payment links are being compared with Wix."]
    [one] = late
    assert one.startswith("warn: The books are right as far as they were checked; 1 payment link waits")
    assert one.endswith("for 16 min by now.")


def test_every_trouble_is_told_the_gravest_first() -> None:
    since = NOW - timedelta(hours=2)

    found = said(
        open=1,
        waiting=3,
        waiting_since=since,
        stalled_since=since,
        unreachable=Trouble(2, since),
        silent=Trouble(1, since),
        held=4,
    )

    assert [one.split(":")[0] for one in found] == ["bad", "bad", "warn", "warn", "warn", "warn"]
    assert "17:30: the clock" in found[1]
    assert "Wix cannot be asked about 2 instances, not since 17:30" in found[2]
    assert "Webhooks of 1 instance have not arrived since 17:30" in found[3]
    assert "4 events are held" in found[4]


@pytest.mark.parametrize("trouble", ["unreachable", "silent"])
def test_books_are_not_said_to_be_right_while_one_side_is_not_heard(trouble: str) -> None:
    [one] = said(**{trouble: Trouble(1, NOW)})

    assert one.startswith(Mood.WARN)
    assert "right" not in one


# -- Bars --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "top"),
    [
        ("0", "1"),
        ("0.02", "0.02"),
        ("0.021", "0.025"),
        ("1", "1"),
        ("96", "100"),
        ("101", "200"),
        ("240", "250"),
        ("999999999999999.999", "1000000000000000"),
    ],
)
def test_an_axis_ends_with_a_round_number_not_below_its_values(value: str, top: str) -> None:
    assert ceiling(Decimal(value)) == Decimal(top)


def test_bars_stand_on_the_ground_in_their_order_and_within_the_drawing() -> None:
    drawn = chart([Decimal(50), None, Decimal(100), Decimal("0.01"), Decimal(0)])

    assert (drawn.top, drawn.middle) == (Decimal(100), Decimal(50))
    assert [bar.height for bar in drawn.bars] == [50, 0, 100, 1, 0]
    assert all(bar.y + bar.height == HEIGHT for bar in drawn.bars)
    places = [bar.x for bar in drawn.bars]
    assert places == sorted(places)
    assert places[-1] + drawn.bars[-1].width < 300


def test_a_chart_of_nothing_is_drawn() -> None:
    assert chart([]).bars == ()
    assert {bar.height for bar in chart([None, Decimal(0)]).bars} == {0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.025", "0.025"),
        ("1E+3", "1,000"),
        ("10000", "10k"),
        ("250000", "250k"),
        ("2500000", "2.5M"),
        ("1E+15", "1,000T"),
    ],
)
def test_numbers_of_an_axis_are_short(value: str, words: str) -> None:
    assert brief(Decimal(value)) == words


def test_a_trend_has_no_value_for_a_day_that_is_not_known_and_none_for_nothing() -> None:
    days = [date(2026, 11, number) for number in (26, 27, 28)]
    found = trends(
        {
            days[2]: (DaySum("USD", 2, Decimal(5), 2, 0), DaySum("EUR", 3, Decimal(1), 0, 0)),
            days[1]: (),
        },
        days,
    )

    assert [one.currency for one in found] == ["EUR", "USD"]
    assert found[1].amounts == (None, Decimal(0), Decimal(5))
    assert found[1].payments == (None, 0, 2)
    assert (found[1].total, found[1].number) == (Decimal(5), 2)


def test_days_begin_at_midnight_in_the_zone_of_reports_though_the_clock_is_put_back() -> None:
    days = last_days(Clock("Europe/Berlin", lambda: NOW), datetime(2026, 10, 25, 23, 30, tzinfo=UTC), DAYS)

    assert days[0].day == date(2026, 10, 26)
    assert (days[1].since.hour, days[1].until.hour) == (22, 23)
    assert days[1].until - days[1].since == timedelta(hours=25)
    assert all(later.since == earlier.until for later, earlier in pairwise(days))


# -- What is remembered ------------------------------------------------------------------------------


class Reading:
    """Days that take so many seconds each, and which of them were read. It is the clock they are timed by, too."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.passed = 0.0
        self.read: list[date] = []

    def __call__(self, days: Sequence[Day]) -> Mapping[date, list[DaySum]]:
        self.read += [one.day for one in days]
        self.passed += self.seconds * len(days)
        return {one.day: [DaySum("USD", 1, Decimal(1), 0, 0)] for one in days}

    def timer(self) -> float:
        return self.passed


DAYS_OF = last_days(Clock("UTC", lambda: NOW), NOW, 30)


def test_small_books_are_known_whole_at_the_first_look() -> None:
    reading = Reading(0.0005)

    found = DaySums(reading.timer).look(EVERYWHERE, DAYS_OF, NOW, reading)

    assert len(found) == len(reading.read) == 30


def test_one_look_at_large_books_reads_a_few_days_and_the_next_ones_the_rest() -> None:
    reading = Reading(0.02)
    sums = DaySums(reading.timer)

    known = [len(sums.look(EVERYWHERE, DAYS_OF, NOW, reading)) for _ in range(16)]

    assert known[:3] == [2, 4, 6]
    assert known[-1] == 30
    assert reading.read[0] == DAYS_OF[0].day
    assert len(reading.read) == len(set(reading.read)) == 30


def test_however_long_a_day_takes_one_more_is_known_after_each_look() -> None:
    reading = Reading(60.0)
    sums = DaySums(reading.timer)

    assert [len(sums.look(EVERYWHERE, DAYS_OF, NOW, reading)) for _ in range(3)] == [1, 2, 3]


def test_today_is_read_anew_before_days_that_are_missing() -> None:
    reading = Reading(0.008)
    sums = DaySums(reading.timer)
    sums.look(EVERYWHERE, DAYS_OF, NOW, reading)
    before = list(reading.read)

    sums.look(EVERYWHERE, DAYS_OF, NOW + timedelta(seconds=3), reading)

    assert reading.read[len(before)] == DAYS_OF[0].day
    assert len(reading.read) > len(before) + 1


def test_days_past_are_read_anew_after_a_while_and_long_ones_later() -> None:
    reading = Reading()
    sums = DaySums(reading.timer)
    sums.look(EVERYWHERE, DAYS_OF, NOW, reading)

    reading.read.clear()
    sums.look(EVERYWHERE, DAYS_OF, NOW + timedelta(minutes=2), reading)
    assert reading.read == [DAYS_OF[0].day, DAYS_OF[1].day]

    reading.read.clear()
    sums.look(EVERYWHERE, DAYS_OF, NOW + timedelta(minutes=11), reading)
    assert len(reading.read) == 30

    long = Reading(0.5)
    sums = DaySums(long.timer)
    for seconds, is_read in ((0, True), (99, False), (101, True)):
        long.read.clear()
        sums.look(EVERYWHERE, DAYS_OF[:1], NOW + timedelta(seconds=seconds), long)
        assert bool(long.read) is is_read


def test_a_new_day_takes_the_place_of_the_oldest() -> None:
    sums, reading = DaySums(), Reading()
    sums.look(EVERYWHERE, DAYS_OF, NOW, reading)
    later = NOW + timedelta(hours=6)

    found = sums.look(EVERYWHERE, last_days(Clock("UTC", lambda: later), later, 30), later, reading)

    assert DAYS_OF[-1].day not in found


def test_nobody_gets_what_was_read_for_another() -> None:
    sums, reading = DaySums(), Reading()
    sums.look(EVERYWHERE, DAYS_OF[:1], NOW, reading)

    found = sums.look(Reach(frozenset({uuid4()})), DAYS_OF[:1], NOW, lambda days: {days[0].day: []})
    deliveries = DayDeliveries()
    day = DAYS_OF[0].day
    deliveries.look(EVERYWHERE, day, NOW, lambda: Delivered(9, 9, 9, 9, 9, 9))
    other = deliveries.look(Reach(frozenset({uuid4()})), day, NOW, lambda: Delivered(0, 0, 0, 0, None, None))

    assert not any(found.values())
    assert other.events == 0


# -- Queries -----------------------------------------------------------------------------------------


def test_days_hold_what_was_made_from_midnight_to_midnight(fresh_books: Books) -> None:
    """One payment a microsecond before each midnight, one at it."""
    shop, link_id = fresh_books.shop, uuid4()
    days = DAYS_OF[:3]
    for edge in (days[0].since, days[1].since):
        for at in (edge, edge - timedelta(microseconds=1)):
            shop.rows(
                """INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency,
                    created_at, first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
                VALUES (:id, gen_random_uuid(), 1, :link_id, 1.5, 'USD', :at, 'poll', 'poll', gen_random_uuid(),
                    :at, :at, 'new', :at) RETURNING 1""",
                id=shop.instance_id,
                link_id=link_id,
                at=at,
            )

    with shop.services.database.begin() as connection:
        found = asked.received(connection, EVERYWHERE, days)
        nobody = asked.received(connection, Reach(frozenset()), days)

    assert [[(one.payments, one.amount, one.recovered) for one in found[day.day]] for day in days] == [
        [(1, Decimal("1.5"), 1)],
        [(2, Decimal(3), 2)],
        [(1, Decimal("1.5"), 1)],
    ]
    assert not any(nobody.values())


def test_open_items_are_in_the_buckets_of_the_report(books: Books) -> None:
    now = books.shop.services.now()
    with books.shop.services.database.begin() as connection:
        for ahead in (timedelta(0), timedelta(hours=2), timedelta(days=5), timedelta(days=400)):
            found = asked.open_items(connection, EVERYWHERE, now + ahead)
            rows = books.shop.rows("SELECT aged_from, currency, amount_at_risk FROM report.open_items")
            every = [one for one in found if one.bucket is None]

            expected: dict[tuple[str, str | None], int] = {}
            for row in rows:
                key = aging(now + ahead - row.aged_from), row.currency
                expected[key] = expected.get(key, 0) + 1
            assert {(one.bucket, one.currency): one.number for one in found if one.bucket} == expected
            assert sum(one.number for one in every) == len(rows) > 0
            assert sum(one.at_risk or 0 for one in every) == sum(row.amount_at_risk or 0 for row in rows)


LARGE = ("payments", "webhook_events", "discrepancies", "link_checks")


def large(books: Books) -> None:
    """A year of payments and events, and what is closed and checked. No trigger needs to see it."""
    values = {"id": books.instance_id, "other": books.other_instance_id, "many": 20_000}
    with books.shop.services.database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text("""
                INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, created_at,
                    first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
                SELECT CASE WHEN n % 10 = 0 THEN CAST(:other AS uuid) ELSE CAST(:id AS uuid) END, gen_random_uuid(), 1,
                    gen_random_uuid(), 1, 'USD', at, 'webhook', 'webhook', gen_random_uuid(), at, at, 'new', at
                FROM generate_series(1, :many) n
                CROSS JOIN LATERAL (SELECT now() - n * interval '1 year' / :many AS at) t"""),
            values,
        )
        connection.execute(
            text("""
                INSERT INTO webhook_events (event_id, instance_id, event_type, kind, entity_id, received_at,
                    last_received_at, status, is_anonymization, content_digest, token_digest)
                SELECT event_id, instance_id, 'x', 'payment', payment_id, stored_at, stored_at, 'recorded', false,
                    sha256('a'), sha256('a')
                FROM payments""")
        )
        connection.execute(
            text("""
                INSERT INTO link_checks (instance_id, payment_link_id, wanted, checked)
                SELECT instance_id, payment_link_id, 1, 1 FROM payments""")
        )
        connection.execute(
            text("""
                INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id,
                    payment_id, sides, first_seen_at, last_seen_at, first_run_id, last_run_id, closed_at, resolution,
                    reason)
                SELECT gen_random_uuid(), instance_id, 'amount_differs', 'error', 'resolved', payment_link_id,
                    payment_id, '{}', stored_at, stored_at, event_id, event_id, stored_at, 'x', 'explained'
                FROM payments""")
        )
        for table in LARGE:
            connection.execute(text(f"ANALYZE {table}"))


def test_no_look_reads_a_large_table_as_a_whole(fresh_books: Books) -> None:
    large(fresh_books)
    asked_for: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, *_more: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            asked_for.append((statement, given))

    engine = fresh_books.shop.services.database.engine
    reaches = (EVERYWHERE, Reach(frozenset({fresh_books.other_instance_id})))
    people = [fresh_books.person(Role.APPROVER, Role.OPERATOR, reach=one) for one in reaches]
    event.listen(engine, "before_cursor_execute", note)
    for person in people:
        assert "The books are right" in person.read("/")
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        plans = [
            (
                statement,
                "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, given)),
            )
            for statement, given in asked_for
        ]

    assert any("ix_payments_by_creation" in plan for _, plan in plans)
    assert any("ix_webhook_events_received" in plan for _, plan in plans)
    wrong = [one for one in plans if any(f"Seq Scan on {table}" in one[1] for table in LARGE)]
    assert not wrong, "\n".join(one[1] for one in wrong)


# -- The page ----------------------------------------------------------------------------------------


def test_the_page_says_first_whether_the_books_are_right(books: Books) -> None:
    page = books.person(Role.AUDITOR).read("/")

    verdict = re.search(
        r'<p class="verdict (\w+)" id="verdict">([^<]+) <a href="([^"]+)">[^<]+</a></p>', page
    )
    assert verdict is not None
    assert verdict[1] == "bad"
    assert verdict[2].startswith("4 discrepancies with ")
    assert verdict[3] == "/discrepancies"
    assert page.index("verdict") < page.index("Received")


def test_the_page_shows_what_is_of_the_own_instances_alone(books: Books) -> None:
    own = books.person(Role.CLERK, reach=Reach(frozenset({books.other_instance_id})))
    nothing = books.person(Role.CLERK, reach=Reach(frozenset()))

    page = own.read("/")
    empty = nothing.read("/")

    assert "1 discrepancy with " in page
    assert str(books.instance_id)[:8] not in page
    assert "JPY" not in page
    assert "Rejected" not in page
    assert "Nothing is booked yet" in empty
    assert "No app instance is known yet" in empty


def test_charts_have_a_name_and_the_same_figures_in_a_table(books: Books) -> None:
    page = books.person(Role.AUDITOR).read("/")

    charts = re.findall(r'<svg class="chart"[^>]*role="img" aria-label="([^"]+)"', page)
    assert len(charts) == 2
    assert "in USD on each day from" in charts[0]
    assert page.count('<rect class="bar"') == 2 * DAYS
    table = page[page.index("as a table") :]
    assert table.count('<th scope="row">') > DAYS
    assert "1,200" in table
    assert 'style="' not in page


def test_the_part_that_updates_itself_is_that_of_the_page_and_asks_for_itself(books: Books) -> None:
    person = books.person(Role.AUDITOR)

    page = person.read("/")
    part = person.get("/overview/now", headers={"HX-Request": "true"}).text

    assert "<html" not in part
    for one in (page, part):
        assert '<div id="now" class="live" data-live hx-get="/overview/now" hx-trigger="every 5s"' in one
        assert "aria-live" not in one


def test_updates_can_be_paused(books: Books) -> None:
    person = books.person(Role.AUDITOR)

    paused = person.read("/?updates=off")

    assert "hx-get" not in paused
    assert "Update by itself" in paused
    assert "Pause updates" in person.read("/?updates=%00&updates=" + "x" * 10_000)


def test_looking_by_itself_keeps_no_session_alive(fresh_books: Books) -> None:
    person = fresh_books.person()

    answers = []
    for _ in range(3):
        fresh_books.shop.pass_time(timedelta(minutes=25))
        answers.append(person.get("/overview/now", headers={"HX-Request": "true"}))

    assert [one.status_code for one in answers] == [200, 200, 401]
    assert answers[-1].headers["HX-Redirect"] == "/sign-in"


def test_a_payment_is_there_at_the_next_look(fresh_books: Books) -> None:
    shop = fresh_books.shop
    person = fresh_books.person()
    assert "Nothing is booked yet" in person.read("/")

    shop.pay(shop.link("12.34"))
    shop.deliver()
    shop.pass_time(timedelta(minutes=5))  # however long it took to read what was remembered
    part = person.read("/overview/now")

    assert "12.34" in part
    assert "1 payment, 0 matched" in part
    assert "being compared with Wix" in part


def test_troubles_of_instances_are_told_and_listed_first(fresh_books: Books) -> None:
    books = fresh_books
    shop, now = books.shop, books.shop.services.now()
    with shop.services.database.begin() as connection:
        operations.beat(connection, operations.CLOCK, now - timedelta(minutes=6))
    ago = now - timedelta(hours=3)
    shop.rows(
        "INSERT INTO wix_outages (instance_id, since, told_at) VALUES (:id, :at, :at) RETURNING 1",
        id=books.other_instance_id,
        at=ago,
    )
    shop.rows(
        """INSERT INTO wix_outages (instance_id, since, told_at, ended_at)
        VALUES (:id, :at, :at, :ended_at) RETURNING 1""",
        id=books.instance_id,
        at=ago,
        ended_at=now - timedelta(hours=1),
    )
    shop.rows(
        """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
            verified_at, confirmed_at, payments_found)
        VALUES (gen_random_uuid(), :id, :at, 7200, :at, 'silent', :at, :at, 1) RETURNING 1""",
        id=books.instance_id,
        at=ago,
    )

    page = books.person().read("/")

    assert re.search(r'class="verdict bad" id="verdict">Nothing has been reconciled since', page)
    assert "Wix cannot be asked about 1 instance, not since" in page
    assert "Webhooks of 1 instance have not arrived since" in page
    table = page[page.index('aria-label="How each app instance fares"') :]
    other, own = str(books.other_instance_id)[:8], str(books.instance_id)[:8]
    assert table.index(other) < table.index(own)
    assert "Cannot be asked" in table
    assert "Do not arrive" in table
    assert "for 2 h" in table[table.index("Outages of Wix that are over") :]


def test_rejected_and_unread_deliveries_are_counted_for_who_sees_every_instance(fresh_books: Books) -> None:
    books = fresh_books
    now = books.shop.services.now()
    books.shop.rows(
        "INSERT INTO rejection_counts (day, reason, delivery_count) VALUES (:day, 'bad_signature', 17) RETURNING 1",
        day=now.astimezone(UTC).date(),
    )
    books.shop.rows(
        """INSERT INTO unread_deliveries (token_digest, reason, token, received_at, last_received_at)
        VALUES (sha256('z'), 'instance_missing', 'not.a.token', :now, :now) RETURNING 1""",
        now=now,
    )

    every = books.person().read("/")
    own = books.person(reach=Reach(frozenset({books.instance_id}))).read("/")

    assert '<dt>Rejected</dt><dd><a href="/events/rejected">17</a>' in every
    assert '<a href="/events/unread">1 of no known instance</a>' in every
    assert "<dt>Rejected</dt>" not in own
    assert "of no known instance" not in own


def test_buckets_link_to_what_is_of_that_age(books: Books) -> None:
    person = books.person()

    links = re.findall(r'href="(/discrepancies\?aging=[^"]+)"', person.read("/"))

    assert set(links) == {
        "/discrepancies?aging=under-1-hour",
        "/discrepancies?aging=under-1-hour&amp;currency=JPY",
        "/discrepancies?aging=under-1-hour&amp;currency=USD",
    }
    queue = person.read(links[0])
    assert "wrong-words" not in queue
    assert str(books.discrepancies["open"])[:8] in queue


def tasks(page: str) -> dict[str, str]:
    """What is said to wait for who looks, and where it leads."""
    if 'id="tasks"' not in page:
        return {}
    part = page.split('id="tasks"', 1)[1].split("</section>", 1)[0]
    return {
        said: unescape(where) for where, said in re.findall(r'<li><a href="([^"]+)">(.*?)</a></li>', part)
    }


def test_every_figure_leads_to_a_list_that_is_there(books: Books) -> None:
    person = books.person(Role.OPERATOR, Role.APPROVER)
    page = person.read("/")
    content = page.split('<main id="content"', 1)[1]

    addresses = {unescape(one) for one in re.findall(r'href="(/[^"]*)"', content)}

    assert len(addresses) > 12
    for address in addresses:
        answer = person.get(address)
        assert answer.status_code == 200, address
        assert "wrong-words" not in answer.text, address


def test_today_leads_to_the_payments_of_today(books: Books) -> None:
    today = books.shop.services.now().date().isoformat()

    page = unescape(books.person().read("/"))

    assert f'class="value"><a href="/payments?since={today}&until={today}&currency=USD">' in page


def test_approvals_wait_for_who_did_not_propose(fresh_books: Books) -> None:
    books = fresh_books
    noor, maya = (books.person(Role.APPROVER, name=name) for name in ("noor", "maya"))
    version = decisions.propose_rules(
        books.shop.services, {"write_off_limits": {"USD": "1.00"}}, actor="maya", comment=None
    )
    within = books.person(Role.APPROVER, reach=Reach(frozenset({books.instance_id})))

    assert tasks(noor.read("/")) == {"1 proposed version of the rules": f"/rules/{version}"}
    assert tasks(maya.read("/")) == {}
    assert tasks(within.read("/")) == {}, "rules are of every instance"
    decisions.reject_rules(books.shop.services, version, actor="noor", reason="no")
    assert "Nothing.</p>" in noor.read("/")


def test_what_one_proposed_oneself_hides_nothing_that_others_did(fresh_books: Books) -> None:
    """However many there are: those of others alone are counted, up to a limit."""
    books, services = fresh_books, fresh_books.shop.services

    def propose(actor: str, number: int) -> int:
        rules = {"write_off_limits": {"USD": f"{number}.00"}}
        return decisions.propose_rules(services, rules, actor=actor, comment=None)

    maya = books.person(Role.APPROVER, name="maya")
    version = propose("noor", 1)
    for number in range(2, 2 + RULES_MAX + 1):
        propose("Maya", number)

    assert tasks(maya.read("/")) == {"1 proposed version of the rules": f"/rules/{version}"}
    for number in range(20, 20 + RULES_MAX):
        propose("noor", number)
    assert tasks(maya.read("/")) == {f"More than {RULES_MAX} proposed versions of the rules": "/rules"}


def test_what_waits_is_what_its_list_shows(books: Books) -> None:
    person = books.person(Role.APPROVER, name="quinn")
    [discrepancy_id] = books.shop.one(
        "SELECT discrepancy_id FROM discrepancies WHERE closed_at IS NULL AND owner IS NULL LIMIT 1"
    )
    decisions.decide(books.shop.services, discrepancy_id, Assign("Quinn"), actor="quinn")

    found = tasks(person.read("/"))

    assert found["1 discrepancy assigned to you"] == "/discrepancies?owner=me"
    mine = [said for said in found if "to approve" in said]
    assert len(mine) == 1
    assert found[mine[0]] == "/discrepancies?approval=mine"
    for said in ("1 discrepancy assigned to you", mine[0]):
        queue = person.read(found[said])
        assert len(re.findall(r'type="checkbox" name="chosen"', queue)) == int(said.split()[0])
    decisions.decide(books.shop.services, discrepancy_id, Assign(None), actor="quinn")


def test_an_operator_is_told_of_the_installation_and_an_auditor_has_nothing_to_do(fresh_books: Books) -> None:
    books = fresh_books
    books.shop.rows(
        "INSERT INTO rejection_counts (day, reason, delivery_count) VALUES (:day, 'bad_signature', 17) RETURNING 1",
        day=books.shop.services.now().astimezone(UTC).date(),
    )

    every = tasks(books.person(Role.OPERATOR).read("/"))
    own = tasks(books.person(Role.OPERATOR, reach=Reach(frozenset({books.instance_id}))).read("/"))

    assert every["17 deliveries rejected today"] == "/events/rejected"
    assert any("about this installation" in said for said in every), "nobody started a clock or a worker"
    assert not any("rejected" in said for said in own)
    assert 'id="tasks"' not in books.person(Role.AUDITOR).read("/")


def test_the_answer_time_is_the_bound_of_the_bucket_it_falls_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client import Histogram

    none = Histogram("processor_answer_seconds", "", buckets=(0.01, 0.1), registry=None)
    monkeypatch.setattr(metrics, "ANSWER_SECONDS", none)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert metrics.answered_within(0.99) == (None, 0)

    for seconds in (*[0.001] * 98, 0.05, 5.0):
        none.observe(seconds)

    assert metrics.answered_within(0.98) == (0.01, 100)
    assert metrics.answered_within(0.99) == (0.1, 100)
    assert metrics.answered_within(1.0) == (None, 100)


def test_every_bucket_is_asked_for() -> None:
    assert AGING[-1][1] is None
    assert all(until is not None for _, until in AGING[:-1])


def test_what_is_held_alarms_nobody_once_somebody_decided_that_it_was_a_test(fresh_books: Books) -> None:
    shop = fresh_books.shop
    shop.deliver()
    shop.sandbox.send_stray("test_event", str(shop.instance_id))
    shop.deliver(only=lambda one: one.instance_id != shop.instance_id)
    [stranger] = shop.rows("SELECT instance_id FROM app_instances WHERE status = 'unconfirmed'")
    for _ in range(2):
        jobs.run_check(shop.services, stranger.instance_id)
        shop.pass_time(timedelta(minutes=11))
    [row] = shop.rows("SELECT discrepancy_id FROM discrepancies")
    person = fresh_books.person()

    before = person.read("/")
    decisions.decide(shop.services, row.discrepancy_id, Resolve(Reason.TEST_DATA), actor="maya")
    after = person.read("/")

    assert "1 event is held and not booked" in before
    assert "is held and not booked" not in after
    assert "somebody decided on it" in after
    with shop.services.database.begin() as connection:
        waiting = asked.waiting(connection, EVERYWHERE, shop.services.now())
    assert (waiting.held, waiting.undecided) == (1, 0)
