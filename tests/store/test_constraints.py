"""Rows that cannot be are refused by a constraint with a name."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import CheckConstraint, insert, text
from sqlalchemy.exc import IntegrityError

from processor.domain.access import Reach, Role
from processor.domain.discrepancy import Difference, DiscrepancyType, ProposeWriteOff, Reason
from processor.domain.rerun import Piece
from processor.domain.rules import BUILT_IN
from processor.domain.silence import Look
from processor.errors import Unreadable
from processor.store import (
    accounts,
    actions,
    backfills,
    checks,
    creations,
    discrepancies,
    inbox,
    links,
    matching,
    refunds,
    rules,
    run_evidence,
    runs,
    sends,
    silences,
)
from processor.store.database import Database
from processor.store.tables import Base, TokenArchive, report_readers
from tests.builders import INSTANCE, LINK, NOW, make_link, make_refund, make_seen, payment_claims
from tests.store.helpers import install, receive

SHORT = "'\\x00'::bytea"
# What makes a valid row impossible, by the constraint that must refuse it.
IMPOSSIBLE = {
    "ck_alert_channels_channel": "channel = 'pigeon'",
    "ck_alert_channels_failures_not_negative": "failures = -1",
    "ck_alert_deliveries_channel": "channel = 'pigeon'",
    "ck_alert_deliveries_counts_not_negative": "attempts = -1",
    "ck_alert_deliveries_due_while_waiting": "due_at = NULL",
    "ck_alert_deliveries_ended_when_not_waiting": "ended_at = now()",
    "ck_alert_deliveries_kind": "kind = 'gossip'",
    "ck_alert_deliveries_lease_whole": "lease_id = gen_random_uuid()",
    "ck_alert_deliveries_status": "status = 'lost', due_at = NULL, ended_at = now()",
    "ck_alert_routes_channel": "channel = 'pigeon'",
    "ck_alerts_kind": "kind = 'gossip'",
    "ck_alerts_severity": "severity = 'meh'",
    "ck_wix_outages_ended_after_begin": "ended_at = since - interval '1 s'",
    "ck_backfills_counts_not_negative": "payment_count = -1",
    "ck_backfills_due_until_ended": "finished_at = now()",
    "ck_backfills_lease_whole": "lease_until = now()",
    "ck_backfills_position_in_window": "position_at = window_from - interval '1 s'",
    "ck_backfills_reason": "reason = 'boredom'",
    "ck_backfills_window_in_order": "window_to = window_from",
    "ck_counters_value_not_negative": "value = -1",
    "ck_rejected_deliveries_body_digest_is_sha256": f"body_digest = {SHORT}",
    "ck_rejected_deliveries_delivery_count_positive": "delivery_count = 0",
    "ck_rejection_counts_delivery_count_positive": "delivery_count = 0",
    "ck_refunds_amount_has_currency": "currency = NULL",
    "ck_refunds_amount_not_negative": "amount = -1",
    "ck_refunds_currency_is_a_code": "currency = 'usd'",
    "ck_refunds_reason_without_amount": "reason = 'amount_too_fine'",
    "ck_report_readers_role_name_length": "role_name = ''",
    "ck_token_archives_event_count_not_negative": "event_count = -1",
    "ck_token_archives_file_digest_is_sha256": f"file_digest = {SHORT}",
    "ck_unread_deliveries_delivery_count_positive": "delivery_count = 0",
    "ck_unread_deliveries_token_digest_is_sha256": f"token_digest = {SHORT}",
    "ck_link_checks_checked_within_wanted": "checked = wanted + 1",
    "ck_link_checks_counts_not_negative": "attempt = -1",
    "ck_link_checks_lease_whole": "lease_id = gen_random_uuid()",
    "ck_link_checks_wanted_is_due": "wanted = 1, checked = 0, due_at = NULL",
    "ck_listed_payments_facts_when_read": "amount = NULL",
    "ck_listed_payments_reason_when_listed": "is_listed = false, reason = 'odd', revision = NULL, amount = NULL,"
    " currency = NULL",
    "ck_payment_links_currency_is_a_code": "currency = 'usd'",
    "ck_payments_amount_not_negative": "amount = -0.001",
    "ck_payments_changed_after_stored": "changed_at = stored_at - interval '1 s'",
    "ck_payments_currency_is_a_code": "currency = 'DOLLAR'",
    "ck_payments_first_origin": "first_origin = 'rumour'",
    "ck_payments_last_verdict": "last_verdict = 'maybe'",
    "ck_payments_match_state": "match_state = 'perhaps'",
    "ck_payments_one_source": "run_id = gen_random_uuid()",
    "ck_payments_origin": "origin = 'rumour'",
    "ck_payments_recovery": "recovery = 'luck'",
    "ck_payments_revision_not_negative": "revision = -1",
    "ck_reconciliation_runs_finished_when_not_running": "finished_at = now()",
    "ck_reconciliation_runs_kind": "kind = 'guess'",
    "ck_reconciliation_runs_reason_when_failed": "reason = 'none'",
    "ck_reconciliation_runs_result_digest_is_sha256": f"result_digest = {SHORT}",
    "ck_reconciliation_runs_result_is_reproducible": "result_digest = sha256('')",
    "ck_reconciliation_runs_status": "status = 'lost', finished_at = now()",
    "ck_listening_patience_positive": "patience_seconds = 0",
    "ck_silences_confirmed_when_silent": "confirmed_at = now()",
    "ck_silences_counts_not_negative": "failures = -1",
    "ck_silences_due_while_in_doubt": "due_at = NULL",
    "ck_silences_end_reason": "end_reason = 'boredom', ended_at = silent_since, due_at = NULL",
    "ck_silences_end_whole": "end_reason = 'event'",
    "ck_silences_ended_after_begin": (
        "ended_at = silent_since - interval '1 s', end_reason = 'event', due_at = NULL"
    ),
    "ck_silences_lease_whole": "lease_until = now()",
    "ck_silences_silent_by_payments": "payments_found = 1",
    "ck_silences_verdict": "verdict = 'loud', verified_at = now()",
    "ck_silences_verified_when_judged": "verified_at = now()",
    "ck_accounts_auditors_change_nothing": "roles = '{auditor,clerk}'",
    "ck_accounts_password_whole": "password_hash = 'x'",
    "ck_accounts_person": "name = 'Automation'",
    "ck_accounts_roles": "roles = '{king}'",
    "ck_link_sends_door": "door = 'window'",
    "ck_link_sends_outcome": "outcome = 'lost', answered_at = now()",
    "ck_link_sends_somebody": "contact_ids = '{}'",
    "ck_link_sends_answered_when_decided": "answered_at = now()",
    "ck_link_sends_reason_when_not_sent": "reason = 'x'",
    "ck_actions_actor_whole": "actor = NULL",
    "ck_actions_status_possible": "status = 99",
    "ck_sessions_ended_after_begin": "ended_at = begun_at - interval '1 s'",
    "ck_sessions_seen_after_begin": "seen_at = begun_at - interval '1 s'",
    "ck_sessions_token_digest_is_sha256": f"token_digest = {SHORT}",
    "ck_run_evidence_part_positive": "part = 0",
    "ck_sweeps_failures_not_negative": "failures = -1",
    "ck_sweeps_lease_whole": "lease_until = now()",
    "ck_sweeps_position_in_window": (
        "window_from = now(), window_to = now(), position_at = now() - interval '1 s'"
    ),
    "ck_sweeps_window_whole": "window_from = now()",
    "ck_webhook_events_conflict_count_possible": "conflict_count = delivery_count + 1",
    "ck_webhook_events_content_digest_is_sha256": f"content_digest = {SHORT}",
    "ck_webhook_events_delivery_count_positive": "delivery_count = 0",
    "ck_webhook_events_kind": "kind = 'gossip'",
    "ck_webhook_events_last_received_after_first": "last_received_at = received_at - interval '1 s'",
    "ck_webhook_events_reason_when_unreadable": "reason = 'odd'",
    "ck_webhook_events_status": "status = 'lost'",
    "ck_webhook_events_token_digest_is_sha256": f"token_digest = {SHORT}",
    "ck_webhook_events_token_until_erased": "token = 'a.b.c', erased_at = now()",
    "ck_discrepancies_amount_has_currency": "amount_at_risk = 1, currency = NULL",
    "ck_discrepancies_closed_when_decided": "state = 'resolved'",
    "ck_discrepancies_last_seen_after_first": "last_seen_at = first_seen_at - interval '1 s'",
    "ck_discrepancies_reason": "reason = 'whim'",
    "ck_discrepancies_reason_when_closed": "reason = 'fee'",
    "ck_discrepancies_rules_of_a_version": "rules = 'cents'",
    "ck_discrepancies_times_reopened_not_negative": "times_reopened = -1",
    "ck_discrepancy_steps_amount_of_a_write_off": "amount = NULL",
    "ck_discrepancy_steps_automation_is_a_run": "actor = 'automation', run_id = NULL",
    "ck_discrepancy_steps_evidence_when_added": "evidence = 'https://example.com'",
    "ck_discrepancy_steps_kind": "kind = 'forgotten', amount = NULL",
    "ck_discrepancy_steps_reason": "reason = 'whim'",
    "ck_discrepancy_steps_state": "state = 'forgotten'",
    "ck_rule_set_endings_kind": "kind = 'lost'",
    "ck_rule_set_endings_person": "ended_by = 'Automation'",
    "ck_rule_set_endings_reason_when_rejected": "reason = NULL",
    "ck_rule_set_endings_two_persons": "ended_by = 'Ada'",
    "ck_rule_set_approvals_person": "approved_by = 'Automation'",
    "ck_rule_set_approvals_two_persons": "approved_by = 'Ada'",
    "ck_write_offs_amount_has_currency": "amount = 1, currency = NULL",
    "ck_write_offs_amount_not_negative": "amount = -1, currency = 'USD'",
    "ck_write_offs_approval_whole": "status = 'approved', approved_at = now()",
    "ck_write_offs_approved_when_so": "status = 'approved'",
    "ck_write_offs_end_whole": "ended_at = now()",
    "ck_write_offs_ended_when_so": "status = 'rejected'",
    "ck_write_offs_persons": "proposed_by = 'automation'",
    "ck_write_offs_reason": "reason = 'whim'",
    "ck_write_offs_status": "status = 'forgotten', ended_by = 'ada', ended_at = now()",
    "ck_write_offs_two_persons": ("status = 'approved', approved_by = 'Ada', approved_at = now()"),
    "ck_discrepancies_resolution_when_closed": "resolution = 'done'",
    "ck_discrepancies_severity": "severity = 'meh'",
    "ck_discrepancies_state": "state = 'forgotten'",
    "ck_discrepancies_times_seen_positive": "times_seen = 0",
    "ck_link_creations_asked_in_order": "last_asked_at = first_asked_at - interval '1 s'",
    "ck_link_creations_digest_is_sha256": f"digest = {SHORT}",
    "ck_link_creations_finished_when_decided": "finished_at = now()",
    "ck_link_creations_lease_is_whole": "lease_id = NULL",
    "ck_link_creations_lease_when_at_it": "lease_id = NULL, lease_until = NULL",
    "ck_link_creations_link_when_created": "payment_link_id = gen_random_uuid()",
    "ck_link_creations_reason_when_refused": "reason = 'no'",
    "ck_link_creations_reference_length": "reference = ''",
    "ck_link_creations_status": "status = 'dreamt', lease_id = NULL, lease_until = NULL",
    "ck_payment_buyers_personal_until_erased": "personal = NULL",
    "ck_payment_versions_amount_not_negative": "amount = -1",
    "ck_payment_versions_one_source": "event_id = NULL",
    "ck_payment_versions_origin": "origin = 'rumour'",
    "ck_payment_versions_revision_not_negative": "revision = -1",
    "ck_payment_versions_verdict": "verdict = 'maybe'",
    "ck_webhook_event_conflicts_content_digest_is_sha256": f"content_digest = {SHORT}",
    "ck_webhook_event_conflicts_delivery_count_positive": "delivery_count = 0",
    "ck_webhook_event_conflicts_token_until_erased": "token = NULL",
}
TABLE_OF = {
    str(constraint.name): table.name
    for table in Base.metadata.sorted_tables
    for constraint in table.constraints
    if isinstance(constraint, CheckConstraint)
}


def fill(database: Database) -> None:
    """A valid row in every table."""
    install(database)
    event_id = str(uuid4())
    receive(database, payment_claims({"id": event_id}))
    receive(database, payment_claims({"id": event_id}, amount="12.00"))
    receive(database, payment_claims({"id": str(uuid4())}))  # the same payment told again
    with database.begin() as connection:
        inbox.keep_unread(connection, token="a.b.c", token_digest=b"x" * 32, why=Unreadable("r"), now=NOW)
        inbox.keep_refused(connection, inbox.Refused({"r": 1}, {b"y" * 32: "r"}), NOW)
        runs.count(connection, "jobs", {"x": 1})
        checks.drain(connection, NOW)
        links.save(connection, [], NOW)
        matching.write(connection, INSTANCE, uuid4(), [make_seen()])
        since = NOW - timedelta(days=1)
        backfills.request(connection, INSTANCE, since, NOW, reason="requested", actor="ada", now=NOW)
        silences.listen(connection, NOW)
        suspicion = Look(NOW, timedelta(hours=2), is_suspect=True, look_at=NOW)
        looked = [silences.Looked(one, suspicion) for one in silences.due(connection, NOW)]
        silences.suspect(connection, looked, NOW)
        run_id = runs.start(connection, INSTANCE, "check", NOW)
        run_evidence.write(connection, run_id, INSTANCE, [Piece(payment_link_id=LINK, part=1, document={})])
        difference = Difference(type=DiscrepancyType.TOTAL_DIFFERS, payment_link_id=LINK)
        discrepancies.note(connection, INSTANCE, [difference], run_id=run_id, now=NOW)
        found = connection.execute(text("SELECT discrepancy_id FROM discrepancies")).scalars().all()
        [held] = discrepancies.lock(connection, found)
        propose = ProposeWriteOff(Reason.FEE)
        discrepancies.act(connection, held, propose, actor="ada", rules=BUILT_IN, now=NOW)
        version = rules.add(connection, BUILT_IN.rule_set, created_by="ada", comment=None, now=NOW)
        rules.approve(connection, version, approved_by="grace", now=NOW)
        version = rules.add(connection, BUILT_IN.rule_set, created_by="ada", comment=None, now=NOW)
        rules.end(connection, version, "rejected", ended_by="grace", reason="why", now=NOW)
        connection.execute(text("INSERT INTO alert_channels (channel) VALUES ('mail')"))
        connection.execute(
            text("INSERT INTO alert_routes (alert_id, channel) SELECT alert_id, 'mail' FROM alerts")
        )
        connection.execute(
            text(
                "INSERT INTO alert_deliveries (delivery_id, channel, kind, document, alert_count, status, made_at,"
                " waiting_since, due_at)"
                " VALUES (gen_random_uuid(), 'mail', 'test', '{}', 0, 'waiting', :now, :now, :now)"
            ),
            {"now": NOW},
        )
        connection.execute(
            text("INSERT INTO wix_outages (instance_id, since, told_at) VALUES (:instance_id, :now, :now)"),
            {"instance_id": INSTANCE, "now": NOW},
        )
        hold = creations.Hold(INSTANCE, "r1", uuid4())
        until = NOW + timedelta(minutes=1)
        creations.begin(connection, hold, request={}, digest=b"z" * 32, now=NOW, until=until)
        connection.execute(
            insert(TokenArchive).values(
                month=NOW.date(),
                partition="p",
                file_name="f",
                file_digest=b"d" * 32,
                event_count=0,
                archived_at=NOW,
            )
        )
        connection.execute(insert(report_readers).values(role_name="auditor"))
        refund = make_refund()
        refunds.save(connection, {(refund.instance_id, refund.refund_id): (refund, uuid4())}, NOW)
        account_id = accounts.add(
            connection,
            "ada",
            [Role.CLERK],
            reach=Reach(frozenset({INSTANCE})),
            sees_personal=False,
            password_hash=None,
            oidc_subject="https://id.example.com ada",
            now=NOW,
        )
        accounts.begin_session(connection, account_id, b"t" * 32, NOW)
        account = accounts.of_subject(connection, "https://id.example.com ada")
        actions.note(connection, account, "payments.index", request_id="r", now=NOW)
        sends.begin(
            connection,
            INSTANCE,
            LINK,
            reference=uuid4(),
            actor="ada",
            door="page",
            contact_ids=["c"],
            methods=[],
            now=NOW,
        )
        link = make_link()
        connection.execute(
            text(
                "INSERT INTO payment_links (instance_id, payment_link_id, currency, seen_at)"
                " VALUES (:instance_id, :link_id, 'USD', :now)"
            ),
            {"instance_id": link.instance_id, "link_id": link.payment_link_id, "now": NOW},
        )


def test_every_constraint_has_an_impossible_row_here() -> None:
    assert set(IMPOSSIBLE) == set(TABLE_OF)


def test_impossible_rows_are_refused_by_name(database: Database) -> None:
    fill(database)

    def make_impossible(name: str) -> None:
        with database.begin() as connection:
            # An append-only table would refuse the update before its constraints see it.
            connection.execute(text(f"ALTER TABLE {TABLE_OF[name]} DISABLE TRIGGER USER"))
            connection.execute(text(f"UPDATE {TABLE_OF[name]} SET {IMPOSSIBLE[name]}"))

    for name in IMPOSSIBLE:
        with pytest.raises(IntegrityError, match=f'"{name}"'):
            make_impossible(name)
