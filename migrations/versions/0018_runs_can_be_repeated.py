"""runs can be repeated

Revision: 0018, after 0017. Adds the evidence of a check, which only grows, and the view `report.runs`. It is as those of
0010 are: a barrier, filtered by `report_reach`, described in the catalogue. Whoever is let in by `report_readers` and
may read every view there was may read this one, too.

It only adds, and takes no lock that anybody waits for: the release before runs on beside it, and its checks have no
evidence.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INSTANCE = "App instance: one installation of the app on one site. Ids are unique within one instance only."
SITE = "Site of the app instance. NULL while Wix has not told."
NOT_A_CHECK = "NULL for what decides nothing, as a sweep, and for what did not succeed."
AMOUNT = "NULL for a run without payments."

VIEW = "runs"
MEANING = (
    "Reconciliation runs: one row for each run and currency of its payments. What a run counted stands in each of its"
    " rows; only number and sums of the two sides are by currency."
)
COLUMNS = {
    "instance_id": INSTANCE,
    "site_id": SITE,
    "run_id": "The run. `processor runs show` and `processor runs rerun` take it.",
    "kind": "check (of links that are due), sweep (of a window of creation dates) or backfill.",
    "status": "running, succeeded, failed or abandoned (its worker died; it was done again).",
    "reason": "Why it failed or was abandoned. NULL otherwise.",
    "actor": "Who started it: a person's name, or automation for a worker. NULL where an older release ran it.",
    "code_version": "Release that ran it.",
    "started_at": "When it began (UTC).",
    "finished_at": "When it ended (UTC). NULL while it runs.",
    "window_from": "Begin of the window of creation dates it read (UTC). NULL for a check.",
    "window_to": "End of that window (UTC). NULL for a check.",
    "cutoff_at": f"As of when it decided (UTC). {NOT_A_CHECK}",
    "rule_set_version": "Version of the rules it followed. NULL: the built-in ones, or it decided nothing.",
    "settling_seconds": "Settling time that it gave a difference, in whole seconds. NULL for what decides nothing.",
    "wix_requests": "Calls to Wix that it took.",
    "link_count": "Payment links it looked at.",
    "matched": "Payments that both sides have alike.",
    "expected": "Payments that differ by timing alone so far: within the settling time.",
    "recovered": "Payments booked, or moved forward, from what Wix lists.",
    "unmatched": "Payments with a difference that needs a decision.",
    "opened": "Discrepancies it opened.",
    "resolved": "Discrepancies it found over.",
    "currency": "ISO 4217 code. Amounts of different currencies are never to be added up. NULL for a run without payments.",
    "booked_count": f"Payments booked under its links. {AMOUNT}",
    "booked_amount": f"Their sum, in main units. {AMOUNT}",
    "wix_count": f"Payments Wix lists under them. {AMOUNT}",
    "wix_amount": f"Their sum, in main units. {AMOUNT}",
    "amount_difference": f"How much more Wix lists than is booked, in main units; less is below zero. {AMOUNT}",
    "is_reproducible": "Whether its evidence was kept, so that it can be run again as of its cut-off.",
    "result_digest": "SHA-256 of its result, in hexadecimal. NULL when it cannot be run again.",
}
QUERY = """
    SELECT r.instance_id, a.site_id, r.run_id, r.kind, r.status, r.reason, r.actor, r.code_version, r.started_at,
        r.finished_at, r.window_from, r.window_to, r.cutoff_at, r.rule_set_version,
        round(r.settling_seconds)::bigint AS settling_seconds, r.wix_requests, r.link_count, r.matched, r.expected, r.recovered, r.discrepant AS unmatched, r.opened,
        r.resolved, s.key AS currency,
        (s.value ->> 'booked_count')::bigint AS booked_count, (s.value ->> 'booked')::numeric(22, 3) AS booked_amount,
        (s.value ->> 'wix_count')::bigint AS wix_count, (s.value ->> 'wix')::numeric(22, 3) AS wix_amount,
        (s.value ->> 'wix')::numeric(22, 3) - (s.value ->> 'booked')::numeric(22, 3) AS amount_difference,
        r.result_digest IS NOT NULL AS is_reproducible, encode(r.result_digest, 'hex') AS result_digest
    FROM reconciliation_runs r
    LEFT JOIN app_instances a ON a.instance_id = r.instance_id
    LEFT JOIN LATERAL jsonb_each(r.sums) s ON true
    WHERE ((SELECT e.sees_all FROM report_reach e) OR r.instance_id =
        ANY ((SELECT e.instance_ids FROM report_reach e)::uuid[]))"""


def quoted(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def upgrade() -> None:
    op.create_table(
        "run_evidence",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("payment_link_id", sa.Uuid(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("lines", sa.Text(), nullable=False),
        sa.CheckConstraint("part >= 1", name=op.f("ck_run_evidence_part_positive")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["reconciliation_runs.run_id"], name=op.f("fk_run_evidence_reconciliation_runs")
        ),
        sa.PrimaryKeyConstraint("run_id", "part", "payment_link_id", name=op.f("pk_run_evidence")),
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON run_evidence"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON run_evidence"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(f"CREATE VIEW report.{VIEW} WITH (security_barrier) AS {QUERY}")
    op.execute(f"COMMENT ON VIEW report.{VIEW} IS {quoted(MEANING)}")
    for column, words in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN report.{VIEW}.{column} IS {quoted(words)}")
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
                        WHERE c.relnamespace = 'report'::regnamespace AND c.relkind = 'v' AND c.relname <> '{VIEW}'
                            AND NOT pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT'))
            LOOP
                EXECUTE 'GRANT SELECT ON report.{VIEW} TO ' || quote_ident(reader);
            END LOOP;
        END $do$""")


def downgrade() -> None:
    op.execute(f"DROP VIEW report.{VIEW}")
    op.drop_table("run_evidence")
