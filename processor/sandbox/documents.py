"""The pretend Wix's memory: JSON documents by kind and id, in SQLite, kept over a restart when given a file.

Every document is also held in memory, so that reading is a dictionary. One lock guards all of it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class Documents:
    """All documents. Use inside `with documents.transaction()`, which other threads wait for."""

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self._connection = sqlite3.connect(
            str(file) if file else ":memory:", check_same_thread=False, isolation_level=None
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT, id TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id))"
        )
        self._held: dict[str, dict[str, Document]] = {}
        for kind, id_, body in self._connection.execute(
            "SELECT kind, id, body FROM documents ORDER BY rowid"
        ):
            self._held.setdefault(kind, {})[id_] = json.loads(body)
        self._depth = 0
        self._touched: set[tuple[str, str]] = set()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, in memory as on disk: an error takes back every `put` and `remove` of the outermost."""
        with self.lock:
            self._depth += 1
            if self._depth == 1:
                self._connection.execute("BEGIN")
            try:
                yield
            except BaseException:
                if self._depth == 1:
                    self._connection.execute("ROLLBACK")
                    self._restore()
                raise
            else:
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._touched.clear()

    def _restore(self) -> None:
        for kind, id_ in self._touched:
            row = self._connection.execute(
                "SELECT body FROM documents WHERE kind = ? AND id = ?", (kind, id_)
            ).fetchone()
            if row is None:
                self._held.get(kind, {}).pop(id_, None)
            else:
                self._held.setdefault(kind, {})[id_] = json.loads(row[0])

    def get(self, kind: str, id_: str) -> Document | None:
        """One document, None when there is none."""
        with self.lock:
            return self._held.get(kind, {}).get(id_)

    def all(self, kind: str) -> list[Document]:
        """Every document of a kind, oldest first."""
        with self.lock:
            return list(self._held.get(kind, {}).values())

    def put(self, kind: str, id_: str, document: Document) -> Document:
        """Keep a document, new or changed."""
        with self.transaction():
            self._touched.add((kind, id_))
            self._held.setdefault(kind, {})[id_] = document
            self._connection.execute(
                "INSERT INTO documents (kind, id, body) VALUES (?, ?, ?)"
                " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, id_, json.dumps(document)),
            )
        return document

    def remove(self, kind: str, id_: str) -> None:
        """Forget a document."""
        with self.transaction():
            self._touched.add((kind, id_))
            self._held.get(kind, {}).pop(id_, None)
            self._connection.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, id_))

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._connection.close()
