"""Lists narrowed down by what no index knows: so many rows are looked at, and no more; who wants more goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal

from processor.store.screens.keyset import PAGE, Key, Position, Slice, beside, fetch

LOOKED_MAX = (
    5_000  # rows looked at for one page; an index has them in their order, so that takes some milliseconds
)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Sifted(Generic[Item]):
    """A page of a list. looked_to: key of the last row looked at, None when all were that could be on the page.

    looked_max: how many rows are looked at for one page.
    """

    page: Slice[Item]
    looked_to: Key | None
    looked_max: int = LOOKED_MAX


def sift(
    connection: Connection,
    statement: Select[Any],
    sieve: Sequence[ColumnElement[bool]],
    keys: Sequence[Any],
    *,
    at: Position | None,
    limit: int = PAGE,
    looked_max: int = LOOKED_MAX,
    is_descending: bool = True,
) -> Sifted[Row[Any]]:
    """A page of those rows of `statement` that pass `sieve`, by `keys`, all descending or all ascending.

    statement, keys: as for `keyset.fetch`, and an index on the keys answers them; sieve: what it does not answer. When
    too few passed among the rows looked at, the page goes on where they ended.
    """
    if not sieve:
        found = fetch(connection, statement, keys, at=at, limit=limit, is_descending=is_descending)
        return Sifted(found, None, looked_max)
    is_back = at is not None and at.is_back
    goes_down = is_descending != is_back
    end = _end(connection, statement, keys, at, looked_max, goes_down=goes_down)
    bounded = statement.where(*sieve)
    if end is not None:
        last = func.row(*(literal(value, key.type) for value, key in zip(end, keys, strict=True)))
        bounded = bounded.where(func.row(*keys) >= last if goes_down else func.row(*keys) <= last)
    found = fetch(connection, bounded, keys, at=at, limit=limit, is_descending=is_descending)
    if end is None:
        return Sifted(found, None, looked_max)
    if (found.before if is_back else found.after) is not None:
        return Sifted(found, None, looked_max)
    beyond = Position(end, is_back=is_back)
    if is_back:
        return Sifted(Slice(found.items, beyond, found.after), end, looked_max)
    return Sifted(Slice(found.items, found.before, beyond), end, looked_max)


def _end(
    connection: Connection,
    statement: Select[Any],
    keys: Sequence[Any],
    at: Position | None,
    looked_max: int,
    *,
    goes_down: bool,
) -> Key | None:
    """The key of the last row that may be looked at, None when there are not so many."""
    place = statement.with_only_columns(*keys)
    if at is not None:
        given = func.row(*(literal(value, key.type) for value, key in zip(at.key, keys, strict=True)))
        place = place.where(beside(func.row(*keys), given, goes_down=goes_down, includes=at.includes))
    # The number to pass over is fixed, unlike that of a page: so this costs the same at any place of the list.
    row = connection.execute(
        place.order_by(*(key.desc() if goes_down else key.asc() for key in keys))
        .offset(looked_max - 1)
        .limit(1)
    ).one_or_none()
    return None if row is None else tuple(row)
