"""Exports hold exactly what the filter shows, to the last thousandth, in little memory, and run nothing."""

from __future__ import annotations

import csv
import gc
import io
import re
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import openpyxl
import pytest

from processor.domain.access import Reach
from processor.web import doors
from processor.web.doors import Doors
from processor.web.pages import create_pages, exports
from processor.web.pages.exports import Column, Format, Kind, Table
from processor.web.pages.site import FILE_PART, Busy, Places
from tests.web.pages.books import MARKUP, Books, Person

Rows = list[dict[str, Any]]
HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", MARKUP, '=HYPERLINK("http://x";"y")'),
    *("http://example.com", "{=1}", 'a,b;c"d\ne', "\x01\x07", "\uffff\ufffe", "x" * 40_000, "'", "0012"),
)
INSERT = """
    INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, created_at, method,
        payment_provider, first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
    SELECT CAST(:id AS uuid), gen_random_uuid(), 1, CAST(:id AS uuid), {amount}, {currency},
        timestamptz '2026-11-01 23:30Z' + n * interval '1 s', 'CREDIT_CARD', {provider}, 'webhook', 'webhook',
        gen_random_uuid(), now(), now(), 'new', now()
    FROM generate_series(1, :n) n RETURNING 1"""


def put(
    books: Books, number: int, *, amount: str = "n / 1000.0", currency: str = "'KWD'", provider: str = "NULL"
) -> None:
    sql = INSERT.format(amount=amount, currency=currency, provider=provider)
    assert len(books.shop.rows(sql, id=books.instance_id, n=number)) == number


def put_hostile(books: Books) -> None:
    for text in HOSTILE:
        books.shop.rows(
            INSERT.format(amount="1", currency="'EUR'", provider=":text"),
            id=books.instance_id,
            n=1,
            text=text,
        )


def fetched(person: Person, format_: str, query: str = "") -> bytes:
    answer = person.get(f"/payments/export.{format_}?{query}")
    assert answer.status_code == 200, answer.text[:500]
    assert answer.headers["Content-Type"] == exports.MEDIA_TYPES[Format(format_)]
    assert re.fullmatch(
        rf'attachment; filename="payments-\d{{4}}-\d\d-\d\d\.{format_}"',
        answer.headers["Content-Disposition"],
    )
    data = answer.get_data()
    assert int(answer.headers["Content-Length"]) == len(data)
    return data


def from_csv(data: bytes) -> Rows:
    return [
        {**row, "amount": Decimal(row["amount"])}
        for row in csv.DictReader(io.StringIO(data.decode(), newline=""))
    ]


def from_xlsx(data: bytes) -> Rows:
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
    names = [column.name for column in exports_of_payments()]
    rows = list(book["Payments"].iter_rows(min_row=2, values_only=True))
    book.close()
    return [
        {**dict(zip(names, row, strict=True)), "amount": Decimal(str(row[names.index("amount")]))}
        for row in rows
    ]


def from_parquet(data: bytes) -> Rows:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    found: Rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    return found


def exports_of_payments() -> tuple[Column, ...]:
    from processor.web.pages.screens.payments import COLUMNS

    return COLUMNS


READ: dict[str, Callable[[bytes], Rows]] = {"csv": from_csv, "xlsx": from_xlsx, "parquet": from_parquet}


@pytest.mark.parametrize("format_", READ)
def test_an_export_is_what_the_list_shows(books: Books, format_: str) -> None:
    person = books.person()
    for query, names in (
        ("", set(books.payments)),
        ("currency=JPY", {"yen"}),
        ("state=discrepant", {"discrepant", "other"}),
        ("text=Deposit", {"order"}),
        (f"text={books.payments['yen']}", {"yen"}),
        (f"instance={books.other_instance_id}", {"other"}),
        ("currency=GBP", set()),
        ("undated=1", set()),
    ):
        rows = READ[format_](fetched(person, format_, query))
        assert {row["payment_id"] for row in rows} == {str(books.payments[name]) for name in names}
        page = person.read(f"/payments?{query}")
        listed = re.findall(r'data-label="Payment">\s*<[^>]*title="([0-9a-f-]{36})"', page)
        assert [row["payment_id"] for row in rows] == listed, "in the order of the list"


@pytest.mark.parametrize("format_", READ)
def test_values_tie_to_the_totals_to_the_last_thousandth(fresh_books: Books, format_: str) -> None:
    put(fresh_books, 4_321)
    put(fresh_books, 3, amount="999999999999999.997 + n / 1000.0", currency="'BHD'")
    put(fresh_books, 7, amount="1200 + n", currency="'JPY'")
    put(fresh_books, 5, amount="0.1 * n", currency="'USD'")
    person = fresh_books.person()

    rows = READ[format_](fetched(person, format_))

    sums: Counter[str] = Counter()
    for row in rows:
        sums[row["currency"]] += row["amount"]
    expected = fresh_books.shop.rows("SELECT currency, sum(amount) AS amount FROM payments GROUP BY 1")
    assert sums == {row.currency: row.amount for row in expected}
    assert len(rows) == len({row["payment_id"] for row in rows}) == 4_336
    page = person.get("/payments/totals", headers={"HX-Request": "true"}).text
    for currency, amount in sums.items():
        digits = {"JPY": 0, "USD": 2}.get(currency, 3)
        assert f"{amount:,.{digits}f}" in page


def test_csv_has_decimals_of_the_currency_and_times_with_their_offset(fresh_books: Books) -> None:
    put(fresh_books, 1, amount="12.5", currency="'KWD'")
    put(fresh_books, 1, amount="1200", currency="'JPY'")
    put(fresh_books, 1, amount="7.5", currency="'EUR'")

    text = fetched(fresh_books.person(), "csv").decode()

    assert {"12.500", "1200", "7.50"} <= set(re.split("[,\r\n]", text))
    assert "2026-11-01T23:30:01.000+00:00" in text
    assert text.count("\r\n") == 4


def test_xlsx_has_real_numbers_and_dates(fresh_books: Books) -> None:
    put(fresh_books, 1, amount="12.5", currency="'KWD'")
    put(fresh_books, 1, amount="1200", currency="'JPY'")
    put(fresh_books, 1, amount="999999999999999.999", currency="'BHD'")

    book = openpyxl.load_workbook(
        io.BytesIO(fetched(fresh_books.person(name="maya"), "xlsx", "order=oldest"))
    )

    page = book["Payments"]
    by_currency = {row[3].value: row for row in page.iter_rows(min_row=2)}
    assert by_currency["KWD"][2].value == 12.5
    assert by_currency["KWD"][2].number_format == "#,##0.000"
    assert by_currency["JPY"][2].value == 1200
    assert by_currency["JPY"][2].number_format == "#,##0"
    assert by_currency["BHD"][2].value == "999999999999999.999", "a number would lose the last digits"
    assert by_currency["JPY"][0].value == datetime(2026, 11, 1, 23, 30, 1)  # noqa: DTZ001 as in the file
    assert by_currency["JPY"][0].is_date
    assert page["A1"].value == "Created (UTC)"
    about = {row[0]: row[1:] for row in book["About"].iter_rows(values_only=True) if row[0]}
    assert about["Rows"][0] == "3"
    assert (about["Filter"][0], about["Order"][0]) == ("none", "Oldest first")
    assert about["Exported by"][0] == "maya"
    assert about["Gross amount, KWD"][:2] == (12.5, 1)
    assert about["Gross amount, BHD"][0] == "999999999999999.999"


def test_times_are_those_of_the_zone() -> None:
    table = Table("t", [Column("at", "At", Kind.MOMENT)], ZoneInfo("Asia/Tokyo"))
    rows: list[list[Any]] = [[datetime(2026, 11, 1, 23, 30, tzinfo=UTC)], [None]]
    with exports.made() as file:
        exports.write(Format.CSV, file, table, rows)
        file.seek(0)
        assert file.read() == b'at\r\n2026-11-02T08:30:00.000+09:00\r\n""\r\n'


@pytest.mark.parametrize("format_", ["csv", "xlsx"])
def test_text_of_others_is_harmless_in_spreadsheets(fresh_books: Books, format_: str) -> None:
    put_hostile(fresh_books)
    person = fresh_books.person()

    data = fetched(person, format_)

    texts = [row["payment_provider"] or "" for row in READ[format_](data)]
    assert len(texts) == len(HOSTILE)
    for text in texts:
        assert not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "'=1+1" in texts
    assert "0012" in texts
    if format_ == "xlsx":
        book = openpyxl.load_workbook(io.BytesIO(data))
        cells = [cell for page in book for row in page.iter_rows() for cell in row]
        assert {cell.data_type for cell in cells if cell.value is not None} <= {"s", "n", "d", "inlineStr"}
        assert not [cell for cell in cells if cell.hyperlink or cell.data_type == "f"]
        assert max(len(str(cell.value)) for cell in cells) <= 32_767


def test_parquet_has_exact_types_and_text_as_it_is(fresh_books: Books) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    put_hostile(fresh_books)
    table = parquet.read_table(io.BytesIO(fetched(fresh_books.person(), "parquet")))

    assert str(table.schema.field("amount").type) == "decimal128(19, 3)"
    assert str(table.schema.field("created_at").type) == "timestamp[us, tz=UTC]"
    assert set(table.column("payment_provider").to_pylist()) == set(HOSTILE)


def test_no_personal_column_is_exported(books: Books) -> None:
    row = books.shop.one(
        "SELECT personal FROM payment_buyers WHERE payment_id = :id", id=books.payments["matched"]
    )
    mail = row.personal["contactDetails"]["email"]

    for format_ in ("csv", "parquet"):
        assert mail.encode() not in fetched(books.person(personal=True), format_)


def test_an_export_stays_within_the_instances_of_the_person(books: Books) -> None:
    person = books.person(reach=Reach(frozenset({books.other_instance_id})))

    rows = from_csv(fetched(person, "csv"))

    assert {row["instance_id"] for row in rows} == {str(books.other_instance_id)}
    assert person.get(f"/payments/export.csv?instance={books.instance_id}").status_code == 404


def test_who_exported_what_is_written_down_but_not_what_was_typed(books: Books) -> None:
    books.person(name="ida").get(
        "/payments/export.csv?currency=JPY&text=somebody@example.com&since=2026-01-01"
    )

    row = books.shop.rows("SELECT * FROM actions WHERE actor = 'ida' ORDER BY action_id DESC LIMIT 1")[0]
    assert (row.action, row.status) == ("payments.export_csv", 200)
    assert row.detail == {"currency": "JPY", "since": "2026-01-01"}


def test_what_cannot_be_read_or_is_too_much_is_refused_in_words(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = books.person()

    answer = person.get("/payments/export.csv?since=never")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/payments?since=never")
    assert "a filter cannot be read" in person.read("/payments")
    monkeypatch.setitem(exports.ROWS_MAX, Format.XLSX, 3)
    answer = person.get("/payments/export.xlsx")
    assert answer.status_code == 303
    page = person.read("/payments")
    assert "More than 3 payments fit" in page
    assert "1,048,576" in page
    assert person.get("/payments/export.xlsx?currency=JPY").status_code == 200
    assert person.get("/payments/export.pdf").status_code == 404


@pytest.mark.parametrize("format_", list(Format))
@pytest.mark.parametrize("rows_between", [1, 500])
def test_a_file_that_grows_too_large_is_given_up_and_nothing_is_left_of_it(
    books: Books, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format_: Format, rows_between: int
) -> None:
    if format_ not in exports.formats():
        pytest.skip("pyarrow is not installed")
    person = books.person()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(exports, "BYTES_MAX", 100)
    monkeypatch.setattr(exports, "_ROWS_BETWEEN", rows_between)

    answer = person.get(f"/payments/export.{format_}")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/payments")
    assert "The file would be larger than" in person.read("/payments")
    assert list(tmp_path.iterdir()) == []


# ZipFile writes once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("format_", list(Format))
def test_without_room_for_a_file_there_is_none(
    books: Books, monkeypatch: pytest.MonkeyPatch, format_: Format
) -> None:
    if format_ not in exports.formats():
        pytest.skip("pyarrow is not installed")
    person = books.person()
    monkeypatch.setattr(exports, "made", lambda: open("/dev/full", "w+b"))  # noqa: SIM115

    assert person.get(f"/payments/export.{format_}").status_code == 303
    assert "the file cannot be written here" in person.read("/payments")


@pytest.mark.parametrize("how", ["read", "closed", "forgotten"])
@pytest.mark.parametrize("path", ["/payments/export.csv", "/reports/{report}/csv?{span}"])
def test_slow_readers_of_files_leave_room_for_pages(
    books: Books, monkeypatch: pytest.MonkeyPatch, path: str, how: str
) -> None:
    today = books.shop.services.now().date()
    path = path.format(report="completeness", span=f"since={today}&until={today}")
    monkeypatch.setattr(exports, "SMALL_BYTES", 0)
    monkeypatch.setattr(exports, "_PART", 10)
    monkeypatch.setattr(doors, "WAIT_SECONDS", 0)
    settings = replace(books.shop.services.settings, web_threads=16)
    app = create_pages(replace(books.shop.services, settings=settings))
    application = app.wsgi_app
    app.wsgi_app = Doors(application, application, at_once=8)  # type: ignore[method-assign]
    person, other = books.person(app=app), books.person(app=app)

    slow = [one.get(path) for one in (person, other)]
    assert len(slow) == 16 // FILE_PART
    for one in slow:
        assert len(next(one.iter_encoded())) == 10
    refused = person.get(path)
    page = person.read("/account")
    if how == "read":
        assert all(one.data for one in slow)
    elif how == "closed":
        for one in slow:
            one.close()
    else:
        del one
        slow.clear()
        gc.collect()
    afterwards = person.get(path)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
    assert "Try again in a" in refused.text
    assert "Sign out" in page
    assert afterwards.status_code == 200
    afterwards.close()


def test_one_account_leaves_places_of_files_to_others() -> None:
    one, other = uuid4(), uuid4()
    places = Places(4)

    held = [places.take(one), places.take(one)]
    with pytest.raises(Busy):
        places.take(one)
    places.take(other).leave()
    held[0].leave()
    held[0].leave()

    held[0] = places.take(one)
    with pytest.raises(Busy):
        places.take(one)
    assert [places.take(other) for _ in range(2)]
    with pytest.raises(Busy):
        places.take(uuid4())


def test_small_files_hold_nothing_while_they_are_read(books: Books) -> None:
    person = books.person()

    kept = [person.get("/payments/export.csv") for _ in range(20)]

    assert {one.status_code for one in kept} == {200}


def test_a_file_that_could_not_be_made_leaves_its_place(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = books.person()
    monkeypatch.setitem(exports.ROWS_MAX, Format.CSV, 1)

    answers = [person.get("/payments/export.csv").status_code for _ in range(20)]

    assert set(answers) == {303}


@pytest.mark.parametrize("path", ["/payments/export.csv", "/reports/completeness/csv?since={0}&until={0}"])
def test_a_file_that_could_not_be_answered_leaves_its_place(
    books: Books, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    person, path = books.person(), path.format(books.shop.services.now().date())

    with monkeypatch.context() as patched:
        patched.setattr(exports, "SMALL_BYTES", None)  # nothing compares with it
        answers = [person.get(path).status_code for _ in range(20)]

    assert set(answers) == {500}
    assert person.get(path).status_code == 200


def test_without_pyarrow_there_is_no_parquet(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None)

    assert Format.PARQUET not in exports.formats()
    assert "export.parquet" not in books.person().read("/payments")


class Endless:
    """Rows that nobody holds: as many as are asked for."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __iter__(self) -> Any:
        at = datetime(2026, 11, 1, tzinfo=UTC)
        for number in range(self._number):
            yield (at, UUID(int=number), Decimal(number) / 1000, "KWD", f"provider {number % 7}", number)


@pytest.mark.parametrize("format_", list(Format))
def test_memory_stays_flat_however_many_rows_there_are(format_: Format) -> None:
    if format_ not in exports.formats():
        pytest.skip("pyarrow is not installed")
    kinds = (Kind.MOMENT, Kind.ID, Kind.AMOUNT, Kind.TEXT, Kind.TEXT, Kind.WHOLE)
    names = ("at", "id", "amount", "currency", "provider", "number")
    table = Table("t", [Column(*one) for one in zip(names, names, kinds, strict=True)], ZoneInfo("UTC"))
    peaks = []

    # Two groups of rows of Parquet, and what writers make once, are within the first.
    few, many = (22_000, 44_000) if format_ is Format.PARQUET else (2_000, 6_000)
    for rows in (200, few, many):
        with exports.made() as file:
            tracemalloc.start()
            exports.write(format_, file, table, Endless(rows))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert file.seek(0, io.SEEK_END) > rows

    assert peaks[2] < peaks[1] * 1.3


def test_the_books_are_read_in_parts(fresh_books: Books) -> None:
    """10,000 payments, end to end: the whole way holds no more than some batches of them."""
    put(fresh_books, 10_000)
    person = fresh_books.person()
    fetched(person, "csv", "currency=EUR")  # whatever is made once
    tracemalloc.start()

    answer = person.get("/payments/export.csv", buffered=False)
    size = sum(len(part) for part in answer.iter_encoded())
    answer.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert size > 2_000_000
    assert peak < 12_000_000
