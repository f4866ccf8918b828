"""How calls to Wix are signed in: OAuth client credentials for each app instance, or an API key of one site."""

from __future__ import annotations

import copy
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from processor.errors import ConfigurationError, WixError, WixRefused, WixUnauthorized, WixUnavailable
from processor.wix import wire
from processor.wix.client import Http, OnResponse

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

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> None:
        """Wix refused these headers: do not give them again if others can be had."""
        ...

    @property
    def seconds_max(self) -> float:
        """The longest that `headers` can take."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeyCredentials:
    """An API key of the site's owner, for one site (Wix docs, "About API Keys"). It does not expire.

    instance_id: the app instance on that site. Wix takes the key whatever instance a call is meant for, so
    a call for any other is refused here: it would vouch for an instance that does not exist. Raises
    ConfigurationError for what cannot stand in a header.
    """

    api_key: str = field(repr=False)
    site_id: str
    instance_id: UUID

    def __post_init__(self) -> None:
        for name, value in (("WIX_API_KEY", self.api_key), ("WIX_SITE_ID", self.site_id)):
            if not _is_header(value):
                raise ConfigurationError(f"{name} has characters that cannot be sent: copy it again")

    def headers(self, instance_id: UUID) -> dict[str, str]:
        """The same for every call. Raises WixUnauthorized for an instance the key does not speak for."""
        if instance_id != self.instance_id:
            raise WixUnauthorized(f"the API key is not for instance {instance_id}: see WIX_INSTANCE_ID")
        return {"Authorization": self.api_key, "wix-site-id": self.site_id}

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> None:
        """There is no other key."""

    @property
    def seconds_max(self) -> float:
        """Nothing is asked of anybody."""
        return 0.0

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _Slot:
    """One instance's token. Moments are of the clock; fetches counts how often one was asked for.

    failure: why the latest fetch failed, None when it did not.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str | None = None
    expires: float = 0.0
    refresh_from: float = 0.0
    fetches: int = 0
    failure: WixError | None = None


class OAuthCredentials:
    """Tokens by client credentials, one per app instance, kept until shortly before they expire.

    Wix gives tokens of 14,400 seconds and no refresh token (Wix docs, "Create Access Token"). Threads that
    need a token of the same instance wait for one request; other instances do not wait.
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        base_url: str,
        timeout_seconds: float,
        on_response: OnResponse,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds that never go back."""
        self._app_id = app_id
        self._app_secret = app_secret
        self._http = Http(base_url=base_url, timeout_seconds=timeout_seconds, on_response=on_response)
        self._clock = clock
        self._kept: tuple[int, threading.Lock, dict[UUID, _Slot]] = (os.getpid(), threading.Lock(), {})

    @property
    def seconds_max(self) -> float:
        """The longest that `headers` can take: waiting for another thread's refresh, then for our own."""
        return 2 * self._http.call_seconds_max

    def headers(self, instance_id: UUID) -> dict[str, str]:
        """A token of the instance. Raises WixUnauthorized, WixUnavailable."""
        # Wix's SDK sends the bare token, without a scheme word.
        return {"Authorization": self._token(instance_id, self._slot(instance_id))}

    def forget(self, instance_id: UUID, headers: Mapping[str, str]) -> None:
        """Drop the token these headers carried, unless another thread has a newer one already."""
        slot = self._slot(instance_id)
        with slot.lock:
            if slot.token == headers.get("Authorization"):
                slot.token = None

    def close(self) -> None:
        """Give connections back."""
        self._http.close()

    def _slot(self, instance_id: UUID) -> _Slot:
        if self._kept[0] != os.getpid():
            # A lock may have been held by another thread at the moment of the fork, and would be for ever.
            self._kept = (os.getpid(), threading.Lock(), {})
        _, lock, slots = self._kept
        with lock:
            return slots.setdefault(instance_id, _Slot())

    def _token(self, instance_id: UUID, slot: _Slot) -> str:
        token, fetches, now = slot.token, slot.fetches, self._clock()
        if token is not None and now < slot.refresh_from:
            return token
        is_usable = token is not None and now < slot.expires
        # One thread refreshes early, the others need not wait for it.
        if not slot.lock.acquire(blocking=not is_usable):
            assert token is not None
            return token
        try:
            if slot.token is not None and self._clock() < slot.refresh_from:
                return slot.token  # another thread was faster
            if slot.fetches != fetches and slot.failure is not None:
                # Asked while we waited, in vain. Each asking by itself would make the last wait for all.
                raise copy.copy(slot.failure)
            return self._refreshed(instance_id, slot)
        finally:
            slot.lock.release()

    def _refreshed(self, instance_id: UUID, slot: _Slot) -> str:
        """A new token, or the old one when that still serves and Wix does not answer. The lock is held."""
        now = self._clock()
        try:
            told = self._fetch(instance_id)
        except WixError as why:
            slot.fetches += 1
            slot.failure = why
            if not isinstance(why, WixUnavailable) or slot.token is None or self._clock() >= slot.expires:
                raise
            log.warning("token_not_refreshed", instance_id=str(instance_id), why=str(why))
            slot.refresh_from = self._clock() + REFRESH_AGAIN_SECONDS
            return slot.token
        slot.fetches += 1
        slot.failure = None
        slot.token = told.access_token
        slot.expires = now + told.expires_in
        slot.refresh_from = slot.expires - min(REFRESH_BEFORE_SECONDS, told.expires_in * REFRESH_BEFORE_SHARE)
        return told.access_token

    def _fetch(self, instance_id: UUID) -> wire.TokenAnswer:
        try:
            body = self._http.call(
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
        except (WixRefused, WixUnauthorized) as why:
            # Whatever is wrong with the request, it is the app's id, secret or instance. The code is Wix's
            # own word; should it quote the secret, we do not.
            code = why.code if why.code and self._app_secret not in why.code else None
            request = f" [request {why.request_id}]" if why.request_id else ""
            raise WixUnauthorized(
                f"create_token: Wix refused a token for instance {instance_id}:"
                f" {why.status}{f' {code}' if code else ''}{request}",
                status=why.status,
                code=code,
                request_id=why.request_id,
            ) from None
        try:
            told = msgspec.convert(body, wire.TokenAnswer, strict=False)
        except (msgspec.ValidationError, OverflowError):
            raise WixUnavailable(
                "create_token: Wix's answer has another shape than documented", status=200
            ) from None
        if not _is_header(told.access_token) or not (math.isfinite(told.expires_in) and told.expires_in > 0):
            raise WixUnavailable("create_token: Wix's answer holds no usable token", status=200)
        return told


def _is_header(value: str) -> bool:
    """Whether the text can be sent as a header's value."""
    return bool(value) and value.isascii() and value.isprintable() and value == value.strip()
