"""The views of the schema `report`, within what a person may see.

They filter by the role that asks; all people of the pages share one, so here they are narrowed down once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from processor.domain.access import Reach
from processor.errors import StoreUnavailable
from processor.store import report_views
from processor.store.database import Database
from processor.store.report_views import Lines, Report, Scope, Total

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
