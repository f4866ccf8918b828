"""payments are sorted by amount

Revision: 0026, after 0025. The list of payments of a currency is read in the order of their amounts, those of one amount by
when they were created. An index has them in it, so that a page reads as many rows as it looks at. It ends with when they
were created: next to no two payments of one amount and moment are there to be told apart by more.

It is built beside the traffic, in a transaction of its own; run again after a failure, it begins anew. The release before
runs on with it.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

NAME = "ix_payments_by_amount"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        # What a failure left is no index yet.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {NAME} ON payments (currency, amount, created_at)"
        )
        op.execute("SET statement_timeout = '10min'")
        op.execute("SET lock_timeout = '5s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute("SET lock_timeout = '5s'")
