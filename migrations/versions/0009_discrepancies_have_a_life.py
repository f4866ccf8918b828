"""discrepancies have a life

Revision: 0009, after 0008. A discrepancy is one row for as long as there are books: rows of one difference that closed
and recurred become one, with a step for each time. Steps are append-only; write-offs are of two persons; the rules of
reconciliation have versions.

The release before runs on beside it: its statement finds the new unique index by the same columns. What recurs under it
stays closed until this release checks the link, and what it opens or resolves has no step of that.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATES = "'open', 'investigating', 'resolved', 'written_off'"
REASONS = (
    "'caught_up', 'within_tolerance', 'corrected_at_wix', 'corrected_here', 'explained', 'test_data', 'refund', 'fee',"
    " 'rounding', 'buyer_dispute', 'unrecoverable'"
)
KINDS = (
    "'opened', 'changed', 'reopened', 'investigated', 'assigned', 'commented', 'evidence_added', 'resolved',"
    " 'write_off_proposed', 'write_off_approved', 'write_off_rejected', 'write_off_withdrawn', 'write_off_voided'"
)
IDENTITY = "instance_id, type, payment_link_id, payment_id"
MONEY = sa.Numeric(19, 3)
MOMENT = sa.DateTime(timezone=True)
APPEND_ONLY = ("discrepancy_steps", "rule_sets", "rule_set_approvals")


def upgrade() -> None:
    # At once what a column needs later: a check that has read and waits to write would wait for us, and we for it.
    op.execute("LOCK TABLE discrepancies IN ACCESS EXCLUSIVE MODE")
    op.add_column("discrepancies", sa.Column("owner", sa.Text(), nullable=True))
    op.add_column("discrepancies", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column(
        "discrepancies",
        sa.Column("times_reopened", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column(
        "discrepancies",
        sa.Column("opened_at", MOMENT, server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("discrepancies", sa.Column("rule_set_version", sa.BigInteger(), nullable=True))
    op.add_column("discrepancies", sa.Column("rules", sa.Text(), nullable=True))
    for name, condition in {
        "reason": f"reason IN ({REASONS})",
        "reason_when_closed": "reason IS NULL OR closed_at IS NOT NULL",
        "times_reopened_not_negative": "times_reopened >= 0",
        "rules_of_a_version": "rules IS NULL OR rule_set_version IS NOT NULL",
    }.items():
        # Every row holds the default of a column just added.
        op.execute(
            "-- squawk-ignore constraint-missing-not-valid\n"
            f"ALTER TABLE discrepancies ADD CONSTRAINT ck_discrepancies_{name} CHECK ({condition})"
        )
    op.add_column("payment_links", sa.Column("inactive_since", MOMENT, nullable=True))
    _make_steps()
    _make_write_offs()
    op.create_table(
        "rule_sets",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rule_sets")),
        sa.UniqueConstraint("version", "created_by", name=op.f("uq_rule_sets_version_created_by")),
    )
    op.create_table(
        "rule_set_approvals",
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("approved_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "lower(approved_by) <> lower(created_by)", name=op.f("ck_rule_set_approvals_two_persons")
        ),
        sa.CheckConstraint("lower(approved_by) <> 'automation'", name=op.f("ck_rule_set_approvals_person")),
        sa.ForeignKeyConstraint(
            ["version", "created_by"],
            ["rule_sets.version", "rule_sets.created_by"],
            name=op.f("fk_rule_set_approvals_rule_sets"),
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rule_set_approvals")),
    )
    _merge()
    op.execute("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: a correction is a further row', TG_TABLE_NAME
                USING ERRCODE = 'integrity_constraint_violation';
        END $$""")
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def _make_steps() -> None:
    op.create_table(
        "discrepancy_steps",
        sa.Column("step_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("discrepancy_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("rule_set_version", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("sides", postgresql.JSONB(), nullable=False),
        sa.Column("amount_at_risk", MONEY, nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("amount", MONEY, nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.CheckConstraint(f"kind IN ({KINDS})", name=op.f("ck_discrepancy_steps_kind")),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_discrepancy_steps_state")),
        sa.CheckConstraint(f"reason IN ({REASONS})", name=op.f("ck_discrepancy_steps_reason")),
        sa.CheckConstraint(
            "(actor = 'automation') = (run_id IS NOT NULL)",
            name=op.f("ck_discrepancy_steps_automation_is_a_run"),
        ),
        sa.CheckConstraint(
            "(kind = 'evidence_added') = (evidence IS NOT NULL)",
            name=op.f("ck_discrepancy_steps_evidence_when_added"),
        ),
        sa.CheckConstraint(
            "starts_with(kind, 'write_off_') = (amount IS NOT NULL)",
            name=op.f("ck_discrepancy_steps_amount_of_a_write_off"),
        ),
        sa.ForeignKeyConstraint(
            ["discrepancy_id"],
            ["discrepancies.discrepancy_id"],
            name=op.f("fk_discrepancy_steps_discrepancies"),
        ),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_discrepancy_steps")),
    )
    op.create_index(
        "ix_discrepancy_steps_discrepancy", "discrepancy_steps", ["discrepancy_id", "step_id"], unique=False
    )
    op.create_index("ix_discrepancy_steps_at", "discrepancy_steps", ["instance_id", "at"], unique=False)


def _make_write_offs() -> None:
    op.create_table(
        "write_offs",
        sa.Column("write_off_id", sa.Uuid(), nullable=False),
        sa.Column("discrepancy_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("proposed_at", MOMENT, nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("approved_at", MOMENT, nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_write_offs_{name}"))
            for name, condition in {
                "status": "status IN ('proposed', 'approved', 'rejected', 'withdrawn', 'voided', 'reversed')",
                "reason": f"reason IN ({REASONS})",
                "amount_not_negative": "amount >= 0",
                "amount_has_currency": "amount = 0 OR currency IS NOT NULL",
                "two_persons": "lower(approved_by) <> lower(proposed_by)",
                "persons": "lower(proposed_by) <> 'automation' AND lower(approved_by) IS DISTINCT FROM 'automation'",
                "approval_whole": "(approved_by IS NULL) = (approved_at IS NULL)",
                "end_whole": "(ended_by IS NULL) = (ended_at IS NULL)",
                "approved_when_so": "(status IN ('approved', 'reversed')) = (approved_at IS NOT NULL)",
                "ended_when_so": "(status IN ('proposed', 'approved')) = (ended_at IS NULL)",
            }.items()
        ),
        sa.ForeignKeyConstraint(
            ["discrepancy_id"], ["discrepancies.discrepancy_id"], name=op.f("fk_write_offs_discrepancies")
        ),
        sa.PrimaryKeyConstraint("write_off_id", name=op.f("pk_write_offs")),
    )
    op.create_index(
        "uq_write_offs_standing",
        "write_offs",
        ["discrepancy_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('proposed', 'approved')"),
    )
    op.create_index("ix_write_offs_proposed", "write_offs", ["instance_id", "proposed_at"], unique=False)


def _merge() -> None:
    """Rows of one difference become one of them; what they say of openings and ends become its steps.

    The open one is kept, else the newest. What somebody set by hand keeps its state, and its words as a comment.
    """
    lives = f"""
        WITH lives AS MATERIALIZED (
            SELECT *, row_number() OVER (PARTITION BY {IDENTITY} ORDER BY first_seen_at, closed_at, discrepancy_id)
                    AS life,
                first_value(discrepancy_id) OVER (PARTITION BY {IDENTITY}
                    ORDER BY closed_at IS NULL DESC, first_seen_at DESC, closed_at DESC, discrepancy_id DESC) AS kept_id
            FROM discrepancies
        )"""
    op.execute(f"""
        {lives}
        INSERT INTO discrepancy_steps (discrepancy_id, instance_id, at, kind, actor, run_id, state, severity, sides,
            amount_at_risk, currency, reason, comment)
        SELECT kept_id, instance_id, at, kind, 'automation', run_id, state, severity, sides, amount_at_risk, currency,
            reason, comment
        FROM (
            SELECT kept_id, instance_id, life, 1 AS place, first_seen_at AS at,
                CASE WHEN life = 1 THEN 'opened' ELSE 'reopened' END AS kind, first_run_id AS run_id, 'open' AS state,
                severity, sides, amount_at_risk, currency, NULL AS reason, NULL AS comment
            FROM lives
            UNION ALL
            SELECT kept_id, instance_id, life, 2, closed_at, 'resolved', last_run_id, state, severity, sides,
                amount_at_risk, currency, CASE WHEN resolution = 'no longer differs' THEN 'caught_up' END,
                NULLIF(resolution, 'no longer differs')
            FROM lives WHERE closed_at IS NOT NULL
        ) AS s ORDER BY kept_id, life, place""")
    op.execute(f"""
        {lives}, whole AS (
            SELECT kept_id, min(first_seen_at) AS first_seen_at, max(last_seen_at) AS last_seen_at,
                max(first_seen_at) AS opened_at, sum(times_seen) AS times_seen, count(*) - 1 AS times_reopened,
                (array_agg(first_run_id ORDER BY life))[1] AS first_run_id
            FROM lives GROUP BY kept_id
        ), merged AS (
            DELETE FROM discrepancies d USING lives l
            WHERE d.discrepancy_id = l.discrepancy_id AND l.discrepancy_id <> l.kept_id
        )
        UPDATE discrepancies d SET first_seen_at = w.first_seen_at, last_seen_at = w.last_seen_at,
            opened_at = w.opened_at, times_seen = w.times_seen, times_reopened = w.times_reopened,
            first_run_id = w.first_run_id,
            reason = CASE WHEN d.resolution = 'no longer differs' THEN 'caught_up' END
        FROM whole w WHERE d.discrepancy_id = w.kept_id""")
    for statement in (
        "DROP INDEX uq_discrepancies_open",
        (
            "CREATE UNIQUE INDEX uq_discrepancies_identity"
            " ON discrepancies (payment_id, type, payment_link_id, instance_id) NULLS NOT DISTINCT"
        ),
        "CREATE INDEX ix_discrepancies_open ON discrepancies (instance_id, first_seen_at) WHERE closed_at IS NULL",
    ):
        op.execute(
            f"-- squawk-ignore require-concurrent-index-creation, require-concurrent-index-deletion\n{statement}"
        )


def downgrade() -> None:
    for table in ("discrepancy_steps", "write_offs", "rule_set_approvals", "rule_sets"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change")
    op.drop_index("ix_discrepancies_open", table_name="discrepancies")
    op.drop_index("uq_discrepancies_identity", table_name="discrepancies")
    op.execute(
        f"CREATE UNIQUE INDEX uq_discrepancies_open ON discrepancies ({IDENTITY}) NULLS NOT DISTINCT"
        " WHERE closed_at IS NULL"
    )
    op.drop_column("payment_links", "inactive_since")
    for name in ("rules", "rule_set_version", "opened_at", "times_reopened", "reason", "owner"):
        op.drop_column("discrepancies", name)
