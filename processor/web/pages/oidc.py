"""Signing in by OpenID Connect: the code flow with PKCE, at one issuer. Accounts are still made here, by command.

Imported only where OIDC_ISSUER is set, since its libraries are an extra. Of what the issuer tells only the subject is
used, and nothing is kept of it but what stands in the account.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from flask import Blueprint, Response, g, make_response, redirect, render_template, request, session, url_for
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from requests import ConnectionError as RequestsConnectionError
from requests import RequestException, Session, Timeout
from werkzeug.wrappers import Response as AnyResponse

from processor.config import LOOPBACK, Settings
from processor.store import accounts
from processor.web.pages.access import public
from processor.web.pages.signing import admit, note_throttled, safe_next
from processor.web.pages.site import Site
from processor.web.pages.throttle import place_of

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 5.0  # for one answer of the issuer; somebody waits for it
KNOWN_SECONDS = 3_600.0  # for so long what the issuer says of itself is taken as it was
KEYS_AGAIN_SECONDS = 30.0  # a key we do not know makes us ask for its keys, at most so often
FAILED_SECONDS = 10.0  # for so long an issuer that did not answer is not asked again
# An issuer that is well answers sooner. Who comes while it is asked waits for that, and not for one that hangs.
BRIEF_SECONDS = 0.5
# People whose codes the issuer is asked about at once: each holds a thread that pages want, too, for ANSWER_SECONDS if
# it hangs. Who finds none of these places free for BRIEF_SECONDS is told to try again.
EXCHANGES_AT_ONCE = 4
STARTED_SECONDS = 900  # who took longer to sign in there begins anew
LEEWAY_SECONDS = 60  # that two clocks may differ
SUBJECT_MAX = 255  # letters, by OpenID Connect Core 1.0, section 2
# Only what the issuer signs with a key of its own: our secret must never be taken for one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
# Nothing can be guessed here, and a whole organisation may come from one address in the morning.
BY_ADDRESS = "300 per 10 minutes"
_STARTED = "oidc"


class NotSignedIn(Exception):
    """The issuer did not answer as it should, or what came back proves nothing. The message says why, for the log."""


class NotAnswered(NotSignedIn):
    """The issuer did not answer, or others wait for it already: nothing is known of who wants to sign in."""


T = TypeVar("T")


class Said(Generic[T]):
    """Something the issuer says, which is asked for when it is needed: by one at a time, and with no lock held.

    ask: gets it, or raises NotSignedIn, which is remembered for FAILED_SECONDS.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._is_asked = False
        self._asked_at = self._known_at = self._failed_at = float("-inf")
        self._known: T | None = None
        self._failure: NotSignedIn | None = None

    def get(self, known_seconds: float) -> T:
        """What it says, asked for anew when it is known for so long.

        Raises NotSignedIn when the issuer does not answer, did not a moment ago, or takes long to answer another who
        asks, if nothing was known before.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                if self._known is not None and now - self._known_at < known_seconds:
                    return self._known
                if self._failure is not None and now - self._failed_at < FAILED_SECONDS:
                    raise type(self._failure)(f"{self._failure} (a moment ago)")
                if not self._is_asked:
                    break
                left = self._asked_at + BRIEF_SECONDS - now
                if left > 0:
                    self._changed.wait(left)
                elif self._known is not None:
                    return self._known
                else:
                    raise NotAnswered("the issuer is being asked, and takes long to answer")
            self._is_asked, self._asked_at = True, now
        try:
            found = self._ask()
        except NotSignedIn as why:
            with self._changed:
                self._failure, self._failed_at = type(why)(str(why)), time.monotonic()
            raise
        else:
            with self._changed:
                self._known, self._known_at = found, time.monotonic()
            return found
        finally:
            with self._changed:
                self._is_asked = False
                self._changed.notify_all()


class Issuer:
    """The issuer, and what it says of itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._metadata = Said(self._ask_for_metadata)
        self._keys = Said(self._ask_for_keys)
        self._exchanges = threading.BoundedSemaphore(EXCHANGES_AT_ONCE)
        self._hung_at = float("-inf")

    @property
    def name(self) -> str:
        """Its identifier, a URL."""
        return str(self.settings.oidc_issuer)

    def metadata(self) -> dict[str, Any]:
        """What it says of itself (OpenID Connect Discovery 1.0). Raises NotSignedIn."""
        return self._metadata.get(KNOWN_SECONDS)

    def keys(self, *, is_again: bool = False) -> KeySet:
        """Its keys. is_again: one was not among those we know. Raises NotSignedIn."""
        return self._keys.get(KEYS_AGAIN_SECONDS if is_again else KNOWN_SECONDS)

    def _ask_for_metadata(self) -> dict[str, Any]:
        told = _json(f"{self.name.removesuffix('/')}/.well-known/openid-configuration")
        if told.get("issuer") != self.name:
            raise NotSignedIn("the issuer calls itself otherwise than OIDC_ISSUER")
        for endpoint in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            _check_url(told.get(endpoint), endpoint)
        return told

    def _ask_for_keys(self) -> KeySet:
        told = _json(self.metadata()["jwks_uri"])
        try:
            return KeySet.import_key_set({"keys": told["keys"]})
        except (JoseError, ValueError, KeyError, TypeError) as why:
            raise NotSignedIn("the issuer's keys cannot be read") from why

    def leave_for(self, back: str, *, state: str, nonce: str, verifier: str) -> str:
        """The address at the issuer where somebody signs in. Raises NotSignedIn."""
        address, _ = self._client(back).create_authorization_url(
            self.metadata()["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
        )
        return str(address)

    def subject_of(self, code: str, back: str, *, nonce: str, verifier: str, now: datetime) -> str:
        """Who signed in, as the issuer proves in exchange for a code. Raises NotSignedIn."""
        token = self._exchanged(code, back, verifier)
        proof = token.get("id_token") if isinstance(token, dict) else None
        if not isinstance(proof, str):
            raise NotSignedIn("the issuer gave no ID token")
        return self._subject(proof, nonce, now)

    def _exchanged(self, code: str, back: str, verifier: str) -> Any:
        """What the issuer gives for a code. Raises NotSignedIn."""
        metadata = self.metadata()
        self._leave_one_alone_that_hangs()
        if not self._exchanges.acquire(timeout=BRIEF_SECONDS):
            raise NotAnswered("the issuer is asked for others, and takes long to answer")
        try:
            self._leave_one_alone_that_hangs()  # it may have shown meanwhile that it does
            return self._client(back).fetch_token(
                metadata["token_endpoint"],
                code=code,
                code_verifier=verifier,
                grant_type="authorization_code",
                timeout=ANSWER_SECONDS,
                allow_redirects=False,
            )
        except (Timeout, RequestsConnectionError) as why:
            if isinstance(why, Timeout):
                self._hung_at = time.monotonic()
            raise NotAnswered(f"the issuer does not answer about a code: {type(why).__name__}") from why
        except (AuthlibBaseError, RequestException, ValueError) as why:
            # Not the message: it may hold what the issuer was sent.
            raise NotSignedIn(f"the issuer gave nothing for the code: {type(why).__name__}") from why
        finally:
            self._exchanges.release()

    def _leave_one_alone_that_hangs(self) -> None:
        if time.monotonic() - self._hung_at < FAILED_SECONDS:
            raise NotAnswered("the issuer did not answer about a code a moment ago")

    def _client(self, back: str) -> Any:
        known = self.metadata().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        way = "client_secret_basic" if "client_secret_basic" in known else "client_secret_post"
        return OAuth2Session(
            self.settings.oidc_client_id,
            self.settings.oidc_client_secret,
            scope="openid",
            redirect_uri=back,
            token_endpoint_auth_method=way,
            code_challenge_method="S256",
        )

    def _subject(self, proof: str, nonce: str, now: datetime) -> str:
        try:
            try:
                claims = jwt.decode(proof, self.keys(), algorithms=ALGORITHMS).claims
            except (JoseError, ValueError):
                # Signed by a key that is new, perhaps.
                claims = jwt.decode(proof, self.keys(is_again=True), algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(
                now=int(now.timestamp()),
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": self.name},
                sub={"essential": True},
                aud={"essential": True, "value": str(self.settings.oidc_client_id)},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError, TypeError, KeyError) as why:
            raise NotSignedIn(f"the ID token proves nothing: {type(why).__name__}") from why
        audience, party = claims["aud"], claims.get("azp")
        if (isinstance(audience, list) and len(audience) > 1 and party is None) or (
            party is not None and party != self.settings.oidc_client_id
        ):
            raise NotSignedIn("the ID token was issued to another")
        told = claims.get("nonce")
        if not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
            raise NotSignedIn("the ID token answers another request")
        subject = claims["sub"]
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= SUBJECT_MAX
            or not subject.isascii()
            or not subject.isprintable()
        ):
            raise NotSignedIn("the ID token has no subject that can be kept")
        return subject


def _json(url: str) -> dict[str, Any]:
    try:
        with Session() as client:
            answer = client.get(
                url, timeout=ANSWER_SECONDS, allow_redirects=False, headers={"Accept": "application/json"}
            )
        found = answer.json() if answer.status_code == 200 else None
    except (RequestException, ValueError) as why:
        raise NotAnswered(f"the issuer does not answer: {type(why).__name__}") from why
    if not isinstance(found, dict):
        raise NotAnswered(f"the issuer answered {answer.status_code} without a document")
    return found


def _check_url(value: Any, name: str) -> None:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        is_good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    except ValueError:
        is_good = False
    if not is_good:
        raise NotSignedIn(f"the issuer names no {name} that can be trusted")


def blueprint(site: Site) -> Blueprint:
    """`/sign-in/oidc` and where the issuer leads back to. settings.oidc_issuer and its neighbours must be set."""
    routes = Blueprint("oidc", __name__, url_prefix="/sign-in/oidc")
    issuer = Issuer(site.services.settings)

    def again(words: str, status: int) -> tuple[str, int]:
        return render_template("sign_in.html", wrong=words, name="", next_="/"), status

    def unproved(why: NotSignedIn | str) -> tuple[str, int]:
        site.guard.note("sign_in_failed", status=401)
        log.warning("oidc_failed", error=str(why), request_id=g.request_id)
        return again("Your organisation did not confirm who you are. Try again.", 401)

    @routes.post("")
    @public
    def begin() -> AnyResponse | tuple[str, int]:
        """Lead to the issuer by a page of ours.

        Not by a redirect: a browser holds every further redirect of a form against `form-action`, and where an issuer
        leads on to (another issuer, say) is not known here.
        """
        next_ = safe_next(request.form.get("next"))
        if g.account is not None:
            return redirect(next_, 303)
        spent = (BY_ADDRESS, "oidc", place_of(request.remote_addr))
        if not site.throttle.may(*spent):
            note_throttled(site, spent)
            return again("That was tried too often. Wait ten minutes and try again.", 429)
        started = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        try:
            address = issuer.leave_for(url_for("oidc.back", _external=True), **started)
        except NotSignedIn as why:
            log.warning("oidc_failed", error=str(why), request_id=g.request_id)
            return again("Your organisation's sign-in does not answer. Try again in a minute.", 503)
        session[_STARTED] = {**started, "next": next_, "at": int(site.services.now().timestamp())}
        answer: Response = make_response(render_template("leaving.html", address=address))
        answer.headers["Refresh"] = f"0; url={address}"
        return answer

    @routes.get("/return")
    @public
    def back() -> AnyResponse | tuple[str, int]:
        started = session.pop(_STARTED, None)
        now = site.services.now()
        spent = (BY_ADDRESS, "oidc_back", place_of(request.remote_addr))
        if not site.throttle.may(*spent):
            note_throttled(site, spent)
            return again("That was tried too often. Wait ten minutes and try again.", 429)
        if not isinstance(started, dict) or now.timestamp() - started["at"] > STARTED_SECONDS:
            return again("That sign-in was not begun in this browser, or too long ago. Try again.", 400)
        state = request.args.get("state", "")
        if not hmac.compare_digest(state.encode("utf-8", "replace"), started["state"].encode()):
            return unproved("the answer is for another request")
        if request.args.get("iss", issuer.name) != issuer.name:
            return unproved("the answer is of another issuer")
        code = request.args.get("code", "")
        if not code or len(code) > 4_000:
            return unproved("the issuer refused")
        try:
            subject = issuer.subject_of(
                code,
                url_for("oidc.back", _external=True),
                nonce=started["nonce"],
                verifier=started["verifier"],
                now=now,
            )
        except NotAnswered as why:
            log.warning("oidc_failed", error=str(why), request_id=g.request_id)
            return again("Your organisation's sign-in does not answer. Try again in a minute.", 503)
        except NotSignedIn as why:
            return unproved(why)
        with site.read() as connection:
            held = accounts.of_subject(connection, f"{issuer.name} {subject}")
        if held is None or held.is_disabled:
            site.guard.note("sign_in_failed", by=held, status=403)
            log.info("sign_in_failed", actor=held and held.name, request_id=g.request_id)
            if held is not None:
                return again("This account is disabled. Ask whoever runs this service.", 403)
            return render_template("no_account.html", subject=f"{issuer.name} {subject}"), 403
        admit(site, held)
        return redirect(safe_next(started["next"]), 303)

    return routes
