"""Run migrations: one at a time, with time limits, in one transaction each.

The database comes from `DATABASE_URL`, or from the connection a caller hands over in
`config.attributes["connection"]` (tests, `processor migrate`).
"""

from __future__ import annotations

import os
import time

from alembic import context
from sqlalchemy import Connection, create_engine, text

from processor.config import database_url
from processor.errors import ConfigurationError
from processor.store.migrations import is_of_models
from processor.store.tables import Base

# Two deploys at once wait for each other here. The number is "plp" in ASCII; any constant would do.
ADVISORY_LOCK = 0x706C70
# A migration that cannot get its lock quickly must fail rather than queue every webhook behind it.
LOCK_TIMEOUT = "5s"
LOCK_SECONDS_BETWEEN = 0.2
STATEMENT_TIMEOUT = "10min"


def run(connection: Connection) -> None:
    """Upgrade or downgrade over `connection`, holding the advisory lock of this database."""
    # The lock is of the session, so it outlives the migrations' own transactions and is given back last. It is asked
    # for again and again: a transaction that waited for it would be waited for by an index built concurrently.
    while not connection.execute(
        text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}
    ).scalar_one():
        connection.rollback()
        time.sleep(LOCK_SECONDS_BETWEEN)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=True,
            compare_server_default=True,
            include_object=is_of_models,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()


def main() -> None:
    """What Alembic calls."""
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql",
            target_metadata=Base.metadata,
            literal_binds=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            context.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")
            context.run_migrations()
        return
    handed_over: Connection | None = context.config.attributes.get("connection")
    if handed_over is not None:
        run(handed_over)
        return
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise ConfigurationError("DATABASE_URL is not set: name the PostgreSQL database to migrate")
    engine = create_engine(database_url(url))
    with engine.connect() as connection:
        run(connection)
    engine.dispose()


main()
