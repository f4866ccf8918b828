"""How alerts leave the service: by a signed webhook, by mail. Each is there when its settings are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from processor.channels.mail import Mail
from processor.channels.webhook import Webhook
from processor.config import Settings
from processor.domain.alert import Channel


class Sender(Protocol):
    """One channel, open."""

    def send(self, delivery_id: UUID, document: Mapping[str, Any], now: datetime) -> None:
        """Send a message, under the same id at every attempt. Raises NotDelivered."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


def configured(settings: Settings) -> tuple[Channel, ...]:
    """The channels that have their settings, in one order."""
    found = {
        Channel.MAIL: settings.alert_smtp_url is not None,
        Channel.WEBHOOK: settings.alert_webhook_url is not None,
    }
    return tuple(channel for channel, is_there in found.items() if is_there)


@contextmanager
def opened(settings: Settings, channel: Channel) -> Iterator[Sender]:
    """A configured channel. Raises ConfigurationError for settings that no channel can be made of."""
    sender: Sender
    if channel is Channel.MAIL:
        settings.require("alert_smtp_url", "alert_mail_from", "alert_mail_to")
        assert settings.alert_mail_to is not None
        sender = Mail(
            url=str(settings.alert_smtp_url),
            sender=str(settings.alert_mail_from),
            recipients=settings.alert_mail_to,
        )
    else:
        settings.require("alert_webhook_url", "alert_webhook_secret")
        assert settings.alert_webhook_secret is not None
        sender = Webhook(url=str(settings.alert_webhook_url), keys=settings.alert_webhook_secret)
    try:
        yield sender
    finally:
        sender.close()
