"""The migrations that belong to this code: which is the newest, and running them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

from processor.store import evidence

# Alembic is imported where it is used: every process asks which migration is the newest, few run any.
if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).resolve().parents[2] / "migrations"


def configuration() -> Config:
    """Alembic's configuration for our folder, wherever the process was started."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def is_of_models(_object: object, name: str | None, kind: str, *_: object) -> bool:
    """Whether Alembic is to compare it with the models (its `include_object`): partitions are made by the clock."""
    return not (kind == "table" and (name or "").startswith(f"{evidence.TABLE}_"))


def head() -> str | None:
    """The newest migration this code knows, None when there is none."""
    return max(_known(), default=None)


def is_known(revision: str) -> bool:
    """Whether this code has the migration; one it has not is newer, made by later code."""
    return revision in _known()


@cache
def _known() -> frozenset[str]:
    # Each file's name begins with the revision, and revisions are numbered; a test compares with what Alembic reads.
    return frozenset(file.name.partition("_")[0] for file in (FOLDER / "versions").glob("*.py"))


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`. Waits for another migration under way; see migrations/env.py."""
    from alembic import command

    _run(url, revision, command.upgrade)
    if revision == "head":
        _make_months(url)


def _make_months(url: str) -> None:
    """The first months, so that nothing begins in the default partition; the clock makes the others."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            evidence.ensure_months(connection, datetime.now(UTC))
    finally:
        engine.dispose()


def downgrade(url: str, revision: str) -> None:
    """Take the database back to `revision` ("base" for empty)."""
    from alembic import command

    _run(url, revision, command.downgrade)


def _run(url: str, revision: str, go: Callable[[Config, str], None]) -> None:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            go(config, revision)
    finally:
        engine.dispose()
