"""How often something may be tried from one place: counted in Redis, by each process for itself while that is away."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import structlog
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from processor.wix.rate import ANSWER_SECONDS

log = structlog.get_logger(__name__)


def place_of(address: str | None) -> str:
    """Where a request comes from, to count by: its address, of IPv6 the network, since one has as many as one likes."""
    try:
        known = ip_address(address or "")
    except ValueError:
        return address or ""
    if known.version == 6 and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    return str(ip_network((known, 64), strict=False)) if known.version == 6 else str(known)


class Throttle:
    """redis_url: None to count in this process alone."""

    def __init__(self, redis_url: str | None) -> None:
        self._here = MovingWindowRateLimiter(MemoryStorage())
        self._shared = None
        if redis_url:
            # The library has its own word for sockets.
            url = redis_url.replace("unix://", "redis+unix://", 1)
            storage = RedisStorage(
                url,
                wrap_exceptions=True,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
            )
            self._shared = MovingWindowRateLimiter(storage)

    def may(self, limit: str, *key: str) -> bool:
        """Whether `key` may once more, and count it if so. limit: such as "10 per 15 minutes"."""
        return self._ask("hit", limit, key)

    def has_left(self, limit: str, *key: str) -> bool:
        """Whether `key` may once more; nothing is counted."""
        return self._ask("test", limit, key)

    def _ask(self, what: str, limit: str, key: tuple[str, ...]) -> bool:
        item: RateLimitItem = parse(limit)
        if self._shared is not None:
            try:
                return bool(getattr(self._shared, what)(item, *key))
            except StorageError as why:
                log.warning("throttle_local", error=type(why.__cause__ or why).__name__)
        return bool(getattr(self._here, what)(item, *key))
