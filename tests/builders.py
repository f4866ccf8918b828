"""Valid values, so that a test states only what it is about. Tokens are signed by an independent library."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jws

from processor.domain.link import Link
from processor.domain.payment import Payment, SeenPayment
from processor.domain.refund import Refund
from processor.wix import wire

SAMPLES = Path(__file__).parent / "samples"
INSTANCE = UUID("3c1f3e0a-9a55-4a8e-8a2b-1d2e3f405162")
LINK = UUID("6a206d71-52f5-4012-b3dd-8a283fea052e")
PAYMENT = UUID("afb2f6c0-e497-4c69-9ddb-be8c82351456")
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@cache
def private_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key, the same for the same number."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: rsa.RSAPrivateKey | None = None) -> str:
    public = (key or private_key()).public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def sign(claims: Any, key: rsa.RSAPrivateKey | None = None, **header: Any) -> bytes:
    """A compact JWS by joserfc; `claims` may be bytes for what is no JSON."""
    content = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    protected = {"alg": "RS256", "kid": "abc", **header}
    return jws.serialize_compact(
        protected, content, _signing_key(key or private_key()), algorithms=[protected["alg"]]
    ).encode()


@cache
def _signing_key(key: rsa.RSAPrivateKey) -> jwk.RSAKey:
    """As joserfc takes it; reading one costs fifty signatures."""
    return jwk.RSAKey.import_key(private_pem(key))


def worked_example() -> dict[str, Any]:
    """Claims of the documented example."""
    claims: dict[str, Any] = json.loads((SAMPLES / "worked_example.json").read_text())
    return claims


def payment_entity(**changes: Any) -> dict[str, Any]:
    """A payment link payment as Wix sends it. A value of `...` leaves the field out."""
    entity: dict[str, Any] = {
        "id": str(PAYMENT),
        "revision": "1",
        "createdDate": "2026-11-24T11:00:00.123Z",
        "transactionDate": "2026-11-24T11:00:00.100Z",
        "amount": "10.99",
        "currency": "USD",
        "paymentLinkId": str(LINK),
        "type": "REGULAR",
        "regularPaymentLinkPayment": {
            "method": "CREDIT_CARD",
            "paymentMethod": "creditCard",
            "paymentProvider": "Credit/Debit Cards",
            "contactDetails": {"fullName": "Hedwig Eva", "email": "hedwig@example.com"},
            "billingAddress": {"city": "Springfield"},
            "creditCardPaymentMethodData": {"maskedCreditCard": "************4242"},
            "order": {"type": "ECOM", "ecomOrder": {"ecomOrderId": "5d6f"}},
        },
        "ecomCheckout": {"ecomCheckoutId": "c0ffee"},
    }
    return _changed(entity, changes)


def event(entity: Any = None, *, slug: str = "created", **changes: Any) -> dict[str, Any]:
    """Level 4: a domain event about a payment."""
    entity = payment_entity() if entity is None else entity
    payload = {"createdEvent": {"entity": entity}}
    if slug == "updated":
        payload = {"updatedEvent": {"currentEntity": entity}}
    found = {
        "id": str(uuid4()),
        "entityFqdn": wire.PAYMENT_FQDN,
        "slug": slug,
        "entityId": entity.get("id") if isinstance(entity, dict) else None,
        **payload,
        "eventTime": "2026-11-24T11:00:01.000Z",
        "triggeredByAnonymizeRequest": False,
        "entityEventSequence": "1",
    }
    return _changed(found, changes)


def envelope(inner: Any = None, **changes: Any) -> dict[str, Any]:
    """Level 3; `inner` may be text for what is no JSON."""
    inner = event() if inner is None else inner
    slug = inner.get("slug", "created") if isinstance(inner, dict) else "created"
    found = {
        "data": inner if isinstance(inner, str) else json.dumps(inner),
        "instanceId": str(INSTANCE),
        "eventType": f"{wire.PAYMENT_FQDN}_{slug}",
        "identity": json.dumps({"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": str(uuid4())}),
        "accountInfo": {"accountId": str(uuid4()), "siteId": str(uuid4())},
    }
    return _changed(found, changes)


def claims(outer: Any = None, **changes: Any) -> dict[str, Any]:
    """Level 2."""
    outer = envelope() if outer is None else outer
    issued = int(NOW.timestamp())
    found = {
        "data": outer if isinstance(outer, str) else json.dumps(outer),
        "iat": issued,
        "exp": issued + 300_000,
    }
    return _changed(found, changes)


def payment_claims(inner_changes: dict[str, Any] | None = None, **entity_changes: Any) -> dict[str, Any]:
    """Claims of an event about a payment with these fields."""
    return claims(envelope(event(payment_entity(**entity_changes), **(inner_changes or {}))))


def of_today(told: dict[str, Any]) -> dict[str, Any]:
    """The same, signed today: for a server whose clock is the real one, since the day of `NOW` passes."""
    now = int(time.time())
    return {**told, "iat": now, "exp": now + 3_600}


def app_claims(event_type: str, *, instance_id: UUID = INSTANCE, at: datetime = NOW) -> dict[str, Any]:
    """Claims of AppInstalled or AppRemoved."""
    inner = json.dumps({"appId": "my-app"})
    return claims(envelope(inner, eventType=event_type, instanceId=str(instance_id)), iat=int(at.timestamp()))


def _changed(found: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**found, **changes}.items() if value is not ...}


def make_payment(**changes: Any) -> Payment:
    """A payment as believed."""
    values: dict[str, Any] = {
        "instance_id": INSTANCE,
        "payment_id": PAYMENT,
        "payment_link_id": LINK,
        "revision": 1,
        "amount": Decimal("10.99"),
        "currency": "USD",
        "type": "REGULAR",
        "created_at": datetime(2026, 11, 24, 11, 0, tzinfo=UTC),
        "transaction_at": datetime(2026, 11, 24, 11, 0, tzinfo=UTC),
        "ecom_checkout_id": "c0ffee",
    }
    return Payment(**{**values, **changes})


def make_seen(**changes: Any) -> SeenPayment:
    """A payment as told."""
    return SeenPayment(
        payment=make_payment(**changes), personal={"contactDetails": {"fullName": "Hedwig"}}, rest={}
    )


def make_refund(**changes: Any) -> Refund:
    """A refund of the payment of `make_payment`, which succeeded."""
    values: dict[str, Any] = {
        "instance_id": INSTANCE,
        "refund_id": UUID("0c1f3e0a-9a55-4a8e-8a2b-1d2e3f405169"),
        "payment_id": PAYMENT,
        "amount": Decimal("4.00"),
        "currency": "USD",
        "status": "SUCCEEDED",
        "reason": None,
        "sequence": 1,
        "occurred_at": NOW,
    }
    return Refund(**{**values, **changes})


def make_link(**changes: Any) -> Link:
    """A link as Wix describes it."""
    values: dict[str, Any] = {
        "instance_id": INSTANCE,
        "payment_link_id": LINK,
        "revision": 1,
        "currency": "USD",
        "type": "ECOM",
        "status": "ACTIVE",
        "payment_count": 1,
        "total_amount": Decimal("10.99"),
        "created_at": datetime(2026, 11, 24, 10, 0, tzinfo=UTC),
    }
    return Link(**{**values, **changes})
