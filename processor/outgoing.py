"""HTTP calls to others, which end: one deadline for each exchange, nothing followed and nothing kept.

Wix is called so, and so is whoever is told of alerts. `LOCAL` is for our own servers on this machine.
"""

from __future__ import annotations

import functools
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from processor.errors import ConfigurationError

TEXT_MAX = 500
# What httpx is to be told when it speaks plain HTTP to this machine: no proxy, and no authorities. Reading them takes
# 20 ms for each client, which the server that is waited for could use.
LOCAL: Mapping[str, Any] = {"trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
# When this thread's exchange must be over (`deadline`, monotonic); no attribute outside of one.
_current = threading.local()


def seconds_left(timeout: float | None) -> float | None:
    """At most `timeout`, and not beyond the deadline. Raises TimeoutError when that has passed."""
    deadline: float | None = getattr(_current, "deadline", None)
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(timeout, left)


class _BoundedStream:
    """A connection whose every wait ends at the deadline.

    The library's timeout is for each read alone: a server that sends a byte now and then, even of its
    headers, would never let go of us.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._stream.read(max_bytes, timeout=seconds_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=seconds_left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _BoundedStream:
        return _BoundedStream(
            self._stream.start_tls(ssl_context, server_hostname, timeout=seconds_left(timeout))
        )

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _BoundedBackend:
    """Opens connections that keep the deadline."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> _BoundedStream:
        return _BoundedStream(self._backend.connect_tcp(host, port, timeout=seconds_left(timeout), **more))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Every wait of this thread over a client of `new_client` ends by then, with TimeoutError."""
    _current.deadline = time.monotonic() + seconds
    try:
        yield
    finally:
        del _current.deadline


@functools.cache
def _tls() -> ssl.SSLContext:
    """The authorities we trust, read once: it takes some 20 ms."""
    return httpx2.create_ssl_context()


def new_client(base_url: str, timeout_seconds: float) -> httpx2.Client:
    """A client that sends what it is given: no redirects, cookies or authentication of its own.

    It honours HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE, since a self-hoster may be behind a proxy; it never
    reads ~/.netrc, which could replace our token. Raises ConfigurationError.
    """
    parts = urlsplit(base_url)
    proxies = {} if proxy_bypass(parts.hostname or "") else getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    try:
        transport = httpx2.HTTPTransport(
            verify=_tls(), proxy=(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        )
    except (ImportError, ValueError, httpx2.InvalidURL):
        # Its URL may hold a password.
        raise ConfigurationError(
            f"the proxy set for {parts.scheme} in the environment cannot be used"
        ) from None
    # The library takes a backend in its lower layer only. Should this name go, the first call fails.
    pool: Any = transport._pool
    pool._network_backend = _BoundedBackend(pool._network_backend)
    return httpx2.Client(
        base_url=base_url,
        transport=transport,
        timeout=timeout_seconds,
        follow_redirects=False,
        # Of gzip we know how to bound what comes out.
        headers={
            "User-Agent": "payment-link-processor",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        },
        # One instance's cookie is not for the next.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


def retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds from a Retry-After header, in either of its forms (RFC 9110, 10.2.3); None when unreadable."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def printable(text: str) -> str:
    """At most TEXT_MAX letters of what a stranger says, nothing among them that could break a line."""
    return "".join(one if one.isprintable() else " " for one in text[:TEXT_MAX])


def is_local_ready(url: str) -> bool:
    """Whether a server on this machine answers 200 there."""
    try:
        return httpx2.get(url, timeout=5, **LOCAL).status_code == 200
    except httpx2.TransportError:
        return False
