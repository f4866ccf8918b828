"""Every page, put together: who may post, what each answer carries, refusals as pages."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, abort, make_response, render_template, request

from processor.sandbox.errors import Refused
from processor.sandbox.pages import buyers, common, deliveries, faults, merchant, start

if TYPE_CHECKING:
    from processor.sandbox.server import Sandbox

# No page needs more; what a buyer or a merchant typed can load and send nothing.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)


def blueprint(sandbox: Sandbox) -> Blueprint:
    """Every page."""
    routes = Blueprint(
        "pages",
        "processor.sandbox",
        template_folder="templates",
    )
    common.teach_templates(routes)
    for part in (start, buyers, merchant, deliveries, faults):
        part.add_routes(routes, sandbox)

    files = {file.name: file.read_bytes() for file in (Path(routes.root_path) / "static").iterdir()}

    # Not by Flask, which sends an open file: the development server of Werkzeug leaves it open when the reader is
    # gone before it is through.
    @routes.get("/_static/<filename>")
    def static(filename: str) -> Response:
        if filename not in files:
            abort(404)
        answer = Response(files[filename], mimetype=mimetypes.guess_type(filename)[0])
        answer.add_etag()
        answer.cache_control.no_cache = True
        answer.make_conditional(request)
        return answer

    @routes.before_request
    def refuse_strangers() -> Response | None:
        site, origin = (request.headers.get(name) for name in ("Sec-Fetch-Site", "Origin"))
        if request.method == "POST" and not common.is_from_here(site, origin, request.host_url):
            return refused("Forms are taken from the sandbox's own pages only.", 403)
        return None

    routes.after_request(protected)

    @routes.errorhandler(Refused)
    def refuse(why: Refused) -> Response:
        return refused(common.words_of(why), why.status)

    return routes


def is_wanted() -> bool:
    """Whether the one who asks is a browser, for which an error is a page."""
    return "text/html" in request.headers.get("Accept", "")


def refused(words: str, status: int) -> Response:
    """A page that says what is not possible, with its status."""
    return protected(make_response(render_template("refused.html", words=words, status=status), status))


def protected(answer: Response) -> Response:
    """The answer with what keeps other sites out of it."""
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "pages.static":
        answer.headers["Cache-Control"] = "no-store"  # what happened meanwhile must not be hidden by "back"
    return answer
