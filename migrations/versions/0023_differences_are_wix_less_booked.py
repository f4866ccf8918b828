"""differences are Wix less booked

Revision: 0023, after 0022. A difference is what Wix says less what is booked, in every view, on every page and in every
export. `report.control_totals` had it the other way round. Its columns are renamed as well, and those of `report.runs` with
them: whoever relied on a sign is told by a name that is gone, not by figures that turned over.

Views are renamed and replaced in place, so that whoever was granted them keeps that. The release before runs on beside
it, but for its own reports of control totals and of runs, which ask for names that are gone. It takes no lock that lasts.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

BEFORE = {
    "count_difference": "Payments booked of the link, in any currency, less payment_count. NULL as payment_count.",
    "amount_difference": "booked_amount less total_amount, in main units. NULL as total_amount. Below zero: Wix shows more.",
}
AFTER = {
    "wix_less_booked_count": "payment_count less the payments booked of the link, in any currency. NULL as payment_count.",
    "wix_less_booked_amount": "total_amount less booked_amount, in main units. NULL as total_amount. Below zero: Wix shows"
    " less.",
}


def seen(instance_id: str) -> str:
    """The condition under which whoever asks may see a row of this instance."""
    return (
        f"((SELECT r.sees_all FROM report_reach r) OR {instance_id} ="
        " ANY ((SELECT r.instance_ids FROM report_reach r)::uuid[]))"
    )


def control_totals(names: tuple[str, ...], *, is_wix_less_booked: bool) -> str:
    """The query of the view. names: of the two differences."""
    count, amount = names
    differences = ("c.payments_of_link - c.payment_count", "c.booked_amount - c.total_amount")
    if is_wix_less_booked:
        differences = ("c.payment_count - c.payments_of_link", "c.total_amount - c.booked_amount")
    counts, amounts = (f"CASE WHEN c.is_of_total THEN {one} END" for one in differences)
    return f"""
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
            {counts} AS {count},
            {amounts} AS {amount},
            CASE WHEN c.is_of_total
                THEN c.payments_of_link = c.payment_count AND c.booked_amount = c.total_amount END AS is_equal,
            c.payments_limit, c.payments_of_link > c.payments_limit AS is_over_limit, c.status, c.seen_at,
            c.missing_since, k.last_checked_at,
            CASE WHEN k.last_checked_at IS NOT NULL THEN k.unsettled_since IS NULL END AS is_settled
        FROM compared c
        LEFT JOIN app_instances a ON a.instance_id = c.instance_id
        LEFT JOIN link_checks k ON k.instance_id = c.instance_id AND k.payment_link_id = c.payment_link_id"""


def upgrade() -> None:
    _turn(BEFORE, AFTER, is_wix_less_booked=True)


def downgrade() -> None:
    _turn(AFTER, BEFORE, is_wix_less_booked=False)


def _turn(old: dict[str, str], new: dict[str, str], *, is_wix_less_booked: bool) -> None:
    for before, after in zip(old, new, strict=True):
        _rename("control_totals", before, after)
    query = control_totals(tuple(new), is_wix_less_booked=is_wix_less_booked)
    op.execute(f"CREATE OR REPLACE VIEW report.control_totals WITH (security_barrier) AS {query}")
    for column, words in new.items():
        op.execute(f"COMMENT ON COLUMN report.control_totals.{column} IS '{words}'")
    _, before = old
    _, after = new
    _rename("runs", before, after)


def _rename(view: str, before: str, after: str) -> None:
    # That it breaks queries on the old name is what it is for.
    op.execute(
        f"-- squawk-ignore renaming-column\nALTER VIEW report.{view} RENAME COLUMN {before} TO {after}"
    )
