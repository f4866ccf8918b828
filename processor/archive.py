"""Months of signed bodies leave the database: written to a file, read back, and only then detached.

The rows of the events stay, so that a delivery that comes again is a duplicate for ever, and its digest still proves
what the file holds. A file is gzip of one JSON object a line: instance_id, event_id, received_at, token.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import file_digest, sha256
from itertools import islice
from pathlib import Path
from uuid import UUID

import structlog

from processor.errors import ConfigurationError, ProcessorError
from processor.store import evidence
from processor.store.evidence import KeptToken
from processor.wiring import Services

log = structlog.get_logger(__name__)

# Wix sends again for up to two days, and a clock may be off: no month leaves earlier after its end.
LEAST_AGE = timedelta(days=7)
BATCH = 200


class NotArchived(ProcessorError):
    """A month stays where it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Left:
    """A month that left. partition: its table, which is there still unless it was dropped."""

    month: datetime
    partition: str
    file: Path
    event_count: int


def archive(services: Services, before: datetime, folder: Path, *, drop: bool) -> Iterator[Left]:
    """Archive every month that lies wholly before `before`, the oldest first. Raises NotArchived."""
    now = services.now()
    if before > now - LEAST_AGE:
        raise ConfigurationError(
            f"months are archived {LEAST_AGE.days} days after their end at the earliest: name an earlier time"
        )
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: make it, or name another")
    with services.database.begin() as connection:
        months = evidence.months_before(connection, before)
    for month in months:
        yield _archive(services, month, folder, drop=drop)


def _archive(services: Services, month: datetime, folder: Path, *, drop: bool) -> Left:
    name = evidence.partition_of(month)
    file = folder / f"{name}.jsonl.gz"
    if file.exists():
        raise NotArchived(f"{file} is there already: move it away, it may be the only copy of its month")
    draft = file.with_suffix(".part")
    try:
        count = _write(services, month, draft)
        if (kept := sum(1 for _ in read(draft))) != count:
            raise NotArchived(f"{draft.name} holds {kept} tokens of {count}: is the disk full?")
        with draft.open("rb") as made:
            digest = file_digest(made, "sha256").digest()
        with services.database.begin() as connection:
            if not evidence.detach(
                connection,
                month,
                file_name=file.name,
                file_digest=digest,
                event_count=count,
                drop=drop,
                now=services.now(),
            ):
                raise NotArchived(f"{name} changed while it was exported: try again")
            # The file has its name before the month is gone: a failure in between leaves one too many, never none.
            draft.rename(file)
            _sync(folder)
    finally:
        draft.unlink(missing_ok=True)
    log.info("month_archived", partition=name, events=count, file=file.name, dropped=drop)
    return Left(month, name, file, count)


def _write(services: Services, month: datetime, draft: Path) -> int:
    count = 0
    # Tokens hold personal data.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (
        os.fdopen(descriptor, "wb") as raw,
        gzip.open(raw, "wt", encoding="ascii", compresslevel=6) as out,
    ):
        with services.database.begin() as connection, closing(evidence.export(connection, month)) as tokens:
            for kept in tokens:
                if (
                    kept.token_digest is not None
                    and sha256(kept.token.encode()).digest() != kept.token_digest
                ):
                    raise NotArchived(
                        f"the token of event {kept.event_id} is not the one its digest was taken of: "
                        "somebody changed it, and the month is kept as it is"
                    )
                line = {
                    "instance_id": str(kept.instance_id),
                    "event_id": str(kept.event_id),
                    "received_at": kept.received_at.isoformat(),
                    "token": kept.token,
                }
                out.write(json.dumps(line) + "\n")
                count += 1
        out.flush()
    with draft.open("rb") as made:
        os.fsync(made.fileno())
    return count


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(file: Path) -> Iterator[KeptToken]:
    """The tokens of an archive. Raises ConfigurationError for what is none."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            for line in lines:
                held = json.loads(line)
                yield KeptToken(
                    UUID(held["instance_id"]),
                    UUID(held["event_id"]),
                    datetime.fromisoformat(held["received_at"]),
                    held["token"],
                    None,
                )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as why:
        raise ConfigurationError(f"{file} is no whole archive of ours: {type(why).__name__}") from why


def restore(services: Services, file: Path) -> tuple[int, int]:
    """Put the tokens of an archive back, so that their events can be replayed. Returns how many, of how many.

    Those of erased events, those that are there, and those whose digest differs are passed over.
    """
    restored = total = 0
    tokens = read(file)
    while batch := list(islice(tokens, BATCH)):
        with services.database.begin() as connection:
            restored += evidence.restore(connection, batch)
        total += len(batch)
    log.info("archive_restored", file=file.name, events=restored)
    return restored, total
