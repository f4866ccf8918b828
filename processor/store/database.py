"""One engine for each process, and transactions whose failure says what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from processor.errors import StoreUnavailable

CONNECT_SECONDS = 2  # libpq's least
BEYOND_SERVER_SECONDS = 0.1  # for a server that keeps its own time limit to say so
UNMIGRATED = ("42P01", "42703")  # undefined table, undefined column
NOT_MIGRATED = "the database has not the tables of this release: run `processor migrate`"
SERVER_VERSION_MIN = 150_000  # NULLS NOT DISTINCT needs PostgreSQL 15


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for the server longer than `seconds`.

    The server's own time limits are of no use when it is stopped, or the way to it is cut.
    """

    seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, within `seconds`; raises OperationalError when they are over."""
        if timeout is None:
            timeout = self.seconds
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # Waited for in vain: what is still to come would be taken for the answer to the next statement.
                self.pgconn.finish()
            raise


@dataclass(frozen=True, slots=True)
class Database:
    """The database of one process. Connections are opened when first used, so a fork before is safe."""

    engine: Engine
    connect_args: Mapping[str, Any]
    statement_seconds: float

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on any exception.

        Raises StoreUnavailable when the database does not answer, is too slow, or gave the transaction
        up (deadlock, shutdown). Whether it was committed is then unknown: repeat only what is harmless
        to repeat.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout) as why:
            raise StoreUnavailable(first_line(why)) from why
        except DBAPIError as why:
            if getattr(why.orig, "sqlstate", None) in UNMIGRATED:
                raise StoreUnavailable(NOT_MIGRATED) from why
            if not why.connection_invalidated:
                raise
            raise StoreUnavailable(first_line(why)) from why

    def open_apart(self, **settings: str) -> BoundedConnection:
        """A connection outside of the pool, each of whose statements is a transaction, in UTF-8.

        settings: of PostgreSQL, for this connection. Raises StoreUnavailable.
        """
        _, options = self.engine.dialect.create_connect_args(self.engine.url)
        limits = " ".join(
            [self.connect_args["options"], *(f"-c {name}={value}" for name, value in settings.items())]
        )
        try:
            connection = BoundedConnection.connect(
                **{**options, **self.connect_args, "options": limits, "client_encoding": "utf8"},
                autocommit=True,
            )
        except psycopg.Error as why:
            raise StoreUnavailable(first_line(why)) from why
        connection.seconds = self.statement_seconds + BEYOND_SERVER_SECONDS
        return connection

    def dispose(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()


def first_line(error: Exception) -> str:
    """The first line of a database error: never the statement or its parameters."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def open_database(
    url: str,
    *,
    name: str,
    pool_size: int,
    pool_seconds: float,
    statement_seconds: float,
) -> Database:
    """The database at `url`. name: shown by PostgreSQL as application_name.

    pool_seconds: longest wait for a free connection. statement_seconds: longest time for one statement
    or lock, after which PostgreSQL cancels it.
    """
    milliseconds = int(statement_seconds * 1000)
    connect_args = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": name,
        "keepalives_idle": 30,
        "tcp_user_timeout": milliseconds + 1000,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        " -c idle_in_transaction_session_timeout=60000 -c timezone=UTC",
        "prepare_threshold": None,  # prepared statements do not survive a pooler in transaction mode
    }
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_seconds,
        pool_use_lifo=True,  # few connections stay warm, the rest may be closed by the server
        hide_parameters=True,  # parameters are payments and people
        connect_args=connect_args,
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> BoundedConnection:
        connection = BoundedConnection.connect(**options)
        connection.seconds = statement_seconds + BEYOND_SERVER_SECONDS
        return connection

    return Database(engine, connect_args, statement_seconds)


def server_version(connection: Connection) -> int:
    """PostgreSQL's version as a number: 180006 for 18.6."""
    return int(connection.execute(text("SHOW server_version_num")).scalar_one())


def current_migration(connection: Connection) -> str | None:
    """The migration the database is at, None before the first."""
    # Imported here: it takes a fifth of the time in which a command starts.
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()
