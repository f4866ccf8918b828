"""What every screen has: services, the clock that prints times, transactions that only read, and answers for htmx."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, RLock
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from flask import Response, redirect, render_template, request, session
from sqlalchemy import Connection, text
from werkzeug.wrappers import Response as AnyResponse

from processor.errors import (
    ConfigurationError,
    CreationConflict,
    CreationUnclear,
    NotAllowed,
    ProcessorError,
    WixError,
    WixNotFound,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.web.pages.access import Guard, account
from processor.web.pages.formats import Clock
from processor.web.pages.throttle import Throttle
from processor.wiring import Services

# They travel in the session's cookie, which browsers drop beyond 4 KB: with it, the session.
NOTES_BYTES_MAX = 1_500
# One in so many of Wix's calls of a minute may be taken to show something; of these one in OWN_PART for one person.
DISPLAY_PART = 4
OWN_PART = 2
CROWDED = "Wix was asked so often for these pages that it is not asked again for up to a minute."
# Nothing inline and nothing of others. img: QR codes are drawn into pages as data.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


# Of a process, together: reports, exports and sums of all payments. Each holds one of the pages' six connections for as
# long as it takes. The others are left to pages that take a moment.
LONG_READS = 4


# Files that are sent at the same time hold a part of the pages' rooms, for as long as their readers take: one in so
# many of the threads, half of which are rooms of pages. The others are left to pages.
FILE_PART = 8
RETRY_SECONDS = 60  # when to ask again for what others stand in the way of


class Busy(Exception):
    """As much as may be is being read or written for others."""


class Places:
    """Places of files that are sent at the same time, half of them at most for one account.

    A reader may stop reading and stay, as a laptop that sleeps does: it stands in nobody else's way.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._own = max(1, number // 2)
        self._held: Counter[UUID] = Counter()
        # An answer nobody holds any more may be collected, and leave its place, in the middle of `take`.
        self._lock = RLock()

    def take(self, account_id: UUID) -> Place:
        """Take one for an account. Raises Busy when there is none for it."""
        with self._lock:
            if not self._free or self._held[account_id] >= self._own:
                raise Busy
            self._free -= 1
            self._held[account_id] += 1
        return Place(self, account_id)

    def give_back(self, account_id: UUID) -> None:
        """Free one that the account took."""
        with self._lock:
            self._free += 1
            self._held[account_id] -= 1
            if not self._held[account_id]:
                del self._held[account_id]


class Place:
    """One of the places of files that are sent, to be left once, however that ends."""

    def __init__(self, places: Places, account_id: UUID) -> None:
        self._places: Places | None = places
        self._account_id = account_id

    def leave(self) -> None:
        """Give it back; does nothing the second time."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back(self._account_id)


@dataclass(frozen=True, slots=True)
class Site:
    """The parts that screens are built with. files: places of files, see `file_place`."""

    services: Services
    guard: Guard
    clock: Clock
    throttle: Throttle
    _long: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(LONG_READS))
    files: Places = field(default_factory=lambda: Places(1))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing and sees the books as of one moment. Raises StoreUnavailable."""
        with self.services.database.begin() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield connection

    @contextmanager
    def long_read(self, places: BoundedSemaphore, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold one of `places`, and one of the LONG_READS, while something is read that takes its time.

        wait_seconds: for each of the two. Raises Busy when there is none.
        """
        with ExitStack() as held:
            for one in (places, self._long):
                if not one.acquire(timeout=wait_seconds):
                    raise Busy
                held.callback(one.release)
            yield

    @contextmanager
    def file_place(self) -> Iterator[Place]:
        """A place for a file from before it is written until its reader has it; left by the block only when that fails.

        Raises Busy when there is none: slow readers of files hold threads, and pages need some, too.
        """
        place = self.files.take(account().account_id)
        try:
            yield place
        except BaseException:
            place.leave()
            raise

    def has_budget(self, what: str, part: int, instance_id: UUID, *more: str) -> bool:
        """Whether one more of Wix's calls may be taken, and count it if so.

        For `what`, and `more` if it is told apart, one in `part` of those of the instance and a minute may: the rest is
        left to the checks of the books.
        """
        share = max(1, self.services.settings.wix_calls_per_minute // part)
        return self.throttle.may(f"{share} per 1 minute", what, "budget", str(instance_id), *more)

    def may_display(self, instance_id: UUID) -> bool:
        """Whether Wix may be called once more to show who is signed in something; else say CROWDED."""
        # First the own share: who has spent it takes nothing from the others.
        own = str(account().account_id)
        return self.has_budget("display", DISPLAY_PART * OWN_PART, instance_id, own) and self.has_budget(
            "display", DISPLAY_PART, instance_id
        )


def is_part() -> bool:
    """Whether htmx asks for a part of a page."""
    return bool(request.headers.get("HX-Request"))


def told(words: str, *, is_bad: bool = False) -> None:
    """Say something on the next page that is shown. What is long is cut; of several the newest are kept."""
    while len(json.dumps(words)) > NOTES_BYTES_MAX - 100:
        words = words[: len(words) * 3 // 4] + "…"
    kept = [*session.get("notes", []), ["bad" if is_bad else "good", words]]
    while len(json.dumps(kept)) > NOTES_BYTES_MAX:
        del kept[0]
    session["notes"] = kept


def notes() -> list[tuple[str, str]]:
    """What was `told` since the last page: ("good" or "bad", words)."""
    return [(kind, words) for kind, words in session.pop("notes", [])]


def busy(back: str, words: str) -> tuple[str, int, dict[str, str]]:
    """The answer 503 to who asked for a file while others stand in the way: what to do, and where to go back to."""
    page = render_template("error.html", status=503, title="Not just now", words=words, back=back)
    return page, 503, {"Retry-After": str(RETRY_SECONDS)}


def done(where: str, words: str) -> AnyResponse:
    """After a POST: go to `where`, and say what was done. A reload does nothing twice."""
    told(words)
    return redirect(where, 303)


def refused(where: str, why: ProcessorError | str) -> AnyResponse:
    """After a POST that did nothing: go to `where`, and say why."""
    told(why if isinstance(why, str) else in_words(why), is_bad=True)
    return redirect(where, 303)


def in_words(why: ProcessorError) -> str:
    """An error for who asked: what happened, and what to do."""
    text = str(why)
    text = text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
    match why:
        case NotAllowed() | CreationConflict() | CreationUnclear():
            return text
        case WixNotFound():
            return f"Wix does not know it (any more). {text}"
        case WixRefused():
            return f"Wix refused it. {text}"
        case WixUnauthorized():
            return (
                f"Wix does not let us: an operator must look at the app's credentials and permissions. {text}"
            )
        case WixUnavailable():
            return f"Wix did not answer, so it may or may not be done. Try again in a minute. {text}"
        case WixError() | ConfigurationError():
            return text
    return text


def status_of(why: ProcessorError) -> int:
    """The HTTP status of an answer that shows this error."""
    match why:
        case NotAllowed() | CreationConflict():
            return 409
        case WixNotFound():
            return 404
        case WixRefused():
            return 422
        case CreationUnclear() | WixError():
            return 503
    return 500


def address(path: str, query: Mapping[str, Any]) -> str:
    """`path` with those of `query` that say something."""
    told_ = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(told_)}" if told_ else path


def no_store(response: Response) -> Response:
    """Keep an answer out of every cache."""
    response.headers["Cache-Control"] = "no-store"
    return response
