"""The pretend Wix's memory: JSON documents in SQLite, a table for each kind, kept over a restart when given a file.

Nothing is held in memory, so a million payments cost disk only. What is asked by is a column with an index;
the rest is JSON. Links and payments are `entity` in Wix's own shape beside our `body`, and their latest past
versions are kept, so that a query can be answered as of a moment ago. One lock guards all of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

Document = dict[str, Any]

PAST_KEPT = 8  # versions of one link or payment beside its current one
_SCHEMA_VERSION = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime | str) -> int:
    """An aware moment, or its ISO text, as whole microseconds since 1970: how dates are kept and compared."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def value_at(document: Any, path: str) -> Any:
    """The value at a dotted path, None when any part is missing."""
    for part in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(part)
    return document


Column = Callable[[Document], Any]


def _at(path: str) -> Column:
    return lambda document: value_at(document, path)


def _thousandths(document: Document) -> int:
    # No currency has more than three decimals, so sums stay exact.
    return int(Decimal(document["entity"]["amount"]) * 1000)


def _date_at(path: str) -> Column:
    def column(document: Document) -> int | None:
        value = value_at(document, path)
        return microseconds(value) if isinstance(value, str) else None

    return column


@dataclass(frozen=True, slots=True)
class _Kind:
    """columns: by name, how each is taken from a document. indexes: on which columns, in order."""

    columns: dict[str, Column] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    is_versioned: bool = False


_OWNED = _Kind({"instance": _at("instanceId")}, ("instance",))
KINDS: dict[str, _Kind] = {
    "app": _Kind(),
    "key": _Kind(),
    "settings": _Kind(),
    "fault": _Kind(),
    "instance": _Kind({"api_key": _at("apiKey"), "site": _at("siteId")}, ("api_key", "site")),
    "token": _OWNED,
    "contact": _OWNED,
    "product": _OWNED,
    "receipt": _OWNED,
    "mail": _Kind({"instance": _at("instanceId"), "link": _at("linkId")}, ("instance", "link")),
    "checkout": _OWNED,
    "order": _Kind(
        {"instance": _at("instanceId"), "status": _at("paymentStatus")}, ("instance, status", "instance")
    ),
    "link": _Kind(
        {
            "instance": _at("instanceId"),
            "created": _date_at("entity.createdDate"),
            "payment_count": _at("entity.totalReceived.paymentCount"),
            "payments_limit": _at("entity.paymentsLimit"),
            "status": _at("entity.status"),
            "source": _at("entity.source.appId"),
            "expires": _date_at("entity.expirationDate"),
            "changed": _at("changed"),
        },
        (
            "instance, created, id, status, source, payment_count, payments_limit",
            "instance, status, created, id",
            "instance, source, created, id",
            "instance, payment_count, created, id",
            "instance, payments_limit, created, id",
            "status, expires",
        ),
        is_versioned=True,
    ),
    "payment": _Kind(
        {
            "instance": _at("instanceId"),
            "link": _at("linkId"),
            "created": _date_at("entity.createdDate"),
            "transacted": _date_at("entity.transactionDate"),
            "type": _at("entity.type"),
            "method": _at("entity.regularPaymentLinkPayment.method"),
            "payment_method": _at("entity.regularPaymentLinkPayment.paymentMethod"),
            "thousandths": _thousandths,
            # The field's name is an option, which may have been another when this was paid.
            "currency": lambda document: (
                document["entity"].get("currency") or document["entity"]["currencyCode"]
            ),
            "changed": _at("changed"),
        },
        (
            # With every field a filter can name, so that what finds little is looked for without the rows.
            "instance, created, id, transacted, link, type, method, payment_method",
            "instance, transacted, created, id, link, type, method, payment_method",
            "instance, link, created, id",
            "instance, type, created, id",
            "instance, method, created, id",
            "instance, payment_method, created, id",
            "instance, currency, thousandths",
            "link",
        ),
        is_versioned=True,
    ),
    "event": _Kind(
        {
            "instance": _at("instanceId"),
            "type": _at("eventType"),
            "entity_id": _at("entityId"),
            "link": _at("paymentLinkId"),
            "status": _at("status"),
        },
        (
            # The log is narrowed by any of instance, type and status, newest first; an index ends in the number.
            *("instance", "type", "status", "instance, type", "instance, status", "type, status"),
            *("instance, type, status", "entity_id", "link"),
        ),
    ),
    "delivery": _Kind({"event": _at("eventId"), "instance": _at("instanceId")}, ("event", "instance")),
}


def index_name(kind: str, columns: str) -> str:
    """What the index on these columns is called."""
    return f"{kind}_by_{columns.replace(', ', '_')}"


def _create(kind: str) -> Iterator[str]:
    shape = KINDS[kind]
    columns = "".join(f", {name}" for name in shape.columns)
    entity = ", entity TEXT NOT NULL" if shape.is_versioned else ""
    yield (
        f'CREATE TABLE IF NOT EXISTS "{kind}"'
        f" (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL{entity}{columns})"
    )
    for index in shape.indexes:
        yield f'CREATE INDEX IF NOT EXISTS "{index_name(kind, index)}" ON "{kind}" ({index})'
    if shape.is_versioned:
        yield (
            f"CREATE TABLE IF NOT EXISTS {kind}_past"
            f" (past INTEGER PRIMARY KEY, id TEXT NOT NULL, until INTEGER NOT NULL, entity TEXT NOT NULL{columns})"
        )
        yield f"CREATE INDEX IF NOT EXISTS {kind}_past_id ON {kind}_past (id, past)"
        yield f"CREATE INDEX IF NOT EXISTS {kind}_past_instance ON {kind}_past (instance, until)"


class UnreadableState(Exception):
    """The file was written by another version of the sandbox."""


class FolderInUse(Exception):
    """Another process keeps its state in this folder; the message says which."""


def _held(folder: Path) -> IO[str]:
    """The folder's lock file, ours until it is closed or this process ends. Raises FolderInUse, OSError."""
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read(20).strip() or "unknown"
        lock.close()
        raise FolderInUse(
            f"{folder} is in use by process {holder}: stop that one, or choose another folder"
        ) from None
    except OSError:
        lock.close()
        raise
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


class Documents:
    """All documents. Use inside `with documents.transaction()`, which other threads wait for."""

    def __init__(self, file: Path | None) -> None:
        """Open them; no other process may until they are closed. Raises FolderInUse, UnreadableState, OSError."""
        self._folder_lock: IO[str] | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._folder_lock = _held(file.parent)
        self.lock = threading.RLock()
        self._connection = sqlite3.connect(
            str(file) if file else ":memory:",
            check_same_thread=False,
            isolation_level=None,
            cached_statements=512,
        )
        self._depth = 0
        try:
            self._prepare(file)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: an error takes back every `put` and `remove` of the outermost."""
        with self.lock:
            self._depth += 1
            if self._depth == 1:
                self._connection.execute("BEGIN")
            try:
                yield
            except BaseException:
                if self._depth == 1:
                    self._connection.execute("ROLLBACK")
                raise
            else:
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            finally:
                self._depth -= 1

    def get(self, kind: str, id_: str) -> Document | None:
        """One document, None when there is none."""
        found = self._documents(kind, "WHERE id = ?", (id_,))
        return found[0] if found else None

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind, oldest first: for kinds of which there are few."""
        return self._documents(kind, "ORDER BY number", ())

    def find(
        self,
        kind: str,
        equal: Mapping[str, Any] | None = None,
        *,
        newest_first: bool = False,
        limit: int = -1,
        before: int | None = None,
        after: int | None = None,
    ) -> list[Document]:
        """Documents whose columns are as given, in the order of their making.

        before, after: only those made earlier, or later, than the one with that number (see `number_of`).
        """
        equal = equal or {}
        conditions = [f"{_column(kind, name)} IS ?" for name in equal]
        values = [*equal.values()]
        for sign, number in (("<", before), (">", after)):
            if number is not None:
                conditions.append(f"number {sign} ?")
                values.append(number)
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        order = "DESC" if newest_first else "ASC"
        return self._documents(kind, f"{where}ORDER BY number {order} LIMIT ?", (*values, limit))

    def number_of(self, kind: str, id_: str) -> int | None:
        """The place of a document in the order of their making, None when there is none."""
        found = self.rows(f'SELECT number FROM "{kind}" WHERE id = ?', (id_,))
        return int(found[0][0]) if found else None

    def distinct(self, kind: str, column: str) -> list[str]:
        """The values of an indexed column, in order: one look at the index for each."""
        name = _column(kind, column)
        found = self.rows(
            f'WITH RECURSIVE seen (value) AS (SELECT min({name}) FROM "{kind}" UNION ALL'
            f' SELECT (SELECT min({name}) FROM "{kind}" WHERE {name} > value) FROM seen WHERE value IS NOT NULL)'
            " SELECT value FROM seen WHERE value IS NOT NULL"
        )
        return [str(value) for (value,) in found]

    def count(self, kind: str, equal: Mapping[str, Any] | None = None) -> int:
        """How many documents have these columns."""
        equal = equal or {}
        conditions = " AND ".join(f"{_column(kind, name)} IS ?" for name in equal) or "TRUE"
        [(number,)] = self.rows(f'SELECT count(*) FROM "{kind}" WHERE {conditions}', tuple(equal.values()))
        return int(number)

    def put(self, kind: str, id_: str, document: Document) -> Document:
        """Keep a document, new or changed. Of a link or payment, the version stays as it is: see `put_version`."""
        self.put_many(kind, [(id_, document)])
        return document

    def put_many(self, kind: str, documents: Iterable[tuple[str, Document]]) -> None:
        """Keep many documents."""
        shape = KINDS[kind]
        names = ["id", "body", *(["entity"] if shape.is_versioned else []), *shape.columns]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])

        def rows() -> Iterator[list[Any]]:
            for id_, document in documents:
                body = document
                entity: list[str] = []
                if shape.is_versioned:
                    body = {name: value for name, value in document.items() if name != "entity"}
                    entity = [json.dumps(document["entity"])]
                yield [
                    id_,
                    json.dumps(body),
                    *entity,
                    *(column(document) for column in shape.columns.values()),
                ]

        with self.transaction():
            self._connection.executemany(
                f'INSERT INTO "{kind}" ({", ".join(names)}) VALUES ({", ".join("?" * len(names))})'
                f" ON CONFLICT (id) DO UPDATE SET {updates}",
                rows(),
            )

    def put_version(self, kind: str, document: Document, entity: Document, at: datetime) -> None:
        """Make `entity` the current version of a link or payment; the one before becomes a past one."""
        columns = ", ".join(KINDS[kind].columns)
        moment = microseconds(at)
        with self.transaction():
            self._connection.execute(
                f"INSERT INTO {kind}_past (id, until, entity, {columns})"
                f' SELECT id, ?, entity, {columns} FROM "{kind}" WHERE id = ?',
                (moment, document["id"]),
            )
            self._connection.execute(
                f"DELETE FROM {kind}_past WHERE id = ? AND past NOT IN"
                f" (SELECT past FROM {kind}_past WHERE id = ? ORDER BY past DESC LIMIT {PAST_KEPT})",
                (document["id"], document["id"]),
            )
            document["entity"] = entity
            document["changed"] = moment
            self.put(kind, document["id"], document)

    def remove(self, kind: str, id_: str) -> None:
        """Forget a document and its past."""
        with self.transaction():
            self._connection.execute(f'DELETE FROM "{kind}" WHERE id = ?', (id_,))
            if KINDS[kind].is_versioned:
                self._connection.execute(f"DELETE FROM {kind}_past WHERE id = ?", (id_,))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT of our own making."""
        with self.lock:
            return self._connection.execute(sql, values).fetchall()

    def plan(self, sql: str, values: Sequence[Any] = ()) -> list[str]:
        """How SQLite would answer a SELECT, step by step."""
        return [str(row[3]) for row in self.rows(f"EXPLAIN QUERY PLAN {sql}", values)]

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Make a pure Python function usable in SELECTs."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    def close(self) -> None:
        """Close the file, and let others have its folder."""
        with self.lock:
            self._connection.close()
            if self._folder_lock is not None:
                self._folder_lock.close()

    def _prepare(self, file: Path | None) -> None:
        """Make what is missing. Raises UnreadableState."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        [tables] = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and version != _SCHEMA_VERSION:
            raise UnreadableState(
                f"{file} was written by another version of the sandbox; choose another folder or remove it"
            )
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        for kind in KINDS:
            for statement in _create(kind):
                self._connection.execute(statement)
        self._drop_former_indexes()

    def _drop_former_indexes(self) -> None:
        """Drop what an earlier version asked by: it would only slow every write down."""
        known = {index_name(kind, columns) for kind, shape in KINDS.items() for columns in shape.indexes}
        held = self.rows(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE '%\\_by\\_%' ESCAPE '\\'"
        )
        for (name,) in held:
            if name not in known:
                self._connection.execute(f'DROP INDEX "{name}"')

    def _documents(self, kind: str, rest: str, values: Sequence[Any]) -> list[Document]:
        if not KINDS[kind].is_versioned:
            return [json.loads(body) for (body,) in self.rows(f'SELECT body FROM "{kind}" {rest}', values)]
        found = self.rows(f'SELECT body, entity FROM "{kind}" {rest}', values)
        return [{**json.loads(body), "entity": json.loads(entity)} for body, entity in found]


def _column(kind: str, name: str) -> str:
    if name not in KINDS[kind].columns:
        raise KeyError(f"{kind} has no column {name}")
    return name
