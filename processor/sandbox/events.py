"""Webhook bodies as Wix builds them: each level a string inside the one before.

Sources: "About the Structure of Webhooks", "Payment Link Payment Updated", and the reading side of Wix's
SDK. The FQDN of payment LINK events is not known; a guess is an option of the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from processor.wix.wire import APP_INSTALLED, APP_REMOVED, PAYMENT_FQDN

Entity = dict[str, Any]
NewId = Callable[[], UUID]

ORDER_FQDN = "wix.ecom.v1.order"
REFUND_FQDN = "wix.payments.refunds.v1.refund"
# Types that an app hears of only when it subscribed to them by name.
NEIGHBOURS = (ORDER_FQDN, REFUND_FQDN)

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
    new_id: NewId,
    is_anonymization: bool = False,
) -> NewEvent:
    """An event about a payment or a link. slug: what happened, such as `created`."""
    event = _head(fqdn, slug, entity_id, new_id)
    if slug == "created":
        event["createdEvent"] = {"entity": entity}
    elif slug == "updated":
        event["updatedEvent"] = {"currentEntity": entity}
    elif slug == "deleted":
        event["deletedEvent"] = {"deletedEntity": entity}
    else:
        assert slug in _ACTIONS, slug
        event["actionEvent"] = {"body": {"paymentLink": entity}}
    event |= _tail(at, sequence=sequence, is_anonymization=is_anonymization)
    return _new(instance, f"{fqdn}_{slug}", event, identity, payment_link_id)


def app_event(
    instance: Entity, *, app_id: str, is_installation: bool, new_id: NewId, origin: str | None = None
) -> NewEvent:
    """AppInstalled or AppRemoved: flat, with no id of its own. origin: what the site was duplicated from."""
    event_type = APP_INSTALLED if is_installation else APP_REMOVED
    return NewEvent(
        event_id=str(new_id()),  # ours alone; the body carries none
        event_type=event_type,
        instance_id=instance["instanceId"],
        entity_id=None,
        payment_link_id=None,
        envelope=_envelope(
            instance,
            event_type,
            {"appId": app_id, **({"originInstanceId": origin} if origin else {})},
            _owner(instance),
        ),
    )


def order_event(instance: Entity, *, order: Entity, slug: str, at: str, new_id: NewId) -> NewEvent:
    """An event of Wix eCommerce about an order. Only apps that subscribed to it hear it."""
    return _action(instance, ORDER_FQDN, slug, order["id"], {"order": order}, at, new_id)


def refund_event(
    instance: Entity,
    *,
    refund: Entity,
    currency: str,
    is_full: bool,
    at: str,
    new_id: NewId,
    sequence: int = 1,
) -> NewEvent:
    """Refund Created of Wix Payments, or Updated when it is not its first. Only apps that subscribed to it hear it."""
    entity = {
        "id": refund["id"],
        "chargeId": refund["paymentId"],  # inferred: the id of the charge is that of the payment
        "amount": refund["amount"],
        "currencyCode": currency,
        "full": is_full,
        "status": refund["refundStatus"],
        "createdDate": refund["createdDate"],
    }
    slug = "created" if sequence == 1 else "updated"
    payload = (
        {"createdEvent": {"entity": entity}} if sequence == 1 else {"updatedEvent": {"currentEntity": entity}}
    )
    event = {**_head(REFUND_FQDN, slug, refund["id"], new_id), **payload, **_tail(at, sequence=sequence)}
    return _new(instance, f"{REFUND_FQDN}_{slug}", event, _owner(instance))


def test_event(site: Entity, *, app_id: str, at: str, new_id: NewId) -> NewEvent:
    """What the dashboard sends to try a webhook out: well signed, about things that do not exist.

    What such an event names is not documented; here it is an instance nobody has heard of.
    """
    stranger = {**site, "instanceId": str(new_id()), "siteId": str(new_id())}
    payment_id, link_id = str(new_id()), str(new_id())
    payment = {
        "id": payment_id,
        "revision": "1",
        "createdDate": at,
        "amount": "10.99",
        "currency": "USD",
        "paymentLinkId": link_id,
        "type": "REGULAR",
    }
    return domain_event(
        instance=stranger,
        fqdn=PAYMENT_FQDN,
        slug="created",
        entity=payment,
        entity_id=payment_id,
        payment_link_id=link_id,
        sequence=1,
        at=at,
        identity={"identityType": "APP", "appId": app_id},
        new_id=new_id,
    )


def unknown_event(instance: Entity, *, at: str, new_id: NewId) -> NewEvent:
    """An event of a type that no app could know: Wix adds types as it grows."""
    return _action(
        instance, "wix.sandbox.v1.unheard_of", "happened", str(new_id()), {"unheardOf": {}}, at, new_id
    )


def _action(
    instance: Entity, fqdn: str, slug: str, entity_id: str, body: Entity, at: str, new_id: NewId
) -> NewEvent:
    event = {**_head(fqdn, slug, entity_id, new_id), "actionEvent": {"body": body}, **_tail(at, sequence=1)}
    return _new(instance, f"{fqdn}_{slug}", event, _owner(instance))


def _owner(instance: Entity) -> Entity:
    return {"identityType": "WIX_USER", "wixUserId": instance["accountId"]}


def _head(fqdn: str, slug: str, entity_id: str, new_id: NewId) -> Entity:
    return {"id": str(new_id()), "entityFqdn": fqdn, "slug": slug, "entityId": entity_id}


def _tail(at: str, *, sequence: int, is_anonymization: bool = False) -> Entity:
    return {
        "eventTime": at,
        "triggeredByAnonymizeRequest": is_anonymization,
        "originatedFrom": "",
        "entityEventSequence": str(sequence),
    }


def _new(
    instance: Entity, event_type: str, event: Entity, identity: Entity, payment_link_id: str | None = None
) -> NewEvent:
    return NewEvent(
        event_id=event["id"],
        event_type=event_type,
        instance_id=instance["instanceId"],
        entity_id=event["entityId"],
        payment_link_id=payment_link_id,
        envelope=_envelope(instance, event_type, event, identity),
    )


# -- Other shapes that occur, or may ---------------------------------------------------------------


def without_identity(envelope: Entity) -> Entity:
    """Without `identity`, which is optional."""
    return {name: value for name, value in envelope.items() if name != "identity"}


def with_entity_as_json(event: Entity) -> Entity:
    """With `entityAsJson` instead of `entity`, as some of Wix's hand-written samples have it."""
    if "entity" not in event.get("createdEvent", {}):
        return event
    created = {name: value for name, value in event["createdEvent"].items() if name != "entity"}
    return {**event, "createdEvent": {**created, "entityAsJson": text(event["createdEvent"]["entity"])}}


def with_created_current_entity(event: Entity) -> Entity:
    """With `currentEntity` inside `createdEvent`, as in the sample of "Payment Link Payment Updated"."""
    if "updatedEvent" not in event:
        return event
    rest = {name: value for name, value in event.items() if name != "updatedEvent"}
    return {**rest, "createdEvent": event["updatedEvent"]}


def with_currency_code(event: Entity) -> Entity:
    """With `currencyCode` instead of `currency`, as in the sample of "Query Payment Link Payments"."""
    changed = dict(event)
    for holder, name in (("createdEvent", "entity"), ("updatedEvent", "currentEntity")):
        entity = event.get(holder, {}).get(name)
        if isinstance(entity, dict) and "currency" in entity:
            rest = {key: value for key, value in entity.items() if key != "currency"}
            changed[holder] = {**event[holder], name: {**rest, "currencyCode": entity["currency"]}}
    return changed


def without_sequence(event: Entity) -> Entity:
    """Without `entityEventSequence`, which no sample of payment links shows."""
    return {name: value for name, value in event.items() if name != "entityEventSequence"}


# In this order: what is inside the entity first, then where it stands.
EVENT_SHAPES = {
    "currency_code": with_currency_code,
    "entity_as_json": with_entity_as_json,
    "created_current_entity": with_created_current_entity,
    "missing_sequence": without_sequence,
}


def shaped(envelope: Entity, shapes: Collection[str]) -> Entity:
    """The envelope as the faults of these kinds have it."""
    event = json.loads(envelope["data"])
    for kind, change in EVENT_SHAPES.items():
        if kind in shapes:
            event = change(event)
    envelope = {**envelope, "data": text(event)}
    return without_identity(envelope) if "missing_identity" in shapes else envelope


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
