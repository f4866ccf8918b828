"""The signed outgoing webhook, by Standard Webhooks 1.0: an id, a time and a signature of both with the body.

The receiver answers 2xx for what it has taken. It may get a message twice, under the same `webhook-id`.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2

from processor.errors import NotDelivered
from processor.outgoing import new_client, printable, retry_after, within

SECONDS_MAX = 15.0  # Standard Webhooks: 15 to 30 s
# Of the receiver as a whole: whatever is sent, it will be the same. Any other 4xx is about the one message.
OF_RECEIVER = frozenset((401, 403, 404, 405, 407, 408, 421, 425, 429))
GONE = 410


def signature(keys: Sequence[bytes], delivery_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one for each key, separated by spaces."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{b64encode(hmac.digest(key, signed, sha256)).decode()}" for key in keys)


def body_of(document: Mapping[str, Any]) -> bytes:
    """The document as it is sent: the same bytes whenever it is."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Webhook:
    """Sends messages to one URL. keys: each signs, so that the receiver may know either while they change."""

    def __init__(self, *, url: str, keys: Sequence[bytes], seconds_max: float = SECONDS_MAX) -> None:
        """seconds_max: for one attempt, from connecting to the head of the answer."""
        parts = urlsplit(url)
        self._url = url
        self._keys = tuple(keys)
        self._seconds_max = seconds_max
        self._client = new_client(f"{parts.scheme}://{parts.netloc}", seconds_max)

    def send(self, delivery_id: UUID, document: Mapping[str, Any], now: datetime) -> None:
        """Send a message. Raises NotDelivered unless it was answered 2xx."""
        body = body_of(document)
        timestamp = int(now.timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(delivery_id),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._keys, str(delivery_id), timestamp, body),
        }
        try:
            with (
                within(self._seconds_max),
                # The answer's body is nobody's: it is not read.
                self._client.stream(
                    "POST", self._url, content=body, headers=headers, auth=httpx2.Auth()
                ) as response,
            ):
                status, asked = response.status_code, response.headers.get("retry-after")
        except (TimeoutError, httpx2.TimeoutException):
            raise NotDelivered(f"the receiver did not answer within {self._seconds_max:g} s") from None
        except httpx2.ConnectError as why:
            raise NotDelivered(f"no connection to the receiver: {printable(str(why))}") from None
        except httpx2.TransportError as why:
            # Only its kind: the library's message may quote the address, which may hold a key.
            raise NotDelivered(f"the receiver could not be talked to: {type(why).__name__}") from None
        if 200 <= status < 300:
            return
        if status == GONE:
            raise NotDelivered("the receiver answered 410: it takes no more webhooks", is_final=True)
        if 300 <= status < 400:
            raise NotDelivered(f"the receiver answered {status}: redirects are not followed")
        raise NotDelivered(
            f"the receiver answered {status}",
            is_of_message=400 <= status < 500 and status not in OF_RECEIVER,
            retry_after_seconds=retry_after(asked, now),
        )

    def close(self) -> None:
        """Give connections back."""
        self._client.close()
