"""payments are looked through

Revision: 0020, after 0019. The list of payments is read by when they were created: of everything, of an instance, of a
link, of what was recovered, and what has no date. For each there is an index in that order, so that a page reads as many
rows as it shows.

- `ix_payments_of_instance` begins with an expression: no statement that asks for an instance otherwise, as that of the
  webhook does, may take it (see 0004). Rows of an instance come about in the order of their creation, so it grows at
  one place for each.
- `ix_payments_of_link_created` takes the place of `ix_payments_of_link`, which answers nothing that it does not.
- Those of recovered and of undated payments hold next to nothing, and a payment that its webhook brought is in neither.

Indexes are built beside the traffic, each in a transaction of its own; run again after a failure, it begins anew. The
release before runs on with them.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

BEFORE = {"ix_payments_of_link": "(payment_link_id, instance_id)"}
AFTER = {
    "ix_payments_of_instance": "(uuid_send(instance_id), created_at, payment_id)",
    "ix_payments_of_link_created": "(payment_link_id, created_at, instance_id)",
    "ix_payments_recovered": "(recovery, created_at, instance_id) WHERE recovery IS NOT NULL",
    "ix_payments_undated": "(instance_id, payment_id) WHERE created_at IS NULL",
}


def upgrade() -> None:
    _replace(BEFORE, AFTER)


def downgrade() -> None:
    _replace(AFTER, BEFORE)


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        for name, what in new.items():
            # What a failure left is no index yet.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON payments {what}")
        for name in old:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '5s'")
