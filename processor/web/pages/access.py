"""Who may open a page, and who asked for what. Nothing is open that does not say what it needs.

A view says so by `needs`, or is `public`; a test walks every route. Whatever is about an app instance has it in its
path as `instance_id`, and does not exist for who may not see it. What changes something is a POST with a token, and is
written down in `actions` before it is done.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from flask import Flask, Response, abort, current_app, g, redirect, request, session, url_for
from flask_wtf.csrf import CSRFProtect
from werkzeug.wrappers import Response as AnyResponse

from processor.domain.access import Account, Permission, Reach
from processor.errors import StoreUnavailable
from processor.store import accounts, actions
from processor.store.accounts import Session
from processor.web.pages.masking import masked_but_ids
from processor.wiring import Services

log = structlog.get_logger(__name__)
View = TypeVar("View", bound=Callable[..., Any])

TOUCH = timedelta(minutes=1)  # how exactly the last request of a session is known
KEPT_MAX = 200  # letters kept of one field in `actions`
_COOKIE = "session_token"
# Dates and amounts, which would be taken for numbers of telephones or cards.
_HARMLESS = re.compile(r"\d{4}-\d{2}-\d{2}|-?\d{1,9}\.\d{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a view asks of who calls it. permission: None when anybody may.

    keeps: fields of the form that are written down with the action, as they were typed but for what looks personal;
    never those that are personal, and no free text. is_recorded: written down though it changes nothing, or not though
    it is a POST, as filling in a form is; None for what is when it is a POST. What a role does not allow is written
    down of any POST. is_live: called by the page itself every few seconds, so it keeps no session alive.
    """

    permission: Permission | None
    keeps: tuple[str, ...] = ()
    is_recorded: bool | None = None
    is_live: bool = False

    def records(self, method: str) -> bool:
        """Whether a call by this method is written down."""
        return method == "POST" if self.is_recorded is None else self.is_recorded


def needs(
    permission: Permission,
    *,
    keeps: tuple[str, ...] = (),
    is_recorded: bool | None = None,
    is_live: bool = False,
) -> Callable[[View], View]:
    """Let a view be called only by who has this permission; see `Needs`."""

    def mark(view: View) -> View:
        view.needs = Needs(permission, keeps, is_recorded, is_live)  # type: ignore[attr-defined]
        return view

    return mark


def public(view: View) -> View:
    """Let anybody call a view."""
    view.needs = Needs(None)  # type: ignore[attr-defined]
    return view


def account() -> Account:
    """Who is signed in; only in views that need a permission."""
    held: Account = g.account
    return held


def reach() -> Reach:
    """The instances that who is signed in may see."""
    return account().reach


def check_instance(instance_id: UUID) -> UUID:
    """The same id. Answers 404 when who is signed in may not see that instance."""
    if not reach().holds(instance_id):
        abort(404)
    return instance_id


def made(what: UUID | int) -> None:
    """Write down with the answer what this action made: a link's id, or the version of rules."""
    g.made = str(what)


def _asks_by_itself() -> bool:
    """Whether a part of a page asks, as one that waits does every second: people ask by links, buttons and forms."""
    return request.headers.get("HX-Source", "").startswith(("div#", "section#"))


def digest(token: str) -> bytes:
    """What is stored of a session's token."""
    return hashlib.sha256(token.encode()).digest()


class Guard:
    """Stands before every view of the pages."""

    def __init__(self, app: Flask, services: Services) -> None:
        self._services = services
        self._csrf = CSRFProtect(app)
        app.before_request(self._admit)
        app.after_request(self._finish)

    def sign_in(self, account_id: UUID, *, password_hash: str | None = None) -> bool:
        """Begin a session in this browser, and end the one that was; see `accounts.begin_session`."""
        self.sign_out()
        token = secrets.token_urlsafe(32)
        with self._services.database.begin() as connection:
            is_in = accounts.begin_session(
                connection, account_id, digest(token), self._services.now(), password_hash=password_hash
            )
        session.clear()  # with it the token of forms that another may have planted
        if is_in:
            session[_COOKIE] = token
        return is_in

    def sign_out(self) -> None:
        """End the session of this browser."""
        if token := session.pop(_COOKIE, None):
            with self._services.database.begin() as connection:
                accounts.end_session(connection, digest(token), self._services.now())
        session.clear()

    def token_digest(self) -> bytes:
        """The digest of this browser's session."""
        return digest(str(session.get(_COOKIE, "")))

    def note(
        self, action: str, *, by: Account | None = None, detail: dict[str, Any] | None = None, status: int
    ) -> None:
        """Write down what no view of its own stands for, such as a failed sign-in."""
        with self._services.database.begin() as connection:
            actions.note(
                connection,
                by,
                action,
                request_id=g.request_id,
                now=self._services.now(),
                detail=detail,
                status=status,
            )

    # -- Around each request -----------------------------------------------------------------------

    def _admit(self) -> AnyResponse | None:
        g.request_id = str(uuid4())
        g.account = None
        g.action_ids = []
        g.made = None
        # No endpoint: the error is raised by who dispatches, on a page that knows who is signed in.
        wanted = Needs(None) if request.endpoint is None else needs_of(current_app, request.endpoint)
        if request.endpoint == "static":
            return None
        held = self._session(wanted)
        if held is not None:
            g.account = held.account
        if request.endpoint is None:
            return None
        if wanted.permission is None:
            self._check_form()
            return None
        if held is None:
            return self._ask_to_sign_in()
        self._check_form()
        instance_id = (request.view_args or {}).get("instance_id")
        if not held.account.may(wanted.permission):
            log.info("page_refused", actor=held.account.name, page=request.endpoint, request_id=g.request_id)
            is_action = request.method == "POST" or wanted.is_recorded
            if is_action and (instance_id is None or held.account.reach.holds(instance_id)):
                self._record(held.account, wanted, instance_id)
            abort(403)
        if instance_id is not None:
            check_instance(instance_id)
        if wanted.records(request.method):
            self._record(held.account, wanted, instance_id)
        return None

    def _session(self, wanted: Needs) -> Session | None:
        token = session.get(_COOKIE)
        if not isinstance(token, str):
            return None
        settings, now = self._services.settings, self._services.now()
        with self._services.database.begin() as connection:
            held = accounts.session(
                connection,
                digest(token),
                begun_after=now - timedelta(seconds=settings.session_seconds),
                seen_after=now - timedelta(seconds=settings.session_idle_seconds),
            )
            is_live = wanted.is_live or _asks_by_itself()
            if held is not None and not is_live and now - held.seen_at > TOUCH:
                accounts.touch_session(connection, digest(token), now)
        return held

    def _ask_to_sign_in(self) -> AnyResponse:
        if request.headers.get("HX-Request"):
            # A part of a page would show the form within itself.
            answer = Response(status=401)
            answer.headers["HX-Redirect"] = url_for("signing.sign_in")
            return answer
        next_ = request.full_path.rstrip("?") if request.method == "GET" else None
        return redirect(url_for("signing.sign_in", next=next_ if next_ != "/" else None), 303)

    def _check_form(self) -> None:
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._csrf.protect()

    def _record(self, held: Account, wanted: Needs, instance_id: UUID | None) -> None:
        about = {
            name: str(value) for name, value in (request.view_args or {}).items() if name != "instance_id"
        }
        self._write([(instance_id, ", ".join(about.values()) or None, {})], held, wanted)

    def record_of(self, chosen: Mapping[UUID, list[UUID]], name: str) -> None:
        """Write down, before it is done, what the request is about in each instance, where its path names none.

        chosen: ids, of each instance as many as are to be kept. name: what they are called in `detail`.
        """
        wanted = needs_of(current_app, str(request.endpoint))
        rows: list[tuple[UUID | None, str | None, dict[str, Any]]] = []
        for instance_id, ids in chosen.items():
            if len(ids) == 1:
                rows.append((instance_id, str(ids[0]), {}))
            else:
                rows.append((instance_id, None, {name: ", ".join(map(str, ids))}))
        self._write(rows, account(), wanted)

    def _write(
        self, rows: list[tuple[UUID | None, str | None, dict[str, Any]]], held: Account, wanted: Needs
    ) -> None:
        """rows: instance, what it is about, and details beside the fields that are kept."""
        given = request.form if request.method == "POST" else request.args
        kept = {name: _kept(given[name]) for name in wanted.keeps if given.get(name)}
        with self._services.database.begin() as connection:
            written = [
                actions.note(
                    connection,
                    held,
                    str(request.endpoint),
                    request_id=g.request_id,
                    now=self._services.now(),
                    instance_id=instance_id,
                    about=about,
                    detail=kept | more,
                )
                for instance_id, about, more in rows
            ]
        g.action_ids += written

    def _finish(self, response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id") or str(uuid4())
        action_ids = g.get("action_ids")
        if action_ids:
            try:
                with self._services.database.begin() as connection:
                    for action_id in action_ids:
                        actions.answer(connection, action_id, response.status_code, made=g.made)
            except StoreUnavailable:
                # It was done, or refused, and that stands: the row says that its answer is not known.
                log.warning("action_unanswered", action_id=action_ids[0], request_id=g.request_id)
        return response


def _kept(text: str) -> str:
    """What is written down of a field, for ever: whoever types may type anything into it."""
    text = text[:KEPT_MAX].replace("\0", "")
    return text if _HARMLESS.fullmatch(text) else masked_but_ids(text)


def needs_of(app: Flask, endpoint: str) -> Needs:
    """What a view needs. Raises LookupError when it does not say."""
    if endpoint == "static":
        return Needs(None)
    found = getattr(app.view_functions[endpoint], "needs", None)
    if not isinstance(found, Needs):
        raise LookupError(f"the view {endpoint} does not say what it needs")
    return found
