from __future__ import annotations

from collections.abc import Iterator

import pytest

from processor.config import database_url as sqlalchemy_url
from processor.store.database import Database, open_database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    opened = open_database(
        sqlalchemy_url(database_url), name="test", pool_size=8, pool_seconds=10, statement_seconds=30
    )
    yield opened
    opened.dispose()
