"""`processor runs` shows what a check decided, and proves that it comes out the same again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.commands.running import Run, told
from tests.shop import Shop


@pytest.fixture
def run_id(shop: Shop) -> UUID:
    """Of a check that found one payment alike and another edited."""
    fine, edited = shop.link("12.50", "EUR"), shop.link("3.00", "EUR")
    shop.pay(fine)
    [payment_id] = shop.pay(edited)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "amount_edited", "amount": "4.00", "paymentId": str(payment_id)})
    shop.check()
    found: UUID = shop.one("SELECT run_id FROM reconciliation_runs WHERE kind = 'check'").run_id
    return found


def change(shop: Shop, sql: str) -> None:
    with shop.services.database.begin() as connection:
        connection.execute(text("ALTER TABLE run_evidence DISABLE TRIGGER USER"))
        connection.execute(text(sql))


def test_runs_are_listed_and_shown(run: Run, shop: Shop, run_id: UUID) -> None:
    shop.sweep()

    [sweep, check] = told(run("runs", "list", "--json"))
    shown = run("runs", "show", run_id).stdout

    assert (check["run_id"], check["kind"], check["actor"]) == (str(run_id), "check", "automation")
    assert sweep["result_digest"] is None
    assert told(run("runs", "show", run_id, "--json")) == check
    assert check["result_digest"] in shown
    assert "15.50" in shown
    assert "16.50" in shown
    assert told(run("runs", "list", "--kind", "sweep", "--status", "succeeded", "--json")) == [sweep]
    assert told(run("runs", "list", "--instance", uuid4(), "--json")) == []
    assert str(run_id) in run("runs", "list", "--since", "2020-01-01", "--limit", 9).stdout


def test_a_run_is_exported_for_programs_spreadsheets_and_people(run: Run, shop: Shop, run_id: UUID) -> None:
    exported = run("runs", "export", run_id, "--json").stdout_bytes
    lines = list(csv.DictReader(io.StringIO(run("runs", "export", run_id, "--csv").stdout)))
    people = run("runs", "export", run_id).stdout

    body, _, last = exported.removesuffix(b"\n").rpartition(b"\n")
    assert json.loads(last) == {"record": "digest", "sha256": hashlib.sha256(body + b"\n").hexdigest()}
    assert [line["record"] for line in lines].count("link") == 2
    [difference] = [line for line in lines if line["type"] == "amount_differs"]
    assert (difference["booked"], difference["wix"]) == ("3.00 EUR", "4.00 EUR")
    assert (difference["difference"], difference["amount_at_risk"]) == ("'+1.00 EUR", "1.000")
    [control] = [line for line in lines if line["record"] == "control"]
    assert (control["booked"], control["wix"]) == ("15.500 in 2", "16.500 in 2")
    assert "amount_differs" in people
    assert json.loads(last)["sha256"] in people
    assert run("runs", "export", run_id, "--json").stdout_bytes == exported
    assert "choose --json or --csv" in run("runs", "export", run_id, "--json", "--csv", code=2).stderr


def test_a_run_is_the_same_again(run: Run, run_id: UUID) -> None:
    said = run("runs", "rerun", run_id).stdout
    proof = told(run("runs", "rerun", run_id, "--json"))

    assert "result: the same" in said
    assert "history: the same" in said
    assert (proof["is_result_same"], proof["is_history_same"]) == (True, True)
    assert proof["first_difference"] is None


def test_what_was_changed_in_the_evidence_is_said_with_the_first_line(
    run: Run, shop: Shop, run_id: UUID
) -> None:
    change(shop, "UPDATE run_evidence SET lines = replace(lines, '4.00 EUR', '3.00 EUR')")

    said = run("runs", "rerun", run_id, code=1).stdout
    exported = run("runs", "export", run_id, "--json", code=1)

    assert "result: differs from line" in said
    assert "4.00 EUR" in said
    assert "changed since" in exported.stderr
    line = told(run("runs", "rerun", run_id, "--json", code=1))["first_difference"]
    assert line["kept"] != line["again"]


def test_evidence_and_lines_changed_alike_do_not_have_the_digest(run: Run, shop: Shop, run_id: UUID) -> None:
    change(shop, "UPDATE reconciliation_runs SET result_digest = sha256('other')")

    assert "another digest" in run("runs", "rerun", run_id, code=1).stdout


def test_what_was_changed_in_history_is_said(run: Run, shop: Shop, run_id: UUID) -> None:
    change(shop, "UPDATE payments SET amount = 9 WHERE amount = 12.5")

    said = run("runs", "rerun", run_id, code=1).stdout

    assert "result: the same" in said
    assert "history: changed since" in said
    assert "12.50 EUR in 1 were booked, 9.00 EUR in 1 are told of" in said


def test_what_has_no_export_says_why(run: Run, shop: Shop) -> None:
    shop.sweep()
    [sweep] = told(run("runs", "list", "--json"))

    for command in ("export", "rerun"):
        assert "a sweep decides nothing" in run("runs", command, sweep["run_id"], code=2).stderr
        assert "no such run" in run("runs", command, uuid4(), code=2).stderr
    assert "no such run" in run("runs", "show", uuid4(), code=2).stderr


def test_unreadable_evidence_is_said(run: Run, shop: Shop, run_id: UUID) -> None:
    change(shop, 'UPDATE run_evidence SET document = \'{"payments": {"at": 7}}\'')

    said = run("runs", "rerun", run_id, code=1).stdout

    assert "result: cannot be decided again" in said
    assert "history: not compared" in said
