"""alerts

Revision: 0014, after 0013. Adds what persons are told without asking, and how far it has come on its way to them.

It only adds: the release before runs on beside it, and what it opens is told by digests alone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KINDS = (
    "'discrepancy_opened', 'discrepancy_reopened', 'discrepancy_worsened', 'discrepancy_resolved',"
    " 'discrepancy_written_off', 'write_off_proposed', 'webhooks_silent', 'webhooks_back', 'wix_unreachable',"
    " 'wix_reachable', 'backfill_finished', 'rules_unreadable'"
)
CHANNELS = "channel IN ('webhook', 'mail')"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("routed_at", MOMENT, nullable=True),
        sa.CheckConstraint(f"kind IN ({KINDS})", name=op.f("ck_alerts_kind")),
        sa.CheckConstraint("severity IN ('informational', 'error')", name=op.f("ck_alerts_severity")),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
    )
    op.create_index("uq_alerts_change", "alerts", ["subject", "kind", "change"], unique=True)
    op.create_index("ix_alerts_routed", "alerts", ["routed_at"], unique=False)
    op.create_table(
        "alert_channels",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("enqueued_at", MOMENT, nullable=True),
        sa.Column("resume_at", MOMENT, nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("digested_to", MOMENT, nullable=True),
        sa.CheckConstraint(CHANNELS, name=op.f("ck_alert_channels_channel")),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_alert_channels_failures_not_negative")),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_alert_channels")),
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("alert_count", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("made_at", MOMENT, nullable=False),
        sa.Column("waiting_since", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_alert_deliveries_{name}"))
            for name, condition in {
                "channel": CHANNELS,
                "kind": "kind IN ('alert', 'group', 'digest', 'test')",
                "status": "status IN ('waiting', 'delivered', 'given_up')",
                "counts_not_negative": "alert_count >= 0 AND attempts >= 0",
                "due_while_waiting": "(status = 'waiting') = (due_at IS NOT NULL)",
                "ended_when_not_waiting": "(status = 'waiting') = (ended_at IS NULL)",
                "lease_whole": "(lease_id IS NULL) = (lease_until IS NULL)",
            }.items()
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_alert_deliveries")),
    )
    op.create_index(
        "ix_alert_deliveries_due",
        "alert_deliveries",
        ["channel", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_alert_deliveries_made", "alert_deliveries", ["channel", "made_at"], unique=False)
    op.create_table(
        "alert_routes",
        sa.Column("alert_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(CHANNELS, name=op.f("ck_alert_routes_channel")),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.alert_id"], name=op.f("fk_alert_routes_alerts")),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["alert_deliveries.delivery_id"],
            name=op.f("fk_alert_routes_alert_deliveries"),
        ),
        sa.PrimaryKeyConstraint("alert_id", "channel", name=op.f("pk_alert_routes")),
    )
    op.create_index("ix_alert_routes_delivery", "alert_routes", ["delivery_id"], unique=False)
    op.create_index(
        "ix_alert_routes_waiting",
        "alert_routes",
        ["channel"],
        unique=False,
        postgresql_where=sa.text("delivery_id IS NULL"),
    )
    op.create_table(
        "wix_outages",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("told_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.CheckConstraint("ended_at >= since", name=op.f("ck_wix_outages_ended_after_begin")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["app_instances.instance_id"], name=op.f("fk_wix_outages_app_instances")
        ),
        sa.PrimaryKeyConstraint("instance_id", "since", name=op.f("pk_wix_outages")),
    )
    op.create_index(
        "uq_wix_outages_lasting",
        "wix_outages",
        ["instance_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    for table in ("wix_outages", "alert_routes", "alert_deliveries", "alert_channels", "alerts"):
        op.drop_table(table)
