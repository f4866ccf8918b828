"""listings are matched in parts

Revision: 0003, after 0002. Only adds a table, so the release before runs on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "listed_payments",
        sa.Column("lease_id", sa.Uuid(), nullable=False),
        sa.Column("payment_link_id", sa.Uuid(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("is_listed", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.Numeric(precision=19, scale=3), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("transaction_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("receipt_id", sa.Uuid(), nullable=True),
        sa.Column("ecom_checkout_id", sa.Text(), nullable=True),
        sa.Column("ecom_order_id", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("payment_method", sa.Text(), nullable=True),
        sa.Column("payment_provider", sa.Text(), nullable=True),
        sa.Column("rest", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("personal", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(revision, amount, currency) = CASE WHEN is_listed AND reason IS NULL THEN 3 ELSE 0 END",
            name=op.f("ck_listed_payments_facts_when_read"),
        ),
        sa.CheckConstraint("is_listed OR reason IS NULL", name=op.f("ck_listed_payments_reason_when_listed")),
        sa.PrimaryKeyConstraint("lease_id", "payment_link_id", "payment_id", name=op.f("pk_listed_payments")),
        prefixes=["UNLOGGED"],
    )
    # Rows live for one check: what they leave behind must be swept up long before a fifth of the table is dead.
    op.execute(
        "ALTER TABLE listed_payments SET (autovacuum_vacuum_scale_factor = 0.05,"
        " autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)"
    )


def downgrade() -> None:
    op.drop_table("listed_payments")
