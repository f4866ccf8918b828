"""an event is found by its own id

Revision: 0008, after 0007. The statement of the webhook is planned once, perhaps while `webhook_events` is empty, when
all indexes that begin with the instance cost the same to the planner. It took the one by arrival and read every event
of the instance for each event, until the next ANALYZE. As the key now begins with the event's id, and the statement
asks for the instance in a way that no index serves, no other index comes into question.

The index is built beside the traffic; run again after a failure, it begins anew.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

REFERENCE = "fk_webhook_event_conflicts_webhook_events"


def upgrade() -> None:
    _key("event_id, instance_id")


def downgrade() -> None:
    _key("instance_id, event_id")


def _key(columns: str) -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions under way, however long they take; nobody waits for it.
        op.execute("SET lock_timeout = 0")
        # What a failure left is no index yet.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS pk_webhook_events_new")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS pk_webhook_events_new"
            f" ON webhook_events ({columns})"
        )
        op.execute("SET lock_timeout = '5s'")
    op.execute(
        f"-- squawk-ignore ban-drop-constraint\nALTER TABLE webhook_event_conflicts DROP CONSTRAINT {REFERENCE}"
    )
    op.execute(
        "-- squawk-ignore ban-drop-constraint\nALTER TABLE webhook_events DROP CONSTRAINT pk_webhook_events,"
        " ADD CONSTRAINT pk_webhook_events PRIMARY KEY USING INDEX pk_webhook_events_new"
    )
    op.execute(
        f"ALTER TABLE webhook_event_conflicts ADD CONSTRAINT {REFERENCE} FOREIGN KEY (instance_id, event_id)"
        " REFERENCES webhook_events (instance_id, event_id) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(
            "-- squawk-ignore prefer-robust-stmts\n"
            f"ALTER TABLE webhook_event_conflicts VALIDATE CONSTRAINT {REFERENCE}"
        )
