"""silences

Revision: 0017, after 0016. Instances are listened to, each by its own past: `listening` says when one is looked at, a
row of `silences` is a time in which no webhook of a payment came though one was to be expected, and what Wix said of it.
A heartbeat says since when it goes on without a break. A view of the schema `report` shows the silences.

It only adds, and a column that may be NULL: the release before runs on beside it. Its clock leaves steady_since as it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
ZERO = sa.text("0")


def seen(instance_id: str) -> str:
    """The condition under which whoever asks may see a row of this instance, as in 0010."""
    return (
        f"((SELECT r.sees_all FROM report_reach r) OR {instance_id} ="
        " ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"
    )


VIEW = "silences"
MEANING = (
    "Times in which no webhook of a payment came, for longer than is usual for the shop at that time of its week. One row"
    " for each. Only those whose verdict is silent cost something: Wix listed payments made meanwhile."
)
COLUMNS = {
    "instance_id": "App instance: one installation of the app on one site. Ids are unique within one instance only.",
    "site_id": "Site of the app instance. NULL while Wix has not told.",
    "silence_id": "The silence.",
    "verdict": "unverified: Wix was not asked yet. quiet: Wix lists no payment that we were not told of, so there was"
    " nothing to tell. silent: it listed one, so webhooks did not reach us.",
    "last_event_at": "Last first receipt of an event of a payment before it (UTC). NULL: there was none.",
    "silent_since": "Since when no event came (UTC): last_event_at, or when the app was installed, or when we began to"
    " listen again after our clock had been away.",
    "patience_seconds": "How long silence was usual at that time of the week, in seconds.",
    "suspected_at": "When it had lasted for longer (UTC).",
    "verified_at": "When Wix was last asked (UTC). NULL: it was not yet.",
    "times_verified": "How often Wix was asked, and answered.",
    "wix_requests": "Calls to Wix that this took.",
    "confirmed_at": "When Wix listed payments of which no event told (UTC). NULL unless the verdict is silent.",
    "payments_found": "How many it listed then, up to 200. 0 unless the verdict is silent.",
    "ended_at": "First receipt of the next event of a payment (UTC). NULL while the silence goes on.",
    "end_reason": "event; removed: the site removed the app; clock: it had begun under a clock that was set back since."
    " NULL while the silence goes on.",
    "duration_seconds": "How long it lasted, or has lasted until now, in whole seconds.",
    "missed_payments": "Payments made in it that a poll told of first, as of now: rows of report.missed_webhooks.",
    "told_late": "Of these, payments of which a webhook told later, as of now.",
}
QUERY = f"""
    SELECT s.instance_id, a.site_id, s.silence_id, s.verdict, s.last_event_at, s.silent_since, s.patience_seconds,
        s.suspected_at, s.verified_at, s.times_verified, s.wix_requests, s.confirmed_at, s.payments_found, s.ended_at,
        s.end_reason,
        GREATEST(0, floor(extract(epoch FROM COALESCE(s.ended_at, now()) - s.silent_since)))::bigint
            AS duration_seconds,
        m.missed_payments, m.told_late
    FROM silences s
    LEFT JOIN app_instances a ON a.instance_id = s.instance_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS missed_payments, count(*) FILTER (WHERE EXISTS (SELECT FROM webhook_events e
                WHERE e.instance_id = p.instance_id AND e.entity_id = p.payment_id AND e.kind = 'payment'))
            AS told_late
        FROM payments p
        WHERE p.instance_id = s.instance_id AND p.first_origin = 'poll' AND p.created_at > s.silent_since
            AND p.created_at < COALESCE(s.ended_at, now())
    ) AS m
    WHERE {seen("s.instance_id")}"""


def upgrade() -> None:
    op.add_column("heartbeats", sa.Column("steady_since", MOMENT, nullable=True))
    op.create_table(
        "listening",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("look_at", MOMENT, nullable=False),
        sa.Column("looked_at", MOMENT, nullable=True),
        sa.Column("last_event_at", MOMENT, nullable=True),
        sa.Column("patience_seconds", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("patience_seconds > 0", name=op.f("ck_listening_patience_positive")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["app_instances.instance_id"], name=op.f("fk_listening_app_instances")
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_listening")),
    )
    op.create_index("ix_listening_look", "listening", ["look_at"], unique=False)
    op.create_table(
        "silences",
        sa.Column("silence_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("silent_since", MOMENT, nullable=False),
        sa.Column("last_event_at", MOMENT, nullable=True),
        sa.Column("patience_seconds", sa.BigInteger(), nullable=False),
        sa.Column("suspected_at", MOMENT, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("verified_at", MOMENT, nullable=True),
        sa.Column("times_verified", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("payments_found", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("wix_requests", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("confirmed_at", MOMENT, nullable=True),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("enqueued_at", MOMENT, nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default=ZERO, nullable=False),
        *(
            sa.CheckConstraint(condition, name=op.f(f"ck_silences_{name}"))
            for name, condition in {
                "verdict": "verdict IN ('unverified', 'quiet', 'silent')",
                "end_reason": "end_reason IN ('event', 'removed', 'clock')",
                "verified_when_judged": "(verdict = 'unverified') = (verified_at IS NULL)",
                "confirmed_when_silent": "(verdict = 'silent') = (confirmed_at IS NOT NULL)",
                "silent_by_payments": "(verdict = 'silent') = (payments_found > 0)",
                "end_whole": "(ended_at IS NULL) = (end_reason IS NULL)",
                "ended_after_begin": "ended_at >= silent_since",
                "due_while_in_doubt": "(due_at IS NULL) = (ended_at IS NOT NULL OR verdict = 'silent')",
                "lease_whole": "(lease_id IS NULL) = (lease_until IS NULL)",
                "counts_not_negative": "patience_seconds > 0 AND times_verified >= 0 AND payments_found >= 0"
                " AND wix_requests >= 0 AND failures >= 0",
            }.items()
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["app_instances.instance_id"], name=op.f("fk_silences_app_instances")
        ),
        sa.PrimaryKeyConstraint("silence_id", name=op.f("pk_silences")),
    )
    op.create_index(
        "uq_silences_open",
        "silences",
        ["instance_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_silences_since", "silences", ["instance_id", "silent_since"], unique=False)
    op.execute(f"CREATE VIEW report.{VIEW} WITH (security_barrier) AS {QUERY}")
    op.execute(f"COMMENT ON VIEW report.{VIEW} IS {quoted(MEANING)}")
    for column, words in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN report.{VIEW}.{column} IS {quoted(words)}")
    # Whoever is let in and may read every view there was may read this one, too, as in 0011.
    op.execute(f"""
        DO $do$
        DECLARE
            reader name;
        BEGIN
            FOR reader IN
                SELECT r.rolname FROM pg_catalog.pg_roles r
                WHERE EXISTS (SELECT FROM report_readers g
                        WHERE r.rolname::text COLLATE "C" = g.role_name COLLATE "C")
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                        WHERE c.relnamespace = 'report'::regnamespace AND c.relkind = 'v'
                            AND c.relname <> {quoted(VIEW)}
                            AND NOT pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT'))
            LOOP
                EXECUTE 'GRANT SELECT ON report.{VIEW} TO ' || quote_ident(reader);
            END LOOP;
        END $do$""")


def downgrade() -> None:
    op.execute(f"DROP VIEW report.{VIEW}")
    op.drop_table("silences")
    op.drop_table("listening")
    op.drop_column("heartbeats", "steady_since")


def quoted(words: str) -> str:
    """As a literal of SQL."""
    return "'" + words.replace("'", "''") + "'"
