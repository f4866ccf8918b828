"""sends are kept

Revision: 0025, after 0024. Who sent which payment link to whom, when, and what Wix said: `link_sends`, written before
Wix is asked, under a reference that is not done twice.

It only adds a table: the release before runs on beside it, and writes nothing there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "link_sends",
        sa.Column("send_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("reference", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("payment_link_id", sa.Uuid(), nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("contact_ids", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("methods", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("answered_at", MOMENT, nullable=True),
        sa.CheckConstraint("door IN ('page', 'command')", name=op.f("ck_link_sends_door")),
        sa.CheckConstraint(
            "outcome IN ('asking', 'sent', 'refused', 'unclear')", name=op.f("ck_link_sends_outcome")
        ),
        sa.CheckConstraint("cardinality(contact_ids) > 0", name=op.f("ck_link_sends_somebody")),
        sa.CheckConstraint(
            "(outcome = 'asking') = (answered_at IS NULL)", name=op.f("ck_link_sends_answered_when_decided")
        ),
        sa.CheckConstraint(
            "(outcome IN ('refused', 'unclear')) = (reason IS NOT NULL)",
            name=op.f("ck_link_sends_reason_when_not_sent"),
        ),
        sa.PrimaryKeyConstraint("send_id", name=op.f("pk_link_sends")),
        sa.UniqueConstraint("reference", name=op.f("uq_link_sends_reference")),
    )
    op.create_index("ix_link_sends_link", "link_sends", ["instance_id", "payment_link_id", "send_id"])


def downgrade() -> None:
    op.drop_table("link_sends")
