"""hot tables are tended

Revision: 0006, after 0005. Room in their pages for what is updated soon after it was stored, so that an update touches
no index; and a vacuum that comes by the rows that changed rather than by a fifth of a table of millions.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SETTINGS = {
    # Each payment is updated once, at its first check, together with its neighbours: room for two of three of them.
    "payments": {
        "fillfactor": "60",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
    },
    # A duplicate counts itself.
    "webhook_events": {
        "fillfactor": "95",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
    },
    "link_checks": {"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.05"},
    # A queue: every row is deleted soon, and what is dead is read over by each drain.
    "check_requests": {
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "2000",
        "autovacuum_vacuum_cost_delay": "0",
    },
}


def upgrade() -> None:
    for table, settings in SETTINGS.items():
        op.execute(
            f"ALTER TABLE {table} SET ({', '.join(f'{name} = {to}' for name, to in settings.items())})"
        )


def downgrade() -> None:
    for table, settings in SETTINGS.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(settings)})")
