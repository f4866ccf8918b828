"""the queue is read in its order

Revision: 0021, after 0020. A discrepancy keeps from when its age counts, which was looked up at its payment for every row
of every look at the queue: transaction_at of its payment, else its created_at, else when it came up; of a refund that
Wix's total does not show, when the latest refund was made. Checks write it whenever they see it. What is open is read from indexes in the order of that, for all and for one instance, which hold what
filters and sums of the queue ask for; what is closed, in the order in which it was closed. last_seen_at and the like,
which every check writes, are in none of them, so that such an update stays within its page.

An index of write-offs that wait, and one of events that could not be read: both hold few rows, and cost nothing to
whoever writes another.

The release before runs on beside it: what it opens counts from when it came up, until a check of this one sees it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

AT_ONCE = 1_000  # rows of one transaction: checks wait for their locks
ASKED = "type, severity, state, owner, currency, amount_at_risk"
INDEXES = {
    "ix_discrepancies_queue": (
        "discrepancies",
        f"(aged_from, discrepancy_id) INCLUDE (instance_id, {ASKED}) WHERE closed_at IS NULL",
    ),
    "ix_discrepancies_queue_of_instance": (
        "discrepancies",
        f"(instance_id, aged_from, discrepancy_id) INCLUDE ({ASKED}) WHERE closed_at IS NULL",
    ),
    "ix_discrepancies_closed": (
        "discrepancies",
        "(closed_at, discrepancy_id) WHERE closed_at IS NOT NULL",
    ),
    "ix_write_offs_waiting": (
        "write_offs",
        "(discrepancy_id) INCLUDE (instance_id, proposed_by) WHERE status = 'proposed'",
    ),
    "ix_webhook_events_unreadable": (
        "webhook_events",
        "(instance_id, received_at, event_id) WHERE status = 'unreadable'",
    ),
}
BEFORE = {"ix_discrepancies_open": ("discrepancies", "(instance_id, first_seen_at) WHERE closed_at IS NULL")}
DATED = """
    COALESCE(
        CASE WHEN d.type = 'refund_on_order_only' THEN (SELECT max(f.occurred_at) FROM refunds f
            WHERE f.instance_id = d.instance_id AND f.payment_id = d.payment_id AND f.status = 'SUCCEEDED') END,
        (SELECT COALESCE(p.transaction_at, p.created_at) FROM payments p
            WHERE p.instance_id = d.instance_id AND p.payment_id = d.payment_id),
        d.opened_at)"""
# In the order in which checks lock them.
FILL = f"""
    DO $do$
    DECLARE
        last uuid := '00000000-0000-0000-0000-000000000000';
        ids uuid[];
    BEGIN
        LOOP
            ids := ARRAY(SELECT discrepancy_id FROM discrepancies WHERE discrepancy_id > last
                ORDER BY discrepancy_id LIMIT {AT_ONCE} FOR UPDATE);
            EXIT WHEN cardinality(ids) = 0;
            UPDATE discrepancies d SET aged_from = {DATED}
            WHERE d.discrepancy_id = ANY (ids) AND d.aged_from <> {DATED};
            last := ids[cardinality(ids)];
            COMMIT;
        END LOOP;
    END $do$"""
MEANING = (
    "From when its age counts (UTC), as of the check that saw it last: transaction_at of the payment, else its created_at,"
    " else opened_at. Of refund_on_order_only: when the latest refund of the payment was made."
)
MEANING_BEFORE = (
    "From when its age counts (UTC): transaction_at of the payment, else its created_at, else opened_at."
)

AGING = (
    ("under 1 hour", "1 hour"),
    ("under 1 day", "1 day"),
    ("1 to 3 days", "4 days"),
    ("4 to 7 days", "8 days"),
    ("8 to 30 days", "31 days"),
    ("31 to 60 days", "61 days"),
    ("61 to 90 days", "91 days"),
)
# As in 0011, but for the age.
VIEW = """
    CREATE OR REPLACE VIEW report.open_items WITH (security_barrier) AS
    SELECT d.instance_id, a.site_id, d.discrepancy_id, d.type, d.severity, d.state, d.owner, d.payment_link_id,
        d.payment_id, d.sides ->> 'booked' AS booked, d.sides ->> 'wix' AS wix, d.sides, d.amount_at_risk,
        d.currency, d.first_seen_at, d.opened_at, d.last_seen_at, d.times_seen, d.times_reopened,
        {aged_from} AS aged_from, now() AS as_of,
        GREATEST(0, floor(extract(epoch FROM now() - {aged_from}) / 86400))::bigint AS age_days,
        CASE {buckets} ELSE 'over 90 days' END AS aging,
        w.write_off_id IS NOT NULL AS is_write_off_waiting, w.proposed_by AS write_off_proposed_by,
        w.proposed_at AS write_off_proposed_at
    FROM discrepancies d
    LEFT JOIN app_instances a ON a.instance_id = d.instance_id
    {payments}
    LEFT JOIN write_offs w ON w.discrepancy_id = d.discrepancy_id AND w.status = 'proposed'
    {ages}
    WHERE d.closed_at IS NULL
        AND ((SELECT r.sees_all FROM report_reach r)
            OR d.instance_id = ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"""


def upgrade() -> None:
    # The block below commits it without the revision: run again after a failure, this is there.
    op.add_column(
        "discrepancies",
        sa.Column("aged_from", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        if_not_exists=True,
    )
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it but for a thousand rows.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        op.execute(FILL)
        _replace(BEFORE, INDEXES)
        op.execute("SET statement_timeout = '10min'")
        op.execute("SET lock_timeout = '5s'")
    _show("d.aged_from", "", "", MEANING)


def downgrade() -> None:
    _show(
        "o.aged_from",
        "LEFT JOIN payments p ON p.instance_id = d.instance_id AND p.payment_id = d.payment_id",
        "CROSS JOIN LATERAL (SELECT COALESCE(p.transaction_at, p.created_at, d.opened_at) AS aged_from) o",
        MEANING_BEFORE,
    )
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        _replace(INDEXES, BEFORE)
        op.execute("SET lock_timeout = '5s'")
    op.drop_column("discrepancies", "aged_from")


def _show(aged_from: str, payments: str, ages: str, meaning: str) -> None:
    buckets = " ".join(
        f"WHEN now() - {aged_from} < interval '{until}' THEN '{name}'" for name, until in AGING
    )
    op.execute(VIEW.format(aged_from=aged_from, payments=payments, ages=ages, buckets=buckets))
    op.execute(f"COMMENT ON COLUMN report.open_items.aged_from IS '{meaning}'")


def _replace(old: dict[str, tuple[str, str]], new: dict[str, tuple[str, str]]) -> None:
    for name, (table, what) in new.items():
        # What a failure left is no index yet.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {what}")
    for name in old:
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
