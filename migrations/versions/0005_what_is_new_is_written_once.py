"""what is new is written once

Revision: 0005, after 0004. What a first delivery costs, brought down to what it needs:

- Tokens have a table of their own, by month, so that old evidence is exported and detached as a whole, and the rows
  that are looked up stay narrow. Rows of the release before keep theirs in `webhook_events`.
- The first telling of a payment is the payment itself. It becomes a row of `payment_versions` when there is a second,
  by a trigger, which sees the row under its lock. `payment_tellings` shows both.
- Four foreign keys go. Two of them locked the one row of an app instance for every event of its site, in all
  transactions at once; the other two were looked up for rows made by the statement itself.

The release before runs on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FACTS = (
    "payment_link_id, amount, currency, type, created_at, transaction_at, receipt_id, ecom_checkout_id,"
    " ecom_order_id, method, payment_method, payment_provider, rest"
)
FOREIGN_KEYS = {
    "fk_webhook_events_app_instances": ("webhook_events", "app_instances", ["instance_id"]),
    "fk_payments_app_instances": ("payments", "app_instances", ["instance_id"]),
    "fk_payment_versions_payments": ("payment_versions", "payments", ["instance_id", "payment_id"]),
    "fk_payment_buyers_payments": ("payment_buyers", "payments", ["instance_id", "payment_id"]),
}


def upgrade() -> None:
    op.create_table(
        "webhook_event_tokens",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        postgresql_partition_by="RANGE (received_at)",
    )
    # A token does not compress: it stands in the row up to a page, rather than in pieces elsewhere.
    op.execute("ALTER TABLE webhook_event_tokens ALTER COLUMN token SET STORAGE MAIN")
    op.create_index(
        "ix_webhook_event_tokens_received",
        "webhook_event_tokens",
        ["received_at"],
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )
    # What no month is there for is not lost; the clock makes months ahead of time.
    op.execute(
        "CREATE TABLE webhook_event_tokens_default PARTITION OF webhook_event_tokens DEFAULT"
        " WITH (toast_tuple_target = 8160)"
    )
    op.execute("""
        CREATE FUNCTION forget_token() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            DELETE FROM webhook_event_tokens
            WHERE received_at = OLD.received_at AND instance_id = OLD.instance_id AND event_id = OLD.event_id;
            RETURN NULL;
        END $$""")
    op.execute("""
        CREATE TRIGGER token_until_erased AFTER UPDATE OF erased_at ON webhook_events FOR EACH ROW
        WHEN (OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL) EXECUTE FUNCTION forget_token()""")
    op.execute(f"""
        CREATE FUNCTION keep_first_telling() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO payment_versions (
                instance_id, payment_id, revision, verdict, origin, event_id, run_id, told_at, {FACTS})
            SELECT OLD.instance_id, OLD.payment_id, OLD.revision, 'new', OLD.origin, OLD.event_id, OLD.run_id,
                OLD.stored_at, {", ".join(f"OLD.{name}" for name in FACTS.split(", "))}
            WHERE NOT EXISTS (
                SELECT FROM payment_versions v WHERE v.instance_id = OLD.instance_id
                    AND v.payment_id = OLD.payment_id AND v.verdict = 'new');
            RETURN NEW;
        END $$""")
    op.execute("""
        CREATE TRIGGER first_telling BEFORE UPDATE OF last_verdict ON payments FOR EACH ROW
        WHEN (OLD.last_verdict = 'new' AND NEW.last_verdict <> 'new') EXECUTE FUNCTION keep_first_telling()""")
    op.execute(f"""
        CREATE VIEW payment_tellings AS
        SELECT version_id, instance_id, payment_id, revision, verdict, origin, event_id, run_id, told_at, {FACTS}
        FROM payment_versions
        UNION ALL
        SELECT 0, instance_id, payment_id, revision, 'new', origin, event_id, run_id, stored_at, {FACTS}
        FROM payments p
        WHERE last_verdict = 'new' AND NOT EXISTS (
            SELECT FROM payment_versions v
            WHERE v.instance_id = p.instance_id AND v.payment_id = p.payment_id AND v.verdict = 'new')""")
    dropped = {name: table for name, (table, _, _) in FOREIGN_KEYS.items()}
    for name, table in (dropped | {"ck_webhook_events_token_until_erased": "webhook_events"}).items():
        op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE {table} DROP CONSTRAINT {name}")
    op.execute(
        "ALTER TABLE webhook_events ADD CONSTRAINT ck_webhook_events_token_until_erased"
        " CHECK (token IS NULL OR erased_at IS NULL) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(
            "-- squawk-ignore prefer-robust-stmts\n"
            "ALTER TABLE webhook_events VALIDATE CONSTRAINT ck_webhook_events_token_until_erased"
        )


def downgrade() -> None:
    op.execute("DROP TRIGGER token_until_erased ON webhook_events")
    op.execute("DROP FUNCTION forget_token")
    op.execute("DROP TRIGGER first_telling ON payments")
    op.execute("DROP FUNCTION keep_first_telling")
    op.execute(f"""
        INSERT INTO payment_versions (
            instance_id, payment_id, revision, verdict, origin, event_id, run_id, told_at, {FACTS})
        SELECT instance_id, payment_id, revision, verdict, origin, event_id, run_id, told_at, {FACTS}
        FROM payment_tellings WHERE version_id = 0""")
    op.execute("DROP VIEW payment_tellings")
    op.execute("""
        UPDATE webhook_events e SET token = t.token FROM webhook_event_tokens t
        WHERE t.instance_id = e.instance_id AND t.event_id = e.event_id AND t.received_at = e.received_at
            AND e.erased_at IS NULL""")
    op.drop_table("webhook_event_tokens")
    for name, (table, referred, columns) in FOREIGN_KEYS.items():
        op.create_foreign_key(name, table, referred, columns, columns)
    op.drop_constraint(op.f("ck_webhook_events_token_until_erased"), "webhook_events", type_="check")
    op.create_check_constraint(
        op.f("ck_webhook_events_token_until_erased"),
        "webhook_events",
        "(token IS NULL) = (erased_at IS NOT NULL)",
    )
