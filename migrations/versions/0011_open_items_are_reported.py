"""open items are reported

Revision: 0011, after 0010. Adds four views to the schema `report`: what is open and how old it is, how that came about
from day to day, what was resolved and by whom, and the register of write-offs. They are as those of 0010 are:
barriers, filtered by `report_reach`, described in the catalogue. They name the persons who decide, and nothing of a buyer.

Whoever is let in by `report_readers` and may read every view there was may read these, too, without a further grant.

It only adds, and takes no lock that anybody waits for: the release before runs on beside it.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ZONE = "COALESCE(NULLIF(current_setting('processor.report_time_zone', true), ''), 'UTC')"


def seen(instance_id: str) -> str:
    """The condition under which whoever asks may see a row of this instance, as in 0010."""
    return (
        f"((SELECT r.sees_all FROM report_reach r) OR {instance_id} ="
        " ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"
    )


INSTANCE = "App instance: one installation of the app on one site. Ids are unique within one instance only."
SITE = "Site of the app instance. NULL while Wix has not told."
TYPE = "What differs, such as amount_differs or missing_at_wix."
LINK = "Payment link concerned, by Wix's id."
PAYMENT = "Payment concerned, by Wix's id. NULL when it is of the link as a whole."
CURRENCY = "ISO 4217 code. Amounts of different currencies are never to be added up. NULL when no money can be named."
AT_RISK = "Their amount at risk, in main units."

# Name of each bucket of ages, and the age at which the next begins.
AGING = (
    ("under 1 hour", "1 hour"),
    ("under 1 day", "1 day"),
    ("1 to 3 days", "4 days"),
    ("4 to 7 days", "8 days"),
    ("8 to 30 days", "31 days"),
    ("31 to 60 days", "61 days"),
    ("61 to 90 days", "91 days"),
)
BUCKET = (
    "CASE "
    + " ".join(f"WHEN now() - o.aged_from < interval '{until}' THEN '{name}'" for name, until in AGING)
    + " ELSE 'over 90 days' END"
)

RESOLVED = ("caught_up", "within_tolerance", "resolved_by_person")
OUT = (*RESOLVED, "written_off")


def moved(kinds: tuple[str, ...]) -> str:
    """Number and amount of these movements in a day; what leaves the open items is shown without its minus sign."""
    sign = "-" if kinds[0] in OUT else ""
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    name = kinds[0] if len(kinds) == 1 else "resolved"
    return (
        f"COALESCE({sign}sum(m.items) FILTER (WHERE m.movement IN ({listed})), 0)::bigint AS {name},"
        f" COALESCE({sign}sum(m.amount) FILTER (WHERE m.movement IN ({listed})), 0) AS {name}_amount"
    )


VIEWS: dict[str, tuple[str, dict[str, str], str]] = {
    "open_items": (
        (
            "What is open now: one row for each difference between the books and Wix that needs a decision and has none."
            " Number and amount are those of the last closing of roll_forward."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "discrepancy_id": "The discrepancy. It keeps its id however often it closes and recurs.",
            "type": TYPE,
            "severity": "error, or informational: it may have an innocent cause that Wix does not document.",
            "state": "open, or investigating once a person took it up.",
            "owner": "Who looks after it. NULL: nobody.",
            "payment_link_id": LINK,
            "payment_id": PAYMENT,
            "booked": "What our books say, as text. NULL when they say nothing.",
            "wix": "What Wix says, as text. NULL when it says nothing.",
            "sides": "Everything each side says, as JSON: booked and wix, and where it is so field (what of the payment"
            " differs), told (what webhooks told) or difference (how much more Wix says than is booked).",
            "amount_at_risk": "Amount in question, in main units. NULL when it is of no amount.",
            "currency": CURRENCY,
            "first_seen_at": "When a check first saw it (UTC).",
            "opened_at": "When it came up, or came up again after it had gone (UTC).",
            "last_seen_at": "When a check last saw it (UTC).",
            "times_seen": "How many checks saw it.",
            "times_reopened": "How often it recurred, or was taken up again, after it was closed.",
            "aged_from": "From when its age counts (UTC): transaction_at of the payment, else its created_at, else"
            " opened_at.",
            "as_of": "Until when its age counts (UTC): when the report was asked for.",
            "age_days": "Whole days of 24 hours from aged_from to as_of.",
            "aging": "Bucket of that age: under 1 hour, under 1 day, 1 to 3 days, 4 to 7 days, 8 to 30 days, 31 to 60"
            " days, 61 to 90 days or over 90 days.",
            "is_write_off_waiting": "Whether a write-off of it waits for the approval of a second person.",
            "write_off_proposed_by": "Who proposed that. NULL when none waits.",
            "write_off_proposed_at": "When that was proposed (UTC). NULL when none waits.",
        },
        f"""
        SELECT d.instance_id, a.site_id, d.discrepancy_id, d.type, d.severity, d.state, d.owner, d.payment_link_id,
            d.payment_id, d.sides ->> 'booked' AS booked, d.sides ->> 'wix' AS wix, d.sides, d.amount_at_risk,
            d.currency, d.first_seen_at, d.opened_at, d.last_seen_at, d.times_seen, d.times_reopened,
            o.aged_from, now() AS as_of,
            GREATEST(0, floor(extract(epoch FROM now() - o.aged_from) / 86400))::bigint AS age_days,
            {BUCKET} AS aging,
            w.write_off_id IS NOT NULL AS is_write_off_waiting, w.proposed_by AS write_off_proposed_by,
            w.proposed_at AS write_off_proposed_at
        FROM discrepancies d
        LEFT JOIN app_instances a ON a.instance_id = d.instance_id
        LEFT JOIN payments p ON p.instance_id = d.instance_id AND p.payment_id = d.payment_id
        LEFT JOIN write_offs w ON w.discrepancy_id = d.discrepancy_id AND w.status = 'proposed'
        CROSS JOIN LATERAL (SELECT COALESCE(p.transaction_at, p.created_at, d.opened_at) AS aged_from) o
        WHERE d.closed_at IS NULL AND {seen("d.instance_id")}""",
    ),
    "roll_forward": (
        (
            "How open items came and went: one row for each instance, reporting day, type and currency in which one moved."
            " opening + opened + reopened + adjusted - resolved - written_off + unexplained = closing, in number and in"
            " amount at risk; the closing of a day is the opening of the next, and the last is what open_items lists."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "reporting_day": "Calendar day on which it happened, in the zone of reporting_zone.",
            "reporting_zone": "Time zone of reporting_day: the setting processor.report_time_zone, UTC without it.",
            "type": TYPE,
            "currency": CURRENCY,
            "opening": "Items open as the day began. Items of no amount count with 0 in the amount, here and below.",
            "opening_amount": AT_RISK,
            "opened": "Items that came up for the first time.",
            "opened_amount": AT_RISK,
            "reopened": "Items that recurred, or were taken up again, after they were closed.",
            "reopened_amount": AT_RISK,
            "adjusted": "Items that came from another currency while they were open, less those that went to one.",
            "adjusted_amount": "By how much the amount at risk of items changed while they were open, in main units; less is"
            " below zero.",
            "resolved": "Items that were resolved: caught_up + within_tolerance + resolved_by_person.",
            "resolved_amount": AT_RISK,
            "caught_up": "Of these, items that no longer differed at a check.",
            "caught_up_amount": AT_RISK,
            "within_tolerance": "Of these, items that the rules allow.",
            "within_tolerance_amount": AT_RISK,
            "resolved_by_person": "Of these, items that a person closed; with them those closed by hand before 0009.",
            "resolved_by_person_amount": AT_RISK,
            "written_off": "Items of which a second person approved the write-off.",
            "written_off_amount": "The amount written off, in main units: that of report.write_offs approved that day.",
            "unexplained": "Items that came or went without a step that says so. Anything but 0 is a fault: a row was"
            " changed by hand, or by the release before 0009.",
            "unexplained_amount": "What changed so of the amount at risk, in main units.",
            "closing": "Items open as the day ended.",
            "closing_amount": AT_RISK,
            "is_explained": "Whether both unexplained columns are 0, and so the equation holds without them.",
        },
        f"""
        WITH told AS (
            SELECT s.discrepancy_id, s.instance_id, s.step_id, s.at, s.kind, s.reason, s.state,
                COALESCE(s.amount_at_risk, 0) AS amount, s.currency
            FROM discrepancy_steps s
            WHERE {seen("s.instance_id")}
            UNION ALL
            -- Where the steps must have led to: what differs from the last of them is not explained.
            SELECT d.discrepancy_id, d.instance_id, 9223372036854775807, COALESCE(d.closed_at, d.first_seen_at),
                'as it is', NULL, d.state, COALESCE(d.amount_at_risk, 0), d.currency
            FROM discrepancies d
            WHERE {seen("d.instance_id")}
        ), ordered AS (
            -- The order of the steps decides: a clock that was set back takes none into a day before the last one's.
            SELECT t.*, max(t.at) OVER life AS moved_at, t.state IN ('open', 'investigating') AS is_open,
                lag(t.state) OVER life AS state_before, lag(t.amount) OVER life AS amount_before,
                lag(t.currency) OVER life AS currency_before
            FROM told t
            WINDOW life AS (PARTITION BY t.instance_id, t.discrepancy_id ORDER BY t.step_id)
        ), compared AS (
            SELECT o.*, o.state_before IS NULL AND o.kind NOT IN ('opened', 'reopened', 'as it is') AS is_unopened,
                COALESCE(o.state_before IN ('open', 'investigating'),
                    o.kind NOT IN ('opened', 'reopened', 'as it is')) AS was_open,
                CASE WHEN o.state_before IS NULL THEN o.amount ELSE o.amount_before END AS was_amount,
                CASE WHEN o.state_before IS NULL THEN o.currency ELSE o.currency_before END AS was_currency,
                CASE WHEN o.kind = 'as it is' THEN 'unexplained' ELSE 'adjusted' END AS change
            FROM ordered o
        ), moves AS (
            SELECT c.instance_id, d.type, (m.at AT TIME ZONE {ZONE})::date AS reporting_day, m.movement, m.currency,
                m.items, m.amount
            FROM compared c
            JOIN discrepancies d ON d.discrepancy_id = c.discrepancy_id
            CROSS JOIN LATERAL (VALUES
                (c.is_unopened, d.first_seen_at, 'unexplained', c.currency, 1, c.amount),
                (c.was_open AND (c.was_amount, c.was_currency) IS DISTINCT FROM (c.amount, c.currency),
                    c.moved_at, c.change, c.was_currency, -1, -c.was_amount),
                (c.was_open AND (c.was_amount, c.was_currency) IS DISTINCT FROM (c.amount, c.currency),
                    c.moved_at, c.change, c.currency, 1, c.amount),
                (c.is_open AND NOT c.was_open, c.moved_at,
                    CASE WHEN c.kind IN ('opened', 'reopened') THEN c.kind ELSE 'unexplained' END,
                    c.currency, 1, c.amount),
                (c.was_open AND NOT c.is_open, c.moved_at,
                    CASE WHEN c.kind = 'write_off_approved' THEN 'written_off'
                        WHEN c.kind <> 'resolved' THEN 'unexplained'
                        WHEN c.reason IN ('caught_up', 'within_tolerance') THEN c.reason
                        ELSE 'resolved_by_person' END,
                    c.currency, -1, -c.amount)
            ) AS m (is_so, at, movement, currency, items, amount)
            WHERE m.is_so
        ), days AS (
            SELECT m.instance_id, m.reporting_day, m.type, m.currency,
                sum(m.items)::bigint AS net, sum(m.amount) AS net_amount,
                {moved(("opened",))},
                {moved(("reopened",))},
                {moved(("adjusted",))},
                {moved(RESOLVED)},
                {moved(("caught_up",))},
                {moved(("within_tolerance",))},
                {moved(("resolved_by_person",))},
                {moved(("written_off",))}
            FROM moves m
            GROUP BY m.instance_id, m.reporting_day, m.type, m.currency
        ), rolled AS (
            SELECT y.*, sum(y.net) OVER before_and_on::bigint AS closing,
                sum(y.net_amount) OVER before_and_on AS closing_amount
            FROM days y
            WINDOW before_and_on AS (PARTITION BY y.instance_id, y.type, y.currency ORDER BY y.reporting_day)
        ), proven AS (
            SELECT r.*, r.net - r.opened - r.reopened - r.adjusted + r.resolved + r.written_off AS unexplained,
                r.net_amount - r.opened_amount - r.reopened_amount - r.adjusted_amount + r.resolved_amount
                    + r.written_off_amount AS unexplained_amount
            FROM rolled r
        )
        SELECT r.instance_id, a.site_id, r.reporting_day, {ZONE} AS reporting_zone, r.type, r.currency,
            r.closing - r.net AS opening, r.closing_amount - r.net_amount AS opening_amount,
            r.opened, r.opened_amount, r.reopened, r.reopened_amount, r.adjusted, r.adjusted_amount,
            r.resolved, r.resolved_amount, r.caught_up, r.caught_up_amount,
            r.within_tolerance, r.within_tolerance_amount, r.resolved_by_person, r.resolved_by_person_amount,
            r.written_off, r.written_off_amount, r.unexplained, r.unexplained_amount, r.closing, r.closing_amount,
            r.unexplained = 0 AND r.unexplained_amount = 0 AS is_explained
        FROM proven r
        LEFT JOIN app_instances a ON a.instance_id = r.instance_id""",
    ),
    "resolutions": (
        (
            "What was resolved, and by whom: one row for each time an item was, also if it was opened again. Number and"
            " amount of a day are resolved and resolved_amount of roll_forward; the rest of what closed is in write_offs."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "step_id": "The step of the discrepancy's history that resolved it.",
            "discrepancy_id": "The discrepancy.",
            "type": TYPE,
            "severity": "error or informational, as it was then.",
            "payment_link_id": LINK,
            "payment_id": PAYMENT,
            "amount_at_risk": "Amount in question as it was resolved, in main units. NULL when it is of no amount.",
            "currency": CURRENCY,
            "reason": "Why, as a code: caught_up (a check saw no difference any more), within_tolerance (the rules allow"
            " it), or by a person corrected_at_wix, corrected_here, explained or test_data. NULL where it was closed by hand before"
            " 0009.",
            "resolved_by": "The person who resolved it; automation for a check.",
            "run_id": "Reconciliation run that resolved it. NULL for a person.",
            "rule_set_version": "Version of the rules it followed. NULL where none did, and when no rules were set.",
            "owner": "Who looked after it. NULL: nobody.",
            "opened_at": "When it was opened, or opened again, before that (UTC). NULL where the release before 0009"
            " opened it.",
            "resolved_at": "When it was resolved (UTC).",
            "reporting_day": "Calendar day of resolved_at in the zone of reporting_zone.",
            "reporting_zone": "Time zone of reporting_day, as in roll_forward.",
            "reopened_at": "When it was opened again after that, the first time (UTC). NULL: it was not.",
        },
        f"""
        WITH ordered AS (
            SELECT s.*, max(s.at) OVER until_then AS moved_at, lag(s.state) OVER until_then AS state_before,
                max(s.at) FILTER (WHERE s.kind IN ('opened', 'reopened')) OVER until_then AS opened_at,
                min(s.at) FILTER (WHERE s.kind = 'reopened')
                    OVER (until_then ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS reopened_at
            FROM discrepancy_steps s
            WHERE {seen("s.instance_id")}
            WINDOW until_then AS (PARTITION BY s.instance_id, s.discrepancy_id ORDER BY s.step_id)
        )
        SELECT s.instance_id, a.site_id, s.step_id, s.discrepancy_id, d.type, s.severity, d.payment_link_id,
            d.payment_id, s.amount_at_risk, s.currency, s.reason, s.actor AS resolved_by, s.run_id, s.rule_set_version,
            s.owner, s.opened_at, s.at AS resolved_at, (s.moved_at AT TIME ZONE {ZONE})::date AS reporting_day,
            {ZONE} AS reporting_zone, s.reopened_at
        FROM ordered s
        JOIN discrepancies d ON d.discrepancy_id = s.discrepancy_id
        LEFT JOIN app_instances a ON a.instance_id = s.instance_id
        WHERE s.kind = 'resolved' AND COALESCE(s.state_before IN ('open', 'investigating'), true)""",
    ),
    "write_offs": (
        (
            "The register of write-offs: one row for each that was proposed, whatever became of it. A write-off accepts all"
            " that is at risk of one discrepancy; one person proposes it and another approves it."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "write_off_id": "The write-off.",
            "discrepancy_id": "The discrepancy it accepts.",
            "type": TYPE,
            "payment_link_id": LINK,
            "payment_id": PAYMENT,
            "amount": "Amount proposed to be written off, in main units; 0 where no money can be named.",
            "currency": CURRENCY,
            "reason": "Why, as a code: refund, fee, rounding, buyer_dispute, unrecoverable or test_data.",
            "status": "proposed (it waits for approval), approved (it is in force), rejected by another person, withdrawn by"
            " who proposed it, voided (the difference changed or went before it was approved), or reversed (it was"
            " approved, and the discrepancy opened again, or the difference went after all).",
            "proposed_by": "Who proposed it.",
            "proposed_at": "When (UTC).",
            "approved_by": "Who approved it: somebody else. NULL when nobody did.",
            "approved_at": "When (UTC). NULL when nobody did.",
            "rule_set_version": "Version of the rules, with their limit, under which it was approved. NULL when nobody did,"
            " and when no rules were set: then there is no limit.",
            "ended_by": "Who rejected, withdrew, voided or reversed it; automation for a check. NULL while it stands.",
            "ended_at": "When (UTC). NULL while it stands.",
            "approved_amount": "amount if it was ever approved, else 0: the sum of a day is written_off_amount of"
            " roll_forward.",
            "in_force_amount": "amount while it is approved, else 0.",
            "discrepancy_state": "Where the discrepancy stands now: open, investigating, resolved or written_off.",
        },
        f"""
        SELECT w.instance_id, a.site_id, w.write_off_id, w.discrepancy_id, d.type, d.payment_link_id, d.payment_id,
            w.amount, w.currency, w.reason, w.status, w.proposed_by, w.proposed_at, w.approved_by, w.approved_at,
            (SELECT max(s.rule_set_version) FROM discrepancy_steps s
                WHERE s.discrepancy_id = w.discrepancy_id AND s.kind = 'write_off_approved' AND s.at = w.approved_at)
                AS rule_set_version,
            w.ended_by, w.ended_at,
            CASE WHEN w.approved_at IS NULL THEN 0 ELSE w.amount END AS approved_amount,
            CASE WHEN w.status = 'approved' THEN w.amount ELSE 0 END AS in_force_amount,
            d.state AS discrepancy_state
        FROM write_offs w
        JOIN discrepancies d ON d.discrepancy_id = w.discrepancy_id
        LEFT JOIN app_instances a ON a.instance_id = w.instance_id
        WHERE {seen("w.instance_id")}""",
    ),
}


def upgrade() -> None:
    for name, (meaning, columns, query) in VIEWS.items():
        op.execute(f"CREATE VIEW report.{name} WITH (security_barrier) AS {query}")
        op.execute(f"COMMENT ON VIEW report.{name} IS {quoted(meaning)}")
        for column, words in columns.items():
            op.execute(f"COMMENT ON COLUMN report.{name}.{column} IS {quoted(words)}")
    op.execute("COMMENT ON SCHEMA report IS 'Reports for finance and audit: read only, nothing of a buyer.'")
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
                            AND c.relname NOT IN ({", ".join(quoted(name) for name in VIEWS)})
                            AND NOT pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT'))
            LOOP
                EXECUTE 'GRANT SELECT ON {", ".join(f"report.{name}" for name in VIEWS)} TO ' || quote_ident(reader);
            END LOOP;
        END $do$""")


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW report.{name}")
    op.execute("COMMENT ON SCHEMA report IS 'Reports for finance and audit: read only, nothing personal.'")


def quoted(words: str) -> str:
    """As a literal of SQL."""
    return "'" + words.replace("'", "''") + "'"
