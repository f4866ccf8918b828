"""Every setting, declared once: its variable, meaning, default and parser.

Read from any mapping, all faults named at once; secrets are hidden when printed. `processor settings`
prints the table below.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any
from urllib.parse import unquote, urlsplit
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


LOOPBACK = ("localhost", "127.0.0.1", "::1")
SIGNING_KEY = "whsec_"
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


def receiver_url(text: str) -> str:
    """An https URL, or http on this machine, without a user name: what is told must not be read on its way.

    Raises ValueError.
    """
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("must be a URL beginning with https://") from None
    if not text.isascii() or not text.isprintable() or " " in text or not parts.hostname:
        raise ValueError("must be a URL beginning with https://")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("must begin with https://, or with http:// for this machine itself")
    if parts.username is not None or parts.fragment:
        raise ValueError("must have no user name and no #: the receiver checks the signature")
    return text


def issuer_url(text: str) -> str:
    """The https URL by which an issuer of OpenID Connect calls itself, or http on this machine. Raises ValueError."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("must be a URL beginning with https://") from None
    if not text.isascii() or not text.isprintable() or " " in text or not parts.hostname:
        raise ValueError("must be a URL beginning with https://")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("must begin with https://, or with http:// for this machine itself")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no user name, no ? and no #")
    return text


def signing_keys(text: str) -> tuple[bytes, ...]:
    """Keys of Standard Webhooks, as `whsec_` and base64, separated by spaces: each signs. Raises ValueError."""
    keys: list[bytes] = []
    for one in text.split():
        try:
            if not one.startswith(SIGNING_KEY):
                raise ValueError
            key = base64.b64decode(one.removeprefix(SIGNING_KEY), validate=True)
        except (ValueError, binascii.Error):
            raise ValueError(f"must be {SIGNING_KEY} and base64, several separated by spaces") from None
        if not 24 <= len(key) <= 64:
            raise ValueError("must hold keys of 24 to 64 bytes, as Standard Webhooks demands")
        keys.append(key)
    return tuple(keys)


def smtp_url(text: str) -> str:
    """smtp://user:password@host:port with STARTTLS, or smtps:// with TLS from the start. Raises ValueError."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("must begin with smtp:// or smtps:// and name a host")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("ends with the port; write / ? and # in a password as %2F %3F and %23")
    if bool(parts.username) != bool(parts.password):
        raise ValueError("has a user without a password, or the reverse")
    if not unquote(parts.netloc).isascii():
        raise ValueError("has letters beyond ASCII, which cannot be sent")
    return text


def mail_address(text: str) -> str:
    """One address, without a name. Raises ValueError."""
    if len(text) > 254 or not _ADDRESS.fullmatch(text):
        raise ValueError("must be a mail address such as finance@example.com")
    return text


def mail_addresses(text: str) -> tuple[str, ...]:
    """One or more addresses, separated by commas. Raises ValueError."""
    return tuple(mail_address(one.strip()) for one in text.split(","))


def secret_key(text: str) -> str:
    """A key that nobody guesses. Raises ValueError."""
    if len(text) < 32:
        raise ValueError("must have 32 letters or more: make one with `openssl rand -hex 32`")
    if len(set(text)) < 10 or any(
        word in text.lower() for word in ("change", "secret", "example", "default")
    ):
        raise ValueError("is one that others could guess: make one with `openssl rand -hex 32`")
    return text


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


def _digest_seconds(text: str) -> float:
    seconds = _number(0, 2_678_400)(text)
    if 0 < seconds < 60:
        raise ValueError("must be 0 for no digests, or from 60 to 2678400")
    return seconds


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
        "SWEEP_SECONDS", "time between polls of an instance for missed webhooks", _number(0.5, 86_400), "900"
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
    web_threads: int = setting(
        "WEB_THREADS", "threads of each web process for all but webhooks", _whole(1, 512), "32"
    )
    # They hand requests on, so few are enough; and few cost less, since Granian wakes one for each request
    # (docs/architecture.md).
    intake_threads: int = setting(
        "INTAKE_THREADS", "threads of each web process that read webhooks", _whole(4, 512), "16"
    )
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
    page_read_seconds: float = setting(
        "PAGE_READ_SECONDS",
        "longest time a page reads a report itself; a worker reads what takes longer",
        _number(0, 15),
        "0.025",
    )
    alert_severity: str = setting(
        "ALERT_SEVERITY",
        "what is alerted at once: error, or informational for everything; the rest is in digests alone",
        _one_of("error", "informational"),
        "error",
    )
    alert_log: bool = setting("ALERT_LOG", "whether each alert is a line of the log", _flag, "1")
    alert_webhook_url: str | None = setting(
        "ALERT_WEBHOOK_URL", "where alerts are sent as signed webhooks", receiver_url, secret=True
    )
    alert_webhook_secret: tuple[bytes, ...] | None = setting(
        "ALERT_WEBHOOK_SECRET",
        "key(s) that sign them, whsec_ and base64 as in Standard Webhooks; several by spaces while they change",
        signing_keys,
        secret=True,
    )
    alert_smtp_url: str | None = setting(
        "ALERT_SMTP_URL",
        "server that mails alerts: smtp://user:password@host:587 with STARTTLS, or smtps://",
        smtp_url,
        secret=True,
    )
    alert_mail_from: str | None = setting("ALERT_MAIL_FROM", "sender of these mails", mail_address)
    alert_mail_to: tuple[str, ...] | None = setting(
        "ALERT_MAIL_TO", "who gets them, separated by commas", mail_addresses
    )
    alert_gap_seconds: float = setting(
        "ALERT_GAP_SECONDS",
        "at most one mail in this time, and twenty webhooks; what comes meanwhile goes out together",
        _number(0, 86_400),
        "300",
    )
    alert_digest_seconds: float = setting(
        "ALERT_DIGEST_SECONDS",
        "time between digests, which end at multiples of it (a day: at midnight UTC); 0 for none",
        _digest_seconds,
        "86400",
    )
    alert_outage_seconds: float = setting(
        "ALERT_OUTAGE_SECONDS",
        "how long Wix cannot be asked about an instance before it is alerted",
        _number(60, 604_800),
        "3600",
    )
    metrics_token: str | None = setting(
        "METRICS_TOKEN", "who scrapes /metrics must bear it; open when not set", secret=True
    )
    secret_key: str | None = setting(
        "SECRET_KEY",
        "signs the sessions of the pages, 32 letters or more; without one there are no pages",
        secret_key,
        secret=True,
    )
    secure_cookies: bool = setting(
        "SECURE_COOKIES", "whether the pages' cookies travel by HTTPS alone; 0 on a laptop", _flag, "1"
    )
    trusted_proxies: int = setting(
        "TRUSTED_PROXIES",
        "how many proxies of ours stand before the web process and set X-Forwarded-For and -Proto",
        _whole(0, 8),
        "0",
    )
    session_idle_seconds: float = setting(
        "SESSION_IDLE_SECONDS",
        "after so long without a request one has to sign in again",
        _number(60, 604_800),
        "3600",
    )
    session_seconds: float = setting(
        "SESSION_SECONDS", "after so long one has to sign in again anyhow", _number(60, 2_592_000), "43200"
    )
    oidc_issuer: str | None = setting(
        "OIDC_ISSUER",
        "issuer at which people may sign in by OpenID Connect; needs the extra oidc",
        issuer_url,
    )
    oidc_client_id: str | None = setting("OIDC_CLIENT_ID", "what the issuer calls this service")
    oidc_client_secret: str | None = setting(
        "OIDC_CLIENT_SECRET", "proves to the issuer that it is this service", secret=True
    )
    pay_page: bool = setting(
        "PAY_PAGE",
        "whether /pay/ and the id of a link leads anybody to its checkout, without signing in",
        _flag,
        "0",
    )
    pay_per_minute: int = setting(
        "PAY_PER_MINUTE", "checkouts that one address may begin there in a minute", _whole(1, 1_000), "10"
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
        if (self.alert_webhook_url is None) != (self.alert_webhook_secret is None):
            faults.append("ALERT_WEBHOOK_URL and ALERT_WEBHOOK_SECRET belong together: set both or neither")
        mail = [self.alert_smtp_url, self.alert_mail_from, self.alert_mail_to]
        if any(mail) and not all(mail):
            faults.append(
                "ALERT_SMTP_URL, ALERT_MAIL_FROM and ALERT_MAIL_TO belong together: set all or none"
            )
        oidc = [self.oidc_issuer, self.oidc_client_id, self.oidc_client_secret]
        if any(oidc) and not all(oidc):
            faults.append(
                "OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET belong together: set all or none"
            )
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
