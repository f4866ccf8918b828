"""Was this body signed by Wix? RS256 only, one compact form, keys parsed once. Pure: no I/O, no clock.

Wix signs a webhook as one compact JWT that is the whole body; there is no signature header and no key
server, so the app's public keys are configured (Wix docs, "About Webhooks"; `docs/wix.md`). The checks
are done with `cryptography` directly: a general JWT library costs several times the verification and
offers algorithms that must never be accepted here. Tests hold this module against an independent one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

import pybase64
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from processor.errors import Rejected
from processor.wix.wire import NotJson, decode_json

RSA_BITS_MIN = 2048  # the size of every published Wix app key; JOSE libraries refuse less

_PADDING, _HASH = PKCS1v15(), SHA256()
# Headers found good before: Wix writes the same one for years.
_accepted: set[bytes] = set()
_ACCEPTED_MAX = 64


class Refusal(StrEnum):
    """Why a body does not prove that Wix sent it. Answered 401."""

    EMPTY = "body_empty"
    NOT_A_TOKEN = "not_a_token"
    HEADER_UNREADABLE = "header_unreadable"
    ALGORITHM_REFUSED = "algorithm_refused"
    CRITICAL_HEADER = "critical_header_unknown"
    SIGNATURE_MALFORMED = "signature_malformed"
    SIGNATURE_INVALID = "signature_invalid"
    EXPIRED = "expired"


class BadKey(ValueError):
    """A configured public key cannot be used; the message says what to do, never with the key."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature is Wix's.

    token: the compact form as received. claims: the second segment decoded from base64, not yet read
    as JSON. digest: SHA-256 of the token, 32 bytes.
    """

    token: str
    claims: bytes
    digest: bytes


def parse_key(text: str) -> RSAPublicKey:
    """One RSA public key from PEM, or from base64 of PEM on one line (both forms appear in Wix's docs).

    Raises BadKey.
    """
    pem = text.strip().replace("\\n", "\n")
    if "-----BEGIN" not in pem:
        try:
            pem = base64.b64decode("".join(pem.split()), validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            raise BadKey(
                "neither PEM nor base64 of PEM: copy the public key from the app's Webhooks page"
            ) from None
    if "PRIVATE KEY" in pem:
        raise BadKey("a private key: configure the PUBLIC key of the app, and replace this one at once")
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, UnicodeEncodeError):
        raise BadKey("not a readable PEM public key: copy it whole, BEGIN and END lines included") from None
    if not isinstance(key, RSAPublicKey):
        raise BadKey("not an RSA key: Wix signs webhooks with RS256")
    if key.key_size < RSA_BITS_MIN:
        raise BadKey(f"an RSA key of {key.key_size} bits: Wix uses {RSA_BITS_MIN}")
    return key


# `hashlib` hands the interpreter to another thread for longer pieces, which costs more than the hash itself.
_PIECE = 2_047
_PIECES_MAX = 16


def digest(body: bytes) -> bytes:
    """SHA-256 of a body as received, 32 bytes."""
    if len(body) > _PIECES_MAX * _PIECE:
        return sha256(body).digest()
    pieces = memoryview(body)
    state = sha256(pieces[:_PIECE])
    for start in range(_PIECE, len(body), _PIECE):
        state.update(pieces[start : start + _PIECE])
    return state.digest()


def decode_segment(segment: bytes) -> bytes:
    """Strict base64url without padding (RFC 7515, section 2). Raises ValueError."""
    if b"+" in segment or b"/" in segment or b"=" in segment:
        raise ValueError("not base64url")
    # A seventh of the time of the standard library's, which was a tenth of all our work for an event.
    return pybase64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def verify(body: bytes, keys: Sequence[RSAPublicKey]) -> Verified:
    """Check that one of `keys` signed `body`. Raises Rejected with a `Refusal`.

    Times are not judged here: see `refuse_expired`. `kid` is ignored, since Wix publishes no key set to
    look it up in; every key is tried, so that old and new both serve during a rotation.
    """
    body = body.strip()
    if not body:
        raise Rejected(Refusal.EMPTY)
    segments = body.split(b".")
    if len(segments) != 3 or not body.isascii():
        raise Rejected(Refusal.NOT_A_TOKEN, f"{len(segments)} segments")
    header_segment, claims_segment, signature_segment = segments
    if header_segment not in _accepted:
        _check_header(header_segment)
        if len(_accepted) < _ACCEPTED_MAX and len(header_segment) <= _PIECE:
            _accepted.add(header_segment)
    try:
        signature = decode_segment(signature_segment)
        claims = decode_segment(claims_segment)
    except ValueError:
        raise Rejected(Refusal.SIGNATURE_MALFORMED, "not base64url") from None
    signed = body[: len(header_segment) + 1 + len(claims_segment)]
    for key in keys:
        try:
            key.verify(signature, signed, _PADDING, _HASH)
        except InvalidSignature:
            continue
        return Verified(token=body.decode("ascii"), claims=claims, digest=digest(body))
    raise Rejected(Refusal.SIGNATURE_INVALID, f"{len(keys)} keys tried")


def _check_header(segment: bytes) -> None:
    try:
        header: Any = decode_json(decode_segment(segment))
    except (ValueError, NotJson):
        raise Rejected(Refusal.HEADER_UNREADABLE) from None
    if not isinstance(header, dict):
        raise Rejected(Refusal.HEADER_UNREADABLE, "not an object")
    # The algorithm is ours to choose, never the token's: only the one Wix uses gets as far as a key.
    if header.get("alg") != "RS256":
        raise Rejected(Refusal.ALGORITHM_REFUSED)
    if "crit" in header:  # RFC 7515, 4.1.11: what is not understood must be refused
        raise Rejected(Refusal.CRITICAL_HEADER)


def refuse_expired(claims: dict[str, Any], *, now: float, grace_seconds: float) -> None:
    """Raise Rejected when `exp` lies more than `grace_seconds` before `now` (Unix seconds).

    A missing or non-numeric `exp` and an `iat` in the future are accepted: Wix's own verifier does not
    require them. The grace spans the resend schedule, since a late resend may carry its first expiry
    and the event id already makes a replay harmless.
    """
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return
    if expires + grace_seconds < now:
        raise Rejected(Refusal.EXPIRED)
