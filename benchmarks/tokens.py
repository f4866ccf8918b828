"""Signed deliveries for a load: distinct events as Wix sends them, of 20,000 links with skew, made by every core.

A quarter of the links gets more than half of the payments. The events follow from the seed; the RSA key is a new one
each time, since nothing is measured that depends on it.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import random
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

LINKS = 20_000
SITES = 8
SKEW = 2.5
CHUNK = 1_000  # tokens made in one go, each chunk from a seed of its own
EXPIRES_SECONDS = 30 * 86_400  # no run may outlive its tokens
NAMES = ("Hedwig Eva", "John Doe", "Ana María Núñez", "Li Wei", "Oluwaseun Adeyemi", "Émilie Dubois")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is known of one body."""

    event_id: UUID
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class Tokens:
    """file: of bodies, each behind its length. deliveries: one for each body, in order. public_key: PEM.

    links: where the events belong to; the link in place n is of the site in place n modulo SITES.
    """

    file: Path
    deliveries: list[Delivery]
    sites: list[UUID]
    links: list[UUID]
    public_key: str
    mean_bytes: float


def _guid(source: random.Random) -> str:
    return str(UUID(int=source.getrandbits(128), version=4))


def _places(seed: int) -> tuple[list[str], list[str]]:
    source = random.Random(seed)  # noqa: S311 (events, not secrets)
    return [_guid(source) for _ in range(SITES)], [_guid(source) for _ in range(LINKS)]


def _claims(source: random.Random, sites: list[str], links: list[str], now: int) -> tuple[str, str, bytes]:
    event_id, payment_id = _guid(source), _guid(source)
    place = int(LINKS * source.random() ** SKEW)
    name = source.choice(NAMES)
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - source.randrange(3_600)))
    entity = {
        "id": payment_id,
        "revision": "1",
        "createdDate": f"{when}.123Z",
        "transactionDate": f"{when}.100Z",
        "amount": f"{source.randrange(1, 100_000) / 100:.2f}",
        "currency": "USD",
        "paymentLinkId": links[place],
        "receiptId": _guid(source),
        "type": "REGULAR",
        "regularPaymentLinkPayment": {
            "method": "CREDIT_CARD",
            "paymentMethod": "creditCard",
            "paymentProvider": "Credit/Debit Cards",
            "contactDetails": {
                "firstName": name.split()[0],
                "lastName": name.split()[-1],
                "fullName": name,
                "phone": f"+1{source.randrange(10**9, 10**10)}",
                "company": "Green Car Toys",
                "email": f"buyer{source.randrange(10**9)}@example.com",
                "vatId": {"id": str(source.randrange(10**8)), "type": "CPF"},
            },
            "billingAddress": {
                "country": "US",
                "subdivision": "NY",
                "city": "New York City",
                "postalCode": "10000",
                "streetAddress": {"number": "1234", "name": "Example", "apt": "12A"},
                "formattedAddress": "NY, Example 12A",
            },
            "creditCardPaymentMethodData": {
                "network": "visa",
                "maskedCreditCard": f"**** **** **** {source.randrange(10_000):04}",
                "holderName": name,
            },
            "order": {"type": "ECOM", "ecomOrder": {"ecomOrderId": _guid(source)}},
        },
        "ecomCheckout": {"ecomCheckoutId": _guid(source)},
    }
    event = {
        "id": event_id,
        "entityFqdn": "wix.paymentlinks.payments.v1.payment_link_payment",
        "slug": "created",
        "entityId": payment_id,
        "createdEvent": {"entity": entity},
        "eventTime": f"{when}.500Z",
        "triggeredByAnonymizeRequest": False,
        "originatedFrom": "",
        "entityEventSequence": "1",
    }
    envelope = {
        "data": json.dumps(event, separators=(",", ":")),
        "instanceId": sites[place % SITES],
        "eventType": "wix.paymentlinks.payments.v1.payment_link_payment_created",
        "identity": json.dumps({"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": _guid(source)}),
        "accountInfo": {"accountId": _guid(source), "siteId": _guid(source)},
    }
    claims = {
        "data": json.dumps(envelope, separators=(",", ":")),
        "iat": now,
        "exp": now + EXPIRES_SECONDS,
    }
    return event_id, payment_id, json.dumps(claims, separators=(",", ":")).encode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _chunk(
    chunk: tuple[int, int], *, seed: int, pem: bytes, now: int, duplicates: float
) -> tuple[bytes, list[tuple[str, str]]]:
    """`size` bodies of chunk `number`, as they stand in the file, and their events and payments."""
    number, size = chunk
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    sites, links = _places(seed)
    source = random.Random(f"{seed}/{number}")  # noqa: S311
    header = _base64url(b'{"alg":"RS256","kid":"bench"}')
    out, made = bytearray(), list[tuple[str, str]]()
    body = b""
    while len(made) < size:
        if made and source.random() < duplicates:
            made.append(made[-1])
        else:
            event_id, payment_id, claims = _claims(source, sites, links, now)
            signed = header + b"." + _base64url(claims)
            body = signed + b"." + _base64url(key.sign(signed, PKCS1v15(), SHA256()))
            made.append((event_id, payment_id))
        out += struct.pack("<I", len(body)) + body
    return bytes(out), made


def make(file: Path, count: int, *, seed: int, duplicates: float) -> Tokens:
    """Write `count` bodies to `file`. duplicates: share of bodies that repeat the one before."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    chunks = [(number, min(CHUNK, count - at)) for number, at in enumerate(range(0, count, CHUNK))]
    work = partial(_chunk, seed=seed, pem=pem, now=int(time.time()), duplicates=duplicates)
    deliveries: list[Delivery] = []
    size = 0
    with (
        file.open("wb") as out,
        ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
    ):
        for bodies, made in pool.map(work, chunks):
            out.write(bodies)
            size += len(bodies) - 4 * len(made)
            deliveries += [Delivery(UUID(event_id), UUID(payment_id)) for event_id, payment_id in made]
    sites, links = _places(seed)
    return Tokens(
        file, deliveries, list(map(UUID, sites)), list(map(UUID, links)), public_pem.decode(), size / count
    )


def bodies_of(file: Path) -> list[tuple[int, int]]:
    """Where each body of a file begins, its length before it included, and how long both are."""
    found: list[tuple[int, int]] = []
    size = file.stat().st_size
    with file.open("rb") as source:
        at = 0
        while at < size:
            source.seek(at)
            [length] = struct.unpack("<I", source.read(4))
            found.append((at, 4 + length))
            at += 4 + length
    return found


def write_some(source: Path, target: Path, places: Sequence[int]) -> None:
    """Write the bodies in these places of `source` to `target`, in the order given."""
    where = bodies_of(source)
    with (
        source.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held,
        target.open("wb") as out,
    ):
        for place in places:
            at, size = where[place]
            out.write(held[at : at + size])
