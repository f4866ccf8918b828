"""How calls to Wix are signed in: OAuth client credentials for each app instance, or an API key of one site."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from processor.errors import WixRefused, WixUnauthorized, WixUnavailable
from processor.wix import wire
from processor.wix.transport import OnResponse, Transport

log = structlog.get_logger(__name__)

# Wix's own SDK uses a token until its last second; a call under way must not outlive its token.
REFRESH_BEFORE_SECONDS = 600.0
REFRESH_BEFORE_SHARE = 0.2  # of a token that lives shorter than documented
# After a refresh failed while the old token still serves: do not ask again with every call.
REFRESH_AGAIN_SECONDS = 30.0


class Credentials(Protocol):
    """What a client needs to sign its calls in."""

    def headers(self, instance_id: UUID) -> dict[str, str]:
        """Headers for a call on behalf of the instance. Raises WixUnauthorized, WixUnavailable."""
        ...

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> bool:
        """Wix refused these headers. Returns whether others can be had, so that one more try makes sense."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeyCredentials:
    """An API key of the site's owner, for one site (Wix docs, "About API Keys"). It does not expire."""

    api_key: str = field(repr=False)
    site_id: str

    def headers(self, instance_id: UUID) -> dict[str, str]:
        """The same for every call."""
        return {"Authorization": self.api_key, "wix-site-id": self.site_id}

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> bool:
        """There is no other key."""
        return False

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _Slot:
    """One instance's token. Moments are of the monotonic clock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str | None = None
    expires: float = 0.0
    refresh_from: float = 0.0


class OAuthCredentials:
    """Tokens by client credentials, one per app instance, kept until shortly before they expire.

    Wix gives tokens of 14,400 seconds and no refresh token (Wix docs, "Create Access Token"). Threads that
    need a token of the same instance wait for one request; other instances do not wait.
    """

    def __init__(
        self, *, app_id: str, app_secret: str, base_url: str, timeout_seconds: float, on_response: OnResponse
    ) -> None:
        self._app_id = app_id
        self._app_secret = app_secret
        self._transport = Transport(
            base_url=base_url, timeout_seconds=timeout_seconds, on_response=on_response
        )
        self._slots: dict[UUID, _Slot] = {}
        self._lock = threading.Lock()

    def headers(self, instance_id: UUID) -> dict[str, str]:
        """A bearer token of the instance. Raises WixUnauthorized, WixUnavailable."""
        slot = self._slot(instance_id)
        token = slot.token
        now = time.monotonic()
        if token is None or now >= slot.refresh_from:
            token = self._refreshed(instance_id, slot)
        # Wix's SDK sends the bare token, without a scheme word.
        return {"Authorization": token}

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> bool:
        """Drop the token these headers carried, unless another thread has a newer one already."""
        slot = self._slot(instance_id)
        with slot.lock:
            if slot.token == headers.get("Authorization"):
                slot.token = None
        return True

    def close(self) -> None:
        """Give connections back."""
        self._transport.close()

    def _slot(self, instance_id: UUID) -> _Slot:
        with self._lock:
            return self._slots.setdefault(instance_id, _Slot())

    def _refreshed(self, instance_id: UUID, slot: _Slot) -> str:
        with slot.lock:
            now = time.monotonic()
            if slot.token is not None and now < slot.refresh_from:
                return slot.token  # another thread was faster
            try:
                told = self._fetch(instance_id)
            except WixUnavailable as why:
                if slot.token is None or now >= slot.expires:
                    raise
                log.warning("token_not_refreshed", instance_id=str(instance_id), why=str(why))
                slot.refresh_from = now + REFRESH_AGAIN_SECONDS
                return slot.token
            margin = min(REFRESH_BEFORE_SECONDS, told.expires_in * REFRESH_BEFORE_SHARE)
            slot.token = told.access_token
            slot.expires = now + told.expires_in
            slot.refresh_from = slot.expires - margin
            return told.access_token

    def _fetch(self, instance_id: UUID) -> wire.TokenAnswer:
        try:
            body = self._transport.call(
                "create_token",
                "POST",
                wire.PATH_TOKEN,
                headers={},
                body={
                    "grant_type": "client_credentials",
                    "client_id": self._app_id,
                    "client_secret": self._app_secret,
                    "instance_id": str(instance_id),
                },
                is_repeatable=True,
            )
        except WixRefused as why:
            # Whatever is wrong with the request, it is the app's id, secret or instance.
            raise WixUnauthorized(
                f"no token for instance {instance_id}: {why}",
                status=why.status,
                code=why.code,
                request_id=why.request_id,
            ) from None
        try:
            told = msgspec.convert(body, wire.TokenAnswer)
        except msgspec.ValidationError:
            raise WixUnavailable("create_token: Wix's answer has another shape than documented") from None
        if not told.access_token.isascii() or not told.access_token.isprintable() or told.expires_in <= 0:
            raise WixUnavailable("create_token: Wix's answer holds no usable token")
        return told
