"""`processor discrepancies` and `processor rules`, from a difference at Wix to its end."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor.domain.discrepancy import RESOLVING, WRITING_OFF, Difference, DiscrepancyType
from processor.store import discrepancies, runs
from tests.commands.running import Run, told
from tests.shop import Shop


def differing(shop: Shop, by: str = "5.00") -> tuple[UUID, Any]:
    """A link whose total Wix shows too high: its id, and the fault that makes it so."""
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    fault = shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": by})
    look(shop, link_id)
    return link_id, fault


def look(shop: Shop, link_id: UUID) -> None:
    """A check, and another once everything is settled."""
    for _ in range(2):
        shop.request(link_id)
        shop.check()
        shop.pass_time()


def in_force(run: Run, file: Path) -> None:
    run("rules", "propose", file, "--as", "joan")
    [newest, *_] = json.loads(run("rules", "list", "--json").stdout)
    run("rules", "approve", newest["version"], "--as", "grace")


def shown(run: Run, *more: object) -> Any:
    return json.loads(run("discrepancies", "list", "--json", *more).stdout)


def the_one(run: Run, *more: object) -> str:
    [one] = shown(run, *more)
    return str(one["discrepancy_id"])


def test_a_difference_is_listed_investigated_and_written_off_by_two(run: Run, shop: Shop) -> None:
    link_id, _ = differing(shop)
    listed = run("discrepancies", "list").stdout
    one = the_one(run)
    assert one in listed
    assert "total_differs" in listed
    assert "5.00" in listed

    assert "investigating" in run("discrepancies", "investigate", one, "--as", "ada").stdout
    run("discrepancies", "comment", one, "asked the merchant", "--as", "ada")
    run("discrepancies", "evidence", one, "https://example.com/t/7", "--as", "ada")
    proposed = run(
        "discrepancies", "write-off", one, "--reason", "fee", "--amount", "5", "--as", "ada"
    ).stdout
    assert f"processor discrepancies approve {one}" in proposed
    alone = run("discrepancies", "approve", one, "--as", "ada", code=2)
    assert "another person must" in alone.stderr
    waiting = json.loads(run("discrepancies", "write-offs", "--status", "proposed", "--json").stdout)
    assert [(off["amount"], off["currency"], off["proposed_by"]) for off in waiting] == [
        ("5.000", "USD", "ada")
    ]
    assert "written off" in run("discrepancies", "approve", one, "--as", "grace").stdout

    assert shown(run) == []
    assert "1 payment link is still settling" in run("reconcile", "--link", link_id, "--here").stdout
    shop.pass_time()
    reconciled = run("reconcile", "--link", link_id, "--here").stdout
    accepted = "5.00 USD written off (total_differs)"
    assert f"nothing is open; accepted: {accepted}" in reconciled
    [line] = [line for line in reconciled.splitlines() if str(link_id) in line]
    assert line.endswith(accepted)
    assert "the books equal" not in reconciled
    assert "matched" not in line
    document = json.loads(run("reconcile", "--link", link_id, "--here", "--json").stdout)
    [off] = document["accepted"]
    assert (off["how"], off["type"], off["amount"], off["currency"]) == (
        *("written_off", "total_differs", "5.000", "USD"),
    )
    assert accepted in run("links", "show", link_id).stdout
    assert json.loads(run("links", "show", link_id, "--json").stdout)["accepted"] == [off]
    page = run("discrepancies", "show", one).stdout
    assert "The total Wix shows on the payment link is not the sum" in page
    assert "look for refunds" in page
    for said in ("asked the merchant", "https://example.com/t/7", "write_off_approved", "grace", "15.00 USD"):
        assert said in page
    document = json.loads(run("discrepancies", "show", one, "--json").stdout)
    assert [step["kind"] for step in document["steps"]] == [
        *(
            "opened",
            "investigated",
            "commented",
            "evidence_added",
            "write_off_proposed",
            "write_off_approved",
        ),
    ]
    assert document["discrepancy"]["aging"] == "under 1 hour"


@pytest.mark.parametrize(
    ("transaction", "creation", "expected"),
    [(10, 5, "8 to 30 days"), (None, 5, "4 to 7 days"), (None, None, "under 1 hour")],
)
def test_age_counts_from_the_transaction_else_the_creation_else_when_it_was_first_seen(
    run: Run, shop: Shop, transaction: int | None, creation: int | None, expected: str
) -> None:
    differing(shop)  # of the link as a whole: it has no transaction
    now = shop.services.now()
    payment = shop.one("SELECT payment_id, payment_link_id FROM payments")
    with shop.services.database.begin() as connection:
        connection.execute(
            text("UPDATE payments SET transaction_at = :transaction, created_at = :creation"),
            {
                "transaction": transaction and now - timedelta(days=transaction),
                "creation": creation and now - timedelta(days=creation),
            },
        )
        found = Difference(
            type=DiscrepancyType.MISSING_AT_WIX,
            payment_link_id=payment.payment_link_id,
            payment_id=payment.payment_id,
        )
        run_id = runs.start(connection, shop.instance_id, "check", now)
        discrepancies.note(connection, shop.instance_id, [found], run_id=run_id, now=now)

    listed = shown(run)

    assert {one["type"]: one["aging"] for one in listed} == {
        "missing_at_wix": expected,
        "total_differs": "under 1 hour",
    }
    assert [one["aged_from"] for one in listed] == sorted(one["aged_from"] for one in listed)
    assert expected in run("discrepancies", "list").stdout
    one = next(one["discrepancy_id"] for one in listed if one["type"] == "missing_at_wix")
    assert expected in run("discrepancies", "show", one).stdout
    assert told(run("discrepancies", "show", one, "--json"))["discrepancy"]["aging"] == expected


def test_what_is_resolved_and_still_differs_is_open_again(run: Run, shop: Shop) -> None:
    link_id, fault = differing(shop)
    one = the_one(run)

    run("discrepancies", "resolve", one, "--reason", "corrected_at_wix", "--as", "ada")
    assert shown(run) == []
    assert [found["state"] for found in shown(run, "--all")] == ["resolved"]
    look(shop, link_id)

    [found] = shown(run)
    assert (found["discrepancy_id"], found["state"], found["times_reopened"]) == (one, "open", 1)
    shop.sandbox.faults.remove(fault["id"])
    shop.pass_time(timedelta(days=2))
    look(shop, link_id)
    [found] = shown(run, "--state", "resolved")
    assert (found["reason"], found["discrepancy_id"]) == ("caught_up", one)


def test_rules_tolerate_limit_and_are_kept_by_version(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert "built in" in run("rules", "show").stdout
    assert "built-in rules" in run("rules", "list").stdout
    file = tmp_path / "rules.json"
    file.write_text(
        json.dumps(
            {
                "tolerances": [
                    {"id": "small", "type": "total_differs", "currency": "USD", "amount": 5.00, "days": 30}
                ],
                "write_off_limits": {"USD": "6"},
            }
        )
    )
    assert "can be read" in run("rules", "propose", file, "--dry-run").stdout
    assert "built in" in run("rules", "show").stdout
    proposed = run("rules", "propose", file, "--as", "ada", "--comment", "as agreed").stdout
    assert "processor rules approve 1 --as NAME" in proposed
    assert "built in" in run("rules", "show").stdout, "one person puts nothing in force"
    assert "another person must" in run("rules", "approve", "1", "--as", "Ada", code=2).stderr
    assert "version 1 is in force" in run("rules", "approve", "1", "--as", "grace").stdout
    assert "approved by grace" in run("rules", "show").stdout
    assert "approved it already" in run("rules", "approve", "1", "--as", "joan", code=2).stderr

    differing(shop, by="5.00")
    differing(shop, by="5.01")

    [open_] = shown(run)
    assert open_["amount_at_risk"] == "5.010"
    [tolerated] = shown(run, "--state", "resolved")
    assert (tolerated["reason"], tolerated["rule_set_version"]) == ("within_tolerance", 1)
    assert tolerated["rules"] == "small (5.00 USD, 30 days)"

    file.write_text(json.dumps({"write_off_limits": {"USD": "5"}}))
    in_force(run, file)
    refused = run(
        "discrepancies", "write-off", open_["discrepancy_id"], "--reason", "fee", "--as", "ada", code=2
    )
    assert "at most 5.00 USD may be written off of one discrepancy; 5.01 USD are at risk" in refused.stderr
    versions = json.loads(run("rules", "list", "--json").stdout)
    assert [(one["version"], one["created_by"], one["approved_by"]) for one in versions] == [
        (2, "joan", "grace"),
        (1, "ada", "grace"),
    ]
    first = json.loads(run("rules", "show", "--version", "1", "--json").stdout)
    assert Decimal(first["rules"]["tolerances"][0]["amount"]) == 5
    assert "no such version" in run("rules", "show", "--version", "3", code=2).stderr


def test_what_wix_does_not_document_is_informational_until_it_is_assumed(
    run: Run, shop: Shop, tmp_path: Path
) -> None:
    link_id, _ = differing(shop, by="-5.00")
    assert [one["severity"] for one in shown(run)] == ["informational"]
    file = tmp_path / "rules.json"
    file.write_text('{"assumptions": {"total_falls_on_refund": false}}')
    in_force(run, file)

    look(shop, link_id)

    [one] = shown(run)
    assert one["severity"] == "error"
    steps = json.loads(run("discrepancies", "show", one["discrepancy_id"], "--json").stdout)["steps"]
    assert [step["kind"] for step in steps] == ["opened", "changed"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"tolerance": []}',
        "\xff",
        "[" * 100_000,
        "1" * 5_000,
        '{"assumptions": {}, "assumptions": {}}',
    ],
    ids=lambda content: ascii(content)[:20],
)
def test_rules_that_cannot_be_read_are_refused_and_change_nothing(
    run: Run, shop: Shop, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "rules.json"
    file.write_bytes(content.encode("latin-1"))

    refused = run("rules", "propose", file, "--as", "ada", code=2)

    assert "rules" in refused.stderr
    assert "built in" in run("rules", "show").stdout


def test_rules_are_withdrawn_by_who_proposed_them_and_rejected_by_another(
    run: Run, shop: Shop, tmp_path: Path
) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"write_off_limits": {"USD": "1.00"}}))
    for _ in range(2):
        run("rules", "propose", file, "--as", "ada")

    assert "only ada" in run("rules", "withdraw", "1", "--as", "grace", code=2).stderr
    assert "version 1 is withdrawn" in run("rules", "withdraw", "1", "--as", "ada").stdout
    assert "withdrawn it" in run("rules", "approve", "1", "--as", "grace", code=2).stderr
    run("rules", "reject", "2", "--as", "grace", code=2)
    assert "withdraw them" in run("rules", "reject", "2", "--as", "ada", "--reason", "no", code=2).stderr
    assert "version 2 is rejected" in run("rules", "reject", "2", "--as", "grace", "--reason", "no").stdout
    assert "no such version" in run("rules", "withdraw", "3", "--as", "ada", code=2).stderr

    assert "rejected by grace" in run("rules", "show", "--version", "2").stdout
    assert "ada (withdrawn)" in run("rules", "list").stdout
    assert "built in" in run("rules", "show").stdout


def test_an_older_proposal_does_not_replace_newer_rules(run: Run, shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text("{}")
    run("rules", "propose", file, "--as", "ada")
    in_force(run, file)

    refused = run("rules", "approve", "1", "--as", "grace", code=2)

    assert "version 2 is in force" in refused.stderr
    assert "no such version" in run("rules", "approve", "3", "--as", "grace", code=2).stderr
    assert "nobody approved it" in run("rules", "show", "--version", "1").stdout


def test_rules_of_another_release_stop_no_check_and_write_nothing_off(run: Run, shop: Shop) -> None:
    with shop.services.database.begin() as connection:
        for statement in (
            "INSERT INTO rule_sets (document, created_by, created_at) VALUES ('{\"moon\": 1}', 'ada', now())",
            "INSERT INTO rule_set_approvals VALUES (1, 'ada', 'grace', now())",
        ):
            connection.execute(text(statement))

    differing(shop)
    one = the_one(run)

    run("discrepancies", "comment", one, "still to be said", "--as", "ada")
    refused = run("discrepancies", "write-off", one, "--reason", "fee", "--as", "ada", code=2)
    assert "this one cannot read what may be written off" in refused.stderr


def test_what_is_reopened_is_checked_again(run: Run, shop: Shop) -> None:
    link_id, fault = differing(shop)
    one = the_one(run)
    shop.sandbox.faults.remove(fault["id"])
    shop.pass_time(timedelta(days=2))
    look(shop, link_id)

    run("discrepancies", "reopen", one, "was it really over?", "--as", "ada")
    assert [found["state"] for found in shown(run)] == ["open"]
    shop.check()

    assert shown(run) == []


def test_what_is_not_there_is_said(run: Run, shop: Shop) -> None:
    assert "no such discrepancy" in run("discrepancies", "list").stdout
    assert "no such write-off" in run("discrepancies", "write-offs").stdout
    assert "no such discrepancy" in run("discrepancies", "show", uuid4(), code=2).stderr
    assert "no such discrepancy" in run("discrepancies", "comment", uuid4(), "x", "--as", "a", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("write-off", "--reason", "fee", "--amount", "many"), "no amount"),
        (("write-off", "--reason", "caught_up"), "Invalid value"),
        (("resolve", "--reason", "fee"), "Invalid value"),
        (("resolve",), "--reason"),
        (("investigate", "--as", "automation"), "under a person's name"),
        (("investigate", "--as", ""), "a name is"),
        (("evidence", "file:///etc/passwd"), "https://"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_decided_is_refused(
    run: Run, shop: Shop, arguments: tuple[str, ...], why: str
) -> None:
    differing(shop)
    one = the_one(run)

    refused = run("discrepancies", arguments[0], one, *arguments[1:], code=2)

    assert why in refused.stderr
    assert [
        step["kind"] for step in json.loads(run("discrepancies", "show", one, "--json").stdout)["steps"]
    ] == ["opened"]


def test_the_reasons_are_offered(run: Run) -> None:
    resolve = "".join(run("discrepancies", "resolve", "--help").stdout.split())
    write_off = "".join(run("discrepancies", "write-off", "--help").stdout.split())

    assert all(reason in resolve for reason in RESOLVING)
    assert all(reason in write_off for reason in WRITING_OFF)
