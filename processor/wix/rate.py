"""How often Wix may be called for one app instance, shared by every thread and process.

Wix allows 200 calls a minute for each app instance (Wix docs, "Rate Limits"). The limit must hold for any
minute, wherever it begins, and whether Redis is there, restarted, emptied, or seen by some processes only. So
it is split into parts that never borrow from each other:

- one token bucket for each instance in Redis, of a tenth of the limit, filled by three quarters a minute;
- a small bucket in each process, which counts only while Redis does not answer: of what is left over, its
  share for `processes` processes.

Every bucket begins empty: the one in Redis, also after the server restarted or was emptied, since what was taken
before is forgotten with it; and that of a process, so that many short-lived ones do not begin with a call each. Tokens
are promised AHEAD_SHARE of a minute ahead at most. So many an emptied Redis may forget, and the parts of the processes
that see Redis are spare for them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from processor.errors import WixUnavailable

log = structlog.get_logger(__name__)

MINUTE = 60.0
BURST_SHARE, REFILL_SHARE, LOCAL_SHARE = 0.10, 0.75, 0.15
HOLD_SECONDS_MAX = 600.0  # longest Retry-After that is believed
AHEAD_SHARE = (
    0.05  # 3 s: how far ahead of time a token is promised; who needs it later asks again nearer to it
)
ANSWER_SECONDS = 0.2  # for Redis; beyond, the process counts for itself
AWAY_SECONDS = 1.0  # how long Redis is not asked again after it failed
FORGET_MS = 86_400_000  # a bucket nobody used for a day

# Takes one token and returns the seconds until it may be used; if that is more than ARGV[3], takes nothing. A
# token taken ahead of time leaves less than nothing, so whoever comes next waits longer. Beyond AHEAD_SHARE those who
# wait ask again, and no order is kept among them.
_TAKE = """
local burst, rate, patience, hold = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'run', 'hold')
local tokens, at = tonumber(held[1]), tonumber(held[2])
-- Ahead of now is a hold, or a clock that was set back.
if at ~= nil and at > now and held[4] ~= held[2] then at = now end
if tokens == nil or at == nil or held[3] ~= run or at - now > tonumber(ARGV[5]) then tokens, at = 0, now end
if at < now then tokens, at = math.min(burst, tokens + (now - at) * rate), now end
local wait = 0
if hold > 0 then
    if now + hold > at then tokens, at = math.min(tokens, 0), now + hold end
else
    wait = math.max(0, at - now + (1 - tokens) / rate)
    if tokens >= 1 and at <= now then wait = 0 end
    if wait <= patience then tokens = tokens - 1 end
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens), 'at', string.format('%.6f', at), 'run', run)
if hold > 0 and at > now then redis.call('HSET', KEYS[1], 'hold', string.format('%.6f', at)) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return string.format('%.6f', wait)
"""
_TAKE_SHA = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()


def open_rate_redis(url: str | None) -> Redis | None:
    """A Redis that answers at once or is taken for away. None when none is configured."""
    if url is None:
        return None
    return Redis.from_url(
        url,
        socket_connect_timeout=ANSWER_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


@dataclass(slots=True)
class _Bucket:
    """A token bucket in this process: see _TAKE, which says the same in Redis' language."""

    burst: float
    rate: float
    tokens: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def take(self, now: float, patience: float) -> float:
        """Seconds until the token may be used; nothing was taken when they are more than `patience`."""
        self._refill(now)
        if self.rate <= 0:
            return MINUTE
        wait = (
            0.0
            if self.tokens >= 1 and self.at <= now
            else max(0.0, self.at - now + (1 - self.tokens) / self.rate)
        )
        if wait <= patience:
            self.tokens -= 1
        return wait

    def hold(self, now: float, seconds: float) -> None:
        """Give no token for so long."""
        self._refill(now)
        if now + seconds > self.at:
            self.tokens, self.at = min(self.tokens, 0.0), now + seconds

    def _refill(self, now: float) -> None:
        if self.at < now:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
            self.at = now


class RateLimit:
    """The budget of calls. One for each process; threads share it.

    calls_per_minute: what Wix allows each app instance. processes: how many processes at most call Wix while
    Redis is away. period_seconds: what is taken for a minute.
    """

    def __init__(
        self, redis: Redis | None, *, calls_per_minute: int, processes: int, period_seconds: float = MINUTE
    ) -> None:
        self._redis = redis
        self._ahead = period_seconds * AHEAD_SHARE
        self._burst = max(1.0, calls_per_minute * BURST_SHARE)
        self._rate = max(0.1, calls_per_minute * REFILL_SHARE) / period_seconds
        # A bucket of one token lets through one more than it is filled by.
        local = max(0.0, calls_per_minute * LOCAL_SHARE / processes - 1)
        self._local_rate = local / period_seconds
        self._lock = threading.Lock()
        self._buckets: dict[UUID, _Bucket] = {}
        self._away_until = 0.0
        self._is_away = False
        self._share = round(local, 1)

    def take(self, instance_id: UUID, *, pause: Callable[[float], bool], patience: float) -> float:
        """Wait until one call may be made, at most `patience` seconds. Returns the seconds waited.

        pause: waits, and is False when it was cut short. Raises WixUnavailable.
        """
        waited = 0.0
        while True:
            left = max(0.0, patience - waited)
            promised = min(left, self._ahead)
            wait = self._ask(instance_id, patience=promised, hold=0.0)
            if wait > left:
                raise WixUnavailable(
                    "the budget of calls to Wix for this app instance is spent for now",
                    retry_after_seconds=wait,
                    is_unsent=True,
                )
            is_taken = wait <= promised
            pause_for = wait if is_taken else wait - self._ahead / 2
            if pause_for > 0 and not pause(pause_for):
                raise WixUnavailable("the client is closed", is_unsent=True)
            waited += pause_for
            if is_taken:
                return waited

    def hold(self, instance_id: UUID, seconds: float) -> None:
        """Wix asked to wait: no process calls it for this instance so long."""
        self._ask(instance_id, patience=0.0, hold=min(seconds, HOLD_SECONDS_MAX))

    def _ask(self, instance_id: UUID, *, patience: float, hold: float) -> float:
        shared = self._ask_redis(instance_id, patience, hold)
        if shared is not None and not hold:
            return shared
        now = time.monotonic()
        with self._lock:
            bucket = self._buckets.get(instance_id)
            if bucket is None:
                bucket = self._buckets[instance_id] = _Bucket(1.0, self._local_rate)
            if hold:
                bucket.hold(now, hold)
                return 0.0
            return bucket.take(now, patience)

    def _ask_redis(self, instance_id: UUID, patience: float, hold: float) -> float | None:
        """The answer of the shared bucket, None when Redis does not give one."""
        if self._redis is None or time.monotonic() < self._away_until:
            return None
        key = f"wix-calls:{{{instance_id}}}"
        arguments = (self._burst, self._rate, patience, hold, HOLD_SECONDS_MAX, FORGET_MS)
        try:
            try:
                answer = self._redis.evalsha(_TAKE_SHA, 1, key, *arguments)
            except NoScriptError:
                answer = self._redis.eval(_TAKE, 1, key, *arguments)
        except RedisError as why:
            # Whoever else finds it away loses as little time; nothing is lost but a token it may have given.
            self._away_until = time.monotonic() + AWAY_SECONDS
            if not self._is_away:
                self._is_away = True
                log.warning("budget_split", why=type(why).__name__, calls_per_minute=self._share)
            return None
        if self._is_away:
            self._is_away = False
            log.info("budget_shared")
        return float(answer)


@dataclass(frozen=True, slots=True)
class Gate:
    """The budget as one call sees it. rate: None when nothing limits it."""

    rate: RateLimit | None
    instance_id: UUID
    pause: Callable[[float], bool]

    def admit(self, patience: float) -> float:
        """Wait for leave to call. Returns the seconds waited. Raises WixUnavailable."""
        if self.rate is None:
            return 0.0
        return self.rate.take(self.instance_id, pause=self.pause, patience=patience)

    def hold(self, seconds: float) -> None:
        """Pass on what Wix asked for."""
        if self.rate is not None:
            self.rate.hold(self.instance_id, seconds)
