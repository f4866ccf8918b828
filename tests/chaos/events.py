"""Bodies as Wix sends them, of payments that only the ledger knows: good ones, poisonous ones and forgeries."""

from __future__ import annotations

import base64
import hmac
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from processor.wix import wire
from tests import builders
from tests.chaos.ledger import Expected, Told

CURRENCIES = (("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3))
LINKS = 400
EXPIRES_SECONDS = 300_000  # as the documented sample


def new_key() -> RSAPrivateKey:
    """A key as Wix's apps have them."""
    return generate_private_key(public_exponent=65_537, key_size=2048)


def public_text(key: RSAPrivateKey) -> str:
    """As `WIX_PUBLIC_KEYS` takes it, on one line."""
    return base64.b64encode(builders.public_pem(key).encode()).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(claims: bytes, key: RSAPrivateKey) -> bytes:
    """The body of a delivery."""
    signed = _base64url(b'{"alg":"RS256","kid":"chaos"}') + b"." + _base64url(claims)
    return signed + b"." + _base64url(key.sign(signed, PKCS1v15(), SHA256()))


@dataclass(frozen=True, slots=True)
class Forgery:
    """A body that is not Wix's, and the answer it must get."""

    told: Told
    token: bytes
    status: str


class Mint:
    """Makes bodies from a seed. sites: app instances the events are of."""

    def __init__(self, source: random.Random, sites: int = 4) -> None:
        self._random = source
        self.instances = [self.guid() for _ in range(sites)]
        self._links = [self.guid() for _ in range(LINKS)]

    def twin(self, source: random.Random) -> Mint:
        """Another mint of the same sites and links, for another thread."""
        other = Mint(source)
        other.instances, other._links = self.instances, self._links
        return other

    def guid(self) -> UUID:
        """An id nobody has."""
        return UUID(int=self._random.getrandbits(128), version=4)

    def amount(self) -> tuple[Decimal, str]:
        """Some money."""
        currency, digits = self._random.choice(CURRENCIES)
        return Decimal(self._random.randrange(1, 1_000_000)).scaleb(-digits), currency

    def life(self, instance_id: UUID, event_type: str, *, seconds_ago: float) -> bytes:
        """Claims of AppInstalled or AppRemoved."""
        inner = json.dumps({"appId": "chaos"})
        return self._claims(instance_id, event_type, inner, issued=time.time() - seconds_ago)

    def payment(
        self,
        *,
        payment_id: UUID | None = None,
        event_id: UUID | None = None,
        instance_id: UUID | None = None,
        revision: int = 1,
        link: int | None = None,
        hot: bool = False,
    ) -> Told:
        """An event of a payment: created at revision 1, updated above. hot: of one link of one site."""
        payment_id, event_id = payment_id or self.guid(), event_id or self.guid()
        place = 0 if hot else self._random.randrange(LINKS) if link is None else link
        instance_id = instance_id or self.instances[place % len(self.instances)]
        amount, currency = self.amount()
        inner = self._inner(payment_id, event_id, place, revision, f"{amount:f}", currency)
        slug = "created" if revision == 1 else "updated"
        return self._told(
            inner,
            instance_id,
            f"{wire.PAYMENT_FQDN}_{slug}",
            event_id=event_id,
            expected=Expected.BOOKED,
            payment_id=payment_id,
            revision=revision,
            amount=amount,
            currency=currency,
        )

    def _inner(
        self, payment_id: UUID, event_id: UUID, place: int, revision: int, amount: str, currency: str
    ) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        entity = builders.payment_entity(
            id=str(payment_id),
            revision=str(revision),
            amount=amount,
            currency=currency,
            paymentLinkId=str(self._links[place]),
            createdDate=f"{moment}.123Z",  # of one second all are equal
            transactionDate=f"{moment}.100Z",
        )
        slug = "created" if revision == 1 else "updated"
        return json.dumps(
            builders.event(entity, slug=slug, id=str(event_id), eventTime=f"{moment}.500Z"),
            separators=(",", ":"),
        )

    def kept(self) -> Told:
        """An event with nothing to book: about a link, or of a type nobody knows."""
        event_id = self.guid()
        instance_id = self._random.choice(self.instances)
        if self._random.random() < 0.5:
            inner = json.dumps({"id": str(event_id), "what": "something new"})
            return self._told(
                inner, instance_id, "wix.unheard.v1.of_created", event_id=event_id, expected=Expected.KEPT
            )
        link = self._random.choice(self._links)
        inner = json.dumps(
            {
                "id": str(event_id),
                "entityFqdn": "wix.paymentlinks.v1.payment_link",
                "slug": "activated",
                "entityId": str(link),
                "actionEvent": {"body": {}},
                "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            }
        )
        return self._told(
            inner,
            instance_id,
            "wix.paymentlinks.v1.payment_link_activated",
            event_id=event_id,
            expected=Expected.KEPT,
        )

    def poison(self) -> Told:
        """Authentic, and broken: it must be kept, and must not stop the others."""
        event_id, payment_id = self.guid(), self.guid()
        instance_id = self._random.choice(self.instances)
        kind = self._random.randrange(8)
        whole = self._inner(payment_id, event_id, 1, 1, "10.00", "USD")
        fields: dict[int, tuple[str, str]] = {
            0: ('"amount":"10.00"', '"amount":"1e400"'),
            1: ('"revision":"1"', f'"revision":"{10**40}"'),
            2: ('"amount":"10.00"', f'"amount":{10**300}'),
            3: ('"currency":"USD"', '"currency":"\\u0000\\ud800"'),
            4: ('"revision":"1"', '"revision":{"a":[[[[]]]]}'),
        }
        expected = Expected.KEPT
        if kind in fields:
            inner = whole.replace(*fields[kind])
        elif kind == 5:
            inner = whole[: len(whole) // 2]  # inner JSON cut off
        elif kind == 6:
            inner = json.dumps("[" * 5_000 + str(event_id))
        else:
            claims = {"data": "{not json", "iat": int(time.time()), "jti": str(event_id)}
            text = json.dumps(claims).encode()
            return Told(event_id, instance_id, sha256(text).digest(), text, Expected.UNREAD)
        return self._told(
            inner, instance_id, f"{wire.PAYMENT_FQDN}_created", event_id=event_id, expected=expected
        )

    def odd(self) -> Told:
        """Authentic and odd, but booked: NUL characters and lone surrogates where people write."""
        event_id, payment_id = self.guid(), self.guid()
        amount, currency = self.amount()
        instance_id = self.instances[1 % len(self.instances)]
        inner = self._inner(payment_id, event_id, 1, 1, f"{amount:f}", currency).replace(
            "Hedwig Eva", "Hed\\u0000wig \\ud800"
        )
        return self._told(
            inner,
            instance_id,
            f"{wire.PAYMENT_FQDN}_created",
            event_id=event_id,
            expected=Expected.BOOKED,
            payment_id=payment_id,
            revision=1,
            amount=amount,
            currency=currency,
        )

    def forgery(self, good: RSAPrivateKey, wrong: RSAPrivateKey) -> Forgery:
        """Signed by nobody we trust, or too large to be looked at."""
        real = self.payment()
        told = Told(real.event_id, real.instance_id, real.digest, real.claims, Expected.REFUSED)
        kind = self._random.randrange(5)
        segment = _base64url(real.claims)
        if kind == 0:
            return Forgery(told, sign(real.claims, wrong), "401")
        if kind == 1:
            return Forgery(told, _base64url(b'{"alg":"none"}') + b"." + segment + b".", "401")
        if kind == 2:
            signed = _base64url(b'{"alg":"HS256"}') + b"." + segment
            mac = hmac.digest(builders.public_pem(good).encode(), signed, "sha256")
            return Forgery(told, signed + b"." + _base64url(mac), "401")
        if kind == 3:
            return Forgery(told, sign(real.claims, good) + b"A" * 300_000, "413")
        claims = json.loads(real.claims)
        claims["exp"] = int(time.time()) - 30 * 86_400
        return Forgery(told, sign(json.dumps(claims).encode(), good), "401")

    def _told(
        self,
        inner: str,
        instance_id: UUID,
        event_type: str,
        *,
        event_id: UUID,
        expected: Expected,
        payment_id: UUID | None = None,
        revision: int = 0,
        amount: Decimal = Decimal(0),
        currency: str = "",
    ) -> Told:
        digest = sha256(f"{event_type}\n{inner}".encode()).digest()
        claims = self._claims(instance_id, event_type, inner, issued=time.time())
        return Told(event_id, instance_id, digest, claims, expected, payment_id, revision, amount, currency)

    def _claims(self, instance_id: UUID, event_type: str, inner: str, *, issued: float) -> bytes:
        outer = builders.envelope(inner, instanceId=str(instance_id), eventType=event_type)
        return json.dumps(
            builders.claims(outer, iat=int(issued), exp=int(issued) + EXPIRES_SECONDS), separators=(",", ":")
        ).encode()


@dataclass(frozen=True, slots=True)
class Step:
    """Bodies to send, each with the seconds to wait before and whether it is a copy that is never resent."""

    sends: Sequence[tuple[float, Told, bool]]


def next_step(mint: Mint, source: random.Random) -> Step:
    """What happens next: mostly one payment, at times something that goes wrong by itself."""
    draw = source.random()
    if draw < 0.56:
        return Step([(0.0, mint.payment(), False)])
    if draw < 0.70:  # updates before their creation, and one that comes late
        first = mint.payment()
        place = source.randrange(LINKS)
        told = [
            mint.payment(
                payment_id=first.payment_id, instance_id=first.instance_id, revision=revision, link=place
            )
            for revision in (1, 2, 3)
        ]
        source.shuffle(told)
        late = source.choice((0.0, 0.0, 2.0, 8.0))
        return Step([(0.0, told[0], False), (0.02, told[1], False), (late, told[2], False)])
    if draw < 0.84:  # at once, at both servers
        told_once = mint.payment(hot=source.random() < 0.5)
        return Step([(0.0, told_once, False), (0.0, told_once, True)])
    if draw < 0.87:  # twelve times
        often = mint.payment()
        return Step([(0.0, often, False), *((source.uniform(0, 6), often, True) for _ in range(11))])
    if draw < 0.91:  # the same event id with another body
        one = mint.payment()
        other = mint.payment(payment_id=one.payment_id, event_id=one.event_id, instance_id=one.instance_id)
        return Step([(0.0, one, False), (source.choice((0.0, 0.5)), other, False)])
    if draw < 0.94:
        return Step([(0.0, mint.poison(), False)])
    if draw < 0.96:
        return Step([(0.0, mint.odd(), False)])
    return Step([(0.0, mint.kept(), False)])
