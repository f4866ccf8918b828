"""The parts of one process, built once, by plain construction."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from processor.config import Settings
from processor.errors import ConfigurationError
from processor.queue import JobQueue, open_queue
from processor.store.database import Database, open_database
from processor.wix.client import WAIT_SECONDS_MAX, WixClient
from processor.wix.credentials import ApiKeyCredentials, Credentials, OAuthCredentials
from processor.wix.rate import RateLimit, open_rate_redis
from processor.wix.signature import BadKey, parse_key

# A job puts work off rather than wait; a person would only have to ask again, but not stare at a page for a minute.
_PATIENCE = {"cli": 60.0, "pages": 10.0}
PAGES_POOL_SIZE = 6


def utc_now() -> datetime:
    """The present moment, aware and in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """What edges need. wix_responses: answers of Wix by status since the process began ("none": no answer)."""

    settings: Settings
    database: Database
    queue: JobQueue
    now: Callable[[], datetime]
    wix_responses: Counter[str]
    _wix: WixClient | None

    @property
    def wix(self) -> WixClient:
        """The client of the Wix API. Raises ConfigurationError when no credentials are set."""
        if self._wix is None:
            raise ConfigurationError(
                "no credentials for Wix: set WIX_APP_ID and WIX_APP_SECRET,"
                " or WIX_API_KEY with WIX_SITE_ID and WIX_INSTANCE_ID"
            )
        return self._wix

    def close(self) -> None:
        """Give back every connection."""
        if self._wix is not None:
            self._wix.close()
        self.database.dispose()


def public_keys(settings: Settings) -> tuple[RSAPublicKey, ...]:
    """The app's public keys, parsed. Raises ConfigurationError naming the first that is unusable."""
    settings.require("public_keys")
    keys: list[RSAPublicKey] = []
    for number, text in enumerate(settings.public_keys or (), start=1):
        try:
            keys.append(parse_key(text))
        except BadKey as why:
            raise ConfigurationError(f"WIX_PUBLIC_KEYS: key {number} is {why}") from why
    return tuple(keys)


def build(settings: Settings, *, role: str, now: Callable[[], datetime] = utc_now) -> Services:
    """Services for one process. role: "web", "pages", "worker", "clock" or "cli".

    "pages" are those of the pages within a web process: their statements may take longer than a webhook waits.

    Nothing is connected yet, so a process may fork afterwards. Raises ConfigurationError.
    """
    settings.require("database_url")
    is_web = role == "web"
    database = open_database(
        str(settings.database_url),
        name=f"processor-{role}",
        pool_size=settings.pool_size if is_web else PAGES_POOL_SIZE if role == "pages" else 2,
        # A request waits for a connection, then for its one statement; together within the answer time.
        pool_seconds=settings.answer_seconds * 0.4 if is_web else 10,
        statement_seconds=settings.answer_seconds * 0.6 if is_web else 15 if role == "pages" else 60,
    )
    responses: Counter[str] = Counter()
    return Services(
        settings=settings,
        database=database,
        queue=open_queue(settings.redis_url),
        now=now,
        wix_responses=responses,
        _wix=_wix_client(settings, responses, _PATIENCE.get(role, WAIT_SECONDS_MAX)),
    )


def _wix_client(settings: Settings, responses: Counter[str], wait_seconds_max: float) -> WixClient | None:
    if not settings.has_wix_credentials:
        return None

    def count(operation: str, status: int | None) -> None:
        responses[str(status) if status is not None else "none"] += 1

    credentials: Credentials
    if settings.api_key:
        assert settings.site_id is not None
        assert settings.instance_id is not None
        credentials = ApiKeyCredentials(
            api_key=settings.api_key, site_id=settings.site_id, instance_id=settings.instance_id
        )
    else:
        assert settings.app_id is not None
        assert settings.app_secret is not None
        credentials = OAuthCredentials(
            app_id=settings.app_id,
            app_secret=settings.app_secret,
            base_url=settings.wix_url,
            timeout_seconds=settings.wix_timeout_seconds,
            on_response=count,
        )
    return WixClient(
        base_url=settings.wix_url,
        credentials=credentials,
        timeout_seconds=settings.wix_timeout_seconds,
        on_response=count,
        wait_seconds_max=wait_seconds_max,
        rate=RateLimit(
            open_rate_redis(settings.redis_url),
            calls_per_minute=settings.wix_calls_per_minute,
            processes=settings.wix_processes,
        ),
    )


_built: dict[tuple[int, str], Services] = {}


def from_environ(role: str, environ: Mapping[str, str] | None = None) -> Services:
    """The Services of this process, built at the first call. Raises ConfigurationError.

    A forked child builds its own: connections must not be shared over a fork.
    """
    key = (os.getpid(), role)
    if key not in _built:
        _built[key] = build(Settings.read(os.environ if environ is None else environ), role=role)
    return _built[key]
