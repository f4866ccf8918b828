"""people sign in

Revision: 0019, after 0018. Accounts, what instances they see, their sessions, and what they asked for: `actions` is
append-only but for the answer, which is written once.

It only adds tables: the release before runs on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("sees_personal", sa.Boolean(), nullable=False),
        sa.Column("sees_every_instance", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("password_changed_at", MOMENT, nullable=True),
        sa.Column("oidc_subject", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "roles <@ ARRAY['auditor', 'clerk', 'approver', 'operator'] AND cardinality(roles) > 0",
            name=op.f("ck_accounts_roles"),
        ),
        sa.CheckConstraint(
            "NOT ('auditor' = ANY (roles)) OR cardinality(roles) = 1",
            name=op.f("ck_accounts_auditors_change_nothing"),
        ),
        sa.CheckConstraint(
            "(password_hash IS NULL) = (password_changed_at IS NULL)", name=op.f("ck_accounts_password_whole")
        ),
        sa.CheckConstraint("lower(name) <> 'automation'", name=op.f("ck_accounts_person")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_accounts")),
    )
    op.create_index("uq_accounts_name", "accounts", [sa.text("lower(name)")], unique=True)
    op.create_index(
        "uq_accounts_oidc_subject",
        "accounts",
        ["oidc_subject"],
        unique=True,
        postgresql_where=sa.text("oidc_subject IS NOT NULL"),
    )
    op.create_table(
        "account_instances",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.account_id"], name=op.f("fk_account_instances_accounts")
        ),
        sa.PrimaryKeyConstraint("account_id", "instance_id", name=op.f("pk_account_instances")),
    )
    op.create_table(
        "sessions",
        sa.Column("token_digest", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("begun_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "octet_length(token_digest) = 32", name=op.f("ck_sessions_token_digest_is_sha256")
        ),
        sa.CheckConstraint("seen_at >= begun_at", name=op.f("ck_sessions_seen_after_begin")),
        sa.CheckConstraint("ended_at >= begun_at", name=op.f("ck_sessions_ended_after_begin")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_sessions_accounts")),
        sa.PrimaryKeyConstraint("token_digest", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_account", "sessions", ["account_id", "begun_at"])
    op.create_table(
        "actions",
        sa.Column("action_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.Column("object", sa.Text(), nullable=True),
        sa.Column(
            "detail", postgresql.JSONB(none_as_null=True), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(account_id IS NULL) = (actor IS NULL)", name=op.f("ck_actions_actor_whole")),
        sa.CheckConstraint("status BETWEEN 100 AND 599", name=op.f("ck_actions_status_possible")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_actions_accounts")),
        sa.PrimaryKeyConstraint("action_id", name=op.f("pk_actions")),
    )
    op.create_index("ix_actions_at", "actions", ["at", "action_id"])
    op.create_index("ix_actions_account", "actions", ["account_id", "at"])
    op.execute("""
        CREATE OR REPLACE FUNCTION refuse_change_of_action() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' AND OLD.status IS NULL AND NEW.status IS NOT NULL
                AND to_jsonb(OLD) - 'status' = to_jsonb(NEW) - 'status' THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'actions are kept as they were' USING ERRCODE = 'restrict_violation';
        END $$""")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON actions"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change_of_action()"
    )
    op.execute(
        "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON actions"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    for table in ("actions", "sessions", "account_instances", "accounts"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change_of_action")
