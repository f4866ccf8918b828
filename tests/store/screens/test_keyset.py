from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import column, create_engine, select, values
from sqlalchemy.types import Integer

from processor.config import database_url as sqlalchemy_url
from processor.store.screens.keyset import BadPosition, Position, fetch

KEYS = st.tuples(
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
    st.decimals(-(10**15), 10**15, places=3),
)


@given(KEYS, st.booleans())
def test_a_position_is_read_as_it_was_written(key: tuple[object, ...], is_back: bool) -> None:
    position = Position(key, is_back)

    assert Position.read(position.text(), datetime, UUID, int, str, Decimal) == position


@given(st.text(max_size=200))
def test_what_is_no_position_is_refused(text: str) -> None:
    if text:
        with pytest.raises(BadPosition):
            Position.read(text, datetime, UUID)


def test_a_position_of_another_list_is_refused() -> None:
    with pytest.raises(BadPosition):
        Position.read(Position((uuid4(),)).text(), int)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7])
@pytest.mark.parametrize("is_descending", [True, False])
def test_pages_forth_and_back_show_every_row_once(
    empty_database_url: str, count: int, is_descending: bool
) -> None:
    engine = create_engine(sqlalchemy_url(empty_database_url))
    rows = values(column("n", Integer), name="rows").data([(n,) for n in range(count)] or [(0,)])
    statement = select(rows.c.n).where(rows.c.n < count)
    expected = list(range(count))[:: -1 if is_descending else 1]

    with engine.connect() as connection:
        forth, back, at = [], [], None
        while True:
            found = fetch(connection, statement, [rows.c.n], at=at, limit=3, is_descending=is_descending)
            forth += [row.n for row in found.items]
            last, at = found, found.after
            if at is None:
                break
        pages = [[row.n for row in last.items]]
        while last.before is not None:
            last = fetch(
                connection, statement, [rows.c.n], at=last.before, limit=3, is_descending=is_descending
            )
            pages.insert(0, [row.n for row in last.items])
        back = [n for page in pages for n in page]
    engine.dispose()

    assert forth == expected
    assert back == expected
