"""What checks and sweeps share: what a run says of itself, when it is tried again, how it holds on to its work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from processor.errors import WixUnavailable
from processor.store import checks, runs
from processor.wiring import Services
from processor.wix.parse import guid

# Only against an answer without an end: no link has ten million payments.
PAYMENT_PAGES_MAX = 100_000
OPERATOR_SECONDS = 600.0


def wait_after(why: Exception, services: Services, failures: int, *, is_confirmed: bool = True) -> float:
    """Seconds until work that could not ask Wix is tried again. failures: how often in a row before this."""
    gaps = services.settings.recheck_seconds
    ladder = gaps[min(failures, len(gaps) - 1)]
    if isinstance(why, WixUnavailable):
        return max(why.retry_after_seconds or 0.0, min(ladder, OPERATOR_SECONDS))
    # Credentials, permission, a removed app or a refused request: an operator must act first.
    if is_confirmed:
        return OPERATOR_SECONDS
    # Likely a test sent from the dashboard. A further event of the instance asks at once.
    return max(OPERATOR_SECONDS, ladder)


@dataclass(slots=True)
class Account:
    """What a run will say of itself. failed: why it failed, None while it has not. conclusion: once it has decided."""

    run_id: UUID
    counts: runs.Counts
    before: Counter[str]
    services: Services
    failed: str | None = None
    conclusion: runs.Conclusion | None = None
    is_closed: bool = False

    def spent(self) -> dict[str, int]:
        """Answers of Wix so far, by status."""
        spent = Counter(self.services.wix_responses)
        spent.subtract(self.before)
        return {status: number for status, number in spent.items() if number > 0}

    def close(self, connection: Connection, now: datetime) -> None:
        """Write the run's end, in the transaction that writes its findings."""
        runs.finish(
            *(connection, self.run_id, self.counts, self.spent(), now),
            failed=self.failed,
            conclusion=self.conclusion,
        )
        self.is_closed = True


@contextmanager
def accounted(services: Services, run_id: UUID) -> Iterator[Account]:
    """An account that is closed even when the work raises; its lease then simply runs out."""
    account = Account(run_id, runs.Counts(), Counter(services.wix_responses), services)
    try:
        yield account
    except BaseException as why:  # a worker told to stop at once among them; it is told of and goes on
        account.failed = account.failed or type(why).__name__
        raise
    finally:
        if not account.is_closed:
            account.counts, account.conclusion = runs.Counts(), None
            with services.database.begin() as connection:
                account.close(connection, services.now())


class Beat:
    """Holds on to claims while what Wix says is read: at Wix's pace many pages outlast a lease."""

    def __init__(self, services: Services, instance_id: UUID, lease: checks.Lease, run_id: UUID) -> None:
        self._services = services
        self._instance_id = instance_id
        self._lease = lease
        self._run_id = run_id
        self._seconds = services.settings.lease_seconds
        self._seconds_between = self._seconds / 4
        self._last = time.monotonic()

    def __call__(self) -> None:
        """One more step was made. Raises TakenOver when there is nothing left to work for."""
        if time.monotonic() - self._last < self._seconds_between:
            return
        self._last = time.monotonic()
        now = self._services.now()
        until = now + timedelta(seconds=self._seconds)
        with self._services.database.begin() as connection:
            if not checks.extend(connection, self._instance_id, self._lease, until):
                raise TakenOver
            runs.beat(connection, self._run_id, now)


class TakenOver(Exception):
    """Other workers have every claim of ours by now."""


def guid_of(entity: Any, name: str) -> UUID | None:
    """The id of that name in what Wix lists, None when there is none that can be read."""
    value = entity.get(name) if isinstance(entity, dict) else None
    return guid(value) if isinstance(value, str) else None
