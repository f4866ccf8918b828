"""backfills

Revision: 0012, after 0011. Adds what is read of a span of time of its own. Installations known by now are not read anew
from their beginning: an operator asks for that.

It only adds: the release before runs on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KINDS = "'check', 'sweep'"


def upgrade() -> None:
    # First, since what comes before it is committed without the revision: run again after a failure, it begins anew.
    _kinds(f"{KINDS}, 'backfill'")
    op.create_table(
        "backfills",
        sa.Column("backfill_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payment_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enqueued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "reason IN ('installed', 'silence', 'downtime', 'requested')", name=op.f("ck_backfills_reason")
        ),
        sa.CheckConstraint("window_from < window_to", name=op.f("ck_backfills_window_in_order")),
        sa.CheckConstraint(
            "position_at BETWEEN window_from AND window_to", name=op.f("ck_backfills_position_in_window")
        ),
        sa.CheckConstraint(
            "payment_count >= 0 AND failures >= 0", name=op.f("ck_backfills_counts_not_negative")
        ),
        sa.CheckConstraint(
            "(lease_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_backfills_lease_whole")
        ),
        sa.CheckConstraint(
            "num_nonnulls(due_at, finished_at, cancelled_at) = 1", name=op.f("ck_backfills_due_until_ended")
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["app_instances.instance_id"],
            name=op.f("fk_backfills_app_instances"),
        ),
        sa.PrimaryKeyConstraint("backfill_id", name=op.f("pk_backfills")),
    )
    op.create_index("ix_backfills_instance", "backfills", ["instance_id", "requested_at"])
    op.create_index(
        "ix_backfills_due", "backfills", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL")
    )
    op.add_column("app_instances", sa.Column("backfilled_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE app_instances SET backfilled_at = now()")


def downgrade() -> None:
    op.execute("DELETE FROM reconciliation_runs WHERE kind = 'backfill'")
    _kinds(KINDS)
    op.drop_column("app_instances", "backfilled_at")
    op.drop_table("backfills")


def _kinds(kinds: str) -> None:
    # Checked apart from the lock: rows are many, and what is allowed only grows.
    op.execute(
        "-- squawk-ignore ban-drop-constraint\n"
        "ALTER TABLE reconciliation_runs DROP CONSTRAINT ck_reconciliation_runs_kind,"
        f" ADD CONSTRAINT ck_reconciliation_runs_kind CHECK (kind IN ({kinds})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(
            "-- squawk-ignore prefer-robust-stmts\n"
            "ALTER TABLE reconciliation_runs VALIDATE CONSTRAINT ck_reconciliation_runs_kind"
        )
