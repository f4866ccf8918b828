"""Lists in pages by their keys: the thousandth page costs what the first does, and new rows shift none.

A position is the key of the row beside which a page begins. It travels in the address as text.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from operator import ge, gt, le, lt
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal

PAGE = 50
Item = TypeVar("Item")
Key = tuple[Any, ...]

_TYPES: dict[str, type] = {"t": datetime, "u": UUID, "i": int, "d": Decimal, "s": str}


class BadPosition(ValueError):
    """Text that is no position of this list."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: after the row of this key, or before it when is_back; with that row when it includes it."""

    key: Key
    is_back: bool = False
    includes: bool = False

    def text(self) -> str:
        """For an address."""
        parts = [[_kind(value), _written(value)] for value in self.key]
        side = "b" if self.is_back else "a"
        raw = json.dumps([side.upper() if self.includes else side, *parts], separators=(",", ":"))
        return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str | None, *types: type) -> Position | None:
        """What `text` wrote, None for None or nothing. types: of the key's values. Raises BadPosition."""
        if not text:
            return None
        try:
            side, *parts = json.loads(base64.urlsafe_b64decode(text[:2_000] + "=" * (-len(text) % 4)))
            key = tuple(_value(kind, told) for kind, told in parts)
        except (
            ValueError,
            TypeError,
            binascii.Error,
            InvalidOperation,
            OverflowError,
            RecursionError,
        ) as why:
            raise BadPosition("no position") from why
        if side not in ("a", "b", "A", "B") or tuple(map(type, key)) != types:
            raise BadPosition("a position of another list")
        return cls(key, side in ("b", "B"), side in ("A", "B"))


def _written(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, int) else str(value)


def _kind(value: Any) -> str:
    return next(kind for kind, type_ in _TYPES.items() if type(value) is type_)


def _value(kind: str, told: Any) -> Any:
    match kind:
        case "t":
            moment = datetime.fromisoformat(told)
            if moment.tzinfo is None:
                raise ValueError("a time without a zone")
            return moment
        case "u":
            return UUID(told)
        case "i":
            if type(told) is not int or not -(2**63) <= told < 2**63:
                raise ValueError("no number")
            return told
        case "d":
            number = Decimal(told)
            # No amount of ours has more than three decimals; PostgreSQL reads no number with a hundred thousand.
            if not number.is_finite() or abs(number) >= 10**16 or number != round(number, 3):
                raise ValueError("no amount")
            return number
        case "s" if isinstance(told, str) and "\0" not in told:
            return told
    raise ValueError("unknown kind")


@dataclass(frozen=True, slots=True)
class Slice(Generic[Item]):
    """A page of a list. before, after: where the pages around it begin, None when there is none."""

    items: list[Item]
    before: Position | None
    after: Position | None


def at_other_side(at: Position | None) -> Position | None:
    """Where the page on the other side of an empty one begins: with the row that the page before this may end with."""
    return None if at is None else Position(at.key, is_back=not at.is_back, includes=not at.includes)


def beside(here: Any, there: Any, *, goes_down: bool, includes: bool = False) -> ColumnElement[bool]:
    """That a key comes after another in an order, or is it, when that includes it."""
    compare = (le if includes else lt) if goes_down else (ge if includes else gt)
    return cast("ColumnElement[bool]", compare(here, there))


def fetch(
    connection: Connection,
    statement: Select[Any],
    keys: Sequence[Any],
    *,
    at: Position | None,
    limit: int = PAGE,
    is_descending: bool = True,
) -> Slice[Row[Any]]:
    """A page of `statement`, which has no order yet, by `keys`, all descending or all ascending, none ever NULL.

    An index on just these columns answers it. The rows end with the values of the keys.
    """
    columns = len(statement.selected_columns)
    statement = statement.add_columns(*(key.label(f"key_{number}") for number, key in enumerate(keys)))
    is_back = at is not None and at.is_back
    goes_down = is_descending != is_back
    if at is not None:
        place = func.row(*(literal(value, key.type) for value, key in zip(at.key, keys, strict=True)))
        statement = statement.where(beside(func.row(*keys), place, goes_down=goes_down, includes=at.includes))
    found = connection.execute(
        statement.order_by(*(key.desc() if goes_down else key.asc() for key in keys)).limit(limit + 1)
    ).all()
    has_more = len(found) > limit
    rows = list(found[:limit])
    if is_back:
        rows.reverse()
    if not rows:
        other = at_other_side(at)
        return Slice(rows, None if is_back else other, other if is_back else None)
    has_before = has_more if is_back else at is not None
    has_after = is_back or has_more
    return Slice(
        rows,
        Position(tuple(rows[0][columns:]), is_back=True) if has_before else None,
        Position(tuple(rows[-1][columns:])) if has_after else None,
    )
