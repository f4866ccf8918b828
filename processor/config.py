"""Every setting, declared once: its variable, meaning, default and parser.

Read from any mapping, all faults named at once; secrets are hidden when printed. `processor settings`
prints the table below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from processor.errors import ConfigurationError

WIX_API = "https://www.wixapis.com"
RESEND_HORIZON_SECONDS = 47 * 3600 + 11 * 60
"""How long Wix resends one webhook: twelve retries over 47 h 11 min (Wix docs, Webhook Resend Policy)."""

_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


def database_url(text: str) -> str:
    """A PostgreSQL URL as SQLAlchemy takes it. `postgres://`, as hosts give it, is accepted.

    Raises ValueError.
    """
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ValueError(
            "must begin with postgresql:// or postgres://: PostgreSQL is the only database engine"
        )
    try:
        urlsplit(text).port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    return f"postgresql+psycopg://{rest}"


def redis_url(text: str) -> str:
    """A redis-py URL. Raises ValueError."""
    if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        urlsplit(text).port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    return text


def web_url(text: str) -> str:
    """An http or https base URL without a trailing slash. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("must be a URL beginning with https:// or http://")
    return text.rstrip("/")


def public_keys(text: str) -> tuple[str, ...]:
    """The texts of one or more public keys: PEM blocks, or base64 of PEM, separated by spaces or commas.

    Raises ValueError. Whether each is a usable key is said by `wix.signature.parse_key`.
    """
    text = text.replace("\\n", "\n")
    # Both forms may stand side by side, as during a rotation.
    keys = (*_PEM.findall(text), *_PEM.sub(" ", text).replace(",", " ").split())
    if not keys:
        raise ValueError("holds no key: copy the public key from the app's Webhooks page")
    return keys


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:.10g} to {high:.10g}")
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"


def _gaps(text: str) -> tuple[float, ...]:
    gaps = tuple(_number(0.1, 604_800)(part) for part in text.split(","))
    if list(gaps) != sorted(gaps):
        raise ValueError("must grow from left to right")
    return gaps


def _guid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("must be a GUID such as 3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162") from None


def _time_zone(text: str) -> str:
    if text != "UTC":
        # Imported here: the names are read from the machine's files, and few processes need them. PostgreSQL would
        # take more, such as UTC+2, which it reads as two hours west.
        from zoneinfo import available_timezones

        if text not in available_timezones() or text in ("localtime", "Factory"):
            raise ValueError("must be the IANA name of a time zone, such as Europe/Berlin")
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting. default: as it would be written in the environment, None for none."""

    variable: str
    meaning: str
    parse: Callable[[str], Any]
    default: str | None
    is_secret: bool


def setting(
    variable: str,
    meaning: str,
    parse: Callable[[str], Any] = str,
    default: str | None = None,
    *,
    secret: bool = False,
) -> Any:
    """Declare one field of Settings."""
    declared = Setting(variable, meaning, parse, default, secret)
    value = MISSING if default is None else parse(default)
    return field(default=None if value is MISSING else value, repr=not secret, metadata={"setting": declared})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of one process. None: not set, and no default makes sense."""

    database_url: str | None = setting(
        "DATABASE_URL", "PostgreSQL 15 or later, the truth", database_url, secret=True
    )
    redis_url: str | None = setting(
        "REDIS_URL", "Redis or Valkey 6.2 or later for jobs; disposable", redis_url, secret=True
    )
    public_keys: tuple[str, ...] | None = setting(
        "WIX_PUBLIC_KEYS", "public key(s) of the Wix app, PEM or base64 of PEM", public_keys
    )
    app_id: str | None = setting("WIX_APP_ID", "id of the Wix app, for OAuth")
    app_secret: str | None = setting("WIX_APP_SECRET", "secret key of the Wix app, for OAuth", secret=True)
    api_key: str | None = setting("WIX_API_KEY", "API key of one site, instead of OAuth", secret=True)
    site_id: str | None = setting("WIX_SITE_ID", "site the API key is for")
    instance_id: UUID | None = setting("WIX_INSTANCE_ID", "app instance the API key speaks for", _guid)
    wix_url: str = setting("WIX_API_URL", "where the Wix API is", web_url, WIX_API)
    wix_timeout_seconds: float = setting(
        "WIX_TIMEOUT_SECONDS", "longest wait for one Wix answer", _number(0.1, 120), "10"
    )
    wix_calls_per_minute: int = setting(
        "WIX_CALLS_PER_MINUTE", "calls that Wix allows each app instance", _whole(1, 1_000_000), "200"
    )
    wix_processes: int = setting(
        "WIX_PROCESSES",
        "how many processes at most call Wix while Redis is away; they share the rest of the budget",
        _whole(1, 1_000),
        "4",
    )
    wix_in_max: int = setting(
        "WIX_IN_MAX",
        "how many values a filter's `$in` may hold; Wix does not say",
        _whole(1, 100),
        "100",
    )
    wix_link_fqdn: str | None = setting(
        "WIX_LINK_FQDN",
        "entity name of payment link events, once one was seen; by the end of their type without it",
    )
    body_bytes_max: int = setting(
        "BODY_BYTES_MAX", "largest webhook body; 413 above", _whole(1_024, 10_485_760), "262144"
    )
    expiry_grace_seconds: float = setting(
        "EXPIRY_GRACE_SECONDS",
        "how long after `exp` a webhook is still taken: Wix resends for 47 h 11 min",
        _number(0, 31_536_000),
        "172800",
    )
    answer_seconds: float = setting(
        "ANSWER_SECONDS",
        "longest wait for the database before a webhook is answered 503; Wix gives up at 1.25",
        _number(0.1, 1.2),
        "0.9",
    )
    wake_up_seconds: float = setting(
        "WAKE_UP_SECONDS", "at most one wake-up job per this time and web process", _number(0.05, 60), "0.2"
    )
    settling_seconds: float = setting(
        "SETTLING_SECONDS",
        "a difference younger than this is expected: Wix's queries lag behind its webhooks",
        _number(0, 86_400),
        "600",
    )
    recheck_seconds: tuple[float, ...] = setting(
        "RECHECK_SECONDS", "growing waits between checks of a link", _gaps, "5,30,120,600,3600,21600,86400"
    )
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        "after this time a check or sweep whose worker died is taken over",
        _number(1, 3_600),
        "120",
    )
    sweep_seconds: float = setting(
        "SWEEP_SECONDS", "time between polls of an instance for missed webhooks", _number(0.5, 604_800), "900"
    )
    sweep_overlap_seconds: float = setting(
        "SWEEP_OVERLAP_SECONDS",
        "how far each poll reaches back; longer than Wix resends",
        _number(60, 31_536_000),
        "180000",
    )
    backfill_days: int = setting(
        "BACKFILL_DAYS",
        "how far back the payments of a new installation are read; 0: only what is new",
        _whole(0, 3_650),
        "90",
    )
    tick_seconds: float = setting("TICK_SECONDS", "time between ticks of the clock", _number(0.05, 60), "1")
    host: str = setting("HOST", "address the web process listens on", str, "0.0.0.0")  # noqa: S104 (it is to be reached)
    port: int = setting("PORT", "port the web process listens on", _whole(1, 65_535), "8000")
    web_workers: int = setting("WEB_CONCURRENCY", "web processes", _whole(1, 64), "2")
    web_threads: int = setting("WEB_THREADS", "threads of each web process", _whole(1, 512), "32")
    idle_seconds: float = setting(
        "WEB_IDLE_SECONDS",
        "how long a connection may be idle, or take for the head of a request; longer than a proxy keeps it",
        _number(1, 60),
        "60",
    )
    pool_size: int = setting(
        "DATABASE_POOL_SIZE", "database connections of each web process beside its lanes", _whole(1, 200), "4"
    )
    intake_lanes: int = setting(
        "INTAKE_LANES",
        "commits of webhooks in flight at most in each web process, each over a connection of its own;"
        " more than one is used where the disk takes milliseconds",
        _whole(1, 16),
        "4",
    )
    database_prepares: bool = setting(
        "DATABASE_PREPARES",
        "whether the webhook statement is prepared; 0 behind a pooler in transaction mode that cannot follow",
        _flag,
        "1",
    )
    report_time_zone: str = setting(
        "REPORT_TIME_ZONE",
        "time zone of the days in reports, by its IANA name such as Europe/Berlin",
        _time_zone,
        "UTC",
    )
    metrics_token: str | None = setting(
        "METRICS_TOKEN", "who scrapes /metrics must bear it; open when not set", secret=True
    )
    log_level: str = setting(
        "LOG_LEVEL", "what is logged", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO"
    )
    log_format: str = setting("LOG_FORMAT", "json, or console for people", _one_of("json", "console"), "json")

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from `environ`. An empty value counts as not set.

        Raises ConfigurationError naming every fault at once, without the values.
        """
        values: dict[str, Any] = {}
        faults: list[str] = []
        for name, declared in declared_settings().items():
            text = environ.get(declared.variable, "").strip()
            if not text:
                continue
            try:
                values[name] = declared.parse(text)
            except ValueError as why:
                faults.append(f"{declared.variable} {why}")
        settings = cls(**values)
        faults.extend(settings._contradictions())
        if faults:
            raise ConfigurationError("; ".join(faults))
        return settings

    def _contradictions(self) -> list[str]:
        """Settings that make no sense together."""
        faults: list[str] = []
        if bool(self.app_id) != bool(self.app_secret):
            faults.append("WIX_APP_ID and WIX_APP_SECRET belong together: set both or neither")
        keyed = [self.api_key, self.site_id, self.instance_id]
        if any(keyed) and not all(keyed):
            faults.append("WIX_API_KEY, WIX_SITE_ID and WIX_INSTANCE_ID belong together: set all or none")
        if self.app_secret and self.api_key:
            faults.append("WIX_APP_SECRET and WIX_API_KEY exclude each other: choose OAuth or an API key")
        if self.sweep_overlap_seconds <= RESEND_HORIZON_SECONDS and self.wix_url == WIX_API:
            faults.append(
                f"SWEEP_OVERLAP_SECONDS must be above {RESEND_HORIZON_SECONDS}, since Wix resends that long"
            )
        return faults

    def require(self, *names: str) -> None:
        """Raise ConfigurationError naming every one of these fields that is not set."""
        declared = declared_settings()
        missing = [
            f"{declared[name].variable} is not set ({declared[name].meaning})"
            for name in names
            if getattr(self, name) is None
        ]
        if missing:
            raise ConfigurationError("; ".join(missing))

    @property
    def has_wix_credentials(self) -> bool:
        """Whether calls to Wix can be signed in at all."""
        return bool(self.app_secret or self.api_key)


def declared_settings() -> dict[str, Setting]:
    """Field name -> declaration, in the order they are declared."""
    found: dict[str, Setting] = {}
    all_fields: tuple[Field[Any], ...] = fields(Settings)
    for one in all_fields:
        found[one.name] = one.metadata["setting"]
    return found
