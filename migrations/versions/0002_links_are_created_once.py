"""links are created once

Revision: 0002, after 0001. Only adds a table, so the release before runs on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "link_creations",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("payment_link_id", sa.Uuid(), nullable=True),
        sa.Column("first_asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('asking', 'looking', 'unclear', 'created', 'refused')",
            name=op.f("ck_link_creations_status"),
        ),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_link_creations_digest_is_sha256")),
        sa.CheckConstraint(
            "length(reference) BETWEEN 1 AND 100", name=op.f("ck_link_creations_reference_length")
        ),
        sa.CheckConstraint(
            "(status = 'created') = (payment_link_id IS NOT NULL)",
            name=op.f("ck_link_creations_link_when_created"),
        ),
        sa.CheckConstraint(
            "(status = 'refused') = (reason IS NOT NULL)", name=op.f("ck_link_creations_reason_when_refused")
        ),
        sa.CheckConstraint(
            "(status IN ('asking', 'looking')) = (lease_until IS NOT NULL)",
            name=op.f("ck_link_creations_lease_when_at_it"),
        ),
        sa.CheckConstraint(
            "(lease_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_link_creations_lease_is_whole")
        ),
        sa.CheckConstraint(
            "(status IN ('created', 'refused')) = (finished_at IS NOT NULL)",
            name=op.f("ck_link_creations_finished_when_decided"),
        ),
        sa.CheckConstraint("last_asked_at >= first_asked_at", name=op.f("ck_link_creations_asked_in_order")),
        sa.PrimaryKeyConstraint("instance_id", "reference", name=op.f("pk_link_creations")),
    )
    op.create_index(
        "uq_link_creations_link",
        "link_creations",
        ["instance_id", "payment_link_id"],
        unique=True,
        postgresql_where=sa.text("payment_link_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("link_creations")
