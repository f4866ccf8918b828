"""One exchange with Wix: a request, a bounded answer, and the errors sorted by what the caller does next.

Retries are here, too: only for what may be repeated, three tries at most, with backoff and jitter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import stamina

from processor import __version__
from processor.errors import (
    FieldViolation,
    WixError,
    WixNotFound,
    WixRefused,
    WixUnauthorized,
    WixUnavailable,
)
from processor.wix.wire import NotJson, decode_json

OnResponse = Callable[[str, int | None], None]
"""Told once for every exchange: the operation, and Wix's status, None when no whole answer came."""

ANSWER_BYTES_MAX = 32 * 1024 * 1024  # 100 payments are some 200 kB
TRIES_MAX = 3
# A longer wait is not spent in a job: the caller puts the work off instead.
RETRY_AFTER_SECONDS_MAX = 5.0
_RETRYING = stamina.RetryingCaller(
    attempts=TRIES_MAX, timeout=None, wait_initial=0.1, wait_max=2, wait_jitter=0.5
)
TEXT_MAX = 200  # of anything Wix says that ends in a message


@dataclass(frozen=True, slots=True)
class Answer:
    """What Wix answered. body: decoded JSON, None for an empty or unreadable one."""

    status: int
    headers: httpx2.Headers
    body: Any
    is_json: bool


class NoAnswer(WixUnavailable):
    """No whole answer came. was_sent: whether Wix may have received the request."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class Transport:
    """HTTP to one base URL, shared by threads. A forked child makes its own connections."""

    def __init__(self, *, base_url: str, timeout_seconds: float, on_response: OnResponse) -> None:
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._on_response = on_response
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._pid = -1

    def exchange(
        self, operation: str, method: str, path: str, *, headers: Mapping[str, str], body: Any = None
    ) -> Answer:
        """One request and its whole answer. Raises NoAnswer.

        Every wait for the network is at most `timeout_seconds`, and so is all of them together, give or
        take the last.
        """
        deadline = time.monotonic() + self._timeout_seconds
        status: int | None = None
        try:
            answer = self._exchange(operation, method, path, headers, body, deadline)
            status = answer.status
            return answer
        finally:
            self._on_response(operation, status)

    def _exchange(
        self, operation: str, method: str, path: str, headers: Mapping[str, str], body: Any, deadline: float
    ) -> Answer:
        limits = httpx2.Timeout(self._timeout_seconds)
        try:
            with self._http().stream(
                method,
                path,
                headers=dict(headers),
                json=body,
                timeout=limits,
            ) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise NoAnswer(f"{operation}: Wix's answer is too large", was_sent=True)
                    # The library's timeout is for each read; a dripping answer would never end.
                    if time.monotonic() > deadline:
                        raise NoAnswer(f"{operation}: Wix answered too slowly", was_sent=True)
                status, answer_headers = response.status_code, response.headers
        except httpx2.TransportError as why:
            never_sent = isinstance(why, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            # The library's exception holds the request, and that our token.
            raise NoAnswer(
                f"{operation}: no answer from Wix ({type(why).__name__})", was_sent=not never_sent
            ) from None
        except httpx2.DecodingError:
            raise NoAnswer(f"{operation}: Wix's answer cannot be decompressed", was_sent=True) from None
        try:
            return Answer(status, answer_headers, decode_json(bytes(content)), is_json=True)
        except NotJson:
            return Answer(status, answer_headers, None, is_json=False)

    def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: Any = None,
        is_repeatable: bool,
    ) -> Any:
        """The JSON of a 200 answer, tried again where that is harmless.

        is_repeatable: whether a request that Wix may have received may be sent again. Raises WixError.
        """

        def ask() -> Any:
            answer = self.exchange(operation, method, path, headers=headers, body=body)
            if answer.status == 200 and answer.is_json:
                return answer.body
            raise failure(operation, answer)

        def worth_repeating(why: Exception) -> bool | float:
            if self._closed.is_set() or not isinstance(why, WixUnavailable):
                return False
            if not (is_repeatable or (isinstance(why, NoAnswer) and not why.was_sent)):
                return False
            if why.retry_after_seconds is None:
                return why.status != 504  # then the caller asks for less
            return why.retry_after_seconds if why.retry_after_seconds <= RETRY_AFTER_SECONDS_MAX else False

        return _RETRYING.on(worth_repeating)(ask)

    def close(self) -> None:
        """Give the connections back; nothing is tried again from now on."""
        self._closed.set()
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None

    def _http(self) -> httpx2.Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._client = httpx2.Client(
                    base_url=self._base_url,
                    follow_redirects=False,
                    headers={
                        "User-Agent": f"payment-link-processor/{__version__}",
                        "Accept": "application/json",
                    },
                )
            return self._client


_KINDS: dict[int, type[WixError]] = {401: WixUnauthorized, 403: WixUnauthorized, 404: WixNotFound}


def failure(operation: str, answer: Answer) -> WixError:
    """The error for an answer that is not a readable 200 (Wix docs, "Errors": the SDK accepts only 200)."""
    code, violations = _details(answer.body)
    request_id = _short(answer.headers.get("x-wix-request-id"))
    said = f"{operation}: Wix answered {answer.status}"
    if code:
        said += f" {code}"
    if violations:
        said += f" ({'; '.join(f'{one.field}: {one.violated_rule}' for one in violations[:3])})"
    if request_id:
        said += f" [request {request_id}]"
    if answer.status == 429 or answer.status >= 500:
        return WixUnavailable(
            said,
            status=answer.status,
            code=code,
            request_id=request_id,
            retry_after_seconds=_retry_after(answer.headers.get("retry-after")),
        )
    if 400 <= answer.status < 500:
        kind: type[WixError] = _KINDS.get(answer.status, WixRefused)
        return kind(said, status=answer.status, code=code, violations=violations, request_id=request_id)
    if answer.status == 200:
        return WixUnavailable(f"{operation}: Wix's answer is not JSON", status=200, request_id=request_id)
    return WixUnavailable(f"{said}, which is neither an answer nor an error", status=answer.status)


def _details(body: Any) -> tuple[str | None, tuple[FieldViolation, ...]]:
    """Wix's application error code and field violations, from a body that may be anything."""
    details = _dict(_dict(body).get("details"))
    code = _short(_dict(details.get("applicationError")).get("code"))
    if code is None:
        code = _short(_dict(body).get("error"))  # OAuth's form
    listed = _dict(details.get("validationError")).get("fieldViolations")
    violations = tuple(
        FieldViolation(
            field=_short(one.get("field")) or "",
            description=_short(one.get("description")) or "",
            violated_rule=_short(one.get("violatedRule")) or "",
        )
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict)
    )
    return code, violations


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str | None:
    return value[:TEXT_MAX] if isinstance(value, str) and value else None


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, in either of its forms (RFC 9110, 10.2.3); None when unreadable."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
