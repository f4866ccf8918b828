"""The pretend Wix's signature: an RSA key for each app, and RS256 tokens as Wix makes them. Own code, on purpose.

What checks these tokens elsewhere must not share a line with what makes them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key of 2048 bits, the size of every published Wix app key."""

    private: rsa.RSAPrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key."""
        return cls(rsa.generate_private_key(public_exponent=65_537, key_size=2048))

    @classmethod
    def load(cls, pem: str) -> SigningKey:
        """The key that `private_pem` gave."""
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return cls(key)

    @property
    def private_pem(self) -> str:
        """For keeping the key over a restart."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @property
    def public_pem(self) -> str:
        """What a developer copies from the app's Webhooks page."""
        return (
            self.private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @property
    def kid(self) -> str:
        """A short opaque name of the key, as in Wix's sample header."""
        return hashlib.sha256(self.public_pem.encode()).hexdigest()[:8]

    def sign(self, claims: dict[str, Any], *, kid: str | None = None) -> str:
        """`claims` as a compact JWT. Wix's header has `kid` and `alg`, and no `typ`."""
        header = {"kid": kid or self.kid, "alg": "RS256"}
        signed = f"{_segment(_json(header))}.{_segment(_json(claims))}"
        signature = self.private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_segment(signature)}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
