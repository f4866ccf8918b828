"""The data dictionary: every table by the models, every report by the comments in the database's catalogue."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from itertools import pairwise

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

from processor.store import report_views, tables
from processor.store.meanings import meaning

_HEAD = """# Data dictionary

Made by `processor reports dictionary > docs/data-dictionary.md`; do not edit. Reports are described by the comments of
the migrated database, where psql's `\\d+` shows them as well, tables by the models of this release.

Times are aware and in UTC. Amounts are in main units of the currency beside them, exact to three decimals. NULL means
"not known" or what the column says, never zero. Columns said to be personal hold what identifies a buyer or whoever
caused an event; no report does. Reports name the persons who decide discrepancies.
"""
_REPORTS = """
## Reports

Views of the schema `report`. [operations.md](operations.md#reports) says who reads them, and how.
"""


def written(connection: Connection) -> str:
    """The whole document, in Markdown. connection: to a database migrated by this release."""
    parts = [_HEAD, _REPORTS]
    for one in report_views.described(connection):
        if one.column is None:
            parts.append(_section(f"report.{one.view}", one.meaning or "", ("column", "type", "meaning")))
        else:
            parts.append(_line((f"`{one.column}`", one.type or "", one.meaning or "")))
    parts.append("\n## Tables\n")
    words = _docstrings()
    for table in sorted(tables.Base.metadata.tables.values(), key=lambda one: one.name):
        parts.append(_section(table.name, words[table.name], ("column", "type", "NULL", "meaning")))
        parts.extend(_line(row) for row in _columns(table))
    return "".join(parts)


def _section(name: str, words: str, heads: Sequence[str]) -> str:
    return f"\n### {name}\n\n{words}\n\n{_line(heads)}{'|---' * len(heads)}|\n"


def _line(cells: Iterable[str]) -> str:
    return "".join(f"| {cell.replace('|', chr(92) + '|')} " for cell in cells) + "|\n"


def _columns(table: Table) -> Iterable[Sequence[str]]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    for column in table.columns:
        is_key = ", key" if column.primary_key else ""
        yield (
            f"`{column.name}`",
            column.type.compile(dialect).lower() + is_key,
            "yes" if column.nullable else "no",
            meaning(table.name, column.name) or "",
        )


def _docstrings() -> dict[str, str]:
    """By table: the first paragraph of what the models say of it. A table without a class is described below itself."""
    found = {
        mapper.class_.__tablename__: inspect.cleandoc(mapper.class_.__doc__ or "")
        for mapper in tables.Base.registry.mappers
    }
    body = ast.parse(inspect.getsource(tables)).body
    for one, below in pairwise(body):
        if (
            isinstance(one, ast.Assign)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            [target] = one.targets
            table = getattr(tables, target.id) if isinstance(target, ast.Name) else None
            if isinstance(table, Table):
                found[table.name] = inspect.cleandoc(str(below.value.value))
    return {name: " ".join(words.split("\n\n")[0].split()) for name, words in found.items()}
