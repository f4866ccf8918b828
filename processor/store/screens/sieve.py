"""Lists narrowed down by what no index knows: so many rows are looked at, and no more; who wants more goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal

from processor.store.screens.keyset import PAGE, Key, Position, Slice, fetch

LOOKED_MAX = (
    5_000  # rows looked at for one page; an index has them in their order, so that takes some milliseconds
)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Sifted(Generic[Item]):
    """A page of a list. looked_to: key of the last row looked at, None when all were that could be on the page."""

    page: Slice[Item]
    looked_to: Key | None

    @property
    def looked_max(self) -> int:
        """How many rows are looked at for one page."""
        return LOOKED_MAX


def sift(
    connection: Connection,
    statement: Select[Any],
    sieve: Sequence[ColumnElement[bool]],
    keys: Sequence[Any],
    *,
    at: Position | None,
    limit: int = PAGE,
    looked_max: int = LOOKED_MAX,
) -> Sifted[Row[Any]]:
    """A page of those rows of `statement` that pass `sieve`, by `keys`, all descending.

    statement, keys: as for `keyset.fetch`, and an index on the keys answers them; sieve: what it does not answer. When
    too few passed among the rows looked at, the page goes on where they ended.
    """
    if not sieve:
        return Sifted(fetch(connection, statement, keys, at=at, limit=limit), None)
    end = _end(connection, statement, keys, at, looked_max)
    sieved = statement.where(*sieve)
    is_back = at is not None and at.is_back
    if end is None:
        return Sifted(fetch(connection, sieved, keys, at=at, limit=limit), None)
    last = func.row(*(literal(value, key.type) for value, key in zip(end, keys, strict=True)))
    bounded = sieved.where(func.row(*keys) <= last if is_back else func.row(*keys) >= last)
    found = fetch(connection, bounded, keys, at=at, limit=limit)
    if (found.before if is_back else found.after) is not None:
        return Sifted(found, None)
    beyond = Position(end, is_back=is_back)
    if is_back:
        return Sifted(Slice(found.items, beyond, found.after or at_other_side(at)), end)
    return Sifted(Slice(found.items, found.before or at_other_side(at), beyond), end)


def at_other_side(at: Position | None) -> Position | None:
    """Where the page on the other side of an empty one begins."""
    return None if at is None else Position(at.key, is_back=not at.is_back)


def _end(
    connection: Connection, statement: Select[Any], keys: Sequence[Any], at: Position | None, looked_max: int
) -> Key | None:
    """The key of the last row that may be looked at, None when there are not so many."""
    is_back = at is not None and at.is_back
    place = statement.with_only_columns(*keys)
    if at is not None:
        given = func.row(*(literal(value, key.type) for value, key in zip(at.key, keys, strict=True)))
        place = place.where(func.row(*keys) > given if is_back else func.row(*keys) < given)
    # The number to pass over is fixed, unlike that of a page: so this costs the same at any place of the list.
    row = connection.execute(
        place.order_by(*(key.asc() if is_back else key.desc() for key in keys))
        .offset(looked_max - 1)
        .limit(1)
    ).one_or_none()
    return None if row is None else tuple(row)
