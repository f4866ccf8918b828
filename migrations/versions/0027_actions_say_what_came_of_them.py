"""actions say what came of them

Revision: 0027, after 0026. What is made by an action, such as a payment link or proposed rules, has its id only once it is
made. It may be written down together with the answer now, where the action named nothing before; everything else of an
action stays as it was.

The release before runs on with it, and names nothing.
"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

FUNCTION = """
    CREATE OR REPLACE FUNCTION refuse_change_of_action() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.status IS NULL AND NEW.status IS NOT NULL
            AND {same} THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'actions are kept as they were' USING ERRCODE = 'restrict_violation';
    END $$"""
NAMED = """to_jsonb(OLD) - 'status' - 'object' = to_jsonb(NEW) - 'status' - 'object'
            AND (OLD.object IS NULL OR OLD.object = NEW.object)"""
BEFORE = "to_jsonb(OLD) - 'status' = to_jsonb(NEW) - 'status'"


def upgrade() -> None:
    op.execute(FUNCTION.format(same=NAMED))


def downgrade() -> None:
    op.execute(FUNCTION.format(same=BEFORE))
