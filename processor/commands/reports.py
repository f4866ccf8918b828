"""`processor report`: the views for finance and audit. `processor reports`: who reads them, and what they mean."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from processor.commands.common import (
    Moment,
    any_instance_option,
    echo_table,
    json_option,
    json_text,
    open_services,
    printable,
)
from processor.domain import money
from processor.domain.sheet import cell

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from processor.store.report_views import Report, Scope, Total

TABLE_ROWS = 50
NAMES = {
    "payments": ("Every payment, itemised.", True),
    "reconciliation_summary": ("Payments by day, and how they stand.", True),
    "missed_webhooks": ("What a poll told of before a webhook.", True),
    "silences": ("Times without webhooks, and what they cost.", False),
    "duplicates": ("Events delivered more than once.", False),
    "out_of_order": ("Tellings that were late or changed nothing.", False),
    "control_totals": ("Our sum of each link beside Wix's total.", True),
    "completeness": ("What became of every delivery, by UTC day.", False),
    "open_items": ("What needs a decision, and how old it is.", True),
    "roll_forward": ("How open items came and went, day by day.", True),
    "resolutions": ("What was resolved, and by whom.", True),
    "write_offs": ("The register of write-offs.", True),
    "runs": ("Runs: both sides' number and sum.", True),
}
"""The view of each report: what it is, and whether it has a currency."""


@click.group("report")
def report() -> None:
    """Reports for finance and audit.

    Each is a view of the database's schema `report`; docs/data-dictionary.md describes every column. Days are those of
    REPORT_TIME_ZONE, but for those of completeness, which are in UTC.
    """


@click.group("reports")
def reports() -> None:
    """Who reads the reports, and what they mean."""


# -- Reading ---------------------------------------------------------------------------------------


class _Since(Moment):
    """A date or a time. Without a zone of its own it stays so: it is one of the report's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Click calls this."""
        with contextlib.suppress(ValueError, TypeError):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                return moment
        return super().convert(value, param, ctx)


def _add(view: str, words: str, *, has_currency: bool) -> None:
    def show(as_json: bool, as_csv: bool, limit: int | None, **narrowing: Any) -> None:
        if as_json and as_csv:
            raise click.UsageError("choose --json or --csv")
        _show(view, _write_json if as_json else _write_csv if as_csv else _write_table, limit, **narrowing)

    command: Any = show
    if has_currency:
        command = click.option("--currency", callback=_upper, help="In this currency, such as EUR.")(command)
    for option in (
        click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets: every column, UTF-8."),
        json_option,
        click.option(
            "--limit",
            type=click.IntRange(1),
            help=f"At most so many.  [default: {TABLE_ROWS} in a table, else all]",
        ),
        click.option("--until", type=_Since(), help="Before this day or time."),
        click.option("--since", type=_Since(), help="From this day or time on."),
        any_instance_option,
    ):
        command = option(command)
    report.add_command(click.command(view.replace("_", "-"), help=words)(command))


def _upper(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    return value.upper() if value else value


def _show(
    view: str,
    write: Callable[[Connection, Report, Scope, int | None, str], None],
    limit: int | None,
    *,
    instance_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    currency: str | None = None,
) -> None:
    from processor.store import report_views

    services = open_services()
    asked = report_views.REPORTS[view]
    zone = services.settings.report_time_zone
    scope = report_views.Scope(
        instance_id=instance_id,
        since=_bound(since, asked, zone, "--since"),
        until=_bound(until, asked, zone, "--until"),
        currency=currency,
    )
    with report_views.reading(services.database, zone) as connection, readers_may_leave():
        write(connection, asked, scope, limit, zone)


def _bound(moment: datetime | None, asked: Report, zone_name: str, option: str) -> datetime | date | None:
    """The bound as the view's column has it: an instant, or a day."""
    from zoneinfo import ZoneInfo

    if moment is None:
        return None
    zone = UTC if asked.is_utc or zone_name == "UTC" else ZoneInfo(zone_name)
    if not asked.is_daily:
        # Midnight may be missing where the clock is put forward: then it is the instant at which that happens.
        return moment if moment.tzinfo else moment.replace(tzinfo=zone).astimezone(UTC)
    local = moment.astimezone(zone) if moment.tzinfo else moment
    if local.time() != time():
        raise click.BadParameter(
            "this report is by whole days: write a date, such as 2026-11-24", param_hint=option
        )
    return local.date()


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """As in `processor report payments --csv | head`: who reads no more has had enough, which is no fault."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


# -- Writing ---------------------------------------------------------------------------------------


def told(value: Any, currency: str | None) -> Any:
    """`value` as JSON and tables show it: money exact, with the decimals of its currency, more if it has more."""
    return money.shown(value, currency or "") if isinstance(value, Decimal) else value


def _write_csv(connection: Connection, asked: Report, scope: Scope, limit: int | None, _zone: str) -> None:
    from processor.store import report_views

    output = sys.stdout.buffer  # UTF-8, whatever the terminal's language
    is_terminal = output.isatty()
    buffer = io.StringIO()
    writer = csv.writer(buffer)

    def write(cells: Sequence[str]) -> None:
        writer.writerow([printable(one) for one in cells] if is_terminal else cells)
        output.write(buffer.getvalue().encode())
        buffer.seek(0)
        buffer.truncate()

    with report_views.lines(connection, asked, scope, limit=limit) as found:
        write(found.columns)
        for row in found.rows:
            currency = _currency(found.columns, row)
            write([cell(value, currency) for value in row])
    output.flush()


def _write_json(connection: Connection, asked: Report, scope: Scope, limit: int | None, zone: str) -> None:
    """One document, a row of the report a line, so that it is written as it is read."""
    from processor.store import report_views

    output = sys.stdout.buffer
    day_zone = "UTC" if asked.is_utc else zone
    head = f'{{"report": {json_text(asked.view)}, "time_zone": {json_text(day_zone)}, "rows": ['
    output.write(head.encode())
    with report_views.lines(connection, asked, scope, limit=limit) as found:
        for number, row in enumerate(found.rows):
            currency = _currency(found.columns, row)
            record = {name: told(value, currency) for name, value in zip(found.columns, row, strict=True)}
            output.write(f"{',' if number else ''}\n{json_text(record, indent=None)}".encode())
    sums = [
        {
            **({"currency": one.currency} if asked.has_currency else {}),
            "rows": one.rows,
            **{name: told(value, one.currency) for name, value in one.sums.items()},
        }
        for one in report_views.totals(connection, asked, scope)
        if one.rows
    ]
    output.write(f'\n], "totals": {json_text(sums, indent=None)}}}\n'.encode())
    output.flush()


def _write_table(connection: Connection, asked: Report, scope: Scope, limit: int | None, zone: str) -> None:
    from processor.store import report_views

    with report_views.lines(connection, asked, scope, limit=limit or TABLE_ROWS, newest_first=True) as found:
        places = [found.columns.index(name) for name in asked.shown]
        table = []
        numbers = set()
        for row in found.rows:
            currency = _currency(found.columns, row)
            table.append([told(row[place], currency) for place in places])
            numbers |= {
                name for name, place in zip(asked.shown, places, strict=True) if _is_number(row[place])
            }
    echo_table(asked.shown, table, nothing="nothing to report", numbers=numbers)
    sums = report_views.totals(connection, asked, scope)
    for one in sums:
        if one.rows:
            click.echo(_summary(asked, one))
    if table and "reporting_day" in asked.shown:
        click.echo(f"Days are those of {zone}.")
    if len(table) < sum(one.rows for one in sums):
        click.echo(f"Only the newest {len(table)} are listed; --limit shows more.")


def _summary(asked: Report, total: Total) -> str:
    """Such as `EUR: 3 rows, amount 30.00`."""
    sums = "".join(
        f", {name.replace('_', ' ')} {told(value, total.currency)}" for name, value in total.sums.items()
    )
    of = f"{total.currency or 'no currency'}: " if asked.has_currency else ""
    return f"{of}{total.rows} row{'' if total.rows == 1 else 's'}{sums}"


def _currency(columns: Sequence[str], row: Sequence[Any]) -> str | None:
    return row[columns.index("currency")] if "currency" in columns else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


for _view, (_words, _has_currency) in NAMES.items():
    _add(_view, _words, has_currency=_has_currency)


# -- Readers ---------------------------------------------------------------------------------------


_apply_option = click.option("--apply", "is_applied", is_flag=True, help="Run it, rather than print it.")


@reports.command("grant")
@click.argument("role")
@click.option(
    "--instance",
    "instance_ids",
    type=click.UUID,
    multiple=True,
    help="This app instance alone; may be repeated. All without.",
)
@_apply_option
def grant(role: str, instance_ids: tuple[UUID, ...], is_applied: bool) -> None:
    """Let a database role read the reports alone.

    Prints SQL for the owner of the tables, or runs it. The role is made when there is none, without a password: give it
    one, as with psql's \\password. What was granted to it before is replaced.
    """
    from processor.store import report_readers

    of = (
        f"{len(instance_ids)} app instance{'' if len(instance_ids) == 1 else 's'}"
        if instance_ids
        else "every instance"
    )
    _run_or_print(
        report_readers.granting(role, instance_ids),
        is_applied,
        f"{role} reads the reports of {of}",
    )


@reports.command("revoke")
@click.argument("role")
@_apply_option
def revoke(role: str, is_applied: bool) -> None:
    """Shut a database role out of the reports.

    Prints SQL for the owner of the tables, or runs it. The role itself stays.
    """
    from processor.store import report_readers

    _run_or_print(report_readers.revoking(role), is_applied, f"{role} reads no report")


def _run_or_print(statements: Sequence[str], is_applied: bool, done: str) -> None:
    from processor.store import report_readers

    if is_applied:
        report_readers.run(open_services().database, statements)
        click.echo(done)
        return
    click.echo("BEGIN;")
    for statement in statements:
        click.echo(f"{statement};")
    click.echo("COMMIT;")


@reports.command("dictionary")
def dictionary() -> None:
    """Print the data dictionary: tables and reports.

    Tables as of this release, reports as of the database's catalogue; docs/data-dictionary.md is this.
    """
    from processor.store import dictionary as book

    with open_services().database.begin() as connection:
        click.echo(book.written(connection), nl=False)
