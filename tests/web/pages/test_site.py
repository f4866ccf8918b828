from __future__ import annotations

import json
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any

import pytest
from flask import Flask, session
from hypothesis import given
from hypothesis import strategies as st

from processor.web.pages.formats import Clock, seen
from processor.web.pages.site import LONG_READS, NOTES_BYTES_MAX, Busy, Site, notes, told
from processor.wiring import PAGES_POOL_SIZE
from tests.web.pages.books import Books


@given(st.lists(st.text(max_size=3_000), min_size=1, max_size=6))
def test_what_is_told_fits_into_a_cookie_and_ends_with_the_newest(words: list[str]) -> None:
    app = Flask(__name__)
    app.secret_key = "of a test"
    with app.test_request_context():
        for one in words:
            told(one)
        assert len(json.dumps(session["notes"])) <= NOTES_BYTES_MAX
        found = notes()

    assert found
    assert words[-1].startswith(found[-1][1].rstrip("…")) or len(found[-1][1]) > 100


def test_an_unknown_page_shows_the_way_back_to_who_is_signed_in(books: Books) -> None:
    answer = books.person().get("/no-such-page")

    assert answer.status_code == 404
    assert 'aria-label="Main"' in answer.text
    assert 'aria-label="Main"' not in books.nobody().get("/no-such-page").text


def test_what_takes_long_leaves_connections_to_what_does_not() -> None:
    nothing: Any = None
    site = Site(nothing, nothing, nothing, nothing)
    assert LONG_READS <= PAGES_POOL_SIZE - 2

    def read(left: int) -> None:
        if left:
            with site.long_read(BoundedSemaphore(1)):
                read(left - 1)

    with pytest.raises(Busy):
        read(LONG_READS + 1)
    read(LONG_READS)  # each was given back

    one = BoundedSemaphore(1)
    with site.long_read(one), pytest.raises(Busy), site.long_read(one):
        pass
    for _ in range(LONG_READS + 1):
        with site.long_read(one):
            pass


def test_times_that_checks_wrote_down_are_those_of_the_zone() -> None:
    clock = Clock("Europe/Berlin", lambda: datetime(2026, 11, 28, tzinfo=UTC))

    assert clock.zoned("2026-11-28T23:30:03Z") == "29 Nov 2026, 00:30:03 CET"
    assert clock.zoned("from 2026-07-01 10:00:00 UTC on") == "from 01 Jul 2026, 12:00:00 CEST on"
    assert (
        clock.zoned("2026-13-28T23:30:03Z, 9999-12-31T23:30:03Z")
        == "2026-13-28T23:30:03Z, 9999-12-31T23:30:03Z"
    )
    assert clock.zoned("12.00 USD") == "12.00 USD"


@pytest.mark.parametrize("mark", "\u061c\u200e\u200f\u202a\u202e\u2066\u2069\x1b\x9b")
def test_no_mark_of_others_turns_the_text_around_it(mark: str) -> None:
    assert seen(f"a{mark}b") == "a\N{REPLACEMENT CHARACTER}b"
