"""Checks and sweeps against a sandbox: what is recovered, what is raised, what dies and comes back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from processor import clock, jobs, wiring
from processor.config import Settings
from processor.domain.event import Event, Kind
from processor.domain.payment import Payment, SeenPayment
from processor.domain.reconciliation import Pair
from processor.domain.rules import Assumptions, RuleSet
from processor.errors import WixNotFound, WixUnauthorized
from processor.jobs import asking, checking, concluding, sweeping
from processor.jobs.common import Beat
from processor.sandbox.seed import Volume, load
from processor.store import checks, rules, staging, sweeps
from processor.wix import wire
from tests.shop import SETTLING, Shop, a_shop


@pytest.fixture
def shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    with a_shop(database_url, redis_url) as built:
        yield built


def test_what_a_webhook_told_is_matched_with_wix(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()

    shop.check()

    payment = shop.one("SELECT match_state, amount, first_origin FROM payments")
    assert (payment.match_state, payment.amount, payment.first_origin) == ("matched", Decimal(10), "webhook")
    link = shop.one("SELECT status, payment_count, total_amount, title FROM payment_links")
    assert (link.status, link.payment_count, link.total_amount) == ("ACTIVE", 1, Decimal(10))
    run = shop.one("SELECT * FROM reconciliation_runs WHERE link_count > 0")
    assert (run.status, run.kind, run.matched) == ("succeeded", "check", 1)
    assert run.sums == {"USD": {"booked": "10.000", "booked_count": 1, "wix": "10.000", "wix_count": 1}}
    assert run.wix_requests > 0
    assert shop.open() == []


@pytest.mark.fact("D18", "D11")
def test_a_missed_payment_is_found_by_the_sweep_and_booked_by_the_check_once_it_is_old(shop: Shop) -> None:
    link_id = shop.link()
    shop.deliver()
    [payment_id] = shop.pay(link_id)

    shop.sweep()
    shop.check()
    assert shop.rows("SELECT FROM payments") == [], "its webhook may still be on its way"
    shop.pass_time()
    shop.check()

    payment = shop.one(
        "SELECT payment_id, first_origin, event_id, run_id, match_state, recovery FROM payments"
    )
    assert (payment.payment_id, payment.first_origin) == (payment_id, "poll")
    assert (payment.event_id, payment.match_state) == (None, "matched")
    assert payment.recovery == "webhook_missed"
    assert shop.one("SELECT recovered FROM reconciliation_runs WHERE recovered > 0").recovered == 1


def test_a_webhook_that_comes_after_the_poll_changes_nothing(shop: Shop) -> None:
    link_id = shop.link()
    shop.deliver()
    [payment_id] = shop.pay(link_id)
    shop.sweep()
    shop.pass_time()
    shop.check()
    before = shop.one("SELECT * FROM payments")

    shop.deliver(payment_id)
    shop.check()

    after = shop.one("SELECT * FROM payments")
    assert (after.first_origin, after.revision, after.amount) == ("poll", before.revision, before.amount)
    assert (after.last_verdict, before.recovery, after.recovery) == ("same", "webhook_missed", "webhook_late")
    assert shop.open() == []


def test_what_a_release_before_recovered_says_why_after_the_next_check(shop: Shop) -> None:
    link_id = shop.link()
    shop.deliver()
    shop.pay(link_id)
    shop.sweep()
    shop.pass_time()
    shop.check()
    with shop.services.database.begin() as connection:
        connection.execute(text("UPDATE payments SET recovery = NULL"))

    shop.request(link_id)
    shop.check()

    assert shop.one("SELECT recovery FROM payments").recovery == "webhook_missed"


@pytest.mark.fact("S19")
def test_a_missed_update_is_booked_by_the_check(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    shop.check()
    shop.sandbox.world.issue_receipt(str(shop.instance_id), str(payment_id))

    shop.request(link_id)
    shop.check()
    shop.pass_time()
    shop.check()

    payment = shop.one("SELECT revision, receipt_id, origin, first_origin, recovery FROM payments")
    assert (payment.revision, payment.origin, payment.first_origin) == (2, "poll", "webhook")
    assert payment.receipt_id is not None
    assert payment.recovery == "update_unannounced"

    shop.deliver(payment_id)
    shop.check()

    assert shop.one("SELECT recovery FROM payments").recovery == "webhook_late"


@pytest.mark.parametrize(
    ("fault", "type_"),
    [
        ({"kind": "amount_edited", "amount": "99.00"}, "amount_differs"),
        ({"kind": "payment_deleted"}, "missing_at_wix"),
        ({"kind": "wrong_total", "by": "3.00"}, "total_differs"),
    ],
)
def test_a_contradiction_is_raised_and_resolved_when_it_goes_away(
    shop: Shop, fault: dict[str, Any], type_: str
) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    about = {"linkId": str(link_id)} if "by" in fault else {"paymentId": str(payment_id)}
    added = shop.sandbox.faults.add(fault | about)

    shop.check()
    shop.pass_time()
    shop.check()

    assert type_ in shop.open()
    assert shop.one("SELECT amount FROM payments").amount == Decimal(10), "never overwritten"
    shop.sandbox.faults.remove(added["id"])
    shop.pass_time(timedelta(days=2))
    shop.check()
    assert shop.open() == []
    closed = shop.rows("SELECT reason FROM discrepancies")
    assert {row.reason for row in closed} == {"caught_up"}


def settle(shop: Shop) -> None:
    for _ in range(2):
        shop.check()
        shop.pass_time()


def rewritten(shop: Shop, kind: str, id_: UUID, **changed: Any) -> None:
    """Wix holds something else of an entity than it told; what else there is in it stays."""
    document = shop.sandbox.documents.get(kind, str(id_))
    assert document is not None
    document["entity"] |= changed
    shop.sandbox.documents.put(kind, str(id_), document)


def test_a_payment_after_the_link_expired_is_raised_for_a_person_to_decide(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    rewritten(shop, "link", link_id, expirationDate="2026-01-01T00:00:00.000Z")

    settle(shop)

    row = shop.one("SELECT type, severity, payment_id, amount_at_risk, sides FROM discrepancies")
    assert (row.type, row.severity, row.payment_id) == ("paid_while_inactive", "informational", payment_id)
    assert row.amount_at_risk == Decimal(10)
    assert row.sides["wix"] == "closed 2026-01-01T00:00:00Z"


def test_only_what_is_paid_after_the_link_was_seen_deactivated_is_raised(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.services.wix.deactivate_link(shop.instance_id, link_id)
    shop.request(link_id)

    settle(shop)

    assert shop.open() == []
    assert shop.one("SELECT inactive_since FROM payment_links").inactive_since is not None
    shop.services.wix.activate_link(shop.instance_id, link_id)
    shop.request(link_id)
    settle(shop)
    assert shop.one("SELECT inactive_since FROM payment_links").inactive_since is None


def test_a_purchase_paid_twice_is_raised(shop: Shop) -> None:
    link_id = shop.link()
    shop.deliver()
    first, second = *shop.pay(link_id), *shop.pay(link_id)
    paid = shop.sandbox.documents.get("payment", str(first))
    assert paid is not None
    rewritten(
        shop,
        "payment",
        second,
        regularPaymentLinkPayment=paid["entity"]["regularPaymentLinkPayment"],
        ecomCheckout=paid["entity"].get("ecomCheckout"),
    )
    shop.request(link_id)

    settle(shop)

    row = shop.one("SELECT type, payment_id FROM discrepancies WHERE closed_at IS NULL")
    assert row.type == "duplicate_payment"
    assert row.payment_id in (first, second)


def test_what_only_the_link_can_show_is_not_over_because_the_link_is_gone(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.sandbox.faults.add({"kind": "wrong_total", "linkId": str(link_id), "by": "3.00"})
    settle(shop)
    assert shop.open() == ["total_differs"]

    shop.sandbox.documents.remove("link", str(link_id))
    shop.request(link_id)
    settle(shop)

    assert shop.open() == ["link_missing", "total_differs"]


def test_a_difference_is_not_over_because_wix_says_nothing_of_it(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    rewritten(shop, "link", link_id, totalReceived={"paymentCount": 1, "amount": "99.00"})
    shop.request(link_id)
    settle(shop)
    assert shop.open() == ["total_differs"]

    rewritten(shop, "link", link_id, totalReceived={})
    shop.request(link_id)
    settle(shop)

    assert shop.open() == ["total_differs"]
    rewritten(shop, "link", link_id, totalReceived={"paymentCount": 1, "amount": "10.00"})
    shop.request(link_id)
    settle(shop)
    assert shop.open() == []


def test_what_is_known_of_a_payment_is_not_over_because_it_cannot_be_read(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    added = shop.sandbox.faults.add(
        {"kind": "amount_edited", "amount": "99.00", "paymentId": str(payment_id)}
    )
    settle(shop)
    assert shop.open() == ["amount_differs"]

    shop.sandbox.faults.remove(added["id"])
    rewritten(shop, "payment", payment_id, amount=10.0)
    shop.request(link_id)
    settle(shop)

    assert shop.open() == ["amount_differs", "unreadable_at_wix"]
    rewritten(shop, "payment", payment_id, amount="10.00")
    shop.request(link_id)
    settle(shop)
    assert shop.open() == []


def test_a_last_payment_of_another_date_is_raised_and_goes_when_the_dates_agree(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    link = shop.sandbox.documents.get("link", str(link_id))
    assert link is not None
    shown_at = link["entity"]["lastPaymentDate"]
    rewritten(shop, "link", link_id, lastPaymentDate="2026-01-01T00:00:00.000Z")

    settle(shop)

    row = shop.one("SELECT type, severity, sides, amount_at_risk FROM discrepancies")
    assert (row.type, row.severity, row.amount_at_risk) == ("last_payment_differs", "informational", None)
    assert row.sides["wix"] == "2026-01-01T00:00:00Z"
    rewritten(shop, "link", link_id, lastPaymentDate=shown_at)
    shop.request(link_id)
    settle(shop)
    assert shop.open() == []


def test_a_link_that_was_paid_up_and_takes_payments_again_is_raised(shop: Shop) -> None:
    link_id = shop.link(payments_limit=1)
    shop.pay(link_id)
    shop.deliver()
    settle(shop)
    assert shop.open() == []
    assert shop.one("SELECT status FROM payment_links").status == "PAID"

    link = shop.sandbox.documents.get("link", str(link_id))
    assert link is not None
    revision = int(link["entity"]["revision"])
    rewritten(shop, "link", link_id, status="ACTIVE", revision=str(revision + 1))
    shop.request(link_id)
    settle(shop)

    row = shop.one("SELECT type, severity, sides FROM discrepancies WHERE closed_at IS NULL")
    assert (row.type, row.severity) == ("status_differs", "informational")
    assert row.sides == {"booked": "paid 1 times of 1; no way back", "wix": "PAID, then ACTIVE"}
    rewritten(shop, "link", link_id, status="PAID", revision=str(revision + 2))
    shop.request(link_id)
    settle(shop)
    assert shop.open() == []


def test_a_query_that_shows_a_link_as_it_was_is_no_step_back(shop: Shop) -> None:
    link_id = shop.link(payments_limit=1)
    shop.pay(link_id)
    shop.deliver()
    settle(shop)
    link = shop.sandbox.documents.get("link", str(link_id))
    assert link is not None
    revision, now = int(link["entity"]["revision"]), {"status": "PAID"}
    shop.pass_time(timedelta(hours=1))

    rewritten(shop, "link", link_id, status="ACTIVE", revision=str(revision - 1))
    shop.request(link_id)
    jobs.run_check(shop.services, shop.instance_id)
    rewritten(shop, "link", link_id, **now, revision=str(revision))
    settle(shop)

    row = shop.one("SELECT status, previous_status FROM payment_links")
    assert (row.status, row.previous_status) == ("PAID", "ACTIVE")
    assert shop.open() == []


def test_a_deleted_link_with_payments_is_raised(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.sandbox.documents.remove("link", str(link_id))

    shop.check()
    shop.pass_time()
    shop.check()

    assert shop.open() == ["link_missing"]


@pytest.mark.fact("S11", "U18")
def test_a_split_purchase_in_exact_money_leaves_nothing_open(shop: Shop) -> None:
    tenders = [{"type": "GIFT_CARD", "amount": "2.345"}, {"type": "CARD", "amount": "10.000"}]
    shop.pay(shop.link("12.345", "KWD"), tenders=tenders)
    shop.pay(shop.link("4800", "JPY"))
    shop.deliver()

    shop.check()

    sums = shop.rows(
        "SELECT currency, sum(amount) AS amount FROM payments GROUP BY currency ORDER BY currency"
    )
    assert [(row.currency, row.amount) for row in sums] == [
        ("JPY", Decimal(4800)),
        ("KWD", Decimal("12.345")),
    ]
    assert shop.open() == []


@pytest.mark.fact("Q22", "U24")
def test_a_query_that_lags_behind_the_webhook_raises_nothing(shop: Shop) -> None:
    shop.sandbox.faults.add({"kind": "read_lag", "seconds": 3600})
    shop.pay(shop.link())
    shop.deliver()

    shop.check()

    assert shop.open() == []
    assert shop.one("SELECT match_state FROM payments").match_state == "expected"
    shop.sandbox.faults.remove(None)
    shop.pass_time(timedelta(minutes=1))
    shop.check()
    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


def test_events_of_an_unconfirmed_instance_are_booked_once_wix_gives_a_token(shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())
    shop.deliver(payment_id)
    assert shop.rows("SELECT FROM payments") == []

    shop.check()

    assert shop.one("SELECT status FROM app_instances").status == "installed"
    assert shop.one("SELECT first_origin FROM payments").first_origin == "webhook"
    assert shop.one("SELECT status FROM webhook_events").status == "recorded"
    assert shop.rows("SELECT FROM sweeps"), "and it is polled from now on"


def test_events_of_an_instance_wix_does_not_know_stay_held(shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())
    shop.deliver(payment_id)
    shop.sandbox.world.remove(str(shop.instance_id))

    jobs.run_check(shop.services, shop.instance_id)

    assert shop.rows("SELECT FROM payments") == []
    assert shop.one("SELECT status FROM webhook_events").status == "held"
    run = shop.one("SELECT status, reason FROM reconciliation_runs")
    assert run.status == "failed"
    assert "WixUnauthorized" in run.reason


def test_what_is_held_of_an_instance_wix_does_not_know_is_raised_once_and_closed_when_it_does(
    shop: Shop,
) -> None:
    link_id = shop.link()
    for _ in range(2):
        shop.deliver(*shop.pay(link_id))
    shop.sandbox.world.remove(str(shop.instance_id))

    jobs.run_check(shop.services, shop.instance_id)
    assert shop.open() == [], "it may be confirmed yet"
    for _ in range(3):
        shop.pass_time(timedelta(hours=13))
        jobs.run_check(shop.services, shop.instance_id)

    row = shop.one("SELECT * FROM discrepancies")
    assert (row.type, row.severity, row.payment_link_id) == ("unknown_instance", "informational", link_id)
    assert (row.amount_at_risk, row.currency, row.times_seen) == (Decimal(20), "USD", 3)
    assert row.sides == {"booked": "held", "wix": "no access", "told": "2 payments, 20.00 USD"}
    assert shop.rows("SELECT FROM payments") == [], "nothing of it is booked"
    run = shop.one("SELECT status, opened FROM reconciliation_runs WHERE opened > 0")
    assert (run.status, run.opened) == ("failed", 1)

    instance = shop.sandbox.documents.get("instance", str(shop.instance_id))
    assert instance is not None
    shop.sandbox.documents.put("instance", str(shop.instance_id), {**instance, "isRemoved": False})
    shop.pass_time(timedelta(days=1))
    shop.check()

    assert shop.open() == []
    assert shop.one("SELECT reason FROM discrepancies").reason == "caught_up"
    assert shop.one("SELECT sum(amount) FROM payments").sum == Decimal(20)


def test_a_test_of_the_dashboard_is_raised_for_a_person_to_write_off(shop: Shop) -> None:
    shop.deliver()
    shop.sandbox.send_stray("test_event", str(shop.instance_id))
    shop.deliver(only=lambda event: event.instance_id != shop.instance_id)
    [stranger] = shop.rows("SELECT instance_id FROM app_instances WHERE status = 'unconfirmed'")

    for _ in range(2):
        jobs.run_check(shop.services, stranger.instance_id)
        shop.pass_time(timedelta(minutes=11))

    assert shop.open() == ["unknown_instance"]
    row = shop.one("SELECT instance_id, amount_at_risk FROM discrepancies")
    assert (row.instance_id, row.amount_at_risk) == (stranger.instance_id, Decimal("10.99"))


# -- Payments no event told of ---------------------------------------------------------------------


def missed(shop: Shop) -> tuple[UUID, UUID]:
    """A link, and a payment of it that only a check told of."""
    link_id = shop.link()
    shop.deliver()
    [payment_id] = shop.pay(link_id)
    shop.sweep()
    shop.pass_time()
    shop.check()
    assert shop.one("SELECT recovery FROM payments").recovery == "webhook_missed"
    return link_id, payment_id


HORIZON = timedelta(hours=47, minutes=11) + SETTLING


def test_a_payment_whose_event_never_comes_is_raised_when_wix_has_given_up(shop: Shop) -> None:
    link_id, payment_id = missed(shop)

    due_at = shop.one("SELECT due_at FROM link_checks").due_at
    created_at = shop.one("SELECT created_at FROM payments").created_at
    assert due_at == created_at + HORIZON, "nothing else would have it checked"
    shop.pass_time(due_at - shop.services.now() - timedelta(minutes=1))
    shop.check()
    assert shop.open() == []
    shop.pass_time(timedelta(minutes=2))
    assert shop.tick().checks == 1
    shop.check()

    row = shop.one("SELECT type, severity, payment_link_id, payment_id, amount_at_risk FROM discrepancies")
    assert (row.type, row.severity) == ("payment_without_event", "informational")
    assert (row.payment_link_id, row.payment_id, row.amount_at_risk) == (link_id, payment_id, None)
    assert shop.one("SELECT due_at FROM link_checks").due_at is None, "to look again helps nothing"

    shop.deliver(payment_id)
    shop.check()

    assert shop.open() == []
    assert shop.one("SELECT reason FROM discrepancies").reason == "caught_up"


def test_a_payment_whose_event_came_late_is_never_raised(shop: Shop) -> None:
    _, payment_id = missed(shop)
    shop.pass_time(timedelta(hours=40))
    shop.deliver(payment_id)

    shop.check()
    shop.pass_time(timedelta(hours=20))
    shop.check()

    assert shop.open() == []
    assert shop.one("SELECT due_at FROM link_checks").due_at is None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE app_instances SET installed_at = now() + interval '1 h'",
        "UPDATE payments SET erased_at = now()",
        """UPDATE webhook_events SET status = 'unreadable', reason = 'odd', kind = 'payment',
            entity_id = (SELECT payment_id FROM payments)
        WHERE event_id = (SELECT event_id FROM webhook_events LIMIT 1)""",
    ],
    ids=["made before the installation", "erased", "told of unreadably"],
)
def test_what_no_event_should_tell_of_any_more_is_never_raised(shop: Shop, sql: str) -> None:
    link_id, _ = missed(shop)
    with shop.services.database.begin() as connection:
        connection.execute(text(sql))

    shop.pass_time(timedelta(hours=60))
    shop.request(link_id)
    shop.check()

    assert shop.open() == []


# -- Refunds ---------------------------------------------------------------------------------------


def refund_event(event: Event) -> bool:
    return "refund" in event.event_type


def tend(shop: Shop) -> None:
    """The clock reads refunds and drains, the worker checks, and time passes."""
    for _ in range(2):
        shop.tick()
        shop.check()
        shop.pass_time()


@pytest.mark.fact("E39")
def test_a_refund_that_only_the_order_shows_is_raised_and_closed_when_it_is_reversed(shop: Shop) -> None:
    link_id = shop.link()
    [payment_id] = shop.pay(link_id)
    shop.deliver()
    tend(shop)
    refund = shop.sandbox.world.refund(str(payment_id), {"amount": "4.00"})["refund"]
    shop.deliver(only=refund_event)

    tend(shop)

    row = shop.one("SELECT * FROM discrepancies WHERE closed_at IS NULL")
    assert (row.type, row.severity, row.payment_id) == ("refund_on_order_only", "informational", payment_id)
    assert (row.amount_at_risk, row.currency) == (Decimal(4), "USD")
    dates = shop.one("SELECT r.occurred_at, p.created_at FROM refunds r JOIN payments p USING (payment_id)")
    assert row.aged_from == dates.occurred_at > dates.created_at, "it is as old as the refund"
    assert shop.one("SELECT amount FROM payments").amount == Decimal(10), "the payment stays booked"

    shop.sandbox.world.reverse_refund(str(payment_id), refund["id"])
    shop.deliver(only=refund_event)
    tend(shop)

    assert shop.open() == []
    assert shop.one("SELECT status, sequence FROM refunds") == ("REVERSED", 2)


def test_a_refund_told_before_its_payment_is_raised_with_it(shop: Shop) -> None:
    [payment_id] = shop.pay(shop.link())
    shop.deliver(only=lambda event: event.kind is Kind.APP_INSTALLED)
    shop.sandbox.world.refund(str(payment_id), {})
    shop.deliver(only=refund_event)
    shop.tick()
    assert shop.one("SELECT payment_id FROM refunds").payment_id == payment_id

    shop.deliver(payment_id)
    shop.pass_time()
    tend(shop)

    assert shop.open() == ["refund_on_order_only"]


@pytest.mark.parametrize(
    ("falls", "expected"), [(None, ["total_differs"]), (True, [])], ids=["not known to fall", "known to fall"]
)
def test_a_total_that_falls_with_its_refunds_agrees_once_that_is_assumed(
    database_url: str, redis_url: str, falls: bool | None, expected: list[str]
) -> None:
    with a_shop(database_url, redis_url, assumed={"totals_fall_on_refund": True}) as shop:
        [payment_id] = shop.pay(shop.link())
        shop.deliver()
        assume(shop, total_falls_on_refund=falls)
        shop.sandbox.world.refund(str(payment_id), {"amount": "4.00"})
        shop.deliver(only=refund_event)

        tend(shop)

        assert shop.open() == expected


def assume(shop: Shop, **assumptions: Any) -> None:
    """Put these assumptions in force."""
    rule_set = RuleSet(assumptions=Assumptions(**assumptions))
    with shop.services.database.begin() as connection:
        now = shop.services.now()
        version = rules.add(connection, rule_set, created_by="ada", comment=None, now=now)
        rules.approve(connection, version, approved_by="grace", now=now)


@pytest.mark.parametrize("status", [500, 429])
def test_a_wix_that_is_away_postpones_the_check_and_loses_nothing(shop: Shop, status: int) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.services.wix.check_credentials(shop.instance_id)
    shop.sandbox.faults.add({"kind": "status", "status": status, "retryAfterSeconds": 40})

    jobs.run_check(shop.services, shop.instance_id)

    check = shop.one("SELECT wanted > checked AS wanted, lease_id, due_at > now() AS later FROM link_checks")
    assert (check.wanted, check.lease_id, check.later) == (True, None, True)
    assert "WixUnavailable" in shop.one("SELECT reason FROM reconciliation_runs").reason
    shop.sandbox.faults.remove(None)
    # Redis keeps what Wix asked us to wait by its own clock.
    assert shop.services.queue.redis is not None
    shop.services.queue.redis.flushdb()
    shop.pass_time(timedelta(minutes=2))
    shop.check()
    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


# What goes wrong once with the first call, and what comes of it: nothing, since the call is made again.
PASSING: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429},
    "429 with Retry-After": {"kind": "status", "status": 429, "retryAfterSeconds": 0.2},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "504, so a smaller page": {"kind": "status", "status": 504},
    "hang": {"kind": "hang", "seconds": 1.5},
    "slow body": {"kind": "slow", "seconds": 1.5},
    "truncated JSON": {"kind": "truncated"},
    "expired token": {"kind": "revoked_token"},
}
# What stays wrong: the check is put off by so many seconds, for a reason that names what Wix said.
LASTING: dict[str, tuple[dict[str, Any], int, str]] = {
    "429": ({"kind": "status", "status": 429}, 5, "answered 429"),
    "429 with Retry-After": ({"kind": "status", "status": 429, "retryAfterSeconds": 40}, 40, "answered 429"),
    "500": ({"kind": "status", "status": 500}, 5, "answered 500"),
    "503": ({"kind": "status", "status": 503}, 5, "answered 503"),
    "504": ({"kind": "status", "status": 504}, 5, "answered 504"),
    "hang": ({"kind": "hang", "seconds": 1.5}, 5, "nothing whole within 0.5 s"),
    "slow body": ({"kind": "slow", "seconds": 1.5}, 5, "nothing whole within 0.5 s"),
    "truncated JSON": ({"kind": "truncated"}, 5, "no usable answer"),
    "every token refused": ({"kind": "revoked_token"}, 600, "answered 401"),
}


@pytest.fixture
def hasty_shop(database_url: str, redis_url: str) -> Iterator[Shop]:
    """A shop whose service waits half a second for an answer of Wix, with one payment to be checked."""
    with a_shop(database_url, redis_url, WIX_TIMEOUT_SECONDS="0.5") as built:
        built.pay(built.link())
        built.deliver()
        built.services.wix.check_credentials(built.instance_id)
        yield built


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_what_goes_wrong_once_costs_a_repetition(hasty_shop: Shop, fault: dict[str, Any]) -> None:
    hasty_shop.sandbox.faults.add({**fault, "count": 1})

    jobs.run_check(hasty_shop.services, hasty_shop.instance_id)

    assert hasty_shop.sandbox.faults.all() == [], "it struck"
    assert hasty_shop.one("SELECT match_state FROM payments").match_state == "matched"
    assert hasty_shop.one("SELECT status FROM reconciliation_runs").status == "succeeded"


@pytest.mark.parametrize(("fault", "seconds", "reason"), LASTING.values(), ids=LASTING.keys())
def test_what_stays_wrong_puts_the_check_off(
    hasty_shop: Shop, fault: dict[str, Any], seconds: int, reason: str
) -> None:
    hasty_shop.sandbox.faults.add(fault)

    jobs.run_check(hasty_shop.services, hasty_shop.instance_id)

    assert put_off(hasty_shop, seconds, reason)
    assert hasty_shop.one("SELECT match_state FROM payments").match_state is None


def test_a_permission_that_was_removed_puts_the_check_off_until_a_person_acts(hasty_shop: Shop) -> None:
    hasty_shop.sandbox.world.change_site(str(hasty_shop.instance_id), {"hasPermission": False})

    jobs.run_check(hasty_shop.services, hasty_shop.instance_id)

    assert put_off(hasty_shop, 600, "answered 403")


def test_an_app_that_was_uninstalled_without_our_hearing_of_it_is_left_in_peace(hasty_shop: Shop) -> None:
    hasty_shop.sandbox.world.remove(str(hasty_shop.instance_id))

    jobs.run_check(hasty_shop.services, hasty_shop.instance_id)

    assert put_off(hasty_shop, 600, "WixUnauthorized")
    hasty_shop.deliver()
    assert hasty_shop.one("SELECT status FROM app_instances").status == "removed"


def put_off(shop: Shop, seconds: int, reason: str) -> bool:
    """Whether the only check is due again after so long, and its run says why."""
    check = shop.one("SELECT wanted > checked AS is_wanted, lease_id, due_at FROM link_checks")
    run = shop.one("SELECT status, reason FROM reconciliation_runs")
    wait = (check.due_at - shop.services.now()).total_seconds()
    assert (check.is_wanted, check.lease_id, run.status) == (True, None, "failed")
    assert reason in run.reason
    # The time that the check itself took has passed.
    assert seconds - 30 < wait <= seconds
    return True


def test_waits_grow_while_wix_is_away_and_a_success_forgets_them(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    shop.check()
    shop.sandbox.faults.add({"kind": "status", "status": 503})
    waits = []
    for _ in range(4):
        shop.request(link_id)
        jobs.run_check(shop.services, shop.instance_id)
        [row] = shop.rows("SELECT due_at, failures FROM link_checks")
        waits.append(round((row.due_at - shop.services.now()).total_seconds()))
    assert waits == [5, 30, 120, 600]

    shop.sandbox.faults.remove(None)
    shop.pass_time(timedelta(minutes=11))
    shop.check()

    assert shop.one("SELECT failures FROM link_checks").failures == 0


@pytest.mark.fact("A11")
def test_a_removed_app_is_asked_about_no_more(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.sandbox.world.remove(str(shop.instance_id))
    shop.deliver()
    shop.request(link_id)
    shop.pass_time(timedelta(hours=1))
    before = shop.calls

    assert shop.tick() == clock.Ticked()

    assert shop.calls == before
    assert shop.one("SELECT count(*) AS n FROM payments").n == 1, "but what it told is booked"


def test_many_links_are_checked_in_few_calls(shop: Shop) -> None:
    link_ids = [shop.link() for _ in range(120)]
    for link_id in link_ids:
        shop.pay(link_id)
    shop.deliver()
    shop.check()
    shop.request(*link_ids)
    before = shop.calls

    shop.check()

    # 100 + 20 links: payments in two pages and one, links in one page each, at most.
    assert shop.calls - before <= 8
    states = shop.rows("SELECT match_state, count(*) AS n FROM payments GROUP BY 1")
    assert [(row.match_state, row.n) for row in states] == [("matched", 120)]


def test_a_very_large_link_is_checked_alone_and_holds_nobody_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = shop.link()
    for _ in range(40):
        shop.pay(large)
    small = [shop.link() for _ in range(3)]
    shop.pay(small[0])
    shop.deliver()
    shop.check()
    monkeypatch.setattr(checks, "PAYMENTS_TOGETHER_MAX", 30)
    since = shop.services.now()
    shop.request(*small[:2])
    shop.request(large)
    shop.request(small[2])

    shop.check()

    runs = shop.rows(
        "SELECT link_count, matched FROM reconciliation_runs WHERE started_at > :since", since=since
    )
    assert [run.link_count for run in runs if run.matched >= 40] == [1]
    assert sum(run.link_count for run in runs) == 4


def test_a_job_that_died_after_asking_wix_is_done_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.pay(shop.link())
    shop.deliver()

    def die(*_: Any, **__: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(checking, "conclude", die)
        with pytest.raises(SystemExit):
            jobs.run_check(shop.services, shop.instance_id)
    assert shop.one("SELECT match_state FROM payments").match_state is None
    shop.check()
    assert shop.one("SELECT match_state FROM payments").match_state is None, "still leased"

    shop.pass_time(timedelta(minutes=3))
    shop.check()

    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


def test_a_check_whose_lease_was_taken_over_writes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pay(shop.link())
    shop.deliver()
    ask = asking.ask

    def slow(*arguments: Any) -> Any:
        theirs = ask(*arguments)
        monkeypatch.setattr(checking, "ask", ask)
        shop.pass_time(timedelta(minutes=5))
        with shop.services.database.begin() as connection:
            checks.claim(connection, shop.instance_id, shop.services.now(), timedelta(minutes=1))
        return theirs

    monkeypatch.setattr(checking, "ask", slow)
    jobs.run_check(shop.services, shop.instance_id)

    assert shop.one("SELECT match_state FROM payments").match_state is None


def test_a_sweep_whose_worker_died_resumes_where_it_stood(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_id = shop.link()
    shop.deliver()
    for _ in range(120):
        shop.pay(link_id)
    monkeypatch.setattr(sweeping, "PART_PAGES", 1)
    assert jobs.run_sweep(shop.services, shop.instance_id), "there is more to read"
    stood = shop.one("SELECT position_at, window_from FROM sweeps")
    assert stood.position_at > stood.window_from

    def die(*arguments: Any, **more: Any) -> bool:
        raise SystemExit("killed in the second part")

    with monkeypatch.context() as patched:
        patched.setattr(staging, "compare", die)
        with pytest.raises(SystemExit):
            shop.sweep()
    run = shop.one("SELECT status, reason FROM reconciliation_runs WHERE status <> 'succeeded'")
    assert (run.status, run.reason) == ("failed", "SystemExit")
    assert shop.one("SELECT position_at FROM sweeps").position_at == stood.position_at

    shop.pass_time()
    shop.sweep()
    shop.check()

    assert shop.one("SELECT count(*) AS n FROM payments").n == 120
    assert shop.one("SELECT finished_at FROM sweeps").finished_at is not None


def test_the_clock_enqueues_what_is_due_and_beats(shop: Shop) -> None:
    shop.pay(shop.link())
    shop.deliver()

    ticked = shop.tick()

    assert ticked == clock.Ticked(checks=1, sweeps=1, backfills=1)
    assert shop.tick() == clock.Ticked(), "one job each is on its way"
    shop.pass_time(timedelta(minutes=1))
    assert shop.tick() == ticked, "lost jobs are enqueued again"
    assert shop.one("SELECT process FROM heartbeats").process == "clock"


@pytest.mark.parametrize("duty", ["read_refunds", "enqueue_due_alerts", "look_for_silence"])
def test_a_duty_that_breaks_is_told_of_once_and_stops_no_check(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, duty: str
) -> None:
    shop.pay(shop.link())
    shop.deliver()

    def broken(*arguments: Any) -> int:
        raise ZeroDivisionError

    with capture_logs() as told:
        with monkeypatch.context() as patched:
            patched.setattr(clock, duty, broken)
            assert (shop.tick().checks, shop.tick().checks) == (1, 0)
        shop.tick()

    assert [one["event"] for one in told if one["event"].startswith("duty")] == ["duty_failed", "duty_works"]


def test_the_instance_of_an_api_key_is_polled_from_the_start_and_no_other_is_vouched_for(
    database_url: str, redis_url: str
) -> None:
    with a_shop(database_url, redis_url) as shop:
        instance = shop.sandbox.documents.get("instance", str(shop.instance_id))
        assert instance is not None
        environ = {
            "DATABASE_URL": database_url,
            "WIX_API_URL": shop.sandbox.url,
            "WIX_API_KEY": instance["apiKey"],
            "WIX_CALLS_PER_MINUTE": "1000000",
            "WIX_SITE_ID": instance["siteId"],
            "WIX_INSTANCE_ID": instance["instanceId"],
        }
        services = wiring.build(Settings.read(environ), role="worker")

        clock.seed(services)

        assert shop.one("SELECT instance_id, status FROM app_instances").status == "installed"
        assert len(shop.rows("SELECT FROM sweeps")) == 1
        services.wix.check_credentials(shop.instance_id)
        with pytest.raises(WixUnauthorized):
            services.wix.check_credentials(uuid4())
        services.close()


def test_a_link_wix_does_not_know_is_told_apart_from_one_that_could_not_be_read(shop: Shop) -> None:
    with pytest.raises(WixNotFound):
        shop.services.wix.get_link(shop.instance_id, shop.instance_id)


def test_an_unreadable_payment_at_wix_is_raised_and_costs_the_others_nothing(shop: Shop) -> None:
    link_id = shop.link()
    [odd, _good] = [shop.pay(link_id)[0] for _ in range(2)]
    shop.deliver()
    document = shop.sandbox.documents.get("payment", str(odd))
    assert document is not None
    document["entity"]["amount"] = 10.0
    shop.sandbox.documents.put("payment", str(odd), document)

    shop.check()
    shop.pass_time()
    shop.check()

    assert shop.open() == ["unreadable_at_wix"]
    states = shop.rows("SELECT match_state FROM payments ORDER BY 1")
    assert [row.match_state for row in states] == ["discrepant", "matched"]


@pytest.mark.parametrize("odd_id", ["\x00", "\ud800", 10**30, None])
def test_an_id_at_wix_that_no_column_can_hold_stops_no_check(shop: Shop, odd_id: Any) -> None:
    link_id = shop.link()
    odd, good = (shop.pay(link_id)[0] for _ in range(2))
    shop.deliver(good)
    document = shop.sandbox.documents.get("payment", str(odd))
    assert document is not None
    document["entity"]["id"] = odd_id
    shop.sandbox.documents.put("payment", str(odd), document)

    shop.check()
    shop.pass_time()
    shop.check()

    assert "unreadable_at_wix" in shop.open()
    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


def test_an_unreadable_link_at_wix_is_raised_and_its_payments_still_matched(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    document = shop.sandbox.documents.get("link", str(link_id))
    assert document is not None
    document["entity"]["totalReceived"] = "much"
    shop.sandbox.documents.put("link", str(link_id), document)

    shop.check()

    assert shop.open() == ["unreadable_at_wix"]
    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


def test_an_address_at_wix_that_no_column_can_hold_stops_no_check(shop: Shop) -> None:
    link_id = shop.link()
    shop.pay(link_id)
    shop.deliver()
    document = shop.sandbox.documents.get("link", str(link_id))
    assert document is not None
    document["entity"]["links"] = {"url": {"url": "https://example.com/\x00"}}
    shop.sandbox.documents.put("link", str(link_id), document)

    shop.check()

    assert shop.one("SELECT match_state FROM payments").match_state == "matched"


# -- How often Wix is asked ------------------------------------------------------------------------


def many(shop: Shop, links: int, each: int) -> None:
    """Links with payments of the past, which nobody told us of; their checks are asked for."""
    shop.deliver()
    volume = Volume(payments=links * each, links=links, sites=1, days=30)
    assert sum(load(shop.sandbox, volume, 1, [str(shop.instance_id)])) == links * each
    shop.request(*(UUID(id_) for (id_,) in shop.sandbox.documents.rows("SELECT id FROM link")))


def test_a_thousand_due_links_cost_some_forty_calls(shop: Shop) -> None:
    many(shop, links=1_000, each=3)
    # Their dates are known from an earlier check.
    shop.check()
    shop.pass_time()
    shop.request(*(UUID(id_) for (id_,) in shop.sandbox.documents.rows("SELECT id FROM link")))
    before = shop.calls

    shop.check()

    # For 100 links three pages of payments and one of links, and now and then a token.
    assert shop.calls - before <= 45
    assert shop.open() == []
    assert shop.one("SELECT count(*) FROM payments WHERE match_state = 'matched'").count == 3_000


def test_a_thousand_links_never_seen_are_listed_rather_than_fetched(shop: Shop) -> None:
    many(shop, links=1_000, each=3)
    before = shop.calls

    shop.check()

    assert shop.calls - before <= 60
    assert shop.one("SELECT count(*) FROM payment_links WHERE created_at IS NOT NULL").count == 1_000
    assert shop.one("SELECT count(*) FROM payments").count == 3_000


def beat_at_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Beat.__init__

    def make(beat: Beat, *given: Any) -> None:
        made(beat, *given)
        beat._seconds_between = 0.0

    monkeypatch.setattr(Beat, "__init__", make)


def test_two_workers_on_links_never_seen_do_not_wait_for_each_other(shop: Shop) -> None:
    many(shop, links=400, each=1)

    def work() -> None:
        services = wiring.build(shop.services.settings, role="worker", now=shop.services.now)
        try:
            for _ in range(5):
                jobs.run_check(services, shop.instance_id)
        finally:
            services.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()

    assert shop.one("SELECT count(*) FROM link_checks WHERE wanted > checked").count == 0


def test_very_many_payments_are_booked_in_parts_and_counted_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concluding, "PART_PAYMENTS", 7)
    many(shop, links=2, each=20)

    shop.check()

    assert shop.one("SELECT count(*) FROM payments WHERE match_state = 'matched'").count == 40
    assert shop.one("SELECT count(*) FROM payment_tellings").count == 40
    run = shop.one("SELECT recovered, matched, status FROM reconciliation_runs WHERE kind = 'check'")
    assert (run.recovered, run.matched, run.status) == (40, 0, "succeeded")


def test_a_check_holds_no_more_than_a_part_of_its_link(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    many(shop, links=1, each=700)
    monkeypatch.setattr(concluding, "PART_PAYMENTS", 50)
    alive: list[int] = []

    def count() -> int:
        gc.collect()
        return sum(isinstance(one, SeenPayment | Payment | Pair) for one in gc.get_objects())

    def look(_: Beat) -> None:
        alive.append(count())

    monkeypatch.setattr(Beat, "__call__", look)
    gc.collect()
    gc.freeze()  # what is there already is not counted, and need not be looked through each time
    try:
        jobs.run_check(shop.services, shop.instance_id)
    finally:
        gc.unfreeze()

    assert shop.one("SELECT count(*) FROM payments").count == 700
    assert len(alive) > 700 / wire.PAGE_MAX + 700 / 50
    # A page as it is read, or a part whose every payment is there as ours, as theirs and as a pair.
    assert 50 < max(alive) <= max(2 * wire.PAGE_MAX, 3 * 50) + 10


def test_a_check_that_reads_for_long_holds_its_links(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    many(shop, links=1, each=250)
    beat_at_every_page(monkeypatch)
    query = shop.services.wix.query_payments
    ends: list[Any] = []

    def query_slowly(*arguments: Any, **more: Any) -> Iterator[list[Any]]:
        for page in query(*arguments, **more):
            shop.pass_time(timedelta(seconds=50))
            ends.append(shop.one("SELECT lease_until FROM link_checks").lease_until)
            yield page

    monkeypatch.setattr(shop.services.wix, "query_payments", query_slowly)

    jobs.run_check(shop.services, shop.instance_id)

    assert shop.one("SELECT count(*) FROM payments").count == 250
    assert len(ends) == 3
    assert ends[0] < ends[1] < ends[2], "the lease is longer with every page"
    run = shop.one("SELECT started_at, beat_at FROM reconciliation_runs WHERE kind = 'check'")
    assert run.beat_at > run.started_at, "who looks sees that its worker lives"


def test_a_check_whose_links_were_taken_over_stops_reading(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(shop, links=1, each=250)
    beat_at_every_page(monkeypatch)
    query = shop.services.wix.query_payments

    def query_and_lose(*arguments: Any, **more: Any) -> Iterator[list[Any]]:
        for page in query(*arguments, **more):
            with shop.services.database.begin() as connection:
                connection.execute(text("UPDATE link_checks SET lease_id = gen_random_uuid()"))
            yield page

    monkeypatch.setattr(shop.services.wix, "query_payments", query_and_lose)

    jobs.run_check(shop.services, shop.instance_id)

    assert shop.one("SELECT reason FROM reconciliation_runs").reason == "taken over by another worker"
    assert shop.one("SELECT count(*) FROM payments").count == 0


def test_a_payment_made_before_we_heard_of_the_shop_is_found_though_a_window_was_swept_by_hand(
    shop: Shop,
) -> None:
    [payment_id] = shop.pay(shop.link())
    shop.deliver(only=lambda event: event.kind is Kind.APP_INSTALLED)
    shop.pass_time(timedelta(hours=47))  # no worker ran
    now = shop.services.now()
    with shop.services.database.begin() as connection:
        sweeps.request(connection, shop.instance_id, now - timedelta(hours=1), now, now)

    shop.sweep()
    for _ in range(2):
        shop.pass_time(timedelta(hours=1))
        shop.sweep()
        shop.check()

    assert shop.one("SELECT payment_id FROM payments").payment_id == payment_id


def test_ids_in_capitals_are_the_same_ids(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.pay(shop.link())
    shop.deliver()
    query = shop.services.wix.query_payments

    def shout(*arguments: Any, **more: Any) -> Iterator[list[Any]]:
        for page in query(*arguments, **more):
            yield [{**one, "paymentLinkId": one["paymentLinkId"].upper(), "amount": 10.0} for one in page]

    monkeypatch.setattr(shop.services.wix, "query_payments", shout)

    shop.check()

    assert shop.open() == ["unreadable_at_wix"]


def test_a_cursor_that_expires_loses_and_doubles_nothing(shop: Shop) -> None:
    many(shop, links=20, each=30)
    shop.sandbox.faults.add({"kind": "expired_cursor", "path": "payments", "count": 3})

    shop.check()

    assert shop.one("SELECT count(*) FROM payments").count == 600
    assert shop.one("SELECT count(*) FROM payment_tellings").count == 600
    assert shop.open() == []


def test_a_link_far_down_the_listing_is_found_all_the_same(shop: Shop) -> None:
    shop.deliver()
    old = [shop.link() for _ in range(8)]
    for _ in range(250):
        shop.link()
    shop.request(*old)

    shop.check()

    known = {row.payment_link_id for row in shop.rows("SELECT payment_link_id FROM payment_links")}
    assert set(old) <= known
