"""reports of days read those days

Revision: 0024, after 0023. The reports of payments and of missed webhooks read every payment there is, whichever days they
were asked for. Payments are found by when they are reported now, and those that a poll told of first, and updates that
it did, by when. The latter two indexes hold few rows. The former is entered at its end by nearly every payment. The view
of missed webhooks looks up what was told of each payment, instead of reading all that was ever told.
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_payments_reported": "payments ((COALESCE(transaction_at, created_at, stored_at)))",
    "ix_payments_polled": "payments (stored_at) WHERE first_origin = 'poll'",
    "ix_payment_versions_polled": "payment_versions (told_at) WHERE origin = 'poll' AND verdict = 'newer'",
}
# OFFSET 0 keeps it a look-up for each, whatever the planner believes.
LOOKED_UP = """LEFT JOIN LATERAL (
            SELECT u.revision, u.amount, u.run_id FROM payment_tellings u
            WHERE u.instance_id = p.instance_id AND u.payment_id = p.payment_id AND u.verdict = 'new'
            OFFSET 0) t ON true"""
JOINED = """LEFT JOIN payment_tellings t
            ON t.instance_id = p.instance_id AND t.payment_id = p.payment_id AND t.verdict = 'new'"""
# As in 0015, but for how what was told is found.
VIEW = """
    CREATE OR REPLACE VIEW report.missed_webhooks WITH (security_barrier) AS
    SELECT m.instance_id, a.site_id, m.missed, m.payment_id, m.payment_link_id, m.revision, m.currency, m.amount,
        m.found_amount, m.created_at, m.found_at, m.delay_seconds, m.run_id,
        CASE WHEN m.webhook_received_at IS NULL THEN 'never'
            WHEN m.webhook_received_at > m.found_at THEN 'late' ELSE 'unused' END AS webhook,
        m.webhook_received_at, (SELECT b.recovery FROM payments b
            WHERE b.instance_id = m.instance_id AND b.payment_id = m.payment_id) AS recovery
    FROM (
        SELECT p.instance_id, 'payment' AS missed, p.payment_id, p.payment_link_id, t.revision, p.currency,
            p.amount, t.amount AS found_amount, p.created_at, p.stored_at AS found_at,
            round(extract(epoch FROM p.stored_at - p.created_at))::bigint AS delay_seconds, t.run_id,
            (SELECT min(e.received_at) FROM webhook_events e
                WHERE e.instance_id = p.instance_id AND e.entity_id = p.payment_id AND e.kind = 'payment')
                AS webhook_received_at
        FROM payments p
        {told}
        WHERE p.first_origin = 'poll'
        UNION ALL
        SELECT v.instance_id, 'update', v.payment_id, v.payment_link_id, v.revision, v.currency, NULL, v.amount,
            v.created_at, v.told_at, NULL, v.run_id,
            (SELECT min(e.received_at) FROM payment_versions w
                JOIN webhook_events e ON e.event_id = w.event_id AND e.instance_id = w.instance_id
                WHERE w.instance_id = v.instance_id AND w.payment_id = v.payment_id
                    AND w.revision >= v.revision)
        FROM payment_versions v WHERE v.origin = 'poll' AND v.verdict = 'newer'
    ) m
    LEFT JOIN app_instances a ON a.instance_id = m.instance_id
    WHERE ((SELECT r.sees_all FROM report_reach r) OR m.instance_id =
        ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        for name, what in INDEXES.items():
            # What a failure left is no index yet.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {what}")
        op.execute("SET statement_timeout = '10min'")
        op.execute("SET lock_timeout = '5s'")
    op.execute(VIEW.format(told=LOOKED_UP))


def downgrade() -> None:
    op.execute(VIEW.format(told=JOINED))
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '5s'")
