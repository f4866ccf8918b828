from __future__ import annotations

import base64
from uuid import UUID

import pytest

from processor.config import Settings, declared_settings
from processor.errors import ConfigurationError

GUID = "3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# A value each setting takes, and one it refuses (None: any text is taken).
EXAMPLES: dict[str, tuple[str, str | None]] = {
    "DATABASE_URL": ("postgres://u:p@h/d", "mysql://h/d"),
    "REDIS_URL": ("rediss://h:6379/1", "http://h"),
    "WIX_PUBLIC_KEYS": ("AAAA,BBBB CCCC", " , "),
    "WIX_APP_ID": ("a", None),
    "WIX_APP_SECRET": ("s", None),
    "WIX_API_KEY": ("k", None),
    "WIX_SITE_ID": ("s", None),
    "WIX_INSTANCE_ID": (GUID, "seven"),
    "WIX_API_URL": ("http://localhost:1/", "localhost"),
    "WIX_TIMEOUT_SECONDS": ("2.5", "0"),
    "WIX_CALLS_PER_MINUTE": ("100", "0"),
    "WIX_PROCESSES": ("2", "none"),
    "WIX_IN_MAX": ("50", "101"),
    "WIX_LINK_FQDN": ("wix.paymentlinks.v1.payment_link", None),
    "BODY_BYTES_MAX": ("2048", "2.5"),
    "EXPIRY_GRACE_SECONDS": ("0", "-1"),
    "ANSWER_SECONDS": ("1", "5"),
    "WAKE_UP_SECONDS": ("1", "nan"),
    "SETTLING_SECONDS": ("5", "inf"),
    "RECHECK_SECONDS": ("1,2,3", "3,2,1"),
    "LEASE_SECONDS": ("5", "x"),
    "BACKFILL_DAYS": ("0", "4000"),
    "SWEEP_SECONDS": ("5", "0"),
    "SWEEP_OVERLAP_SECONDS": ("200000", "1"),
    "TICK_SECONDS": ("1", "1000"),
    "HOST": ("::", None),
    "PORT": ("80", "0"),
    "WEB_CONCURRENCY": ("1", "0"),
    "WEB_THREADS": ("1", "-1"),
    "INTAKE_THREADS": ("4", "3"),
    "WEB_IDLE_SECONDS": ("5", "61"),
    "DATABASE_POOL_SIZE": ("1", "x"),
    "INTAKE_LANES": ("4", "0"),
    "DATABASE_PREPARES": ("0", "yes"),
    "PAGE_READ_SECONDS": ("0.5", "16"),
    "REPORT_TIME_ZONE": ("Europe/Berlin", "UTC+2"),
    "ALERT_SEVERITY": ("informational", "all"),
    "ALERT_LOG": ("0", "off"),
    "ALERT_WEBHOOK_URL": ("https://example.com/hook?k=1", "http://example.com/hook"),
    "ALERT_WEBHOOK_SECRET": (WHSEC, "whsec_c2hvcnQ="),
    "ALERT_SMTP_URL": ("smtp://u:p%2F@h:587", "mail://h"),
    "ALERT_MAIL_FROM": ("shop@example.com", "a@example.com\nBcc: b@example.com"),
    "ALERT_MAIL_TO": ("a@example.com, b@example.com", "Ada <a@example.com>"),
    "ALERT_GAP_SECONDS": ("0", "-1"),
    "ALERT_DIGEST_SECONDS": ("0", "1"),
    "ALERT_OUTAGE_SECONDS": ("600", "0"),
    "METRICS_TOKEN": ("t", None),
    "SECRET_KEY": ("0123456789abcdef0123456789abcdef", "change-me-change-me-change-me-change-me"),
    "SECURE_COOKIES": ("0", "yes"),
    "TRUSTED_PROXIES": ("1", "9"),
    "SESSION_IDLE_SECONDS": ("600", "1"),
    "SESSION_SECONDS": ("3600", "1"),
    "OIDC_ISSUER": ("https://id.example.com", "http://id.example.com"),
    "OIDC_CLIENT_ID": ("payments", None),
    "OIDC_CLIENT_SECRET": ("s", None),
    "PAY_PAGE": ("1", "on"),
    "PAY_PER_MINUTE": ("5", "0"),
    "LOG_LEVEL": ("DEBUG", "LOUD"),
    "LOG_FORMAT": ("console", "xml"),
}


def test_every_setting_has_an_example_here() -> None:
    assert set(EXAMPLES) == {declared.variable for declared in declared_settings().values()}


@pytest.mark.parametrize("variable", sorted(EXAMPLES))
def test_a_good_value_is_taken_and_a_bad_one_named_but_not_shown(variable: str) -> None:
    [declared] = [one for one in declared_settings().values() if one.variable == variable]
    good, bad = EXAMPLES[variable]

    declared.parse(good)

    if bad is not None:
        with pytest.raises(ConfigurationError, match=variable) as caught:
            Settings.read({variable: bad})
        if len(bad) > 3:
            assert bad not in str(caught.value)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_a_port_that_is_none_is_named(variable: str) -> None:
    scheme = variable.partition("_")[0].lower().replace("database", "postgres")

    with pytest.raises(ConfigurationError, match=f"{variable}.*port"):
        Settings.read({variable: f"{scheme}://u:p@h:many/0"})


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read({"PORT": "x", "DATABASE_URL": "y", "WIX_APP_ID": "a"})

    for variable in ("PORT", "DATABASE_URL", "WIX_APP_SECRET"):
        assert variable in str(caught.value)


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.read({"PORT": " ", "REDIS_URL": ""}) == Settings()


def test_secrets_are_not_shown_when_settings_are_printed() -> None:
    secrets = {one.variable: f"hidden-{name}" for name, one in declared_settings().items() if one.is_secret}
    del secrets["WIX_API_KEY"]
    settings = Settings.read(
        secrets
        | {
            "WIX_APP_ID": "a",
            "DATABASE_URL": "postgres://u:hidden@h/d",
            "REDIS_URL": "redis://:hidden@h",
            "ALERT_WEBHOOK_URL": "https://example.com/hidden",
            "ALERT_WEBHOOK_SECRET": "whsec_" + base64.b64encode(b"hidden" * 5).decode(),
            "ALERT_SMTP_URL": "smtp://u:hidden@h",
            "ALERT_MAIL_FROM": "a@example.com",
            "ALERT_MAIL_TO": "b@example.com",
            "SECRET_KEY": "hidden-0123456789abcdef-0123456789",
            "OIDC_ISSUER": "https://id.example.com",
            "OIDC_CLIENT_ID": "a",
        }
    )

    assert "hidden" not in repr(settings)


@pytest.mark.fact("D10")
@pytest.mark.parametrize(
    "environ",
    [
        {"WIX_APP_SECRET": "s"},
        {"WIX_API_KEY": "k", "WIX_SITE_ID": "s"},
        {
            "WIX_APP_ID": "a",
            "WIX_APP_SECRET": "s",
            "WIX_API_KEY": "k",
            "WIX_SITE_ID": "s",
            "WIX_INSTANCE_ID": GUID,
        },
        {"SWEEP_OVERLAP_SECONDS": "3600"},
        {"ALERT_WEBHOOK_URL": "https://example.com/"},
        {"ALERT_WEBHOOK_SECRET": WHSEC},
        {"ALERT_SMTP_URL": "smtp://h", "ALERT_MAIL_FROM": "a@example.com"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Settings.read(environ)


def test_the_forms_hosts_give_are_understood() -> None:
    settings = Settings.read(
        {"DATABASE_URL": "postgres://u:p@h:5432/d?sslmode=require", "WIX_INSTANCE_ID": ""}
    )

    assert settings.database_url == "postgresql+psycopg://u:p@h:5432/d?sslmode=require"


def test_several_keys_are_told_apart_in_either_form() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----"

    assert Settings.read({"WIX_PUBLIC_KEYS": f"{pem}\n{pem}"}).public_keys == (pem, pem)
    assert Settings.read({"WIX_PUBLIC_KEYS": pem.replace("\n", "\\n")}).public_keys == (pem,)
    assert Settings.read({"WIX_PUBLIC_KEYS": "QUE= QkI="}).public_keys == ("QUE=", "QkI=")
    assert Settings.read({"WIX_PUBLIC_KEYS": f"QUE= {pem}"}).public_keys == (pem, "QUE=")


def test_a_missing_setting_is_named_with_its_meaning() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL is not set"):
        Settings().require("redis_url", "database_url")


def test_an_api_key_speaks_for_one_instance() -> None:
    settings = Settings.read({"WIX_API_KEY": "k", "WIX_SITE_ID": "s", "WIX_INSTANCE_ID": GUID})

    assert settings.has_wix_credentials
    assert settings.instance_id == UUID(GUID)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:p@example.com/",
        "https://example.com/#x",
        "https://",
        "ftp://example.com/",
        "http://10.0.0.1/",
        "https://example.com:many/",
        "https://example.com/a b",
    ],
)
def test_alerts_are_sent_where_they_cannot_be_read_on_their_way(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ALERT_WEBHOOK_URL must"):
        Settings.read({"ALERT_WEBHOOK_URL": url, "ALERT_WEBHOOK_SECRET": WHSEC})

    for good in ("https://example.com:8443/hook", "http://127.0.0.1:1/", "http://[::1]:1/"):
        read = Settings.read({"ALERT_WEBHOOK_URL": good, "ALERT_WEBHOOK_SECRET": WHSEC})
        assert read.alert_webhook_url == good


def test_several_keys_sign_while_they_change() -> None:
    keys = Settings.read(
        {"ALERT_WEBHOOK_URL": "https://h/", "ALERT_WEBHOOK_SECRET": f"{WHSEC} {WHSEC}"}
    ).alert_webhook_secret

    assert keys is not None
    assert [len(key) for key in keys] == [24, 24]
