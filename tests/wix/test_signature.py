"""Only what Wix signed is taken: tokens here are made by joserfc, or by hand where no library would."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import errors as jose_errors
from joserfc import jwk, jws

from processor.errors import Rejected
from processor.wix.signature import BadKey, Refusal, decode_segment, parse_key, refuse_expired, verify
from tests import builders

KEY = parse_key(builders.public_pem())
OTHER_KEY = parse_key(builders.public_pem(builders.private_key(1)))


def segment(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def refusal(body: bytes, *keys: Any) -> str:
    with pytest.raises(Rejected) as caught:
        verify(body, keys or (KEY,))
    return caught.value.reason


@pytest.mark.fact("J1", "J2")
def test_the_documented_example_signed_by_another_library_is_accepted() -> None:
    body = builders.sign(builders.worked_example())

    verified = verify(body, (KEY,))

    assert json.loads(verified.claims) == builders.worked_example()
    assert verified.digest == hashlib.sha256(body).digest()
    assert verified.token == body.decode()


@pytest.mark.fact("J4", "J7", "U5")
def test_any_of_several_keys_serves_so_that_keys_can_be_rotated() -> None:
    body = builders.sign({"data": "{}"})

    assert verify(body, (OTHER_KEY, KEY)).token == body.decode()


def test_white_space_around_the_token_is_no_part_of_it() -> None:
    body = builders.sign({"data": "{}"})

    assert verify(b"\n" + body + b"\r\n", (KEY,)).token == body.decode()


@pytest.mark.fact("J1")
def test_an_unsigned_token_is_refused() -> None:
    header, payload, _ = builders.sign({"data": "{}"}).split(b".")
    unsigned = segment(b'{"alg":"none"}') + b"." + payload + b"."

    assert refusal(unsigned) == Refusal.ALGORITHM_REFUSED
    assert refusal(header + b"." + payload + b".") == Refusal.SIGNATURE_INVALID


def test_hmac_with_the_public_key_as_secret_is_refused() -> None:
    head = segment(b'{"alg":"HS256"}') + b"." + segment(b'{"data":"{}"}')
    mac = hmac.new(builders.public_pem().encode(), head, hashlib.sha256).digest()

    assert refusal(head + b"." + segment(mac)) == Refusal.ALGORITHM_REFUSED


@pytest.mark.fact("J1")
@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_other_algorithms_of_the_same_key_are_refused(algorithm: str) -> None:
    assert refusal(builders.sign({"data": "{}"}, alg=algorithm)) == Refusal.ALGORITHM_REFUSED


@pytest.mark.parametrize("algorithm", [None, 5, ["RS256"], "rs256", ""])
def test_an_algorithm_that_is_not_exactly_rs256_is_refused(algorithm: Any) -> None:
    _, payload, signature = builders.sign({"data": "{}"}).split(b".")
    header = segment(json.dumps({"alg": algorithm}).encode())

    assert refusal(b".".join((header, payload, signature))) == Refusal.ALGORITHM_REFUSED


def test_another_key_is_refused() -> None:
    body = builders.sign({"data": "{}"}, builders.private_key(1))

    assert refusal(body) == Refusal.SIGNATURE_INVALID


def test_a_changed_payload_is_refused() -> None:
    header, _, signature = builders.sign({"data": "{}"}).split(b".")
    forged = segment(json.dumps(builders.payment_claims(amount="0.01")).encode())

    assert refusal(b".".join((header, forged, signature))) == Refusal.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Refusal.EMPTY),
        (b"   \n", Refusal.EMPTY),
        (b"abc", Refusal.NOT_A_TOKEN),
        (b"a.b", Refusal.NOT_A_TOKEN),
        (b"a.b.c.d", Refusal.NOT_A_TOKEN),
        ("é.é.é".encode(), Refusal.NOT_A_TOKEN),
        (b"\xff\xfe.\x00.\x80", Refusal.NOT_A_TOKEN),
        (b"..", Refusal.HEADER_UNREADABLE),
        (b"!!.e30.AA", Refusal.HEADER_UNREADABLE),
        (segment(b"[]") + b".e30.AA", Refusal.HEADER_UNREADABLE),
        (segment(b"\xff\xff") + b".e30.AA", Refusal.HEADER_UNREADABLE),
        (segment(b"[" * 20_000) + b".e30.AA", Refusal.HEADER_UNREADABLE),
        (b'{"alg":"RS256"}', Refusal.NOT_A_TOKEN),
    ],
)
def test_what_is_no_token_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    assert refusal(body) == reason


@pytest.mark.parametrize(
    "spoil", [lambda s: s + b"=", lambda s: b"+" + s[1:], lambda s: s[:5] + b" " + s[5:]]
)
def test_base64url_is_read_strictly(spoil: Any) -> None:
    header, payload, signature = builders.sign({"data": "{}"}).split(b".")

    assert refusal(b".".join((header, payload, spoil(signature)))) == Refusal.SIGNATURE_MALFORMED


def test_a_critical_header_that_is_not_understood_is_refused() -> None:
    _, payload, signature = builders.sign({"data": "{}"}).split(b".")
    header = segment(b'{"alg":"RS256","crit":["b64"],"b64":false}')

    assert refusal(b".".join((header, payload, signature))) == Refusal.CRITICAL_HEADER


@given(st.data())
@settings(max_examples=150)
def test_no_change_of_a_token_is_accepted_that_an_independent_library_refuses(data: st.DataObject) -> None:
    body = bytearray(builders.sign({"data": "{}"}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    changed = bytes(body)

    try:
        verify(changed, (KEY,))
    except Rejected:
        return
    key = jwk.RSAKey.import_key(builders.public_pem())
    try:
        theirs = jws.deserialize_compact(changed.strip().decode(), key, algorithms=["RS256"])
    except (jose_errors.JoseError, ValueError) as why:
        raise AssertionError(f"we accept what joserfc refuses: {why}") from why
    assert theirs.payload == verify(changed, (KEY,)).claims


@given(st.binary(max_size=300))
def test_no_bytes_break_verification(body: bytes) -> None:
    with pytest.raises(Rejected):
        verify(body, (KEY,))


@pytest.mark.fact("J3", "J5")
def test_a_key_is_read_as_pem_or_as_base64_of_pem_or_with_escaped_line_breaks() -> None:
    pem = builders.public_pem()

    for text in (pem, base64.b64encode(pem.encode()).decode(), pem.replace("\n", "\\n"), f"  {pem}\n"):
        assert parse_key(text).public_numbers() == KEY.public_numbers()


@pytest.mark.fact("J6")
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("not a key", "neither PEM nor base64"),
        (base64.b64encode(b"hello").decode(), "not a readable PEM"),
        (builders.private_pem(builders.private_key()).decode(), "private key"),
        (builders.public_pem(builders.private_key(2, bits=1024)), "1024 bits"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not a readable PEM"),
        ("-----BEGIN PUBLIC KEY-----\né\n-----END PUBLIC KEY-----", "not a readable PEM"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode(),
            "not an RSA key",
        ),
    ],
)
def test_an_unusable_key_is_named_without_showing_it(text: str, hint: str) -> None:
    with pytest.raises(BadKey, match=hint) as caught:
        parse_key(text)

    assert "AAAA" not in str(caught.value)


@pytest.mark.fact("J11", "U5")
def test_a_token_is_taken_until_its_expiry_and_the_grace_are_over() -> None:
    refuse_expired({"exp": 1_000}, now=1_000 + 60, grace_seconds=60)

    with pytest.raises(Rejected) as caught:
        refuse_expired({"exp": 1_000}, now=1_000 + 61, grace_seconds=60)
    assert caught.value.reason == Refusal.EXPIRED


@pytest.mark.fact("J9", "J11")
@pytest.mark.parametrize("exp", [None, "soon", True, math.nan, math.inf, 10**30, [], {}])
def test_an_odd_expiry_is_not_held_against_a_signed_event(exp: Any) -> None:
    refuse_expired({"exp": exp, "iat": 9e18}, now=1e9, grace_seconds=0)
    refuse_expired({}, now=1e9, grace_seconds=0)


def test_a_segment_is_decoded_as_the_standard_says() -> None:
    assert decode_segment(b"-_8") == b"\xfb\xff"
    for wrong in (b"A", b"AA=", b"A A", b"+/8"):
        with pytest.raises(ValueError, match=r"."):
            decode_segment(wrong)


@settings(max_examples=1_000)
@given(
    st.one_of(
        st.binary(max_size=200).map(segment),
        st.text("AQgw-_az09+/= \n.", max_size=40).map(str.encode),
        st.binary(max_size=40),
    )
)
def test_a_segment_is_decoded_as_by_the_standard_library(text: bytes) -> None:
    """Whatever it holds: read alike, or refused alike."""

    def by_the_book() -> bytes:
        if set(text) & set(b"+/="):
            raise ValueError
        standard = text.replace(b"-", b"+").replace(b"_", b"/")
        return binascii.a2b_base64(standard + b"=" * (-len(text) % 4), strict_mode=True)

    try:
        expected = by_the_book()
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            decode_segment(text)
    else:
        assert decode_segment(text) == expected
