"""The lean design: one commit for each request, written well. The yardstick of what group commit is worth.

The key is parsed once and the signature checked by `cryptography` itself, typed decoders read the levels, and one
prepared statement on the thread's own connection stores event, payment and outbox row. It keeps less than we do: no
superseded versions, no conflicts, no refusals, no metrics, no logs. It has tables of its own.
"""

from __future__ import annotations

import binascii
import os
import threading
from typing import Any, cast

import msgspec
import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flask import Flask, Response, request

SCHEMA = """
CREATE TABLE lean_events (
    event_id uuid PRIMARY KEY, instance_id uuid NOT NULL, payment_id uuid NOT NULL, event_type text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(), token text NOT NULL
);
CREATE TABLE lean_payments (
    instance_id uuid, payment_id uuid, payment_link_id uuid NOT NULL, revision bigint NOT NULL,
    amount numeric(19, 3) NOT NULL, currency text NOT NULL, details jsonb NOT NULL,
    PRIMARY KEY (instance_id, payment_id)
);
CREATE INDEX ON lean_payments (payment_link_id);
CREATE TABLE lean_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, instance_id uuid NOT NULL, payment_link_id uuid NOT NULL
);
"""
STORE = """
WITH stored AS (
    INSERT INTO lean_events (event_id, instance_id, payment_id, event_type, token)
    VALUES (%s::uuid, %s::uuid, %s::uuid, %s::text, %s::text)
    ON CONFLICT DO NOTHING RETURNING instance_id, payment_id
), paid AS (
    INSERT INTO lean_payments AS p (
        instance_id, payment_id, payment_link_id, revision, amount, currency, details)
    SELECT instance_id, payment_id, %s::uuid, %s::bigint, %s::numeric, %s::text, %s::jsonb FROM stored
    ON CONFLICT (instance_id, payment_id) DO UPDATE SET
        payment_link_id = excluded.payment_link_id, revision = excluded.revision, amount = excluded.amount,
        currency = excluded.currency, details = excluded.details
    WHERE excluded.revision > p.revision
)
INSERT INTO lean_outbox (instance_id, payment_link_id) SELECT instance_id, %s::uuid FROM stored
"""


class Header(msgspec.Struct):
    """Of the token."""

    alg: str


class Claims(msgspec.Struct):
    """Level 2."""

    data: str


class Envelope(msgspec.Struct, rename="camel"):
    """Level 3."""

    data: str
    instance_id: str
    event_type: str


class Payment(msgspec.Struct, rename="camel"):
    """Of the entity, what has a column."""

    id: str
    revision: str
    payment_link_id: str
    amount: str
    currency: str


class Created(msgspec.Struct):
    """Where the entity stands, as text: it is stored as it came."""

    entity: msgspec.Raw


class Event(msgspec.Struct, rename="camel"):
    """Level 4."""

    id: str
    created_event: Created


_header = msgspec.json.Decoder(Header)
_claims = msgspec.json.Decoder(Claims)
_envelope = msgspec.json.Decoder(Envelope)
_event = msgspec.json.Decoder(Event)
_payment = msgspec.json.Decoder(Payment)
_STANDARD = bytes.maketrans(b"-_", b"+/")


def _decoded(segment: bytes) -> bytes:
    return binascii.a2b_base64(segment.translate(_STANDARD) + b"=" * (-len(segment) % 4))


def create_app() -> Flask:
    """The WSGI application, configured from the environment."""
    key = cast(RSAPublicKey, load_pem_public_key(os.environ["WIX_PUBLIC_KEYS"].encode()))
    url = os.environ["DATABASE_URL"]
    own = threading.local()
    padding, digest = PKCS1v15(), SHA256()
    app = Flask(__name__)

    def cursor() -> psycopg.Cursor[Any]:
        found: psycopg.Cursor[Any] | None = getattr(own, "cursor", None)
        if found is None or found.connection.closed:
            found = own.cursor = psycopg.connect(url, autocommit=True).cursor()
        return found

    @app.post("/webhooks/wix")
    def receive() -> Response:
        """Verify and store."""
        body = request.get_data(cache=False)
        try:
            signed, signature = body.rsplit(b".", 1)
            header, claims = signed.split(b".")
            if _header.decode(_decoded(header)).alg != "RS256":
                return Response(status=401)
            key.verify(_decoded(signature), signed, padding, digest)
        except (ValueError, InvalidSignature):
            return Response(status=401)
        envelope = _envelope.decode(_claims.decode(_decoded(claims)).data)
        event = _event.decode(envelope.data)
        entity = event.created_event.entity
        payment = _payment.decode(entity)
        cursor().execute(
            STORE,
            (
                *(event.id, envelope.instance_id, payment.id, envelope.event_type, body.decode()),
                *(payment.payment_link_id, payment.revision, payment.amount, payment.currency),
                *(bytes(entity).decode(), payment.payment_link_id),
            ),
            prepare=True,
        )
        return Response(status=200)

    return app


if "DATABASE_URL" in os.environ:
    app = create_app()
