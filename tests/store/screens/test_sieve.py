"""Lists narrowed down by what no index knows: whatever is looked at for one page, no row is passed over."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, column, create_engine, select, values
from sqlalchemy.types import Integer

from processor.config import database_url as sqlalchemy_url
from processor.store.screens.keyset import Position, fetch
from processor.store.screens.sieve import sift

NUMBERS = values(column("n", Integer), name="rows").data([(n,) for n in range(1, 31)])


def page(
    connection: Connection, fitting: set[int], at: Position | None, *, is_descending: bool = True
) -> Any:
    """Of 30 rows, five of which are looked at for a page of three."""
    n = NUMBERS.c.n
    return sift(
        connection,
        select(n),
        [n.in_(fitting)],
        [n],
        at=at,
        limit=3,
        looked_max=5,
        is_descending=is_descending,
    ).page


@pytest.mark.parametrize("is_descending", [True, False])
@pytest.mark.parametrize(
    "fitting",
    [
        {26},  # the last that the first page looks at; after it come empty ones
        {5, 6, 25, 26},
        {1, 30},
        {11, 12, 13, 14, 15, 16},
        {30, 29, 28, 27, 26, 25},
        set(range(1, 31)),
        set(),
    ],
)
def test_going_back_from_any_page_shows_every_row_again(
    empty_database_url: str, fitting: set[int], is_descending: bool
) -> None:
    engine = create_engine(sqlalchemy_url(empty_database_url))
    fitting = fitting if is_descending else {31 - n for n in fitting}
    with engine.connect() as connection:
        forth, places, at = [], [], None
        while True:
            found = page(connection, fitting, at, is_descending=is_descending)
            forth.append([row.n for row in found.items])
            places.append(found.before)
            if found.after is None:
                break
            at = found.after
        for number, place in enumerate(places):
            back: list[int] = []
            while place is not None:
                found = page(connection, fitting, place, is_descending=is_descending)
                back = [row.n for row in found.items] + back
                place = found.before
            assert back == [n for rows in forth[:number] for n in rows]
    engine.dispose()

    assert [n for rows in forth for n in rows] == sorted(fitting, reverse=is_descending)


def test_an_empty_page_leads_to_the_row_beside_which_it_begins(empty_database_url: str) -> None:
    """As when all that came after it was taken away meanwhile."""
    engine = create_engine(sqlalchemy_url(empty_database_url))
    n = NUMBERS.c.n
    with engine.connect() as connection:
        for at, wanted in (
            (Position((1,)), [3, 2, 1]),
            (Position((0,), includes=True), [3, 2, 1]),
            (Position((30,), is_back=True), [30, 29, 28]),
        ):
            empty = fetch(connection, select(n), [n], at=at, limit=3)
            assert empty.items == []
            other = empty.after if at.is_back else empty.before
            assert [row.n for row in fetch(connection, select(n), [n], at=other, limit=3).items] == wanted
    engine.dispose()


@pytest.mark.parametrize("is_back", [True, False])
@pytest.mark.parametrize("includes", [True, False])
def test_a_position_says_whether_it_includes_its_row(is_back: bool, includes: bool) -> None:
    position = Position((3,), is_back, includes)

    assert Position.read(position.text(), int) == position
