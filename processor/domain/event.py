"""One webhook event, as far as it could be read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from processor.domain.payment import SeenPayment


class Kind(StrEnum):
    """What an event is about, which decides what is done with it."""

    PAYMENT = "payment"
    LINK = "link"
    APP_INSTALLED = "app_installed"
    APP_REMOVED = "app_removed"
    OTHER = "other"


class Event(Struct, frozen=True, kw_only=True):
    """One webhook delivery, read as far as it can be.

    event_id: Wix's id, or one derived from the content where Wix sends none (app events) or none that
    can be read. content_digest: SHA-256 over event type and inner event text, the same for every resend
    of one event however often it is signed anew. unreadable: a `processor.wix.parse.Reason`,
    None when the event was read. seen: the payment, None for other kinds. link_id: whose books to check,
    None when unknown.
    occurred_at: `eventTime`, else `iat`; None when neither can be read.
    """

    event_id: UUID
    instance_id: UUID
    event_type: str
    kind: Kind
    content_digest: bytes
    slug: str | None = None
    entity_id: UUID | None = None
    entity_sequence: int | None = None
    occurred_at: datetime | None = None
    issued_at: datetime | None = None
    anonymized: bool = False
    seen: SeenPayment | None = None
    link_id: UUID | None = None
    app_id: str | None = None
    site_id: UUID | None = None
    account_id: UUID | None = None
    origin_instance_id: UUID | None = None
    unreadable: str | None = None
    unreadable_detail: str = ""
