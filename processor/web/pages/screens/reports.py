"""The reports for finance and audit: what they say of a span of days, on the page, on paper and as CSV."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import IO, Any
from uuid import UUID

import structlog
from flask import Blueprint, abort, current_app, g, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy import Connection

from processor import prepared
from processor.domain.access import Permission, Reach
from processor.domain.sheet import cell
from processor.prepared import ReportQuestion
from processor.store.report_views import REPORTS, Lines, Report, Scope, Total
from processor.store.screens import instances, reports
from processor.store.screens.instances import Choice
from processor.store.screens.reports import ColumnMeaning, Found, Meaning, TakesTooLong
from processor.web.pages import exports, paging
from processor.web.pages.access import check_instance, needs, reach
from processor.web.pages.answers import LATE, WAIT_SECONDS, Pending, Unanswered, answer
from processor.web.pages.asked import Asked
from processor.web.pages.cells import Printer, address_of
from processor.web.pages.formats import amount as grouped
from processor.web.pages.formats import said, words
from processor.web.pages.site import RETRY_SECONDS, Busy, Site, address

log = structlog.get_logger(__name__)

ROWS_MAX = 500  # on a page; the CSV has all
FILE_ROWS_MAX = 1_000_000  # of CSV; of more there is no file, since a part would be taken for the whole
DAYS_MAX = 400  # a year, and some
FILE_SECONDS = 60.0  # for the first row, which may have to be found by sorting all; and between two
AT_ONCE = 3  # reports that one process reads, each of which holds one of its few connections


@dataclass(frozen=True, slots=True)
class Title:
    """What a report is called, what it answers, how it is read, and what to do about it."""

    group: str
    title: str
    words: str
    reading: str
    acting: str


TITLES = {
    "payments": Title(
        "Money",
        "Payments",
        "Every payment booked, itemised.",
        "One line for each payment. Add up the amounts by currency and you have what buyers paid in these days, before"
        " fees and refunds.",
        "Compare the totals with your ledger. “Matched” says that Wix lists the payment alike, “Discrepant” that it"
        " does not, “Expected” that it is so new that Wix may still be catching up. What differs besides, such as a"
        " refund or the total of a link, is among the “Open items” and changes none of these.",
    ),
    "reconciliation_summary": Title(
        "Money",
        "Reconciliation summary",
        "Payments by day and currency, and how they stand with Wix.",
        "One line for each day, currency and app instance. Matched, expected, discrepant and not checked add up to the"
        " amount; recovered is a part of it, told of by polling and not by a webhook.",
        "Matched is each payment that Wix lists alike. Differences of totals, of refunds and of links are not in here:"
        " a day is done when all of its amount is matched and “Open items” has nothing of it. Look into what is"
        " discrepant first, then into what is still not checked after an hour.",
    ),
    "control_totals": Title(
        "Money",
        "Control totals",
        "Our sum of each payment link beside Wix’s own total.",
        "One line for each payment link and currency: number and sum of what is booked here, number and sum as Wix"
        " states them, and the difference of the two sums.",
        "Where the difference is not zero, open the link, unless it says that the difference was written off or is"
        " tolerated. A link that was never checked has no totals of Wix yet.",
    ),
    "runs": Title(
        "Money",
        "Runs",
        "What each check, sweep and backfill compared: both sides’ number and sum.",
        "One line for each run and currency. How many links and calls a run took is said in each of its lines; number"
        " and sum of both sides are of the currency of the line. Nothing is added up: each run compares again what runs"
        " before it compared.",
        "It proves that the controls ran. A run that failed is made again by itself; open it to see why it failed.",
    ),
    "open_items": Title(
        "Discrepancies",
        "Open items",
        "What needs a decision now, and how old it is.",
        "One line for each discrepancy without a decision, the newest first. The age counts from the transaction or"
        " refund, or from when the discrepancy came up.",
        "Begin with the oldest and those without an owner. Open one to see what each side says, then resolve it or"
        " propose a write-off.",
    ),
    "roll_forward": Title(
        "Discrepancies",
        "Roll-forward",
        "Opening, new, resolved, written off, closing: day by day.",
        "One line for each day, type, currency and app instance in which something moved. Opening, plus what was"
        " opened, reopened and adjusted, less what was resolved and written off, is the closing of the day. The closing"
        " of a day is the opening of the next.",
        "The last closing is what “Open items” lists. An amount that is unexplained should be zero: tell an operator"
        " when it is not.",
    ),
    "resolutions": Title(
        "Discrepancies",
        "Resolutions",
        "What was resolved, why and by whom.",
        "One line for each time that a discrepancy was resolved, by a person or by “automation”, which is a check.",
        "Review the reasons that persons gave, and those that came up again after they had been resolved.",
    ),
    "write_offs": Title(
        "Discrepancies",
        "Write-offs",
        "The register: proposed, approved, ended, and by whom.",
        "One line for each write-off that was ever proposed. What stands is “Approved”; the total in force leaves out"
        " what was rejected, withdrawn or reversed.",
        "See that proposed and approved are never by the same person, and book what was approved in your ledger.",
    ),
    "missed_webhooks": Title(
        "Delivery of webhooks",
        "Missed webhooks",
        "What polling told of before any webhook did, and how much later.",
        "One line for each payment, or new state of one, that this service had to ask Wix for. The delay counts from"
        " when it happened at Wix until it was found.",
        "No money is missing: all of it is booked. Many in a row say that webhooks do not arrive: see “Silences”.",
    ),
    "silences": Title(
        "Delivery of webhooks",
        "Silences",
        "Times without webhooks, and what they cost.",
        "One line for each time in which no webhook came for longer than is usual for the shop. “Quiet” means that Wix"
        " had nothing to tell, “Silent” that payments were made and not told of.",
        "Ask an operator about those that are silent: the app’s webhooks at Wix, or the way to this service.",
    ),
    "duplicates": Title(
        "Delivery of webhooks",
        "Duplicates",
        "Events delivered more than once; each was acted on once.",
        "One line for each event that came more than once. A conflict is a delivery with the same id and another"
        " content.",
        "Nothing has to be done about duplicates. Open an event that has conflicts, and look at what differs.",
    ),
    "out_of_order": Title(
        "Delivery of webhooks",
        "Out of order",
        "Tellings that came late or changed nothing.",
        "One line for each telling of a payment that was older than what was booked, the same as it, or at odds with"
        " it.",
        "It proves that old news never overwrite newer ones. Look into those at odds, which have a discrepancy.",
    ),
    "completeness": Title(
        "Delivery of webhooks",
        "Completeness",
        "What became of every delivery, by UTC day.",
        "One line for each day and app instance. Every delivery is one of: stored for the first time, a duplicate, a"
        " conflict, unread or rejected; the number unaccounted for must be zero.",
        "A day that is complete can be filed as proof. Tell an operator of one that is not.",
    ),
}
GROUPS = tuple(dict.fromkeys(one.group for one in TITLES.values()))
UNDATED = frozenset(("open_items", "control_totals"))
"""Reports of how things are now: a span of days may be left out, and then what has no date is listed, too."""
NAMES = ("since", "until", "instance", "currency", "columns")
"""The fields of the form, as they are named in addresses."""
CODES = frozenset(
    (
        *(
            "type",
            "status",
            "match_state",
            "first_origin",
            "origin",
            "missed",
            "webhook",
            "recovery",
            "control",
        ),
        *("severity", "state", "aging", "verdict", "end_reason", "kind", "method", "reason"),
    )
)
"""Columns of text that are codes of ours or Wix's, and are shown as words."""
_LABELS = {
    ("control_totals", "payment_count"): "Count, says Wix",
    ("control_totals", "total_amount"): "Amount, says Wix",
}
"""What columns are called whose names do not say whose they are."""
_FREE = {("runs", "reason")}  # a code elsewhere
_NAMES = re.compile(r"(?<![.\w])`?([a-z]+(?:_[a-z]+)+)\b`?")
_KINDS = {
    "uuid": "id",
    "bigint": "number",
    "boolean": "flag",
    "timestamp with time zone": "moment",
    "date": "day",
    "jsonb": "json",
}
_PAGES = {
    "payment_id": "payments.payment",
    "payment_link_id": "links.link",
    "discrepancy_id": "discrepancies.discrepancy",
    "run_id": "runs.run",
    "event_id": "events.event",
}
"""Where an id of each column leads, with the instance of its row."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it is shown. kind: how its values are printed, see `Printer`."""

    name: str
    label: str
    kind: str
    meaning: str

    @property
    def is_number(self) -> bool:
        """Whether it stands at the right."""
        return self.kind in ("money", "number")


def column(view: str, one: ColumnMeaning) -> Column:
    """How a column of a view is shown."""
    kind = _KINDS.get(one.type)
    if kind is None:
        is_code = one.name in CODES and (view, one.name) not in _FREE
        kind = "money" if one.type.startswith("numeric") else "code" if is_code else "text"
    return Column(one.name, _label(view, one.name), kind, _plain(view, one.meaning))


def _label(view: str, name: str) -> str:
    return _LABELS.get((view, name)) or words(name.removeprefix("is_").removesuffix("_id"))


def _plain(view: str, meaning: str) -> str:
    """A meaning for who reads the page: columns and codes by their words, and no NULL."""
    text = _NAMES.sub(lambda found: f"“{_label(view, found[1])}”", meaning)
    return re.sub(r"\bNULL\b", "empty", re.sub(r"(^|[.!?] )NULL\b", r"\1Empty", text))


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for. scope: None when it was not asked, or cannot be read: then nothing is.

    since, until: first and last day, as asked for or as proposed.
    """

    report: Report
    asked: Asked
    scope: Scope | None
    since: date | None
    until: date | None
    instance_id: UUID | None
    every_column: bool


def ask(site: Site, report: Report, *, is_asked: bool) -> Question:
    """What the address asks for. is_asked: although it says nothing. Answers 404 for an instance beyond the reach."""
    asked = Asked()
    is_asked = is_asked or any(name in request.args for name in NAMES)
    since, until = asked.day("since"), asked.day("until")
    instance_id, currency = asked.id("instance"), asked.text("currency")
    columns = asked.one_of("columns", ("all",))
    if instance_id is not None:
        check_instance(instance_id)
    if currency is not None:
        currency = currency.upper()
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
            asked.wrong["currency"] = "Three letters, such as EUR."
    if report.view not in UNDATED:
        for name, day in (("since", since), ("until", until)):
            if is_asked and day is None and name not in asked.wrong:
                asked.wrong[name] = f"Choose the {'first' if name == 'since' else 'last'} day."
    if since and until:
        if since > until:
            asked.wrong["until"] = "It lies before the first day."
        elif (until - since).days >= DAYS_MAX:
            asked.wrong["until"] = f"At most {DAYS_MAX} days at once."
    scope = None
    if is_asked and not asked.wrong:
        scope = Scope(
            instance_id=instance_id,
            since=_bound(site, report, since),
            until=_bound(site, report, until and until + timedelta(days=1)),
            currency=currency if report.has_currency else None,
        )
    elif not is_asked:
        since, until = _proposed(site, report)
    return Question(report, asked, scope, since, until, instance_id, columns == "all")


def _proposed(site: Site, report: Report) -> tuple[date | None, date | None]:
    if report.view in UNDATED:
        return None, None
    today = _today(site)
    return today - timedelta(days=6), today


def _today(site: Site) -> date:
    return site.services.now().astimezone(site.clock.zone).date()


def _bound(site: Site, report: Report, day: date | None) -> date | datetime | None:
    """A day as the report's column has it: a day, or the moment it begins."""
    return day if day is None or report.is_daily else site.clock.midnight(day)


def spans(today: date) -> list[tuple[str, date, date]]:
    """What people ask for most: words, first day, last day."""
    month = today.replace(day=1)
    before = month - timedelta(days=1)
    return [
        ("Today", today, today),
        ("Yesterday", today - timedelta(days=1), today - timedelta(days=1)),
        ("Last 7 days", today - timedelta(days=6), today),
        ("This month", month, today),
        ("Last month", before.replace(day=1), before),
    ]


@dataclass(frozen=True, slots=True)
class Table:
    """What is shown. body: its rows in HTML; shown: how many; count: of all there are. as_of: when they were read."""

    columns: list[Column]
    body: Markup
    shown: int
    totals: list[Total]
    count: int
    as_of: datetime


def shown_columns(question: Question, meaning: Meaning, *, with_instance: bool) -> list[Column]:
    """Those that are asked for, in their order."""
    by_name = {one.name: column(question.report.view, one) for one in meaning.columns}
    if question.every_column:
        return list(by_name.values())
    shown = [*question.report.shown]
    if with_instance and "instance_id" not in shown:
        shown.insert(1, "instance_id")
    return [by_name[name] for name in shown]


class _TooMany(Exception):
    """A report has more rows than a file may have."""


def blueprint(site: Site) -> Blueprint:
    """`/reports` and below."""
    routes = Blueprint("reports", __name__, url_prefix="/reports")
    places = threading.BoundedSemaphore(AT_ONCE)
    services = site.services
    printer = Printer(site.clock)

    @contextmanager
    def reading(seconds: float) -> Iterator[Connection]:
        with (
            site.long_read(places, wait_seconds=WAIT_SECONDS),
            reports.reading(services.database, services.settings.report_time_zone, seconds) as connection,
        ):
            yield connection

    def found(view: str) -> Report:
        if view not in REPORTS:
            abort(404)
        return REPORTS[view]

    def page(question: Question, *, problem: str = "", status: int = 200) -> tuple[str, int]:
        """The report, or why there is none."""
        view, by, table, pending = question.report.view, reach(), None, None
        with site.read() as connection:
            meaning = reports.meanings(connection)[view]
            choices = instances.choices(connection, by)
        if question.scope is not None and not problem:
            try:
                found = answered(question, meaning, choices, by)
                if isinstance(found, Pending):
                    pending = found
                else:
                    table = _table(
                        printer,
                        found,
                        shown_columns(question, meaning, with_instance=_several(question, choices)),
                    )
            except TakesTooLong:
                problem, status = _too_long(view), 503
            except Busy:
                problem, status = _BUSY, 503
            except Unanswered:
                problem, status = _UNANSWERED, 503
        if question.asked.wrong and status == 200 and request.endpoint == "reports.download":
            status = 422
        zone = "UTC" if question.report.is_utc else site.clock.zone_name
        own = url_for("reports.report", report=view)
        given = {name: request.args.get(name) for name in NAMES}
        return (
            render_template(
                "report.html",
                question=question,
                asked=question.asked,
                report=question.report,
                title=TITLES[view],
                meaning=meaning,
                legend=[column(view, one) for one in meaning.columns],
                choices=choices,
                table=table,
                printer=printer,
                pending=pending,
                is_late=pending is not None and services.now() - pending.since > LATE,
                problem=problem,
                day_zone=zone,
                is_undated=view in UNDATED,
                rows_max=ROWS_MAX,
                own=own,
                here=paging.here(),
                anew=paging.here(after=table.as_of.isoformat()) if table else None,
                download=address(url_for("reports.download", report=view), given),
                spans=[
                    (label, address(own, {**given, "since": since, "until": until}))
                    for label, since, until in spans(_today(site))
                ],
            ),
            status,
        )

    def answered(
        question: Question, meaning: Meaning, choices: Sequence[Choice], by: Reach
    ) -> Found | Pending:
        assert question.scope is not None
        columns = shown_columns(question, meaning, with_instance=_several(question, choices))
        types = {one.name: one.type for one in meaning.columns}
        asked = ReportQuestion.of(
            question.report.view,
            question.scope,
            by,
            columns=tuple(dict.fromkeys([*(one.name for one in columns), "instance_id"])),
            limit=ROWS_MAX,
        )
        return answer(
            site,
            asked,
            places,
            read=lambda seconds: prepared.read_report(
                services.database,
                services.settings.report_time_zone,
                asked,
                seconds=seconds,
                now=services.now(),
            ),
            unpacked=lambda kept: prepared.unpacked_report(kept, asked.columns, types),
        )

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        week = spans(_today(site))[2]
        return render_template(
            "reports.html",
            groups=[
                (
                    group,
                    [
                        (
                            one,
                            url_for("reports.report", report=view, since="", until="")
                            if view in UNDATED
                            else url_for("reports.report", report=view, since=week[1], until=week[2]),
                        )
                        for view, one in TITLES.items()
                        if one.group == group
                    ],
                )
                for group in GROUPS
            ],
        )

    @routes.get("/<report>")
    @needs(Permission.READ)
    def report(report: str) -> tuple[str, int]:
        return page(ask(site, found(report), is_asked=False))

    @routes.get("/<report>/csv")
    @needs(Permission.READ, is_recorded=True, keeps=("since", "until", "currency", "columns", "instance"))
    def download(report: str) -> Any:
        question = ask(site, found(report), is_asked=True)
        if question.scope is None:
            return page(question)
        with site.read() as connection:
            meaning = reports.meanings(connection)[question.report.view]
            choices = instances.choices(connection, reach())
        columns = shown_columns(question, meaning, with_instance=_several(question, choices))
        name = "-".join(
            str(one) for one in (report.replace("_", "-"), question.since, question.until) if one is not None
        )
        try:
            # The connection and the books as of one moment are held while it is written, not while it is
            # sent: a file that broke off half way would look like a shorter report. The place is held until the answer
            # has it: whatever goes wrong before gives it back.
            with site.file_place() as place:
                with (
                    exports.making() as file,
                    reading(FILE_SECONDS) as connection,
                    reports.lines(
                        connection,
                        question.report,
                        question.scope,
                        reach(),
                        columns=[one.name for one in columns],
                        limit=FILE_ROWS_MAX + 1,
                    ) as lines,
                ):
                    _write(file, lines)
                return exports.answer(exports.Format.CSV, file, name, place)
        except (TakesTooLong, Busy, _TooMany, exports.TooLarge, OSError) as why:
            if isinstance(why, OSError):
                log.error("file_unwritten", page=request.endpoint, error=str(why), request_id=g.request_id)
            problem, status = _no_file(report, why)
            refusal = page(question, problem=problem, status=status)
            return (*refusal, {"Retry-After": str(RETRY_SECONDS)}) if status == 503 else refusal

    return routes


_UNANSWERED = (
    "The report could not be read. Try again in half a minute; if it stays so, tell an operator, who finds why among"
    " the failed jobs."
)
_BUSY = "Other reports, exports or totals are being read just now. Try again in a moment."


def _too_long(view: str) -> str:
    return (
        "The report was not through in time. Choose fewer days or one app instance; an operator gets the whole of it by"
        f" `processor report {view.replace('_', '-')} --csv`."
    )


def _no_file(view: str, why: Exception) -> tuple[str, int]:
    """Words and status for a file that is none."""
    match why:
        case TakesTooLong():
            return _too_long(view), 503
        case Busy():
            return _BUSY, 503
        case OSError():
            return "No file was made: it cannot be written on this server. Tell an operator.", 503
    many = f"{FILE_ROWS_MAX:,} rows" if isinstance(why, _TooMany) else f"{exports.BYTES_MAX // 1024**2:,} MB"
    return (
        f"No file was made: it would have more than {many}. Choose fewer days or one app instance; an operator gets the"
        f" whole of it by `processor report {view.replace('_', '-')} --csv`."
    ), 422


def _several(question: Question, choices: Sequence[Choice]) -> bool:
    return question.instance_id is None and len(choices) > 1


def _table(printer: Printer, found: Found, columns: list[Column]) -> Table:
    """What was read, as it is shown: the columns come first, in their order."""
    place = {name: number for number, name in enumerate(found.columns)}
    rows = printer.body(
        [(one.kind, one.is_number, _leads(one.name)) for one in columns],
        found.rows,
        owner=place["instance_id"],
        currency=place.get("currency"),
        names={
            # Digits of a title may be a person's; those of an amount are money.
            (one.row, one.column): said(one.title)
            if one.title
            else f"{grouped(one.amount, one.currency)} {one.currency}"
            for one in found.named
            if one.title or (one.amount is not None and one.currency)
        },
        notes={(one.row, one.column): words(one.how).lower() for one in found.noted},
    )
    return Table(
        columns, rows, len(found.rows), [one for one in found.totals if one.rows], found.count, found.as_of
    )


def _leads(name: str) -> Callable[[UUID, Any], str] | None:
    endpoint = _PAGES.get(name)
    if endpoint is None or endpoint not in current_app.view_functions:
        return None
    return address_of(url_for, endpoint, name)


def _write(file: IO[bytes], lines: Lines) -> None:
    """CSV, row by row. Raises _TooMany, exports.TooLarge, and OSError when there is no room for it."""
    wrapped = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        writer = csv.writer(wrapped)
        writer.writerow(lines.columns)
        place = lines.columns.index("currency") if "currency" in lines.columns else None
        for number, row in enumerate(exports.within_size(lines.rows, file.tell)):
            if number == FILE_ROWS_MAX:
                raise _TooMany
            currency = None if place is None else row[place]
            writer.writerow([cell(value, currency) for value in row])
    finally:
        wrapped.detach()
