"""Whether this installation is well, and by which settings it runs. Nothing here is changed but what is sent again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template, url_for
from redis.exceptions import RedisError
from werkzeug.wrappers import Response

from processor import __version__, findings
from processor.channels import configured
from processor.config import Settings, declared_settings
from processor.domain.access import Permission
from processor.findings import Finding
from processor.store import alerts
from processor.store.screens import health as store
from processor.store.screens import jobs as jobs_store
from processor.web.pages.access import account, needs, reach
from processor.web.pages.site import Site, done, refused
from processor.wiring import Services

SHOWN_MAX = 60  # letters of a setting
# What is said of the installation without saying anything of the instances on it.
OF_NO_INSTANCE = ("database", "migrations", "clock", "redis", "worker")


@dataclass(frozen=True, slots=True)
class SettingLine:
    """A setting as this process has it. value: None when it is not set and has no default; never a secret."""

    variable: str
    meaning: str
    value: str | None
    default: str | None
    is_changed: bool
    is_hidden: bool


def blueprint(site: Site) -> Blueprint:
    """`/health`. The machine's own addresses are `/healthz`, `/readyz` and `/metrics`, and elsewhere."""
    routes = Blueprint("health", __name__, url_prefix="/health")
    services = site.services

    @routes.get("")
    @needs(Permission.READ)
    def index() -> str:
        sees_every, now = reach().instance_ids is None, services.now()
        found = looked_at(services)
        if not sees_every:
            found = [one for one in found if one.name in OF_NO_INSTANCE]
        channels, lost, sizes = [], [], None
        with site.read() as connection:
            silences = store.silences(connection, reach())
            outages = store.outages(connection, reach())
            beats = jobs_store.beats(connection)
            if sees_every:
                channels = alerts.channel_states(connection, now)
                lost = store.given_up(connection, [one.channel.value for one in channels], now)
                sizes = store.sizes(connection)
        return render_template(
            "health.html",
            found=found,
            silences=silences,
            outages=outages,
            beats=beats,
            channels=channels,
            configured=configured(services.settings),
            lost=lost,
            sizes=sizes,
            sees_every=sees_every,
            settings=setting_lines(services.settings) if account().may(Permission.OPERATE) else None,
            redis=_redis(services) if sees_every else None,
            versions={"This service": __version__, "Python": sys.version.split()[0]},
        )

    @routes.post("/alerts/again")
    @needs(Permission.OPERATE)
    def send_again() -> Response:
        where = url_for("health.index")
        if reach().instance_ids is not None:
            return refused(where, "Messages are of every instance, and your account does not see every one.")
        with services.database.begin() as connection:
            asked = alerts.retry(connection, services.now())
        if not asked:
            return refused(where, "There is no message to be sent again.")
        words = "1 message is" if len(asked) == 1 else f"{len(asked)} messages are"
        return done(where, f"{words} sent again, for another day.")

    return routes


def looked_at(services: Services) -> list[Finding]:
    """What `processor doctor` looks at, but for what asks Wix."""
    redis = findings.redis(services)
    return [
        *findings.database(services),
        redis,
        findings.worker(services, redis),
        findings.alert_channels(services),
    ]


def _redis(services: Services) -> dict[str, str]:
    """What Redis says of itself; nothing when it does not answer, which is said elsewhere."""
    if services.queue.redis is None:
        return {}
    try:
        told: Any = services.queue.redis.info()
    except RedisError:
        return {}
    names = {"valkey_version": "Valkey", "redis_version": "Redis protocol of", "used_memory_human": "Memory"}
    return {words: str(told[name])[:SHOWN_MAX] for name, words in names.items() if name in told}


def setting_lines(settings: Settings) -> list[SettingLine]:
    """Every setting, without secrets."""
    lines = []
    for name, declared in declared_settings().items():
        value = getattr(settings, name)
        default = None if declared.default is None else declared.parse(declared.default)
        lines.append(
            SettingLine(
                variable=declared.variable,
                meaning=declared.meaning,
                value=None if value is None or declared.is_secret else _shown(value),
                default=declared.default,
                is_changed=value != default,
                is_hidden=declared.is_secret and value is not None,
            )
        )
    return lines


def _shown(value: Any) -> str:
    match value:
        case bool():
            text = "1" if value else "0"
        case float():
            text = f"{value:g}"
        case tuple() | list() | frozenset():
            text = ", ".join(_shown(one) for one in value)
        case bytes():
            return "(set)"
        case _:
            text = str(value)
    # A key is no secret when it is public, yet nothing to read.
    return text if len(text) <= SHOWN_MAX else f"({len(text)} letters)"
