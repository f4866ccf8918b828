"""refunds

Revision: 0016, after 0015. Refunds as events of the order side tell of them, and an index of such events that wait to be
read. The intake stores them as it did.

The index is built beside the traffic, before anything else; run again after a failure, it begins anew. The release
before runs on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INDEX = "ix_webhook_events_unread_refunds"
UNREAD = (
    "status = 'ignored' AND event_type IN ('wix.payments.refunds.v1.refund_created',"
    " 'wix.payments.refunds.v1.refund_updated')"
)
CHECKS = {
    "amount_not_negative": "amount >= 0",
    "currency_is_a_code": "currency ~ '^[A-Z]{3}$'",
    "reason_without_amount": "(amount IS NULL) = (reason IS NOT NULL)",
    "amount_has_currency": "amount IS NULL OR currency IS NOT NULL",
}


def upgrade() -> None:
    # First, since what comes before it is committed without the revision.
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        # What a failure left is no index yet.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX}"
            f" ON webhook_events (instance_id, received_at) WHERE {UNREAD}"
        )
        op.execute("SET lock_timeout = '5s'")
    op.create_table(
        "refunds",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("refund_id", sa.Uuid(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.Numeric(19, 3), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "refund_id", name=op.f("pk_refunds")),
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_refunds_{name}"))
            for name, condition in CHECKS.items()
        ),
    )
    op.create_index("ix_refunds_payment", "refunds", ["instance_id", "payment_id"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name="webhook_events")
    op.drop_table("refunds")
