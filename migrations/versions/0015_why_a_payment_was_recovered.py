"""why a payment was recovered

Revision: 0015, after 0014. Why a check had to book a payment or move it forward, and the status a link had before its
present one. The report of missed webhooks says the former.

It only adds; the release before runs on beside it, and what it recovers meanwhile is noted at the next check of the link.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

RECOVERY = "recovery IN ('webhook_missed', 'webhook_late', 'update_unannounced')"
CONSTRAINT = "ck_payments_recovery"
MEANING = (
    "Why the payment had to be recovered, as far as is known by now. webhook_missed: no webhook told of it. webhook_late:"
    " its webhook came after the poll. update_unannounced: no webhook told of a change that a poll found. NULL until the"
    " link is checked again where a release before recovered it."
)
# As in 0010, but for the last column.
VIEW = """
    CREATE OR REPLACE VIEW report.missed_webhooks WITH (security_barrier) AS
    SELECT m.instance_id, a.site_id, m.missed, m.payment_id, m.payment_link_id, m.revision, m.currency, m.amount,
        m.found_amount, m.created_at, m.found_at, m.delay_seconds, m.run_id,
        CASE WHEN m.webhook_received_at IS NULL THEN 'never'
            WHEN m.webhook_received_at > m.found_at THEN 'late' ELSE 'unused' END AS webhook,
        m.webhook_received_at, {recovery} AS recovery
    FROM (
        SELECT p.instance_id, 'payment' AS missed, p.payment_id, p.payment_link_id, t.revision, p.currency,
            p.amount, t.amount AS found_amount, p.created_at, p.stored_at AS found_at,
            round(extract(epoch FROM p.stored_at - p.created_at))::bigint AS delay_seconds, t.run_id,
            (SELECT min(e.received_at) FROM webhook_events e
                WHERE e.instance_id = p.instance_id AND e.entity_id = p.payment_id AND e.kind = 'payment')
                AS webhook_received_at
        FROM payments p
        LEFT JOIN payment_tellings t
            ON t.instance_id = p.instance_id AND t.payment_id = p.payment_id AND t.verdict = 'new'
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
RECOVERY_OF = (
    "(SELECT b.recovery FROM payments b WHERE b.instance_id = m.instance_id AND b.payment_id = m.payment_id)"
)


def upgrade() -> None:
    # Validating commits what comes before it without the revision: run again after a failure, this is there.
    for table, column in (
        ("payment_links", sa.Column("previous_status", sa.Text(), nullable=True)),
        ("payment_links", sa.Column("status_changed_at", sa.DateTime(timezone=True), nullable=True)),
        ("payments", sa.Column("recovery", sa.Text(), nullable=True)),
    ):
        op.add_column(table, column, if_not_exists=True)
    op.execute(
        "-- squawk-ignore ban-drop-constraint\n"
        f"ALTER TABLE payments DROP CONSTRAINT IF EXISTS {CONSTRAINT},"
        f" ADD CONSTRAINT {CONSTRAINT} CHECK ({RECOVERY}) NOT VALID"
    )
    op.execute(VIEW.format(recovery=RECOVERY_OF))
    op.execute(f"COMMENT ON COLUMN report.missed_webhooks.recovery IS '{MEANING}'")
    with op.get_context().autocommit_block():
        op.execute(
            f"-- squawk-ignore prefer-robust-stmts\nALTER TABLE payments VALIDATE CONSTRAINT {CONSTRAINT}"
        )


def downgrade() -> None:
    # The column of the view stays, empty: made anew, the view would lose who may read it.
    op.execute(VIEW.format(recovery="NULL::text"))
    op.drop_column("payments", "recovery")
    op.drop_column("payment_links", "status_changed_at")
    op.drop_column("payment_links", "previous_status")
