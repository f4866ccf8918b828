"""`/pay/` and the id of a link: leads anybody to its checkout. Off unless the operator wants it.

Looking at the page makes nothing at Wix, so previews of an address and crawlers make no checkouts: a button does.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from flask import Blueprint, Response, abort, g, make_response, redirect, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from processor.errors import ConfigurationError, WixError, WixRefused
from processor.store.screens import links
from processor.web.pages import link_view
from processor.web.pages.access import public
from processor.web.pages.site import POLICY, Site
from processor.web.pages.throttle import place_of

log = structlog.get_logger(__name__)

# Looking costs a look-up; so many for each checkout that may be begun keep ids from being tried out.
LOOKS = 10
PART = 2  # one in so many of Wix's calls of a minute may be taken, whoever clicks


def blueprint(site: Site) -> Blueprint:
    """`/pay/<link>`."""
    routes = Blueprint("pay", __name__)
    settings = site.services.settings
    # Browsers apply `form-action` to where an answer leads as well, and Wix's checkouts are on the shops' own domains.
    foreign = "https: http:" if settings.wix_url.startswith("http:") else "https:"
    policy = POLICY.replace("form-action 'self'", f"form-action 'self' {foreign}")

    def owner_of(link_id: UUID) -> UUID:
        """The instance of a link. Answers 404 when there is none, and while the page is off."""
        if not settings.pay_page:
            abort(404)
        if not may("looks", LOOKS * settings.pay_per_minute):
            abort(429)
        with site.read() as connection:
            instance_id = links.instance_of_link(connection, link_id)
        if instance_id is None:
            abort(404)
        return instance_id

    def may(what: str, times: int) -> bool:
        return site.throttle.may(f"{times} per 1 minute", "pay", what, place_of(request.remote_addr))

    def page(wrong: str | None, status: int) -> Response:
        is_payable = status not in (404, 409)
        answer = make_response(render_template("pay.html", wrong=wrong, is_payable=is_payable), status)
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Robots-Tag"] = "noindex, nofollow"
        if status in (429, 503):
            answer.headers["Retry-After"] = "60"
        return answer

    @routes.errorhandler(404)
    def gone(_why: HTTPException) -> Response:
        """For a buyer, to whom the pages' own words about accounts mean nothing."""
        return page("There is no such payment link here.", 404)

    @routes.get("/pay/<uuid:payment_link_id>")
    @public
    def show(payment_link_id: UUID) -> Response:
        owner_of(payment_link_id)
        return page(None, 200)

    @routes.post("/pay/<uuid:payment_link_id>")
    @public
    def lead(payment_link_id: UUID) -> AnyResponse:
        instance_id = owner_of(payment_link_id)
        if not may("checkouts", settings.pay_per_minute):
            return page("That was too often. Wait a minute and try again.", 429)
        if not site.has_budget("pay", PART, instance_id):
            log.warning("pay_crowded", instance_id=str(instance_id), request_id=g.request_id)
            return page(_LATER, 503)
        ids = {
            "instance_id": str(instance_id),
            "payment_link_id": str(payment_link_id),
            "request_id": g.request_id,
        }
        try:
            target = site.services.wix.initiate_payment(instance_id, payment_link_id)
        except (WixError, ConfigurationError) as why:
            log.warning("pay_failed", **ids, error=str(why))
            if isinstance(why, WixError) and link_view.is_link_missing(why):
                abort(404)
            if isinstance(why, WixRefused):
                return page(
                    "This link takes no payments now: it was paid already, has ended, or was taken back.", 409
                )
            return page(_LATER, 503)
        url = link_view.checkout_of(target)
        if url is None:
            log.warning("pay_failed", **ids, error="no address that a browser can be led to")
            return page(_LATER, 503)
        log.info("pay_led", **ids)
        return redirect(url, 303)

    return routes


_LATER = "The checkout cannot be reached now. Nothing was paid; try again in a minute."
