"""Signing in and out, and the account of who is signed in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import Blueprint, abort, g, make_response, redirect, render_template, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.wrappers import Response

from processor.domain.access import PASSWORD_MAX, Account, Permission, check_password
from processor.errors import NotAllowed
from processor.store import accounts
from processor.web.pages.access import account, needs, public
from processor.web.pages.site import Site, done, refused
from processor.web.pages.throttle import place_of

log = structlog.get_logger(__name__)

# From one address, so that nobody tries many; and for one name, so that many do not try one. The last would let anybody
# lock anybody out, so it does not hold for a browser in which this account signed in before (OWASP, device cookies).
BY_ADDRESS = "20 per 10 minutes"
BY_NAME = "50 per 1 hour"
BY_BOTH = "8 per 10 minutes"
OF_LIMITS = {
    BY_ADDRESS: "from one network",
    BY_NAME: "for one name",
    BY_BOTH: "for one name from one network",
}
KNOWN_SECONDS = 180 * 86_400
HASH_SECONDS = 5.0  # longest wait for others whose passwords are being checked
# Letters as JSON has them: it may travel in the session's cookie, which browsers drop beyond 4 KB.
NEXT_MAX = 1_000
_WRONG = "That name and password do not belong together."

hasher = PasswordHasher()  # Argon2id with the parameters of RFC 9106 for 64 MiB
# Each takes 64 MiB while it is checked, so those who try wait for each other.
_at_once = threading.BoundedSemaphore(2)
# Checked when there is no such account, so that the time of an answer does not tell who has one. Of a password thrown
# away; written down, as making one takes every process that serves the pages a fifth of a second.
NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$kdaHyRIsldXAMB1f/34Naw$Q0NfI2xybIpTmZQ90ebjtVzRTiC3ea9a51gogaRWDNk"


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password is the one. Takes as long for None, of an account that has none.

    Answers 503 when too many others are being checked.
    """
    try:
        with _turn():
            hasher.verify(password_hash or NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def hashed(password: str) -> str:
    """The password as it is kept. Answers 503 when too many others are being checked."""
    with _turn():
        return hasher.hash(password)


@contextmanager
def _turn() -> Iterator[None]:
    if not _at_once.acquire(timeout=HASH_SECONDS):
        abort(503)
    try:
        yield
    finally:
        _at_once.release()


def note_throttled(site: Site, spent: tuple[str, ...], name: str = "") -> None:
    """Write down that somebody may try no more, once while the limit holds: whoever tries on does not fill the log.

    spent: the limit, and what it is counted by. name: as it was typed; kept only when it is that of an account.
    """
    limit, *about = spent
    if not site.throttle.may(f"1 per {limit.partition(' per ')[2]}", "sign_in_throttled", *about):
        return
    found = None
    if name and "\0" not in name:
        with site.read() as connection:
            found = accounts.named(connection, name)
    site.guard.note(
        "sign_in_throttled",
        by=found and found[0],
        detail={"limit": f"{limit} {OF_LIMITS.get(limit, OF_LIMITS[BY_ADDRESS])}"},
        status=429,
    )


def safe_next(text: str | None) -> str:
    """Where to go after signing in: a path of these pages, the overview for anything else."""
    if not text or not text.startswith("/") or text.startswith("//") or "\\" in text:
        return "/"
    if len(text) > NEXT_MAX or len(json.dumps(text)) > NEXT_MAX + len('""'):
        return "/"
    return text if all(letter.isprintable() for letter in text) else "/"


def blueprint(site: Site) -> Blueprint:
    """`/sign-in`, `/sign-out`, `/account` and `/theme`."""
    routes = Blueprint("signing", __name__)
    database, settings = site.services.database, site.services.settings
    known = URLSafeTimedSerializer(str(settings.secret_key), salt="a browser that signed in before")
    known_cookie = "__Host-known" if settings.secure_cookies else "known"

    def is_known(held: Account | None) -> bool:
        """Whether this account signed in with this browser before."""
        try:
            told = known.loads(request.cookies.get(known_cookie, ""), max_age=KNOWN_SECONDS)
        except BadData:
            return False
        return held is not None and told == str(held.account_id)

    def make_known(answer: Response, held: Account) -> Response:
        answer.set_cookie(
            known_cookie,
            known.dumps(str(held.account_id)),
            max_age=KNOWN_SECONDS,
            httponly=True,
            samesite="Lax",
            secure=settings.secure_cookies,
        )
        return answer

    @routes.get("/sign-in")
    @public
    def sign_in() -> str | Response:
        if g.account is not None:
            return redirect(safe_next(request.args.get("next")), 303)
        return render_template("sign_in.html", wrong=None, name="", next_=safe_next(request.args.get("next")))

    @routes.post("/sign-in")
    @public
    def take_sign_in() -> tuple[str, int] | Response:
        name = request.form.get("name", "").strip()
        password = request.form.get("password", "")
        next_ = safe_next(request.form.get("next"))

        def again(words: str, status: int) -> tuple[str, int]:
            return render_template("sign_in.html", wrong=words, name=name[:100], next_=next_), status

        def too_often(spent: tuple[str, ...]) -> tuple[str, int]:
            log.warning("sign_in_throttled", request_id=g.request_id)
            note_throttled(site, spent, name)
            return again("That was tried too often. Wait ten minutes and try again.", 429)

        place, key = place_of(request.remote_addr), name.casefold()[:100]
        # What fails is counted, so that whoever signs in and out all day is never kept out.
        limits = [(BY_BOTH, "sign_in", place, key), (BY_ADDRESS, "sign_in", place)]
        for one in limits:
            if not site.throttle.has_left(*one):
                return too_often(one)
        found = None
        if name and "\0" not in name and len(password) <= PASSWORD_MAX:
            with site.read() as connection:
                found = accounts.named(connection, name)
        held, password_hash = found or (None, None)
        if not is_known(held):
            limits.append((BY_NAME, "sign_in", "name", key))
            if not site.throttle.has_left(*limits[-1]):
                return too_often(limits[-1])
        if not verify(password_hash, password) or held is None or held.is_disabled:
            for one in limits:
                site.throttle.may(*one)
            # Of a name that is none only that: it may be a password in the wrong field.
            site.guard.note("sign_in_failed", by=held, status=401)
            log.info("sign_in_failed", actor=held and held.name, request_id=g.request_id)
            return again(_WRONG, 401)
        assert password_hash is not None
        if not admit(site, held, password_hash=password_hash):
            return again(_WRONG, 401)  # it was changed while it was checked
        if hasher.check_needs_rehash(password_hash):
            stronger = hashed(password)
            with database.begin() as connection:
                accounts.set_hash(connection, held.account_id, password_hash, stronger)
        return make_known(redirect(next_, 303), held)

    @routes.post("/sign-out")
    @needs(Permission.READ)
    def sign_out() -> Response:
        site.guard.sign_out()
        return redirect(url_for("signing.sign_in"), 303)

    @routes.get("/account")
    @needs(Permission.READ)
    def own() -> str:
        settings, now = site.services.settings, site.services.now()
        with site.read() as connection:
            sessions = accounts.sessions(
                connection,
                account().account_id,
                begun_after=now - timedelta(seconds=settings.session_seconds),
                seen_after=now - timedelta(seconds=settings.session_idle_seconds),
            )
        return render_template("account.html", sessions=sessions, here=site.guard.token_digest())

    @routes.post("/account/password")
    @needs(Permission.READ)
    def change_password() -> Response:
        here = url_for("signing.own")
        held = account()
        if not site.throttle.may(BY_BOTH, "password", str(held.account_id)):
            return refused(here, "That was tried too often. Wait ten minutes and try again.")
        old, new, again = (request.form.get(name, "") for name in ("old", "new", "again"))
        with site.read() as connection:
            found = accounts.named(connection, held.name)
        if found is None or len(old) > PASSWORD_MAX or not verify(found[1], old):
            return refused(here, "The present password is another.")
        if new != again:
            return refused(here, "The new password was not typed twice alike.")
        try:
            check_password(new, held.name)
        except NotAllowed as why:
            return refused(here, why)
        password_hash = hashed(new)
        with database.begin() as connection:
            accounts.set_password(connection, held.account_id, password_hash, site.services.now())
        if not site.guard.sign_in(held.account_id, password_hash=password_hash):
            return redirect(url_for("signing.sign_in"), 303)  # changed once more, or disabled, meanwhile
        return done(here, "The password is changed. Every other session was ended.")

    @routes.post("/account/sessions/end")
    @needs(Permission.READ)
    def end_sessions() -> Response:
        with database.begin() as connection:
            accounts.end_sessions(
                connection, account().account_id, site.services.now(), but=site.guard.token_digest()
            )
        return done(url_for("signing.own"), "Every other session was ended.")

    @routes.post("/theme")
    @public
    def theme() -> Response:
        chosen = request.form.get("theme", "")
        if chosen not in ("auto", "light", "dark"):
            abort(400)
        answer = make_response(redirect(safe_next(request.form.get("next")), 303))
        if chosen == "auto":
            answer.delete_cookie("theme")
        else:
            answer.set_cookie(
                "theme",
                chosen,
                max_age=31_536_000,
                httponly=True,
                samesite="Lax",
                secure=site.services.settings.secure_cookies,
            )
        return answer

    return routes


def admit(site: Site, held: Account, *, password_hash: str | None = None) -> bool:
    """Begin a session for an account whose holder has proved to be so.

    password_hash: of the password that proved it, None for another proof. False when the account was disabled, or the
    password changed, meanwhile.
    """
    if not site.guard.sign_in(held.account_id, password_hash=password_hash):
        return False
    site.guard.note("signed_in", by=held, status=303)
    log.info("signed_in", actor=held.name, request_id=g.request_id)
    return True
