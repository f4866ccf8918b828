"""only the key begins with the instance

Revision: 0004, after 0003. The look-ups of the foreign keys and of the webhook statement are planned once. While
statistics say that `payments` is tiny, three indexes that begin with the instance cost the same, and one that reads
every payment of the instance may be taken until the next ANALYZE. Now only the primary key begins with it.

Indexes are built beside the traffic, each in a transaction of its own; run again after a failure, it begins anew.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BEFORE = {"ix_payments_link": "payment_link_id", "ix_payments_created": "created_at"}
AFTER = {"ix_payments_of_link": "payment_link_id", "ix_payments_by_creation": "created_at"}


def upgrade() -> None:
    _replace(BEFORE, {name: f"{column}, instance_id" for name, column in AFTER.items()})


def downgrade() -> None:
    _replace(AFTER, {name: f"instance_id, {column}" for name, column in BEFORE.items()})


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        for name, columns in new.items():
            # What a failure left is no index yet.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON payments ({columns})")
        for name in old:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '5s'")
