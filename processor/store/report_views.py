"""The views of the schema `report`, read for the command line: row by row, with flat memory, and their totals."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from processor.errors import ConfigurationError
from processor.store.database import Database

ROWS_AT_ONCE = 500
# For one statement, and between two: a report of years may be sorted, and read through a pager.
LIMIT_SECONDS = 600
IDLE_SECONDS = (
    15.0  # between two statements, at least: a busy machine may let us wait where a statement may not
)
_NOT_ALLOWED = "42501"
_NO_SUCH_ZONE = "22023"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One view. at: the column that a window bounds; rows are in the order of it, then of `key`.

    is_daily: `at` is a day. is_utc: its days are those of UTC, else of the report time zone. sums: what may be added
    up, by currency where has_currency. shown: the columns of a table for people.
    """

    view: str
    at: str
    key: tuple[str, ...]
    sums: tuple[str, ...] = ()
    shown: tuple[str, ...]
    is_daily: bool = False
    is_utc: bool = False
    has_currency: bool = False


REPORTS = {
    one.view: one
    for one in (
        Report(
            view="payments",
            at="reporting_at",
            key=("payment_id", "instance_id"),
            sums=("amount",),
            shown=(
                *("reporting_day", "payment_id", "payment_link_id", "amount", "currency"),
                *("type", "match_state", "first_origin"),
            ),
            has_currency=True,
        ),
        Report(
            view="reconciliation_summary",
            at="reporting_day",
            key=("currency", "instance_id"),
            sums=(
                *("payments", "amount", "matched", "matched_amount", "expected", "expected_amount"),
                *("discrepant", "discrepant_amount", "not_checked", "not_checked_amount"),
                *("recovered", "recovered_amount"),
            ),
            shown=(
                *("reporting_day", "instance_id", "currency", "payments", "amount", "matched_amount"),
                *("expected_amount", "discrepant_amount", "not_checked_amount", "recovered_amount"),
            ),
            is_daily=True,
            has_currency=True,
        ),
        Report(
            view="missed_webhooks",
            at="found_at",
            key=("payment_id", "instance_id", "revision", "missed"),
            sums=("amount",),
            shown=(
                *("found_at", "missed", "payment_id", "amount", "currency", "delay_seconds", "webhook"),
                *("webhook_received_at", "recovery"),
            ),
            has_currency=True,
        ),
        Report(
            view="duplicates",
            at="received_at",
            key=("event_id", "instance_id"),
            sums=("delivery_count", "duplicate_count", "conflict_count"),
            shown=(
                *("received_at", "event_id", "event_type", "status", "delivery_count", "duplicate_count"),
                "conflict_count",
            ),
        ),
        Report(
            view="out_of_order",
            at="told_at",
            key=("payment_id", "instance_id", "revision", "control", "event_id", "run_id"),
            shown=(
                *("told_at", "payment_id", "control", "revision", "booked_revision", "origin", "event_id"),
            ),
        ),
        Report(
            view="control_totals",
            at="booked_last_payment_at",
            key=("payment_link_id", "instance_id", "currency"),
            sums=(
                *("booked_count", "booked_amount", "payment_count", "total_amount"),
                "wix_less_booked_amount",
            ),
            shown=(
                *("payment_link_id", "currency", "booked_count", "booked_amount", "payment_count"),
                *("total_amount", "wix_less_booked_amount", "is_equal", "last_checked_at"),
            ),
            has_currency=True,
        ),
        Report(
            view="completeness",
            at="day",
            key=("instance_id",),
            sums=(
                *(
                    "deliveries",
                    "stored_first",
                    "unreadable",
                    "duplicates",
                    "conflicts",
                    "unread",
                    "rejected",
                ),
                "unaccounted",
            ),
            shown=(
                *(
                    "day",
                    "instance_id",
                    "deliveries",
                    "stored_first",
                    "unreadable",
                    "duplicates",
                    "conflicts",
                ),
                *("unread", "rejected", "is_complete"),
            ),
            is_daily=True,
            is_utc=True,
        ),
        Report(
            view="open_items",
            at="aged_from",
            key=("discrepancy_id", "instance_id"),
            sums=("amount_at_risk",),
            shown=(
                *("aged_from", "aging", "discrepancy_id", "type", "state", "amount_at_risk", "currency"),
                *("owner", "is_write_off_waiting"),
            ),
            has_currency=True,
        ),
        # What was open at the two ends of a day is of that day: over several, it does not add up.
        Report(
            view="roll_forward",
            at="reporting_day",
            key=("type", "currency", "instance_id"),
            sums=(
                *("opened", "opened_amount", "reopened", "reopened_amount", "adjusted_amount"),
                *("resolved", "resolved_amount", "written_off", "written_off_amount"),
                *("unexplained", "unexplained_amount"),
            ),
            shown=(
                *("reporting_day", "type", "currency", "opening_amount", "opened_amount", "reopened_amount"),
                *("adjusted_amount", "resolved_amount", "written_off_amount", "closing", "closing_amount"),
            ),
            is_daily=True,
            has_currency=True,
        ),
        Report(
            view="silences",
            at="silent_since",
            key=("silence_id", "instance_id"),
            sums=("missed_payments", "told_late"),
            shown=(
                *("silent_since", "ended_at", "instance_id", "verdict", "duration_seconds"),
                *("patience_seconds", "missed_payments", "told_late"),
            ),
        ),
        Report(
            view="resolutions",
            at="resolved_at",
            key=("step_id", "instance_id"),
            sums=("amount_at_risk",),
            shown=(
                *("resolved_at", "discrepancy_id", "type", "amount_at_risk", "currency", "reason"),
                *("resolved_by", "opened_at", "reopened_at"),
            ),
            has_currency=True,
        ),
        Report(
            view="write_offs",
            at="proposed_at",
            key=("write_off_id", "instance_id"),
            sums=("amount", "approved_amount", "in_force_amount"),
            shown=(
                *("proposed_at", "discrepancy_id", "type", "amount", "currency", "reason", "status"),
                *("proposed_by", "approved_by", "ended_by"),
            ),
            has_currency=True,
        ),
        # Each run compares anew what others compared before, so nothing of several runs adds up.
        Report(
            view="runs",
            at="started_at",
            key=("run_id", "instance_id", "currency"),
            shown=(
                *("started_at", "run_id", "kind", "status", "link_count", "currency"),
                *("booked_count", "booked_amount", "wix_count", "wix_amount", "wix_less_booked_amount"),
            ),
            has_currency=True,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a report is narrowed down to; None for what does not matter. [since, until): days of a daily report.

    instance_ids: any of these; then rows of no instance are not among them.
    """

    instance_id: UUID | None = None
    instance_ids: Collection[UUID] | None = None
    since: datetime | date | None = None
    until: datetime | date | None = None
    currency: str | None = None


@contextmanager
def reading(database: Database, time_zone: str, *, seconds: float = LIMIT_SECONDS) -> Iterator[Connection]:
    """A transaction that sees one state of the books, changes nothing, and has the reports' days in `time_zone`.

    seconds: for each statement, and between two, for which there are IDLE_SECONDS at least. The totals of a report are
    those of its rows. Raises ConfigurationError when the role may not read the reports or the database does not know
    the zone.
    """
    try:
        with database.begin() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            for name, limit in (
                ("statement_timeout", seconds),
                ("idle_in_transaction_session_timeout", max(seconds, IDLE_SECONDS)),
            ):
                connection.execute(text(f"SET LOCAL {name} = '{int(limit * 1000)}ms'"))
            connection.execute(
                text("SELECT now() AT TIME ZONE set_config('processor.report_time_zone', :zone, true)"),
                {"zone": time_zone},
            )
            with _patience(connection, seconds):
                yield connection
    except DBAPIError as why:
        state = getattr(why.orig, "sqlstate", None)
        if state == _NOT_ALLOWED:
            raise ConfigurationError(
                "this role may not read the reports: the owner of the tables lets it with `processor reports grant`"
            ) from why
        if state == _NO_SUCH_ZONE:
            raise ConfigurationError(
                f"PostgreSQL does not know the time zone of REPORT_TIME_ZONE, {time_zone}"
            ) from why
        raise


@contextmanager
def _patience(connection: Connection, seconds: float) -> Iterator[None]:
    """Wait as long for the server as it takes itself."""
    driver: Any = connection.connection.driver_connection
    before = driver.seconds
    driver.seconds = seconds + 1.0
    try:
        yield
    finally:
        driver.seconds = before


@dataclass(frozen=True, slots=True)
class Lines:
    """What is read of a report: its columns, and its rows as they come."""

    columns: tuple[str, ...]
    rows: Iterator[Sequence[Any]]


@contextmanager
def lines(
    connection: Connection,
    report: Report,
    scope: Scope,
    *,
    limit: int | None,
    newest_first: bool = False,
    columns: Sequence[str] = ("*",),
) -> Iterator[Lines]:
    """The lines of a report, in an order that is always the same. limit: at most so many, None for all.

    columns: names of the view's, never of anybody's choice; what is not asked for is not looked up.
    """
    where, values = _conditions(report, scope)
    down = " DESC" if newest_first else ""
    order = ", ".join(f"{name}{down} NULLS LAST" for name in (report.at, *report.key))
    found = connection.execute(
        text(f"SELECT {', '.join(columns)} FROM report.{report.view}{where} ORDER BY {order} LIMIT :limit"),
        {**values, "limit": limit},
        execution_options={"stream_results": True, "yield_per": ROWS_AT_ONCE},
    )
    with found as rows:
        yield Lines(tuple(rows.keys()), iter(rows))


@dataclass(frozen=True, slots=True)
class Total:
    """Number and sums of all lines in one currency. currency: None for those without, or of a report without."""

    currency: str | None
    rows: int
    sums: dict[str, int | Decimal]


def totals(connection: Connection, report: Report, scope: Scope) -> list[Total]:
    """Of everything that `lines` would read without a limit, by currency."""
    where, values = _conditions(report, scope)
    currency = "currency" if report.has_currency else "NULL"
    # A sum of whole numbers is NUMERIC, and would be taken for money.
    sums = "".join(f", sum({name})" for name in report.sums)
    found = connection.execute(
        text(
            f"SELECT {currency} AS currency, count(*) AS rows{sums} FROM report.{report.view}{where}"
            f" GROUP BY 1 ORDER BY 1"
        ),
        values,
    )
    return [
        Total(
            line[0],
            line[1],
            {
                name: (value or Decimal(0)) if name.endswith("amount") or name in MONEY else int(value or 0)
                for name, value in zip(report.sums, line[2:], strict=True)
            },
        )
        for line in found
    ]


MONEY = frozenset(("amount_at_risk",))
"""Columns that are money, beside those whose name ends with `amount`."""


def _conditions(report: Report, scope: Scope) -> tuple[str, dict[str, Any]]:
    """WHERE, and its parameters."""
    asked = {
        "instance_id = :instance_id": scope.instance_id,
        "instance_id = ANY(:instance_ids)": None if scope.instance_ids is None else list(scope.instance_ids),
        f"{report.at} >= :since": scope.since,
        f"{report.at} < :until": scope.until,
        "currency = :currency": scope.currency,
    }
    wanted = {condition: value for condition, value in asked.items() if value is not None}
    where = " WHERE " + " AND ".join(wanted) if wanted else ""
    return where, {condition.rpartition(":")[2].rstrip(")"): value for condition, value in wanted.items()}


# -- The catalogue ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """A column of a view, or the view itself (column None), as the catalogue describes it, None if it does not."""

    view: str
    column: str | None
    type: str | None
    meaning: str | None


def described(connection: Connection) -> list[Described]:
    """Every view of the schema and its columns, in the order of their names and of the columns."""
    found = connection.execute(
        text("""
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), d.description
            FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'report'
            JOIN LATERAL (
                SELECT 0 AS attnum, NULL::name AS attname, NULL::oid AS atttypid, NULL::int AS atttypmod
                UNION ALL SELECT a.attnum, a.attname, a.atttypid, a.atttypmod
                FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            ) a ON true
            LEFT JOIN pg_catalog.pg_description d
                ON d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid = a.attnum
            WHERE c.relkind = 'v'
            ORDER BY c.relname, a.attnum LIMIT 10000""")
    )
    return [Described(*line) for line in found]
