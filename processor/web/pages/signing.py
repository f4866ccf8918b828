"""Signing in and out, and the account of who is signed in."""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import Blueprint, abort, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from processor.domain.access import PASSWORD_MAX, Account, Permission, check_password
from processor.errors import NotAllowed
from processor.store import accounts
from processor.web.pages.access import account, needs, public
from processor.web.pages.site import Site, done, refused

log = structlog.get_logger(__name__)

# From one address, so that nobody tries many; and for one name, so that many do not try one. An owner who is locked
# out by others can be let in by another address only until the second is reached, which is far above what one mistypes.
BY_ADDRESS = "20 per 10 minutes"
BY_NAME = "50 per 1 hour"
BY_BOTH = "8 per 10 minutes"
_WRONG = "That name and password do not belong together."

hasher = PasswordHasher()  # Argon2id with the parameters of RFC 9106 for 64 MiB
# Each takes 64 MiB while it is checked, so those who try wait for each other.
_at_once = threading.BoundedSemaphore(2)
# Checked when there is no such account, so that the time of an answer does not tell who has one.
_NOBODY = hasher.hash("nobody has this password")


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password is the one. Takes as long for None, of an account that has none."""
    try:
        with _at_once:
            hasher.verify(password_hash or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def safe_next(text: str | None) -> str:
    """Where to go after signing in: a path of these pages, the overview for anything else."""
    if not text or not text.startswith("/") or text.startswith("//") or "\\" in text:
        return "/"
    return text if all(letter.isprintable() for letter in text) else "/"


def blueprint(site: Site) -> Blueprint:
    """`/sign-in`, `/sign-out`, `/account` and `/theme`."""
    routes = Blueprint("signing", __name__)
    database = site.services.database

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

        address = request.remote_addr or ""
        key = name.casefold()[:100]
        may = site.throttle.may
        if not (
            may(BY_BOTH, "sign_in", address, key)
            and may(BY_ADDRESS, "sign_in", address)
            and may(BY_NAME, "sign_in", "name", key)
        ):
            log.warning("sign_in_throttled", request_id=g.request_id)
            return again("That was tried too often. Wait ten minutes and try again.", 429)
        found = None
        if name and "\0" not in name and len(password) <= PASSWORD_MAX:
            with site.read() as connection:
                found = accounts.named(connection, name)
        held, password_hash = found or (None, None)
        if not verify(password_hash, password) or held is None or held.is_disabled:
            # Of a name that is none only that: it may be a password in the wrong field.
            site.guard.note("sign_in_failed", by=held, status=401)
            log.info("sign_in_failed", actor=held and held.name, request_id=g.request_id)
            return again(_WRONG, 401)
        assert password_hash is not None
        if hasher.check_needs_rehash(password_hash):
            with database.begin() as connection:
                accounts.set_hash(connection, held.account_id, password_hash, hasher.hash(password))
        admit(site, held)
        return redirect(next_, 303)

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
        with database.begin() as connection:
            accounts.set_password(connection, held.account_id, hasher.hash(new), site.services.now())
        site.guard.sign_in(held.account_id)
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


def admit(site: Site, held: Account) -> None:
    """Begin a session for an account whose holder has proved to be so."""
    site.guard.sign_in(held.account_id)
    site.guard.note("signed_in", by=held, status=303)
    log.info("signed_in", actor=held.name, request_id=g.request_id)
