"""Webhook bodies as Wix builds them: each level a string inside the one before.

Sources: "About the Structure of Webhooks", "Payment Link Payment Updated", and the reading side of Wix's
SDK. The FQDN of payment LINK events is not known; a guess is an option of the sandbox.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from processor.wix.wire import APP_INSTALLED, APP_REMOVED, PAYMENT_FQDN

Entity = dict[str, Any]

_ACTIONS = ("activated", "deactivated", "note_set", "payment_initiated", "sent")


def text(value: Any) -> str:
    """Compact JSON, as inside a token."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be signed and delivered. envelope: level 3, its inner levels already strings."""

    event_id: str
    event_type: str
    instance_id: str
    entity_id: str | None
    payment_link_id: str | None
    envelope: dict[str, Any]


def domain_event(
    *,
    instance: Entity,
    fqdn: str,
    slug: str,
    entity: Entity,
    entity_id: str,
    payment_link_id: str,
    sequence: int,
    at: str,
    identity: Entity,
    is_anonymization: bool = False,
) -> NewEvent:
    """An event about a payment or a link. slug: what happened, such as `created`."""
    event: dict[str, Any] = {
        "id": str(uuid4()),
        "entityFqdn": fqdn,
        "slug": slug,
        "entityId": entity_id,
    }
    name = "payment" if fqdn == PAYMENT_FQDN else "paymentLink"
    if slug == "created":
        event["createdEvent"] = {"entity": entity}
    elif slug == "updated":
        event["updatedEvent"] = {"currentEntity": entity}
    elif slug == "deleted":
        event["deletedEvent"] = {"deletedEntity": entity}
    else:
        assert slug in _ACTIONS, slug
        event["actionEvent"] = {"body": {name: entity}}
    event |= {
        "eventTime": at,
        "triggeredByAnonymizeRequest": is_anonymization,
        "originatedFrom": "",
        "entityEventSequence": str(sequence),
    }
    event_type = f"{fqdn}_{slug}"
    return NewEvent(
        event_id=event["id"],
        event_type=event_type,
        instance_id=instance["instanceId"],
        entity_id=entity_id,
        payment_link_id=payment_link_id,
        envelope=_envelope(instance, event_type, event, identity),
    )


def app_event(instance: Entity, *, app_id: str, is_installation: bool) -> NewEvent:
    """AppInstalled or AppRemoved: flat, with no id of its own."""
    event_type = APP_INSTALLED if is_installation else APP_REMOVED
    identity = {"identityType": "WIX_USER", "wixUserId": instance["accountId"]}
    return NewEvent(
        event_id=str(uuid4()),  # ours alone; the body carries none
        event_type=event_type,
        instance_id=instance["instanceId"],
        entity_id=None,
        payment_link_id=None,
        envelope=_envelope(instance, event_type, {"appId": app_id}, identity),
    )


def _envelope(instance: Entity, event_type: str, event: Entity, identity: Entity) -> dict[str, Any]:
    return {
        "data": text(event),
        "instanceId": instance["instanceId"],
        "eventType": event_type,
        "identity": text(identity),
        "accountInfo": {"accountId": instance["accountId"], "siteId": instance["siteId"]},
    }


def claims(envelope: dict[str, Any], *, issued_at: int, lifetime_seconds: int) -> dict[str, Any]:
    """Level 2: the envelope as a string, with the token's times in Unix seconds."""
    return {"data": text(envelope), "iat": issued_at, "exp": issued_at + lifetime_seconds}
