"""Books of a year for the pages: a million payments with all that hangs on them, by SQL and alike in every run."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

INSTANCES = 40
PAYMENTS_TO_A_LINK = 10
OPEN_PER_MILLION = 45_000  # discrepancies that are open, and as many that were closed
RUNS_PER_MILLION = 60_000
CHUNK = 100_000

# Half of the payments are of the first instance and the rest spread over the others. A tenth is of 20 links that are
# paid all the time, the rest of links that are each paid for a few days. What is of one link is of one instance.
_INSTANCES = """
    INSERT INTO app_instances (instance_id, site_id, first_seen_at, installed_at, removed_at)
    SELECT md5('instance' || n)::uuid, md5('site' || n)::uuid, %(now)s - interval '400 days',
        %(now)s - interval '400 days', CASE WHEN n = 7 THEN %(now)s - interval '3 days' END
    FROM generate_series(0, %(instances)s - 1) n"""
_LINKS = """
    INSERT INTO payment_links (instance_id, payment_link_id, revision, title, currency, type, status, payment_count,
        total_amount, created_at, seen_at)
    SELECT md5('instance' || CASE WHEN n % 2 = 0 THEN 0 ELSE n / 2 % %(instances)s END)::uuid,
        md5('link' || n)::uuid, 1, 'Order of ' || (ARRAY['lamps', 'tables', 'chairs', 'rugs'])[n % 4 + 1] || ' ' || n,
        (ARRAY['USD', 'USD', 'USD', 'EUR', 'EUR', 'GBP', 'JPY'])[n % 7 + 1],
        CASE WHEN n % 3 = 0 THEN 'CATALOG' ELSE 'CUSTOM' END,
        CASE WHEN n % 50 = 9 THEN 'INACTIVE' ELSE 'ACTIVE' END, %(per_link)s, 1000,
        %(now)s - interval '365 days' * (1 - n::float8 / %(links)s), %(now)s
    FROM generate_series(0, %(links)s - 1) n"""
_PAYMENTS = """
    INSERT INTO payments (instance_id, payment_id, revision, payment_link_id, amount, currency, type, created_at,
        transaction_at, method, payment_method, payment_provider, receipt_id, ecom_order_id, first_origin, origin,
        event_id, run_id, stored_at, changed_at, last_verdict, last_told_at, match_state, matched_at, recovery)
    SELECT md5('instance' || CASE WHEN link % 2 = 0 THEN 0 ELSE link / 2 % %(instances)s END)::uuid,
        md5('payment' || n)::uuid, 1, md5('link' || link)::uuid, (n * 7919 % 100000 + 100)::numeric / 100,
        (ARRAY['USD', 'USD', 'USD', 'EUR', 'EUR', 'GBP', 'JPY'])[link % 7 + 1],
        CASE WHEN n % 40 = 3 THEN 'GIFT_CARD' ELSE 'REGULAR' END,
        CASE WHEN n % 2000 <> 9 THEN at END, CASE WHEN n % 10 <> 1 THEN at - interval '1 second' END,
        CASE n % 5 WHEN 0 THEN 'PAY_PAL' ELSE 'CREDIT_CARD' END, 'creditCard', 'Wix Payments',
        md5('receipt' || n)::uuid, md5('order' || n), CASE WHEN n % 200 = 5 THEN 'poll' ELSE 'webhook' END,
        CASE WHEN n % 200 = 5 THEN 'poll' ELSE 'webhook' END, CASE WHEN n % 200 <> 5 THEN md5('event' || n)::uuid END,
        CASE WHEN n % 200 = 5 THEN md5('run' || n % %(runs)s)::uuid END, at + interval '2 seconds',
        at + interval '2 seconds', 'new', at + interval '2 seconds',
        CASE WHEN n > %(payments)s - 200 THEN NULL WHEN n % 22 = 3 THEN 'discrepant' ELSE 'matched' END, at,
        CASE WHEN n % 200 = 5 THEN 'webhook_missed' WHEN n % 5000 = 6 THEN 'webhook_late' END
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    CROSS JOIN LATERAL (SELECT
        (CASE WHEN n % 10 = 0 THEN n / 10 % 20
            ELSE abs(n * %(links)s / (%(payments)s + 1) + n % 10 - 10) END)::int AS link,
        %(now)s - interval '365 days' * (1 - n::float8 / %(payments)s) AS at) v"""
_EVENTS = """
    INSERT INTO webhook_events (event_id, instance_id, event_type, kind, slug, entity_id, entity_sequence,
        payment_link_id, occurred_at, issued_at, received_at, last_received_at, delivery_count, conflict_count, status,
        reason, is_anonymization, content_digest, token_digest)
    SELECT md5('event' || n)::uuid, p.instance_id, 'wix.paymentlinks.payments.v1.payment_link_payment_created',
        'payment', 'created', p.payment_id, 1, p.payment_link_id, p.stored_at, p.stored_at, p.stored_at, p.stored_at,
        CASE WHEN n % 50 = 0 THEN 2 ELSE 1 END, 0, CASE WHEN n % 20000 = 17 THEN 'unreadable' ELSE 'recorded' END,
        CASE WHEN n % 20000 = 17 THEN 'amount' END, false, sha256('a'), sha256('a')
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
    JOIN payments p ON p.payment_id = md5('payment' || n)::uuid"""
_BESIDE = (
    """INSERT INTO link_checks (instance_id, payment_link_id, wanted, checked, due_at, last_checked_at)
       SELECT instance_id, payment_link_id, 2, 2, NULL, %(now)s - interval '1 hour' FROM payment_links""",
    """INSERT INTO sweeps (instance_id, due_at, swept_to, finished_at)
       SELECT instance_id, %(now)s, t, t
       FROM app_instances CROSS JOIN LATERAL (SELECT %(now)s - interval '15 minutes' AS t) s""",
    """INSERT INTO reconciliation_runs (run_id, instance_id, kind, status, started_at, finished_at, link_count, matched,
           sums, code_version, actor)
       SELECT md5('run' || n)::uuid, md5('instance' || n % %(instances)s)::uuid,
           CASE WHEN n % 10 = 0 THEN 'sweep' ELSE 'check' END, 'succeeded', at, at + interval '1 second', 5, 50,
           '{"USD": {"booked": "10.00", "booked_count": 1, "wix": "10.00", "wix_count": 1}}', 'made', 'automation'
       FROM generate_series(0, %(runs)s - 1) n
       CROSS JOIN LATERAL (SELECT %(now)s - interval '365 days' * (1 - n::float8 / %(runs)s) AS at) t""",
    """INSERT INTO discrepancies (discrepancy_id, instance_id, type, severity, state, payment_link_id, payment_id,
           sides, amount_at_risk, currency, first_seen_at, last_seen_at, opened_at, aged_from, first_run_id,
           last_run_id, closed_at, resolution, reason, owner)
       SELECT md5('discrepancy' || n)::uuid, p.instance_id,
           (ARRAY['amount_differs', 'missing_at_wix', 'payment_without_event', 'status_differs'])[n % 4 + 1], 'error',
           CASE WHEN is_closed THEN 'resolved' WHEN n % 9 = 0 THEN 'investigating' ELSE 'open' END, p.payment_link_id,
           p.payment_id, '{"booked": "1.00", "wix": "2.00"}', p.amount, p.currency, p.stored_at, p.stored_at,
           p.stored_at, COALESCE(p.transaction_at, p.created_at, p.stored_at), r.run_id, r.run_id,
           CASE WHEN is_closed THEN p.stored_at + interval '2 days' END,
           CASE WHEN is_closed THEN 'no longer differs' END, CASE WHEN is_closed THEN 'caught_up' END,
           CASE WHEN n % 30 = 4 THEN 'maya' END
       FROM generate_series(0, 2 * %(open)s - 1) n
       CROSS JOIN LATERAL (SELECT n % 2 = 1 AS is_closed, n::bigint * %(payments)s / (2 * %(open)s) + 1 AS paid) v
       JOIN payments p ON p.payment_id = md5('payment' || paid)::uuid
       CROSS JOIN (SELECT md5('run0')::uuid AS run_id) r""",
    """INSERT INTO discrepancy_steps (discrepancy_id, instance_id, at, kind, actor, run_id, state, severity, sides,
           amount_at_risk, currency, reason)
       SELECT d.discrepancy_id, d.instance_id, CASE k WHEN 'opened' THEN d.opened_at ELSE d.closed_at END, k,
           'automation', d.first_run_id, CASE k WHEN 'opened' THEN 'open' ELSE 'resolved' END, 'error', d.sides,
           d.amount_at_risk, d.currency, CASE k WHEN 'resolved' THEN 'caught_up' END
       FROM discrepancies d CROSS JOIN unnest(ARRAY['opened', 'resolved']) k
       WHERE k = 'opened' OR d.closed_at IS NOT NULL
       ORDER BY CASE k WHEN 'opened' THEN d.opened_at ELSE d.closed_at END""",
    """INSERT INTO write_offs (write_off_id, discrepancy_id, instance_id, amount, currency, reason, status, proposed_by,
           proposed_at)
       SELECT gen_random_uuid(), discrepancy_id, instance_id, amount_at_risk, currency, 'fee', 'proposed', 'maya',
           %(now)s
       FROM discrepancies WHERE closed_at IS NULL ORDER BY discrepancy_id LIMIT 100""",
)


def instance_id(number: int) -> str:
    """Of the app instance of this number."""
    return _md5(f"instance{number}")


def link_id(number: int) -> str:
    """Of the payment link of this number; those below 20 are paid all the time, and the even ones are of instance 0."""
    return _md5(f"link{number}")


def _md5(text: str) -> str:
    return str(UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()))


def fill(connection: psycopg.Connection, payments: int, now: datetime) -> dict[str, int]:
    """Fill a database that was only migrated. Returns what there is, by what it is called."""
    values: dict[str, Any] = {
        "now": now,
        "instances": INSTANCES,
        "payments": payments,
        "links": payments // PAYMENTS_TO_A_LINK,
        "per_link": PAYMENTS_TO_A_LINK,
        "runs": max(100, payments * RUNS_PER_MILLION // 1_000_000),
        "open": payments * OPEN_PER_MILLION // 1_000_000,
    }

    def run(statement: str, **more: int) -> None:
        # Remainders are written with one percent sign.
        connection.execute(re.sub(r"%(?!\()", "%%", statement), values | more)

    for setting in ("session_replication_role = replica", "synchronous_commit = off", "work_mem = '256MB'"):
        connection.execute(f"SET {setting}")
    run(_INSTANCES)
    run(_LINKS)
    chunks = [(first, min(first + CHUNK, payments + 1) - 1) for first in range(1, payments + 1, CHUNK)]
    for first, last in chunks:
        run(_PAYMENTS, first=first, last=last)
    connection.execute("CREATE INDEX filling ON payments (payment_id)")
    connection.execute("ANALYZE payments")
    for first, last in chunks:
        run(_EVENTS, first=first, last=last)
    for statement in _BESIDE:
        run(statement)
    connection.execute("DROP INDEX filling")
    connection.execute("VACUUM (ANALYZE)")
    connection.execute("CHECKPOINT")
    counted = {}
    for what, table in _COUNTED.items():
        [[counted[what]]] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608
    return counted


_COUNTED = {
    "payments": "payments",
    "webhook events": "webhook_events",
    "payment links": "payment_links",
    "open discrepancies": "discrepancies WHERE closed_at IS NULL",
    "closed ones": "discrepancies WHERE closed_at IS NOT NULL",
    "runs": "reconciliation_runs",
    "app instances": "app_instances",
}


def one_instance(connection: psycopg.Connection, now: datetime) -> str:
    """An app instance to which nothing happened; its id."""
    [[found]] = connection.execute(
        "INSERT INTO app_instances (instance_id, first_seen_at, installed_at) VALUES (gen_random_uuid(), %s, %s)"
        " RETURNING instance_id",
        [now, now],
    ).fetchall()
    return str(found)
