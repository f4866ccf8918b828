"""The reports on the pages: what they list, for whom, and what leaves them as CSV."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from processor import decisions
from processor.domain.access import Reach, Role
from processor.domain.discrepancy import ApproveWriteOff
from processor.domain.sheet import FORMULA, cell, harmless
from processor.store.report_views import REPORTS, Lines
from processor.store.screens import reports as store
from processor.store.screens.names import amounts_of
from processor.web.pages import answers, exports
from processor.web.pages.cells import Printer
from processor.web.pages.formats import Clock
from processor.web.pages.screens import reports
from processor.web.pages.screens.reports import DAYS_MAX, ROWS_MAX, TITLES, UNDATED, spans
from tests.web.pages.books import Books, Person, fill, names_of

WIDE = "?since=2026-01-01&until=2026-12-31"


def window(books: Books) -> str:
    """Everything that is in the books."""
    today = books.shop.services.now().astimezone(UTC).date()
    return f"?since={today - timedelta(days=30)}&until={today + timedelta(days=30)}"


def sheet(person: Person, path: str) -> list[dict[str, str]]:
    answer = person.get(path)
    assert answer.status_code == 200, answer.text[:500]
    assert answer.mimetype == "text/csv"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def table(page: str) -> list[list[str]]:
    """The cells of the report's body, as text."""
    found = re.search(r'<table class="dense(?: every)?">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    if found is None:
        return []
    return [
        [re.sub(r"<[^>]+>", "", one).strip() for one in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    ]


def with_silence(books: Books, instance_id: Any) -> None:
    now = books.shop.services.now()
    books.shop.rows(
        """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
            verified_at, confirmed_at, payments_found, ended_at, end_reason)
        VALUES (gen_random_uuid(), :id, :at, 7200, :at, 'silent', :at, :at, 1, :at, 'event') RETURNING 1""",
        id=instance_id,
        at=now,
    )


@pytest.fixture(scope="module", autouse=True)
def _something_of_everything(books: Books) -> None:
    for instance_id in (books.instance_id, books.other_instance_id):
        with_silence(books, instance_id)
    books.shop.rows(
        "INSERT INTO rejection_counts (day, reason, delivery_count) VALUES (:day, 'bad_signature', 17) RETURNING 1",
        day=books.shop.services.now().astimezone(UTC).date(),
    )


# -- All of them -------------------------------------------------------------------------------------


def test_every_report_of_the_engine_is_listed_with_what_it_answers(books: Books) -> None:
    page = books.person(Role.AUDITOR).read("/reports")

    assert set(TITLES) == set(REPORTS)
    for view, one in TITLES.items():
        assert f'href="/reports/{view}?since=' in page
        assert one.title in page


@pytest.mark.parametrize("view", sorted(REPORTS))
def test_every_report_shows_the_same_on_the_page_and_as_csv(books: Books, view: str) -> None:
    person = books.person(Role.AUDITOR)

    page = person.read(f"/reports/{view}{window(books)}")
    rows = sheet(person, f"/reports/{view}/csv{window(books)}")

    assert len(table(page)) == len(rows)
    assert bool(rows) is (view not in ("out_of_order", "resolutions")), view
    if rows:
        shown = [*REPORTS[view].shown]
        if "instance_id" not in shown:
            shown.insert(1, "instance_id")
        assert list(rows[0]) == shown
        assert len(table(page)[0]) == len(shown)


@pytest.mark.parametrize("view", sorted(REPORTS))
def test_every_column_can_be_shown_and_is_explained(books: Books, view: str) -> None:
    person = books.person(Role.AUDITOR)

    page = person.read(f"/reports/{view}{window(books)}&columns=all")
    answer = person.get(f"/reports/{view}/csv{window(books)}&columns=all").text

    names = answer.splitlines()[0].split(",")
    assert len(names) >= len(REPORTS[view].shown)
    for name in names:
        assert f"<code>{name}</code>" in page
    if table(page):
        assert len(table(page)[0]) == len(names)
        assert page.count("<abbr title=") == len(names)


@pytest.mark.parametrize("view", sorted(REPORTS))
def test_nobody_reads_a_line_of_another_instance_or_of_none(books: Books, view: str) -> None:
    person = books.person(Role.AUDITOR, reach=Reach(frozenset({books.other_instance_id})))
    nobody = books.person(Role.AUDITOR, reach=Reach(frozenset()))

    page = person.read(f"/reports/{view}{window(books)}&columns=all")
    rows = sheet(person, f"/reports/{view}/csv{window(books)}&columns=all")

    mine = names_of(books)
    assert [name for name in mine if name in page or name in str(rows)] == []
    assert {row["instance_id"] for row in rows} <= {str(books.other_instance_id)}
    assert table(nobody.read(f"/reports/{view}{window(books)}")) == []
    assert sheet(nobody, f"/reports/{view}/csv{window(books)}") == []


def test_what_is_of_no_instance_is_for_whoever_sees_every_one(books: Books) -> None:
    both = frozenset({books.instance_id, books.other_instance_id})
    path = f"/reports/completeness/csv{window(books)}"

    every = sheet(books.person(), path)
    named = sheet(books.person(reach=Reach(both)), path)

    assert [row for row in every if row["instance_id"] == "" and row["rejected"] != "0"]
    assert [row for row in named if row["instance_id"] == ""] == []
    assert len(named) == 2


def test_an_instance_beyond_the_reach_is_not_found_and_a_seen_one_narrows_down(books: Books) -> None:
    person = books.person(Role.AUDITOR, reach=Reach(frozenset({books.other_instance_id})))
    path = f"/reports/payments{window(books)}&instance="

    assert person.get(f"{path}{books.instance_id}").status_code == 404
    assert person.get(f"{path}{uuid4()}").status_code == 404
    assert len(table(person.read(f"{path}{books.other_instance_id}"))) == 1
    assert len(table(books.person().read(f"{path}{books.other_instance_id}"))) == 1


# -- What is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize("view", sorted(REPORTS))
def test_a_report_is_read_only_when_it_is_asked_for(
    books: Books, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: Any, **_more: Any) -> Any:
        raise AssertionError("the view was read")

    monkeypatch.setattr(store, "lines", refuse)
    monkeypatch.setattr(store, "totals", refuse)

    page = books.person().read(f"/reports/{view}")

    assert "how the report" in page
    assert "What the columns mean" in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?since=2026-11-28", "Choose the last day."),
        ("?until=2026-11-28", "Choose the first day."),
        ("?since=2026-11-28&until=2026-11-27", "It lies before the first day."),
        (
            f"?since=2020-01-01&until={date(2020, 1, 1) + timedelta(days=DAYS_MAX)}",
            "At most 400 days at once.",
        ),
        ("?since=yesterday&until=2026-11-27", "Not a day"),
        ("?since=0001-01-01&until=9999-12-31", "Not a day"),
        ("?since=%00&until=%FF", "Not a day"),
        (f"{WIDE}&instance=me", "Not an id"),
        (f"{WIDE}&instance=%00", "Not an id"),
        (f"{WIDE}&currency=EURO", "Three letters"),
        (f"{WIDE}&currency=%E2%82%AC%E2%82%AC%E2%82%AC", "Three letters"),
        (f"{WIDE}&currency={'x' * 10_000}", "At most"),
        (f"{WIDE}&columns=everything", "There is no such choice."),
    ],
)
def test_what_cannot_be_read_is_said_beside_its_field_and_nothing_is_looked_for(
    books: Books, query: str, words: str
) -> None:
    person = books.person()

    page = person.read(f"/reports/payments{query}")
    answer = person.get(f"/reports/payments/csv{query}")

    assert re.search(f'class="wrong-words"[^>]*>{re.escape(words)}', page)
    assert "<table" not in page
    assert answer.status_code == 422
    assert words in answer.text


def test_arguments_given_twice_or_that_nobody_knows_do_no_harm(books: Books) -> None:
    person = books.person()

    assert person.get(f"/reports/payments{WIDE}&since=x&other=%00&at=1").status_code == 200
    assert person.get("/reports/pg_class").status_code == 404
    assert person.get("/reports/payments;drop").status_code == 404
    assert person.get("/reports/pg_class/csv").status_code == 404


def test_a_report_of_now_needs_no_days(books: Books) -> None:
    person = books.person()
    for view in UNDATED:
        assert table(person.read(f"/reports/{view}?since=&until="))
        assert sheet(person, f"/reports/{view}/csv")


def test_days_begin_and_end_in_the_zone_of_reports(books: Books) -> None:
    person = books.person()
    day = books.shop.one("SELECT max((created_at AT TIME ZONE 'UTC')::date) AS day FROM payments").day
    first = books.shop.one("SELECT min((created_at AT TIME ZONE 'UTC')::date) AS day FROM payments").day

    def number(view: str, since: date, until: date) -> int:
        return len(sheet(person, f"/reports/{view}/csv?since={since}&until={until}"))

    assert number("payments", first, day) == 7
    assert number("payments", day + timedelta(days=1), day + timedelta(days=2)) == 0
    assert number("payments", first - timedelta(days=2), first - timedelta(days=1)) == 0
    assert number("reconciliation_summary", first, day) == number("reconciliation_summary", first, day)
    assert number("reconciliation_summary", day + timedelta(days=1), day + timedelta(days=1)) == 0


def test_the_currency_narrows_down_whatever_its_case(books: Books) -> None:
    rows = sheet(books.person(), f"/reports/payments/csv{window(books)}&currency=jpy")

    assert [(row["currency"], row["amount"]) for row in rows] == [("JPY", "1200")]


@pytest.mark.parametrize(
    ("today", "month"),
    [
        (date(2026, 3, 31), (date(2026, 2, 1), date(2026, 2, 28))),
        (date(2027, 1, 1), (date(2026, 12, 1), date(2026, 12, 31))),
    ],
)
def test_last_month_is_the_whole_of_it(today: date, month: tuple[date, date]) -> None:
    found = {label: (since, until) for label, since, until in spans(today)}

    assert found["Last month"] == month
    assert found["Last 7 days"] == (today - timedelta(days=6), today)
    assert found["This month"] == (today.replace(day=1), today)


# -- What is shown -----------------------------------------------------------------------------------


def test_totals_are_those_of_the_rows_by_currency(books: Books) -> None:
    page = books.person().read(f"/reports/payments{window(books)}")

    foot = re.search(r"<tfoot>(.*?)</tfoot>", page, re.DOTALL)
    assert foot is not None
    words = re.sub(r"<[^>]+>", " ", foot[1]).split()
    assert words == ["Total", "JPY", "1,200", "Total", "USD", "152.00"]


def test_what_runs_compared_is_not_added_up(books: Books) -> None:
    page = unescape(books.person().read(f"/reports/runs{window(books)}"))

    assert len(table(page)) > 1
    assert "<tfoot>" not in page, "each run compares again what others compared"
    assert "Nothing is added up" in page


@pytest.mark.parametrize("view", sorted(REPORTS))
def test_every_report_says_how_it_is_read_and_what_to_do(books: Books, view: str) -> None:
    page = unescape(books.person().read(f"/reports/{view}{window(books)}"))

    assert TITLES[view].reading in page
    assert f"</strong> {TITLES[view].acting}" in page
    assert "_" not in TITLES[view].reading + TITLES[view].acting, "for finance, not for who reads SQL"
    assert "Times are those of UTC." in page


def test_links_are_named_by_their_titles(books: Books) -> None:
    page = books.person().read(f"/reports/control_totals{window(books)}")

    assert re.search(
        r'<a class="called" href="/links/[^"]+" title="[0-9a-f-]{36}"><bdi>Deposit</bdi></a>', page
    )
    assert "<b onclick" not in page


def test_control_totals_say_whose_they_are_and_what_was_written_off(fresh_books: Books) -> None:
    books = fresh_books
    fill(books, {})
    before = table(books.person().read(f"/reports/control_totals{window(books)}"))
    decisions.decide(books.shop.services, books.discrepancies["proposed"], ApproveWriteOff(), actor="noor")

    page = books.person().read(f"/reports/control_totals{window(books)}")
    after = table(page)

    assert ">Count, says Wix</abbr>" in page
    assert ">Amount, says Wix</abbr>" in page
    assert not any("No, written off" in row for row in before)
    [line] = [row for row in after if "No, written off" in row]
    assert "Deposit" in line
    assert any("No" in row for row in after), "what is open is not accepted"


def test_payments_are_named_by_their_amount_where_no_column_has_it(books: Books) -> None:
    with books.shop.services.database.begin() as connection:
        wanted = [(books.instance_id, payment_id) for payment_id in books.payments.values()]
        found = amounts_of(connection, wanted)

    assert amounts_of(connection, []) == {}
    booked = books.shop.one(
        "SELECT amount, currency FROM payments WHERE instance_id = :instance AND payment_id = :payment",
        instance=books.instance_id,
        payment=books.payments["matched"],
    )
    assert found[books.instance_id, books.payments["matched"]] == (booked.amount, booked.currency)
    assert (books.instance_id, books.payments["other"]) not in found


def test_large_amounts_that_name_payments_are_not_masked_as_numbers_of_persons_are(books: Books) -> None:
    payment_id = uuid4()
    columns = [reports.Column(name, name, "id", "") for name in ("payment_id", "payment_link_id")]
    found = store.Found(
        books.shop.services.now(),
        ("payment_id", "payment_link_id", "instance_id"),
        [(payment_id, uuid4(), books.instance_id)],
        [],
        [
            store.Named(0, 0, amount=Decimal("1234567.89"), currency="EUR"),
            store.Named(0, 1, title="Call +49 170 1234567\u202e<b>"),
        ],
    )
    with books.app.test_request_context("/"):
        body = reports._table(Printer(Clock("UTC", books.shop.services.now)), found, columns).body

    assert "<bdi>1,234,567.89 EUR</bdi>" in body
    assert "1234567\u202e" not in body
    assert "170" not in re.sub(r'"[^"]*"', "", body)
    assert "<b>" not in body


def test_ids_lead_to_what_they_name(books: Books) -> None:
    page = books.person().read(f"/reports/payments{window(books)}")

    path = f"/payments/{books.instance_id}/{books.payments['matched']}"
    assert f'href="{path}"' in page
    assert books.person().get(path).status_code == 200


def test_a_report_that_is_too_long_for_a_page_says_so_and_its_csv_is_whole(fresh_books: Books) -> None:
    books = fresh_books
    now = books.shop.services.now()
    with books.shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO webhook_events (event_id, instance_id, event_type, kind, received_at, last_received_at,
                    delivery_count, status, is_anonymization, content_digest, token_digest)
                SELECT gen_random_uuid(), :id, 'x', 'payment', :now, :now, 2, 'recorded', false, sha256('a'),
                    sha256('a')
                FROM generate_series(1, :many)"""),
            {"id": books.instance_id, "now": now, "many": ROWS_MAX + 1},
        )
    person = books.person()

    page = person.read(f"/reports/duplicates{window(books)}")
    rows = sheet(person, f"/reports/duplicates/csv{window(books)}")

    assert f"Only the newest {ROWS_MAX} of {ROWS_MAX + 1} rows are listed here" in page
    assert len(table(page)) == ROWS_MAX
    assert len(rows) == ROWS_MAX + 1
    assert "1,002" in page[page.index("<tfoot>") :]  # deliveries, of all of them


# -- What is hostile ---------------------------------------------------------------------------------


HOSTILE = "=cmd|'/c'!A1<b onclick=alert(1)>\N{RIGHT-TO-LEFT OVERRIDE}"


def test_what_others_wrote_is_harmless_on_the_page_and_in_a_spreadsheet(fresh_books: Books) -> None:
    books = fresh_books
    now = books.shop.services.now()
    books.shop.rows(
        """INSERT INTO webhook_events (event_id, instance_id, event_type, kind, received_at, last_received_at,
            delivery_count, status, is_anonymization, content_digest, token_digest)
        VALUES (gen_random_uuid(), :id, :hostile, 'other', :now, :now, 2, 'ignored', false, sha256('a'), sha256('a'))
        RETURNING 1""",
        id=books.instance_id,
        hostile=HOSTILE,
        now=now,
    )
    person = books.person()

    page = person.read(f"/reports/duplicates{window(books)}")
    [row] = sheet(person, f"/reports/duplicates/csv{window(books)}")

    assert "<b onclick" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "=cmd|" in page
    assert row["event_type"] == f"'{HOSTILE}"
    assert not any(value.startswith(FORMULA) for value in row.values())


@pytest.mark.parametrize(
    ("value", "currency", "written"),
    [
        (None, None, ""),
        (Decimal("-5.000"), "USD", "-5.00"),
        (Decimal("1200.000"), "JPY", "1200"),
        (Decimal("3.250"), "KWD", "3.250"),
        (-7, None, "-7"),
        (True, None, "true"),
        (date(2026, 11, 28), None, "2026-11-28"),
        (datetime(2026, 11, 28, 12, tzinfo=UTC), None, "2026-11-28T12:00:00Z"),
        ("-5", None, "'-5"),
        ({"booked": "\N{RIGHT-TO-LEFT OVERRIDE}", "wix": None}, None, '{"booked": "\\u202e", "wix": null}'),
    ],
)
def test_cells_are_exact_and_only_text_is_kept_from_being_a_formula(
    value: Any, currency: str | None, written: str
) -> None:
    assert cell(value, currency) == written


@pytest.mark.parametrize("start", FORMULA)
def test_no_text_begins_a_formula(start: str) -> None:
    assert harmless(f"{start}1+1") == f"'{start}1+1"


# -- Downloads ---------------------------------------------------------------------------------------


def test_a_download_is_written_down_and_named_for_what_it_is(books: Books) -> None:
    answer = books.person(Role.AUDITOR, name="auditor ada").get(
        "/reports/missed_webhooks/csv?since=2026-11-01&until=2026-11-30&currency=USD"
    )

    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="missed-webhooks-2026-11-01-2026-11-30.csv"'
    )
    assert answer.headers["Cache-Control"] == "no-store"
    row = books.shop.one("SELECT * FROM actions WHERE actor = 'auditor ada'")
    assert (row.action, row.object, row.status) == ("reports.download", "missed_webhooks", 200)
    assert row.detail == {"since": "2026-11-01", "until": "2026-11-30", "currency": "USD"}


def test_a_download_nobody_reads_to_its_end_holds_no_connection(books: Books) -> None:
    person = books.person()
    pool = books.shop.services.database.engine.pool

    for _ in range(reports.AT_ONCE + 3):
        answer = person.client.get(f"/reports/payments/csv{window(books)}", buffered=False)
        answer.close()

    assert pool.checkedout() == 0  # type: ignore[attr-defined]


def test_readers_that_are_slow_hold_up_nobody(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "WAIT_SECONDS", 0.05)
    person = books.person()
    pool = books.shop.services.database.engine.pool
    path = f"/reports/payments/csv{window(books)}"

    slow = [person.client.get(path, buffered=False) for _ in range(reports.AT_ONCE + 3)]
    try:
        assert {one.status_code for one in slow} == {200}
        assert pool.checkedout() == 0  # type: ignore[attr-defined]
        assert person.get(path).status_code == 200
        assert {int(one.headers["Content-Length"]) for one in slow} == {len(person.get(path).data)}
    finally:
        for one in slow:
            one.close()


def download(person: Person, books: Books) -> tuple[TestResponse, int]:
    """The answer, and what the audit log says it was."""
    answer = person.get(f"/reports/payments/csv{window(books)}")
    assert "attachment" not in answer.headers.get("Content-Disposition", "")
    return answer, books.shop.rows("SELECT status FROM actions ORDER BY action_id DESC LIMIT 1")[0].status


def test_a_download_that_breaks_off_is_no_file(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.lines

    @contextmanager
    def breaking(connection: Any, *given: Any, **more: Any) -> Iterator[Lines]:
        def some(rows: Iterator[Any]) -> Iterator[Any]:
            yield next(rows)
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with whole(connection, *given, **more) as lines:
            yield Lines(lines.columns, some(lines.rows))

    person = books.person()
    monkeypatch.setattr(store, "lines", breaking)

    answer, noted = download(person, books)

    assert (answer.status_code, noted) == (503, 503)
    assert str(books.payments["matched"]) not in answer.text
    monkeypatch.undo()
    assert person.get(f"/reports/payments/csv{window(books)}").status_code == 200


def test_without_room_for_the_file_there_is_none(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "made", lambda: open("/dev/full", "w+b"))  # noqa: SIM115

    answer, noted = download(books.person(), books)

    assert (answer.status_code, noted) == (503, 503)
    assert "cannot be written on this server" in answer.text


@pytest.mark.parametrize(
    ("module", "name", "most", "words"),
    [(reports, "FILE_ROWS_MAX", 1, "more than 1 rows"), (exports, "BYTES_MAX", 1_000, "more than 0 MB")],
)
def test_a_part_of_a_report_that_is_too_large_is_not_taken_for_the_whole(
    books: Books, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, most: int, words: str
) -> None:
    monkeypatch.setattr(module, name, most)

    answer, noted = download(books.person(), books)

    assert (answer.status_code, noted) == (422, 422)
    assert words in answer.text
    assert "processor report payments --csv" in answer.text


def test_as_many_rows_as_may_be_are_a_file(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    person = books.person()
    path = f"/reports/payments/csv{window(books)}"
    rows = sheet(person, path)
    monkeypatch.setattr(reports, "FILE_ROWS_MAX", len(rows))

    assert sheet(person, path) == rows


def test_a_report_that_takes_too_long_says_what_to_do(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(connection: Any, *_given: Any, **_more: Any) -> Any:
        connection.execute(text("SELECT pg_sleep(60)"))

    monkeypatch.setattr(answers, "PAGE_SECONDS", 0.05)
    monkeypatch.setattr(reports, "FILE_SECONDS", 0.05)
    monkeypatch.setattr(store, "totals", slow)
    monkeypatch.setattr(store, "lines", slow)
    person = books.person(app=books.another_app(has_redis=False))

    for path in ("/reports/payments", "/reports/payments/csv"):
        answer = person.get(f"{path}{window(books)}")
        assert answer.status_code == 503
        assert "not through in time" in answer.text
        assert "processor report payments --csv" in answer.text


def test_only_so_many_reports_are_read_at_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others are, and no worker can be asked, one waits a little and is then told."""
    monkeypatch.setattr(answers, "WAIT_SECONDS", 0.05)
    inside, go_on = threading.Semaphore(0), threading.Event()

    @contextmanager
    def held(*_given: Any) -> Iterator[tuple[None, store.Stage]]:
        inside.release()
        go_on.wait(30)
        yield None, lambda: None

    @contextmanager
    def nothing(*_given: Any, **_more: Any) -> Iterator[Lines]:
        yield Lines(REPORTS["payments"].shown, iter(()))

    monkeypatch.setattr(store, "reading_within", held)
    monkeypatch.setattr(store, "totals", lambda *_given: [])
    monkeypatch.setattr(store, "lines", nothing)
    app = books.another_app(has_redis=False)
    people = [books.person(app=app) for _ in range(reports.AT_ONCE + 1)]
    path = f"/reports/payments{window(books)}"
    threads = [threading.Thread(target=one.get, args=(path,)) for one in people[1:]]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=30)

    busy = people[0].get(path)
    go_on.set()
    for thread in threads:
        thread.join()

    assert busy.status_code == 503
    assert "Try again in a moment" in busy.text
    assert people[0].get(path).status_code == 200


def test_what_columns_mean_is_said_without_the_words_of_databases(books: Books) -> None:
    page = books.person().read("/reports/control_totals")
    legend = page.split("What the columns mean", 1)[1]

    assert "NULL" not in legend
    assert "Empty as “Count, says Wix”" in legend
    assert "Times are in UTC, in the CSV as well." in legend
