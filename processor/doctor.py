"""Is this installation well? Each finding with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError

from processor import findings, wiring
from processor.config import Settings
from processor.errors import ConfigurationError, StoreUnavailable, WixError, WixUnavailable
from processor.findings import Finding
from processor.store.tables import AppInstance
from processor.wiring import Services

__all__ = ["Finding", "examine"]


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything that can be looked at; what depends on a failed part is left out."""
    try:
        settings = Settings.read(environ)
    except ConfigurationError as why:
        return [
            Finding(
                "configuration",
                False,
                str(why),
                "correct these variables; `processor settings` explains them",
            )
        ]
    found = [Finding("configuration", True, "every setting can be read"), _keys(settings)]
    try:
        services = wiring.build(settings, role="cli")
    except ConfigurationError as why:
        return [*found, Finding("database", False, str(why), "set DATABASE_URL to a PostgreSQL 15 or later")]
    try:
        found += findings.database(services)
        redis = findings.redis(services)
        found.append(redis)
        found.append(findings.worker(services, redis))
        found.append(findings.alert_channels(services))
        found.append(_wix(services))
    finally:
        services.close()
    return found


def _keys(settings: Settings) -> Finding:
    try:
        keys = wiring.public_keys(settings)
    except ConfigurationError as why:
        return Finding(
            "public keys", False, str(why), "copy the key from your app's Webhooks page in the Wix dashboard"
        )
    return Finding("public keys", True, f"{len(keys)} usable")


def _wix(services: Services) -> Finding:
    """Whether Wix takes our credentials, shown for one installed instance."""
    try:
        client = services.wix
    except ConfigurationError as why:
        return Finding("wix", False, str(why), "without them nothing can be reconciled")
    instance_id = services.settings.instance_id
    if instance_id is None:
        try:
            with services.database.begin() as connection:
                instance_id = connection.execute(
                    select(AppInstance.instance_id)
                    .where(AppInstance.status == "installed")
                    .order_by(AppInstance.first_seen_at)
                    .limit(1)
                ).scalar_one_or_none()
        except (StoreUnavailable, ProgrammingError) as why:  # no table yet, for one; said above
            return Finding("wix", None, f"not tried: {type(why).__name__}", "mend the database first")
    if instance_id is None:
        return Finding("wix", None, "not tried: the app is not installed on any site we know of")
    try:
        client.check_credentials(instance_id)
    except WixUnavailable as why:
        return Finding("wix", False, str(why), "try again; check WIX_API_URL and the network")
    except WixError as why:
        return Finding(
            "wix", False, str(why), "check the app's id and secret, its permissions, and that it is installed"
        )
    return Finding("wix", True, f"took our credentials for instance {instance_id}")
