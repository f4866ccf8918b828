"""A check run again comes to the same, byte for byte, whatever happened since; and what was changed is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from processor import decisions, reruns
from processor.domain import rerun
from processor.domain.discrepancy import Reason, Resolve
from processor.domain.rerun import Sum
from processor.errors import NotAllowed
from processor.jobs import concluding
from processor.reruns import Proof
from processor.store import report_views, rules, runs
from tests.shop import SETTLING, Shop, a_shop


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as built:
        yield built


def last_run(shop: Shop) -> UUID:
    run_id: UUID = shop.one(
        "SELECT run_id FROM reconciliation_runs WHERE kind = 'check' ORDER BY started_at DESC LIMIT 1"
    ).run_id
    return run_id


def all_runs(shop: Shop) -> list[UUID]:
    return [
        row.run_id
        for row in shop.rows(
            "SELECT run_id FROM reconciliation_runs WHERE kind = 'check' ORDER BY started_at"
        )
    ]


def prove(shop: Shop, run_id: UUID) -> Proof:
    with report_views.reading(shop.services.database, "UTC") as connection:
        return reruns.prove(connection, run_id)


def export(shop: Shop, run_id: UUID) -> list[str]:
    with report_views.reading(shop.services.database, "UTC") as connection:
        return list(reruns.exported(connection, reruns.reproducible(connection, run_id)))


def records(lines: list[str], kind: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, lines) if one["record"] == kind]


def assert_same(shop: Shop, run_id: UUID) -> None:
    proof = prove(shop, run_id)
    assert (proof.differing, proof.unreadable, proof.moved, proof.contradicted) == (None, None, (), ())
    assert proof.is_result_same
    assert proof.is_history_same


def test_a_run_is_exported_with_what_it_decided_by_and_its_totals(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.check()

    lines = export(shop, last_run(shop))

    [run], [link], [control], [digest] = (records(lines, one) for one in ("run", "link", "control", "digest"))
    assert (run["instance_id"], run["kind"], run["actor"]) == (str(shop.instance_id), "check", "automation")
    assert (run["rule_set_version"], run["settling_seconds"]) == (None, SETTLING.total_seconds())
    assert (link["payment_link_id"], link["is_settled"]) == (str(link_id), True)
    assert link["booked"] == link["listed"] == {"USD": [1, "10.000"]}
    sums = {"USD": {"booked": "10.000", "booked_count": 1, "wix": "10.000", "wix_count": 1}}
    assert (control["links"], control["payments"]["matched"], control["sums"]) == (1, 1, sums)
    row = shop.one("SELECT * FROM reconciliation_runs WHERE run_id = :id", id=last_run(shop))
    assert (control["wix_requests"], control["lines"], row.sums) == (row.wix_requests, len(lines) - 2, sums)
    assert control["cutoff_at"] == row.cutoff_at.isoformat().replace("+00:00", "Z")
    before = "".join(f"{one}\n" for one in lines[:-1])
    assert hashlib.sha256(before.encode()).hexdigest() == digest["sha256"] == row.result_digest.hex()


def test_a_run_comes_out_the_same_when_everything_has_moved_on(shop: Shop) -> None:
    quiet, edited, missed = shop.link(), shop.link(), shop.link()
    shop.pay(quiet)
    [payment_id] = shop.pay(edited)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "amount_edited", "amount": "99.00", "paymentId": str(payment_id)})
    shop.pay(missed)
    shop.request(missed)
    shop.check()
    shop.pass_time()
    shop.check()
    before = {run_id: export(shop, run_id) for run_id in all_runs(shop)}
    assert len(before) > 1
    assert any(records(lines, "difference") for lines in before.values())

    discrepancy = shop.one("SELECT discrepancy_id FROM discrepancies WHERE type = 'amount_differs'")
    decisions.decide(
        *(shop.services, discrepancy.discrepancy_id, Resolve(Reason.EXPLAINED, "both are right")),
        actor="ada",
    )
    put_in_force(shop, {"tolerances": [{"id": "all", "type": "amount_differs", "percent": "100"}]})
    shop.pay(quiet)
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.pass_time(timedelta(days=2))
    shop.deliver()
    shop.request(quiet, edited, missed)
    shop.check()
    shop.pass_time()
    shop.check()

    for run_id, lines in before.items():
        assert export(shop, run_id) == lines
    for run_id in all_runs(shop):
        assert_same(shop, run_id)


def put_in_force(shop: Shop, document: Any) -> None:
    version = decisions.propose_rules(shop.services, document, actor="ada", comment=None)
    decisions.approve_rules(shop.services, version, actor="grace")


def test_what_rules_tolerate_is_tolerated_again(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    put_in_force(
        shop, {"tolerances": [{"id": "days", "type": "amount_differs", "percent": "100", "days": "1"}]}
    )
    shop.sandbox.faults.add({"kind": "amount_edited", "amount": "10.01", "paymentId": str(payment_id)})
    shop.check()
    tolerating = last_run(shop)
    shop.pass_time(timedelta(days=2))
    shop.request(link_id)
    shop.check()

    [first] = records(export(shop, tolerating), "difference")
    [later] = [
        one for one in records(export(shop, last_run(shop)), "difference") if one["type"] == "amount_differs"
    ]

    assert first["tolerated"].startswith("days (100%, 1 days)")
    assert later["tolerated"] is None, "it has been open for longer than the rule allows"
    for run_id in all_runs(shop):
        assert_same(shop, run_id)


def test_a_check_in_parts_comes_out_the_same(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concluding, "PART_PAYMENTS", 2)
    monkeypatch.setattr(rerun, "ITEMS_MAX", 2)
    links = sorted(shop.link() for _ in range(3))
    for link_id in links:
        for _ in range(4):
            shop.pay(link_id)
    shop.deliver()
    payments = [row.payment_id for row in shop.rows("SELECT payment_id FROM payments ORDER BY 1")]
    for payment_id in payments[::2]:
        shop.sandbox.faults.add({"kind": "amount_edited", "amount": "99.00", "paymentId": str(payment_id)})
    shop.check()
    shop.pass_time()
    shop.request(*links)
    shop.check()

    run_id = last_run(shop)

    assert shop.one("SELECT max(part) AS parts FROM run_evidence WHERE run_id = :id", id=run_id).parts > 6
    assert len(records(export(shop, run_id), "difference")) >= 6
    for one in all_runs(shop):
        assert_same(shop, one)


def test_links_missing_or_unreadable_at_wix_come_out_the_same(shop: Shop) -> None:
    gone, odd, odder = shop.link(), shop.link(), shop.link()
    shop.pay(gone)
    [payment_id] = shop.pay(odd)
    shop.pay(odder)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "link_deleted", "linkId": str(gone)})
    for kind, id_, name in (("payment", payment_id, "amount"), ("link", odder, "totalReceived")):
        document = shop.sandbox.documents.get(kind, str(id_))
        assert document is not None
        document["entity"][name] = 10.0
        shop.sandbox.documents.put(kind, str(id_), document)
    shop.check()
    shop.pass_time()
    shop.check()

    assert shop.open() == ["link_missing", "unreadable_at_wix", "unreadable_at_wix"]
    for run_id in all_runs(shop):
        assert_same(shop, run_id)


@pytest.mark.parametrize(
    ("change", "record"),
    [
        ("document = jsonb_set(document, '{described,books,totals,sums,USD}', '\"11.000\"')", "evidence"),
        ("document = jsonb_set(document, '{described,attempt}', '7')", "evidence"),
        ("lines = replace(lines, '10.000', '11.000')", "same"),
        ("payment_link_id = gen_random_uuid()", "evidence"),
    ],
)
def test_evidence_that_was_changed_is_found(shop: Shop, change: str, record: str) -> None:
    shop.pay(shop.link())
    shop.deliver()
    shop.check()
    run_id = last_run(shop)
    with shop.services.database.begin() as connection:
        connection.execute(text("ALTER TABLE run_evidence DISABLE TRIGGER USER"))
        connection.execute(text(f"UPDATE run_evidence SET {change}"))

    proof = prove(shop, run_id)

    assert not proof.is_result_same
    if proof.unreadable is None:
        assert proof.differing is not None
        _, line = proof.differing
        assert json.loads(line.kept or line.again or "")["record"] == record


def test_evidence_that_was_deleted_is_found(shop: Shop) -> None:
    shop.pay(shop.link())
    shop.deliver()
    shop.check()
    run_id = last_run(shop)
    with shop.services.database.begin() as connection:
        connection.execute(text("ALTER TABLE run_evidence DISABLE TRIGGER USER"))
        connection.execute(text("DELETE FROM run_evidence"))

    proof = prove(shop, run_id)

    assert not proof.is_result_same
    assert proof.differing is not None
    assert json.loads(str(proof.differing[1].kept))["record"] == "control"
    with pytest.raises(reruns.Changed, match="changed since"):
        export(shop, run_id)


def test_history_that_was_changed_is_found(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.check()
    run_id = last_run(shop)
    shop.pass_time(timedelta(hours=1))
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payments SET amount = 7"))

    proof = prove(shop, run_id)

    assert proof.is_result_same, "its evidence says what was decided on"
    [moved] = proof.moved
    assert (moved.payment_link_id, moved.currency) == (link_id, "USD")
    assert (moved.kept, moved.rebuilt) == (Sum(1, Decimal(10)), Sum(1, Decimal(7)))


def test_a_version_that_was_changed_is_found_though_the_books_have_moved_on(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.pass_time(timedelta(hours=1))
    shop.request(link_id)
    shop.check()
    run_id = last_run(shop)
    shop.pass_time(timedelta(hours=1))
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.deliver()
    assert_same(shop, run_id)
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payment_versions SET amount = 7 WHERE verdict = 'new'"))

    proof = prove(shop, run_id)

    assert [one.rebuilt.amount for one in proof.moved] == [7]


def test_a_booked_payment_that_is_not_as_it_was_told_is_found(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))
    shop.deliver()
    shop.check()
    run_id = last_run(shop)
    assert_same(shop, run_id)
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payments SET method = 'CASH'"))

    proof = prove(shop, run_id)

    assert proof.moved == ()
    assert [one.payment_id for one in proof.contradicted] == [payment_id]


def test_a_payment_told_about_the_cut_off_counts_where_it_was_read(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.check()
    run_id = last_run(shop)

    shop.pay(link_id)
    shop.deliver()  # within the five minutes in which its moment says nothing

    assert_same(shop, run_id)
    assert shop.one("SELECT sum(amount) AS amount FROM payments").amount == 20


def test_what_did_not_succeed_or_decides_nothing_has_no_export(shop: Shop) -> None:
    shop.deliver()
    shop.sweep()
    sweep = shop.one("SELECT run_id FROM reconciliation_runs WHERE kind = 'sweep'").run_id
    with shop.services.database.begin() as connection:
        failed = runs.start(connection, shop.instance_id, "check", shop.services.now())
        running = runs.start(connection, shop.instance_id, "check", shop.services.now())
        runs.finish(connection, failed, runs.Counts(), {}, shop.services.now(), failed="WixUnavailable")
        old = runs.start(connection, shop.instance_id, "check", shop.services.now())
        runs.finish(connection, old, runs.Counts(), {}, shop.services.now())

    for run_id, why in {
        sweep: "a sweep decides nothing",
        failed: "it failed: WixUnavailable",
        running: "it has not ended yet",
        old: "an older release",
        uuid4(): "no such run",
    }.items():
        with pytest.raises(NotAllowed, match=why):
            prove(shop, run_id)


def test_a_check_that_fails_leaves_no_result(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.pay(shop.link())
    shop.deliver()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(concluding, "_keep", fail)
    with pytest.raises(RuntimeError):
        shop.check()

    run = shop.one("SELECT status, result_digest, cutoff_at FROM reconciliation_runs WHERE kind = 'check'")
    assert tuple(run) == ("failed", None, None)
    assert shop.rows("SELECT FROM run_evidence") == []


def test_nothing_of_a_buyer_is_in_the_evidence(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)  # nobody tells us, so all of it is a difference
    shop.request(link_id)
    shop.deliver(only=lambda event: event.seen is None)
    shop.check()
    shop.pass_time()
    shop.check()

    told = "".join(f"{row.document} {row.lines}" for row in shop.rows("SELECT * FROM run_evidence")).lower()
    people = shop.rows("SELECT personal FROM payment_buyers WHERE personal IS NOT NULL")

    assert people, "there was something to keep out"
    assert "example.com" not in told
    assert "contact" not in told
    assert "thing" not in told, "a link's title may name a buyer"


def test_evidence_is_only_added(shop: Shop) -> None:
    shop.pay(shop.link())
    shop.deliver()
    shop.check()

    for statement in (
        "UPDATE run_evidence SET part = 9",
        "DELETE FROM run_evidence",
        "TRUNCATE run_evidence",
    ):
        with pytest.raises(Exception, match="append-only"), shop.services.database.begin() as connection:
            connection.execute(text(statement))


def test_rules_that_cannot_be_read_decide_as_the_built_in_ones(shop: Shop) -> None:
    with shop.services.database.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO rule_sets (document, created_by, created_at)
                VALUES ('{"of_tomorrow": 1}', 'ada', now())""")
        )
        version = connection.execute(text("SELECT max(version) FROM rule_sets")).scalar_one()
        rules.approve(connection, version, approved_by="grace", now=shop.services.now())
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "amount_edited", "amount": "99.00", "paymentId": str(payment_id)})

    shop.check()

    [run] = records(export(shop, last_run(shop)), "run")
    assert run["rule_set_version"] is None
    assert_same(shop, last_run(shop))
