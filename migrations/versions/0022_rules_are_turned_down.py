"""rules are turned down

Revision: 0022, after 0021. Rules that were proposed are withdrawn by who proposed them, or rejected by another person. A
row of `rule_set_endings` says so, once for a version and for ever.

It only adds: the release before runs on beside it, though until it is gone it may approve what was turned down.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rule_set_endings",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ended_by", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('withdrawn', 'rejected')", name=op.f("ck_rule_set_endings_kind")),
        sa.CheckConstraint("lower(ended_by) <> 'automation'", name=op.f("ck_rule_set_endings_person")),
        sa.CheckConstraint(
            "kind <> 'rejected' OR lower(ended_by) <> lower(created_by)",
            name=op.f("ck_rule_set_endings_two_persons"),
        ),
        sa.CheckConstraint(
            "kind <> 'rejected' OR reason IS NOT NULL", name=op.f("ck_rule_set_endings_reason_when_rejected")
        ),
        sa.ForeignKeyConstraint(
            ["version", "created_by"],
            ["rule_sets.version", "rule_sets.created_by"],
            name=op.f("fk_rule_set_endings_rule_sets"),
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rule_set_endings")),
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON rule_set_endings"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON rule_set_endings"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.drop_table("rule_set_endings")
