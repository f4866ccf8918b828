"""The two halves stay honest: a JOSE library that is neither checks what one signs and signs what the other checks.

`tests/wix/test_signature.py` holds our verifier to every form of a wrong token, and `tests/sandbox/test_delivery.py`
reads the sandbox's with the same library. Here the three meet.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import errors, jwk, jws, jwt

from processor.errors import Rejected
from processor.sandbox.keys import SigningKey
from processor.wix.signature import Refusal, parse_key, verify
from tests import builders
from tests.contract.conftest import Endpoint, Open
from tests.sandbox.wixlike import Receiver, Site, claims_of

THEIRS = SigningKey(builders.private_key())  # the sandbox signs with it
OTHER = SigningKey(builders.private_key(1))
CLAIMS = builders.payment_claims()
OUR_KEY = parse_key(THEIRS.public_pem)
LIBRARY_KEY = jwk.RSAKey.import_key(THEIRS.public_pem)


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def header(**fields: Any) -> str:
    return segment(json.dumps(fields).encode())


# -- What is right ---------------------------------------------------------------------------------


@pytest.mark.fact("J1", "J2", "J3", "J8", "J9")
def test_the_library_verifies_what_the_sandbox_delivers(site: Site, receiver: Receiver) -> None:
    site.pay(site.link()["id"])
    site.control("strays", {"kind": "test_event", "instanceId": site.instance["instanceId"]})
    assert site.control("deliveries/idle")["isIdle"]
    pem = site.http.get("/_sandbox/public-key").text

    assert len(receiver.bodies) >= 4
    for body in receiver.bodies:
        read = jwt.decode(body, jwk.RSAKey.import_key(pem), algorithms=["RS256"])
        assert read.header.keys() == {"alg", "kid"}
        assert read.claims == claims_of(body) == json.loads(verify(body.encode(), (parse_key(pem),)).claims)
        jwt.JWTClaimsRegistry(
            now=int(builders.NOW.timestamp()) + 3_600, iat={"essential": True}, exp={"essential": True}
        ).validate(read.claims)


@pytest.mark.fact("J1", "J2", "J8")
@pytest.mark.parametrize("more", [{}, {"kid": "abc"}, {"typ": "JWT", "kid": "another"}], ids=str)
def test_what_the_library_signs_is_taken_by_our_verifier_and_endpoint(
    endpoint: Endpoint, more: dict[str, Any]
) -> None:
    private = jwk.RSAKey.import_key(builders.private_pem(builders.private_key()))

    body = jwt.encode({"alg": "RS256", **more}, CLAIMS, private, algorithms=["RS256"])

    assert json.loads(verify(body.encode(), (OUR_KEY,)).claims) == CLAIMS
    assert endpoint.post(body) == 200
    assert endpoint.rows("SELECT count(*) FROM payments") == [(1,)]


def test_the_sandbox_and_the_library_sign_the_same_bytes_alike() -> None:
    """RS256 has no chance in it, so the same header and payload have one signature."""
    ours = THEIRS.sign(CLAIMS, kid="abc")
    head, payload, _ = ours.split(".")
    content = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    protected = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    private = jwk.RSAKey.import_key(builders.private_pem(builders.private_key()))

    assert jws.serialize_compact(protected, content, private, algorithms=["RS256"]) == ours


# -- What is wrong ---------------------------------------------------------------------------------


def forged() -> Iterator[tuple[str, str, Refusal]]:
    """Tokens that nobody may take, each made from one that the sandbox signed, and why we refuse it."""
    good = THEIRS.sign(CLAIMS)
    head, payload, signature = good.split(".")
    claims = segment(json.dumps(builders.payment_claims(amount="0.01")).encode())
    yield "none", f"{header(alg='none')}.{payload}.", Refusal.ALGORITHM_REFUSED
    yield "none, with the signature", f"{header(alg='none')}.{payload}.{signature}", Refusal.ALGORITHM_REFUSED
    yield "no signature", f"{head}.{payload}.", Refusal.SIGNATURE_INVALID
    for name, secret in (
        ("PEM", THEIRS.public_pem),
        ("PEM without its end", THEIRS.public_pem.strip()),
    ):
        signed = f"{header(alg='HS256')}.{payload}"
        mac = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
        yield f"HS256 with the public key ({name})", f"{signed}.{segment(mac)}", Refusal.ALGORITHM_REFUSED
    yield "another key", OTHER.sign(CLAIMS), Refusal.SIGNATURE_INVALID
    _, _, others = OTHER.sign(CLAIMS, kid=THEIRS.kid).split(".")
    yield "another key's signature", f"{head}.{payload}.{others}", Refusal.SIGNATURE_INVALID
    yield "other claims", f"{head}.{claims}.{signature}", Refusal.SIGNATURE_INVALID
    renamed = header(kid="other", alg="RS256")
    yield "another header", f"{renamed}.{payload}.{signature}", Refusal.SIGNATURE_INVALID
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    yield "another signature", f"{head}.{payload}.{flipped}", Refusal.SIGNATURE_INVALID
    yield "half a signature", f"{head}.{payload}.{signature[:172]}", Refusal.SIGNATURE_INVALID
    yield "swapped", f"{payload}.{head}.{signature}", Refusal.ALGORITHM_REFUSED
    for algorithm in ("RS384", "RS512", "PS256"):
        body = builders.sign(CLAIMS, alg=algorithm).decode()
        yield algorithm, body, Refusal.ALGORITHM_REFUSED


FORGED = list(forged())


@pytest.mark.fact("J1", "J3")
@pytest.mark.parametrize(("body", "reason"), [one[1:] for one in FORGED], ids=[one[0] for one in FORGED])
def test_what_is_forged_is_refused_by_our_verifier_and_by_the_library(body: str, reason: Refusal) -> None:
    with pytest.raises(Rejected) as caught:
        verify(body.encode(), (OUR_KEY,))
    with pytest.raises((errors.JoseError, ValueError)):
        jwt.decode(body, LIBRARY_KEY, algorithms=["RS256"])

    assert caught.value.reason == reason


def test_what_is_forged_is_answered_401_and_leaves_nothing(open_endpoint: Open) -> None:
    endpoint = open_endpoint()

    assert [endpoint.post(body) for _, body, _ in FORGED] == [401] * len(FORGED)

    for table in ("webhook_events", "unread_deliveries", "payments"):
        assert endpoint.rows(f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("kind", ["wrong_key", "expired_token"])
def test_what_the_sandbox_spoils_is_refused_by_endpoint_and_library(
    site: Site, receiver: Receiver, open_endpoint: Open, kind: str
) -> None:
    endpoint = open_endpoint(WIX_PUBLIC_KEYS=site.http.get("/_sandbox/public-key").text)
    key = jwk.RSAKey.import_key(site.http.get("/_sandbox/public-key").text)
    site.control("faults", {"kind": kind, "count": 1})

    site.link()
    site.link()
    assert site.control("deliveries/idle")["isIdle"]
    site.control("faults", method="DELETE")

    def is_taken(body: str) -> bool:
        try:
            read = jwt.decode(body, key, algorithms=["RS256"])
            jwt.JWTClaimsRegistry(now=int(builders.NOW.timestamp())).validate_exp(read.claims["exp"])
        except errors.JoseError:
            return False
        return True

    taken = [is_taken(body) for body in receiver.bodies]
    assert sorted(taken) == [False, True]
    assert [endpoint.post(body) == 200 for body in receiver.bodies] == taken
