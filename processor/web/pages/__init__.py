"""The pages: what finance, auditors, operators and the site's owner see. An application of its own beside the webhook.

Each screen is a module: a route, a template and a query of one name. `access` says who may; `site` is what all share.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from flask import Blueprint, Flask, Response, g, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from processor.domain.access import Permission, Role
from processor.errors import ConfigurationError, StoreUnavailable
from processor.web.doors import IN_MEMORY
from processor.web.pages import formats, screens, signing
from processor.web.pages.access import Guard, needs_of
from processor.web.pages.formats import Clock
from processor.web.pages.site import FILE_PART, POLICY, Places, Site, is_part, notes
from processor.web.pages.throttle import Throttle
from processor.wiring import Services

log = structlog.get_logger(__name__)

FORM_BYTES_MAX = 262_144
_WORDS = {
    400: "The request cannot be read.",
    401: "Sign in first.",
    403: "Your account may not do this.",
    404: "There is no such page, or your account does not see it.",
    405: "That cannot be done here.",
    413: "That is too much at once.",
    429: "That was too often. Wait a little and try again.",
    503: "The database does not answer. Nothing was lost; try again in a moment.",
}


def create_pages(services: Services) -> Flask:
    """The application of the pages. settings.secret_key must be set."""
    settings = services.settings
    assert settings.secret_key is not None
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=settings.secret_key,
        SESSION_COOKIE_NAME="__Host-processor" if settings.secure_cookies else "processor",
        SESSION_COOKIE_SECURE=settings.secure_cookies,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=FORM_BYTES_MAX,
        WTF_CSRF_CHECK_DEFAULT=False,  # the guard asks for the token, of every form
        WTF_CSRF_TIME_LIMIT=None,  # it lives as long as the session
        TRAP_HTTP_EXCEPTIONS=False,
    )
    app.jinja_options = {**app.jinja_options, "trim_blocks": True, "lstrip_blocks": True}
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    clock = Clock(settings.report_time_zone, services.now)
    formats.install(app, clock)
    site = Site(
        services,
        Guard(app, services),
        clock,
        Throttle(settings.redis_url),
        files=Places(max(1, settings.web_threads // FILE_PART)),
    )
    app.register_blueprint(signing.blueprint(site))
    if settings.oidc_issuer is not None:
        app.register_blueprint(_oidc(site))
    for screen in screens.ALL:
        app.register_blueprint(screen.blueprint(site))
    app.jinja_env.globals["has"] = app.view_functions.__contains__
    for endpoint in app.view_functions:
        needs_of(app, endpoint)
    app.after_request(_protect)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(CSRFError, _form_too_old)
    app.register_error_handler(StoreUnavailable, _store_unavailable)
    app.register_error_handler(Exception, _fault)
    app.context_processor(_context)
    return app


def _oidc(site: Site) -> Blueprint:
    """Raises ConfigurationError without the libraries of the extra."""
    try:
        from processor.web.pages import oidc
    except ImportError as why:
        raise ConfigurationError(
            "OIDC_ISSUER is set, which needs the extra oidc: install it with"
            f" `pip install 'payment-link-processor[oidc]'` ({why.name} is missing)"
        ) from why
    return oidc.blueprint(site)


def _context() -> dict[str, Any]:
    account = g.get("account")

    def may(permission: str) -> bool:
        return account is not None and account.may(Permission(permission))

    return {
        "account": account,
        "may": may,
        "notes": notes,
        "Role": Role,
        "theme": _theme(),
        "is_part": is_part(),
    }


def _theme() -> str:
    chosen = request.cookies.get("theme")
    return chosen if chosen in ("light", "dark") else "auto"


def _protect(response: Response) -> Response:
    request.environ[IN_MEMORY] = not (response.is_streamed or response.direct_passthrough)
    headers = response.headers
    headers.setdefault("Content-Security-Policy", POLICY)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=()"
    if request.is_secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    if request.endpoint == "static":
        # Their address changes with them.
        headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if request.args.get("v") else "no-cache"
        )
    else:
        headers["Cache-Control"] = "no-store"
        headers.add("Vary", "HX-Request")
    return response


def _error(status: int, words: str, *, title: str | None = None) -> tuple[str, int]:
    try:
        title = title or HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return render_template("error.html", status=status, words=words, title=title), status


def _http_error(why: HTTPException) -> Any:
    if why.response is not None or why.code is None or why.code < 400:
        return why
    words = _WORDS.get(why.code, why.description or "That is not possible.")
    rendered, status = _error(why.code, words)
    headers = [
        (name, value)
        for name, value in why.get_headers()
        if name.lower() not in ("content-type", "content-length")
    ]
    return rendered, status, headers


def _form_too_old(_why: CSRFError) -> tuple[str, int]:
    return _error(
        400,
        "The form is too old, or does not come from these pages. Nothing was done: go back, load the page anew and"
        " try again.",
        title="Send it once more",
    )


def _store_unavailable(why: StoreUnavailable) -> tuple[str, int]:
    log.warning("page_unavailable", page=request.endpoint, error=str(why), request_id=g.get("request_id"))
    return _error(503, _WORDS[503])


def _fault(why: Exception) -> tuple[str, int]:
    log.error("page_failed", page=request.endpoint, request_id=g.get("request_id"), exc_info=why)
    words = f"This is our fault, not yours. An operator finds it in the log under {g.get('request_id')}."
    return _error(500, words, title="Something went wrong")
