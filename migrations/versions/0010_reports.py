"""reports are views

Revision: 0010, after 0009. Makes the schema `report`, all of which is for readers: auditors, finance, their tools. Every
view and column is described in the catalogue. Nothing in it is personal.

Who reads what is a row of `report_readers`; without a row a role sees no line of any view, whatever it was granted. The
views run with their owner's rights, so a reader needs none to the tables; each filters by `report_reach`, which says what
the role that asks may see, and each is a security barrier, so that no function of the reader's sees a row before that.
The owner of the tables sees everything.

It only adds, and takes no lock that anybody waits for: the release before runs on beside it. Making a schema needs the
right CREATE on the database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

REACH = """
    SELECT pg_has_role(o.relowner, 'USAGE')
            OR EXISTS (SELECT FROM report_readers g JOIN pg_catalog.pg_roles r
                ON r.rolname::text COLLATE "C" = g.role_name COLLATE "C"
                WHERE g.instance_id IS NULL AND pg_has_role(r.oid, 'USAGE')) AS sees_all,
        ARRAY(SELECT g.instance_id FROM report_readers g JOIN pg_catalog.pg_roles r
            ON r.rolname::text COLLATE "C" = g.role_name COLLATE "C"
            WHERE g.instance_id IS NOT NULL AND pg_has_role(r.oid, 'USAGE')) AS instance_ids
    FROM pg_catalog.pg_class o WHERE o.oid = 'report_readers'::regclass"""
ZONE = "COALESCE(NULLIF(current_setting('processor.report_time_zone', true), ''), 'UTC')"
REPORTING_AT = "COALESCE(p.transaction_at, p.created_at, p.stored_at)"


def seen(instance_id: str) -> str:
    """The condition under which whoever asks may see a row of this instance; NULL is of no instance."""
    return (
        f"((SELECT r.sees_all FROM report_reach r) OR {instance_id} ="
        " ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"
    )


INSTANCE = "App instance: one installation of the app on one site. Ids are unique within one instance only."
SITE = "Site of the app instance. NULL while Wix has not told."
PAYMENT = "Payment, by Wix's id."
LINK = "Payment link, by Wix's id."
CURRENCY = "ISO 4217 code. Amounts of different currencies are never to be added up."

VIEWS: dict[str, tuple[str, dict[str, str], str]] = {
    "payments": (
        (
            "The itemised payment line: one row for each payment booked, at its highest revision. Its sums are those of"
            " reconciliation_summary."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "payment_id": PAYMENT,
            "type": "Kind of payment in Wix's word, such as REGULAR or GIFT_CARD. NULL when Wix did not tell.",
            "payment_link_id": "Payment link that was paid, by Wix's id.",
            "ecom_order_id": "Order the payment belongs to. NULL when it has none or Wix did not tell.",
            "ecom_checkout_id": "Checkout the payment came from. NULL when Wix did not tell.",
            "receipt_id": "Receipt Wix issued. NULL when none was issued.",
            "revision": "Wix's revision of the payment that is booked: the highest we were told of.",
            "currency": CURRENCY,
            "amount": "Gross amount paid, in main units of the currency, with three decimals.",
            "fee": "Fee of the provider, in main units. NULL: not known, Wix does not tell it. Never zero for unknown.",
            "net": "Gross less fee, in main units. NULL: not known, as the fee is not.",
            "method": "How the buyer paid, in Wix's word, such as CREDIT_CARD. NULL when Wix did not tell.",
            "payment_method": "The provider's word for the same. NULL when Wix did not tell.",
            "payment_provider": "Who handled the payment. NULL when Wix did not tell.",
            "created_at": "When Wix made the payment (UTC). NULL when Wix did not tell.",
            "transaction_at": "When the buyer paid, by Wix (UTC). NULL when Wix did not tell.",
            "stored_at": "When the payment was first booked here (UTC).",
            "changed_at": "When the booked revision was stored here (UTC). Equal to stored_at if there was no other.",
            "reporting_at": "Instant that decides the reporting day: transaction_at, else created_at, else stored_at.",
            "reporting_day": "Calendar day of reporting_at in the zone of reporting_zone.",
            "reporting_zone": "Time zone of reporting_day: the setting processor.report_time_zone, UTC without it.",
            "first_origin": "Who told of the payment first: webhook, poll (its webhook was missed or late) or replay.",
            "origin": "Who told of the booked revision: webhook, poll or replay.",
            "event_id": "Webhook event the booked revision came from. NULL when a poll found it.",
            "event_received_at": "When that event was first received (UTC). NULL when a poll found it.",
            "event_token_digest": "SHA-256 of that event's signed body as received, in hexadecimal. NULL for a poll.",
            "run_id": "Reconciliation run the booked revision came from. NULL when an event told of it.",
            "match_state": "How it stood at its last check with Wix: matched, expected (differs, but within the settling"
            " time) or discrepant. NULL before the first check. It does not say that money was paid out.",
            "matched_at": "When match_state last changed (UTC). NULL before the first check.",
            "is_erased": "Whether the buyer's personal data was erased. The money stays.",
        },
        f"""
        SELECT p.instance_id, a.site_id, p.payment_id, p.type, p.payment_link_id, p.ecom_order_id, p.ecom_checkout_id,
            p.receipt_id, p.revision, p.currency, p.amount, NULL::numeric(19, 3) AS fee, NULL::numeric(19, 3) AS net,
            p.method, p.payment_method, p.payment_provider, p.created_at, p.transaction_at, p.stored_at, p.changed_at,
            {REPORTING_AT} AS reporting_at,
            ({REPORTING_AT} AT TIME ZONE {ZONE})::date AS reporting_day, {ZONE} AS reporting_zone,
            p.first_origin, p.origin, p.event_id, e.received_at AS event_received_at,
            encode(e.token_digest, 'hex') AS event_token_digest, p.run_id, p.match_state, p.matched_at,
            p.erased_at IS NOT NULL AS is_erased
        FROM payments p
        LEFT JOIN app_instances a ON a.instance_id = p.instance_id
        LEFT JOIN webhook_events e ON e.event_id = p.event_id AND e.instance_id = p.instance_id
        WHERE {seen("p.instance_id")}""",
    ),
    "reconciliation_summary": (
        (
            "Payments and how they stand, one row for each instance, reporting day and currency. payments = matched +"
            " expected + discrepant + not_checked, and the same for the amounts."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "reporting_day": "Calendar day of the payments, as in report.payments.",
            "reporting_zone": "Time zone of reporting_day.",
            "currency": CURRENCY,
            "payments": "Number of payments booked.",
            "amount": "Their gross amount, in main units.",
            "matched": "Payments that Wix listed alike at their last check.",
            "matched_amount": "Their gross amount, in main units.",
            "expected": "Payments that differed at their last check, but within the settling time.",
            "expected_amount": "Their gross amount, in main units.",
            "discrepant": "Payments with a difference that needs a decision.",
            "discrepant_amount": "Their gross amount, in main units.",
            "not_checked": "Payments that were not checked yet.",
            "not_checked_amount": "Their gross amount, in main units.",
            "recovered": "Of all payments, those a poll told of first. They are counted above as well.",
            "recovered_amount": "Their gross amount, in main units.",
        },
        """
        SELECT p.instance_id, p.site_id, p.reporting_day, p.reporting_zone, p.currency,
            count(*) AS payments, sum(p.amount) AS amount,
            count(*) FILTER (WHERE p.match_state IN ('matched', 'recovered')) AS matched,
            COALESCE(sum(p.amount) FILTER (WHERE p.match_state IN ('matched', 'recovered')), 0) AS matched_amount,
            count(*) FILTER (WHERE p.match_state = 'expected') AS expected,
            COALESCE(sum(p.amount) FILTER (WHERE p.match_state = 'expected'), 0) AS expected_amount,
            count(*) FILTER (WHERE p.match_state = 'discrepant') AS discrepant,
            COALESCE(sum(p.amount) FILTER (WHERE p.match_state = 'discrepant'), 0) AS discrepant_amount,
            count(*) FILTER (WHERE p.match_state IS NULL) AS not_checked,
            COALESCE(sum(p.amount) FILTER (WHERE p.match_state IS NULL), 0) AS not_checked_amount,
            count(*) FILTER (WHERE p.first_origin = 'poll') AS recovered,
            COALESCE(sum(p.amount) FILTER (WHERE p.first_origin = 'poll'), 0) AS recovered_amount
        FROM report.payments p
        GROUP BY p.instance_id, p.site_id, p.reporting_day, p.reporting_zone, p.currency""",
    ),
    "missed_webhooks": (
        "What a poll told of before any webhook did: payments, and updates of payments. One row for each.",
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "missed": "payment: the poll told of the payment first. update: it told of a newer revision first.",
            "payment_id": PAYMENT,
            "payment_link_id": LINK,
            "revision": "Wix's revision that the poll found.",
            "currency": CURRENCY,
            "amount": "Gross amount as booked now, in main units, once for each payment: the sum is recovered_amount of"
            " reconciliation_summary. NULL in rows of updates.",
            "found_amount": "Gross amount that the poll found, in main units.",
            "created_at": "When Wix made the payment (UTC). NULL when Wix did not tell.",
            "found_at": "When the poll's finding was booked (UTC).",
            "delay_seconds": "Whole seconds from created_at to found_at. NULL for an update, as Wix does not tell when it"
            " changed a payment, and where created_at is NULL.",
            "run_id": "Reconciliation run that found it.",
            "webhook": "never: no webhook came. late: one came after the poll. unused: one came before, but could not be"
            " booked then (unreadable, or held).",
            "webhook_received_at": "First receipt of a webhook that tells of the payment; for an update, of this revision"
            " or a later one, and readable (UTC). NULL when none came.",
        },
        f"""
        SELECT m.instance_id, a.site_id, m.missed, m.payment_id, m.payment_link_id, m.revision, m.currency, m.amount,
            m.found_amount, m.created_at, m.found_at, m.delay_seconds, m.run_id,
            CASE WHEN m.webhook_received_at IS NULL THEN 'never'
                WHEN m.webhook_received_at > m.found_at THEN 'late' ELSE 'unused' END AS webhook,
            m.webhook_received_at
        FROM (
            SELECT p.instance_id, 'payment' AS missed, p.payment_id, p.payment_link_id, t.revision, p.currency,
                p.amount, t.amount AS found_amount, p.created_at, p.stored_at AS found_at,
                round(extract(epoch FROM p.stored_at - p.created_at))::bigint AS delay_seconds, t.run_id,
                (SELECT min(e.received_at) FROM webhook_events e
                    WHERE e.instance_id = p.instance_id AND e.entity_id = p.payment_id AND e.kind = 'payment')
                    AS webhook_received_at
            FROM payments p
            LEFT JOIN payment_tellings t
                ON t.instance_id = p.instance_id AND t.payment_id = p.payment_id AND t.verdict = 'new'
            WHERE p.first_origin = 'poll'
            UNION ALL
            SELECT v.instance_id, 'update', v.payment_id, v.payment_link_id, v.revision, v.currency, NULL, v.amount,
                v.created_at, v.told_at, NULL, v.run_id,
                (SELECT min(e.received_at) FROM payment_versions w
                    JOIN webhook_events e ON e.event_id = w.event_id AND e.instance_id = w.instance_id
                    WHERE w.instance_id = v.instance_id AND w.payment_id = v.payment_id
                        AND w.revision >= v.revision)
            FROM payment_versions v WHERE v.origin = 'poll' AND v.verdict = 'newer'
        ) m
        LEFT JOIN app_instances a ON a.instance_id = m.instance_id
        WHERE {seen("m.instance_id")}""",
    ),
    "duplicates": (
        (
            "Proof that duplicates were recognised: every event that was delivered more than once. Each was acted on once."
            " delivery_count = 1 + duplicate_count + conflict_count."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "event_id": "Event, by Wix's id.",
            "event_type": "Wix's type of the event.",
            "status": "What became of its first delivery: recorded, held (instance not vouched for), ignored or unreadable.",
            "entity_id": "What the event is about: a payment or a payment link. NULL when it does not say.",
            "payment_link_id": "Payment link concerned. NULL when the event names none.",
            "received_at": "First receipt (UTC).",
            "last_received_at": "Last receipt (UTC).",
            "delivery_count": "How often it was delivered.",
            "duplicate_count": "Of these, repetitions of the same content.",
            "conflict_count": "Of these, deliveries under the same id with another content; the first content stays.",
            "conflicting_contents": "How many other contents were kept as evidence.",
            "token_digest": "SHA-256 of the signed body as first received, in hexadecimal.",
        },
        f"""
        SELECT e.instance_id, a.site_id, e.event_id, e.event_type, e.status, e.entity_id, e.payment_link_id,
            e.received_at, e.last_received_at, e.delivery_count,
            e.delivery_count - 1 - e.conflict_count AS duplicate_count, e.conflict_count,
            (SELECT count(*) FROM webhook_event_conflicts c
                WHERE c.instance_id = e.instance_id AND c.event_id = e.event_id) AS conflicting_contents,
            encode(e.token_digest, 'hex') AS token_digest
        FROM webhook_events e
        LEFT JOIN app_instances a ON a.instance_id = e.instance_id
        WHERE (e.delivery_count > 1 OR e.conflict_count > 0) AND {seen("e.instance_id")}""",
    ),
    "out_of_order": (
        (
            "Proof that the rule of revisions ran: every telling of a payment that changed nothing, or came in another order"
            " than it happened. The highest revision is booked whatever the order."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "payment_id": PAYMENT,
            "payment_link_id": LINK,
            "control": "stale: an older revision than the one booked. same: the booked revision told again, alike. conflict:"
            " the booked revision with another content; the first stays. updated_before_created: the first that was told"
            " of the payment is an update.",
            "revision": "Wix's revision that was told.",
            "booked_revision": "Wix's revision that is booked now.",
            "origin": "Who told: webhook, poll or replay.",
            "event_id": "Event that told. NULL when a poll did.",
            "run_id": "Reconciliation run that told. NULL when an event did.",
            "told_at": "When it was judged here (UTC).",
            "occurred_at": "When it happened, by the event (UTC). NULL for a poll, and when the event does not say.",
            "created_received_at": "First receipt of the event of the payment's creation (UTC). NULL when it did not come.",
        },
        f"""
        SELECT o.instance_id, a.site_id, o.payment_id, o.payment_link_id, o.control, o.revision,
            (SELECT p.revision FROM payments p
                WHERE p.instance_id = o.instance_id AND p.payment_id = o.payment_id) AS booked_revision,
            o.origin, o.event_id, o.run_id, o.told_at, o.occurred_at,
            (SELECT min(c.received_at) FROM webhook_events c
                WHERE c.instance_id = o.instance_id AND c.entity_id = o.payment_id AND c.kind = 'payment'
                    AND c.slug = 'created') AS created_received_at
        FROM (
            SELECT v.instance_id, v.payment_id, v.payment_link_id, v.verdict AS control, v.revision, v.origin,
                v.event_id, v.run_id, v.told_at, e.occurred_at
            FROM payment_versions v
            LEFT JOIN webhook_events e ON e.event_id = v.event_id AND e.instance_id = v.instance_id
            WHERE v.verdict IN ('same', 'stale', 'conflict')
            UNION ALL
            SELECT t.instance_id, t.payment_id, t.payment_link_id, 'updated_before_created', t.revision, t.origin,
                t.event_id, t.run_id, t.told_at, e.occurred_at
            FROM payment_tellings t
            JOIN webhook_events e ON e.event_id = t.event_id AND e.instance_id = t.instance_id
            WHERE t.verdict = 'new' AND e.slug = 'updated'
        ) o
        LEFT JOIN app_instances a ON a.instance_id = o.instance_id
        WHERE {seen("o.instance_id")}""",
    ),
    "control_totals": (
        (
            "Our sum and number of each payment link beside Wix's own total of it. One row for each link and currency; Wix"
            " keeps one total, in the link's currency."
        ),
        {
            "instance_id": INSTANCE,
            "site_id": SITE,
            "payment_link_id": LINK,
            "currency": CURRENCY
            + " NULL when Wix did not tell the link's and it has not payments of just one.",
            "booked_count": "Payments booked of this link in this currency.",
            "booked_amount": "Their gross amount, in main units.",
            "booked_last_payment_at": "When the last of them was paid: transaction_at, else created_at (UTC). NULL: unknown.",
            "payment_count": "Number of payments by Wix's total. NULL when Wix did not tell, and beside another currency.",
            "total_amount": "Amount by Wix's total, in main units. NULL as payment_count.",
            "last_payment_at": "When the link was last paid, by Wix's total (UTC). NULL as payment_count.",
            "count_difference": "Payments booked of the link, in any currency, less payment_count. NULL as payment_count.",
            "amount_difference": "booked_amount less total_amount, in main units. NULL as total_amount. Below zero: Wix"
            " shows more.",
            "is_equal": "Whether both differences are zero. NULL when one is not known.",
            "payments_limit": "How often the link may be paid, by Wix. NULL: without limit, or not told.",
            "is_over_limit": "Whether more payments are booked of the link than that. NULL without a limit.",
            "status": "Status of the link in Wix's word, such as ACTIVE or PAID. NULL when Wix did not tell.",
            "seen_at": "When Wix described the link to us last (UTC). NULL: never.",
            "missing_since": "Since when Wix does not know the link (UTC). NULL when it does.",
            "last_checked_at": "When the link's books were last compared with Wix (UTC). NULL: never.",
            "is_settled": "Whether that check left nothing that may still be in transit. NULL: never checked.",
        },
        f"""
        WITH booked AS (
            SELECT p.instance_id, p.payment_link_id, p.currency, count(*) AS payments, sum(p.amount) AS amount,
                max(COALESCE(p.transaction_at, p.created_at)) AS last_at,
                sum(count(*)) OVER link AS payments_of_link, count(*) OVER link AS currencies
            FROM payments p
            WHERE {seen("p.instance_id")}
            GROUP BY p.instance_id, p.payment_link_id, p.currency
            WINDOW link AS (PARTITION BY p.instance_id, p.payment_link_id)
        ), told AS (
            SELECT l.instance_id, l.payment_link_id, COALESCE(l.currency, b.currency) AS currency, l.payment_count,
                l.total_amount, l.last_payment_at, l.payments_limit, l.status, l.seen_at, l.missing_since
            FROM payment_links l
            -- A total without a currency is of the only one there is.
            LEFT JOIN booked b ON b.instance_id = l.instance_id AND b.payment_link_id = l.payment_link_id
                AND b.currencies = 1 AND l.currency IS NULL
            WHERE {seen("l.instance_id")}
        ), counted AS (
            SELECT DISTINCT b.instance_id, b.payment_link_id, b.payments_of_link FROM booked b
        ), lines AS (
            SELECT b.instance_id, b.payment_link_id, b.currency FROM booked b
            UNION SELECT t.instance_id, t.payment_link_id, t.currency FROM told t
        ), compared AS (
            SELECT k.instance_id, k.payment_link_id, k.currency,
                COALESCE(b.payments, 0) AS booked_count, COALESCE(b.amount, 0) AS booked_amount, b.last_at,
                t.currency IS NOT DISTINCT FROM k.currency AND t.instance_id IS NOT NULL AS is_of_total,
                COALESCE(n.payments_of_link, 0)::bigint AS payments_of_link,
                t.payment_count, t.total_amount, t.last_payment_at, t.payments_limit, t.status, t.seen_at,
                t.missing_since
            FROM lines k
            LEFT JOIN booked b ON b.instance_id = k.instance_id AND b.payment_link_id = k.payment_link_id
                AND b.currency = k.currency
            LEFT JOIN counted n ON n.instance_id = k.instance_id AND n.payment_link_id = k.payment_link_id
            LEFT JOIN told t ON t.instance_id = k.instance_id AND t.payment_link_id = k.payment_link_id
        )
        SELECT c.instance_id, a.site_id, c.payment_link_id, c.currency, c.booked_count, c.booked_amount,
            c.last_at AS booked_last_payment_at,
            CASE WHEN c.is_of_total THEN c.payment_count END AS payment_count,
            CASE WHEN c.is_of_total THEN c.total_amount END AS total_amount,
            CASE WHEN c.is_of_total THEN c.last_payment_at END AS last_payment_at,
            CASE WHEN c.is_of_total THEN c.payments_of_link - c.payment_count END AS count_difference,
            CASE WHEN c.is_of_total THEN c.booked_amount - c.total_amount END AS amount_difference,
            CASE WHEN c.is_of_total
                THEN c.payments_of_link = c.payment_count AND c.booked_amount = c.total_amount END AS is_equal,
            c.payments_limit, c.payments_of_link > c.payments_limit AS is_over_limit, c.status, c.seen_at,
            c.missing_since, k.last_checked_at,
            CASE WHEN k.last_checked_at IS NOT NULL THEN k.unsettled_since IS NULL END AS is_settled
        FROM compared c
        LEFT JOIN app_instances a ON a.instance_id = c.instance_id
        LEFT JOIN link_checks k ON k.instance_id = c.instance_id AND k.payment_link_id = c.payment_link_id""",
    ),
    "completeness": (
        (
            "Every webhook delivery that was answered 200 or 401, with what became of it, by the UTC day its event was first"
            " received. deliveries = stored_first + unreadable + duplicates + conflicts + unread + rejected."
        ),
        {
            "day": "UTC day on which the event, or the same unread body, was first received. Repetitions on later days"
            " count here, too; refusals count on their own day.",
            "instance_id": INSTANCE
            + " NULL: not known, since the delivery was refused or not even that can be read.",
            "deliveries": "Deliveries counted as they were answered.",
            "stored_first": "First deliveries of events that were stored and could be read.",
            "held": "Of stored_first, those whose instance is not vouched for, so that nothing was booked.",
            "ignored": "Of stored_first, those of a type that concerns no payment, link or installation.",
            "unreadable": "First deliveries of events that were kept though they could not be read.",
            "duplicates": "Further deliveries of the same content.",
            "conflicts": "Deliveries under the id of another content, as they are kept in evidence.",
            "unread": "First deliveries that are authentic, but whose instance cannot be read; kept whole.",
            "rejected": "Deliveries refused as not proven to be Wix's.",
            "unaccounted": "deliveries less all of these. Anything but 0 is a fault of the service.",
            "is_complete": "Whether every delivery is accounted for.",
        },
        f"""
        WITH counted AS (
            SELECT (e.received_at AT TIME ZONE 'UTC')::date AS day, e.instance_id, e.delivery_count AS deliveries,
                (e.status <> 'unreadable')::int AS stored_first, (e.status = 'held')::int AS held,
                (e.status = 'ignored')::int AS ignored, (e.status = 'unreadable')::int AS unreadable,
                e.delivery_count - 1 - e.conflict_count AS duplicates, 0 AS conflicts, 0 AS unread, 0 AS rejected
            FROM webhook_events e
            UNION ALL
            SELECT (e.received_at AT TIME ZONE 'UTC')::date, c.instance_id, 0, 0, 0, 0, 0, 0, c.delivery_count, 0, 0
            FROM webhook_event_conflicts c
            JOIN webhook_events e ON e.event_id = c.event_id AND e.instance_id = c.instance_id
            UNION ALL
            SELECT (u.received_at AT TIME ZONE 'UTC')::date, NULL, u.delivery_count, 0, 0, 0, 0, u.delivery_count - 1,
                0, 1, 0
            FROM unread_deliveries u
            UNION ALL
            SELECT r.day, NULL, r.delivery_count, 0, 0, 0, 0, 0, 0, 0, r.delivery_count FROM rejection_counts r
        ), summed AS (
            SELECT c.day, c.instance_id, sum(c.deliveries)::bigint AS deliveries,
                sum(c.stored_first)::bigint AS stored_first, sum(c.held)::bigint AS held,
                sum(c.ignored)::bigint AS ignored, sum(c.unreadable)::bigint AS unreadable,
                sum(c.duplicates)::bigint AS duplicates, sum(c.conflicts)::bigint AS conflicts,
                sum(c.unread)::bigint AS unread, sum(c.rejected)::bigint AS rejected
            FROM counted c
            WHERE {seen("c.instance_id")}
            GROUP BY c.day, c.instance_id
        )
        SELECT s.*, s.deliveries - s.stored_first - s.unreadable - s.duplicates - s.conflicts - s.unread - s.rejected
                AS unaccounted,
            s.deliveries = s.stored_first + s.unreadable + s.duplicates + s.conflicts + s.unread + s.rejected
                AS is_complete
        FROM summed s""",
    ),
}


def upgrade() -> None:
    op.create_table(
        "report_readers",
        sa.Column("role_name", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.Column("granted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "octet_length(role_name) BETWEEN 1 AND 63", name=op.f("ck_report_readers_role_name_length")
        ),
    )
    op.create_index(
        "uq_report_readers_role_instance",
        "report_readers",
        ["role_name", "instance_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.execute(f"CREATE VIEW report_reach AS {REACH}")
    op.execute("CREATE SCHEMA report")
    op.execute(
        f"COMMENT ON SCHEMA report IS {quoted('Reports for finance and audit: read only, nothing personal.')}"
    )
    for name, (meaning, columns, query) in VIEWS.items():
        op.execute(f"CREATE VIEW report.{name} WITH (security_barrier) AS {query}")
        op.execute(f"COMMENT ON VIEW report.{name} IS {quoted(meaning)}")
        for column, words in columns.items():
            op.execute(f"COMMENT ON COLUMN report.{name}.{column} IS {quoted(words)}")


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW report.{name}")
    op.execute("DROP SCHEMA report")
    op.execute("DROP VIEW report_reach")
    op.drop_table("report_readers")


def quoted(words: str) -> str:
    """As a literal of SQL."""
    return "'" + words.replace("'", "''") + "'"
