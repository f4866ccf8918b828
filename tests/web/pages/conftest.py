"""Books that the tests of one module share: they only read, or change what no other looks at."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from tests.conftest import Owner, a_database
from tests.web.pages.books import Books, empty_books, some_books


@pytest.fixture(scope="module")
def books(_owner: Owner, _template: str) -> Iterator[Books]:
    """Two shops with something on every screen."""
    url = shared_redis(_owner)
    with (
        a_database(_owner.get().database_url, _owner.new_database(), template=_template) as database_url,
        some_books(database_url, url) as filled,
    ):
        yield filled


@pytest.fixture
def fresh_books(database_url: str, redis_url: str) -> Iterator[Books]:
    """Two shops of this test alone in which nothing happened yet."""
    with empty_books(database_url, redis_url) as books:
        yield books


def shared_redis(owner: Owner) -> str:
    """The Redis database of this process, emptied now and kept for a whole module."""
    url = urlsplit(owner.get().redis_url)._replace(path=f"/{owner.number}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
