"""The views of the schema `report`, within what a person may see.

They filter by the role that asks; all people of the pages share one, so here they are narrowed down once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from processor.domain.access import Reach
from processor.errors import StoreUnavailable
from processor.store import report_views
from processor.store.database import Database
from processor.store.report_views import Lines, Report, Scope, Total
from processor.store.screens import decided, names

_CANCELED = "57014"


class TakesTooLong(StoreUnavailable):
    """A report was not through within its time."""


@contextmanager
def reading(database: Database, time_zone: str, seconds: float) -> Iterator[Connection]:
    """As `report_views.reading`. Raises TakesTooLong when a statement takes longer than `seconds`."""
    try:
        with report_views.reading(database, time_zone, seconds=seconds) as connection:
            yield connection
    except StoreUnavailable as why:
        if getattr(getattr(why.__cause__, "orig", None), "sqlstate", None) == _CANCELED:
            raise TakesTooLong(str(why)) from why
        raise


Stage = Callable[[], None]
"""Called before each of several statements that share their time."""


@contextmanager
def reading_within(database: Database, time_zone: str, seconds: float) -> Iterator[tuple[Connection, Stage]]:
    """As `reading`, where `seconds` are for everything; the second is to be called before each statement.

    It raises TakesTooLong once nothing is left, as do statements that take longer than what is left.
    """
    end = time.monotonic() + seconds
    with reading(database, time_zone, seconds) as connection:

        def stage() -> None:
            left = int((end - time.monotonic()) * 1000)
            if left <= 0:
                raise TakesTooLong("the time for reading is over")
            connection.execute(text(f"SET LOCAL statement_timeout = '{left}ms'"))

        yield connection, stage


def lines(
    connection: Connection,
    report: Report,
    scope: Scope,
    reach: Reach,
    *,
    columns: Sequence[str],
    limit: int | None,
) -> AbstractContextManager[Lines]:
    """The newest lines of a report, as `report_views.lines` reads them. limit: at most so many, None for all."""
    return report_views.lines(
        connection, report, _within(scope, reach), limit=limit, newest_first=True, columns=columns
    )


def totals(connection: Connection, report: Report, scope: Scope, reach: Reach) -> list[Total]:
    """Number and sums of all of them, by currency."""
    return report_views.totals(connection, report, _within(scope, reach))


def _within(scope: Scope, reach: Reach) -> Scope:
    return replace(scope, instance_ids=reach.instance_ids)


@dataclass(frozen=True, slots=True)
class Named:
    """What people call the thing whose id stands in a cell: the title of a link, or the amount of a payment.

    column: its place among those read.
    """

    row: int
    column: int
    title: str | None = None
    amount: Decimal | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """What stands behind a value: `written_off`, `tolerated`, or `deleted` of a link that Wix knows no longer."""

    row: int
    column: int
    how: str


@dataclass(frozen=True, slots=True)
class Found:
    """A report as it was at `as_of`: the newest of its rows, and sums of all of them. rows: values of `columns`."""

    as_of: datetime
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    totals: list[Total]
    named: list[Named] = field(default_factory=list)
    noted: list[Noted] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Of all rows there are."""
        return sum(one.rows for one in self.totals)


def found(
    connection: Connection,
    report: Report,
    scope: Scope,
    reach: Reach,
    *,
    columns: Sequence[str],
    limit: int,
    as_of: datetime,
    stage: Stage,
) -> Found:
    """Read a report for a page. columns: of its view, `instance_id` among them; limit: rows at most."""
    stage()
    sums = totals(connection, report, scope, reach)
    stage()
    with lines(connection, report, scope, reach, columns=columns, limit=limit) as read:
        rows = [tuple(row) for row in read.rows]
    stage()
    links, payments = _ids(columns, rows, "payment_link_id"), _ids(columns, rows, "payment_id")
    called = names.links_of(connection, {key for _, _, key in links})
    named = [Named(row, column, title=called[key].title) for row, column, key in links if key in called]
    noted = [
        Noted(row, column, "deleted")
        for row, column, key in links
        if key in called and called[key].is_deleted
    ]
    if "amount" not in columns:
        stage()
        amounts = names.amounts_of(connection, {key for _, _, key in payments})
        named += [Named(row, column, None, *amounts[key]) for row, column, key in payments if key in amounts]
    if "is_equal" in columns:
        noted += _accepted(connection, columns, rows, links, stage)
    return Found(as_of, tuple(columns), rows, sums, named, noted)


def _ids(
    columns: Sequence[str], rows: Sequence[tuple[Any, ...]], name: str
) -> list[tuple[int, int, tuple[UUID, UUID]]]:
    """Row, column and (instance, id) of each value of this column."""
    if name not in columns:
        return []
    column, owner = columns.index(name), columns.index("instance_id")
    return [
        (number, column, (row[owner], row[column]))
        for number, row in enumerate(rows)
        if None not in (row[owner], row[column])
    ]


def _accepted(
    connection: Connection,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    links: Sequence[tuple[int, int, tuple[UUID, UUID]]],
    stage: Stage,
) -> list[Noted]:
    """Of links whose totals differ: that this is written off or tolerated."""
    place = columns.index("is_equal")
    differing: dict[UUID, dict[int, UUID]] = {}
    for number, _, (instance_id, link_id) in links:
        if rows[number][place] is False:
            differing.setdefault(instance_id, {})[number] = link_id
    noted = []
    for instance_id, of_instance in differing.items():
        stage()
        how = decided.accepted(connection, instance_id, list(of_instance.values()))
        noted += [
            Noted(number, place, how[link_id]) for number, link_id in of_instance.items() if link_id in how
        ]
    return noted


@dataclass(frozen=True, slots=True)
class ColumnMeaning:
    """A column of a view. type: as PostgreSQL writes it."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a view is, and its columns in their order."""

    meaning: str
    columns: tuple[ColumnMeaning, ...]


def meanings(connection: Connection) -> Mapping[str, Meaning]:
    """Every report by its view, as the catalogue describes it."""
    words: dict[str, str] = {}
    columns: dict[str, list[ColumnMeaning]] = {}
    for one in report_views.described(connection):
        if one.column is None:
            words[one.view] = one.meaning or ""
        else:
            columns.setdefault(one.view, []).append(
                ColumnMeaning(one.column, one.type or "", one.meaning or "")
            )
    return {view: Meaning(meaning, tuple(columns.get(view, ()))) for view, meaning in words.items()}
